"""Every mutant is killed by a law, its parent by none, and the page that says so is what happens."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mutants
import mutants_sde  # noqa: F401  (adds its own)

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "reference" / "mutants.md").read_text()


def tool() -> Any:
    spec = importlib.util.spec_from_file_location("build_mutants", ROOT / "tools" / "build_mutants.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOOL = tool()


def named_killers(mistake: str) -> list[str]:
    """The laws in the row of a mutant."""
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| {mistake} |"))
    return re.findall("`(.+?)`", row.rsplit("|", 2)[1])


def test_there_are_at_least_forty() -> None:
    assert len(mutants.SAMPLERS) + len(mutants.SCHEDULES) >= 40


@pytest.mark.parametrize("mistake", mutants.SAMPLERS)
def test_a_mutant_of_a_sampler_is_killed(mistake: str) -> None:
    """By every law that the page names; the tool that writes the page tries the others too."""
    parent, make = mutants.SAMPLERS[mistake]
    named = named_killers(mistake)
    assert named
    assert TOOL.sampler_killers(make, named) == named
    assert TOOL.row(mistake, parent, named) in PAGE


@pytest.mark.parametrize("mistake", mutants.SCHEDULES)
def test_a_mutant_of_a_schedule_is_killed(mistake: str) -> None:
    parent, build = mutants.SCHEDULES[mistake]
    killers = TOOL.schedule_killers(parent, build)
    assert killers
    assert TOOL.row(mistake, parent, killers) in PAGE


@pytest.mark.parametrize("name", mutants.PARENTS)
def test_the_parent_passes_every_law(name: str) -> None:
    assert TOOL.sampler_killers(mutants.PARENTS[name]) == []


@pytest.mark.parametrize("name", TOOL.SOUND)
def test_the_parent_of_a_schedule_passes_every_law(name: str) -> None:
    build: Callable[[int], Any] = TOOL.SOUND[name]
    assert TOOL.schedule_killers(name, build) == []
