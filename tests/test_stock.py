"""The stock schedulers are diffusers' own: on their own nodes they do what they do without this library."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

import flowsamplers as fs
from flowsamplers.benchmark import SCHEDULES
from flowsamplers_diffusers import stock
from tooling import tool

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]


def steady(x: Tensor, sigma: Tensor) -> Tensor:
    """Knows no time, so that the times a scheduler rounds do not matter."""
    return torch.sin(3 * x)


def start() -> Tensor:
    return torch.randn(3, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", stock.STOCK)
def test_a_run_is_what_diffusers_gives_on_its_own_nodes(name: str) -> None:
    entry = stock.STOCK[name]
    scheduler = getattr(diffusers, entry.scheduler)(**entry.options)
    scheduler.set_timesteps(8)
    nodes = scheduler.sigmas.tolist()
    if entry.doubled:
        nodes = [nodes[0], *nodes[1::2]]
    generator, x = torch.Generator().manual_seed(5), start()
    for t in scheduler.timesteps:
        noise = {"generator": generator} if entry.stochastic else {}
        x = scheduler.step(steady(x, t), t, x, return_dict=False, **noise)[0]
    if not entry.reaches_zero:
        nodes[-1] = 0.0
    assert torch.equal(stock.run(name, steady, start(), nodes, seed=5), x)


@pytest.mark.parametrize("name", stock.STOCK)
def test_it_asks_at_the_nodes_as_often_as_it_says_in_float32(name: str) -> None:
    asked: list[float] = []

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        assert x.dtype == sigma.dtype == torch.float32
        assert sigma.shape == (len(x),)
        asked.append(sigma[0].item())
        return steady(x, sigma)

    grid = fs.schedules.flux2(5, tokens=4096)
    stock.run(name, velocity, start().double(), grid)
    assert len(asked) == stock.STOCK[name].calls(5)
    assert sorted(set(asked), reverse=True) == pytest.approx(grid.sigmas[:-1], abs=2e-6)


@pytest.mark.parametrize("name", [name for name, entry in stock.STOCK.items() if entry.stochastic])
def test_the_seed_decides_the_noise(name: str) -> None:
    a, b, c = (stock.run(name, steady, start(), fs.schedules.linear(4), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_a_scheduler_may_have_other_options() -> None:
    grid, plain = fs.schedules.linear(4), stock.STOCK["UniPC-2"]
    uncorrected = dataclasses.replace(plain, options={**plain.options, "disable_corrector": [0]})
    assert torch.equal(stock.run(plain, steady, start(), grid), stock.run("UniPC-2", steady, start(), grid))
    assert not torch.equal(stock.run(uncorrected, steady, start(), grid), stock.run("UniPC-2", steady, start(), grid))


def test_an_unknown_scheduler_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"name='UniPC': not a scheduler of diffusers here; one of FlowMatchEuler, .*UniPC-2"):
        stock.run("UniPC", steady, start(), [1.0, 0.0])


COMPARISON = tool("build_differences")
MEASURED = json.loads(COMPARISON.DATA.read_text())


def same_name(flow: str) -> list[dict[str, Any]]:
    return [row for row in MEASURED[flow] if row["sampler"] in COMPARISON.labels()]


def test_every_sampler_is_at_least_as_accurate_as_diffusers_of_the_same_name() -> None:
    """On the mixtures within the 2 % that float32 and another start leave to chance; on the network, as far as ten starts can tell."""
    for flow, budgets in COMPARISON.BUDGETS.items():
        assert {(r["schedule"], r["stock"], r["calls"]) for r in same_name(flow)} == {
            (schedule, name, calls) for schedule in SCHEDULES for name in stock.SAME_NAME for calls in budgets
        }
        above = [r for r in same_name(flow) if COMPARISON.is_above(r)]
        assert [r for r in above if flow == "mixtures" or not COMPARISON.is_undecided(r)] == []


def test_the_page_says_first_how_the_comparison_ends() -> None:
    first = COMPARISON.compared().partition("\n| diffusers |")[0]
    assert first.count("cannot be told from 1") == sum(
        COMPARISON.is_above(r) for flow in COMPARISON.FLOWS for r in same_name(flow)
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_figures_of_the_comparison_come_out_again(schedule: str) -> None:
    problems = COMPARISON.PROBLEMS["mixtures"]()
    again = [row for name in stock.SAME_NAME for row in COMPARISON.against(name, problems, schedule, 8)]
    shown = [row for row in MEASURED["mixtures"] if (row["schedule"], row["calls"]) == (schedule, 8)]
    for new, old in zip(again, shown, strict=True):
        assert (new["stock"], new["sampler"]) == (old["stock"], old["sampler"])
        assert (new["ours"], new["theirs"]) == pytest.approx((old["ours"], old["theirs"]), rel=2e-3)
