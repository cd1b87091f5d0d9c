"""The command line: numbers, files, and errors that say what would be accepted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("click")
pytest.importorskip("diffusers")
from click.testing import CliRunner
from PIL import Image

import flowsamplers as fs
from flowsamplers.cli import main
from flowsamplers.study import report
from flowsamplers_diffusers import FlowSamplerScheduler, load_klein
from tooling import AFTER_A_SAMPLER

WRITE = report.write
QUICK = ["study", "--model", "mixture", "--quiet", "--seed", "0", "--nfe", "4", "--nfe", "8"]


def run(*args: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, list(args))
    assert result.exit_code == code, result.output + str(result.exception)
    return result.output


@pytest.fixture(scope="module", autouse=True)
def undrawn() -> Iterator[list[Path]]:
    """Figures and good references take longer than a small study: the folders that were to get figures, and few evaluations."""
    folders: list[Path] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write", lambda results, folder: folders.append(folder))
        patch.setattr("flowsamplers.study.plan.REFERENCE", 250)
        yield folders


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small study, for reading."""
    folder = tmp_path_factory.mktemp("study") / "s"
    run(*QUICK, "--out", str(folder))
    return folder


def test_the_schedule_of_the_experiment() -> None:
    text = run("schedule", "--steps", "4", "--size", "1024x1024")
    for number in ("2.291179894115571", "0.9673840", "908.1439", "-0.7671999", "-1.0000000", "tokens 4096"):
        assert number in text
    table = json.loads(run("schedule", "--steps", "4", "--json"))
    assert table["sum"] == -1.0
    assert len(table["sigmas"]) == 5


def test_any_schedule_and_explicit_sigmas() -> None:
    assert "sum of dt    -1.0000000" in run("schedule", "--schedule", "beta", "--steps", "8")
    assert json.loads(run("schedule", "--sigmas", "1,0.5", "--json"))["dt"] == [-0.5, -0.5]


def test_the_list_says_of_everything_what_it_is_in_eighty_columns() -> None:
    text = run("list")
    assert max(map(len, text.splitlines())) <= 80
    for name in [n for i in (*fs.list_samplers(), *fs.list_schedules()) for n in i.names]:
        assert name in text, AFTER_A_SAMPLER
    fireflow = run("list", "fireflow")
    assert fireflow.startswith("SAMPLERS: multistep\n\nfireflow\n  order 2, measured ")
    for words in ("calls N + 1 (first 2)", "ODE", "options: last=method", "arXiv:2412.07517"):
        assert words in " ".join(fireflow.split())
    assert "stochastic, strong order 0, weak order 0, does not keep the marginals" in " ".join(run("list", "lcm").split())
    assert "form: ComfyUI; begins below 1; has its own number of steps" in run("list", "ddim_uniform")


def test_the_list_as_json_has_every_claim_beside_its_measurement() -> None:
    both = json.loads(run("list", "--json"))
    assert [len(both[k]) for k in ("samplers", "schedules")] == [len(fs.list_samplers()), len(fs.list_schedules())], (
        AFTER_A_SAMPLER
    )
    fireflow = next(i for i in both["samplers"] if i["name"] == "fireflow")
    assert {"calls": "N + 1", "evaluations_per_step": 1, "evaluations_first_step": 2, "evaluations_last_step": 1}.items() <= (
        fireflow.items()
    )
    assert all(abs(v - fireflow["order"]) <= 0.2 for v in fireflow["measured_inside"].values())
    assert json.loads(run("list", "--schedules", "--json"))["samplers"] == []
    assert json.loads(run("list", "beta57", "--json"))["schedules"][0]["presets"] == {"beta57": {"alpha": 0.5, "beta": 0.7}}


@pytest.mark.parametrize("name", [n for i in fs.list_schedules() for n in i.names])
def test_every_schedule_prints_its_numbers_by_every_name(name: str) -> None:
    grid = fs.get_schedule(name, 5)
    assert json.loads(run("schedule", "--schedule", name, "--steps", "5", "--json"))["sigmas"] == pytest.approx(
        grid.sigmas, abs=1e-6
    )


def test_options_of_a_schedule() -> None:
    options = ["--option", "shift=3", "--option", "points=1000", "--option", "alpha=0.5"]
    printed = json.loads(run("schedule", "--schedule", "beta_comfy", "--steps", "6", *options, "--json"))
    assert printed["sigmas"] == list(fs.schedules.beta_comfy(6, shift=3.0, points=1000, alpha=0.5).sigmas)
    assert "0.9486833" in run("schedule", "--schedule", "table", "--option", "nodes=[1,0.9,0.5,0.01]", "--steps", "6")
    assert "0.5000000" in run("schedule", "--mu", "0", "--steps", "2")
    assert "2.291179894115571" in run("schedule", "--schedule", "flux2_empirical")


