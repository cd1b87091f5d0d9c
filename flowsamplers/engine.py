"""The engine: the one loop that runs a sampler over a schedule and asks for velocities.

`whole` is that loop, as a generator: it yields what the sampler asks for, is sent velocities, and calls ``on_step`` after every step.
`sample` answers its requests with your model, `dry_run` and `largest_steps` with zeros. `flowsamplers.tracing` keeps a record,
`flowsamplers.lockstep` answers many runs together, and `flowsamplers.stepper` turns the loop inside out for hosts that own it.

Precision is decided here. The state is carried in ``carry``, by default float32, or float64 for a float64 start; the model
is given a cast to the input's dtype; its velocity is cast up before the sampler sees it. Tensors belong to who made them: the model
gets a copy of the state, and the sampler gets a copy of the velocity, so a model may edit its input and reuse its output.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import count, takewhile
from numbers import Integral
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from flowsamplers._counted import Counted
from flowsamplers._errors import unknown
from flowsamplers.edits import Edits, remembered
from flowsamplers.grid import GridLike, SigmaGrid, as_grid
from flowsamplers.noise import Clock, Noise, Seeds, as_noise
from flowsamplers.sampler import Evaluate, Running, Sampler, SamplerLike, State, Step, get_sampler, steps_of

Velocity: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""``velocity(x, sigma)``: x is ``(rows, ...)``, sigma ``(rows,)``; returns ``v`` shaped like x."""

Check: TypeAlias = Literal["finite"] | None
"""``"finite"`` looks at every velocity and names the step of one that is not finite; this waits for the device."""


class Evaluation(NamedTuple):
    """One call of the model within a run: which step, which stage of it, and at which sigma."""

    step: int
    stage: int
    sigma: float


class Asked(NamedTuple):
    """A sampler's request, with its place in the run."""

    x: Tensor
    sigma: float
    at: Evaluation


Work: TypeAlias = Generator[Evaluate | Asked, Tensor, Any]
"""Yields requests, is sent velocities, returns a result."""


class Stop(Exception):  # noqa: N818  (nothing went wrong)
    """Raise it in ``on_step`` to end the run there; the result is the state that the run has reached.

    Examples:
        >>> def first_step_only(end):
        ...     raise Stop
        >>> sample(lambda x, sigma: x, torch.ones(1), SigmaGrid([1.0, 0.5, 0.0]), on_step=first_step_only)
        tensor([0.5000])
    """


@dataclass(frozen=True, eq=False)
class StepEnd:
    r"""What ``on_step`` is given at the end of every step.

    Attributes:
        x: the state, ``(rows, ...)``, in the carry dtype; a copy, which is yours to keep.
        sigma: the noise level that the run has reached.
        index: which step has ended, from 0.
        count: how many steps the run has.
    """

    x: Tensor
    sigma: float
    index: int
    count: int
    _last: tuple[Tensor, float, Tensor] = field(repr=False)

    @cached_property
    def preview(self) -> Tensor:
        r"""The current estimate of the data, $x - \sigma v$ at the step's last model call; at sigma 0 the state itself.

        It takes no model call. Like ``x``, it is in the carry dtype.
        """
        x, sigma, v = self._last
        return self.x if self.sigma == 0 else x - sigma * v


OnStep: TypeAlias = Callable[[StepEnd], Tensor | None]
"""Called after every step. It may return an edited state, shaped like ``x``, with which the run goes on; or raise `Stop`."""


