"""The analytic flows are what they say, and the reference covers its error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
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


def oracle(x: np.ndarray, s: float) -> np.ndarray:
    """The velocity of the 8-D mixture as this project's notes have it, in numpy: v = E[n | x] - E[x0 | x]."""
    means = np.random.default_rng(0).normal(size=(4, 8))
    stds, weights = np.array([0.35, 0.5, 0.7, 0.45]), np.array([0.3, 0.3, 0.2, 0.2])
    a = 1 - s
    variance = (a * stds) ** 2 + s * s
    d = x[:, None] - a * means[None]
    log = np.log(weights) - 4 * np.log(variance) - 0.5 * (d**2).sum(-1) / variance
    r = np.exp(log - log.max(1, keepdims=True))
    r /= r.sum(1, keepdims=True)
    data = (r[..., None] * (means[None] + (a * stds**2 / variance)[None, :, None] * d)).sum(1)
    return (r[..., None] * ((s / variance)[None, :, None] * d)).sum(1) - data


@pytest.mark.parametrize("sigma", [1.0, 0.9, 0.5, 0.1, 1e-3, 0.0])
def test_four_gaussians_are_the_oracle_to_the_last_digits(sigma: float) -> None:
    """To 1e-13, so every constant of it is a float64: weights rounded to float32 are off by 2e-8."""
    flow = MixtureFlow.four_gaussians()
    x = flow.noise(0, rows=64)
    assert np.abs(flow.velocity(x, full(x, sigma)).numpy() - oracle(x.numpy(), sigma)).max() < 1e-13


@pytest.mark.parametrize("sigma", [0.9, 0.5, 0.2])
@pytest.mark.parametrize("point", [-1.3, 0.2, 2.0])
def test_the_velocity_is_the_mean_of_noise_minus_data_by_quadrature(sigma: float, point: float) -> None:
    """From p(x0) p(x | x0) alone, in one dimension; nothing of the closed forms is used."""
    means, stds, weights = [-1.0, 0.5, 1.5], [0.3, 0.6, 0.2], [0.2, 0.5, 0.3]

    x0 = np.linspace(-9, 9, 20001)  # the trapezoidal rule is exact to rounding for integrands so smooth and so narrow

    def posterior_mean(means: list[float], stds: list[float], weights: list[float]) -> float:
        prior = sum(w / c * np.exp(-0.5 * ((x0 - m) / c) ** 2) for m, c, w in zip(means, stds, weights, strict=True))
        joint = prior * np.exp(-0.5 * ((point - (1 - sigma) * x0) / sigma) ** 2)
        return (x0 * joint).sum() / joint.sum()

    x = torch.tensor([[point]], dtype=torch.float64)
    for flow, parts in (
        (MixtureFlow([[m] for m in means], stds, weights), (means, stds, weights)),
        (GaussianFlow(means[:1], std=stds[0]), (means[:1], stds[:1], [1.0])),
    ):
        data = posterior_mean(*parts)
        noise = (point - (1 - sigma) * data) / sigma
        assert flow.velocity(x, full(x, sigma)).item() == pytest.approx(noise - data, abs=1e-11)


def test_a_data_set_is_a_mixture_of_vanishing_width() -> None:
    points = [[-1.0, 0.0], [1.0, 0.5], [0.0, 2.0]]
    data, narrow = DataFlow(points), MixtureFlow(points, [1e-6] * 3)
    x = data.noise(0, rows=16)
    for sigma in (1.0, 0.7, 0.3, 0.05):
        assert torch.allclose(data.velocity(x, full(x, sigma)), narrow.velocity(x, full(x, sigma)), atol=1e-6)


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


