"""The mathematics of the samplers: exactness, orders, identities, parity with independent implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import flowsamplers as fs
from fields import DETERMINISTIC, EVERY_VARIANT, IRREGULAR, every_variant, smooth, start
from flowsamplers.flows import MixtureFlow
from flowsamplers.orders import order
from flowsamplers.samplers import ButcherTableau

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
GRIDS = st.lists(st.floats(2**-20, 1), min_size=1, max_size=30, unique=True).map(
    lambda nodes: fs.SigmaGrid([*sorted(nodes, reverse=True), 0.0])
)


def quiet(sampler: fs.Sampler) -> fs.Sampler:
    """The ODE twin of a stochastic sampler."""
    return fs.get_sampler(sampler, eta=0.0) if sampler.stochastic else sampler


@every_variant
@given(grid=GRIDS, dtype=st.sampled_from(DTYPES), value=st.floats(-4, 4, width=16))
def test_the_dt_that_are_applied_sum_to_end_minus_start(
    sampler: fs.Sampler, grid: fs.SigmaGrid, dtype: torch.dtype, value: float
) -> None:
    """A constant velocity c must carry x to x + (end - start) c: the headline law, in every dtype of the model."""
    x1 = torch.zeros(1, 1, dtype=dtype)
    velocity = torch.full((1, 1), value, dtype=dtype)
    run = fs.trace(lambda x, sigma: velocity, x1, grid, quiet(sampler), seed=0)
    exact = (grid.end - grid.start) * velocity.double().item()
    # The state is carried in float32 or better: each step rounds numbers of the size of x and v a few times.
    eps = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    weights = (
        8
        if "last" not in sampler.options
        else 8 * max(1.0, *(abs(b / a) for a, b in zip(grid.dt, grid.dt[1:], strict=False)), 1.0)
    )
    assert abs(run.states[-1].double().item() - exact) <= weights * grid.steps * eps * max(abs(value), 1e-30)


@every_variant
def test_straight_paths_are_exact_in_one_step(sampler: fs.Sampler) -> None:
    """One data point: every path is a straight line to it, and v = (x - x0) / sigma stays constant along each."""
    data = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    x1 = start(rows=4, dim=3)

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        s = sigma[:, None]
        return torch.where(s > 0, (x - data) / s.clamp(min=1e-300), x1 - data)

    for grid in (fs.SigmaGrid([1.0, 0.0]), IRREGULAR):
        x0 = fs.sample(velocity, x1, grid, quiet(sampler), seed=0)
        assert torch.allclose(x0, data.expand_as(x0), atol=64 * grid.steps * np.finfo(float).eps, rtol=0)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_polynomials_in_sigma_are_integrated_exactly_up_to_the_order(name: str) -> None:
    """v = (p) sigma^(p - 1) integrates to the difference of sigma^p; for multistep methods on uniform grids after the start."""
    if name == "dpmpp_2m":
        pytest.skip("interpolates the data prediction in lambda, not the velocity in sigma")
    info = fs.sampler_info(name)
    exact_from_the_start = "last" not in info.options or name == "fireflow"
    for p in range(1, info.order + 1):
        grid = fs.schedules.linear(4) if exact_from_the_start else fs.SigmaGrid([1.0, 0.75, 0.5])
        x0 = fs.sample(lambda x, s, p=p: p * s[:, None] ** (p - 1), torch.ones(1, 1, dtype=torch.float64), grid, name)
        if exact_from_the_start or p == 1:
            assert abs(x0.item() - grid.end**p) <= 1e-15 * 8


# Orders


def slopes(sampler: fs.SamplerLike, flow: MixtureFlow, make, steps: list[int], truth: Tensor, x1: Tensor) -> list[float]:
    return [((fs.sample(flow.velocity, x1, make(n), sampler) - truth).norm() / truth.norm()).item() for n in steps]


FLOWS = {"appendix-a": MixtureFlow.appendix_a(), "anisotropic": MixtureFlow.random(3)}
MAKERS = {"uniform": fs.schedules.linear, "shift-3": lambda n: fs.schedules.shift(n, shift=3.0)}


@pytest.mark.parametrize("grid", MAKERS)
@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("name", [n for n in DETERMINISTIC if n != "dpmpp_2m"])
def test_observed_order_is_the_declared_one(name: str, flow: str, grid: str) -> None:
    field = FLOWS[flow]
    x1 = field.noise(list(range(8)))
    truth = field.solution(x1)
    declared = fs.sampler_info(name).order
    steps = [64, 128, 256, 512] if declared == 1 else [32, 64, 128, 256, 512] if declared == 2 else [16, 32, 64, 128, 256]
    errors = slopes(name, field, MAKERS[grid], steps, truth, x1)
    verdict = order(steps, errors, declared=declared, floor=1e-13)
    assert verdict.order is not None, (errors, verdict)
    assert abs(verdict.order - declared) <= 0.15, (verdict, errors)


@pytest.mark.parametrize("variable", ["lambda", "neg_log_sigma"])
def test_dpmpp_2m_has_order_2_where_its_steps_in_lambda_are_finite(variable: str) -> None:
    """Between sigma 0.95 and 0.05; the infinite last step to 0 costs order on full grids, see its docstring."""
    field = FLOWS["appendix-a"]
    x = field.noise(list(range(8)))
    truth = field.solution(x, 0.95, 0.05)
    steps = [64, 128, 256, 512]
    sampler = fs.get_sampler("dpmpp_2m", variable=variable)
    errors = slopes(sampler, field, lambda n: fs.SigmaGrid(np.linspace(0.95, 0.05, n + 1)), steps, truth, x)
    verdict = order(steps, errors, declared=2)
    assert verdict.order == pytest.approx(2.0, abs=0.15)


# Identities: two names for one map are an alias; two classes for one map would be a copy


def test_eta_0_is_eulers_method() -> None:
    x1 = start()
    a = fs.sample(smooth, x1, IRREGULAR, fs.get_sampler("lcm", eta=0.0), seed=0)
    assert torch.allclose(a, fs.sample(smooth, x1, IRREGULAR, "euler"), atol=1e-14, rtol=0)


def test_ab2_on_a_uniform_grid_has_the_classical_weights() -> None:
    x1, grid = start(), fs.schedules.linear(5)
    x, before, h = x1, None, -0.2
    for s in (1.0, 0.8, 0.6, 0.4, 0.2):
        v = smooth(x, torch.full((3,), s, dtype=x.dtype))
        x, before = x + h * (v if before is None else 1.5 * v - 0.5 * before), v
    assert torch.allclose(fs.sample(smooth, x1, grid, "ab2"), x, atol=1e-14, rtol=0)


def test_one_step_of_every_multistep_method_without_a_past_is_eulers_or_the_midpoint_rule() -> None:
    x1, grid = start(), fs.SigmaGrid([0.8, 0.3])
    for name, twin in (("ab2", "euler"), ("dpmpp_2m", "euler"), ("fireflow", "midpoint")):
        assert torch.equal(fs.sample(smooth, x1, grid, name), fs.sample(smooth, x1, grid, twin))


def test_the_last_policy_changes_nothing_but_the_last_step() -> None:
    x1 = start()
    for name in ("ab2", "fireflow", "dpmpp_2m"):
        plain = fs.trace(smooth, x1, IRREGULAR, name)
        for last in ("euler", "midpoint", "rk4"):
            changed = fs.trace(smooth, x1, IRREGULAR, fs.get_sampler(name, last=last))
            assert all(torch.equal(a, b) for a, b in zip(plain.states[:-1], changed.states[:-1], strict=True))
            alone = fs.sample(smooth, plain.states[-2], fs.SigmaGrid(IRREGULAR.sigmas[-2:]), last)
            assert torch.equal(changed.x0, alone)


def test_lcm_is_flow_match_eulers_re_noise() -> None:
    x1, noise = start(), fs.KeyedNoise(3)
    x = x1
    for i, (s, t) in enumerate(zip(IRREGULAR.sigmas, IRREGULAR.sigmas[1:], strict=False)):
        data = x - s * smooth(x, torch.full((3,), s, dtype=x.dtype))
        x = (1 - t) * data + t * noise(x, i, 0)
    assert torch.allclose(fs.sample(smooth, x1, IRREGULAR, "lcm", seed=3), x, atol=1e-14, rtol=0)


# Independent references


def test_one_step_methods_equal_torchdiffeqs() -> None:
    torchdiffeq = pytest.importorskip("torchdiffeq")
    x1 = start()
    times = torch.tensor(IRREGULAR.sigmas, dtype=torch.float64)

    def field(s: Tensor, x: Tensor) -> Tensor:
        return smooth(x, s.expand(3))

    for name, theirs in (("midpoint", "midpoint"), ("euler", "euler"), ("heun", "heun2")):
        reference = torchdiffeq.odeint(field, x1, times, method=theirs)[-1]
        assert torch.allclose(fs.sample(smooth, x1, IRREGULAR, name), reference, atol=1e-13, rtol=0), name


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_dpmpp_2m_equals_diffusers_in_the_interior() -> None:
    """DPMSolverMultistep on the same nodes and exact times; both drop the correction on the step to 0."""
    diffusers = pytest.importorskip("diffusers")
    sigmas = [0.95, 0.8, 0.6, 0.35, 0.15, 0.0]
    scheduler = diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", solver_order=2)
    scheduler.set_timesteps(5)
    scheduler.sigmas = torch.tensor(sigmas, dtype=torch.float64)
    scheduler.timesteps = scheduler.sigmas[:-1] * 1000
    scheduler.set_begin_index(0)
    x = x1 = start()
    for i, t in enumerate(scheduler.timesteps):
        v = smooth(x, torch.full((3,), sigmas[i], dtype=x.dtype))
        x = scheduler.step(v, t, x, return_dict=False)[0]
    # diffusers casts the state to float32 within a step
    assert torch.allclose(fs.sample(smooth, x1, fs.SigmaGrid(sigmas), "dpmpp_2m"), x.double(), atol=2e-6, rtol=0)


def test_rk4_equals_a_textbook_loop() -> None:
    x = x1 = start()
    for s, t in zip(IRREGULAR.sigmas, IRREGULAR.sigmas[1:], strict=False):
        h = t - s
        k = [smooth(x, torch.full((3,), s, dtype=x.dtype))]
        k.append(smooth(x + h / 2 * k[0], torch.full((3,), s + h / 2, dtype=x.dtype)))
        k.append(smooth(x + h / 2 * k[1], torch.full((3,), s + h / 2, dtype=x.dtype)))
        k.append(smooth(x + h * k[2], torch.full((3,), t, dtype=x.dtype)))
        x = x + h * (k[0] + 2 * k[1] + 2 * k[2] + k[3]) / 6
    assert torch.allclose(fs.sample(smooth, x1, IRREGULAR, "rk4"), x, atol=1e-14, rtol=0)


# Tableaux and the registry


def test_a_tableau_that_lies_is_refused() -> None:
    with pytest.raises(ValueError, match="order=2: the condition sum b c = 1/2 fails"):
        ButcherTableau(a=((), (0.4,)), b=(0.0, 1.0), order=2)
    with pytest.raises(ValueError, match=r"order=4: the condition sum b \(a c\) = 1/6 fails"):
        ButcherTableau(a=((), (1 / 2,), (0, 1 / 2), (0, 0, 1)), b=(1 / 6, 1 / 6, 1 / 2, 1 / 6), order=4)
    with pytest.raises(ValueError, match=r"a\[1\] has 2 entries"):
        ButcherTableau(a=((), (0.5, 0.5)), b=(0.0, 1.0), order=1)


def test_the_registry_knows_aliases_and_refuses_taken_names() -> None:
    assert fs.get_sampler("rf_solver") == fs.get_sampler("midpoint")
    with pytest.raises(ValueError, match="sampler name 'ddim' is taken by Euler"):

        @fs.register("mine", aliases=("ddim",))
        class Mine(fs.Sampler):
            pass

    assert "mine" not in [i.name for i in fs.list_samplers()]
    with pytest.raises(ValueError, match="is not registered"):
        fs.to_config(type("Unknown", (fs.Sampler,), {})())


@every_variant
def test_every_sampler_survives_the_json_round_trip(sampler: fs.Sampler) -> None:
    assert fs.get_sampler(fs.to_config(sampler)) == sampler
    assert hash(sampler) == hash(fs.get_sampler(fs.to_config(sampler)))


def test_every_sampler_has_a_reference_and_a_docstring() -> None:
    for info in fs.list_samplers():
        assert info.reference
        assert info.summary.endswith(".")
    assert len(EVERY_VARIANT) >= 8


@every_variant
def test_inversion_and_return_meet_to_the_order(sampler: fs.Sampler) -> None:
    """Down and up the same grid: the distance to the start falls like h^p."""
    if sampler.stochastic:
        pytest.skip("noise does not run backwards")
    field = FLOWS["appendix-a"]
    x1 = field.noise([0, 1])
    gaps = []
    for n in (64, 128):
        grid = fs.SigmaGrid(np.linspace(1.0, 0.1, n + 1))
        back = fs.sample(field.velocity, fs.sample(field.velocity, x1, grid, sampler), grid.reversed(), sampler)
        gaps.append((back - x1).norm().item())
    assert math.log2(gaps[0] / gaps[1]) >= sampler.order - 0.35
