"""``flowsamplers generate``: draw images."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowsamplers.cli.models import model_options, open_flow, progress
from flowsamplers.cli.types import SEED, Command, Method, Place, Several

if TYPE_CHECKING:
    from flowsamplers.sampler import Sampler


@click.command(cls=Command)
@model_options("klein-digits")
@click.option("--prompt", help="What to draw.")
@click.option("--sampler", "--samplers", "samplers", type=Method(), cls=Several, help="One or several.  [default: euler]")
@click.option("--steps", type=int, cls=Several, help="One or several.  [default: 20]")
@click.option(
    "--nfe", type=int, cls=Several, help="Budgets of model calls instead of steps; each sampler takes as many steps as fit."
)
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option("--out", type=Place(), default=Path("image.png"), show_default=True, help="PNG file.")
@click.option("--json", "as_rows", is_flag=True, help="Print the settings of the images as JSON.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def generate(
    model: str,
    flow_options: dict[str, Any],
    prompt: str | None,
    samplers: tuple[Sampler, ...],
    steps: tuple[int, ...],
    nfe: tuple[int, ...],
    seed: int,
    out: Path,
    as_rows: bool,
    quiet: bool,
) -> None:
    """Draw an image, or a labeled grid of images, all from one noise.

    A grid has a row for each sampler and a column for each number of steps.

    \b
    flowsamplers generate --prompt "the digit seven" --steps 8 --sampler fireflow --out seven.png
    flowsamplers generate --steps 1 2 3 4 6 10 --samplers euler fireflow ab2
    flowsamplers generate --nfe 4 8 16 --samplers euler heun fireflow
    """  # noqa: D301
    from flowsamplers.cli.images import draw
    from flowsamplers.registry import get_sampler
    from flowsamplers.study.store import check_writable

    if steps and nfe:
        raise ValueError("steps and nfe: give the one or the other")
    methods = samplers or (get_sampler("euler"),)
    for name, given in (("sampler", methods), ("steps", steps), ("nfe", nfe)):
        if len(set(given)) < len(given):
            raise ValueError(f"{name}: one of them is there twice")
    check_writable(out.parent)
    if out.is_dir():
        raise IsADirectoryError(f"out={str(out)!r} is a folder; name a PNG file")
    flow = open_flow(model, prompt, flow_options)
    with progress(quiet) as report:
        drawn = draw(flow, methods, nfe or steps or (20,), seed, out, by_nfe=bool(nfe), on_call=partial(report, "images"))
    if as_rows:
        about = {"model": flow.name, "prompt": flow.prompt, "seed": seed, "out": str(out)}
        click.echo(json.dumps({**about, "images": [d.to_dict() for d in drawn]}))
        return
    click.echo(f"{'sampler':<24} {'steps':>5} {'model calls':>12} {'forward passes':>15}")
    for d in drawn:
        click.echo(f"{d.sampler:<24} {d.steps:>5} {d.nfe:>12} {d.forward_passes:>15}")
    click.echo(f"\nimage: {out}")
