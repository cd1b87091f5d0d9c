"""The orders of the catalogue, as they are observed: on mixtures of Gaussians, whose flows and whose marginals are known."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from flowsamplers.engine import sample
from flowsamplers.flows import MixtureFlow
from flowsamplers.grid import SigmaGrid
from flowsamplers.noise import Clock
from flowsamplers.orders import SPANS, OrderVerdict, order
from flowsamplers.registry import get_sampler
from flowsamplers.sampler import Sampler, SamplerLike
from flowsamplers.study.stochastic import stochastic_orders

FLOWS = {"mixture-2": 2, "mixture-4": 4}
"""Anisotropic mixtures of three Gaussians, by the seed of `MixtureFlow.random`: in six dimensions, in one for weak orders."""
SHIFTS = {"uniform": 1.0, "shift-2": 2.0}
"""Grids: the way from start to end, shifted as sigmas are."""
BOTH = (("mixture-2", "uniform"), ("mixture-4", "shift-2"))
"""Flow and grid of the stochastic samplers' orders."""
STEPS = {
    1: (256, 512, 1024),
    2: (256, 512, 1024, 2048),
    3: (128, 256, 512, 1024),
    4: (64, 128, 256, 512),
    5: (32, 64, 128),
}
"""Numbers of steps by the order that is expected."""
ROUNDING = 2e-14
"""Errors near this say nothing of an order."""
STRONG, WEAK = (0.9, 0.15), (0.9, 0.2)
"""Spans of stochastic samplers, inside (0, 1). `Restart` restarts in both; in the first all uniform grids have its threshold
at one place in a step."""
PATHS, COARSEST, REFINEMENTS, FINEST = 256, 10, (1, 4, 16), 64
"""Strong orders: how many paths, steps of the coarsest grid, into how many parts these are cut, and in the limit's place."""
WEAK_STEPS = {1: (8, 16, 32, 64), 2: (4, 8, 16, 32)}
"""Numbers of steps by the weak order that is expected."""
POINTS, SCRAMBLES = 2**15, 16
"""Weak orders: points of a Sobol sequence, and how often it is scrambled anew."""


def observed_order(name: str, flow: str, shift: str, span: str) -> OrderVerdict:
    """Measure the order of an ODE sampler.

    Args:
        name: of the sampler.
        flow: key of `FLOWS`.
        shift: key of `SHIFTS`.
        span: key of `SPANS`.

    Returns:
        The verdict on the declared order, over the numbers of steps in `STEPS`.
    """
    method = get_sampler(name)
    declared = method.claims.order if span == "inside" else method.claims.order_to_data
    x, exact = _truth(flow, *SPANS[span])
    errors: list[float] = []
    for n in STEPS[declared]:
        out = sample(_flow(flow).velocity, x, shifted(n, SHIFTS[shift], *SPANS[span]), method)
        errors.append(((out - exact).norm() / exact.norm()).item())
    return order(STEPS[declared], errors, declared=declared, floor=ROUNDING)


def observed_strong_order(name: str, flow: str, shift: str, *, paths: int = PATHS) -> OrderVerdict:
    """Measure the strong order of a stochastic sampler, by its own refinement along shared Brownian paths.

    Args:
        name: of the sampler.
        flow: key of `FLOWS`.
        shift: key of `SHIFTS`.
        paths: how many.

    Returns:
        The verdict on the declared order, with its Monte-Carlo error.
    """
    method, field = get_sampler(name), _flow(flow)
    x = field.solution(field.noise(range(paths)), 1.0, STRONG[0])
    grid = shifted(COARSEST, SHIFTS[shift], *STRONG)
    found = stochastic_orders(
        field, x, method, grid, strong=method.strong_order, weak=method.weak_order, refinements=REFINEMENTS, finest=FINEST
    )
    return found.strong_order


def observed_weak_order(
    name: str, flow: str, shift: str, *, points: int = POINTS, scrambles: int = SCRAMBLES
) -> tuple[OrderVerdict, list[float], list[float]]:
    """Measure the weak order of a stochastic sampler.

    Args:
        name: of the sampler.
        flow: key of `FLOWS`; here of one dimension.
        shift: key of `SHIFTS`.
        points: of one Sobol sequence, a power of 2.
        scrambles: how many sequences.

    Returns:
        The verdict on the declared order with its Monte-Carlo error, and `weak_errors`.
    """
    method, field = get_sampler(name), _flow(flow, 1)
    steps = WEAK_STEPS[max(method.weak_order, 1)]
    found = [
        weak_error(field, method, shifted(n, SHIFTS[shift], *WEAK), points=points, scrambles=scrambles, seed=n) for n in steps
    ]
    errors, bars = [e for e, _ in found], [u for _, u in found]
    return order(steps, errors, declared=method.weak_order, uncertainty=bars), errors, bars


