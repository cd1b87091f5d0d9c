"""The drop-in scheduler in the stock FLUX.2 Klein pipeline."""

from __future__ import annotations

import inspect
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
from diffusers import FlowMatchEulerDiscreteScheduler

import flowsamplers as fs
from fields import at, every_fixed_sampler, every_fixed_variant, smooth
from flowsamplers_diffusers import FlowSamplerScheduler, KleinFlow
from klein import PROMPT, latents, pipeline

BOTH_DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
BOTH_MODELS = pytest.mark.parametrize(("distilled", "guidance"), [(False, 4.0), (True, 1.0)], ids=["base", "distilled"])


def swapped(pipe, **options):
    """The three words: the same pipeline with our scheduler."""
    pipe.scheduler = FlowSamplerScheduler.from_config(pipe.scheduler.config, **options)
    return pipe


# Parity with stock


@BOTH_DTYPES
@BOTH_MODELS
@pytest.mark.parametrize("steps", [1, 4])
def test_euler_at_stocks_precision_is_stock_bit_for_bit(dtype, distilled, guidance, steps) -> None:
    stock = latents(pipeline(dtype, distilled=distilled), steps=steps, guidance=guidance)
    ours = latents(swapped(pipeline(dtype, distilled=distilled), carry="model"), steps=steps, guidance=guidance)
    assert len(stock) == len(ours) == steps
    assert all(torch.equal(a, b) for a, b in zip(stock, ours, strict=True))


KEEPS_ITS_GENERATOR = "randn_tensor" in inspect.getsource(FlowMatchEulerDiscreteScheduler.step)
"""diffusers before 0.39 ignores the generator that is passed to ``step``, and draws in the order in which the latents lie in memory."""


@pytest.mark.skipif(not KEEPS_ITS_GENERATOR, reason="this diffusers ignores the generator")
@BOTH_DTYPES
def test_stochastic_sampling_at_stocks_precision_is_stock_bit_for_bit(dtype) -> None:
    """The pipeline passes no generator to the scheduler, so both draw from torch's global one."""
    runs = []
    for scheduler in (FlowMatchEulerDiscreteScheduler, FlowSamplerScheduler):
        pipe = pipeline(dtype)
        extra = {"carry": "model"} if scheduler is FlowSamplerScheduler else {}
        pipe.scheduler = scheduler.from_config(pipe.scheduler.config, stochastic_sampling=True, **extra)
        torch.manual_seed(5)
        runs.append(latents(pipe, steps=5))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stochastic", [False, True] if KEEPS_ITS_GENERATOR else [False])
def test_step_with_a_generator_is_stock_bit_for_bit(dtype, stochastic) -> None:
    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    results = []
    for scheduler in (
        FlowMatchEulerDiscreteScheduler(shift=3.0, stochastic_sampling=stochastic),
        FlowSamplerScheduler(shift=3.0, stochastic_sampling=stochastic, carry="model"),
    ):
        scheduler.set_timesteps(sigmas=[1.0, 0.8, 0.55, 0.3, 0.1])
        generator, sample, seen = torch.Generator().manual_seed(1), x, []
        for t in scheduler.timesteps:
            v = torch.sin(3 * sample)
            sample = scheduler.step(v, t, sample, generator=generator, return_dict=False)[0]
            seen.append(sample)
        results.append(seen)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_scale_noise_is_stock() -> None:
    x, n = torch.randn(2, 4), torch.randn(2, 4)
    for begin in (None, 2):
        outs = []
        for scheduler in (FlowMatchEulerDiscreteScheduler(shift=2.0), FlowSamplerScheduler(shift=2.0)):
            scheduler.set_timesteps(sigmas=[1.0, 0.8, 0.55, 0.3])
            if begin is not None:
                scheduler.set_begin_index(begin)
            outs.append(scheduler.scale_noise(x, scheduler.timesteps[1:3], n))
        assert torch.equal(*outs)


def test_the_training_schedule_before_set_timesteps_is_stock() -> None:
    for config in ({}, {"shift": 3.0}, {"use_dynamic_shifting": True, "shift": 3.0}):
        stock, ours = FlowMatchEulerDiscreteScheduler(**config), FlowSamplerScheduler(**config)
        assert torch.equal(stock.sigmas, ours.sigmas)
        assert torch.equal(stock.timesteps, ours.timesteps)
        assert (stock.sigma_min, stock.sigma_max, len(stock)) == (ours.sigma_min, ours.sigma_max, len(ours))


