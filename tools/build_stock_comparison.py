"""Compare each sampler with diffusers' scheduler of the same name: docs/reference/against-stock.md and its figures.

python tools/build_stock_comparison.py          # measure (a minute), then write the page
python tools/build_stock_comparison.py --page   # write the page from the committed figures

The rows of klein-digits are the benchmark's: run tools/build_benchmark.py for new ones.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import flowsamplers as fs
from flowsamplers.benchmark import SCHEDULES, Measured, measured, measured_stock, steps_for
from flowsamplers.flows import MixtureFlow
from flowsamplers_diffusers import stock

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "against-stock.md"
DATA = PAGE.with_suffix(".json")
BUDGETS = (4, 8, 16, 32, 64)
TITLES = {"linear": "The uniform schedule", "flux2": "FLUX.2's schedule at 4,096 tokens"}
NAMES = {"linear": "the uniform schedule", "flux2": "FLUX.2's schedule"}
LIMIT = 1.02


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
    trained = on_klein_digits()
    above = [cell for cell in trained if cell["ours"] > LIMIT * cell["theirs"]]
    worst = max(above, key=lambda cell: cell["ours"] / cell["theirs"])
    last = max(cell["calls"] for cell in above)
    lines = [
        "# Against diffusers' schedulers of the same name",
        "",
        "<!-- written by tools/build_stock_comparison.py -->",
        "",
        "On the mixtures, each sampler has at most 1.02 times the error of diffusers' scheduler of the same name, at equal model calls.",
        f"On the trained klein-digits this does not hold with {last} calls or fewer: {len(above)} of the {len(trained)} cells are above 1.02.",
        f"There `{worst['sampler']}` has {worst['ours'] / worst['theirs']:.2f} times the error of {worst['stock']} with {worst['calls']} "
        f"calls on {NAMES[worst['schedule']]}.",
        "",
        "Each cell shows the error here as a multiple of the error there, and the error there in parentheses. The schedulers are diffusers'",
        "own classes, run in float32 on the same nodes, with their own start and last steps.",
        "",
        "## Mixtures of Gaussians",
        "",
        "The error is the relative distance to the exact solution, as a geometric mean over six mixtures of Gaussians with 32 starts each.",
        "The full figures are in [against-stock.json](against-stock.json).",
    ]
    for schedule, title in TITLES.items():
        lines += ["", f"### {title}", "", *_table([r for r in rows if r["schedule"] == schedule])]
    lines += [
        "",
        "## klein-digits",
        "",
        "The error is the relative distance to the reference, from 8 starts with guidance 4. The figures are those of the",
        "[benchmark](benchmark.md), which does not measure DPM++ 2M Heun and DEIS-3. Multiples above 1.02 are bold.",
    ]
    for schedule, title in TITLES.items():
        lines += ["", f"### {title}, klein-digits", "", *_table([r for r in trained if r["schedule"] == schedule])]
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


def on_klein_digits() -> list[dict[str, Any]]:
    """The same comparison on the trained network, from the benchmark's committed rows."""
    theirs = {(m.schedule, m.label, m.nfe): m.errors["klein-digits"] for m in measured_stock()}
    ours = {(m.schedule, m.label, m.nfe): m.errors["klein-digits"] for m in measured()}
    rows = []
    for schedule, (name, config), calls in itertools.product(TITLES, stock.SAME_NAME.items(), BUDGETS):
        label = Measured(schedule, calls, config, 0, {}).label
        if (schedule, label, calls) in ours and (schedule, name, calls) in theirs:
            mine, other = ours[schedule, label, calls], theirs[schedule, name, calls]
            rows.append({"schedule": schedule, "stock": name, "sampler": label, "calls": calls, "ours": mine, "theirs": other})
    return rows


def _table(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each scheduler, and a column for each budget that was measured."""
    budgets = sorted({row["calls"] for row in rows})
    lines = [
        "| diffusers | here | " + " | ".join(f"{b} calls" for b in budgets) + " |",
        "| --- | --- |" + " --: |" * len(budgets),
    ]
    for name in dict.fromkeys(row["stock"] for row in rows):
        mine = {row["calls"]: row for row in rows if row["stock"] == name}
        cells = " | ".join(_cell(mine[b]) if b in mine else "-" for b in budgets)
        lines.append(f"| {name} | `{next(iter(mine.values()))['sampler']}` | {cells} |")
    return lines


def _cell(row: dict[str, Any]) -> str:
    multiple = f"{row['ours'] / row['theirs']:.2f}"
    mark = "**" * (row["ours"] > LIMIT * row["theirs"])
    return f"{mark}{multiple}{mark} ({row['theirs']:.2g})"


if __name__ == "__main__":
    from building import build

    build(__doc__, PAGE, page, lambda _: measure())
