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


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what stock does with numpy
def test_the_page_is_what_the_tool_writes() -> None:
    """It lists the laws that stock's schedulers break, in every supported version of diffusers: none has mended a defect of another."""
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
