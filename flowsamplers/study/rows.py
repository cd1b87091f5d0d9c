"""The rows of a study: one for each run and noise."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeAlias

from flowsamplers._files import without_nan
from flowsamplers.registry import get_sampler, sampler_info, to_config
from flowsamplers.sampler import Sampler

Key: TypeAlias = tuple[Any, ...]
"""The values of `IDENTITY`, with options as JSON."""


@dataclass(frozen=True)
class Row:
    """One run from one noise. Numbers that could not be measured are NaN, and null in files.

    Attributes:
        model: name of the model.
        prompt: prompt of the run, empty for none.
        seed: seed of the noise.
        sampler: registered name.
        options: options of the sampler that are not the default.
        schedule: name of the schedule.
        schedule_options: its options.
        steps: number of steps N.
        nfe: number of function evaluations from the dry run; shared evaluations count for each run.
        forward_passes: forward passes of the network: two for an evaluation under classifier-free guidance, else one.
        h_max: largest step in sigma.
        seconds: wall time of the run on its own: ``nfe`` times the seconds of one evaluation of one row in a probe.
        error: relative L2 distance of the final latents to the reference.
        rmse: root mean square difference.
        max_error: largest absolute difference.
        cosine: cosine of the angle between latents and reference.
        psnr: peak signal-to-noise ratio of the decoded image against the reference's, in decibels, at most 120.
        ssim: structural similarity of these images.
        reference_error: relative error of the reference.
        noise_floor: relative distance of two runs whose evaluations differ by rounding.
        floored: whether the error is below ten times the reference's error, so that it is not reliable.
        trajectory: relative error after each step, for the first noise of the study; None for the others.
        local_errors: relative error that each step makes by itself, from the exact state; None if not measured.
        metrics: values of the study's metrics, by name: the decoded image compared with the reference's.
        status: ``"ok"`` or ``"failed"``.
        message: why the run failed, or what could not be measured.
        device: device of the model.
        dtype: dtype of the network.
        versions: versions of this library and of torch.
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
    seconds: float
    error: float
    rmse: float
    max_error: float
    cosine: float
    psnr: float
    ssim: float
    reference_error: float
    noise_floor: float
    floored: bool
    trajectory: Sequence[float] | None = None
    local_errors: Sequence[float] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    status: str = "ok"
    message: str = ""
    device: str = ""
    dtype: str = ""
    versions: str = ""

    @property
    def label(self) -> str:
        """The sampler with its options, as shown in plots and tables."""
        return label(self.sampler, self.options)

    @property
    def method(self) -> Sampler:
        """The sampler."""
        return get_sampler(self.sampler, **self.options)

    @property
    def key(self) -> Key:
        """The values that identify a row; no study has two rows with one key."""
        return key(vars(self))


IDENTITY = ("model", "prompt", "seed", "sampler", "options", "schedule", "schedule_options", "steps")
"""The columns that identify a row."""


def key(values: Mapping[str, Any]) -> Key:
    """Make the key of the row with these values."""
    named = (values[name] for name in IDENTITY)
    return tuple(json.dumps(v, sort_keys=True) if isinstance(v, Mapping) else v for v in named)


KINDS = {f.name: str(f.type) for f in fields(Row)}
"""The declared type of each column."""


def label(name: str, options: Mapping[str, Any]) -> str:
    """Format a sampler with its options.

    Examples:
        >>> label("ab2", {"last": "midpoint"})
        'ab2 last=midpoint'
        >>> label("fitted", {"sigmas": [1.0, 0.4, 0.0], "method": {"name": "ns_solver", "options": {"table": [[1.0], [1.5, -0.5]]}}})
        'fitted'
    """
    shown = [f"{k}={text}" for k, v in options.items() if (text := _in_words(v))]
    return " ".join([name, *shown])


def _in_words(value: Any) -> str:
    """The value of an option; nothing for tables, schedules, and samplers that are made by one."""
    if isinstance(value, Mapping) and "name" in value:
        return "" if sampler_info(value["name"]).needs else value["name"]
    return "" if isinstance(value, list | tuple) else str(value)


def label_of(sampler: Sampler) -> str:
    """Return the label of a sampler's rows."""
    return label(to_config(sampler)["name"], changed_options(sampler))


def changed_options(sampler: Sampler) -> dict[str, Any]:
    """Return the options of a sampler that differ from its defaults, as JSON values."""
    config = to_config(sampler)
    default = {} if sampler_info(config["name"]).needs else get_sampler(config["name"]).options
    return {k: v for k, v in config["options"].items() if k not in default or v != default[k]}


def to_dict(row: Row) -> dict[str, Any]:
    """Convert a row to JSON values; numbers that are not finite become None."""
    return without_nan(asdict(row))


def from_dict(values: Mapping[str, Any]) -> Row:
    """Make a row from the result of `to_dict`.

    Raises:
        TypeError: a value is missing, has another type, or is unknown.
    """
    made = Row(**{k: _with_nan(KINDS.get(k, ""), v) for k, v in values.items()})
    wrong = [name for name, kind in KINDS.items() if not _fits(kind, getattr(made, name))]
    if wrong or made.status not in ("ok", "failed"):
        raise TypeError(", ".join(wrong) or "status")
    return made


def _with_nan(kind: str, value: Any) -> Any:
    """The inverse of `without_nan` for a column of numbers."""
    if kind == "float" and value is None:
        return math.nan
    if kind == "Mapping[str, float]":
        return {k: _with_nan("float", v) for k, v in value.items()}
    return [_with_nan("float", v) for v in value] if kind.startswith("Sequence") and value is not None else value


def _fits(kind: str, value: Any) -> bool:
    """Whether a value read from a file is what a column of this kind holds."""
    if kind.startswith("Sequence"):
        return value is None or all(_fits("float", v) for v in value)
    accepted: Any = {"float": (int, float), "int": int, "str": str, "bool": bool}.get(kind, Mapping)
    return isinstance(value, accepted) and (kind == "bool" or not isinstance(value, bool))


def to_jsonl(rows: Iterable[Row]) -> str:
    """Write rows as text, one JSON object per line."""
    return "".join(json.dumps(to_dict(row), allow_nan=False) + "\n" for row in rows)


def from_jsonl(text: str, where: str) -> list[Row]:
    """Read rows from JSONL text. If a failed run was repeated, the later row replaces the failed one.

    Raises:
        ValueError: a line is no row, or has the key of an earlier row that did not fail; the message names ``where`` and the line.
    """
    rows: list[Row] = []
    seen: dict[Key, tuple[int, int]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        try:
            row = from_dict(json.loads(line))
            first, place = seen.setdefault(row.key, (number, len(rows)))
        except (json.JSONDecodeError, TypeError, AttributeError) as error:
            raise ValueError(f"{where}, line {number}: not a row of a study ({', '.join(sorted(KINDS))})") from error
        if first == number:
            rows.append(row)
        elif rows[place].status == "failed":
            rows[place] = row
        else:
            raise ValueError(f"{where}, line {number}: the same run as in line {first}")
    return rows


def to_csv(rows: Iterable[Row]) -> str:
    """Write rows as a table with a header, with options and lists as JSON."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(KINDS), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: json.dumps(v) if isinstance(v, Mapping | list) else v for k, v in to_dict(row).items()})
    return out.getvalue()
