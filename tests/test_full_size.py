"""FLUX.2 [klein] 4B in its real size, without weights: the stock pipeline on torch's meta device."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")
from diffusers import Flux2KleinPipeline
from transformers import Qwen3Config, Qwen3ForCausalLM

import flowsamplers as fs
from fields import every_fixed_sampler
from flowsamplers_diffusers import FlowSamplerScheduler, KleinFlow
from klein import pipeline as klein_digits
from tooling import tool

ROOT = Path(__file__).parent.parent


TOOL = tool("build_full_size")
FOUND = json.loads(TOOL.DATA.read_text())


@cache
def klein_4b() -> Any:
    return TOOL.pipeline("klein-4B")


def test_the_whole_way_to_the_image_with_every_pass_made() -> None:
    """Three real forward passes of 3.9e9 parameters and the decoder, in the dtype of the weights."""
    pipe = klein_4b()
    passes: list[int] = []

    def forget(pipe, i, t, values):
        passes.append(len(pipe.transformer.seen))
        pipe.transformer.seen.clear()
        return {}

    sampler = fs.get_sampler("ab2", last="midpoint")
    image = TOOL.call(pipe, sampler, steps=2, output_type="pt", callback=forget)
    assert (tuple(image.shape), image.dtype, image.device.type) == ((1, 3, 1024, 1024), torch.bfloat16, "meta")
    assert passes == [1, 1, 1]
    assert sum(p.numel() for p in pipe.transformer.parameters()) == FOUND["models"]["klein-4B"]["parameters"] == 3_875_544_576


@every_fixed_sampler
def test_every_sampler_runs_with_the_calls_it_promised_and_holds_what_the_page_says(name) -> None:
    """Anything that waits for the device raises; the network sees one kind of input whatever the sampler."""
    pipe = klein_4b()
    found = TOOL.measure_sampler(pipe, name)
    assert found["promised"] == found["made"] == fs.nfe(name, fs.schedules.flux2(TOOL.STEPS, tokens=4096))
    shown = FOUND["samplers"].get(name, {"klein-4B": found, "klein-9B": found})  # a new sampler: the page names it
    assert found == shown["klein-4B"] == shown["klein-9B"]
    assert len(pipe.transformer.seen) == 1


@pytest.mark.parametrize("name", ["euler", "heun", "unipc", "seeds_3"])
def test_the_stock_pipeline_of_the_real_base_model_makes_two_passes_a_call(name) -> None:
    """Classifier-free guidance, as klein-base-4B has it."""
    distilled = klein_4b()
    pipe = Flux2KleinPipeline(**distilled.components, is_distilled=False)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = FlowSamplerScheduler.from_config(distilled.scheduler.config, sampler=name, sampler_options=None, seed=0)
    text = {
        k: torch.empty(1, 512, 7680, dtype=torch.bfloat16, device="meta") for k in ("prompt_embeds", "negative_prompt_embeds")
    }
    pipe.transformer.calls = 0
    out = pipe(**text, height=1024, width=1024, num_inference_steps=4, guidance_scale=4.0, output_type="latent").images
    assert (out.dtype, out.device.type) == (torch.bfloat16, "meta")
    assert pipe.transformer.calls == 2 * fs.nfe(name, pipe.scheduler.grid)
    assert len(pipe.transformer.seen) == 1


@cache
def flow_4b(*, distilled: bool = True, **options: bool) -> KleinFlow:
    """With the text encoder of the real size too, 4.4e9 parameters, and the tokenizer of klein-digits in the place of its own."""
    parts = {**klein_4b().components, "text_encoder": text_encoder(), "tokenizer": klein_digits().tokenizer}
    pipe = Flux2KleinPipeline(**parts, is_distilled=distilled)
    return KleinFlow(pipe, "a cat", height=1024, width=1024, max_sequence_length=512, **options)


@cache
def text_encoder() -> Qwen3ForCausalLM:
    """Qwen3-4B; eager attention, because the other kind looks whether the mask hides anything."""
    sizes = {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "vocab_size": 151_936}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
    with torch.device("meta"):
        return Qwen3ForCausalLM(Qwen3Config(**sizes, **heads, attn_implementation="eager")).to(torch.bfloat16)


def drawn(flow: KleinFlow, sampler: str, steps: int) -> Any:
    """From noise to an image, by the library's own driver; counts from before are forgotten."""
    grid = fs.schedules.flux2(steps, tokens=flow.tokens)
    flow.forward_passes = flow.pipe.transformer.calls = 0
    x0 = fs.sample(flow.velocity, flow.noise([0]), grid, sampler, seed=0)
    assert flow.forward_passes == fs.nfe(sampler, grid) * flow.passes_per_evaluation
    return x0


def test_from_a_prompt_to_the_image_as_a_velocity_field() -> None:
    """With one sampler: that no run of `fs.sample` waits is a law of every sampler."""
    flow = flow_4b()
    assert (flow.tokens, flow.shape, flow.dtype, flow.device.type) == (4096, (4096, 128), torch.bfloat16, "meta")
    image = flow.decode(drawn(flow, "ab2", 2), output_type="pt")
    assert (tuple(image.shape), image.dtype, image.device.type) == ((1, 3, 1024, 1024), torch.bfloat16, "meta")
    assert sum(p.numel() for p in flow.pipe.text_encoder.parameters()) == 4_411_424_256


@pytest.mark.parametrize("batched", [False, True], ids=["two passes", "one batch"])
def test_guidance_of_the_real_base_model_waits_for_nothing(batched) -> None:
    """One call of twice the rows, or two calls."""
    flow = flow_4b(distilled=False, batched_guidance=batched)
    x0 = drawn(flow, "heun", 2)
    assert (tuple(x0.shape), x0.dtype) == ((1, 4096, 128), torch.bfloat16)
    assert (flow.forward_passes, flow.pipe.transformer.calls) == (8, 4 if batched else 8)
    flow.pipe.transformer.seen.clear()


def test_full_precision_time_of_the_real_model_waits_for_nothing() -> None:
    flow = flow_4b(full_time=True)
    flow.pipe.transformer.seen.clear()  # a pass that is not made does not look at the time
    v = flow.velocity(flow.noise([0]), torch.ones(1, device="meta"))
    assert (tuple(v.shape), v.dtype, v.device.type) == ((1, 4096, 128), torch.bfloat16, "meta")
    flow.pipe.transformer.seen.clear()


def test_a_host_sync_would_raise() -> None:
    """The control: what waits for a value cannot run here."""
    scheduler = FlowSamplerScheduler(check="finite")
    scheduler.set_timesteps(sigmas=[1.0], device="meta")
    scheduler.set_begin_index(0)
    x = torch.empty(1, 2, device="meta")
    with pytest.raises(RuntimeError, match="meta"):
        scheduler.step(x, scheduler.timesteps[0], x)


def test_euler_holds_its_state_alone_and_heun_a_velocity_and_a_point_more() -> None:
    """In copies of the float32 latents, 4,096 tokens of 128 channels."""
    copies = {n: FOUND["samplers"][n]["klein-4B"]["held"] / (4096 * 128 * 4) for n in ("euler", "ab2", "heun")}
    assert copies == {"euler": 1, "ab2": 2, "heun": 3}
