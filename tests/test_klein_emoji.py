"""klein-emoji and its distilled twin: they load by name, are small and fast, and their tools run."""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("click")
from click.testing import CliRunner
from diffusers import Flux2KleinPipeline
from PIL import Image

import flowsamplers as fs
from flowsamplers.cli import main
from flowsamplers.flows import default_prompts
from flowsamplers.solver import bundled_solvers
from flowsamplers.study import Study, load
from flowsamplers_diffusers import KleinFlow, load_klein
from tooling import tool

MODELS = pytest.mark.parametrize("model", ["klein-emoji", "klein-emoji-distilled"])


@MODELS
def test_it_is_found_by_name(model: str) -> None:
    flow = KleinFlow.load(model, device="cpu")
    assert (flow.tokens, flow.shape, flow.max_sequence_length) == (64, (64, 32), 16)
    assert (flow.is_distilled, flow.guided) == ((True, False) if "distilled" in model else (False, True))


@MODELS
def test_read_by_diffusers_itself_without_a_dtype_it_computes_in_float32(model: str) -> None:
    folder = str(files("flowsamplers_diffusers").joinpath(model.replace("-", "_")))
    pipe: Any = Flux2KleinPipeline.from_pretrained(folder, local_files_only=True)
    assert {p.dtype for part in (pipe.transformer, pipe.vae, pipe.text_encoder) for p in part.parameters()} == {torch.float32}
    mine = load_klein(model, device="cpu")
    pipe.set_progress_bar_config(disable=True)
    call = {"prompt": "pizza", "num_inference_steps": 1, "height": 64, "width": 64, "max_sequence_length": 16}
    pictures = [p(**call, output_type="pt", generator=torch.Generator().manual_seed(0)).images for p in (pipe, mine)]
    assert pictures[0].dtype == torch.float32
    assert torch.equal(*pictures)


def test_one_call_takes_at_most_40_ms_of_one_core() -> None:
    """Of the processor's time, the best of ten: 25 ms on the machine where this was written."""
    flow = KleinFlow.load("klein-emoji-distilled", prompt="red heart", device="cpu")
    x, threads, took = flow.noise([0]), torch.get_num_threads(), []
    torch.set_num_threads(1)
    for _ in range(10):
        begin = time.process_time()
        flow.velocity(x, 0.7)
        took.append(time.process_time() - begin)
    torch.set_num_threads(threads)
    assert min(took) < 0.040


def test_generate_writes_a_picture(tmp_path: Path) -> None:
    out = tmp_path / "heart.png"
    done = CliRunner().invoke(
        main,
        [*f"generate --model klein-emoji-distilled --steps 4 --device cpu --quiet --out {out} --prompt".split(), "red heart"],
    )
    assert done.exit_code == 0, done.output
    with Image.open(out) as picture:
        assert picture.size == (64, 64)
        red, green, blue = picture.convert("RGB").getpixel((32, 30))
    assert red > 2 * max(green, blue)


def test_a_model_has_prompts_of_its_own_wherever_none_is_given() -> None:
    assert Study("klein-emoji-distilled").prompts == Study("klein-emoji").prompts == ("pizza", "red heart")
    assert Study("klein-digits").prompts == ("a handwritten 3", "the digit seven")
    assert Study("mixture:four-gaussians").prompts == (None,)
    assert Study("klein-emoji", prompts=("banana",)).prompts == ("banana",)
    assert len(Study("someone/a-klein").prompts) == 1


@pytest.mark.parametrize("model", ["klein-digits", "klein-digits-distilled", "klein-emoji", "klein-emoji-distilled"])
def test_the_prompts_that_judge_a_fit_are_not_those_it_is_fitted_to(model: str) -> None:
    given, held = default_prompts(model)
    assert not {*given} & {*held}


def test_the_default_prompts_are_among_those_that_were_learned() -> None:
    given, held = default_prompts("klein-emoji")
    assert {*given, *held} <= {*tool("train_klein_emoji").COMMON_PROMPTS}


# The tools


