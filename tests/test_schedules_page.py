"""The schedules' page is what its tool writes, and its numbers come out again."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

import flowsamplers as fs
from flowsamplers.flows import MixtureFlow

pytest.importorskip("matplotlib")
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_schedules", ROOT / "tools" / "build_schedules.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_its_tool_writes(tool: ModuleType) -> None:
    assert tool.page() == tool.PAGE.read_text(), "python tools/build_schedules.py --page"
    assert tool.PLOT.is_file()


def test_every_complete_schedule_is_measured_and_every_schedule_has_its_row(tool: ModuleType) -> None:
    rows = json.loads(tool.DATA.read_text())["rows"]
    assert {(r["schedule"], *r["options"]) for r in rows} == {(name, *options) for name, options in tool.candidates()}
    page = tool.PAGE.read_text()
    assert all(f"| [`{info.name}`](#" in page for info in tool.own())
    assert set(tool.FAMILIES) == {info.family for info in tool.own()}


def test_its_numbers_come_out_again(tool: ModuleType) -> None:
    flow = MixtureFlow.four_gaussians()
    x = flow.noise(list(range(32)))
    truth = flow.solution(x)
    data = json.loads(tool.DATA.read_text())
    for row in data["rows"][::23]:
        grid = fs.get_schedule(row["schedule"], row["steps"], **row["options"])
        assert fs.nfe(row["sampler"], grid) == row["nfe"]
        error = (fs.sample(flow.velocity, x, grid, row["sampler"]) - truth).norm() / truth.norm()
        assert error.item() == pytest.approx(row["errors"][data["flows"].index("appendix-a")], rel=1e-3)
