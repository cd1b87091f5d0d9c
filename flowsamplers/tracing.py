"""Record every model call of a run, and the state at every node of the schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowsamplers._accepted import function
from flowsamplers._html import table
from flowsamplers.engine import OnStep, Request, StepEnd, Velocity, as_start, carry_dtype, run_directly
from flowsamplers.grid import GridLike, SigmaGrid, as_grid
from flowsamplers.noise import Noise, Seeds
from flowsamplers.registry import get_sampler
from flowsamplers.sampler import Sampler, SamplerLike


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
        density = getattr(self.sampler, "log_probs", None)
        return None if density is None else density(self.grid, self.states, self.velocities)


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
