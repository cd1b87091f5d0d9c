"""Laws of exactness: constants, straight paths and polynomials in sigma are integrated without error."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from flowsamplers.grid import SigmaGrid
from flowsamplers.testing.fields import start_at
from flowsamplers.testing.laws.common import IRREGULAR, SEED, Case, NotApplicable, close, generator_of, without_noise
from flowsamplers.testing.subject import subject_of
from flowsamplers.tracing import trace

__all__ = [
    "applied_dt_sum_to_end_minus_start",
    "memories_are_exact_once_full",
    "polynomials_in_sigma_are_exact",
    "rising_grids_are_run_or_refused",
    "straight_paths_are_exact",
]


def applied_dt_sum_to_end_minus_start(
    case: Case, grid: SigmaGrid = IRREGULAR, dtype: torch.dtype = torch.float64, value: float = 1.0
) -> None:
    r"""The dt that are *applied* sum to end minus start, -1 for a complete run.

    A constant velocity c must carry x to $x + (\sigma_{end} - \sigma_{start}) c$. The stored dt always sum up correctly, but the
    applied ones may not: a sign may be wrong, a dt rounded, a step forgotten. The state is carried in float32 or better. The bound
    is a few eps of that for each step, times the weights of a method that extrapolates.

    Reference:
        Consistency, $\sum_i b_i = 1$: Hairer, Norsett, Wanner I, II.1; rounding of sums: Higham, Accuracy and Stability (2002), 4.2.
    """
    subject = without_noise(case)
    v = torch.full((1, 1), value, dtype=dtype)
    x0 = subject.run(lambda x, sigma: v, torch.zeros(1, 1, dtype=dtype), grid)
    applied = x0.double().item()
    exact = (grid.end - grid.start) * v.double().item()
    ratios = [abs(b / a) for a, b in pairwise(grid.dt)] if subject.multistep else []
    eps = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    lost = 1 / min(s for s in grid.sigmas if s > 0) if subject.data_form else 1.0
    bound = 8 * lost * max([1.0, *ratios]) * grid.steps * eps * abs(v.double().item()) + torch.finfo(dtype).eps * abs(exact)
    assert abs(applied - exact) <= bound, f"{subject.name} applied {applied!r} on a constant velocity; {exact!r} is right"


def straight_paths_are_exact(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    """For a single data point all paths are straight, and the sampler is exact on any grid, in one step or many.

    Reference:
        Liu et al., Flow Straight and Fast, arXiv:2209.03003.
    """
    subject = without_noise(case)
    data = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    x1 = start_at(4, 3)

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        s = sigma[:, None]
        return torch.where(s > 0, (x - data) / s.clamp(min=1e-300), x1[: len(x)] - data)

    x0 = subject.run(velocity, x1, grid)
    gap = (x0 - data).abs().max().item()
    assert gap <= 256 * grid.steps * torch.finfo(torch.float64).eps * 4, (
        f"{subject.name} misses a straight path's end by {gap:.1e}"
    )


def rising_grids_are_run_or_refused(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    r"""On a rising grid, from exactly 0 to exactly 1, straight paths are exact; a sampler that adds noise refuses such a grid.

    Inversion begins at sigma 0, where logarithms of sigma, and weights that divide by it, have no value. A sampler that adds
    noise must raise a ValueError before its first model call. Noise that is added on the way to noise is not the flow's
    process.

    Reference:
        Inversion of rectified flows: RF-Solver, arXiv:2411.04746; FireFlow, arXiv:2412.07517.
    """
    subject, up = subject_of(case), grid.reversed() if not grid.rising else grid
    if subject.sampler is None:
        raise NotApplicable("it is no flowsamplers sampler, and schedules of other software only fall")
    data, noise = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64), start_at(4, 3)
    asked: list[float] = []

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        asked.append(sigma[0].item())
        return noise - data

    if subject.stochastic:
        try:
            subject.run(velocity, data.expand(4, 3), up, seed=SEED)
        except ValueError:
            assert not asked, f"{subject.name} refuses a rising grid after {len(asked)} model calls; it is known before"
            return
        raise AssertionError(f"{subject.name} puts noise on data on a rising grid")
    close(
        subject.run(velocity, data.expand(4, 3), up),
        (1 - up.end) * data + up.end * noise,
        f"{subject.name} misses the end of a straight path on a rising grid",
        256 * up.steps * torch.finfo(torch.float64).eps,
    )


def polynomials_in_sigma_are_exact(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    r"""One-step methods of order p integrate $v = q \sigma^{q - 1}$, q up to p, without error.

    The velocity does not depend on x, so the method is a quadrature, which is exact to degree p - 1 by its order conditions.

    Reference:
        Hairer, Norsett, Wanner I, II.1.
    """
    subject = without_noise(case)
    if subject.multistep or not subject.affine:
        raise NotApplicable("its first steps are of lower order, or it does not interpolate the velocity in sigma")
    for q in range(1, subject.order + 1):
        x0 = subject.run(lambda x, s, q=q: q * s[:, None] ** (q - 1), torch.ones(1, 1, dtype=torch.float64), grid)
        exact = 1 - grid.start**q + grid.end**q
        gap = abs(x0.item() - exact)
        assert gap <= 16 * grid.steps * torch.finfo(torch.float64).eps * q, f"{subject.name}: sigma^{q - 1} is off by {gap:.1e}"


def memories_are_exact_once_full(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    r"""A multistep method of order p makes no error on $v = q \sigma^{q - 1}$, q up to p, in any step after its first p.

    This holds for any step lengths. It finds an inverted step ratio, which the global order may not show because its errors cancel.

    Reference:
        Hairer, Norsett, Wanner I, III.5.
    """
    sampler = generator_of(case)
    if not (sampler.multistep and sampler.affine and sampler.any_steps) or sampler.stochastic:
        raise NotApplicable("it has no memory, takes its steps for equal, or does not interpolate the velocity in sigma")
    for q in range(1, sampler.order + 1):
        start = torch.ones(1, 1, dtype=torch.float64)
        states = trace(lambda x, s, q=q: q * s[:, None] ** (q - 1), start, grid, sampler).states
        own = grid.steps - (sampler.options.get("last", "method") != "method")
        for i in range(sampler.order, own):
            made = (states[i + 1] - states[i]).item()
            gap = abs(made - (grid.sigmas[i + 1] ** q - grid.sigmas[i] ** q))
            ratio = abs(grid.dt[i] / grid.dt[i - 1])
            assert gap <= 64 * (1 + ratio) ** sampler.order * torch.finfo(torch.float64).eps, (
                f"{type(sampler).__name__}: step {i} is off by {gap:.1e} on sigma^{q - 1}"
            )
