"""Every mistake on every command is one line on standard error and exit code 2, and says what would be accepted."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("click")
pytest.importorskip("diffusers")
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

import flowsamplers_diffusers
from flowsamplers.cli import main

DEEP = "[" * 100_000
BUNDLED = Path(flowsamplers_diffusers.__file__).parent / "klein_digits"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
STUDY = "study --model mixture --quiet --seed 0 --nfe 4 8 --samplers euler heun --out"
ABSENT = [d for d in ("cuda", "cuda:7", "mps", "xpu", "meta", "cpu:3") if torch.device(d).type not in ("cuda", "mps", "xpu") or not
          getattr(torch, torch.device(d).type).device_count()]  # fmt: skip
OPENING = ("generate", "trace", "fit", "study --dry-run")
"""Commands that open a model."""
NO_DEVICE = "this machine does not have it; it has cpu"

CASES = [
    # the command itself
    ("nope", "No such command 'nope'; see flowsamplers --help"),
    ("--nope", "No such option"),
    ("generate --nope", "No such option"),
    ("generate extra", "unexpected extra argument (extra); see flowsamplers generate --help"),
    ("generate --steps", "requires an argument"),
    ("comfyui", "give one of install, uninstall"),
    ("comfyui nope", "No such command 'nope'"),
    ("comfyui install", "Missing argument 'PATH'"),
    ("comfyui install nowhere", "nowhere: it has no folder custom_nodes"),
    ("comfyui uninstall nowhere", "nowhere: it has no folder custom_nodes"),
    # devices
    *[(f"{c} --device {d}", f"device='{d}': {NO_DEVICE}") for c in OPENING for d in ABSENT],
    *[(f"{c} --device '{d}'", f"device='{d}': this is not the name") for c in OPENING for d in ("cudaa", "")],
    ("generate --dtype int8", "'int8' is not one of"),
    ("generate --offload disk", "'disk' is not one of"),
    ("generate --offload sequential --device cpu", "it needs an accelerator"),
    # sizes and guidance
    ("generate --size 0x0", "height=0: this model draws sizes that are multiples of 4"),
    ("generate --size 0x16", "width=0"),
    ("generate --size 17x16", "width=17"),
    ("generate --size axb", "give the size as WIDTHxHEIGHT"),
    ("generate --size -4x4", "give the size as WIDTHxHEIGHT"),
    ("study --dry-run --size 0x0", "height=0"),
    ("trace --size 0x0", "height=0"),
    *[(f"{c} --guidance {g}", f"guidance_scale={g}: must be finite") for c in OPENING for g in ("nan", "inf")],
    ("generate --guidance -1", "guidance_scale=-1.0: must be finite and not negative"),
    ("generate --guidance abc", "'abc' is not a valid float"),
    ("generate --guidance-interval nan 1", "give two sigmas in [0, 1]"),
    ("generate --guidance-interval 1 0", "the lower one first"),
    # samplers
    ("generate --sampler huen", "did you mean 'heun'?"),
    ("generate --sampler ''", "unknown sampler ''"),
    ("generate --sampler dpmpp_2s:c2=half", "c2='half': accepted is a number"),
    ("generate --sampler dpmpp_2s:c2=nan", "c2='nan': accepted is a number"),
    (f"generate --sampler dpmpp_2s:c2={DEEP}", "c2='[[[["),
    ("generate --sampler ab2:last=[1]", "sampler=[1]: this is no sampler"),
    ("generate --sampler ab2:last=nope", "unknown sampler 'nope'"),
    ("generate --sampler ab2:last", "give options as name=value"),
    ("generate --sampler euler:x=1", "unknown option of Euler 'x'"),
    ("generate --sampler euler_ancestral:eta=x", "eta='x': accepted is a number"),
    ("generate --sampler nowhere.json", "nowhere.json: no such solver file"),
    *[(f"{c} {f}.json", f"{f}.json: not a solver file that can be used")
      for c in ("generate --sampler", "list", "cite") for f in ("empty", "list", "cut", "deep", "binary")],
    # counts and seeds
    ("generate --steps 0", "steps=0: a schedule needs at least 1 step"),
    ("generate --steps x", "'x' is not a valid integer"),
    ("generate --nfe 0", "nfe=[0]"),
    ("generate --steps 1 --nfe 1", "give the one or the other"),
    ("generate --seed x", "'x' is not a valid integer"),
    ("generate --seed 99999999999999999999999", "is not in the range"),
    ("study --dry-run --seed 99999999999999999999999", "is not in the range"),
    ("trace --steps 0", "steps=0"),
    ("trace --sampler nope", "unknown sampler 'nope'"),
    ("fit --rows 0", "rows=0: a fit needs at least 1"),
    ("fit --nfe 0", "nfe=0: a solver makes from 1 to 48 calls"),
    ("fit --nfe 4 4", "nfe=[4, 4]: one of them is there twice"),
    ("fit --max-batch 0", "max_batch=0: a model call needs at least 1 row"),
    ("fit --out .", "is a folder; name a JSON file"),
    ("schedule --schedule karras_ve --option rho=0", "rho=0.0: no schedule can be computed"),
    ("study --dry-run --metric nope", "unknown metric 'nope': install a package"),
    ("fit --rounds -1", "rounds=-1: must not be negative"),
    ("fit --budget soon", "give a number of evaluations, or a time"),
    ("study --dry-run --nfe 4 4", "nfe=[4, 4]: one of them is there twice"),
    ("study --dry-run --nfe 4 8 --nfe 4", "nfe=[4, 8, 4]: one of them is there twice"),
    ("study --dry-run --seeds 0 0", "seeds=[0, 0]: one of them is there twice"),
    ("study --dry-run --prompt a --prompt a", "prompts=['a', 'a']: one of them is there twice"),
    ("study --dry-run --schedule ''", "schedule='': accepted is a name that is not empty"),
    ("study --dry-run --schedule flux2:", "give options as name=value"),
    ("study --dry-run --mu inf", "mu=inf: accepted is a finite number"),
    ("study --dry-run --out ''", "'': accepted is a path that is not empty"),
    ("study --dry-run --references ''", "'': accepted is a path that is not empty"),
    ("study --preset klein-steps --seeds 0 1", "seeds=[0, 1]: the preset klein-steps takes one"),
    ("study --preset klein-steps --nfe 4", "nfe: the preset klein-steps has no such option"),
    ("generate --out ''", "'': accepted is a path that is not empty"),
    ("generate --steps 4 4", "steps: one of them is there twice"),
    ("generate --nfe 4 4", "nfe: one of them is there twice"),
    ("generate --samplers euler euler", "sampler: one of them is there twice"),
    ("generate --sampler euler:", "give options as name=value"),
    ("generate --sampler ab2:last=midpoint,", "give options as name=value"),
    ("generate --sampler dopri5:max_calls=0", "max_calls=0: accepted is a whole number, at least 1"),
    ("generate --sampler unipc:corrector=1", "corrector=1: accepted is true or false"),
    ("generate --sampler churn:low=-1", "low=-1.0"),
    ("fit --dry-run --start nan", "start=nan: accepted is a finite number, above 0 and at most 1"),
    ("fit --dry-run --start 0", "start=0.0: accepted is a finite number, above 0 and at most 1"),
    ("fit --dry-run --start 1.5", "start=1.5: accepted is a finite number, above 0 and at most 1"),
    ("fit --dry-run --nodes 0", "nodes=0: accepted is a whole number, at least 1"),
    ("fit --dry-run --out ''", "'': accepted is a path that is not empty"),
    ("report ''", "'': accepted is a path that is not empty"),
    ("study diff '' x", "'': accepted is a path that is not empty"),
    ("comfyui install ''", "'': accepted is a path that is not empty"),
    ("cite ''", "unknown sampler ''"),
    ("cite --schedule ''", "unknown schedule ''"),
    ("list ''", "unknown sampler or schedule ''"),
    ("study --dry-run --nfe 0", "nfe=0: a budget is at least 1 model call"),
    ("study --dry-run --mu nan", "mu=nan: accepted is a finite number"),
    ("study --dry-run --mu x", "accepted are a number, 'fixed' and 'follow'"),
    ("study --dry-run --schedule nope", "unknown schedule 'nope'"),
    ("study --dry-run --budget -1", "give a number of evaluations, or a time"),
    ("study --dry-run --max-batch 0", "max_batch=0"),
    ("study --dry-run --samplers euler euler", "samplers: one of them is there twice"),
    ("study --engine moon", "'moon' is not one of"),
    # models
    ("generate --model ''", "model='': accepted is the name of a model that is not empty"),
    ("generate --model klein", "unknown model ''"),
    *[(f"{c} --model mixture:", "model='mixture:': the name after the colon is missing") for c in OPENING],
    ("generate --model klein:", "model='klein:': the name after the colon is missing"),
    ("study --dry-run --model ''", "model='': accepted is a name that is not empty"),
    ("trace --model mixture:-1", "unknown mixture '-1'"),
    ("generate --model klein-digit", "did you mean 'klein-digits'?"),
    ("generate --model ./nowhere", "model './nowhere': no such folder"),
    ("generate --model empty-folder", "the folder has no model_index.json"),
    ("generate --model mixture", "makes vectors, not images"),
    ("trace --model mixture:x", "unknown mixture 'x'"),
    ("trace --model mixture --prompt x", "prompt: a mixture has no such option"),
    ("generate --model index-list", "its model_index.json does not say which pipeline it is"),
    ("generate --model index-deep", "its model_index.json does not say which pipeline it is"),
    ("generate --model other-pipeline", "is a StableDiffusionPipeline; a Flux2KleinPipeline is needed"),
    *[(f"{c} --model {m}", m) for c in ("generate", "trace")
      for m in ("weights-cut", "weights-3-bytes", "weights-short", "config-text", "config-empty", "no-vae", "tokenizer-empty")],
    ("generate --quiet --model weights-nan", "gives latents that are not finite"),
    # schedules
    *[(f"schedule --option mu={v}", f"mu={said}: accepted is a number")
      for v, said in (("abc", "'abc'"), ("nan", "'nan'"), ("[1]", "[1]"), ("{}", "{}"), ("true", "True"), (DEEP, "'[[[["))][:5],
    (f"schedule --option mu={DEEP}", "mu='[[[["),
    ("schedule --option mu", "give options as name=value"),
    ("schedule --option nope=1", "unknown option of schedule 'flux2' 'nope'"),
    ("schedule --option tokens=abc", "tokens='abc': accepted is a whole number"),
    ("schedule --option tokens=1.5", "tokens=1.5: accepted is a whole number"),
    ("schedule --tokens 0", "tokens=0"),
    ("schedule --steps 0", "steps=0"),
    ("schedule --size 0x0", "width=0"),
    ("schedule --mu inf", "mu=inf"),
    ("schedule --schedule nope", "unknown schedule 'nope'"),
    ("schedule --schedule linear --option start=x", "start='x': accepted is a number"),
    ("schedule --schedule beta_comfy --option shift=x", "shift='x': accepted is a number"),
    ("schedule --schedule beta_comfy --option points=1e18", "points=1e+18: accepted is a whole number"),
    ("schedule --schedule beta_comfy --option alpha=[]", "alpha=[]: accepted is a number"),
    ("schedule --schedule karras_ve --option rho=x", "rho='x': accepted is a number"),
    ("schedule --schedule table --option nodes=x", "unknown table 'x'"),
    ("schedule --schedule table --option nodes=3", "nodes=3: accepted are numbers"),
    ("schedule --schedule table --option nodes=[1,null]", "nodes=[1, None]: accepted are numbers"),
    ("schedule --schedule table --option nodes=[[1]]", "nodes=[[1]]: accepted are numbers"),
    ("schedule --schedule table --option nodes={}", "nodes={}: accepted are numbers"),
    ("schedule --sigmas 1,x", "'x' is no number"),
    ("schedule --sigmas 1,nan", "every sigma must be finite"),
    ("schedule --steps -2", "steps=-2"),
    ("schedule --size 1024", "give the size as WIDTHxHEIGHT"),
    ("schedule --size 8x8", "width=8: an image side has at least 16 pixels"),
    ("schedule --schedule flux", "unknown schedule 'flux': did you mean"),
    ("schedule --sigmas 0,0.5,1", "sigmas must fall strictly"),
    ("schedule --mu nan", "mu=nan"),
    ("schedule --mu 1e6", "mu=1000000.0: the time shift needs a finite number of at most 709"),
    ("schedule --schedule linear --mu 1", "unknown option of schedule 'linear' 'mu'"),
    ("schedule --schedule shift --option shfit=3", "did you mean 'shift'"),
    # lists, citations and studies
    ("list ddpm", "unknown sampler or schedule 'ddpm': a name of ComfyUI: here it is 'ddim_eta'"),
    ("list ns_solver", "made by its option table, see fit_ns_solver"),
    ("list fireflw", "unknown sampler or schedule 'fireflw': did you mean 'fireflow'?"),
    ("list --schedules euler", "unknown sampler or schedule 'euler'"),
    ("study --model mixture --sampler huen", "unknown sampler 'huen': did you mean 'heun'?"),
    ("study --model mixture --sampler ab2:lst=euler", "unknown option of AdamsBashforth2 'lst': did you mean 'last'?"),
    ("study --model mixture --sampler lcm", "sampler 'lcm' is stochastic (see study.stochastic_orders)"),
    ("study --model mixture --budget soon", "give a number of evaluations, or a time such as 90s, 10min or 2h"),
    ("study --model mixture --device cuda", "device: a mixture has no such option"),
    ("study --model mixture --out /proc/nowhere/study", "/proc/nowhere"),
    ("study --model /no/such/folder", "model '/no/such/folder': no such folder"),
    ("generate --nfe 3 --sampler rk4", "nfe=[3]: not one step of rk4 fits"),
    ("list nope", "unknown sampler or schedule 'nope'"),
    ("cite nope", "unknown sampler 'nope'"),
    ("cite --schedule nope", "unknown schedule 'nope'"),
    ("report", "Missing argument 'FOLDER'"),
    ("report nowhere", "nowhere: no study here"),
    ("report no-rows", "no-rows: this study has no rows yet"),
    ("report rows-other", "rows-other/rows.jsonl, line 1: not a row of a study"),
    *[(f"{c} {s}", f"{s}/study.json: not a study's settings") for c in ("report", "study diff whole", STUDY)
      for s in ("settings-empty", "settings-cut", "settings-deep", "settings-null", "settings-number", "settings-text")],
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with models, studies and files that are damaged in the ways that the cases name."""
    root = tmp_path_factory.mktemp("mistakes")

    def model(name: str) -> Path:
        return Path(shutil.copytree(BUNDLED, root / name))

    for name, size in (("weights-cut", 5000), ("weights-3-bytes", 3)):
        file = model(name) / WEIGHTS
        file.write_bytes(file.read_bytes()[:size])
    whole = load_file(BUNDLED / WEIGHTS)
    save_file({k: v * float("nan") for k, v in whole.items()}, model("weights-nan") / WEIGHTS)
    first = min(whole)
    save_file({**whole, first: whole[first][:1].clone()}, model("weights-short") / WEIGHTS)
    (model("config-text") / "transformer/config.json").write_text("nothing")
    (model("config-empty") / "transformer/config.json").write_text("{}")
    (model("tokenizer-empty") / "tokenizer/tokenizer.json").write_text("{}")
    shutil.rmtree(model("no-vae") / "vae")
    for name, index in (
        ("index-list", "[]"),
        ("index-deep", DEEP),
        ("other-pipeline", '{"_class_name": "StableDiffusionPipeline"}'),
    ):
        (root / name).mkdir()
        (root / name / "model_index.json").write_text(index)
    (root / "empty-folder").mkdir()
    for name, text in (("empty", b"{}"), ("list", b"[1]"), ("cut", b"{"), ("deep", DEEP.encode()), ("binary", b"\xff\xfe\x00")):
        (root / f"{name}.json").write_bytes(text)
    done = CliRunner().invoke(main, [*shlex.split(STUDY), str(root / "whole")])
    assert done.exit_code == 0, done.output
    settings = json.loads((root / "whole/study.json").read_text())
    for name, text in (
        ("empty", "{}"),
        ("cut", json.dumps(settings)[:40]),
        ("deep", DEEP),
        ("null", json.dumps(dict.fromkeys(settings))),
        ("number", json.dumps({**settings, "samplers": 3})),
        ("text", json.dumps({**settings, "samplers": ["euler"]})),
    ):
        shutil.copytree(root / "whole", root / f"settings-{name}")
        (root / f"settings-{name}/study.json").write_text(text)
    for name, text in (("no-rows", ""), ("rows-other", "[]\n")):
        shutil.copytree(root / "whole", root / name)
        (root / name / "rows.jsonl").write_text(text)
    before = {p for p in root.rglob("*") if p.is_file()}
    yield root
    assert {p for p in root.rglob("*") if p.is_file()} == before, "a mistake writes no file"


