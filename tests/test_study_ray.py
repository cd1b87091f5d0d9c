"""Studies and fits on a Ray cluster: the same numbers, and a worker that is killed loses none."""

from __future__ import annotations

import os
from functools import partial

import pytest
import torch
from click.testing import CliRunner

pytest.importorskip("ray", reason="Ray is an extra: make ray")
pytest.importorskip("matplotlib")
import ray

import flowsamplers as fs
from flowsamplers.cli import main
from flowsamplers.evaluated import RowVelocity
from flowsamplers.flows import MixtureFlow
from flowsamplers.profiling import measured, path_nodes
from flowsamplers.study import Study, load, run
from flowsamplers.study.cluster import OnRay
from flowsamplers.study.cost import Meter

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


def test_a_profile_from_a_cluster_is_that_of_this_process(two_workers, tmp_path) -> None:
    flow, opened = MixtureFlow.random(1), partial(MixtureFlow.random, 1)
    x1, meters = flow.noise(list(range(22))), (Meter(flow), Meter(flow))
    asked = [RowVelocity(meter, x1.dtype, [None] * 22) for meter in meters]
    here, there = (
        list(measured(a, x1, path_nodes(16), 16, file=tmp_path / f"{i}.safetensors", parts=parts))
        for i, (a, parts) in enumerate(zip(asked, (None, OnRay(opened, meters[1])), strict=True))
    )
    for (one, end), (other, its) in zip(here, there, strict=True):
        assert (one.seen, one.counts, one.error) == (other.seen, other.counts, pytest.approx(other.error))
        torch.testing.assert_close(torch.tensor(other.velocities), torch.tensor(one.velocities))
        torch.testing.assert_close(its, end)
    assert meters[0].rows == meters[1].rows == here[-1][0].evaluations
    again = list(measured(asked[0], x1, path_nodes(16), 16, file=tmp_path / "1.safetensors"))  # this process knows its file
    assert [end for _, end in again] == [None]


def test_the_command_fits_on_a_cluster(two_workers, tmp_path) -> None:
    given = ["fit", "--model", "mixture:four-gaussians", "--rows", "24", "--nfe", "4", "--nodes", "16", "--quiet"]
    for engine in ("local", "ray"):
        done = CliRunner().invoke(main, [*given, "--engine", engine, "--out", str(tmp_path / f"{engine}.json")])
        assert done.exit_code == 0, done.output
    here, there = (fs.load_solver(tmp_path / f"{engine}.json") for engine in ("local", "ray"))
    assert there.grid.sigmas == pytest.approx(here.grid.sigmas, rel=1e-6)
