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
LIMIT = 1.02
RESAMPLED = 4000
FLOWS = ("mixtures", "klein-digits")
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
    own = sorted({row["sampler"] for row in data["mixtures"]} - same)
    return f"""# Against diffusers' schedulers of the same name

<!-- written by tools/build_stock_comparison.py -->

{chr(10).join(_answer(data, same))}

{chr(10).join(_table(data, same))}

A cell shows the smallest and the largest multiple: the error here, divided by the error there. It covers the uniform schedule and FLUX.2's at 4,096
tokens, with 4 to 64 model calls on mixtures and 4 to 16 on klein-digits. Multiples above {LIMIT} are bold.

* The schedulers are diffusers' own classes, in float32, on the same nodes, with their own start and last steps.
* On mixtures, the error is the relative distance to the exact solution, over 32 starts. The table has the geometric mean over six mixtures.
* On klein-digits, it is the relative distance to the reference, over ten prompts with a start each and guidance 4.

All errors, with bootstrap intervals, are in [against-stock.json](against-stock.json).

## DPM++ 2S and 3S with stages of their own

diffusers' `DPMSolverSinglestepScheduler` makes one call a step: the nodes of the schedule are the stages. `nodes=grid` does the same.
By default, `dpmpp_2s` and `dpmpp_3s` place their stages themselves, as k-diffusion and ComfyUI do. They need two or three calls a
step, so they take half or a third of the steps. This is better on the mixtures, and can be worse on klein-digits with few calls:

{chr(10).join(_table(data, set(own)))}

{ENDS}

{_why(data)}
"""


ENDS = """\
## Both ends of a run

A flow's run begins at `sigma = 1`, where the log-SNR is minus infinity, and ends at `sigma = 0`, where it is plus infinity. The formulas of
exponential methods have no finite step there. diffusers starts at 1 - 1e-6, and its last step is an Euler step. Here both ends are exact:

| samplers | on the first steps | on the step to 0 |
| --- | --- | --- |
| `unipc`, `unipc_3`, `sa_solver` without noise | weigh the first prediction as if made at 1 - 1e-6, as diffusers does | Euler's, as in diffusers |
| `dpmpp_2m`, `dpmpp_3m`, `res_2m:variable=lambda` | interpolate in -log(sigma) without an earlier prediction | Euler's, as in diffusers |
| `deis_log_rho` | the same | a midpoint step; diffusers stops above 0 |
| `dpmpp_2s:nodes=grid`, `dpmpp_3s:nodes=grid` | as `unipc` | Euler's, as in diffusers |
| `dpmpp_2s`, `dpmpp_3s` | a midpoint step, or Ralston's of order 3 | the same |
| `res_2s`, `res_3s`, `etdrk4`, `krogstad` | their own formula | a midpoint step, Ralston's of order 3, or Kutta's of order 4 |

`unipc_3` also lowers its second-to-last step to order 2, as diffusers does. The last step of a multistep method is an option:
`last="midpoint"`."""


def _why(data: dict[str, Any]) -> str:
    """What was changed in diffusers' schedulers, and what it did to the error with 4 and 8 calls on the uniform schedule."""
    lines = ["| changed in diffusers' scheduler | mixtures | klein-digits |", "| --- | --: | --: |"]
    for name, change in CAUSES:
        cells = []
        for flow in FLOWS:
            rows = [row for row in data[f"causes {flow}"] if (row["stock"], row["change"]) == (name, change)]
            cells.append(", ".join(f"{row['ratio'][0]:.2f}" for row in rows))
        lines.append(f"| {name} {change} | {' | '.join(cells)} |")
    return f"""## The causes of the differences

One thing was changed at a time, on the uniform schedule. A cell shows the error with 4 and with 8 calls, as a multiple of the unchanged
scheduler's:

{chr(10).join(lines)}

* Rounded times change nothing, although pipelines get integer times from these schedulers.
* UniPC depends on the prediction at sigma = 1. Without its corrector, or with an extrapolation in -log(sigma), the first steps are worse on
  klein-digits. Therefore `unipc` and `unipc_3` put sigma = 1 where diffusers has it.
* `dpmpp_2m`, `res_2m` and `dpmpp_3m` have no corrector. They gain from -log(sigma) on both kinds of flows.
* DPM++ 2S and 3S depend on their number of steps. A start at 0.999 or `solver_type="heun"` is better on some flows and worse on others,
  so neither is copied."""


def _answer(data: dict[str, Any], same: set[str]) -> list[str]:
    """Where the samplers stand, in sentences."""
    rows = {flow: [row for row in data[flow] if row["sampler"] in same] for flow in FLOWS}
    above = [row for row in rows["klein-digits"] if is_above(row)]
    most = max(row["ours"] / row["theirs"] for row in rows["mixtures"])
    lines = [
        f"On mixtures of Gaussians, no sampler has more than {most:.2f} times the error of diffusers' scheduler of the same name.",
        f"On the trained klein-digits, this holds in {len(rows['klein-digits']) - len(above)} of {len(rows['klein-digits'])} cells.",
    ]
    lines += [
        f"For `{row['sampler']}` with {row['calls']} calls the multiple is {row['ours'] / row['theirs']:.2f}, between {row['ratio'][0]:.2f} and "
        f"{row['ratio'][1]:.2f}, so it cannot be told from 1."
        for row in above
        if is_undecided(row)
    ]
    return lines


def _table(data: dict[str, Any], samplers: set[str]) -> list[str]:
    """A line for each scheduler and sampler, with the range of multiples on both kinds of flows."""
    lines = ["| diffusers | mixtures | klein-digits | here |", "| --- | --: | --: | --- |"]
    for name, sampler in dict.fromkeys(
        (row["stock"], row["sampler"]) for row in data["mixtures"] if row["sampler"] in samplers
    ):
        cells = [spread([row for row in data[flow] if (row["stock"], row["sampler"]) == (name, sampler)]) for flow in FLOWS]
        lines.append(f"| {name} | {' | '.join(cells)} | `{sampler}` |")
    return lines


def spread(rows: list[dict[str, Any]]) -> str:
    """The smallest and the largest multiple, in bold if one is above the limit."""
    least, *_, most = sorted(f"{row['ours'] / row['theirs']:.2f}" for row in rows)
    text = least if least == most else f"{least} to {most}"
    return f"**{text}**" if any(map(is_above, rows)) else text


if __name__ == "__main__":
    from building import build

    build(__doc__, PAGE, page, lambda names: measure(names or list(PROBLEMS)))
