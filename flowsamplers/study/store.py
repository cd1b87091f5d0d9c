"""Store a study's rows in a folder, safely against interruptions."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from flowsamplers._files import write_atomically
from flowsamplers.study.rows import Key, Row, from_jsonl, to_jsonl

SETTINGS, ROWS, TABLE, PROBE, SESSIONS = "study.json", "rows.jsonl", "rows.csv", "probe.json", "sessions.jsonl"
GROWING = ("samplers", "nfe")
"""Settings to which a later call may add."""
BEGIN = b'{"model": '
"""The first characters of every row, which identify an incomplete row."""
IMAGES, REFERENCES, LOCK = "images", "references", ".lock"


class Store:
    """The folder of one study, locked by one process.

    Rows are appended to ``rows.jsonl`` as whole lines and flushed to the disk. If the process is killed while it writes, the last
    line may be incomplete. The next call removes it and repeats its run.

    Args:
        folder: the folder; it is created if missing.

    Raises:
        OSError: the folder cannot be created or written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        check_writable(folder)
        self._lock = FileLock(folder / LOCK, timeout=0)  # the system lets go when the process ends, however it ends
        self._file: int | None = None
        self._complete = 0  # bytes of complete rows

    def check_free(self, settings: Mapping[str, Any]) -> None:
        """Check that the folder is empty or holds this study; change nothing.

        Args:
            settings: settings of the study, as JSON values.

        Raises:
            ValueError: the folder holds other files, or a study whose settings differ in more than samplers and numbers of calls.
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
        """Begin or continue the study here, and lock the folder.

        Raises:
            ValueError: see `check_free`; or another process uses the folder.
        """
        self.check_free(settings)
        try:
            self._lock.acquire()
        except Timeout:
            raise ValueError(f"{self.folder}: another process is at work on this study") from None
        self._file = os.open(self.folder / ROWS, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._complete = os.fstat(self._file).st_size
        if not (self.folder / SETTINGS).exists():
            write_atomically(self.folder / SETTINGS, json.dumps(settings, indent=2) + "\n")

    def describe(self, origin: Mapping[str, Mapping[str, Any]]) -> None:
        """Add the description of the open model, and versions, to the settings.

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
        """Add values to the settings file."""
        write_atomically(self.folder / SETTINGS, json.dumps({**read_settings(self.folder), **more}, indent=2) + "\n")

    def rows(self) -> list[Row]:
        """Read the rows; remove an incomplete last line from the file.

        Raises:
            ValueError: a line is no row.
        """
        rows, self._complete = read_rows(self.folder)
        if self._complete < (self.folder / ROWS).stat().st_size:
            os.truncate(self.folder / ROWS, self._complete)
        return rows

    def check(self, rows: Sequence[Row], planned: Iterable[Key]) -> None:
        """Check that every row belongs to a planned run.

        Raises:
            ValueError: a row does not; the message names its line.
        """
        known = set(planned)
        for number, row in enumerate(rows, 1):
            if row.key not in known:
                raise ValueError(f"{self.folder / ROWS}, line {number}: a run that this study does not have")

    def append(self, rows: Sequence[Row]) -> None:
        """Write rows and wait until they are on the disk.

        The next append undoes an interrupted one, so a row is written once or not at all. The next start of the study removes an
        incomplete last line and repeats the missing runs.

        Raises:
            OSError: the rows cannot be written.
        """
        assert self._file is not None, "claim the folder first"
        os.ftruncate(self._file, self._complete)
        content = to_jsonl(rows).encode()
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        os.fsync(self._file)
        self._complete += len(content)

    def log(self, session: Mapping[str, Any]) -> None:
        """Record the cost of a session."""
        with (self.folder / SESSIONS).open("a") as file:
            file.write(json.dumps(session) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """Unlock the folder."""
        file, self._file = self._file, None
        try:
            if file is not None:
                os.close(file)
        finally:
            self._lock.release()


def read_settings(folder: Path) -> dict[str, Any]:
    """Read the settings of the study in a folder.

    Raises:
        FileNotFoundError: there is no study.
        ValueError: the file does not belong to a study.
    """
    path = folder / SETTINGS
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no study here, {SETTINGS} is missing")
    with _named(path, "not a study's settings"):
        settings = json.loads(path.read_text())
        if not isinstance(settings, dict) or "model" not in settings:
            raise ValueError("no model in it")
        kinds = {"prompts": list, "seeds": list, "samplers": list, "nfe": list, "flow": dict}
        wrong = [name for name, kind in kinds.items() if not isinstance(settings.get(name, kind()), kind)]
        if not wrong and not all(isinstance(s, dict) and {"name", "options"} <= set(s) for s in settings.get("samplers", ())):
            wrong = ["samplers"]
        if wrong:
            raise ValueError(f"{wrong[0]} is of another kind than a study writes")
        return settings


def read_rows(folder: Path) -> tuple[list[Row], int]:
    """Read the rows in a folder, and count the bytes of complete lines.

    Raises:
        FileNotFoundError: there are no rows.
        ValueError: the file does not belong to a study.
    """
    path = folder / ROWS
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no study here, {ROWS} is missing")
    content = path.read_bytes()
    complete = content.rfind(b"\n") + 1
    rest = content[complete:]
    with _named(path, "not rows of a study"):
        if rest[: len(BEGIN)] != BEGIN[: len(rest)]:
            raise ValueError("it ends with something that is no part of one")
        lines = content[:complete].decode()
    return from_jsonl(lines, str(path)), complete


def read_sessions(folder: Path) -> list[dict[str, Any]]:
    """Read the cost of each session, see `Store.log`; an incomplete last line is ignored.

    Raises:
        ValueError: the file does not belong to a study.
    """
    path = folder / SESSIONS
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    with _named(path, "not a study's sessions"):
        sessions = [json.loads(line) for line in lines]
        wanted = {"rows", "evaluations", "model_calls", "seconds"}
        if not all(isinstance(s, dict) and wanted <= set(s) for s in sessions):
            raise ValueError(f"a line without {', '.join(sorted(wanted))}")
        return sessions


@contextmanager
def _named(path: Path, what: str) -> Generator[None]:
    """Put the file, and what it is not, before the reason why it cannot be read."""
    try:
        yield
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {what}: {error}") from error


def _left_by_a_first_claim(path: Path) -> bool:
    """Whether a file is what a process leaves that is killed while it begins a study."""
    return path.name.startswith((LOCK, f".{SETTINGS}-")) or (path.name == ROWS and not path.stat().st_size)


def check_writable(folder: Path) -> None:
    """Create a folder, and check that files can be written there.

    Raises:
        OSError: it cannot be created or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(b"x")
