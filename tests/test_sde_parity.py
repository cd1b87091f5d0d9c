"""Stochastic samplers beside what people run today: the same field, grid and noise, in float64.

diffusers' schedulers draw from `randn_tensor`: it is given the draws that ours make. What is in no package that we install is written
out from its formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any
from unittest import mock

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

import flowsamplers as fs
from fields import at, lam, smooth, start
from test_sampler_parity import FLOW, INSIDE, TO_DATA, ends, stock

diffusers = pytest.importorskip("diffusers")

NOISE = fs.KeyedNoise(3)
EXACT = 1e-12

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]


def ours(name: str, sigmas: tuple[float, ...], **options: Any) -> Tensor:
    return fs.sample(smooth, start(), fs.SigmaGrid(list(sigmas)), fs.get_sampler(name, **options), seed=NOISE)


def with_noise(
    scheduler: Any,
    sigmas: tuple[float, ...],
    noise: Callable[[int], Tensor] | None = None,
    prepare: Callable[[Any], None] = lambda it: None,
) -> Tensor:
    """A stock scheduler on these sigmas, given the i-th draw when it draws for the i-th time; ours by default, one a step."""
    draws = map(noise or (lambda i: NOISE(start(), i, 0)), range(10_000))
    with mock.patch(f"{type(scheduler).__module__}.randn_tensor", side_effect=draws, create=True):
        return stock(scheduler, sigmas, prepare)


def agree(a: Tensor, b: Tensor, bound: float = EXACT) -> None:
    assert (a - b).abs().max() <= bound * b.abs().max()


def inverse(y: float) -> float:
    return 1 / (1 + math.exp(y))


# diffusers


@pytest.mark.parametrize("sigmas", [INSIDE, TO_DATA], ids=["inside", "to-data"])
@pytest.mark.parametrize("kind", ["midpoint", "heun"])
def test_dpmpp_2m_sde_equals_diffusers(kind: str, sigmas: tuple[float, ...]) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        algorithm_type="sde-dpmsolver++", solver_order=2, solver_type=kind, **ends(sigmas), **FLOW
    )
    agree(ours("dpmpp_2m_sde", sigmas, correction=kind), with_noise(scheduler, sigmas))


def third_order(scheduler: str, **options: Any) -> Any:
    cls = getattr(diffusers, scheduler)
    return cls(algorithm_type="sde-dpmsolver++", solver_order=3, **options, **FLOW)


def test_dpmpp_3m_sde_equals_diffusers_but_for_the_sign_of_one_half() -> None:
    r"""Stock's last weight is $\alpha'(\frac{1 - e^{-z} - z}{z^2} - \frac12)$; $+\frac12$ is right: it is too little by $\alpha' d_2$."""
    four = INSIDE[:4]
    scheduler = third_order("DPMSolverMultistepScheduler", solver_type="midpoint", **ends(INSIDE))
    path = fs.trace(smooth, start(), fs.SigmaGrid(list(four)), "dpmpp_3m_sde", seed=NOISE).states
    d2, d1, d0 = (x - s * at(x, s) for x, s in zip(path[:3], four, strict=False))
    h, h1, h2 = (lam(b) - lam(a) for a, b in ((four[2], four[3]), (four[1], four[2]), (four[0], four[1])))
    second = ((d0 - d1) / (h1 / h) - (d1 - d2) / (h2 / h)) / ((h1 + h2) / h)
    agree(path[-1] - (1 - four[3]) * second, with_noise(scheduler, four))


