"""Wherever stock's scheduler is right, the drop-in is right: graphs, buffers, shapes, schedules and classes, for every sampler."""

from __future__ import annotations

import copy
import logging
import pickle
import weakref
from functools import cache, partial
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers")
from diffusers import (
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

import flowsamplers as fs
from fields import FIXED, every_fixed_sampler
from flowsamplers_diffusers import FlowSamplerScheduler

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")  # of stock's numpy
ODE = [name for name in FIXED if not fs.sampler_info(name).stochastic]
every_ode_sampler = pytest.mark.parametrize("name", ODE)
CARRIES = ["float32", "float64", "model"]
every_carry = pytest.mark.parametrize("carry", CARRIES)
every_ode_sampler_and_carry = pytest.mark.parametrize(
    ("name", "carry"),
    [("ab2", c) for c in CARRIES] + [(n, CARRIES[i % len(CARRIES)]) for i, n in enumerate(ODE) if n != "ab2"],
)
"""The carry is the drop-in's matter and no sampler's: one sampler with a memory meets all, every other one in turn."""
NODES = [1.0, 0.8, 0.55, 0.3]
X1 = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def begun(name: str = "euler", **options) -> FlowSamplerScheduler:
    scheduler = FlowSamplerScheduler(sampler=name, seed=3, **options)
    scheduler.set_timesteps(sigmas=NODES)
    return scheduler


def field(x: Tensor, t: Tensor) -> Tensor:
    return torch.sin(3 * x) + (t / 1000).to(x.dtype) - 0.3


def loop(scheduler, x: Tensor = X1, velocity=field) -> Tensor:
    for t in scheduler.timesteps:
        x = scheduler.step(velocity(x, t), t, x, return_dict=False)[0]
    return x


# The graph


def gradient_of_truncated_backpropagation(scheduler, steps: int) -> float:
    """ReFL's and DRaFT's loop: only the last step is differentiated."""
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps))
    w, y = torch.ones((), requires_grad=True), torch.ones(1, 2)
    for t in scheduler.timesteps:
        y = scheduler.step(w * y.detach(), t, y.detach()).prev_sample
    (slope,) = torch.autograd.grad(y.sum(), w)
    return slope.item()


@every_carry
@pytest.mark.parametrize("steps", [2, 6])
def test_the_gradient_of_a_cut_run_is_stocks(carry, steps) -> None:
    ours, stock = (
        gradient_of_truncated_backpropagation(s, steps)
        for s in (FlowSamplerScheduler(carry=carry), FlowMatchEulerDiscreteScheduler())
    )
    assert ours == pytest.approx(stock, rel=1e-6)


