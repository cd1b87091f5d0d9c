"""Laws of side effects: inputs, modes, dtypes, devices and gradients."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from flowsamplers.engine import Velocity, dry_run, integrate, sample
from flowsamplers.grid import SigmaGrid
from flowsamplers.noise import KeyedNoise
from flowsamplers.registry import get_sampler
from flowsamplers.sampler import Running, Sampler, steps_of
from flowsamplers.schedules import linear
from flowsamplers.stepper import Stepper
from flowsamplers.testing.fields import smooth, start_at
from flowsamplers.testing.laws.common import DTYPES, IRREGULAR, SEED, Case, generator_of
from flowsamplers.testing.subject import subject_of

__all__ = [
    "dtype_and_device_are_kept",
    "grad_mode_is_not_held_over_a_request",
    "gradients_flow",
    "inputs_and_modes_are_untouched",
    "nothing_waits_for_the_device",
    "tensors_belong_to_who_made_them",
    "the_sampler_is_an_immutable_value",
]


def inputs_and_modes_are_untouched(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    """A run edits no input, request or velocity, and changes no mode, default dtype or global random state.

    The random states are torch's, numpy's and Python's.

    Reference:
        DESIGN: a request is read-only, and the driver owns modes; Claessen and Hughes, QuickCheck (2000), on purity as a property.
    """
    subject = subject_of(case)
    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    x1 = start_at()
    before, handed = x1.clone(), list[tuple[Tensor, Tensor]]()

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        v = smooth(x, sigma)
        handed.extend([(x, x.clone()), (v, v.clone())])
        assert torch.get_default_dtype() == dtype, f"{subject.name} changed the default dtype"
        return v

    with _unusual_random_states():
        states = _random_states()
        if subject.sampler is None:
            subject.run(velocity, x1, grid, seed=SEED)
        else:
            _answer(get_sampler(subject.sampler), velocity, x1, grid)
        assert _random_states() == states, f"{subject.name} used or seeded a global generator of torch, numpy or Python"
    assert torch.equal(x1, before), f"{subject.name} edited its start"
    assert all(torch.equal(now, then) for now, then in handed), (
        f"{subject.name} edited a tensor that it had handed out or been given"
    )
    assert torch.get_default_dtype() == dtype, f"{subject.name} changed the default dtype"
    assert torch.is_grad_enabled() == grad, f"{subject.name} changed the grad mode"


def _answer(sampler: Sampler, velocity: Velocity, x1: Tensor, grid: SigmaGrid) -> None:
    """Run the generator itself: the engine gives a model copies, which would hide an edit."""
    with torch.no_grad():
        run = Running(integrate(sampler, x1, steps_of(grid, KeyedNoise(SEED))))
        while run.request is not None:
            run.send(velocity(run.request.x, torch.full((len(x1),), run.request.sigma, dtype=x1.dtype)))


def tensors_belong_to_who_made_them(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    """A model that returns the same tensor every time, or edits its input, gets the result of one that does neither.

    CUDA graphs and TensorRT return one output buffer; a network may compute in place. A loop that remembers velocities must remember
    copies, and a loop that hands out its state must hand out a copy.

    Reference:
        ``torch.cuda.CUDAGraph``: outputs of a replay are overwritten by the next one.
    """
    subject = subject_of(case)
    x1 = start_at()
    expected = subject.run(smooth, x1.clone(), grid, seed=SEED)
    buffer = torch.empty_like(x1)

    def reused(x: Tensor, sigma: Tensor) -> Tensor:
        return buffer.copy_(smooth(x, sigma))

    def in_place(x: Tensor, sigma: Tensor) -> Tensor:
        v = smooth(x, sigma)
        x.zero_()
        return v

    for velocity, what in ((reused, "returns one tensor every time"), (in_place, "edits its input")):
        given = x1.clone()
        assert torch.equal(subject.run(velocity, given, grid, seed=SEED), expected), (
            f"{subject.name}: wrong if the model {what}"
        )
        assert torch.equal(given, x1), f"{subject.name}: the caller's start changed because the model {what}"


def grad_mode_is_not_held_over_a_request(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    """The sampler holds no grad mode over a request: a generator that yields inside no_grad would leak it to the caller.

    Reference:
        PEP 568 (deferred): a context manager entered in a generator stays entered while the generator is suspended.
    """
    sampler = generator_of(case)
    with torch.enable_grad():
        stepper = Stepper(sampler, grid, start_at(), KeyedNoise(SEED))
        for call in dry_run(sampler, grid):
            point = stepper.point
            assert torch.is_grad_enabled(), f"{type(sampler).__name__} holds no_grad over a request"
            stepper.tell(smooth(point.detach(), torch.full((len(point),), call.sigma, dtype=point.dtype)))


def dtype_and_device_are_kept(case: Case, dtypes: Sequence[torch.dtype] = DTYPES) -> None:
    """The result and the model's input have the dtype and device of the start, in half precision too.

    Reference:
        diffusers pipelines decode the result with a network in the dtype they began with, which raises on any other.
    """
    subject = subject_of(case)
    for dtype in dtypes:
        x1 = start_at().to(dtype)

        def velocity(x: Tensor, sigma: Tensor, x1: Tensor = x1) -> Tensor:
            assert (x.dtype, x.device) == (x1.dtype, x1.device), f"{subject.name} asks in {x.dtype} from a start in {x1.dtype}"
            return smooth(x, sigma).to(x1.dtype)

        out = subject.run(velocity, x1, IRREGULAR, seed=SEED)
        assert (out.dtype, out.device) == (dtype, x1.device), f"{subject.name} returns {out.dtype} from a start in {dtype}"


def nothing_waits_for_the_device(case: Case) -> None:
    """A run never waits for the device: it works on torch's meta device, where reading any value raises an error.

    Reference:
        https://docs.pytorch.org/docs/stable/meta.html
    """
    sampler = generator_of(case)
    out = sample(lambda x, sigma: x * sigma[:, None], torch.empty(2, 3, device="meta"), IRREGULAR, sampler, seed=SEED)
    assert out.device.type == "meta", f"{type(sampler).__name__} left the device"


def gradients_flow(case: Case) -> None:
    r"""The result is differentiable in the start, and the derivative $\partial x_0 / \partial x_1$ is that of finite differences.

    The derivative of an adaptive sampler holds the steps that it chose, so differences may miss it by its tolerance.

    Reference:
        ``torch.autograd.gradcheck``; discretise-then-optimise: Kidger, On Neural Differential Equations, arXiv:2202.02435, 5.1.
    """
    subject = subject_of(case)
    x1 = start_at(1, 2).requires_grad_()
    grid = SigmaGrid([1.0, 0.6, 0.3])
    held = subject.sampler.options.get("rtol", 0.0) if subject.sampler is not None and subject.sampler.adaptive else 0.0
    right = torch.autograd.gradcheck(
        lambda x: subject.run(smooth, x, grid, seed=SEED, grad=True), (x1,), atol=max(1e-5, held), raise_exception=False
    )
    assert right, f"{subject.name}: its derivative is wrong, or there is none"


def the_sampler_is_an_immutable_value(case: Case) -> None:
    """Two runs do not affect each other: a sampler holds only options, is hashable, and can be pickled.

    Reference:
        diffusers issues 9362 and 7851: schedulers that keep their run on the object are not safe to share.
    """
    sampler = generator_of(case)
    x1 = start_at()
    fresh = sample(smooth, x1, IRREGULAR, copy.deepcopy(sampler), seed=SEED)
    sample(smooth, x1 + 1, linear(3), sampler, seed=SEED)
    again = sample(smooth, x1, IRREGULAR, sampler, seed=SEED)
    assert torch.equal(fresh, again), f"{type(sampler).__name__} remembers a run on the object"
    assert hash(pickle.loads(pickle.dumps(sampler))) == hash(sampler), f"{type(sampler).__name__} does not survive a pickle"  # noqa: S301


@contextmanager
def _unusual_random_states() -> Generator[None]:
    """Global random states that no sampler would set by itself; the caller's come back afterwards."""
    unusual, of_numpy, of_python = 20_261_124, np.random.get_state(), random.getstate()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(unusual)
        np.random.seed(unusual)  # noqa: NPY002
        random.seed(unusual)
        try:
            yield
        finally:
            np.random.set_state(of_numpy)  # noqa: NPY002
            random.setstate(of_python)


def _random_states() -> tuple[bytes, bytes, object]:
    """All of them, comparable."""
    return torch.get_rng_state().numpy().tobytes(), pickle.dumps(np.random.get_state()), random.getstate()  # noqa: NPY002
