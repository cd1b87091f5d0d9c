"""The schedule as a value: a validated, strictly monotone list of noise levels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from numbers import Integral
from typing import Any, TypeAlias

from flowsamplers._accepted import flag, integer, number, refused, shown
from flowsamplers._html import table

NUM_TRAIN_TIMESTEPS = 1000
"""Models of this family take the time as ``1000 * sigma``."""

MOST_STEPS = 100_000
"""Largest number of steps of a schedule."""

_SLACK = 2.0**-20
"""A few float32 ulps at 1: a shift computed in float32 may return 1.0000001 for 1."""


@dataclass(frozen=True, init=False)
class SigmaGrid:
    r"""The nodes $\sigma_0 > \sigma_1 > \dots > \sigma_N$ of a schedule.

    A sampler integrates $dx/d\sigma = v(x, \sigma)$ over them, one step for each interval. ``sigma`` runs
    from 1 (noise) to 0 (data). The nodes are Python floats, so a sampler never waits for a device.

    Args:
        sigmas: N + 1 numbers in [0, 1], at least two of them, strictly falling.
        rising: whether the nodes rise, for inversion from data to noise.

    Raises:
        ValueError: there are too few nodes, a node is not finite or outside [0, 1], or the nodes are out of order. The message names
            the index and the value.

    Examples:
        >>> grid = SigmaGrid([1.0, 0.75, 0.25, 0.0])
        >>> grid.steps, grid.dt, grid.timesteps
        (3, (-0.25, -0.5, -0.25), (1000.0, 750.0, 250.0))
    """

    sigmas: tuple[float, ...]

    def __init__(self, sigmas: Iterable[float], *, rising: bool = False) -> None:
        nodes = _numbers(sigmas, "sigmas")
        _validate(nodes, rising=flag("rising", rising))
        object.__setattr__(self, "sigmas", nodes)

    def __repr__(self) -> str:
        """All nodes of a short schedule; the first and last ones of a long one."""
        if self.steps <= 12:
            return f"SigmaGrid({list(self.sigmas)}{', rising=True' if self.rising else ''})"
        return f"SigmaGrid({self.steps} steps: {', '.join(map(str, self.sigmas[:3]))}, ..., {self.sigmas[-2]}, {self.end})"

    def _repr_html_(self) -> str:
        return table(
            ["step", "sigma", "length"], [[i, s, d] for i, (s, d) in enumerate(zip(self.sigmas, self.dt, strict=False))]
        )

    @property
    def steps(self) -> int:
        """N, the number of intervals."""
        return len(self.sigmas) - 1

    @property
    def start(self) -> float:
        """The first node."""
        return self.sigmas[0]

    @property
    def end(self) -> float:
        """The last node."""
        return self.sigmas[-1]

    @property
    def rising(self) -> bool:
        """Whether the schedule runs from data to noise."""
        return self.end > self.start

    @cached_property
    def dt(self) -> tuple[float, ...]:
        """N signed step lengths ``sigmas[i + 1] - sigmas[i]``; they sum to ``end - start``, -1 for a complete run."""
        return tuple(b - a for a, b in pairwise(self.sigmas))

    @cached_property
    def timesteps(self) -> tuple[float, ...]:
        """N model times ``1000 * sigma``, one for the start of each step."""
        return tuple(NUM_TRAIN_TIMESTEPS * s for s in self.sigmas[:-1])

    def reversed(self) -> SigmaGrid:
        """Return the schedule in the opposite direction.

        Examples:
            >>> SigmaGrid([1.0, 0.25, 0.0]).reversed().sigmas
            (0.0, 0.25, 1.0)
        """
        return SigmaGrid(reversed(self.sigmas), rising=not self.rising)

    def refined(self, parts: int) -> SigmaGrid:
        """Cut every interval into ``parts`` equal ones, for a convergence study.

        Examples:
            >>> SigmaGrid([1.0, 0.5, 0.0]).refined(2).sigmas
            (1.0, 0.75, 0.5, 0.25, 0.0)
        """
        parts = integer("parts", parts, 1, max(1, MOST_STEPS // self.steps))
        inner = [a + (b - a) * j / parts for a, b in pairwise(self.sigmas) for j in range(parts)]
        return SigmaGrid([*inner, self.end], rising=self.rising)

    def split(self, index: int) -> tuple[SigmaGrid, SigmaGrid]:
        """Split the schedule into its first ``index`` steps and the rest; both contain the node between them.

        Args:
            index: from 1 to N - 1.

        Raises:
            ValueError: one part would have no step.

        Examples:
            >>> high, low = SigmaGrid([1.0, 0.5, 0.0]).split(1)
            >>> high.sigmas, low.sigmas
            ((1.0, 0.5), (0.5, 0.0))
        """
        if not 1 <= integer("index", index) < self.steps:
            raise ValueError(f"index={index}: of {self.steps} steps, from 1 to {self.steps - 1} can stand before the split")
        high, low = self.sigmas[: index + 1], self.sigmas[index:]
        return SigmaGrid(high, rising=self.rising), SigmaGrid(low, rising=self.rising)

    def concatenate(self, other: SigmaGrid) -> SigmaGrid:
        """Append a schedule that begins where this one ends: the inverse of `split`.

        Raises:
            ValueError: the other schedule begins at another sigma, or runs the other way.

        Examples:
            >>> SigmaGrid([1.0, 0.5]).concatenate(SigmaGrid([0.5, 0.1, 0.0])).sigmas
            (1.0, 0.5, 0.1, 0.0)
        """
        if not isinstance(other, SigmaGrid):
            raise TypeError(str(refused("other", other, "a SigmaGrid")))
        if other.start != self.end:
            raise ValueError(f"other.start={other.start}: it must begin where this grid ends, at {self.end}")
        return SigmaGrid([*self.sigmas, *other.sigmas[1:]], rising=self.rising)

    def truncate(self, strength: float) -> SigmaGrid:
        r"""Keep the last part of the schedule, for image-to-image, by diffusers' rule for ``strength``.

        The first $\lfloor N - N s \rfloor$ of N steps are dropped. Start the run from the image with noise of level ``start`` of the
        new schedule. ComfyUI has two other rules, see `schedules.denoise`.

        Args:
            strength: s, in (0, 1]; 1 keeps the whole schedule.

        Raises:
            ValueError: ``strength`` is outside (0, 1].

        Examples:
            >>> SigmaGrid([1.0, 0.75, 0.5, 0.25, 0.0]).truncate(0.6).sigmas
            (0.75, 0.5, 0.25, 0.0)

        Reference:
            ``get_timesteps`` of diffusers' image-to-image pipelines.
        """
        strength = number("strength", strength, most=1, above=0)
        left_out = int(max(self.steps - min(self.steps * strength, self.steps), 0))
        return SigmaGrid(self.sigmas[min(left_out, self.steps - 1) :], rising=self.rising)

    def split_last(self, parts: int) -> SigmaGrid:
        """Cut the last interval into equal parts, for schedules whose last interval is large.

        Args:
            parts: number of parts, at least 1; 1 changes nothing.

        Raises:
            ValueError: ``parts`` is below 1.

        Examples:
            >>> SigmaGrid([1.0, 0.8, 0.0]).split_last(2).sigmas
            (1.0, 0.8, 0.4, 0.0)
        """
        last = SigmaGrid(self.sigmas[-2:], rising=self.rising).refined(parts)
        return SigmaGrid([*self.sigmas[:-2], *last.sigmas], rising=self.rising)

    def stretch_terminal(self, terminal: float) -> SigmaGrid:
        r"""Stretch the schedule so that its last node before the end lies at ``terminal``.

        This is diffusers' option ``shift_terminal``: $\sigma \mapsto 1 - (1 - \sigma)(1 - t)/(1 - \sigma_{N-1})$. The nodes 1 and the end
        do not move. A schedule of one step that begins at 1 has no such node and is returned unchanged.

        Args:
            terminal: t, between the end and 1.

        Raises:
            ValueError: the schedule rises, or ``terminal`` is outside (end, 1).

        Examples:
            >>> [round(s, 3) for s in SigmaGrid([1.0, 0.75, 0.5, 0.0]).stretch_terminal(0.1).sigmas]
            [1.0, 0.55, 0.1, 0.0]
        """
        if self.rising:
            raise ValueError("stretch_terminal: the grid rises; stretch it before it is reversed")
        if not self.end < number("terminal", terminal) < 1:
            raise ValueError(f"terminal={terminal}: the last sigma before the end lies between {self.end} and 1")
        last = self.sigmas[-2]
        if last == 1:
            return self
        scale = (1 - last) / (1 - terminal)
        return SigmaGrid([*(1 - (1 - s) / scale for s in self.sigmas[:-2]), terminal, self.end])

    def floor(self, lowest: float) -> SigmaGrid:
        """Replace all inner nodes below ``lowest`` by one node at ``lowest``; both ends stay.

        Use it for models that are inaccurate close to sigma 0.

        Args:
            lowest: between 0 and the higher end.

        Raises:
            ValueError: ``lowest`` is outside that range.

        Examples:
            >>> SigmaGrid([1.0, 0.5, 0.01, 0.001, 0.0]).floor(0.02).sigmas
            (1.0, 0.5, 0.02, 0.0)
        """
        high, low = max(self.start, self.end), min(self.start, self.end)
        if not 0 <= number("lowest", lowest) < high:
            raise ValueError(f"lowest={lowest}: a floor lies between 0 and the grid's higher end, {high}")
        raised = dict.fromkeys(max(s, lowest) for s in self.sigmas[1:-1])
        inner = [s for s in raised if low < s < high]
        return SigmaGrid([self.start, *inner, self.end], rising=self.rising)


def at_least_one(name: str, value: int) -> None:
    """Check that a count is a whole number from 1 to `MOST_STEPS`; the error has its name."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{name}={value!r}: {name} is a whole number")
    if value < 1:
        what = "a schedule needs at least 1 step" if name == "steps" else f"{name} must be at least 1"
        raise ValueError(f"{name}={value}: {what}")
    if name == "steps" and value > MOST_STEPS:
        raise ValueError(f"steps={value}: a schedule has at most {MOST_STEPS} steps")


