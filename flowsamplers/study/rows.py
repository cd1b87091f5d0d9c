"""What a study earns: tidy rows, one for each run and noise."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from flowsamplers.sampler import Sampler, get_sampler, to_config


@dataclass(frozen=True)
class Row:
    """One run from one noise.

    Attributes:
        model: name of the model.
        prompt: condition of the run, empty for none.
        seed: of the noise.
        sampler: registered name.
        options: options of the sampler that are not the default.
        schedule: name of the schedule.
        schedule_options: its options.
        steps: N.
        nfe: model calls, as the dry run counts them.
        forward_passes: passes through the network, twice as many under classifier-free guidance.
        h_max: largest step in sigma.
        error: relative L2 distance of the final latents to the reference.
        rmse: root mean square difference.
        max_error: largest absolute difference.
        reference_error: the reference's own relative error.
        floored: whether the error is below ten times that, and so says nothing.
        status: ``"ok"`` or ``"failed"``.
        message: why it failed.
    """

    model: str
    prompt: str
    seed: int
    sampler: str
    options: Mapping[str, Any]
    schedule: str
    schedule_options: Mapping[str, Any]
    steps: int
    nfe: int
    forward_passes: int
    h_max: float
    error: float
    rmse: float
    max_error: float
    reference_error: float
    floored: bool
    status: str = "ok"
    message: str = ""

    @property
    def label(self) -> str:
        """How tables and plots call the sampler."""
        return label(self.sampler, self.options)


def label(name: str, options: Mapping[str, Any]) -> str:
    """A sampler in words: its name, and the options that are not the default.

    >>> label("ab2", {"last": "midpoint"})
    'ab2 last=midpoint'
    """
    return " ".join([name, *(f"{k}={v['name'] if isinstance(v, Mapping) else v}" for k, v in options.items())])


def changed_options(sampler: Sampler) -> dict[str, Any]:
    """The options of a sampler that differ from its defaults, as JSON values."""
    config = to_config(sampler)
    default = get_sampler(config["name"]).options
    return {k: v for k, v in config["options"].items() if v != default[k]}


def to_jsonl(rows: Iterable[Row]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(asdict(row)) + "\n" for row in rows)


def from_jsonl(text: str, where: str) -> list[Row]:
    """The rows of a JSONL text.

    Raises:
        ValueError: a line that is no row; names ``where`` and the line.
    """
    known = {f.name for f in fields(Row)}
    rows: list[Row] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            values = json.loads(line)
            rows.append(Row(**values))
        except (json.JSONDecodeError, TypeError) as error:
            raise ValueError(f"{where}, line {number}: not a row of a study ({', '.join(sorted(known))})") from error
    return rows


def to_csv(rows: Iterable[Row]) -> str:
    """The rows as a table with a header; options as JSON."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [f.name for f in fields(Row)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: json.dumps(v) if isinstance(v, Mapping) else v for k, v in asdict(row).items()})
    return out.getvalue()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OSError: it cannot be written; no part of it is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def check_writable(folder: Path) -> None:
    """Find out before anything is computed whether files can be made in a folder; makes the folder.

    Raises:
        OSError: it cannot be made or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(b"x")
