"""Configurations of the drop-in: to files and back, from and to the schedulers of diffusers, in saved pipelines."""

from __future__ import annotations

import inspect
import json
import logging
import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    Flux2KleinPipeline,
    UniPCMultistepScheduler,
    schedulers,
)
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from safetensors.torch import load_file

import flowsamplers as fs
from fields import every_fixed_variant
from flowsamplers_diffusers import FlowSamplerScheduler, load_klein
from klein import latents, pipeline

FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
RICH = {
    "num_train_timesteps": 900,
    "shift": 2.5,
    "base_shift": 0.4,
    "max_shift": 1.2,
    "base_image_seq_len": 128,
    "max_image_seq_len": 2048,
    "shift_terminal": 0.1,
    "use_beta_sigmas": True,
    "time_shift_type": "linear",
}
"""A value other than the default for what can be set together."""


def options(scheduler) -> dict:
    return {k: v for k, v in scheduler.config.items() if not k.startswith("_")}


@pytest.fixture
def warnings(caplog, monkeypatch) -> pytest.LogCaptureFixture:
    """What this package and diffusers say, whatever another test has made of their loggers."""
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    with caplog.at_level(logging.WARNING, logger="diffusers"), caplog.at_level(logging.WARNING):
        yield caplog


# Files


@every_fixed_variant
def test_every_sampler_with_its_options_survives_a_file(sampler, tmp_path) -> None:
    scheduler = FlowSamplerScheduler(sampler=sampler, seed=[3, 4], carry="float64", **RICH)
    scheduler.save_pretrained(tmp_path)
    text = (tmp_path / "scheduler_config.json").read_text()
    assert fs.get_sampler({"name": json.loads(text)["sampler"], "options": json.loads(text)["sampler_options"]}) == sampler
    again = FlowSamplerScheduler.from_pretrained(tmp_path)
    assert again._method == sampler
    assert options(again) == options(scheduler)
    again.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "scheduler_config.json").read_text()) == json.loads(text)


def test_a_nested_sampler_survives_two_levels_deep(tmp_path) -> None:
    inner = {"name": "richardson", "options": {"base": {"name": "res_2s", "options": {"c2": 0.6, "last": "euler"}}}}
    scheduler = FlowSamplerScheduler(sampler="ab3", sampler_options={"last": inner})
    scheduler.save_pretrained(tmp_path)
    assert FlowSamplerScheduler.from_pretrained(tmp_path)._method == scheduler._method == fs.get_sampler("ab3", last=inner)


# From and to FlowMatchEuler


def test_flow_match_eulers_configuration_comes_back_without_loss() -> None:
    stock = FlowMatchEulerDiscreteScheduler(**RICH)
    ours = FlowSamplerScheduler.from_config(stock.config, sampler="ab2", sampler_options={"last": "heun"}, seed=7)
    assert {k: ours.config[k] for k in options(stock)} == options(stock)
    back = FlowMatchEulerDiscreteScheduler.from_config(ours.config)
    assert {k: back.config[k] for k in options(stock)} == options(stock)
    for scheduler in (stock, back):
        scheduler.set_timesteps(sigmas=[1.0, 0.6, 0.3])
    assert torch.equal(stock.sigmas, back.sigmas)
    again = FlowSamplerScheduler.from_config(back.config)
    assert options(again) == options(ours)
    assert again._method == ours._method


@pytest.mark.parametrize("first", [FlowMatchEulerDiscreteScheduler, FlowSamplerScheduler])
def test_a_saved_scheduler_is_read_by_the_other_class(first, tmp_path) -> None:
    second = FlowSamplerScheduler if first is FlowMatchEulerDiscreteScheduler else FlowMatchEulerDiscreteScheduler
    written = first(**RICH)
    written.save_pretrained(tmp_path)
    read = second.from_pretrained(tmp_path)
    assert {k: read.config[k] for k in RICH} == RICH
    for scheduler in (written, read):
        scheduler.set_timesteps(sigmas=[1.0, 0.6, 0.3])
    assert torch.equal(written.sigmas, read.sigmas)


