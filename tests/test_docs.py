"""What the pages show is true: numbers come from the committed rows, code runs, commands parse, links lead somewhere."""

from __future__ import annotations

import ast
import importlib.util
import json
import pkgutil
import re
import shutil
import tomllib
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner

import flowsamplers as fs
import flowsamplers_diffusers
from flowsamplers.cli import main
from flowsamplers.samplers import Ralston
from klein import pipeline
from pages import DOCS, PAGES, README, ROOT, anchors, blocks, commands, directives, links, name, nav, prose
from tooling import AFTER_A_SAMPLER, tool

TOOLS = (
    "benchmark",
    "catalogue",
    "cli",
    "compatibility",
    "distilled",
    "first_study",
    "fit",
    "gallery",
    "names",
    "precision",
    "schedules",
    "shift",
)
"""Tools that write pages from committed measurements or the registry: `build_NAME`."""


@pytest.mark.parametrize(
    "place", ["README.md", "Makefile", "docs/index.md", "docs/start/first-study.md", "docs/reference/cli.md", "help"]
)
def test_every_place_names_the_measured_time_of_the_default_study(place: str) -> None:
    """Processor time, so that a busy machine does not count; three quarters of a minute more or less are still about two minutes."""
    from flowsamplers.cli.study import study

    text = str(study.help) if place == "help" else (ROOT / place).read_text()
    assert re.findall(r"\w+ \w+ minutes", re.sub(r"\s+", " ", text)) == ["about two minutes"]
    took = json.loads((DOCS / "studies" / "klein-emoji" / "time.json").read_text())
    assert took["threads"] == 1
    assert 75 < took["processor seconds"] < 165


@pytest.mark.parametrize("name", [*(f"build_{name}" for name in TOOLS), "gpu_report", "measure_klein_emoji"])
def test_what_tools_write_is_what_is_there(name: str) -> None:
    texts = {path: make for path, make in tool(name).WRITTEN.items() if path.suffix in (".md", ".json")}
    assert texts
    for path, make in texts.items():
        assert path.read_text() == make(), f"python tools/{name}.py --page; {AFTER_A_SAMPLER}"


def test_every_family_of_samplers_has_a_page_that_the_tool_writes() -> None:
    written = {path.name for path in tool("build_catalogue").WRITTEN}
    assert {path.name for path in (DOCS / "reference" / "samplers").iterdir()} < written


def test_every_figure_of_an_explanation_is_drawn_by_the_tool_and_shown_on_a_page() -> None:
    drawn = set(tool("build_figures").FUNCTIONS)
    assert drawn == {p.stem for p in (DOCS / "figures").iterdir()}
    shown = {Path(path).stem for page in PAGES for path, _ in links(page) if "figures/" in path}
    assert drawn == shown


def test_full_size_measurements_know_every_sampler() -> None:
    """The page names those that are not measured yet."""
    found = json.loads((DOCS / "reference" / "full-size.json").read_text())["samplers"]
    known = [i.name for i in fs.list_samplers() if not i.adaptive]
    assert list(found) == [name for name in known if name in found]
    page = (DOCS / "reference" / "compatibility.md").read_text()
    assert [name for name in known if f"`{name}`" not in page] == [], AFTER_A_SAMPLER


def test_every_supported_version_of_diffusers_passes_every_test_of_the_integration() -> None:
    """Run the tool after adding a version or a file of tests."""
    versions = tool("test_versions")
    found = json.loads(versions.RESULTS.read_text())
    assert list(found) == list(versions.VERSIONS), "python tools/test_versions.py"
    for version, ran in found.items():
        assert ran["installed"]["diffusers"] == version
        assert list(ran["tests"]) == list(versions.TESTS), f"python tools/test_versions.py {version}"
        for file, counts in ran["tests"].items():
            assert (ROOT / file).is_file()
            assert counts["passed"] > 0, (version, file, counts)
            assert set(counts) == {"passed", "skipped"}, (version, file, counts)
    assert f"diffusers=={[*found][-1]}" in (ROOT / "constraints.txt").read_text()


# Commands


def parsed(args: list[str]) -> None:
    """Let click parse a command line of ``flowsamplers``, and run nothing."""
    group, info, rest = main, None, args
    while True:
        context = group.make_context(info or "flowsamplers", rest, allow_extra_args=True)
        rest = [*context._protected_args, *context.args]
        if not rest:
            return
        info, command, rest = group.resolve_command(context, rest)
        assert command is not None
        if not hasattr(command, "resolve_command"):
            command.make_context(info or "", rest, parent=context)
            return
        group = command


