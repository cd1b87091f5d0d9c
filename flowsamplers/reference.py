"""Solve a flow to high accuracy, with an estimate of the remaining error.

The reference uses a method that no sampler of this library uses: Dormand and Prince's, of order eight. It runs on its own
grids, at growing resolution, with the state in float64. A method of another family (Gragg's extrapolation, of order ten)
checks the result.

In bfloat16 and float16 the rounding of the network limits the accuracy, and the weights of these two methods amplify it. There
the reference is the mean of independent runs of a method whose weights are all positive: Cash and Karp's, of order five. Their
rounding errors average out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.interpolate import KroghInterpolator
from torch import Tensor

from flowsamplers._accepted import function, integer, listed, number, refused
from flowsamplers.engine import Work, check_start, integrate
from flowsamplers.grid import SigmaGrid
from flowsamplers.lockstep import Flow, Task, check_has_velocity, run_tasks
from flowsamplers.methods import CashKarp5, DormandPrince8, GraggExtrapolation
from flowsamplers.sampler import Evaluate, Running, steps_of
from flowsamplers.samplers.runge_kutta import RungeKutta

STAGES = DormandPrince8.tableau.stages
BEST = 1e-12
"""Smallest error that a reference states: the level to which independent solvers agree in float64."""

ROUNDINGS = 32
"""Smallest error in eps of the model's dtype; it covered 1,199 of 1,200 new rows of random mixtures in float32."""

COARSE = 1e-4
"""Largest error that may be assumed from the dtype alone; larger errors must be measured."""

PROBED = 15
"""Steps of the run along which pairs of roundings of one evaluation are compared, and of the first averaged runs at most."""

PROBE = 5
"""Evaluations of each of these steps."""

SHARES = (3, 4, 5)
"""Relative numbers of steps of the runs whose mean is the reference where rounding limits the accuracy."""


@dataclass(frozen=True)
class Path:
    """The trajectory of a reference, for errors along a run.

    Attributes:
        sigmas: nodes of the finest run, ``(steps + 1,)``, falling from 1 to 0.
        states: the solution there, ``(steps + 1, ...)``, in float64.
        velocities: the velocities at all nodes but the last, ``(steps, ...)``.
    """

    sigmas: tuple[float, ...]
    states: Tensor
    velocities: Tensor

    def __call__(self, sigma: float) -> Tensor:
        r"""Interpolate the solution at any sigma: the polynomial through states and velocities at the four nearest nodes, $O(h^8)$.

        Args:
            sigma: noise level in [0, 1].

        Returns:
            The state, ``(1, ...)``, in float64.
        """
        if sigma in self.sigmas:
            return self.states[self.sigmas.index(sigma)][None]
        right = int(np.searchsorted(-np.asarray(self.sigmas), -sigma))
        lo = min(max(right - 2, 0), max(len(self.sigmas) - 4, 0))
        nodes = range(lo, min(lo + 4, len(self.sigmas)))
        inner = [i for i in nodes if i < len(self.velocities)]
        at = [s for i in nodes for s in [self.sigmas[i]] * (1 + (i in inner))]
        values = [t[i] for i in nodes for t in ([self.states, self.velocities] if i in inner else [self.states])]
        weights = KroghInterpolator(at, np.eye(len(at)))(sigma).tolist()  # so that the values stay on their device
        return torch.stack([w * value for w, value in zip(weights, values, strict=True)]).sum(0, keepdim=True)


@dataclass(frozen=True)
class Reference:
    """The solution of a flow at ``sigma = 0``, with its estimated error.

    Attributes:
        x0: the solution, like the start, ``(rows, ...)``, in float64.
        error: estimated relative error of each row, ``(rows,)``. It is the largest distance of independent runs, and at least the
            rounding of the model's dtype. In bfloat16 and float16 it also covers the distance to the solution of the same
            network without rounding.
        steps: steps of the finest run.
        evaluations: evaluations of each row, in all runs together.
        path: trajectory of the row that ``follow`` named.
        method: the methods that were used, in words.
    """

    x0: Tensor
    error: Tensor
    steps: int
    evaluations: int
    path: Path | None = field(default=None, repr=False)
    method: str = ""

    def __repr__(self) -> str:
        """The reference in one line."""
        worst = self.error.max().item() if len(self.error) else 0.0
        shape = tuple(self.x0.shape)
        return f"Reference(x0={shape} {self.x0.dtype}, error at most {worst:.1e}, {self.steps} steps, {self.evaluations} evaluations a row)"


