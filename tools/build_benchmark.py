"""Measure every ODE sampler at fixed numbers of model calls: flowsamplers/measurements/benchmark.json and the two pages that read it.

python tools/build_benchmark.py           # measure what has changed, then write the pages: benchmark and which-sampler
python tools/build_benchmark.py NAME ...  # measure these samplers only, if they have changed
python tools/build_benchmark.py afresh    # measure everything (half an hour on one core)
python tools/build_benchmark.py --page    # write the pages from the committed rows

A sampler has changed where an error on a mixture is another one than in its committed row. Only then, and where a network has no error yet,
are the networks asked, which costs most. Their reference solutions are in benchmark_references.safetensors; a network whose first velocity
is another one is solved again. klein-emoji costs most of all: every sampler is measured with its first two prompts, and those
that could be an answer or stand in a table with all of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import torch
from building import DOCS, ROOT, build, load, rendered, save, table
from safetensors.torch import load_file, save_file
from torch import Tensor

import flowsamplers as fs
from flowsamplers import benchmark, reference
from flowsamplers.benchmark import BUDGETS, FEW, NETWORKS, SCHEDULES, Measured, measured, measured_stock, steps_for
from flowsamplers.flows import MixtureFlow
from flowsamplers.lockstep import Run
from flowsamplers.study import load as load_study
from flowsamplers_diffusers import stock

DATA = ROOT / "flowsamplers" / "measurements" / "benchmark.json"
PAGE = DOCS / "reference" / "benchmark.md"
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
    board = Board({} if afresh else load(DATA), names)
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
    save(DATA, {"about": about, "flows": names, **lists})


# The page of the benchmark

DIGITS, EMOJI = NETWORKS


def cells(schedule: str, budget: int, flow: str | None = None) -> tuple[list[Measured], list[Measured]]:
    """The cells here, and those of diffusers, that can be compared."""
    here, theirs = (benchmark.finalists(found, schedule, budget, flow) for found in (measured(), measured_stock()))
    return here, theirs


def _error(cell: Measured, flow: str | None) -> float:
    return cell.errors[flow] if flow else cell.error


def bests(schedule: str, budget: int, flow: str | None = None) -> list[Measured]:
    """The cell with the smallest error here, and that of diffusers: in the mean over all flows, or on one."""
    return [min(found, key=partial(_error, flow=flow)) for found in cells(schedule, budget, flow)]


def ratios(schedule: str, flow: str | None = None) -> list[float]:
    """The smallest error here divided by that of diffusers, at each number of calls."""
    pairs = ([_error(cell, flow) for cell in bests(schedule, budget, flow)] for budget in BUDGETS)
    return [here / theirs for here, theirs in pairs]


def best(schedule: str, flow: str | None = None) -> str:
    """A table of the best here beside the best of diffusers at each number of calls; on a network with the ratios by prompt."""
    rows: list[list[object]] = []
    for budget, ratio in zip(BUDGETS, ratios(schedule, flow), strict=True):
        mine, theirs = bests(schedule, budget, flow)
        by_prompt = [a / b for a, b in zip(mine.each[flow], theirs.each[flow], strict=True)] if flow else []
        spans = [f"{min(by_prompt):.2f} to {max(by_prompt):.2f}"] if flow else []
        steps = f"{mine.steps} step{'s' * (mine.steps > 1)}"
        here, there = (f"{_error(cell, flow):.2g}" for cell in (mine, theirs))
        rows.append([budget, f"{ratio:.2f}", *spans, f"`{mine.label}`, {steps}: {here}", f"{theirs.label}: {there}"])
    return table(f"calls: | ratio: | {'by prompt: | ' * bool(flow)}best here | best of diffusers", rows)


def worst(schedule: str, flow: str | None = None) -> float:
    """The largest ratio of best here to best of stock over all numbers of calls, on a flow or on the worst of the mixtures."""
    names = [flow] if flow else [n for n in measured()[0].errors if n not in NETWORKS]
    return max(
        min(m.errors[n] for m in everything) / min(m.errors[n] for m in shipped)
        for n in names
        for everything, shipped in (cells(schedule, b, n) for b in BUDGETS)
    )


def simple() -> str:
    """A few samplers that one can remember, at some numbers of calls."""

    def multiple(label: str, budget: int) -> str:
        everything, shipped = cells("flux2", budget)
        return f"{next(m for m in everything if m.label == label).error / min(m.error for m in shipped):.2f}"

    rows = ([f"`{label}`", *(multiple(label, budget) for budget in SHOWN)] for label in SIMPLE)
    return table(" | ".join(["sampler", *(f"{n} calls:" for n in SHOWN)]), rows)


def page() -> str:
    """The page of the tables."""
    emoji = ratios("flux2", EMOJI)
    assert emoji[BUDGETS.index(10)] > 0.9 > emoji[BUDGETS.index(16)]
    figures = {"every": ratios("flux2"), "flat": ratios("linear"), "emoji": emoji, "mixtures": _mixtures()}
    figures["schedulers"] = sum(not entry.stochastic for entry in stock.STOCK.values())
    return rendered("benchmark.md", globals() | figures)


def _mixtures() -> int:
    return len(measured()[0].errors) - len(NETWORKS)


# The page that answers


def score(cell: Measured, flow: str | None) -> float:
    """On one flow, or the geometric mean of the network and of the mixtures."""
    return cell.errors[flow] if flow else cell.score


def run(cell: Measured) -> str:
    """A sampler with its steps and its options."""
    options = "".join(f", {key} `{value}`" for key, value in cell.sampler.get("options", {}).items())
    return f"`{cell.sampler['name']}`, {cell.steps} steps{options}"


def percent(value: float) -> str:
    """Two digits that count."""
    return f"{100 * value:.0f}&nbsp;%" if value >= 1 else f"{100 * value:.2g}&nbsp;%"


def answers(schedule: str) -> str:
    """A table of the answer at each number of calls."""
    rows: list[list[object]] = []
    for budget in SHOWN:
        mine, shipped = (answer := benchmark.recommend(schedule, budget)).best, answer.stock
        euler = next(m.score for m in cells(schedule, budget)[0] if m.label == "euler")
        theirs = f"{percent(shipped.score)} ({shipped.label.replace(' ', '&nbsp;')})"
        rows.append([f"**{budget}**", run(mine), f"**{percent(mine.score)}**", theirs, percent(euler)])
    return table("calls: | sampler | error: | best of diffusers | Euler:", rows)


def networks(schedule: str) -> str:
    """A table of the best on each network at each number of calls."""
    found = {budget: [(bests(schedule, budget, flow)[0], flow) for flow in (EMOJI, DIGITS)] for budget in SHOWN}
    cells = {n: [f"{run(cell)}: **{percent(cell.errors[flow])}**" for cell, flow in both] for n, both in found.items()}
    return table(f"calls: | on `{EMOJI}` | on `{DIGITS}`", ([f"**{n}**", *both] for n, both in cells.items()))


def least(schedule: str, budget: int, flow: str) -> float:
    """The smallest error on a network."""
    return bests(schedule, budget, flow)[0].errors[flow]


def on(label: str, flow: str, budget: int) -> str:
    """The error of a sampler on FLUX.2's schedule."""
    return percent(next(m.errors[flow] for m in cells("flux2", budget, flow)[0] if m.label == label))


