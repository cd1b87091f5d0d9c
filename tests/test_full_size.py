"""FLUX.2 [klein] 4B in its real size, without weights: the stock pipeline on torch's meta device."""

from __future__ import annotations

import importlib.util
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")
import flowsamplers as fs
from fields import every_fixed_sampler
from flowsamplers_diffusers import FlowSamplerScheduler

ROOT = Path(__file__).parent.parent


def tool() -> Any:
    spec = importlib.util.spec_from_file_location("build_full_size", ROOT / "tools" / "build_full_size.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


TOOL = tool()
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
    assert found == FOUND["samplers"][name]["klein-4B"] == FOUND["samplers"][name]["klein-9B"]
    assert len(pipe.transformer.seen) == 1


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
