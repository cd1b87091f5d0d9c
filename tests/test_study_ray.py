"""A study over a Ray cluster: the same rows, and a worker that is killed loses none."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("ray", reason="Ray is an extra: make ray")
pytest.importorskip("matplotlib")
import ray

from flowsamplers.study import Study, load, run

SMALL = Study("mixture:four-gaussians", prompts=(None,), seeds=(0, 1), nfe=(1, 2, 4, 8))
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def two_workers():
    ray.init(num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    yield
    ray.shutdown()


def values(folder) -> dict[tuple, float]:
    return {row.key: row.error for row in load(folder).rows}


def test_a_cluster_of_two_workers_earns_the_same_rows(two_workers, tmp_path) -> None:
    here = SMALL.run(tmp_path / "local")
    there = SMALL.run(tmp_path / "ray", engine="ray")
    assert len(there.rows) == len(here.rows)
    assert values(tmp_path / "ray") == pytest.approx(values(tmp_path / "local"), rel=1e-9, abs=1e-12)
    assert there.sessions[-1]["engine"] == "ray"


def test_the_runs_of_a_killed_worker_are_done_again(two_workers, tmp_path, monkeypatch) -> None:
    flag = tmp_path / "died"

    class Mortal(run.Worker):
        def measure(self, truth, planned):
            if not flag.exists():
                flag.touch()
                os.kill(os.getpid(), 9)
            return super().measure(truth, planned)

    monkeypatch.setattr(run, "Worker", Mortal)
    results = SMALL.run(tmp_path / "ray", engine="ray")
    assert flag.exists()
    assert {r.status for r in results.rows} == {"ok"}
    assert len(results.rows) == len({r.key for r in results.rows}) == 2 * len(SMALL.runs(tokens=8))
