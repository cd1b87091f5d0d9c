"""Identities: methods under several names are one map, and say so by an alias, a preset or the same options. In float64."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import flowsamplers as fs
from fields import IRREGULAR, at, lam, smooth, start
from flowsamplers.samplers import ButcherTableau, EulerSDE

INSIDE = fs.SigmaGrid([0.95, 0.83, 0.6, 0.52, 0.3, 0.1])
EXACT = 1e-12


def run(sampler: str, grid: fs.SigmaGrid, **options: Any) -> Tensor:
    return fs.sample(smooth, start(), grid, fs.get_sampler(sampler, **options))


def same(a: Tensor, b: Tensor) -> None:
    assert (a - b).abs().max() <= EXACT * b.abs().max()


def test_names_of_one_map_are_aliases() -> None:
    for name, alias in (
        ("euler", "ddim"),
        ("euler", "dpmpp_1"),
        ("midpoint", "rf_solver"),
        ("res_2m", "res_multistep"),
        ("dpmpp_2s", "seeds_2_ode"),
        ("lms3", "deis_rhoab3"),  # diff-sampler's: DEIS in plain sigma
        ("lms", "ipndm_v"),
    ):
        assert fs.get_sampler(alias) == fs.get_sampler(name)


def test_ddim_written_in_data_and_noise_is_eulers_step() -> None:
    x = start()
    for s, t in pairwise(IRREGULAR.sigmas):
        v = at(x, s)
        x = (1 - t) * (x - s * v) + t * (x + (1 - s) * v)
    same(run("ddim", IRREGULAR), x)


def test_rf_solvers_taylor_step_is_the_midpoint_rule() -> None:
    x = start()
    for s, t in pairwise(IRREGULAR.sigmas):
        h, v = t - s, at(x, s)
        slope = (at(x + h / 2 * v, s + h / 2) - v) / (h / 2)
        x = x + h * v + h**2 / 2 * slope
    same(run("rf_solver", IRREGULAR), x)


@pytest.mark.parametrize("steps", [4, 9])
def test_gradient_estimation_at_three_halves_is_adams_bashforth_2_on_a_uniform_grid(steps: int) -> None:
    grid = fs.schedules.linear(steps)
    same(run("gradient_estimation", grid, gamma=1.5), run("ab2", grid, last="euler"))


@pytest.mark.parametrize("memory", [2, 3, 4])
def test_adams_bashforth_on_a_uniform_grid_has_the_classical_weights(memory: int) -> None:
    weights = {2: (3, -1), 3: (23, -16, 5), 4: (55, -59, 37, -9)}[memory]
    grid, h = fs.schedules.linear(7), -1 / 7
    states = fs.trace(smooth, start(), grid, f"ab{memory}").states
    v = [at(x, s) for x, s in zip(states, grid.sigmas, strict=True)]
    for i in range(memory, 7):
        step = sum(w * v[i - j] for j, w in enumerate(weights)) / sum(weights)
        same(states[i + 1], states[i] + h * step)


def test_res_multistep_is_dpmpp_2m_with_the_correction_integrated() -> None:
    """ComfyUI's form: phi functions in -log sigma."""
    x, before = start(), None
    for s, t in pairwise(INSIDE.sigmas):
        d, h = x - s * at(x, s), math.log(s / t)
        new = t / s * x + (1 - t / s) * d
        if before is not None:
            d1, h1 = before
            new = new + ((math.exp(-h) - 1) / h + 1) / (h1 / h) * (d - d1)
        x, before = new, (d, h)
    same(run("res_multistep", INSIDE), x)


@pytest.mark.parametrize("variable", ["lambda", "neg_log_sigma", "sigma"])
def test_unipc_without_its_corrector_is_dpmpp_2m(variable: str) -> None:
    same(run("unipc", IRREGULAR, corrector=False, variable=variable), run("dpmpp_2m", IRREGULAR, variable=variable))


@pytest.mark.parametrize("name", ["unipc", "unipc_3"])
def test_with_full_solves_bh1_is_bh2(name: str) -> None:
    same(run(name, IRREGULAR, solve="full", base="bh1"), run(name, IRREGULAR, solve="full", base="bh2"))


@pytest.mark.parametrize(("unipc", "res"), [("unipc", "res_2m"), ("unipc_3", "res_3m")])
def test_the_full_predictor_of_unipc_is_the_exponential_adams_method(unipc: str, res: str) -> None:
    """UniPC lowers its order before the step to 0, as diffusers does."""
    options = {"startup": "heun", "variable": "lambda"}
    grid = INSIDE if unipc == "unipc_3" else IRREGULAR
    same(run(unipc, grid, solve="full", corrector=False, **options), run(res, grid, **options))


