"""The reference is another method than any sampler, says what it cost, and its error covers the truth."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import flowsamplers as fs
from flowsamplers.flows import GaussianFlow, MixtureFlow
from flowsamplers.reference import BEST, DormandPrince8, Path, Reference, path, relative_error, solve


def random_gaussian(seed: int) -> GaussianFlow:
    """In 2 to 8 dimensions, with a full covariance."""
    rng = np.random.default_rng(seed)
    dim = int(rng.integers(2, 9))
    root = rng.normal(size=(dim, dim))
    return GaussianFlow(rng.normal(size=dim) * rng.uniform(0.3, 3), cov=torch.from_numpy(root @ root.T / dim))


class Gaussians:
    """Many flows as one, so that they share their model calls: as many rows of each in every call.

    All have eight dimensions here. Those that a flow does not have are unit normal and apart from the others: at 0 they stay there.
    """

    def __init__(self, flows: Sequence[GaussianFlow], dtype: torch.dtype) -> None:
        def wide(t: Tensor, like: Tensor) -> Tensor:
            like[tuple(slice(n) for n in t.shape)] = t
            return like

        self.mean = torch.stack([wide(f.mean, torch.zeros(8).double()) for f in flows]).to(dtype)[:, None]
        self.variance = torch.stack([wide(f.std, torch.ones(8).double()) for f in flows]).to(dtype)[:, None] ** 2
        self.basis = torch.stack([wide(f.basis, torch.eye(8).double()) for f in flows]).to(dtype)

    def velocity(self, x: Tensor, sigma: Tensor, condition: Sequence[Any] | None = None) -> Tensor:
        x, s = x.unflatten(0, (len(self.basis), -1)), sigma.to(x).reshape(len(self.basis), -1, 1)
        slope = (s - (1 - s) * self.variance) / ((1 - s) ** 2 * self.variance + s**2)
        v = (((x - (1 - s) * self.mean) @ self.basis) * slope) @ self.basis.mT - self.mean
        return v.flatten(0, 1)


class Decay:
    """dx/dsigma = c x with the row's condition c: x0 = exp(-c) x1. Remembers what it was asked with."""

    def __init__(self) -> None:
        self.dtypes: set[torch.dtype] = set()
        self.calls = 0

    def velocity(self, x: Tensor, sigma: Tensor, condition: Sequence[Any] | None = None) -> Tensor:
        self.dtypes.add(x.dtype)
        self.calls += 1
        assert condition is not None
        return x * x.new_tensor([1.0 if c is None else c for c in condition]).reshape(-1, *[1] * (x.ndim - 1))


@pytest.mark.parametrize(
    ("dtype", "budget"),
    [(torch.float32, 250), (torch.float32, 1600), (torch.float64, 250), (torch.float64, 700), (torch.float64, 1600)],
)
def test_the_error_covers_the_closed_form_on_gaussians_at_every_budget(dtype: torch.dtype, budget: int) -> None:
    flows, rows = [random_gaussian(seed) for seed in range(15)], 2
    starts = [flow.noise(range(rows * i, rows * (i + 1)), dtype=dtype) for i, flow in enumerate(flows)]
    x1 = torch.cat([torch.nn.functional.pad(x, (0, 8 - x.shape[1])) for x in starts])
    ref = solve(Gaussians(flows, dtype), x1, max_batch=len(x1), max_evaluations=budget)
    covered = 0
    for i, (flow, x) in enumerate(zip(flows, starts, strict=True)):
        own = slice(rows * i, rows * (i + 1))
        covered += int((relative_error(ref.x0[own, : flow.dim], flow.solution(x.double())) <= ref.error[own]).sum())
    assert covered >= 0.99 * len(x1)


def test_the_method_is_no_registered_sampler() -> None:
    """An error is measured against something that is not among what is measured."""
    tableaux = [getattr(info.factory, "tableau", None) for info in fs.list_samplers()]
    assert DormandPrince8 not in [info.factory for info in fs.list_samplers()]
    assert DormandPrince8.tableau not in tableaux


def test_each_row_has_its_own_condition_in_any_shape() -> None:
    x1 = torch.ones(3, 2, 4, 4, dtype=torch.float64)
    ref = solve(Decay(), x1, condition=[0.0, 1.0, 2.0])
    exact = torch.exp(-torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)).reshape(3, 1, 1, 1) * x1
    assert ref.x0.shape == x1.shape
    assert ref.error.shape == (3,)
    assert (relative_error(ref.x0, exact) <= ref.error).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_model_sees_its_dtype_and_the_state_is_float64(dtype: torch.dtype) -> None:
    flow = Decay()
    ref = solve(flow, torch.ones(2, 3, dtype=dtype))
    assert flow.dtypes == {dtype}
    assert ref.x0.dtype == torch.float64
    assert (ref.error >= max(8 * torch.finfo(dtype).eps, BEST)).all()


def test_evaluations_are_the_model_calls_of_rows_that_fit_one_batch() -> None:
    flow = Decay()
    seen: list[int] = []
    ref = solve(flow, torch.arange(10.0).reshape(5, 2) + 1, max_batch=5, on_call=seen.append)
    assert ref.evaluations == flow.calls == len(seen)
    assert set(seen) == {5}


