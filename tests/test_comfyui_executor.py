"""The committed workflows in ComfyUI's own executor, headless, with a tiny model instead of the files it would load."""

import asyncio
import json
import types
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import comfyui
import flowsamplers as fs
from comfyui import record, sampled
from flowsamplers.cli import main
from flowsamplers_comfyui import host

if not comfyui.CHECKOUT:
    pytest.skip("FLOWSAMPLERS_COMFYUI names no checkout of ComfyUI", allow_module_level=True)
pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.skipif(not (Path(comfyui.CHECKOUT) / "execution.py").exists(), reason="a fork whose executor lies elsewhere"),
    pytest.mark.filterwarnings("ignore"),
]
WORKFLOWS = Path(host.__file__).parent / "workflows"


class VAE:
    """Keeps what it is given, and makes a picture of the first three channels."""

    def __init__(self):
        self.seen = []

    def decode(self, samples):
        self.seen.append(samples)
        return samples[:, :3].movedim(1, -1).clamp(0, 1)


def loader(kind, value, inputs=()):
    """A node that gives a value."""
    names = {name: (of, {}) for name, of in inputs}
    members = {
        "INPUT_TYPES": classmethod(lambda cls: {"required": names}),
        "RETURN_TYPES": (kind,),
        "FUNCTION": "give",
        "give": lambda self, **given: (value(**{name: given[name] for name in names}),),
    }
    return type(f"Tiny{kind}", (), members)


@pytest.fixture(scope="module")
def comfy():
    return comfyui.start()


@pytest.fixture(scope="module")
def model(comfy):
    return comfyui.tiny("flux")


@pytest.fixture
def machine(comfy, model, tmp_path_factory, tmp_path, monkeypatch):
    """ComfyUI with its sampling nodes and ours, as its server would load them, and the tiny model in place of the loaders."""
    import execution
    import folder_paths
    import nodes

    here = tmp_path_factory.mktemp("comfyui")
    (here / "custom_nodes").mkdir()
    assert CliRunner().invoke(main, ["comfyui", "install", str(here)]).exit_code == 0
    for path in (Path(comfyui.CHECKOUT) / "comfy_extras" / "nodes_custom_sampler.py", here / "custom_nodes" / "flowsamplers"):
        assert asyncio.run(nodes.load_custom_node(str(path)))
    vae = VAE()
    tiny = {
        "UNETLoader": loader("MODEL", lambda: model[0]),
        "CLIPLoader": loader("CLIP", object),
        "VAELoader": loader("VAE", lambda: vae),
        "CLIPTextEncode": loader("CONDITIONING", lambda: model[1]),
        "EmptyFlux2LatentImage": loader(
            "LATENT", lambda batch_size: {"samples": torch.zeros(batch_size, 16, 8, 8)}, [("batch_size", "INT")]
        ),
    }
    for name, node in tiny.items():
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, name, node)
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    progress = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, **more: progress.append((value, total)))
    server = types.SimpleNamespace(client_id=None, last_node_id=None, sockets_metadata={}, send_sync=lambda *of: None)
    executor = execution.PromptExecutor(server)

    def run(prompt):
        valid, error, outputs, errors = asyncio.run(execution.validate_prompt("a", prompt, None))
        assert valid, (error, errors)
        executor.execute(prompt, "a", {}, outputs)
        return executor

    return types.SimpleNamespace(run=run, vae=vae, progress=progress, folder=tmp_path, nodes=nodes)


def workflow(name):
    return json.loads((WORKFLOWS / f"{name}.json").read_text())


def ended(executor):
    return executor.status_messages[-1][0], executor.status_messages[-1][1]


def outputs(executor, node):
    """What a node gave: a list for each of its outputs."""
    found = executor.caches.outputs.get(node)
    return getattr(found, "outputs", found)


def test_the_picture_of_the_workflow_is_that_of_the_library(comfy, model, machine):
    executor = machine.run(workflow("text_to_image"))
    assert executor.success, ended(executor)
    sampler = fs.get_sampler("ab2", last="midpoint")
    grid = fs.get_schedule("flux2", 7, tokens=16)  # 8 model calls, and the tokens of the tiny latents
    direct = sampled(
        model, comfy.samplers.KSAMPLER(host.flow_sampler, {"sampler": sampler}), torch.tensor(grid.sigmas), seed=0, images=1
    )
    assert torch.equal(machine.vae.seen[0], direct)
    assert [p.name for p in machine.folder.glob("*.png")] == ["flowsamplers_00001_.png"]
    assert machine.progress[-1] == (7, 7)
    record("workflows", "text_to_image", "the latents of flowsamplers.sample, bit for bit")


