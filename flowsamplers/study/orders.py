"""Measure orders: of all samplers on mixtures with known flows, and of any stochastic sampler from ever finer runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowsamplers.brownian import BrownianNoise
from flowsamplers.engine import sample
from flowsamplers.flows import MixtureFlow
from flowsamplers.grid import SigmaGrid
from flowsamplers.lockstep import Flow, Run, sample_many
from flowsamplers.noise import Interval, Noise
from flowsamplers.orders import SPANS, OrderVerdict, order
from flowsamplers.registry import get_sampler
from flowsamplers.sampler import Sampler, SamplerLike


@dataclass(frozen=True)
class StochasticOrders:
    """Strong and weak errors of a stochastic sampler at several numbers of steps, and the orders.

    Attributes:
        steps: numbers of steps.
        strong: mean distance to the finest path from the same noise, relative to the norm of its end.
        strong_uncertainty: standard errors of ``strong``.
        weak: largest difference in a coordinate's mean or mean square from the finest run, relative to the norm of its end.
        weak_uncertainty: standard errors of ``weak``.
        strong_order: verdict on the strong order.
        weak_order: verdict on the weak order.
    """

    steps: tuple[int, ...]
    strong: tuple[float, ...]
    strong_uncertainty: tuple[float, ...]
    weak: tuple[float, ...]
    weak_uncertainty: tuple[float, ...]
    strong_order: OrderVerdict
    weak_order: OrderVerdict


def stochastic_orders(
    flow: Flow,
    x1: Tensor,
    sampler: SamplerLike,
    grid: SigmaGrid,
    *,
    strong: float,
    weak: float,
    refinements: Sequence[int] = (1, 2, 4, 8),
    finest: int = 64,
    seed: int = 0,
    max_batch: int = 256,
) -> StochasticOrders:
    r"""Measure both orders of a stochastic sampler from ever finer runs along shared Brownian paths.

    Every interval of a grid is cut into 1, 2, 4, ... equal parts. All runs follow the same path of `BrownianNoise`, so differences
    between numbers of steps have little variance. Points whose standard error exceeds a third of their error are not used. The strong
    error is the mean distance. The mean square would be dominated by the few paths that separate.

    Args:
        flow: a velocity field.
        x1: starts, ``(rows, ...)``; more rows give smaller standard errors.
        sampler: a stochastic sampler.
        grid: the coarsest schedule.
        strong: the declared strong order.
        weak: the declared weak order.
        refinements: numbers of parts into which the intervals are cut.
        finest: number of parts for the run that stands for the limit.
        seed: seed of the paths.
        max_batch: largest number of rows in one model call.

    Raises:
        ValueError: the sampler is not stochastic, or a refinement is as fine as ``finest``.

    Reference:
        Kloeden and Platen, Numerical Solution of Stochastic Differential Equations (1992), sections 9.6 and 9.7.
    """
    method = get_sampler(sampler)
    if not method.claims.stochastic:
        raise ValueError(f"sampler={type(method).__name__} is not stochastic: its order is that of a study")
    if any(n >= finest for n in refinements):
        raise ValueError(f"refinements={tuple(refinements)}: each must be smaller than finest={finest}")
    runs = [Run(x1, grid.refined(n), method, seeds=_one_path(seed)) for n in (*refinements, finest)]
    *outs, limit = (out.double().flatten(1) for out in sample_many(flow, runs, max_batch=max_batch))
    size = limit.square().mean().sqrt()
    paths, path_bars = zip(*(_mean_distance((out - limit) / size) for out in outs), strict=True)
    means, mean_bars = zip(*(_mean_difference(out / size, limit / size) for out in outs), strict=True)
    steps = tuple(n * grid.steps for n in refinements)
    strongly = order(steps, paths, declared=strong, uncertainty=path_bars)
    weakly = order(steps, means, declared=weak, uncertainty=mean_bars)
    return StochasticOrders(steps, paths, path_bars, means, mean_bars, strongly, weakly)


def _one_path(seed: int) -> Noise:
    """All rows as one row of a path: their entries are as independent, and the path is looked up once instead of once a row."""
    path = BrownianNoise([seed])

    def noise(like: Tensor, step: int, draw: int, interval: Interval | None = None) -> Tensor:
        return path(like[None], step, draw, interval)[0]

    return noise


def _mean_distance(difference: Tensor) -> tuple[float, float]:
    """Over rows, with its standard error; the distance is a root mean square over a row."""
    distances = difference.square().mean(1).sqrt()
    return distances.mean().item(), (distances.std() / len(distances) ** 0.5).item()


def _mean_difference(x: Tensor, limit: Tensor) -> tuple[float, float]:
    """The largest difference of the means of x and x squared, with its standard error."""
    paired = torch.cat([x - limit, x.square() - limit.square()], dim=1)
    means = paired.mean(0).abs()
    worst = int(means.argmax())
    return means[worst].item(), (paired[:, worst].std() / len(x) ** 0.5).item()


FLOWS = {"mixture-2": 2, "mixture-4": 4}
"""The test flows: mixtures of three Gaussians by the seed of `MixtureFlow.random`, in six dimensions; for weak orders in one."""
SHIFTS = {"uniform": 1.0, "shift-2": 2.0}
"""The test grids: uniform from start to end, or shifted."""
BOTH = (("mixture-2", "uniform"), ("mixture-4", "shift-2"))
"""Pairs of flow and grid for the orders of stochastic samplers."""
STEPS: Mapping[int, Sequence[int]] = {
    1: (256, 512, 1024),
    2: (256, 512, 1024, 2048),
    3: (128, 256, 512, 1024),
    4: (64, 128, 256, 512),
    5: (32, 64, 128),
}
"""Numbers of steps by declared order."""
FINEST, SETTLED = 2048, 0.2
"""If the measured order differs from the declared one by more than `SETTLED`, the number of steps doubles, up to `FINEST`."""
ROUNDING = 2e-14
"""Errors near this are rounding and are not used for orders."""
STRONG, WEAK = (0.9, 0.15), (0.9, 0.2)
"""Spans of stochastic samplers, inside (0, 1). `Restart` restarts in both; in the first all uniform grids have its threshold
at one place in a step."""
PATHS, COARSEST, REFINEMENTS, LIMIT = 1024, 10, (1, 4, 16), 64
"""Strong orders: how many paths, steps of the coarsest grid, into how many parts these are cut, and in the limit's place."""
WEAK_STEPS = {1: (8, 16, 32, 64), 2: (4, 8, 16, 32)}
"""Numbers of steps by the weak order that is expected."""
POINTS, SCRAMBLES = 2**15, 16
"""Weak orders: points of a Sobol sequence, and how often it is scrambled anew."""


