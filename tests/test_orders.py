"""Verdicts on an order are right where the answer is known."""

from __future__ import annotations

import pytest

from flowsamplers.study.orders import order, pairwise_slopes

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
