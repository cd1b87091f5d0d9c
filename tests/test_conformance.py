"""The whole registry passes through the public classes that users inherit."""

from __future__ import annotations

import pytest

import flowsamplers as fs
from fields import EVERY_VARIANT
from flowsamplers.testing import SamplerConformance, ScheduleConformance


class TestEverySampler(SamplerConformance):
    @pytest.fixture(
        params=[s for _, s in EVERY_VARIANT], ids=lambda s: f"{fs.to_config(s)['name']}-{s.options.get('last', '')}"
    )
    def subject(self, request):
        return request.param


def names(*, complete: bool, exact_steps: bool = True) -> list[str]:
    """Registered schedules and presets, by what their metadata declare."""
    infos = [i for i in fs.list_schedules() if (i.complete, i.exact_steps) == (complete, exact_steps)]
    return [name for i in infos for name in (i.name, *i.presets)]


class TestEverySchedule(ScheduleConformance):
    @pytest.fixture(params=names(complete=True))
    def build(self, request):
        return lambda steps: fs.get_schedule(request.param, steps)


class TestEveryScheduleThatBeginsBelowNoise(ScheduleConformance):
    complete = False

    @pytest.fixture(params=names(complete=False))
    def build(self, request):
        return lambda steps: fs.get_schedule(request.param, steps)


class TestEveryScheduleWithItsOwnNumberOfSteps(ScheduleConformance):
    complete = False
    exact_steps = False

    @pytest.fixture(params=names(complete=False, exact_steps=False))
    def build(self, request):
        return lambda steps: fs.get_schedule(request.param, steps)


def test_every_schedule_is_in_one_of_these_classes() -> None:
    there = {*names(complete=True), *names(complete=False), *names(complete=False, exact_steps=False)}
    assert there == {name for i in fs.list_schedules() for name in (i.name, *i.presets)}


class TestFlux2(ScheduleConformance):
    """At a fixed mu, as studies have it."""

    @pytest.fixture(params=[0.5, 2.3])
    def build(self, request):
        return lambda steps: fs.schedules.flux2(steps, mu=request.param)


class TestFlowMatchEulerAlone(ScheduleConformance):
    """Without explicit sigmas."""

    @pytest.fixture
    def build(self):
        return lambda steps: fs.schedules.flow_match_euler(steps, shift=3.0)
