r"""Compute the exact mean and variance of a stochastic sampler's result on Gaussian data, without Monte Carlo.

On a linear velocity field a sampler is an affine map of its start and its draws: $x_0 = c + a x_1 + \sum_j b_j \xi_j$. A first run
lists the draws. A second run, whose rows each set one draw to 1, gives every coefficient. The variance is
$a^2 \mathrm{Var}(x_1) + \sum_j b_j^2$.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flowsamplers.engine import Velocity, sample
from flowsamplers.flows import GaussianFlow
from flowsamplers.grid import SigmaGrid
from flowsamplers.noise import Interval
from flowsamplers.registry import get_sampler
from flowsamplers.sampler import SamplerLike


@dataclass(frozen=True)
class Moments:
    """Mean and variance of one number.

    Attributes:
        mean: the mean.
        variance: the variance.
    """

    mean: float
    variance: float


class Impulses:
    """Noise for the second run: in row j the j-th draw is 1 and all others are 0."""

    def __init__(self) -> None:
        self._places: dict[tuple[int, int], int] = {}

    @property
    def draws(self) -> list[tuple[int, int]]:
        """The requested (step, draw) pairs, in order."""
        return list(self._places)

    def __call__(self, like: Tensor, step: int, draw: int, interval: Interval | None = None) -> Tensor:
        """See `flowsamplers.Noise`."""
        out = torch.zeros_like(like)
        place = self._places.setdefault((step, draw), len(self._places))
        if place < len(out):
            out[place] = 1
        return out


def exact_moments(sampler: SamplerLike, velocity: Velocity, grid: SigmaGrid, start: Moments) -> Moments:
    """Compute mean and variance of a sampler's result on an affine velocity field in one dimension, exact to rounding.

    Args:
        sampler: stochastic or not; its steps must not depend on the data.
        velocity: velocity field, affine in x, on ``(rows, 1)``.
        grid: the schedule.
        start: mean and variance of the normal start.

    Examples:
        >>> flow = GaussianFlow([0.0], std=0.5)
        >>> found = exact_moments("lcm", flow.velocity, SigmaGrid([1.0, 0.5, 0.0]), Moments(0.0, 1.0))
        >>> found.mean, round(found.variance, 3)  # 0.25 would be right
        (0.0, 0.04)
    """
    method = get_sampler(sampler)
    noise = Impulses()
    still = torch.full((1, 1), start.mean, dtype=torch.float64)
    sample(velocity, still + 0, grid, method, seed=noise)
    count = len(noise.draws)
    x = still.repeat(count + 2, 1)
    x[-1] += math.sqrt(start.variance)  # rows: one for each draw, the mean, and one standard deviation of the start
    out = sample(velocity, x, grid, method, seed=noise).ravel()
    mean = out[count]
    variance = (out - mean).square().sum()
    return Moments(mean.item(), variance.item())


def noise_level_error(sampler: SamplerLike, grid: SigmaGrid, point: float = 1.5) -> float:
    r"""Measure how far a sampler is from invariant I1: for data at one point m, mean $(1 - \sigma')m$ and variance $\sigma'^2$.

    Args:
        sampler: a sampler whose steps do not depend on the data.
        grid: a schedule that ends above sigma 0, so that there is a variance.
        point: the data point m.

    Returns:
        The larger of the relative errors of the two.

    Examples:
        >>> noise_level_error("euler_sde", SigmaGrid([1.0, 0.6, 0.2])) < 1e-14
        True
    """

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        return (x - point) / sigma[:, None]

    s0, s1 = grid.start, grid.end
    found = exact_moments(sampler, velocity, grid, Moments((1 - s0) * point, s0**2))
    return max(abs(found.mean / ((1 - s1) * point) - 1), abs(found.variance / s1**2 - 1))


def variance_ratio(sampler: SamplerLike, grid: SigmaGrid, std: float = 0.5) -> float:
    r"""Compute the variance of the result divided by the true one, for data $N(0, c^2)$. Invariant I2: it tends to 1.

    Args:
        sampler: a sampler whose steps do not depend on the data.
        grid: the schedule.
        std: standard deviation c of the data.

    Examples:
        >>> from flowsamplers.schedules import shift
        >>> round(variance_ratio("euler_sde", shift(50, shift=3.0)), 2)
        0.78
    """
    true = [(1 - s) ** 2 * std**2 + s**2 for s in (grid.start, grid.end)]
    return exact_moments(sampler, GaussianFlow([0.0], std=std).velocity, grid, Moments(0.0, true[0])).variance / true[1]
