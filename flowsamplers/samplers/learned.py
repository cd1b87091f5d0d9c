r"""Samplers whose coefficients come from a table, fitted to a flow and a schedule, or published.

They need a table, so `list_samplers` omits them by default.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from flowsamplers._accepted import number
from flowsamplers.grid import SigmaGrid
from flowsamplers.registry import get_sampler, register
from flowsamplers.sampler import Evaluate, Sampler, SamplerLike, State, Step, StepGenerator, Tensor
from flowsamplers.samplers.policies import METHOD, LastStep

__all__ = ["NSSolver", "OnItsGrid", "ParallelMidpoints"]

Row: TypeAlias = tuple[float, ...]
Midpoints: TypeAlias = tuple[tuple[float, float], ...]


@register(
    "ns_solver",
    aliases=("bns", "neural_solver"),
    needs="table",
    reference="Bespoke non-stationary solvers, arXiv:2403.01329; differentiable solver search, arXiv:2505.21114",
    advice="For one flow, schedule and number of steps; `fit_ns_solver` computes its table.",
)
@dataclass(frozen=True)
class NSSolver(LastStep):
    r"""A non-stationary solver: a multistep method with weights of its own in every step.

    $$ x_{i+1} = x_i + h_i \sum_{j \ge 0} w_{ij}\,v_{i-j}, \qquad \sum_j w_{ij} = 1 $$

    The weights add to 1, so the solver is exact for a constant velocity. A run that begins in the middle takes Euler steps until it has
    as many velocities as the table's row needs.

    With ``std`` c, the solver is exact for the flow of Gaussian data with this standard deviation and any mean. Each step then also adds
    a multiple of the start,

    $$ \gamma_i = \rho(\sigma_{i+1}) - \rho(\sigma_i) - h_i \sum_j w_{ij}\,\rho'(\sigma_{i-j}), \qquad
    \rho(\sigma) = \sqrt{\sigma^2 + (1 - \sigma)^2 c^2}. $$

    Args:
        last: policy of the last step, see `LastStep`; then the table has no row for it.
        table: the weights of each step, that of the newest velocity first; the row of step i has at most i + 1 weights.
        std: standard deviation of the Gaussian data for which the solver is exact; 0 is a single point, with a constant velocity.

    Raises:
        ValueError: there is no table, a row is too long or does not add to 1, or ``std`` is negative. In a run: the number of
            steps differs. With a ``std``: the schedule does not begin at 1, or the run begins in the middle.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe(NSSolver(table=((1.0,), (1.4, -0.4), (1.5, -0.6, 0.1))), fs.schedules.linear(3))
        3
    """

    table: tuple[Row, ...] = ()
    std: float = 0.0

    multistep: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the table; lists, as JSON has them, become tuples."""
        super().__post_init__()
        self._set(table=_rows("ns_solver", self.table))
        number("std", self.std, 0)
        self._set(affine=not self.std)
        for i, row in enumerate(self.table):
            if not 1 <= len(row) <= i + 1:
                raise ValueError(f"table[{i}]: {len(row)} weights; in step {i} there are 1 to {i + 1} velocities")
            if not abs(math.fsum(row) - 1) <= 1e-9:
                raise ValueError(f"table[{i}]: the weights add to {math.fsum(row)}, not to 1")

    def init(self, x: Tensor) -> State:
        """See `Sampler.init`."""
        return x, ()

    def advance(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """See `Sampler.step`."""
        steps = at.count - (self.last != METHOD)
        if len(self.table) != steps:
            raise ValueError(f"table: {len(self.table)} rows for {steps} steps of its own; it is fitted to one schedule")
        row, memory = self.table[at.index], max(len(r) for r in self.table)
        start, before = state
        if self.std and (at.grid.start != 1 or len(before) < min(at.index, memory)):
            raise ValueError(f"std={self.std}: this solver weighs the noise at sigma 1, so that its runs begin there")
        past = ((yield Evaluate(x, at.s0)), *before)[:memory]
        if len(past) < len(row):
            row = (1.0,)
        if self.std:
            x = x + self._of_start(at, row) * start
        for w, v in zip(row, past, strict=False):
            x = x + (at.h * w) * v
        return x, (start, past)

    def _of_start(self, at: Step, row: Row) -> float:
        """The multiple of the start that a step adds."""
        old, new = (gaussian_path(s, self.std)[0] for s in (at.s0, at.s1))
        seen = at.grid.sigmas[at.index - len(row) + 1 : at.index + 1]
        slopes = (gaussian_path(s, self.std)[1] for s in reversed(seen))
        return new - old - at.h * math.fsum(w * r for w, r in zip(row, slopes, strict=True))


@register(
    "epd",
    aliases=("parallel_midpoint",),
    needs="table",
    reference="Ensemble parallel direction solver, arXiv:2507.14797; AMED-Solver, arXiv:2312.00094",
    advice="For published tables or your own nodes. After the first call of a step, the others can run in parallel.",
)
@dataclass(frozen=True)
class ParallelMidpoints(LastStep):
    r"""A weighted mean of velocities at several midpoints, each reached from the start of the step by Euler's method.

    $$ x' = x + h \sum_k w_k\, v(x + c_k h\,v,\; \sigma + c_k h), \qquad \sum_k w_k = 1, \quad v = v(x, \sigma) $$

    The order is 2 if $\sum_k w_k c_k = \frac12$ in every step, and 1 otherwise. One midpoint at 1/2 is `Midpoint`. AMED has one
    midpoint, given by a table.

    Args:
        last: policy of the last step, see `LastStep`.
        table: for each step its midpoints $(c_k, w_k)$; or a single row of them for all steps.

    Raises:
        ValueError: there is no table, a node is outside [0, 1], or weights do not add to 1. In a run: the schedule has another number of
            steps.

    Examples:
        >>> import flowsamplers as fs
        >>> gauss = ((0.5 - 3**-0.5 / 2, 0.5), (0.5 + 3**-0.5 / 2, 0.5))
        >>> fs.nfe(ParallelMidpoints(table=(gauss,)), fs.schedules.linear(4)), ParallelMidpoints(table=(gauss,)).order
        (12, 2)
    """

    table: tuple[Midpoints, ...] = ()

    def __post_init__(self) -> None:
        """Check the table; state its order."""
        self._set(table=_rows("epd", self.table))
        for i, row in enumerate(self.table):
            if not all(0 <= c <= 1 for c, _ in row):
                raise ValueError(f"table[{i}]: the nodes of midpoints lie between 0 and 1, got {[c for c, _ in row]}")
            if not abs(math.fsum(w for _, w in row) - 1) <= 1e-9:
                raise ValueError(f"table[{i}]: the weights add to {math.fsum(w for _, w in row)}, not to 1")
        second = all(abs(math.fsum(c * w for c, w in row) - 0.5) <= 1e-12 for row in self.table)
        self._set(order=2 if second else 1)
        super().__post_init__()

    def advance(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """See `Sampler.step`."""
        steps = at.count - (self.last != METHOD)
        if len(self.table) not in (1, steps):
            raise ValueError(f"table: {len(self.table)} rows for {steps} steps of its own; one for each, or one for all")
        v = yield Evaluate(x, at.s0)
        end = x
        for c, w in self.table[at.index if len(self.table) > 1 else 0]:
            node = at.s1 if c == 1 else at.s0 + c * at.h
            end = end + (at.h * w) * (yield Evaluate(x + (c * at.h) * v, node))
        return end, state


def gaussian_path(sigma: float, std: float) -> tuple[float, float]:
    r"""Compute the path that begins at 1, for Gaussian data of mean 0, and its slope in sigma.

    Examples:
        >>> gaussian_path(1.0, 0.5), gaussian_path(0.5, 0.0), gaussian_path(0.0, 0.5)
        ((1.0, 1.0), (0.5, 1.0), (0.5, -0.5))
    """
    rho = math.hypot(sigma, (1 - sigma) * std)
    return rho, (sigma - (1 - sigma) * std**2) / rho if rho else 1.0


def _rows(name: str, table: Sequence[Any]) -> tuple[Any, ...]:
    """Lists of lists as tuples of tuples."""
    if len(table) == 0:
        raise ValueError(f"table=(): {name} is made by its table, a row for each step; see `fit_ns_solver` for one")
    return tuple(tuple(tuple(e) if isinstance(e, list | tuple) else float(e) for e in row) for row in table)


@register(
    "fitted",
    needs="sigmas",
    reference="Bespoke non-stationary solvers, arXiv:2403.01329; GITS, arXiv:2405.11326",
    advice="A fitted solver from `flowsamplers fit`, with its own schedule.",
)
@dataclass(frozen=True)
class OnItsGrid(Sampler):
    """A sampler together with the schedule that it was fitted to; it refuses any other schedule.

    Args:
        method: the sampler.
        sigmas: its schedule.
        shape: shape of the rows that it was fitted to; empty if unknown.

    Raises:
        ValueError: there is no schedule. In a run: the schedule is another one.

    Examples:
        >>> import flowsamplers as fs
        >>> ours = OnItsGrid("ab2", (1.0, 0.6, 0.2, 0.0))
        >>> fs.nfe(ours, ours.own_grid)
        3
    """

    method: SamplerLike = "euler"
    sigmas: tuple[float, ...] = ()
    shape: tuple[int, ...] = ()

    multistep: ClassVar[bool] = True
    affine: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the schedule; lists, as JSON has them, become tuples."""
        if len(self.sigmas) == 0:
            raise ValueError("sigmas=(): fitted is made by its schedule; see `fit` and `load_solver` for one")
        self._set(method=get_sampler(self.method), sigmas=SigmaGrid(self.sigmas).sigmas, shape=tuple(self.shape))

    @property
    def own_grid(self) -> SigmaGrid:
        """See `Sampler.own_grid`."""
        return SigmaGrid(self.sigmas)

    def init(self, x: Tensor) -> State:
        """See `Sampler.init`."""
        return get_sampler(self.method).init(x)

    def resume(self, velocity: Tensor) -> State:
        """See `Sampler.resume`."""
        return get_sampler(self.method).resume(velocity)

    def translate(self, state: State, by: Tensor) -> State:
        """See `Sampler.translate`."""
        return get_sampler(self.method).translate(state, by)

    def step(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """See `Sampler.step`."""
        far = len(at.grid.sigmas) != len(self.sigmas)
        if far or any(abs(a - b) > 2.0**-20 for a, b in zip(at.grid.sigmas, self.sigmas, strict=True)):
            raise ValueError(
                f"grid of {at.grid.steps} steps from {at.grid.start:g}: this sampler was fitted to a schedule of its own, of "
                f"{len(self.sigmas) - 1} steps from {self.sigmas[0]:g}; run it on its own_grid"
            )
        return (yield from get_sampler(self.method).step(x, at, state))
