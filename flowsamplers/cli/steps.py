"""The preset study "klein-steps": Euler's method from one noise at a few numbers of steps, with every number printed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flowsamplers.grid import SigmaGrid
from flowsamplers.lockstep import Run, sample_many
from flowsamplers.reference import relative_error, solve
from flowsamplers.schedules.shown import ScheduleTable
from flowsamplers.study import plots
from flowsamplers.study.store import check_writable, write_atomically

STEPS = (1, 2, 3, 4, 6, 10)
REFERENCE = 1400
"""Evaluations of the reference: enough for three digits of the errors."""


def klein_steps(flow: Any, folder: Path, *, seed: int = 0, steps: Sequence[int] = STEPS) -> str:
    """Euler's method at a few step counts from one noise, with the pipeline's own schedule; images and errors side by side.

    Args:
        flow: a field with ``noise``, ``decode``, ``tokens`` and ``prompt``.
        folder: where ``klein-steps.png`` goes.
        seed: of the noise.
        steps: the step counts.

    Returns:
        The tables, for the terminal.
    """
    plots.check_available()
    check_writable(folder)
    x1 = flow.noise([seed])
    tables = [ScheduleTable.of(n, flow.tokens) for n in steps]
    outs = sample_many(flow, [Run(x1, SigmaGrid(t.sigmas), "euler") for t in tables])
    reference = solve(flow, x1, max_evaluations=REFERENCE)
    errors = [relative_error(out, reference.x0).item() for out in outs]
    parts = ["\n".join(t.lines()) for t in tables]
    summary = [f"{'steps':>6}{'mu':>10}{'sum of dt':>12}{'largest step':>14}{'error':>12}"]
    summary += [
        f"{t.steps:>6}{t.mu:>10.4f}{t.sum:>12.7f}{max(map(abs, t.dt)):>14.4f}{e:>12.2e}"
        for t, e in zip(tables, errors, strict=True)
    ]
    summary.append(
        f"error: relative distance of the final latents to the ODE's solution (known to {reference.error.item():.0e})"
    )
    text = "\n\n".join([*parts, "\n".join(summary)])
    if hasattr(flow, "decode"):
        columns = [f"{t.steps} step{'s' * (t.steps > 1)}\n{e:.2g}" for t, e in zip(tables, errors, strict=True)]
        pictures = {("euler", c): flow.decode(out)[0] for c, out in zip(columns, outs, strict=True)}
        pictures["euler", "reference\n0"] = flow.decode(reference.x0)[0]
        title = f"{flow.prompt!r}, seed {seed}"
        png = plots.image_grid(["euler"], [*columns, "reference\n0"], pictures, title, "steps, relative error")
        write_atomically(folder / "klein-steps.png", png)
    write_atomically(folder / "klein-steps.txt", text + "\n")
    return text