def test_the_inspected_run_is_recorded_call_by_call(machine):
    executor = machine.run(workflow("inspect"))
    assert executor.success, ended(executor)
    _, [table], [plot] = outputs(executor, "8")
    assert "sum of dt -1.0000000, 8 model calls" in table
    assert plot.shape[-1] == 3
    assert machine.progress[-1] == (8, 8)
    record("workflows", "inspect", table.splitlines()[-1])


def test_the_study_says_which_sampler_has_the_smallest_error(machine):
    executor = machine.run(workflow("study"))
    assert executor.success, ended(executor)
    _, [grid], [result] = outputs(executor, "8")
    assert "has the smallest error" in result
    assert len(machine.vae.seen) == 13  # four samplers at three numbers of calls, and the reference
    assert grid.shape[1:] == (5 * 8, 3 * 8, 3)
    assert len(list(machine.folder.glob("*.png"))) == 2
    value, total = machine.progress[-1]
    assert value == total <= 400
    assert machine.progress[-2][0] > 0.9 * total  # the last call; equal first calls are made once
    record("workflows", "study", result.splitlines()[0])


def test_a_fitted_solver_is_written_and_read_again(machine):
    executor = machine.run(workflow("fit"))
    assert executor.success, ended(executor)
    fitted = machine.vae.seen[-1]
    total = max(t for _, t in machine.progress)
    fit = [value for value, of in machine.progress if of == total]
    assert fit[-1] == total
    assert total / 2 < fit[-2] <= total  # the last call: the total is a bound
    about = outputs(executor, "6")[2][0]
    assert "8 model calls" in about
    assert fs.load_solver(machine.folder / "solver.json").nfe == 8
    executor = machine.run(workflow("fitted_solver"))
    assert executor.success, ended(executor)
    assert torch.allclose(machine.vae.seen[-1], fitted, atol=1e-5)
    assert len(Image.open(next(machine.folder.glob("*.png"))).getbands()) == 3
    record("workflows", "fit, fitted_solver", about.splitlines()[-1])


def test_an_interrupted_run_is_told_as_one_and_the_next_is_whole(comfy, machine):
    machine.run(workflow("text_to_image"))
    whole = machine.vae.seen[-1]
    prompt = workflow("text_to_image")
    prompt["10"]["inputs"]["noise_seed"] = 1

    def stop(value, total, preview, **more):
        machine.nodes.interrupt_processing()

    kept, comfy.utils.PROGRESS_BAR_HOOK = comfy.utils.PROGRESS_BAR_HOOK, stop
    executor = machine.run(prompt)
    comfy.utils.PROGRESS_BAR_HOOK = kept
    assert not executor.success
    assert ended(executor)[0] == "execution_interrupted"
    prompt["10"]["inputs"]["noise_seed"] = 0
    prompt["7"]["inputs"]["count"] = 9  # so that it is not taken from the cache
    machine.run(prompt)
    prompt["7"]["inputs"]["count"] = 8
    executor = machine.run(prompt)
    assert executor.success, ended(executor)
    assert torch.equal(machine.vae.seen[-1], whole)


def test_the_stock_ksampler_takes_our_schedules_from_its_menu(comfy, machine):
    prompt = workflow("text_to_image")
    inputs = prompt["10"]["inputs"]
    made = {}
    for scheduler in ("simple", "flow_simple"):
        prompt["10"] = {
            "class_type": "KSampler",
            "inputs": {
                "model": inputs["model"], "seed": 0, "steps": 6, "cfg": 1.0, "sampler_name": "euler", "scheduler": scheduler,
                "positive": inputs["positive"], "negative": inputs["negative"], "latent_image": inputs["latent_image"], "denoise": 1.0,
            },
        }  # fmt: skip
        executor = machine.run(prompt)
        assert executor.success, ended(executor)
        made[scheduler] = machine.vae.seen[-1]
    assert comfyui.distance(made["flow_simple"], made["simple"]) < 1e-4  # the sigmas are 2e-7 apart


def test_a_wrong_option_is_refused_before_anything_runs(machine):
    import execution

    prompt = workflow("text_to_image")
    prompt["6"]["inputs"]["options"] = '{"etta": 0.5}'
    valid, _, _, errors = asyncio.run(execution.validate_prompt("a", prompt, None))
    assert not valid
    assert "etta" in str(errors)