# From other schedulers


@pytest.mark.parametrize(
    ("stock", "shift", "warned"),
    [
        (UniPCMultistepScheduler(**FLOW, flow_shift=3.0), 3.0, "is taken over with shift=3.0"),
        (
            DPMSolverMultistepScheduler(**FLOW, flow_shift=5.0),
            5.0,
            "is taken over with shift=5.0",
        ),
        (UniPCMultistepScheduler(**FLOW), 1.0, "is taken over with shift=1.0"),
        (FlowMatchHeunDiscreteScheduler(shift=3.0), 3.0, None),
        (FlowMatchLCMScheduler(shift=3.0, scale_factors=[1.0]), 3.0, "scale_factors"),
        (DDIMScheduler(), 1.0, "prediction_type='epsilon': the model does not predict a velocity"),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "config") else "",
)
@pytest.mark.parametrize("through_a_file", [False, True])
def test_of_another_scheduler_the_schedule_is_taken_over_and_losses_are_told(
    stock, shift, warned, through_a_file, tmp_path, warnings
):
    if through_a_file:
        stock.save_pretrained(tmp_path)
        scheduler = FlowSamplerScheduler.from_pretrained(tmp_path)
    else:
        scheduler = FlowSamplerScheduler.from_config(stock.config)
    assert scheduler.config.shift == shift
    assert scheduler.config.sampler == "euler"
    # Pipelines that find this flag pass no sigmas, and get those that the other scheduler gave them.
    assert bool(scheduler.config.get("use_flow_sigmas")) == (scheduler.config.schedule_of is not None)
    if warned and not (through_a_file and warned == "scale_factors"):  # diffusers is silent on the options of its own classes
        assert warned in warnings.text
    scheduler.set_timesteps(sigmas=np.linspace(1, 0.25, 4))
    expected = fs.schedules.shift(4, shift=shift, arithmetic="stock")
    assert scheduler.grid == expected


@pytest.mark.filterwarnings("ignore")  # of numpy, for what this scheduler does
@pytest.mark.skipif(not hasattr(schedulers, "HeliosScheduler"), reason="this diffusers has no Helios")
@pytest.mark.parametrize(("change", "shift"), [({}, 4.0), ({"flow_shift": 5.0}, 5.0)])
def test_a_flow_scheduler_may_call_its_flow_shift_a_shift(change, shift) -> None:
    scheduler = FlowSamplerScheduler.from_config(schedulers.HeliosScheduler(shift=4.0).config, **change)
    scheduler.set_timesteps(sigmas=np.linspace(1, 0.25, 4))
    assert scheduler.grid == fs.schedules.shift(4, shift=shift, arithmetic="stock")


MADE = [
    cls
    for name in sorted(dir(schedulers))
    if isinstance(cls := getattr(schedulers, name), type)
    and issubclass(cls, SchedulerMixin)
    and hasattr(cls, "from_config")
    and all(p.default is not p.empty for k, p in inspect.signature(cls.__init__).parameters.items() if k != "self")
]
"""All schedulers of this diffusers that can be made without arguments."""


@pytest.mark.filterwarnings("ignore")  # of old schedulers
@pytest.mark.parametrize("stock", MADE, ids=lambda cls: cls.__name__)
def test_no_schedulers_configuration_crashes_this_one_and_ours_crashes_none(stock, tmp_path) -> None:
    """There and back, also through files: what is not understood is told, never an error."""
    ours = FlowSamplerScheduler.from_config(stock().config, sampler="ab2", sampler_options={"last": "midpoint"})
    ours.set_timesteps(sigmas=[1.0, 0.6, 0.3], mu=1.0)
    assert ours.grid.start == 1
    assert len(ours.timesteps) == 4
    stock.from_config(ours.config)
    FlowSamplerScheduler(sampler="ab3", sampler_options={"last": {"name": "heun", "options": {}}}, seed=[1, 2]).save_pretrained(
        tmp_path
    )
    stock.from_pretrained(tmp_path)
    stock().save_pretrained(tmp_path)
    FlowSamplerScheduler.from_pretrained(tmp_path).set_timesteps(sigmas=[1.0, 0.6, 0.3], mu=1.0)


