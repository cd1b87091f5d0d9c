"""First-order stochastic samplers, their densities, churn and restart; and the invariants of every stochastic sampler in the registry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor
from torch.distributions import Normal

import flowsamplers as fs
from fields import ALL, IRREGULAR, smooth, start
from flowsamplers.flows import GaussianFlow
from flowsamplers.samplers import Churn, DDIMEta, EulerAncestral, EulerSDE, FlowSDE, Restart
from flowsamplers.samplers.sde import RULES, SDE
from flowsamplers.samplers.stochastic import CONVENTIONS, GaussianStep, convert_eta
from flowsamplers.schedules import linear, shift
from flowsamplers.study.orders import shifted
from flowsamplers.testing.moments import Impulses, Moments, exact_moments, noise_level_error, variance_ratio

INSIDE = fs.SigmaGrid([0.9, 0.7, 0.5, 0.3])
NAMES = [n for i in fs.list_samplers() if i.stochastic and not i.adaptive for n in (i.name, *i.presets)]
NAMES = list({fs.get_sampler(n): n for n in reversed(NAMES)}.values())[::-1]
"""One of each sampler's."""
every_stochastic_name = pytest.mark.parametrize("name", NAMES)
every_stochastic_preset = pytest.mark.parametrize("name", [n for n in NAMES if n not in ALL])
"""Samplers themselves are under the laws of the kit, see tests/test_conformance.py."""


def run(sampler: fs.Sampler, grid: fs.SigmaGrid = IRREGULAR) -> Tensor:
    return fs.sample(smooth, start(), grid, sampler, seed=3)


def agree(a: fs.Sampler, b: fs.Sampler, bound: float = 1e-12, grid: fs.SigmaGrid = IRREGULAR) -> None:
    x, y = run(a, grid), run(b, grid)
    assert (x - y).abs().max() <= bound * y.abs().max()


# I1 and I2, of every name


@every_stochastic_name
def test_a_data_point_keeps_its_noise_level_as_declared(name: str) -> None:
    """From below 1 and from 1; both grids pass sigma 0.2, where a restart occurs."""
    sampler = fs.get_sampler(name)
    for grid in (fs.SigmaGrid([*INSIDE.sigmas, 0.1]), fs.SigmaGrid([1.0, 0.8, 0.3, 0.15])):
        assert (noise_level_error(sampler, grid) <= 1e-10) == sampler.keeps_noise_level


@every_stochastic_preset
def test_marginals_are_kept_as_declared(name: str) -> None:
    """Exact variances; four times the steps leave at most 0.6 of the error, or next to none."""
    sampler = fs.get_sampler(name)
    before, after = (abs(variance_ratio(sampler, shift(n, shift=3.0)) - 1) for n in (100, 400))
    assert (after <= max(0.6 * before, 1e-3)) == sampler.keeps_marginals, (before, after)


@every_stochastic_preset
def test_the_variance_on_gaussian_data_has_the_declared_weak_order(name: str) -> None:
    """Exact: inside (0, 1), for data of standard deviation 1.7, from 128 to 256 steps, or else from 512 to 1024."""
    sampler = fs.get_sampler(name)

    def slope(n: int) -> float:
        coarse, fine = (abs(variance_ratio(sampler, shifted(m, 1.0, 0.95, 0.05), std=1.7) - 1) for m in (n, 2 * n))
        return math.log2(coarse / fine)

    assert any(abs(slope(n) - sampler.weak_order) <= 0.25 for n in (128, 512))


@pytest.mark.parametrize("base", ["euler", "ralston3"])
@pytest.mark.parametrize("name", ["churn", "restart", "dpmpp_2s_ancestral"])
def test_where_noise_goes_in_exactly_the_weak_order_is_that_of_the_ode_method(name: str, base: str) -> None:
    """Up or down the flow's own noise is no approximation: only the ODE method errs."""
    sampler = fs.get_sampler(name, base=base)
    errors = [abs(variance_ratio(sampler, shifted(n, 1.0, 0.95, 0.05), std=1.7) - 1) for n in (128, 256)]
    assert sampler.weak_order == fs.sampler_info(base).order
    assert math.log2(errors[0] / errors[1]) == pytest.approx(sampler.weak_order, abs=0.25)


BROWNIAN = fs.BrownianNoise(2)


