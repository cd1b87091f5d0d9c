"""A trusted solution and its own error.

An error can be measured only against something better than what is measured. The reference is made with a method that no
sampler here has (Dormand and Prince's, of order eight), on grids of its own, at growing resolution, with the state in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.integrate import DOP853
from torch import Tensor

from flowsamplers.grid import SigmaGrid
from flowsamplers.lockstep import Flow, Run, sample_many
from flowsamplers.samplers.runge_kutta import ButcherTableau, RungeKutta

BEST = 1e-12
"""No error smaller than this is claimed: rounding over a whole run, and what independent solvers agree to, in float64."""


ROUNDINGS = 32
"""How many eps of the model's dtype a solution may be off: covered 1,199 of 1,200 fresh rows of random mixtures in float32."""


@dataclass(frozen=True)
class Reference:
    """The solution of a flow at ``sigma = 0``, and how far it can be trusted.

    Attributes:
        x0: the solution, like the start, ``(rows, ...)``, in float64.
        error: estimated relative error of each row, ``(rows,)``: the distance between the two finest resolutions over the norm,
            and never less than the rounding of the model's dtype.
        steps: steps of the finest run.
        evaluations: evaluations of each row that it all took.
        method: what was used, in words.
    """

    x0: Tensor
    error: Tensor
    steps: int
    evaluations: int
    method: str = "Dormand-Prince 8, cosine grid, two resolutions"


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


def solve(
    flow: Flow,
    x1: Tensor,
    *,
    condition: Sequence[Any] | None = None,
    tol: float | None = None,
    max_evaluations: int = 3200,
    max_batch: int = 64,
    on_call: Callable[[int], None] | None = None,
) -> Reference:
    r"""Solve a flow from ``sigma = 1`` to 0, as well as its dtype allows.

    The number of steps doubles from 4 until two resolutions differ by at most ``tol`` in every row, until doubling no longer
    brings them nearer (the rounding of the model is reached), or until the next run would exceed the budget. The grid,
    $\sigma = \tfrac12 (1 + \cos \pi u)$, is dense at both ends, where flows stiffen.

    Args:
        flow: a velocity field.
        x1: starts at ``sigma = 1``, ``(rows, ...)``; its dtype is what the model sees.
        condition: one entry for each row, or None.
        tol: relative distance that is good enough; by default the rounding floor, 32 eps of the dtype and not below `BEST`.
        max_evaluations: budget of evaluations for each row.
        max_batch: rows in one model call.
        on_call: told the number of rows after every model call.

    Returns:
        The `Reference`.

    Raises:
        ValueError: a budget too small for two resolutions, or not one condition a row.
        FloatingPointError: the solution is not finite.

    Examples:
        >>> from flowsamplers.flows import GaussianFlow
        >>> flow = GaussianFlow([1.0, -1.0], std=0.5)
        >>> ref = solve(flow, flow.noise([0, 1]))
        >>> bool(((ref.x0 - flow.solution(flow.noise([0, 1]))).norm(dim=1) / ref.x0.norm(dim=1) <= ref.error).all())
        True
    """
    stages, steps, spent = DormandPrince8.tableau.stages, 4, 0
    if max_evaluations < 3 * steps * stages:
        raise ValueError(f"max_evaluations={max_evaluations}: two resolutions need at least {3 * steps * stages}")
    if condition is not None and len(condition) != len(x1):
        raise ValueError(f"condition: {len(condition)} entries for {len(x1)} rows; give one for each")
    coarse, gap = _solution(flow, x1, condition, steps, max_batch, on_call), None
    floor = _floor(x1, coarse)
    wanted = floor if tol is None else torch.full_like(floor, tol)
    spent += steps * stages
    while True:
        steps *= 2
        fine = _solution(flow, x1, condition, steps, max_batch, on_call)
        spent += steps * stages
        before, gap = gap, relative_error(coarse, fine)
        settled = before is not None and bool(((gap > before / 2) | (gap <= 10 * floor)).all())
        broken = not bool(torch.isfinite(fine).all())
        if broken or bool((gap <= wanted).all()) or settled or spent + 2 * steps * stages > max_evaluations:
            break
        coarse = fine
    if broken:
        raise FloatingPointError(f"the reference solution is not finite after {steps} steps; the field cannot be trusted")
    error = gap if before is None else torch.where(gap > before / 2, torch.maximum(gap, before), gap)
    return Reference(fine, torch.maximum(error, floor), steps, spent)


def _floor(x1: Tensor, x0: Tensor) -> Tensor:
    """What rounding alone may do to each row: of the model's dtype, and relative to where the run began if that was larger."""
    growth = (x1.double().flatten(1).norm(dim=1) / x0.double().flatten(1).norm(dim=1)).clamp(min=1.0)
    return max(ROUNDINGS * torch.finfo(x1.dtype).eps, BEST) * torch.nan_to_num(growth, nan=1.0, posinf=1.0)


def relative_error(x: Tensor, truth: Tensor) -> Tensor:
    """``|x - truth| / |truth|`` of each row, Euclidean norms over everything but the rows, in float64."""
    difference = (x.double() - truth.double()).flatten(1).norm(dim=1)
    return difference / truth.double().flatten(1).norm(dim=1)


def _solution(
    flow: Flow, x1: Tensor, condition: Sequence[Any] | None, steps: int, max_batch: int, on_call: Callable[[int], None] | None
) -> Tensor:
    sigmas = (1 + np.cos(np.pi * np.arange(steps + 1) / steps)) / 2
    grid = SigmaGrid([1.0, *sigmas[1:-1], 0.0])
    conditions = [None] * len(x1) if condition is None else condition
    runs = [Run(row[None].double(), grid, DormandPrince8(), c) for row, c in zip(x1, conditions, strict=True)]
    outs = sample_many(_Cast(flow, x1.dtype), runs, max_batch=max_batch, on_call=on_call)
    return torch.cat(outs)


@dataclass(frozen=True)
class _Cast:
    """A flow that is asked in float64 and looks in its own dtype."""

    flow: Flow
    dtype: torch.dtype

    def velocity(self, x: Tensor, sigma: Tensor, condition: Sequence[Any] | None = None) -> Tensor:
        return self.flow.velocity(x.to(self.dtype), sigma.to(torch.promote_types(self.dtype, torch.float32)), condition).to(x)
