"""Recommend a sampler for a schedule and a number of model calls, from a stored benchmark."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.resources import files
from statistics import geometric_mean, variance
from typing import Any

from flowsamplers._accepted import integer, unknown
from flowsamplers._html import table
from flowsamplers.engine import largest_steps
from flowsamplers.grid import GridLike, SigmaGrid, as_grid
from flowsamplers.registry import get_sampler
from flowsamplers.sampler import Sampler
from flowsamplers.schedules import get_schedule, schedule_info

SCHEDULES: dict[str, dict[str, Any]] = {"flux2": {"tokens": 4096}, "linear": {}}
"""The schedules of the benchmark with their options."""
BUDGETS = (4, 6, 8, 10, 16, 20, 32)
"""The numbers of model calls in its tables."""
FEW = (1, 2, 3)
"""Smaller numbers of model calls that were measured too; few samplers fit."""
NEAR = 0.05
"""Largest difference of sigmas at which a grid still counts as a schedule of the benchmark."""
NETWORKS = ("klein-digits", "klein-emoji")
"""The flows of the benchmark that are trained networks; the others are mixtures of Gaussians."""


@dataclass(frozen=True)
class Measured:
    """One measurement of the benchmark: a sampler on a schedule with a number of model calls.

    Attributes:
        schedule: name of the schedule.
        nfe: the allowed number of model calls.
        sampler: its configuration, ``{"name": ..., "options": {...}}``; for a scheduler of diffusers only its name.
        steps: the largest number of steps with that many calls.
        errors: relative error on each flow of the benchmark, by the flow's name.
        each: for networks that were measured with several prompts, the error of each prompt, by the network's name.
    """

    schedule: str
    nfe: int
    sampler: Mapping[str, Any]
    steps: int
    errors: Mapping[str, float]
    each: Mapping[str, Sequence[float]] = field(default_factory=dict[str, Sequence[float]])

    @property
    def error(self) -> float:
        """Geometric mean of the errors over the flows."""
        return geometric_mean(self.errors.values())

    @property
    def score(self) -> float:
        """Geometric mean of the errors; the trained networks together have the same weight as all mixtures together."""
        networks = geometric_mean(e for n, e in self.errors.items() if n in NETWORKS)
        return math.sqrt(networks * geometric_mean(e for n, e in self.errors.items() if n not in NETWORKS))

    @property
    def starts(self) -> int:
        """With how many prompts the networks that have several were run."""
        return sum(map(len, self.each.values()))

    def uncertainty(self, other: Measured) -> float:
        """Return how far the logarithm of the ratio of two scores may be off: twice its standard error over the prompts.

        The other flows have one prompt or none, and count as exact.
        """
        logs = [[math.log(a / b) for a, b in zip(self.each[n], other.each[n], strict=True)] for n in self.each]
        return 2 * math.sqrt(sum(variance(found) / len(found) for found in logs)) / (2 * len(NETWORKS))

    def no_worse_than(self, other: Measured) -> bool:
        """Whether this error is at most the other's on every flow."""
        return all(e <= other.errors[n] for n, e in self.errors.items())

    @property
    def label(self) -> str:
        """The sampler's specification, as the command line takes it."""
        options = ",".join(f"{k}={v}" for k, v in self.sampler.get("options", {}).items())
        return self.sampler["name"] + (f":{options}" if options else "")


@dataclass(frozen=True)
class Recommendation:
    """The answer of `recommend`: a sampler, its number of steps, and its measured errors.

    Attributes:
        sampler: the sampler, ready to use.
        steps: the number of steps to use.
        best: the sampler's measurement.
        stock: the measurement of the best scheduler in diffusers.
        matched: the benchmark's schedule that the answer is for.
        distance: largest difference between your sigmas and the matched schedule's. Above about 0.05 the answer is a guess.
    """

    sampler: Sampler
    steps: int
    best: Measured
    stock: Measured
    matched: str
    distance: float = 0.0

    @property
    def grid(self) -> SigmaGrid:
        """The matched schedule with the recommended number of steps."""
        return _grid(self.matched, self.steps)

    def __repr__(self) -> str:
        """The answer in one line."""
        return f"Recommendation({self.best.label!r}, steps={self.steps}, nfe={self.best.nfe}, error={self.best.score:.2g})"

    def _repr_html_(self) -> str:
        rows = [[flow, self.best.errors[flow], self.stock.errors.get(flow, "")] for flow in self.best.errors]
        return table(["flow", f"error of {self.best.label}", f"of diffusers' {self.stock.label}"], rows, str(self))

    def __str__(self) -> str:
        """The answer in a sentence."""
        ratio = self.best.score / self.stock.score
        return (
            f"{self.best.label} with {self.steps} steps ({self.best.nfe} calls, schedule {self.matched}): "
            f"error {self.best.score:.1e}, {ratio:.2f} times that of diffusers' {self.stock.label}; "
            f"geometric mean of the networks ({', '.join(NETWORKS)}) and of the mixtures"
            + (f"; the grid is up to {self.distance:.2f} away from {self.matched}" if self.distance > NEAR else "")
        )