def stock_keeps_timesteps() -> bool:
    """diffusers 0.40 and 0.41 put 1000 sigma in the place of the ``timesteps`` that it is given."""
    stock, given = FlowMatchEulerDiscreteScheduler(shift=3.0), [1000.0, 300.0]
    stock.set_timesteps(sigmas=[1.0, 0.3], timesteps=given)
    return stock.timesteps.tolist() == given


@pytest.mark.parametrize("spacing", ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"])
@pytest.mark.parametrize("switch", [0, 1])
def test_a_respacing_may_be_switched_by_0_and_1_as_in_stock(spacing: str, switch: int) -> None:
    ours, stock = (s(**{spacing: switch}) for s in (FlowSamplerScheduler, FlowMatchEulerDiscreteScheduler))
    for scheduler in (ours, stock):
        scheduler.set_timesteps(5)
    assert torch.equal(ours.sigmas, stock.sigmas)


@pytest.mark.parametrize("spacing", [None, "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"])
def test_every_option_of_the_configuration_reaches_the_schedule(spacing) -> None:
    """Sigmas and timesteps of the drop-in, bit for bit stock's, on every way of calling set_timesteps.

    Except that timesteps are kept in every version, and stock does not always do so.
    """
    base, keeps = {spacing: True} if spacing else {}, stock_keeps_timesteps()
    for extra in (
        {"shift": 3.0},
        {"use_dynamic_shifting": True},
        {"use_dynamic_shifting": True, "time_shift_type": "linear"},
        {"shift": 1.5, "shift_terminal": 0.1},
        {"invert_sigmas": True},
        {"num_train_timesteps": 640, "shift": 2.0},
    ):
        train = extra.get("num_train_timesteps", 1000)
        for call in (
            {"num_inference_steps": 6},
            {"sigmas": [1.0, 0.7, 0.4, 0.2]},
            {"timesteps": [train, 0.6 * train, 0.3 * train]},
        ):
            outs = []
            for cls in (FlowMatchEulerDiscreteScheduler, FlowSamplerScheduler):
                scheduler = cls(**base, **extra)
                scheduler.set_timesteps(**call, mu=1.7)
                outs.append(scheduler)
            assert torch.equal(outs[0].sigmas, outs[1].sigmas), (extra, call)
            kept = keeps or "timesteps" not in call or extra.get("invert_sigmas")
            told = outs[0].timesteps if kept else torch.tensor(call["timesteps"])
            assert torch.equal(told, outs[1].timesteps), (extra, call)
            assert outs[0].num_inference_steps == outs[1].num_inference_steps


def test_set_shift_is_stock() -> None:
    for call in ({"num_inference_steps": 5}, {"sigmas": [1.0, 0.6, 0.3]}):
        outs = []
        for scheduler in (FlowMatchEulerDiscreteScheduler(shift=3.0), FlowSamplerScheduler(shift=3.0)):
            scheduler.set_shift(1.7)
            scheduler.set_timesteps(**call)
            outs.append((scheduler.sigmas, scheduler.timesteps, scheduler.shift))
        assert torch.equal(outs[0][0], outs[1][0])
        assert torch.equal(outs[0][1], outs[1][1])
        assert outs[0][2] == outs[1][2]


def test_custom_timesteps_are_told_to_the_model_as_given() -> None:
    given = [1000.0, 700.0, 200.0]
    scheduler = FlowSamplerScheduler(shift=3.0)
    scheduler.set_timesteps(timesteps=given)
    assert scheduler.timesteps.tolist() == given
    between = FlowSamplerScheduler(sampler="midpoint")
    between.set_timesteps(sigmas=[1.0, 0.5], timesteps=[900.0, 300.0])
    assert between.timesteps.tolist() == [900.0, 600.0, 300.0, 150.0]


# Every sampler


@every_fixed_variant
def test_a_loop_over_its_timesteps_is_direct_sampling_bit_for_bit(sampler) -> None:
    """At the calls of the dry run. What pipelines make of it is tested with the Klein family."""
    config = fs.to_config(sampler)
    scheduler = FlowSamplerScheduler(sampler=config["name"], sampler_options=config["options"], seed=3, shift=3.0)
    scheduler.set_timesteps(sigmas=[1.0, 0.6, 0.3])
    asked = [e.sigma for e in fs.dry_run(sampler, scheduler.grid)]
    assert torch.equal(scheduler.timesteps, torch.tensor(asked) * 1000)
    assert len(scheduler.sigmas) == len(asked) + 1
    x = x1 = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    for t, sigma in zip(scheduler.timesteps, asked, strict=True):
        x = scheduler.step(at(x, sigma), t, x, return_dict=False)[0]
    assert torch.equal(x, fs.sample(smooth, x1, scheduler.grid, sampler, seed=3))


@every_fixed_sampler
def test_a_run_begun_anywhere_ends_at_zero(name) -> None:
    """What inpainting does: slice the list of timesteps, begin there, with data at that noise level.

    The path is straight, so that its velocity at 0, where it is asked for, is the one before. An Euler-Maruyama step keeps no noise
    level, in its last step neither: its end is near the data only.
    """
    scheduler = FlowSamplerScheduler(sampler=name, seed=0)
    data, noise = torch.full((1, 4), 2.0), torch.randn(1, 4)
    for strength in (0.05, 0.35, 0.6, 0.99):
        scheduler.set_timesteps(sigmas=np.linspace(1, 0.1, 10))
        begin = int((1 - strength) * len(scheduler.timesteps))
        scheduler.set_begin_index(begin)
        sample, v = scheduler.scale_noise(data, scheduler.timesteps[begin : begin + 1], noise), noise - data
        for t in scheduler.timesteps[begin:]:
            sigma = (t / 1000).item()
            v = (sample - data) / sigma if sigma > 0 else v  # the flow of a single data point: straight to it
            sample = scheduler.step(v, t, sample, return_dict=False)[0]
        exact = fs.get_sampler(name).keeps_noise_level
        left = 6 * 0.08  # six standard deviations of what its last step leaves, sqrt(g^2 s + g^4 / 4) at s = 0.1
        assert torch.allclose(sample, data, atol=1e-5 if exact else left), strength


# Precision


def test_stock_does_not_apply_minus_one_in_bfloat16_and_we_do() -> None:
    """The dt that reach the sample, probed with a constant velocity of one, at 4,096 tokens."""
    one, applied = torch.ones(1, 1, dtype=torch.bfloat16), {}
    for steps in (4, 8, 28, 50):
        mu = fs.schedules.empirical_mu(tokens=4096, steps=steps)
        for kind, scheduler in (
            ("stock", FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)),
            ("ours", FlowSamplerScheduler(use_dynamic_shifting=True)),
        ):
            scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), mu=mu)
            total, sample = 0.0, torch.zeros(1, 1, dtype=torch.bfloat16)
            for i, t in enumerate(scheduler.timesteps):
                # The state is zero at each step of stock, so that what it adds is seen before the state is rounded.
                if kind == "stock":
                    scheduler.set_begin_index(i)
                    scheduler._step_index = None
                    total += scheduler.step(one, t, torch.zeros(1, 1), return_dict=False)[0].double().item()
                else:
                    sample = scheduler.step(one, t, sample, return_dict=False)[0]
                    total = (scheduler._run.stepper.point if scheduler._run else sample.double()).item()
            applied[kind, steps] = total
    assert [round(applied["stock", n], 5) for n in (4, 8, 28, 50)] == [-0.99829, -0.99872, -0.99948, -1.00023]
    assert all(abs(applied["ours", n] + 1) <= n * 2**-23 for n in (4, 8, 28, 50))


