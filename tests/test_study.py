"""Studies: what is planned, what is measured, what is written."""

from __future__ import annotations

import json

import pytest
import torch

import flowsamplers as fs
from flowsamplers.flows import MixtureFlow
from flowsamplers.study import Row, Study, load
from flowsamplers.study.plan import largest_steps
from flowsamplers.study.report import WIDTH, takeaway, terminal
from flowsamplers.study.results import Results
from flowsamplers.study.rows import from_jsonl, label, to_jsonl, write_atomically

pytest.importorskip("matplotlib")
SMALL = Study("mixture:appendix-a", prompts=(None,), seeds=(0, 1), nfe=(1, 2, 4, 8, 16), reference_evaluations=1600)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Results:
    return SMALL.run(tmp_path_factory.mktemp("study"))


def test_each_budget_is_spent_as_far_as_whole_steps_go() -> None:
    for planned in SMALL.plan(tokens=8):
        assert planned.nfe == fs.nfe(planned.sampler, planned.grid)
        more, _ = SMALL.grid(planned.grid.steps + 1, 8)
        assert any(planned.nfe <= budget < fs.nfe(planned.sampler, more) for budget in SMALL.nfe)
    assert largest_steps(fs.get_sampler("rk4"), 3, fs.schedules.linear) == 0


def test_reported_errors_are_the_true_errors(results: Results) -> None:
    """Against scipy's DOP853 and an own loop over each run."""
    flow = MixtureFlow.appendix_a()
    for row in results.rows:
        x1 = flow.noise([row.seed])
        grid = fs.get_schedule(row.schedule, row.steps, **row.schedule_options)
        x0 = fs.sample(flow.velocity, x1, grid, fs.get_sampler(row.sampler, **row.options))
        true = ((x0 - flow.solution(x1)).norm() / flow.solution(x1).norm()).item()
        assert row.error == pytest.approx(true, rel=1e-8, abs=row.reference_error)
        assert row.nfe == fs.nfe(fs.get_sampler(row.sampler, **row.options), grid)


def test_there_is_one_row_for_each_run_and_noise(results: Results) -> None:
    keys = [(r.sampler, json.dumps(r.options), r.steps, r.prompt, r.seed) for r in results.rows]
    assert len(keys) == len(set(keys)) == len(SMALL.plan(tokens=8)) * 2


def test_the_folder_holds_rows_table_settings_and_figure(tmp_path) -> None:
    SMALL.run(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["error-vs-nfe.png", "rows.csv", "rows.jsonl", "study.json"]
    again = load(tmp_path)
    assert again.rows == SMALL.run(tmp_path).rows
    assert again.settings["versions"]["torch"] == torch.__version__
    assert (tmp_path / "error-vs-nfe.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "rows.csv").read_text().count("\n") == len(again.rows) + 1


def test_a_folder_with_another_study_or_other_files_is_left_alone(tmp_path) -> None:
    SMALL.run(tmp_path / "a")
    other = Study("mixture:1", prompts=(None,), seeds=(0,), nfe=(4,))
    with pytest.raises(ValueError, match=r"holds a study with other settings \(model, seeds, nfe"):
        other.run(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="holds files that are not a study's"):
        other.run(tmp_path / "b")
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["thesis.tex"]


def test_a_corrupt_folder_is_named(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no study here, study\.json is missing"):
        load(tmp_path)
    SMALL.run(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"sampler": "euler"}\n')
    with pytest.raises(ValueError, match=r"rows.jsonl, line 1: not a row of a study"):
        load(tmp_path)


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


def test_a_run_that_fails_is_a_row_with_its_reason(tmp_path, monkeypatch) -> None:
    class Fragile(MixtureFlow):
        def velocity(self, x, sigma, condition=None):
            v = super().velocity(x, sigma)
            return torch.where(sigma[:, None] == 0, torch.nan, v)  # only Heun looks at 0

    oracle = MixtureFlow.appendix_a()
    broken = Fragile(oracle.means, [0.35, 0.5, 0.7, 0.45], [0.3, 0.3, 0.2, 0.2])

    def open_it(model, **options):
        return broken

    monkeypatch.setattr("flowsamplers.study.run.load_flow", open_it)
    monkeypatch.setattr("flowsamplers.study.run.solve", lambda flow, x1, **k: fs.reference.solve(oracle, x1))
    results = Study("mixture", prompts=(None,), seeds=(0,), samplers=("euler", "heun"), nfe=(4, 8)).run(tmp_path)
    assert {(r.sampler, r.status) for r in results.rows} == {("euler", "ok"), ("heun", "failed")}
    assert "2 of 4 runs failed" in terminal(results)


def test_the_report_fits_the_terminal_and_its_sentence_follows_from_the_rows(results: Results) -> None:
    text = terminal(results)
    assert max(map(len, text.splitlines())) <= WIDTH
    name, error = results.best(8) or ("", 0.0)
    assert f"With 8 model calls {name} has the smallest error, {error:.1e}" in " ".join(takeaway(results).split())
    assert all(results.error(other, 8) is None or results.error(other, 8) >= error for other in results.labels)


def test_rows_survive_their_file(results: Results) -> None:
    assert from_jsonl(to_jsonl(results.rows), "x") == [Row(**vars(r)) for r in results.rows]
    assert label("ab2", {"last": {"name": "midpoint", "options": {}}}) == "ab2 last=midpoint"


def test_bad_settings_are_named() -> None:
    for options, message in (
        ({"nfe": (0,)}, "nfe=0: a budget is at least 1 model call"),
        ({"seeds": ()}, r"seeds=\[\]: a study needs at least one"),
        ({"samplers": ("lcm",)}, "sampler 'lcm' is stochastic"),
        ({"samplers": ("huen",)}, "did you mean 'heun'"),
        ({"mu": "hold"}, "mu='hold'"),
        ({"max_batch": 0}, "max_batch=0"),
    ):
        with pytest.raises(ValueError, match=message):
            Study("mixture", prompts=(None,), **{"seeds": (0,), **options})
