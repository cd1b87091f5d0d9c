"""Every pipeline of the Klein family on tiny networks with random weights, behind one function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from unittest import mock

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel
from diffusers.modular_pipelines.modular_pipeline import LoopSequentialPipelineBlocks
from PIL import Image
from torch import Tensor

SIDE = 64
"""The smallest image that the pipelines take: 16 tokens of 4 channels here."""
NO_TEXT: dict[str, Any] = {"text_encoder": None, "tokenizer": None}


@dataclass(frozen=True)
class Member:
    """One way of calling one pipeline of the family.

    Attributes:
        name: how the tables call it.
        pipeline: the class in diffusers.
        is_distilled: what the model's configuration says.
        guided: two forward passes a call.
        call: further arguments of the call.
    """

    name: str
    pipeline: str
    is_distilled: bool = True
    guided: bool = False
    call: dict[str, Any] = field(default_factory=dict)

    @property
    def modular(self) -> bool:
        """Made of blocks: no callbacks and no interrupt."""
        return self.pipeline.endswith("ModularPipeline")

    @property
    def inpaints(self) -> bool:
        """Takes an image, a mask and a strength."""
        return "Inpaint" in self.pipeline


def picture(seed: int, width: int = SIDE, height: int = SIDE) -> Image.Image:
    """An image of noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def mask(rows: int = SIDE // 2) -> Image.Image:
    """White, to be painted, in the lowest rows."""
    return Image.fromarray(np.repeat(np.where(np.arange(SIDE) >= SIDE - rows, 255, 0)[:, None], SIDE, 1).astype(np.uint8))


ONE, TWO = [picture(1)], [picture(1), picture(2, width=SIDE + 16)]
MEMBERS = (
    Member("text, distilled", "Flux2KleinPipeline"),
    Member("text, base", "Flux2KleinPipeline", is_distilled=False, guided=True),
    Member("one reference", "Flux2KleinPipeline", call={"image": ONE}),
    Member("two references, base", "Flux2KleinPipeline", is_distilled=False, guided=True, call={"image": TWO}),
    Member("key-value cache, text", "Flux2KleinKVPipeline"),
    Member("key-value cache, two references", "Flux2KleinKVPipeline", call={"image": TWO}),
    Member("inpaint, distilled", "Flux2KleinInpaintPipeline", call={"strength": 0.7}),
    Member("inpaint with a reference, base", "Flux2KleinInpaintPipeline", False, True, {"image_reference": picture(2)}),
    Member("modular, text", "Flux2KleinModularPipeline"),
    Member("modular, two references", "Flux2KleinModularPipeline", call={"image": TWO}),
    Member("modular base, text", "Flux2KleinBaseModularPipeline", is_distilled=False, guided=True),
    Member(
        "modular base, one reference", "Flux2KleinBaseModularPipeline", is_distilled=False, guided=True, call={"image": ONE}
    ),
)


@cache
def components(dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Tiny networks with random weights, one set for each dtype."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = Flux2Transformer2DModel(
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        )
        vae = AutoencoderKLFlux2(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(4,) * 4,
            layers_per_block=1,
            latent_channels=1,
            norm_num_groups=1,
            sample_size=SIDE,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
        text = {k: torch.randn(1, 4, 16).to(dtype) for k in ("prompt_embeds", "negative_prompt_embeds")}
    return {"transformer": transformer.to(dtype).eval(), "vae": vae.to(dtype).eval(), **text}


def pipeline(member: Member, scheduler: Any = None, dtype: torch.dtype = torch.float32) -> Any:
    """The pipeline with a scheduler of its own; the networks are shared. A test of one that diffusers does not have yet is skipped."""
    if not hasattr(diffusers, member.pipeline):
        pytest.skip(f"diffusers {diffusers.__version__} has no {member.pipeline}")
    parts = {k: components(dtype)[k] for k in ("transformer", "vae")}
    parts["scheduler"] = scheduler or FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)
    if member.modular:
        blocks = getattr(diffusers, member.pipeline.replace("ModularPipeline", "AutoBlocks"))()
        blocks.sub_blocks.pop("text_encoder")
        pipe = blocks.init_pipeline()
        pipe.update_components(**parts)
        return pipe
    distilled = {} if "KV" in member.pipeline else {"is_distilled": member.is_distilled}
    return getattr(diffusers, member.pipeline)(**parts, **NO_TEXT, **distilled)


@dataclass
class Record:
    """What happened in a call.

    Attributes:
        latents: packed, after every model call, as the callback saw them (or the scheduler returned them, in modular pipelines).
        told: the velocity that the scheduler was told, and the sample it was given with it.
        forwards: forward passes of the network.
        bar: total of the progress bar, and how often it was updated.
        image: what the call returned.
    """

    latents: list[Tensor] = field(default_factory=list)
    told: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    forwards: int = 0
    bar: tuple[int, int] = (0, 0)
    image: Any = None


class Bar:
    """A progress bar that only counts."""

    def __init__(self, total: int) -> None:
        self.total, self.updates = total, 0

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self) -> None:
        self.updates += 1