@every_ode_sampler
def test_the_gradient_of_a_whole_run_is_that_of_finite_differences(name) -> None:
    """Whether the host passes back what it was given, or a copy."""

    def end(w: Tensor, edited: bool) -> Tensor:
        scheduler, x = begun(name, carry="float64"), X1.double()
        for t in scheduler.timesteps:
            x = scheduler.step(w * field(x, t), t, x, return_dict=False)[0]
            x = x * 1.0 if edited else x
        return x.sum()

    for edited in (False, True):
        w = torch.tensor(1.1, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(partial(end, edited=edited), (w,), atol=1e-4)


@every_fixed_sampler
def test_guidance_by_gradients_keeps_the_graph_of_one_call_and_nothing_after_the_last(name) -> None:
    scheduler, x, graphs = begun(name), X1, []
    for t in scheduler.timesteps:
        x = x.detach().requires_grad_()
        weight = torch.ones(1, requires_grad=True)
        inner = weight * x
        graphs.append(weakref.ref(weight))
        x = scheduler.step(torch.sin(inner), t, x, return_dict=False)[0]
        del inner, weight
        assert sum(ref() is not None for ref in graphs) <= 1
    assert scheduler._run is None


@every_fixed_sampler
def test_a_copy_made_between_two_calls_has_the_gradient_of_the_original(name) -> None:
    def slope(between) -> Tensor:
        scheduler, x, w = begun(name), X1, torch.ones((), requires_grad=True)
        for t in scheduler.timesteps:
            scheduler = between(scheduler)
            x = scheduler.step(w * field(x, t), t, x, return_dict=False)[0]
        return torch.autograd.grad(x.square().sum(), w)[0]

    torch.testing.assert_close(
        slope(copy.deepcopy), slope(lambda scheduler: scheduler), rtol=2**-14, atol=2**-14
    )  # summed anew
    assert slope(lambda scheduler: pickle.loads(pickle.dumps(scheduler))).isfinite()


# Shapes and rows


CHANGES = {
    "one row": lambda x: x[[2]],
    "two rows": lambda x: x[[0, 2]],
    "cropped": lambda x: x[:, :4],
    "appended": lambda x: torch.cat([x, x], 1),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["euler", "ab2", "unipc", "lcm"])
def test_another_shape_begins_anew_at_the_call_where_the_run_stands(name, change) -> None:
    """What a shape is does not depend on the sampler; that another number of rows is another run is a law of all."""
    for at in range(len(begun(name).timesteps) - 1):
        scheduler, x = begun(name), X1
        for i, t in enumerate(scheduler.timesteps):
            x = scheduler.step(field(x, t), t, x, return_dict=False)[0]
            if i == at:
                x = CHANGES[change](x)
                anew = begun(name)
                anew.set_begin_index(i + 1)
                y = x
            elif i > at:
                y = anew.step(field(y, t), t, y, return_dict=False)[0]
        assert torch.equal(x, y)


ANOTHER = torch.randn(4, 6, generator=torch.Generator().manual_seed(9))
EDITS = {
    "rows change places": lambda x: x[[2, 0, 3, 1]],
    "scaled": lambda x: 2 * x,
    "shifted": lambda x: x + 1,
    "another image": lambda x: ANOTHER,
    "one half painted": lambda x: torch.cat([x[:, :3], ANOTHER[:, 3:]], 1),
    "nudged": lambda x: x + 0.01,
    "one element nudged": lambda x: torch.cat([x[:, :5], x[:, 5:] + 0.1], 1),
}


def run_of_24_steps(name: str, x: Tensor, edit) -> tuple[Tensor, float, Tensor]:
    """In float64: the end, and the middle's sigma and sample; the edit of a sample is told the number of the step that begins."""
    scheduler, middle = FlowSamplerScheduler(sampler=name, carry="float64"), (1.0, x)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 24, 24))
    for t, sigma, call in zip(scheduler.timesteps, scheduler.sigmas, scheduler._calls, strict=False):
        if call.stage == 0 and call.step:
            x = edit(x, call.step)
            middle = (float(sigma), x) if call.step == 12 else middle
        x = scheduler.step(field(x, t), t, x, return_dict=False)[0]
    return x, *middle


@every_ode_sampler
def test_a_large_edit_leaves_no_larger_error_than_eulers(name) -> None:
    """From the edited samples on, beside Euler's run from there, and the sampler's own; the edits are made where a step begins."""

    def edit(x: Tensor, step: int) -> Tensor:
        if step != 12:
            return x
        return torch.cat([e(rows) for e, rows in zip(EDITS.values(), x.chunk(len(EDITS)), strict=True)])

    end, begin, edited = run_of_24_steps(name, X1.double().repeat(len(EDITS), 1), edit)

    def rest(sampler: str, steps: int) -> Tensor:
        grid = fs.SigmaGrid([begin * (1 - i / steps) for i in range(steps)] + [0.0])
        return fs.sample(lambda x, s: field(x, 1000 * s[:, None]), edited, grid, sampler)

    truth = rest("rk4", 60)  # of order 4, with five times the steps: far below Euler's error
    off, eulers, own = (
        torch.stack([rows.norm() for rows in (x - truth).chunk(len(EDITS))]) for x in (end, rest("euler", 12), rest(name, 12))
    )
    rounding = 16 * torch.finfo(torch.float32).eps * truth.norm()  # of the sigmas
    worse = off > torch.maximum(eulers, own) + rounding
    assert [edit for edit, is_worse in zip(EDITS, worse, strict=True) if is_worse] == []


@cache
def moved(name: str, nudge: float = 1e-6) -> Tensor:
    """By how much a nudge of every element after each step but the last moves the end."""
    nudges = nudge * torch.tensor([0.0] * 4 + [1.0] * 4, dtype=torch.float64)[:, None]
    plain, nudged = run_of_24_steps(name, X1.double().repeat(2, 1), lambda x, step: x + nudges)[0].chunk(2)
    return nudged - plain


