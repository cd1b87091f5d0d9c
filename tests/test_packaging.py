"""What a user gets: a light import, typed packages, and arrows between modules that point one way."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from importlib.metadata import entry_points, version
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

import flowsamplers as fs

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "flowsamplers"


def test_the_import_works_and_loads_neither_diffusers_nor_transformers() -> None:
    heavy = ["diffusers", "transformers", "click", "matplotlib", "hypothesis", "pytest", "flowsamplers_diffusers"]
    code = f"import sys, flowsamplers; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_version_is_that_of_the_metadata() -> None:
    assert fs.__version__ == version("flowsamplers")


def test_every_public_name_exists_and_is_documented() -> None:
    for name in fs.__all__:
        value = getattr(fs, name)
        assert not isinstance(value, type | FunctionType | ModuleType) or value.__doc__, name


def test_the_library_and_every_host_are_shipped_and_marked_as_typed() -> None:
    hosts = [p.parent.relative_to(ROOT).as_posix() for p in (ROOT / "integrations").glob("*/__init__.py")]
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sorted(shipped) == sorted(["flowsamplers", *hosts]), "name every host in packages of pyproject.toml"
    assert [p for p in shipped if not (ROOT / p / "py.typed").is_file()] == []


def test_models_are_found_by_name() -> None:
    assert {e.name for e in entry_points(group="flowsamplers.flows")} >= {"klein", "mixture"}


@pytest.mark.parametrize(
    ("model", "largest", "sources"),
    [
        ("klein_digits", 4_000_000, ("Alpaydin", "CC BY 4.0")),
        ("klein_digits_distilled", 4_000_000, ("Alpaydin", "CC BY 4.0")),
        ("klein_emoji", 12_000_000, ("Twemoji", "CC BY 4.0", "Noto", "Apache-2.0")),
        ("klein_emoji_distilled", 8_000_000, ("Twemoji", "CC BY 4.0", "Noto", "Apache-2.0")),
    ],
)
def test_a_bundled_model_is_small_and_says_where_it_comes_from(model: str, largest: int, sources: tuple[str, ...]) -> None:
    folder = ROOT / "integrations" / "flowsamplers_diffusers" / model
    content = [p for p in folder.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in content) <= largest
    card = (folder / "README.md").read_text()
    assert [s for s in ("license: apache-2.0", *sources) if s not in card] == []
    for path in content:
        if path.suffix in (".json", ".md", ".jinja"):
            assert "/tmp" not in path.read_text()
            assert "_name_or_path" not in path.read_text()


# The arrows of the house: a module may import only what stands before it.
LEVELS = [
    {"_accepted", "_counted", "_devices", "_elsewhere", "_files", "_html"},
    {"edits", "grid"},
    {"noise"},
    {"brownian"},
    {"sampler"},
    {"registry"},
    {"schedules", "samplers"},
    {"engine"},
    {"lockstep", "methods", "stepper", "tracing"},
    {"flows", "reference", "orders"},
    {"evaluated"},
    {"profiling"},
    {"scheme"},
    {"solver"},
    {"benchmark", "catalogue", "citations"},
    {"validation"},
    {"fitting_families", "fitting_weights"},
    {"fitting"},
    {"study", "testing"},
    {"plot"},
    {"cli"},
]


def rooms() -> list[tuple[str, Path]]:
    return [
        (p.relative_to(PACKAGE).parts[0].removesuffix(".py"), p)
        for p in PACKAGE.rglob("*.py")
        if p.name != "__init__.py" or p.parent != PACKAGE
    ]


def imported(path: Path) -> list[tuple[str, bool]]:
    """Modules that a file imports, and whether it does so when it is itself imported."""
    tree = ast.parse(path.read_text())
    top = {id(node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for node in ast.walk(node)}
    found: list[tuple[str, bool]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.module, id(node) not in top))
        elif isinstance(node, ast.Import):
            found += [(alias.name, id(node) not in top) for alias in node.names]
    return found


@pytest.mark.parametrize(("room", "path"), rooms(), ids=lambda v: v.name if isinstance(v, Path) else v)
def test_arrows_point_one_way(room: str, path: Path) -> None:
    level = next(i for i, names in enumerate(LEVELS) if room in names)
    for module, eager in imported(path):
        parts = module.split(".")
        assert not parts[0].startswith("flowsamplers_") or path.name == "check.py"  # the one module that only pytest runs
        assert not (eager and parts[0] in {"diffusers", "transformers", "matplotlib"}), f"{path}: {module}"
        assert not (eager and parts[0] in {"click", "tqdm"} and room != "cli"), f"{path}: {module}"
        if parts[0] == "flowsamplers" and len(parts) > 1 and parts[1] != room:
            other = next(i for i, names in enumerate(LEVELS) if parts[1] in names)
            allowed = other < level or (other == level and parts[1] in {"samplers", "schedules", "flows"})
            assert allowed, f"{path.name} imports {module}"


def test_nothing_names_a_file_that_outgrew_its_room() -> None:
    """Two rooms, not one: no module of the library is longer than 500 lines."""
    for _, path in rooms():
        assert len(path.read_text().splitlines()) <= 500, path


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Also inside functions; what is imported for the type checker alone does not run."""
    names = {
        ".".join(("flowsamplers", *p.relative_to(PACKAGE).with_suffix("").parts)): p
        for _, p in rooms()
        if p.name != "__init__.py"
    }
    graph: dict[str, set[str]] = {}
    for name, path in names.items():
        tree = ast.parse(path.read_text())
        typing = {
            id(n)
            for i in ast.walk(tree)
            if isinstance(i, ast.If) and ast.unparse(i.test) == "TYPE_CHECKING"
            for n in ast.walk(i)
        }
        found = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module and id(n) not in typing]
        graph[name] = {m for n in found for m in (n.module, *(f"{n.module}.{a.name}" for a in n.names)) if m in names}
    list(TopologicalSorter(graph).static_order())  # a circle is an error that names its modules
