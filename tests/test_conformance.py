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


class TestEverySchedule(ScheduleConformance):
    @pytest.fixture(params=[i.name for i in fs.list_schedules() if i.name not in ("flow_match_euler", "flux2")])
    def build(self, request):
        return lambda steps: fs.get_schedule(request.param, steps)


class TestFlux2(ScheduleConformance):
    """At a fixed mu: the empirical one degenerates with hundreds of steps."""

    @pytest.fixture(params=[0.5, 2.3])
    def build(self, request):
        return lambda steps: fs.schedules.flux2(steps, mu=request.param)


class TestFlowMatchEulerAlone(ScheduleConformance):
    """Without explicit sigmas."""

    @pytest.fixture
    def build(self):
        return lambda steps: fs.schedules.flow_match_euler(steps, shift=3.0)
