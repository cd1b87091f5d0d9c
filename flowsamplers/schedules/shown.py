"""Format the numbers of a schedule for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flowsamplers.grid import SigmaGrid
from flowsamplers.schedules.diffusers import flux2, pipeline_sigmas
from flowsamplers.schedules.maps import empirical_mu


@dataclass(frozen=True)
class ScheduleTable:
    """All numbers of one FLUX.2 schedule, as in the diffusers pipeline.

    Attributes:
        steps: number of steps N.
        tokens: latent tokens.
        mu: strength of the shift.
        base: sigmas before the shift.
        sigmas: N + 1 sigmas after it.
        timesteps: the model's times.
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
        """Format for the terminal, in at most 80 columns."""
        head = f"steps {self.steps}   tokens {self.tokens}   mu {self.mu!r}"
        return [head, *grid_lines(SigmaGrid(self.sigmas), self.base)]

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def grid_lines(grid: SigmaGrid, base: Sequence[float] | None = None) -> list[str]:
    """Format the numbers of any schedule for the terminal.

    Args:
        grid: the schedule.
        base: sigmas before the shift, for one more column.

    Examples:
        >>> print(grid_lines(SigmaGrid([1.0, 0.0]))[1])
          0     1.0000000     1000.0000    -1.0000000
    """
    texts = [""] * (grid.steps + 2) if base is None else ["base sigma", *(f"{b:.7f}" for b in base), ""]
    first, *before, last = [text if base is None else f"{text:>14}" for text in texts]
    rows = zip(before, grid.sigmas[:-1], grid.timesteps, grid.dt, strict=True)
    return [
        f"{'i':>3}{first}{'sigma':>14}{'timestep':>14}{'dt':>14}",
        *(f"{i:>3}{b}{s:>14.7f}{t:>14.4f}{h:>14.7f}" for i, (b, s, t, h) in enumerate(rows)),
        f"{grid.steps:>3}{last}{grid.end:>14.7f}{'sum of dt':>14}{sum(grid.dt):>14.7f}",
    ]