RUN = {"schedule", "list", "cite"}
"""Commands that take no time: they are run, not only parsed."""


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_of_a_page_is_one_that_exists(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, solver_file: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    lay_solvers(page, solver_file, tmp_path)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for program, *args in commands(page):
        line = " ".join([program, *args])
        if program == "flowsamplers":
            parsed(args)
            if args[0] in RUN:
                result = CliRunner().invoke(main, args)
                assert result.exit_code == 0, f"{line}: {result.output}"
        elif program == "make":
            assert set(args) <= set(targets), line
        elif program == "pip":
            wanted = ",".join(re.findall(r"\[([\w,]+)\]", line))
            assert set(filter(None, wanted.split(","))) <= set(extras), line
        elif program == "python":
            assert args[0] == "-m" or (ROOT / args[0]).is_file(), line
        else:
            assert program in {"git", "cd", "pytest", "source"}, f"{line}: a program that the test does not know"


# Python


@pytest.fixture(scope="module")
def solver_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `flowsamplers fit` writes, for the pages that load such a file."""
    flow = fs.flows.MixtureFlow.random(0)
    path = tmp_path_factory.mktemp("solver") / "solver.json"
    fs.fit(flow.velocity, flow.noise(list(range(16))), nfe=8, rounds=0, validate=False).save(path)
    return path


def lay_solvers(page: Path, file: Path, folder: Path) -> None:
    """Put the solver files that a page names where its commands and its code look for them."""
    for solver in set(re.findall(r"[\w-]+\.json", "".join(b.text for b in blocks(page)))):
        shutil.copy(file, folder / solver)


class Pipeline:
    """klein-digits, asked for its own small pictures whatever a page leaves out."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.inner = pipeline()

    @property
    def scheduler(self) -> Any:
        return self.inner.scheduler

    @scheduler.setter
    def scheduler(self, scheduler: Any) -> None:
        self.inner.scheduler = scheduler

    @property
    def transformer(self) -> Any:
        return self.inner.transformer

    def to(self, *args: Any) -> Any:
        return self

    def __call__(self, **call: Any) -> Any:
        return self.inner(**{"height": 16, "width": 16, "max_sequence_length": 32, "guidance_scale": 1.0, **call})


def standins() -> dict[str, Any]:
    """What the snippets of pages take for granted: the reader's own pipeline, model and classes."""
    from flowsamplers.testing import SamplerConformance, ScheduleConformance
    from flowsamplers_diffusers import FlowSamplerScheduler

    flow = fs.flows.MixtureFlow.four_gaussians()
    return {
        "__name__": "page",
        "fs": fs,
        "pytest": pytest,
        "pipe": Pipeline(),
        "flow": flow,
        "x1": flow.noise([0]),
        "velocity": flow.velocity,
        "velocity_at": lambda x: flow.velocity(x, torch.ones(len(x))),
        "my_schedule": fs.schedules.linear,
        "MyScheduler": FlowSamplerScheduler,
        "Mended": Ralston,
        "SamplerConformance": SamplerConformance,
        "ScheduleConformance": ScheduleConformance,
    }


@pytest.mark.parametrize(
    "page", [p for p in PAGES if any(b.language == "python" and not b.doctest for b in blocks(p))], ids=name
)
def test_the_python_of_a_page_runs(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, solver_file: Path) -> None:
    """In order, in one namespace, with klein-digits wherever a pipeline is loaded. Doctests are run by pytest itself."""
    import diffusers

    monkeypatch.chdir(tmp_path)
    lay_solvers(page, solver_file, tmp_path)
    names = standins()
    for kind in (diffusers.DiffusionPipeline, diffusers.Flux2KleinPipeline):
        monkeypatch.setattr(kind, "from_pretrained", Pipeline)
    for block in blocks(page):
        if block.language == "python" and not block.doctest:
            code = block.text.replace('"cuda"', '"cpu"')
            exec(compile(code, name(page), "exec"), names)  # the page's own code


def test_the_readme_shows_what_the_site_shows() -> None:
    """Each command and each snippet of the README is on a page of the site, word for word."""
    site = "\n".join(p.read_text() for p in PAGES if p != README)
    for block in blocks(README):
        if block.language == "python" and not block.doctest:
            assert block.text in site, block.text
        elif block.language == "bash":
            for line in block.text.splitlines():
                assert line.partition("#")[0].strip() in site, line


def test_the_readme_says_that_nothing_is_from_real_weights() -> None:
    assert "No figure here is from the real FLUX.2 weights" in README.read_text()


# Links


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    """mkdocs checks those of the site; this one also those of the README, and those from pages to files beside them."""
    for path, anchor in links(page):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name(page)}: {path}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target) or anchor.startswith("flowsamplers"), f"{name(page)}: {path}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_sessions_stand_in_fences(page: Path) -> None:
    """Markdown reads a bare >>> as three quotations."""
    assert not re.search(r"^>>>", prose(page), re.MULTILINE), (
        "put it between ```pycon and ```, with an empty line before the end"
    )


