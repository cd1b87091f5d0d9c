"""The work of the measuring nodes, on a velocity. It does not import ComfyUI."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import flowsamplers as fs
from flowsamplers.reference import relative_error
from flowsamplers.sampler import SamplerLike
from flowsamplers_comfyui.host import AUTO, Velocity, grid_of, largest_steps, nfe, noise_of, with_end

REFERENCE, CALLS = "carpenter_kennedy4", 5
"""The reference method, of order 4, and its model calls in a step, none at sigma 0."""


@dataclass(frozen=True)
class Inspection:
    """The result of `inspect`: a run with its record.

    Attributes:
        x0: the result.
        rows: step, stage, sigma, dt, root mean squares of x and of the velocity, for every model call.
        total: the sum of the dt of the steps.
    """

    x0: Tensor
    rows: tuple[tuple[int, int, float, float, float, float], ...]
    total: float

    def __str__(self) -> str:
        """The table."""
        head = f"{'step':>4} {'stage':>5} {'sigma':>10} {'dt of step':>11} {'rms x':>9} {'rms v':>9}"
        lines = [f"{i:>4} {j:>5} {s:>10.7f} {dt:>11.7f} {x:>9.5f} {v:>9.5f}" for i, j, s, dt, x, v in self.rows]
        return "\n".join([head, *lines, f"sum of dt {self.total:.7f}, {len(self.rows)} model calls"])


def inspect(
    velocity: Velocity, x: Tensor, sigmas: Tensor, sampler: SamplerLike, *, last: str = AUTO, seed: int = 0
) -> Inspection:
    """Run a sampler, and record every model call.

    Args:
        velocity: velocity of the model.
        x: the start.
        sigmas: the schedule.
        sampler: the sampler.
        last: its last step, see `host.with_end`.
        seed: seed of a stochastic sampler.

    Examples:
        >>> field = Velocity(lambda x, sigma: 0 * x)
        >>> print(inspect(field, torch.ones(1, 4), torch.tensor([1.0, 0.5, 0.0]), "euler"))
        step stage      sigma  dt of step     rms x     rms v
           0     0  1.0000000  -0.5000000   1.00000   1.00000
           1     0  0.5000000  -0.5000000   0.50000   1.00000
        sum of dt -1.0000000, 2 model calls
    """
    parts = with_end(sampler, grid_of(sigmas)[0], last)
    noise = noise_of(parts[0][0], velocity.model, x, seed)
    rows: list[tuple[int, int, float, float, float, float]] = []
    total, before = 0.0, 0
    for method, grid in parts:
        run = fs.trace(velocity, x, grid, method, seed=noise)
        rows += [(before + e.step, e.stage, e.sigma, grid.dt[e.step], e.x_norm, e.v_norm) for e in run.evaluations]
        x, total, before = run.x0, total + sum(grid.dt), before + grid.steps
    return Inspection(x, tuple(rows), total)


def calls_of(sampler: SamplerLike, sigmas: Tensor, last: str = AUTO) -> int:
    """Count the model calls of a run for a progress bar; an adaptive sampler counts one for each step.

    Raises:
        ValueError: there are fewer than two different sigmas, or see `host.with_end`.

    Examples:
        >>> calls_of("heun", torch.tensor([1.0, 0.5, 0.0])), calls_of("dopri5", torch.tensor([1.0, 0.5, 0.0]))
        (3, 3)
    """
    parts = with_end(sampler, grid_of(sigmas)[0], last)
    return sum(grid.steps if method.adaptive else fs.nfe(method, grid) for method, grid in parts)


@dataclass(frozen=True)
class Plan:
    """The plan and cost of a study.

    Attributes:
        runs: sampler, allowed model calls, and schedule of each run.
        reference_steps: steps of the reference; a second one with half as many steps gives its error.
    """

    runs: tuple[tuple[str, int, fs.SigmaGrid], ...]
    reference_steps: int

    @property
    def reference_calls(self) -> int:
        """Number of model calls of both references."""
        return CALLS * (self.reference_steps + self.reference_steps // 2)

    @property
    def calls(self) -> int:
        """Number of all model calls, at most."""
        return self.reference_calls + sum(nfe(name, grid) for name, _, grid in self.runs)

    def __str__(self) -> str:
        """In a sentence."""
        return (
            f"{len(self.runs)} runs take {self.calls - self.reference_calls} model calls and the references {self.reference_calls}: "
            f"at most {self.calls} together, because equal first calls are made once"
        )


def plan(samplers: Sequence[str], counts: Sequence[int], grid_of_steps: Callable[[int], fs.SigmaGrid], budget: int) -> Plan:
    """Plan a study: every sampler at every number of model calls, and the best reference within the rest of the budget.

    Args:
        samplers: names of deterministic samplers.
        counts: numbers of model calls.
        grid_of_steps: returns the schedule with n steps.
        budget: largest number of all model calls.

    Raises:
        ValueError: a sampler is stochastic or adaptive, or the budget is too small for a reference.

    Examples:
        >>> from flowsamplers.schedules import linear
        >>> print(plan(["euler", "midpoint"], [2, 4], linear, 200))
        4 runs take 12 model calls and the references 180: at most 192 together, because equal first calls are made once
    """
    runs: list[tuple[str, int, fs.SigmaGrid]] = []
    for name in samplers:
        method = fs.get_sampler(name)
        if method.draws_noise or method.adaptive:
            raise ValueError(
                f"sampler {name!r}: the study compares runs of a fixed number of calls without noise; leave it out"
            )
        for count in counts:
            steps = largest_steps(name, count, grid_of_steps)
            if steps:
                runs.append((name, count, grid_of_steps(steps)))
    if not runs:
        raise ValueError(f"calls={list(counts)}: none of the samplers can make a step with so few model calls")
    spent = sum(nfe(name, grid) for name, _, grid in runs)
    steps = (budget - spent) // (3 * CALLS) * 2
    if steps < 8:
        raise ValueError(
            f"budget={budget}: the runs take {spent} model calls and a reference 60 more; raise it to {spent + 60} or more"
        )
    return Plan(tuple(runs), min(steps, 256))


@dataclass(frozen=True)
class Measured:
    """The result of a study.

    Attributes:
        plan: the plan.
        errors: relative distance of each run from the reference, averaged over the images.
        reference_error: estimated error of the reference, averaged likewise.
        pictures: the result of each run, then the reference.
    """

    plan: Plan
    errors: tuple[float, ...]
    reference_error: float
    pictures: tuple[Tensor, ...]

    @property
    def table(self) -> str:
        """Make one line for each run; errors below ten times the reference's are marked."""
        rows = [
            f"{name:<20} {count:>5} {grid.steps:>5} {error:>10.2e}{' ~' if error < 10 * self.reference_error else ''}"
            for (name, count, grid), error in zip(self.plan.runs, self.errors, strict=True)
        ]
        return "\n".join([f"{'sampler':<20} {'calls':>5} {'steps':>5} {'error':>10}", *rows])

    def __str__(self) -> str:
        """The sentence and the table."""
        most = max(count for _, count, _ in self.plan.runs)
        error, name = min((e, n) for (n, c, _), e in zip(self.plan.runs, self.errors, strict=True) if c == most)
        return (
            f"At {most} model calls {name} has the smallest error, {error:.2e} of the result's size. The reference's own error is "
            f"{self.reference_error:.2e}; errors marked ~ are within ten times of it and are not told apart.\n{self.plan}.\n\n{self.table}"
        )


