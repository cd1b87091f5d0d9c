"""The drivers: who asks the sampler, evaluates the model, counts, and owns precision and modes.

One sampler text, five ways to run it: `sample` (direct), `trace` (direct, with a record), `sample_many`
(many runs in lock-step), `dry_run` (no model at all) and `Stepper` (inside out, for hosts that own the loop).

Precision is decided here alone. The state is carried in ``carry``, by default float32 or what the input has above that; the
model is given a cast to the input's dtype; its velocity is cast up before the sampler sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count, pairwise
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from flowsamplers.grid import SigmaGrid
from flowsamplers.noise import Noise, Seeds, as_noise
from flowsamplers.sampler import Evaluate, Sampler, SamplerLike, State, Step, StepGenerator, get_sampler, steps_of

Velocity: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""``velocity(x, sigma)``: x is ``(rows, ...)``, sigma ``(rows,)``; returns ``v`` shaped like x."""

Check: TypeAlias = Literal["finite"] | None
"""``"finite"`` looks at every velocity and names the step of one that is not finite; this waits for the device."""


class Flow(Protocol):
    """A velocity field whose rows can have conditions of their own."""

    def velocity(self, x: Tensor, sigma: Tensor, condition: Sequence[Any] | None = None) -> Tensor:
        """The velocity at ``x`` ``(rows, ...)`` and ``sigma`` ``(rows,)``; ``condition`` has one entry for each row.

        No list, or an entry of None, means the flow's own condition.
        """
        ...


class Evaluation(NamedTuple):
    """One call of the model within a run: which step, which stage of it, and at which sigma."""

    step: int
    stage: int
    sigma: float


@dataclass(frozen=True)
class TracedEvaluation:
    """One model call of a traced run.

    Attributes:
        step: index of the step.
        stage: index of the evaluation within the step.
        sigma: where the model was asked.
        x_norm: root mean square of what the model was given.
        v_norm: root mean square of the velocity.
    """

    step: int
    stage: int
    sigma: float
    x_norm: float
    v_norm: float


@dataclass(frozen=True)
class Trace:
    """A run with its record.

    Attributes:
        x0: the result.
        evaluations: one entry for each model call, in order.
        states: ``x`` at every node of the grid, N + 1 tensors in the carry dtype.
        grid: the schedule.
    """

    x0: Tensor
    evaluations: tuple[TracedEvaluation, ...]
    states: tuple[Tensor, ...] = field(repr=False)
    grid: SigmaGrid

    @property
    def nfe(self) -> int:
        """How often the model was asked."""
        return len(self.evaluations)


@dataclass(frozen=True, eq=False)
class Run:
    """One run of a batch for `sample_many`.

    Attributes:
        x1: start, ``(rows, ...)``.
        grid: its schedule.
        sampler: a sampler, by name or as an object.
        condition: what the flow is conditioned on, for all rows of this run; None for nothing.
        seeds: seeds of a stochastic sampler.
    """

    x1: Tensor
    grid: SigmaGrid
    sampler: SamplerLike = "euler"
    condition: Any = None
    seeds: Seeds | Noise | None = None


def sample(
    velocity: Velocity,
    x1: Tensor,
    grid: SigmaGrid,
    sampler: SamplerLike = "euler",
    *,
    seed: Seeds | Noise | None = None,
    carry: torch.dtype | None = None,
    check: Check = None,
    grad: bool = False,
) -> Tensor:
    r"""Integrate $dx/d\sigma = v(x, \sigma)$ over a grid.

    Args:
        velocity: ``velocity(x, sigma)`` with x like ``x1`` and sigma ``(rows,)``; returns v shaped like x.
        x1: start, ``(rows, ...)``, any floating dtype, on any device; pure noise for a grid that starts at 1.
        grid: the schedule.
        sampler: a name, a configuration, or a sampler.
        seed: for a stochastic sampler: an int, a list with one int per row, or a `noise.Noise`.
        carry: dtype of the state; by default float32, or float64 if ``x1`` is.
        check: ``"finite"`` raises at the first velocity that is not finite.
        grad: record the run for autograd.

    Returns:
        The state at ``grid.end``, with the shape, dtype and device of ``x1``.

    Raises:
        ValueError: unknown sampler, a stochastic one without a seed, a velocity of the wrong shape.
        FloatingPointError: with ``check="finite"``, a velocity that is not finite; names step, stage and sigma.

    Examples:
        >>> x1 = torch.ones(2, 3)
        >>> sample(lambda x, sigma: x, x1, SigmaGrid([1.0, 0.5, 0.0]), "euler")[0]
        tensor([0.2500, 0.2500, 0.2500])
    """
    x, _ = _drive(velocity, x1, grid, sampler, seed=seed, carry=carry, check=check, grad=grad)
    return x.to(x1.dtype)


