"""Write a sampler in a few lines, and test it: `pytest examples/own_sampler.py`."""

from dataclasses import dataclass

import pytest

import flowsamplers as fs
from flowsamplers.testing import SamplerConformance


@dataclass(frozen=True)
class ThirdPoint(fs.Sampler):
    """A Runge-Kutta method of order 2 with its second call at one third of the step."""

    order = 2

    def step(self, x, at, state):
        """See `flowsamplers.Sampler.step`."""
        k1 = yield fs.Evaluate(x, at.s0)
        k2 = yield fs.Evaluate(x + at.h / 3 * k1, at.s0 + at.h / 3)
        return x + at.h * (3 / 2 * k2 - 1 / 2 * k1), state


class TestThirdPoint(SamplerConformance):
    """Every law of the library is one test here."""

    @pytest.fixture
    def subject(self):
        """The sampler under test."""
        return ThirdPoint()


if __name__ == "__main__":
    flow = fs.flows.MixtureFlow.random(0)
    x1 = flow.noise(range(16))
    for sampler in ("euler", "midpoint", ThirdPoint()):
        steps = fs.largest_steps(sampler, 16, fs.schedules.linear)
        x0 = fs.sample(flow.velocity, x1, fs.schedules.linear(steps), sampler)
        error = ((x0 - flow.solution(x1)).norm() / x0.norm()).item()
        print(f"{sampler if isinstance(sampler, str) else 'third point':12} {steps:2} steps, 16 model calls: error {error:.4f}")
