"""Samplers beside their formulas, written out as papers and programs have them. In float64, to 1e-12."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

import flowsamplers as fs
from fields import IRREGULAR, at, lam, smooth, start
from flowsamplers.samplers import EulerSDE, Renoise

INSIDE = (0.95, 0.83, 0.6, 0.52, 0.3, 0.1)
TO_DATA = (*INSIDE, 0.0)


def ours(name: str, sigmas: tuple[float, ...] = IRREGULAR.sigmas, **options: object) -> Tensor:
    return fs.sample(smooth, start(), fs.SigmaGrid(sigmas), fs.get_sampler(name, **options), seed=fs.KeyedNoise(2))


def same(a: Tensor, b: Tensor) -> None:
    assert (a - b).abs().max() <= 1e-12 * b.abs().max()


@pytest.mark.parametrize("variable", ["lambda", "neg_log_sigma"])
def test_dpm_solver_pp_1_is_eulers_step_in_both_variables(variable: str) -> None:
    r"""$x' = \frac{\sigma'}{\sigma} x - \alpha'(e^{-h} - 1) D$, with $\alpha' = 1$ in $-\log\sigma$."""
    x = start()
    for s, t in pairwise(INSIDE):
        h, alpha = (lam(t) - lam(s), 1 - t) if variable == "lambda" else (math.log(s / t), 1.0)
        x = t / s * x - alpha * math.expm1(-h) * (x - s * at(x, s))
    same(ours("dpmpp_1", INSIDE), x)


def test_fireflow_is_its_loop() -> None:
    x, before = start(), None
    for s, t in pairwise(IRREGULAR.sigmas):
        before = at(x + (t - s) / 2 * (at(x, s) if before is None else before), s + (t - s) / 2)
        x = x + (t - s) * before
    same(ours("fireflow"), x)


def test_heunpp2_is_comfyuis() -> None:
    """Weights from the sigmas, on three, two and one velocities as the end comes near."""
    x, sigmas = start(), TO_DATA
    for i, (s, t) in enumerate(pairwise(sigmas)):
        v, h = at(x, s), t - s
        if i == len(sigmas) - 2:
            x = x + h * v
            continue
        y = x + h * v
        v2 = at(y, t)
        if i == len(sigmas) - 3:
            w2 = t / (2 * sigmas[0])
            x = x + h * ((1 - w2) * v + w2 * v2)
            continue
        u = sigmas[i + 2]
        v3, w2, w3 = at(y + (u - t) * v2, u), t / (3 * sigmas[0]), u / (3 * sigmas[0])
        x = x + h * ((1 - w2 - w3) * v + w2 * v2 + w3 * v3)
    same(ours("heunpp2", TO_DATA), x)


def lagrange(nodes: list[float], j: int, u: float) -> float:
    return math.prod((u - n) / (nodes[j] - n) for k, n in enumerate(nodes) if k != j)


@pytest.mark.parametrize("name", ["lms", "ipndm_v", "lms3", "deis_rhoab3"])
def test_lms_and_its_relatives_integrate_lagranges_polynomials(name: str) -> None:
    """k-diffusion's LMS by scipy's quadrature; the last step to 0 is Euler's."""
    memory = 3 if name.endswith("3") else 4
    x, past = start(), list[tuple[float, Tensor]]()
    options = {} if memory == 4 else {"startup": "ramp", "last": "euler"}
    for s, t in pairwise(TO_DATA):
        past = [(s, at(x, s)), *past][: memory if t > 0 else 1]
        nodes = [n for n, _ in past]
        x = x + sum(
            (quad(lambda u, j=j, n=nodes: lagrange(n, j, u), s, t, epsabs=1e-15)[0] * v for j, (_, v) in enumerate(past)),
            torch.zeros_like(x),
        )
    same(ours(name, TO_DATA, **options), x)


def test_res_2s_is_its_formula_in_minus_log_sigma() -> None:
    r"""$\varphi_1 = (1 - e^{-h})/h$, $\varphi_2 = (1 - \varphi_1)/h$; $b_2 = \varphi_2 / c_2$."""
    x, c2 = start(), 0.5
    for s, t in pairwise(INSIDE):
        h = math.log(s / t)
        m = s * math.exp(-c2 * h)
        d = x - s * at(x, s)
        y = m / s * x + (1 - m / s) * d
        d2 = y - m * at(y, m)
        phi1 = -math.expm1(-h) / h
        b2 = (1 - phi1) / h / c2
        x = t / s * x + h * ((phi1 - b2) * d + b2 * d2)
    same(ours("res_2s", INSIDE), x)


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.5, 1.0])
def test_cps_is_its_formula_and_at_1_lcm(eta: float) -> None:
    r"""Flow-CPS: $x' = (1 - \sigma') D + \sigma' \cos\frac{\eta\pi}{2}\,\hat\epsilon + \sigma' \sin\frac{\eta\pi}{2}\,\xi$."""
    x, noise = start(), fs.KeyedNoise(2)
    for i, (s, t) in enumerate(pairwise(IRREGULAR.sigmas)):
        v = at(x, s)
        data, eps = x - s * v, x + (1 - s) * v
        kept, fresh = math.cos(eta * math.pi / 2), math.sin(eta * math.pi / 2)
        x = (1 - t) * data + t * (kept * eps + fresh * noise(x, i, 0))
    same(ours("cps", eta=eta), x)
    if eta == 1:
        same(ours("lcm"), x)


RULES = {
    "hard": (lambda s, t, eta: eta, lambda eta: Renoise(2 / math.pi * math.asin(eta))),
    "exp": (lambda s, t, eta: math.sqrt(1 - (t / s) ** (2 * eta)), lambda eta: EulerSDE(eta, rule="linear")),
}
"""RES4LYF's noise modes that are a sampler here: q / sigma', and the sampler."""


@pytest.mark.parametrize("mode", RULES)
def test_two_noise_modes_of_res4lyf_are_rules_here(mode: str) -> None:
    share, sampler = RULES[mode]
    for s, t in ((1.0, 0.7), (0.6, 0.2), (0.3, 0.29)):
        for eta in (0.2, 0.5):
            kept, fresh = sampler(eta).shares(s, t)
            assert fresh == pytest.approx(share(s, t, eta), rel=1e-12)
            assert kept**2 + fresh**2 == pytest.approx(1, rel=1e-12)


def test_the_score_form_of_flow_grpo_is_the_drift_and_the_exact_step_is_its_limit() -> None:
    r"""$x(1 + \frac{g^2}{2\sigma}h) + v(1 + \frac{g^2(1 - \sigma)}{2\sigma})h$; for a small step the exact one has the same mean."""
    s, h = 0.6, -1e-5
    x, v = start(), at(start(), s)
    (step,) = fs.sampler.steps_of(fs.SigmaGrid([s, s + h]))
    sde = fs.get_sampler("flow_sde", eta=0.4)
    g2 = sde.sde.squared(s)
    mean, std = sde.transition(x, v, step)
    same(mean, x * (1 + g2 / (2 * s) * h) + v * (1 + g2 * (1 - s) / (2 * s)) * h)
    exact, size = EulerSDE(0.4).transition(x, v, step)
    assert (mean - exact).abs().max() <= 20 * h**2
    assert std == pytest.approx(math.sqrt(g2 * -h), rel=1e-12)
    assert size == pytest.approx(std, rel=1e-4)
