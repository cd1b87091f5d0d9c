"""Property-based tests for your own project: the step lengths of a run sum to end - start. `pytest examples/sum_of_dt.py`."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

import flowsamplers as fs
from flowsamplers.testing import strategies


@given(steps=st.integers(1, 64), tokens=st.integers(16, 8192))
def test_flux2_schedules_go_from_noise_to_data(steps, tokens):
    """The step lengths that a schedule lists sum to -1."""
    grid = fs.schedules.flux2(steps=steps, tokens=tokens)
    assert math.isclose(math.fsum(grid.dt), -1.0, abs_tol=1e-15)
    assert all(dt < 0 for dt in grid.dt)


@given(grid=strategies.grids(), sampler=st.sampled_from(["euler", "heun", "ab2", "fireflow", "dpmpp_2m"]))
def test_a_sampler_applies_all_of_the_schedule(grid, sampler):
    """With a constant velocity the result depends on the sum of the applied dt alone."""
    x0 = fs.sample(lambda x, sigma: torch.ones_like(x), torch.zeros(1, 3, dtype=torch.float64), grid, sampler)
    assert torch.allclose(x0, torch.full_like(x0, grid.end - grid.start), rtol=0, atol=1e-12)
