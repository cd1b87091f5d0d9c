"""Compare each sampler with diffusers' scheduler of the same name: docs/reference/against-stock.md and its figures.

python tools/build_stock_comparison.py           # measure (half an hour on one core), then write the page
python tools/build_stock_comparison.py mixtures  # measure the mixtures alone (a minute), then write the page
python tools/build_stock_comparison.py --page    # write the page from the committed figures
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

import flowsamplers as fs
from flowsamplers.benchmark import SCHEDULES, Measured, steps_for
from flowsamplers.flows import MixtureFlow
from flowsamplers.samplers.unipc import UniPC2, unipc_weights
from flowsamplers_diffusers import stock

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "against-stock.md"
DATA = PAGE.with_suffix(".json")
BUDGETS = {"mixtures": (4, 8, 16, 32, 64), "klein-digits": (4, 8, 16)}
OWN_STAGES = {"DPM++ 2S": {"name": "dpmpp_2s"}, "DPM++ 3S": {"name": "dpmpp_3s"}}
"""The same formulas with stages of their own, so with more calls a step and fewer steps."""
TITLES = {"linear": "The uniform schedule", "flux2": "FLUX.2's schedule at 4,096 tokens"}
LIMIT = 1.02
RESAMPLED = 4000
FLOWS = {"mixtures": "mixtures of Gaussians", "klein-digits": "klein-digits"}
Velocity: TypeAlias = Callable[[Tensor, Tensor], Tensor]


class Problem(NamedTuple):
    """A flow with its starts and where they end."""

    velocity: Velocity
    x: Tensor
    truth: Tensor


def mixtures() -> list[Problem]:
    """The benchmark's, whose solutions are exact."""
    problems = []
    for flow in (MixtureFlow.four_gaussians(), *(MixtureFlow.random(i) for i in range(5))):
        x = flow.noise(list(range(32)))
        problems.append(Problem(flow.velocity, x, flow.solution(x)))
    return problems


def klein_digits() -> list[Problem]:
    """Every digit from a start of its own, with guidance 4; beside rk4 with 64 steps, whose error is far below its distance to 32."""
    prompts = [f"a handwritten {digit}" for digit in range(10)]
    flow = fs.flows.load_flow("klein-digits", prompt=prompts[0])
    velocity, x = partial(flow.velocity, condition=prompts), flow.noise(list(range(len(prompts))))
    coarse, truth = (fs.sample(velocity, x, fs.schedules.linear(steps), "rk4").double() for steps in (32, 64))
    assert (coarse - truth).norm() < 1e-4 * truth.norm()
    return [Problem(velocity, x, truth)]


PROBLEMS = {"mixtures": mixtures, "klein-digits": klein_digits}


@dataclass(frozen=True)
class InLogSigma(UniPC2):
    """UniPC-2 whose second step extrapolates from the prediction at sigma 1 in -log(sigma), where that lies at 0."""

    def weights(self, s0: float, s1: float, past: tuple[float, ...], *, new: bool = False) -> list[float]:
        """See `UniPC2`."""
        return unipc_weights(self.variable, self.base, self.solve, s0, s1, past[:1], new=new, corrects=False)


def _rounded_times(name: str) -> Callable[[Velocity, Tensor, fs.SigmaGrid], Tensor]:
    return lambda velocity, x, grid: stock.run(name, lambda x, sigma: velocity(x, (1000 * sigma).floor() / 1000), x, grid)


def _from_a_thousandth(name: str) -> Callable[[Velocity, Tensor, fs.SigmaGrid], Tensor]:
    return lambda velocity, x, grid: stock.run(name, velocity, x, [0.999, *grid.sigmas[1:]])