def test_there_are_at_least_180() -> None:
    assert len(CASES) >= 180


@pytest.mark.parametrize("number", range(len(CASES)))
def test_a_mistake_is_one_line_and_exit_code_2(number: int, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line, said = CASES[number]
    monkeypatch.chdir(place)
    result = CliRunner().invoke(main, shlex.split(line))
    assert result.exit_code == 2, (line[:200], result.output[-500:], result.exception)
    assert len(result.stderr.splitlines()) == 1, (line[:200], result.stderr[-1000:])
    assert result.stderr.startswith("Error: ")
    assert said in result.stderr, (line[:200], result.stderr[:500])
    assert "unexpected " not in result.stderr.replace("unexpected extra argument", "")
    assert len(result.stderr) < 3100


def test_a_trace_of_nan_prints_its_table_and_one_line(place: Path) -> None:
    result = CliRunner().invoke(main, ["trace", "--model", str(place / "weights-nan")])
    assert result.exit_code == 2
    assert "timestep" in result.stdout
    assert result.stderr == "Error: the velocity at sigma 1 in step 0 is not finite\n"


def test_what_nobody_foresaw_is_one_line_too_and_a_variable_shows_where(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*args: object, **kwargs: object) -> None:
        raise KeyError("sigma")

    monkeypatch.setattr("flowsamplers.citations.cite", lost)
    result = CliRunner().invoke(main, ["cite"])
    assert result.exit_code == 2
    assert result.stderr == "Error: unexpected KeyError: 'sigma' (FLOWSAMPLERS_TRACEBACK=1 shows where)\n"
    monkeypatch.setenv("FLOWSAMPLERS_TRACEBACK", "1")
    assert isinstance(CliRunner().invoke(main, ["cite"]).exception, KeyError)


def test_a_reader_that_has_left_ends_the_command_quietly() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "flowsamplers.cli", "schedule"], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")
