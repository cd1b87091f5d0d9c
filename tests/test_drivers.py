"""The drivers agree with each other, and what they own (precision, modes, counts, errors) is as they say."""

from __future__ import annotations

import pickle
from itertools import pairwise

import pytest
import torch
from torch import Tensor

import flowsamplers as fs
from fields import (
    FIXED_VARIANTS,
    IRREGULAR,
    Conditioned,
    every_fixed_sampler,
    every_fixed_variant,
    smooth,
    start,
)
from flowsamplers.noise import GeneratorNoise, as_noise
from flowsamplers.stepper import Stepper


def through_stepper(sampler: fs.Sampler, x: Tensor, grid: fs.SigmaGrid, *, between=lambda s: s, noise=None) -> Tensor:
    """Drive inside out, feeding each velocity by hand."""
    stepper = Stepper(sampler, grid, x, noise)
    for call in fs.dry_run(sampler, grid):
        stepper = between(stepper)
        stepper.tell(smooth(stepper.point, torch.full((x.shape[0],), call.sigma, dtype=x.dtype)))
    assert stepper.done
    return stepper.point


STOCHASTIC = [info.name for info in fs.list_samplers() if info.stochastic]


@pytest.mark.parametrize("name", ["lcm", "restart"])
def test_a_pickle_changes_nothing_with_the_stock_noise_stream(name: str) -> None:
    """Deep copies, and pickles with keyed noise, are in the law of copies."""
    x1, sampler = start(), fs.get_sampler(name)
    direct = fs.sample(smooth, x1, IRREGULAR, sampler, seed=GeneratorNoise(torch.Generator().manual_seed(3)))
    noise = GeneratorNoise(torch.Generator().manual_seed(3))
    between = lambda s: pickle.loads(pickle.dumps(s))  # noqa: E731
    assert torch.equal(through_stepper(sampler, x1, IRREGULAR, between=between, noise=noise), direct)


@pytest.mark.parametrize("max_batch", [1, 5, 64])
def test_lock_step_equals_direct_sampling_to_rounding(max_batch: int) -> None:
    samplers = [s.name for s in fs.list_samplers() if not s.adaptive]
    grids = [IRREGULAR, fs.schedules.linear(4), fs.SigmaGrid([1.0, 0.0])]
    runs = [
        fs.Run(start(rows=1 + i % 3, seed=i), grids[i % 3], name, condition=0.1 * i, seeds=i)
        for i, name in enumerate(samplers * 3)
    ]
    flow = Conditioned()
    outs = fs.sample_many(flow, runs, max_batch=max_batch)
    for run, out in zip(runs, outs, strict=True):
        alone = fs.sample(
            lambda x, s, c=run.condition: Conditioned().velocity(x, s, [c] * len(x)),
            run.x1,
            run.grid,
            run.sampler,
            seed=run.seeds,
        )
        assert (out - alone).abs().max() <= 64 * torch.finfo(torch.float64).eps
    assert flow.rows == sum(r.x1.shape[0] * fs.nfe(r.sampler, r.grid) for r in runs)


def test_lock_step_takes_as_many_rounds_as_the_longest_run() -> None:
    grid = fs.schedules.linear(4)
    flow = Conditioned()
    fs.sample_many(flow, [fs.Run(start(), grid, s) for s in ("euler", "heun", "rk4", "ab2")], max_batch=64)
    assert flow.calls == fs.nfe("rk4", grid) < sum(fs.nfe(s, grid) for s in ("euler", "heun", "rk4", "ab2"))


def test_lock_step_compares_no_two_requests_that_differ_in_their_first_number(monkeypatch) -> None:
    """Of n rows n (n - 1) / 2 pairs could be compared, in every round."""
    compared, flow, equal = [], Conditioned(), torch.equal
    monkeypatch.setattr(torch, "equal", lambda a, b: compared.append((a, b)) or equal(a, b))
    runs = [fs.Run(x, fs.schedules.linear(3), "euler") for x in start(rows=20).split(1)]
    fs.sample_many(flow, [*runs, *runs[:5]])
    assert flow.rows == 3 * 20
    assert len(compared) <= 3 * 5