def test_a_study_prints_a_table_and_writes_its_files(tmp_path) -> None:
    text = run(*QUICK, "--sampler", "euler", "--sampler", "ab2:last=midpoint", "--out", str(tmp_path / "s"))
    assert "ab2 last=midpoint" in text
    assert max(map(len, text.splitlines()[:-1])) <= 80
    assert {p.name for p in (tmp_path / "s").iterdir()} >= {"rows.csv", "rows.jsonl", "study.json"}
    rows = [json.loads(line) for line in run(*QUICK, "--json", "--out", str(tmp_path / "t")).splitlines()]
    assert {r["status"] for r in rows} == {"ok"}


def test_a_study_of_the_bundled_klein_and_its_report(tmp_path, undrawn, monkeypatch) -> None:
    """The main job, small: one prompt, one seed, two samplers. The report is made of the rows."""
    options = ["--prompt", "three", "--seed", "0", "--nfe", "2", "--nfe", "4", "--sampler", "euler", "--sampler", "heun"]
    text = run("study", "--model", "klein-digits-distilled", "--quiet", *options, "--out", str(tmp_path / "s"))
    assert "its own relative error" in text
    assert undrawn[-1] == tmp_path / "s"
    settings = json.loads((tmp_path / "s" / "study.json").read_text())
    assert settings["flow"]["guidance_scale"] == 1.0
    assert settings["flow"]["dtype"] == "float32"
    monkeypatch.setattr(report, "write", WRITE)
    assert "With 4 model calls" in run("report", str(tmp_path / "s"))
    assert {p.name for p in (tmp_path / "s").iterdir()} >= {"images.png", "report.html", "error-vs-nfe.png"}


def test_a_dry_run_says_what_it_costs_and_writes_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = run(*QUICK, "--dry-run")
    for word in ("rows", "evaluations asked for", "left after sharing", "forward passes", "FLOPs", "memory", "time"):
        assert word in text
    assert json.loads(run(*QUICK, "--dry-run", "--json"))["rows"] == 14
    assert not list(tmp_path.iterdir())


def test_a_budget_stops_a_study_and_the_same_command_goes_on(tmp_path, studied) -> None:
    command = [*QUICK, "--out", str(tmp_path / "s")]
    spent = json.loads((studied / "sessions.jsonl").read_text())["evaluations"]
    assert "it ended before the first row" in " ".join(run(*command, "--budget", "100", code=2).split())
    text = run(*QUICK, "--out", str(tmp_path / "s"), "--budget", str(spent - 30))
    assert "runs were made; give the same command again to continue." in " ".join(text.split())
    assert "again to continue" not in run(*command)
    assert len((tmp_path / "s" / "rows.jsonl").read_text().splitlines()) == 14


def test_two_studies_are_compared_and_the_exit_code_says_whether_they_differ(tmp_path, studied) -> None:
    first, second = studied, tmp_path / "b"
    shutil.copytree(first, second)
    assert "14 samplers and step counts in both, 0 differ" in run("study", "diff", str(first), str(second))
    rows = (second / "rows.jsonl").read_text().splitlines()
    values = json.loads(rows[0])
    rows[0] = json.dumps({**values, "error": 2 * values["error"]})
    (second / "rows.jsonl").write_text("\n".join(rows) + "\n")
    assert "1 differ by more than the uncertainty" in run("study", "diff", str(first), str(second), code=1)
    assert "no study here" in run("study", "diff", str(first), str(tmp_path), code=2)


