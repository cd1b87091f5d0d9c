"""The stock schedulers are diffusers' own: on their own nodes they do what they do without this library."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import TypeAlias

import diffusers
import pytest
import torch
from torch import Tensor

import flowsamplers as fs
from flowsamplers.flows import MixtureFlow
from flowsamplers_diffusers import stock

Flow: TypeAlias = Callable[[Tensor, Tensor], Tensor]

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


def test_an_unknown_scheduler_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"name='UniPC': not a scheduler of diffusers here; one of FlowMatchEuler, .*UniPC-2"):
        stock.run("UniPC", steady, start(), [1.0, 0.0])


FLOWS = {"appendix-a": MixtureFlow.appendix_a(), **{f"mixture-{i}": MixtureFlow.random(i) for i in range(5)}}
SCHEDULES: dict[str, dict[str, int]] = {"linear": {}, "flux2": {"tokens": 4096}}


@cache
def problem(name: str) -> tuple[Tensor, Tensor]:
    x = FLOWS[name].noise(list(range(32)))
    return x, FLOWS[name].solution(x)


def error(solve: Callable[[Flow, Tensor], Tensor]) -> float:
    """Geometric mean of the relative errors on the benchmark's mixtures."""
    return math.exp(
        sum(
            math.log((solve(flow.velocity, x).double() - truth).norm() / truth.norm())
            for flow, (x, truth) in ((flow, problem(name)) for name, flow in FLOWS.items())
        )
        / len(FLOWS)
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("calls", [4, 8, 16, 32, 64])
@pytest.mark.parametrize("name", stock.SAME_NAME)
def test_the_sampler_of_the_same_name_here_is_at_least_as_accurate(name: str, calls: int, schedule: str) -> None:
    """At equal model calls; within the 2 % that float32 and the node at 1 - 1e-6 leave to chance."""

    def grid(steps: int) -> fs.SigmaGrid:
        return fs.get_schedule(schedule, steps, **SCHEDULES[schedule])

    sampler = fs.get_sampler(stock.SAME_NAME[name])
    steps = max(n for n in range(1, calls + 1) if fs.nfe(sampler, grid(n)) <= calls)
    theirs = max(n for n in range(1, calls + 1) if stock.STOCK[name].calls(n) <= calls)
    ours = error(lambda velocity, x: fs.sample(velocity, x, grid(steps), sampler))
    assert ours <= 1.02 * error(lambda velocity, x: stock.run(name, velocity, x, grid(theirs)))
