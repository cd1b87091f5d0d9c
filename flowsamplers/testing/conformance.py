"""Test classes to inherit: define one fixture, and every law becomes a named test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowsamplers.grid import SigmaGrid
from flowsamplers.sampler import SamplerLike
from flowsamplers.testing import laws, strategies
from flowsamplers.testing.subject import Subject

_shared = settings(
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,  # a subject is a value: it is the same for every example
        HealthCheck.differing_executors,  # every class that inherits runs the same function
        HealthCheck.too_slow,
    ],
)


def holds(law: Callable[..., None], *args: Any) -> None:
    """Run a law; skip with its reason where it does not apply."""
    try:
        law(*args)
    except laws.NotApplicable as reason:
        pytest.skip(str(reason))


@pytest.mark.flowsamplers
class SamplerConformance:
    """Run every law of a sampler: inherit this in a test class named ``Test...`` and define the fixture ``subject``.

    Examples:
        >>> class TestMine(SamplerConformance):
        ...     @pytest.fixture
        ...     def subject(self):
        ...         return "heun"  # a sampler, its name or configuration, or a Subject
    """

    @pytest.fixture
    def subject(self) -> SamplerLike | Subject:
        """Return the sampler under test; override this fixture."""
        raise NotImplementedError("give a fixture named 'subject' that returns the sampler under test")

    @_shared
    @given(grid=strategies.grids(), dtype=strategies.dtypes(), value=st.integers(-4, 4))
    def test_the_dt_applied_sum_to_end_minus_start(self, subject: Any, grid: SigmaGrid, dtype: torch.dtype, value: int) -> None:
        """Test that the applied dt sum to end minus start, on any grid and in every dtype."""
        holds(laws.applied_dt_sum_to_end_minus_start, subject, grid, dtype, float(value))

    @_shared
    @given(grid=strategies.grids(12))
    def test_evaluations_on_any_grid(self, subject: Any, grid: SigmaGrid) -> None:
        """Test that a run makes exactly the model calls of its dry run."""
        holds(laws.evaluations_are_as_declared, subject, grid)

    @pytest.mark.parametrize("law", laws.SAMPLER_LAWS, ids=lambda law: law.__name__)
    def test_law(self, subject: Any, law: Callable[..., None]) -> None:
        """Test each law on its standard case."""
        holds(law, subject)


@pytest.mark.flowsamplers
class ScheduleConformance:
    """Run every law of a schedule: inherit this in a test class and define the fixture ``build``, a function ``steps -> SigmaGrid``."""

    complete = True
    """Whether the schedule runs from 1 to 0."""
    exact_steps = True
    """Whether the schedule always has the requested number of steps."""
    shift: float | None = None
    """The static shift, if the schedule is a shifted uniform grid; else None."""

    @pytest.fixture
    def build(self) -> Callable[[int], SigmaGrid]:
        """Return the schedule under test; override this fixture."""
        raise NotImplementedError("give a fixture named 'build' that returns a function steps -> SigmaGrid")

    @_shared
    @given(steps=strategies.steps())
    def test_it_is_sound(self, build: Callable[[int], SigmaGrid], steps: int) -> None:
        """Test that the nodes are finite and strictly monotone, and that their number is right."""
        laws.a_schedule_is_sound(build, steps, exact_steps=self.exact_steps)

    @_shared
    @given(steps=strategies.steps())
    def test_its_dt_sum_to_end_minus_start(self, build: Callable[[int], SigmaGrid], steps: int) -> None:
        """Test that the stored dt sum to end minus start."""
        laws.stored_dt_sum_to_end_minus_start(build(steps))

    @_shared
    @given(steps=strategies.steps())
    def test_it_runs_from_noise_to_data(self, build: Callable[[int], SigmaGrid], steps: int) -> None:
        """Test that the schedule runs from 1 to exactly 0."""
        if not self.complete:
            pytest.skip("the class says that this schedule is not complete")
        laws.a_schedule_runs_from_noise_to_data(build, steps)

    @_shared
    @given(steps=strategies.steps(64))
    def test_its_shift_is_applied_once(self, build: Callable[[int], SigmaGrid], steps: int) -> None:
        """Test that the odds of every node are those of the uniform grid times the shift."""
        if self.shift is None:
            pytest.skip("the class claims no static shift")
        laws.a_shift_multiplies_the_odds(build, steps, self.shift)

    def test_bad_steps_are_named(self, build: Callable[[int], SigmaGrid]) -> None:
        """Test that zero steps raise an error that names the argument."""
        laws.bad_steps_are_named(build)
