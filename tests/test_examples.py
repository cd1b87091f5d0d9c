"""The scripts and the notebook of examples/ run as a user runs them, and their README names them all."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pages import ROOT

FOLDER = ROOT / "examples"
SCRIPTS = sorted(p.name for p in FOLDER.glob("*.py"))
NOTEBOOKS = sorted(p.name for p in FOLDER.glob("*.ipynb"))
TESTS = ["own_sampler.py", "sum_of_dt.py"]


def test_the_readme_of_the_examples_lists_every_script_and_notebook() -> None:
    text = (FOLDER / "README.md").read_text()
    assert [name for name in [*SCRIPTS, *NOTEBOOKS] if f"[{name}]({name})" not in text] == []


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("script", [s for s in SCRIPTS if s != "sum_of_dt.py"])
def test_an_example_runs(script: str, tmp_path: Path, monkeypatch, capsys) -> None:
    """In this process, which has imported what it needs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(FOLDER / script)])
    monkeypatch.syspath_prepend(FOLDER)
    runpy.run_path(str(FOLDER / script), run_name="__main__")
    assert capsys.readouterr().out.strip()


def test_the_tests_of_the_examples_pass(tmp_path: Path) -> None:
    """In a process of their own, started in another folder; a failure or a warning of ours is an error."""
    scripts = [str(FOLDER / script) for script in TESTS]
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), *scripts]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    for test in ("TestThirdPoint::test_law[one_buffer_is_enough]", "test_a_sampler_applies_all_of_the_schedule"):
        assert f"::{test} PASSED" in done.stdout


def test_the_notebook_runs_from_top_to_bottom_and_draws_what_it_says(tmp_path: Path, monkeypatch, capsys) -> None:
    """Its code cells share one namespace, as in a kernel; it is committed without outputs."""
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("Agg")
    monkeypatch.chdir(tmp_path)
    assert NOTEBOOKS == ["first_study.ipynb"]
    cells = [c for c in json.loads((FOLDER / NOTEBOOKS[0]).read_text())["cells"] if c["cell_type"] == "code"]
    names: dict[str, Any] = {}
    for number, cell in enumerate(cells):
        assert cell["outputs"] == []
        exec(compile("".join(cell["source"]), f"{NOTEBOOKS[0]}, cell {number}", "exec"), names)
    pictures = [place for place in names["axes"].flat if place.images]
    assert len(pictures) == len(names["axes"].flat) == 2 * (len(names["samplers"]) + 1)
    plt.close("all")
    said = capsys.readouterr().out
    trust, *errors = (float(p) / 100 for p in re.findall(r"([\d.]+)%", said))
    assert errors == pytest.approx(list(names["errors"].values()), abs=5e-4)
    assert 3 * trust < min(errors), "the reference is better than what it judges"
    assert all(names["errors"][s, 8] < names["errors"][s, 4] for s in names["samplers"])
