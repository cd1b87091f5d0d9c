"""The drop-in in the other flow pipelines of diffusers, through their own calls: what tools/build_compatibility.py runs in full."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
import diffusers
from diffusers import FlowMatchEulerDiscreteScheduler

import flowsamplers as fs
from fields import FIXED, every_fixed_sampler
from flowsamplers.catalogue import unmeasured
from flowsamplers_diffusers import FlowSamplerScheduler
from relatives import RELATIVES, Outcome, broken_promises, flow_pipelines, run, same
from tooling import AFTER_A_SAMPLER

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast", "ignore:__array__ implementation")  # Mochi's and LTX's own

FAST = [
    "Flux",
    "Flux img2img",
    "SD3 img2img",
    "Qwen-Image inpaint",
    "Z-Image",
    "Wan 2.2, two experts",
    "Wan video to video",
    "LTX image to video",
    "AuraFlow",
    "Lumina 2",
    "Chroma img2img",
    "CogView4",
    "FLUX.2",
    "Sana",
    "Mochi",
]
"""One of every way in which a pipeline speaks to its scheduler."""
PER_TOKEN = [name for name, entry in RELATIVES.items() if entry.only_euler]

fast = pytest.mark.parametrize("name", [n for n in FAST if hasattr(diffusers, RELATIVES[n].pipeline)])
per_token = pytest.mark.parametrize("name", PER_TOKEN)


@cache
def stock(name: str, dtype: torch.dtype = torch.float32) -> Outcome:
    """Without a last step from sigma 0 to 0: Z-Image before diffusers 0.39 pays for one that moves nothing, and ours leaves it out."""
    outcome = run(name, FlowMatchEulerDiscreteScheduler(**RELATIVES[name].scheduler), dtype=dtype)
    if outcome.scheduler.sigmas[-2] != 0:
        return outcome
    calls, left = len(outcome.indices), len(outcome.indices) - 1
    asked = outcome.asked[: len(outcome.asked) * left // calls]
    return replace(outcome, asked=asked, calls=outcome.calls * left // calls, indices=outcome.indices[:-1])


def ours(name: str, *, dtype: torch.dtype = torch.float32, **options) -> Outcome:
    config = FlowMatchEulerDiscreteScheduler(**RELATIVES[name].scheduler).config
    return run(name, FlowSamplerScheduler.from_config(config, **options), dtype=dtype)


@fast
def test_euler_at_stocks_precision_is_stock_and_others_make_the_calls_of_their_dry_run_up_to_the_end(name) -> None:
    """It asks the model what stock asks, and ends where stock ends."""
    assert same(ours(name, carry="model"), stock(name))
    for sampler in ("heun", "fireflow", "unipc", "lcm"):
        assert broken_promises(ours(name, sampler=sampler, seed=0), stock(name)) == [], sampler


@pytest.mark.parametrize("name", ["Flux", "Qwen-Image inpaint"])
def test_in_bfloat16_it_is_stock_too(name) -> None:
    assert same(ours(name, carry="model", dtype=torch.bfloat16), stock(name, torch.bfloat16))


@per_token
def test_tokens_with_times_of_their_own_move_as_in_stock(name) -> None:
    assert same(ours(name, carry="model"), stock(name))


@per_token
def test_samplers_that_cannot_give_tokens_their_own_times_say_so(name) -> None:
    with pytest.raises(ValueError, match="only sampler='euler' can give every token a time of its own"):
        ours(name, sampler="heun")


def test_order_is_what_pipelines_multiply_their_steps_with() -> None:
    for sampler, alone in (("euler", 1), ("heun", 2), ("rk4", 4), ("fireflow", 1), ("ab2", 1)):
        scheduler = FlowSamplerScheduler(sampler=sampler)
        assert scheduler.order == 1
        scheduler.set_timesteps(6)
        assert scheduler.order == alone
        assert sampler == "fireflow" or len(scheduler.timesteps) == 6 * alone
        scheduler.set_timesteps(sigmas=np.linspace(1, 0.1, 6))
        assert scheduler.order == 1


@pytest.mark.parametrize("inference", [False, True])
def test_an_entry_of_timesteps_is_known_by_its_place_even_among_equals(inference) -> None:
    with torch.inference_mode(inference):
        scheduler = FlowSamplerScheduler(sampler="heun")
        scheduler.set_timesteps(sigmas=[1.0, 0.6, 0.3])
        assert scheduler.timesteps[1] == scheduler.timesteps[2]
        for begin in range(6):
            places = [scheduler.index_for_timestep(t) for t in scheduler.timesteps[begin:]]
            assert places == list(range(begin, 6))
        assert scheduler.index_for_timestep(scheduler.timesteps[1].clone()) == 2  # by value: where a step begins
        assert scheduler.index_for_timestep(torch.tensor(600.5)) == 2


@every_fixed_sampler
def test_where_sigma_rises_to_the_data_every_sampler_makes_the_run_that_it_makes_where_it_falls(name) -> None:
    """Mochi's inverted sigmas: the same path, told the other way round. Otherwise fresh noise would be put on the data."""
    ends, asked = [], []
    for inverted in (False, True):
        scheduler = FlowSamplerScheduler(sampler=name, seed=3, invert_sigmas=inverted)
        scheduler.set_timesteps(sigmas=[1.0, 0.8, 0.55, 0.25])
        x = torch.ones(2, 5)
        for t in scheduler.timesteps:
            v = torch.sin(3 * x)
            x = scheduler.step(-v if inverted else v, t, x, return_dict=False)[0]
        ends.append(x)
        asked.append(scheduler.sigmas.double())
    assert torch.equal(*ends)
    assert torch.allclose(asked[0], 1 - asked[1], atol=2**-24, rtol=0)


