"""Stochastic samplers of higher order: exact covariances, limits at both ends, twins without noise, errors that name what is wrong."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import flowsamplers as fs
from fields import IRREGULAR, at, smooth, start
from flowsamplers.flows import GaussianFlow
from flowsamplers.samplers.interpolation import moments, phi
from flowsamplers.samplers.sde import SDE
from flowsamplers.testing.fields import between
from flowsamplers.testing.moments import noise_level_error, variance_ratio

LIMITS = ["er_sde_1", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "er_sde", "er_sde_2", "seeds_2", "seeds_3", "dpm_2_ancestral"]
"""Where it is seen: exp_heun tends to another step of order 1, dpmpp_3m too slowly for float64, and bh1's correction grows with lambda for
ever. SA-Solver and dpmpp_2s_ancestral are ODE methods near pure noise: from sigma = 1 they make a better step than the limit of their
formula."""
STD = 0.5


@pytest.mark.parametrize("name", ["sa_solver", "sa_solver_pece", "sa_solver_diffusers"])
def test_sa_solver_with_noise_on_all_steps_is_as_right_as_the_laws_find_it_with_its_own(name: str) -> None:
    """Exact: a data point's noise level, marginals on complete runs, and the weak order, with three predictions until order 2 shows."""
    sampler = fs.get_sampler(name, low=0.0, high=1.0)
    assert noise_level_error(sampler, fs.SigmaGrid([*IRREGULAR.sigmas[:-1], 0.1])) <= 1e-12
    assert variance_ratio(sampler, fs.schedules.shift(250, shift=3.0), STD) == pytest.approx(1, rel=0.04)
    errors = [abs(variance_ratio(sampler, between(0.9, 0.3, n), STD) - 1) for n in (64, 128, 256)]
    if name == "sa_solver_diffusers":
        assert math.log2(errors[1] / errors[2]) == pytest.approx(2, abs=0.1)
    else:
        assert math.log2(errors[0] / errors[1]) > 2.3
        assert errors[1] < 5e-5


# Limits and twins


@pytest.mark.parametrize("name", LIMITS)
def test_pure_noise_is_a_limit_and_not_a_special_case(name: str) -> None:
    """On a flow, runs along one path started below 1 tend to the one from 1: in lambda as slowly as 1 over its logarithm falls.

    Not so where the second stage stands at the end of the step: there Euler's step is a choice, as for the ODE method.
    """
    sampler, x, noise = fs.get_sampler(name), start(), fs.BrownianNoise(1)
    field = GaussianFlow([0.0] * 5, std=STD).velocity
    exact, *near = (
        fs.sample(field, x, fs.SigmaGrid([1 - gap, 0.9, 0.6, 0.3, 0.0]), sampler, seed=noise) for gap in (0, 1e-3, 1e-12)
    )
    far, close = ((y - exact).abs().max().item() for y in near)
    assert close < far / 2


@pytest.mark.parametrize("name", ["dpmpp_2m_sde", "dpmpp_3m_sde", "er_sde", "seeds_2", "seeds_3", "dpmpp_2s_ancestral"])
def test_the_step_to_0_ends_at_the_data_prediction_whatever_eta(name: str) -> None:
    grid = fs.SigmaGrid([0.8, 0.0])
    x = start()
    data = x - 0.8 * at(x, 0.8)
    for eta in (0.3, 1.0) if name.startswith("seeds") else (0.0, 0.3, 1.0):  # without noise SEEDS makes the ODE method's step
        out = fs.sample(smooth, x, grid, fs.get_sampler(name, eta=eta), seed=0)
        torch.testing.assert_close(out, data, rtol=1e-14, atol=1e-14)


