"""Measure every ODE sampler at fixed numbers of model calls: flowsamplers/measurements/benchmark.json and its page.

python tools/build_benchmark.py           # measure what has changed, then write the page
python tools/build_benchmark.py NAME ...  # measure these samplers only, if they have changed
python tools/build_benchmark.py --afresh  # measure everything (half an hour on one core)
python tools/build_benchmark.py --page    # write the page from the committed rows

A sampler has changed where an error on a mixture is another one than in its committed row. Only then, and where a network has no error yet,
are the networks asked, which costs most. Their reference solutions are in benchmark_references.safetensors; a network whose first velocity
is another one is solved again. klein-emoji costs most of all: every sampler is measured with its first two prompts, and those
that could be an answer or stand in a table with all of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import flowsamplers as fs
from flowsamplers import benchmark, reference
from flowsamplers.benchmark import BUDGETS, FEW, NETWORKS, SCHEDULES, Measured, measured, measured_stock, steps_for
from flowsamplers.flows import MixtureFlow
from flowsamplers.lockstep import Run
from flowsamplers_diffusers import stock

ROOT = Path(__file__).parent.parent
DATA = ROOT / "flowsamplers" / "measurements" / "benchmark.json"
PAGE = ROOT / "docs" / "reference" / "benchmark.md"
REFERENCES = ROOT / "tools" / "benchmark_references.safetensors"
LASTS = ("midpoint", "ralston3", "euler")
ROWS = 32
MIXTURES = 5
Velocity: TypeAlias = Callable[[Tensor, Tensor], Tensor]


class Starts(NamedTuple):
    """From where a trained network is measured: each prompt from the noise of a seed of its own, 0, 1, 2, ..."""

    prompts: Sequence[str]
    everything: int
    """So many of the prompts are run with every sampler, the others with the finalists alone."""
    options: Mapping[str, Any] = MappingProxyType({})


STARTS = {
    "klein-digits": Starts(("a handwritten 3",) * 8, 8),
    "klein-emoji": Starts(
        ("pizza", "penguin", "house", "face with sunglasses", "steam locomotive", "crocodile"), 2, {"guidance_scale": 2.5}
    ),
}
"""The first four prompts of klein-emoji are common ones, the last two are rare."""
REFERENCE = 1400
"""Evaluations of a reference at most."""
SAME = 256 * torch.finfo(torch.float32).eps
"""Largest relative distance of two first velocities that are of the same network."""
SIMPLE = (
    "euler",
    "fireflow",
    "fireflow:last=midpoint",
    "ab2:last=midpoint",
    "unipc:last=midpoint",
    "unipc:last=ralston3",
    "dpmpp_2m:last=midpoint",
)
"""A few samplers that one can remember."""
SHOWN = (4, 8, 16, 32)
"""Model calls of the table of these."""
IN_TURN = (4, 6, 8, 16, 32, 10, 20, *FEW)
"""The order in which the numbers of model calls are measured: those first that most questions are about."""
NEAR = 1.25
"""What had at most so many times the smallest error with the first prompts is run with the others."""


class Cell(NamedTuple):
    """One sampler at one number of model calls: of this library with its configuration, or of diffusers by its name."""

    kind: str
    schedule: str
    nfe: int
    config: dict[str, Any]
    steps: int

    @property
    def key(self) -> str:
        """What finds its committed row."""
        return _key({"schedule": self.schedule, "nfe": self.nfe, "sampler": self.config})

    @property
    def grid(self) -> fs.SigmaGrid:
        """Its schedule."""
        return fs.get_schedule(self.schedule, self.steps, **SCHEDULES[self.schedule])

    def run(self, velocity: Velocity, x: Tensor) -> Tensor:
        """Where it ends."""
        if self.kind == "stock":
            return stock.run(self.config["name"], velocity, x, self.grid)
        return fs.sample(velocity, x, self.grid, fs.get_sampler(self.config))


def candidates() -> list[dict[str, Any]]:
    """Every ODE sampler with fixed steps, as it comes and with other last steps; and what is a scheduler of diffusers by its options."""
    found: list[dict[str, Any]] = []
    for info in fs.list_samplers():
        if info.stochastic or info.adaptive:
            continue
        found.append({"name": info.name})
        found += [{"name": info.name, "options": {"last": last}} for last in LASTS if "last" in info.options]
    return [*found, *(config for config in stock.SAME_NAME.values() if config not in found)]


def mixtures() -> dict[str, tuple[Velocity, Tensor, Tensor]]:
    """Velocity, start and truth of the flows whose solutions are exact."""
    out: dict[str, tuple[Velocity, Tensor, Tensor]] = {}
    for name, flow in {
        "four-gaussians": MixtureFlow.four_gaussians(),
        **{f"mixture-{i}": MixtureFlow.random(i) for i in range(MIXTURES)},
    }.items():
        x = flow.noise(list(range(ROWS)))
        out[name] = flow.velocity, x, flow.solution(x)
    return out


class Network:
    """A trained network with its starts, and the truth of each."""

    def __init__(self, name: str) -> None:
        self.flow = fs.flows.load_flow(name, prompt=STARTS[name].prompts[0], **STARTS[name].options)
        self.prompts = list(STARTS[name].prompts)
        self.x = self.flow.noise(list(range(len(self.prompts))))
        self.truth = self._solution(name)

    def _solution(self, name: str) -> Tensor:
        """The solution of every start: the committed one, if the velocity at the starts is that of its network but for rounding."""
        first = self.flow.velocity(self.x, torch.ones(len(self.x)), self.prompts)
        kept = load_file(REFERENCES) if REFERENCES.exists() else {}
        known = kept.get(f"{name}.first")
        if known is not None and known.shape == first.shape and reference.relative_error(first, known).max() < SAME:
            return kept[f"{name}.x0"]
        found = reference.solve(self.flow, self.x, condition=self.prompts, max_evaluations=REFERENCE)
        print(f"{name}: reference known to {found.error.max().item():.0e}", flush=True)
        save_file(kept | {f"{name}.first": first, f"{name}.x0": found.x0.double()}, REFERENCES)
        return found.x0.double()

    def errors(self, cells: Sequence[Cell], starts: range) -> list[list[float]]:
        """The error of each cell from each of these starts: this library's in lock-step, those of diffusers one by one."""
        runs = [
            Run(self.x[i : i + 1], c.grid, fs.get_sampler(c.config), self.prompts[i])
            for c in cells
            if c.kind == "rows"
            for i in starts
        ]
        ends = iter(fs.sample_many(self.flow, runs))
        few = slice(starts.start, starts.stop)
        velocity = partial(self.flow.velocity, condition=self.prompts[few])
        found = [torch.cat([next(ends) for _ in starts]) if c.kind == "rows" else c.run(velocity, self.x[few]) for c in cells]
        return [[_relative(*pair) for pair in zip(end, self.truth[few], strict=True)] for end in found]

    def together(self, each: Sequence[float]) -> float:
        """The error over the first starts, from that of each."""
        sizes = self.truth[: len(each)].flatten(1).norm(dim=1)
        return float(f"{((sizes * torch.tensor(each, dtype=torch.float64)).norm() / sizes.norm()).item():.4g}")


