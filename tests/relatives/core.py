"""The flow pipelines of diffusers as tiny random models: for each the networks, a scheduler's configuration and a call.

Text encoders are left out wherever a pipeline takes embeddings instead of prompts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

DYNAMIC = {
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}
QWEN = {**DYNAMIC, "max_shift": 0.9, "max_image_seq_len": 8192, "shift_terminal": 0.02}
LTX = {**DYNAMIC, "base_shift": 0.95, "max_shift": 2.05, "base_image_seq_len": 1024, "shift_terminal": 0.1}


@dataclass(frozen=True)
class Relative:
    """A pipeline that FlowMatchEuler serves.

    Attributes:
        pipeline: class name in diffusers.
        parts: makes its networks; components that are not named are None.
        call: makes the arguments of its call; latents are drawn by the pipeline from a seeded generator.
        scheduler: configuration of its scheduler.
        note: what is special about it.
        only_euler: why other samplers are refused, if they are.
        divides: the pipeline divides by sigma, so that a call at 0 has no velocity.
    """

    pipeline: str
    parts: Callable[[], dict[str, Any]]
    call: Callable[[], dict[str, Any]]
    scheduler: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    only_euler: str = ""
    divides: bool = False


RELATIVES: dict[str, Relative] = {}


def relative(
    name: str,
    pipeline: str,
    call: Callable[[], dict[str, Any]],
    *,
    note: str = "",
    only_euler: str = "",
    divides: bool = False,
    **scheduler: Any,
):
    """Decorator of the function that makes the networks."""

    def add(parts: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
        RELATIVES[name] = Relative(pipeline, parts, call, scheduler, note, only_euler, divides)
        return parts

    return add


# Ingredients


def normal(*shape: int, seed: int = 1) -> Tensor:
    """Embeddings of no prompt."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ones(*shape: int) -> Tensor:
    """A mask that hides nothing."""
    return torch.ones(*shape, dtype=torch.long)


def picture(side: int = 32) -> Image.Image:
    """An image to start from."""
    values = (normal(side, side, 3, seed=2).sigmoid() * 255).to(torch.uint8)
    return Image.fromarray(values.numpy())


def mask(side: int = 32) -> Image.Image:
    """The right half is to be painted."""
    values = torch.zeros(side, side, dtype=torch.uint8)
    values[:, side // 2 :] = 255
    return Image.fromarray(values.numpy())


def vae(channels: int = 4, blocks: int = 1) -> Any:
    """An image autoencoder of scale ``2 ** (blocks - 1)``."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(4,) * blocks,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        latent_channels=channels,
        layers_per_block=1,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.06,
        scaling_factor=1.5,
    )


def image_call(**more: Any) -> Callable[[], dict[str, Any]]:
    """A call for a picture of 32 x 32."""
    return lambda: {"height": 32, "width": 32, **{k: v() if callable(v) else v for k, v in more.items()}}


MASKED = {
    "prompt_embeds": normal(1, 7, 32),
    "prompt_attention_mask": ones(1, 7),
    "negative_prompt_embeds": normal(1, 7, 32, seed=3),
    "negative_prompt_attention_mask": ones(1, 7),
}
"""Embeddings of a prompt and of a negative one, with their masks."""


BOOLEAN = {k: v.bool() if "mask" in k else v for k, v in MASKED.items()}
"""The same with boolean masks."""