_UNCORRECTED = replace(stock.STOCK["UniPC-2"], options={**stock.STOCK["UniPC-2"].options, "disable_corrector": [0]})
_HEUN = replace(stock.STOCK["DPM++ 3S"], options={**stock.STOCK["DPM++ 3S"].options, "solver_type": "heun"})
CAUSES: dict[tuple[str, str], Callable[[Velocity, Tensor, fs.SigmaGrid], Tensor]] = {
    ("UniPC-2", "asks at times rounded down to integers"): _rounded_times("UniPC-2"),
    ("UniPC-2", "starts at 0.999"): _from_a_thousandth("UniPC-2"),
    ("UniPC-2", "leaves out the corrector of the first step"): partial(stock.run, _UNCORRECTED),
    ("UniPC-2", "extrapolates in -log(sigma) on the second step"): lambda v, x, grid: fs.sample(v, x, grid, InLogSigma()),
    ("DPM++ 3S", "asks at times rounded down to integers"): _rounded_times("DPM++ 3S"),
    ("DPM++ 3S", "starts at 0.999"): _from_a_thousandth("DPM++ 3S"),
    ("DPM++ 3S", 'has solver_type="heun"'): partial(stock.run, _HEUN),
    ("DPM++ 3S", "places its stages itself"): lambda v, x, grid: fs.sample(v, x, _own_steps(grid), fs.get_sampler("dpmpp_3s")),
}
"""What is changed in a scheduler of diffusers, one thing at a time."""


