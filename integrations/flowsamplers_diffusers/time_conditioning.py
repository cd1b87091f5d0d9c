"""Time conditioning in full precision for networks that run in bfloat16."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def full_precision_time(transformer: nn.Module) -> Generator[None]:
    r"""Within this context a FLUX.2 transformer is conditioned on the time as it was given, not rounded to its own dtype.

    In bfloat16 the numbers between 512 and 1024 are 4 apart, so the network cannot tell sigma = 0.767 from 0.764, and its
    velocity is a staircase in sigma. Here the sinusoids of the time are computed from the float32 value; only they are rounded,
    which is smooth. Pass ``timestep`` in float32 to the transformer, as `KleinFlow` does with ``full_time=True``.

    Args:
        transformer: a ``Flux2Transformer2DModel`` in any dtype; in float32 nothing changes.

    Raises:
        ValueError: a module without ``time_guidance_embed.time_proj``.

    Examples:
        >>> with full_precision_time(pipe.transformer):  # doctest: +SKIP
        ...     v = pipe.transformer(hidden_states=x, timestep=sigma.float(), ...)[0]
    """
    embed = getattr(transformer, "time_guidance_embed", None)
    projection = getattr(embed, "time_proj", None)
    if not isinstance(projection, nn.Module):
        raise ValueError(
            f"transformer={type(transformer).__name__}: only FLUX.2 transformers have a time_guidance_embed.time_proj"
        )
    exact: list[Tensor] = []

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        exact[:] = [kwargs["timestep"].to(torch.float32) * 1000]

    def replace(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (exact.pop(),) if exact else args  # once a call: guidance and reference times go through here too

    hooks = [transformer.register_forward_pre_hook(record, with_kwargs=True), projection.register_forward_pre_hook(replace)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
