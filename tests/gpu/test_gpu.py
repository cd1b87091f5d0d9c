"""What only a GPU can show; skipped where there is none. `tools/gpu_report.py` measures the same and writes it down."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("there is no CUDA device", allow_module_level=True)
pytest.importorskip("diffusers")
from diffusers import FlowMatchEulerDiscreteScheduler

import flowsamplers as fs
from fields import every_fixed_sampler
from flowsamplers_diffusers import FlowSamplerScheduler, load_klein
from tooling import tool

pytestmark = pytest.mark.gpu


@cache
def place() -> Any:
    return tool("gpu_report").Place("cuda", tiny=True)


def rows(section: str, **wanted: Any) -> list[dict[str, Any]]:
    """Some rows of a section of the report, measured."""
    cells = getattr(tool("gpu_report"), section)(place())
    return [{**what, **how()} for what, how in cells if wanted.items() <= what.items()]


@every_fixed_sampler
def test_neither_a_step_nor_the_engine_waits_for_the_device(name) -> None:
    found = rows("waits", sampler=name)
    assert len(found) >= 4
    assert {str(row): row["waits"] for row in found} == dict.fromkeys(map(str, found))


@every_fixed_sampler
def test_a_sampler_on_the_device_is_the_one_on_the_cpu(name) -> None:
    assert [row["right"] for row in rows("correctness", sampler=name)] == [True]


def test_noise_and_stock_are_reproduced_bit_for_bit() -> None:
    found = {r["what"]: r["right"] for r in rows("correctness") if "sampler" not in r}
    assert len(found) == 5
    assert all(found.values()), found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_euler_is_stock_s_on_the_bundled_model(dtype) -> None:
    pipe: Any = load_klein("klein-digits", device="cuda", dtype=dtype)
    call = {"prompt": "a handwritten 3", "num_inference_steps": 4, "max_sequence_length": 32, "output_type": "latent"}
    ends = []
    for kind, options in (
        (FlowMatchEulerDiscreteScheduler, {}),
        (FlowSamplerScheduler, {"sampler": "euler", "carry": "model"}),
    ):
        pipe.scheduler = kind.from_config(pipe.scheduler.config, **options)
        ends.append(pipe(**call, generator=torch.Generator().manual_seed(0)).images)
    assert torch.equal(*ends)


def test_a_run_leaves_nothing_on_the_device() -> None:
    x, grid = torch.randn(1, 4096, 128, device="cuda"), fs.schedules.flux2(4, tokens=4096)
    before = torch.cuda.memory_allocated()
    for info in fs.list_samplers():
        if not info.adaptive:
            fs.sample(lambda x, sigma: x, x, grid, info.name, seed=0)
    assert torch.cuda.memory_allocated() == before
