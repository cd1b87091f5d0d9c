"""Strong and weak orders are right for schemes whose orders are known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

import flowsamplers as fs
from flowsamplers.flows import GaussianFlow
from flowsamplers.sampler import Evaluate, Sampler
from flowsamplers.study.orders import stochastic_orders

FLOW = GaussianFlow([1.0, -0.5], std=[0.4, 0.8])
GRID = fs.SigmaGrid([0.9, 0.7, 0.5, 0.3])
"""Away from both ends, where the schemes have the orders of the books."""


@dataclass(frozen=True)
class EulerMaruyama(Sampler):
    r"""$dx = (-v - \beta\epsilon)\,dt + \sqrt{2\beta\sigma}\,dW$ in $t = -\sigma$: the noise is additive, so both orders are 1."""

    stochastic: ClassVar[bool] = True
    beta: float = 0.5

    def step(self, x, at, state):
        v = yield Evaluate(x, at.s0)
        eps = x + (1 - at.s0) * v
        return x + at.h * (v + self.beta * eps) + math.sqrt(2 * self.beta * at.s0 * -at.h) * at.noise(x), state


@dataclass(frozen=True)
class Multiplicative(Sampler):
    """Euler's and Maruyama's scheme for dx = cos(x) dW: strong order 1/2, and a weak one of 1."""

    stochastic: ClassVar[bool] = True

    def step(self, x, at, state):
        v = yield Evaluate(x, at.s0)
        return x + 0 * v + math.sqrt(-at.h) * torch.cos(x) * at.noise(x), state


def starts(rows: int) -> torch.Tensor:
    return FLOW.solution(FLOW.noise(list(range(rows))), 1.0, GRID.start)


def test_additive_noise_has_strong_and_weak_order_1() -> None:
    found = stochastic_orders(FLOW, starts(400), EulerMaruyama(), GRID, strong=1, weak=1)
    assert found.steps == (3, 6, 12, 24)
    assert found.strong_order.verdict == "confirmed"
    assert found.weak_order.verdict == "confirmed"


def test_multiplicative_noise_has_strong_order_one_half() -> None:
    found = stochastic_orders(FLOW, starts(400), Multiplicative(), GRID, strong=0.5, weak=1, refinements=(2, 4, 8))
    assert found.strong_order.verdict == "confirmed"
    assert found.strong_order.order == pytest.approx(0.5, abs=0.1)
    assert all(w < s for w, s in zip(found.weak, found.strong, strict=True))


def test_what_too_few_samples_cannot_tell_is_not_called_an_order() -> None:
    found = stochastic_orders(FLOW, starts(6), Multiplicative(), GRID, strong=0.5, weak=1)
    assert any(u > e / 3 for e, u in zip(found.weak, found.weak_uncertainty, strict=True))
    assert found.weak_order.verdict in ("floor-limited", "pre-asymptotic")


def test_noise_that_does_not_shrink_with_the_step_has_no_order() -> None:
    found = stochastic_orders(FLOW, starts(200), "lcm", GRID, strong=1, weak=1)
    assert found.strong_order.verdict != "confirmed"
    assert found.strong[-1] > 0.5 * found.strong[0]


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match="is not stochastic"):
        stochastic_orders(FLOW, starts(2), "euler", GRID, strong=1, weak=1)
    with pytest.raises(ValueError, match="each must be smaller than finest=64"):
        stochastic_orders(FLOW, starts(2), "lcm", GRID, strong=1, weak=1, refinements=(64,))
