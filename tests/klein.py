"""The bundled Klein in the forms that tests need, loaded once a process."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from flowsamplers_diffusers import load_klein

PROMPT = "a handwritten 3"


@cache
def _loaded(dtype: torch.dtype) -> Any:
    return load_klein("klein-digits", dtype=dtype, device="cpu")


def pipeline(dtype: torch.dtype = torch.float32, *, distilled: bool = False, scheduler: Any = None) -> Any:
    """klein-digits with a scheduler of its own; the networks are shared."""
    from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline

    loaded = _loaded(dtype)
    stock = FlowMatchEulerDiscreteScheduler.from_config(loaded.scheduler.config)
    pipe = Flux2KleinPipeline(**{**loaded.components, "scheduler": scheduler or stock}, is_distilled=distilled)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latents(
    pipe: Any, *, steps: int = 4, guidance: float = 4.0, seed: int = 0, callback: Any = None, **call: Any
) -> list[Tensor]:
    """The packed latents after every model call of a pipeline run."""
    seen: list[Tensor] = []

    def record(pipe: Any, i: int, t: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
        changed = callback(pipe, i, t, values) if callback else {}
        seen.append(changed.get("latents", values["latents"]).clone())
        return changed

    options = {
        "prompt": PROMPT,
        "height": 16,
        "width": 16,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "max_sequence_length": 32,
        "generator": torch.Generator().manual_seed(seed),
        "callback_on_step_end": record,
        "output_type": "latent",
    }
    pipe(**{**options, **call})
    return seen
