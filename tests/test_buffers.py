"""Tensors belong to who made them: a model may reuse its output, edit its input, and return views; a caller's tensors stay."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import flowsamplers as fs
from fields import ALL, IRREGULAR, Conditioned, smooth, start

SEED = 7


class OneBuffer:
    """Returns the same tensor every time, as CUDA graphs and TensorRT do."""

    def __init__(self) -> None:
        self.buffer: Tensor | None = None

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        v = smooth(x, sigma)
        self.buffer = torch.empty_like(v) if self.buffer is None else self.buffer
        return self.buffer.copy_(v)


class OneBufferViewed(OneBuffer):
    """Returns a view of it, with the rows of a larger one."""

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        v = smooth(x, sigma)
        self.buffer = v.new_empty(len(v) + 2, *v.shape[1:]) if self.buffer is None else self.buffer
        self.buffer[: len(v)] = v
        return self.buffer[: len(v)]


class OneBufferOfNumpy(OneBuffer):
    """The memory is numpy's: no count of torch's knows of it."""

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        v = smooth(x, sigma).numpy()
        if self.buffer is None:
            self.buffer = v.copy()
        self.buffer[...] = v
        return torch.from_numpy(self.buffer)


class EditsItsInput:
    """Computes in place."""

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        v = smooth(x, sigma)
        sigma.fill_(9.0)
        return x.copy_(v)


class EditsThroughNumpy:
    """In place, where no version counter sees it."""

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        v = smooth(x, sigma)
        x.numpy()[...] = 3.0
        return v


MODELS = [OneBuffer, OneBufferViewed, OneBufferOfNumpy, EditsItsInput, EditsThroughNumpy]
every_model = pytest.mark.parametrize("model", MODELS)


@every_model
@pytest.mark.parametrize("name", ["euler", "heun", "ab2", "dpmpp_2m", "lcm", "dopri5"])
def test_a_model_may_reuse_its_output_and_edit_its_input(name: str, model) -> None:
    """One buffer and an edited input are a law of every sampler; the other ways are the engine's, whatever it drives."""
    x1 = start()
    before = x1.clone()
    expected = fs.sample(smooth, x1, IRREGULAR, name, seed=SEED)
    assert torch.equal(fs.sample(model(), x1, IRREGULAR, name, seed=SEED), expected)
    run = fs.trace(model(), x1, IRREGULAR, name, seed=SEED)
    assert torch.equal(run.x0, expected)
    plain = fs.trace(smooth, x1, IRREGULAR, name, seed=SEED)
    assert run.evaluations == plain.evaluations
    assert all(torch.equal(a, b) for a, b in zip(run.velocities, plain.velocities, strict=True))
    assert torch.equal(x1, before)


def test_one_expanded_number_is_a_velocity() -> None:
    one = torch.zeros(1, 1, dtype=torch.float64)

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        return one.fill_(sigma[0].item()).expand_as(x)

    x1 = start()
    expected = fs.sample(lambda x, s: s[:, None].expand_as(x).clone(), x1, IRREGULAR, "ab2")
    assert torch.equal(fs.sample(velocity, x1, IRREGULAR, "ab2"), expected)


@pytest.mark.parametrize("max_batch", [1, 3, 64])
def test_lock_step_jobs_do_not_share_what_a_model_reuses(max_batch: int) -> None:
    """Also where one round takes several model calls, which all return the same tensor."""

    class Flow:
        def __init__(self, velocity_of) -> None:
            self.of_rows: dict[int, object] = {}
            self.velocity_of = velocity_of

        def velocity(self, x: Tensor, sigma: Tensor, condition=None) -> Tensor:
            return self.of_rows.setdefault(len(x), self.velocity_of())(x, sigma)

    x1 = start()
    runs = [fs.Run(x1, IRREGULAR, name, seeds=SEED) for name in ALL]
    expected = fs.sample_many(Flow(lambda: smooth), runs, max_batch=max_batch)
    for model in MODELS:
        outs = fs.sample_many(Flow(model), runs, max_batch=max_batch)
        assert [n for n, a, b in zip(ALL, outs, expected, strict=True) if not torch.equal(a, b)] == [], model.__name__
        assert torch.equal(x1, start()), model.__name__


def test_a_failed_batch_is_tried_again_with_what_it_was_given() -> None:
    """A model that edits its input and then runs out of memory: the halves must see the state, not the remains."""
    from flowsamplers.engine import integrate
    from flowsamplers.lockstep import Task, run_tasks
    from flowsamplers.sampler import steps_of

    class Fails(Conditioned):
        def velocity(self, x, sigma, condition=None):
            v = super().velocity(x, sigma, condition)
            x.zero_()
            sigma.zero_()
            if len(x) > 1:
                raise MemoryError
            return v

    def ends(flow) -> list[Tensor]:
        outs: dict[int, Tensor] = {}
        starts = [start(rows=1, seed=i) for i in range(4)]
        tasks = [Task(lambda x=x: integrate(fs.get_sampler("ab2"), x, steps_of(IRREGULAR)), 0.3) for x in starts]
        run_tasks(flow, tasks, outs.__setitem__, dtype=torch.float64, on_error=lambda i, e: pytest.fail(str(e)))
        return [outs[i] for i in range(4)]

    torch.testing.assert_close(ends(Fails()), ends(Conditioned()), rtol=1e-14, atol=1e-14)


def test_a_trace_keeps_its_start_when_the_caller_reuses_it() -> None:
    x1 = start(dtype=torch.float32)
    run = fs.trace(smooth, x1, IRREGULAR, "euler")
    before = x1.clone()
    x1.zero_()
    assert torch.equal(run.states[0], before)


def test_a_result_shares_no_memory_with_the_start_or_the_model() -> None:
    model, x1 = OneBuffer(), start()
    out = fs.sample(model, x1, IRREGULAR, "euler")
    kept = out.clone()
    model.buffer.zero_()
    x1.zero_()
    assert torch.equal(out, kept)
