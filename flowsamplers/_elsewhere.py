"""Names of samplers and schedules in other programs, and what has them here; the names are in ``elsewhere.toml``.

`get_sampler` and `get_schedule` answer with this when they are given a name that is not theirs, and ``tools/build_names.py`` makes a
page of it.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple


class Here(NamedTuple):
    """The sampler or schedule here that corresponds to a name of another program.

    Attributes:
        spec: ``name`` or ``name:option=value,...``, as the command line takes it; empty for what is not here.
        note: what is different, and why.
    """

    spec: str
    note: str = ""


@cache
def data() -> dict[str, Any]:
    """Read ``elsewhere.toml``."""
    return tomllib.loads((files("flowsamplers") / "elsewhere.toml").read_text("utf-8"))


@cache
def names() -> dict[str, dict[str, Here]]:
    """List the names of samplers by their program, and the names of schedules.

    Examples:
        >>> list(names()), names()["RES4LYF"]["ralston_2s"].spec
        (['ComfyUI', 'RES4LYF', 'diffusers', 'others', 'schedules'], 'ralston')
    """
    return {
        program: {
            name: Here(*(text.format(**data()["notes"]) for text in texts or [name]))
            for many, texts in known.items()
            for name in many.split()
        }
        for program, known in data().items()
        if program not in ("notes", "webui", "formulas")
    }


def sampler_elsewhere(name: str) -> str:
    """Return a hint for a sampler's name of another program; empty if the name is unknown.

    Examples:
        >>> sampler_elsewhere("ralston_2s")
        "a name of RES4LYF: here it is 'ralston'. "
    """
    for program, known in names().items():
        if name in known and program != "schedules":
            return _hint(program, known[name])
    return _both(name)


def _both(name: str) -> str:
    """Answer a name that joins a sampler and a schedule.

    Examples:
        >>> _both("DPM++ 2M Karras")
        "a sampler and a schedule in one name: here they are 'dpmpp_2m' and 'karras_comfy'. "
    """
    samplers, schedules = (data()["webui"][kind] for kind in ("samplers", "schedules"))
    found = re.fullmatch(rf"(.+?)[ _]({'|'.join(schedules)})", name, re.IGNORECASE)
    if found is None:
        return ""
    sampler = re.sub(r"[\s-]+", "_", found[1].lower().replace("++", "pp"))
    schedule = schedules[found[2].lower()]
    return f"a sampler and a schedule in one name: here they are {samplers.get(sampler, sampler)!r} and {schedule!r}. "


def schedule_elsewhere(name: str) -> str:
    """Return a hint for a schedule's name of another program; empty if the name is unknown."""
    known = names()["schedules"]
    return _hint("ComfyUI", known[name]) if name in known else ""


def elsewhere(name: str) -> str:
    """Return a hint for a name that may be a sampler's or a schedule's."""
    return sampler_elsewhere(name) or schedule_elsewhere(name)


def _hint(program: str, here: Here) -> str:
    whose = "a name known elsewhere" if program == "others" else f"a name of {program}"
    if not here.spec:
        return f"{whose}: {here.note}. "
    return f"{whose}: here it is {here.spec!r}{f', {here.note}' if here.note else ''}. "
