"""Noise: what determines it, how much of it there is, and what it leaves invariant."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from flowsamplers.drive import sample
from flowsamplers.flows import GaussianFlow
from flowsamplers.grid import SigmaGrid
from flowsamplers.noise import Clock, KeyedNoise
from flowsamplers.schedules import linear, shift
from flowsamplers.testing.fields import smooth, start_at
from flowsamplers.testing.laws.common import (
    IRREGULAR,
    SEED,
    Case,
    NotApplicable,
    close,
    generator_of,
    quiet,
)
from flowsamplers.testing.subject import subject_of


def seeds_determine_the_result(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    """The same seed twice gives the same bits; another seed gives another result, if noise is drawn at all."""
    subject = subject_of(case)
    x1 = start_at()
    first, second = (subject.run(smooth, x1, grid, seed=SEED) for _ in range(2))
    assert torch.equal(first, second), f"{subject.name}: two runs with one seed differ"
    other = subject.run(smooth, x1, grid, seed=SEED + 1)
    assert torch.equal(first, other) != subject.stochastic, (
        f"{subject.name}: another seed must change a stochastic result, and no other"
    )


def noise_is_drawn_anew_for_every_step(case: Case) -> None:
    """Draws of different steps are independent: with all of them equal, variances add up wrongly."""
    sampler = generator_of(case)
    if not sampler.stochastic:
        raise NotApplicable("it draws no noise")
    drawn: list[Tensor] = []

    def record(like: Tensor, step: int, draw: int, clock: Clock | None = None) -> Tensor:
        drawn.append(KeyedNoise(SEED)(like, step, draw))
        return drawn[-1]

    sample(smooth, start_at(), linear(6), sampler, seed=record)
    assert len(drawn) >= 3, f"{type(sampler).__name__} draws {len(drawn)} times in 6 steps"
    assert all(not torch.equal(a, b) for a, b in pairwise(drawn)), f"{type(sampler).__name__} uses one draw for two steps"


def without_noise_it_is_its_ode_twin(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    """At eta 0 a stochastic sampler is the ODE sampler that it names, or Euler's method if it is of order 1."""
    subject = subject_of(case)
    if not subject.stochastic:
        raise NotApplicable("it draws no noise")
    still = quiet(subject)
    named = None if subject.sampler is None else subject.sampler.without_noise
    if named is None and still.order != 1:
        raise NotApplicable("it is of higher order and names no ODE sampler")
    twin = subject_of(named or "euler")
    close(
        still.run(smooth, start_at(), grid),
        twin.run(smooth, start_at(), grid),
        f"{subject.name} at eta 0 is not {twin.name}",
        1e-12,
    )


def data_points_keep_their_noise_level(case: Case, grid: SigmaGrid | None = None, rows: int = 20_000) -> None:
    r"""Invariant I1: if $x_\sigma = (1 - \sigma) m + \sigma n$ then every state has mean $(1 - \sigma')m$ and variance $\sigma'^2$.

    Exact for any step size; checked on 20,000 rows within five standard errors.
    """
    subject = subject_of(case)
    if not subject.stochastic:
        raise NotApplicable("it draws no noise")
    m = 1.5
    grid = grid or SigmaGrid([0.9, 0.7, 0.5, 0.3])
    x = (1 - grid.start) * m + grid.start * start_at(rows, 1, seed=5)

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        return (x - m) / sigma[:, None]

    out = subject.run(velocity, x, grid, seed=SEED)
    mean, var = out.mean().item(), out.var().item()
    mean_error, var_error = 5 * grid.end / math.sqrt(rows), 5 * grid.end**2 * math.sqrt(2 / rows)
    assert abs(mean - (1 - grid.end) * m) <= mean_error, f"{subject.name}: mean {mean:.4f}, not {(1 - grid.end) * m:.4f}"
    assert abs(var - grid.end**2) <= var_error, f"{subject.name}: variance {var:.4f}, not {grid.end**2:.4f}"


def marginals_are_kept_as_declared(case: Case, steps: int = 150, rows: int = 1_500) -> None:
    """Invariant I2: on Gaussian data of standard deviation 0.5 the variance tends to 0.25 as steps shrink, if declared so.

    A subject that declares the opposite must miss it by more than the Monte-Carlo error: the label is tested both ways.
    """
    subject = subject_of(case)
    if not subject.stochastic:
        raise NotApplicable("an ODE sampler keeps the marginals to its order")
    flow = GaussianFlow([0.0], std=0.5)
    out = subject.run(flow.velocity, start_at(rows, 1, seed=6), shift(steps, shift=3.0), seed=SEED)
    ratio = out.var().item() / 0.25
    error = 5 * math.sqrt(2 / rows)
    kept = abs(ratio - 1) <= error + 0.05
    assert kept == subject.keeps_marginals, (
        f"{subject.name}: variance {ratio:.3f} of the true one; declared keeps_marginals={subject.keeps_marginals}"
    )