def whole(
    sampler: Sampler,
    x: Tensor,
    steps: Iterable[Step],
    on_step: OnStep | None = None,
    init: Callable[[Tensor], State] | None = None,
) -> Generator[Asked, Tensor, Tensor]:
    """The engine: a whole run as one generator that yields requests, is sent velocities, and returns the last state.

    Args:
        sampler: the method.
        x: start, in the carry dtype.
        steps: the steps to take, see `flowsamplers.sampler.steps_of`.
        on_step: see `OnStep`. What the sampler remembers as places in space moves along with an edit (`Sampler.moved`), so
            that the edit is never taken for a derivative; what was moved far goes on by Euler steps at first, see
            `flowsamplers.edits.Edits`.
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
            asked = Asked(*step.request, Evaluation(at.index, stage, step.request.sigma))
            if watched is None:
                step.tell((yield asked))
            else:
                step.tell(watched.told(asked, (yield asked)))
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
        self.sampler, self.on_step, self.edits = sampler, on_step, Edits()
        self.told_of = list[tuple[Asked, Tensor]]()

    def begins(self, x: Tensor, state: State) -> None:
        self.start, self.memory, self.told_of = x, remembered(state), []

    def told(self, asked: Asked, v: Tensor) -> Tensor:
        self.told_of = [*self.told_of[:1], (asked, v)]
        return v

    def ends(self, at: Step, x: Tensor, state: State) -> tuple[Tensor, State]:
        """The state and what is remembered, as edited."""
        (begun, first), (asked, last) = self.told_of[0], self.told_of[-1]
        if self.edits.pending:
            x = x + self.edits.settled(x, self.start + at.h * first, self.memory, step_ends=True)
            self.edits.forget(remembered(state))
        self.edits.moves(at.h, first)
        if begun.sigma == at.s0 and (self.memory or len(self.told_of) > 1):
            self.edits.stepped(self.start, x, at.h, first)
        given = self.on_step(StepEnd(x.clone(), at.s1, at.index, at.count, (asked.x, asked.sigma, last)))
        if given is None:
            return x, state
        edited = _checked(given, x)
        if remembered(state):
            self.edits.edited(edited - x)
        return edited, self.sampler.moved(state, edited - x)


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
    r"""Integrate $dx/d\sigma = v(x, \sigma)$ over a grid.

    Args:
        velocity: ``velocity(x, sigma)`` with x like ``x1`` and sigma ``(rows,)``; returns v shaped like x. It may edit its x, and return
            the same tensor every time.
        x1: start, ``(rows, ...)``, any floating dtype, on any device; pure noise for a grid that starts at 1. A numpy array is copied
            into a tensor.
        grid: the schedule, as a `SigmaGrid` or its sigmas (a list, tuple, array or tensor); or a `Solver`, which has its own and its
            sampler.
        sampler: a name, a specification, a configuration, or a sampler.
        seed: for a stochastic sampler: an int, a list with one int per row, or a `noise.Noise`.
        carry: dtype of the state; by default float32, or float64 if ``x1`` is.
        check: ``"finite"`` raises at the first velocity that is not finite.
        grad: record the run for autograd.
        on_step: called with a `StepEnd` after every step, for previews; it may return an edited state, or raise `Stop`.
        progress: show a progress bar (tqdm) that counts model calls.

    Returns:
        The state at ``grid.end``, with the shape, dtype and device of ``x1``.

    Raises:
        ValueError: unknown sampler, a stochastic one without a seed or on a rising grid, a velocity of the wrong shape.
        TypeError: something that is no grid, or no sampler.
        FloatingPointError: with ``check="finite"``, a velocity that is not finite; names step, stage and sigma.

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
    with _bar(method, grid, show=progress) as count_call:
        x = run_directly(velocity, x1, grid, method, seed, carry, check, grad=grad, on_step=on_step, seen=count_call)
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
    seen: Callable[[Asked, Tensor], None] | None = None,
) -> Tensor:
    """A run whose requests a model answers one by one."""
    if not callable(velocity):
        raise ValueError(f"velocity={velocity!r}: pass a function velocity(x, sigma)")
    if check not in (None, "finite"):
        raise unknown("check", check, ["finite"])
    if on_step is not None and not callable(on_step):
        raise ValueError(f"on_step={on_step!r}: pass a function of one StepEnd")
    dtype, noise = carry_dtype(x1, carry), noise_for(sampler, grid, seed)
    with torch.set_grad_enabled(grad and torch.is_grad_enabled()):
        run = Running(whole(sampler, x1.to(dtype, copy=True), steps_of(grid, noise), on_step))
        while (asked := run.request) is not None:
            v = evaluate(velocity, asked, x1.dtype, check)
            if seen is not None:
                seen(asked, v)
            run.tell(v)
    return run.result


def evaluate(velocity: Velocity, asked: Asked, dtype: torch.dtype, check: Check = None) -> Tensor:
    """The velocity that a request asks for, in the request's dtype; the model sees ``dtype``.

    Neither side can see the other's edits: the model is given a copy of the state, and what comes back is a copy.
    """
    x = asked.x
    sigma = torch.full((x.shape[0],), asked.sigma, dtype=x.dtype, device=x.device)
    try:
        v = velocity(x.to(dtype, copy=True), sigma)
    except StopIteration as error:
        raise RuntimeError(f"velocity raised StopIteration at {_place(asked)}") from error
    check_velocity(v, x)
    if check == "finite" and not bool(torch.isfinite(v).all()):
        raise FloatingPointError(f"velocity is not finite at {_place(asked)}")
    return v.to(x.dtype, copy=True)