@cache
def increment(shape: torch.Size, draw: int, interval: Any) -> Tensor:
    """Of one path, which most samplers here ask for the same intervals."""
    return BROWNIAN(torch.empty(shape, dtype=torch.float64), 0, draw, interval)


def one_path(like: Tensor, step: int, draw: int, interval: Any = None) -> Tensor:
    return increment(like.shape, draw, interval)


@every_stochastic_name
def test_paths_converge_with_the_declared_strong_order(name: str) -> None:
    """Along 128 shared Brownian paths, for data of standard deviation 1.7: with 8 and 32 steps, and 96 for the limit.

    The paths are the coordinates of one row, which the flow does not couple: a row of a path costs the same for any number of them.
    A step above 0 that leaves its noise out, as a last step of another method would, has order one half.
    """
    sampler, flow = fs.get_sampler(name), GaussianFlow([0.3] * 128, std=1.7)
    x = flow.solution(flow.noise([0]), 1.0, 0.9)
    coarse, fine, limit = (fs.sample(flow.velocity, x, shifted(n, 1.0, 0.9, 0.15), sampler, seed=one_path) for n in (8, 32, 96))
    slope = math.log((coarse - limit).abs().mean() / (fine - limit).abs().mean(), 4)
    assert slope >= sampler.strong_order - 0.25, slope
    assert sampler.strong_order > 0 or slope <= 0.45, slope


def test_exact_moments_are_those_that_monte_carlo_estimates() -> None:
    grid = shift(6, shift=3.0)
    found = exact_moments("seeds_2", GaussianFlow([0.3], std=0.5).velocity, grid, Moments(0.2, 1.3))
    flow, x = GaussianFlow([0.3] * 200, std=0.5), 0.2 + math.sqrt(1.3) * start(100, 200)
    out = fs.sample(flow.velocity, x, grid, "seeds_2", seed=0)
    assert abs(out.mean() - found.mean) <= 5 * math.sqrt(found.variance / out.numel())
    assert abs(out.var() / found.variance - 1) <= 5 * math.sqrt(2 / out.numel())


def test_exact_moments_of_an_ode_sampler_are_its_own_map() -> None:
    found = exact_moments("heun", GaussianFlow([0.0], std=0.5).velocity, linear(200), Moments(0.0, 1.0))
    assert found.variance == pytest.approx(0.25, rel=1e-3)


@dataclass(frozen=True)
class VarianceExploding(fs.Sampler):
    """k-diffusion's ancestral step with sigma itself for the noise-to-signal ratio, as ComfyUI's ddpm has it."""

    eta: float = 1.0
    stochastic: ClassVar[bool] = True
    affine: ClassVar[bool] = False

    def step(self, x, at, state):
        v = yield fs.Evaluate(x, at.s0)
        up = self.eta * at.s1 * math.sqrt(1 - (at.s1 / at.s0) ** 2)
        return x + (math.sqrt(at.s1**2 - up**2) - at.s0) * v + up * at.noise(x), state


def test_an_ancestral_step_in_sigma_itself_keeps_neither() -> None:
    """Twice the true variance, whatever the steps; in sigma / (1 - sigma) it keeps both."""
    assert noise_level_error(VarianceExploding(), INSIDE) > 0.1
    assert [round(variance_ratio(VarianceExploding(), shift(n, shift=3.0)), 2) for n in (50, 500)] == [1.31, 1.89]
    assert noise_level_error("ddim_eta", INSIDE) < 1e-14


def test_noise_of_another_size_leaves_both() -> None:
    louder = EulerAncestral(s_noise=1.05)
    assert not louder.keeps_marginals
    assert not louder.keeps_noise_level
    assert noise_level_error(louder, INSIDE) > 0.01


@pytest.mark.parametrize("grid", [INSIDE, fs.SigmaGrid([0.5, 0.1])])
def test_euler_maruyama_adds_what_the_formula_says(grid: fs.SigmaGrid) -> None:
    r"""In one step from sigma to sigma': $\frac{h^2}{\sigma}(g^2 + g^4/(4\sigma))$, for a data point."""
    s, s1 = grid.sigmas[:2]
    for sampler in (FlowSDE(), FlowSDE(rule="constant"), FlowSDE(rule="decreasing", eta=1.0)):
        g2 = sampler.sde.squared(s)
        found = exact_moments(sampler, lambda x, sigma: x / sigma[:, None], fs.SigmaGrid([s, s1]), Moments(0.0, s * s))
        assert found.variance - s1**2 == pytest.approx((s1 - s) ** 2 / s * (g2 + g2**2 / (4 * s)), rel=1e-10)


