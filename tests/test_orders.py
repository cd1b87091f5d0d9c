"""Verdicts on an order are right where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest

import flowsamplers as fs
from flowsamplers.flows import MixtureFlow
from flowsamplers.orders import order, pairwise_slopes

N = [4, 8, 16, 32, 64, 128, 256]


def power(p: float, c: float = 1.0) -> list[float]:
    return [c * n**-p for n in N]


@pytest.mark.parametrize("p", [1, 2, 3, 4])
def test_a_clean_power_is_confirmed(p: int) -> None:
    verdict = order(N, power(p), declared=p)
    assert verdict.verdict == "confirmed"
    assert verdict.order == pytest.approx(p)
    assert verdict.window == (4, 256)


def test_any_grid_of_steps_will_do() -> None:
    n = [3, 5, 11, 50, 51]
    assert pairwise_slopes(n, [k**-2.0 for k in n]) == pytest.approx([2.0] * 4)


def test_a_floor_is_left_out() -> None:
    verdict = order(N, [e + 1e-6 for e in power(4)], declared=4, floor=1e-6)
    assert verdict.verdict == "confirmed"
    assert verdict.window is not None
    assert verdict.window[1] <= 32


def test_a_floor_that_swallows_everything_is_said() -> None:
    assert order(N, [1e-6] * 7, declared=4, floor=1e-6).verdict == "floor-limited"


def test_a_bend_before_the_asymptotic_window_does_not_count() -> None:
    verdict = order(N, [c * n**-2.0 for n, c in zip(N, [0.05, 0.3, 0.8, 1, 1, 1, 1], strict=True)], declared=2)
    assert verdict.verdict == "confirmed"
    assert verdict.window == (32, 256)


def test_slopes_that_never_settle_are_pre_asymptotic() -> None:
    assert order([4, 8, 16, 32], [1.0, 0.9, 0.4, 0.02], declared=2).verdict == "pre-asymptotic"
    assert order([4, 8], [1.0, 0.25], declared=2).verdict == "pre-asymptotic"


def test_another_order_is_named() -> None:
    assert order(N, power(1), declared=2).verdict == "reduced"
    assert order(N, power(3), declared=2).verdict == "higher"


def test_errors_that_grow_or_are_not_finite_are_unstable() -> None:
    assert order(N, [1, 0.5, 0.2, 0.5, 2, 9, 40], declared=1).verdict == "unstable"
    assert order(N, [1, 0.5, float("nan"), 1, 1, 1, 1], declared=1).verdict == "unstable"


def test_noise_does_not_pass_for_an_order() -> None:
    """Two ends that happen to fit are not a window: endpoints here give a slope of 1.99."""
    assert order([10, 20, 40, 80], [1e-1, 1e-6, 5e-1, 1.6e-3], declared=2).verdict == "pre-asymptotic"


# DPM-Solver++(2M): its slope on a grid that runs to 0 creeps, and here is to what


def errors_2m(variable: str, start: float, end: float, steps: list[int]) -> np.ndarray:
    flow = MixtureFlow.four_gaussians()
    x = flow.noise(list(range(4)))
    truth = flow.solution(x, start, end)
    sampler = fs.get_sampler("dpmpp_2m", variable=variable)
    grids = [fs.SigmaGrid(np.linspace(start, end, n + 1)) for n in steps]
    return np.array([((fs.sample(flow.velocity, x, g, sampler) - truth).norm() / truth.norm()).item() for g in grids])


@pytest.mark.parametrize("variable", ["lambda", "neg_log_sigma"])
def test_dpmpp_2m_on_a_full_grid_has_order_2_but_for_a_logarithm(variable: str) -> None:
    """A step errs by h^3 / sigma, as its length in lambda is h / sigma; the sum of these is h^2 log(1 / h).

    So the slope is 2 - O(1 / log N) and reaches 2 for no N in use. That law, fitted up to 512 steps, foretells the error at
    2048; a power law does not.
    """
    steps = [64, 128, 256, 512, 2048]
    errors, log = errors_2m(variable, 1.0, 0.0, steps), np.log(steps)
    with_log = np.polyval(np.polyfit(log[:-1], (errors * np.square(steps))[:-1], 1), log[-1]) / steps[-1] ** 2
    power = np.exp(np.polyval(np.polyfit(log[:-1], np.log(errors[:-1]), 1), log[-1]))
    assert with_log == pytest.approx(errors[-1], rel=0.03)
    assert power > 1.08 * errors[-1]


def test_the_logarithm_at_sigma_1_is_there_in_lambda_and_not_in_neg_log_sigma() -> None:
    """-log sigma is regular at 1; the half log-SNR is not."""
    steps = [128, 256, 512]
    regular = order(steps, errors_2m("neg_log_sigma", 1.0, 0.05, steps).tolist(), declared=2)
    singular = order(steps, errors_2m("lambda", 1.0, 0.05, steps).tolist(), declared=2)
    assert regular.order == pytest.approx(2.0, abs=0.05)
    assert singular.order is not None
    assert singular.order < 1.95


def test_points_that_chance_could_have_made_are_left_out() -> None:
    errors = power(1)
    sure = order(N, errors, declared=1, uncertainty=[1e-3] * 7)
    assert sure.verdict == "confirmed"
    assert order(N, errors, declared=1, uncertainty=[e / 2 for e in errors]).verdict == "floor-limited"
    wild = [*errors[:4], 0.05, 0.001, 0.04]
    assert order(N, wild, declared=1, uncertainty=[1e-4] * 4 + [0.04] * 3).verdict == "confirmed"


@pytest.mark.parametrize("seed", range(3))
def test_the_bar_of_an_order_covers_its_standard_deviation(seed: int) -> None:
    """Errors with independent relative noise of 2 %, and with one noise for all: a slope that does not move at all."""
    rng, n = np.random.default_rng(seed), [4, 8, 16, 32]
    clean = np.array([k**-2.0 for k in n])
    bars = 0.02 * clean
    slopes = [order(n, clean + bars * rng.normal(size=4), declared=2, uncertainty=bars).order for _ in range(400)]
    bar = order(n, clean, declared=2, uncertainty=bars).bar
    assert bar is not None
    assert 0.5 * bar < np.std(np.array(slopes, dtype=float)) <= 1.1 * bar
    assert order(n, clean * 1.02, declared=2, uncertainty=bars).order == pytest.approx(2)
