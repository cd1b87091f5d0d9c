"""Run a sampler over a schedule with your model.

`integrate` is the loop over all steps, as a generator: it yields the sampler's requests, receives velocities, and calls ``on_step``
after every step. `sample` answers the requests with your model, `dry_run` and `largest_steps` with zeros. `flowsamplers.tracing`
keeps a record, `flowsamplers.lockstep` answers many runs together, and `flowsamplers.stepper` serves programs that own the loop.

Precision: the state has the dtype ``carry``, by default float32, or float64 for a float64 start. The model gets a copy of it in
the dtype of the start. The model's velocity is copied and cast up before the sampler sees it. So a model may edit its input and
reuse its output.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import count, islice
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from flowsamplers._accepted import flag, function, integer, refused, unknown
from flowsamplers._counted import Counted
from flowsamplers.edits import Edits, remembered
from flowsamplers.grid import GridLike, SigmaGrid, as_grid
from flowsamplers.noise import Interval, Noise, Seeds, as_noise
from flowsamplers.registry import get_sampler
from flowsamplers.sampler import Evaluate, Running, Sampler, SamplerLike, State, Step, steps_of

Velocity: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""``velocity(x, sigma)``: x is ``(rows, ...)``, sigma ``(rows,)``; returns ``v`` shaped like x."""

Check: TypeAlias = Literal["finite"] | None
"""``"finite"`` checks every velocity, and the error names the step of one that is not finite. Each check waits for the device."""


class Evaluation(NamedTuple):
    """One model call of a run: its step, its stage within the step, and its sigma."""

    step: int
    stage: int
    sigma: float


class Request(NamedTuple):
    """A sampler's request with its position in the run."""

    x: Tensor
    sigma: float
    at: Evaluation


Work: TypeAlias = Generator[Evaluate | Request, Tensor, Any]
"""The type of a whole run: it yields requests, receives velocities, and returns a result."""


class Stop(Exception):  # noqa: N818  (nothing went wrong)
    """Raise this in ``on_step`` to end the run; the run then returns its current state.

    Examples:
        >>> def first_step_only(end):
        ...     raise Stop
        >>> sample(lambda x, sigma: x, torch.ones(1), SigmaGrid([1.0, 0.5, 0.0]), on_step=first_step_only)
        tensor([0.5000])
    """


@dataclass(frozen=True, eq=False)
class StepEnd:
    r"""The argument of ``on_step``: the run after a step.

    Attributes:
        x: the state, ``(rows, ...)``, in the carry dtype. It is a copy that you may keep.
        sigma: current noise level of the run.
        index: index of the step that has ended, from 0.
        count: number of steps in the run.
    """

    x: Tensor
    sigma: float
    index: int
    count: int
    _last: tuple[Tensor, float, Tensor] = field(repr=False)

    @cached_property
    def preview(self) -> Tensor:
        r"""The current estimate of the data, $x - \sigma v$ at the step's last model call; at sigma 0 the state itself.

        It needs no extra model call. Like ``x``, it has the carry dtype.
        """
        x, sigma, v = self._last
        return self.x if self.sigma == 0 else x - sigma * v


OnStep: TypeAlias = Callable[[StepEnd], Tensor | None]
"""A callback after every step. It may return an edited state, shaped like ``x``, from which the run continues; or raise `Stop`."""


def integrate(
    sampler: Sampler,
    x: Tensor,
    steps: Iterable[Step],
    on_step: OnStep | None = None,
    init: Callable[[Tensor], State] | None = None,
) -> Generator[Request, Tensor, Tensor]:
    """Make a whole run as one generator: it yields requests, receives velocities, and returns the last state.

    Args:
        sampler: the sampler.
        x: start, in the carry dtype.
        steps: the steps to take, see `flowsamplers.sampler.steps_of`.
        on_step: see `OnStep`. After an edit, latents in the sampler's state move by the same amount (`Sampler.translate`). Elements
            that were moved far continue with Euler steps at first, see `flowsamplers.edits.Edits`.
        init: makes the state before the first step; by default ``sampler.init``.
    """
    state: State = (init or sampler.init)(x)
    watched = None if on_step is None else _Watched(sampler, on_step)
    for at in steps:
        step = Running(sampler.step(x, at, state))
        if watched is not None:
            watched.begins(x, state)
        for stage in count():
            if step.request is None:
                break
            request = Request(*step.request, Evaluation(at.index, stage, step.request.sigma))
            if watched is None:
                step.send((yield request))
            else:
                step.send(watched.record(request, (yield request)))
        x, state = step.result
        if watched is not None:
            try:
                x, state = watched.ends(at, x, state)
            except Stop:
                return x
    return x


