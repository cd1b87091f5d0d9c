"""The measurement on a GPU is rehearsed on the CPU, section by section."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")

import flowsamplers as fs
from flowsamplers.catalogue import unmeasured
from tooling import AFTER_A_SAMPLER, tool

REPORT = tool("gpu_report")
PLACE = REPORT.Place("cpu", tiny=True)
FOUND = json.loads(REPORT.DATA.read_text())
SAMPLERS = [i for i in fs.list_samplers() if not i.adaptive]


def rehearse(section: str, path: Path) -> list[dict[str, Any]]:
    found = REPORT.measure(PLACE, path / "gpu.json", [section], scale=10)
    assert json.loads((path / "gpu.json").read_text()) == found
    assert found["sections"][section]["ended"] == "complete"
    rows = found["sections"][section]["rows"]
    assert [r for r in rows if "error" in r] == []
    assert found["place"]["device"] in REPORT.measured(found)
    return rows


def test_every_sampler_carry_and_noise_is_watched_for_waits(tmp_path: Path) -> None:
    rows = rehearse("waits", tmp_path)
    seen = {(r["loop"], r["sampler"], r.get("carry"), r.get("noise")) for r in rows}
    for info in SAMPLERS:
        for noise in ("keyed", "stock") if info.stochastic else (None,):
            assert {("step", info.name, carry, noise) for carry in ("model", "float32", "float64")} <= seen
        assert ("sample", info.name, "float32", "keyed" if info.stochastic else None) in seen
    assert all(r["waits"] is None for r in rows)


def test_a_wait_is_written_down_and_another_error_is_not_taken_for_one() -> None:
    def wait() -> None:
        raise RuntimeError("called a synchronizing CUDA operation")

    def other() -> None:
        raise RuntimeError("shapes do not fit")

    assert REPORT.first_wait(PLACE, wait).startswith("RuntimeError: called a synchronizing CUDA operation (test_gpu_report.py:")
    with pytest.raises(RuntimeError, match="shapes"):
        REPORT.first_wait(PLACE, other)


def test_the_comparisons_hold_on_the_cpu_itself(tmp_path: Path) -> None:
    rows = rehearse("correctness", tmp_path)
    assert {r.get("sampler") for r in rows} - {None} == {i.name for i in SAMPLERS}
    assert all(r["right"] for r in rows)


@pytest.mark.parametrize("section", ["call_times", "memory", "studies", "fitting", "compiled", "offload", "rounding_of_time"])
def test_a_section_is_rehearsed(section, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("flowsamplers.study.report.write", lambda *_: None)  # no figures of the studies
    rows = rehearse(section, tmp_path)
    assert rows
    assert all(r.get("right", True) for r in rows)
    if section == "compiled":
        assert {r["graphs"] for r in rows} == {1}
    if section == "studies":
        assert {r["ok"] - r["rows"] for r in rows if "ok" in r} == {0}


@pytest.mark.slow
def test_the_tests_that_need_a_gpu_are_rehearsed(tmp_path: Path) -> None:
    (row,) = rehearse("tests", tmp_path)
    assert row["failures"] == {}
    assert row["passed"] > 100 if torch.cuda.is_available() else row["skipped"] == 1


def test_a_row_that_fails_says_why_and_a_section_that_fails_or_lasts_too_long_lets_the_next_one_run(
    tmp_path, monkeypatch
) -> None:
    closed = []

    def rows_fail(place):
        yield {"n": 1}, lambda: {}["no such thing"]
        yield {"n": 2}, lambda: {"m": 2}

    def fails(place):
        yield {"n": 1}, dict
        raise ValueError("no such thing")

    def lasts(place):
        try:
            yield {"n": 1}, dict
            yield {"n": 2}, lambda: time.sleep(60)
            yield {"n": 3}, dict
        finally:
            closed.append("lasts")

    def works(place):
        yield {"n": torch.finfo(torch.float32).eps}, dict

    sections = {"a": (rows_fail, 5), "b": (fails, 5), "c": (lasts, 1), "d": (works, 5), "e": (lasts, 60)}
    monkeypatch.setattr(REPORT, "SECTIONS", sections)
    REPORT.measure(PLACE, tmp_path / "gpu.json", list(sections), seconds=2)
    found = json.loads((tmp_path / "gpu.json").read_text())["sections"]
    assert [len(s["rows"]) for s in found.values()] == [2, 1, 2, 1, 2]
    assert [s["ended"].split(":")[0] for s in found.values()] == [
        "complete",
        "ValueError",
        "OutOfTimeError",
        "complete",
        "OutOfTimeError",
    ]
    assert found["a"]["rows"][0]["error"].startswith("KeyError: 'no such thing' (test_gpu_report.py:")
    assert found["a"]["rows"][1] == {"n": 2, "m": 2}
    assert found["c"]["rows"][1]["error"] == "not finished"
    assert closed == ["lasts", "lasts"]


def test_the_page_names_the_card_the_date_and_the_versions_of_the_file() -> None:
    text = REPORT.PAGE.read_text()
    for key in ("device", "date", "torch", "cuda", "diffusers"):
        assert FOUND["place"][key] in text
    assert FOUND["place"]["tiny"] is False


def test_what_fails_is_on_the_page() -> None:
    found = copy.deepcopy(FOUND)
    sections = found["sections"]
    sections["waits"]["rows"][0]["waits"] = "RuntimeError: called a synchronizing CUDA operation (engine.py:1)"
    sections["correctness"]["rows"][-1]["right"] = False
    sections["memory"]["rows"][1]["held"] = 2048
    sections["fitting"]["rows"][0] = {"what": "a profile of klein-digits", "error": "KeyError: 'x' (y.py:3)"}
    text = REPORT.measured(found)
    for told in (
        "1 of 253 runs waited",
        "(engine.py:1)",
        "these do not: sa_solver",
        "These keep memory: euler.",
        "Not measured: a profile of klein-digits (KeyError: 'x' (y.py:3)).",
    ):
        assert told in text
        assert told not in REPORT.measured(FOUND)


def test_nothing_that_was_measured_failed_and_the_page_names_the_samplers_that_were_not() -> None:
    rows = {name: section["rows"] for name, section in FOUND["sections"].items()}
    assert unmeasured(REPORT.samplers_of(FOUND["sections"])) in REPORT.PAGE.read_text(), AFTER_A_SAMPLER
    assert [row for row in rows["waits"] if row["waits"] is not None] == []
    assert all(row["right"] for row in rows["correctness"])
    assert [row["held"] for some in (rows["memory"], rows["offload"]) for row in some if row["held"] > 0] == []
    assert {row["graphs"] for row in rows["compiled"]} == {1}
    assert (rows["tests"][0]["failed"], rows["tests"][0]["skipped"]) == (0, 0)
