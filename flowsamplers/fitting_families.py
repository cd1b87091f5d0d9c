"""Families of solvers to fit: free nodes and weights, or free nodes for a sampler of the catalogue."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from flowsamplers.engine import largest_steps
from flowsamplers.grid import SigmaGrid
from flowsamplers.profiling import Array, Moments, gaussian_paths
from flowsamplers.registry import get_sampler
from flowsamplers.sampler import SamplerLike
from flowsamplers.samplers.learned import NSSolver
from flowsamplers.schedules import flux2, linear, shift
from flowsamplers.scheme import (
    MOST,
    RIDGE,
    Scheme,
    amplification,
    best_weights,
    nearest_nodes,
    rounding_of,
    scheme_of,
    search,
    squared_error,
    with_prior,
)

LARGEST = 160
"""Most parameters that are polished; of solvers with more the older weights stay."""
SHIFTS = (0.35, 0.5, 2.0)
"""Shifts of the known schedules with which fitted nodes are compared."""
BEGIN = (0.35, 0.6, 1.0, 2.0)
"""Shifts of the schedules on which polishing begins, beside the best nodes along the paths."""


@dataclass(frozen=True, eq=False)
class Learned:
    """Solvers with nodes and weights of their own: the parameters are logarithms of the step lengths, the weights, and ``std`` if not 0.

    Attributes:
        steps: calls.
        moments: of the rows that fit.
        std: of Gaussian data, where the parameter begins; 0 leaves it there. See `NSSolver`.
        dtype: of the model; rounding to it counts as an error of its velocities.
        most: parameters that are polished.
    """

    steps: int
    moments: Moments
    std: float = 0.0
    dtype: torch.dtype = torch.float64
    most: int = LARGEST
    anchored = True
    """Polishing is held to where it begins: there are about as many parameters as rows can tell."""

    @cached_property
    def noise(self) -> float:
        """The mean squared error that rounding leaves in the velocities."""
        return rounding_of(self.moments, self.dtype)

    def starts(self) -> list[Array]:
        """The best nodes of the profile and known schedules, each with the best weights along the paths."""
        sigmas = self.moments.sigmas
        known = [[*nearest_nodes(sigmas, shift(self.steps, shift=s)), len(sigmas) - 1] for s in BEGIN]
        return [self._start(nodes) for nodes in (self.nodes, *known)]

    def _start(self, nodes: Sequence[int]) -> Array:
        """Some nodes with the best weights for them: those of noisier velocities where they amplify too much."""
        picked, noise = self.usable.pick(nodes), self.noise
        std = [np.array([self.std])] if self.std else []
        while True:  # the noisier, the nearer are the weights to equal ones, which amplify nothing
            weights = best_weights(picked, noise)[0]
            start = np.concatenate([np.log(-np.diff(picked.sigmas)), *(b[:-1] for b in weights), *std])
            if amplification(self.scheme(start)) <= MOST:
                return start
            noise = 10 * noise or RIDGE

    @cached_property
    def usable(self) -> Moments:
        """The moments with those of smooth flows, beyond the flow for which the solvers are exact."""
        moments = with_prior(self.moments)
        return moments.beyond(self.std) if self.std else moments

    @cached_property
    def nodes(self) -> list[int]:
        """Indices of the best nodes of the profile, the end among them."""
        last = len(self.moments.sigmas) - 1
        return [*search(self.usable, lambda at: best_weights(self.usable.pick([*at, last]), self.noise)[1], self.steps), last]

    @property
    def unit(self) -> Array:
        """The natural size of a change of each parameter."""
        return np.concatenate(
            [np.ones(self.steps), np.full(self.steps * (self.steps - 1) // 2, 0.1), *[np.ones(1)] * bool(self.std)]
        )

    @property
    def free(self) -> list[int]:
        """Indices of the parameters that are polished: the steps but one, whose sum is known, and the weights of the last velocities."""
        n = self.steps
        memory = next((m for m in range(n, 0, -1) if n + sum(min(k, m) for k in range(n)) <= self.most), 0)
        weights = [j >= k - memory for k in range(n) for j in range(k)]
        return [i for i, chosen in enumerate([True] * (n - 1) + [False] + weights + [True] * bool(self.std)) if chosen]

    def scheme(self, theta: Array) -> Scheme:
        """The scheme of some parameters; the newest weight of each row makes the sum right."""
        sigmas = _nodes(theta[: self.steps], self.moments.sigmas[0])
        rows, at = list[Array](), self.steps
        for k, end in enumerate((*sigmas[1:], 0.0)):
            others = theta[at : at + k]
            rows.append(np.append(others, end - sigmas[0] - others.sum()))
            at += k
        if not self.std:
            return Scheme(sigmas, tuple(rows))
        rho, slope = gaussian_paths(np.array([*sigmas, 0.0]), abs(theta[-1]))
        starts = tuple(float(rho[k] - b @ slope[:k]) for k, b in enumerate(rows, 1))
        return Scheme(sigmas, tuple(rows), starts=starts)

    def solver(self, theta: Array) -> tuple[SigmaGrid, NSSolver]:
        """Convert parameters to a schedule and a sampler."""
        scheme = self.scheme(theta)
        grid = SigmaGrid([*scheme.sigmas, scheme.end])
        before, table = np.zeros(0), list[tuple[float, ...]]()
        for b, h in zip(scheme.weights, grid.dt, strict=True):
            newest_first = ((b - np.append(before, 0.0)) / h)[::-1].tolist()
            table.append((1 - math.fsum(newest_first[1:]), *newest_first[1:]))
            before = b
        return grid, NSSolver(table=tuple(table), std=float(abs(theta[-1])) if self.std else 0.0)


@dataclass(frozen=True, eq=False)
class OfMethod:
    """A sampler of the catalogue with nodes of its own."""

    calls: int
    moments: Moments
    method: SamplerLike
    tokens: int = 4096
    anchored = False

    @property
    def steps(self) -> int:
        """Number of steps that fit into the calls."""
        steps = largest_steps(self.method, self.calls, linear)
        if not steps:
            raise ValueError(f"nfe={self.calls}: not one step of method={self.method!r} fits")
        return steps

    @property
    def known(self) -> list[Array]:
        """Schedules that need no fit."""
        n = self.steps
        grids = [linear(n), flux2(n, tokens=self.tokens), *(shift(n, shift=s) for s in SHIFTS)]
        return [np.log(-np.diff(grid.sigmas)) for grid in grids]

    def starts(self) -> list[Array]:
        """The best nodes of the profile, and schedules that are known."""
        moments, n = self.moments, self.steps
        last = len(moments.sigmas) - 1

        def cost(at: Sequence[int]) -> float:
            scheme = scheme_of(self.method, SigmaGrid(moments.sigmas[[*at, last]]))
            return squared_error(moments.at((*scheme.sigmas, 0.0)), scheme)

        if n >= last:
            return self.known
        return [np.log(-np.diff(moments.sigmas[[*search(moments, cost, n), last]])), *self.known]

    @property
    def unit(self) -> Array:
        """See `Learned.unit`."""
        return np.ones(self.steps)

    @property
    def free(self) -> list[int]:
        """See `Learned.free`."""
        return list(range(self.steps - 1))

    def scheme(self, theta: Array) -> Scheme:
        """See `Learned.scheme`."""
        return scheme_of(self.method, self.solver(theta)[0])

    def solver(self, theta: Array) -> tuple[SigmaGrid, Any]:
        """See `Learned.solver`."""
        return SigmaGrid([*_nodes(theta, self.moments.sigmas[0]), 0.0]), get_sampler(self.method)


def _nodes(log_steps: Array, start: float) -> tuple[float, ...]:
    parts = np.exp(log_steps - log_steps.max())
    return (float(start), *(float(start * (1 - c)) for c in np.cumsum(parts)[:-1] / parts.sum()))
