"""The experiment this project grew from: one noise, a few step counts, every number on the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flowsamplers.grid import SigmaGrid
from flowsamplers.lockstep import Run, sample_many
from flowsamplers.reference import relative_error, solve
from flowsamplers.schedules import empirical_mu, flux2, pipeline_sigmas
from flowsamplers.study.store import check_writable, write_atomically

STEPS = (1, 2, 3, 4, 6, 10)
REFERENCE = 1400
"""Evaluations of the reference: enough for three digits of the errors."""


@dataclass(frozen=True)
class ScheduleTable:
    """All numbers of one FLUX.2 schedule, as the diffusers pipeline has them.

    Attributes:
        steps: N.
        tokens: latent tokens.
        mu: strength of the shift.
        base: sigmas before the shift.
        sigmas: N + 1 sigmas after it.
        timesteps: what the model is told.
        dt: step lengths.
        sum: their sum.
    """

    steps: int
    tokens: int
    mu: float
    base: tuple[float, ...]
    sigmas: tuple[float, ...]
    timesteps: tuple[float, ...]
    dt: tuple[float, ...]
    sum: float

    @classmethod
    def of(cls, steps: int, tokens: int, mu: float | None = None) -> ScheduleTable:
        """The table of the FLUX.2 schedule.

        Examples:
            >>> [round(t, 4) for t in ScheduleTable.of(3, 4096).timesteps]
            [1000.0, 952.1271, 832.5565]
        """
        strength = empirical_mu(tokens=tokens, steps=steps) if mu is None else mu
        grid = flux2(steps, tokens=tokens, mu=strength, arithmetic="stock")
        base = tuple(float(s) for s in pipeline_sigmas(steps, "stock"))
        return cls(steps, tokens, strength, base, grid.sigmas, grid.timesteps, grid.dt, sum(grid.dt))

    def lines(self) -> list[str]:
        """For the terminal, in at most 80 columns."""
        head = [f"steps {self.steps}   tokens {self.tokens}   mu {self.mu!r}"]
        columns = f"{'i':>3}{'base sigma':>14}{'sigma':>14}{'timestep':>14}{'dt':>14}"
        rows = [
            f"{i:>3}{base:>14.7f}{sigma:>14.7f}{time:>14.4f}{dt:>14.7f}"
            for i, (base, sigma, time, dt) in enumerate(zip(self.base, self.sigmas[:-1], self.timesteps, self.dt, strict=True))
        ]
        end = f"{self.steps:>3}{'':>14}{self.sigmas[-1]:>14.7f}{'sum of dt':>14}{self.sum:>14.7f}"
        return [*head, columns, *rows, end]


def klein_steps(
    flow: Any, folder: Path, *, seed: int = 0, steps: Sequence[int] = STEPS, on_call: Callable[[int], None] | None = None
) -> str:
    """Euler's method at a few step counts from one noise, with the pipeline's own schedule; images and errors side by side.

    Args:
        flow: a field with ``noise``, ``decode``, ``tokens`` and ``prompt``.
        folder: where ``klein-steps.png`` goes.
        seed: of the noise.
        steps: the step counts.
        on_call: told the number of rows after every model call.

    Returns:
        The tables, for the terminal.
    """
    from flowsamplers.study import plots  # noqa: PLC0415  (matplotlib is an extra)

    plots.check_available()
    check_writable(folder)
    x1 = flow.noise([seed])
    tables = [ScheduleTable.of(n, flow.tokens) for n in steps]
    outs = sample_many(flow, [Run(x1, SigmaGrid(t.sigmas), "euler") for t in tables], on_call=on_call)
    reference = solve(flow, x1, max_evaluations=REFERENCE, on_call=on_call)
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


def grid_lines(grid: SigmaGrid) -> list[str]:
    """The numbers of any schedule, for the terminal.

    Examples:
        >>> print(grid_lines(SigmaGrid([1.0, 0.0]))[1])
          0     1.0000000     1000.0000    -1.0000000
    """
    lines = [f"{'i':>3}{'sigma':>14}{'timestep':>14}{'dt':>14}"]
    for i, (s, t, h) in enumerate(zip(grid.sigmas[:-1], grid.timesteps, grid.dt, strict=True)):
        lines.append(f"{i:>3}{s:>14.7f}{t:>14.4f}{h:>14.7f}")
    return [*lines, f"{grid.steps:>3}{grid.end:>14.7f}{'sum of dt':>14}{sum(grid.dt):>14.7f}"]


def as_json(table: ScheduleTable) -> dict[str, Any]:
    """A schedule table as JSON values."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(table).items()}
