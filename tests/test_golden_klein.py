"""The numbers that somebody read in a debugger, running FLUX.2 [klein] 4B at 1024x1024: the project grew from them."""

from __future__ import annotations

import math

import pytest
import torch

import flowsamplers as fs

SIGMAS = {
    1: [1.0],
    2: [1.0, 0.9091],
    3: [1.0, 0.9521, 0.8326],
    4: [1.0, 0.9674, 0.9081, 0.7672],
    6: [1.0, 0.9799, 0.9513, 0.9072, 0.8301, 0.6615],
    10: [1.0, 0.9885, 0.9745, 0.9570, 0.9347, 0.9052, 0.8642, 0.8036, 0.7047, 0.5148],
}
TIMESTEPS = {
    2: [909.1107],
    3: [952.1271, 832.5565],
    6: [979.9441, 951.3246, 907.1679, 830.1074, 661.5250],
    10: [988.4957, 974.4825, 957.0386, 934.7291, 905.1879, 864.2187, 803.6000, 704.7356, 514.7510],
}


def schedule(steps: int) -> fs.SigmaGrid:
    return fs.schedules.flux2(steps, tokens=fs.schedules.tokens_for(1024, 1024), arithmetic="stock")


def test_mu_at_1024_squared() -> None:
    assert fs.schedules.empirical_mu(tokens=4096, steps=4) == 2.291179894115571
    assert fs.schedules.empirical_mu(tokens=4096, steps=50) == 2.0233511571292637


@pytest.mark.parametrize("steps", SIGMAS)
def test_sigmas_and_their_sum(steps: int) -> None:
    grid = schedule(steps)
    assert [round(s, 4) for s in grid.sigmas] == [*SIGMAS[steps], 0.0]
    assert math.fsum(grid.dt) == -1.0


@pytest.mark.parametrize("steps", TIMESTEPS)
def test_timesteps(steps: int) -> None:
    told = torch.tensor(schedule(steps).sigmas[1:-1]) * 1000  # in float32, as the pipeline has them
    assert [round(t, 4) for t in told.tolist()] == TIMESTEPS[steps]


def test_the_four_steps_as_they_stood_in_memory() -> None:
    grid = schedule(4)
    assert [round(s, 8) for s in grid.sigmas] == [1.0, 0.96738404, 0.90814394, 0.76719993, 0.0]
    assert [round(h, 4) for h in grid.dt] == [-0.0326, -0.0592, -0.1409, -0.7672]


def test_fifty_steps() -> None:
    sigmas = schedule(50).sigmas  # written down with seven digits
    assert sigmas[:6] == pytest.approx([1.0, 0.9973091, 0.9945214, 0.9916315, 0.9886340, 0.9855225], abs=1e-7)
    assert sigmas[-3:] == pytest.approx([0.2396312, 0.1337190, 0.0], abs=1e-7)


def test_the_jump_at_4300_tokens() -> None:
    mu = fs.schedules.empirical_mu
    assert round(mu(tokens=4300, steps=4), 3) == 2.308
    assert round(mu(tokens=4301, steps=4), 3) == 1.185
    assert [round(s, 3) for s in fs.schedules.flux2(4, tokens=4301).sigmas] == [1.0, 0.907, 0.766, 0.522, 0.0]