def observed_orders(
    samplers: Sequence[SamplerLike],
    span: str,
    shifts: Sequence[str] = tuple(SHIFTS),
    steps: Mapping[int, Sequence[int]] = STEPS,
) -> list[dict[str, OrderVerdict]]:
    """Measure the orders of ODE samplers on every flow of the catalogue.

    All runs go in lock-step, and a run has the rows of all flows. So one model call serves every sampler and number of steps.

    Args:
        samplers: names, configurations or samplers.
        span: key of `SPANS`.
        shifts: keys of `SHIFTS`.
        steps: numbers of steps by the declared order.

    Returns:
        For each sampler its verdicts, by ``"flow, shift"``. If these numbers of steps do not show the declared order, more are
            tried, up to `FINEST`. An inaccurate first step may need many steps.

    Examples:
        >>> [found] = observed_orders(["rk5"], "inside")
        >>> round(found["mixture-2, uniform"].order)
        5
    """
    both = Together()
    series = [_Series(get_sampler(s), span, shift, steps) for s in samplers for shift in shifts]
    x, exact = both.start(), both.solution(*SPANS[span])
    while wanted := [(one, n) for one in series for n in one.wanted()]:
        runs = [Run(x, shifted(n, SHIFTS[one.shift], *SPANS[span]), one.method) for one, n in wanted]
        ends = sample_many(both, runs, max_batch=len(runs) * len(x))
        for (one, n), end in zip(wanted, ends, strict=True):
            one.errors[n] = both.errors(end, exact)
    found = iter(series)
    return [
        {f"{flow}, {one.shift}": v for one in islice(found, len(shifts)) for flow, v in one.verdicts().items()}
        for _ in samplers
    ]