class _Watched:
    """What happens at the end of every step where somebody watches: ``on_step``, and what its edits do to the memory."""

    def __init__(self, sampler: Sampler, on_step: OnStep) -> None:
        self.sampler, self.on_step, self.edits = sampler, on_step, Edits(draws_noise=sampler.draws_noise)
        self.calls = list[tuple[Request, Tensor]]()

    def begins(self, x: Tensor, state: State) -> None:
        self.start, self.memory, self.calls = x, remembered(state), []

    def record(self, request: Request, v: Tensor) -> Tensor:
        self.calls = [*self.calls[:1], (request, v)]
        return v

    def ends(self, at: Step, x: Tensor, state: State) -> tuple[Tensor, State]:
        """The state and what is remembered, as edited."""
        (begun, first), (request, last) = self.calls[0], self.calls[-1]
        if self.edits.pending:
            x = x + self.edits.settled(x, self.start + at.h * first, self.memory, step_ends=True)
            self.edits.forget(remembered(state))
        self.edits.moves(at.h, first)
        if begun.sigma == at.s0 and (self.memory or len(self.calls) > 1):
            self.edits.stepped(self.start, x, at.h, first)
        given = self.on_step(StepEnd(x.clone(), at.s1, at.index, at.count, (request.x, request.sigma, last)))
        if given is None:
            return x, state
        edited = _checked(given, x)
        if remembered(state):
            self.edits.edited(edited - x)
        return edited, self.sampler.translate(state, edited - x)


def _checked(edited: Tensor, x: Tensor) -> Tensor:
    """A copy of the state that ``on_step`` returned, like x."""
    if not isinstance(edited, Tensor) or edited.shape != x.shape:
        what = f"shape {tuple(edited.shape)}" if isinstance(edited, Tensor) else type(edited).__name__
        raise ValueError(f"on_step returned {what}: return None, or an edited state of shape {tuple(x.shape)}")
    return edited.to(x, copy=True)


def sample(
    velocity: Velocity,
    x1: Tensor | np.ndarray[Any, Any],
    grid: GridLike | Any,
    sampler: SamplerLike = "euler",
    *,
    seed: Seeds | Noise | None = None,
    carry: torch.dtype | None = None,
    check: Check = None,
    grad: bool = False,
    on_step: OnStep | None = None,
    progress: bool = False,
) -> Tensor:
    r"""Sample: integrate $dx/d\sigma = v(x, \sigma)$ over a schedule, from noise to data.

    Args:
        velocity: ``velocity(x, sigma)`` with x like ``x1`` and sigma ``(rows,)``; returns v shaped like x. It may edit its x in place,
            and may return the same tensor every time.
        x1: start, ``(rows, ...)``, any floating dtype, on any device; pure noise for a grid that starts at 1. A numpy array is copied
            into a tensor.
        grid: the schedule, as a `SigmaGrid` or its sigmas (a list, tuple, array or tensor). A `Solver` holds both a schedule
            and a sampler.
        sampler: a name, a specification, a configuration, or a sampler.
        seed: for a stochastic sampler: an int, a list with one int per row, or a `noise.Noise`.
        carry: dtype of the state; by default float32, or float64 if ``x1`` is float64.
        check: ``"finite"`` raises at the first velocity that is not finite.
        grad: record the run for autograd.
        on_step: called with a `StepEnd` after every step, for previews; it may return an edited state, or raise `Stop`.
        progress: show a progress bar (tqdm) that counts model calls.

    Returns:
        The state at ``grid.end``, with the shape, dtype and device of ``x1``.

    Raises:
        ValueError: the sampler is unknown; a stochastic sampler has no seed or a rising grid; a velocity has the wrong shape.
        TypeError: ``grid`` is no grid, or ``sampler`` no sampler.
        FloatingPointError: with ``check="finite"``, a velocity is not finite; the message names step, stage and sigma.

    Examples:
        >>> x1 = torch.ones(2, 3)
        >>> sample(lambda x, sigma: x, x1, SigmaGrid([1.0, 0.5, 0.0]), "euler")[0]
        tensor([0.2500, 0.2500, 0.2500])
        >>> sample(lambda x, sigma: x, x1, SigmaGrid([1.0, 0.5, 0.0]), on_step=lambda end: print(end.sigma, end.preview[0, 0]))[0]
        0.5 tensor(0.)
        0.0 tensor(0.2500)
        tensor([0.2500, 0.2500, 0.2500])
    """
    solver: Any = grid
    if hasattr(solver, "as_sampler"):  # a `Solver` is both
        grid, sampler = solver.grid, solver
    method, grid, x1 = get_sampler(sampler), as_grid(grid), as_start(x1)
    with _bar(method, grid, show=flag("progress", progress)) as count_call:
        x = run_directly(
            velocity, x1, grid, method, seed, carry, check, grad=flag("grad", grad), on_step=on_step, seen=count_call
        )
    return x.to(x1.dtype)