# Rules


@pytest.mark.parametrize("rule", RULES)
def test_what_is_kept_is_the_integral_of_the_squared_noise(rule: str) -> None:
    sde = SDE(0.7, rule)
    for s0, s1 in ((0.95, 0.6), (0.6, 0.05), (0.31, 0.3)):
        g = quad(lambda u: sde.squared(u) / (2 * u * u), s1, s0, epsabs=1e-13)[0]
        assert sde.kept(s0, s1) == pytest.approx(math.exp(-g), rel=1e-9)
        assert sde.kept(s0, s1) ** 2 + sde.fresh(s0, s1) ** 2 == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize(("sigma", "eta"), [(0.1, 0.02), (0.5, 0.06), (0.9, 0.24), (0.99, 1.0), (0.999, 2.37)])
def test_er_sde_is_strongly_stochastic_near_pure_noise_alone(sigma: float, eta: float) -> None:
    """The eta of DPM-Solver++ that its rule has at a sigma."""
    _, local = SDE(1.0, "er_sde").along(np.array([math.log((1 - sigma) / sigma)]))
    assert local[0] == pytest.approx(eta, abs=0.005)


@pytest.mark.parametrize("rule", RULES)
def test_the_ends_are_limits_and_finite(rule: str) -> None:
    sde = SDE(1.0, rule)
    x = start(4)
    for sampler in (EulerSDE(rule=rule), FlowSDE(rule=rule)):
        assert torch.isfinite(fs.sample(smooth, x, linear(1), sampler, seed=0)).all()
        assert torch.isfinite(fs.sample(smooth, x, linear(5), sampler, seed=fs.BrownianNoise(0))).all()
    assert 0 <= sde.kept(1.0, 0.5) <= 1
    torch.testing.assert_close(  # to 0 an exact step is the data prediction
        fs.sample(smooth, x, fs.SigmaGrid([0.5, 0.0]), EulerSDE(rule=rule), seed=0), x - 0.5 * smooth(x, x.new_full((4,), 0.5))
    )


def test_identities_of_first_order_samplers() -> None:
    agree(DDIMEta(eta=1.0), EulerSDE(eta=1.0))
    agree(fs.get_sampler("er_sde_1", last="method"), EulerSDE(rule="er_sde"))
    agree(EulerAncestral(eta=0.6), fs.get_sampler("dpmpp_2s_ancestral", base="euler", eta=0.6))


def test_an_ancestral_step_from_pure_noise_keeps_some_of_it() -> None:
    r"""$e^{-G} = (1 - \eta(1 - \sigma'))/(1 + \eta\sigma')$; an exact step keeps none."""
    for eta in (0.3, 1.0):
        assert EulerAncestral(eta).shares(1.0, 0.4)[0] == pytest.approx((1 - 0.6 * eta) / (1 + 0.4 * eta), rel=1e-14)
    assert EulerSDE(0.3).shares(1.0, 0.4) == (0.0, 1.0)


@pytest.mark.parametrize("source", CONVENTIONS)
def test_conversions_are_exact_or_tight_as_they_say(source: str) -> None:
    """The rate at which noise is renewed in a small step, and for the exact ones in a large one too, is that of euler_sde."""
    value = 0.4
    eta = convert_eta(value, source)
    assert convert_eta(eta, "euler_sde", source) == pytest.approx(value, rel=1e-14)
    if source not in ("euler_ancestral", "ddim_eta"):
        return
    sampler = fs.get_sampler(source, eta=value)
    for s0, s1, bound in ((0.6, 0.2, 1.0), (0.6, 0.5996, 2e-3)):
        rate = math.log(sampler.shares(s0, s1)[0]) / math.log(EulerSDE(eta).shares(s0, s1)[0])
        assert abs(rate - 1) <= bound
        assert abs(rate - 1) > 1e-6  # and a limit it is


def test_flow_grpo_and_sit_have_the_eta_of_dpm_solver() -> None:
    a, s = 0.7, 0.6
    assert SDE(convert_eta(a, "flow_grpo")).squared(s) == pytest.approx(a**2 * s / (1 - s), rel=1e-14)
    assert convert_eta(1.0, "sit_sbdm", "flow_grpo") == pytest.approx(math.sqrt(2), rel=1e-15)
    with pytest.raises(ValueError, match="did you mean 'flow_grpo'"):
        convert_eta(1.0, "flow_gpro")