@dataclass(frozen=True, eq=False)
class _Series:
    """Errors of one method on one grid, by the number of steps and then by the flow."""

    method: Sampler
    span: str
    shift: str
    steps: Mapping[int, Sequence[int]]
    errors: dict[int, list[float]] = field(default_factory=dict[int, list[float]])

    @property
    def declared(self) -> int:
        return self.method.claims.order if self.span == "inside" else self.method.claims.order_to_data

    def wanted(self) -> Sequence[int]:
        """Numbers of steps to run next; none where the order has settled, or cannot."""
        if not self.errors:
            return self.steps[self.declared]
        finest, seen = max(self.errors), [v.order for v in self.verdicts().values()]
        settled = all(o is not None and abs(o - self.declared) <= SETTLED for o in seen)
        return [] if settled or finest >= FINEST else [2 * finest]

    def verdicts(self) -> dict[str, OrderVerdict]:
        """One for each flow."""
        each = zip(FLOWS, zip(*self.errors.values(), strict=True), strict=True)
        return {flow: order(list(self.errors), e, declared=self.declared, floor=ROUNDING) for flow, e in each}


class Together:
    """All of `FLOWS` as one flow: its rows are those of the first flow, then those of the second, and so on.

    Args:
        rows: number of rows of each flow.
    """

    def __init__(self, rows: int = 2) -> None:
        self.rows, self.flows = rows, [_flow(name) for name in FLOWS]

    def start(self) -> Tensor:
        """Draw the rows at sigma 1."""
        return torch.cat([flow.noise(range(self.rows)) for flow in self.flows])

    def solution(self, start: float, end: float) -> Tensor:
        """Solve these rows from sigma ``start`` to sigma ``end``."""
        return torch.cat([_truth(name, self.rows, start, end) for name in FLOWS])

    def velocity(self, x: Tensor, sigma: Tensor, condition: Sequence[Any] | None = None) -> Tensor:
        """Return the velocity, see `flowsamplers.Flow`; x may hold several copies of the rows."""
        xs, sigmas = (t.unflatten(0, (-1, len(self.flows), self.rows)).unbind(1) for t in (x, sigma))
        out = [f.velocity(y.flatten(0, 1), s.flatten()) for f, y, s in zip(self.flows, xs, sigmas, strict=True)]
        return torch.stack([v.unflatten(0, (-1, self.rows)) for v in out], 1).flatten(0, 2)

    def errors(self, x: Tensor, exact: Tensor) -> list[float]:
        """Compute relative distances, one for each flow."""
        gaps, sizes = ((t.unflatten(0, (len(self.flows), self.rows))).flatten(1).norm(dim=1) for t in (x - exact, exact))
        return (gaps / sizes).tolist()


def observed_strong_order(name: str, flow: str, shift: str, *, paths: int = PATHS) -> OrderVerdict:
    """Measure the strong order of a stochastic sampler, by its own refinement along shared Brownian paths.

    Args:
        name: name of the sampler.
        flow: key of `FLOWS`.
        shift: key of `SHIFTS`.
        paths: number of paths.

    Returns:
        The verdict on the declared order, with its Monte-Carlo error.
    """
    method, field = get_sampler(name), _flow(flow)
    x, grid = field.solution(field.noise(range(paths)), 1.0, STRONG[0]), shifted(COARSEST, SHIFTS[shift], *STRONG)
    strong, weak = method.claims.strong_order, method.claims.weak_order
    found = stochastic_orders(field, x, method, grid, strong=strong, weak=weak, refinements=REFINEMENTS, finest=LIMIT)
    return found.strong_order


