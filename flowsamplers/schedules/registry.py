"""Schedules by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, TypeAlias, TypeVar

from flowsamplers._errors import unknown
from flowsamplers.grid import SigmaGrid

Builder: TypeAlias = Callable[..., SigmaGrid]

ENTRY_POINTS = "flowsamplers.schedules"
"""Entry-point group through which other packages add schedules."""


@dataclass(frozen=True)
class ScheduleInfo:
    """What the registry knows of a schedule.

    Attributes:
        name: the name under which it is found.
        options: its options with their defaults.
        summary: first line of its docstring.
        builder: the function; called as ``builder(steps, **options)``.
    """

    name: str
    options: dict[str, Any]
    summary: str
    builder: Builder


_B = TypeVar("_B", bound=Builder)
_registry: dict[str, ScheduleInfo] = {}


def register_schedule(name: str) -> Callable[[_B], _B]:
    """Decorator: make a builder ``(steps, **options) -> SigmaGrid`` findable by name.

    Raises:
        ValueError: a name that is taken.
    """

    def add(builder: _B) -> _B:
        if name in _registry and _registry[name].builder is not builder:
            raise ValueError(f"schedule name {name!r} is taken by {_registry[name].builder.__qualname__}")
        parameters = list(inspect.signature(builder).parameters.values())[1:]
        options = {p.name: p.default for p in parameters}
        _registry[name] = ScheduleInfo(name, options, (builder.__doc__ or "").strip().split("\n")[0], builder)
        return builder

    return add


def list_schedules() -> list[ScheduleInfo]:
    """All registered schedules."""
    _load()
    return list(_registry.values())


def get_schedule(name: str, steps: int, **options: Any) -> SigmaGrid:
    """A schedule by name.

    Args:
        name: a registered name.
        steps: N, at least 1.
        **options: options of the builder.

    Raises:
        ValueError: unknown name or option, with the nearest one; whatever the builder raises.

    Examples:
        >>> get_schedule("shift", 2, shift=3.0).sigmas
        (1.0, 0.75, 0.0)
    """
    _load()
    if name not in _registry:
        raise unknown("schedule", name, _registry)
    info = _registry[name]
    for option in options:
        if option not in info.options:
            raise unknown(f"option of schedule {name!r}", option, info.options)
    return info.builder(steps, **options)


@cache
def _load() -> None:
    """Import the built-in schedules and those of other packages, once."""
    import_module("flowsamplers.schedules.builders")  # the registry is below its entries
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name not in _registry:
            register_schedule(entry.name)(entry.load())
