r"""Fit the weights of a solver on a given schedule, step by step: each step is a linear least-squares problem."""

from __future__ import annotations

import torch
from torch import Tensor

from flowsamplers._accepted import integer, refused
from flowsamplers.engine import Velocity, check_start
from flowsamplers.grid import SigmaGrid
from flowsamplers.sampler import SamplerLike
from flowsamplers.samplers.learned import NSSolver
from flowsamplers.samplers.policies import METHOD
from flowsamplers.tracing import trace

CUTOFF = 1e-4
"""Directions whose singular value is below this part of the largest are left to the smallest weights."""


def fit_ns_solver(
    velocity: Velocity,
    x1: Tensor,
    grid: SigmaGrid,
    *,
    memory: int | None = None,
    last: SamplerLike = METHOD,
    parts: int = 32,
) -> NSSolver:
    r"""Fit the weights with which each step ends closest to the flow's own path.

    $$ \min_{w_i} \sum_n \Bigl\| x_i^n + h_i \sum_j w_{ij} v_{i-j}^n - x^n(\sigma_{i+1}) \Bigr\|^2, \qquad \sum_j w_{ij} = 1 $$

    over the starts n, one step after the other, along the solver's own points $x_i$. So each step corrects the errors of earlier steps.
    The flow's path is computed by rk4 with ``parts`` steps for each step.

    Args:
        velocity: v(x, sigma).
        x1: the starts, ``(rows, ...)``; they should contain many more numbers than there are weights.
        grid: the schedule.
        memory: largest number of velocities in a step; None for all.
        last: policy of the last step, see `LastStep`.
        parts: steps of the reference for each step.

    Returns:
        The solver, for this schedule.

    Raises:
        ValueError: ``memory`` is below 1.

    Examples:
        >>> import flowsamplers as fs
        >>> flow, grid = fs.flows.MixtureFlow.random(1), fs.schedules.linear(6)
        >>> solver = fit_ns_solver(flow.velocity, flow.noise(list(range(64))), grid)
        >>> x1 = flow.noise(list(range(100, 132)))  # other noise than it was fitted to
        >>> def error(sampler):
        ...     return (fs.sample(flow.velocity, x1, grid, sampler) - flow.solution(x1)).norm()
        >>> bool(error(solver) < error("unipc") / 4)
        True

    Reference:
        Bespoke non-stationary solvers, arXiv:2403.01329, which minimise over the whole run by gradients; step by step it is linear.
    """
    if memory is not None:
        integer("memory", memory, 1)
    integer("parts", parts, 1)
    if not isinstance(grid, SigmaGrid):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise refused("grid", grid, "a SigmaGrid")
    x = check_start(x1).double()
    path = trace(velocity, x1, grid.refined(parts), "rk4", carry=torch.float64).states[::parts]
    own = grid.steps - (last != METHOD)
    past, rows = list[Tensor](), list[tuple[float, ...]]()
    for i in range(own):
        v = velocity(x.to(x1.dtype), x1.new_full((len(x1),), grid.sigmas[i]))
        past = [v.double(), *past][:memory]
        rows.append(_nearest(past, (path[i + 1] - x) / grid.dt[i]))
        x = x + grid.dt[i] * sum((w * v for w, v in zip(rows[-1], past, strict=True)), torch.zeros_like(x))
    return NSSolver(last=last, table=tuple(rows))


def _nearest(past: list[Tensor], wanted: Tensor) -> tuple[float, ...]:
    """Weights that add to 1, with which the velocities come nearest to the one that is wanted."""
    now, *before = past
    if not before:
        return (1.0,)
    differences = torch.stack([(v - now).flatten() for v in before], 1)
    sizes = differences.norm(dim=0).clamp(min=torch.finfo(now.dtype).tiny)
    a, b = (differences / sizes).cpu(), (wanted - now).flatten()[:, None].cpu()  # only LAPACK knows this driver
    found = torch.linalg.lstsq(a, b, rcond=CUTOFF, driver="gelsd").solution
    weights = (found[:, 0] / sizes.cpu()).tolist()
    return 1 - sum(weights), *weights