def observed_weak_order(
    name: str, flow: str, shift: str, *, points: int = POINTS, scrambles: int = SCRAMBLES
) -> tuple[OrderVerdict, list[float], list[float]]:
    """Measure the weak order of a stochastic sampler.

    Args:
        name: name of the sampler.
        flow: key of `FLOWS`; here in one dimension.
        shift: key of `SHIFTS`.
        points: number of points in one Sobol sequence, a power of 2.
        scrambles: number of sequences.

    Returns:
        The verdict on the declared order with its Monte-Carlo error, then the `weak_error` of every grid, and their standard errors.
    """
    method, field = get_sampler(name), _flow(flow, 1)
    declared = method.claims.weak_order
    steps = WEAK_STEPS[max(declared, 1)]
    grids = [shifted(n, SHIFTS[shift], *WEAK) for n in steps]
    found = [weak_error(field, method, g, points=points, scrambles=scrambles, seed=g.steps) for g in grids]
    errors, bars = ([pair[i] for pair in found] for i in (0, 1))
    return order(steps, errors, declared=declared, uncertainty=bars), errors, bars


def weak_error(
    flow: MixtureFlow, sampler: SamplerLike, grid: SigmaGrid, *, points: int = POINTS, scrambles: int = SCRAMBLES, seed: int = 0
) -> tuple[float, float]:
    r"""Measure the error in mean and mean square of a stochastic sampler's result, with its standard error.

    The means are over scrambled Sobol sequences, with one dimension for every number that a run draws and for its start. Their error
    falls nearly like one over the number of points. The exact moments of the mixture under noise are known.

    Args:
        flow: a mixture.
        sampler: stochastic or not.
        grid: the schedule.
        points: number of points in one sequence, a power of 2.
        scrambles: number of independent sequences, for the standard error.
        seed: seed of the scrambling.

    Returns:
        The Euclidean norm of the errors of all means and mean squares, and of their standard errors.

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
    """Noise whose rows are the points of a scrambled Sobol sequence, for means over many runs.

    Args:
        draws: the (step, draw) pairs of a run.
        size: numbers in a row of the state.
        points: number of rows, a power of 2.
        seed: seed of the scrambling.

    Attributes:
        start: standard normal starts, ``(points, size)``, from dimensions of their own.
    """

    def __init__(self, draws: list[tuple[int, int]], size: int, points: int, seed: int) -> None:
        from scipy.stats import norm, qmc  # noqa: PLC0415

        sequence = qmc.Sobol(size * (1 + len(draws)), scramble=True, seed=seed)  # pyright: ignore[reportCallIssue]  # rng= from scipy 1.15 on
        uniform = np.clip(sequence.random(points), 2.0**-64, 1 - 2.0**-53)
        self.start, *self._values = torch.from_numpy(norm.ppf(uniform)).split(size, dim=1)
        self._place = {key: i for i, key in enumerate(draws)}

    def __call__(self, like: Tensor, step: int, draw: int, interval: Interval | None = None) -> Tensor:
        """See `flowsamplers.Noise`."""
        return self._values[self._place[step, draw]].to(like)


def shifted(steps: int, shift: float, start: float, end: float) -> SigmaGrid:
    """Make a grid between any two sigmas with the step ratios of a shifted schedule."""
    way = np.arange(steps + 1) / steps
    way = way / (shift - (shift - 1) * way)
    return SigmaGrid([start, *(start + (end - start) * way[1:-1]), end])


def _draws(flow: MixtureFlow, method: Sampler, grid: SigmaGrid) -> list[tuple[int, int]]:
    """The (step, draw) that a run asks for."""
    draws: dict[tuple[int, int], None] = {}

    def record(like: Tensor, step: int, draw: int, interval: Interval | None = None) -> Tensor:
        draws[step, draw] = None
        return torch.zeros_like(like)

    sample(flow.velocity, torch.zeros(1, flow.dim, dtype=torch.float64), grid, method, seed=record)
    return list(draws)


def _moments(flow: MixtureFlow, sigma: float) -> Tensor:
    """Mean and mean square of every coordinate of the flow's marginal."""
    means, weights = (1 - sigma) * flow.means, flow.weights[:, None]
    squares = means**2 + ((1 - sigma) * flow.stds) ** 2 + sigma**2
    return torch.cat([(weights * means).sum(0), (weights * squares).sum(0)])


@cache
def _flow(name: str, dim: int = 6) -> MixtureFlow:
    return MixtureFlow.random(FLOWS[name], dim)


@cache
def _truth(flow: str, rows: int, start: float, end: float) -> Tensor:
    return _flow(flow).solution(_flow(flow).noise(range(rows)), start, end)
