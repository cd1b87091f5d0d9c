"""The lock-step driver: many runs advance together, and share batched model calls."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from flowsamplers.drive import carry_dtype, noise_for
from flowsamplers.grid import SigmaGrid
from flowsamplers.noise import Noise, Seeds
from flowsamplers.sampler import Evaluate, Sampler, SamplerLike, Step, get_sampler, steps_of


class Flow(Protocol):
    """A velocity field whose rows can have conditions of their own."""

    def velocity(self, x: Tensor, sigma: Tensor, condition: Sequence[Any] | None = None) -> Tensor:
        """The velocity at ``x`` ``(rows, ...)`` and ``sigma`` ``(rows,)``; ``condition`` has one entry for each row.

        No list, or an entry of None, means the flow's own condition.
        """
        ...


@dataclass(frozen=True, eq=False)
class Run:
    """One run of a batch for `sample_many`.

    Attributes:
        x1: start, ``(rows, ...)``.
        grid: its schedule.
        sampler: a sampler, by name or as an object.
        condition: what the flow is conditioned on, for all rows of this run; None for nothing.
        seeds: seeds of a stochastic sampler.
    """

    x1: Tensor
    grid: SigmaGrid
    sampler: SamplerLike = "euler"
    condition: Any = None
    seeds: Seeds | Noise | None = None


def sample_many(
    flow: Flow,
    runs: Sequence[Run],
    *,
    max_batch: int = 64,
    carry: torch.dtype | None = None,
    on_call: Callable[[int], None] | None = None,
) -> list[Tensor]:
    """Many runs in lock-step: in each round all waiting requests share batched model calls.

    The runs may have different samplers, grids, conditions and lengths; their rows have one shape, dtype and device.

    Args:
        flow: its ``velocity(x, sigma, condition)`` gets a list with the condition of each row.
        runs: what to run.
        max_batch: the largest number of rows in one model call.
        carry: dtype of the state, see `sample`.
        on_call: told the number of rows after every model call, for progress.

    Returns:
        The result of each run, in the order given.

    Raises:
        ValueError: ``max_batch`` below 1, runs whose rows differ in shape, dtype or device, a stochastic run without seeds.

    Examples:
        >>> class Decay:
        ...     def velocity(self, x, sigma, condition=None):
        ...         return x
        >>> grid = SigmaGrid([1.0, 0.5, 0.0])
        >>> [x.item() for x in sample_many(Decay(), [Run(torch.ones(1, 1), grid, s) for s in ("euler", "heun")])]
        [0.25, 0.390625]
    """
    if max_batch < 1:
        raise ValueError(f"max_batch={max_batch}: a model call needs at least 1 row")
    _check_alike(runs)
    results: list[Tensor | None] = [None] * len(runs)
    with torch.no_grad():
        waiting = [_Waiting(i, run, _start(run, carry)) for i, run in enumerate(runs)]
        for w in waiting:
            w.request = next(w.work)
        while waiting:
            velocities = _evaluate_batched(flow, waiting, max_batch, on_call)
            for w, v in zip(waiting, velocities, strict=True):
                try:
                    w.request = w.work.send(v)
                except StopIteration as done:
                    results[w.index] = done.value.to(w.run.x1.dtype)
                    w.request = None
            waiting = [w for w in waiting if w.request is not None]
    return [r for r in results if r is not None]


@dataclass(eq=False)
class _Waiting:
    """A run in lock-step, and what it is waiting for."""

    index: int
    run: Run
    work: Generator[Evaluate, Tensor, Tensor]
    request: Evaluate | None = None


def _start(run: Run, carry: torch.dtype | None) -> Generator[Evaluate, Tensor, Tensor]:
    sampler = get_sampler(run.sampler)
    noise = noise_for(sampler, run.seeds)
    return _whole(sampler, run.x1.to(carry_dtype(run.x1, carry)), steps_of(run.grid, noise))


def _whole(sampler: Sampler, x: Tensor, steps: Iterable[Step]) -> Generator[Evaluate, Tensor, Tensor]:
    """A whole run as one generator."""
    state = sampler.init(x)
    for at in steps:
        x, state = yield from sampler.step(x, at, state)
    return x


def _check_alike(runs: Sequence[Run]) -> None:
    kinds = {(tuple(r.x1.shape[1:]), r.x1.dtype, r.x1.device) for r in runs}
    if len(kinds) > 1:
        raise ValueError(f"runs: rows in lock-step share one shape, dtype and device, not {sorted(map(str, kinds))}")


def _evaluate_batched(
    flow: Flow, waiting: Sequence[_Waiting], max_batch: int, on_call: Callable[[int], None] | None
) -> tuple[Tensor, ...]:
    """The velocities of all pending requests, in batches of at most ``max_batch`` rows."""
    requests = [w.request for w in waiting if w.request is not None]
    rows = [r.x.shape[0] for r in requests]
    x = torch.cat([r.x for r in requests])
    sigma = torch.cat([x.new_full((n,), r.sigma) for n, r in zip(rows, requests, strict=True)])
    condition = [w.run.condition for w, n in zip(waiting, rows, strict=True) for _ in range(n)]
    dtype = waiting[0].run.x1.dtype
    parts: list[Tensor] = []
    for lo in range(0, x.shape[0], max_batch):
        hi = lo + max_batch
        xs = x[lo:hi]
        v = flow.velocity(xs.to(dtype), sigma[lo:hi], condition[lo:hi])
        if v.shape != xs.shape:
            raise ValueError(f"velocity returned shape {tuple(v.shape)} for x of shape {tuple(xs.shape)}")
        parts.append(v.to(x.dtype))
        if on_call is not None:
            on_call(xs.shape[0])
    return torch.cat(parts).split(rows)