def test_sigmas_beyond_1_are_refused_by_name() -> None:
    """Cosmos registers sigmas from 80 to 0.002 with its scheduler: not a straight path from noise to data."""
    scheduler = FlowSamplerScheduler(use_karras_sigmas=True)
    scheduler.register_to_config(sigma_max=80.0, sigma_min=0.002)
    with pytest.raises(ValueError, match=r"sigmas\[0\]=80\.0: sigmas lie between 0 \(data\) and 1 \(noise\)"):
        scheduler.set_timesteps(sigmas=np.linspace(1, 0.1, 5))


@pytest.mark.parametrize("spacing", ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"])
def test_a_range_registered_with_the_configuration_bounds_the_respacing_as_in_stock(spacing) -> None:
    made = []
    for scheduler in (FlowMatchEulerDiscreteScheduler(**{spacing: True}), FlowSamplerScheduler(**{spacing: True})):
        scheduler.register_to_config(sigma_max=0.9, sigma_min=0.05)
        scheduler.set_timesteps(sigmas=np.linspace(1, 0.1, 5))
        made.append(scheduler)
    assert torch.equal(made[0].sigmas, made[1].sigmas)
    assert made[1].sigmas[0] == pytest.approx(0.9)


def test_the_committed_table_has_every_pipeline_with_every_sampler_and_all_holds() -> None:
    """But for the pipelines that give every token a time of its own, which only euler can do, and new samplers; the page names these."""
    found = json.loads((ROOT / "docs" / "reference" / "pipelines.json").read_text())["pipelines"]
    page = (ROOT / "docs" / "reference" / "compatibility.md").read_text()
    assert list(found) == list(RELATIVES)
    for name, row in found.items():
        names = [s for s in FIXED if s in row["samplers"]]
        assert list(row["samplers"]) == names
        assert unmeasured(names) in page, AFTER_A_SAMPLER
        assert row["euler"]["float32"]
        assert row["euler"]["bfloat16"] in (True, None)
        refused = [s for s, wrong in row["samplers"].items() if wrong]
        at_0 = [s for s in names if any(call.sigma == 0 for call in fs.dry_run(s, fs.schedules.linear(3)))]
        entry = RELATIVES[name]
        assert refused == ([s for s in names if s != "euler"] if entry.only_euler else at_0 if entry.divides else [])


GUIDES_DATA = (
    hasattr(diffusers, "LTX2Pipeline") and "stg_scale" in inspect.signature(diffusers.LTX2Pipeline.__call__).parameters
)


@pytest.mark.skipif(not GUIDES_DATA, reason="this diffusers' LTX 2 guides the velocity, or there is none")
def test_where_a_pipeline_divides_by_sigma_a_method_that_asks_at_0_takes_another_last_step() -> None:
    options = {"sampler": "heun", "check": "finite"}
    with pytest.raises(FloatingPointError, match=r"model_output is not finite at step 3, stage 1, sigma 0\.0"):
        ours("LTX 2", **options)
    assert broken_promises(ours("LTX 2", **options, sampler_options={"last": "midpoint"}), stock("LTX 2")) == []
    assert same(ours("LTX 2", carry="model"), stock("LTX 2"))


def test_every_method_that_asks_at_0_has_an_option_with_which_it_does_not() -> None:
    grid = fs.schedules.linear(3)
    for name in FIXED:
        if all(call.sigma > 0 for call in fs.dry_run(name, grid)):
            continue
        option = "last" if "last" in fs.get_sampler(name).options else "base"
        mended = fs.get_sampler(name, **{option: "midpoint"})
        assert all(call.sigma > 0 for call in fs.dry_run(mended, grid))


def test_what_the_flow_pipelines_of_diffusers_read_of_stocks_scheduler_is_here_too() -> None:
    """All of them, also those that no tiny model was built for."""
    texts = flow_pipelines()
    assert len(texts) >= 50
    schedulers = FlowMatchEulerDiscreteScheduler(), FlowSamplerScheduler()
    for scheduler in schedulers:
        scheduler.set_timesteps(3)
    read = {name for text in texts.values() for name in re.findall(r"\bscheduler\.(\w+)", text)}
    options = {n for text in texts.values() for n in re.findall(r"\bscheduler\.config\.(?:get\(\s*\")?(\w+)", text)}
    assert {"set_timesteps", "timesteps", "sigmas", "order", "scale_noise", "set_begin_index", "step"} <= read
    assert {"base_shift", "max_image_seq_len", "use_dynamic_shifting"} <= options
    stock, ours = schedulers
    assert {name for name in read if hasattr(stock, name) and not hasattr(ours, name)} == set()
    assert {name for name in options if name in stock.config and name not in ours.config} == set()
