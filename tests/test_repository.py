"""The files around the code: citation, contributing, security, workflow and project URLs agree with the rest of the repository."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import pytest
import yaml

import flowsamplers as fs
from pages import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HOME = "https://github.com/OWNER/flowsamplers"
"""The placeholder of the repository's address: replace OWNER everywhere, here too, when it is published."""


def test_the_citation_file_agrees_with_the_metadata_and_the_bibliography() -> None:
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cff["version"] == fs.__version__
    assert cff["license"] == PROJECT["license"]
    assert cff["title"] == PROJECT["name"]
    assert {"cff-version", "message", "authors"} <= cff.keys()
    entry = re.search(r"@software{flowsamplers,(.*?)\n}", (ROOT / "flowsamplers" / "references.bib").read_text(), re.DOTALL)
    assert entry is not None
    assert all(author["name"] in entry[1] for author in cff["authors"])


def test_every_address_of_the_repository_is_the_same_placeholder() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["repository-code"] == HOME
    assert PROJECT["urls"]["Homepage"] == HOME
    for url in PROJECT["urls"].values():
        assert url.startswith((HOME, "https://OWNER.github.io/flowsamplers")), url


def test_the_workflow_runs_the_two_commands_of_the_readme_with_a_supported_python() -> None:
    job = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["test"]
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make study", "bash .ci/run"]
    python = next(step["with"]["python-version"] for step in job["steps"] if "setup-python" in step.get("uses", ""))
    assert f">={python}" == PROJECT["requires-python"]
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_nothing_promises_a_package_that_is_not_published() -> None:
    """flowsamplers is not on a package index: what to type must work in a clone, or beside a wheel."""
    for path in (
        p for folder in ("flowsamplers", "integrations", "docs", "examples", "tools") for p in (ROOT / folder).rglob("*")
    ):
        if path.suffix in (".py", ".md"):
            assert not re.search(r"pip install ['\"]?flowsamplers", path.read_text()), path


@pytest.mark.parametrize("file", ["samplers/runge_kutta.py", "schedules/closed.py"])
def test_the_examples_of_one_file_that_registers_names_run_alone(file: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"flowsamplers/{file}"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
