"""The reference is another method than any sampler, says what it cost, and its error covers the truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import flowsamplers as fs
from flowsamplers.flows import GaussianFlow, MixtureFlow
from flowsamplers.reference import BEST, DormandPrince8, relative_error, solve


def random_gaussian(seed: int) -> GaussianFlow:
    """In 2 to 8 dimensions, with a full covariance."""
    rng = np.random.default_rng(seed)
    dim = int(rng.integers(2, 9))
    root = rng.normal(size=(dim, dim))
    return GaussianFlow(rng.normal(size=dim) * rng.uniform(0.3, 3), cov=torch.from_numpy(root @ root.T / dim))


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


@pytest.mark.parametrize("budget", [250, 700, 3200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_error_covers_the_closed_form_on_gaussians_at_every_budget(dtype: torch.dtype, budget: int) -> None:
    covered = total = 0
    for seed in range(60):
        flow = random_gaussian(seed)
        x1 = flow.noise([2 * seed, 2 * seed + 1], dtype=dtype)
        ref = solve(flow, x1, max_evaluations=budget)
        true = relative_error(ref.x0, flow.solution(x1.double()))
        covered += int((true <= ref.error).sum())
        total += len(true)
    assert covered >= 0.99 * total


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
    flow = MixtureFlow.appendix_a()
    x1 = flow.noise([0, 1])
    loose, tight = solve(flow, x1, tol=1e-4), solve(flow, x1, tol=1e-9)
    assert loose.evaluations < tight.evaluations
    assert (loose.error <= 1e-4).all()
    assert (tight.error <= 1e-9).all()
