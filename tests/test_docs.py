"""What the pages show is what the committed study says."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

import flowsamplers as fs
from flowsamplers.study import load
from flowsamplers.study.report import terminal

DOCS = Path(__file__).parent.parent / "docs"


def test_the_first_study_page_shows_the_committed_rows() -> None:
    page = (DOCS / "start" / "first-study.md").read_text()
    assert terminal(load(DOCS / "studies" / "klein-digits")) in page


def test_the_steps_page_shows_the_committed_table() -> None:
    page = (DOCS / "start" / "first-study.md").read_text()
    table = (DOCS / "studies" / "klein-steps" / "klein-steps.txt").read_text().split("\n\n")[-1]
    assert table.rstrip() in page


@pytest.mark.parametrize("name", [i.name for i in fs.list_samplers()])
def test_every_sampler_has_its_row_on_the_samplers_page(name: str) -> None:
    assert f"| `{name}`" in (DOCS / "reference" / "samplers.md").read_text()


def test_the_readme_says_that_nothing_is_from_real_weights() -> None:
    assert "No figure here is from the real FLUX.2 weights" in (DOCS.parent / "README.md").read_text()


def test_pages_that_tools_write_are_what_the_tools_write() -> None:
    """Tables from committed measurements: run the tool with --page after changing either."""
    for tool, page in (
        ("build_catalogue", "reference/samplers.md"),
        ("build_benchmark", "reference/benchmark.md"),
        ("build_gallery", "gallery.md"),
    ):
        spec = importlib.util.spec_from_file_location(tool, DOCS.parent / "tools" / f"{tool}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert module.page() == (DOCS / page).read_text(), f"python tools/{tool}.py --page"


def test_measurements_of_every_sampler_know_every_sampler() -> None:
    """A new sampler is measured too: run the tool."""
    found = json.loads((DOCS / "reference" / "full-size.json").read_text())["samplers"]
    assert list(found) == [i.name for i in fs.list_samplers() if not i.adaptive], "python tools/build_full_size.py"
