"""What a GPU would find, seen without one: torch's fake tensors are on ``cuda`` and have no values."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import flowsamplers as fs
from fields import FIXED
from flowsamplers.lockstep import Task, run_tasks
from flowsamplers.noise import GeneratorNoise, KeyedNoise

STOCHASTIC = [i.name for i in fs.list_samplers() if i.stochastic and not i.adaptive]


class WaitingError(AssertionError):
    """The host would have waited for the device."""


class NoWait(TorchDispatchMode):
    """Raises where CUDA would wait: at a value that is read, and at a copy between host and device that is not in the background."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            raise WaitingError(str(func))
        out = func(*args, **kwargs)
        devices = {t.device.type for t in (*args, out) if isinstance(t, Tensor)}
        background = kwargs.get("non_blocking") or (func is torch.ops.aten.copy_.default and True in args[2:])
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default) and len(devices) > 1 and not background:
            raise WaitingError(f"{func} between {' and '.join(sorted(devices))}")
        return out


@contextmanager
def watched() -> Iterator[Tensor]:
    """Fake latents on a device that is not here; whatever waits for it raises."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(2, 8, 4, device="cuda")
        with NoWait():
            yield x


def test_the_watch_sees_what_waits() -> None:
    with watched() as x:
        for wait in (lambda: x.sum().item(), x.cpu, lambda: torch.zeros(2, device="cpu").to(x.device)):
            with pytest.raises(WaitingError):
                wait()


@pytest.mark.parametrize("name", ["euler", "unipc", "rk4", *STOCHASTIC])
def test_the_engine_does_not_wait_for_the_device(name: str) -> None:
    """With all samplers the scheduler does not, whose steps are the same generators."""
    grid = fs.schedules.flux2(4, tokens=4096)
    with watched() as x:
        assert fs.sample(lambda x, sigma: 2 * x, x, grid, name, seed=0).device == x.device


@pytest.mark.parametrize(("name", "carry"), [(n, ("model", "float32")[i % 2]) for i, n in enumerate(FIXED)])
def test_no_step_of_the_scheduler_waits_for_the_device(name: str, carry: Any) -> None:
    pytest.importorskip("diffusers")
    from flowsamplers_diffusers import FlowSamplerScheduler

    scheduler = FlowSamplerScheduler(sampler=name, carry=carry)
    scheduler.set_timesteps(4)
    scheduler.set_begin_index(0)
    generator = torch.Generator("cpu")  # with a seed the engine's noise is the scheduler's
    with watched() as noise:
        x = noise.to(torch.bfloat16)
        for t in scheduler.timesteps:
            x = scheduler.step(x * 2, t, x, generator=generator, return_dict=False)[0]


@pytest.mark.parametrize("noise", [KeyedNoise([1, 2]), fs.BrownianNoise([1, 2]), GeneratorNoise(torch.Generator("cpu"))])
def test_no_noise_waits_for_the_device(noise: Any) -> None:
    with watched() as x:
        assert noise(x, 0, 0, (0.25, 0.5)).device == x.device


def test_the_field_of_a_klein_waits_for_the_device_at_its_first_evaluation_alone() -> None:
    pytest.importorskip("diffusers")
    from flowsamplers_diffusers import KleinFlow

    flow = KleinFlow.load("klein-digits", prompt="a handwritten 3", guidance_scale=2.0, device="cpu")
    flow._encoded(""), flow._encoded(flow.prompt)
    for part in (flow.pipe.transformer, flow.pipe.text_encoder, flow.pipe.vae):
        part.to("meta")
    flow._embeddings = {k: (e.to("meta"), ids.to("meta")) for k, (e, ids) in flow._embeddings.items()}
    x, sigma = torch.empty(2, *flow.shape, device="meta"), torch.empty(2, device="meta")
    flow.velocity(x, sigma)
    with NoWait():
        assert flow.velocity(x, sigma).is_meta


@pytest.mark.parametrize("name", ["euler", "unipc", "rk4", *STOCHASTIC])
def test_a_default_device_changes_nothing_for_tensors_that_are_elsewhere(name: str) -> None:
    """Scripts say ``torch.set_default_device("cuda")``; "meta" stands for it here."""
    x1, grid = torch.ones(2, 3), fs.schedules.flux2(5, tokens=4096)
    expected = fs.sample(lambda x, sigma: x.sin(), x1, grid, name, seed=0)
    with torch.device("meta"):
        assert torch.equal(fs.sample(lambda x, sigma: x.sin(), x1, fs.schedules.flux2(5, tokens=4096), name, seed=0), expected)


def test_a_scheduler_does_not_care_for_the_default_device() -> None:
    pytest.importorskip("diffusers")
    from flowsamplers_diffusers import FlowSamplerScheduler

    scheduler, there = FlowSamplerScheduler(sampler="heun", shift=3.0), FlowSamplerScheduler(sampler="heun", shift=3.0)
    scheduler.set_timesteps(4)
    with torch.device("meta"):
        there.set_timesteps(4)
    assert torch.equal(there.sigmas, scheduler.sigmas)
    assert torch.equal(there.timesteps, scheduler.timesteps)


def test_a_fit_and_brownian_noise_do_not_care_for_the_default_device() -> None:
    flow, noise = fs.flows.MixtureFlow.random(1), fs.BrownianNoise([3])
    x1 = flow.noise(list(range(16)))
    solver, drawn = fs.fit(flow.velocity, x1, nfe=2, rounds=1), noise(x1[:1], 0, 0, (0.5, 0.75))
    with torch.device("meta"):
        assert fs.fit(flow.velocity, x1, nfe=2, rounds=1).grid == solver.grid
        assert torch.equal(fs.BrownianNoise([3])(x1[:1], 0, 0, (0.5, 0.75)), drawn)


def test_a_batch_that_did_not_fit_is_let_go_before_its_halves_are_tried() -> None:
    """The frames of an error hold the tensors of the call that failed."""

    class Scratch:
        """What a call keeps on the device while it runs."""

    class Narrow:
        held: Any = lambda self: None

        def velocity(self, x: Tensor, sigma: Tensor, condition: Any = None) -> Tensor:
            assert self.held() is None, "the memory of the call that failed is still held"
            scratch = Scratch()
            self.held = weakref.ref(scratch)
            if len(x) > 1:
                raise torch.cuda.OutOfMemoryError("by decree")
            return x

    def asks() -> Any:
        v = yield fs.Evaluate(torch.ones(4, 2), 0.5)
        return v

    results: dict[int, Any] = {}
    failed: dict[int, Exception] = {}
    run_tasks(Narrow(), [Task(asks, rows=4)], results.__setitem__, dtype=torch.float32, on_error=failed.__setitem__)
    assert not failed
    assert torch.equal(results[0], torch.ones(4, 2))
