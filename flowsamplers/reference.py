"""A trusted solution and its own error.

An error can be measured only against something better than what is measured. The reference is made with a method that no
sampler here has (Dormand and Prince's, of order eight), on grids of its own, at growing resolution, with the state in float64;
then a method of another family (Gragg's extrapolation, of order ten) is asked whether it comes to the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.integrate import DOP853
from scipy.interpolate import KroghInterpolator
from torch import Tensor

from flowsamplers.engine import StepEnd, Work, whole
from flowsamplers.grid import SigmaGrid
from flowsamplers.lockstep import Flow, Task, advance
from flowsamplers.sampler import Evaluate, Running, Sampler, State, Step, StepGenerator, steps_of
from flowsamplers.samplers.runge_kutta import ButcherTableau, RungeKutta

BEST = 1e-12
"""No error smaller than this is claimed: rounding over a whole run, and what independent solvers agree to, in float64."""


ROUNDINGS = 32
"""How many eps of the model's dtype a solution may be off: covered 1,199 of 1,200 fresh rows of random mixtures in float32."""


@dataclass(frozen=True)
class Path:
    """What a reference passes on its way, for errors along a trajectory.

    Attributes:
        sigmas: nodes of the finest run, ``(steps + 1,)``, falling from 1 to 0.
        states: the solution there, ``(steps + 1, ...)``, in float64.
        velocities: the velocity at all but the last, ``(steps, ...)``.
    """

    sigmas: tuple[float, ...]
    states: Tensor
    velocities: Tensor

    def __call__(self, sigma: float) -> Tensor:
        r"""The solution anywhere: the polynomial through states and velocities at the four nearest nodes, $O(h^8)$.

        Args:
            sigma: in [0, 1].

        Returns:
            ``(1, ...)``, in float64.
        """
        if sigma in self.sigmas:
            return self.states[self.sigmas.index(sigma)][None]
        right = int(np.searchsorted(-np.asarray(self.sigmas), -sigma))
        lo = min(max(right - 2, 0), max(len(self.sigmas) - 4, 0))
        nodes = range(lo, min(lo + 4, len(self.sigmas)))
        inner = [i for i in nodes if i < len(self.velocities)]
        at = [s for i in nodes for s in [self.sigmas[i]] * (1 + (i in inner))]
        values = [t[i] for i in nodes for t in ([self.states, self.velocities] if i in inner else [self.states])]
        flat = torch.stack(values).flatten(1).cpu().numpy()
        found = torch.from_numpy(np.asarray(KroghInterpolator(at, flat)(sigma)))
        return found.reshape(1, *self.states.shape[1:]).to(self.states)


@dataclass(frozen=True)
class Reference:
    """The solution of a flow at ``sigma = 0``, and how far it can be trusted.

    Attributes:
        x0: the solution, like the start, ``(rows, ...)``, in float64.
        error: estimated relative error of each row, ``(rows,)``: the largest of the distance between the two finest resolutions,
            the distance to the other method's solution, and the rounding of the model's dtype.
        steps: steps of the finest run.
        evaluations: evaluations of each row that it all took.
        path: of the row that was to be followed.
        method: what was used, in words.
    """

    x0: Tensor
    error: Tensor
    steps: int
    evaluations: int
    path: Path | None = field(default=None, repr=False)
    method: str = "Dormand-Prince 8, cosine grid, two resolutions; Gragg extrapolation 10 as a cross-check"


class DormandPrince8(RungeKutta):
    """The eighth-order method of Dormand and Prince, with scipy's coefficients; 12 evaluations a step.

    Reference:
        Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, II.5 (DOP853).
    """

    order: ClassVar[int] = 8
    tableau: ClassVar[ButcherTableau] = ButcherTableau(
        a=tuple(tuple(float(x) for x in row[:i]) for i, row in enumerate(DOP853.A)),
        b=tuple(float(x) for x in DOP853.B),
        order=8,
    )