@every_ode_sampler
def test_small_edits_at_the_end_of_every_step_move_the_end_at_least_as_rightly_as_eulers(name) -> None:
    """Beside the move of a method of order 5; the nudge is far below every correction, so what is remembered stays of use.

    A memory is wrong by at most L |d|, and with it the next correction by h L |d|: over all steps L |d|. Euler's step carries a nudge on
    with an error of h^2 L^2 |d| / 2 in each later step, which is as much, and a method that ignores nudges has 24 |d|.
    """
    assert (moved(name) - moved("rk5")).norm() <= (moved("euler") - moved("rk5")).norm()


# Buffers


@every_carry
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_network_with_one_output_buffer_and_a_host_that_edits_what_it_passed(carry, dtype) -> None:
    """CUDA graphs and TensorRT return one tensor every time; some hosts write their latents into one, and reuse noise_pred.

    That each sampler remembers copies is a law.
    """
    scheduler, x1 = begun("ab2", carry=carry), X1.to(dtype)
    expected = loop(begun("ab2", carry=carry), x1)
    velocity, latents = torch.empty_like(x1), x1.clone()
    for t in scheduler.timesteps:
        velocity.copy_(field(latents, t))
        latents.copy_(scheduler.step(velocity, t, latents, return_dict=False)[0])
        velocity.fill_(9)
    assert torch.equal(latents, expected)


@every_ode_sampler
def test_a_host_that_casts_the_sample_has_not_edited_it(name) -> None:
    """Velocities in float32, latents in bfloat16: the rounding stays out of the state, as it does where the model returns bfloat16."""
    scheduler, x = begun(name), torch.ones_like(X1)
    for t in scheduler.timesteps:
        x = scheduler.step(torch.ones_like(X1), t, x.bfloat16(), return_dict=False)[0]
    assert x.abs().max() <= 16 * len(scheduler.timesteps) * torch.finfo(torch.float32).eps


LOST = {1: torch.inf, 2: torch.nan}
"""Which row loses its second velocity to what."""


@cache
def twelve_steps(name: str, *, loses: bool = False) -> Tensor:
    """The host puts in Euler's move for a row whose velocity was lost."""
    scheduler = FlowSamplerScheduler(sampler=name, seed=[1, 2, 3, 4])
    scheduler.set_timesteps(12)
    x, sigmas, rows = X1, scheduler.sigmas.tolist(), list(LOST)
    for i, t in enumerate(scheduler.timesteps):
        right, before, lost = field(x, t), x, loses and i == 1
        v = right.clone()
        if lost:
            v[rows] = torch.tensor(list(LOST.values()))[:, None]
        x = scheduler.step(v, t, x, return_dict=False)[0]
        if lost:
            assert not x[rows].isfinite().any()
            x = x.clone()
            x[rows] = (before + (sigmas[2] - sigmas[1]) * right)[rows]
    return x


@every_fixed_sampler
def test_a_row_with_a_lost_velocity_leaves_the_others_alone_and_goes_on_once_the_host_has_repaired_it(name) -> None:
    """The row then errs by no more than Euler's run and the sampler's own together."""
    whole, repaired = twelve_steps(name), twelve_steps(name, loses=True)
    assert torch.equal(whole[[0, 3]], repaired[[0, 3]])
    assert repaired.isfinite().all()
    if not fs.sampler_info(name).stochastic:
        end = fine_end()
        for row in LOST:
            off, own, eulers = ((x[row] - end[row]).norm() for x in (repaired, whole, twelve_steps("euler")))
            assert off <= 1.1 * own + eulers


@cache
def fine_end() -> Tensor:
    """Where the paths from X1 end."""
    return fs.sample(lambda x, sigma: field(x, 1000 * sigma[0]), X1.double(), fs.schedules.linear(200), "rk4")


# Schedules put in from outside


