"""Compare each sampler with diffusers' scheduler of the same name: docs/reference/against-stock.md and its figures.

python tools/build_stock_comparison.py          # measure (a minute), then write the page
python tools/build_stock_comparison.py --page   # write the page from the committed figures
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import flowsamplers as fs
from flowsamplers.benchmark import SCHEDULES, Measured, steps_for
from flowsamplers.flows import MixtureFlow
from flowsamplers_diffusers import stock

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "against-stock.md"
DATA = PAGE.with_suffix(".json")
BUDGETS = (4, 8, 16, 32, 64)
TITLES = {"linear": "The uniform schedule", "flux2": "FLUX.2's schedule at 4,096 tokens"}


def measure() -> None:
    """The geometric mean of the errors on the benchmark's mixtures, of both, at every number of calls."""
    torch.set_num_threads(1)
    problems = []
    for flow in (MixtureFlow.four_gaussians(), *(MixtureFlow.random(i) for i in range(5))):
        x = flow.noise(list(range(32)))
        problems.append((flow.velocity, x, flow.solution(x)))

    def error(solve: Callable[[Callable[[Tensor, Tensor], Tensor], Tensor], Tensor]) -> float:
        gaps = [(solve(velocity, x).double() - truth).norm() / truth.norm() for velocity, x, truth in problems]
        return float(f"{math.exp(sum(math.log(gap) for gap in gaps) / len(gaps)):.4g}")

    rows = []
    for schedule, options in SCHEDULES.items():
        for name, config in stock.SAME_NAME.items():
            sampler = fs.get_sampler(config)
            for calls in BUDGETS:
                ours = fs.get_schedule(schedule, steps_for(sampler, schedule, calls), **options)
                steps = max(n for n in range(1, calls + 1) if stock.STOCK[name].calls(n) <= calls)
                theirs = fs.get_schedule(schedule, steps, **options)
                rows.append(
                    {
                        "schedule": schedule,
                        "stock": name,
                        "sampler": Measured(schedule, calls, config, 0, {}).label,
                        "calls": calls,
                        "ours": error(lambda velocity, x, grid=ours, sampler=sampler: fs.sample(velocity, x, grid, sampler)),
                        "theirs": error(lambda velocity, x, grid=theirs, name=name: stock.run(name, velocity, x, grid)),
                    }
                )
    DATA.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


def page() -> str:
    """The tables."""
    rows = json.loads(DATA.read_text())
    lines = [
        "# Against diffusers' schedulers of the same name",
        "",
        "<!-- written by tools/build_stock_comparison.py -->",
        "",
        "Each sampler has at most 1.02 times the error of diffusers' scheduler of the same name, at equal model calls. Each cell shows the",
        "error here as a multiple of the error there, and the error there in parentheses.",
        "",
        "The error is the relative distance to the exact solution, as a geometric mean over six mixtures of Gaussians with 32 starts each.",
        "The schedulers are diffusers' own classes, run in float32 on the same nodes, with their own start and last steps.",
        "The full figures are in [against-stock.json](against-stock.json).",
    ]
    for schedule, title in TITLES.items():
        lines += ["", f"## {title}", "", "| diffusers | here | " + " | ".join(f"{b} calls" for b in BUDGETS) + " |"]
        lines += ["| --- | --- |" + " --: |" * len(BUDGETS)]
        for name in stock.SAME_NAME:
            mine = [r for r in rows if (r["schedule"], r["stock"]) == (schedule, name)]
            cells = " | ".join(f"{r['ours'] / r['theirs']:.2f} ({r['theirs']:.2g})" for r in mine)
            lines.append(f"| {name} | `{mine[0]['sampler']}` | {cells} |")
    lines += [
        "",
        "## Why the start at sigma = 1 matters",
        "",
        "At sigma = 1 the log-SNR is minus infinity. UniPC in diffusers starts at 1 - 1e-6 instead, so that its formulas stay finite. In the",
        "limit of these formulas, the prediction at sigma = 1 has no effect. The first step has no corrector, and the second step is an Euler",
        "step. Here these two steps interpolate in -log(sigma) instead. This variable is 0 at sigma = 1, so the prediction there is used.",
        "",
        "On a run to sigma = 0, UniPC of order 3 lowers its second-to-last step to order 2, as diffusers does. The steps of DPM++ 2S and 3S from",
        "sigma = 1 and to sigma = 0 have infinite length in the log-SNR. Here they are midpoint and Ralston steps in sigma.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if "--page" not in sys.argv[1:]:
        measure()
    PAGE.write_text(page())
