"""The full-size models without weights: every sampler through the stock pipeline on torch's meta device, and what a run costs.

python tools/build_full_size.py          measures, and writes docs/reference/full-size.json and the page
python tools/build_full_size.py --page   writes the page, docs/reference/compatibility.md, from the committed measurements
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import GeneratorType
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Transformer2DModel
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import flowsamplers as fs
from flowsamplers.sampler import Running
from flowsamplers_diffusers import FlowSamplerScheduler

DATA = Path(__file__).parent.parent / "docs" / "reference" / "full-size.json"
SIDE, STEPS, TEXT = 1024, 4, 512
MODELS: dict[str, dict[str, int]] = {
    "klein-4B": {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680},
    "klein-9B": {"num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32, "joint_attention_dim": 12288},
}
"""What differs between the two; the rest is the class's default, or in `pipeline`."""


class Transformer(Flux2Transformer2DModel):
    """The real network on the meta device, whose forward pass is made once for each kind of input.

    A meta tensor has a shape, strides, a dtype and a device, and no data: the pass depends on nothing else, and so does its output.
    """

    calls = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: dict[Any, Tensor] = {}

    def forward(self, **given: Any) -> tuple[Tensor]:
        """Count the call; make the pass if this kind of input is new."""
        kind = tuple((k, v.shape, v.stride(), v.dtype, v.device) for k, v in given.items() if isinstance(v, Tensor))
        self.calls += 1
        if kind not in self.seen:
            self.seen[kind] = super().forward(**given)[0]
        return (torch.empty_like(self.seen[kind]),)


def pipeline(model: str) -> Flux2KleinPipeline:
    """The stock pipeline of a real model in bfloat16, on the meta device; text embeddings take the place of the text encoder."""
    with torch.device("meta"):
        transformer: Any = Transformer(in_channels=128, attention_head_dim=128, guidance_embeds=False, **MODELS[model])
        vae: Any = AutoencoderKLFlux2()
    parts: dict[str, Any] = {"transformer": nn.Module.to(transformer, torch.bfloat16), "vae": nn.Module.to(vae, torch.bfloat16)}
    scheduler = FlowSamplerScheduler(use_dynamic_shifting=True, shift=3.0)
    pipe = Flux2KleinPipeline(**parts, scheduler=scheduler, text_encoder=None, tokenizer=None, is_distilled=True)  # type: ignore[arg-type]
    pipe.set_progress_bar_config(disable=True)
    return pipe


def call(
    pipe: Any, sampler: fs.Sampler | str, *, steps: int = STEPS, output_type: str = "latent", callback: Any = None
) -> Tensor:
    """Run the stock pipeline at 1024 x 1024 with a sampler; anything that waits for the device raises on meta."""
    pipe.scheduler = FlowSamplerScheduler.from_config(pipe.scheduler.config, sampler=sampler, sampler_options=None, seed=0)
    embeddings = torch.empty(1, TEXT, pipe.transformer.config.joint_attention_dim, dtype=torch.bfloat16, device="meta")
    return pipe(
        prompt_embeds=embeddings,
        height=SIDE,
        width=SIDE,
        num_inference_steps=steps,
        guidance_scale=1.0,
        output_type=output_type,
        callback_on_step_end=callback,
    ).images


# What is held between two model calls


def held(scheduler: FlowSamplerScheduler) -> int:
    """Bytes of the tensors that a scheduler keeps while the model runs, without the sample it handed out, which is the pipeline's.

    That is the state, the memory, the velocities and the noise of the step so far, and what the sampler's generator has in hand.
    """
    run = scheduler._run
    held = _tensors([vars(run.stepper), run._noise._stored] if run is not None else ())  # nothing is held after the last call
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in held}
    return sum(storages.values())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Running):
        yield from _tensors(vars(value))
    elif isinstance(value, dict):
        for v in value.values():
            yield from _tensors(v)
    elif isinstance(value, list | tuple):
        for v in value:
            yield from _tensors(v)
    elif isinstance(value, GeneratorType) and value.gi_frame is not None:
        yield from _tensors(dict(value.gi_frame.f_locals))
        yield from _tensors(value.gi_yieldfrom)


# What a forward pass costs


class Fused(TorchFunctionMode):
    """Attention as one kernel that never writes the matrix of scores down, as on a GPU; on meta torch would take it apart."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See torch."""
        if func is not scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        named = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
        return torch.ops.aten._scaled_dot_product_flash_attention(named["query"], named["key"], named["value"])[0]


class Peak(TorchDispatchMode):
    """The most bytes alive at once of what the operations return, besides the tensors given."""

    def __init__(self, besides: Iterator[Tensor]) -> None:
        super().__init__()
        self.besides = {t.untyped_storage()._cdata for t in besides}
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See torch."""
        out = func(*args, **(kwargs or {}))
        self.alive = {k: v for k, v in self.alive.items() if not v[0].expired()}
        for t in _tensors(out):
            storage = t.untyped_storage()
            if storage._cdata not in self.besides:
                self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return out


def measure_model(pipe: Any) -> dict[str, float]:
    """Parameters, floating-point operations of one evaluation, and its activations at their peak."""
    weights = list(pipe.transformer.parameters())
    pipe.transformer.seen.clear()
    with FlopCounterMode(display=False) as flops, Fused():
        call(pipe, "euler", steps=1)
    pipe.transformer.seen.clear()
    with Peak(iter(weights)) as memory, Fused():
        call(pipe, "euler", steps=1)
    latents = torch.empty(1, 32, SIDE // 8, SIDE // 8, dtype=torch.bfloat16, device="meta")
    with torch.no_grad(), Peak(pipe.vae.parameters()) as decoding, Fused():
        pipe.vae.decode(latents, return_dict=False)
    return {
        "parameters": sum(p.numel() for p in weights),
        "weight_bytes": sum(p.nbytes for p in weights),
        "flops": flops.get_total_flops(),
        "activation_bytes": memory.peak,
        "decoding_bytes": decoding.peak,
    }


def measure_sampler(pipe: Any, name: str) -> dict[str, int]:
    """One run: model calls promised and made, and the most that is held between two calls."""
    most = 0

    def callback(pipe: Any, i: int, t: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
        nonlocal most
        assert values["latents"].dtype == torch.bfloat16
        assert values["latents"].device.type == "meta"
        most = max(most, held(pipe.scheduler))
        return {}

    pipe.transformer.calls = 0
    out = call(pipe, name, callback=callback)
    assert (out.dtype, out.device.type, tuple(out.shape)) == (torch.bfloat16, "meta", (1, 32, SIDE // 8, SIDE // 8))
    return {"promised": fs.nfe(name, pipe.scheduler.grid), "made": pipe.transformer.calls, "held": most}


def measure() -> dict[str, Any]:
    """Every model with every sampler."""
    found: dict[str, Any] = {"torch": torch.__version__, "diffusers": diffusers.__version__, "models": {}, "samplers": {}}
    for model in MODELS:
        pipe: Any = pipeline(model)
        call(pipe, "euler", steps=1)
        assert len(pipe.transformer.seen) == 1
        names = [i.name for i in fs.list_samplers() if not i.adaptive]
        for name in names:
            found["samplers"].setdefault(name, {})[model] = measure_sampler(pipe, name)
        assert len(pipe.transformer.seen) == 1, "the network was given another kind of input"
        found["models"][model] = measure_model(pipe)
    return found


if __name__ == "__main__":
    from build_compatibility import WRITTEN
    from building import build, save

    build(__doc__, WRITTEN, lambda _: save(DATA, measure()))
