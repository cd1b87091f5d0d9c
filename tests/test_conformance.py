"""The whole registry passes through the public classes that users inherit."""

from __future__ import annotations

import pytest

import flowsamplers as fs
from fields import EVERY_VARIANT, name_of
from flowsamplers.testing import SamplerConformance, ScheduleConformance, laws

OF_NOISE = (
    laws.seeds_determine_the_result,
    laws.noise_is_drawn_anew_for_every_step,
    laws.permutations_of_rows_commute,
    laws.rows_do_not_see_each_other,
    laws.data_points_keep_their_noise_level,
    laws.marginals_are_kept_as_declared,
    laws.variances_have_the_declared_weak_order,
)


class TestEverySampler(SamplerConformance):
    @pytest.fixture(params=[s for _, s in EVERY_VARIANT], ids=[name_of(*variant) for variant in EVERY_VARIANT])
    def subject(self, request):
        return request.param

    def test_law(self, subject) -> None:
        """All laws in one test, where the class has one each: many do not apply, and there are sixty samplers.

        Of a stochastic sampler with its noise on, as it is by default, no law of noise is left out but the weak order of `lcm`.
        """
        broken, left_out = [], []
        for law in laws.SAMPLER_LAWS:
            try:
                law(subject)
            except laws.NotApplicable:
                left_out.append(law)
            except Exception as error:
                error.add_note(law.__name__)
                broken.append(error)
        if broken:
            raise ExceptionGroup(f"{len(broken)} laws are broken", broken)
        if subject.stochastic:
            none = [laws.variances_have_the_declared_weak_order] if type(subject) is type(fs.get_sampler("lcm")) else []
            assert [law for law in OF_NOISE if law in left_out] == none


def names(*, complete: bool, exact_steps: bool = True) -> list[str]:
    """Registered schedules and presets, by what their metadata declare."""
    infos = [i for i in fs.list_schedules() if (i.complete, i.exact_steps) == (complete, exact_steps)]
    return [name for i in infos for name in (i.name, *i.presets)]


class Unshifted(ScheduleConformance):
    """These claim no static shift."""

    test_its_shift_is_applied_once = None


class TestShift(ScheduleConformance):
    shift = 3.0

    @pytest.fixture
    def build(self):
        return lambda steps: fs.schedules.shift(steps, shift=3.0)


class TestEverySchedule(Unshifted):
    @pytest.fixture(params=names(complete=True))
    def build(self, request):
        return lambda steps: fs.get_schedule(request.param, steps)


class Incomplete(Unshifted):
    complete = False
    test_it_runs_from_noise_to_data = None


class TestEveryScheduleThatBeginsBelowNoise(Incomplete):
    @pytest.fixture(params=names(complete=False))
    def build(self, request):
        return lambda steps: fs.get_schedule(request.param, steps)


class TestEveryScheduleWithItsOwnNumberOfSteps(Incomplete):
    exact_steps = False

    @pytest.fixture(params=names(complete=False, exact_steps=False))
    def build(self, request):
        return lambda steps: fs.get_schedule(request.param, steps)


def test_every_schedule_is_in_one_of_these_classes() -> None:
    there = {*names(complete=True), *names(complete=False), *names(complete=False, exact_steps=False)}
    assert there == {name for i in fs.list_schedules() for name in (i.name, *i.presets)}


class TestFlux2(Unshifted):
    """At a fixed mu, as studies have it."""

    @pytest.fixture(params=[0.5, 2.3])
    def build(self, request):
        return lambda steps: fs.schedules.flux2(steps, mu=request.param)


class TestFlowMatchEulerAlone(Unshifted):
    """Without explicit sigmas."""

    @pytest.fixture
    def build(self):
        return lambda steps: fs.schedules.flow_match_euler(steps, shift=3.0)
