"""The file of a fitted solver stands wherever a sampler is named."""

from __future__ import annotations

import json
import logging
import math

import pytest
import torch
from click.testing import CliRunner

import flowsamplers as fs
from fields import OF_GAUSSIAN_DATA
from flowsamplers.cli import main
from flowsamplers.cli.fit import prompts_of_rows
from flowsamplers.flows import MixtureFlow


@pytest.fixture(scope="module")
def flow() -> MixtureFlow:
    return MixtureFlow.random(1)


@pytest.fixture(scope="module")
def solver(flow) -> fs.Solver:
    return fs.fit(flow.velocity, flow.noise(list(range(16))), 4)


@pytest.fixture
def file(solver, tmp_path) -> str:
    solver.save(tmp_path / "four.json")
    return str(tmp_path / "four.json")


def run(*args: str):
    return CliRunner().invoke(main, args)


def test_a_solver_is_run_as_it_is(flow, solver, file) -> None:
    x1 = flow.noise([100, 101])
    expected = fs.sample(flow.velocity, x1, solver.grid, solver.sampler)
    assert torch.equal(fs.sample(flow.velocity, x1, fs.load_solver(file)), expected)
    assert torch.equal(fs.sample(flow.velocity, x1, solver.grid, fs.load_solver(file)), expected)
    with pytest.raises(ValueError, match="fitted to a schedule of its own, of 4 steps from 1"):
        fs.sample(flow.velocity, x1, fs.schedules.linear(4), solver)


@pytest.mark.parametrize("law", OF_GAUSSIAN_DATA, ids=lambda law: law.__name__)
def test_a_fitted_solver_keeps_the_laws(law, solver) -> None:
    law(solver.as_sampler, solver.grid)


def test_a_fitted_solver_is_exact_for_the_gaussian_data_that_it_was_made_exact_for(solver) -> None:
    data = fs.flows.GaussianFlow([1.0, -4.0], std=solver.sampler.std)
    x1 = data.noise([0, 1])
    assert solver.sampler.std > 0
    torch.testing.assert_close(fs.sample(data.velocity, x1, solver), data.solution(x1), rtol=1e-12, atol=1e-12)


def scheduled(flow, sampler, x1, steps=4):
    from flowsamplers_diffusers import FlowSamplerScheduler

    scheduler = FlowSamplerScheduler.from_config({"use_dynamic_shifting": True}, sampler=sampler)
    scheduler.set_timesteps(sigmas=[1 - i / steps for i in range(steps)], mu=2.0)
    x = x1
    for t in scheduler.timesteps:
        x = scheduler.step(flow.velocity(x, (t / 1000).to(x).expand(len(x))), t, x, return_dict=False)[0]
    return scheduler, x


def test_the_scheduler_takes_the_file_or_the_object_and_its_own_sigmas(flow, solver, file) -> None:
    pytest.importorskip("diffusers")
    x1 = flow.noise([100, 101]).float()
    expected = fs.sample(flow.velocity, x1, solver.grid, solver.sampler)
    for sampler in (file, solver):
        scheduler, x = scheduled(flow, sampler, x1)
        torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-5)
        assert scheduler.sigmas.tolist() == pytest.approx(list(solver.grid.sigmas))
    again = type(scheduler).from_config(json.loads(json.dumps(dict(scheduler.config), default=list)))
    assert again._method == solver.as_sampler
    with pytest.raises(ValueError, match=r"num_inference_steps=50: .*pass num_inference_steps=4"):
        scheduled(flow, file, x1, steps=50)


def test_the_scheduler_refuses_a_run_that_begins_in_the_middle_and_tells_of_another_shape_once(flow, file, caplog) -> None:
    pytest.importorskip("diffusers")
    from flowsamplers_diffusers import FlowSamplerScheduler

    scheduler = FlowSamplerScheduler(sampler=file)
    scheduler.set_timesteps(4)
    scheduler.set_begin_index(2)
    x = torch.zeros(1, 6)
    with pytest.raises(ValueError, match="fit one with start="):
        scheduler.step(x, scheduler.timesteps[2], x)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            scheduler.set_timesteps(4)
            scheduler.step(torch.zeros(1, 9), scheduler.timesteps[0], torch.zeros(1, 9))
    assert sum("fitted to rows of shape (6,)" in r.message for r in caplog.records) == 1


def test_the_command_fits_and_its_file_is_a_sampler_everywhere(tmp_path) -> None:
    out = tmp_path / "s.json"
    args = ("fit", "--model", "mixture:1", "--rows", "8", "--nodes", "16", "--out", str(out), "--quiet")
    done = run(*args, "--nfe", "3", "4")
    assert done.exit_code == 0, done.output
    assert "rows that were not fitted to" in done.output
    three = str(tmp_path / "s-3.json")
    assert fs.load_solver(three).nfe == 3
    assert "fitted to: " in run("list", three).output
    assert run("cite", three).exit_code == 0
    study = run(
        "study",
        "--model",
        "mixture:1",
        "--sampler",
        three,
        "--seed",
        "0",
        "--out",
        str(tmp_path / "study"),
        "--json",
        "--quiet",
    )
    assert study.exit_code == 0, study.output
    assert [json.loads(line)["nfe"] for line in study.output.splitlines() if line.startswith("{")] == [3]


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("klein-digits", ("--dtype", "bfloat16")),
        ("klein-digits", ("--guidance", "1")),
        ("klein-digits-distilled", ("--distilled",)),
    ],
    ids=lambda given: "-".join(given) if isinstance(given, tuple) else given,
)
def test_the_command_fits_to_a_klein_as_it_is_run(model: str, options: tuple[str, ...], tmp_path) -> None:
    pytest.importorskip("diffusers")
    out = tmp_path / "s.json"
    few = ("--rows", "4", "--nodes", "4", "--nfe", "2", "--rounds", "0", "--out", str(out), "--quiet")
    done = run("fit", "--model", model, *options, *few)
    assert done.exit_code == 0, done.output
    solver = fs.load_solver(out)
    assert solver.nfe == 2
    assert solver.validation is not None
    assert math.isfinite(solver.validation.solver.error)
    if "--dtype" in options:
        assert solver.fitted_to["dtype"] == "bfloat16"