def check_velocity(v: Any, x: Tensor) -> None:
    """Refuse what a model returned unless it is a real tensor of the shape of ``x``.

    Raises:
        ValueError: another type, shape or kind of number.
    """
    if not isinstance(v, Tensor):
        raise ValueError(f"velocity returned {type(v).__name__}, not a tensor")
    if v.shape != x.shape:
        raise ValueError(f"velocity returned shape {tuple(v.shape)} for x of shape {tuple(x.shape)}")
    if v.is_complex():
        raise ValueError(f"velocity returned {v.dtype}: a velocity is real")


def _place(asked: Asked) -> str:
    return f"step {asked.at.step}, stage {asked.at.stage}, sigma {asked.sigma}"


@contextmanager
def _bar(sampler: Sampler, grid: SigmaGrid, *, show: bool) -> Generator[Callable[[Asked, Tensor], None] | None, None, None]:
    """What counts model calls on a progress bar, if one is to be shown."""
    if not show:
        yield None
        return
    try:
        from tqdm.auto import tqdm  # noqa: PLC0415
    except ImportError as error:
        raise ImportError("progress=True needs tqdm: pip install tqdm") from error
    with tqdm(total=None if sampler.adaptive else nfe(sampler, grid), unit="call") as bar:

        def count_call(_asked: Asked, _velocity: Tensor) -> None:
            bar.update()

        yield count_call


