"""Laws of the drivers: all give one result, also if copied, pickled or edited between two calls."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from flowsamplers.engine import Evaluation, dry_run, sample
from flowsamplers.grid import SigmaGrid
from flowsamplers.lockstep import Run, sample_many
from flowsamplers.noise import GeneratorNoise, KeyedNoise
from flowsamplers.sampler import Sampler
from flowsamplers.samplers import Euler
from flowsamplers.schedules import linear
from flowsamplers.stepper import Stepper
from flowsamplers.testing.fields import Constant, Field, smooth, start_at
from flowsamplers.testing.laws.common import IRREGULAR, SEED, Case, NotApplicable, close, generator_of, without_noise

__all__ = [
    "a_cut_graph_stays_cut",
    "copies_between_calls_change_nothing",
    "drivers_agree",
    "edits_are_honoured",
    "every_host_applies_the_same_dt",
    "one_buffer_is_enough",
    "rows_that_change_places_are_not_worse_than_eulers",
]


def drivers_agree(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    """Direct, inside-out and lock-step sampling give one result: the first two bit for bit.

    Lock-step batches the rows of different runs, which may round otherwise in the model; nowhere else.

    Reference:
        Metamorphic testing, two routes to one answer: Chen et al., ACM Computing Surveys 51 (2018).
    """
    sampler = generator_of(case)
    x1 = start_at()
    direct = sample(smooth, x1, grid, sampler, seed=SEED)
    _inside_out(sampler, x1, grid, lambda s: s, direct, "inside out")
    together = sample_many(Field(), [Run(x1, grid, sampler, seeds=SEED), Run(x1, linear(3), "euler")], max_batch=4)[0]
    close(together, direct, f"{type(sampler).__name__}: lock-step and direct sampling differ")


def every_host_applies_the_same_dt(case: Case, grid: SigmaGrid = IRREGULAR, dtype: torch.dtype = torch.float32) -> None:
    """The applied dt sum to end minus start in every driver: `sample`, `Stepper`, and `sample_many` with another run.

    Reference:
        See `applied_dt_sum_to_end_minus_start`.
    """
    sampler = generator_of(case)
    if sampler.stochastic:
        raise NotApplicable("fresh noise replaces a part of the state")
    x1, v = torch.zeros(1, 2, dtype=dtype), torch.ones(1, 2, dtype=dtype)
    hosts = {"direct": sample(lambda x, sigma: v, x1, grid, sampler)}
    stepper = Stepper(sampler, grid, x1)
    for _ in dry_run(sampler, grid):
        stepper.tell(v)
    hosts["inside out"] = stepper.point
    runs = [Run(x1, grid, sampler), Run(x1, linear(3), "euler")]
    hosts["lock-step"] = sample_many(Constant(), runs, max_batch=4)[0]
    ratios = [abs(b / a) for a, b in pairwise(grid.dt)] if sampler.multistep else []
    lost = 1 / min(s for s in grid.sigmas if s > 0)
    bound = 8 * lost * max([1.0, *ratios]) * grid.steps * torch.finfo(dtype).eps
    for host, out in hosts.items():
        gap = (out - (grid.end - grid.start)).abs().max().item()
        assert gap <= bound, f"{type(sampler).__name__}, {host}: the dt applied miss end minus start by {gap:.1e}"


def copies_between_calls_change_nothing(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    """A deepcopy or a pickle after every model call, also between stages, changes no bit.

    Pipelines copy their scheduler in the middle of a run. A generator neither copies nor pickles, so it is made again by
    replay. A step that is run twice on the same velocities must ask and end the same.

    Reference:
        diffusers' LTX2, Cosmos and SkyReels pipelines call ``copy.deepcopy(scheduler)``.
    """
    sampler = generator_of(case)
    x1 = start_at()
    direct = sample(smooth, x1, grid, sampler, seed=SEED)
    _inside_out(sampler, x1, grid, copy.deepcopy, direct, "a deepcopy between two model calls")
    _inside_out(sampler, x1, grid, lambda s: pickle.loads(pickle.dumps(s)), direct, "a pickle between two model calls")  # noqa: S301
    stream = sample(smooth, x1, grid, sampler, seed=GeneratorNoise(torch.Generator().manual_seed(1)))
    noise = GeneratorNoise(torch.Generator().manual_seed(1))
    _inside_out(sampler, x1, grid, copy.deepcopy, stream, "a deepcopy with a stream of noise", noise)


def edits_are_honoured(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    """If the caller shifts the sample before any call, also between stages, the result is shifted by the same amount.

    This holds for any shift with a constant velocity, and for small shifts with any velocity that depends on sigma alone. The sampler
    must not mistake the edit for a change of the velocity. A sampler whose state holds latents, such as data predictions, adjusts
    them in `Sampler.translate`.

    Reference:
        diffusers' ``callback_on_step_end`` and inpainting pipelines, which edit the latents after every call.
    """
    sampler = generator_of(without_noise(case))  # fresh noise replaces a part of the state, and of the edit with it
    x1 = torch.zeros(1, 2, dtype=torch.float64)
    calls = dry_run(sampler, grid)

    def end(edited: Evaluation | None, shift: float, bent: float) -> Tensor:
        stepper = Stepper(sampler, grid, x1, KeyedNoise(SEED))
        for call in calls:
            if call is edited:
                stepper.edit(stepper.point + shift)
            stepper.tell(torch.full((1, 2), 0.25 + bent * call.sigma**2, dtype=torch.float64))
        return stepper.point

    for shift, bent in ((1.0, 0.0), (2**-20, 1.0)):
        plain = end(None, 0.0, bent)
        for call in (c for c in calls if bent == 0 or 2 * c.step > grid.steps):  # until then memory may be worth nothing
            what = f"{type(sampler).__name__}: an edit at step {call.step}, stage {call.stage} is not what reaches the end"
            close(end(call, shift, bent) - plain, torch.full_like(plain, shift), what)


def one_buffer_is_enough(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    """With `Stepper`, a model that always returns the same tensor, and a caller that reuses its own, give the same bits.

    CUDA graphs and TensorRT reuse their output buffers, so stored velocities must be copies.

    Reference:
        https://docs.pytorch.org/docs/stable/notes/cuda.html, "CUDA Graphs": outputs live in static memory.
    """
    sampler = generator_of(case)
    x1 = start_at()
    velocity, point = torch.empty_like(x1), x1.clone()
    stepper = Stepper(sampler, grid, point, KeyedNoise(SEED))
    for call in dry_run(sampler, grid):
        point.copy_(stepper.point)
        velocity.copy_(smooth(point, torch.full((len(x1),), call.sigma, dtype=x1.dtype)))
        stepper.tell(velocity)
    direct = sample(smooth, x1, grid, sampler, seed=SEED)
    assert torch.equal(stepper.point, direct), f"{type(sampler).__name__} remembers a buffer that is not its own"


def a_cut_graph_stays_cut(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    """If the caller detaches the sample after a call, the result has no derivative in anything before it, and no graph is kept.

    Reference:
        Truncated backpropagation: DRaFT-K, arXiv:2309.17400; ReFL, arXiv:2304.05977.
    """
    sampler = generator_of(case)
    calls = dry_run(sampler, grid)
    x1 = start_at()
    early = torch.ones((), dtype=x1.dtype, requires_grad=True)
    stepper = Stepper(sampler, grid, x1, KeyedNoise(SEED))
    for i, call in enumerate(calls):
        v = smooth(stepper.point.detach(), torch.full((len(x1),), call.sigma, dtype=x1.dtype))
        if i == len(calls) - 1:
            stepper.detach()
        stepper.tell(early * v if i < len(calls) - 1 else v)
    assert not stepper.point.requires_grad, f"{type(sampler).__name__} holds a graph that its host has cut"


def rows_that_change_places_are_not_worse_than_eulers(case: Case, steps: int = 24) -> None:
    """If the caller reorders the rows in the middle of a run, no row is extrapolated with the velocities of another.

    The error is compared with that of Euler's method on the same nodes. The law does not apply to methods with other nodes or noise.

    Reference:
        diffusers' ``callback_on_step_end``, which may return any latents.
    """
    sampler = generator_of(without_noise(case))
    x1, order, grid = 2 * start_at(4), [2, 0, 3, 1], linear(steps)
    truth = _end_of(4, 20 * steps)[order]

    def error(method: Sampler) -> float:
        stepper, calls = Stepper(method, grid, x1, KeyedNoise(SEED)), dry_run(method, grid)
        for i, call in enumerate(calls):
            stepper.tell(smooth(stepper.point, torch.full((len(x1),), call.sigma, dtype=x1.dtype)))
            if i == len(calls) // 2:
                stepper.edit(stepper.point[order])
        return float((stepper.point - truth).norm())

    allowed = error(Euler())
    plain = float((sample(smooth, x1, grid, sampler, seed=SEED)[order] - truth).norm())
    found = error(sampler)
    # four roundings of x in each step; sin(3 x) + sigma x has the Lipschitz constant 4, so they grow by at most exp(4)
    rounding = 4 * steps * torch.finfo(x1.dtype).eps * float(x1.norm()) * math.exp(4)
    assert found <= max(allowed, plain) + rounding, (
        f"{type(sampler).__name__}: rows that changed places miss by {found:.1e}, Euler's by less"
    )


@cache
def _end_of(rows: int, steps: int) -> Tensor:
    """The end of the path of twice `start_at`, the same for every sampler."""
    return sample(smooth, 2 * start_at(rows), linear(steps), "rk4")


def _inside_out(
    sampler: Sampler,
    x1: Tensor,
    grid: SigmaGrid,
    between: Callable[[Stepper], Stepper],
    expected: Tensor,
    what: str,
    noise: Any = None,
) -> None:
    stepper = Stepper(sampler, grid, x1, noise or KeyedNoise(SEED))
    for call in dry_run(sampler, grid):
        stepper = between(stepper)
        stepper.tell(smooth(stepper.point, torch.full((len(x1),), call.sigma, dtype=x1.dtype)))
    same = stepper.done and torch.equal(stepper.point, expected)
    assert same, f"{type(sampler).__name__}: {what} differs from direct sampling"
