"""A study's folder: what was earned stays, what was interrupted goes on, what is foreign is left alone."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import flowsamplers as fs
from flowsamplers.flows import MixtureFlow
from flowsamplers.study import Budget, Row, Study, diff, load
from flowsamplers.study.plots import grid_of
from flowsamplers.study.report import FIGURES, html, terminal
from flowsamplers.study.results import Results
from flowsamplers.study.store import Store, write_atomically

pytest.importorskip("matplotlib")
SMALL = Study(
    "mixture:four-gaussians",
    prompts=(None,),
    seeds=(0, 1),
    samplers=("euler", "heun", "ab2"),
    nfe=(1, 2, 4, 8, 16),
    reference_evaluations=250,  # how good the references are is of no matter here, and they were most of the time
)


def contents(folder) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(autouse=True)
def no_figures(monkeypatch) -> None:
    """Figures are looked at elsewhere, and take longer than the rest."""
    monkeypatch.setattr("flowsamplers.study.report.write", lambda *_: None)


def opens(monkeypatch, flow) -> None:
    """Make every study open this flow."""

    def open_it(model: str, **options: object):
        return flow

    monkeypatch.setattr("flowsamplers.study.plan.load_flow", open_it)


class Changed(MixtureFlow):
    """The test mixture with something done to its velocity; it counts the rows that it is asked for."""

    def __init__(self, change: Callable[[Tensor, Tensor], Tensor] = lambda v, sigma: v, room: int = 10**9) -> None:
        exact = MixtureFlow.four_gaussians()
        super().__init__(exact.means, exact.stds, exact.weights, exact.name)
        self.change, self.room, self.rows, self.largest, self.refused = change, room, 0, 0, 0

    def velocity(self, x, sigma, condition=None):
        if len(x) > self.room:
            self.refused += 1
            raise torch.cuda.OutOfMemoryError("out of memory")
        self.rows, self.largest = self.rows + len(x), max(self.largest, len(x))
        return self.change(super().velocity(x, sigma), sigma)


def fails(error: Exception, at: float | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    """A change that raises, always or at one sigma."""

    def change(v: Tensor, sigma: Tensor) -> Tensor:
        if at is None or (sigma == at).any():
            raise error
        return v

    return change


def slow(seconds: float) -> Callable[[Tensor, Tensor], Tensor]:
    def change(v: Tensor, sigma: Tensor) -> Tensor:
        time.sleep(seconds)
        return v

    return change


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of the small study, which nobody changes."""
    folder = tmp_path_factory.mktemp("finished") / "study"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flowsamplers.study.report.write", lambda *_: None)
        SMALL.run(folder)
    return folder


@pytest.fixture
def done(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "done"))


# Going on


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_killed_at_ten_random_moments_it_goes_on_and_ends_as_if_undisturbed(finished, tmp_path, monkeypatch) -> None:
    undisturbed = load(finished)
    opens(monkeypatch, Changed(slow(1e-3)))
    rng, kills, seen = random.Random(0), 0, set[tuple]()
    while kills < 10:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            child = os.fork()
        if not child:
            try:
                SMALL.run(tmp_path / "killed")
            finally:
                os._exit(0)
        time.sleep(rng.uniform(0.02, 0.4))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        kills += os.WIFSIGNALED(status)
        if (tmp_path / "killed" / "rows.jsonl").exists() and (tmp_path / "killed" / "study.json").exists():
            now = {row.key for row in load(tmp_path / "killed").rows}
            assert seen <= now, "a row was lost"
            seen = now
        if not os.WIFSIGNALED(status):  # it was done before: once more from the beginning
            (tmp_path / "killed").rename(tmp_path / f"done-{kills}")
            seen = set()
    final = SMALL.run(tmp_path / "killed")
    expected = {row.key: row.error for row in undisturbed.rows}
    assert len(final.rows) == len(expected)
    assert {row.key: row.error for row in final.rows} == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert diff(undisturbed, final).same


