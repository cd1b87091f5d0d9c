"""A pipeline's progress bar ends full, and a strength begins at stock's noise level, in real pipelines with any number of calls a step."""

from __future__ import annotations

import inspect
import logging
from functools import cache
from typing import Any
from unittest import mock

import pytest
import torch

pytest.importorskip("diffusers")
import diffusers
from diffusers import FlowMatchEulerDiscreteScheduler

from flowsamplers_diffusers import FlowSamplerScheduler
from flowsamplers_diffusers.pipelines import Order, t_start
from klein_family import MEMBERS, Bar, Member, pipeline
from klein_family import run as run_member
from relatives import RELATIVES, build

SAMPLERS = {"euler": {}, "heun": {}, "rk4": {}, "fireflow": {}, "ab2": {"last": "midpoint"}, "ab3": {"startup": "kutta3"}}
"""One, two and four calls a step; and two, three or one in the first or last step."""
OLD_Z = not hasattr(diffusers.pipelines.z_image.pipeline_z_image, "get_default_z_image_sigmas")
"""Before diffusers 0.39 Z-Image pays for a last step from sigma 0 to 0, which is left out here."""
INSIDE = [n for n, r in RELATIVES.items() if hasattr(diffusers, r.pipeline) and "strength" in inspect.signature(
    getattr(diffusers, r.pipeline).__call__).parameters and not r.only_euler and not (OLD_Z and n.startswith("Z-Image"))]  # fmt: skip
"""Pipelines that begin inside the schedule."""


def made(sampler: str, **options: Any) -> FlowSamplerScheduler:
    return FlowSamplerScheduler(sampler=sampler, sampler_options=SAMPLERS[sampler], **options)


built = cache(lambda name: build(name, None))


def called(name: str, scheduler: Any, **more: Any) -> tuple[Bar, float]:
    """The bar of a call of another pipeline, and the time that its model is told first."""
    pipe, bars, times = built(name), list[Bar](), list[float]()
    pipe.scheduler = scheduler

    def bar(total: int) -> Bar:
        bars.append(Bar(total))
        return bars[-1]

    def step(v: Any, t: Any, *args: Any, **options: Any) -> Any:
        times.append(float(t))
        return taken(v, t, *args, **options)

    taken = scheduler.step
    given = {"num_inference_steps": 5, "generator": torch.Generator().manual_seed(0), "output_type": "latent"}
    with mock.patch.object(pipe, "progress_bar", bar), mock.patch.object(scheduler, "step", step):
        pipe(**{**given, **RELATIVES[name].call(), **more})
    return bars[0], times[0]


@pytest.mark.parametrize("sampler", ["rk4", "ab2", "ab3"])  # with others the bar is looked at in tests/test_klein_family.py
@pytest.mark.parametrize("member", MEMBERS, ids=lambda m: m.name)
def test_the_bar_of_kleins_pipelines_ends_full(member: Member, sampler: str) -> None:
    total, updates = run_member(member, pipeline(member, made(sampler)), steps=3).bar
    assert updates == total


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", [n for n in ("Flux", "SD3", "Wan", "PRX") if hasattr(diffusers, RELATIVES[n].pipeline)])
def test_the_bar_of_a_pipeline_ends_full(name: str, sampler: str) -> None:
    bar, _ = called(name, made(sampler, **RELATIVES[name].scheduler))
    assert bar.updates == bar.total


@cache
def stocks_begin(name: str, strength: float) -> float:
    """The time that the model is told first when the pipeline has stock's scheduler."""
    return called(name, FlowMatchEulerDiscreteScheduler(**RELATIVES[name].scheduler), strength=strength)[1]


STRENGTHS = (0.3, 0.61, 1.0)
KINDS = (["euler"], ["heun", "rk4"], ["fireflow", "ab2", "ab3"])
BEGUN = [(name, kind[i % len(kind)], STRENGTHS[(i + j) % 3]) for i, name in enumerate(INSIDE) for j, kind in enumerate(KINDS)]
"""Every kind of sampler in every pipeline (one call a step, several, not as many in every step), and every strength in every one."""


@pytest.mark.parametrize(("name", "sampler", "strength"), BEGUN)
def test_a_strength_begins_at_stocks_time_and_the_bar_ends_full(name: str, sampler: str, strength: float, caplog: Any) -> None:
    """Where the steps take different numbers of calls, the bar may end one or two short: fewer calls are left than the pipeline counts."""
    expected = stocks_begin(name, strength)
    with caplog.at_level(logging.WARNING):
        bar, begins = called(name, made(sampler, **RELATIVES[name].scheduler), strength=strength)
    if sampler == "fireflow" and strength < 1:
        assert (
            f"begins at sigma {begins / 1000:.3g}, and a scheduler with one call a step at {expected / 1000:.3g}" in caplog.text
        )
    else:
        assert begins == expected
    even = sampler in ("euler", "heun", "rk4")
    assert bar.total - bar.updates in ([0] if even else [0, 1, 2])


def get_timesteps(scheduler: Any, strength: float) -> int:
    """The function of a pipeline that slices the list of times."""
    return t_start(len(scheduler.timesteps), strength) * scheduler.order


@pytest.mark.parametrize("sampler", ["fireflow", "ab2", "ab3"])
def test_the_product_with_order_is_the_first_call_of_stocks_step_where_calls_differ_from_step_to_step(sampler) -> None:
    for steps in (3, 5, 10, 28):
        scheduler = made(sampler)
        scheduler.set_timesteps(sigmas=[1 - i / steps for i in range(steps)])
        for strength in (hundredths / 100 for hundredths in range(1, 101, 3)):
            begin, step = get_timesteps(scheduler, strength), t_start(steps, strength)
            first = next((i for i, c in enumerate(scheduler._calls) if c.step == step), len(scheduler._calls))
            assert begin == first, (steps, strength)


def test_an_order_is_a_number_where_nobody_asks_for_an_index() -> None:
    order = Order(2)
    assert (order, 3 * order, 7 % order, 5 - 2 * order) == (2, 6, 1, 1)
    assert FlowSamplerScheduler(sampler="heun").order == 1


@pytest.mark.parametrize(("sampler", "window"), [("heun", "start=0.02, skip_layer_guidance_stop=0.4"), ("euler", None)])
def test_a_window_of_skipped_layers_that_counts_calls_is_said(sampler: str, window: str | None, caplog: Any) -> None:
    if not hasattr(diffusers, "StableDiffusion3Pipeline"):
        pytest.skip("no SD3")
    with caplog.at_level(logging.WARNING):
        called("SD3", made(sampler, shift=3.0), skip_guidance_layers=[0])
    assert (window in caplog.text) if window else "skip_layer_guidance" not in caplog.text
