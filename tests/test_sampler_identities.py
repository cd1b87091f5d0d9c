"""Identities: methods under several names are one map, and say so by an alias, a preset or the same options. In float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import flowsamplers as fs
from fields import IRREGULAR, smooth, start

INSIDE = fs.SigmaGrid([0.95, 0.83, 0.6, 0.52, 0.3, 0.1])
EXACT = 1e-12


def run(sampler: str, grid: fs.SigmaGrid, **options: Any) -> Tensor:
    return fs.sample(smooth, start(), grid, fs.get_sampler(sampler, **options))


def at(x: Tensor, sigma: float) -> Tensor:
    return smooth(x, torch.full((len(x),), sigma, dtype=x.dtype))


def same(a: Tensor, b: Tensor) -> None:
    assert (a - b).abs().max() <= EXACT * b.abs().max()


def test_names_of_one_map_are_aliases() -> None:
    for name, alias in (
        ("euler", "ddim"),
        ("euler", "dpmpp_1"),
        ("midpoint", "rf_solver"),
        ("res_2m", "res_multistep"),
        ("dpmpp_2s", "seeds_2_ode"),
    ):
        assert fs.get_sampler(alias) == fs.get_sampler(name)


def test_ddim_written_in_data_and_noise_is_eulers_step() -> None:
    x = start()
    for s, t in zip(IRREGULAR.sigmas, IRREGULAR.sigmas[1:], strict=False):
        v = at(x, s)
        x = (1 - t) * (x - s * v) + t * (x + (1 - s) * v)
    same(run("ddim", IRREGULAR), x)


def test_rf_solvers_taylor_step_is_the_midpoint_rule() -> None:
    x = start()
    for s, t in zip(IRREGULAR.sigmas, IRREGULAR.sigmas[1:], strict=False):
        h, v = t - s, at(x, s)
        slope = (at(x + h / 2 * v, s + h / 2) - v) / (h / 2)
        x = x + h * v + h**2 / 2 * slope
    same(run("rf_solver", IRREGULAR), x)


@pytest.mark.parametrize("steps", [4, 9])
def test_gradient_estimation_at_three_halves_is_ipndm_2_and_adams_bashforth_2_on_a_uniform_grid(steps: int) -> None:
    grid = fs.schedules.linear(steps)
    same(run("gradient_estimation", grid, gamma=1.5), run("ab2", grid, last="euler"))
    same(run("ipndm2", grid), run("ab2", grid, last="euler"))


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
    for s, t in zip(INSIDE.sigmas, INSIDE.sigmas[1:], strict=False):
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
    options = {"startup": "heun", "variable": "lambda"}
    same(run(unipc, IRREGULAR, solve="full", corrector=False, **options), run(res, IRREGULAR, **options))


def test_dpmpp_3m_with_kappa_2_is_res_3m() -> None:
    options = {"startup": "kutta3", "variable": "lambda"}
    grid = fs.SigmaGrid([0.9, 0.7, 0.45, 0.2, 0.05])
    # both have one step of order 2 between start-up and memory: take that from the same method by comparing what follows
    a, b = (
        fs.trace(smooth, start(), grid, fs.get_sampler(n, **o, **options))
        for n, o in (("dpmpp_3m", {"kappa": 2.0}), ("res_3m", {}))
    )
    assert (a.states[1] - b.states[1]).abs().max() == 0
    m = fs.samplers.interpolation.moments("data", "lambda", 0.45, 0.2, 3)
    past = (-0.5, -1.0)
    assert fs.get_sampler("dpmpp_3m", kappa=2.0).integrals(0.45, 0.2, past) == fs.get_sampler(
        "res_3m", variable="lambda"
    ).integrals(0.45, 0.2, past)
    assert len(m) == 3


def test_dpmpp_3s_is_res_3s_with_its_nodes() -> None:
    same(run("dpmpp_3s", IRREGULAR), run("res_3s", IRREGULAR, variable="lambda", c2=1 / 3, c3=2 / 3))


def test_exp_heun_2_x0_is_res_2s_with_its_second_stage_at_the_end() -> None:
    x = start()
    for s, t in zip(INSIDE.sigmas, INSIDE.sigmas[1:], strict=False):
        v = at(x, s)
        d0 = x - s * v
        end = x + (t - s) * v
        d1 = end - t * at(end, t)
        h = math.log((1 - t) / t) - math.log((1 - s) / s)
        phi1, phi2 = (1 - math.exp(-h)) / h, (math.exp(-h) - 1 + h) / h**2
        x = t / s * x + (1 - t) * h * ((phi1 - phi2) * d0 + phi2 * d1)
    same(run("exp_heun_2_x0", INSIDE), x)


def test_deis_in_plain_sigma_is_adams_bashforth() -> None:
    """diff-sampler's rhoAB: the same integrals, in sigma."""
    for name, twin in (("deis_rhoab3", "lms3"), ("ipndm_v", "lms")):
        assert fs.get_sampler(name) == fs.get_sampler(twin)


def test_rx_euler_on_a_uniform_grid_is_the_midpoint_rule_with_double_steps() -> None:
    """Richardson extrapolation of two Euler steps against one of double length, with the first velocity used twice."""
    fine, coarse = fs.schedules.linear(8), fs.schedules.linear(4)
    x = start()
    for i in range(0, 8, 2):
        s, h = fine.sigmas[i], -1 / 8
        v = at(x, s)
        middle = x + h * v
        two = middle + h * at(middle, s + h)
        x = 2 * two - (x + 2 * h * v)
    same(run("midpoint", coarse), x)


def test_richardson_of_euler_is_the_midpoint_rule() -> None:
    same(run("richardson", IRREGULAR, base="euler"), run("midpoint", IRREGULAR))


def test_moments_are_phi_functions() -> None:
    r"""In y = -log sigma, $M_k = k!\,h\,\varphi_{k+1}(-h)$; in lambda the same times $1 - \sigma'$."""
    moments, phi = fs.samplers.interpolation.moments, fs.samplers.interpolation.phi
    for s, t in ((0.9, 0.85), (0.9, 0.1), (0.5, 0.499)):
        for variable, h, factor in (
            ("neg_log_sigma", math.log(s / t), 1.0),
            ("lambda", math.log((1 - t) / t) - math.log((1 - s) / s), 1 - t),
        ):
            for k, m in enumerate(moments("data", variable, s, t, 4)):
                assert m == pytest.approx(factor * math.factorial(k) * h * phi(k + 1, h), rel=1e-13, abs=1e-15)