# Densities


@pytest.mark.parametrize("name", [n for n in NAMES if isinstance(fs.get_sampler(n), GaussianStep)])
def test_log_probabilities_are_those_of_normal_distributions(name: str) -> None:
    """Of the states that were drawn, under the mean and the standard deviation of each step."""
    grid = shift(5, shift=3.0)
    found = fs.trace(smooth, start(), grid, name, seed=1)
    assert found.log_prob is not None
    assert found.log_prob.shape == (3, 5)
    sampler = fs.get_sampler(name)
    for i, at in enumerate(fs.sampler.steps_of(grid)):
        x = found.states[i]
        mean, std = sampler.transition(x, smooth(x, x.new_full((3,), at.s0)), at)
        expected = Normal(mean, std).log_prob(found.states[i + 1]).sum(1) if std > 0 else torch.zeros(3, dtype=x.dtype)
        torch.testing.assert_close(found.log_prob[:, i], expected, rtol=1e-12, atol=1e-12)


def flow_grpo(v: Tensor, x: Tensor, s: float, s1: float, largest: float, level: float, xi: Tensor) -> tuple[Tensor, Tensor]:
    """The step of its paper, (9), and the mean log-density, from its formulas."""
    std = math.sqrt(s / (1 - (largest if s == 1 else s))) * level
    dt = s1 - s
    mean = x * (1 + std**2 / (2 * s) * dt) + v * (1 + std**2 * (1 - s) / (2 * s)) * dt
    end = mean + std * math.sqrt(-dt) * xi
    return end, Normal(mean, std * math.sqrt(-dt)).log_prob(end).mean(1)


def test_flow_sde_is_flow_grpo_with_its_clamp_and_its_densities() -> None:
    grid = shift(6, shift=3.0)
    found = fs.trace(smooth, start(), grid, FlowSDE(eta=0.7**2 / 2), seed=1)
    x, noise = start(), fs.KeyedNoise(1)
    for i, (s, s1) in enumerate(zip(grid.sigmas, grid.sigmas[1:], strict=False)):
        x, density = flow_grpo(smooth(x, x.new_full((3,), s)), x, s, s1, grid.sigmas[1], 0.7, noise(x, i, 0))
        torch.testing.assert_close(found.states[i + 1], x, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found.log_prob[:, i] / x.shape[1], density, rtol=1e-11, atol=1e-11)


def test_gradients_flow_through_the_density_of_a_recorded_run() -> None:
    """The score of the field's parameter, beside finite differences; a run with its own field has the recorded numbers."""
    found = fs.trace(lambda x, s: 0.5 * smooth(x, s), start(), linear(4), "flow_grpo", seed=2)

    def total(parameter: Tensor) -> Tensor:
        return fs.log_prob(lambda x, s: parameter * smooth(x, s), found).sum()

    parameter = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(total(parameter), parameter)
    step = 1e-5
    difference = (total(parameter.detach() + step) - total(parameter.detach() - step)) / (2 * step)
    assert gradient.item() == pytest.approx(difference.item(), rel=1e-7)
    torch.testing.assert_close(total(parameter), found.log_prob.sum(), rtol=1e-13, atol=0)


def test_only_normal_steps_have_densities() -> None:
    found = fs.trace(smooth, start(), linear(4), "dpmpp_2m_sde", seed=2)
    assert found.log_prob is None
    with pytest.raises(ValueError, match="needs steps that are normal distributions"):
        fs.log_prob(smooth, found)


# Churn and restart


@pytest.mark.parametrize("base", ["euler", "heun", "midpoint"])
def test_churn_and_restart_without_noise_are_their_method(base: str) -> None:
    agree(Churn(base, churn=0.0), fs.get_sampler(base), bound=0)
    agree(Restart(base, repeats=0), fs.get_sampler(base), bound=0)