def test_every_page_is_in_the_navigation() -> None:
    config = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader=yaml.BaseLoader)
    listed = list(nav(config["nav"]))
    assert len(listed) == len(set(listed))
    assert set(listed) == {str(p.relative_to(DOCS)) for p in PAGES if p != README}, "name every page in nav of mkdocs.yml"


def test_the_front_page_leads_to_the_answer_in_one_click_and_to_a_swapped_sampler_in_two() -> None:
    front = {path for path, _ in links(DOCS / "index.md")}
    assert {"start/which-sampler.md", "start/swap.md"} <= front
    assert any("FlowSamplerScheduler" in b.text for b in blocks(DOCS / "start" / "swap.md"))


# Names


def modules(package: ModuleType) -> list[str]:
    """The package's public modules; a module with a leading underscore is nobody's business."""
    found = [m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
    return [package.__name__, *(m for m in found if not re.search(r"\._|\.cli\b|\.check$", m))]


PUBLIC = [*modules(fs), *modules(flowsamplers_diffusers)]


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_has_documentation_and_a_page(module: str) -> None:
    loaded = importlib.import_module(module)
    assert loaded.__doc__, module
    for public in getattr(loaded, "__all__", []):
        value = getattr(loaded, public)
        if isinstance(value, ModuleType) or public.startswith("__"):
            continue
        if isinstance(value, type | FunctionType):
            home, documented = value.__module__, bool(value.__doc__)
        else:
            homes = [m for m in PUBLIC if public in constants(m)]
            home = min(homes, key=lambda m: not m.startswith(module))
            documented = constants(home)[public]
        assert documented, f"{home}.{public} has no documentation"
        assert home in directives(), f"no page shows {home}, where {public} lives"
    for kind in vars(loaded).values():
        if isinstance(kind, type) and kind.__module__ == module and not kind.__name__.startswith("_"):
            for member, function in vars(kind).items():
                if isinstance(function, FunctionType | property | classmethod) and not member.startswith("_"):
                    assert function.__doc__, f"{module}.{kind.__name__}.{member} has no documentation"


@cache
def constants(module: str) -> dict[str, bool]:
    """The constants and aliases that a module assigns, and whether words in quotes follow."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    body = ast.parse(Path(spec.origin).read_text()).body
    found: dict[str, bool] = {}
    for node, after in zip(body, [*body[1:], None], strict=True):
        for target in (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        ):
            if isinstance(target, ast.Name):
                said = (
                    isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str)
                )
                found[target.id] = said
    return found


def test_every_public_module_is_on_a_page() -> None:
    """Packages whose names come from their modules need no page of their own."""
    gathered = {m for m in PUBLIC if importlib.util.find_spec(m).submodule_search_locations is not None}
    missing = [m for m in PUBLIC if m not in gathered and m not in directives()]
    assert not missing, f"add ::: {missing} to a page of docs/reference"


def test_words_of_the_glossary_are_explained() -> None:
    text = prose(DOCS / "reference" / "glossary.md").lower()
    words = {"velocity", "sigma", "schedule", "sampler", "step", "stage", "nfe", "forward passes", "order", "latents"}
    assert {word for word in words | {"tokens", "reference"} if f"**{word}" not in text} == set()


def test_doctests_of_docstrings_stand_under_a_heading() -> None:
    """Markdown reads a bare >>> of a docstring as three quotations."""
    for file in [*(ROOT / "flowsamplers").rglob("*.py"), *(ROOT / "integrations").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                assert not re.search(r"^>>>", text, re.MULTILINE), f"{file.name}: put it below 'Examples:', indented"
