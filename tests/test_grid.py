"""What is done with a grid: ends, sums, and what undoes what."""

from __future__ import annotations

import inspect
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import flowsamplers as fs
from flowsamplers import SigmaGrid, schedules
from flowsamplers.testing import laws, strategies

EPS = torch.finfo(torch.float64).eps


def directed_grids() -> st.SearchStrategy[SigmaGrid]:
    """Falling grids, and the same rising."""
    return st.builds(lambda grid, up: grid.reversed() if up else grid, strategies.grids(), st.booleans())


def changed(grid: SigmaGrid) -> list[SigmaGrid]:
    """Every grid that a combinator makes of this one."""
    out = [
        grid.split_last(3),
        grid.truncate(0.6),
        grid.floor(0.3 * max(grid.start, grid.end)),
        grid.refined(2),
        grid.reversed(),
    ]
    if grid.steps > 1:
        out += grid.split(grid.steps // 2)
        out.append(grid.split(1)[0].concatenate(grid.split(1)[1]))
    if not grid.rising:
        out.append(grid.stretch_terminal(grid.end + 0.5 * (1 - grid.end)) if grid.end < 1 else grid)
    return out


@given(grid=directed_grids())
def test_whatever_is_done_with_a_grid_its_dt_sum_to_end_minus_start(grid: SigmaGrid) -> None:
    for made in changed(grid):
        laws.stored_dt_sum_to_end_minus_start(made)
        laws.applied_dt_sum_to_end_minus_start("euler", made)
        assert all((b > a) == made.rising for a, b in pairwise(made.sigmas))


@given(grid=directed_grids(), at=st.floats(0, 1))
def test_splitting_and_concatenating_changes_nothing(grid: SigmaGrid, at: float) -> None:
    assume(grid.steps > 1)
    index = 1 + int(at * (grid.steps - 2))
    high, low = grid.split(index)
    assert high.concatenate(low) == grid
    assert (high.steps, low.steps) == (index, grid.steps - index)
    assert (high.start, low.end, high.end) == (grid.start, grid.end, low.start)


@given(grid=directed_grids(), parts=st.integers(1, 5), more=st.integers(1, 5))
def test_split_last_cuts_the_last_interval_alone(grid: SigmaGrid, parts: int, more: int) -> None:
    made = grid.split_last(parts)
    assert made.steps == grid.steps + parts - 1
    assert made.sigmas[: grid.steps] == grid.sigmas[:-1]
    assert made.dt[-parts:] == pytest.approx([grid.dt[-1] / parts] * parts, abs=4 * EPS)
    assert grid.split_last(1) == grid
    if grid.steps > 1:
        high, low = grid.split(grid.steps - 1)
        assert made == high.concatenate(low.refined(parts))
        assert made == high.concatenate(low.split_last(parts))
    # Cutting the last of the parts again leaves those before it.
    assert made.split_last(more).sigmas[: made.steps] == made.sigmas[:-1]


@given(grid=directed_grids(), strength=st.floats(0.01, 1), less=st.floats(0.01, 1))
def test_truncating_leaves_the_end_of_the_grid_and_more_strength_leaves_more(
    grid: SigmaGrid, strength: float, less: float
) -> None:
    made = grid.truncate(strength)
    assert made.sigmas == grid.sigmas[grid.steps - made.steps :]
    assert grid.truncate(min(strength, less)).steps <= made.steps
    assert grid.truncate(1.0) == grid
    assert made.steps - 1 <= max(grid.steps * strength, 1) <= made.steps + 1


@pytest.mark.parametrize("steps", [1, 2, 4, 7, 10, 28, 50])
@given(strength=st.floats(0.001, 1))
def test_truncate_is_the_rule_of_diffusers_pipelines(steps: int, strength: float) -> None:
    pipelines = pytest.importorskip("diffusers.pipelines.flux2.pipeline_flux2_klein_inpaint")
    rule = pipelines.Flux2KleinInpaintPipeline.get_timesteps
    scheduler = SimpleNamespace(timesteps=list(range(steps)), order=1)
    timesteps, count = rule(SimpleNamespace(scheduler=scheduler), steps, strength, "cpu")
    made = schedules.linear(steps).truncate(strength)
    assert list(inspect.signature(rule).parameters)[1:] == ["num_inference_steps", "strength", "device"]
    if count:
        assert made.steps == count == len(timesteps)
        assert made.start == schedules.linear(steps).sigmas[timesteps[0]]
    else:  # stock then has nothing to do and fails; a run here has at least the last step
        assert made.steps == 1


@given(steps=st.integers(1, 40), share=st.floats(0.05, 1), name=st.sampled_from(["linear", "flux2", "simple", "bong_tangent"]))
def test_denoise_has_as_many_steps_as_asked_for_and_ends_as_the_finer_schedule_does(
    steps: int, share: float, name: str
) -> None:
    made = schedules.denoise(name, steps, share)
    assert made.steps == steps
    assert made.end == 0
    fine = fs.get_schedule(name, int(steps / share) if share <= 0.9999 else steps)
    assert made.sigmas == fine.sigmas[-steps - 1 :]
    assert schedules.denoise(name, steps, 1.0) == fs.get_schedule(name, steps)


def test_the_three_rules_of_image_to_image_begin_at_different_sigmas() -> None:
    grid = schedules.linear(10)
    assert grid.truncate(0.55).start == 0.6
    assert schedules.denoise("linear", 10, 0.55).start == pytest.approx(10 / 18)
    assert grid.split(10 - round(10 * 0.55))[1].start == 0.6
    assert grid.split(10 - round(10 * 0.45))[1].start == 0.4
    assert grid.truncate(0.45).start == 0.5


@given(grid=strategies.grids(), terminal=st.floats(0.01, 0.9), other=st.floats(0.01, 0.9))
def test_stretching_puts_the_last_inner_node_where_it_is_wanted(grid: SigmaGrid, terminal: float, other: float) -> None:
    assume(grid.start == 1 and grid.end == 0 and grid.steps > 1 and grid.sigmas[-2] < 0.999)
    made = grid.stretch_terminal(terminal)
    assert (made.start, made.sigmas[-2], made.end) == (1.0, terminal, 0.0)
    spaced = schedules.stretch_terminal(grid.sigmas[:-1], terminal)
    assert made.sigmas[:-1] == pytest.approx(spaced.tolist(), abs=4 * EPS / (1 - grid.sigmas[-2]))
    # Two stretches are the last of them.
    assert made.stretch_terminal(other).sigmas == pytest.approx(grid.stretch_terminal(other).sigmas, abs=1e3 * EPS)
    stock = schedules.flow_match_euler(sigmas=grid.sigmas[:-1], shift_terminal=terminal, arithmetic="float64")
    assert made.sigmas == pytest.approx(stock.sigmas, abs=1e3 * EPS)


@given(grid=directed_grids(), low=st.floats(0, 1), high=st.floats(0, 1))
def test_a_floor_keeps_the_ends_and_the_higher_of_two_floors_wins(grid: SigmaGrid, low: float, high: float) -> None:
    assume(max(low, high) < max(grid.start, grid.end))
    made = grid.floor(low)
    assert (made.start, made.end) == (grid.start, grid.end)
    assert all(s >= low for s in made.sigmas[1:-1])
    assert made.floor(low) == made
    assert made.floor(high) == grid.floor(max(low, high))
    assert [s for s in made.sigmas if s > low] == [s for s in grid.sigmas if s > low]
    assert grid.floor(low).reversed() == grid.reversed().floor(low)


@given(grid=directed_grids(), parts=st.integers(1, 4), more=st.integers(1, 4))
def test_refining_twice_is_refining_by_the_product(grid: SigmaGrid, parts: int, more: int) -> None:
    twice = grid.refined(parts).refined(more)
    assert twice.sigmas == pytest.approx(grid.refined(parts * more).sigmas, abs=8 * EPS)
    assert twice.sigmas[:: parts * more] == pytest.approx(grid.sigmas, abs=EPS)