def test_the_error_keeps_falling_where_stocks_rises() -> None:
    """Euler in a bfloat16 pipeline, against a fine float32 solution of the same bfloat16 network."""
    flow = KleinFlow(pipeline(torch.bfloat16), PROMPT, height=16, width=16, guidance_scale=1.0)
    truth = fs.sample(flow.velocity, flow.noise([0]).float(), fs.schedules.shift(12, shift=3.0), "rk4").double()
    errors = []
    for steps in (8, 64, 128):
        schedulers = FlowMatchEulerDiscreteScheduler(shift=3.0), FlowSamplerScheduler(shift=3.0)
        for scheduler in schedulers:
            scheduler.set_timesteps(sigmas=fs.schedules.pipeline_sigmas(steps))
            scheduler.set_begin_index(0)
        x = flow.noise([0, 0])
        for t in schedulers[0].timesteps:
            v = flow.velocity(x, t.expand(2) / 1000)
            rows = zip(schedulers, v.split(1), x.split(1), strict=True)
            x = torch.cat([scheduler.step(v, t, x, return_dict=False)[0] for scheduler, v, x in rows])
        errors.append((x.double() - truth).flatten(1).norm(dim=1) / truth.norm())
    stock, ours = torch.stack(errors, 1).tolist()
    assert ours[0] > ours[1] > ours[2]
    assert stock[2] > stock[1]
    assert ours[2] < stock[2] / 3