Edit = Callable[[Any, int, Tensor], Tensor | None]


def run(
    member: Member,
    pipe: Any,
    *,
    steps: int = 2,
    edit: Edit | None = None,
    velocity: Callable[[Tensor], Tensor] | None = None,
    **call: Any,
) -> Record:
    """Call a pipeline and write down what happens.

    Args:
        member: of which `pipe` is one.
        pipe: from `pipeline`.
        steps: ``num_inference_steps``.
        edit: ``edit(pipe, i, latents)`` in the callback of call i; what it returns are the new latents.
        velocity: replaces the network's output.
        **call: further arguments.
    """
    record, bars, step = Record(), list[Bar](), pipe.scheduler.step

    def stepped(v: Tensor, t: Tensor, x: Tensor, **options: Any) -> Any:
        record.told.append((v.clone(), x.clone()))
        out = step(v, t, x, **options)
        if member.modular:
            record.latents.append(out[0].clone())
        return out

    def callback(pipe: Any, i: int, t: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
        edited = None if edit is None else edit(pipe, i, values["latents"])
        record.latents.append((values["latents"] if edited is None else edited).clone())
        return {} if edited is None else {"latents": edited}

    def forward(module: Any, given: Any, out: Any) -> Any:
        record.forwards += 1
        return None if velocity is None else (velocity(out[0]), *out[1:])

    def bar(total: int) -> Bar:
        bars.append(Bar(total))
        return bars[-1]

    loop = (LoopSequentialPipelineBlocks, lambda self, total: bar(total)) if member.modular else (pipe, bar)
    handle = pipe.transformer.register_forward_hook(forward)
    try:
        with mock.patch.object(loop[0], "progress_bar", loop[1]), mock.patch.object(pipe.scheduler, "step", stepped):
            out = pipe(**{**_arguments(member, pipe.transformer.dtype, callback), "num_inference_steps": steps, **call})
    finally:
        handle.remove()
    record.image = out if isinstance(out, Tensor) else out.images
    record.bar = bars[0].total, bars[0].updates
    return record


def _arguments(member: Member, dtype: torch.dtype, callback: Any) -> dict[str, Any]:
    """What every call of this member is given."""
    text = components(dtype)
    given: dict[str, Any] = {"height": SIDE, "width": SIDE, "generator": torch.Generator().manual_seed(0)}
    given["prompt_embeds"] = text["prompt_embeds"]
    if member.guided:
        given["negative_prompt_embeds"] = text["negative_prompt_embeds"]
    if member.modular:
        return {**given, "output": "latents", **member.call}
    given |= {"output_type": "latent", "callback_on_step_end": callback}
    if "KV" not in member.pipeline:
        given["guidance_scale"] = 4.0 if member.guided else 1.0
    if member.inpaints:
        given |= {"image": picture(3), "mask_image": mask()}
    return {**given, **member.call}