def regret(label: str, schedule: str) -> float:
    """How many times the error of the best a sampler has at worst, over all numbers of calls, on average and on each network.

    On klein-emoji with the first two prompts, which every sampler was run with.
    """
    most = 0.0
    for budget in BUDGETS:
        found = [
            replace(m, errors={**m.errors, EMOJI: fmean(m.each[EMOJI][:2])})
            for m in measured()
            if (m.schedule, m.nfe) == (schedule, budget)
        ]
        mine = [m for m in found if m.label == label]
        for flow in (None, *NETWORKS):
            most = max(most, score(mine[0], flow) / min(score(m, flow) for m in found) if mine else math.inf)
    return most


def one_to_remember(schedule: str) -> tuple[str, float]:
    """The sampler whose worst regret is smallest."""
    regrets = {label: regret(label, schedule) for label in dict.fromkeys(m.label for m in measured())}
    return min(regrets.items(), key=lambda item: item[1])


def options(label: str) -> list[str]:
    """``name:key=value`` as the arguments of the scheduler."""
    name, _, rest = label.partition(":")
    pairs = ", ".join(f'"{k}": "{v}"' for k, _, v in (item.partition("=") for item in filter(None, rest.split(","))))
    return [f'sampler="{name}"', *([f"sampler_options={{{pairs}}}"] if pairs else [])]


def answer_page() -> str:
    """The page that says which sampler to use."""
    few = {benchmark.recommend("flux2", nfe=n).best.label for n in FEW}
    assert few == {"euler"}, few
    study = load_study(DOCS / "studies" / EMOJI)
    return rendered(
        "which-sampler.md",
        globals(),
        eight=benchmark.recommend("flux2", nfe=8),
        sixteen=benchmark.recommend("flux2", nfe=16),
        last="unipc:last=ralston3",
        shifted=one_to_remember("flux2"),
        flat=one_to_remember("linear"),
        study=study,
        studied=min((study.error(name, 8), name) for name in study.labels if name != "fitted"),
        mixtures=_mixtures(),
    )


WRITTEN = {PAGE: page, DOCS / "start" / "which-sampler.md": answer_page}

if __name__ == "__main__":
    torch.set_num_threads(1)
    build(__doc__, WRITTEN, lambda given: measure([n for n in given if n != "afresh"], afresh="afresh" in given))