def test_a_line_that_was_cut_short_is_done_again(done) -> None:
    before, path = load(done), done / "rows.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    assert len(load(done).rows) == len(before.rows) - 1
    after = SMALL.run(done)
    assert {r.key for r in after.rows} == {r.key for r in before.rows}
    assert len(after.rows) == len(before.rows)


def test_a_finished_study_is_not_run_again_and_another_number_of_rows_in_a_call_is_no_other_study(done) -> None:
    before = (done / "rows.jsonl").read_bytes(), (done / "sessions.jsonl").read_bytes()
    for study in (SMALL, replace(SMALL, max_batch=3)):
        study.run(done)
        assert ((done / "rows.jsonl").read_bytes(), (done / "sessions.jsonl").read_bytes()) == before


def test_more_samplers_and_budgets_extend_a_study_and_only_they_are_run(finished, tmp_path) -> None:
    whole, shared = load(finished), tmp_path / "shared"
    replace(SMALL, samplers=("euler", "heun"), nfe=(2, 8)).run(tmp_path / "a", references=shared)
    first = (tmp_path / "a" / "rows.jsonl").read_bytes()
    before = {row.key for row in load(tmp_path / "a").rows}
    SMALL.run(tmp_path / "a", references=shared)
    extended = load(tmp_path / "a")
    assert (tmp_path / "a" / "rows.jsonl").read_bytes().startswith(first)
    assert {r.key: r.error for r in extended.rows} == pytest.approx({r.key: r.error for r in whole.rows}, rel=1e-9)
    assert extended.sessions[-1]["rows"] == len(whole.rows) - len(before)
    assert extended.settings["nfe"] == list(SMALL.nfe)
    assert extended.labels == ["euler", "heun", "ab2"]
    alone = replace(SMALL, samplers=("rk4",), nfe=(32,)).run(tmp_path / "a", references=shared)
    assert alone.labels == ["euler", "heun", "ab2", "rk4"]
    assert {r.nfe for r in alone.rows if r.sampler == "rk4"} == {32}


def test_a_fitted_solver_is_studied_on_its_own_schedule(tmp_path) -> None:
    flow = MixtureFlow.four_gaussians()
    solver = fs.fit(flow.velocity, flow.noise(list(range(12))), nfe=4)
    study = replace(SMALL, samplers=("euler", solver))
    results = study.run(tmp_path)
    rows = [r for r in results.rows if r.sampler == "fitted"]
    assert [r.nfe for r in rows] == [4, 4]
    assert grid_of(rows[0]) == solver.grid
    assert rows[0].error < results.error("euler", 4)
    results.plot.trajectory()


def test_what_is_refused_leaves_the_folder_free(tmp_path) -> None:
    refused = replace(SMALL, samplers=({"name": "ns_solver", "options": {"table": [[1.0]]}},), nfe=(4,))
    with pytest.raises(ValueError, match=r"rows for|not one step"):
        refused.run(tmp_path / "a")
    assert not list((tmp_path / "a").iterdir()) or {p.name for p in (tmp_path / "a").iterdir()} == {"references"}
    SMALL.run(tmp_path / "a")


def test_references_that_cannot_be_written_are_noticed_before_anything_is_computed(tmp_path, monkeypatch) -> None:
    opens(monkeypatch, Changed(fails(AssertionError("asked"))))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file"):
        SMALL.run(tmp_path / "a", references=tmp_path / "file")
    assert not list((tmp_path / "a").iterdir())


# What is foreign