def run_directly(
    velocity: Velocity,
    x1: Tensor,
    grid: SigmaGrid,
    sampler: Sampler,
    seed: Seeds | Noise | None,
    carry: torch.dtype | None,
    check: Check = None,
    *,
    grad: bool = False,
    on_step: OnStep | None = None,
    seen: Callable[[Request, Tensor], None] | None = None,
) -> Tensor:
    """Drive a run with a model, one request at a time."""
    check_callable(velocity)
    if check not in (None, "finite"):
        raise unknown("check", check, ["finite"])
    function("on_step", on_step, "a function of one StepEnd")
    dtype, noise = carry_dtype(x1, carry), noise_for(sampler, grid, seed)
    with torch.set_grad_enabled(grad and torch.is_grad_enabled()):
        run = Running(integrate(sampler, x1.to(dtype, copy=True), steps_of(grid, noise), on_step))
        while (request := run.request) is not None:
            v = evaluate(velocity, request, x1.dtype, check)
            if seen is not None:
                seen(request, v)
            run.send(v)
    return run.result


def evaluate(velocity: Velocity, request: Request, dtype: torch.dtype, check: Check = None) -> Tensor:
    """Compute the requested velocity, in the request's dtype; the model gets ``dtype``.

    The model gets a copy of the state, and the velocity is copied, so neither side sees the other's edits.
    """
    x = request.x
    sigma = torch.full((x.shape[0],), request.sigma, dtype=x.dtype, device=x.device)
    try:
        v = velocity(x.to(dtype, copy=True), sigma)
    except StopIteration as error:
        raise RuntimeError(f"velocity raised StopIteration at {_place(request)}") from error
    check_velocity(v, x)
    if check == "finite" and not bool(torch.isfinite(v).all()):
        raise FloatingPointError(f"velocity is not finite at {_place(request)}")
    return v.to(x.dtype, copy=True)


def check_callable(velocity: Any) -> None:
    """Raise a ValueError if a velocity field is not a function."""
    if not callable(velocity) or isinstance(velocity, type):
        raise refused("velocity", velocity, "a function velocity(x, sigma)")


def check_velocity(v: Any, x: Tensor) -> None:
    """Raise a ValueError if a model did not return a real tensor with the shape of ``x``."""
    if not isinstance(v, Tensor):
        raise ValueError(f"velocity returned {type(v).__name__}, not a tensor")
    if v.shape != x.shape:
        raise ValueError(f"velocity returned shape {tuple(v.shape)} for x of shape {tuple(x.shape)}")
    if v.is_complex():
        raise ValueError(f"velocity returned {v.dtype}: a velocity is real")


