"""Laws of model calls: their number, their place, and errors for bad velocities."""

from __future__ import annotations

import math

from torch import Tensor

from flowsamplers.engine import dry_run, sample
from flowsamplers.grid import SigmaGrid
from flowsamplers.schedules import linear
from flowsamplers.testing.fields import smooth, start_at
from flowsamplers.testing.laws.common import IRREGULAR, SEED, Case, generator_of
from flowsamplers.testing.subject import subject_of

__all__ = ["bad_velocities_are_named", "evaluations_are_as_declared", "requests_stay_inside_their_step"]


def evaluations_are_as_declared(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    """The model is called exactly as often as the subject declares, and at the sigmas of the dry run.

    Reference:
        NFE, the number of function evaluations: the axis of every comparison, as in DPM-Solver, arXiv:2206.00927.
    """
    subject = subject_of(case)
    asked: list[float] = []

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        assert tuple(sigma.shape) == (len(x),), (
            f"{subject.name} asks with sigma of shape {tuple(sigma.shape)} for {len(x)} rows"
        )
        asked.append(sigma[0].item())
        return smooth(x, sigma)

    subject.run(velocity, start_at(), grid, seed=SEED)
    if subject.sampler is not None and not subject.sampler.adaptive:
        planned = [e.sigma for e in dry_run(subject.sampler, grid)]
        assert asked == planned, f"{subject.name} asked at {asked}; its dry run said {planned}"
    if subject.evaluations is not None:
        declared = subject.evaluations(grid)
        assert len(asked) == declared, f"{subject.name} made {len(asked)} model calls and declares {declared}"


def requests_stay_inside_their_step(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    r"""Every evaluation lies inside its step's interval, or in the intervals that the sampler declares; and always inside the grid.

    Reference:
        $0 \le c_i \le 1$ for the nodes of a tableau: Hairer, Norsett, Wanner I, II.1. A model is not trained outside [0, 1].
    """
    sampler = generator_of(case)
    for call in dry_run(sampler, grid):
        end = min(call.step + 1 + sampler.look_ahead, grid.steps)
        low, high = sorted((grid.sigmas[max(0, call.step - sampler.look_back)], grid.sigmas[end]))
        inside = low <= call.sigma <= high
        assert inside, f"{type(sampler).__name__} asks at sigma {call.sigma} in the step from {high} to {low}"


def bad_velocities_are_named(case: Case) -> None:
    """With ``check="finite"``, the error for a velocity that is not finite names its step and sigma; a wrong shape is always an error.

    Reference:
        IEEE 754: a NaN spreads through every sum without an error, so the first function that sees it must report it.
    """
    sampler = generator_of(case)
    x1, grid = start_at(), linear(2)
    for velocity, error, text in (
        (lambda x, s: x * math.nan, FloatingPointError, "step 0"),
        (lambda x, s: x[:, :1], ValueError, "shape"),
    ):
        said = ""
        try:
            sample(velocity, x1, grid, sampler, seed=SEED, check="finite")
        except error as raised:
            said = str(raised)
        assert text in said, f"{type(sampler).__name__}: a bad velocity goes unnoticed, or unnamed: {said!r}"