def _own_steps(grid: fs.SigmaGrid) -> fs.SigmaGrid:
    return fs.schedules.linear(max(1, grid.steps // 3))


def measure(names: list[str]) -> None:
    """Both errors at every number of calls, and the interval of their ratio, on these kinds of flows."""
    torch.set_num_threads(1)
    data = json.loads(DATA.read_text()) if DATA.exists() else {}
    for name in names:
        problems = PROBLEMS[name]()
        data[name] = []
        data[f"causes {name}"] = causes(problems)
        for calls in BUDGETS[name]:
            for schedule, options in SCHEDULES.items():
                for theirs, configs in _pairs().items():
                    steps = max(n for n in range(1, calls + 1) if stock.STOCK[theirs].calls(n) <= calls)
                    grid = fs.get_schedule(schedule, steps, **options)
                    other = misses(problems, lambda velocity, x, grid=grid, theirs=theirs: stock.run(theirs, velocity, x, grid))
                    for config in configs:
                        sampler = fs.get_sampler(config)
                        grid = fs.get_schedule(schedule, steps_for(sampler, schedule, calls), **options)
                        mine = misses(
                            problems, lambda velocity, x, grid=grid, sampler=sampler: fs.sample(velocity, x, grid, sampler)
                        )
                        data[name].append(
                            {
                                "schedule": schedule,
                                "stock": theirs,
                                "sampler": Measured(schedule, calls, config, 0, {}).label,
                                "calls": calls,
                                "ours": _rounded(error(mine)),
                                "theirs": _rounded(error(other)),
                                "ratio": [_rounded(r) for r in interval(mine, other)],
                            }
                        )
                print(name, schedule, calls, flush=True)
            _write(data)


def _write(data: dict[str, Any]) -> None:
    rows = ",\n".join(f'"{name}": [\n' + ",\n".join(map(json.dumps, found)) + "\n]" for name, found in data.items())
    DATA.write_text(f"{{\n{rows}\n}}\n")


def causes(problems: list[Problem]) -> list[dict[str, Any]]:
    """The error with one thing changed, as a multiple of the scheduler's own, on the uniform schedule with 4 and 8 calls."""
    found = []
    for (name, change), solve in CAUSES.items():
        for calls in (4, 8):
            grid = fs.schedules.linear(calls)
            plain = misses(problems, lambda v, x, name=name, grid=grid: stock.run(name, v, x, grid))
            changed = misses(problems, lambda v, x, solve=solve, grid=grid: solve(v, x, grid))
            ratio = [_rounded(r) for r in (error(changed) / error(plain), *interval(changed, plain))]
            found.append({"stock": name, "change": change, "calls": calls, "ratio": ratio})
    return found


def _pairs() -> dict[str, list[dict[str, Any]]]:
    """The samplers that are compared with each scheduler."""
    return {name: [config, *filter(None, [OWN_STAGES.get(name)])] for name, config in stock.SAME_NAME.items()}


def misses(problems: list[Problem], solve: Callable[[Velocity, Tensor], Tensor]) -> list[Tensor]:
    """The squared distance of each start's end to the truth, relative to all of the flow's truths."""
    return [(solve(v, x).double() - truth).flatten(1).square().sum(1) / truth.square().sum() for v, x, truth in problems]


def error(squares: list[Tensor]) -> float:
    """The relative distance, as a geometric mean over the flows."""
    return math.exp(sum(math.log(s.sum()) for s in squares) / 2 / len(squares))


def interval(mine: list[Tensor], other: list[Tensor]) -> tuple[float, float]:
    """Between which the ratio of the two errors lies for 95 of 100 draws of the starts, with replacement."""
    generator, logs = torch.Generator().manual_seed(0), torch.zeros(RESAMPLED, dtype=torch.float64)
    for a, b in zip(mine, other, strict=True):
        drawn = torch.randint(len(a), (RESAMPLED, len(a)), generator=generator)
        logs += (a[drawn].sum(1) / b[drawn].sum(1)).log() / 2 / len(mine)
    low, high = logs.exp().quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def is_above(row: dict[str, Any]) -> bool:
    """Whether the error here is larger by more than the limit."""
    return row["ours"] > LIMIT * row["theirs"]


def is_undecided(row: dict[str, Any]) -> bool:
    """Whether the interval of the ratio of the errors holds 1."""
    low, high = row["ratio"]
    return low <= 1 <= high


def labels() -> set[str]:
    """The samplers that are the same method as a scheduler."""
    return {Measured("", 0, config, 0, {}).label for config in stock.SAME_NAME.values()}


def page() -> str:
    """The tables."""
    data = json.loads(DATA.read_text())
    same = labels()
    lines = [
        "# Against diffusers' schedulers of the same name",
        "",
        "<!-- written by tools/build_stock_comparison.py -->",
        "",
        *_answer(data, same),
        "",
        "Each cell shows the error here as a multiple of the error there, and the error there in parentheses. Multiples above 1.02 are bold.",
        "The schedulers are diffusers' own classes, run in float32 on the same nodes, with their own start and last steps.",
        "The full figures are in [against-stock.json](against-stock.json).",
    ]
    about = {
        "mixtures": [
            "The error is the relative distance to the exact solution, as a geometric mean over six mixtures of Gaussians with 32 starts each.",
        ],
        "klein-digits": [
            "The error is the relative distance to the reference, over ten prompts with a start each and guidance 4. In brackets:",
            "the interval that holds the multiple for 95 of 100 draws of the starts (bootstrap).",
        ],
    }
    for name, title in FLOWS.items():
        lines += ["", f"## {title[0].upper() + title[1:] if name == 'mixtures' else title}", "", *about[name]]
        for schedule, heading in TITLES.items():
            rows = [r for r in data[name] if r["schedule"] == schedule and r["sampler"] in same]
            suffix = "" if name == "mixtures" else f", {title}"
            lines += ["", f"### {heading}{suffix}", "", *_table(rows, intervals=name != "mixtures")]
    lines += [
        "",
        "## DPM++ 2S and 3S with stages of their own",
        "",
        "diffusers' `DPMSolverSinglestepScheduler` makes one call a step: the nodes of the schedule are the stages. `nodes=grid` does the same.",
        "By default, `dpmpp_2s` and `dpmpp_3s` place their stages themselves, as k-diffusion and ComfyUI do. They need two or three calls a",
        "step, so they take half or a third of the steps. This is better on the mixtures. On klein-digits it is worse with few calls, where",
        "many short steps of low order win: there, Euler's method too is better than midpoint steps.",
    ]
    for name, title in FLOWS.items():
        for schedule, heading in TITLES.items():
            rows = [r for r in data[name] if r["schedule"] == schedule and r["sampler"] not in same]
            lines += [
                "",
                f"### Own stages: {heading[0].lower() + heading[1:] if schedule == 'linear' else heading}, {title}",
                "",
            ]
            lines += _table(rows, intervals=name != "mixtures")
    return "\n".join([*lines, "", *CHANGED, *_causes(data), *WHY]) + "\n"


def _causes(data: dict[str, Any]) -> list[str]:
    """The table of what was changed."""
    columns = [(flow, calls) for flow in FLOWS for calls in (4, 8)]
    found = {
        (row["stock"], row["change"], flow, row["calls"]): "{:.2f} [{:.2f}, {:.2f}]".format(*row["ratio"])
        for flow in FLOWS
        for row in data[f"causes {flow}"]
    }
    head = " | ".join(f"{flow}, {calls} calls" for flow, calls in columns)
    lines = [f"| scheduler | changed: it ... | {head} |", "| --- | --- |" + " --: |" * len(columns)]
    lines += [
        f"| {name} | {change} | " + " | ".join(found[name, change, flow, calls] for flow, calls in columns) + " |"
        for name, change in CAUSES
    ]
    return lines


CHANGED = [
    "## What makes the difference",
    "",
    "Here one thing is changed at a time in UniPC and in DPM++ 3S of diffusers, on the uniform schedule. A number is the error as a multiple",
    "of the unchanged scheduler's, with the bootstrap interval.",
    "",
]
WHY = [
    "",
    "* **Rounded times change nothing.** In a pipeline, these schedulers ask the model at times rounded down to integers. Here the same",
    "  schedulers ask at the exact times.",
    "* **The prediction at sigma = 1 decides about UniPC.** At sigma = 1 the log-SNR is minus infinity. diffusers starts at 1 - 1e-6 instead,",
    "  where it is -13.8. So the first step has a corrector, and the second step extrapolates by about 4 %. In the limit of the formulas both",
    "  would be lost. In -log(sigma), where sigma = 1 lies at 0, the second step extrapolates by 70 %. With 4 calls this helps on the mixtures",
    "  and does harm on klein-digits. Therefore `unipc` and `unipc_3` have sigma = 1 where diffusers has it. Their errors equal those of",
    "  diffusers at every number of calls.",
    "* **`dpmpp_2m`, `res_2m` and `dpmpp_3m` have no corrector.** They use -log(sigma) on the second step and gain from it on both.",
    "* **The number of steps decides about DPM++ 2S and 3S**, see above. With `nodes=grid`, all calls are used and the errors are those of",
    '  diffusers. A start at 0.999 or `solver_type="heun"` makes these schedulers better or worse by flow, so neither is copied.',
    "",
    "On a run to sigma = 0, UniPC of order 3 lowers its second-to-last step to order 2, as diffusers does. With stages of their own, the steps",
    "of DPM++ 2S and 3S from sigma = 1 and to sigma = 0 have infinite length in the log-SNR. They are midpoint and Ralston steps in sigma.",
]


def _answer(data: dict[str, Any], same: set[str]) -> list[str]:
    """Where the samplers stand, in sentences."""
    rows = {flow: [row for row in data[flow] if row["sampler"] in same] for flow in FLOWS}
    above = [row for row in rows["klein-digits"] if is_above(row)]
    budgets = BUDGETS["klein-digits"]
    lines = [
        "On the mixtures, no sampler has more than "
        f"{max(row['ours'] / row['theirs'] for row in rows['mixtures']):.2f} times the error of diffusers' scheduler of the same name,",
        "at 4 to 64 model calls on two schedules.",
        f"On the trained klein-digits, at {budgets[0]} to {budgets[-1]} calls, this holds in {len(rows['klein-digits']) - len(above)} of "
        f"{len(rows['klein-digits'])} cells.",
    ]
    lines += [
        f"For `{row['sampler']}` with {row['calls']} calls the multiple is {row['ours'] / row['theirs']:.2f}, between {row['ratio'][0]:.2f} and "
        f"{row['ratio'][1]:.2f}, so it cannot be told from 1."
        for row in above
        if is_undecided(row)
    ]
    return lines


def _table(rows: list[dict[str, Any]], *, intervals: bool) -> list[str]:
    """A line for each scheduler, and a column for each budget."""
    budgets = sorted({row["calls"] for row in rows})
    lines = [
        "| diffusers | here | " + " | ".join(f"{b} calls" for b in budgets) + " |",
        "| --- | --- |" + " --: |" * len(budgets),
    ]
    for name in dict.fromkeys(row["stock"] for row in rows):
        mine = {row["calls"]: row for row in rows if row["stock"] == name}
        cells = " | ".join(_cell(mine[b], interval=intervals) for b in budgets)
        lines.append(f"| {name} | `{mine[budgets[0]]['sampler']}` | {cells} |")
    return lines


def _cell(row: dict[str, Any], *, interval: bool) -> str:
    mark = "**" * is_above(row)
    low, high = row["ratio"]
    between = f" [{low:.2f}, {high:.2f}]" if interval else ""
    return f"{mark}{row['ours'] / row['theirs']:.2f}{mark}{between} ({row['theirs']:.2g})"


if __name__ == "__main__":
    from building import build

    build(__doc__, PAGE, page, lambda names: measure(names or list(PROBLEMS)))
