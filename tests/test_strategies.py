"""What the strategies draw is what they say, and it shrinks to cases that a person can read."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st

import flowsamplers as fs
from flowsamplers.samplers import Heun
from flowsamplers.testing import laws, strategies

few = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize(
    ("strategy", "wanted", "smallest"),
    [
        (strategies.grids(), lambda g: g.steps >= 3, fs.schedules.linear(3)),
        (strategies.grids(), lambda g: True, fs.schedules.linear(1)),
        (strategies.steps(), lambda n: n > 100, 101),
        (strategies.image_sizes(), lambda s: True, (16, 16)),
        (strategies.token_counts(), lambda n: n > 4300, 4301),
        (strategies.dtypes(), lambda d: True, torch.float64),
        (strategies.seeds(), lambda s: True, 0),
        (strategies.shapes(), lambda s: len(s) == 4, (1, 1, 1, 1)),
    ],
)
def test_they_shrink_to_the_smallest_case(strategy, wanted, smallest) -> None:
    assert find(strategy, wanted, settings=settings(database=None, derandomize=True)) == smallest


def test_a_sampler_shrinks_to_the_simplest_that_fails() -> None:
    """Of all samplers with all options, the first of the registry that has the property, with its first options."""
    multistep = find(strategies.samplers(), lambda s: s.multistep, settings=settings(database=None, derandomize=True))
    assert multistep == fs.get_sampler("ab2")


@few
@given(field=strategies.smooth_fields(), x=strategies.seeds(), y=strategies.seeds(), sigma=st.floats(0, 1))
def test_a_smooth_field_keeps_its_lipschitz_constant(field, x: int, y: int, sigma: float) -> None:
    points = [torch.randn(8, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in (x, y)]
    a, b = (field(p, torch.full((8,), sigma, dtype=torch.float64)) for p in points)
    apart = (points[0] - points[1]).norm(dim=1)
    assert ((a - b).norm(dim=1) <= field.lipschitz * apart * (1 + 1e-12)).all()


@few
@given(flow=strategies.analytic_flows(), seed=strategies.seeds())
def test_an_analytic_flow_begins_with_its_mean_and_keeps_its_promise(flow, seed: int) -> None:
    """At sigma 1 the data prediction is the mean of the data, for every x; where the solution is known, Runge-Kutta finds it."""
    x1 = flow.noise([seed % 2**31, 1])
    one = torch.ones(2, dtype=torch.float64)
    data = x1 - flow.velocity(x1, one)
    assert torch.allclose(data[0], data[1], rtol=0, atol=1e-12)
    if isinstance(flow, fs.flows.GaussianFlow):
        x0 = fs.sample(flow.velocity, x1, fs.schedules.linear(200), "rk4")
        assert torch.allclose(x0, flow.solution(x1), rtol=0, atol=1e-5)


@few
@given(sampler=strategies.samplers(), grid=strategies.grids(6))
def test_any_sampler_with_any_options_survives_json_and_applies_its_dt(sampler, grid) -> None:
    assert fs.get_sampler(fs.to_config(sampler)) == sampler
    try:
        laws.applied_dt_sum_to_end_minus_start(sampler, grid)
    except laws.NotApplicable:
        assert sampler.stochastic


@few
@given(x=strategies.tensors(dtype=strategies.dtypes()))
def test_tensors_of_any_shape_and_dtype_run_to_the_end(x) -> None:
    x0 = fs.sample(lambda x, sigma: x, x, fs.schedules.linear(2), "heun")
    assert (x0.shape, x0.dtype) == (x.shape, x.dtype)


@pytest.mark.parametrize(("case", "hint"), [(Heun, r"Heun\(\.\.\.\)"), (lambda model, x, sigmas: x, "from_k_diffusion")])
def test_what_is_no_subject_is_refused_with_the_way_to_make_it_one(case, hint: str) -> None:
    with pytest.raises(TypeError, match=hint):
        laws.order_is_the_declared_one(case)