class Small(torch.nn.Module):
    """A module that a test can train in no time."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 4, bias=False)
        torch.nn.init.eye_(self.layer.weight)


def trained(path: Path, *, stopped_after: int | None = None) -> Any:
    """A run of 8 steps that saves after each, or one that is cut off."""
    run = tool("train_klein_emoji").Run(Small(), path, 8, 1e-2, seed=0)

    def loss() -> torch.Tensor:
        if run.done == stopped_after:
            raise InterruptedError
        return (run.model.layer(torch.randn(16, 4, generator=run.rng)) - 1).square().mean()

    run(loss, every=0.0)
    return run


def test_a_training_that_was_cut_off_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole.pt")
    with pytest.raises(InterruptedError):
        trained(tmp_path / "cut.pt", stopped_after=3)
    mended = trained(tmp_path / "cut.pt")
    assert [done for done, _ in mended.losses] == [done for done, _ in whole.losses] == list(range(1, 9))
    for mine, other in ((mended.model, whole.model), (mended.average, whole.average)):
        assert torch.equal(mine.layer.weight, other.layer.weight)


def test_a_training_that_is_done_takes_no_further_step(tmp_path: Path) -> None:
    done = trained(tmp_path / "run.pt")
    assert trained(tmp_path / "run.pt", stopped_after=8).done == done.done == 8


@pytest.fixture
def few_emoji(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """A work folder with two plain pictures in the place of the packages."""
    training = tool("train_klein_emoji")
    tool("distil_klein")  # takes the prompts when it is imported: the real ones
    monkeypatch.setattr(training, "PROMPTS", {"Food & Drink": "pizza=pizza"})
    told = [
        {"name": name, "unified": str(i), "short_names": [short], "category": "Food & Drink", "image": f"{i}.png"}
        for i, (name, short) in enumerate([("SLICE OF PIZZA", "pizza"), ("BENTO BOX", "bento")])
    ]
    for name in training.SETS:
        package = tmp_path / "data" / name / "package"
        pictures = package / "img" / name / "64"
        pictures.mkdir(parents=True)
        (package / "emoji.json").write_text(json.dumps(told))
        for i, color in enumerate(("red", "blue")):
            Image.new("RGBA", (64, 64), color).save(pictures / f"{i}.png")
    yield tmp_path
    torch.set_default_device(None)


def run_tool(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", [name, *map(str, arguments)])
    tool(name).main()


def test_the_tools_train_save_and_distil_a_model_that_loads(few_emoji: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training, distilling = tool("train_klein_emoji"), tool("distil_klein")
    data = training.load_data(few_emoji)
    assert data.prompts == ["pizza", "bento box"]
    assert len(data.images) == 8  # two sets, each mirrored
    training.train_vae(few_emoji, data, steps=2, batch=8)
    for steps in (1, 2):
        run_tool(monkeypatch, "train_klein_emoji", "teacher", "--work", few_emoji, "--steps", steps, "--batch", 2)
    teacher = few_emoji / "klein-emoji"
    run_tool(monkeypatch, "train_klein_emoji", "save", "--work", few_emoji)
    assert "teacher`: 2 steps" in (teacher / "README.md").read_text()

    texts = distilling.Subject(["pizza", "bento box"], training.GUIDANCE, 16, training.CARD_DATA)
    monkeypatch.setattr(distilling, "subjects", lambda: {"klein-emoji": texts})
    places = ["--source", teacher, "--work", few_emoji, "--out", few_emoji / "student"]
    run_tool(
        monkeypatch, "distil_klein", "klein-emoji", *places, *["--paths", "2", "--batch", "2", "--steps", "2", "--rounds", "2"]
    )
    for folder, distilled in ((teacher, False), (few_emoji / "student", True)):
        flow = KleinFlow.load(str(folder), prompt="pizza", device="cpu", dtype="float32")
        assert (flow.is_distilled, flow.tokens) == (distilled, 64)
        x0 = fs.sample(flow.velocity, flow.noise([0]), fs.schedules.flux2(1, tokens=64), "euler")
        assert flow.decode(x0, "pt").shape == (1, 3, 64, 64)


def test_the_default_study_is_of_klein_emoji_at_the_guidance_it_was_made_for() -> None:
    study = Study()
    assert study.model == "klein-emoji"
    assert study.open().guidance_scale == 2.5
    assert KleinFlow.load("klein-emoji", guidance_scale=4.0, device="cpu").guidance_scale == 4.0
    assert Study("klein-digits").open().guidance_scale == 4.0


def test_every_sampler_comes_nearer_to_the_exact_solution_than_euler_with_a_quarter_of_the_calls() -> None:
    """One row each, all in lock-step. A stochastic sampler ends elsewhere, in latents of the same size.

    The implicit methods iterate to a fixed point, and such an iteration needs shorter steps: they have three times as many calls.
    """
    flow = KleinFlow.load("klein-emoji", prompt="red heart", device="cpu", guidance_scale=1.0)
    x1, infos, flat = flow.noise([0]), fs.list_samplers(), fs.schedules.linear
    names = [i.name for i in infos if not i.stochastic and not i.adaptive]
    noisy = [i.name for i in infos if i.stochastic and not i.adaptive]
    runs = [fs.Run(x1, flat(36), "fireflow"), fs.Run(x1, flat(3), "euler")]
    calls = {n: 36 if n in ("gauss_legendre2", "radau_iia2") else 12 for n in names}
    runs += [fs.Run(x1, flat(fs.largest_steps(fs.get_sampler(n), c, flat)), n) for n, c in calls.items()]
    runs += [fs.Run(x1, flat(6), n, seeds=0) for n in noisy]
    truth, few, *ends = fs.sample_many(flow, runs)
    bound = torch.dist(few, truth)
    errors = {n: torch.dist(x0, truth).item() for n, x0 in zip(names, ends, strict=False)}
    assert {n: e for n, e in errors.items() if not e < bound} == {}
    sizes = {n: (x0.norm() / truth.norm()).item() for n, x0 in zip(noisy, ends[len(names) :], strict=True)}
    assert {n: size for n, size in sizes.items() if not 0.5 < size < 2} == {}


# The solvers that ship with it


def test_studies_and_pictures_are_of_other_prompts_and_noises_than_the_solvers_were_fitted_to() -> None:
    pytest.importorskip("matplotlib")
    shown, study = tool("build_gallery").PROMPTS, Study()
    solvers = bundled_solvers("klein-emoji")
    assert [s.nfe for s in solvers] == [4, 6, 8]
    for solver in solvers:
        about = solver.fitted_to
        assert not {*about["prompts"], *about["held_prompts"]} & {*study.prompts, *shown}
        assert about["first_seed"] > max(*study.seeds, *shown.values())
        assert about["guidance_scale"] == study.open().guidance_scale


@pytest.mark.parametrize("calls", [6, 8])
def test_in_the_committed_study_a_fitted_solver_has_less_error_than_every_sampler_of_the_catalogue(calls: int) -> None:
    """Than the others on average, than Euler for certain: the interval of the paired ratio is above 1."""
    results = load(Path(__file__).parent.parent / "docs" / "studies" / "klein-emoji")
    best = results.best(calls)
    assert best is not None
    assert best[0] == "fitted"
    ratio = results.compare("euler", "fitted", calls)
    assert ratio is not None
    assert ratio.low > 1


def test_a_study_with_other_options_or_of_another_model_has_no_fitted_solver() -> None:
    """They were made for guidance 2.5 and 64 x 64 pixels."""

    def fitted(**options: Any) -> list[int]:
        return [s.own_grid.steps for s in map(fs.get_sampler, Study(**options).samplers) if s.own_grid is not None]

    assert fitted() == [4, 6, 8]
    assert fitted(nfe=(4, 16)) == [4]
    assert fitted(samplers=("euler",)) == []
    assert fitted(flow_options={"guidance_scale": 4.0}) == []
    assert fitted(model="klein-emoji-distilled") == fitted(model="klein-digits") == []


# What was measured


def test_a_picture_is_recognised_by_the_nearest_of_each_label() -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    report = tool("measure_klein_emoji")
    gray = torch.tensor([0.0, 0.1, 0.5, 0.9])[:, None, None, None].expand(-1, 3, 64, 64)
    gallery = report.Gallery(gray, torch.tensor([0, 1, 0, 2]), 3)
    asked = torch.full((1, 3, 64, 64), 0.4)
    assert gallery.nearest(asked)[0].tolist() == pytest.approx([0.1, 0.3, 0.5], rel=1e-4)
    assert [int(gallery.ranks(asked, torch.tensor([label]))) for label in (0, 1, 2)] == [0, 1, 2]
