"""Laws of noise: seeds, independence, variance, and the distributions it keeps."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from flowsamplers.engine import sample
from flowsamplers.flows import GaussianFlow
from flowsamplers.grid import SigmaGrid
from flowsamplers.noise import Interval, KeyedNoise
from flowsamplers.sampler import Sampler
from flowsamplers.schedules import linear, shift
from flowsamplers.testing.fields import between, smooth, start_at
from flowsamplers.testing.laws.common import (
    IRREGULAR,
    SEED,
    Case,
    NotApplicable,
    close,
    generator_of,
    stochastic,
    without_noise,
)
from flowsamplers.testing.moments import Impulses, noise_level_error, variance_ratio
from flowsamplers.testing.subject import Subject, subject_of

__all__ = [
    "data_points_keep_their_noise_level",
    "marginals_are_kept_as_declared",
    "noise_is_drawn_anew_for_every_step",
    "seeds_determine_the_result",
    "variances_have_the_declared_weak_order",
    "without_noise_it_is_its_ode_twin",
]


def seeds_determine_the_result(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    """Equal seeds give equal bits; different seeds give different results, if the sampler draws noise."""
    subject = subject_of(case)
    x1 = start_at()
    first, second = (subject.run(smooth, x1, grid, seed=SEED) for _ in range(2))
    assert torch.equal(first, second), f"{subject.name}: two runs with one seed differ"
    other = subject.run(smooth, x1, grid, seed=SEED + 1)
    assert torch.equal(first, other) != subject.stochastic, (
        f"{subject.name}: another seed must change a stochastic result, and no other"
    )


def noise_is_drawn_anew_for_every_step(case: Case) -> None:
    """Draws of different steps are independent; equal draws would give a wrong variance."""
    sampler = generator_of(stochastic(case))
    drawn: list[Tensor] = []

    def record(like: Tensor, step: int, draw: int, interval: Interval | None = None) -> Tensor:
        drawn.append(KeyedNoise(SEED)(like, step, draw))
        return drawn[-1]

    sample(smooth, start_at(), linear(6), sampler, seed=record)
    assert len(drawn) >= 2, f"{type(sampler).__name__} draws {len(drawn)} times in 6 steps"
    assert all(not torch.equal(a, b) for a, b in pairwise(drawn)), f"{type(sampler).__name__} uses one draw for two steps"


def without_noise_it_is_its_ode_twin(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    """Without noise, a stochastic sampler equals the ODE sampler that it names, or Euler's method if it has order 1."""
    subject = stochastic(case)
    still = without_noise(subject)
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

    This holds at any step size exactly if ``keeps_noise_level`` is declared. A generator is an affine map here, so its moments
    are exact, down to a sigma of 1e-4. This shows noise left by a step to 0. For a subject of another library, 20,000 rows are
    drawn on a grid that ends higher, and the bound is five standard errors.

    Reference:
        The coefficients of a rectified flow, arXiv:2209.03003; their invariance at finite steps: Flow-CPS, arXiv:2509.05952.
    """
    subject = stochastic(case)
    if subject.sampler is not None:
        grid = grid or SigmaGrid([0.9, 0.7, 0.5, 0.3, 0.1, 1e-4])
        _asks_for_its_noise(subject.sampler, grid)
        cancelled = 8 * torch.finfo(torch.float64).eps / grid.end**2  # a field (x - m) / sigma, asked at the last sigma
        error, bound = noise_level_error(subject.sampler, grid), 1e-10 + cancelled
    else:
        error, bound = _drawn_noise_level_error(subject, grid or SigmaGrid([0.9, 0.7, 0.5, 0.3]), rows), 5.0
    assert (error <= bound) == subject.keeps_noise_level, (
        f"{subject.name}: off the noise level of a data point by {error:.1e}, where up to {bound:.1e} counts as none; "
        f"declared keeps_noise_level={subject.keeps_noise_level}"
    )


def _asks_for_its_noise(sampler: Sampler, grid: SigmaGrid) -> None:
    """Exact moments are those of the draws that a step is asked for; a sampler that draws elsewhere, or not on this grid, has none."""
    noise = Impulses()
    sample(smooth, start_at(), grid, sampler, seed=noise)
    assert noise.draws, f"{type(sampler).__name__} says that it is stochastic and asks its steps for no noise"


def _drawn_noise_level_error(subject: Subject, grid: SigmaGrid, rows: int, m: float = 1.5) -> float:
    """In standard errors."""
    x = (1 - grid.start) * m + grid.start * start_at(rows, 1, seed=5)
    out = subject.run(lambda x, sigma: (x - m) / sigma[:, None], x, grid, seed=SEED)
    mean_error, var_error = grid.end / math.sqrt(rows), grid.end**2 * math.sqrt(2 / rows)
    off = abs(out.mean().item() - (1 - grid.end) * m) / mean_error
    return max(off, abs(out.var().item() - grid.end**2) / var_error)


def marginals_are_kept_as_declared(case: Case, steps: int = 64, rows: int = 1_500) -> None:
    """Invariant I2: on Gaussian data of standard deviation 0.5, the variance tends to 0.25 exactly if ``keeps_marginals`` is declared.

    "Tends to" means that with four times the steps the exact error falls below 0.6 of its value, or is below 1e-3. For a subject of
    another library, rows are drawn, and the error must be within five standard errors and 0.05.

    Reference:
        The SDEs with a flow's marginals: Albergo, Boffi, Vanden-Eijnden, arXiv:2303.08797, section 2.4.
    """
    subject = subject_of(case)
    if not subject.stochastic:
        raise NotApplicable("an ODE sampler keeps the marginals to its order")
    if subject.sampler is not None:
        _asks_for_its_noise(subject.sampler, shift(steps, shift=3.0))
        before, after = (abs(variance_ratio(subject.sampler, shift(n, shift=3.0)) - 1) for n in (steps, 4 * steps))
        kept, found = after <= max(0.6 * before, 1e-3), f"off by {before:.2e}, with four times the steps by {after:.2e}"
    else:
        out = subject.run(GaussianFlow([0.0], std=0.5).velocity, start_at(rows, 1, seed=6), shift(steps, shift=3.0), seed=SEED)
        ratio = out.var().item() / 0.25
        kept, found = abs(ratio - 1) <= 5 * math.sqrt(2 / rows) + 0.05, f"{ratio:.3f} of the true one"
    assert kept == subject.keeps_marginals, (
        f"{subject.name}: variance {found}; declared keeps_marginals={subject.keeps_marginals}"
    )


def variances_have_the_declared_weak_order(case: Case, steps: int = 64, tolerance: float = 0.25) -> None:
    r"""On Gaussian data the variance of the result errs like $h^p$: slope at least ``weak_order`` less the tolerance.

    Exact, without Monte Carlo, inside (0, 1). Where the slope is too small, that of four times the steps decides. The law finds a wrong
    correction, or stages whose noises are not those of one path. The other laws of noise do not see these: such a method still
    converges, to a lower order. Data of other laws may show less.

    Reference:
        Kloeden and Platen, Numerical Solution of Stochastic Differential Equations (1992), 9.7 (weak convergence).
    """
    sampler = generator_of(stochastic(case))
    if sampler.weak_order == 0:
        raise NotApplicable("it declares that its variances do not converge")
    _asks_for_its_noise(sampler, between(0.95, 0.05, steps))
    found: list[str] = []
    for n in (steps, 4 * steps):
        errors = [abs(variance_ratio(sampler, between(0.95, 0.05, m), std=1.7) - 1) for m in (n, 2 * n)]
        slope = math.log2(errors[0] / errors[1]) if errors[1] >= 1e-12 else math.inf
        if slope >= sampler.weak_order - tolerance:
            return
        found.append(f"{slope:.2f} from {n} to {2 * n} steps")
    raise AssertionError(
        f"{type(sampler).__name__}: the slope of the variance's error is {' and '.join(found)}; declared weak_order={sampler.weak_order}"
    )