def test_a_folder_with_another_study_or_other_files_is_left_alone(done, tmp_path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("mine")
    before = contents(tmp_path)
    other = Study("mixture:1", prompts=(None,), seeds=(0,), nfe=(4,), reference_evaluations=250)
    with pytest.raises(ValueError, match=r"holds a study with other settings \(model, seeds\)"):
        other.run(done)
    with pytest.raises(ValueError, match=r"holds files that are not a study's \(thesis.tex\)"):
        other.run(tmp_path / "b")
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("study.json", b"{", r"study\.json: not a study's settings"),
        ("study.json", b"[]", r"study\.json: not a study's settings"),
        ("rows.jsonl", b'{"sampler": "euler"}\n', r"rows.jsonl, line 1: not a row of a study"),
        ("rows.jsonl", b"\xff\xfe\n", r"rows.jsonl"),
        ("rows.jsonl", b"\xff\xfe\x00", r"rows.jsonl: not rows of a study: it ends with something that is no part of one"),
        ("rows.jsonl", b"Dear diary", r"rows.jsonl: not rows of a study"),
        ("sessions.jsonl", b"x\n", r"sessions.jsonl: not a study's sessions"),
        ("sessions.jsonl", b"[1]\n", r"sessions.jsonl: not a study's sessions: a line without evaluations"),
    ],
)
def test_a_broken_file_is_named_and_left_alone(name: str, content: bytes, message: str, done) -> None:
    (done / name).write_bytes(content)
    is_refused(done, message)


def is_refused(folder: Path, message: str) -> None:
    """And left alone."""
    before = contents(folder)
    with pytest.raises(ValueError, match=message):
        SMALL.run(folder)
    assert contents(folder) == before


def test_rows_of_other_runs_and_rows_that_are_there_twice_are_named(done) -> None:
    path = done / "rows.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines) + lines[3])
    with pytest.raises(ValueError, match=rf"line {len(lines) + 1}: the same run as in line 4"):
        load(done)
    path.write_text("".join([*lines[1:], json.dumps({**json.loads(lines[0]), "seed": 77}) + "\n"]))
    is_refused(done, rf"line {len(lines)}: a run that this study does not have")


@pytest.mark.parametrize(
    ("name", "value"),
    [("error", "big"), ("steps", 1.5), ("trajectory", ["x"]), ("status", "?"), ("floored", 1), ("options", [])],
)
def test_a_row_with_a_value_of_another_kind_is_named(name: str, value: object, done) -> None:
    path = done / "rows.jsonl"
    first, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([json.dumps({**json.loads(first), name: value}) + "\n", *rest]))
    is_refused(done, r"rows.jsonl, line 1: not a row of a study")


def test_a_broken_reference_is_named_and_left_alone(done, tmp_path) -> None:
    file = next((done / "references").iterdir())
    file.write_bytes(b"not safe")
    other = replace(SMALL, nfe=(3,))
    with pytest.raises(ValueError, match=rf"{file.name}: not a reference of this study"):
        other.run(tmp_path / "b", references=file.parent)
    assert file.read_bytes() == b"not safe"


@pytest.mark.parametrize(
    ("call", "before", "error"),
    [
        ("write", True, OSError),
        ("fsync", False, KeyboardInterrupt),
        ("replace", True, KeyboardInterrupt),
        ("mkdir", False, OSError),
    ],
)
def test_rows_are_written_once_or_not_at_all_wherever_a_write_is_interrupted(
    finished, tmp_path, monkeypatch, call, before, error
) -> None:
    """A fault in a whole study, whose rows are afterwards those of an undisturbed one; the store's own calls have one each below."""
    study = replace(SMALL, samplers=("heun",))
    expected = {row.key: row.error for row in load(finished).rows if row.sampler == "heun"}
    shutil.copytree(finished / "references", tmp_path / "shared")
    owner = Path if call == "replace" else os
    real, count = getattr(owner, call), 0
    monkeypatch.setattr("flowsamplers.study.run.FLUSH", 0.0)

    def faulty(*args: object) -> object:
        nonlocal count
        count += 1
        if count == at and before:
            raise error
        result = real(*args)
        if count == at:
            raise error
        return result

    for at in (1, 2, 4, 7):
        folder, count = tmp_path / str(at), 0
        with monkeypatch.context() as patched:
            patched.setattr(owner, call, faulty)
            with contextlib.suppress(error):
                study.run(folder, references=tmp_path / "shared")
        rows = study.run(folder, references=tmp_path / "shared").rows
        assert len(rows) == len(expected)
        assert {row.key: row.error for row in rows} == pytest.approx(expected, rel=1e-9, abs=1e-12)


