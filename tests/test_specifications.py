"""What stands for a sampler, a grid and a start is accepted wherever one is, and means the same there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
import torch

import flowsamplers as fs
from flowsamplers.registry.schedules import _checking
from flowsamplers_diffusers import FlowSamplerScheduler

Kind = Literal["one", "two"]


@dataclass(frozen=True)
class Chosen(fs.Sampler):
    kind: Kind = "one"
    share: float = 0.5


@dataclass(frozen=True)
class ChosenAgain(Chosen):
    last: fs.Sampler | str = "euler"


def chosen(steps: int, *, kind: Kind = "one", share: float = 0.5) -> fs.SigmaGrid:
    return fs.SigmaGrid([1.0, share, 0.0])


SIGMAS = [1.0, 0.875, 0.5, 0.125, 0.0]
"""Exact in bfloat16."""
GRID = fs.SigmaGrid(SIGMAS)
FORMS = {
    "list": SIGMAS,
    "tuple": tuple(SIGMAS),
    "numpy": np.array(SIGMAS),
    "numpy float32": np.array(SIGMAS, np.float32),
    "list of numpy numbers": list(np.array(SIGMAS)),
    "tensor": torch.tensor(SIGMAS),
    "bfloat16 tensor": torch.tensor(SIGMAS, dtype=torch.bfloat16),
    "list of tensors": list(torch.tensor(SIGMAS)),
    "tensor that requires grad": torch.tensor(SIGMAS, requires_grad=True),
}
"""As k-diffusion's users hold their sigmas."""
SPEC = "unipc:last=ralston3"
OBJECT = fs.get_sampler("unipc", last=fs.get_sampler("ralston3"))


