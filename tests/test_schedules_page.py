"""The schedules' page has every schedule, and its numbers come out again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import flowsamplers as fs
from flowsamplers.flows import MixtureFlow
from tooling import AFTER_A_SCHEDULE, tool

pytest.importorskip("matplotlib")
ROOT = Path(__file__).parent.parent


TOOL = tool("build_schedules")


def test_every_complete_schedule_is_measured_and_every_schedule_has_its_row() -> None:
    rows = json.loads(TOOL.DATA.read_text())["rows"]
    there = {(name, *options) for name, options in TOOL.candidates()}
    assert {(r["schedule"], *r["options"]) for r in rows} == there, AFTER_A_SCHEDULE
    page = TOOL.PAGE.read_text()
    assert all(f"| [`{info.name}`](#" in page for info in TOOL.own()), AFTER_A_SCHEDULE
    assert set(TOOL.FAMILIES) == {info.family for info in TOOL.own()}


def test_its_numbers_come_out_again() -> None:
    flow = MixtureFlow.four_gaussians()
    x = flow.noise(list(range(32)))
    truth = flow.solution(x)
    data = json.loads(TOOL.DATA.read_text())
    for row in [r for r in data["rows"] if r["nfe"] == 8]:
        grid = fs.get_schedule(row["schedule"], row["steps"], **row["options"])
        assert fs.nfe(row["sampler"], grid) == row["nfe"]
        error = (fs.sample(flow.velocity, x, grid, row["sampler"]) - truth).norm() / truth.norm()
        assert error.item() == pytest.approx(row["errors"][data["flows"].index("four-gaussians")], rel=1e-3), row