CALLS = ("open", "write", "fsync", "ftruncate", "truncate", "replace", "mkdir", "unlink", "close", "fstat")
FAULTS = {
    "an interrupt before": KeyboardInterrupt(),
    "an interrupt after": KeyboardInterrupt(),
    "an error of the device": OSError(errno.EIO, "Input/output error"),
    "no space, and half of what was to be written": OSError(errno.ENOSPC, "No space left on device"),
    "a kill, and half of what was to be written": None,
    "a kill after": None,
}


def sitting(folder: Path, rows: list[Row]) -> None:
    """What a study does with its folder: it writes down the rows that are not there yet, one at a time."""
    store = Store(folder)
    try:
        store.claim(SMALL.settings())
        there = {row.key for row in store.rows()}
        store.describe({"flow": {"weights": "0"}, "versions": {"torch": "2"}})
        for row in rows:
            if row.key not in there:
                store.append([row])
        store.log({"rows": 1, "evaluations": 1, "model_calls": 1, "seconds": 1.0, "engine": "local", "stopped": ""})
    finally:
        store.close()


def counted(monkeypatch, fault: str, at: int) -> list[str]:
    """Patch every system call: the one with this number fails. Gives their names, as they are made."""
    made: list[str] = []

    def patched(name: str, real):
        def call(*args, **kwargs):
            made.append(name)
            mine = len(made) == at
            if mine and "half" in fault and name == "write":
                real(args[0], bytes(args[1])[: len(args[1]) // 2])
            if mine and "after" not in fault:
                os._exit(9) if "kill" in fault else fail(fault)
            result = real(*args, **kwargs)
            if mine:
                os._exit(9) if "kill" in fault else fail(fault)
            return result

        return call

    for name in CALLS:
        monkeypatch.setattr(os, name, patched(name, getattr(os, name)))
    return made


def fail(fault: str) -> None:
    raise FAULTS[fault]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_every_system_call_in_turn_loses_no_row_and_doubles_none(
    finished, tmp_path, monkeypatch, fault: str
) -> None:
    if "kill" in fault and not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    rows = [row for row in load(finished).rows if row.sampler == "euler" and row.seed == 0 and row.nfe <= 2]
    with monkeypatch.context() as patched:
        made = counted(patched, fault, 0)
        sitting(tmp_path / "undisturbed", rows)
    assert {"write", "fsync", "ftruncate", "replace", "open", "mkdir", "close"} <= set(made)
    for at in range(1, len(made) + 1):
        folder = tmp_path / str(at)
        with monkeypatch.context() as patched:
            if "kill" in fault:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    child = os.fork()
                if not child:
                    counted(patched, fault, at)
                    with contextlib.suppress(BaseException):
                        sitting(folder, rows)
                    os._exit(0)
                os.waitpid(child, 0)
            else:
                counted(patched, fault, at)
                with contextlib.suppress(KeyboardInterrupt, OSError):
                    sitting(folder, rows)
        if (folder / "study.json").exists() and (folder / "rows.jsonl").exists():
            keys = [row.key for row in load(folder).rows]
            assert keys == [row.key for row in rows][: len(keys)]
        sitting(folder, rows)
        assert load(folder).rows == rows, f"{made[at - 1]}, call {at}"


def test_one_flipped_bit_of_a_stored_reference_is_noticed(done) -> None:
    file = min((done / "references").iterdir())
    whole = file.read_bytes()
    for place in (len(whole) - 8, len(whole) // 2, len(whole) * 3 // 4):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        (done / "rows.jsonl").write_bytes(b"")
        is_refused(done, r"not a reference of this study \(")


@pytest.mark.parametrize("content", [b"", b"{}", b"{"])
def test_a_broken_probe_is_measured_again(done, content: bytes) -> None:
    (done / "probe.json").write_bytes(content)
    (done / "rows.jsonl").write_bytes(b"")
    assert SMALL.run(done).rows


def test_retrained_weights_are_another_model(tmp_path, monkeypatch) -> None:
    flow = Changed()
    flow.network = torch.nn.Linear(2, 2)
    opens(monkeypatch, flow)
    SMALL.run(tmp_path)
    SMALL.run(tmp_path)
    with torch.no_grad():
        flow.network.weight[0, 0] += 1e-6
    with pytest.raises(ValueError, match=r"was begun with something else \(weights: "):
        SMALL.run(tmp_path)


def test_a_reference_that_is_hardly_better_than_the_samplers_is_said_first(finished) -> None:
    results = load(finished)
    assert not terminal(results).startswith("Read this first")
    bad = Results(results.settings, [Row(**{**vars(r), "reference_error": 0.9}) for r in results.rows])
    assert terminal(bad).startswith("Read this first: the reference is known to 90 % only.")
    assert html(bad, dict.fromkeys(FIGURES, b""), None).count("Read this first") == 1


def test_nothing_there_is_said(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no study here, study\.json is missing"):
        load(tmp_path)


def test_two_processes_do_not_work_on_one_study(tmp_path) -> None:
    store = Store(tmp_path)
    store.claim(SMALL.settings())
    with pytest.raises(ValueError, match="another process is at work"):
        SMALL.run(tmp_path)
    store.close()
    SMALL.run(tmp_path)


def test_a_study_does_not_go_on_with_another_version(done) -> None:
    path = done / "study.json"
    settings = json.loads(path.read_text())
    settings["versions"]["torch"] = "1.0"
    path.write_text(json.dumps(settings))
    is_refused(done, r"was begun with something else \(torch: 1.0 before")


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch) -> None:
    target = tmp_path / "file"
    write_atomically(target, "before")

    def full_disk(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(target, "after")
    assert target.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


# References


def test_references_are_shared_between_studies(tmp_path) -> None:
    study = replace(SMALL, samplers=("rk4",), nfe=(4,), reference_evaluations=800)
    study.run(tmp_path / "a", references=tmp_path / "shared")
    other = replace(study, seeds=(0, 1, 2))
    results = other.run(tmp_path / "b", references=tmp_path / "shared")
    probe = json.loads((tmp_path / "b" / "probe.json").read_text())["evaluations"]
    spent = results.sessions[0]["evaluations"] - probe
    assert len(list((tmp_path / "shared").iterdir())) == 3
    assert spent < 1.2 * other.reference_evaluations, "the third alone was solved"


def test_a_reference_of_a_model_that_has_changed_is_refused(done, tmp_path, monkeypatch) -> None:
    opens(monkeypatch, Changed(lambda v, sigma: 1.001 * v))
    with pytest.raises(ValueError, match="these references are of another model: its first velocity differs by 1e-03"):
        SMALL.run(tmp_path / "b", references=done / "references")


# Failures and budgets


def test_a_run_that_fails_is_a_row_with_its_reason(done, tmp_path, monkeypatch) -> None:
    opens(monkeypatch, Changed(lambda v, sigma: torch.where(sigma[:, None] < 0.01, torch.nan, v)))  # only Heun looks at 0
    results = SMALL.run(tmp_path / "a", references=done / "references")
    assert {(r.sampler, r.status) for r in results.rows} == {("euler", "ok"), ("heun", "failed"), ("ab2", "ok")}
    failed = [r for r in results.rows if r.status == "failed"]
    assert {r.message for r in failed} == {"the result is not finite"}
    assert f"{len(failed)} of {len(results.rows)} runs failed" in terminal(results)
    assert results.orders()["heun"].verdict == "unstable"
    assert "runs failed" in html(results, dict.fromkeys(FIGURES, b""), None)


def test_an_error_of_the_model_fails_the_rows_that_make_it_and_the_same_command_makes_them_again(
    done, tmp_path, monkeypatch
) -> None:
    opens(monkeypatch, Changed(fails(RuntimeError("not at a quarter"), at=0.25)))
    study = replace(SMALL, schedule="linear", local_nfe=0)
    results = study.run(tmp_path / "picky", references=done / "references")
    for row in results.rows:
        expected = ("failed", "RuntimeError: not at a quarter") if row.steps % 4 == 0 else ("ok", "")
        assert (row.status, row.message) == expected
    opens(monkeypatch, Changed())
    again = study.run(tmp_path / "picky", references=done / "references")
    healthy = study.run(tmp_path / "healthy", references=done / "references")
    assert {r.key: r.error for r in again.rows} == pytest.approx({r.key: r.error for r in healthy.rows}, rel=1e-9)
    assert again.sessions[-1]["rows"] == sum(row.status == "failed" for row in results.rows) > 0


def test_a_study_whose_batches_do_not_fit_the_memory_is_made_in_smaller_ones(finished, tmp_path, monkeypatch) -> None:
    """From the first call on: the probe, the references, and the runs."""

    expected, flow = {r.key: r.error for r in load(finished).rows}, Changed(room=3)
    opens(monkeypatch, flow)
    assert SMALL.plan().probe.rows > 3
    results = SMALL.run(tmp_path / "tight")
    assert {r.key: r.error for r in results.rows} == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert flow.largest <= 3
    assert flow.refused < 12  # what has not fitted once is not tried again


@pytest.mark.parametrize("evaluations", [6300, 6450])
def test_a_budget_of_evaluations_is_kept_and_the_rest_comes_later(evaluations: int, tmp_path, monkeypatch) -> None:
    flow = Changed()
    opens(monkeypatch, flow)
    whole = SMALL.run(tmp_path / "whole")
    total, flow.rows = flow.rows, 0
    spent = min(evaluations, total - 40)
    part = SMALL.run(tmp_path / "part", budget=Budget(evaluations=spent))
    assert flow.rows <= spent
    assert part.sessions[0]["evaluations"] == flow.rows
    assert 0 < len(part.rows) < len(whole.rows)
    assert {r.nfe for r in part.rows} <= {r.nfe for r in whole.rows}
    done = SMALL.run(tmp_path / "part")
    assert {r.key for r in done.rows} == {r.key for r in whole.rows}


def test_references_are_kept_when_the_budget_ends_among_them(tmp_path) -> None:
    three = replace(SMALL, seeds=(0, 1, 2), reference_evaluations=1600)
    with pytest.raises(ValueError, match="it ended before the first row; what was solved is kept"):
        three.run(tmp_path, budget=Budget(evaluations=1900))
    assert 1 <= len(list((tmp_path / "references").iterdir())) < 3
    assert len(three.run(tmp_path).rows) == 3 * len(three.runs(tokens=8))


def test_a_budget_of_time_is_kept(done, tmp_path, monkeypatch) -> None:
    opens(monkeypatch, Changed(slow(0.02)))
    began = time.monotonic()
    study = replace(SMALL, nfe=(1, 2, 4, 64))
    results = study.run(tmp_path / "b", references=done / "references", budget=Budget(seconds=1.0))
    assert results.sessions[0]["seconds"] <= 1.05
    assert results.sessions[0]["stopped"] == "1 seconds"
    assert time.monotonic() - began < 10  # the figures take their time
    assert 0 < len(results.rows) < len(study.runs(tokens=8)) * 2


def test_rows_are_known_by_what_was_run(finished) -> None:
    row = load(finished).rows[0]
    for name, value in (("seed", 9), ("steps", 99), ("options", {"last": "euler"}), ("prompt", "x")):
        assert Row(**{**vars(row), name: value}).key != row.key
    assert Row(**{**vars(row), "error": 0.0}).key == row.key
