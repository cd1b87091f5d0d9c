"""The analytic flows are what they say, and the reference covers its error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import flowsamplers as fs
from flowsamplers.flows import DataFlow, GaussianFlow, MixtureFlow, load_flow
from flowsamplers.reference import relative_error, solve


def full(x: Tensor, sigma: float) -> Tensor:
    return torch.full((len(x),), sigma, dtype=x.dtype)


def log_density(flow: MixtureFlow, x: Tensor, sigma: float) -> Tensor:
    """Of x_sigma: a mixture of the noised components."""
    variance = ((1 - sigma) * flow.stds) ** 2 + sigma**2
    d = x[:, None] - (1 - sigma) * flow.means
    return torch.logsumexp(flow.weights.log() - 0.5 * (variance.log() + d**2 / variance).sum(-1), dim=1)


@given(seed=st.integers(0, 50), sigma=st.floats(0.05, 1))
def test_the_velocity_of_a_mixture_is_that_of_its_score(seed: int, sigma: float) -> None:
    """E[n | x] = -sigma * score, and v = (E[n] - x) / (1 - sigma) below 1."""
    flow = MixtureFlow.random(seed)
    x = flow.noise([seed, seed + 1]).requires_grad_()
    (score,) = torch.autograd.grad(log_density(flow, x, sigma).sum(), x)
    v = flow.velocity(x.detach(), full(x, sigma))
    assert torch.allclose(x.detach() + (1 - sigma) * v, -sigma * score, atol=1e-10)


@pytest.mark.parametrize(
    "flow", [GaussianFlow([1.0, 0.3], std=[0.5, 0.2]), GaussianFlow([0.0, 1.0], cov=[[0.5, 0.3], [0.3, 0.4]])]
)
def test_the_solution_of_a_gaussian_solves_its_equation(flow: GaussianFlow) -> None:
    x1 = flow.noise([0, 1, 2])
    for sigma in (0.9, 0.5, 0.02):
        at = flow.solution(x1, 1.0, sigma)
        up, down = flow.solution(x1, 1.0, sigma + 1e-5), flow.solution(x1, 1.0, sigma - 1e-5)
        assert torch.allclose((up - down) / 2e-5, flow.velocity(at, full(at, sigma)), atol=1e-6)
        assert torch.allclose(flow.solution(at, sigma, 1.0), x1, atol=1e-12)


def test_one_gaussian_and_a_mixture_of_one_component_are_the_same_flow() -> None:
    single = MixtureFlow([[1.0, -0.5]], [[0.4, 0.7]])
    gaussian = GaussianFlow([1.0, -0.5], std=[0.4, 0.7])
    x = single.noise([0, 1, 2])
    for sigma in (1.0, 0.5, 1e-3, 0.0):
        assert torch.allclose(single.velocity(x, full(x, sigma)), gaussian.velocity(x, full(x, sigma)), atol=1e-12)
    assert torch.allclose(single.solution(x), gaussian.solution(x), atol=1e-11)


def test_the_data_flow_carries_noise_onto_its_points() -> None:
    points = [[-1.0, 0.0], [1.0, 0.5], [0.0, 2.0]]
    flow = DataFlow(points, floor=1e-4)
    x0 = fs.sample(flow.velocity, flow.noise(0, rows=16), fs.schedules.linear(200), "midpoint")
    assert torch.cdist(x0, flow.points).amin(dim=1).max() < 1e-3


def test_fields_are_finite_at_both_ends() -> None:
    for flow in (MixtureFlow.appendix_a(), GaussianFlow([0.0] * 3, std=0.5), DataFlow([[0.0, 1.0], [1.0, 0.0]])):
        x = flow.noise([0])
        for sigma in (0.0, 1.0):
            assert torch.isfinite(flow.velocity(x, full(x, sigma))).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_reference_covers_its_true_error(dtype: torch.dtype) -> None:
    """On random mixtures, whose solution DOP853 of scipy knows to 1e-13; float32 asks the field in float32."""
    covered = total = 0
    for seed in range(40):
        flow = MixtureFlow.random(seed, dim=2 + seed % 5, components=1 + seed % 4)
        x1 = flow.noise([seed, seed + 1])
        ref = solve(flow, x1.to(dtype), max_evaluations=1600)
        true = relative_error(ref.x0, flow.solution(x1.to(dtype).double()))
        covered += int((true <= ref.error).sum())
        total += len(true)
    assert covered >= 0.99 * total


def test_the_reference_covers_its_error_when_the_budget_is_small() -> None:
    flow = MixtureFlow.appendix_a()
    x1 = flow.noise(list(range(6)))
    ref = solve(flow, x1, max_evaluations=150)
    assert ref.steps == 8
    assert (relative_error(ref.x0, flow.solution(x1)) <= ref.error).all()


def test_the_reference_says_when_it_cannot_be_made() -> None:
    flow = MixtureFlow.appendix_a()
    with pytest.raises(ValueError, match="max_evaluations=10: two resolutions need at least"):
        solve(flow, flow.noise([0]), max_evaluations=10)

    class Broken:
        def velocity(self, x, sigma, condition=None):
            return x * torch.nan

    with pytest.raises(FloatingPointError, match="not finite"):
        solve(Broken(), flow.noise([0]))


def test_flows_open_by_name_and_bad_input_is_named() -> None:
    assert torch.equal(load_flow("mixture:3").means, MixtureFlow.random(3).means)
    assert np.allclose(load_flow("mixture").means, MixtureFlow.appendix_a().means)
    for call, message in (
        (lambda: load_flow("mixture:nope"), "unknown mixture 'nope': accepted are appendix-a"),
        (lambda: load_flow("mixture", device="cuda"), "device: a mixture has no such option"),
        (lambda: GaussianFlow([0.0]), "give exactly one"),
        (lambda: GaussianFlow([0.0], cov=[[1.0, 0.0], [0.0, 1.0]]), "cov of shape"),
        (lambda: MixtureFlow([0.0], [1.0]), "means of shape"),
        (lambda: MixtureFlow([[0.0]], [0.0]), "positive"),
        (lambda: DataFlow([0.0]), "points of shape"),
        (lambda: DataFlow([[0.0]], floor=0), "floor=0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
