"""Draw images from one noise with several samplers and numbers of steps, side by side."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flowsamplers.engine import dry_run, largest_steps, nfe
from flowsamplers.lockstep import Run, sample_many
from flowsamplers.sampler import Sampler, grid_from_noise
from flowsamplers.schedules import flux2
from flowsamplers.study import plots
from flowsamplers.study.bench import forward_passes
from flowsamplers.study.rows import label_of
from flowsamplers.study.store import write_atomically

PIXELATED = 256
"""Images narrower than this are enlarged without smoothing and get smaller cells."""


@dataclass(frozen=True)
class Drawn:
    """One image of a grid.

    Attributes:
        sampler: its label: name and options.
        steps: N.
        nfe: model calls.
        forward_passes: through the network, more than model calls under guidance.
    """

    sampler: str
    steps: int
    nfe: int
    forward_passes: int

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return asdict(self)


def draw(
    flow: Any,
    methods: Sequence[Sampler],
    counts: Sequence[int],
    seed: int,
    out: Path,
    *,
    by_nfe: bool = False,
    on_call: Callable[[int, int], None] | None = None,
) -> list[Drawn]:
    """Write an image, or a labeled grid from one noise: a row for each sampler, a column for each number of steps or calls.

    Args:
        flow: a field with ``noise``, ``decode``, ``tokens``, ``name`` and ``prompt``.
        methods: the samplers.
        counts: the step counts; the schedule is the pipeline's own.
        seed: of the noise, and of stochastic samplers.
        out: PNG file.
        by_nfe: the counts are model calls, and each sampler takes as many steps as fit. If not even one step fits, the cell
            stays empty.
        on_call: told the number of rows so far, and of all rows at most, after every model call.

    Returns:
        What was drawn, row by row.

    Raises:
        ValueError: the model makes no images, a count below 1, or nothing fits the budgets.
        FloatingPointError: the latents are not finite.
    """
    if not hasattr(flow, "decode"):
        raise ValueError(f"model {flow.name!r} makes vectors, not images")

    def grid_of(steps: int) -> Any:
        return flux2(steps, tokens=flow.tokens, arithmetic="stock")

    def taken_by(m: Sampler, n: int) -> int:
        own = grid_from_noise(m)
        if own is not None:
            return own.steps
        return largest_steps(m, n, grid_of) if by_nfe else n

    steps = {(m, n): taken_by(m, n) for m in methods for n in counts}
    cells = [(m, n, m.own_grid or grid_of(taken)) for (m, n), taken in steps.items() if taken or not by_nfe]
    if not cells:
        raise ValueError(f"nfe={list(counts)}: not one step of {', '.join(map(label_of, methods))} fits")
    x1 = flow.noise([seed])
    total = sum(0 if m.adaptive else nfe(m, grid) for m, _, grid in cells)

    def report(rows: int) -> None:
        nonlocal drawn_rows
        drawn_rows += rows
        if on_call is not None:
            on_call(drawn_rows, total)

    drawn_rows = 0
    outs = sample_many(flow, [Run(x1, grid, m, seeds=seed) for m, _, grid in cells], on_call=report)
    if not all(x.isfinite().all() for x in outs):
        raise FloatingPointError(
            f"model {flow.name!r} gives latents that are not finite: NaN in its weights, or a dtype too small"
        )
    images = [flow.decode(x)[0] for x in outs]
    drawn = [
        Drawn(label_of(m), g.steps, nfe(m, g), forward_passes(flow, (c.sigma for c in dry_run(m, g)))) for m, _, g in cells
    ]
    if len(steps) == 1:
        png = io.BytesIO()
        images[0].save(png, format="PNG")
        write_atomically(out, png.getvalue())
        return drawn
    places = [(label_of(m), _column(n, by_nfe=by_nfe)) for m, n, _ in cells]
    picture = plots.image_grid(
        [label_of(m) for m in methods],
        [_column(n, by_nfe=by_nfe) for n in counts],
        dict(zip(places, images, strict=True)),
        f"{flow.prompt!r}, seed {seed}",
        captions={place: _caption(d, by_nfe=by_nfe) for place, d in zip(places, drawn, strict=True)},
        cell=0.9 if images[0].width < PIXELATED else 2.56,
    )
    write_atomically(out, picture)
    return drawn


def _column(count: int, *, by_nfe: bool) -> str:
    return _several(count, "call", "at most ") if by_nfe else _several(count, "step")


def _caption(d: Drawn, *, by_nfe: bool) -> str:
    return _several(d.steps, "step") + (f", {d.nfe} calls" if d.nfe != d.steps else "") if by_nfe else _several(d.nfe, "call")


def _several(count: int, noun: str, before: str = "") -> str:
    return f"{before}{count} {noun}{'s' * (count != 1)}"
