"""Record every model call of a run, and the state at every node of the schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowsamplers._accepted import function, refused
from flowsamplers._html import table
from flowsamplers.engine import OnStep, Request, StepEnd, Velocity, as_start, carry_dtype, check_callable, run_directly
from flowsamplers.grid import GridLike, SigmaGrid, as_grid
from flowsamplers.noise import Noise, Seeds
from flowsamplers.registry import get_sampler
from flowsamplers.sampler import Sampler, SamplerLike
from flowsamplers.samplers.stochastic import GaussianStep


@dataclass(frozen=True)
class TracedEvaluation:
    """One model call of a traced run.

    Attributes:
        step: index of the step.
        stage: index of the evaluation within the step.
        sigma: noise level of the model call.
        x_norm: root mean square of the model's input.
        v_norm: root mean square of the velocity.
    """

    step: int
    stage: int
    sigma: float
    x_norm: float
    v_norm: float


@dataclass(frozen=True, eq=False, repr=False)
class Trace:
    """The result of `trace`: the final state and the record of the run.

    Attributes:
        x0: the result, like the start.
        evaluations: one entry for each model call, in order.
        states: ``x`` at every node of the grid, N + 1 tensors in the carry dtype.
        velocities: the first velocity of every step, N tensors in the carry dtype.
        grid: the schedule.
        sampler: the sampler that ran.
    """

    x0: Tensor
    evaluations: tuple[TracedEvaluation, ...]
    states: tuple[Tensor, ...] = field(repr=False)
    velocities: tuple[Tensor, ...] = field(repr=False)
    grid: SigmaGrid
    sampler: Sampler

    def __repr__(self) -> str:
        """The run in one line."""
        return (
            f"Trace({self.sampler!r:.160}, steps={self.grid.steps}, nfe={self.nfe}, x0={tuple(self.x0.shape)} {self.x0.dtype})"
        )

    def _repr_html_(self) -> str:
        rows = [[e.step, e.stage, e.sigma, e.x_norm, e.v_norm] for e in self.evaluations]
        return table(["step", "stage", "sigma", "rms of x", "rms of v"], rows, repr(self))

    @property
    def nfe(self) -> int:
        """Number of function evaluations: the model calls of the run."""
        return len(self.evaluations)

    @cached_property
    def log_prob(self) -> Tensor | None:
        """Log-density of every state given the state before, ``(rows, steps)``; None if the steps are not normally distributed."""
        if not isinstance(self.sampler, GaussianStep):
            return None
        return self.sampler.log_probs(self.grid, self.states, self.velocities)


def log_prob(velocity: Velocity, run: Trace) -> Tensor:
    r"""Compute $\log p_\theta(x_{i+1} \mid x_i)$ of every step of a recorded run under a velocity field, for policy gradients.

    The states are constants, and gradients flow through the velocity field. With the run's own velocity field, the result equals
    ``run.log_prob``. The values are sums over all numbers of a row; Flow-GRPO uses means.

    Args:
        velocity: see `flowsamplers.sample`; gradients flow through it.
        run: a `flowsamplers.Trace` by a method whose steps are normal distributions: ``lcm``, ``euler_sde``, ``euler_ancestral``,
            ``flow_sde`` and others.

    Returns:
        Log-densities, ``(rows, steps)``; a step without noise has the value 0.

    Raises:
        ValueError: the run used another method, or ``velocity`` is no function.
        TypeError: ``run`` is no `flowsamplers.Trace`.

    Examples:
        >>> import torch, flowsamplers as fs
        >>> run = fs.trace(lambda x, sigma: x, torch.ones(1, 2), fs.SigmaGrid([1.0, 0.5, 0.0]), "flow_grpo", seed=0)
        >>> torch.equal(log_prob(lambda x, sigma: x, run), run.log_prob)
        True

    Reference:
        Flow-GRPO, arXiv:2505.05470, section 4.
    """
    check_callable(velocity)
    if not isinstance(run, Trace):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(str(refused("run", run, "a Trace")))
    if not isinstance(run.sampler, GaussianStep):
        raise ValueError(
            f"run by {type(run.sampler).__name__}: a density needs steps that are normal distributions, as of flow_sde"
        )
    at = zip(run.states, run.grid.sigmas[:-1], strict=False)
    found = [velocity(x.detach().to(run.x0.dtype), x.new_full((len(x),), sigma)).to(x.dtype) for x, sigma in at]
    return run.sampler.log_probs(run.grid, run.states, found)


def trace(
    velocity: Velocity,
    x1: Tensor | np.ndarray[Any, Any],
    grid: GridLike,
    sampler: SamplerLike = "euler",
    *,
    seed: Seeds | Noise | None = None,
    carry: torch.dtype | None = None,
    on_evaluation: Callable[[TracedEvaluation], None] | None = None,
    on_step: OnStep | None = None,
) -> Trace:
    """Sample like `sample`, and record every model call and the state at every node.

    Args:
        velocity: see `sample`.
        x1: see `sample`.
        grid: see `sample`.
        sampler: see `sample`.
        seed: see `sample`.
        carry: see `sample`.
        on_evaluation: called with the `TracedEvaluation` after every model call, for progress.
        on_step: see `sample`; the record holds the states after your edits.

    Returns:
        The `Trace`. Computing its norms waits for the device.

    Examples:
        >>> run = trace(lambda x, sigma: x, torch.ones(1, 2), SigmaGrid([1.0, 0.5, 0.0]), "heun")
        >>> run.nfe, [e.sigma for e in run.evaluations]
        (4, [1.0, 0.5, 0.5, 0.0])
    """
    function("on_evaluation", on_evaluation, "a function of one TracedEvaluation")
    function("on_step", on_step, "a function of one StepEnd")
    method, grid, x1 = get_sampler(sampler), as_grid(grid), as_start(x1)
    record: list[TracedEvaluation] = []
    velocities: list[Tensor] = []
    dtype = carry_dtype(x1, carry)
    states = [x1.to(dtype, copy=True)]

    def seen(request: Request, v: Tensor) -> None:
        record.append(TracedEvaluation(*request.at, _rms(request.x), _rms(v)))
        if request.at.stage == 0:
            velocities.append(v)
        if on_evaluation is not None:
            on_evaluation(record[-1])

    def keep(end: StepEnd) -> Tensor | None:
        states.append(end.x)
        edited = None if on_step is None else on_step(end)
        if edited is not None:
            states[-1] = edited
        return edited

    x = run_directly(velocity, x1, grid, method, seed, carry, on_step=keep, seen=seen)
    return Trace(x.to(x1.dtype), tuple(record), tuple(states), tuple(velocities), grid, method)


def _rms(x: Tensor) -> float:
    return float(x.detach().double().square().mean().sqrt())
