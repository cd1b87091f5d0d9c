"""Validate a fitted solver on rows that it was not fitted to, and predict the cost of a fit."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

from flowsamplers.benchmark import recommend
from flowsamplers.engine import Velocity, largest_steps, nfe, sample
from flowsamplers.grid import SigmaGrid
from flowsamplers.profiling import FOLDS, NODES, Asked, calls_of_a_path, chunks
from flowsamplers.sampler import SamplerLike
from flowsamplers.schedules import flux2, linear
from flowsamplers.solver import Score, Solver, Validation

TRIAL = 2
"""Number of Gauss-Newton steps after which only the best of several starts continues."""
JUDGE = 3
"""The fold of rows for the validation."""
FORMULAS = {
    "FlowMatchEuler": "euler",
    "FlowMatchHeun": "heun",
    "UniPC-2": "unipc",
    "UniPC-3": "unipc_3",
    "DPM++ 2M": "dpmpp_2m",
    "DPM++ 3M": "dpmpp_3m",
    "DPM++ 2S": "dpmpp_2s",
    "DPM++ 3S": "dpmpp_3s",
}
"""The samplers that correspond to diffusers' schedulers."""
MANY = 50
"""Steps of FLUX.2's pipelines."""


def validated(solver: Solver, asked: Asked, x1: Tensor, x0: Tensor, tokens: int, max_batch: int) -> Validation:
    """Measure the errors of a solver, of other samplers with as many calls, and of Euler's method with 50 steps.

    Args:
        solver: the solver.
        asked: the model.
        x1: starts that the solver was not fitted to.
        x0: the ends of their paths.
        tokens: number of tokens of an image, for FLUX.2's schedule.
        max_batch: largest number of rows in one model call.
    """
    calls = solver.nfe

    def judge(name: str, calls: int, run: Callable[[Velocity, Tensor], Tensor]) -> Score:
        gaps = [run(partial(_one_sigma, asked, rows), x1[rows]).double() - x0[rows] for rows in chunks(len(x1), max_batch)]
        return Score(name, calls, *_error(torch.cat(gaps), x0))

    def score(name: str, grid: SigmaGrid, sampler: SamplerLike) -> Score:
        return judge(name, nfe(sampler, grid), lambda velocity, x: sample(velocity, x, grid, sampler))

    def answered(ask: Callable[[], Score]) -> Score | None:
        try:
            return ask()
        except FloatingPointError:  # at sigma 0 some models have no velocity, and some methods ask there
            return None

    grids: dict[str, Callable[[int], SigmaGrid]] = {
        "FLUX.2's schedule": lambda n: flux2(n, tokens=tokens),
        "a flat schedule": linear,
    }
    others = [score(f"Euler, {told}", grid_of(calls), "euler") for told, grid_of in grids.items()]
    stock = list[Score | None]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of NumPy, raised inside diffusers
        for told, grid_of in grids.items():
            stock += [answered(partial(judge, f"{name}, {told}", its, run)) for name, its, run in _stock(calls, grid_of)]
    others.append(min((s for s in stock if s is not None and math.isfinite(s.error)), key=lambda s: s.error))
    answer = recommend("flux2", nfe=calls)
    best = partial(score, f"recommend: {answer.best.label}", flux2(answer.steps, tokens=tokens), answer.sampler)
    others += [found for found in [answered(best)] if found is not None]
    others.append(score("Euler, FLUX.2's schedule", flux2(MANY, tokens=tokens), "euler"))
    return Validation(len(x1), score("fitted", solver.grid, solver.sampler), tuple(others))


def _one_sigma(asked: Asked, rows: slice, x: Tensor, sigma: Tensor) -> Tensor:
    return asked(x, sigma[0].item(), rows)


def _stock(calls: int, grid_of: Callable[[int], SigmaGrid]) -> Iterator[tuple[str, int, Callable[[Velocity, Tensor], Tensor]]]:
    """The schedulers of diffusers where it is installed, else the samplers that are their formulas: name, calls and run."""
    if find_spec("diffusers") and find_spec("flowsamplers_diffusers"):
        real = import_module("flowsamplers_diffusers.stock")
        for name, stock in real.STOCK.items():
            steps = max((n for n in range(1, calls + 1) if stock.calls(n) <= calls), default=0)
            # DPM-Solver++ and UniPC of diffusers have no run of a single step.
            if steps > 1 and not stock.stochastic:
                grid = grid_of(steps)
                yield f"diffusers' {name}", stock.calls(steps), lambda v, x, n=name, g=grid: real.run(n, v, x, g)
    for name, sampler in FORMULAS.items():
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


def evaluations_at_most(rows: int, wanted: Sequence[int], rounds: int, nodes: int = NODES) -> int:
    """Bound the evaluations of fits to one flow: the paths, the runs with changed parameters, and the validation.

    Args:
        rows: number of starts.
        wanted: model calls of each solver.
        rounds: Gauss-Newton steps of each solver.
        nodes: number of intervals of a path.

    Examples:
        >>> evaluations_at_most(32, [8], 0)  # 12,224 of them for the paths
        14544
    """
    judges = rows // FOLDS
    total = rows * calls_of_a_path(nodes)
    for n in wanted:
        parameters = n + n * (n - 1) // 2
        total += (rounds + min(rounds, TRIAL)) * (rows - judges) * n * (parameters // 2 + 6) + judges * (30 * n + 50)
    return total