def test_repeats_draw_fresh_noise() -> None:
    """With one draw for all restarts of an interval the variance would be another: 8 of them keep it to a tenth of a per cent."""
    grid = shift(60, shift=3.0)
    eight = Restart(low=0.2, high=0.6, repeats=8)
    assert abs(variance_ratio(eight, grid) - 1) < 4e-3

    class Same:
        def __call__(self, like, step, draw, interval=None):
            return fs.KeyedNoise(0)(like, step, 0)

    x = torch.randn(4000, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    out = fs.sample(GaussianFlow([0.0], std=0.5).velocity, x, grid, eight, seed=Same())
    assert out.var().item() / 0.25 > 1.5


def test_a_restart_visits_the_nodes_of_the_schedule_again() -> None:
    grid = linear(5)
    asked = [round(e.sigma, 3) for e in fs.dry_run(Restart("euler", low=0.25, high=0.7, repeats=2), grid)]
    assert asked == [1.0, 0.8, 0.6, 0.4, 0.7, 0.6, 0.4, 0.7, 0.6, 0.4, 0.2]


@pytest.mark.parametrize(("base", "repeats"), [("euler", 1), ("heun", 3), ("rk4", 2)])
def test_restarts_that_occur_keep_noise_levels_and_marginals(base: str, repeats: int) -> None:
    """By exact covariance: of a data point to rounding, and of Gaussian data with the order of the ODE method."""
    sampler = Restart(base, low=0.35, high=0.6, repeats=repeats)
    draws = Impulses()
    fs.sample(smooth, start(), INSIDE, sampler, seed=draws)
    assert draws.draws == [(2, draw) for draw in range(repeats)]  # in the step from 0.5 to 0.3
    assert noise_level_error(sampler, INSIDE) <= 1e-12
    errors = [abs(variance_ratio(sampler, shift(n, shift=3.0)) - 1) for n in (100, 200)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(sampler.weak_order, abs=0.3)
    assert errors[1] < 0.05


def test_a_restart_below_the_grid_does_not_occur() -> None:
    draws = Impulses()
    fs.sample(smooth, start(), INSIDE, Restart(low=0.2, high=0.6), seed=draws)
    assert draws.draws == []


def test_churn_of_a_run_does_not_depend_on_its_steps() -> None:
    """The variance that comes in, in noise-to-signal ratios, between two nodes: S / N in each step, N steps."""
    grids = [fs.SigmaGrid([0.5, 0.4]).refined(n) for n in (200, 400)]
    still = [exact_moments(Churn("euler", churn=0.5), lambda x, s: 0 * x, g, Moments(0.0, 0.0)).variance for g in grids]
    assert still[0] == pytest.approx(still[1], rel=5e-3)


def test_an_exponential_integrator_has_two_rules() -> None:
    with pytest.raises(ValueError, match="an exponential integrator in lambda has"):
        SDE(1.0, "linear").along(torch.zeros(1).numpy())


# One path


@pytest.mark.parametrize(
    "sampler", [EulerSDE(0.5), EulerAncestral(0.5), DDIMEta(math.sqrt(0.5)), FlowSDE(0.5)], ids=lambda s: type(s).__name__
)
def test_samplers_of_one_equation_share_a_path(sampler: fs.Sampler) -> None:
    """The distance to the exact step's run, from the same path, falls like the first power of the step."""
    flow, x = GaussianFlow([1.0, -0.5] * 60, std=[0.4, 0.8] * 60), start(1, 120)
    limit = fs.sample(flow.velocity, x, INSIDE.refined(128), EulerSDE(0.5), seed=one_path)
    errors = [
        (fs.sample(flow.velocity, x, INSIDE.refined(n), sampler, seed=one_path) - limit).square().mean().sqrt() for n in (4, 16)
    ]
    assert 2.8 <= errors[0] / errors[1] <= 6  # 4, and what 128 parts leave


def test_along_one_path_a_restart_has_the_order_of_its_method() -> None:
    """Its draws do not depend on the number of steps; those of churn do, and its order is 1. All rows are one row of the path."""
    flow = fs.flows.MixtureFlow.random(2)
    x, slopes, path = flow.noise(list(range(40))), list[float](), fs.BrownianNoise([0])
    for name in ("restart", "churn"):
        ends = [
            fs.sample(flow.velocity, x, shifted(n, 1.0, 0.9, 0.1), name, seed=lambda like, *at: path(like[None], *at)[0])
            for n in (32, 64, 128)
        ]
        first, second = ((a - b).square().mean().sqrt().item() for a, b in pairwise(ends))
        slopes.append(math.log2(first / second))
    assert slopes[0] == pytest.approx(2, abs=0.3)
    assert slopes[1] < 1.5
