"""Options and progress bar of all commands that open a model."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any

import click

from flowsamplers.cli.types import Size


def model_options(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options that open a model, by default this one; the command gets them as ``flow_options``."""
    return partial(_with_model, default)


def _with_model(default: str, command: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(command)
    def with_flow(
        *args: Any,
        size: tuple[int, int] | None,
        guidance: float | None,
        guidance_interval: tuple[float, float] | None,
        batched_guidance: bool,
        dtype: str | None,
        device: str | None,
        offload: str | None,
        full_time: bool,
        **kwargs: Any,
    ) -> Any:
        width, height = size or (None, None)
        options = {
            "height": height,
            "width": width,
            "guidance_scale": guidance,
            "guidance_interval": guidance_interval,
            "batched_guidance": batched_guidance or None,
            "dtype": dtype,
            "device": device,
            "offload": offload,
            "full_time": full_time or None,
        }
        return command(*args, flow_options={k: v for k, v in options.items() if v is not None}, **kwargs)

    for option in (
        click.option("--full-time", is_flag=True, help="Time conditioning in full precision (matters in bfloat16)."),
        click.option("--offload", type=click.Choice(["model", "sequential"]), help="Keep weights on the CPU until needed."),
        click.option("--device", help="Such as cuda or cpu; by default CUDA if available."),
        click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="Dtype of the network."),
        click.option("--batched-guidance", is_flag=True, help="Compute both passes of the guidance as one batch."),
        click.option(
            "--guidance-interval",
            type=float,
            nargs=2,
            metavar="LOW HIGH",
            help="Apply guidance only at sigmas between these two values.",
        ),
        click.option("--guidance", type=float, help="Classifier-free guidance; above 1, each call takes two passes."),
        click.option("--size", type=Size(), help="WIDTHxHEIGHT in pixels; default: the model's size."),
        click.option("--model", default=default, show_default=True, help="Bundled name, folder, hub id, or loader:name."),
    ):
        with_flow = option(with_flow)
    return with_flow


def settle_threads(model: str) -> None:
    """One thread for models whose calls take milliseconds: handing out the work costs more than it saves.

    On two virtual cores, one row of klein-digits takes 6 ms with one thread and from 10 to 900 with two. One of klein-emoji
    takes 25 ms with one thread.
    """
    if "/" not in model and not Path(model).exists():
        import torch

        torch.set_num_threads(1)


def open_flow(model: str, prompt: str | None, options: dict[str, Any]) -> Any:
    """The flow of a model, with a prompt that shows something where none is given."""
    from flowsamplers.flows import default_prompts, load_flow

    settle_threads(model)
    prompt = default_prompts(model).given[0] if prompt is None else prompt
    return load_flow(model, **({} if prompt is None else {"prompt": prompt}), **options)


@contextmanager
def progress(quiet: bool) -> Generator[Callable[[str, int, int], None]]:
    """A bar for each stage of a study on standard error, with an estimate of what is left."""
    from tqdm import tqdm

    bars: dict[str, Any] = {}

    def report(stage: str, done: int, total: int) -> None:
        if stage not in bars:
            for bar in bars.values():
                full(bar)
            unit = " rows"
            bars[stage] = tqdm(total=total or None, desc=f"{stage:<10}", unit=unit, disable=quiet, ncols=80, mininterval=0.2)
        bars[stage].update(done - bars[stage].n if total else done)

    def full(bar: Any) -> None:
        if bar.total:  # what a stage takes at most; it took less
            bar.total = bar.n
            bar.refresh()
        bar.close()

    try:
        yield report
        for bar in bars.values():
            full(bar)
    finally:
        for bar in bars.values():
            bar.close()
