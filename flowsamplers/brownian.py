r"""A Brownian path that can be evaluated at any time, so that runs with different steps or samplers can share it.

The path is built by bisection over the float64 numbers. A positive float64 read as an integer is monotone in its value, so
repeated bisection of the integers reaches every float. Each bisection draws the path at the middle, given the path at both
ends, which is exact for any split:

$$
W(m) \mid W(a), W(b) \;\sim\; N\Big(W(a) + \tfrac{m - a}{b - a}\,(W(b) - W(a)),\; \tfrac{(m - a)(b - m)}{b - a}\Big).
$$

The first bisections split exponents, the later ones mantissas, so the relative resolution is the same at all times. The normal
numbers of a node come from a generator seeded by the node, so earlier calls change nothing. The path at one time is a weighted sum
of these normal numbers. It needs at most 63 bisections and the memory of two tensors.
"""

from __future__ import annotations

import math
import sys

import numpy as np
import torch
from torch import Tensor

from flowsamplers._devices import sent
from flowsamplers.noise import Interval, Seeds, as_seeds, fold, normal, row_seeds

_LATEST = sys.float_info.max
"""The time that stands for infinity."""


class BrownianNoise:
    r"""Noise from one Brownian path per row: runs with different numbers of steps follow the same path.

    A draw for the interval $(T_0, T_1)$ is $(W(T_1) - W(T_0)) / \sqrt{T_1 - T_0}$. Increments of adjacent intervals add up.
    So runs of one stochastic differential equation follow one path, with any steps and any sampler. The distance of their
    results is a strong error. Each draw index has its own path, unless the interval names one: the draws for parts of one step
    then belong to one path.

    If both ends of an interval are the same float (times beyond the range of floats), the noise depends on the step index instead.

    Args:
        seeds: an int, which gives row i the seed ``fold(seed, i)``; or a list with each row's own seed.

    Examples:
        >>> noise, like = BrownianNoise([5]), torch.zeros(1, 3, dtype=torch.float64)
        >>> whole = noise(like, 0, 0, (0.0, 2.0))
        >>> halves = [noise(like, step, 0, interval) for step, interval in enumerate([(0.0, 1.0), (1.0, 2.0)])]
        >>> torch.allclose(whole * 2**0.5, halves[0] + halves[1])
        True

    Raises:
        ValueError: ``seeds`` is something else, see `flowsamplers.noise.as_seeds`.

    Reference:
        The bridge is Paul Levy's construction (1948); its use for solvers: Li et al., arXiv:2001.01328, and Kidger et al.,
        arXiv:2105.13493.
    """

    def __init__(self, seeds: Seeds) -> None:
        self.seeds = as_seeds(seeds)
        self._latest: dict[tuple[int, float, int, torch.Size], Tensor] = {}

    def __call__(self, like: Tensor, step: int, draw: int, interval: Interval | None = None) -> Tensor:
        """A unit normal tensor like ``like``; see `Noise`.

        Raises:
            ValueError: there is no interval, or its times are below 0.
        """
        if interval is None or not all(t >= 0 for t in interval[:2]):
            raise ValueError(
                f"interval={interval}: a Brownian path is asked for an interval of times (T0, T1), both at least 0"
            )
        if like.device.type == "meta":
            return torch.empty_like(like)
        t0, t1 = (min(float(t), _LATEST) for t in interval[:2])
        path = interval[2] if len(interval) == 3 else draw
        seeds, shape = row_seeds(self.seeds, like.shape[0]), like.shape[1:]
        if t0 == t1:
            rows = [normal(fold(seed, step, draw, 1), shape, torch.float64) for seed in seeds]
        else:
            size = math.sqrt(abs(t1 - t0))
            rows = [(self._path(s, t1, path, shape) - self._path(s, t0, path, shape)) / size for s in seeds]
            self._latest = {key: w for key, w in self._latest.items() if key[1] == t1}
        return sent(torch.stack(rows).to(like.dtype), like.device) if rows else torch.empty_like(like)

    def _path(self, seed: int, time: float, path: int, shape: torch.Size) -> Tensor:
        """W(time) of one row; the latest are kept, because a step starts where the one before it ended."""
        key = (seed, time, path, shape)
        if key not in self._latest:
            self._latest[key] = _path(fold(seed, path), time, shape)
        return self._latest[key]


def _path(seed: int, time: float, shape: torch.Size) -> Tensor:
    """W(time) in float64: the weighted sum of the normal numbers of the nodes above it, one node at a time."""
    generator = torch.Generator("cpu")
    normals = torch.empty(shape, dtype=torch.float32, device="cpu")
    total = torch.zeros(shape, dtype=torch.float64, device="cpu")
    for node, weight in _weights(time):
        generator.manual_seed(fold(seed, node))
        total.add_(normals.normal_(generator=generator), alpha=weight)
    return total


def _weights(time: float) -> list[tuple[int, float]]:
    """The nodes of which W(time) is made, and their weights; those that rounding would lose are left out."""
    target = _bits(time)
    halvings = _halvings(target)
    low, high = np.zeros((2, 1 + len(halvings)))  # the ends of the present interval, as weights of all nodes
    high[0] = math.sqrt(_LATEST)
    for i, (a, m, b) in enumerate(halvings, start=1):
        ta, tm, tb = _time(a), _time(m), _time(b)
        share = (tm - ta) / (tb - ta)
        middle = low + share * (high - low)
        middle[i] = math.sqrt(share * (tb - tm))
        low, high = (middle, high) if m <= target else (low, middle)
    nodes = [_bits(_LATEST), *(m for _, m, _ in halvings)]
    weights = (high if time == _LATEST else low).tolist()
    least = sys.float_info.epsilon / 64 * math.sqrt(time)
    return [(node, weight) for node, weight in zip(nodes, weights, strict=True) if abs(weight) > least]


def _halvings(target: int) -> list[tuple[int, int, int]]:
    """The intervals (low, middle, high) of integers that are halved on the way to ``target``, which is the last middle."""
    low, high, found = _bits(0.0), _bits(_LATEST), list[tuple[int, int, int]]()
    middle = target if target in (low, high) else -1
    while middle != target:
        middle = (low + high) // 2
        found.append((low, middle, high))
        low, high = (middle, high) if middle < target else (low, middle)
    return found


def _bits(time: float) -> int:
    """A float that is not negative as the integer with the same bits; the order is the same."""
    return int(np.float64(abs(time)).view(np.int64))


def _time(bits: int) -> float:
    return float(np.int64(bits).view(np.float64))
