"""Distances between sets of samples have the values that theory gives them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

import flowsamplers as fs
from flowsamplers.study import chance_level, energy_distance, sliced_wasserstein


def normals(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("n", "m"), [(50, 50), (50, 37), (1, 9)])
def test_in_one_dimension_they_are_those_of_scipy(n: int, m: int) -> None:
    x, y = normals(0, n, 1), 1.3 * normals(1, m, 1) + 0.4
    flat = x.flatten().numpy(), y.flatten().numpy()
    assert sliced_wasserstein(x, y, p=1) == pytest.approx(stats.wasserstein_distance(*flat), rel=1e-12)
    assert energy_distance(x, y) == pytest.approx(stats.energy_distance(*flat), rel=1e-9)


def test_a_shift_moves_every_projection_by_its_share() -> None:
    shift = torch.tensor([3.0, 0.0, 4.0, 0.0], dtype=torch.float64)
    x = normals(0, 20, 4)
    found = sliced_wasserstein(x, x + shift, projections=20_000)
    # E (theta . a)^2 = |a|^2 / d; its standard error over K directions, Var = 2 (d - 1) / (d^2 (d + 2)) |a|^4
    d, error = 4, math.sqrt(2 * 3 / (16 * 6) / 20_000)
    assert found**2 == pytest.approx(25 / d, abs=4 * 25 * error)


@pytest.mark.parametrize("distance", [sliced_wasserstein, energy_distance])
def test_they_are_symmetric_vanish_for_equal_sets_and_do_not_see_the_order(distance) -> None:
    x, y = normals(0, 30, 2, 3), normals(1, 20, 2, 3) + 0.2
    assert distance(x, y) == pytest.approx(distance(y, x), rel=1e-12)
    assert distance(x, x.flip(0)) == pytest.approx(0, abs=1e-7)  # the square root of rounding
    assert distance(x, y.flip(0)) == pytest.approx(distance(x, y), rel=1e-12)


def test_units_of_the_samples_are_those_of_the_distance() -> None:
    x, y = normals(0, 30, 5), normals(1, 20, 5) + 1
    assert sliced_wasserstein(3 * x, 3 * y) == pytest.approx(3 * sliced_wasserstein(x, y), rel=1e-12)
    assert energy_distance(3 * x, 3 * y) == pytest.approx(math.sqrt(3) * energy_distance(x, y), rel=1e-12)


@pytest.mark.parametrize("distance", [sliced_wasserstein, energy_distance])
def test_equal_distributions_are_above_the_level_of_chance_as_rarely_as_it_says(distance) -> None:
    above = sum(
        distance(x, y) > chance_level(distance, x, y, share=0.9, splits=40)
        for x, y in ((normals(2 * i, 15, 2), normals(2 * i + 1, 12, 2)) for i in range(60))
    )
    assert above <= stats.binom.ppf(1 - 1e-4, 60, 0.1 + 1 / 41)


def test_a_coarse_stochastic_sampler_is_told_from_a_fine_solution() -> None:
    flow = fs.flows.MixtureFlow.four_gaussians()
    truth = flow.solution(flow.noise(list(range(200))))
    for steps, far in ((2, True), (64, False)):
        out = fs.sample(flow.velocity, flow.noise(list(range(1000, 1200))), fs.schedules.linear(steps), "euler_sde", seed=0)
        assert (energy_distance(out, truth) > chance_level(energy_distance, out, truth, splits=60)) == far


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 4)), r"shapes \(2, 3\) and \(2, 4\)"),
        (np.zeros((0, 3)), np.zeros((2, 3)), "give \\(rows, ...\\)"),
        (np.zeros(3), np.zeros(3), "give \\(rows, ...\\)"),
        (np.full((2, 3), np.nan), np.zeros((2, 3)), "not finite"),
    ],
)
@pytest.mark.parametrize("distance", [sliced_wasserstein, energy_distance])
def test_what_is_no_set_of_samples_is_refused(distance, x, y, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        distance(torch.tensor(x), torch.tensor(y))
