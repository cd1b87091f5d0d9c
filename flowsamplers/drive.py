"""The drivers: who asks the sampler, evaluates the model, counts, and owns precision and modes.

One sampler text, five ways to run it. Here are `sample` (direct), `trace` (direct, with a record) and `dry_run` (no model at all);
`flowsamplers.lockstep` has `sample_many` (many runs in lock-step), `flowsamplers.stepper` has `Stepper` (inside out, for hosts
that own the loop).

Precision is decided here alone. The state is carried in ``carry``, by default float32 or what the input has above that; the
model is given a cast to the input's dtype; its velocity is cast up before the sampler sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count, islice
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from flowsamplers.grid import SigmaGrid
from flowsamplers.noise import Clock, Noise, Seeds, as_noise
from flowsamplers.sampler import Evaluate, Sampler, SamplerLike, State, Step, get_sampler, steps_of
from flowsamplers.samplers.stochastic import GaussianStep

Velocity: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""``velocity(x, sigma)``: x is ``(rows, ...)``, sigma ``(rows,)``; returns ``v`` shaped like x."""

Check: TypeAlias = Literal["finite"] | None
"""``"finite"`` looks at every velocity and names the step of one that is not finite; this waits for the device."""


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
        sampler: the method.
        log_prob: of a `GaussianStep` method, ``(rows, steps)``: log-density of every state, given the one before; else None.
    """

    x0: Tensor
    evaluations: tuple[TracedEvaluation, ...]
    states: tuple[Tensor, ...] = field(repr=False)
    grid: SigmaGrid
    sampler: Sampler
    log_prob: Tensor | None = field(default=None, repr=False)

    @property
    def nfe(self) -> int:
        """How often the model was asked."""
        return len(self.evaluations)


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
        ValueError: unknown sampler, a stochastic one without a seed or on a rising grid, a velocity of the wrong shape.
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
    method = get_sampler(sampler)
    record: list[TracedEvaluation] = []
    velocities: list[Tensor] = []

    def seen(at: Evaluation, x: Tensor, v: Tensor) -> None:
        record.append(TracedEvaluation(*at, _rms(x), _rms(v)))
        if isinstance(method, GaussianStep):
            velocities.append(v)
        if on_evaluation is not None:
            on_evaluation(record[-1])

    x, states = _drive(velocity, x1, grid, method, seed=seed, carry=carry, seen=seen)
    density = _log_prob(method, grid, states, velocities) if isinstance(method, GaussianStep) else None
    return Trace(x.to(x1.dtype), tuple(record), tuple(states), grid, method, density)


def log_prob(velocity: Velocity, run: Trace) -> Tensor:
    r"""Log-density of every state of a recorded run, given the one before, under a velocity field: $\log p_\theta(x_{i+1} \mid x_i)$.

    The states are data and the field is what is differentiated: the policy gradient of reinforcement learning. Under the field of the run
    these are the numbers of ``run.log_prob``. The densities are of all the numbers of a row; Flow-GRPO's are their means.

    Args:
        velocity: see `sample`; gradients flow through it.
        run: of a method whose steps are normal distributions: ``lcm``, ``euler_sde``, ``euler_ancestral``, ``flow_sde``, and their like.

    Returns:
        ``(rows, steps)``; a step without noise counts 0.

    Raises:
        ValueError: a run by another method.

    Examples:
        >>> run = trace(lambda x, sigma: x, torch.ones(1, 2), SigmaGrid([1.0, 0.5, 0.0]), "flow_grpo", seed=0)
        >>> torch.equal(log_prob(lambda x, sigma: x, run), run.log_prob)
        True

    Reference:
        Flow-GRPO, arXiv:2505.05470, section 4.
    """
    if not isinstance(run.sampler, GaussianStep):
        raise ValueError(
            f"run by {type(run.sampler).__name__}: a density needs steps that are normal distributions, as of flow_sde"
        )
    requests = [Evaluate(x.detach(), s) for x, s in zip(run.states, run.grid.sigmas[:-1], strict=False)]
    found = [_evaluate(velocity, r, run.x0.dtype, Evaluation(i, 0, r.sigma), None) for i, r in enumerate(requests)]
    return _log_prob(run.sampler, run.grid, run.states, found)


def _log_prob(method: GaussianStep, grid: SigmaGrid, states: Sequence[Tensor], velocities: Sequence[Tensor]) -> Tensor:
    steps = zip(steps_of(grid), states, velocities, states[1:], strict=False)
    return torch.stack([method.log_prob(x.detach(), v, at, end.detach()) for at, x, v, end in steps], dim=1)


def dry_run(sampler: SamplerLike, grid: SigmaGrid) -> tuple[Evaluation, ...]:
    """Every model call that a run will make, before anything is run: the sampler is driven with zeros.

    Raises:
        ValueError: the sampler is adaptive, so its calls depend on the data; a stochastic one on a rising grid.
        TypeError: the sampler is not an immutable value.

    Examples:
        >>> [e.sigma for e in dry_run("midpoint", SigmaGrid([1.0, 0.5, 0.0]))]
        [1.0, 0.75, 0.5, 0.25]
    """
    method = get_sampler(sampler)
    if type(method).__hash__ is None:
        raise TypeError(
            f"{type(method).__name__} is not hashable: a sampler is an immutable value, use @dataclass(frozen=True)"
        )
    return _dry_run(method, grid)


def nfe(sampler: SamplerLike, grid: SigmaGrid) -> int:
    """How many model calls a run makes, from the dry run.

    Examples:
        >>> nfe("rk4", SigmaGrid([1.0, 0.5, 0.0]))
        8
    """
    return len(dry_run(sampler, grid))


def largest_steps(sampler: SamplerLike, calls: int, grid_of: Callable[[int], SigmaGrid]) -> int:
    """The largest number of steps whose dry run needs at most so many model calls; 0 if not even one fits.

    A step takes one call or more, so that there are no more steps than calls. All numbers are tried from there downwards: a
    method whose policies depend on the grid may need fewer calls for more steps.

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

    def fits(steps: int) -> bool:
        asked = asking(method, steps_of(grid_of(steps), silence), method.init(NOTHING))
        return len(tuple(islice(asked, calls + 1))) <= calls

    return next(filter(fits, range(calls, 0, -1)), 0)


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
    noise = noise_for(method, grid, seed)
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
    if not isinstance(v, Tensor):
        raise ValueError(f"velocity returned {type(v).__name__}, not a tensor")
    if v.shape != x.shape:
        raise ValueError(f"velocity returned shape {tuple(v.shape)} for x of shape {tuple(x.shape)}")
    if check == "finite" and not bool(torch.isfinite(v).all()):
        raise FloatingPointError(f"velocity is not finite at step {where.step}, stage {where.stage}, sigma {where.sigma}")
    return v.to(x.dtype)


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


