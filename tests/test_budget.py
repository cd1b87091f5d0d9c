"""budget="nfe": num_inference_steps counts model calls."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
import flowsamplers as fs
from fields import every_fixed_sampler
from flowsamplers.schedules import pipeline_sigmas
from flowsamplers_diffusers import FlowSamplerScheduler
from klein import latents, pipeline

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
    for calls in range(1, 33):
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
        {"sigmas": []},
        {"sigmas": base, "num_inference_steps": 4},
        {"timesteps": [1000.0, 500.0]},
        {},
    ):
        with pytest.raises(ValueError, match="budget='nfe': the number of steps follows from num_inference_steps"):
            scheduler.set_timesteps(**call)
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