def field(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    return torch.sin(x) + sigma.view(-1, 1)


class Field:
    def velocity(self, x, sigma, condition=None):
        return field(x, sigma)


X1 = torch.linspace(-1, 1, 6, dtype=torch.float64).view(2, 3)


def stepped(grid, x1) -> torch.Tensor:
    stepper = fs.Stepper("heun", grid, x1)
    while not stepper.done:
        stepper.tell(field(stepper.point, torch.full((2,), stepper.sigma, dtype=torch.float64)))
    return stepper.point


TAKERS = {
    "sample": lambda grid, x1: fs.sample(field, x1, grid, "heun"),
    "trace": lambda grid, x1: fs.trace(field, x1, grid, "heun").x0,
    "sample_many": lambda grid, x1: fs.sample_many(Field(), [fs.Run(x1, grid, "heun")])[0],
    "Stepper": stepped,
}


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
@pytest.mark.parametrize("take", TAKERS.values(), ids=list(TAKERS))
def test_sigmas_in_any_form_are_the_grid(take, form) -> None:
    assert torch.equal(take(form, X1), take(GRID, X1))


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_sigmas_in_any_form_are_counted_as_the_grid(form) -> None:
    assert fs.dry_run("heun", form) == fs.dry_run("heun", GRID)
    assert fs.nfe(SPEC, form) == fs.nfe(OBJECT, GRID)
    assert fs.live_latents("heun", form) == fs.live_latents("heun", GRID)
    assert fs.largest_steps("heun", 9, lambda n: np.linspace(1, 0, n + 1)) == fs.largest_steps("heun", 9, fs.schedules.linear)


@pytest.mark.parametrize("take", TAKERS.values(), ids=list(TAKERS))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_numpy_start_gives_the_tensor_that_its_tensor_gives(take, dtype) -> None:
    start = X1.numpy().astype(dtype)[::-1]  # no tensor has a negative stride
    if take is stepped and dtype is np.float32:
        pytest.skip("a Stepper is given the carry dtype")
    before = start.copy()
    assert torch.equal(take(GRID, start), take(GRID, torch.from_numpy(start.copy())))
    assert (start == before).all()


NO_GRID = {
    "the name of a schedule": ("flux2", "grid='flux2': this is no grid"),
    "a number of steps": (8, "grid=8: this is no grid"),
    "nothing": (None, "grid=None: this is no grid"),
    "a configuration": ({"name": "flux2"}, "this is no grid"),
    "a tensor of no axis": (torch.tensor(1.0), "this is no grid"),
    "two axes": (torch.tensor([SIGMAS, SIGMAS]), r"grid\[0\]=\[1.0, .*: a sigma is one number"),
    "names": (["1.0", "0.0"], r"grid\[0\]='1.0': a sigma is one number"),
}


@pytest.mark.parametrize(("wrong", "said"), NO_GRID.values(), ids=list(NO_GRID))
@pytest.mark.parametrize("take", TAKERS.values(), ids=list(TAKERS))
def test_what_is_no_grid_is_refused_in_a_sentence(take, wrong, said) -> None:
    with pytest.raises(TypeError, match=said):
        take(wrong, X1)


def test_timesteps_and_sigmas_of_other_models_are_refused_by_the_grid_itself() -> None:
    with pytest.raises(ValueError, match=r"sigmas\[0\]=14.6.*between 0 .data. and 1"):
        fs.nfe("euler", torch.tensor([14.6, 1.0, 0.0]))


@pytest.mark.parametrize("start", [[[0.0, 1.0]], np.array([[0, 1]]), torch.tensor([[0, 1]])])
def test_a_start_that_is_no_floating_tensor_is_refused_in_a_sentence(start) -> None:
    with pytest.raises(ValueError, match=r"x1 .*the start is a floating"):
        fs.sample(field, start, GRID)


@pytest.mark.parametrize("sampler", [SPEC, {"name": "unipc", "options": {"last": "ralston3"}}, OBJECT], ids=str)
def test_a_sampler_in_any_form_is_the_same_map(sampler) -> None:
    expected = fs.sample(field, X1, GRID, fs.get_sampler("unipc", last="ralston3"))
    assert torch.equal(fs.sample(field, X1, GRID, sampler), expected)
    assert torch.equal(fs.sample_many(Field(), [fs.Run(X1, GRID, sampler)])[0], expected)


@pytest.mark.parametrize(
    ("sampler", "options"),
    [(SPEC, None), (OBJECT, None), ("unipc", {"last": fs.get_sampler("ralston3")}), ("unipc", {"last": "ralston3"})],
    ids=["specification", "object", "object among the options", "names"],
)
def test_the_scheduler_reads_what_the_library_reads_and_its_configuration_is_json(sampler, options, tmp_path) -> None:
    scheduler = FlowSamplerScheduler(sampler=sampler, sampler_options=options)
    scheduler.save_pretrained(tmp_path)
    again = FlowSamplerScheduler.from_pretrained(tmp_path)
    json.loads((tmp_path / "scheduler_config.json").read_text())
    for made in (scheduler, again):
        made.set_timesteps(8)
        expected = [e.sigma * 1000 for e in fs.dry_run("unipc:last=ralston3", made.grid)]
        assert made.timesteps.tolist() == pytest.approx(expected)
        assert len(expected) == 10


def test_a_study_reads_specifications() -> None:
    study = fs.study.Study("mixture:four-gaussians", prompts=(None,), samplers=(SPEC, "unipc"), nfe=(8,))
    assert study.settings()["samplers"][0] == {**fs.to_config(fs.get_sampler(SPEC))}
    assert [(p.grid.steps, p.nfe) for p in study.runs(tokens=8)] == [(6, 8), (8, 8)]


@pytest.mark.parametrize("make", [Chosen, ChosenAgain, lambda **options: _checking(chosen)(2, **options)])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "tow"}, "unknown kind 'tow': did you mean 'two'. Accepted: one, two"),
        ({"share": "x"}, "share='x': accepted is a number"),
        ({"share": float("inf")}, "share=inf: accepted is a finite number"),
    ],
)
def test_options_of_anybodys_sampler_and_schedule_are_checked_by_their_annotations(make, options, message: str) -> None:
    assert make(kind="two")
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize(
    ("steps", "message"), [(0, "steps=0: a schedule needs"), (2.0, r"steps=2\.0: steps is a whole"), (10**6, "at most 100000")]
)
def test_the_steps_of_anybodys_schedule_are_checked(steps, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _checking(chosen)(steps)