@every_ode_sampler_and_carry
def test_slices_for_image_to_image_begin_where_they_begin(name, carry) -> None:
    """Only their places distinguish equal times of plain numbers, which a sampler with several calls a step has."""
    calls = len(begun(name).timesteps)
    for k, numbers in product({0, 1, calls // 2, calls - 1}, (False, True)):
        sliced, whole = begun(name, carry=carry), begun(name, carry=carry)
        sliced.sigmas, sliced.timesteps = (t[k:].tolist() if numbers else t[k:] for t in (sliced.sigmas, sliced.timesteps))
        whole.set_begin_index(k)
        x = y = X1
        for t, u in zip(sliced.timesteps, whole.timesteps[k:], strict=True):
            x = sliced.step(field(x, u), t, x, return_dict=False)[0]
            y = whole.step(field(y, u), u, y, return_dict=False)[0]
        assert torch.equal(x, y)


@pytest.mark.parametrize(
    "write", [lambda x: x.mul_(0.8), lambda x: x.data.mul_(0.8), lambda x: np.multiply(x, 0.8, out=x.numpy())]
)
def test_a_schedule_is_followed_by_whatever_way_it_was_written(write) -> None:
    scheduler, stock = begun("euler"), FlowMatchEulerDiscreteScheduler()
    stock.set_timesteps(sigmas=NODES)
    for each in (scheduler, stock):
        write(each.sigmas)
        write(each.timesteps)
    assert torch.equal(loop(scheduler), loop(stock))


def test_a_schedule_that_was_assigned_needs_no_set_timesteps() -> None:
    for name in ("euler", "ab2", "unipc", "dpmpp_2m"):
        scheduler = FlowSamplerScheduler(sampler=name)
        scheduler.sigmas = torch.tensor([*NODES, 0.0])
        scheduler.timesteps = 1000 * scheduler.sigmas[:-1]
        assert torch.equal(loop(scheduler), loop(begun(name)))


def test_before_set_timesteps_data_are_noised_as_stock_does() -> None:
    """Trainers draw from the 1000 times of a new scheduler."""
    scheduler, stock = FlowSamplerScheduler(shift=3.0), FlowMatchEulerDiscreteScheduler(shift=3.0)
    times = stock.timesteps[[3, 999, 500, 20]]
    assert torch.equal(scheduler.scale_noise(X1, times, 2 * X1), stock.scale_noise(X1, times, 2 * X1))
    with pytest.raises(ValueError, match="call set_timesteps first"):
        scheduler.step(X1, times[0], X1)


@every_ode_sampler_and_carry
@pytest.mark.parametrize("in_place", [False, True])
def test_another_schedule_is_followed_or_refused_at_the_next_step(name, carry, in_place) -> None:
    other = torch.tensor([1.0, 0.9, 0.5, 0.1, 0.0])
    scheduler, direct = begun(name, carry=carry), FlowSamplerScheduler(sampler=name, carry=carry)
    direct.set_timesteps(sigmas=other[:-1])
    if in_place and len(scheduler.sigmas) == len(other):
        scheduler.sigmas.copy_(other)
        scheduler.timesteps.copy_(other[:-1] * 1000)
    else:
        scheduler.sigmas, scheduler.timesteps = other, other[:-1] * 1000
    if torch.equal(direct.timesteps, other[:-1] * 1000):
        assert torch.equal(loop(scheduler), loop(direct))
    else:
        with pytest.raises(ValueError, match=r"Pass the schedule to set_timesteps\(sigmas="):
            loop(scheduler)


@pytest.mark.parametrize("name", ["heun", "rk4", "ralston3", "midpoint"])
def test_a_schedule_that_was_scaled_is_followed(name) -> None:
    scheduler, direct = begun(name), FlowSamplerScheduler(sampler=name)
    scheduler.sigmas, scheduler.timesteps = 0.8 * scheduler.sigmas, 0.8 * scheduler.timesteps
    direct.set_timesteps(sigmas=[0.8 * s for s in NODES])
    if not torch.allclose(scheduler.sigmas, direct.sigmas, atol=1e-6):
        with pytest.raises(ValueError, match="loop over"):
            loop(scheduler)
        return
    assert torch.allclose(loop(scheduler), loop(direct), atol=1e-5)


# Generators and indices


@every_fixed_sampler
def test_a_second_loop_after_the_index_was_reset_is_the_first_again(name) -> None:
    scheduler = begun(name)
    first = loop(scheduler)
    scheduler._step_index = None
    assert torch.equal(loop(scheduler), first)


@every_fixed_sampler
def test_an_index_set_by_a_time_begins_there(name) -> None:
    """FlowEdit and inversions call ``_init_step_index(t)`` before every step, and take steps of two paths in turn."""
    scheduler, x, y = begun(name), X1, X1 + 1
    for t in scheduler.timesteps:
        scheduler._init_step_index(t)
        index = scheduler.step_index
        x = scheduler.step(field(x, t), t, x, return_dict=False)[0]
        scheduler._init_step_index(t)
        assert scheduler.step_index == index
        y = scheduler.step(field(y, t), t, y, return_dict=False)[0]
    assert x.isfinite().all()
    assert y.isfinite().all()
    if name == "euler":
        assert torch.allclose(x, loop(begun("euler")))
        assert torch.allclose(y, loop(begun("euler"), X1 + 1))


# The class


def test_it_is_a_flow_match_euler_with_its_public_methods() -> None:
    ours = FlowSamplerScheduler(shift_terminal=0.1, time_shift_type="linear")
    stock = FlowMatchEulerDiscreteScheduler(shift_terminal=0.1, time_shift_type="linear")
    assert isinstance(ours, FlowMatchEulerDiscreteScheduler)
    u = torch.tensor([0.9, 0.5, 0.2])
    assert torch.equal(ours.time_shift(1.3, 1.0, u), stock.time_shift(1.3, 1.0, u))
    assert torch.equal(ours.stretch_shift_to_terminal(u), stock.stretch_shift_to_terminal(u))


def test_a_subclass_that_passes_everything_on_is_made_from_a_configuration() -> None:
    class Mine(FlowSamplerScheduler):
        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, **kwargs)

    assert Mine.from_config(FlowMatchEulerDiscreteScheduler(shift=3.0).config, sampler="heun").config.shift == 3.0


# Schedules of UniPC, DPM-Solver and DEIS

FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
STOCK = {
    "UniPC": lambda **o: UniPCMultistepScheduler(**FLOW, **o),
    "UniPC-3": lambda **o: UniPCMultistepScheduler(**FLOW, solver_order=3, **o),
    "DPM++ 2M": lambda **o: DPMSolverMultistepScheduler(**FLOW, **o),
    "DPM++ 2M SDE": lambda **o: DPMSolverMultistepScheduler(**FLOW, algorithm_type="sde-dpmsolver++", **o),
    "DEIS": lambda **o: DEISMultistepScheduler(**FLOW, **o),
}


@pytest.mark.parametrize("kind", STOCK)
@pytest.mark.parametrize("options", [{}, {"flow_shift": 3.0}, {"flow_shift": 7.5}, {"use_dynamic_shifting": True},
                                     {"flow_shift": 3.0, "final_sigmas_type": "sigma_min"}], ids=str)  # fmt: skip
def test_the_sigmas_of_another_scheduler_are_taken_over_exactly(kind, options, tmp_path) -> None:
    if kind == "DEIS" and "final_sigmas_type" in options:
        pytest.skip("it has no such option")
    stock = STOCK[kind](**options)
    ours = FlowSamplerScheduler.from_config(stock.config, sampler="unipc")
    ours.save_pretrained(tmp_path)
    again = FlowSamplerScheduler.from_pretrained(tmp_path)
    mu = {"mu": 1.3} if "use_dynamic_shifting" in options else {}
    for steps in (1, 2, 3, 4, 7, 20, 50):
        stock.set_timesteps(steps, **mu)
        for scheduler in (ours, again):
            scheduler.set_timesteps(steps, **mu)
            assert torch.equal(scheduler.sigmas[:-1], stock.sigmas[:-1])
            ends = stock.sigmas[-1] if stock.sigmas[-1] < stock.sigmas[-2] else 0
            assert scheduler.sigmas[-1] == ends


@cache
def mixture() -> tuple[fs.flows.MixtureFlow, Tensor, Tensor]:
    """A flow, starts and where they end."""
    flow = fs.flows.MixtureFlow([[-1.5], [0.3], [1.2]], [0.3, 0.2, 0.4], weights=[0.3, 0.3, 0.4])
    x1 = torch.randn(256, 1, generator=torch.Generator().manual_seed(0))
    return flow, x1, fs.sample(flow.velocity, x1.double(), fs.schedules.shift(250, shift=3.0), "rk4").float()


@pytest.mark.parametrize(
    ("kind", "sampler"),
    [("UniPC", "unipc"), ("UniPC-3", "unipc_3"), ("DPM++ 2M", "dpmpp_2m"), ("DEIS", "deis_log_rho")],
)
@pytest.mark.parametrize("steps", [4, 8, 16, 32])
def test_the_same_method_is_at_least_as_accurate_as_stocks(kind, sampler, steps) -> None:
    """On a mixture, in float32, as a pipeline runs it."""
    flow, x1, truth = mixture()
    stock = STOCK[kind](flow_shift=3.0)
    errors = []
    for scheduler in (stock, FlowSamplerScheduler.from_config(stock.config, sampler=sampler)):
        scheduler.set_timesteps(steps)
        x = x1
        for t, s in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
            x = scheduler.step(flow.velocity(x, s.expand(len(x))), t, x, return_dict=False)[0]
        errors.append((x - truth).norm().item())
    assert errors[1] <= 1.02 * errors[0]


@pytest.mark.parametrize("name", [n for n in ODE if "startup" in fs.get_sampler(n).options])
def test_a_run_that_begins_inside_the_schedule_is_the_rest_of_the_schedule_without_a_start_up_step(name) -> None:
    """The calls of a start-up step are in the list at the first step of the schedule alone, and the host has the list before it cuts it."""
    steps, cut = 10, 4
    scheduler = FlowSamplerScheduler(sampler=name, carry="float64")
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps))
    begin = next(i for i, call in enumerate(scheduler._calls) if call.step == cut)
    scheduler.set_begin_index(begin)
    x = X1.double()
    for t in scheduler.timesteps[begin:]:
        x = scheduler.step(field(x, t), t, x, return_dict=False)[0]
    rest, method = scheduler.grid.split(cut)[1], fs.get_sampler(name, startup="ramp")
    expected = fs.sample(lambda x, s: field(x, (1000 * s).float()[:, None]), X1.double(), rest, method)
    torch.testing.assert_close(x, expected, rtol=1e-6, atol=1e-6)