def test_unknown_options_of_a_foreign_configuration_are_told_and_kept(warnings) -> None:
    scheduler = FlowSamplerScheduler.from_config({"shift": 2.0, "an_option_of_tomorrow": [1, 2], "_diffusers_version": "9.9"})
    assert "an_option_of_tomorrow" in warnings.text
    assert scheduler.config.shift == 2.0
    assert scheduler.config["an_option_of_tomorrow"] == [1, 2]


# Pipelines on disk


def test_a_saved_pipeline_opens_with_the_scheduler_it_was_saved_with_or_another_that_is_passed_and_draws(tmp_path) -> None:
    scheduler = FlowSamplerScheduler(sampler="ab2", sampler_options={"last": "midpoint"}, seed=5, shift=2.0)
    pipeline(scheduler=scheduler).save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["scheduler"] == ["flowsamplers_diffusers.scheduler", "FlowSamplerScheduler"]  # diffusers imports it by this
    saved, other = Flux2KleinPipeline.from_pretrained(tmp_path), FlowSamplerScheduler(sampler="heun")
    assert (type(saved.scheduler), options(saved.scheduler)) == (FlowSamplerScheduler, options(scheduler))
    given = DiffusionPipeline.from_pretrained(tmp_path, scheduler=other)
    assert (type(given), given.scheduler) == (Flux2KleinPipeline, other)
    assert [x.isfinite().all() for x in latents(saved, steps=2)] == [True] * 3


def test_pickled_weights_are_refused_unless_asked(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(str(files("flowsamplers_diffusers").joinpath("klein_digits")), folder)
    (weights,) = (folder / "transformer").glob("*.safetensors")
    torch.save(load_file(weights), folder / "transformer" / "diffusion_pytorch_model.bin")
    weights.unlink()
    with pytest.raises(OSError, match="safetensors"):
        load_klein(folder, device="cpu")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of numpy, for what diffusers does
def test_a_schedule_that_was_taken_over_can_be_changed_and_handed_back() -> None:
    """``flow_shift`` again, a re-spacing, a save, and the way back to the scheduler that it came from."""
    unipc = UniPCMultistepScheduler(**FLOW, flow_shift=3.0, solver_order=3)
    ours = FlowSamplerScheduler.from_config(unipc.config, sampler="unipc_3")

    def sigmas(scheduler) -> list[float]:
        scheduler.set_timesteps(7)
        return scheduler.sigmas.tolist()

    shifted = sigmas(UniPCMultistepScheduler(**FLOW, flow_shift=5.0))
    assert sigmas(FlowSamplerScheduler.from_config(ours.config, flow_shift=5.0)) == shifted
    again = FlowSamplerScheduler.from_config(ours.config, shift=5.0)
    assert sigmas(FlowSamplerScheduler.from_config(again.config, sampler="ab2")) == shifted
    karras = sigmas(UniPCMultistepScheduler(**FLOW, flow_shift=3.0, use_karras_sigmas=True))
    for config in (unipc.config, ours.config):
        assert sigmas(FlowSamplerScheduler.from_config(config, use_karras_sigmas=True)) == karras
    back = UniPCMultistepScheduler.from_config(ours.config)
    assert sigmas(back) == sigmas(unipc)
    assert (back.config.prediction_type, back.config.solver_order) == ("flow_prediction", 3)


def test_options_of_another_scheduler_that_cannot_be_honoured_are_named() -> None:
    with pytest.raises(ValueError, match="'flow_shift': did you mean 'shift'"):
        FlowSamplerScheduler.from_config(FlowMatchEulerDiscreteScheduler().config, flow_shift=5.0)
    scheduler = FlowSamplerScheduler.from_config(UniPCMultistepScheduler(**FLOW, use_beta_sigmas=True).config)
    with pytest.raises(ValueError, match="use_beta_sigmas=True: with it, UniPCMultistepScheduler makes sigmas from 157"):
        scheduler.set_timesteps(4)
