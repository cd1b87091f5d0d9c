"""Options and progress bar of all commands that open a model."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import click

from flowsamplers.cli.types import SIZE

OPTIONS = (
    click.option("--size", type=SIZE, help="WIDTHxHEIGHT in pixels; default: the model's size."),
    click.option(
        "--guidance", "guidance_scale", type=float, help="Classifier-free guidance; above 1, each call takes two passes."
    ),
    click.option(
        "--guidance-interval",
        type=float,
        nargs=2,
        metavar="LOW HIGH",
        help="Apply guidance only at sigmas between these two values.",
    ),
    click.option("--batched-guidance", is_flag=True, default=None, help="Compute both passes of the guidance as one batch."),
    click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="Dtype of the network."),
    click.option("--device", help="Such as cuda or cpu; by default CUDA if available."),
    click.option("--offload", type=click.Choice(["model", "sequential"]), help="Keep weights on the CPU until needed."),
    click.option("--full-time", is_flag=True, default=None, help="Time conditioning in full precision (matters in bfloat16)."),
)
LOADING = ("guidance_scale", "guidance_interval", "batched_guidance", "dtype", "device", "offload", "full_time")
"""The options that go to the loader of a model by their names."""


def model_options(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options that open a model, by default this one; the command gets those that are given as ``flow_options``."""
    model = click.option("--model", default=default, show_default=True, help="Bundled name, folder, hub id, or loader:name.")

    def with_options(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def with_flow(*args: Any, size: tuple[int, int] | None, **given: Any) -> Any:
            width, height = size or (None, None)
            options = {"height": height, "width": width, **{name: given.pop(name) for name in LOADING}}
            return command(*args, flow_options={k: v for k, v in options.items() if v is not None}, **given)

        for option in reversed((model, *OPTIONS)):
            with_flow = option(with_flow)
        return with_flow

    return with_options


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
    from flowsamplers.flows import completed, default_prompts, load_flow

    settle_threads(model)
    prompt = default_prompts(model).given[0] if prompt is None else prompt
    flow = load_flow(model, **({} if prompt is None else {"prompt": prompt}), **options)
    return completed(flow, condition=prompt)


@contextmanager
def progress(quiet: bool) -> Generator[Callable[[str, int, int], None]]:
    """A bar for each stage on standard error, with an estimate of what is left.

    Yields:
        What to call after every model call: with the stage, its rows so far, and the most that it may have; 0 if unknown.
    """
    from tqdm import tqdm

    bars: dict[str, Any] = {}

    def report(stage: str, done: int, total: int) -> None:
        if stage not in bars:
            fill()
            bars[stage] = tqdm(total=total or None, desc=f"{stage:<10}", unit=" rows", disable=quiet, ncols=80, mininterval=0.2)
        bars[stage].update(done - bars[stage].n)

    def fill() -> None:
        for bar in bars.values():
            if bar.total:  # what a stage takes at most; it took less
                bar.total = bar.n
                bar.refresh()
            bar.close()

    try:
        yield report
        fill()
    finally:
        for bar in bars.values():
            bar.close()
