"""Every mutant is killed by the laws that are recorded for it, and its parent by none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mutants
import mutants_sde  # noqa: F401  (adds its own)
from tooling import tool

ROOT = Path(__file__).parent.parent
FOUND: dict[str, dict[str, list[str]]] = json.loads((ROOT / "tests" / "mutants.json").read_text())


TOOL = tool("build_mutants")
SLOW = ("variances_have_the_declared_weak_order", "marginals_are_kept_as_declared")
"""They take more of the time than all others together."""


def test_there_are_more_than_70_as_the_site_says() -> None:
    assert len(mutants.SAMPLERS) + len(mutants.SCHEDULES) > 70
    assert "on more than 70 samplers and schedules" in (ROOT / "docs" / "howto" / "test-your-sampler.md").read_text()


def test_every_mutant_is_recorded() -> None:
    assert list(FOUND["samplers"]) == list(mutants.SAMPLERS), "make measured NAME=mutants"
    assert list(FOUND["schedules"]) == list(mutants.SCHEDULES), "make measured NAME=mutants"


@pytest.mark.parametrize("mistake", mutants.SAMPLERS)
def test_a_mutant_of_a_sampler_is_killed(mistake: str) -> None:
    """By every law that is recorded, the slow ones only if they are alone; the tool that records them tries the others too."""
    recorded = [law for law in FOUND["samplers"][mistake] if law not in SLOW] or FOUND["samplers"][mistake]
    assert recorded, "make measured NAME=mutants"
    assert TOOL.sampler_killers(mutants.SAMPLERS[mistake][1], recorded) == recorded


@pytest.mark.parametrize("mistake", mutants.SCHEDULES)
def test_a_mutant_of_a_schedule_is_killed(mistake: str) -> None:
    killers = TOOL.schedule_killers(*mutants.SCHEDULES[mistake])
    assert killers
    assert killers == FOUND["schedules"].get(mistake), "make measured NAME=mutants"


@pytest.mark.parametrize("name", mutants.PARENTS)
def test_the_parent_passes_every_law_that_kills_a_mutant_of_it(name: str) -> None:
    laws = {law for mistake, (parent, _) in mutants.SAMPLERS.items() if parent == name for law in FOUND["samplers"][mistake]}
    assert laws
    assert TOOL.sampler_killers(mutants.PARENTS[name], sorted(laws)) == []


@pytest.mark.parametrize("name", TOOL.SOUND)
def test_the_parent_of_a_schedule_passes_every_law(name: str) -> None:
    build: Callable[[int], Any] = TOOL.SOUND[name]
    assert TOOL.schedule_killers(name, build) == []
