"""Validate a fitted solver on rows that it was not fitted to."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import count
from typing import TypeAlias

import torch
from torch import Tensor

from flowsamplers._elsewhere import data
from flowsamplers.benchmark import recommend
from flowsamplers.engine import Velocity, largest_steps, nfe, sample
from flowsamplers.evaluated import RowVelocity, chunks
from flowsamplers.grid import SigmaGrid
from flowsamplers.sampler import SamplerLike
from flowsamplers.schedules import flux2, linear
from flowsamplers.solver import Score, Solver, Validation

Run: TypeAlias = Callable[[Velocity, Tensor], Tensor]

JUDGE = 3
"""The fold of rows for the validation."""
MANY = 50
"""Steps of FLUX.2's pipelines."""


@dataclass(frozen=True, eq=False)
class RowsWithEnds:
    """Rows on which errors are measured.

    Attributes:
        velocity: the model.
        x1: starts.
        x0: the ends of their paths.
        max_batch: largest number of rows in one model call.
    """

    velocity: RowVelocity
    x1: Tensor
    x0: Tensor
    max_batch: int

    def score(self, name: str, calls: int, run: Run) -> Score:
        """Measure the error of a sampler's runs."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of NumPy, raised inside diffusers
            gaps = [
                run(lambda x, sigma, rows=rows: self.velocity(x, sigma[0].item(), rows), self.x1[rows]).double() - self.x0[rows]
                for rows in chunks(len(self.x1), self.max_batch)
            ]
        return Score(name, calls, *_error(torch.cat(gaps), self.x0))


def validated(solver: Solver, judges: RowsWithEnds, fitted: RowsWithEnds, tokens: int, paths: float) -> Validation:
    """Measure the errors of a solver, of other samplers with as many calls, and of Euler's method on FLUX.2's schedule of 50 steps.

    Args:
        solver: the solver.
        judges: rows that the solver was not fitted to.
        fitted: rows that it was fitted to.
        tokens: number of tokens of an image, for FLUX.2's schedule.
        paths: relative error of the ends of the paths.
    """
    calls, start = solver.nfe, solver.grid.start
    runs = dict[Score, Run]()

    def score(name: str, calls: int, run: Run) -> Score | None:
        try:
            found = judges.score(name, calls, run)
        except FloatingPointError:  # at sigma 0 some models have no velocity, and some methods ask there
            return None
        runs[found] = run
        return found if math.isfinite(found.error) else None

    def sampled(name: str, grid: SigmaGrid, sampler: SamplerLike) -> Score | None:
        return score(name, nfe(sampler, grid), lambda velocity, x: sample(velocity, x, grid, sampler))

    def flux2_from_start(steps: int) -> SigmaGrid:
        return _last_steps(partial(flux2, tokens=tokens), steps, start)

    grids: dict[str, Callable[[int], SigmaGrid]] = {
        "FLUX.2's schedule": flux2_from_start,
        "a flat schedule": lambda n: SigmaGrid([start * s for s in linear(n).sigmas]),
    }
    others = [sampled(f"Euler, {told}", grid_of(calls), "euler") for told, grid_of in grids.items()]
    stock = [score(f"{name}, {told}", its, run) for told, grid_of in grids.items() for name, its, run in _stock(calls, grid_of)]
    others.append(min((s for s in stock if s is not None), key=lambda s: s.error, default=None))
    answer = recommend("flux2", nfe=calls)
    others.append(sampled(f"recommend: {answer.best.label}", flux2_from_start(answer.steps), answer.sampler))
    others.append(sampled("Euler, FLUX.2's schedule", _cut(flux2(MANY, tokens=tokens), start), "euler"))
    mine = judges.score("fitted", calls, lambda velocity, x: sample(velocity, x, solver.grid, solver.sampler))
    beside = tuple(s for s in others if s is not None)
    best = min((s for s in beside if s.nfe <= calls), key=lambda s: s.error, default=None)
    lost = _ratio(mine, fitted.score("", calls, lambda velocity, x: sample(velocity, x, solver.grid, solver.sampler)))
    chance = _ratio(best, fitted.score("", calls, runs[best])) if best else math.nan
    return Validation(len(judges.x1), mine, beside, lost, chance, paths)


def _ratio(judged: Score, seen: Score) -> float:
    return judged.error / seen.error if seen.error else math.nan


def _cut(grid: SigmaGrid, start: float) -> SigmaGrid:
    """The part of a schedule below a sigma, from there."""
    return SigmaGrid([start, *(s for s in grid.sigmas if s < start)])


def _last_steps(grid_of: Callable[[int], SigmaGrid], steps: int, start: float) -> SigmaGrid:
    """The schedule of so many steps from a sigma: the part below it of one with more steps from 1."""
    return next(cut for n in count(steps) if (cut := _cut(grid_of(n), start)).steps >= steps)


def _stock(calls: int, grid_of: Callable[[int], SigmaGrid]) -> Iterator[tuple[str, int, Run]]:
    """The schedulers of diffusers where it is installed, else the samplers that are their formulas: name, calls and run."""
    if find_spec("diffusers") and find_spec("flowsamplers_diffusers"):
        real = import_module("flowsamplers_diffusers.stock")
        for name, stock in real.STOCK.items():
            steps = max((n for n in range(1, calls + 1) if stock.calls(n) <= calls), default=0)
            # DPM-Solver++ and UniPC of diffusers have no run of a single step.
            if steps > 1 and not stock.stochastic:
                grid = grid_of(steps)
                yield f"diffusers' {name}", stock.calls(steps), lambda v, x, n=name, g=grid: real.run(n, v, x, g)
    for name, sampler in data()["formulas"].items():
        steps = largest_steps(sampler, calls, grid_of)
        if steps:
            grid = grid_of(steps)
            yield f"{name} (formula)", nfe(sampler, grid), lambda v, x, c=sampler, g=grid: sample(v, x, g, c)


def _error(gap: Tensor, x0: Tensor) -> tuple[float, float]:
    """Relative error over all rows, and its standard error by the jackknife."""
    wrong, size = gap.flatten(1).square().sum(1), x0.flatten(1).square().sum(1)
    n = len(wrong)
    error = (wrong.sum() / size.sum()).sqrt()
    if n < 2:
        return error.item(), float("nan")
    without = ((wrong.sum() - wrong) / (size.sum() - size)).sqrt()
    spread = ((n - 1) / n * (without - without.mean()).square().sum()).sqrt()
    return error.item(), spread.item()