TWINS: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("dpmpp_2m_sde", {"variable": "neg_log_sigma"}, "dpmpp_2m", {"variable": "neg_log_sigma"}),
    ("dpmpp_2m_sde", {"correction": "heun"}, "res_2m", {"variable": "lambda"}),
    ("dpmpp_2m_sde", {"correction": "heun", "variable": "neg_log_sigma"}, "res_multistep", {}),
    ("dpmpp_2m_sde", {"last": "midpoint"}, "dpmpp_2m", {"last": "midpoint"}),
    ("dpmpp_3m_sde", {"kappa": 2.0}, "dpmpp_3m", {"kappa": 2.0}),
    ("seeds_2", {}, "dpmpp_2s", {}),
    ("seeds_2", {"correction": "phi_2", "r": 0.7}, "res_2s", {"variable": "lambda", "c2": 0.7}),
    ("exp_heun_2_x0_sde", {}, "exp_heun_2_x0", {}),
    ("seeds_3", {}, "dpmpp_3s", {}),
    ("er_sde_1", {}, "euler", {}),
    ("er_sde_2", {"last": "method"}, "res_2m", {"variable": "ve_sigma"}),
    ("er_sde", {"form": "polynomial", "startup": "heun", "last": "method"}, "res_3m", {"variable": "ve_sigma"}),
    ("dpm_2_ancestral", {}, "dpm_2", {}),
    ("sa_solver", {"startup": "ramp"}, "unipc_3", {"startup": "ramp", "solve": "full"}),
    ("sa_solver", {"startup": "ramp", "predictor_order": 2, "corrector_order": 3}, "unipc", {"solve": "full"}),
    ("sa_solver", {"predictor_order": 2, "corrector_order": 0, "startup": "ramp"}, "res_2m", {"variable": "lambda"}),
]


@pytest.mark.parametrize(("name", "chosen", "twin", "its"), TWINS)
def test_without_noise_it_is_an_ode_sampler(name: str, chosen: dict[str, Any], twin: str, its: dict[str, Any]) -> None:
    sampler = fs.get_sampler(name, **chosen)
    still = fs.get_sampler(sampler, **{sampler.noise_option: 0.0})
    a, b = (fs.sample(smooth, start(), IRREGULAR, s, seed=0) for s in (still, fs.get_sampler(twin, **its)))
    assert (a - b).abs().max() <= 1e-12 * b.abs().max()


def test_er_sde_with_the_reverse_time_rule_and_two_stages_is_dpmpp_2m_sde_heun_in_another_variable() -> None:
    a = fs.get_sampler("er_sde_2", rule="reverse_time", eta=0.6, last="method")
    b = fs.get_sampler("dpmpp_2m_sde", correction="heun", variable="ve_sigma", eta=0.6)
    x, y = (fs.sample(smooth, start(), IRREGULAR, s, seed=0) for s in (a, b))
    assert torch.equal(x, y)


# The kernel


@pytest.mark.parametrize("eta", [0.3, 1.0, 4.0])
@pytest.mark.parametrize(("s", "t"), [(0.9, 0.85), (0.9, 0.1), (0.5, 0.499), (0.999, 0.001)])
def test_moments_at_the_rate_1_plus_eta_are_phi_functions(s: float, t: float, eta: float) -> None:
    z = (1 + eta) * (math.log((1 - t) / t) - math.log((1 - s) / s))
    for k, m in enumerate(moments("data", "lambda", s, t, 4, SDE(eta))):
        assert m == pytest.approx((1 - t) * math.factorial(k) * z * phi(k + 1, z), rel=1e-13)


@pytest.mark.parametrize("rule", ["reverse_time", "er_sde"])
@pytest.mark.parametrize("variable", ["neg_log_sigma", "sigma", "ve_sigma"])
def test_the_kernel_of_a_constant_is_what_the_first_order_step_gives_the_data(variable: str, rule: Any) -> None:
    r"""$M_0 = \alpha'(1 - \frac{\rho'}{\rho} e^{-G})$, also from sigma 1 where the variable has a value there."""
    sde = SDE(0.7, rule)
    for s, t in ((0.9, 0.3), (0.9999, 0.01), (0.4, 0.399), *([] if variable == "ve_sigma" else [(1.0, 0.5)])):
        ratio = (t / (1 - t)) / (s / (1 - s)) if s < 1 else 0.0
        m0 = moments("data", variable, s, t, 1, sde)[0]
        assert m0 == pytest.approx((1 - t) * (1 - ratio * sde.kept(s, t)), rel=1e-12)