def test_the_order_survives_a_copy() -> None:
    scheduler = begun("heun")
    for copied in (copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))):
        assert [t * copied.order for t in range(8)] == [t * scheduler.order for t in range(8)] == [0, 0, 2, 2, 4, 4, 6, 6]


# Models that are told where a step ends


class Pipe:
    """A pipeline in miniature."""

    def __init__(self, scheduler, **config) -> None:
        self.scheduler = scheduler
        self.transformer = torch.nn.Module()
        self.transformer.config = config

    def __call__(self) -> None:
        self.scheduler.set_timesteps(sigmas=NODES)


@pytest.mark.parametrize("flag", ["use_meanflow", "flow_map"])
@pytest.mark.parametrize("name", ["euler", "heun", "lcm"])
def test_a_model_that_is_told_the_target_runs_with_euler_alone(name, flag) -> None:
    Pipe(FlowSamplerScheduler(sampler=name, seed=0), **{flag: False})()
    pipe = Pipe(FlowSamplerScheduler(sampler=name, seed=0), **{flag: True})
    if name == "euler":
        pipe()
    else:
        with pytest.raises(ValueError, match="only sampler='euler'"):
            pipe()


# The low ones


def test_a_rounded_time_that_may_be_two_entries_is_refused() -> None:
    scheduler = FlowSamplerScheduler(use_dynamic_shifting=True)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 50, 50), mu=2.0)
    t = scheduler.timesteps[2]
    assert scheduler.index_for_timestep(float(t) + 1e-4) == 2
    with pytest.raises(ValueError, match="may be any of"):
        scheduler.index_for_timestep(t.bfloat16())