def _rms(x: Tensor) -> float:
    return float(x.detach().double().square().mean().sqrt())


@lru_cache(maxsize=1024)
def _dry_run(sampler: Sampler, grid: SigmaGrid) -> tuple[Evaluation, ...]:
    _check_direction(sampler, grid)
    return asked_for(_with_fixed_calls(sampler), steps_of(grid, silence), sampler.init(NOTHING))


def _with_fixed_calls(sampler: Sampler) -> Sampler:
    if sampler.adaptive:
        raise ValueError(f"{type(sampler).__name__} is adaptive: its model calls depend on the data, so there is no dry run")
    return sampler


NOTHING = torch.zeros(1, dtype=torch.float64)


def silence(like: Tensor, step: int, draw: int, clock: Clock | None = None) -> Tensor:
    """The noise of a dry run: none."""
    return torch.zeros_like(like)


def asked_for(sampler: Sampler, steps: Iterable[Step], state: State) -> tuple[Evaluation, ...]:
    """What a sampler asks for over some steps when everything it is told is zero."""
    return tuple(asking(sampler, steps, state))


def asking(sampler: Sampler, steps: Iterable[Step], state: State) -> Iterator[Evaluation]:
    """The calls of `asked_for` one by one, for who stops listening early."""
    x = NOTHING
    for at in steps:
        work = sampler.step(x, at, state)
        try:
            request = next(work)
            for stage in count():
                yield Evaluation(at.index, stage, request.sigma)
                request = work.send(torch.zeros_like(request.x))
        except StopIteration as done:
            x, state = done.value
