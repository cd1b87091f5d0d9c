"""Find schedules by name, and register your own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import update_wrapper
from types import FunctionType
from typing import Any, TypeAlias, TypeVar, cast

from flowsamplers._accepted import as_declared, literal, text, unknown
from flowsamplers._elsewhere import schedule_elsewhere
from flowsamplers.grid import SigmaGrid, at_least_one
from flowsamplers.registry.names import Description, Registered, Registry, described
from flowsamplers.registry.specifications import parse_specification

__all__ = ["SCHEDULES", "ScheduleInfo", "get_schedule", "list_schedules", "register_schedule", "schedule_info"]

Builder: TypeAlias = Callable[..., SigmaGrid]


@dataclass(frozen=True)
class ScheduleInfo(Description):
    """The description of a registered schedule.

    Attributes:
        options: its options with their defaults.
        summary: first line of its docstring.
        builder: the function; called as ``builder(steps, **options)``.
        form: the program it follows, if programs mean different schedules by this name.
        complete: whether it runs from 1 to 0; otherwise it begins below 1.
        exact_steps: whether it always has the requested number of steps.
    """

    options: dict[str, Any]
    summary: str
    builder: Builder
    form: str
    complete: bool
    exact_steps: bool


_B = TypeVar("_B", bound=Builder)


def register_schedule(
    name: str,
    *,
    aliases: tuple[str, ...] = (),
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    form: str = "",
    complete: bool = True,
    exact_steps: bool = True,
    reference: str = "",
    advice: str = "",
) -> Callable[[_B], _B]:
    """Register a schedule, a function ``(steps, **options) -> SigmaGrid``, under a name; use it as a decorator.

    Args:
        name: lower case, as users know the schedule.
        aliases: other names of exactly the same schedule.
        presets: names that users know for this schedule with other options.
        form: the program it follows, if programs mean different schedules by this name.
        complete: whether it runs from 1 to 0.
        exact_steps: whether it always has the requested number of steps.
        reference: paper or program it comes from.
        advice: when to use it, in one line.

    Raises:
        ValueError: a name is taken.
    """
    text("name", name)

    def add(written: _B) -> _B:
        builder = cast(_B, _checking(written))
        parameters = list(inspect.signature(builder).parameters.values())[1:]
        info = ScheduleInfo(
            **described(builder, name, presets),
            aliases=aliases,
            reference=reference,
            advice=advice,
            options={p.name: p.default for p in parameters},
            summary=(builder.__doc__ or "").strip().split("\n")[0],
            builder=builder,
            form=form,
            complete=complete,
            exact_steps=exact_steps,
        )
        SCHEDULES.add(Registered(info.names, builder, info, info.origin))
        return builder

    return add


def _checking(builder: Builder) -> Builder:
    """The builder behind a check of its steps and options: each is of the kind that is declared, however it is called."""
    signature, home = inspect.signature(builder), getattr(builder, "__globals__", globals())
    first, *options = signature.parameters.values()
    declared = {p.name: literal(p.annotation, home) for p in options}

    def call(args: Any, kwargs: Any) -> SigmaGrid:
        given = signature.bind(*args, **kwargs)
        for option, value in given.arguments.items():
            if option in declared:
                given.arguments[option] = as_declared(option, value, declared[option])
        steps = given.arguments.get(first.name, first.default)
        if steps is not first.default:
            at_least_one("steps", steps)
        try:
            return builder(*given.args, **given.kwargs)
        except (ZeroDivisionError, OverflowError) as error:
            values = ", ".join(f"{k}={v!r}" for k, v in given.arguments.items())
            raise ValueError(f"{values}: no schedule can be computed with these values ({error})") from None

    def checked(*args: Any, **kwargs: Any) -> SigmaGrid:
        return call(args, kwargs)

    # With the builder's globals, as if it stood in its module: doctest looks there for its examples.
    placed = FunctionType(checked.__code__, home, closure=checked.__closure__)
    return cast(Builder, update_wrapper(placed, builder))


def _add_schedule(name: str, loaded: Any) -> None:
    if not callable(loaded):
        raise TypeError(f"{loaded!r} is no function (steps, **options) -> SigmaGrid")
    register_schedule(name)(cast(Builder, loaded))


SCHEDULES: Registry[ScheduleInfo] = Registry(
    "schedule", "flowsamplers.schedules", _add_schedule, "flowsamplers.schedules", schedule_elsewhere
)
"""The registry of schedules, including those of other packages."""


def list_schedules() -> list[ScheduleInfo]:
    """List all registered schedules in the order of registration, other packages last.

    Warns:
        UserWarning: a schedule of another package cannot be loaded, or uses a name that is taken; the list omits it.
    """
    return [thing.info for thing in SCHEDULES.all()]


def schedule_info(name: str) -> ScheduleInfo:
    """Describe the schedule with this name, alias or preset.

    Raises:
        ValueError: there is no such schedule; the message suggests the nearest name.
        ImportError: the schedule belongs to another package, which cannot be loaded.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.schedule_info("sd3").name
        'shift'
    """
    return SCHEDULES.find(name).info


def get_schedule(name: str, steps: int, *, start: float | None = None, **options: Any) -> SigmaGrid:
    """Make a schedule from a name or specification.

    Args:
        name: a registered name, alias or preset, or ``"name:option=value,option=value"``.
        steps: N, at least 1.
        start: noise level at which the run begins, for image-to-image: ``x = (1 - start) * image + start * noise``. The steps are
            the last N of a finer schedule, the one with a node nearest to ``start``. That node is moved exactly to ``start``. There
            are fewer steps if the schedule has fewer nodes below it.
        **options: options of the builder; they override those of a specification or preset.

    Raises:
        ValueError: a name or option is unknown (the message suggests the nearest), or the schedule refuses a value.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.get_schedule("shift", 2, shift=3.0).sigmas
        (1.0, 0.75, 0.0)
        >>> fs.get_schedule("shift:shift=3", 2).sigmas
        (1.0, 0.75, 0.0)
        >>> fs.get_schedule("linear", 3, start=0.6).sigmas
        (0.6, 0.4, 0.2, 0.0)
    """
    if not isinstance(name, str):
        raise TypeError(f"schedule={name!r}: accepted are a name and 'name:option=value'")
    plain, given = parse_specification(name)
    start = as_declared("start", start, "float | None")
    info, given = schedule_info(plain), {**given, **options}
    for option in given:
        if option not in info.options:
            raise unknown(f"option of schedule {plain!r}", option, info.options)
    given = {**info.presets.get(plain, {}), **given}
    if start is None:
        return info.builder(steps, **given)
    whole = info.builder(steps, **given)
    if not whole.end < start <= 1:
        raise ValueError(f"start={start}: a run begins above {whole.end} and at most at 1")
    if start >= whole.start:
        if "start" in info.options:
            return info.builder(steps, **given, start=start)
        return SigmaGrid([start, *whole.sigmas[1:]])
    return _from(start, steps, lambda n: info.builder(n, **given))


FINEST = 10_000
"""Number of steps of the finest schedule that `get_schedule` tries for a ``start``."""


def _from(start: float, steps: int, builder: Callable[[int], SigmaGrid]) -> SigmaGrid:
    """The last steps of a finer schedule, begun exactly at ``start``: of the schedule whose node there is nearest."""

    def last(n: int) -> tuple[float, ...]:
        return builder(n).sigmas[-steps - 1 :]

    low, high = steps, 2 * steps
    try:
        while last(high)[0] > start and high < FINEST:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if last(middle)[0] > start else (low, middle)
    except ValueError:  # there is no finer schedule
        high = low
    nodes = min((last(n) for n in {low, high}), key=lambda nodes: abs(nodes[0] - start))
    return SigmaGrid([start, *(s for s in nodes[1:] if s < start)])
