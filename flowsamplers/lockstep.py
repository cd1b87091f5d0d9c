"""Run many samplers together, so that they share batched model calls.

Most programs need only `sample_many`. `run_tasks` drives any generators that yield requests, a few at a time if there are many.
Requests that are equal, such as the first ones of two runs from one noise, are computed once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from flowsamplers._accepted import function, integer, listed, refused
from flowsamplers.engine import Request, Work, as_start, carry_dtype, check_velocity, integrate, noise_for
from flowsamplers.grid import SigmaGrid, as_grid
from flowsamplers.noise import Noise, Seeds, as_noise
from flowsamplers.registry import get_sampler
from flowsamplers.sampler import Evaluate, Running, SamplerLike, steps_of


class Flow(Protocol):
    """A model for `sample_many`: a velocity field with one condition for each row."""

    def velocity(self, x: Tensor, sigma: Tensor, condition: Sequence[Any] | None = None) -> Tensor:
        """Return the velocity at ``x`` ``(rows, ...)`` and ``sigma`` ``(rows,)``, shaped like ``x``.

        ``condition`` is a list with one entry for each row. None, or an entry of None, means the flow's default condition.
        """
        ...


@dataclass(frozen=True, eq=False)
class Run:
    """One run of a batch for `sample_many`.

    Attributes:
        x1: start, ``(rows, ...)``; a numpy array becomes a tensor.
        grid: the schedule, as a `SigmaGrid` or its sigmas, see `sample`.
        sampler: a sampler, by name or as an object.
        condition: the condition of all rows of this run, such as a prompt; None for none.
        seeds: seeds for a stochastic sampler.
    """

    x1: Tensor
    grid: SigmaGrid
    sampler: SamplerLike = "euler"
    condition: Any = None
    seeds: Seeds | Noise | None = None

    def __post_init__(self) -> None:
        """Make a tensor and a grid of what stands for them."""
        object.__setattr__(self, "x1", as_start(self.x1))
        object.__setattr__(self, "grid", as_grid(self.grid))
        get_sampler(self.sampler)
        as_noise(self.seeds)


class Halt(Exception):  # noqa: N818  (nothing went wrong)
    """Raise this in a flow to end all runs; other exceptions end only the run that failed."""


@dataclass(frozen=True, eq=False)
class Task:
    """A generator that `run_tasks` drives together with others.

    Attributes:
        start: makes the generator; called when the task begins.
        condition: the condition of its rows.
        rows: number of rows in its requests.
    """

    start: Callable[[], Work]
    condition: Any = None
    rows: int = 1


def sample_many(
    flow: Flow,
    runs: Sequence[Run],
    *,
    max_batch: int = 64,
    carry: torch.dtype | None = None,
    on_call: Callable[[int], None] | None = None,
) -> list[Tensor]:
    """Run many samplers at once: in each round, all waiting requests share batched model calls.

    The runs may have different samplers, schedules, conditions and lengths. All rows must have one shape, dtype and device.
    Requests that are equal, such as the first ones of two runs from one noise, are computed once.

    Args:
        flow: the model; its ``velocity(x, sigma, condition)`` gets a list with the condition of each row.
        runs: the runs.
        max_batch: the largest number of rows in one model call.
        carry: dtype of the state, see `sample`.
        on_call: called with the number of rows after every model call, for progress.

    Returns:
        The result of each run, in the order given.

    Raises:
        ValueError: ``max_batch`` is below 1, rows differ in shape, dtype or device, or a stochastic run has no seeds.

    Examples:
        >>> class Decay:
        ...     def velocity(self, x, sigma, condition=None):
        ...         return x
        >>> grid = SigmaGrid([1.0, 0.5, 0.0])
        >>> [x.item() for x in sample_many(Decay(), [Run(torch.ones(1, 1), grid, s) for s in ("euler", "heun")])]
        [0.25, 0.390625]
    """
    function("on_call", on_call, "a function of the number of rows")
    max_batch = integer("max_batch", max_batch, 1)
    runs = _alike(runs)
    check_has_velocity(flow)
    if not runs:
        return []
    tasks = [Task(partial(_begun, run, carry), run.condition, len(run.x1)) for run in runs]
    results: dict[int, Tensor] = {}
    run_tasks(flow, tasks, results.__setitem__, dtype=runs[0].x1.dtype, max_batch=max_batch, on_call=on_call)
    return [results[i].to(run.x1.dtype) for i, run in enumerate(runs)]


def run_tasks(
    flow: Flow,
    tasks: Sequence[Task],
    on_done: Callable[[int, Any], None],
    *,
    dtype: torch.dtype,
    max_batch: int = 64,
    window: int | None = None,
    on_call: Callable[[int], None] | None = None,
    on_error: Callable[[int, Exception], None] | None = None,
) -> None:
    """Drive generators together, with batched model calls.

    Args:
        flow: see `sample_many`.
        tasks: the generators, in the order in which they begin.
        on_done: called with the index and the result of each task when it ends.
        dtype: dtype of the model's input.
        max_batch: the largest number of rows in one model call; the requests of one task may be split over several.
        window: the largest number of rows that run at once and are in memory; by default all.
        on_call: called with the number of rows after every model call.
        on_error: called with the index and the error of a task that fails; the other tasks continue. A failing model call is split
            in halves until the failing rows are found. This also finds a batch size that fits into memory. By default the first
            error is raised.

    Raises:
        ValueError: ``max_batch`` or ``window`` is below 1, or a velocity has another shape than its ``x``.
        Halt: the flow raised it.
    """
    caller = _Caller(flow, dtype, integer("max_batch", max_batch, 1), on_call, on_error is not None)
    room = sum(t.rows for t in tasks) if window is None else integer("window", window, 1)
    with torch.no_grad():
        _Rounds(tasks, on_done, on_error, room).drive(caller)


class _Question(NamedTuple):
    """A request with the condition of its rows."""

    request: Evaluate | Request
    condition: Any


@dataclass(eq=False)
class _Active:
    """A task on its way."""

    index: int
    task: Task
    run: Running[Evaluate | Request, Any] | None = None

    @property
    def question(self) -> _Question:
        """What it is waiting for."""
        assert self.run is not None
        assert self.run.request is not None
        return _Question(self.run.request, self.task.condition)


@dataclass(eq=False)
class _Rounds:
    """The tasks on their way, and the first velocities that are known while more tasks are to begin."""

    tasks: Sequence[Task]
    on_done: Callable[[int, Any], None]
    on_error: Callable[[int, Exception], None] | None
    window: int
    active: list[_Active] = field(default_factory=list[_Active])
    firsts: list[tuple[_Question, Tensor]] = field(default_factory=list[tuple[_Question, Tensor]])
    begun: int = 0

    def drive(self, caller: _Caller) -> None:
        """Until nobody asks for more."""
        while True:
            new = self._admit()
            if not self.active:
                return
            questions, which = _distinct([a.question for a in self.active])
            velocities = caller.velocities(questions)
            if self.begun < len(self.tasks):
                first = dict.fromkeys(k for a, k in zip(self.active, which, strict=True) if a.index in new)
                self.firsts += [(questions[k], v) for k in first if isinstance(v := velocities[k], Tensor)]
            else:
                self.firsts.clear()
            self.active = [a for a, k in zip(self.active, which, strict=True) if self._go_on(a, velocities[k])]

    def _admit(self) -> range:
        """Let tasks begin while there is room, past a first velocity that is known; their indices."""
        before = self.begun
        room = self.window - sum(a.task.rows for a in self.active)
        while room > 0 and self.begun < len(self.tasks):
            a = _Active(self.begun, self.tasks[self.begun])
            self.begun += 1
            alive = self._go_on(a, None)
            while alive and (known := next((v for q, v in self.firsts if _same(q, a.question)), None)) is not None:
                alive = self._go_on(a, known)
            if alive:
                room -= a.task.rows
                self.active.append(a)
        return range(before, self.begun)

    def _go_on(self, a: _Active, answer: Tensor | Exception | None) -> bool:
        """Send an answer; whether the task asks for more."""
        try:
            if isinstance(answer, Exception):
                raise answer
            if a.run is None:
                a.run = Running(a.task.start())
            else:
                a.run.send(answer)
        except Halt:
            raise
        except Exception as error:
            a.run = None
            if self.on_error is None:
                raise
            self.on_error(a.index, error)
            return False
        if a.run.request is None:
            self.on_done(a.index, a.run.result)
        return a.run.request is not None


def _distinct(questions: Sequence[_Question]) -> tuple[list[_Question], list[int]]:
    """The different questions, and for each question where it stands among these.

    Requests are compared whole only if they agree in sigma and in their first number, which are read together.
    """
    unique: list[_Question] = []
    which: list[int] = []
    alike: dict[tuple[float, float], list[int]] = {}
    at = Counter(q.request.sigma for q in questions)
    several = [q.request.x.flatten()[:1].sum() for q in questions if at[q.request.sigma] > 1]
    numbers = iter(torch.stack(several).tolist() if several else [])
    for q in questions:
        sigma = q.request.sigma
        candidates = alike.setdefault((sigma, next(numbers) if at[sigma] > 1 else 0.0), [])
        found = next((k for k in candidates if _same(unique[k], q)), None)
        if found is None:
            found = len(unique)
            unique.append(q)
            candidates.append(found)
        which.append(found)
    return unique, which


def _same(a: _Question, b: _Question) -> bool:
    """Whether two tasks ask for the very same velocity."""
    p, q, c, d = a.request, b.request, a.condition, b.condition
    if p.sigma != q.sigma or p.x.dtype != q.x.dtype:
        return False
    alike = c is d or (isinstance(c, str | int | float) and type(c) is type(d) and c == d)
    return alike and (p.x is q.x or torch.equal(p.x, q.x))


def _begun(run: Run, carry: torch.dtype | None) -> Work:
    sampler = get_sampler(run.sampler)
    noise = noise_for(sampler, run.grid, run.seeds)
    return integrate(sampler, run.x1.to(carry_dtype(run.x1, carry)), steps_of(run.grid, noise))


def check_has_velocity(flow: Any) -> None:
    """Check that this is a flow.

    Raises:
        TypeError: it has no velocity.
    """
    if not callable(getattr(flow, "velocity", None)) or isinstance(flow, type):
        raise TypeError(str(refused("flow", flow, "an object with velocity(x, sigma, condition=None)")))


def _alike(given: Any) -> Sequence[Run]:
    runs: list[Run] = listed("runs", given, "a list of flowsamplers.Run")
    for i, run in enumerate(runs):
        if not isinstance(run, Run):
            raise TypeError(f"runs[{i}]={run!r}: accepted are flowsamplers.Run")
    kinds = {(tuple(r.x1.shape[1:]), r.x1.dtype, r.x1.device) for r in runs}
    if len(kinds) > 1:
        raise ValueError(f"runs: rows in lock-step share one shape, dtype and device, not {sorted(map(str, kinds))}")
    return runs


@dataclass(eq=False)
class _Caller:
    """Batches requests into model calls."""

    flow: Flow
    dtype: torch.dtype
    max_batch: int
    on_call: Callable[[int], None] | None
    isolates: bool

    def velocities(self, questions: Sequence[_Question]) -> list[Tensor | Exception]:
        """The velocity of each request, or why there is none."""
        rows = [len(q.request.x) for q in questions]
        x = torch.cat([q.request.x for q in questions])
        sigma = torch.cat([x.new_full((n,), q.request.sigma) for n, q in zip(rows, questions, strict=True)])
        condition = [q.condition for n, q in zip(rows, questions, strict=True) for _ in range(n)]
        out = torch.full_like(x, torch.nan)  # the velocities are copied into it: a flow may return one tensor every time
        failed: dict[int, Exception] = {}
        lo = 0
        while lo < len(x):
            for v in self._velocities(x[lo : lo + self.max_batch], sigma[lo:], condition[lo:]):
                if isinstance(v, Exception):
                    failed[lo] = v
                    lo += 1
                else:
                    out[lo : lo + len(v)] = v
                    lo += len(v)
        ends = [0, *accumulate(rows)]
        reasons = [next((failed[i] for i in range(*span) if i in failed), None) for span in pairwise(ends)]
        return [why or v for why, v in zip(reasons, out.split(rows), strict=True)]

    def _velocities(self, x: Tensor, sigma: Tensor, condition: Sequence[Any]) -> Iterator[Tensor | Exception]:
        """The velocities of a batch in one piece, or in halves of halves where it fails; one row that fails gives its error."""
        n = len(x)
        try:
            v = self.flow.velocity(x.to(self.dtype, copy=True), sigma[:n].clone(), condition[:n])
            check_velocity(v, x)
        except Halt:
            raise
        except Exception as error:
            if not self.isolates:
                raise
            failure = error.with_traceback(None)  # whose frames hold the tensors that did not fit
        else:
            if self.on_call is not None:
                self.on_call(n)
            yield v
            return
        if n == 1:
            yield failure
            return
        half = n // 2
        if isinstance(failure, torch.cuda.OutOfMemoryError):
            self.max_batch = half
        yield from self._velocities(x[:half], sigma, condition)
        yield from self._velocities(x[half:], sigma[half:], condition[half:])