@pytest.mark.parametrize("budget", [250, 400, 1000, 3200])
def test_the_budget_is_kept(budget: int) -> None:
    flow = MixtureFlow.random(1)
    ref = solve(flow, flow.noise([0, 1]), max_evaluations=budget, tol=0.0)
    assert ref.evaluations <= budget


def test_a_looser_tolerance_is_cheaper_and_kept() -> None:
    flow = MixtureFlow.four_gaussians()
    x1 = flow.noise([0, 1])
    loose, tight = solve(flow, x1, tol=1e-4), solve(flow, x1, tol=1e-9)
    assert loose.evaluations < tight.evaluations
    assert (loose.error <= 1e-4).all()
    assert (tight.error <= 1e-9).all()


class Network:
    """Networks whose every operation rounds to one dtype, with the same weights in all dtypes; as many rows of each in every call."""

    def __init__(self, count: int, dtype: torch.dtype, dim: int = 16, width: int = 64) -> None:
        shapes = [(dim + 2, width), (width, width), (width, dim)]
        made = [torch.Generator().manual_seed(seed) for seed in range(count)]
        exact = [torch.stack([torch.randn(*s, generator=g) / s[0] ** 0.5 for g in made]) for s in shapes]
        self.weights = [w.to(torch.float16).to(torch.bfloat16).to(dtype) for w in exact]  # exact in both halves
        self.dtype = dtype

    def velocity(self, x: Tensor, sigma: Tensor, condition: Sequence[Any] | None = None) -> Tensor:
        s = sigma.to(self.dtype)[:, None]
        h = torch.cat([x.to(self.dtype), torch.sin(3 * s), torch.cos(3 * s)], dim=1).unflatten(0, (len(self.weights[0]), -1))
        for w in self.weights[:-1]:
            h = torch.tanh(1.5 * (h @ w))
        return x.to(self.dtype) - 2 * (h @ self.weights[-1]).flatten(0, 1)


@cache
def network_truth() -> tuple[Tensor, Reference]:
    """Starts that are exact in both halves, and where they end."""
    rows = [torch.randn(2, 16, generator=torch.Generator().manual_seed(seed)) for seed in range(8)]
    x1 = torch.cat(rows).to(torch.float16).to(torch.bfloat16).float()
    truth = solve(Network(8, torch.float32), x1)
    assert (truth.error < 1e-4).all()
    return x1, truth


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_the_error_covers_the_truth_of_the_same_network_in_float32(dtype: torch.dtype) -> None:
    """Of eight networks with two rows each."""
    x1, truth = network_truth()
    ref = solve(Network(8, dtype), x1.to(dtype), max_evaluations=1000)
    assert (relative_error(ref.x0, truth.x0) <= ref.error).sum() >= 0.99 * len(x1)
    assert ref.error.median() < 4 * torch.finfo(dtype).eps, "an error that covers everything says nothing"


def test_rounding_inside_the_network_is_averaged_out_and_not_amplified() -> None:
    """What limits a run of order eight at 8 steps is a hundred times the spread that is left."""
    x1 = torch.randn(8, 16, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    network = Network(1, torch.bfloat16)
    ref = solve(network, x1, follow=2)
    assert "Cash-Karp" in ref.method
    assert ref.path is not None
    assert relative_error(ref.path(0.0), ref.x0[2:3]) <= ref.error[2]
    best = fs.sample(network.velocity, x1, fs.schedules.linear(64), "midpoint")
    assert (relative_error(best, ref.x0) < 0.03).all()


def test_a_flow_that_four_steps_do_not_resolve_is_solved_on() -> None:
    """A thin layer: the first differences do not fall, and that is no rounding."""

    class Layer:
        def velocity(self, x: Tensor, sigma: Tensor, condition: Sequence[Any] | None = None) -> Tensor:
            return x * (1 + 40 / torch.cosh(100 * (sigma[:, None] - 0.37)) ** 2)

    ref = solve(Layer(), torch.ones(1, 2, dtype=torch.float64), max_evaluations=20000)
    exact = -1 - 40 / 100 * (np.tanh(100 * 0.63) + np.tanh(100 * 0.37))
    assert relative_error(ref.x0, torch.full((1, 2), np.exp(exact), dtype=torch.float64)) <= ref.error
    assert ref.error < 1e-8


def test_states_and_velocities_at_given_nodes_are_the_exact_ones_within_their_error() -> None:
    flow = random_gaussian(3)
    x1 = flow.noise([0, 1, 2])
    nodes = [1.0, 0.9, 0.77, 0.5, 0.123, 0.01, 0.0]
    states, velocities, error = path(flow, x1, nodes)
    assert states.shape == velocities.shape == (len(nodes), 3, flow.dim)
    for s, x, v in zip(nodes, states, velocities, strict=True):
        assert (relative_error(x, flow.solution(x1, 1.0, s)) <= error).all()
        torch.testing.assert_close(v, flow.velocity(x, x.new_full((3,), s)))
    assert (error < 1e-8).all()
    assert torch.equal(states[-1], solve(flow, x1).x0)


def test_a_path_is_interpolated_where_it_lies_and_no_value_is_read() -> None:
    """On torch's meta device there are no values to read; a copy to the host at every step would hold up a GPU."""
    path = Path((1.0, 0.6, 0.2, 0.0), torch.empty(4, 2, 3, device="meta"), torch.empty(3, 2, 3, device="meta"))
    assert (path(0.5).shape, path(0.5).device.type) == ((1, 2, 3), "meta")