def test_dpmpp_3m_with_kappa_2_is_res_3m() -> None:
    options = {"startup": "kutta3", "variable": "lambda"}
    grid = fs.SigmaGrid([0.9, 0.7, 0.45, 0.2, 0.05])
    # both have one step of order 2 between start-up and memory: take that from the same method by comparing what follows
    a, b = (
        fs.trace(smooth, start(), grid, fs.get_sampler(n, **o, **options))
        for n, o in (("dpmpp_3m", {"kappa": 2.0}), ("res_3m", {}))
    )
    assert (a.states[1] - b.states[1]).abs().max() == 0
    third, res = fs.get_sampler("dpmpp_3m", kappa=2.0), fs.get_sampler("res_3m", variable="lambda")
    assert third.integrals("lambda", 0.45, 0.2, (-0.5, -1.0)) == res.integrals("lambda", 0.45, 0.2, (-0.5, -1.0))


def test_dpmpp_3s_is_res_3s_with_its_nodes() -> None:
    same(run("dpmpp_3s", IRREGULAR), run("res_3s", IRREGULAR, variable="lambda", c2=1 / 3, c3=2 / 3))


def test_exp_heun_2_x0_is_res_2s_with_its_second_stage_at_the_end() -> None:
    x = start()
    for s, t in pairwise(INSIDE.sigmas):
        v = at(x, s)
        d0 = x - s * v
        end = x + (t - s) * v
        d1 = end - t * at(end, t)
        h = lam(t) - lam(s)
        phi1, phi2 = (1 - math.exp(-h)) / h, (math.exp(-h) - 1 + h) / h**2
        x = t / s * x + (1 - t) * h * ((phi1 - phi2) * d0 + phi2 * d1)
    same(run("exp_heun_2_x0", INSIDE), x)


def test_richardson_of_euler_is_the_midpoint_rule() -> None:
    same(run("richardson", IRREGULAR, base="euler"), run("midpoint", IRREGULAR))


def test_moments_are_phi_functions() -> None:
    r"""In y = -log sigma, $M_k = k!\,h\,\varphi_{k+1}(-h)$; in lambda the same times $1 - \sigma'$."""
    moments, phi = fs.samplers.interpolation.moments, fs.samplers.interpolation.phi
    for s, t in ((0.9, 0.85), (0.9, 0.1), (0.5, 0.499)):
        for variable, h, factor in (
            ("neg_log_sigma", math.log(s / t), 1.0),
            ("lambda", lam(t) - lam(s), 1 - t),
        ):
            for k, m in enumerate(moments("data", variable, s, t, 4)):
                assert m == pytest.approx(factor * math.factorial(k) * h * phi(k + 1, h), rel=1e-13, abs=1e-15)


def test_rx_euler_on_any_grid_is_the_two_stage_method_with_its_node_where_the_first_step_ends() -> None:
    """RX-DPM's factor is (h1² + h2²) / (h1 + h2)²; what comes out has c = h1 / (h1 + h2) and b2 = 1 / (2 c): midpoint on equal steps."""
    nodes = IRREGULAR.sigmas
    x = start()
    for a, m, b in zip(nodes[::2], nodes[1::2], nodes[2::2], strict=False):
        h1, h2 = m - a, b - m
        v = at(x, a)
        middle = x + h1 * v
        fine, coarse = middle + h2 * at(middle, m), x + (h1 + h2) * v
        kappa = (h1**2 + h2**2) / (h1 + h2) ** 2
        c = h1 / (h1 + h2)
        method = ButcherTableau(a=((), (c,)), b=(1 - 1 / (2 * c), 1 / (2 * c)), order=2)
        same(run_tableau(method, x, a, b), (fine - kappa * coarse) / (1 - kappa))
        x = run_tableau(method, x, a, b)


def run_tableau(method: ButcherTableau, x: Tensor, s: float, t: float) -> Tensor:
    k: list[Tensor] = []
    for row, c in zip(method.a, method.c, strict=True):
        k.append(at(x + (t - s) * sum((w * v for w, v in zip(row, k, strict=True)), torch.zeros_like(x)), s + c * (t - s)))
    return x + (t - s) * sum((w * v for w, v in zip(method.b, k, strict=True)), torch.zeros_like(x))