class Along(NamedTuple):
    """The solution of a flow at given noise levels.

    Attributes:
        states: ``(nodes, rows, ...)``, in float64.
        velocities: the model's velocity at these states, ``(nodes, rows, ...)``, in float64.
        error: estimated relative error of the states of each row, the largest over the nodes, ``(rows,)``.
    """

    states: Tensor
    velocities: Tensor
    error: Tensor


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
    r"""Solve a flow from ``sigma = 1`` to 0, as accurately as its dtype allows.

    The number of steps doubles from 4 until two resolutions differ by at most ``tol`` in every row. It stops earlier if
    rounding dominates the difference, or if the next run would exceed the budget. Then Gragg's extrapolation, with half the
    steps, checks the result. The grid $\sigma = \tfrac12 (1 + \cos \pi u)$ is dense at both ends, where flows are stiff.

    In bfloat16 and float16, rounding limits the accuracy to more than `COARSE`. There the solution is the mean of three runs of
    a method that does not amplify rounding. The runs have different numbers of steps, and each evaluation is made at a randomly
    rounded point. The error is the sum of two measured numbers. The first is the largest distance of a run from the mean. The
    second covers the rounding that all runs share. It is half the distance between two roundings of one evaluation, summed over
    a run, times the flow's growth. The steps double until the first number is below half the second.

    Args:
        flow: a velocity field.
        x1: starts at ``sigma = 1``, ``(rows, ...)``; the model gets their dtype.
        condition: one entry for each row, or None.
        tol: relative distance to reach; by default 32 eps of the dtype, not below `BEST` and not above `COARSE`.
        max_evaluations: budget of evaluations for each row.
        max_batch: largest number of rows in one model call.
        on_call: called with the number of rows after every model call.
        follow: index of a row whose `Path` is kept.

    Returns:
        The `Reference`.

    Raises:
        ValueError: the budget is too small for two resolutions and the cross-check. The row to follow does not exist. The
            number of conditions is not the number of rows.
        FloatingPointError: the solution is not finite.

    Examples:
        >>> from flowsamplers.flows import GaussianFlow
        >>> flow = GaussianFlow([1.0, -1.0], std=0.5)
        >>> ref = solve(flow, flow.noise([0, 1]))
        >>> bool(((ref.x0 - flow.solution(flow.noise([0, 1]))).norm(dim=1) / ref.x0.norm(dim=1) <= ref.error).all())
        True
    """
    runs = _Runs(flow, x1, condition, (0.0,), max_batch, on_call, follow)
    found = _solved(runs, tol, max_evaluations)
    return Reference(found.states[0], found.error, found.steps, runs.spent, found.path, found.method)


def check_flow_and_start(flow: Any, x1: Any) -> None:
    """Raise a TypeError that names the argument if these are not a flow and a start."""
    check_has_velocity(flow)
    if not isinstance(x1, Tensor):
        raise TypeError(str(refused("x1", x1, "a tensor (rows, ...)")))
    check_start(x1)


def path(
    flow: Flow,
    x1: Tensor,
    nodes: Sequence[float],
    *,
    condition: Sequence[Any] | None = None,
    tol: float | None = None,
    max_evaluations: int = 3200,
    max_batch: int = 64,
    on_call: Callable[[int], None] | None = None,
) -> Along:
    """Solve a flow from ``sigma = 1`` to 0, and return its states and velocities at given noise levels.

    It uses `solve`, and between the steps a polynomial through the four nearest states and velocities, see `Path`. Each noise
    level costs one more evaluation.

    Args:
        flow: a velocity field.
        x1: starts at ``sigma = 1``, ``(rows, ...)``; the model gets their dtype.
        nodes: noise levels in [0, 1].
        condition: one entry for each row, or None.
        tol: relative distance to reach at every node; by default as in `solve`.
        max_evaluations: budget of evaluations for each row, without those at ``nodes``.
        max_batch: largest number of rows in one model call.
        on_call: called with the number of rows after every model call.

    Returns:
        States, velocities and the error of the states, see `Along`.

    Raises:
        ValueError: ``nodes`` is empty or has a value outside [0, 1]; else as in `solve`.
        FloatingPointError: the solution is not finite.

    Examples:
        >>> from flowsamplers.flows import GaussianFlow
        >>> flow = GaussianFlow([1.0, -1.0], std=0.5)
        >>> x1 = flow.noise([0])
        >>> states, velocities, error = path(flow, x1, [1.0, 0.3, 0.0])
        >>> states.shape, bool(torch.dist(states[1], flow.solution(x1, 1.0, 0.3)) < 1e-9)
        (torch.Size([3, 1, 2]), True)
    """
    nodes = listed("nodes", nodes, "a list of noise levels")
    if not nodes:
        raise ValueError("nodes=[]: give at least one noise level")
    runs = _Runs(flow, x1, condition, tuple(number("nodes", s, 0, 1) for s in nodes), max_batch, on_call)
    found = _solved(runs, tol, max_evaluations)
    velocities = torch.stack([runs.velocity(x, s) for s, x in zip(runs.nodes, found.states, strict=True)])
    return Along(found.states, velocities, found.error)


