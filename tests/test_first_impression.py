"""What is not needed is not imported: help and version come before torch could be loaded."""

from __future__ import annotations

import ast
import json
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from itertools import accumulate
from pathlib import Path
from types import ModuleType

import pytest

import flowsamplers as fs

HEAVY = ("torch", "numpy", "scipy", "diffusers", "matplotlib")


def imported_by(*codes: str) -> dict[str, set[str]]:
    """Which of the heavy packages a fresh interpreter has imported after each of the pieces of code, which it runs in turn."""
    told = f"import json, sys; print('\\n' + json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    whole = "\n".join(f"{code}\n{told}" for code in codes)
    done = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, check=True)
    found = [set(json.loads(line)) for line in done.stdout.splitlines() if re.fullmatch(r'\[("\w+"(, )?)*\]', line)]
    return dict(zip(codes, found, strict=True))


def test_the_package_itself_and_every_help_import_nothing() -> None:
    pytest.importorskip("click")
    from flowsamplers.cli import ROOMS

    helps = [["--help"], ["-h"], ["--version"], ["study", "diff", "--help"], *([command, "--help"] for command in ROOMS)]
    assert len(helps) == 4 + 9
    package = "import flowsamplers as fs; fs.__version__; dir(fs)"
    found = imported_by(package, *(RUN.format(args) for args in helps))
    assert {code: heavy for code, heavy in found.items() if heavy} == {}


RUN = "from flowsamplers.cli import main; main({}, standalone_mode=False)"
LISTS = [
    ["list"],
    ["list", "--json"],
    ["list", "fireflow", "karras"],
    ["cite"],
    ["cite", "fireflow"],
    ["cite", "ab2:last=midpoint", "--schedule", "karras"],
    ["schedule", "--steps", "4", "--size", "1024x1024"],
    ["schedule", "--schedule", "karras"],
    ["schedule", "--sigmas", "1,0.5,0"],
]


def test_lists_citations_schedules_names_and_options_of_samplers_need_no_more_than_numpy() -> None:
    pytest.importorskip("click")
    found = imported_by(
        "import flowsamplers as fs; fs.schedules.flux2(4, tokens=4096)",
        "fs.to_config(fs.get_sampler('unipc', last='ralston3'))",
        *(RUN.format(args) for args in LISTS),
    )
    assert {code: heavy for code, heavy in found.items() if not heavy <= {"numpy"}} == {}


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
    modules = {module.name for module in pkgutil.iter_modules(fs.__path__)}
    assert [name for name in modules & set(fs.__all__) if not isinstance(getattr(fs, name), ModuleType)] == []


def test_the_help_has_the_first_words_of_every_command() -> None:
    click = pytest.importorskip("click")
    from flowsamplers.cli import ROOMS, main

    for name, (_, line) in ROOMS.items():
        command = main.get_command(click.Context(main), name)
        assert command is not None
        assert command.help is not None
        assert command.help.startswith(line.rstrip("."))
        assert command.name == name


def when_imported(node: ast.AST) -> Iterator[ast.AST]:
    """The statements that run when a module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.Lambda) or (
            isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        ):
            continue
        yield child
        yield from when_imported(child)


def test_every_module_can_be_the_first_that_is_imported() -> None:
    """No module needs, when it is imported, one that needs it; packages on the way to a module are imported with it."""
    root = Path(fs.__file__).parent
    files = {
        ".".join(p.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__"): p for p in root.rglob("*.py")
    }
    assert len(files) > 50

    def packages(module: str) -> set[str]:
        return set(accumulate(module.split("."), "{}.{}".format)) & set(files)

    needs: dict[str, set[str]] = {}
    for module, path in files.items():
        named: set[str] = set()
        for node in when_imported(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                whole = {f"{node.module}.{alias.name}" for alias in node.names}
                named |= whole & set(files) or {str(node.module)}
        needs[module] = set[str]().union(*map(packages, named)) - (packages(module) - named)
    TopologicalSorter(needs).prepare()