def _place(request: Request) -> str:
    return f"step {request.at.step}, stage {request.at.stage}, sigma {request.sigma}"


@contextmanager
def _bar(sampler: Sampler, grid: SigmaGrid, *, show: bool) -> Generator[Callable[[Request, Tensor], None] | None, None, None]:
    """What counts model calls on a progress bar, if one is to be shown."""
    if not show:
        yield None
        return
    try:
        from tqdm.auto import tqdm  # noqa: PLC0415
    except ImportError as error:
        raise ImportError("progress=True needs tqdm: pip install tqdm") from error
    with tqdm(total=None if sampler.adaptive else nfe(sampler, grid), unit="call") as bar:

        def count_call(_request: Request, _velocity: Tensor) -> None:
            bar.update()

        yield count_call


def dry_run(sampler: SamplerLike, grid: GridLike) -> tuple[Evaluation, ...]:
    """List every model call that a run will make, without calling a model.

    The sampler runs with zeros in place of velocities.

    Args:
        sampler: see `sample`.
        grid: see `sample`.

    Raises:
        ValueError: the sampler is adaptive, so its calls depend on the data; or it is stochastic and the grid rises.
        TypeError: the sampler is not an immutable object, or ``grid`` is no grid.

    Examples:
        >>> [e.sigma for e in dry_run("midpoint", SigmaGrid([1.0, 0.5, 0.0]))]
        [1.0, 0.75, 0.5, 0.25]
    """
    method, grid = get_sampler(sampler), as_grid(grid)
    if type(method).__hash__ is None:
        raise TypeError(
            f"{type(method).__name__} is not hashable: a sampler is an immutable value, use @dataclass(frozen=True)"
        )
    return (_short if grid.steps <= FEW else _long)(method, grid)


def nfe(sampler: SamplerLike, grid: GridLike) -> int:
    """Count the model calls of a run, without calling a model.

    Examples:
        >>> nfe("rk4", SigmaGrid([1.0, 0.5, 0.0]))
        8
    """
    return len(dry_run(sampler, grid))


def largest_steps(sampler: SamplerLike, calls: int, grid_of: Callable[[int], GridLike]) -> int:
    """Find the largest number of steps that needs at most ``calls`` model calls; 0 if not even one step fits.

    Most samplers need more calls for more steps. Some, such as Restart, may need fewer. So `BEYOND` more numbers are tried after
    the one that bisection finds.

    Args:
        sampler: a name, a configuration, or a sampler.
        calls: number of model calls to spend.
        grid_of: returns the schedule with n steps.

    Raises:
        ValueError: the sampler is adaptive.

    Examples:
        >>> from flowsamplers.schedules import linear
        >>> largest_steps("heun", 9, linear), largest_steps("rk4", 3, linear)
        (4, 0)
    """
    method = _with_fixed_calls(get_sampler(sampler))
    calls = integer("calls", calls, 0)
    if not callable(grid_of):
        raise refused("grid_of", grid_of, "a function of the number of steps that returns a grid")

    def fits(steps: int) -> bool:
        made = _calls(integrate(method, NOTHING, steps_of(as_grid(grid_of(steps), "grid_of"), silence)))
        return len(list(islice(made, calls + 1))) <= calls

    low, high = 0, calls
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return next(filter(fits, range(min(low + BEYOND, calls), low, -1)), low)


def live_latents(sampler: SamplerLike, grid: GridLike) -> int:
    """Measure how many tensors of the state's size a run holds at its peak, without calling a model.

    It counts distinct blocks of memory: the state, the sampler's state, and temporary results. It does not count the model's
    memory, nor the copies given to the model.

    Args:
        sampler: a name, a configuration, or a sampler; adaptive samplers too.
        grid: the schedule. A few steps suffice, once a multistep method has its whole history.

    Examples:
        >>> grid = SigmaGrid([1.0, 0.7, 0.3, 0.0])
        >>> live_latents("euler", grid) < live_latents("rk4", grid)
        True
    """
    method, grid = get_sampler(sampler), as_grid(grid)
    _check_direction(method, grid)
    counted = Counted.counting()
    deque(_calls(integrate(method, counted(NOTHING.new_zeros(1, 16)), steps_of(grid, silence))), maxlen=0)
    return counted.peak


