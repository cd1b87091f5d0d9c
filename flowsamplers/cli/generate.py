"""``flowsamplers generate``: draw images."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowsamplers.cli.models import model_options, open_flow, progress
from flowsamplers.cli.types import SAMPLER, SEED, Command, Place, Several, check_file

if TYPE_CHECKING:
    from flowsamplers.sampler import Sampler


@click.command(cls=Command)
@model_options("klein-digits")
@click.option("--prompt", help="What to draw.")
@click.option("--sampler", "--samplers", "samplers", type=SAMPLER, cls=Several, help="One or several.  [default: euler]")
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

    if steps and nfe:
        raise ValueError("steps and nfe: give the one or the other")
    methods = samplers or (get_sampler("euler"),)
    for name, given in (("sampler", methods), ("steps", steps), ("nfe", nfe)):
        if len(set(given)) < len(given):
            raise ValueError(f"{name}: one of them is there twice")
    check_file(out, "a PNG file")
    flow = open_flow(model, prompt, flow_options)
    with progress(quiet) as report:
        images = draw(flow, methods, nfe or steps or (20,), seed, out, by_nfe=bool(nfe), progress=report)
    if as_rows:
        about = {"model": flow.name, "prompt": flow.prompt, "seed": seed, "out": str(out)}
        click.echo(json.dumps({**about, "images": [asdict(image) for image in images]}))
        return
    click.echo(f"{'sampler':<24} {'steps':>5} {'model calls':>12} {'forward passes':>15}")
    for image in images:
        click.echo(f"{image.sampler:<24} {image.steps:>5} {image.nfe:>12} {image.forward_passes:>15}")
    click.echo(f"\nimage: {out}")
