"""What a study earns: tidy rows, one for each run and noise."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeAlias

from flowsamplers.registry import get_sampler, sampler_info, to_config
from flowsamplers.sampler import Sampler

Key: TypeAlias = tuple[str, str, int, str, str, str, str, int]


@dataclass(frozen=True)
class Row:
    """One run from one noise. Numbers that could not be measured are NaN, in files null.

    Attributes:
        model: name of the model.
        prompt: condition of the run, empty for none.
        seed: of the noise.
        sampler: registered name.
        options: options of the sampler that are not the default.
        schedule: name of the schedule.
        schedule_options: its options.
        steps: N.
        nfe: evaluations of the velocity, as the dry run counts them; shared ones count for each run.
        forward_passes: passes through the network: two for an evaluation under classifier-free guidance, one for others.
        h_max: largest step in sigma.
        seconds: wall time of the run on its own: ``nfe`` times what one evaluation of one row took in a probe.
        error: relative L2 distance of the final latents to the reference.
        rmse: root mean square difference.
        max_error: largest absolute difference.
        cosine: of the angle between latents and reference.
        psnr: peak signal-to-noise ratio of the decoded image against the reference's, in decibels, at most 120.
        ssim: structural similarity of these images.
        reference_error: the reference's own relative error.
        noise_floor: relative distance of two runs whose evaluations differ by a rounding.
        floored: whether the error is below ten times the reference's, and so says nothing.
        trajectory: relative error after each step, for the first noise of the study; None for the others.
        local_errors: relative error that each step makes by itself, from the exact state; None where not measured.
        status: ``"ok"`` or ``"failed"``.
        message: why it failed, or what could not be measured.
        device: where the model ran.
        dtype: of the network.
        versions: of this library and of torch.
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
    status: str = "ok"
    message: str = ""
    device: str = ""
    dtype: str = ""
    versions: str = ""

    @property
    def label(self) -> str:
        """The sampler with its options, as plots and tables name it."""
        return label(self.sampler, self.options)

    @property
    def key(self) -> Key:
        """What makes a row that row: no study has two of one key."""
        return key(**{name: getattr(self, name) for name in IDENTITY})


IDENTITY = ("model", "prompt", "seed", "sampler", "options", "schedule", "schedule_options", "steps")
"""The columns that name a row."""


def key(
    *,
    model: str,
    prompt: str,
    seed: int,
    sampler: str,
    options: Mapping[str, Any],
    schedule: str,
    schedule_options: Mapping[str, Any],
    steps: int,
) -> Key:
    """The key of the row with these values."""
    texts = [json.dumps(o, sort_keys=True) for o in (options, schedule_options)]
    return model, prompt, seed, sampler, texts[0], schedule, texts[1], steps


_FLOATS = frozenset(f.name for f in fields(Row) if f.type == "float")
_LISTS = ("trajectory", "local_errors")
_NAMES = frozenset(f.name for f in fields(Row))


def label(name: str, options: Mapping[str, Any]) -> str:
    """A sampler with its options in words.

    Examples:
        >>> label("ab2", {"last": "midpoint"})
        'ab2 last=midpoint'
    """
    named = {k: v for k, v in options.items() if not isinstance(v, list | tuple)}  # tables and schedules are no names
    shown = [f"{k}={v['name'] if isinstance(v, Mapping) and 'name' in v else v}" for k, v in named.items()]
    return " ".join([name, *shown])


def label_of(sampler: Sampler) -> str:
    """The label of a sampler's rows."""
    return label(to_config(sampler)["name"], changed_options(sampler))


def changed_options(sampler: Sampler) -> dict[str, Any]:
    """The options of a sampler that differ from its defaults, as JSON values."""
    config = to_config(sampler)
    default = {} if sampler_info(config["name"]).needs else get_sampler(config["name"]).options
    return {k: v for k, v in config["options"].items() if k not in default or v != default[k]}


def to_dict(row: Row) -> dict[str, Any]:
    """A row as JSON values: what is not finite becomes None."""
    values = {k: _finite(v) for k, v in asdict(row).items()}
    for name in _LISTS:
        if values[name] is not None:
            values[name] = [_finite(x) for x in values[name]]
    return values


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_dict(values: Mapping[str, Any]) -> Row:
    """The row of what `to_dict` made.

    Raises:
        TypeError: a value is missing, of another kind, or one that no row has.
    """
    row: dict[str, Any] = {k: math.nan if v is None and k in _FLOATS else v for k, v in values.items()}
    for name in _LISTS:
        if row.get(name) is not None:
            row[name] = [math.nan if x is None else x for x in row[name]]
    made = Row(**row)
    wrong = [f.name for f in fields(Row) if not _fits(f.type, getattr(made, f.name))]
    if wrong or made.status not in ("ok", "failed"):
        raise TypeError(", ".join(wrong) or "status")
    return made


def _fits(kind: Any, value: Any) -> bool:
    """Whether a value read from a file is what a field of this kind holds."""
    if kind in ("float", "int"):
        return isinstance(value, int if kind == "int" else float | int) and not isinstance(value, bool)
    if kind == "str":
        return isinstance(value, str)
    if kind == "bool":
        return isinstance(value, bool)
    if kind.startswith("Mapping"):
        return isinstance(value, Mapping)
    return value is None or all(isinstance(x, float | int) for x in value)


def to_jsonl(rows: Iterable[Row]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(to_dict(row), allow_nan=False) + "\n" for row in rows)


def from_jsonl(text: str, where: str) -> list[Row]:
    """The rows of a JSONL text. A run that failed may be there again: the later row takes the place of the failed one.

    Raises:
        ValueError: a line that is no row, or the second of one key whose first did not fail; names ``where`` and the line.
    """
    rows: list[Row] = []
    seen: dict[Key, tuple[int, int]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        try:
            row = from_dict(json.loads(line))
            first, place = seen.setdefault(row.key, (number, len(rows)))
        except (json.JSONDecodeError, TypeError, AttributeError) as error:
            raise ValueError(f"{where}, line {number}: not a row of a study ({', '.join(sorted(_NAMES))})") from error
        if first == number:
            rows.append(row)
        elif rows[place].status == "failed":
            rows[place] = row
        else:
            raise ValueError(f"{where}, line {number}: the same run as in line {first}")
    return rows


def to_csv(rows: Iterable[Row]) -> str:
    """The rows as a table with a header; options and lists as JSON."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [f.name for f in fields(Row)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: json.dumps(v) if isinstance(v, Mapping | list) else v for k, v in to_dict(row).items()})
    return out.getvalue()