def test_the_draws_of_one_step_are_parts_of_one_brownian_path() -> None:
    """The noise of two stages adds up to that of the step, so that samplers with other stages share the path."""
    drawn: list[tuple[Tensor, Any]] = []
    brownian = fs.BrownianNoise(4)

    def record(like: Tensor, step: int, draw: int, interval: Any = None) -> Tensor:
        drawn.append((brownian(like, step, draw, interval), interval))
        return drawn[-1][0]

    for name in ("seeds_2", "seeds_3", "dpmpp_2m_sde"):
        fs.sample(smooth, start(), fs.SigmaGrid([0.8, 0.3]), name, seed=record)
    parts = [z * math.sqrt(interval[1] - interval[0]) for z, interval in drawn]
    torch.testing.assert_close(parts[0] + parts[1], parts[5])
    torch.testing.assert_close(parts[2] + parts[3] + parts[4], parts[5])


# Errors


@pytest.mark.parametrize(
    ("name", "chosen", "message"),
    [
        ("dpmpp_2m_sde", {"eta": -1.0}, "eta=-1.0: accepted is a finite number, at least 0"),
        ("dpmpp_2m_sde", {"correction": "hein"}, "did you mean 'heun'"),
        ("seeds_2", {"r": 0.0}, "r=0.0: accepted is a finite number, above 0 and at most 1"),
        ("seeds_2", {"correction": "phi_3"}, "unknown correction 'phi_3'"),
        ("seeds_3", {"r_1": 0.7, "r_2": 0.5}, "r_1 <= r_2"),
        ("er_sde", {"stages": 4}, "stages=4: ER-SDE-Solver has 1, 2 or 3"),
        ("er_sde", {"form": "ship"}, "did you mean 'shipped'"),
        ("er_sde", {"rule": "er"}, "unknown rule 'er'"),
        ("sa_solver", {"predictor_order": 5}, "predictor_order=5: one of"),
        ("sa_solver", {"low": 0.9, "high": 0.2}, "low <= high"),
        ("sa_solver", {"tau": math.inf}, "tau=inf: accepted is a finite number"),
        ("dpmpp_2s_ancestral", {"eta": 1.5}, "eta=1.5: accepted is a finite number, at least 0 and at most 1"),
        ("dpmpp_2s_ancestral", {"base": "ab2"}, "needs a sampler without memory"),
        ("churn", {"base": "ab2"}, "without memory"),
        ("churn", {"churn": -1.0}, "churn=-1.0"),
        ("restart", {"low": 0.5, "high": 0.4}, "low=0.5, high=0.4"),
        ("euler_ancestral", {"eta": 1.5}, "eta=1.5"),
        ("euler_ancestral", {"s_noise": -1.0}, "s_noise=-1.0"),
        ("ddim_eta", {"eta": -0.1}, "eta=-0.1"),
        ("euler_sde", {"eta": -1.0}, "eta=-1.0"),
        ("flow_sde", {"rule": "linaer"}, "did you mean 'linear'"),
    ],
)
def test_bad_options_are_named(name: str, chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fs.get_sampler(name, **chosen)


@pytest.mark.parametrize(
    "name", ["dpmpp_2m_sde", "seeds_2", "dpmpp_2s_ancestral", "er_sde", "euler_sde", "euler_ancestral", "ddim_eta", "flow_sde"]
)
def test_noise_towards_noise_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"grid from sigma 0\.2 to 0\.8: .* draws noise, and with noise a run goes down"):
        fs.sample(smooth, start(), fs.SigmaGrid([0.2, 0.7, 0.8], rising=True), name, seed=0)
