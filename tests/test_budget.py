"""budget="nfe": num_inference_steps counts model calls."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
import diffusers

import flowsamplers as fs
from fields import every_fixed_sampler
from flowsamplers.schedules import pipeline_sigmas
from flowsamplers_diffusers import FlowSamplerScheduler
from klein import latents, pipeline
from klein_family import Bar
from relatives import RELATIVES, build

TOKENS = 4096


def mu(steps: int) -> float:
    return fs.schedules.empirical_mu(tokens=TOKENS, steps=steps)


def spent(name: str, calls: int, **options) -> FlowSamplerScheduler:
    """A scheduler set up as the Klein pipeline does it for ``num_inference_steps=calls`` at 1024 x 1024."""
    scheduler = FlowSamplerScheduler(use_dynamic_shifting=True, budget="nfe", sampler=name, seed=0, **options)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / calls, calls), mu=mu(calls))
    return scheduler


@every_fixed_sampler
def test_the_steps_are_the_most_that_the_calls_pay_for_on_the_grid_at_the_mu_of_the_argument(name) -> None:
    fewest = fs.nfe(name, fs.schedules.flux2(1, tokens=TOKENS))
    for calls in (1, 2, 4, 7, 8, 17):
        if calls < fewest:
            with pytest.raises(ValueError, match=f"num_inference_steps={calls}: .*one step of sampler='{name}' takes {fewest}"):
                spent(name, calls)
            continue
        scheduler = spent(name, calls)
        steps = scheduler.num_inference_steps
        more = fs.schedules.flux2(steps + 1, tokens=TOKENS, mu=mu(calls), arithmetic="stock")
        assert len(scheduler.timesteps) == fs.nfe(name, scheduler.grid) <= calls < fs.nfe(name, more)
        assert scheduler.grid == fs.schedules.flux2(steps, tokens=TOKENS, mu=mu(calls), arithmetic="stock")


@dataclass(frozen=True)
class CheaperOnEvenNumbers(fs.Sampler):
    """Three calls a step, one if the number of steps is even: the calls do not rise with the steps."""

    def step(self, x, at, state):
        v = yield fs.Evaluate(x, at.s0)
        for _ in range(0 if at.count % 2 == 0 else 2):
            v = yield fs.Evaluate(x, at.s0)
        return x + at.h * v, state


def test_calls_that_do_not_rise_with_the_steps_are_searched_to_the_end() -> None:
    """9 calls pay for 8 steps, though not for 5 or 7: a bisection would stop at 4."""
    calls = {n: fs.nfe(CheaperOnEvenNumbers(), fs.schedules.linear(n)) for n in range(1, 10)}
    assert [calls[n] <= 9 for n in range(1, 10)] == [True, True, True, True, False, True, False, True, False]
    assert fs.largest_steps(CheaperOnEvenNumbers(), 9, fs.schedules.linear) == 8


def test_steps_are_counted_unless_asked_otherwise() -> None:
    for budget, counts in (("steps", (8, 16)), ("nfe", (4, 8))):
        scheduler = FlowSamplerScheduler(sampler="heun", budget=budget)
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 8, 8))
        assert (scheduler.num_inference_steps, len(scheduler.timesteps)) == counts


@pytest.mark.parametrize(
    ("name", "options", "calls", "steps", "made"),
    [
        ("heun", {}, 7, 3, 6),
        ("heun", {"last": "euler"}, 7, 4, 7),
        ("ab2", {"last": "midpoint"}, 8, 7, 8),
        ("ab2", {"last": "rk4"}, 8, 5, 8),
        ("ab2", {"last": "rk4"}, 4, 1, 4),
        ("ab3", {}, 8, 7, 8),
        ("ab3", {"startup": "kutta3"}, 8, 6, 8),
        ("ab4", {"startup": "rk4", "last": "heun"}, 12, 5, 12),
        ("unipc", {"last": "midpoint"}, 8, 7, 8),
        ("restart", {"base": "euler", "low": 0.3, "high": 0.6, "repeats": 1}, 8, 7, 8),
    ],
    ids=str,
)
def test_first_and_last_steps_that_cost_more_are_paid_for(name, options, calls, steps, made) -> None:
    scheduler = spent(name, calls, sampler_options=options)
    assert (scheduler.num_inference_steps, len(scheduler.timesteps)) == (steps, made)


def test_calls_that_the_sampler_cannot_use_are_told_once(caplog) -> None:
    with caplog.at_level(logging.WARNING, logger="flowsamplers_diffusers"):
        scheduler = FlowSamplerScheduler(sampler="heun", budget="nfe")
        for calls in (8, 7, 7, 8):
            scheduler.set_timesteps(calls)
    told = ["sampler 'heun': 3 steps take 6 model calls of the 7 that num_inference_steps allows"]
    assert [record.getMessage() for record in caplog.records] == told


@pytest.mark.parametrize("config", [{}, {"shift": 3.0}, {"shift": 1.5, "shift_terminal": 0.1}, {"use_karras_sigmas": True}])
def test_pipelines_without_sigmas_are_served_the_same(config) -> None:
    """Stable Diffusion 3 and others pass the number alone."""
    scheduler, plain = (FlowSamplerScheduler(sampler="midpoint", budget=b, **config) for b in ("nfe", "steps"))
    scheduler.set_timesteps(9)
    plain.set_timesteps(4)
    assert scheduler.grid == plain.grid


def test_the_defaults_of_every_pipeline_are_recognised_and_other_sigmas_conflict() -> None:
    scheduler = FlowSamplerScheduler(sampler="heun", budget="nfe")
    base = np.linspace(1.0, 1 / 8, 8)
    for default in (base, base.tolist(), base.astype(np.float32), torch.tensor(base), torch.tensor(base).float()):
        scheduler.set_timesteps(sigmas=default)
        assert scheduler.grid == fs.schedules.explicit(pipeline_sigmas(4))
    for call in (
        {"sigmas": [1.0, 0.7, 0.2]},
        {"sigmas": [1.0, 0.5, 0.0]},
        {"sigmas": base, "num_inference_steps": 4},
        {"timesteps": [1000.0, 500.0]},
        {},
    ):
        with pytest.raises(ValueError, match="budget='nfe': the number of steps follows from num_inference_steps"):
            scheduler.set_timesteps(**call)
    with pytest.raises(ValueError, match="a schedule needs at least 1 step"):
        scheduler.set_timesteps(sigmas=[])
    with pytest.raises(ValueError, match="num_inference_steps=1: with budget='nfe' these are model calls, and one step"):
        scheduler.set_timesteps(1)
    with pytest.raises(ValueError, match="unknown budget 'calls': Accepted: steps, nfe"):
        FlowSamplerScheduler(budget="calls")


def test_a_mu_that_is_held_stays_held() -> None:
    assert spent("heun", 8, mu=1.5).grid == fs.schedules.flux2(4, mu=1.5, arithmetic="stock")


@pytest.mark.parametrize(
    ("name", "steps", "calls"), [("euler", 8, 8), ("heun", 4, 8), ("rk4", 2, 8), ("fireflow", 7, 8), ("kutta3", 2, 6)]
)
def test_the_pipelines_bar_and_callbacks_count_the_calls(name, steps, calls) -> None:
    pipe = pipeline()
    pipe.scheduler = FlowSamplerScheduler.from_config(pipe.scheduler.config, sampler=name, budget="nfe")
    seen = latents(pipe, steps=8, guidance=1.0)
    assert (len(seen), pipe.num_timesteps, pipe.scheduler.num_inference_steps) == (calls, calls, steps)
    held = pipeline()
    held.scheduler = FlowSamplerScheduler.from_config(
        held.scheduler.config, sampler=name, mu=fs.schedules.empirical_mu(tokens=16, steps=8)
    )
    assert torch.equal(seen[-1], latents(held, steps=steps, guidance=1.0)[-1])


def counted(name: str, scheduler: FlowSamplerScheduler, calls: int) -> dict[str, Any]:
    """A call of another pipeline: model calls, callbacks, and the progress bar's length and updates."""
    pipe = build(name, scheduler)
    bars, seen = list[Bar](), list[int]()

    def bar(total: int) -> Bar:
        bars.append(Bar(total))
        return bars[-1]

    def callback(pipe: Any, i: int, t: Any, values: dict[str, Any]) -> dict[str, Any]:
        seen.append(i)
        return {}

    given = {**RELATIVES[name].call(), "num_inference_steps": calls, "callback_on_step_end": callback, "output_type": "latent"}
    with mock.patch.object(pipe, "progress_bar", bar), mock.patch.object(scheduler, "step", wraps=scheduler.step) as step:
        pipe(generator=torch.Generator().manual_seed(0), **given)
    return {"calls": step.call_count, "callbacks": len(seen), "bar": (bars[0].total, bars[0].updates)}


