r"""A Brownian path that can be asked at any time, so that runs with different steps, and different samplers, share it.

The path is a bridge over the binary digits of the time: a positive float64 read as an integer is monotone in its value, so halving the
interval of integers again and again ends at every float there is. Each halving draws the path at its middle, given the path
at its two ends, which is exact for any split:

$$
W(m) \mid W(a), W(b) \;\sim\; N\Big(W(a) + \tfrac{m - a}{b - a}\,(W(b) - W(a)),\; \tfrac{(m - a)(b - m)}{b - a}\Big).
$$

The first halvings split exponents, the later ones mantissas, so times of any magnitude are resolved alike. The normals come
from a counter-based generator whose counter is the node of the tree: nothing depends on what was asked before.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from flowsamplers.noise import Clock, Seeds, row_seeds

Array: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
_LATEST = sys.float_info.max
"""The time that stands for infinity."""


class BrownianNoise:
    r"""Noise keyed by time: the increments of one Brownian path for each (seed of the row, path), divided by their size.

    A step that draws for the interval $(T_0, T_1)$ of its clock gets $(W(T_1) - W(T_0)) / \sqrt{T_1 - T_0}$. Increments add up,
    whatever the steps; so runs of one stochastic differential equation with different numbers of steps, or by different samplers,
    follow one path, and their distance is their strong error. The path is the draw's number unless the clock names another:
    draws for parts of one step are parts of one path.

    Where both ends of an interval are the same float (a clock beyond the range of floats), the noise is keyed by the step instead.

    Args:
        seeds: an int, which gives row i the seed ``fold(seed, i)``; or a list with each row's own seed.

    Examples:
        >>> noise, like = BrownianNoise([5]), torch.zeros(1, 3, dtype=torch.float64)
        >>> whole = noise(like, 0, 0, (0.0, 2.0))
        >>> halves = [noise(like, step, 0, clock) for step, clock in enumerate([(0.0, 1.0), (1.0, 2.0)])]
        >>> torch.allclose(whole * 2**0.5, halves[0] + halves[1])
        True

    Reference:
        The bridge is Paul Levy's construction (1948); its use for solvers: Li et al., arXiv:2001.01328, and Kidger et al.,
        arXiv:2105.13493. The generator is Philox 4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011.
    """

    def __init__(self, seeds: Seeds) -> None:
        self.seeds = seeds
        self._latest: tuple[object, Array] | None = None

    def __call__(self, like: Tensor, step: int, draw: int, clock: Clock | None = None) -> Tensor:
        """A unit normal tensor like ``like``; see `Noise`.

        Raises:
            ValueError: no clock, or one whose times are not at least 0.
        """
        if clock is None or not all(t >= 0 for t in clock[:2]):
            raise ValueError(f"clock={clock}: a Brownian path is asked for an interval of times (T0, T1), both at least 0")
        if like.device.type == "meta":
            return torch.empty_like(like)
        t0, t1 = (min(float(t), _LATEST) for t in clock[:2])
        path = clock[2] if len(clock) == 3 else draw
        seeds, size = row_seeds(self.seeds, like.shape[0]), math.prod(like.shape[1:])
        if t0 == t1:
            values = _normals(seeds, [step], draw, size, stream=1)[0]
        else:
            start = self._path(seeds, t0, path, size)
            values = (self._path(seeds, t1, path, size) - start) / math.sqrt(abs(t1 - t0))
        return torch.from_numpy(values).reshape(like.shape).to(like.device, like.dtype)

    def _path(self, seeds: Sequence[int], time: float, path: int, size: int) -> Array:
        """W(time); the latest is kept, because a step starts where the one before it ended."""
        key = (tuple(seeds), time, path, size)
        latest = self._latest
        if latest is not None and latest[0] == key:
            return latest[1]
        found = _path(seeds, time, path, size)
        self._latest = key, found
        return found


def _path(seeds: Sequence[int], time: float, draw: int, size: int) -> Array:
    """W(time), ``(rows, size)``."""
    nodes = _halvings(_bits(time))
    last, *z = _normals(seeds, [_bits(_LATEST), *(middle for _, middle, _ in nodes)], draw, size)
    at = {_bits(0.0): np.zeros_like(last), _bits(_LATEST): math.sqrt(_LATEST) * last}
    for (low, middle, high), normal in zip(nodes, z, strict=True):
        a, m, b = (_time(i) for i in (low, middle, high))
        share = (m - a) / (b - a)
        at[middle] = at[low] + share * (at[high] - at[low]) + math.sqrt(share * (b - m)) * normal
    return at[_bits(time)]


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


def _normals(seeds: Sequence[int], nodes: Sequence[int], draw: int, size: int, *, stream: int = 0) -> Array:
    """Unit normals ``(nodes, rows, size)``, each a function of its seed, node, draw, stream and place alone."""
    key = np.array([s % 2**64 for s in seeds], np.uint64)[None, :, None]
    node = np.array(nodes, np.uint64)[:, None, None]
    pair = np.arange((size + 1) // 2, dtype=np.uint64)
    a, b, c, d = philox(_halves(key), (*_halves(node), pair, np.uint64(2 * draw + stream)))
    radius = np.sqrt(-2 * np.log1p(-_unit(a, b)))  # Box and Muller: two uniforms make two normals
    angle = 2 * np.pi * _unit(c, d)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1).reshape(len(nodes), len(seeds), -1)[..., :size]


Words: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.uint64]]
"""32-bit words, each in a 64-bit integer, so that a product of two is exact."""
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)


def philox(key: Sequence[Words], counter: Sequence[Words | np.uint64]) -> tuple[Words, Words, Words, Words]:
    """Philox 4x32 with ten rounds: four words from a counter of four and a key of two, broadcast against each other."""
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(10):
        p0, p1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ k0, p1 & _LOW, (p0 >> _32) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return c0, c1, c2, c3  # pyright: ignore[reportReturnType]


def _halves(words: Words) -> tuple[Words, Words]:
    return words & _LOW, words >> _32


def _unit(high: Words, low: Words) -> Array:
    """A uniform number in [0, 1) of 53 bits."""
    return ((high << np.uint64(21)) ^ (low >> np.uint64(11))).astype(np.float64) * 2.0**-53
