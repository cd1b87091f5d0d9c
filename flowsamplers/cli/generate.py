"""``flowsamplers generate``: images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from flowsamplers.cli.models import model_options, open_flow
from flowsamplers.cli.types import Command, Method
from flowsamplers.sampler import Sampler, get_sampler
from flowsamplers.study.steps import draw
from flowsamplers.study.store import check_writable


@click.command(cls=Command)
@model_options
@click.option("--prompt", help="What to draw.")
@click.option(
    "--sampler", "samplers", type=Method(), multiple=True, help="May be repeated; a labelled grid then.  [default: euler]"
)
@click.option("--steps", type=int, multiple=True, help="May be repeated; a labelled grid then.  [default: 20]")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("image.png"), show_default=True, help="PNG file.")
def generate(
    model: str,
    flow_options: dict[str, Any],
    prompt: str | None,
    samplers: tuple[Sampler, ...],
    steps: tuple[int, ...],
    seed: int,
    out: Path,
) -> None:
    """Draw an image, or a labelled grid of samplers and steps, all from one noise.

    \b
    flowsamplers generate --prompt "the digit seven" --steps 8 --sampler fireflow --out seven.png
    flowsamplers generate --steps 1 --steps 2 --steps 4 --steps 8 --sampler euler --sampler ab2
    """  # noqa: D301
    check_writable(out.parent)
    if out.is_dir():
        raise IsADirectoryError(f"out={str(out)!r} is a folder; name a PNG file")
    draw(open_flow(model, prompt, flow_options), samplers or (get_sampler("euler"),), steps or (20,), seed, out)
    click.echo(str(out))
