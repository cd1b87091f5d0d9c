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
from flowsamplers_diffusers import KleinFlow
from tooling import tool

ROWS = 40
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


def test_the_page_shows_the_committed_measurements() -> None:
    report = tool("build_distilled")
    assert report.PAGE.read_text() == report.page()


def test_the_energy_distance_is_small_between_parts_of_the_data_and_large_to_noise() -> None:
    report = tool("build_distilled")
    images, labels = tool("train_klein_digits").digits()
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:100]  # writers stand together in the data
    judge = report.Judge(labels[rows].tolist())
    real = judge(images[rows], None, (images[rows] + 1) / 2)
    noise = judge(images[:100], None, torch.rand(100, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert abs(real["energy"][0]) < 0.2 < 1.0 < noise["energy"][0]
    assert real["recognised"][0] > 0.95 > 0.3 > noise["recognised"][0]