class _Solution(NamedTuple):
    """States at the nodes, ``(nodes, rows, ...)``, their error, and how they were found."""

    states: Tensor
    error: Tensor
    steps: int
    path: Path | None
    method: str


def _solved(runs: _Runs, tol: float | None, max_evaluations: int) -> _Solution:
    """See `solve`; distances are the largest over the nodes."""
    steps, cross = 4, GraggExtrapolation.evaluations
    least = 3 * steps * STAGES + steps * cross
    tol, max_evaluations = None if tol is None else number("tol", tol, 0), integer("max_evaluations", max_evaluations)
    if max_evaluations < least:
        raise ValueError(f"max_evaluations={max_evaluations}: two resolutions need at least {least}, with their cross-check")
    coarse = runs.run(steps, DormandPrince8())
    floor = runs.floor(coarse)
    wanted = floor if tol is None else torch.full_like(floor, tol)
    gap = torch.full_like(floor, torch.inf)
    stuck = torch.zeros_like(floor)  # how often running doubling brought a row no nearer
    while True:
        steps *= 2
        fine = runs.run(steps, DormandPrince8())
        if not bool(torch.isfinite(fine).all()):
            raise FloatingPointError(f"the reference solution is not finite after {steps} steps; the field cannot be trusted")
        before, gap = gap, _distance(coarse, fine)
        stuck = torch.where(gap > before / 2, stuck + 1, 0.0)
        left = max_evaluations - runs.spent - 2 * steps * STAGES - steps * cross
        if left < 0 or bool((gap <= wanted).all()) or _rounding_reached(runs, fine, gap, stuck, floor, left):
            break
        coarse = fine
    error = torch.maximum(torch.where(stuck > 0, torch.maximum(gap, before), gap), floor)
    found = _Solution(fine, error, steps, runs.followed, "Dormand-Prince 8, cosine grid, two resolutions")
    averaged = _averaged(runs, max_evaluations, floor) if bool(((stuck > 0) & (error > COARSE)).any()) else None
    if averaged is None:
        error = torch.maximum(error, _distance(runs.run(steps // 2, GraggExtrapolation()), fine))
        return found._replace(error=error, method=f"{found.method}; Gragg extrapolation 10 as a cross-check")
    if averaged.error.median() < error.median():  # of all rows or none: a single small gap of a noisy run is luck
        return averaged
    return found._replace(error=torch.maximum(error, _distance(averaged.states, fine)))


def _rounding_reached(runs: _Runs, fine: Tensor, gap: Tensor, stuck: Tensor, floor: Tensor, left: int) -> bool:
    """Whether rounding, not too few steps, is why two resolutions come no nearer; measured by a dithered run if ``left`` allows."""
    near = gap <= 10 * floor
    if not bool(((stuck > 0) | near).all()):
        return False
    if bool(((stuck > 2) | near).all()):
        return True
    steps = runs.steps
    if steps * STAGES > left:
        return False
    noise = _distance(runs.run(steps, DormandPrince8(), dither=True), fine)
    return bool(((gap <= 4 * noise) | near).all())


def _averaged(runs: _Runs, max_evaluations: int, floor: Tensor) -> _Solution | None:
    """The mean of runs with positive weights, with more steps until their spread no longer matters; None if the budget has no room."""
    counts, rounding, found = [PROBED * share // 5 for share in SHARES], None, None
    method = f"mean of {len(SHARES)} dithered runs of Cash-Karp 5, cosine grids"
    while runs.spent + sum(counts) * CashKarp5.tableau.stages + PROBE * PROBED <= max_evaluations:
        rounding = runs.roundings() if rounding is None else rounding
        outs = [runs.run(n, CashKarp5(), dither=True) for n in counts]
        mean = torch.stack([n / sum(counts) * out for n, out in zip(counts, outs, strict=True)]).sum(0)
        spread = torch.stack([_distance(out, mean) for out in outs]).amax(0)
        error = torch.maximum(spread + rounding, floor)
        found = _Solution(mean, error, max(counts), runs.followed, method)
        if bool((spread <= rounding / 2).all()):
            break
        counts = [2 * n for n in counts]
    return found


def relative_error(x: Tensor, truth: Tensor) -> Tensor:
    """Compute ``|x - truth| / |truth|`` of each row in float64, with the Euclidean norm over all other axes."""
    difference = (x.double() - truth.double()).flatten(1).norm(dim=1)
    return difference / truth.double().flatten(1).norm(dim=1)


def _distance(x: Tensor, truth: Tensor) -> Tensor:
    """The relative error of each row, the largest over the nodes."""
    return torch.stack([relative_error(a, b) for a, b in zip(x, truth, strict=True)]).amax(0)


@dataclass(eq=False)
class _Runs:
    """Runs from the same starts, seen at the same nodes.

    Attributes:
        steps: of the last run.
        spent: evaluations of each row so far.
        followed: path of the row ``follow`` in the last run.
    """

    flow: Flow
    x1: Tensor
    condition: Sequence[Any] | None
    nodes: tuple[float, ...]
    max_batch: int
    on_call: Callable[[int], None] | None
    follow: int | None = None
    steps: int = 0
    spent: int = 0
    followed: Path | None = None
    dithers: int = 0

    def __post_init__(self) -> None:
        check_flow_and_start(self.flow, self.x1)
        if self.condition is not None:
            if isinstance(self.condition, str | bytes) or not isinstance(self.condition, Sequence):
                raise TypeError(str(refused("condition", self.condition, "a list with one entry for each row, or None")))
            if len(self.condition) != len(self.x1):
                raise ValueError(f"condition: {len(self.condition)} entries for {len(self.x1)} rows; give one for each")
        self.max_batch = integer("max_batch", self.max_batch, 1)
        function("on_call", self.on_call, "a function of the number of rows")
        if self.follow is not None and not 0 <= integer("follow", self.follow) < len(self.x1):
            raise ValueError(f"follow={self.follow}: there are {len(self.x1)} rows")

    @property
    def conditions(self) -> Sequence[Any]:
        """One for each row."""
        return [None] * len(self.x1) if self.condition is None else self.condition

    @cached_property
    def cast(self) -> _Cast:
        """The flow, asked in float64."""
        return _Cast(self.flow, self.x1.dtype)

    def run(self, steps: int, method: RungeKutta | GraggExtrapolation, *, dither: bool = False) -> Tensor:
        """The states of one run at the nodes, ``(nodes, rows, ...)``."""
        grid = _cosine(steps)
        each = method.tableau.stages if isinstance(method, RungeKutta) else method.evaluations
        size = torch.finfo(self.x1.dtype).eps if dither else 0.0
        self.dithers += dither

        def work(i: int) -> Work:
            start = self.x1[i : i + 1].double()
            generator = torch.Generator().manual_seed(1000 * self.dithers + i)
            kept = self.nodes != (0.0,) or i == self.follow
            states, velocities = [start], list[Tensor]()
            run: Work = integrate(method, start, steps_of(grid), (lambda end: states.append(end.x)) if kept else None)
            if kept:
                run = _heard(run, lambda request, v: velocities.append(v) if request.at.stage == 0 else None)
            end = yield from dithered(run, size, 0.0, generator) if dither else run
            if not kept:
                return end
            path = Path(grid.sigmas, torch.cat(states), torch.cat(velocities))
            if i == self.follow:
                self.followed = path
            return torch.cat([path(s) for s in self.nodes])

        states = torch.stack(self._in_lockstep(work), dim=1)
        self.steps, self.spent = steps, self.spent + steps * each
        return states

    def roundings(self) -> Tensor:
        """What half the distance between two roundings of every evaluation comes to, if nothing averages out.

        How much the flow enlarges what happens on the way is measured by a second run: its distance at the end, over the square
        root of the sum of the squares of the distances that were added.
        """
        size = torch.finfo(self.x1.dtype).eps

        def work(i: int) -> Work:
            generator = torch.Generator().manual_seed(i)
            x = y = self.x1[i : i + 1].double()
            added: list[float] = []
            for at in steps_of(_cosine(PROBED)):
                middle = at.s0 + at.h / 2
                k = yield Evaluate(_rounded(x, size, generator), at.s0)
                a = yield Evaluate(_rounded(x + at.h / 2 * k, size, generator), middle)
                b = yield Evaluate(_rounded(x + at.h / 2 * k, size, generator), middle)
                k = yield Evaluate(_rounded(y, size, generator), at.s0)
                c = yield Evaluate(_rounded(y + at.h / 2 * k, size, generator), middle)
                x, y = x + at.h * a, y + at.h * c
                added.append(abs(at.h) * (a - b).norm().item())
            growth = max((x - y).norm().item() / math.hypot(*added), 1.0) if any(added) else 1.0
            return growth * sum(added) / 2 / x.norm()

        found = torch.stack(self._in_lockstep(work))
        self.spent += PROBE * PROBED
        return found

    def velocity(self, x: Tensor, sigma: float) -> Tensor:
        """The velocity of all rows at one noise level."""

        def work(i: int) -> Work:
            return (yield Evaluate(x[i : i + 1], sigma))

        return torch.cat(self._in_lockstep(work))

    def floor(self, states: Tensor) -> Tensor:
        """What rounding alone may do to each row: of the model's dtype, and relative to where the run began if that was larger."""
        sizes = torch.stack([x.flatten(1).norm(dim=1) for x in states]).amin(0)
        growth = (self.x1.double().flatten(1).norm(dim=1) / sizes).clamp(min=1.0)
        unit = max(min(ROUNDINGS * torch.finfo(self.x1.dtype).eps, COARSE), BEST)
        return unit * torch.nan_to_num(growth, nan=1.0, posinf=1.0)

    def _in_lockstep(self, work: Callable[[int], Work]) -> list[Tensor]:
        outs: dict[int, Tensor] = {}
        tasks = [Task(partial(work, i), c) for i, c in enumerate(self.conditions)]
        run_tasks(self.cast, tasks, outs.__setitem__, dtype=torch.float64, max_batch=self.max_batch, on_call=self.on_call)
        return [outs[i] for i in range(len(tasks))]


def _cosine(steps: int) -> SigmaGrid:
    sigmas = (1 + np.cos(np.pi * np.arange(steps + 1) / steps)) / 2
    return SigmaGrid([1.0, *sigmas[1:-1], 0.0])


def dithered(work: Work, size: float, time: float, generator: torch.Generator) -> Work:
    """Run with a randomly rounded point in every evaluation: x is off by ``size``, sigma by ``time``."""

    def elsewhere(request: Any) -> Evaluate:
        late = torch.rand((), generator=generator, dtype=torch.float64, device="cpu").item() - 0.5 if time else 0.0
        return Evaluate(_rounded(request.x, size, generator), request.sigma * (1 + time * late))

    return _heard(work, ask=elsewhere)


def _heard(
    work: Work, hear: Callable[[Any, Tensor], None] = lambda *_: None, ask: Callable[[Any], Any] = lambda request: request
) -> Work:
    """The same run; ``ask`` may change its requests, and ``hear`` gets each request with its velocity."""
    run = Running(work)
    while (request := run.request) is not None:
        v = yield ask(request)
        hear(request, v)
        run.send(v)
    return run.result


def _rounded(x: Tensor, size: float, generator: torch.Generator) -> Tensor:
    return x * (1 + size * (torch.rand(x.shape, generator=generator, dtype=torch.float64, device="cpu").to(x) - 0.5))


@dataclass(frozen=True)
class _Cast:
    """A flow that is asked in float64 and looks in its own dtype."""

    flow: Flow
    dtype: torch.dtype

    def velocity(self, x: Tensor, sigma: Tensor, condition: Sequence[Any] | None = None) -> Tensor:
        return self.flow.velocity(x.to(self.dtype), sigma.to(torch.promote_types(self.dtype, torch.float32)), condition).to(x)