def test_timesteps_alone_under_a_shift_are_warned_of(caplog) -> None:
    with caplog.at_level(logging.WARNING):
        FlowSamplerScheduler(shift=3.0).set_timesteps(timesteps=[1000.0, 500.0])
    assert "timesteps without sigmas" in caplog.text


BAD = {
    "rising sigmas": (
        lambda s: FlowSamplerScheduler(shift=3.0).set_timesteps(sigmas=[0.5, 0.7]),
        r"sigmas\[0\]=0\.5, sigmas\[1\]=0\.7: sigmas must fall strictly$",
    ),
    "times of tokens": (
        lambda s: begun(stochastic_sampling=True).step(X1, s.timesteps[0], X1, per_token_timesteps=torch.ones(4, 6)),
        "only sampler='euler' without stochastic_sampling",
    ),
    "adaptive": (lambda s: FlowSamplerScheduler(sampler="dopri5"), "adaptive: it chooses its model calls as it goes"),
    "sampler": (lambda s: FlowSamplerScheduler(sampler="huen"), "unknown sampler 'huen': did you mean 'heun'"),
    "sampler option": (
        lambda s: FlowSamplerScheduler(sampler="ab2", sampler_options={"lst": "euler"}),
        "unknown option of AdamsBashforth2 'lst'",
    ),
    "option of the sampler": (
        lambda s: FlowSamplerScheduler.from_config(s.config, sampler="ab2", last="midpoint"),
        r"unknown option 'last'.*sampler_options=\{'last': \.\.\.\}",
    ),
    "carry of half": (lambda s: FlowSamplerScheduler(carry="bfloat16"), "unknown carry 'bfloat16'"),
    "two re-spacings": (lambda s: FlowSamplerScheduler(use_karras_sigmas=True, use_beta_sigmas=True), "only one re-spacing"),
    "noise of stock": (lambda s: FlowSamplerScheduler(sampler="heun", stochastic_sampling=True), "excludes sampler='heun'"),
    "no mu": (lambda s: FlowSamplerScheduler(use_dynamic_shifting=True).set_timesteps(4), "mu=None"),
    "no steps": (lambda s: s.set_timesteps(0), "steps=0: a schedule needs at least 1 step"),
    "a place for a time": (lambda s: s.step(X1, 3, X1), r"timestep=3: pass an entry of scheduler\.timesteps"),
    "churn": (lambda s: s.step(X1, s.timesteps[0], X1, s_churn=0.5), r"s_churn=0\.5: no sampler here honours it"),
    "another time": (
        lambda s: s.step(X1, torch.tensor(500.0), X1),
        "timestep=500.0: not in the schedule, whose nearest entry is 550",
    ),
    "negative begin": (lambda s: s.set_begin_index(-1), "begin_index=-1"),
    "nan time": (lambda s: s.step(X1, float("nan"), X1), "timestep=nan"),
    "nan tensor time": (lambda s: s.step(X1, torch.tensor(torch.nan), X1), "timestep=nan"),
    "complex velocity": (lambda s: s.step(X1 * 1j, s.timesteps[0], X1), "model_output of dtype torch.complex64"),
    "integer velocity": (lambda s: s.step(X1.long(), s.timesteps[0], X1), "model_output of dtype torch.int64"),
    "integer sample": (lambda s: s.step(X1, s.timesteps[0], X1.long()), "sample of dtype torch.int64"),
    "another shape": (lambda s: s.step(X1[:, :3], s.timesteps[0], X1), r"model_output of shape \(4, 3\)"),
    "seed of text": (lambda s: FlowSamplerScheduler(sampler="lcm", seed="12"), "seed='12'"),
    "seed of 65 bits": (
        lambda s: FlowSamplerScheduler(sampler="lcm", seed=2**64),
        "seed=18446744073709551616.*at most 64 bits",
    ),
    "seed of a float": (lambda s: FlowSamplerScheduler(sampler="lcm", seed=1.5), "seed=1.5"),
    "check": (lambda s: FlowSamplerScheduler(check="finit"), "unknown check 'finit'"),
    "carry": (lambda s: FlowSamplerScheduler(carry=torch.int64), "unknown carry"),
    "carry list": (lambda s: FlowSamplerScheduler(carry=["float32"]), "unknown carry"),
    "key": (lambda s: FlowSamplerScheduler.from_config({"shfit": 3.0}), "unknown key 'shfit', did you mean 'shift'"),
    "sampler key": (lambda s: FlowSamplerScheduler.from_config({"sampler_option": {}}), "did you mean 'sampler_options'"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_named(case) -> None:
    act, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        act(begun())


def test_seeds_of_numpy_are_integers() -> None:
    assert FlowSamplerScheduler(seed=np.int64(3)).config.seed == 3
    assert FlowSamplerScheduler(seed=np.array([3, 4])).config.seed == [3, 4]