def test_the_preset_of_the_experiment(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("flowsamplers.cli.steps.REFERENCE", 250)
    text = run("study", "--preset", "klein-steps", "--model", "klein-digits", "--quiet", "--out", str(tmp_path))
    for steps in (1, 2, 3, 4, 6, 10):
        assert f"steps {steps}   tokens 16" in text
    assert {p.name for p in tmp_path.iterdir()} == {"klein-steps.png", "klein-steps.txt"}


def test_a_trace_prints_the_parts_and_every_model_call() -> None:
    text = run("trace", "--sampler", "midpoint", "--steps", "2")
    for part in ("Flux2Transformer2DModel", "AutoencoderKLFlux2", "Qwen3ForCausalLM", "is_distilled=False"):
        assert part in text
    assert "4 model calls, 8 forward passes" in text
    rows = json.loads(run("trace", "--model", "mixture", "--steps", "3", "--json"))["evaluations"]
    assert [r["step"] for r in rows] == [0, 1, 2]


def test_generate_draws_an_image_or_a_grid(tmp_path) -> None:
    one, grid = tmp_path / "one.png", tmp_path / "grid.png"
    run("generate", "--steps", "2", "--out", str(one))
    run("generate", "--steps", "1", "--steps", "2", "--sampler", "euler", "--sampler", "lcm", "--out", str(grid))
    assert one.read_bytes().startswith(b"\x89PNG")
    assert grid.stat().st_size > one.stat().st_size


def test_generate_makes_the_experiments_grid_with_its_model_calls(tmp_path) -> None:
    """The numbers of steps of the experiment, three samplers, in one command."""
    options = ["--model", "klein-digits", "--prompt", "three", "--seed", "4", "--out", str(tmp_path / "a.png"), "--quiet"]
    grid = ["generate", "--steps", "1", "2", "3", "4", "6", "10", "--samplers", "euler", "fireflow", "ab2", *options]
    drawn = json.loads(run(*grid, "--json"))
    assert {k: drawn[k] for k in ("model", "prompt", "seed")} == {"model": "klein-digits", "prompt": "three", "seed": 4}
    calls = {s: [i["nfe"] for i in drawn["images"] if i["sampler"] == s] for s in ("euler", "fireflow", "ab2")}
    assert calls == {"euler": [1, 2, 3, 4, 6, 10], "fireflow": [2, 3, 4, 5, 7, 11], "ab2": [1, 2, 3, 4, 6, 10]}
    assert [i["forward_passes"] for i in drawn["images"]] == [2 * i["nfe"] for i in drawn["images"]]
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 6 * 180
    by_calls = ["generate", "--nfe", "2", "4", "--samplers", "euler", "rk4", *options, "--guidance-interval", "0.2", "0.99"]
    table = [line.split() for line in run(*by_calls).splitlines()[1:4]]
    assert table == [["euler", "2", "2", "3"], ["euler", "4", "4", "7"], ["rk4", "1", "4", "6"]]  # sigma 1 is not guided


def test_generate_runs_a_fitted_solver_on_its_own_schedule_whatever_the_budget(tmp_path) -> None:
    grid = fs.SigmaGrid([1.0, 0.7, 0.3, 0.0])
    solver = fs.Solver(grid, fs.samplers.OnItsGrid(method="euler", sigmas=grid.sigmas), {})
    solver.save(tmp_path / "solver.json")
    options = [
        "--sampler",
        str(tmp_path / "solver.json"),
        "euler",
        "--nfe",
        "2",
        "4",
        "--out",
        str(tmp_path / "grid.png"),
        "--json",
    ]
    images = json.loads(run("generate", "--quiet", *options))["images"]
    assert [image["nfe"] for image in images] == [3, 3, 2, 4]


def test_generate_draws_the_pipelines_own_image(tmp_path) -> None:
    """Pixel for pixel, from the same seed: euler's is stock's, another sampler's that of the drop-in."""
    pipe = load_klein("klein-digits", device="cpu")
    config = pipe.scheduler.config
    for sampler in ("euler", "fireflow"):
        if sampler != "euler":
            pipe.scheduler = FlowSamplerScheduler.from_config(config, sampler=sampler)
        call = {"prompt": "a handwritten 3", "num_inference_steps": 4, "max_sequence_length": 32, "guidance_scale": 4.0}
        image = pipe(**call, height=16, width=16, generator=torch.Generator().manual_seed(3)).images[0]
        out = tmp_path / f"{sampler}.png"
        run("generate", "--prompt", "a handwritten 3", "--steps", "4", "--sampler", sampler, "--seed", "3", "--out", str(out))
        with Image.open(out) as drawn:
            assert np.array_equal(np.asarray(drawn), np.asarray(image))


@pytest.mark.parametrize("repeated", [True, False])
def test_options_take_several_values_or_are_repeated(repeated: bool) -> None:
    values = {"--samplers": ["euler", "heun"], "--nfe": ["4", "8"], "--seeds": ["0", "1"]}
    spread = [[k, *vs] if not repeated else [x for v in vs for x in (k, v)] for k, vs in values.items()]
    plan = json.loads(run("study", "--model", "mixture", "--dry-run", *[x for xs in spread for x in xs], "--json"))
    assert plan["rows"] == 2 * 2 * 2


def test_a_full_disk_is_a_message(tmp_path) -> None:
    if not os.path.exists("/dev/full"):  # noqa: PTH110
        pytest.skip("no /dev/full here")
    text = run("generate", "--steps", "1", "--out", "/dev/full/image.png", code=2)
    assert "Not a directory: " in text or "File exists" in text


@pytest.mark.parametrize("command", ["study", "schedule", "list", "trace", "generate", "cite", "report"])
def test_every_command_has_help_with_an_example(command: str) -> None:
    assert f"flowsamplers {command}" in run(command, "--help").split("Options:")[0].split("\n", 1)[1]


def test_the_script_is_installed() -> None:
    out = subprocess.run([sys.executable, "-m", "flowsamplers.cli", "--version"], capture_output=True, text=True, check=False)
    assert out.returncode == 0
    assert "0.1.0" in out.stdout


def test_samplers_are_parsed_with_their_options() -> None:
    assert fs.get_sampler("lcm:eta=0.5").options == {"eta": 0.5}
    assert fs.get_sampler("dpmpp_2m:last=euler,variable=neg_log_sigma").options == {
        "last": "euler",
        "startup": "ramp",
        "variable": "neg_log_sigma",
    }