def recommend(grid: GridLike | str, nfe: int | None = None) -> Recommendation:
    """The measured best sampler for a schedule and a number of model calls.

    The benchmark uses mixtures of Gaussians, whose solutions are known, and the bundled klein-digits and klein-emoji. The site explains
    how far its results carry to another model. ``flowsamplers study`` measures yours.

    A sampler qualifies if its error is at most Euler's on every flow of the benchmark. Of these, the answer has the smallest geometric
    mean of the errors, in which the networks together have the same weight as all mixtures together. Where six prompts of klein-emoji
    cannot tell its mean from Euler's, the answer is Euler. The best scheduler of diffusers qualifies with the smallest mean.

    Args:
        grid: name or alias of a schedule of the benchmark, or a grid from 1 to 0. For a grid, the nearest schedule is used, and the
            answer has the distance to it.
        nfe: number of model calls. If it was not measured, the answer is that of the next lower number, with as many steps as fit.
            By default one call for each step of the grid.

    Raises:
        ValueError: ``nfe`` is no positive integer, or missing for a name. The benchmark has no such schedule. The grid does not
            run from 1 to 0.
        TypeError: ``grid`` is neither a name nor a grid.

    Examples:
        >>> import flowsamplers as fs
        >>> answer = recommend("flux2", nfe=16)
        >>> answer.best.score < 0.4 * answer.stock.score
        True
    """
    if isinstance(grid, str):
        matched, distance = _in_the_benchmark(grid), 0.0
    else:
        grid = as_grid(grid)
        if (grid.start, grid.end) != (1.0, 0.0):
            raise ValueError(f"grid from {grid.start} to {grid.end}: the benchmark has complete runs only, from 1 to 0")
        distance, matched = min((_distance(grid, name), name) for name in SCHEDULES)
        nfe = grid.steps if nfe is None else nfe
    if nfe is None:
        raise ValueError(f"nfe=None: with the name {grid!r} alone, say how many model calls to spend")
    nfe = integer("nfe", nfe, 1)
    budget = max(b for b in (*FEW, *BUDGETS) if b <= nfe)
    cells = finalists(measured(), matched, budget)
    euler = next(m for m in cells if m.label == "euler")
    smallest = min((m for m in cells if m.no_worse_than(euler)), key=lambda m: m.score)
    best = euler if math.log(euler.score / smallest.score) <= euler.uncertainty(smallest) else smallest
    shipped = finalists(measured_stock(), matched, budget)
    stock = min((m for m in shipped if m.label == "FlowMatchEuler" or m.no_worse_than(euler)), key=lambda m: m.score)
    sampler = get_sampler(best.sampler)
    return Recommendation(sampler, steps_for(sampler, matched, nfe), best, stock, matched, distance)


def finalists(cells: Sequence[Measured], schedule: str, nfe: int, flow: str | None = None) -> list[Measured]:
    """Return the cells at a number of calls that can be compared on a flow, or on all flows.

    If a flow has several prompts, these are the cells that were run with all of them. The others were worse with the first
    prompts.
    """
    here = [m for m in cells if (m.schedule, m.nfe) == (schedule, nfe)]
    if flow is not None and not any(flow in m.each for m in here):
        return here
    most = max(m.starts for m in here)
    return [m for m in here if m.starts == most]


def _in_the_benchmark(name: str) -> str:
    """The benchmark's schedule with this name or alias."""
    for schedule in SCHEDULES:
        if name in (schedule, *schedule_info(schedule).aliases):
            return schedule
    error = unknown("schedule of the benchmark", name, SCHEDULES)
    raise ValueError(f"{error}. Pass a grid instead of a name to have it matched to the nearest of them")


def steps_for(sampler: Sampler, schedule: str, nfe: int) -> int:
    """Find the largest number of steps of a benchmark's schedule with at most this many model calls; 0 if none fits."""
    return largest_steps(sampler, nfe, partial(_grid, schedule))


def _grid(schedule: str, steps: int) -> SigmaGrid:
    return get_schedule(schedule, steps, **SCHEDULES[schedule])


@cache
def measured() -> Sequence[Measured]:
    """Load all measurements of the benchmark, made by ``tools/build_benchmark.py``."""
    return _rows("rows")


@cache
def measured_stock() -> Sequence[Measured]:
    """Load the measurements of diffusers' schedulers, each named by its key in ``flowsamplers_diffusers.stock.STOCK``."""
    return _rows("stock")


def _rows(kind: str) -> tuple[Measured, ...]:
    data = json.loads((files("flowsamplers") / "measurements" / "benchmark.json").read_text())
    return tuple(Measured(**(row | {"errors": dict(zip(data["flows"], row["errors"], strict=True))})) for row in data[kind])


def _distance(grid: SigmaGrid, schedule: str) -> float:
    return max(abs(a - b) for a, b in zip(grid.sigmas, _grid(schedule, grid.steps).sigmas, strict=True))
