"""Measure every ODE sampler at fixed numbers of model calls: flowsamplers/measurements/benchmark.json and its page.

python tools/build_benchmark.py           # measure what has changed, then write the page
python tools/build_benchmark.py --afresh  # measure everything (half an hour on one core)
python tools/build_benchmark.py --page    # write the page from the committed rows

A sampler has changed where an error on a mixture is another one than in its committed row: only then is the network asked, which costs most.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

import flowsamplers as fs
from flowsamplers import reference
from flowsamplers.benchmark import BUDGETS, FEW, NETWORKS, SCHEDULES, Measured, measured, measured_stock, steps_for
from flowsamplers.flows import MixtureFlow
from flowsamplers_diffusers import stock

ROOT = Path(__file__).parent.parent
DATA = ROOT / "flowsamplers" / "measurements" / "benchmark.json"
PAGE = ROOT / "docs" / "reference" / "benchmark.md"
LASTS = ("midpoint", "ralston3", "euler")
ROWS = 32
MIXTURES = 5
Solve: TypeAlias = Callable[..., Tensor]
PROMPTS = {"klein-digits": "a handwritten 3"}


def candidates() -> list[dict[str, Any]]:
    """Every ODE sampler with fixed steps, as it comes and with other last steps."""
    found: list[dict[str, Any]] = []
    for info in fs.list_samplers():
        if info.stochastic or info.adaptive:
            continue
        found.append({"name": info.name})
        found += [{"name": info.name, "options": {"last": last}} for last in LASTS if "last" in info.options]
    return found


def flows() -> dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor]]:
    """Velocity, start and truth of every flow."""
    out: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor]] = {}
    for name, flow in {
        "appendix-a": MixtureFlow.appendix_a(),
        **{f"mixture-{i}": MixtureFlow.random(i) for i in range(MIXTURES)},
    }.items():
        x = flow.noise(list(range(ROWS)))
        out[name] = flow.velocity, x, flow.solution(x)
    for name in NETWORKS:
        network = fs.flows.load_flow(name, prompt=PROMPTS[name])
        x = network.noise(list(range(8)))
        out[name] = network.velocity, x, reference.solve(network, x).x0.double()
    return out


def measure(*, afresh: bool) -> None:
    """Run it all, and write after each number of calls, so that an interrupted run goes on where it was."""
    torch.set_num_threads(1)
    problems = flows()
    data: dict[str, Any] = {} if afresh else json.loads(DATA.read_text())
    done = {kind: {_key(r): r for r in data.get(kind, [])} for kind in ("rows", "stock")}
    kept: dict[str, dict[str, dict[str, Any]]] = {"rows": {}, "stock": {}}

    def add(kind: str, schedule: str, budget: int, config: dict[str, Any], steps: int, solve: Solve) -> None:
        grid = fs.get_schedule(schedule, steps, **SCHEDULES[schedule])
        row = {"schedule": schedule, "nfe": budget, "sampler": config, "steps": steps, "errors": [0.0] * len(problems)}
        old = done[kind].get(_key(row))
        for place, (name, (velocity, x, truth)) in enumerate(problems.items()):
            if name in NETWORKS and old and old["steps"] == steps and old["errors"][:place] == row["errors"][:place]:
                row = old
                break
            gap = solve(velocity, x, grid).double() - truth
            row["errors"][place] = float(f"{(gap.norm() / truth.norm()).item():.4g}")
        kept[kind][_key(row)] = row

    for schedule in SCHEDULES:
        for budget in (*FEW, *BUDGETS):
            for config in candidates():
                sampler = fs.get_sampler(config)
                if steps := steps_for(sampler, schedule, budget):
                    add("rows", schedule, budget, config, steps, partial(fs.sample, sampler=sampler))
            for name, entry in stock.STOCK.items():
                steps = max(n for n in range(1, budget + 1) if entry.calls(n) <= budget)
                if not entry.stochastic and (steps > 1 or entry.reaches_zero):  # DEIS with one step makes none
                    add("stock", schedule, budget, {"name": name}, steps, partial(stock.run, name))
            print(schedule, budget, flush=True)
            _write(list(problems), {kind: [*(done[kind] | kept[kind]).values()] for kind in kept})
    _write(list(problems), {kind: [*kept[kind].values()] for kind in kept})
    measured.cache_clear()
    measured_stock.cache_clear()


def _key(row: dict[str, Any]) -> str:
    return json.dumps([row["schedule"], row["nfe"], row["sampler"]], sort_keys=True)


def _write(names: list[str], rows: dict[str, list[dict[str, Any]]]) -> None:
    about = "relative Euclidean error of the final state; made by tools/build_benchmark.py"
    parts = [f'"{k}": [\n' + ",\n".join(map(json.dumps, v)) + "\n]" for k, v in rows.items()]
    DATA.write_text(f'{{"about": {json.dumps(about)}, "flows": {json.dumps(names)}, {", ".join(parts)}}}\n')


def cells(schedule: str, budget: int) -> tuple[list[Measured], list[Measured]]:
    """All cells here, and those of diffusers."""
    here, theirs = ([m for m in found if (m.schedule, m.nfe) == (schedule, budget)] for found in (measured(), measured_stock()))
    return here, theirs


def table(schedule: str, error: Callable[[Measured], float]) -> list[str]:
    """Best here against best of stock at each number of calls."""
    lines = [
        "| model calls | best of diffusers | its error | best here | steps | its error | ratio |",
        "| --: | --- | --: | --- | --: | --: | --: |",
    ]
    for budget in BUDGETS:
        everything, shipped = cells(schedule, budget)
        best, theirs = min(everything, key=error), min(shipped, key=error)
        lines.append(
            f"| {budget} | {theirs.label} | {error(theirs):.2e} | `{best.label}` | {best.steps} | {error(best):.2e} "
            f"| **{error(best) / error(theirs):.2f}** |"
        )
    return lines


def worst(schedule: str, flow: str | None) -> float:
    """The largest ratio of best here to best of stock over all numbers of calls, on a flow or on the worst of the mixtures."""
    names = [flow] if flow else [n for n in measured()[0].errors if n not in NETWORKS]
    return max(
        min(m.errors[n] for m in everything) / min(m.errors[n] for m in shipped)
        for n in names
        for everything, shipped in (cells(schedule, b) for b in BUDGETS)
    )


def simple() -> list[str]:
    """A few samplers that one can remember, at every number of calls."""
    chosen = (
        "euler",
        "fireflow",
        "fireflow:last=midpoint",
        "ab2:last=midpoint",
        "unipc:last=midpoint",
        "unipc:last=ralston3",
        "dpmpp_2m:last=midpoint",
    )
    lines = ["| sampler | " + " | ".join(map(str, BUDGETS)) + " |", "| --- |" + " --: |" * len(BUDGETS)]
    for label in chosen:
        row = []
        for budget in BUDGETS:
            everything, shipped = cells("flux2", budget)
            mine = next(m for m in everything if m.label == label)
            row.append(f"{mine.error / min(m.error for m in shipped):.2f}")
        lines.append(f"| `{label}` | " + " | ".join(row) + " |")
    return lines


def page() -> str:
    """The page of the tables."""
    names = list(measured()[0].errors)
    text = [
        "# Benchmark: the error at equal model calls",
        "",
        "<!-- written by tools/build_benchmark.py from flowsamplers/measurements/benchmark.json -->",
        "",
        "Every ODE sampler of the library takes as many steps as fit into the given number of model calls, on FLUX.2's schedule at 4,096",
        "tokens (empirical mu) and on the uniform one. The error is the relative Euclidean distance of the final state to the exact solution.",
        f"Flows: {len(names) - 1} mixtures of Gaussians in 6 and 8 dimensions, {ROWS} starts each, and the trained klein-digits, 8 starts.",
        f'The column "best of diffusers" is the best of {sum(not e.stochastic for e in stock.STOCK.values())} schedulers that diffusers ships, run',
        "as they are: in float32, with their own first node, start-up and last steps, on the same nodes and with exact times. The stochastic",
        "schedulers of diffusers (DPM++ SDE, FlowMatchLCM) have no error in this sense.",
        "",
        "`flowsamplers.recommend(grid, nfe)` answers from these rows: the smallest geometric mean of the network and of the mixtures, among",
        "the samplers that are no worse than Euler on any flow.",
        "",
        "## FLUX.2's schedule: geometric mean over all flows",
        "",
        *table("flux2", lambda m: m.error),
        "",
        f"On no mixture is the ratio above {worst('flux2', None):.2f}, on appendix A's not above {worst('flux2', 'appendix-a'):.2f}, "
        f"on klein-digits not above {worst('flux2', 'klein-digits'):.2f}.",
        "",
        "The reason is the last step. FLUX.2's schedule leaves a third to three quarters of the way to it, and diffusers makes it an",
        "Euler step. One more evaluation there, by the midpoint rule or by Ralston's of order 3, buys more than any number of steps before.",
        "",
        "### A few to remember: error as a multiple of the best of diffusers at the same calls",
        "",
        *simple(),
        "",
        "## FLUX.2's schedule, klein-digits alone",
        "",
        *table("flux2", lambda m: m.errors["klein-digits"]),
        "",
        "## FLUX.2's schedule, the mixture of appendix A alone",
        "",
        *table("flux2", lambda m: m.errors["appendix-a"]),
        "",
        "## The uniform schedule: geometric mean over all flows",
        "",
        *table("linear", lambda m: m.error),
        "",
        f"On no mixture is the ratio above {worst('linear', None):.2f}.",
        "",
        "## What this is not",
        "",
        "These flows rank numerics, not image quality; a distilled model has no ODE limit that means quality, and klein-digits is a small",
        "model of small pictures. Measure yours: `flowsamplers study --model ...`.",
    ]
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    if "--page" not in sys.argv[1:]:
        measure(afresh="--afresh" in sys.argv[1:])
    assert all(math.isfinite(m.error) for m in (*measured(), *measured_stock()))
    PAGE.write_text(page())