def weak_error(
    flow: MixtureFlow, sampler: SamplerLike, grid: SigmaGrid, *, points: int = POINTS, scrambles: int = SCRAMBLES, seed: int = 0
) -> tuple[float, float]:
    r"""How far mean and mean square of a stochastic sampler's result are from the flow's, with the standard error of that.

    The means are over scrambled Sobol sequences, with a dimension for every number that a run draws, and for its start: their error falls
    nearly like one over the number of points. The truth is a formula, the moments of the mixture under noise.

    Args:
        flow: a mixture.
        sampler: stochastic or not.
        grid: the schedule.
        points: of one sequence, a power of 2.
        scrambles: how many sequences; they are independent, which gives the standard error.
        seed: of the scrambling.

    Returns:
        The Euclidean size of the errors of all means and mean squares, and of their standard errors.

    Examples:
        >>> flow = MixtureFlow([[-1.0], [1.0]], [0.5, 0.3])
        >>> error, bar = weak_error(flow, "lcm", SigmaGrid([1.0, 0.5, 0.0]), points=256, scrambles=4)
        >>> error > 3 * bar  # too narrow
        True

    Reference:
        Owen, "Randomly permuted (t,m,s)-nets and (t,s)-sequences", 1995; Kloeden and Platen, 1992, on weak convergence.
    """
    method = get_sampler(sampler)
    draws = _draws(flow, method, grid)
    found: list[Tensor] = []
    for k in range(scrambles):
        noise = SobolNoise(draws, flow.dim, points, seed=seed * scrambles + k)
        x = flow.solution(noise.start, 1.0, grid.start, rtol=1e-8) if grid.start < 1 else noise.start
        end = sample(flow.velocity, x, grid, method, seed=noise)
        found.append(torch.cat([end.mean(0), end.square().mean(0)]))
    estimates = torch.stack(found)
    error = (estimates.mean(0) - _moments(flow, grid.end)).norm().item()
    return error, (estimates.std(0) / scrambles**0.5).norm().item()


class SobolNoise:
    """Noise whose rows are the points of a scrambled Sobol sequence: for means over runs, not for single ones.

    Args:
        draws: the (step, draw) that a run asks for.
        size: numbers in a row of the state.
        points: how many rows, a power of 2.
        seed: of the scrambling.

    Attributes:
        start: unit normal starts, ``(points, size)``, from dimensions of their own.
    """

    def __init__(self, draws: list[tuple[int, int]], size: int, points: int, seed: int) -> None:
        from scipy.stats import norm, qmc  # noqa: PLC0415

        sequence = qmc.Sobol(size * (1 + len(draws)), scramble=True, seed=seed)  # pyright: ignore[reportCallIssue]  # rng= from scipy 1.15 on
        uniform = np.clip(sequence.random(points), 2.0**-64, 1 - 2.0**-53)
        self.start, *self._values = torch.from_numpy(norm.ppf(uniform)).split(size, dim=1)
        self._place = {key: i for i, key in enumerate(draws)}

    def __call__(self, like: Tensor, step: int, draw: int, clock: Clock | None = None) -> Tensor:
        """See `flowsamplers.Noise`."""
        return self._values[self._place[step, draw]].to(like)


def shifted(steps: int, shift: float, start: float, end: float) -> SigmaGrid:
    """A grid between any two sigmas whose steps grow as those of a shifted schedule do."""
    way = np.arange(steps + 1) / steps
    way = way / (shift - (shift - 1) * way)
    return SigmaGrid([start, *(start + (end - start) * way[1:-1]), end])


def _draws(flow: MixtureFlow, method: Sampler, grid: SigmaGrid) -> list[tuple[int, int]]:
    """The (step, draw) that a run asks for."""
    asked: dict[tuple[int, int], None] = {}

    def record(like: Tensor, step: int, draw: int, clock: Clock | None = None) -> Tensor:
        asked[step, draw] = None
        return torch.zeros_like(like)

    sample(flow.velocity, torch.zeros(1, flow.dim, dtype=torch.float64), grid, method, seed=record)
    return list(asked)


def _moments(flow: MixtureFlow, sigma: float) -> Tensor:
    """Mean and mean square of every coordinate of the flow's marginal."""
    means, weights = (1 - sigma) * flow.means, flow.weights[:, None]
    squares = means**2 + ((1 - sigma) * flow.stds) ** 2 + sigma**2
    return torch.cat([(weights * means).sum(0), (weights * squares).sum(0)])


@cache
def _flow(name: str, dim: int = 6) -> MixtureFlow:
    return MixtureFlow.random(FLOWS[name], dim)


@cache
def _truth(flow: str, start: float, end: float) -> tuple[Tensor, Tensor]:
    x = _flow(flow).noise([0, 1])
    return x, _flow(flow).solution(x, start, end)
