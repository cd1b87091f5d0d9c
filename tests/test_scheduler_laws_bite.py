"""Each law on what a scheduler remembers kills a scheduler with that mistake; the scheduler without it breaks none of them."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers")
from diffusers import FlowMatchEulerDiscreteScheduler as Stock

from flowsamplers.testing.laws import NotApplicable
from flowsamplers_diffusers import FlowSamplerScheduler
from flowsamplers_diffusers import testing as kit

LAWS = (
    kit.another_number_of_rows_is_another_run,
    kit.rows_that_change_places_keep_their_velocities,
    kit.tensors_belong_to_who_made_them,
    kit.noise_comes_from_the_generator_of_each_call,
    kit.a_cut_sample_cuts_the_graph,
    kit.nothing_is_held_after_the_last_call,
)


class Remembers(Stock):
    """Adams-Bashforth 2 on the shortest way: what it remembers it keeps, with its graph, whatever the host does."""

    before: Tensor | None = None

    def step(self, v: Tensor, t: Any, x: Tensor, **options: Any) -> Any:
        index = 0 if self._step_index is None else self._step_index
        at_start = index == (self._begin_index or 0)
        history = None if at_start or self.before is None else self.remembered(self.before, v)
        out = super().step(v if history is None else 1.5 * v - 0.5 * history, t, x, **options)
        v = v.clone() if self.copies else v
        self.before = None if index + 1 == len(self.timesteps) and not self.holds else v.detach() if self.cuts else v
        return out

    holds, cuts, copies = False, True, True

    def remembered(self, before: Tensor, v: Tensor) -> Tensor | None:
        return before if before.shape == v.shape else None


class AnotherShape(Remembers):
    """Old rows are broadcast against new ones."""

    def remembered(self, before: Tensor, v: Tensor) -> Tensor | None:
        return before[: len(v)]


class KeepsGraph(Remembers):
    cuts = False


class Holds(Remembers):
    holds = True


class KeepsTheBuffer(Remembers):
    copies = False


class TrustsTheCounter(Stock):
    """Goes on from its master copy unless torch has counted an edit of what it handed out."""

    handed: tuple[Any, int, Tensor] | None = None

    def step(self, v: Tensor, t: Any, x: Tensor, **options: Any) -> Any:
        if self.handed is not None and (id(x), x._version) == self.handed[:2]:
            x = self.handed[2]
        last = (self._step_index or 0) + 1 == len(self.timesteps)
        out = super().step(v, t, x, **options)
        self.handed = None if last or out[0].requires_grad else (id(out[0]), out[0]._version, out[0].clone())
        return out


class FirstGenerator(Stock):
    """Draws from the generator of the first call alone."""

    generator: Any = None

    def __init__(self, **options: Any) -> None:
        super().__init__(stochastic_sampling=True)

    def step(self, v: Tensor, t: Any, x: Tensor, generator: Any = None, **options: Any) -> Any:
        self.generator = self.generator or generator
        s0, s1 = self._sigmas(t)
        noise = torch.randn(x.shape, generator=self.generator)
        return ((1 - s1) * (x - s0 * v) + s1 * noise,)

    def _sigmas(self, t: Any) -> tuple[Any, Any]:
        index = int((self.timesteps == t).nonzero()[0])
        return self.sigmas[index], self.sigmas[index + 1]


class GlobalGenerator(FirstGenerator):
    def step(self, v: Tensor, t: Any, x: Tensor, generator: Any = None, **options: Any) -> Any:
        return super().step(v, t, x, generator=torch.default_generator)


class HalfTheNoise(FirstGenerator):
    """Draws for one row and uses it for all."""

    def step(self, v: Tensor, t: Any, x: Tensor, generator: Any = None, **options: Any) -> Any:
        s0, s1 = self._sigmas(t)
        return ((1 - s1) * (x - s0 * v) + s1 * torch.randn(x[:1].shape, generator=generator),)


MUTANTS = {
    AnotherShape: "another_number_of_rows_is_another_run",
    Remembers: "rows_that_change_places_keep_their_velocities",
    KeepsGraph: "a_cut_sample_cuts_the_graph",
    KeepsTheBuffer: "tensors_belong_to_who_made_them",
    TrustsTheCounter: "tensors_belong_to_who_made_them",
    Holds: "nothing_is_held_after_the_last_call",
    FirstGenerator: "noise_comes_from_the_generator_of_each_call",
    GlobalGenerator: "noise_comes_from_the_generator_of_each_call",
    HalfTheNoise: "noise_comes_from_the_generator_of_each_call",
}


@cache
def killers(make: Any) -> set[str]:
    found = set[str]()
    for law in LAWS:
        try:
            law(make)
        except NotApplicable:
            pass
        except AssertionError:
            found.add(law.__name__)
    return found


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_a_scheduler_with_the_mistake_is_killed_by_its_law(mutant: Any) -> None:
    assert MUTANTS[mutant] in killers(mutant)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_every_law_has_a_mutant_that_no_other_law_kills(law: Any) -> None:
    alone = [m for m in MUTANTS if killers(m) - {"rows_that_change_places_keep_their_velocities"} <= {law.__name__}]
    assert any(MUTANTS[m] == law.__name__ for m in alone)


def test_stock_and_a_sampler_with_memory_break_none() -> None:
    assert killers(Stock) == killers(lambda **o: FlowSamplerScheduler(sampler="ab2", **o)) == set()