def trace(
    velocity: Velocity,
    x1: Tensor,
    grid: SigmaGrid,
    sampler: SamplerLike = "euler",
    *,
    seed: Seeds | Noise | None = None,
    carry: torch.dtype | None = None,
    on_evaluation: Callable[[TracedEvaluation], None] | None = None,
) -> Trace:
    """Like `sample`, with a record of every model call and of the state at every node.

    Args:
        velocity: see `sample`.
        x1: see `sample`.
        grid: see `sample`.
        sampler: see `sample`.
        seed: see `sample`.
        carry: see `sample`.
        on_evaluation: called after every model call, for progress.

    Returns:
        The `Trace`; the norms wait for the device.

    Examples:
        >>> run = trace(lambda x, sigma: x, torch.ones(1, 2), SigmaGrid([1.0, 0.5, 0.0]), "heun")
        >>> run.nfe, [e.sigma for e in run.evaluations]
        (4, [1.0, 0.5, 0.5, 0.0])
    """
    record: list[TracedEvaluation] = []

    def seen(at: Evaluation, x: Tensor, v: Tensor) -> None:
        record.append(TracedEvaluation(*at, _rms(x), _rms(v)))
        if on_evaluation is not None:
            on_evaluation(record[-1])

    x, states = _drive(velocity, x1, grid, sampler, seed=seed, carry=carry, seen=seen)
    return Trace(x.to(x1.dtype), tuple(record), tuple(states), grid)


def dry_run(sampler: SamplerLike, grid: SigmaGrid) -> tuple[Evaluation, ...]:
    """Every model call that a run will make, before anything is run: the sampler is driven with zeros.

    Raises:
        ValueError: the sampler is adaptive, so its calls depend on the data.

    Examples:
        >>> [e.sigma for e in dry_run("midpoint", SigmaGrid([1.0, 0.5, 0.0]))]
        [1.0, 0.75, 0.5, 0.25]
    """
    return _dry_run(get_sampler(sampler), grid)


def nfe(sampler: SamplerLike, grid: SigmaGrid) -> int:
    """How many model calls a run makes, from the dry run.

    Examples:
        >>> nfe("rk4", SigmaGrid([1.0, 0.5, 0.0]))
        8
    """
    return len(dry_run(sampler, grid))


def sample_many(
    flow: Flow,
    runs: Sequence[Run],
    *,
    max_batch: int = 64,
    carry: torch.dtype | None = None,
    on_call: Callable[[int], None] | None = None,
) -> list[Tensor]:
    """Many runs in lock-step: in each round all waiting requests share batched model calls.

    The runs may have different samplers, grids, conditions and lengths; their rows have one shape, dtype and device.

    Args:
        flow: its ``velocity(x, sigma, condition)`` gets a list with the condition of each row.
        runs: what to run.
        max_batch: the largest number of rows in one model call.
        carry: dtype of the state, see `sample`.
        on_call: told the number of rows after every model call, for progress.

    Returns:
        The result of each run, in the order given.

    Raises:
        ValueError: ``max_batch`` below 1, runs whose rows differ in shape, dtype or device, a stochastic run without seeds.

    Examples:
        >>> class Decay:
        ...     def velocity(self, x, sigma, condition=None):
        ...         return x
        >>> grid = SigmaGrid([1.0, 0.5, 0.0])
        >>> [x.item() for x in sample_many(Decay(), [Run(torch.ones(1, 1), grid, s) for s in ("euler", "heun")])]
        [0.25, 0.390625]
    """
    if max_batch < 1:
        raise ValueError(f"max_batch={max_batch}: a model call needs at least 1 row")
    _check_alike(runs)
    results: list[Tensor | None] = [None] * len(runs)
    with torch.no_grad():
        waiting = [_Waiting(i, run, _start(run, carry)) for i, run in enumerate(runs)]
        for w in waiting:
            w.request = next(w.work)
        while waiting:
            velocities = _evaluate_batched(flow, waiting, max_batch, on_call)
            for w, v in zip(waiting, velocities, strict=True):
                try:
                    w.request = w.work.send(v)
                except StopIteration as done:
                    results[w.index] = done.value.to(w.run.x1.dtype)
                    w.request = None
            waiting = [w for w in waiting if w.request is not None]
    return [r for r in results if r is not None]