def study(velocity: Velocity, x: Tensor, planned: Plan) -> Measured:
    """Run a study.

    Args:
        velocity: velocity of the model.
        x: the starts at sigma 1.
        planned: see `plan`.

    Examples:
        >>> from flowsamplers.schedules import linear
        >>> field = Velocity(lambda x, sigma: x * (1 - sigma[0]) / (sigma[0] ** 2 + (1 - sigma[0]) ** 2))
        >>> found = study(field, torch.ones(1, 4), plan(["euler", "midpoint"], [4, 8], linear, 400))
        >>> found.errors[3] < found.errors[1] < found.errors[0], found.reference_error < 1e-3
        (True, True)
    """
    fine, coarse = (
        fs.sample(velocity, x, fs.schedules.chebyshev(steps), REFERENCE)
        for steps in (planned.reference_steps, planned.reference_steps // 2)
    )
    runs = [fs.Run(x, part, method) for name, _, grid in planned.runs for method, part in with_end(name, grid)]
    pictures = fs.sample_many(velocity, runs, max_batch=len(x))
    *errors, reference_error = (float(relative_error(p, fine).mean()) for p in (*pictures, coarse))
    return Measured(planned, tuple(errors), reference_error, (*pictures, fine))


def plot_study(found: Measured) -> Tensor:
    """Plot error against model calls, as ComfyUI's IMAGE: ``(1, height, width, 3)`` in [0, 1]."""
    figure, axes = _figure()
    for name in dict.fromkeys(n for n, _, _ in found.plan.runs):
        points = [(c, e) for (n, c, _), e in zip(found.plan.runs, found.errors, strict=True) if n == name]
        axes.plot(*zip(*points, strict=True), "o-", label=name)
    axes.axhspan(0, 10 * found.reference_error, color="0.9", label="within ten times the reference's own error")
    axes.set(xscale="log", yscale="log", xlabel="model calls", ylabel="relative error of the latents")
    axes.legend(fontsize=8)
    return _image(figure)


def plot_inspection(found: Inspection) -> Tensor:
    """Plot the root mean squares at every call against sigma, as ComfyUI's IMAGE."""
    figure, axes = _figure()
    sigmas = [r[2] for r in found.rows]
    axes.plot(sigmas, [r[4] for r in found.rows], "o-", label="root mean square of x")
    axes.plot(sigmas, [r[5] for r in found.rows], "s-", label="root mean square of the velocity")
    axes.set(xlabel="sigma", xlim=(max(sigmas) + 0.02, min(sigmas) - 0.02))
    axes.legend(fontsize=8)
    return _image(figure)


def tiles(pictures: Mapping[tuple[str, int], Tensor]) -> Tensor:
    """Arrange images in a grid: a row for each sampler, a column for each number of calls; missing images are gray.

    Args:
        pictures: images ``(height, width, 3)`` by sampler and calls.

    Returns:
        ``(1, rows * height, columns * width, 3)``.

    Examples:
        >>> tiles({("euler", 2): torch.zeros(4, 4, 3), ("heun", 4): torch.ones(4, 4, 3)}).shape
        torch.Size([1, 8, 8, 3])
    """
    rows = list(dict.fromkeys(name for name, _ in pictures))
    columns = sorted({calls for _, calls in pictures})
    gray = torch.full_like(next(iter(pictures.values())), 0.5)
    lines = [torch.cat([pictures.get((r, c), gray) for c in columns], dim=1) for r in rows]
    return torch.cat(lines, dim=0)[None]


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # noqa: PLC0415  (an extra)

    figure = Figure(figsize=(6, 4), dpi=128, layout="constrained")
    axes = figure.add_subplot()
    axes.grid(visible=True, alpha=0.3)
    return figure, axes


def _image(figure: Any) -> Tensor:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return torch.from_numpy(np.array(canvas.buffer_rgba()))[None, ..., :3].float() / 255
