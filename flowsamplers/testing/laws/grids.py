"""The laws of schedules and grids, one function each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from flowsamplers.grid import SigmaGrid

__all__ = [
    "a_schedule_is_sound",
    "a_schedule_runs_from_noise_to_data",
    "a_shift_multiplies_the_odds",
    "bad_grids_are_named",
    "bad_steps_are_named",
    "stored_dt_sum_to_end_minus_start",
]


def stored_dt_sum_to_end_minus_start(grid: SigmaGrid) -> None:
    """The dt of a schedule sum to end minus start, up to one rounding for each step."""
    exact = grid.end - grid.start
    assert abs(sum(grid.dt) - exact) <= 2 * grid.steps * torch.finfo(torch.float64).eps, (
        f"sum of dt {sum(grid.dt)!r}, not {exact!r}"
    )


def a_schedule_is_sound(build: Callable[[int], SigmaGrid], steps: int, *, exact_steps: bool = True) -> None:
    """A schedule has N steps (unless it declares otherwise), is finite, strictly monotone within [0, 1], and the same each time."""
    grid = build(steps)
    assert grid.steps == steps or not exact_steps, f"{steps} steps were asked for, the grid has {grid.steps}"
    signs = {math.copysign(1, h) for h in grid.dt if h != 0}
    assert len(signs) == 1, f"the sigmas are not strictly monotone: {grid.sigmas}"
    assert all(math.isfinite(s) and -1e-6 <= s <= 1 + 1e-6 for s in grid.sigmas), f"sigmas outside [0, 1]: {grid.sigmas}"
    assert build(steps) == grid, "the schedule is not the same each time"


def a_schedule_runs_from_noise_to_data(build: Callable[[int], SigmaGrid], steps: int) -> None:
    """A schedule begins at 1 and ends at exactly 0, so its dt sum to -1."""
    grid = build(steps)
    assert abs(grid.start - 1) <= 2**-20, f"the first sigma is {grid.start}, not 1"
    assert grid.end == 0, f"the last sigma is {grid.end}, not 0: noise stays in the picture"


def a_shift_multiplies_the_odds(build: Callable[[int], SigmaGrid], steps: int, shift: float) -> None:
    r"""A static shift k makes the odds $\sigma/(1 - \sigma)$ of every inner node of a uniform grid k times as large: once, not twice.

    Reference:
        Esser et al., arXiv:2403.03206, (23).
    """
    for i, sigma in enumerate(build(steps).sigmas[1:-1], 1):
        odds, plain = sigma / (1 - sigma), (steps - i) / i
        assert abs(odds / plain / shift - 1) <= 2**-18, (
            f"node {i}: odds are {odds / plain:.6g} times the uniform grid's, not {shift}"
        )


def bad_steps_are_named(build: Callable[[int], SigmaGrid]) -> None:
    """Zero and negative numbers of steps raise an error that names the argument."""
    for steps in (0, -3):
        said = ""
        try:
            build(steps)
        except ValueError as error:
            said = str(error)
        assert "steps" in said, f"build({steps}) must raise a ValueError that names steps; it said {said!r}"


def bad_grids_are_named(make: Callable[[Sequence[float]], Any] = SigmaGrid) -> None:
    """Sigmas that are not finite, not strictly monotone, too few, or rising by mistake raise an error, each with its own message."""
    for sigmas in (
        [1.0, math.nan, 0.0],
        [1.0, math.inf, 0.0],
        [1.0, 0.5, 0.5, 0.0],
        [1.0, 0.2, 0.4, 0.0],
        [1.0],
        [],
        [0.0, 1.0],
    ):
        said = ""
        try:
            make(sigmas)
        except ValueError as error:
            said = str(error)
        assert said, f"{sigmas} is taken for a schedule, or refused without a word"