GridLike: TypeAlias = SigmaGrid | Iterable[float]
"""A `SigmaGrid`, or its falling sigmas as a list, a tuple, a numpy array or a tensor of one axis."""


def as_grid(grid: GridLike | Any, name: str = "grid") -> SigmaGrid:
    """Convert sigmas to a `SigmaGrid`; a `SigmaGrid` is returned as it is.

    Args:
        grid: a `SigmaGrid`; or the sigmas, falling from noise to data, as k-diffusion and ComfyUI pass them. They may be a list, a
            tuple, a numpy array, or a tensor with one axis on any device.
        name: name of the caller's argument, for error messages.

    Raises:
        TypeError: it is something else, such as the name of a schedule or a number of steps.
        ValueError: the sigmas are no schedule, see `SigmaGrid`.

    Examples:
        >>> as_grid([1, 0.5, 0]) == as_grid(SigmaGrid([1.0, 0.5, 0.0]))
        True
    """
    if isinstance(grid, SigmaGrid):
        return grid
    return SigmaGrid(_numbers(grid, name))


ACCEPTED = "accepted are a SigmaGrid, such as get_schedule('flux2', 4), and its sigmas as a list, tuple, array or tensor"


def _numbers(given: Any, name: str) -> tuple[float, ...]:
    """The numbers in a list, a tuple, an array or a tensor of one axis."""
    values = given.tolist() if hasattr(given, "tolist") else given
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise TypeError(f"{name}={shown(given)}: this is no grid; {ACCEPTED}")
    numbers: list[Any] = list(values)  # pyright: ignore[reportUnknownArgumentType]
    for i, value in enumerate(numbers):
        if isinstance(value, str | bytes | bool) or not hasattr(value, "__float__"):
            raise TypeError(f"{name}[{i}]={shown(value)}: a sigma is one number; {ACCEPTED}")
    return tuple(map(float, numbers))


def _validate(nodes: tuple[float, ...], *, rising: bool) -> None:
    if len(nodes) < 2:
        raise ValueError(f"sigmas={list(nodes)}: a schedule needs at least 1 step, that is 2 sigmas")
    for i, s in enumerate(nodes):
        if not math.isfinite(s):
            raise ValueError(f"sigmas[{i}]={s}: every sigma must be finite")
        if not -_SLACK <= s <= 1 + _SLACK:
            raise ValueError(
                f"sigmas[{i}]={s}: sigmas lie between 0 (data) and 1 (noise); timesteps are {NUM_TRAIN_TIMESTEPS} * sigma"
            )
    for i, (a, b) in enumerate(pairwise(nodes)):
        if rising and not b > a:
            raise ValueError(f"sigmas[{i}]={a}, sigmas[{i + 1}]={b}: a rising schedule must rise strictly")
        if not rising and not b < a:
            raise ValueError(
                f"sigmas[{i}]={a}, sigmas[{i + 1}]={b}: sigmas must fall strictly (pass rising=True for inversion)"
            )