def test_a_run_records_no_graph_unless_asked_and_leaves_the_mode() -> None:
    """What else it leaves untouched is in the law of inputs and modes."""

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        return smooth(x, sigma)

    assert not fs.sample(velocity, start().requires_grad_(), IRREGULAR, "ab2").requires_grad
    assert torch.is_grad_enabled()


@every_fixed_sampler
def test_a_trace_is_the_same_run_with_a_record(name: str) -> None:
    x1 = start()
    run = fs.trace(smooth, x1, IRREGULAR, name, seed=0)
    assert torch.equal(run.x0, fs.sample(smooth, x1, IRREGULAR, name, seed=0))
    assert run.nfe == fs.nfe(name, IRREGULAR)
    assert len(run.states) == IRREGULAR.steps + 1
    assert torch.equal(run.states[0], x1)
    assert torch.equal(run.states[-1], run.x0)
    assert run.evaluations[0].x_norm == pytest.approx(x1.square().mean().sqrt().item(), rel=1e-14)


def test_the_carried_state_does_not_round_to_the_models_dtype() -> None:
    """Many steps in bfloat16: the error of a float32 state stays near one rounding, a bfloat16 state drifts."""
    x1 = start(dtype=torch.bfloat16)
    grid = fs.schedules.linear(256)
    v = torch.full_like(x1, 0.1)
    exact = x1.double() - 0.1 * torch.ones_like(x1).double() * v[0, 0].double() / 0.1
    carried = fs.sample(lambda x, sigma: v, x1, grid)
    rounded = fs.sample(lambda x, sigma: v, x1, grid, carry=torch.bfloat16)
    eps = torch.finfo(torch.bfloat16).eps
    assert ((carried.double() - exact).abs() <= eps * exact.abs() + 1e-6).all()
    assert (rounded.double() - exact).abs().max() > 4 * eps


@pytest.mark.parametrize("sampler", [s for _, s in FIXED_VARIANTS if not s.stochastic], ids=lambda s: fs.to_config(s)["name"])
def test_a_shift_made_before_any_model_call_appears_in_the_result(sampler: fs.Sampler) -> None:
    """With a constant velocity the effect of an edit is the edit itself, whatever the stage: entry i is shifted before call i."""
    calls = fs.dry_run(sampler, IRREGULAR)
    x1, v = start(1, len(calls)), torch.full((1, len(calls)), 0.25, dtype=torch.float64)
    stepper = Stepper(sampler, IRREGULAR, x1)
    for i, _ in enumerate(calls):
        stepper.edit(stepper.point + 2.0 * torch.eye(len(calls), dtype=torch.float64)[i])
        stepper = pickle.loads(pickle.dumps(stepper))
        stepper.tell(v)
    shift = stepper.point - fs.sample(lambda x, s: v, x1, IRREGULAR, sampler)
    assert torch.allclose(shift, torch.full_like(shift, 2.0), atol=1e-12, rtol=0)


@every_fixed_variant
def test_a_run_begun_inside_a_step_moves_to_its_end_and_finishes(sampler: fs.Sampler) -> None:
    calls = fs.dry_run(sampler, IRREGULAR)
    v = torch.full((1, 2), 0.5, dtype=torch.float64)
    for begin in range(len(calls)):
        stepper = Stepper(sampler, IRREGULAR, torch.zeros(1, 2, dtype=torch.float64), as_noise(0), begin=begin)
        for _ in calls[begin:]:
            stepper.tell(v)
        assert stepper.done
        if not sampler.stochastic:
            assert torch.allclose(stepper.point, -calls[begin].sigma * v, atol=1e-14)


