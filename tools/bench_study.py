"""What lock-step with sharing saves: the runs of the default study, and a plain loop over the same runs.

How far the results of the two may differ is set by the network: a batch is rounded differently from a row alone. The benchmark
prints that difference for one call beside that of whole runs. In float64 diffusers still rotates queries and keys in float32, so
that now and then a difference of 1e-16 tips a rounding of 1e-8; the median shows what is left without that.

python tools/bench_study.py            # about three minutes
python tools/bench_study.py --share 3  # every third run of the plain loop, its time scaled up
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

import flowsamplers as fs
from flowsamplers.engine import integrate
from flowsamplers.flows import load_flow
from flowsamplers.lockstep import Task, run_tasks
from flowsamplers.reference import relative_error
from flowsamplers.sampler import steps_of
from flowsamplers.study import Study
from flowsamplers.study.cost import Meter
from flowsamplers.study.plan import Planned

Case = tuple[Any, Tensor]


def lock_step(study: Study, flow: Meter, planned: list[Planned], cases: list[Case]) -> dict[tuple[int, int], Tensor]:
    """The study's way: cheap runs first, a few full batches on their way, equal requests computed once."""
    where = [(i, c) for i in sorted(range(len(planned)), key=lambda i: planned[i].nfe) for c in range(len(cases))]
    tasks = [
        Task(partial(integrate, planned[i].sampler, cases[c][1], steps_of(planned[i].grid)), cases[c][0]) for i, c in where
    ]
    outs: dict[tuple[int, int], Tensor] = {}
    dtype = cases[0][1].dtype
    run_tasks(flow, tasks, lambda k, x: outs.update({where[k]: x}), dtype=dtype, max_batch=study.max_batch, window=study.window)
    return outs


def plain_loop(
    flow: Meter, planned: list[Planned], cases: list[Case], wanted: list[tuple[int, int]]
) -> dict[tuple[int, int], Tensor]:
    """One prompt, one seed, one run at a time."""
    outs: dict[tuple[int, int], Tensor] = {}
    for i, c in wanted:
        prompt, x1 = cases[c]
        outs[i, c] = fs.sample(lambda x, s, p=prompt: flow.velocity(x, s, [p]), x1, planned[i].grid, planned[i].sampler)
    return outs


def compare(dtype: str, share: int, seeds: tuple[int, ...]) -> None:
    """Time both ways, and compare what they come to."""
    study = Study(flow_options={"dtype": dtype}, seeds=seeds)
    flow = study.open()
    cases = [(prompt, flow.noise([seed])) for prompt, seed in study.cases]
    planned = study.runs(flow.tokens)
    for prompt, x1 in cases:
        flow.velocity(x1, torch.ones(1), [prompt])  # prompts are encoded outside of both
    everything = [(i, c) for i in range(len(planned)) for c in range(len(cases))]
    wanted = everything[::share]
    batched, single = Meter(flow), Meter(flow)
    began = time.perf_counter()
    together = lock_step(study, batched, planned, cases)
    fast = time.perf_counter() - began
    began = time.perf_counter()
    alone = plain_loop(single, planned, cases, wanted)
    asked = sum(planned[i].nfe for i, _ in everything)
    slow = (time.perf_counter() - began) * asked / single.rows
    apart = sorted(relative_error(together[k], alone[k]).item() for k in wanted)
    one = torch.cat([x1 for _, x1 in cases])
    prompts = [prompt for prompt, _ in cases]
    together_once = flow.velocity(one, torch.full((len(one),), 0.5), prompts)
    alone_once = torch.cat([flow.velocity(x1, torch.full((1,), 0.5), [prompt]) for prompt, x1 in cases])
    once = relative_error(together_once, alone_once).max().item()
    print(f"{dtype}: {len(everything)} runs, {asked} evaluations asked for, threads {torch.get_num_threads()}")
    print(f"  lock-step   {fast:7.1f} s   {batched.rows} evaluations in {batched.calls} model calls")
    print(
        f"  plain loop  {slow:7.1f} s   {asked} evaluations in as many model calls"
        + (f" (1 in {share} run)" if share > 1 else "")
    )
    print(f"  {slow / fast:.1f} times faster")
    print(
        f"  latents differ by {median(apart):.1e} of their norm (median; largest {apart[-1]:.1e}); one model call by {once:.1e}"
    )


def main() -> None:
    """Do it in float32, and in float64 with one seed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--share", type=int, default=1)
    share = parser.parse_args().share
    torch.set_num_threads(1)  # the faster of one and two, for either way, on two virtual cores
    load_flow("klein-digits", prompt="warm").velocity(load_flow("klein-digits").noise([0]), torch.ones(1))
    for dtype, seeds in (("float32", Study.seeds), ("float64", (0,))):
        compare(dtype, share, tuple(seeds))


if __name__ == "__main__":
    main()