NUMBER_ALONE = [n for n in ("SD3", "AuraFlow", "Wan", "Sana", "PRX") if hasattr(diffusers, RELATIVES[n].pipeline)]


@pytest.mark.parametrize(
    ("sampler", "calls", "steps", "made"), [("euler", 6, 6, 6), ("heun", 6, 3, 6), ("heun", 7, 3, 6), ("fireflow", 6, 5, 6)]
)
@pytest.mark.parametrize("name", NUMBER_ALONE)
def test_where_a_pipeline_passes_the_number_alone_calls_callbacks_and_bar_count_model_calls(
    name, sampler, calls, steps, made
) -> None:
    """The bar is as long as the number that the pipeline was called with."""
    scheduler = FlowSamplerScheduler(sampler=sampler, budget="nfe", **RELATIVES[name].scheduler)
    found = counted(name, scheduler, calls)
    assert found == {"calls": made, "callbacks": made, "bar": (calls, made)}
    assert (scheduler.num_inference_steps, scheduler.order) == (steps, 1)


@pytest.mark.parametrize(("sampler", "made"), [("euler", 6), ("heun", 12), ("rk4", 24)])
@pytest.mark.parametrize("name", NUMBER_ALONE[:2])
def test_with_steps_such_a_pipelines_bar_counts_steps(name, sampler, made) -> None:
    found = counted(name, FlowSamplerScheduler(sampler=sampler, **RELATIVES[name].scheduler), 6)
    assert found == {"calls": made, "callbacks": made, "bar": (6, 6)}


@pytest.mark.parametrize("name", ["Flux", "Qwen-Image", "Z-Image"])
def test_where_a_pipeline_passes_its_default_sigmas_the_bar_is_as_long_as_the_calls_made(name) -> None:
    if name == "Z-Image" and not hasattr(diffusers.pipelines.z_image.pipeline_z_image, "get_default_z_image_sigmas"):
        pytest.skip("Z-Image passes the number alone before diffusers 0.39")
    scheduler = FlowSamplerScheduler(sampler="heun", budget="nfe", **RELATIVES[name].scheduler)
    assert counted(name, scheduler, 7) == {"calls": 6, "callbacks": 6, "bar": (6, 6)}


@pytest.mark.parametrize("name", ["CogView4", "Mochi"])
def test_where_a_pipelines_own_sigmas_fix_the_steps_it_raises(name) -> None:
    scheduler = FlowSamplerScheduler(sampler="heun", budget="nfe", **RELATIVES[name].scheduler)
    with pytest.raises(ValueError, match="the caller's or the pipeline's own, fix it too"):
        counted(name, scheduler, 6)