def dry_run(sampler: SamplerLike, grid: GridLike) -> tuple[Evaluation, ...]:
    """Every model call that a run will make, before anything is run: the sampler is driven with zeros.

    Args:
        sampler: see `sample`.
        grid: see `sample`.

    Raises:
        ValueError: the sampler is adaptive, so its calls depend on the data; a stochastic one on a rising grid.
        TypeError: the sampler is not an immutable value, or the grid is none.

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
    """How many model calls a run makes, from the dry run.

    Examples:
        >>> nfe("rk4", SigmaGrid([1.0, 0.5, 0.0]))
        8
    """
    return len(dry_run(sampler, grid))


def largest_steps(sampler: SamplerLike, calls: int, grid_of: Callable[[int], GridLike]) -> int:
    """The largest number of steps whose dry run needs at most so many model calls; 0 if not even one fits.

    Calls grow with steps, but not always by each step: a policy that acts between two sigmas, as Restart's, may need fewer calls for
    more steps. So beyond the largest number that halving finds, `BEYOND` more are tried.

    Args:
        sampler: a name, a configuration, or a sampler.
        calls: model calls to spend.
        grid_of: the schedule of n steps.

    Raises:
        ValueError: the sampler is adaptive.

    Examples:
        >>> from flowsamplers.schedules import linear
        >>> largest_steps("heun", 9, linear), largest_steps("rk4", 3, linear)
        (4, 0)
    """
    method = _with_fixed_calls(get_sampler(sampler))
    if isinstance(calls, bool) or not isinstance(calls, Integral):
        raise ValueError(f"calls={calls!r}: a number of model calls is a whole number")

    def fits(steps: int) -> bool:
        asked: list[Evaluation] = []
        unspent = takewhile(lambda _: len(asked) <= calls, steps_of(as_grid(grid_of(steps), "grid_of"), silence))
        _unanswered(whole(method, NOTHING, unspent), asked)
        return len(asked) <= calls

    low, high = 0, calls
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return next(filter(fits, range(min(low + BEYOND, calls), low, -1)), low)


def live_latents(sampler: SamplerLike, grid: GridLike) -> int:
    """How many tensors of the state's size a run holds at its peak, measured on a run with zeros.

    Counted are distinct memories: the state, what the sampler remembers, and the results of its arithmetic. What the model holds is
    its own, and so are the copies that it is given.

    Args:
        sampler: a name, a configuration, or a sampler; adaptive ones too.
        grid: the schedule. A handful of steps shows the peak, as soon as a multistep method has its history.

    Examples:
        >>> grid = SigmaGrid([1.0, 0.7, 0.3, 0.0])
        >>> live_latents("euler", grid) < live_latents("rk4", grid)
        True
    """
    method, grid = get_sampler(sampler), as_grid(grid)
    _check_direction(method, grid)
    counted = Counted.counting()
    run = Running(whole(method, counted(torch.zeros(1, 16, dtype=torch.float64, device="cpu")), steps_of(grid, silence)))
    while (asked := run.request) is not None:
        run.tell(torch.zeros_like(asked.x))
    return counted.peak


def as_start(x1: Tensor | np.ndarray[Any, Any]) -> Tensor:
    """The start as a tensor: a numpy array is copied."""
    return torch.from_numpy(x1.copy()) if isinstance(x1, np.ndarray) else x1


def carry_dtype(x1: Tensor, carry: torch.dtype | None = None) -> torch.dtype:
    """The dtype of the state: ``carry`` if given, else float32, or float64 for a float64 start.

    Raises:
        ValueError: ``x1`` is not a floating tensor with a row dimension.
    """
    if not isinstance(x1, Tensor):
        raise ValueError(f"x1 is of type {type(x1).__name__}: the start is a floating (rows, ...) tensor or numpy array")
    if carry is not None and not (isinstance(carry, torch.dtype) and carry.is_floating_point):
        raise ValueError(f"carry={carry!r}: the state is carried in a floating dtype, such as torch.float32")
    if not x1.is_floating_point() or x1.ndim < 1:
        raise ValueError(f"x1 of shape {tuple(x1.shape)} and dtype {x1.dtype}: the start is a floating (rows, ...) tensor")
    return carry or torch.promote_types(x1.dtype, torch.float32)


def noise_for(sampler: Sampler, grid: SigmaGrid, seed: Seeds | Noise | None) -> Noise | None:
    """The noise of a run; refuses a stochastic sampler without a seed, and on a grid that rises."""
    _check_direction(sampler, grid)
    if sampler.stochastic and seed is None:
        raise ValueError(
            f"seed=None: {type(sampler).__name__} draws noise; pass seed=<int>, a list with one int per row, or a Noise"
        )
    return as_noise(seed)


def _check_direction(sampler: Sampler, grid: SigmaGrid) -> None:
    """Noise on the way to noise is another process than the flow's, and no sampler's."""
    if grid.rising and sampler.noisy:
        option = f"; {sampler.noise_option}=0 goes both ways" if sampler.noise_option in sampler.options else ""
        raise ValueError(
            f"grid from sigma {grid.start} to {grid.end}: {type(sampler).__name__} draws noise, and with noise a run goes down, "
            f"from noise to data{option}"
        )


def _dry_run(sampler: Sampler, grid: SigmaGrid) -> tuple[Evaluation, ...]:
    _check_direction(sampler, grid)
    return asked_for(_with_fixed_calls(sampler), steps_of(grid, silence), sampler.init(NOTHING))


FEW = 200
"""Steps of a run whose dry run is remembered for long."""
_short, _long = lru_cache(maxsize=128)(_dry_run), lru_cache(maxsize=2)(_dry_run)


def _with_fixed_calls(sampler: Sampler) -> Sampler:
    if sampler.adaptive:
        raise ValueError(f"{type(sampler).__name__} is adaptive: its model calls depend on the data, so there is no dry run")
    return sampler


NOTHING = torch.zeros(1, dtype=torch.float64, device="cpu")
BEYOND = 8
"""How many more steps `largest_steps` tries than fit by halving."""


def silence(like: Tensor, step: int, draw: int, clock: Clock | None = None) -> Tensor:
    """The noise of a dry run: none."""
    return torch.zeros_like(like)


def asked_for(sampler: Sampler, steps: Iterable[Step], state: State) -> tuple[Evaluation, ...]:
    """What a sampler asks for over some steps when everything it is told is zero."""
    asked: list[Evaluation] = []
    _unanswered(whole(sampler, NOTHING, steps, init=lambda _: state), asked)
    return tuple(asked)


def _unanswered(work: Generator[Asked, Tensor, Any], found: list[Evaluation]) -> None:
    """Answer every request with zeros, and write it down."""
    run = Running(work)
    while (asked := run.request) is not None:
        found.append(asked.at)
        run.tell(torch.zeros_like(asked.x))
