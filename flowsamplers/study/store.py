"""Where a study's rows live: a folder to which rows are appended as they are earned, and from which it goes on after a kill."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from flowsamplers._files import write_atomically
from flowsamplers.study.rows import Key, Row, from_jsonl, to_jsonl

SETTINGS, ROWS, TABLE, PROBE, SESSIONS = "study.json", "rows.jsonl", "rows.csv", "probe.json", "sessions.jsonl"
GROWING = ("samplers", "nfe")
"""Settings to which a later call may add: the rows that are there are kept."""
BEGIN = b'{"model": '
"""How every row begins, so that one that was cut short is known from what somebody else wrote."""
IMAGES, REFERENCES, LOCK = "images", "references", ".lock"


class Store:
    """The folder of one study, held by one process.

    Rows are appended to ``rows.jsonl`` whole lines at a time and forced to the disk. A process that is killed while it writes
    leaves at most a last line without its end; that one is cut off, and its run is done again.

    Args:
        folder: made if missing.

    Raises:
        OSError: it cannot be made or written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        check_writable(folder)
        self._lock = FileLock(folder / LOCK, timeout=0)  # the system lets go when the process ends, however it ends
        self._file: int | None = None
        self._whole = 0

    def check_free(self, settings: Mapping[str, Any]) -> None:
        """Make sure that the folder holds nothing but this study, or nothing; changes nothing.

        Args:
            settings: what defines the study, as JSON values.

        Raises:
            ValueError: it holds other files, or a study with other settings than more samplers and budgets.
        """
        if (self.folder / SETTINGS).exists():
            before = read_settings(self.folder)
            wanted = json.loads(json.dumps(settings))
            changed = [k for k, v in wanted.items() if k in before and before[k] != v and k not in GROWING]
            if changed:
                raise ValueError(
                    f"{self.folder} holds a study with other settings ({', '.join(changed)}); choose another folder"
                )
        elif foreign := sorted(p.name for p in self.folder.iterdir() if not _left_by_a_first_claim(p)):
            named = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
            raise ValueError(f"{self.folder} holds files that are not a study's ({named}); choose another folder")

    def claim(self, settings: Mapping[str, Any]) -> None:
        """Begin the study here, or go on with it, alone.

        Raises:
            ValueError: see `check_free`; another process is at work.
        """
        self.check_free(settings)
        try:
            self._lock.acquire()
        except Timeout:
            raise ValueError(f"{self.folder}: another process is at work on this study") from None
        self._file = os.open(self.folder / ROWS, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._whole = os.fstat(self._file).st_size
        if not (self.folder / SETTINGS).exists():
            write_atomically(self.folder / SETTINGS, json.dumps(settings, indent=2) + "\n")

    def describe(self, origin: Mapping[str, Mapping[str, Any]]) -> None:
        """Add what is known once the model is open: what it says of itself, and versions.

        Raises:
            ValueError: the study was begun with another model, device, dtype or version.
        """
        before = read_settings(self.folder)
        wanted = json.loads(json.dumps(origin))
        changed = [
            f"{k}: {before[part][k]} before, {v} now"
            for part, values in wanted.items()
            for k, v in values.items()
            if before.get(part, {}).get(k, v) != v
        ]
        if changed:
            raise ValueError(f"{self.folder} was begun with something else ({'; '.join(changed)}); choose another folder")
        self.note(wanted)

    def note(self, more: Mapping[str, Any]) -> None:
        """Add to the settings' file."""
        write_atomically(self.folder / SETTINGS, json.dumps({**read_settings(self.folder), **more}, indent=2) + "\n")

    def rows(self) -> list[Row]:
        """What is there, without a last line that was cut short; that one is removed from the file.

        Raises:
            ValueError: a line that is no row.
        """
        rows, whole = read_rows(self.folder)
        if whole < (self.folder / ROWS).stat().st_size:
            os.truncate(self.folder / ROWS, whole)
        self._whole = whole
        return rows

    def check(self, rows: Sequence[Row], planned: Iterable[Key]) -> None:
        """Raise if a row belongs to no planned run.

        Raises:
            ValueError: names the line.
        """
        known = set(planned)
        for number, row in enumerate(rows, 1):
            if row.key not in known:
                raise ValueError(f"{self.folder / ROWS}, line {number}: a run that this study does not have")

    def append(self, rows: Sequence[Row]) -> None:
        """Write rows and wait until they are on the disk.

        An append that was interrupted is undone by the next one, so that a row is written once or not at all. The next start of the
        study cuts off an incomplete last line and runs again what is missing.

        Raises:
            OSError: they cannot be written.
        """
        assert self._file is not None, "claim the folder first"
        os.ftruncate(self._file, self._whole)
        content = to_jsonl(rows).encode()
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        os.fsync(self._file)
        self._whole += len(content)

    def log(self, session: Mapping[str, Any]) -> None:
        """Write down what a session cost."""
        with (self.folder / SESSIONS).open("a") as file:
            file.write(json.dumps(session) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """Let others work here."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
            self._lock.release()


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of the study in a folder.

    Raises:
        FileNotFoundError: no study there.
        ValueError: the file is not a study's.
    """
    path = folder / SETTINGS
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no study here, {SETTINGS} is missing")
    try:
        settings = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not a study's settings: {error}") from error
    if not isinstance(settings, dict) or "model" not in settings:
        raise ValueError(f"{path}: not a study's settings: no model in it")
    kinds = {"prompts": list, "seeds": list, "samplers": list, "nfe": list, "flow": dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(settings.get(name, kind()), kind)]
    if not wrong and not all(isinstance(s, dict) and {"name", "options"} <= set(s) for s in settings.get("samplers", ())):
        wrong = ["samplers"]
    if wrong:
        raise ValueError(f"{path}: not a study's settings: {wrong[0]} is of another kind than a study writes")
    return settings


def read_rows(folder: Path) -> tuple[list[Row], int]:
    """The rows in a folder, and how many bytes of the file are whole lines.

    Raises:
        FileNotFoundError: no rows there.
        ValueError: the file is not a study's.
    """
    path = folder / ROWS
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no study here, {ROWS} is missing")
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    rest = content[whole:]
    if rest[: len(BEGIN)] != BEGIN[: len(rest)]:
        raise ValueError(f"{path}: not rows of a study: it ends with something that is no part of one")
    try:
        return from_jsonl(content[:whole].decode(), str(path)), whole
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not rows of a study: {error}") from error


def read_sessions(folder: Path) -> list[dict[str, Any]]:
    """What each sitting cost, see `Store.log`; nothing if none has ended. A last line that was cut short is left out.

    Raises:
        ValueError: the file is not a study's.
    """
    path = folder / SESSIONS
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    try:
        sessions = [json.loads(line) for line in lines]
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a study's sessions: {error}") from error
    wanted = {"rows", "evaluations", "model_calls", "seconds"}
    if not all(isinstance(s, dict) and wanted <= set(s) for s in sessions):
        raise ValueError(f"{path}: not a study's sessions: a line without {', '.join(sorted(wanted))}")
    return sessions


def _left_by_a_first_claim(path: Path) -> bool:
    """Whether a file is what a process leaves that is killed while it begins a study."""
    return path.name.startswith((LOCK, f".{SETTINGS}-")) or (path.name == ROWS and not path.stat().st_size)


def check_writable(folder: Path) -> None:
    """Find out before anything is computed whether files can be made in a folder; makes the folder.

    Raises:
        OSError: it cannot be made or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(b"x")