@every_fixed_sampler
def test_the_calls_left_of_a_step_are_euler_moves_and_the_rest_is_the_samplers(name) -> None:
    """On a field that is no constant. What a method without memory makes of the rest is what it makes of a grid that begins there."""
    sampler = fs.get_sampler(name)
    calls = fs.dry_run(sampler, IRREGULAR)
    inside = [i for i, call in enumerate(calls) if call.stage > 0 and call.sigma != IRREGULAR.sigmas[call.step + 1]]
    for begin in inside:
        stepper, x = Stepper(sampler, IRREGULAR, start(), fs.KeyedNoise(0), begin=begin), start()
        step = calls[begin].step
        nodes = [call.sigma for call in calls[begin:] if call.step == step]
        for s0, s1 in pairwise([*nodes, IRREGULAR.sigmas[step + 1]]):
            v = smooth(x, x.new_full((3,), s0))
            stepper.tell(v)
            x = x + (s1 - s0) * v
            assert torch.allclose(stepper._x, x, rtol=0, atol=1e-13)
        if step + 1 < IRREGULAR.steps and not (sampler.multistep or sampler.stochastic or sampler.look_ahead):
            for call in calls[begin + len(nodes) :]:
                stepper.tell(smooth(stepper.point, x.new_full((3,), call.sigma)))
            expected = fs.sample(smooth, x, fs.SigmaGrid(IRREGULAR.sigmas[step + 1 :]), sampler)
            assert stepper.done
            assert torch.allclose(stepper.point, expected, rtol=0, atol=1e-12)


def test_telling_a_finished_run_is_an_error() -> None:
    stepper = Stepper(fs.get_sampler("euler"), fs.SigmaGrid([1.0, 0.0]), torch.zeros(1))
    stepper.tell(torch.zeros(1))
    with pytest.raises(IndexError, match="finished"):
        stepper.tell(torch.zeros(1))


# Upwards, from data to noise


UP = fs.SigmaGrid([0.0, 0.3, 0.6, 1.0], rising=True)


@pytest.mark.parametrize("grid", [UP, fs.SigmaGrid([0.0, 1.0], rising=True)], ids=["steps", "one step"])
@pytest.mark.parametrize("name", STOCHASTIC)
def test_no_driver_puts_noise_on_data_on_its_way_to_noise(name, grid) -> None:
    """They refuse before the first model call."""
    sampler = fs.get_sampler(name)
    refusal = rf"grid from sigma 0\.0 to 1\.0: {type(sampler).__name__} draws noise, and with noise a run goes down"
    for driver in (
        lambda: fs.sample(never, start(), grid, name, seed=0),
        lambda: fs.trace(never, start(), grid, name, seed=0),
        lambda: fs.sample_many(Conditioned(), [fs.Run(start(), grid, name, seeds=0)]),
        lambda: fs.dry_run(name, grid),
        lambda: Stepper(sampler, grid, start(), fs.KeyedNoise(0)),
    ):
        with pytest.raises(ValueError, match=f"{refusal}, from noise to data; {sampler.noise_option}=0 goes both ways"):
            driver()


@pytest.mark.parametrize("name", STOCHASTIC)
def test_without_its_noise_a_stochastic_sampler_goes_up_like_its_ode_twin(name) -> None:
    sampler = fs.get_sampler(name)
    still = fs.get_sampler(name, **{sampler.noise_option: 0})
    assert sampler.draws_noise
    assert not still.draws_noise
    x = fs.sample(smooth, start(), UP, still, seed=0)
    assert x.isfinite().all()
    if still.order == 1 or still.without_noise is not None:
        twin = fs.sample(smooth, start(), UP, still.without_noise or "euler")
        assert torch.allclose(x, twin, rtol=0, atol=1e-12)


def never(x, sigma):
    raise AssertionError("the model was called")


@pytest.mark.parametrize("name", ["heunpp2", "dpm_adaptive"])
def test_methods_that_divide_by_sigma_leave_0_to_their_order(name) -> None:
    """Against a fine solution upwards: heunpp2 with more steps, dpm_adaptive with a finer tolerance."""
    truth = fs.sample(smooth, start(), fs.schedules.linear(256).reversed(), "rk4")
    if name == "heunpp2":
        runs = [fs.sample(smooth, start(), fs.schedules.linear(n).reversed(), name) for n in (64, 128, 256)]
    else:
        runs = [fs.sample(smooth, start(), UP, fs.get_sampler(name, rtol=r, atol=r / 5)) for r in (5e-2, 1e-3, 1e-5)]
    errors = [((x - truth).norm() / truth.norm()).item() for x in runs]
    assert errors[1] < 0.6 * errors[0]
    assert errors[2] < 0.6 * errors[1]
    assert name == "heunpp2" or errors[2] < 1e-4
