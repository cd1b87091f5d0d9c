r"""Schemes: samplers as weights, so that a profile gives their errors without model calls.

A *scheme* lists the sigmas of the model calls. It also lists the weights that make each point from the start and the earlier
velocities, $x_{k+1} = \alpha_k x(s_0) + \sum_{j \le k} B_{kj} v_j$. Nearly all samplers have $\alpha_k = 1$. Every sampler that is linear
in its velocities is a scheme. Its errors along the paths of a flow follow from the moments of the `Profile`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flowsamplers.engine import integrate
from flowsamplers.grid import SigmaGrid
from flowsamplers.profiling import Array, Moments, RowVelocity, gaussian_paths
from flowsamplers.registry import get_sampler
from flowsamplers.sampler import Running, SamplerLike, steps_of
from flowsamplers.schedules import flux2, linear, shift

RIDGE = 1e-10
"""Share of the mean squared velocity added to each diagonal entry, against rounding in float64."""
MOST = 32.0
"""The largest `amplification` of a fitted solver: with bfloat16 velocities it leaves an error of an eighth of them at worst."""
PRIOR_NUMBERS = 16
"""Smooth flows stand beside the rows as so many numbers do: they matter for a few small rows, and not for images."""
PRIOR_STDS = (0.05, 0.2, 0.4, 0.7, 1.0, 1.5)
"""Standard deviations of the Gaussian data whose flows these are."""


class Scheme(NamedTuple):
    """The sigmas of a solver's model calls, and the weights of each point; the last row of weights makes the end.

    Without ``starts`` each point has the start once.
    """

    sigmas: tuple[float, ...]
    weights: tuple[Array, ...]
    end: float = 0.0
    starts: tuple[float, ...] = ()


def amplification(scheme: Scheme) -> float:
    r"""The largest $\sum_j |B_{kj}| / |s_{k+1} - s_0|$ of all points: how much larger an error of the velocities can come out.

    It is infinite where two nodes are the same.

    Examples:
        >>> amplification(scheme_of("ab2", linear(4)))
        1.0
    """
    ends_ = (*scheme.sigmas[1:], scheme.end)
    if any(b >= a for a, b in zip(scheme.sigmas, ends_, strict=True)):
        return math.inf
    found = [float(np.abs(b).sum()) / abs(s - scheme.sigmas[0]) for b, s in zip(scheme.weights, ends_, strict=True)]
    return round(max(found), 4)


def scheme_of(sampler: SamplerLike, grid: SigmaGrid) -> Scheme:
    """Convert a sampler on a grid to a scheme: run it with unit vectors in place of its start and velocities.

    Raises:
        ValueError: the sampler is stochastic, adaptive, or not linear in its velocities.

    Examples:
        >>> [w.tolist() for w in scheme_of("ab2", linear(2)).weights]
        [[-0.5], [-0.25, -0.75]]
    """
    method = get_sampler(sampler)
    if method.stochastic or method.adaptive:
        kind = "stochastic" if method.stochastic else "adaptive"
        raise ValueError(f"method={type(method).__name__} is {kind}: nodes are fitted for a sampler with fixed weights")
    calls = 8 * grid.steps + 8
    unit = torch.eye(1, calls + 1, dtype=torch.float64, device="cpu")
    run = Running(integrate(method, unit, steps_of(grid)))
    sigmas, points = list[float](), list[Tensor]()
    while run.request is not None:
        sigmas.append(run.request.sigma)
        points.append(run.request.x[0])
        run.send(unit.roll(len(sigmas), 1))
    points.append(run.result[0])
    if not all(abs(p[0].item() - 1) < 1e-9 for p in points):
        raise ValueError(f"method={type(method).__name__}: its points are not the start plus weighted velocities")
    weights = tuple(p[1 : k + 2].numpy() for k, p in enumerate(points[1:]))
    return Scheme(tuple(sigmas), weights, grid.end)


def rounding_of(moments: Moments, dtype: torch.dtype) -> float:
    """The mean squared error that velocities in a dtype have from rounding, with its eps as their relative error."""
    return torch.finfo(dtype).eps ** 2 * float(np.diag(moments.velocities)[:-1].mean())


def from_start(table: Sequence[Sequence[float]], steps: Sequence[float]) -> Iterator[Array]:
    """The weights from the start that the rows of an `NSSolver` make, one step after the other.

    Examples:
        >>> [b.tolist() for b in from_start([[1.0], [1.5, -0.5]], [-0.5, -0.5])]
        [[-0.5], [-0.25, -0.75]]
    """
    before = np.zeros(0)
    for row, h in zip(table, steps, strict=True):
        newest_first = np.zeros(len(before) + 1)
        newest_first[: len(row)] = row
        before = np.append(before, 0.0) + h * newest_first[::-1]
        yield before


def best_weights(moments: Moments, noise: float = 0.0) -> tuple[tuple[Array, ...], float]:
    r"""Find the best weights for given nodes, and the sum of the squared errors of all steps.

    Each step minimizes $Q - 2 B \cdot P + B \cdot (G + E) B$ with $\sum B$ the step from the start. The errors of earlier steps move the
    solver's points and velocities off the path. $E$ has the squares of these errors on its diagonal. It keeps the weights small. The mean
    squared error of the velocities is added there too.

    Args:
        moments: the moments at the nodes of the solver.
        noise: mean squared error of the velocities, see `rounding_of`.
    """
    s, g = moments.sigmas, moments.velocities[:-1, :-1]
    off = np.full(len(g), RIDGE * np.trace(g) / len(g) + noise)
    found, total, worst = list[Array](), 0.0, 0.0
    for n in range(1, len(s)):
        off[n - 1] += worst
        a, p = g[:n, :n] + np.diag(off[:n]), moments.crossed[n, :n]
        # Differences from the newest velocity take up the constraint.
        b = _constrained(a, p, s[n] - s[0])
        found.append(b)
        left = max(0.0, float(moments.displacements[n, n] - 2 * b @ p + b @ a @ b))
        total, worst = total + left, max(worst, left)
    return tuple(found), total


def squared_error(moments: Moments, scheme: Scheme) -> float:
    """The sum of the squared errors of all points of a scheme along the path, with what earlier ones add, see `best_weights`."""
    total = worst = 0.0
    off = np.zeros(len(scheme.sigmas))
    for n, b in enumerate(scheme.weights, 1):
        off[n - 1] = worst
        a = moments.velocities[:n, :n] + np.diag(off[:n])
        left = max(0.0, float(moments.displacements[n, n] - 2 * b @ moments.crossed[n, :n] + b @ a @ b))
        total, worst = total + left, max(worst, left)
    return total


def _constrained(a: Array, p: Array, total: float) -> Array:
    """The minimum of B a B - 2 B p with sum B = total."""
    both = np.linalg.solve(a, np.stack([p, np.ones_like(p)], 1))
    return both[:, 0] + both[:, 1] * (total - both[:, 0].sum()) / both[:, 1].sum()


def with_prior(moments: Moments) -> Moments:
    """Moments of few numbers with those of smooth flows, so that weights do not follow chance."""
    share = PRIOR_NUMBERS / (PRIOR_NUMBERS + moments.numbers)
    rho, slope = (np.stack(t) for t in zip(*(gaussian_paths(moments.sigmas, c) for c in PRIOR_STDS), strict=True))
    slope[:, -1] = rho[:, 0]  # the start stands behind the velocities
    away = rho - rho[:, :1]
    n = len(PRIOR_STDS)
    return replace(
        moments,
        velocities=(1 - share) * moments.velocities + share / n * slope.T @ slope,
        crossed=(1 - share) * moments.crossed + share / n * away.T @ slope,
        displacements=(1 - share) * moments.displacements + share / n * away.T @ away,
    )


def search(moments: Moments, cost: Callable[[Sequence[int]], float], steps: int) -> list[int]:
    """Indices of the best nodes among those of the profile: coordinate descent with halved strides, from several schedules."""
    starts = [linear(steps), shift(steps, shift=0.5), shift(steps, shift=3), flux2(steps, tokens=4096)]
    found = [_descended(len(moments.sigmas), cost, nearest_nodes(moments.sigmas, grid)) for grid in starts]
    return min(found)[1]


def nearest_nodes(sigmas: Array, grid: SigmaGrid) -> list[int]:
    """Indices of the nodes nearest to those of a schedule, all different and without the end.

    Examples:
        >>> nearest_nodes(np.array([1.0, 0.9, 0.5, 0.1, 0.0]), linear(3))
        [0, 2, 3]
    """
    at = [int(np.argmin(abs(sigmas - sigmas[0] * s))) for s in grid.sigmas[:-1]]
    for i in range(1, len(at)):
        at[i] = max(at[i], at[i - 1] + 1)
    beyond = len(sigmas) - 1
    for i in range(len(at) - 1, 0, -1):
        beyond = at[i] = min(at[i], beyond - 1)
    return at


def _descended(nodes: int, cost: Callable[[Sequence[int]], float], at: list[int]) -> tuple[float, list[int]]:
    last = nodes - 1
    least, stride = cost(at), max(1, nodes // 8)
    while stride:
        moved = False
        for i in range(1, len(at)):
            for by in (-stride, stride):
                if not at[i - 1] < at[i] + by < (at[i + 1] if i + 1 < len(at) else last):
                    continue
                tried = [*at[:i], at[i] + by, *at[i + 1 :]]
                its = cost(tried)
                if its < least * (1 - 1e-6):
                    at, least, moved = tried, its, True
        stride = stride if moved else stride // 2
    return least, at


def run_scheme(
    velocity: RowVelocity, x1: Tensor, rows: slice, scheme: Scheme, known: Sequence[Tensor] = ()
) -> tuple[Tensor, list[Tensor]]:
    """Run a scheme; return its end and its velocities. The first velocities may be given."""
    start = x1[rows].double()
    x, found = start, list(known)
    for k, (sigma, b) in enumerate(zip(scheme.sigmas, scheme.weights, strict=True)):
        if k >= len(found):
            found.append(velocity(x, sigma, rows))
        if k + 1 >= len(found):
            x = sum(
                (w * v for w, v in zip(b.tolist(), found, strict=False)), start * (scheme.starts[k] if scheme.starts else 1)
            )
    return x, found


def first_other(base: Scheme, other: Scheme) -> int:
    """Count the velocities that two schemes have in common."""
    pairs = zip(_points(base), _points(other), strict=False)
    return next((k for k, (a, b) in enumerate(pairs) if a != b), len(base.sigmas))


def _points(scheme: Scheme) -> list[tuple[float, ...]]:
    """All that each velocity depends on, but for those before it."""
    starts = scheme.starts or (1.0,) * len(scheme.sigmas)
    return [
        (s, a, *b) for s, a, b in zip(scheme.sigmas, (1.0, *starts), ([], *(b.tolist() for b in scheme.weights)), strict=False)
    ]
