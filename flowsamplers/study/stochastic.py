"""Orders of stochastic samplers: strong, of the path that one noise drives, and weak, of what is true on average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flowsamplers.brownian import BrownianNoise
from flowsamplers.grid import SigmaGrid
from flowsamplers.lockstep import Flow, Run, sample_many
from flowsamplers.noise import Clock, Noise
from flowsamplers.orders import OrderVerdict, order
from flowsamplers.registry import get_sampler
from flowsamplers.sampler import SamplerLike


@dataclass(frozen=True)
class StochasticOrders:
    """How a stochastic sampler converges as its steps are cut.

    Attributes:
        steps: numbers of steps.
        strong: mean distance to the finest path from the same noise, relative to the size of its end.
        strong_uncertainty: standard errors of these.
        weak: largest difference of a mean or a mean square of a coordinate from the finest one's, relative likewise.
        weak_uncertainty: standard errors of these.
        strong_order: the verdict.
        weak_order: the verdict.
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
    r"""Measure both orders of a stochastic sampler by its own refinement, along shared Brownian paths.

    Every interval of a grid is cut into 1, 2, 4, ... equal parts, and one path of `BrownianNoise` drives all of them, so that differences
    between step counts have little variance. A point whose standard error is more than a third of its error is not used.
    The strong error is the mean of the distance and not of its square, which a few paths that part from each other would rule.

    Args:
        flow: a velocity field.
        x1: starts, ``(rows, ...)``; the more the surer.
        sampler: a stochastic sampler.
        grid: the coarsest schedule.
        strong: the strong order that the method claims.
        weak: the weak order that it claims.
        refinements: into how many parts its intervals are cut.
        finest: for the run that stands for the limit.
        seed: of the paths.
        max_batch: rows in one model call.

    Raises:
        ValueError: a sampler that is not stochastic, or refinements as fine as the finest.

    Reference:
        Kloeden and Platen, Numerical Solution of Stochastic Differential Equations (1992), sections 9.6 and 9.7.
    """
    method = get_sampler(sampler)
    if not method.stochastic:
        raise ValueError(f"sampler={type(method).__name__} is not stochastic: its order is that of a study")
    if any(n >= finest for n in refinements):
        raise ValueError(f"refinements={tuple(refinements)}: each must be smaller than finest={finest}")
    runs = [Run(x1, grid.refined(n), method, seeds=_one_path(seed)) for n in (*refinements, finest)]
    *outs, limit = (out.double().flatten(1) for out in sample_many(flow, runs, max_batch=max_batch))
    size = limit.square().mean().sqrt()
    paths = [_mean_distance((out - limit) / size) for out in outs]
    means = [_mean_difference(out / size, limit / size) for out in outs]
    steps = [n * grid.steps for n in refinements]
    return StochasticOrders(
        tuple(steps),
        *(tuple(e for e, _ in paths), tuple(u for _, u in paths)),
        *(tuple(e for e, _ in means), tuple(u for _, u in means)),
        order(steps, [e for e, _ in paths], declared=strong, uncertainty=[u for _, u in paths]),
        order(steps, [e for e, _ in means], declared=weak, uncertainty=[u for _, u in means]),
    )


def _one_path(seed: int) -> Noise:
    """All rows as one row of a path: their entries are as independent, and the path is looked up once instead of once a row."""
    path = BrownianNoise([seed])

    def noise(like: Tensor, step: int, draw: int, clock: Clock | None = None) -> Tensor:
        return path(like[None], step, draw, clock)[0]

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
