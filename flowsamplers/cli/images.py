"""Draw images from one noise with several samplers and numbers of steps, side by side."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowsamplers.engine import dry_run, largest_steps, nfe
from flowsamplers.lockstep import Run, sample_many
from flowsamplers.sampler import Sampler, grid_from_noise
from flowsamplers.schedules import flux2
from flowsamplers.study import plots
from flowsamplers.study.bench import forward_passes
from flowsamplers.study.cost import Meter
from flowsamplers.study.rows import label_of
from flowsamplers.study.store import write_atomically

PIXELATED = 256
"""Images narrower than this are enlarged without smoothing and get smaller cells."""


@dataclass(frozen=True)
class Image:
    """One image of a grid, and what made it.

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


def draw(
    flow: Any,
    methods: Sequence[Sampler],
    counts: Sequence[int],
    seed: int,
    out: Path,
    *,
    by_nfe: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Image]:
    """Write an image, or a labeled grid from one noise: a row for each sampler, a column for each number of steps or calls.

    Args:
        flow: a field with ``noise``, ``decode``, ``tokens``, ``name`` and ``prompt``.
        methods: the samplers.
        counts: the step counts; the schedule is the pipeline's own.
        seed: of the noise, and of stochastic samplers.
        out: PNG file.
        by_nfe: the counts are model calls, and each sampler takes as many steps as fit. If not even one step fits, the cell
            stays empty.
        progress: called with "images", the number of rows so far, and of all rows at most, after every model call.

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

    def grid(m: Sampler, n: int) -> Any:
        own = grid_from_noise(m)
        if own is not None:
            return own
        steps = largest_steps(m, n, grid_of) if by_nfe else n
        return grid_of(steps) if steps or not by_nfe else None

    places = {(m, n): g for m in methods for n in counts if (g := grid(m, n)) is not None}
    if not places:
        raise ValueError(f"nfe={list(counts)}: not one step of {', '.join(map(label_of, methods))} fits")
    images = [
        Image(label_of(m), g.steps, nfe(m, g), forward_passes(flow, (c.sigma for c in dry_run(m, g))))
        for (m, _), g in places.items()
    ]
    total = sum(image.nfe for image in images)
    meter = Meter(flow, on_call=lambda _: progress and progress("images", meter.rows, total))
    x1 = flow.noise([seed])
    outs = sample_many(meter, [Run(x1, g, m, seeds=seed) for (m, _), g in places.items()])
    if not all(x.isfinite().all() for x in outs):
        raise FloatingPointError(
            f"model {flow.name!r} gives latents that are not finite: NaN in its weights, or a dtype too small"
        )
    pictures = [flow.decode(x)[0] for x in outs]
    if len(methods) == len(counts) == 1:
        png = io.BytesIO()
        pictures[0].save(png, format="PNG")
        write_atomically(out, png.getvalue())
        return images
    columns = {n: _several(n, "call", "at most ") if by_nfe else _several(n, "step") for n in counts}
    cells = [(label_of(m), columns[n]) for m, n in places]
    picture = plots.image_grid(
        [label_of(m) for m in methods],
        list(columns.values()),
        dict(zip(cells, pictures, strict=True)),
        f"{flow.prompt!r}, seed {seed}",
        captions={cell: _caption(image, by_nfe=by_nfe) for cell, image in zip(cells, images, strict=True)},
        cell=0.9 if pictures[0].width < PIXELATED else 2.56,
    )
    write_atomically(out, picture)
    return images


def _caption(image: Image, *, by_nfe: bool) -> str:
    if not by_nfe:
        return _several(image.nfe, "call")
    return _several(image.steps, "step") + (f", {image.nfe} calls" if image.nfe != image.steps else "")


def _several(count: int, noun: str, before: str = "") -> str:
    return f"{before}{count} {noun}{'s' * (count != 1)}"