def test_the_models_dtype_is_returned_and_a_float32_master_kept() -> None:
    for carry, dtype in (("float32", torch.float32), ("float64", torch.float64)):
        scheduler = FlowSamplerScheduler(carry=carry)
        scheduler.set_timesteps(sigmas=[1.0, 0.5])
        x = torch.randn(1, 3).bfloat16()
        out = scheduler.step(x, scheduler.timesteps[0], x, return_dict=False)[0]
        assert out.dtype == torch.bfloat16
        assert scheduler._run.stepper.point.dtype == dtype


# Configuration


def test_a_note_names_the_real_number_of_model_calls(caplog) -> None:
    with caplog.at_level(logging.WARNING, logger="flowsamplers_diffusers"):
        for name in ("euler", "heun"):
            scheduler = FlowSamplerScheduler(sampler=name)
            scheduler.set_timesteps(sigmas=[1.0, 0.5])
            scheduler.set_timesteps(sigmas=[1.0, 0.5])
    assert [r.getMessage() for r in caplog.records] == ["sampler 'heun': 2 steps take 4 model calls"]


def test_mu_can_be_held_and_sigmas_be_final() -> None:
    held = FlowSamplerScheduler(use_dynamic_shifting=True, mu=0.0)
    held.set_timesteps(sigmas=[1.0, 0.5], mu=2.3)
    assert held.sigmas.tolist() == [1.0, 0.5, 0.0]
    for options, nodes in (({"use_dynamic_shifting": True}, [1.0, 0.4, 0.0]), ({"shift": 3.0}, [1.0, 0.4])):
        final = FlowSamplerScheduler(final_sigmas=True, **options)
        final.set_timesteps(sigmas=nodes, mu=2.3)
        assert final.sigmas.tolist() == pytest.approx([1.0, 0.4, 0.0])
    plain = FlowSamplerScheduler(shift=3.0)
    for scheduler in (final, plain):  # a pipeline's own default list is shifted all the same
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 4, 4))
    assert torch.equal(final.sigmas, plain.sigmas)


def test_a_call_too_many_and_a_velocity_that_is_not_finite_are_named() -> None:
    """Other mistakes are named by a ValueError: see tests/test_scheduler_contract.py."""
    scheduler, x = FlowSamplerScheduler(check="finite"), torch.zeros(1, 2)
    scheduler.set_timesteps(sigmas=[1.0])
    with pytest.raises(FloatingPointError, match=r"step 0, stage 0, sigma 1\.0"):
        scheduler.step(x * torch.nan, scheduler.timesteps[0], x)
    scheduler.set_timesteps(sigmas=[1.0])
    scheduler.step(x, scheduler.timesteps[0], x)
    with pytest.raises(IndexError, match="the schedule has 1 model calls, and all have been made"):
        scheduler.step(x, scheduler.timesteps[0], x)


def test_the_page_names_every_option_that_is_not_stocks_with_its_default() -> None:
    page = (Path(__file__).parent.parent / "docs" / "reference" / "diffusers.md").read_text()
    own, stock = (inspect.signature(c.__init__).parameters for c in (FlowSamplerScheduler, FlowMatchEulerDiscreteScheduler))
    listed = dict(re.findall(r"^\| `(\w+)` \| `(.+?)` \|", page, re.MULTILINE))
    assert listed == {name: repr(p.default) for name, p in own.items() if name not in stock}
