"""Our scheduler passes the laws that users get, for every sampler; stock's break those that the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from packaging.version import Version

import flowsamplers as fs
from fields import every_fixed_sampler
from flowsamplers.testing import laws
from flowsamplers_diffusers import FlowSamplerScheduler
from flowsamplers_diffusers.testing import (
    EXACT,
    SCHEDULER_LAWS,
    DiffusersSchedulerConformance,
    Factory,
    order_is_at_least_1_and_errors_fall,
    subject_of_scheduler,
    the_dt_applied_sum_to_minus_1,
)
from tooling import tool

ROOT = Path(__file__).parent.parent


class TestUniPC(DiffusersSchedulerConformance):
    """The class that users inherit, with a test for each law."""

    @pytest.fixture
    def factory(self):
        return lambda **config: FlowSamplerScheduler(sampler="unipc", **config)


@every_fixed_sampler
def test_every_sampler_keeps_every_law(name: str) -> None:
    """Of a stochastic one all but those of an exact end, which noise hides. In bfloat16 the sum of dt is among the laws.

    The law on errors is left to `TestUniPC`: a loop is direct sampling bit for bit, whose orders are measured elsewhere.
    """

    def make(**config: Any) -> FlowSamplerScheduler:
        return FlowSamplerScheduler(sampler=name, seed=0, **config)

    def in_float16_and_float32(make: Factory) -> None:
        for dtype in (torch.float16, torch.float32):
            the_dt_applied_sum_to_minus_1(make, dtype)

    broken = []
    for law in (*SCHEDULER_LAWS, in_float16_and_float32):
        if law is not order_is_at_least_1_and_errors_fall and not (
            fs.sampler_info(name).stochastic and law in (*EXACT, in_float16_and_float32)
        ):
            try:
                law(make)
            except Exception as error:
                error.add_note(law.__name__)
                broken.append(error)
    if broken:
        raise ExceptionGroup(f"{len(broken)} laws are broken", broken)


TOOL = tool("build_differences")


@pytest.fixture(scope="module")
def stock() -> dict[str, dict[str, str]]:
    return {name: TOOL.verdicts(make) for name, make in TOOL.SCHEDULERS.items()}


def test_the_known_defects_of_stock_are_found(stock: dict[str, dict[str, str]]) -> None:
    """If one of these is mended in diffusers, this says so; the numbers are its issues."""
    broken = {
        ("FlowMatchEuler", "the_dt_applied_sum_to_minus_1"),
        ("FlowMatchEuler", "one_step_is_finite"),  # 14411
        ("FlowMatchEuler", "options_of_step_are_honoured_or_refused"),  # 14353
        ("FlowMatchEuler", "a_rounded_time_finds_its_step"),  # 11749
        ("FlowMatchEuler, stochastic_sampling", "results_do_not_depend_on_the_global_generator"),
        ("FlowMatchHeun", "takes_the_pipelines_call"),  # 9607
        ("UniPCMultistep", "times_are_not_rounded"),
        ("UniPCMultistep", "the_sigmas_given_are_used"),
        ("DPMSolverMultistep", "times_are_not_rounded"),
        ("DPMSolverMultistep", "it_starts_at_pure_noise"),
        ("DEISMultistep", "the_last_sigma_is_0"),
        ("SASolver", "the_last_sigma_is_0"),
        ("SASolver", "takes_the_pipelines_call"),
    }
    for name, law in broken:
        assert stock[name][law] == "breaks", (name, law, stock[name][law])
    assert stock["LTXEulerAncestralRF"]["takes_the_pipelines_call"] != "holds"


def test_what_is_right_in_stock_passes(stock: dict[str, dict[str, str]]) -> None:
    for law in ("takes_the_pipelines_call", "the_sigmas_given_are_used", "it_starts_at_pure_noise", "the_last_sigma_is_0",
                "times_are_not_rounded", "order_is_at_least_1_and_errors_fall", "runs_repeat_and_copies_agree"):  # fmt: skip
        assert stock["FlowMatchEuler"][law] == "holds", law
    for name in ("UniPCMultistep", "DPMSolverMultistep"):
        assert stock[name]["the_last_sigma_is_0"] == "holds"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what stock does with numpy
def test_the_page_is_what_the_tool_writes() -> None:
    """In every supported version of diffusers: none has mended a defect of another."""
    page = (ROOT / "docs" / "reference" / "differences.md").read_text()
    found, expected = (
        TOOL.page(),
        re.sub(r"(schedulers of diffusers) [\d.]+", rf"\1 {diffusers.__version__}", page),
    )
    if Version(diffusers.__version__) < Version("0.39"):  # the full re-noise ignores the generator
        found, expected = (re.sub(r"\| \[noise comes from.*\n", "", text) for text in (found, expected))
    assert found == expected


@pytest.mark.parametrize("law", [laws.applied_dt_sum_to_end_minus_start, laws.rows_do_not_see_each_other,
                                 laws.permutations_of_rows_commute, laws.seeds_determine_the_result])  # fmt: skip
def test_a_scheduler_is_a_subject_of_the_sampler_laws(law: Any) -> None:
    law(subject_of_scheduler(lambda **config: FlowSamplerScheduler(carry="float64", **config)))