class Stepper:
    """The inside-out driver, for a host that owns the loop and calls the model itself.

    Ask for `point`, call the model there (or at an edited point), `tell` its velocity, and so on until
    `done`. Between any two calls it can be deep-copied or pickled: what it holds is ``x`` at the start of the step,
    the state, the velocities received in this step and an offset; the generator is made again by replay.

    If the host edits the point, `edit` says so: at the start of a step the edited point becomes ``x``; between stages
    the velocity counts as that of the edited point, and the edit is carried into the result of the step.

    Args:
        sampler: what to run.
        grid: the schedule.
        x: start, in the carry dtype.
        noise: for stochastic samplers.
        begin: index of the model call to begin with. Inside a step, the calls left in it become Euler moves along the
            listed sigmas to the end of the step.

    Examples:
        >>> stepper = Stepper(get_sampler("heun"), SigmaGrid([1.0, 0.5, 0.0]), torch.ones(1))
        >>> while not stepper.done:
        ...     stepper.tell(stepper.point)  # dx/dsigma = x
        >>> stepper.point.item()
        0.390625
    """

    def __init__(self, sampler: Sampler, grid: SigmaGrid, x: Tensor, noise: Noise | None = None, *, begin: int = 0) -> None:
        self.sampler = sampler
        self.steps = tuple(steps_of(grid, noise))
        self._index, self._moves = _beginning(sampler, grid, begin)
        self._x = x
        self._state: State = sampler.init(x)
        self._received: tuple[Tensor, ...] = ()
        self._offset: Tensor | None = None
        self._work: StepGenerator | None = None
        self._request: Evaluate | None = None

    @property
    def done(self) -> bool:
        """Whether the end of the grid is reached."""
        return not self._moves and self._index == len(self.steps)

    @property
    def point(self) -> Tensor:
        """Where the model is to be called next; the result, when done. Read-only."""
        request = self._resume()
        if request is None:
            return self._x
        return request.x if self._offset is None else request.x + self._offset

    @property
    def between_steps(self) -> bool:
        """Whether no velocity of the current step has been received yet."""
        return not self._received

    @property
    def rests(self) -> bool:
        """Whether the point is ``x`` itself, so that a host may even edit it in place."""
        request = self._resume()
        return request is None or (request.x is self._x and not self._received)

    def edit(self, point: Tensor) -> None:
        """The host goes on from ``point`` instead of `point`."""
        if self.rests:
            self._x, self._work = point, None
        else:
            request = self._request
            assert request is not None
            before = torch.zeros_like(point) if self._offset is None else self._offset
            self._offset = torch.where(point == request.x + before, before, point - request.x)

    def tell(self, velocity: Tensor) -> None:
        """Take the velocity at the point and move on.

        Raises:
            IndexError: the run is done.
        """
        if self.done:
            raise IndexError("the schedule is finished: every model call has been told")
        if self._moves:
            h, *self._moves = self._moves
            self._x = self._x + h * velocity
            self._state = self.sampler.resume(velocity)
            return
        self._resume()
        self._received = (*self._received, velocity)
        self._advance(velocity)

    def _resume(self) -> Evaluate | None:
        """The pending request of the sampler; makes the generator, and replays the current step, where there is none."""
        if self.done or self._moves:
            return None
        if self._work is None:
            self._work = self.sampler.step(self._x, self.steps[self._index], self._state)
            self._request = next(self._work)
            for v in self._received:
                self._request = self._work.send(v)
        return self._request

    def _advance(self, velocity: Tensor) -> None:
        assert self._work is not None
        try:
            self._request = self._work.send(velocity)
        except StopIteration as done:
            x, self._state = done.value
            self._x = x if self._offset is None else x + self._offset
            self._received, self._offset, self._work, self._request = (), None, None, None
            self._index += 1

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the generator, which neither pickles nor copies."""
        return {**self.__dict__, "_work": None, "_request": None}


def carry_dtype(x1: Tensor, carry: torch.dtype | None = None) -> torch.dtype:
    """The dtype of the state: ``carry`` if given, else float32, or float64 for a float64 start.

    Raises:
        ValueError: ``x1`` is not a floating tensor with a row dimension.
    """
    if not x1.is_floating_point() or x1.ndim < 1:
        raise ValueError(f"x1 of shape {tuple(x1.shape)} and dtype {x1.dtype}: the start is a floating (rows, ...) tensor")
    return carry or torch.promote_types(x1.dtype, torch.float32)


def _drive(
    velocity: Velocity,
    x1: Tensor,
    grid: SigmaGrid,
    sampler: SamplerLike,
    *,
    seed: Seeds | Noise | None,
    carry: torch.dtype | None,
    check: Check = None,
    grad: bool = False,
    seen: Callable[[Evaluation, Tensor, Tensor], None] | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """The direct driver; keeps the state of every node only when somebody looks on."""
    method = get_sampler(sampler)
    noise = _noise_for(method, seed)
    x = x1.to(carry_dtype(x1, carry))
    states = [x]
    with torch.set_grad_enabled(grad and torch.is_grad_enabled()):
        state = method.init(x)
        for at in steps_of(grid, noise):
            work = method.step(x, at, state)
            try:
                request = next(work)
                for stage in count():
                    where = Evaluation(at.index, stage, request.sigma)
                    v = _evaluate(velocity, request, x1.dtype, where, check)
                    if seen is not None:
                        seen(where, request.x, v)
                    request = work.send(v)
            except StopIteration as done:
                x, state = done.value
            if seen is not None:
                states.append(x)
    return x, states


def _evaluate(velocity: Velocity, request: Evaluate, dtype: torch.dtype, where: Evaluation, check: Check) -> Tensor:
    x = request.x
    sigma = torch.full((x.shape[0],), request.sigma, dtype=x.dtype, device=x.device)
    v = velocity(x.to(dtype), sigma)
    if v.shape != x.shape:
        raise ValueError(f"velocity returned shape {tuple(v.shape)} for x of shape {tuple(x.shape)}")
    if check == "finite" and not bool(torch.isfinite(v).all()):
        raise FloatingPointError(f"velocity is not finite at step {where.step}, stage {where.stage}, sigma {where.sigma}")
    return v.to(x.dtype)


def _noise_for(sampler: Sampler, seed: Seeds | Noise | None) -> Noise | None:
    if sampler.stochastic and seed is None:
        raise ValueError(
            f"seed=None: {type(sampler).__name__} draws noise; pass seed=<int>, a list with one int per row, or a Noise"
        )
    return as_noise(seed)


def _rms(x: Tensor) -> float:
    return float(x.detach().double().square().mean().sqrt())


@lru_cache(maxsize=1024)
def _dry_run(sampler: Sampler, grid: SigmaGrid) -> tuple[Evaluation, ...]:
    if sampler.adaptive:
        raise ValueError(f"{type(sampler).__name__} is adaptive: its model calls depend on the data, so there is no dry run")
    return _asked(sampler, steps_of(grid, _silence), sampler.init(_NOTHING))


_NOTHING = torch.zeros(1, dtype=torch.float64)


def _silence(like: Tensor, step: int, draw: int) -> Tensor:
    return torch.zeros_like(like)


def _asked(sampler: Sampler, steps: Iterable[Step], state: State) -> tuple[Evaluation, ...]:
    """What a sampler asks for over some steps when everything it is told is zero."""
    asked: list[Evaluation] = []
    x = _NOTHING
    for at in steps:
        work = sampler.step(x, at, state)
        try:
            request = next(work)
            for stage in count():
                asked.append(Evaluation(at.index, stage, request.sigma))
                request = work.send(torch.zeros_like(request.x))
        except StopIteration as done:
            x, state = done.value
    return tuple(asked)


def _beginning(sampler: Sampler, grid: SigmaGrid, begin: int) -> tuple[int, list[float]]:
    """Where a run stands that begins with the call ``begin``: the next whole step, and the Euler moves up to it.

    If the sampler, begun there, would not ask for the calls that are listed, the whole rest is Euler moves along them.
    """
    calls = dry_run(sampler, grid)
    if not 0 <= begin < len(calls):
        raise ValueError(f"begin={begin}: the run has {len(calls)} model calls, from 0")
    _, stage, sigma = calls[begin]
    step = calls[begin].step
    inside = begin > 0 and (stage > 0 or sigma != grid.sigmas[step])
    whole = step + 1 if inside else step
    moved = [c.sigma for c in calls[begin:] if c.step < whole]
    rest = tuple(c for c in calls[begin:] if c.step >= whole)
    state = sampler.resume(_NOTHING) if inside else sampler.init(_NOTHING)
    if _asked(sampler, list(steps_of(grid, _silence))[whole:], state) == rest:
        return whole, _differences([*moved, grid.sigmas[whole]]) if moved else []
    return grid.steps, _differences([*(c.sigma for c in calls[begin:]), grid.end])


def _differences(nodes: Sequence[float]) -> list[float]:
    return [b - a for a, b in pairwise(nodes)]


@dataclass(eq=False)
class _Waiting:
    """A run in lock-step, and what it is waiting for."""

    index: int
    run: Run
    work: Generator[Evaluate, Tensor, Tensor]
    request: Evaluate | None = None


def _start(run: Run, carry: torch.dtype | None) -> Generator[Evaluate, Tensor, Tensor]:
    sampler = get_sampler(run.sampler)
    noise = _noise_for(sampler, run.seeds)
    return _whole(sampler, run.x1.to(carry_dtype(run.x1, carry)), steps_of(run.grid, noise))


def _whole(sampler: Sampler, x: Tensor, steps: Iterable[Step]) -> Generator[Evaluate, Tensor, Tensor]:
    """A whole run as one generator."""
    state = sampler.init(x)
    for at in steps:
        x, state = yield from sampler.step(x, at, state)
    return x


def _check_alike(runs: Sequence[Run]) -> None:
    kinds = {(tuple(r.x1.shape[1:]), r.x1.dtype, r.x1.device) for r in runs}
    if len(kinds) > 1:
        raise ValueError(f"runs: rows in lock-step share one shape, dtype and device, not {sorted(map(str, kinds))}")


def _evaluate_batched(
    flow: Flow, waiting: Sequence[_Waiting], max_batch: int, on_call: Callable[[int], None] | None
) -> tuple[Tensor, ...]:
    """The velocities of all pending requests, in batches of at most ``max_batch`` rows."""
    requests = [w.request for w in waiting if w.request is not None]
    rows = [r.x.shape[0] for r in requests]
    x = torch.cat([r.x for r in requests])
    sigma = torch.cat([x.new_full((n,), r.sigma) for n, r in zip(rows, requests, strict=True)])
    condition = [w.run.condition for w, n in zip(waiting, rows, strict=True) for _ in range(n)]
    dtype = waiting[0].run.x1.dtype
    parts: list[Tensor] = []
    for lo in range(0, x.shape[0], max_batch):
        hi = lo + max_batch
        xs = x[lo:hi]
        v = flow.velocity(xs.to(dtype), sigma[lo:hi], condition[lo:hi])
        if v.shape != xs.shape:
            raise ValueError(f"velocity returned shape {tuple(v.shape)} for x of shape {tuple(xs.shape)}")
        parts.append(v.to(x.dtype))
        if on_call is not None:
            on_call(xs.shape[0])
    return torch.cat(parts).split(rows)
