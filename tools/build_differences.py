"""diffusers' other schedulers: the laws that they break, and their errors beside the samplers of the same name here.

python tools/build_differences.py           # measure both errors (half an hour on one core), then write docs/reference/differences.md
python tools/build_differences.py mixtures  # measure the mixtures alone (a minute), then write the page
python tools/build_differences.py --page    # write the page from the committed errors; the laws are tried each time (a minute)
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise
from typing import Any, TypeAlias

import diffusers
import torch
from build_benchmark import mixtures
from building import DOCS, ROOT, build, load, rendered, save, table, with_measured
from torch import Tensor

sys.path.insert(0, str(ROOT / "tests"))

import flowsamplers as fs
from fields import smooth, start
from flowsamplers.benchmark import SCHEDULES, Measured, steps_for
from flowsamplers.testing.laws import NotApplicable
from flowsamplers_diffusers import FlowSamplerScheduler, stock
from flowsamplers_diffusers.testing import SCHEDULER_LAWS
from test_sde_parity import with_noise

PAGE = DOCS / "reference" / "differences.md"
DATA = PAGE.with_name("against-stock.json")
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
DYNAMIC = {**FLOW, "use_dynamic_shifting": True, "time_shift_type": "exponential"}


# The laws that they break


def with_options(name: str, **options: Any) -> Callable[..., Any]:
    """A factory of a stock scheduler."""
    return lambda **config: getattr(diffusers, name)(**{**options, **config})


SCHEDULERS: dict[str, Callable[..., Any]] = {
    "FlowMatchEuler": with_options("FlowMatchEulerDiscreteScheduler"),
    "FlowMatchEuler, stochastic_sampling": with_options("FlowMatchEulerDiscreteScheduler", stochastic_sampling=True),
    "FlowMatchHeun": with_options("FlowMatchHeunDiscreteScheduler"),
    "FlowMatchLCM": with_options("FlowMatchLCMScheduler"),
    "LTXEulerAncestralRF": with_options("LTXEulerAncestralRFScheduler"),
    "UniPCMultistep": with_options("UniPCMultistepScheduler", **FLOW),
    "DPMSolverMultistep": with_options("DPMSolverMultistepScheduler", **DYNAMIC),
    "DPMSolverSinglestep": with_options("DPMSolverSinglestepScheduler", **DYNAMIC),
    "DEISMultistep": with_options("DEISMultistepScheduler", **DYNAMIC),
    "SASolver": with_options("SASolverScheduler", **FLOW),
}
OURS = (FlowSamplerScheduler, partial(FlowSamplerScheduler, sampler="ab2", sampler_options={"last": "midpoint"}))


def orders() -> list[float]:
    """The order of the drift of sde-dpmsolver++ of order 3, there and here: uniform grids from sigma 0.95 to 0.1, in float64."""
    options = {
        "algorithm_type": "sde-dpmsolver++",
        "solver_order": 3,
        "lower_order_final": False,
        "final_sigmas_type": "sigma_min",
    }

    def there(sigmas: list[float]) -> Tensor:
        scheduler = diffusers.DPMSolverMultistepScheduler(**options, **FLOW)
        return with_noise(scheduler, sigmas, lambda _: torch.zeros_like(start()))

    def here(sigmas: list[float]) -> Tensor:
        return fs.sample(smooth, start(), sigmas, "dpmpp_3m_sde", seed=lambda like, *_, **__: torch.zeros_like(like))

    found: list[float] = []
    for run in (there, here):
        ends = [run([0.95 - 0.85 * i / n for i in range(n + 1)]) for n in (64, 128, 256)]
        first, second = ((a - b).norm().item() for a, b in pairwise(ends))
        found.append(math.log2(first / second))
    return found


@cache
def verdicts(make: Callable[..., Any]) -> dict[str, str]:
    """``holds``, ``breaks``, the name of an error in parentheses, or ``-`` if a law does not apply."""
    found: dict[str, str] = {}
    for law in SCHEDULER_LAWS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                law(make)
                found[law.__name__] = "holds"
            except NotApplicable:
                found[law.__name__] = "-"
            except AssertionError:
                found[law.__name__] = "breaks"
            except Exception as error:
                found[law.__name__] = f" ({type(error).__name__})"
    return found


def broken() -> str:
    """Which laws the schedulers break, and the order of the method that is wrong."""
    found = {name: verdicts(make) for name, make in SCHEDULERS.items()}
    refused = {name: row[SCHEDULER_LAWS[0].__name__] for name, row in found.items()}
    left = {name: error.strip(" ()") for name, error in refused.items() if error.startswith(" (")}
    assert all(v in ("holds", "-") for make in OURS for v in verdicts(make).values())
    rows: list[list[str]] = []
    for law in (law.__name__ for law in SCHEDULER_LAWS):
        wrong = [name for name, row in found.items() if name not in left and row[law] not in ("holds", "-")]
        link = f"[{law.replace('_', ' ')}](diffusers.md#flowsamplers_diffusers.testing.{law})"
        rows.append([link, "; ".join(wrong) or "none"])
    stock, ours = orders()
    version = diffusers.__version__
    return rendered(
        "broken-laws.md", {"laws": table("law | broken by", rows)}, version=version, left=left, stock=stock, ours=ours
    )


# Their errors

BUDGETS = {"mixtures": (4, 8, 16, 32, 64), "klein-digits": (4, 8, 16)}
FLOWS = tuple(BUDGETS)
OWN_STAGES = {"DPM++ 2S": {"name": "dpmpp_2s"}, "DPM++ 3S": {"name": "dpmpp_3s"}}
"""The same formulas with stages of their own, so with more calls a step and fewer steps."""
LIMIT = 1.02
RESAMPLED = 4000
Velocity: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Problem: TypeAlias = tuple[Velocity, Tensor, Tensor]
"""A flow with its starts and where they end."""


def klein_digits() -> list[Problem]:
    """Every digit from a start of its own, with guidance 4; beside rk4 with 64 steps, whose error is far below its distance to 32."""
    prompts = [f"a handwritten {digit}" for digit in range(10)]
    flow = fs.flows.load_flow("klein-digits", prompt=prompts[0])
    velocity, x = partial(flow.velocity, condition=prompts), flow.noise(list(range(len(prompts))))
    coarse, truth = (fs.sample(velocity, x, fs.schedules.linear(steps), "rk4").double() for steps in (32, 64))
    assert (coarse - truth).norm() < 1e-4 * truth.norm()
    return [(velocity, x, truth)]


PROBLEMS: dict[str, Callable[[], list[Problem]]] = {"mixtures": lambda: [*mixtures().values()], "klein-digits": klein_digits}


def measure(names: list[str]) -> None:
    """Both errors at every number of calls, and the interval of their ratio, on these kinds of flows."""
    torch.set_num_threads(1)
    data = load(DATA)
    for name in names or FLOWS:
        problems = PROBLEMS[name]()
        data[name] = []
        for calls in BUDGETS[name]:
            for schedule in SCHEDULES:
                data[name] += [row for theirs in stock.SAME_NAME for row in against(theirs, problems, schedule, calls)]
                print(name, schedule, calls, flush=True)
        save(DATA, data)


def against(theirs: str, problems: list[Problem], schedule: str, calls: int) -> list[dict[str, Any]]:
    """A row for each sampler that is compared with a scheduler."""

    def grid(steps: int) -> fs.SigmaGrid:
        return fs.get_schedule(schedule, steps, **SCHEDULES[schedule])

    steps = max(n for n in range(1, calls + 1) if stock.STOCK[theirs].calls(n) <= calls)
    other = misses(problems, lambda velocity, x: stock.run(theirs, velocity, x, grid(steps)))
    rows: list[dict[str, Any]] = []
    for config in filter(None, (stock.SAME_NAME[theirs], OWN_STAGES.get(theirs))):
        sampler = fs.get_sampler(config)
        here = grid(steps_for(sampler, schedule, calls))
        mine = misses(problems, partial(_sampled, grid=here, sampler=sampler))
        row = {"schedule": schedule, "stock": theirs, "sampler": Measured(schedule, calls, config, 0, {}).label, "calls": calls}
        ratio = [_rounded(r) for r in interval(mine, other)]
        rows.append({**row, "ours": _rounded(error(mine)), "theirs": _rounded(error(other)), "ratio": ratio})
    return rows


def _sampled(velocity: Velocity, x: Tensor, *, grid: fs.SigmaGrid, sampler: fs.Sampler) -> Tensor:
    return fs.sample(velocity, x, grid, sampler)


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


def spread(rows: list[dict[str, Any]]) -> str:
    """The smallest and the largest multiple, in bold if one is above the limit."""
    least, *_, most = sorted(f"{row['ours'] / row['theirs']:.2f}" for row in rows)
    text = least if least == most else f"{least} to {most}"
    return f"**{text}**" if any(map(is_above, rows)) else text


def compared() -> str:
    """Where the samplers stand in sentences, then a line for each scheduler and sampler with the range of multiples on both kinds of flows."""
    data, same = load(DATA), labels()
    mixtures, digits = ([row for row in data[flow] if row["sampler"] in same] for flow in FLOWS)
    above = [row for row in digits if is_above(row)]
    most = max(row["ours"] / row["theirs"] for row in mixtures)
    lines = [
        f"On mixtures of Gaussians, no sampler has more than {most:.2f} times the error of diffusers' scheduler of the same name.",
        f"On the trained klein-digits, this holds in {len(digits) - len(above)} of {len(digits)} cells.",
    ]
    lines += [
        f"For `{row['sampler']}` with {row['calls']} calls the multiple is {row['ours'] / row['theirs']:.2f}, between {row['ratio'][0]:.2f} and "
        f"{row['ratio'][1]:.2f}, so it cannot be told from 1."
        for row in above
        if is_undecided(row)
    ]
    pairs = dict.fromkeys((row["stock"], row["sampler"]) for row in data["mixtures"])
    rows = [
        [pair[0], *(spread([r for r in data[flow] if (r["stock"], r["sampler"]) == pair]) for flow in FLOWS), f"`{pair[1]}`"]
        for pair in sorted(pairs, key=lambda pair: pair[1] not in same)
    ]
    return "\n".join([*lines, "", table("diffusers | mixtures: | klein-digits: | here", rows)])


def page() -> str:
    """The page, with both parts renewed."""
    text = with_measured(PAGE.read_text(), "build_differences.py, laws", broken())
    return with_measured(text, "build_differences.py, errors", compared())


WRITTEN = {PAGE: page}

if __name__ == "__main__":
    build(__doc__, WRITTEN, measure)