@pytest.mark.parametrize(("name", "order"), [("stork2", 2), ("stork4", 3)])
def test_stork_with_its_coefficients_corrected_is_taylors_polynomial_of_the_last_velocities(name: str, order: int) -> None:
    """Its inner stages see x + h v + h²/2 v' + h³/6 v'' alone, with the derivatives of the parabola through three velocities."""
    states = fs.trace(smooth, start(), IRREGULAR, name).states
    v = [at(x, s) for x, s in zip(states, IRREGULAR.sigmas, strict=True)]
    for i in range(order, IRREGULAR.steps):
        s2, s1, s0, t = IRREGULAR.sigmas[i - 2 : i + 2]
        h, first = t - s0, (v[i] - v[i - 1]) / (s0 - s1)
        second = 2 * (first - (v[i - 1] - v[i - 2]) / (s1 - s2)) / (s0 - s2) if order == 3 else torch.zeros_like(first)
        slope = first + second / 2 * (s0 - s1)
        same(states[i + 1], states[i] + h * v[i] + h**2 / 2 * slope + h**3 / 6 * second)


@pytest.mark.parametrize("memory", [2, 3, 4])
def test_ipndm_is_adams_bashforth_on_a_uniform_grid_and_only_there(memory: int) -> None:
    uniform = fs.schedules.linear(7)
    options = {"max_order": memory} if memory > 2 else {}
    ours, twin = ("ipndm2" if memory == 2 else "ipndm"), f"ab{memory}"
    same(run(ours, uniform, **options), run(twin, uniform, startup="ramp", last="euler"))
    gap = run(ours, IRREGULAR, **options) - run(twin, IRREGULAR, startup="ramp", last="euler")
    assert gap.abs().max() > 1e-3


def test_dpm_2_is_dpm_solver_2_of_k_diffusion() -> None:
    """Its exponential form in -log sigma, with the velocity for its noise prediction."""
    x = start()
    for s, t in pairwise(INSIDE.sigmas):
        h, m = math.log(s / t), math.sqrt(s * t)
        v = at(x, s)
        middle = x - m * math.expm1(h / 2) * v
        x = x - t * math.expm1(h) * v - t * math.expm1(h) * (at(middle, m) - v)
    same(run("dpm_2", INSIDE), x)


def test_the_eta_of_er_sde_sa_solver_and_dpm_solver_is_one_at_first_order() -> None:
    r"""$\eta = \tau^2$: their steps for a constant data prediction."""
    eta, noise = 0.49, fs.KeyedNoise(1)
    samplers = [
        fs.get_sampler("dpmpp_2m_sde", eta=eta),
        fs.get_sampler("sa_solver", tau=0.7, low=0.0, high=1.0, predictor_order=1, corrector_order=0, startup="ramp"),
        fs.get_sampler("er_sde", eta=eta, rule="reverse_time", stages=1, last="method"),
        fs.get_sampler("seeds_2", eta=eta),
        EulerSDE(eta),
    ]
    first = [fs.sample(smooth, start(), fs.SigmaGrid([1.0, 0.6]), s, seed=noise) for s in samplers]
    for other in first[1:]:
        same(other, first[0])
    alone = [fs.sample(smooth, start(), IRREGULAR, s, seed=noise) for s in (*samplers[1:3], samplers[-1])]
    same(alone[0], alone[1])
    same(alone[0], alone[2])


def test_dpmpp_2m_sde_heun_is_the_stochastic_exponential_adams_method() -> None:
    """RES with its phi functions at the rate 1 + eta, and exact noise."""
    phi = fs.samplers.interpolation.phi
    noise, eta, x, before = fs.KeyedNoise(5), 0.8, start(), None
    for i, (s, t) in enumerate(pairwise(INSIDE.sigmas)):
        d, h = x - s * at(x, s), lam(t) - lam(s)
        z = (1 + eta) * h
        new = t / s * math.exp(-eta * h) * x + (1 - t) * z * phi(1, z) * d
        if before is not None:
            d1, h1 = before
            new = new + (1 - t) * z * phi(2, z) * (d - d1) * h / h1
        x, before = new + t * math.sqrt(-math.expm1(-2 * eta * h)) * noise(x, i, 0), (d, h)
    ours = fs.sample(smooth, start(), INSIDE, fs.get_sampler("dpmpp_2m_sde", eta=eta, correction="heun"), seed=noise)
    same(ours, x)