def test_the_solution_of_a_gaussian_is_that_of_scipy() -> None:
    flow = GaussianFlow([0.4, -1.0, 0.2], cov=[[0.5, 0.3, 0.0], [0.3, 0.4, -0.1], [0.0, -0.1, 0.9]])
    x1 = flow.noise([0, 1, 2])

    def field(s: float, flat: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(flat).reshape(3, 3)
        return flow.velocity(x, full(x, s)).reshape(-1).numpy()

    for start, end in ((1.0, 0.0), (0.8, 0.1), (0.0, 1.0)):
        run = solve_ivp(field, (start, end), x1.reshape(-1).numpy(), method="DOP853", rtol=1e-13, atol=1e-13)
        assert np.abs(flow.solution(x1, start, end).reshape(-1).numpy() - run.y[:, -1]).max() < 1e-11


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


def test_fields_are_right_at_both_ends() -> None:
    """At sigma 1, x is the noise and says nothing of the data; at sigma 0, x is the data and says nothing of the noise."""
    mixture, gaussian = MixtureFlow.random(4), GaussianFlow([1.0, -2.0], std=[0.5, 0.1])
    for flow, mean in ((mixture, mixture.weights @ mixture.means), (gaussian, gaussian.mean)):
        x = flow.noise([0, 1])
        assert torch.allclose(flow.velocity(x, full(x, 1.0)), x - mean, atol=1e-13)
        assert torch.allclose(flow.velocity(x, full(x, 0.0)), -x, atol=1e-13)


@given(seed=st.integers(0, 50), sigma=st.floats(0, 1))
def test_fields_turn_with_their_data(seed: int, sigma: float) -> None:
    """Unit normal noise has no preferred axes: turned data make a turned field."""
    rng = np.random.default_rng(seed)
    turn = torch.from_numpy(np.linalg.qr(rng.normal(size=(3, 3)))[0])
    root = torch.from_numpy(rng.normal(size=(3, 3)))
    points, cov = torch.from_numpy(rng.normal(size=(4, 3))), root @ root.T + 0.1 * torch.eye(3, dtype=torch.float64)
    x = torch.from_numpy(rng.normal(size=(5, 3)))
    for flow, turned in (
        (GaussianFlow(points[0], cov=cov), GaussianFlow(turn @ points[0], cov=turn @ cov @ turn.T)),
        (MixtureFlow(points, [0.3, 0.5, 0.4, 0.8]), MixtureFlow(points @ turn.T, [0.3, 0.5, 0.4, 0.8])),
        (DataFlow(points, floor=0.1), DataFlow(points @ turn.T, floor=0.1)),
    ):
        expected = flow.velocity(x, full(x, sigma)) @ turn.T
        assert torch.allclose(turned.velocity(x @ turn.T, full(x, sigma)), expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_does_not_depend_on_its_batch_and_keeps_its_dtype(dtype: torch.dtype) -> None:
    sigma = torch.tensor([1.0, 0.6, 0.1, 0.0], dtype=dtype)
    for flow in (MixtureFlow.four_gaussians(), GaussianFlow([0.3] * 3, std=0.5), DataFlow([[0.0, 1.0], [1.0, 0.0]])):
        x = flow.noise([0, 1, 2, 3], dtype=dtype)
        together = flow.velocity(x, sigma)
        alone = torch.cat([flow.velocity(x[i : i + 1], sigma[i : i + 1]) for i in range(4)])
        assert together.dtype == dtype
        assert torch.allclose(together, alone, rtol=64 * torch.finfo(dtype).eps, atol=64 * torch.finfo(dtype).eps)


def test_fields_are_finite_at_both_ends() -> None:
    for flow in (MixtureFlow.four_gaussians(), GaussianFlow([0.0] * 3, std=0.5), DataFlow([[0.0, 1.0], [1.0, 0.0]])):
        x = flow.noise([0])
        for sigma in (0.0, 1.0):
            assert torch.isfinite(flow.velocity(x, full(x, sigma))).all()


def test_the_reference_covers_its_true_error() -> None:
    """On random mixtures, whose solution DOP853 of scipy knows to 1e-13; float32 asks the field in float32."""
    covered, total = {torch.float32: 0, torch.float64: 0}, 0
    for seed in range(4):
        flow = MixtureFlow.random(seed, dim=2 + seed, components=1 + seed)
        x1 = flow.noise(range(10 * seed, 10 * seed + 10)).float()
        truth = flow.solution(x1.double())
        for dtype in covered:
            ref = solve(flow, x1.to(dtype), max_evaluations=800)
            covered[dtype] += int((relative_error(ref.x0, truth) <= ref.error).sum())
        total += len(truth)
    assert min(covered.values()) >= 0.99 * total


def test_the_reference_covers_its_error_when_the_budget_is_small() -> None:
    flow = MixtureFlow.four_gaussians()
    x1 = flow.noise(list(range(6)))
    ref = solve(flow, x1, max_evaluations=250)
    assert ref.steps == 8
    assert (relative_error(ref.x0, flow.solution(x1)) <= ref.error).all()


def test_the_reference_says_when_it_cannot_be_made() -> None:
    flow = MixtureFlow.four_gaussians()
    with pytest.raises(ValueError, match="max_evaluations=10: two resolutions need at least"):
        solve(flow, flow.noise([0]), max_evaluations=10)

    class Broken:
        def velocity(self, x, sigma, condition=None):
            return x * torch.nan

    with pytest.raises(FloatingPointError, match="not finite"):
        solve(Broken(), flow.noise([0]))


def test_flows_open_by_name() -> None:
    assert torch.equal(load_flow("mixture:3").means, MixtureFlow.random(3).means)
    assert np.allclose(load_flow("mixture").means, MixtureFlow.four_gaussians().means)