class GraggExtrapolation(Sampler):
    r"""Gragg's modified midpoint rule with 2, 4, 6, 8 and 10 substeps, extrapolated to none: order ten, 26 evaluations a step.

    The rule's error has an expansion in $h^2$ when the number of substeps is even, so that each column of

    $$
    T_{j,k} = T_{j,k-1} + \frac{T_{j,k-1} - T_{j-1,k-1}}{(n_j / n_{j-k})^2 - 1}
    $$

    gains two orders.

    Reference:
        Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, II.9.
    """

    order: ClassVar[int] = 10
    substeps: ClassVar[tuple[int, ...]] = (2, 4, 6, 8, 10)
    evaluations: ClassVar[int] = 1 + sum(n - 1 for n in substeps)

    def step(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """See `Sampler.step`."""
        k = yield Evaluate(x, at.s0)
        above: list[Tensor] = []
        for j, n in enumerate(self.substeps):
            h = at.h / n
            before, now = x, x + h * k
            for i in range(1, n):
                v = yield Evaluate(now, at.s0 + i * h)
                before, now = now, before + 2 * h * v
            row = [now]
            for c, coarser in enumerate(above):
                row.append(row[c] + (row[c] - coarser) / ((n / self.substeps[j - c - 1]) ** 2 - 1))
            above = row
        return above[-1], state


def solve(
    flow: Flow,
    x1: Tensor,
    *,
    condition: Sequence[Any] | None = None,
    tol: float | None = None,
    max_evaluations: int = 3200,
    max_batch: int = 64,
    on_call: Callable[[int], None] | None = None,
    follow: int | None = None,
) -> Reference:
    r"""Solve a flow from ``sigma = 1`` to 0, as well as its dtype allows.

    The number of steps doubles from 4 until two resolutions differ by at most ``tol`` in every row, until doubling no longer
    brings them nearer (the rounding of the model is reached), or until the next run would exceed the budget. Then Gragg's
    extrapolation, with half the steps, is a second opinion. The grid,
    $\sigma = \tfrac12 (1 + \cos \pi u)$, is dense at both ends, where flows stiffen.

    Args:
        flow: a velocity field.
        x1: starts at ``sigma = 1``, ``(rows, ...)``; its dtype is what the model sees.
        condition: one entry for each row, or None.
        tol: relative distance that is good enough; by default the rounding floor, 32 eps of the dtype and not below `BEST`.
        max_evaluations: budget of evaluations for each row.
        max_batch: rows in one model call.
        on_call: told the number of rows after every model call.
        follow: index of a row whose `Path` is kept.

    Returns:
        The `Reference`.

    Raises:
        ValueError: a budget too small for two resolutions and the cross-check, no such row to follow, or not one condition a row.
        FloatingPointError: the solution is not finite.

    Examples:
        >>> from flowsamplers.flows import GaussianFlow
        >>> flow = GaussianFlow([1.0, -1.0], std=0.5)
        >>> ref = solve(flow, flow.noise([0, 1]))
        >>> bool(((ref.x0 - flow.solution(flow.noise([0, 1]))).norm(dim=1) / ref.x0.norm(dim=1) <= ref.error).all())
        True
    """
    stages, cross, steps = DormandPrince8.tableau.stages, GraggExtrapolation.evaluations, 4
    least = 3 * steps * stages + steps * cross
    if max_evaluations < least:
        raise ValueError(f"max_evaluations={max_evaluations}: two resolutions need at least {least}, with their cross-check")
    if condition is not None and len(condition) != len(x1):
        raise ValueError(f"condition: {len(condition)} entries for {len(x1)} rows; give one for each")
    if follow is not None and not 0 <= follow < len(x1):
        raise ValueError(f"follow={follow}: there are {len(x1)} rows")
    record = None if follow is None else _Record(follow)
    run = partial(_solution, flow, x1, condition, max_batch=max_batch, on_call=on_call)
    coarse, gap = run(steps, DormandPrince8()), None
    spent = steps * stages
    floor = _floor(x1, coarse)
    wanted = floor if tol is None else torch.full_like(floor, tol)
    while True:
        steps *= 2
        fine = run(steps, DormandPrince8(), record=record)
        spent += steps * stages
        before, gap = gap, relative_error(coarse, fine)
        settled = before is not None and bool(((gap > before / 2) | (gap <= 10 * floor)).all())
        broken = not bool(torch.isfinite(fine).all())
        next_spent = spent + 2 * steps * stages + steps * cross
        if broken or bool((gap <= wanted).all()) or settled or next_spent > max_evaluations:
            break
        coarse = fine
    if broken:
        raise FloatingPointError(f"the reference solution is not finite after {steps} steps; the field cannot be trusted")
    other = run(steps // 2, GraggExtrapolation())
    spent += steps // 2 * cross
    error = gap if before is None else torch.where(gap > before / 2, torch.maximum(gap, before), gap)
    error = torch.maximum(torch.maximum(error, relative_error(other, fine)), floor)
    return Reference(fine, error, steps, spent, None if record is None else record.path())


def _floor(x1: Tensor, x0: Tensor) -> Tensor:
    """What rounding alone may do to each row: of the model's dtype, and relative to where the run began if that was larger."""
    growth = (x1.double().flatten(1).norm(dim=1) / x0.double().flatten(1).norm(dim=1)).clamp(min=1.0)
    return max(ROUNDINGS * torch.finfo(x1.dtype).eps, BEST) * torch.nan_to_num(growth, nan=1.0, posinf=1.0)


def relative_error(x: Tensor, truth: Tensor) -> Tensor:
    """``|x - truth| / |truth|`` of each row, Euclidean norms over everything but the rows, in float64."""
    difference = (x.double() - truth.double()).flatten(1).norm(dim=1)
    return difference / truth.double().flatten(1).norm(dim=1)


def _solution(
    flow: Flow,
    x1: Tensor,
    condition: Sequence[Any] | None,
    steps: int,
    method: Sampler,
    max_batch: int,
    on_call: Callable[[int], None] | None,
    record: _Record | None = None,
) -> Tensor:
    sigmas = (1 + np.cos(np.pi * np.arange(steps + 1) / steps)) / 2
    grid = SigmaGrid([1.0, *sigmas[1:-1], 0.0])
    outs: dict[int, Tensor] = {}

    def work(i: int) -> Work:
        start = x1[i : i + 1].double()
        if record is None or i != record.row:
            return whole(method, start, steps_of(grid))
        return record.of(whole(method, start, steps_of(grid), record.node), grid, start)

    conditions = [None] * len(x1) if condition is None else condition
    tasks = [Task(partial(work, i), c) for i, c in enumerate(conditions)]
    advance(_Cast(flow, x1.dtype), tasks, outs.__setitem__, dtype=torch.float64, max_batch=max_batch, on_call=on_call)
    return torch.cat([outs[i] for i in range(len(x1))])


@dataclass(eq=False)
class _Record:
    """Writes down the nodes that one row passes."""

    row: int
    sigmas: tuple[float, ...] = ()
    states: list[Tensor] = field(default_factory=list[Tensor])
    velocities: list[Tensor] = field(default_factory=list[Tensor])

    def of(self, work: Work, grid: SigmaGrid, start: Tensor) -> Work:
        """The same run, looked at."""
        self.sigmas, self.states, self.velocities = grid.sigmas, [start], []
        run = Running(work)
        while run.request is not None:
            v = yield run.request
            if len(self.velocities) < len(self.states):  # the first since the node
                self.velocities.append(v)
            run.tell(v)
        return run.result

    def node(self, end: StepEnd) -> None:
        """The end of a step."""
        self.states.append(end.x)

    def path(self) -> Path:
        """What was seen."""
        return Path(self.sigmas, torch.cat(self.states), torch.cat(self.velocities))


@dataclass(frozen=True)
class _Cast:
    """A flow that is asked in float64 and looks in its own dtype."""

    flow: Flow
    dtype: torch.dtype

    def velocity(self, x: Tensor, sigma: Tensor, condition: Sequence[Any] | None = None) -> Tensor:
        return self.flow.velocity(x.to(self.dtype), sigma.to(torch.promote_types(self.dtype, torch.float32)), condition).to(x)
