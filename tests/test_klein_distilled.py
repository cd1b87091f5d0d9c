"""klein-digits-distilled: four calls without guidance do what the teacher does with it, and the page says what was measured."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

import flowsamplers as fs
from flowsamplers.study import energy_distance
from flowsamplers_diffusers import KleinFlow
from tooling import tool

ROWS = 20
ASKED = [i % 10 for i in range(ROWS)]
PROMPTS = [f"a handwritten {d}" for d in ASKED]


@cache
def solved(model: str, steps: int) -> Any:
    """A field, and its end points by Euler from the same noise, none of which the student was fitted to."""
    flow = KleinFlow.load(model, guidance_scale=None if "distilled" in model else 2.0, device="cpu")
    x1 = flow.noise([50_000 + i for i in range(ROWS)])
    grid = fs.schedules.flux2(steps, tokens=flow.tokens)
    return flow, fs.sample(lambda x, s: flow.velocity(x, s, PROMPTS), x1, grid, "euler")


def distance(x: torch.Tensor, y: torch.Tensor) -> float:
    return float(((x - y).flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1)).mean())


def test_the_student_is_distilled_and_ignores_guidance() -> None:
    flow, _ = solved("klein-digits-distilled", 4)
    assert flow.is_distilled
    assert (flow.guidance_scale, flow.passes_per_evaluation) == (1.0, 1)


def test_four_calls_of_the_student_are_nearer_to_the_teacher_than_four_of_the_teacher() -> None:
    _, end = solved("klein-digits", 50)
    _, own = solved("klein-digits", 4)
    _, student = solved("klein-digits-distilled", 4)
    assert distance(student, end) < distance(own, end) / 2


def test_four_calls_of_the_student_draw_what_is_asked_for() -> None:
    flow, x0 = solved("klein-digits-distilled", 4)
    share, held_out = tool("train_klein_digits").recognised(flow.decode(x0, "pt").mean(dim=1), torch.tensor(ASKED))
    assert held_out > 0.95
    assert share >= 0.9


def test_the_energy_distance_is_nothing_between_parts_of_a_set_and_that_of_the_study_to_another() -> None:
    """The biased distance of the library counts each row's distance to itself; that much less remains without."""
    report = tool("build_distilled")
    x, y = torch.randn(2, 400, 3, generator=torch.Generator().manual_seed(0)).double()
    parts = report.energies(x, y)
    assert abs(float(parts.mean())) < 3 * float(parts.std()) / 400**0.5
    biased = energy_distance(x, y + 2) ** 2
    within = [float(torch.cdist(z, z).sum()) * (1 / (400 * 399) - 1 / 400**2) for z in (x, y)]
    assert float(report.energies(x, y + 2).mean()) == pytest.approx(biased - sum(within), rel=1e-9)
