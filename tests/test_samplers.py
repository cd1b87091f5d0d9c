"""Samplers beyond the laws of the kit: identities, policies, independent textbook loops, tableaux, the registry."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import flowsamplers as fs
from fields import IRREGULAR, at, every_variant, smooth, start
from flowsamplers.samplers import ButcherTableau


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


def test_rk4_equals_a_textbook_loop() -> None:
    x = x1 = start()
    for s, t in zip(IRREGULAR.sigmas, IRREGULAR.sigmas[1:], strict=False):
        h = t - s
        k = [at(x, s)]
        k.append(at(x + h / 2 * k[0], s + h / 2))
        k.append(at(x + h / 2 * k[1], s + h / 2))
        k.append(at(x + h * k[2], t))
        x = x + h * (k[0] + 2 * k[1] + 2 * k[2] + k[3]) / 6
    assert torch.allclose(fs.sample(smooth, x1, IRREGULAR, "rk4"), x, atol=1e-14, rtol=0)


# Tableaux and names


def test_a_tableau_that_lies_is_refused() -> None:
    with pytest.raises(ValueError, match="order=2: the condition sum b c = 1/2 fails"):
        ButcherTableau(a=((), (0.4,)), b=(0.0, 1.0), order=2)
    with pytest.raises(ValueError, match=r"order=4: the condition sum b \(a c\) = 1/6 fails"):
        ButcherTableau(a=((), (1 / 2,), (0, 1 / 2), (0, 0, 1)), b=(1 / 6, 1 / 6, 1 / 2, 1 / 6), order=4)
    with pytest.raises(ValueError, match=r"a\[1\] has 2 entries"):
        ButcherTableau(a=((), (0.5, 0.5)), b=(0.0, 1.0), order=1)


def test_a_class_without_a_name_has_no_configuration() -> None:
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


# Step control


@pytest.mark.parametrize("pair", ["bosh3", "dopri5", "tsit5"])
def test_an_adaptive_pair_meets_its_tolerance(pair: str) -> None:
    """Ten times the tolerance, ten times the error, roughly; and never many times the tolerance itself."""
    whole = fs.SigmaGrid([1.0, 0.0])
    truth = fs.sample(smooth, start(), fs.schedules.linear(400), "rk5")
    errors = {
        rtol: (fs.sample(smooth, start(), whole, fs.get_sampler(pair, rtol=rtol, atol=rtol)) - truth).abs().max().item()
        for rtol in (1e-3, 1e-5, 1e-7)
    }
    assert all(error < 50 * rtol for rtol, error in errors.items()), errors
    assert errors[1e-3] > 10 * errors[1e-5] > 100 * errors[1e-7]


@pytest.mark.parametrize("pair", ["bosh3", "dopri5", "tsit5"])
@pytest.mark.parametrize("budget", [7, 12, 20, 33])
def test_an_adaptive_pair_keeps_to_its_budget_and_reaches_the_end(pair: str, budget: int) -> None:
    """With a tolerance that it cannot meet; on a constant field it still lands exactly."""
    sampler = fs.get_sampler(pair, rtol=1e-12, atol=1e-12, budget=budget)
    run = fs.trace(smooth, start(), fs.SigmaGrid([1.0, 0.0]), sampler)
    assert run.nfe <= budget
    straight = fs.sample(lambda x, sigma: torch.ones_like(x), start(), fs.SigmaGrid([1.0, 0.0]), sampler)
    assert torch.allclose(straight, start() - 1, atol=1e-14, rtol=0)


@pytest.mark.parametrize("pair", [2, 3])
def test_dpm_adaptive_is_k_diffusions_where_it_does_not_end(pair: int) -> None:
    """Its loop written out: DPM-Solver-12 and -23 in -log sigma under integral control, here for a single row."""
    t, end, h, x = -math.log(0.95), -math.log(0.1), 0.05, start(rows=1)
    before, rtol, atol = x, 0.01, 0.001
    while t < end - 1e-5:
        new = min(end, t + h)
        step, s, s_new = new - t, math.exp(-t), math.exp(-new)
        eps = at(x, s)
        r1 = 1 / 2 if pair == 2 else 1 / 3
        m1 = math.exp(-(t + r1 * step))
        eps1 = at(x - m1 * math.expm1(r1 * step) * eps, m1)
        first = x - s_new * math.expm1(step) * eps
        second = first - s_new / (2 * r1) * math.expm1(step) * (eps1 - eps)
        low, high = first, second
        if pair == 3:
            r2 = 2 / 3
            m2 = math.exp(-(t + r2 * step))
            bend = math.expm1(r2 * step) / (r2 * step) - 1
            eps2 = at(x - m2 * math.expm1(r2 * step) * eps - m2 * r2 / r1 * bend * (eps1 - eps), m2)
            low, high = second, first - s_new / r2 * (math.expm1(step) / step - 1) * (eps2 - eps)
        delta = torch.clamp(rtol * torch.maximum(low.abs(), before.abs()), min=atol)
        error = ((low - high) / delta).square().mean().sqrt().item()
        factor = 1 + math.atan((error + 1e-8) ** (-1 / pair) - 1)
        if factor >= 0.81:
            t, x, before = new, high, low
        h *= factor
    sampler = fs.get_sampler("dpm_adaptive", pair=pair, rtol=rtol, atol=atol)
    assert torch.allclose(fs.sample(smooth, start(rows=1), fs.SigmaGrid([0.95, 0.1]), sampler), x, atol=1e-12, rtol=0)


def test_dpm_adaptive_reaches_0_within_its_tolerance() -> None:
    truth = fs.sample(smooth, start(), fs.schedules.linear(400), "rk5")
    for tolerance in (1e-2, 1e-4):
        sampler = fs.get_sampler("dpm_adaptive", rtol=tolerance, atol=tolerance)
        out = fs.sample(smooth, start(), fs.SigmaGrid([1.0, 0.0]), sampler)
        assert (out - truth).abs().max() < 20 * tolerance