def cells_of(schedule: str, budget: int) -> list[Cell]:
    """Everything that is measured at a number of calls."""
    fitting = [(config, steps_for(fs.get_sampler(config), schedule, budget)) for config in candidates()]
    found = [Cell("rows", schedule, budget, config, steps) for config, steps in fitting if steps]
    for name, entry in stock.STOCK.items():
        steps = max(n for n in range(1, budget + 1) if entry.calls(n) <= budget)
        if not entry.stochastic and (steps > 1 or entry.reaches_zero):  # DEIS with one step makes none
            found.append(Cell("stock", schedule, budget, {"name": name}, steps))
    return found


def finalists(rows: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Which rows are run with all prompts of a network, given their errors with the first ones: what could be an answer, or is in a table."""
    few = STARTS[name].everything

    def first(row: dict[str, Any]) -> Measured:
        screened = math.sqrt(sum(e * e for e in row["each"][name][:few]) / few)
        return Measured(row["schedule"], row["nfe"], row["sampler"], row["steps"], row["errors"] | {name: screened})

    there = [(row, first(row)) for row in rows]
    plain = next(m for _, m in there if m.label in ("euler", "FlowMatchEuler"))
    likely = [m for _, m in there if all(e <= (NEAR if n == name else 1) * plain.errors[n] for n, e in m.errors.items())]
    score, error = min(m.score for m in likely), min(m.errors[name] for _, m in there)
    best = min(m.error for _, m in there)
    return [
        row
        for row, m in there
        if (m in likely and m.score <= NEAR * score)
        or m.errors[name] <= NEAR * error
        or m.error == best
        or m.label in (*SIMPLE, plain.label)
    ]


class Board:
    """The rows that are measured, by kind and key, beside those of an earlier run; and the networks, opened when they are first needed.

    Args:
        data: the earlier run.
        names: samplers whose rows may change; without names, all of them and the schedulers of diffusers.
    """

    def __init__(self, data: Mapping[str, Any], names: Collection[str] = ()) -> None:
        self.names = names
        for row in (*data.get("rows", []), *data.get("stock", [])):
            row["errors"] = dict(zip(data["flows"], row["errors"], strict=True))
        self.done = {kind: {_key(r): r for r in data.get(kind, [])} for kind in ("rows", "stock")}
        self.kept: dict[str, dict[str, dict[str, Any]]] = {"rows": {}, "stock": {}}
        self.problems, self.networks = mixtures(), dict[str, Network]()

    def row(self, cell: Cell) -> dict[str, Any]:
        """The row of a cell."""
        return self.kept[cell.kind][cell.key]

    def begin(self, cell: Cell) -> None:
        """Measure the mixtures; if their errors are those of an earlier row, its errors on the networks hold too."""
        old = self.done[cell.kind].get(cell.key)
        if self.names and old and (cell.kind == "stock" or cell.config["name"] not in self.names):
            self.kept[cell.kind][cell.key] = old
            return
        errors = {n: _relative(cell.run(v, x), truth) for n, (v, x, truth) in self.problems.items()}
        row = {"schedule": cell.schedule, "nfe": cell.nfe, "sampler": cell.config, "steps": cell.steps, "errors": errors}
        same = old and old["steps"] == cell.steps and all(old["errors"][n] == e for n, e in errors.items())
        self.kept[cell.kind][cell.key] = old if old and same else row

    def add(self, name: str, cells: Sequence[Cell], starts: range) -> None:
        """Measure some starts of a network; what is the same map runs once."""
        maps = [(c.kind, c.steps, *self.row(c)["errors"].values()) for c in cells]
        if not cells:
            return
        network = self.networks[name] = self.networks.get(name) or Network(name)
        once = dict(zip(maps, cells, strict=True))
        found = dict(zip(once, network.errors([*once.values()], starts), strict=True))
        for cell, m in zip(cells, maps, strict=True):
            row = self.row(cell)
            each = [*(row["each"][name] if starts.start else []), *found[m]]
            row["errors"][name] = network.together(each)
            if len(set(network.prompts)) > 1:
                row.setdefault("each", {})[name] = each

    def network(self, name: str, cells: Sequence[Cell]) -> None:
        """Measure what a network lacks: all cells with its first prompts, the finalists with the others."""
        few, most = STARTS[name].everything, len(STARTS[name].prompts)
        self.add(name, [c for c in cells if self.row(c)["errors"].get(name) is None], range(few))
        if few == most:
            return
        for kind in self.kept:
            mine = [c for c in cells if c.kind == kind]
            last = {_key(r) for r in finalists([self.row(c) for c in mine], name)}
            self.add(name, [c for c in mine if c.key in last and len(self.row(c)["each"][name]) < most], range(few, most))

    def write(self, *, whole: bool) -> None:
        """All rows that are known; the whole benchmark has no others."""
        order = [(schedule, budget) for schedule in SCHEDULES for budget in (*FEW, *BUDGETS)]
        lists = {kind: [*((({} if whole else self.done[kind]) | self.kept[kind]).values())] for kind in self.kept}
        for rows in lists.values():
            rows.sort(key=lambda r: order.index((r["schedule"], r["nfe"])))
        _write([*self.problems, *NETWORKS], lists)


def measure(names: Collection[str] = (), *, afresh: bool = False) -> None:
    """Run it all, or some samplers, and write after each number of calls, so that an interrupted run goes on where it was."""
    torch.set_num_threads(1)
    board = Board({} if afresh else json.loads(DATA.read_text()), names)
    for budget in IN_TURN:
        for schedule in SCHEDULES:
            cells = cells_of(schedule, budget)
            for cell in cells:
                board.begin(cell)
            for name in NETWORKS:
                board.network(name, cells)
            print(schedule, budget, flush=True)
            board.write(whole=False)
    board.write(whole=True)
    measured.cache_clear()
    measured_stock.cache_clear()


def _relative(end: Tensor, truth: Tensor) -> float:
    return float(f"{((end.double() - truth).norm() / truth.norm()).item():.4g}")


def _key(row: dict[str, Any]) -> str:
    return json.dumps([row["schedule"], row["nfe"], row["sampler"]], sort_keys=True)


def _write(names: list[str], rows: dict[str, list[dict[str, Any]]]) -> None:
    about = "relative Euclidean error of the final state; 'each': on klein-emoji by prompt; made by tools/build_benchmark.py"
    lists = {k: [{**row, "errors": [row["errors"].get(n) for n in names]} for row in v] for k, v in rows.items()}
    parts = [f'"{k}": [\n' + ",\n".join(map(json.dumps, v)) + "\n]" for k, v in lists.items()]
    DATA.write_text(f'{{"about": {json.dumps(about)}, "flows": {json.dumps(names)}, {", ".join(parts)}}}\n')


def cells(schedule: str, budget: int, flow: str | None = None) -> tuple[list[Measured], list[Measured]]:
    """The cells here, and those of diffusers, that can be compared."""
    here, theirs = (benchmark.finalists(found, schedule, budget, flow) for found in (measured(), measured_stock()))
    return here, theirs


def _error(cell: Measured, flow: str | None) -> float:
    return cell.errors[flow] if flow else cell.error


def ratios(schedule: str, flow: str | None = None) -> list[float]:
    """The smallest error here divided by that of diffusers, at each number of calls."""
    error = partial(_error, flow=flow)
    pairs = [[min(map(error, found)) for found in cells(schedule, budget, flow)] for budget in BUDGETS]
    return [here / theirs for here, theirs in pairs]


def table(schedule: str, flow: str | None = None) -> list[str]:
    """Best here against best of stock at each number of calls, in the mean over all flows or on a network; there with the ratios by prompt."""
    error = partial(_error, flow=flow)
    lines = [
        "| calls | ratio |" + " by prompt |" * bool(flow) + " best here | best of diffusers |",
        "| --: | --: |" + " --: |" * bool(flow) + " --- | --- |",
    ]
    for budget, ratio in zip(BUDGETS, ratios(schedule, flow), strict=True):
        best, theirs = (min(found, key=error) for found in cells(schedule, budget, flow))
        steps = f"{best.steps} step{'s' * (best.steps > 1)}"
        line = f"| {budget} | {ratio:.2f} |"
        if flow:
            by_prompt = [a / b for a, b in zip(best.each[flow], theirs.each[flow], strict=True)]
            line += f" {min(by_prompt):.2f} to {max(by_prompt):.2f} |"
        lines.append(f"{line} `{best.label}`, {steps}: {error(best):.2g} | {theirs.label}: {error(theirs):.2g} |")
    return lines


def worst(schedule: str, flow: str | None) -> float:
    """The largest ratio of best here to best of stock over all numbers of calls, on a flow or on the worst of the mixtures."""
    names = [flow] if flow else [n for n in measured()[0].errors if n not in NETWORKS]
    return max(
        min(m.errors[n] for m in everything) / min(m.errors[n] for m in shipped)
        for n in names
        for everything, shipped in (cells(schedule, b, n) for b in BUDGETS)
    )


def simple() -> list[str]:
    """A few samplers that one can remember, at some numbers of calls."""
    lines = ["| sampler | " + " | ".join(f"{n} calls" for n in SHOWN) + " |", "| --- |" + " --: |" * len(SHOWN)]
    for label in SIMPLE:
        row = []
        for budget in SHOWN:
            everything, shipped = cells("flux2", budget)
            mine = next(m for m in everything if m.label == label)
            row.append(f"{mine.error / min(m.error for m in shipped):.2f}")
        lines.append(f"| `{label}` | " + " | ".join(row) + " |")
    return lines


def page() -> str:
    """The page of the tables."""
    names = list(measured()[0].errors)
    every, flat, emoji = ratios("flux2"), ratios("linear"), ratios("flux2", "klein-emoji")
    assert emoji[BUDGETS.index(10)] > 0.9 > emoji[BUDGETS.index(16)]
    return f"""# Benchmark: the error at equal model calls

<!-- written by tools/build_benchmark.py from flowsamplers/measurements/benchmark.json -->

At {BUDGETS[0]} to {BUDGETS[-1]} model calls, the best sampler here is compared with the best scheduler that diffusers ships:

* On FLUX.2's schedule, it has {min(every):.2f} to {max(every):.2f} times the error of diffusers, in the mean over all flows.
* On the uniform schedule, it has {min(flat):.2f} to {max(flat):.2f} times that error.
* On klein-emoji alone, a network with guidance, there is almost no gain with 10 calls or fewer. With 32 calls the ratio is {emoji[-1]:.2f}.

`flowsamplers.recommend(grid, nfe)` answers from these rows. [Which sampler should I use?](../start/which-sampler.md) shows its answers.

## FLUX.2's schedule

The ratio is the error of the best sampler here, divided by that of the best scheduler of diffusers. Each error is the geometric mean over all
flows.

{chr(10).join(table("flux2"))}

At each number of calls, the ratio is at most {worst("flux2", None):.2f} on every mixture and {worst("flux2", "klein-digits"):.2f} on klein-digits.

The reason is the last step. On FLUX.2's schedule it covers a third to three quarters of the way, and diffusers makes it an Euler step. One
more evaluation there reduces the error more than any number of steps before. On klein-emoji this holds from about 16 calls on. With 10 calls
or fewer, most samplers of higher order are worse there than Euler's method. [The last step](../explanation/last-step.md) explains both.

Seven samplers on the same schedule, as multiples of the error of the best of diffusers:

{chr(10).join(simple())}

## The uniform schedule

The geometric mean over all flows:

{chr(10).join(table("linear"))}

At each number of calls, the ratio is at most {worst("linear", None):.2f} on every mixture.

## klein-emoji alone

The column *by prompt* has the smallest and the largest ratio of the six prompts. On FLUX.2's schedule:

{chr(10).join(table("flux2", "klein-emoji"))}

On the uniform schedule:

{chr(10).join(table("linear", "klein-emoji"))}

## How it was measured

* **Samplers.** Every ODE sampler takes as many steps as fit into the model calls.
* **Schedules.** FLUX.2's at 4,096 tokens with the empirical mu, and the uniform one.
* **Error.** The relative Euclidean distance of the final state to the exact solution or the reference.
* **Mixtures.** {len(names) - len(NETWORKS)} mixtures of Gaussians in 6 and 8 dimensions, with {ROWS} starts each.
* **Networks.** klein-digits has guidance 4 and 8 starts, klein-emoji guidance 2.5 and six prompts. They run in float32.
* **Prompts.** Every sampler runs with the first two prompts of klein-emoji. Samplers that may be the best run with all six.
* **diffusers.** The best of {sum(not e.stochastic for e in stock.STOCK.values())} schedulers, unmodified, in float32, on the same nodes with exact times. Its stochastic schedulers have no error
  in this sense.
* **`recommend`.** It names the smallest geometric mean of networks and mixtures, among samplers that are no worse than Euler on any flow. If
  the six prompts cannot tell it from Euler, the answer is Euler.

All rows are in `flowsamplers/measurements/benchmark.json`.

These flows rank numerics, not image quality. The two networks are small models of small pictures, and they disagree. Measure your model:
`flowsamplers study --model ...`.
"""


if __name__ == "__main__":
    from building import build

    build(__doc__, PAGE, page, lambda given: measure([n for n in given if n != "--afresh"], afresh="--afresh" in given))