def as_start(x1: Tensor | np.ndarray[Any, Any]) -> Tensor:
    """Return the start as a tensor; a numpy array is copied. See `check_start`."""
    return check_start(torch.from_numpy(x1.copy()) if isinstance(x1, np.ndarray) else x1)


def check_start(x1: Tensor) -> Tensor:
    """Return a start; raise a ValueError if it is not a floating tensor with a row dimension."""
    if not isinstance(x1, Tensor):
        raise ValueError(f"x1 is of type {type(x1).__name__}: the start is a floating (rows, ...) tensor or numpy array")
    if not x1.is_floating_point() or x1.ndim < 1 or x1.layout is not torch.strided:
        raise ValueError(f"x1 of shape {tuple(x1.shape)}, {x1.dtype}, {x1.layout}: the start is a floating (rows, ...) tensor")
    return x1


def carry_dtype(x1: Tensor, carry: torch.dtype | None = None) -> torch.dtype:
    """Choose the dtype of the state: ``carry`` if given, else float32, or float64 for a float64 start.

    Raises:
        ValueError: ``carry`` is no floating dtype.
    """
    if carry is not None and not (isinstance(carry, torch.dtype) and carry.is_floating_point):
        raise ValueError(f"carry={carry!r}: the state is carried in a floating dtype, such as torch.float32")
    return carry or torch.promote_types(x1.dtype, torch.float32)


def noise_for(sampler: Sampler, grid: SigmaGrid, seed: Seeds | Noise | None) -> Noise | None:
    """Make the noise of a run; refuse a stochastic sampler without a seed or on a rising grid."""
    _check_direction(sampler, grid)
    if sampler.stochastic and seed is None:
        raise ValueError(
            f"seed=None: {type(sampler).__name__} draws noise; pass seed=<int>, a list with one int per row, or a Noise"
        )
    return as_noise(seed)


def _check_direction(sampler: Sampler, grid: SigmaGrid) -> None:
    """Noise on the way to noise is another process than the flow's, and no sampler's."""
    if grid.rising and sampler.draws_noise:
        option = f"; {sampler.noise_option}=0 goes both ways" if sampler.noise_option in sampler.options else ""
        raise ValueError(
            f"grid from sigma {grid.start} to {grid.end}: {type(sampler).__name__} draws noise, and with noise a run goes down, "
            f"from noise to data{option}"
        )


def _dry_run(sampler: Sampler, grid: SigmaGrid) -> tuple[Evaluation, ...]:
    _check_direction(sampler, grid)
    return planned_calls(_with_fixed_calls(sampler), steps_of(grid, silence), sampler.init(NOTHING))


FEW = 200
"""Dry runs with at most this many steps are cached for long."""
_short, _long = lru_cache(maxsize=128)(_dry_run), lru_cache(maxsize=2)(_dry_run)


def _with_fixed_calls(sampler: Sampler) -> Sampler:
    if sampler.adaptive:
        raise ValueError(f"{type(sampler).__name__} is adaptive: its model calls depend on the data, so there is no dry run")
    return sampler


NOTHING = torch.zeros(1, dtype=torch.float64, device="cpu")
BEYOND = 8
"""Number of further step counts that `largest_steps` tries after bisection."""


def silence(like: Tensor, step: int, draw: int, interval: Interval | None = None) -> Tensor:
    """Return zeros: the noise of a dry run."""
    return torch.zeros_like(like)


def planned_calls(sampler: Sampler, steps: Iterable[Step], state: State) -> tuple[Evaluation, ...]:
    """List a sampler's model calls over some steps when every velocity is zero."""
    return tuple(_calls(integrate(sampler, NOTHING, steps, init=lambda _: state)))


def _calls(work: Generator[Request, Tensor, Any]) -> Iterator[Evaluation]:
    """The model calls of a run whose velocities are zeros."""
    run = Running(work)
    while (request := run.request) is not None:
        yield request.at
        run.send(torch.zeros_like(request.x))