def test_a_distilled_model_is_refused_without_the_flag(tmp_path) -> None:
    pytest.importorskip("diffusers")
    done = run("fit", "--model", "klein-digits-distilled", "--out", str(tmp_path / "s.json"), "--quiet")
    assert done.exit_code == 2
    assert "Pass --distilled to fit to it all the same" in done.output
    assert not (tmp_path / "s.json").exists()


def test_a_dry_run_writes_nothing_and_counts_at_least_what_is_spent(tmp_path) -> None:
    out = tmp_path / "s.json"
    args = ("fit", "--model", "mixture:1", "--rows", "8", "--nodes", "16", "--nfe", "3", "--out", str(out), "--quiet")
    plan = json.loads(run(*args, "--dry-run", "--json").output)
    assert not out.exists()
    assert run(*args, "--budget", str(plan["evaluations"])).exit_code == 0
    assert out.exists()


def test_the_command_fits_to_images_at_a_start_and_a_run_from_noise_is_refused(tmp_path) -> None:
    out = str(tmp_path / "edit.json")
    args = ("--model", "mixture:1", "--rows", "16", "--nodes", "16", "--nfe", "3", "--quiet", "--start", "0.6", "--out", out)
    plan = json.loads(run("fit", *args, "--dry-run", "--json").output)
    done = run("fit", *args, "--budget", str(plan["evaluations"]))
    assert done.exit_code == 0, done.output
    solver = fs.load_solver(out)
    assert (solver.grid.start, solver.fitted_to["start"]) == (0.6, 0.6)
    assert "rows that were not fitted to" in done.output
    for command in (("trace",), ("study", "--out", str(tmp_path / "study"))):
        refused = run(*command, "--model", "mixture:1", "--sampler", out)
        assert refused.exit_code == 2, refused.output
        assert "fitted for image-to-image from sigma 0.6" in refused.output


def test_a_pipeline_with_a_strength_below_1_begins_where_the_solver_does(flow, tmp_path, caplog) -> None:
    pytest.importorskip("diffusers")
    from flowsamplers_diffusers import FlowSamplerScheduler
    from klein_family import MEMBERS, mask, pipeline
    from klein_family import run as run_pipeline

    x1 = flow.noise(list(range(8)))
    file = tmp_path / "edit.json"
    fs.fit(flow.velocity, 0.4 * flow.solution(x1) + 0.6 * flow.noise(list(range(8, 16))), 4, start=0.6).save(file)
    member = next(m for m in MEMBERS if m.inpaints)
    pipe = pipeline(member, FlowSamplerScheduler(sampler=str(file)))
    record = run_pipeline(member, pipe, steps=4, strength=0.999, mask_image=mask(64), velocity=torch.ones_like)
    assert len(record.latents) == 4
    assert pipe.scheduler.sigmas[0].item() == pytest.approx(0.6)
    start = record.told[0][1]
    torch.testing.assert_close(record.latents[-1], start - 0.6, rtol=1e-4, atol=1e-4)  # the whole way from there to 0
    assert "image-to-image" not in caplog.text
    scheduler = FlowSamplerScheduler(sampler=str(file))
    scheduler.set_timesteps(4)
    x = torch.zeros(1, 6)
    scheduler.step(x, scheduler.timesteps[0], x)
    assert "fitted for image-to-image from sigma 0.6" in caplog.text


@pytest.mark.parametrize("content", ["", '{"kind": "solver", "schema": 99, "sigmas": [1, 0]}'])
def test_a_bad_file_is_a_sentence_and_exit_code_2(content: str, tmp_path) -> None:
    file = tmp_path / "bad.json"
    file.write_text(content)
    done = run("generate", "--sampler", str(file))
    assert done.exit_code == 2
    assert "not a solver file that can be used" in done.output
    assert run("generate", "--sampler", str(tmp_path / "none.json")).exit_code == 2


@pytest.mark.parametrize("count", range(1, 13))
def test_every_prompt_is_fitted_to_or_judges_whatever_their_number(count: int) -> None:
    """With 4 prompts, taken by the number of the row, the last would fall on the rows that judge and never be fitted to."""
    fitting, judging = [f"fit {i}" for i in range(count)], ["judge 1", "judge 2"]
    given = prompts_of_rows(fitting, judging, 16)
    assert {*given[3::4]} == {*judging}
    assert {*given} - {*judging} == {*fitting}
