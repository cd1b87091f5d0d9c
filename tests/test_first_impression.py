"""What is not needed is not imported: help and version come before torch could be loaded."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import flowsamplers as fs
from tooling import AFTER_A_SAMPLER

HEAVY = ("torch", "numpy", "scipy", "diffusers", "matplotlib")


def imported_by(code: str) -> set[str]:
    """Which of the heavy packages a fresh interpreter has imported after the code."""
    last = f"import sys; print('\\n', *[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{last}"], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_the_package_itself_imports_nothing() -> None:
    assert imported_by("import flowsamplers as fs; fs.__version__; dir(fs)") == set()


COMMANDS = ("cite", "comfyui", "fit", "generate", "list", "report", "schedule", "study", "trace")


@pytest.mark.parametrize(
    "args", [["--help"], ["-h"], ["--version"], ["study", "diff", "--help"], *([c, "--help"] for c in COMMANDS)]
)
def test_help_and_version_import_nothing(args: list[str]) -> None:
    pytest.importorskip("click")
    assert imported_by(f"from flowsamplers.cli import main; main({args}, standalone_mode=False)") == set()


@pytest.mark.parametrize(
    "args",
    [
        ["list"],
        ["list", "--json"],
        ["list", "fireflow", "karras"],
        ["cite"],
        ["cite", "fireflow"],
        ["cite", "ab2:last=midpoint", "--schedule", "karras"],
        ["schedule", "--steps", "4", "--size", "1024x1024"],
        ["schedule", "--schedule", "karras"],
        ["schedule", "--sigmas", "1,0.5,0"],
    ],
)
def test_lists_citations_and_schedules_need_no_torch(args: list[str]) -> None:
    pytest.importorskip("click")
    assert imported_by(f"from flowsamplers.cli import main; main({args}, standalone_mode=False)") <= {"numpy"}


def test_names_and_options_of_samplers_need_no_torch() -> None:
    assert imported_by("import flowsamplers as fs; fs.to_config(fs.get_sampler('unipc', last='ralston3'))") <= {"numpy"}


def test_samplers_of_other_packages_are_listed_beside_what_is_stored(monkeypatch) -> None:
    pytest.importorskip("click")
    from flowsamplers.cli import listing

    assert json.loads(json.dumps(listing.registered_rows())) == listing.sampler_rows(), AFTER_A_SAMPLER
    monkeypatch.setattr(listing, "entry_points", lambda group: [group])
    monkeypatch.setattr(listing, "registered_rows", lambda: ["live"])
    assert listing.sampler_rows() == ["live"]


def test_numbers_of_a_schedule_need_no_more_than_numpy() -> None:
    assert imported_by("import flowsamplers as fs; fs.schedules.flux2(4, tokens=4096)") <= {"numpy"}


def test_every_public_name_is_found_where_a_type_checker_sees_it() -> None:
    body = ast.parse(Path(fs.__file__).read_text()).body
    block = next(n for n in body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    seen = {a.name: n.module for n in block.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert {*seen, "__version__"} == set(fs.__all__)
    for name, home in seen.items():
        found = f"flowsamplers.{fs._HOME[name]}" if name in fs._HOME else "flowsamplers"
        assert found == home
        assert getattr(fs, name) is not None
    assert set(fs.__all__) <= set(dir(fs))
    with pytest.raises(AttributeError, match="has no attribute 'smaple'"):
        getattr(fs, "smaple")  # noqa: B009


def test_functions_are_not_hidden_by_modules_of_their_name() -> None:
    code = (
        "import flowsamplers.fitting, flowsamplers.profiling, flowsamplers.cli.fit, flowsamplers.tracing, flowsamplers as fs\n"
    )
    assert imported_by(code + "assert all(map(callable, (fs.fit, fs.profile, fs.trace, fs.sample, fs.recommend)))")


def test_the_help_has_the_first_words_of_every_command() -> None:
    click = pytest.importorskip("click")
    from flowsamplers.cli import ROOMS, main

    for name, (_, line) in ROOMS.items():
        command = main.get_command(click.Context(main), name)
        assert command is not None
        assert command.help is not None
        assert command.help.startswith(line.rstrip("."))
        assert command.name == name


def test_every_module_can_be_the_first_that_is_imported() -> None:
    """Nothing relies on what the package used to import before it."""
    pytest.importorskip("click")
    pytest.importorskip("matplotlib")
    code = """
import sys, torch, pkgutil, flowsamplers
from importlib import import_module
names = [m.name for m in pkgutil.walk_packages(flowsamplers.__path__, "flowsamplers.") if not m.name.endswith("__main__")]
assert len(names) > 50
for name in names:
    for loaded in [m for m in sys.modules if m.partition(".")[0] == "flowsamplers"]:
        del sys.modules[loaded]
    import_module(name)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