def test_seeds_2_equals_diffusers_singlestep_given_noises_of_one_path() -> None:
    """Theirs makes a step of first order for the stage, and a second one over the whole step: given its noise, it is dpmpp_sde."""
    sigmas = (0.95, 0.7, 0.4, 0.15)
    nodes = [e.sigma for e in fs.dry_run("seeds_2", fs.SigmaGrid(list(sigmas)))]
    scheduler = diffusers.DPMSolverSinglestepScheduler(
        algorithm_type="sde-dpmsolver++", solver_order=2, solver_type="midpoint", **FLOW
    )

    def staged(scheduler: Any) -> None:
        scheduler.order_list = [1, 2] * (len(sigmas) - 1)

    def noise(i: int) -> Tensor:
        s, m, t = nodes[i - i % 2], nodes[i + 1 - i % 2], sigmas[i // 2 + 1]
        first, second = (NOISE(start(), i // 2, draw) for draw in (0, 1))
        if i % 2 == 0:
            return first
        late, all_of_it = lam(t) - lam(m), lam(t) - lam(s)
        early = math.sqrt(-math.expm1(-2 * (all_of_it - late)))
        both = math.exp(-late) * early * first + math.sqrt(-math.expm1(-2 * late)) * second
        return both / math.sqrt(-math.expm1(-2 * all_of_it))

    agree(ours("seeds_2", sigmas), with_noise(scheduler, (*nodes, sigmas[-1]), noise, staged))


def one_tau(t: Any) -> float:
    return 0.8


@pytest.mark.parametrize("tau", [None, one_tau], ids=["stock", "constant"])
@pytest.mark.parametrize(("predictor", "corrector"), [(2, 2), (3, 4), (1, 3), (3, 3)])
def test_sa_solver_equals_diffusers_where_it_does_not_end(predictor: int, corrector: int, tau: Any) -> None:
    scheduler = diffusers.SASolverScheduler(
        predictor_order=predictor, corrector_order=corrector, tau_func=tau, lower_order_final=False, **FLOW
    )
    options = {} if tau is None else {"tau": 0.8, "low": 0.0, "high": 1.0}
    mine = ours("sa_solver_diffusers", INSIDE, predictor_order=predictor, corrector_order=corrector, **options)
    agree(mine, with_noise(scheduler, INSIDE), 1e-11)  # their integrals cancel


def test_stock_sa_solver_on_a_grid_to_0_is_not_finite_and_ours_ends_at_the_data_prediction() -> None:
    scheduler = diffusers.SASolverScheduler(lower_order_final=False, **FLOW)
    assert not torch.isfinite(with_noise(scheduler, TO_DATA)).any()
    run = fs.trace(smooth, start(), fs.SigmaGrid(list(TO_DATA)), fs.get_sampler("sa_solver", corrector_order=0), seed=NOISE)
    x, s = run.states[-2], TO_DATA[-2]
    agree(run.x0, x - s * at(x, s))


# From the formulas of ComfyUI and k-diffusion


@pytest.mark.parametrize("eta", [0.4, 1.0])
def test_dpmpp_3m_sde_with_heun_is_k_diffusions(eta: float) -> None:
    x, past = start(), list[tuple[Tensor, float]]()
    for i, (s, t) in enumerate(pairwise(INSIDE)):
        d, h = x - s * at(x, s), lam(t) - lam(s)
        z = (1 + eta) * h
        x = t / s * math.exp(-eta * h) * x + (1 - t) * -math.expm1(-z) * d
        phi2 = math.expm1(-z) / z + 1
        if len(past) == 1:
            (d1, h1), *_ = past
            x = x + (1 - t) * phi2 * (d - d1) / (h1 / h)
        elif past:
            (d1, h1), (d2, h2) = past
            r0, r1 = h1 / h, h2 / h
            first, second = (d - d1) / r0, (d1 - d2) / r1
            slope, bend = first + (first - second) * r0 / (r0 + r1), (first - second) / (r0 + r1)
            x = x + (1 - t) * phi2 * slope - (1 - t) * (phi2 / z - 0.5) * bend
        x = x + t * math.sqrt(-math.expm1(-2 * eta * h)) * NOISE(x, i, 0)
        past = [(d, h), *past][:2]
    agree(ours("dpmpp_3m_sde", INSIDE, eta=eta, correction="heun"), x)


@pytest.mark.parametrize(("name", "r"), [("seeds_2", 0.5), ("exp_heun_2_x0_sde", 1.0)])
@pytest.mark.parametrize("correction", ["phi_1", "phi_2"])
def test_seeds_2_is_comfyuis(name: str, r: float, correction: str) -> None:
    eta, x = 0.7, start()
    for i, (s, t) in enumerate(pairwise(INSIDE)):
        d, h = x - s * at(x, s), lam(t) - lam(s)
        z, m = (1 + eta) * h, inverse(lam(s) + r * h)
        noise = math.sqrt(-math.expm1(-2 * r * eta * h)) * NOISE(x, i, 0)
        y = m / s * math.exp(-r * eta * h) * x - (1 - m) * math.expm1(-r * z) * d + m * noise
        d2 = y - m * at(y, m)
        x = t / s * math.exp(-eta * h) * x
        if correction == "phi_1":
            x = x - (1 - t) * math.expm1(-z) * ((1 - 1 / (2 * r)) * d + d2 / (2 * r))
        else:
            b2 = (math.expm1(-z) + z) / -z / r
            x = x - (1 - t) * ((math.expm1(-z) - b2) * d + b2 * d2)
        x = x + t * math.exp((r - 1) * eta * h) * noise + t * math.sqrt(-math.expm1(2 * (r - 1) * eta * h)) * NOISE(x, i, 1)
    agree(ours(name, INSIDE, eta=eta, correction=correction), x)


def test_seeds_3_is_comfyuis() -> None:
    eta, x = 0.7, start()
    for i, (s, t) in enumerate(pairwise(INSIDE)):
        d, h = x - s * at(x, s), lam(t) - lam(s)
        z, m, n = (1 + eta) * h, inverse(lam(s) + h / 3), inverse(lam(s) + 2 * h / 3)
        third, fresh = math.exp(-eta * h / 3), math.sqrt(-math.expm1(-2 * eta * h / 3))
        noise = fresh * NOISE(x, i, 0)
        y = m / s * third * x - (1 - m) * math.expm1(-z / 3) * d + m * noise
        d2 = y - m * at(y, m)
        a = 2 * (math.expm1(-2 * z / 3) + 2 * z / 3) / (-2 * z / 3)
        noise = third * noise + fresh * NOISE(x, i, 1)
        y = n / s * third**2 * x - (1 - n) * ((math.expm1(-2 * z / 3) - a) * d + a * d2) + n * noise
        d3 = y - n * at(y, n)
        b = (math.expm1(-z) + z) / -z * 3 / 2
        noise = third * noise + fresh * NOISE(x, i, 2)
        x = t / s * third**3 * x - (1 - t) * ((math.expm1(-z) - b) * d + b * d3) + t * noise
    agree(ours("seeds_3", INSIDE, eta=eta), x)


@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize("name", ["dpm_2_ancestral", "dpmpp_2s_ancestral"])
def test_ancestral_steps_are_comfyuis(name: str, eta: float) -> None:
    x = start()
    for i, (s, t) in enumerate(pairwise(TO_DATA)):
        down = t * (1 + (t / s - 1) * eta)
        v = at(x, s)
        if t == 0:
            x = x + (t - s) * v
            continue
        if name == "dpm_2_ancestral":
            m = math.sqrt(s * down)
            y = x + (down - s) * at(x + (m - s) * v, m)
        else:
            m = inverse((lam(s) + lam(down)) / 2)
            u = x + (m - s) * v
            y = down / s * x + (1 - down / s) * (u - m * at(u, m))
        scale = (1 - t) / (1 - down)
        x = scale * y + math.sqrt(t**2 - (down * scale) ** 2) * NOISE(x, i, 0)
    agree(ours(name, TO_DATA, eta=eta), x)


def comfyuis_er_sde(stages: int, integral: Callable[[Callable[[float], float], float, float], float]) -> Tensor:
    """ComfyUI's three stages, with any way to integrate over [a, b]."""

    def phi(u: float) -> float:
        return u * (math.exp(u**0.3) + 10)

    x, old, old_slope = start(), list[Tensor](), list[Tensor]()
    rho = [s / (1 - s) for s in INSIDE]
    for i, (s, t) in enumerate(pairwise(INSIDE)):
        d, a, b = x - s * at(x, s), rho[i], rho[i + 1]
        r, delta = phi(b) / phi(a), b - a
        x = (1 - t) / (1 - s) * r * x + (1 - t) * (1 - r) * d
        if old and stages > 1:
            slope = (d - old[-1]) / (a - rho[i - 1])
            x = x + (1 - t) * (delta + phi(b) * integral(lambda u: 1 / phi(u), b, a)) * slope
            if old_slope and stages > 2:
                bend = (slope - old_slope[-1]) / ((a - rho[i - 2]) / 2)
                second = integral(lambda u, a=a: (u - a) / phi(u), b, a)
                x = x + (1 - t) * (delta**2 / 2 + phi(b) * second) * bend
            old_slope.append(slope)
        old.append(d)
        x = x + (1 - t) * math.sqrt(b**2 - (a * r) ** 2) * NOISE(x, i, 0)
    return x


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_er_sde_is_comfyuis_with_exact_integrals(stages: int) -> None:
    exact = comfyuis_er_sde(stages, lambda f, a, b: quad(f, a, b, epsabs=0, epsrel=1e-13)[0])
    agree(ours("er_sde", INSIDE, stages=stages, last="method"), exact)


@pytest.mark.parametrize("stages", [2, 3])
def test_comfyuis_riemann_sum_of_200_points_moves_er_sde_in_the_fourth_digit(stages: int) -> None:
    def riemann(f: Callable[[float], float], a: float, b: float) -> float:
        return sum(f(a + (b - a) * i / 200) for i in range(200)) * (b - a) / 200

    mine, theirs = ours("er_sde", INSIDE, stages=stages, last="method"), comfyuis_er_sde(stages, riemann)
    gap = ((mine - theirs).abs().max() / mine.abs().max()).item()
    assert 1e-4 < gap < 1e-3


# First order


@pytest.mark.parametrize(("eta", "s_noise"), [(1.0, 1.0), (0.4, 1.0), (0.7, 1.1), (0.0, 1.0)])
def test_euler_ancestral_equals_ltx(eta: float, s_noise: float) -> None:
    """Up to the 1e-12 that stock adds to denominators as small as 0.05 squared."""
    scheduler = diffusers.LTXEulerAncestralRFScheduler(eta=eta, s_noise=s_noise)
    agree(ours("euler_ancestral", TO_DATA, eta=eta, s_noise=s_noise), with_noise(scheduler, TO_DATA), 1e-9)


def test_lcm_equals_flow_match_lcm_and_flow_match_eulers_stochastic_sampling() -> None:
    for scheduler in (diffusers.FlowMatchLCMScheduler(), diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)):
        agree(ours("lcm", TO_DATA), with_noise(scheduler, TO_DATA))


@pytest.mark.parametrize("run", ["diffusers", "flowsamplers"])
def test_stochastic_sampling_has_the_distribution_that_a_gaussian_flow_says(run: str) -> None:
    """With each one's own draws. All data have the standard deviation c, so every step is linear, and the variance has a recursion.

    The variance of n normal numbers is off by sqrt(2/n) of itself: five times that is the interval, and its mean has the same.
    """
    count, sigmas, c = 100_000, (1.0, 0.75, 0.5, 0.25, 0.1), 0.8
    variance = 1.0
    for s0, s1 in pairwise(sigmas):
        data = (1 - s0) * c**2 / ((1 - s0) ** 2 * c**2 + s0**2)
        variance = ((1 - s1) * data) ** 2 * variance + s1**2

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        s = sigma[:, None].to(x)
        return x * (s - (1 - s) * c**2) / ((1 - s) ** 2 * c**2 + s**2)

    x1 = torch.randn(1, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if run == "flowsamplers":
        end = fs.sample(velocity, x1, fs.SigmaGrid(list(sigmas)), "lcm", seed=1)
    else:
        scheduler: Any = diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
        scheduler.set_timesteps(sigmas=list(sigmas[:-1]))
        scheduler.sigmas = torch.tensor(sigmas, dtype=torch.float64)
        generator, end = torch.Generator().manual_seed(2), x1
        for t, s in zip(scheduler.timesteps, sigmas, strict=False):
            end = scheduler.step(velocity(end, end.new_full((1,), s)), t, end, generator=generator, return_dict=False)[0]
    assert abs(end.double().var().item() / variance - 1) < 5 * math.sqrt(2 / count)
    assert abs(end.double().mean().item()) < 5 * math.sqrt(variance / count)
    assert abs(variance / ((1 - sigmas[-1]) ** 2 * c**2 + sigmas[-1] ** 2) - 1) > 50 * math.sqrt(2 / count), (
        "no marginal of the flow"
    )
