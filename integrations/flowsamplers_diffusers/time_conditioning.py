"""Time conditioning in full precision for networks that run in bfloat16."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def full_precision_time(transformer: nn.Module, scheduler: Any = None) -> Generator[None]:
    r"""Give a FLUX.2 transformer the exact time, without rounding to its own dtype, inside this context.

    In bfloat16 the numbers between 512 and 1024 are 4 apart. The network cannot distinguish sigma = 0.767 from 0.764, and its velocity
    is a staircase in sigma. Here the sinusoids of the time are computed from the float32 value. Only the sinusoids are rounded, and
    this is smooth.

    A pipeline rounds the time before it calls the transformer. If you pass the pipeline's scheduler, the exact time is
    ``scheduler.timesteps[scheduler.step_index]`` whenever it equals the rounded time up to rounding. No device is waited for. Any
    scheduler with such an index works, including stock's FlowMatchEuler. Without a scheduler, pass ``timestep`` in float32 to the
    transformer, as `KleinFlow` does with ``full_time=True``.

    Args:
        transformer: a ``Flux2Transformer2DModel`` in any dtype; in float32 results change only by rounding. A compiled transformer
            must be called for the first time within the context.
        scheduler: the scheduler of the pipeline that calls the transformer.

    Raises:
        ValueError: the module has no ``time_guidance_embed.time_proj``.
        RuntimeError: the transformer was compiled before, so its compiled form ignores the exact time.

    Examples:
        >>> from flowsamplers_diffusers import load_klein
        >>> pipe = load_klein("klein-digits", dtype="bfloat16")
        >>> with full_precision_time(pipe.transformer, pipe.scheduler):
        ...     image = pipe(prompt="a handwritten 3", num_inference_steps=4, max_sequence_length=32).images[0]
    """
    embed = getattr(transformer, "time_guidance_embed", None)
    projection = getattr(embed, "time_proj", None)
    if not isinstance(projection, nn.Module):
        raise ValueError(
            f"transformer={type(transformer).__name__}: only FLUX.2 transformers have a time_guidance_embed.time_proj"
        )
    exact: list[Tensor] = []

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        timestep: Tensor = kwargs["timestep"]
        time = timestep.to(torch.float32) * 1000
        exact[:] = [time if scheduler is None else _listed(scheduler, time, torch.finfo(timestep.dtype).eps)]

    def replace(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (exact.pop(),) if exact else args  # once a call: guidance and reference times go through here too

    def check(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        if exact:
            raise RuntimeError("full_precision_time: the transformer was compiled before; compile it within the context")

    hooks = [
        transformer.register_forward_pre_hook(record, with_kwargs=True),
        projection.register_forward_pre_hook(replace),
        transformer.register_forward_hook(check),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _listed(scheduler: Any, time: Tensor, eps: float) -> Tensor:
    """The scheduler's time of the call that is being made, where it is ``time`` but for two roundings."""
    index = scheduler.step_index
    if index is None:
        index = scheduler.begin_index or 0
    if index >= len(scheduler.timesteps):
        return time
    listed = scheduler.timesteps[index].to(time)
    return torch.where((time - listed).abs() <= eps * listed.abs(), listed, time)
