"""Fitted solvers beside diffusers' schedulers, the catalogue and Euler with 50 steps, on rows that they were not fitted to.

python tools/build_fit.py klein-digits   measures one flow again, and writes docs/explanation/fitting.json, figure and page
python tools/build_fit.py rare           measures only where the error of a sampler that is not fitted lies
python tools/build_fit.py                measures all flows
python tools/build_fit.py --page         writes figure and page from the committed measurements
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from building import DOCS, build, drawn, load, rendered, save, table, with_measured
from torch import Tensor

import flowsamplers as fs
from flowsamplers.benchmark import SCHEDULES, Measured, measured, measured_stock
from flowsamplers.evaluated import RowVelocity, batch_of
from flowsamplers.fitting import MANY_ROWS, OfMethod, Rows
from flowsamplers.flows import MixtureFlow, load_flow
from flowsamplers.flows.prompts import default_prompts
from flowsamplers.profiling import FOLDS, ends, path_nodes
from flowsamplers.validation import MANY
from flowsamplers_diffusers import stock

DATA, PAGE, PLOT = (DOCS / "explanation" / f"fitting{end}" for end in (".json", ".md", ".svg"))
MIXTURES = 5
SEED = 500_000
"""Of the first noise that judges."""
TRIED = 4
"""So many of the best cells of the benchmark stand for the catalogue, and as many for diffusers: the best of them on the judges counts."""
METHODS = ("ab2", "unipc", "fireflow")
"""Samplers for which nodes alone are fitted, for `NODES_FOR` calls."""
NODES_FOR, SOME, ROUNDS_FOR_JUDGES = 8, 2048, 12
LARGE = 1.15
"""A larger ratio of the errors on new and on fitting rows is worth a word."""
NORMAL = 1.96
"""Standard errors in half of a 95 % interval."""


class Subject(NamedTuple):
    """What is fitted, and how.

    ``name`` is the flow's name in the benchmark; ``fitting`` rows of ``prompts`` are fitted to, and ``judging`` rows of each kind judge.
    """

    name: str
    calls: tuple[int, ...]
    fitting: int
    judging: int
    nodes: int
    rounds: int
    options: Mapping[str, Any] = {}


SUBJECTS = [
    *(
        Subject(n, (4, 6, 8, 16), MANY_ROWS, 16_384, 64, 6)
        for n in ("four-gaussians", *(f"mixture-{i}" for i in range(MIXTURES)))
    ),
    Subject("klein-digits", (4, 6, 8, 16), 24, 24, 32, 3, {"guidance_scale": 4.0}),
    Subject("klein-emoji", (4, 6, 8), 16, 9, 32, 3, {"guidance_scale": 2.5}),
]


class Conditioned:
    """A flow with prompts, and nothing else of it."""

    def __init__(self, flow: Any) -> None:
        self.velocity = flow.velocity


class Judges:
    """Rows with their exact ends, from which relative errors are taken."""

    def __init__(self, velocity: RowVelocity, x1: Tensor, x0: Tensor) -> None:
        self.velocity, self.x1, self.x0 = velocity, x1, x0.double()

    def squares(self, run: Callable[[Callable[[Tensor, Tensor], Tensor], Tensor], Tensor]) -> np.ndarray:
        """The squared error of each row."""
        rows = slice(0, len(self.x1))
        with torch.no_grad():
            end = run(lambda x, sigma: self.velocity(x, sigma[0].item(), rows).to(x.dtype), self.x1)
        return (end.double() - self.x0).flatten(1).square().sum(1).numpy()

    def solve(self, grid: fs.SigmaGrid, sampler: Any) -> np.ndarray:
        """Those of a sampler on a grid."""
        return self.squares(lambda velocity, x: fs.sample(velocity, x, grid, sampler))

    def stock(self, cell: Measured) -> np.ndarray:
        """Those of a scheduler of diffusers."""
        return self.squares(lambda velocity, x: stock.run(cell.sampler["name"], velocity, x, schedule(cell)))

    def error(self, squares: np.ndarray) -> tuple[float, float]:
        """The relative error over all rows, and half of its 95 % interval by the jackknife."""
        return ratio(squares, self.x0.flatten(1).square().sum(1).numpy())


def ratio(mine: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """The root of the ratio of two sums over the same rows, and half of its 95 % interval by the jackknife."""
    n, without = len(mine), np.sqrt((mine.sum() - mine) / (other.sum() - other))
    spread = float(np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum()))
    return float(np.sqrt(mine.sum() / other.sum())), NORMAL * spread


def of_other_rows(mine: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """The ratio of two errors on different rows, and half of its 95 % interval."""
    value = mine[0] / other[0]
    return value, value * float(np.hypot(mine[1] / mine[0], other[1] / other[0]))


def likely(cells: Sequence[Measured], flow: str, calls: int) -> list[Measured]:
    """The cells of the benchmark that were best on this flow, on other rows than those that judge."""
    here = [c for c in cells if c.nfe == calls and np.isfinite(c.errors.get(flow, np.nan))]
    return sorted(here, key=lambda c: c.errors[flow])[:TRIED]


def schedule(cell: Measured) -> fs.SigmaGrid:
    """The schedule of a cell of the benchmark."""
    return fs.schedules.get_schedule(cell.schedule, cell.steps, **SCHEDULES[cell.schedule])


def opened(subject: Subject) -> tuple[Any, tuple[Any, ...], tuple[Any, ...]]:
    """The flow, the prompts that are fitted to, and those that judge; None without prompts."""
    if subject.name == "four-gaussians":
        return MixtureFlow.four_gaussians(), (), ()
    if subject.name.startswith("mixture-"):
        return MixtureFlow.random(int(subject.name.removeprefix("mixture-"))), (), ()
    prompts = default_prompts(subject.name)
    return load_flow(subject.name, prompt=prompts.given[0], **subject.options), prompts.given, prompts.held


def measure_flow(subject: Subject) -> dict[str, Any]:
    """One flow: all that the page tells of it."""
    flow, given, held = opened(subject)
    source = Conditioned(flow) if given else flow.velocity
    x1 = flow.noise(list(range(subject.fitting)))
    condition = None
    if given:  # as the command does: every fourth row has a prompt that is not fitted to
        condition = [(held if i % FOLDS == FOLDS - 1 else given)[i // FOLDS % 3] for i in range(subject.fitting)]
    begun = time.perf_counter()
    rows = Rows.of(source, x1, condition=condition, nodes=subject.nodes)
    told: dict[str, Any] = {"rows": subject.fitting, "intervals": subject.nodes, "rounds": subject.rounds}
    told |= {
        "torch": torch.__version__,
        "path_error": rows.profile.error,
        "seconds of the paths": time.perf_counter() - begun,
        "prompts": list(given),
    }
    told |= {"other prompts": list(held), **subject.options}

    def judges(prompts: Sequence[Any], seed: int) -> Judges:
        noise = flow.noise([seed + i for i in range(subject.judging)])
        velocity = RowVelocity(source, noise.dtype, [prompts[i % len(prompts)] for i in range(len(noise))] if prompts else None)
        exact = ends(velocity, noise, path_nodes(subject.nodes * (1 if prompts else 2)), batch_of(noise))
        return Judges(velocity, noise, exact)

    def best_of(
        cells: Sequence[Measured], calls: int, mine: np.ndarray, run: Callable[[Measured], np.ndarray]
    ) -> dict[str, Any]:
        ran = {f"{cell.label} on {cell.schedule}": run(cell) for cell in likely(cells, subject.name, calls)}
        best = min(ran, key=lambda name: ran[name].sum())
        return {"name": best, "error": other.error(ran[best]), "ratio": ratio(mine, ran[best])}

    other = judges(held, SEED)
    same = judges(given, SEED + subject.judging) if given else None
    fitted = rows.only(judging=False)
    seen = Judges(fitted.velocity, fitted.x1, fitted.x0)
    euler = other.solve(fs.schedules.flux2(MANY, tokens=4096), "euler")
    told |= {"judging": subject.judging, "euler 50": other.error(euler), "calls": {}}
    for calls in subject.calls:
        begun = time.perf_counter()
        solver = rows.fit(calls, rounds=subject.rounds, validate=False)
        found: dict[str, Any] = {"seconds": time.perf_counter() - begun, "amplification": solver.fitted_to["amplification"]}
        mine = other.solve(solver.grid, solver.sampler)
        found |= {"fitted": other.error(mine), "against euler 50": ratio(mine, euler)}
        found["on fitting rows"] = seen.error(seen.solve(solver.grid, solver.sampler))
        found["lost"] = of_other_rows(found["fitted"], found["on fitting rows"])
        known = fs.schedules.linear(calls)
        found["lost by ab2"] = of_other_rows(other.error(other.solve(known, "ab2")), seen.error(seen.solve(known, "ab2")))
        if same is not None:
            found["on the prompts that were fitted to"] = same.error(same.solve(solver.grid, solver.sampler))
        found["stock"] = best_of(measured_stock(), calls, mine, other.stock)
        found["catalogue"] = best_of(measured(), calls, mine, lambda cell: other.solve(schedule(cell), cell.sampler))
        told["calls"][str(calls)] = found
        print(subject.name, calls, found["fitted"], found["on fitting rows"], found["stock"], flush=True)
    if not given:
        told["nodes alone"] = {method: nodes_for(method, rows, other) for method in METHODS}
        print(subject.name, told["nodes alone"], flush=True)
    return told


def nodes_for(method: str, rows: Rows, judges: Judges) -> dict[str, Any]:
    """Fitted nodes beside the better of flat and FLUX.2's, and beside nodes that were fitted to `SOME` of the judges themselves."""
    solver = rows.fit(NODES_FOR, method=method, validate=False)
    steps = solver.grid.steps
    known = min((judges.solve(g, method) for g in (fs.schedules.linear(steps), fs.schedules.flux2(steps))), key=np.sum)
    some = slice(0, SOME)
    there = Rows(judges.velocity, judges.x1[some], judges.x0[some], SOME, rows.profile)
    family = OfMethod(NODES_FOR, rows.profile.without(None), method)
    least = judges.solve(family.solver(there.best_polished([family], ROUNDS_FOR_JUDGES)[1])[0], method)
    mine = judges.solve(solver.grid, method)
    return {"fitted": ratio(mine, known), "least": ratio(least, known), "sigmas": solver.grid.sigmas}


def rare() -> float:
    """The share of the squared error of `ab2` with 16 calls on a flat schedule that one in a thousand of the judging rows has."""
    flow = MixtureFlow.four_gaussians()
    noise = flow.noise([SEED + i for i in range(SUBJECTS[0].judging)])
    end = fs.sample(flow.velocity, noise, fs.schedules.linear(16), "ab2")
    squares = (end - flow.solution(noise)).flatten(1).square().sum(1).sort(descending=True).values
    return float(squares[: len(squares) // 1000].sum() / squares.sum())


def measure(names: list[str]) -> None:
    """What is named, or everything."""
    known = load(DATA)
    for subject in SUBJECTS:
        if not names or subject.name in names:
            known[subject.name] = measure_flow(subject)
            save(DATA, {s.name: known[s.name] for s in SUBJECTS if s.name in known} | {"rare": known.get("rare")})
    if not names or "rare" in names:
        save(DATA, known | {"rare": rare()})


# What is written

ALL_CALLS = ("4", "6", "8", "16")


def number(value: Sequence[float]) -> str:
    """A value with its interval."""
    digits = max(0, 1 - int(np.floor(np.log10(max(value[1], 1e-12)))))
    return f"{value[0]:.{digits}f} ± {value[1]:.{digits}f}"


def by_calls(flows: Mapping[str, Any], cell: Callable[[Any], Sequence[float]]) -> str:
    """A table of one ratio by flow and number of calls."""
    rows = ([f"`{n}`", *(number(cell(f["calls"][c])) if c in f["calls"] else "" for c in ALL_CALLS)] for n, f in flows.items())
    return table(" | ".join(["flow", *(f"{calls} calls:" for calls in ALL_CALLS)]), rows)


def errors_at(flows: Mapping[str, Any], calls: str) -> str:
    """A table of the errors of all kinds of solvers with one number of calls."""
    rows: list[list[str]] = []
    for name, flow in flows.items():
        found = flow["calls"][calls]
        cells = (found["fitted"], found["stock"]["error"], found["catalogue"]["error"], flow["euler 50"])
        rows.append([f"`{name}`", *map(number, cells)])
    return table("flow | fitted: | best of diffusers: | best of the catalogue: | Euler, 50 calls:", rows)


def nodes_alone(mixtures: Mapping[str, Any]) -> str:
    """A table of what fitted nodes alone reach, beside the best nodes for the judging rows themselves."""
    rows: list[list[str]] = []
    for name, flow in mixtures.items():
        found = (flow["nodes alone"][method] for method in METHODS)
        rows.append([f"`{name}`", *(f"{of['fitted'][0]:.2f} ({of['least'][0]:.2f})" for of in found)])
    return table(" | ".join(["flow", *(f"`{method}`:" for method in METHODS)]), rows)


def span(values: Iterable[float]) -> str:
    """The smallest and the largest."""
    least, *_, most = sorted(values)
    return f"{least:.2f} to {most:.2f}"


def page() -> str:
    """The page with its measured part renewed."""
    found = load(DATA)
    flows = {subject.name: found[subject.name] for subject in SUBJECTS}
    mixtures = {name: flow for name, flow in flows.items() if "nodes alone" in flow}
    cells = {(name, int(calls)): of for name, flow in mixtures.items() for calls, of in flow["calls"].items()}
    large = {where: of["lost"] for where, of in cells.items() if of["lost"][0] > LARGE}
    alone = {(n, m): of for n, f in mixtures.items() for m, of in f["nodes alone"].items()}
    worst = max(alone, key=lambda where: alone[where]["fitted"][0])
    part = rendered(
        "fitting.md",
        globals(),
        flows=flows,
        digits=flows["klein-digits"],
        emoji=flows["klein-emoji"],
        mixtures=mixtures,
        cells=cells,
        large=large,
        certain=[where for where, (value, half) in large.items() if value - half > LARGE],
        not_fitted=max(of["lost by ab2"][0] for of in cells.values()),
        rare=found["rare"],
        beside_stock=span(of["stock"]["ratio"][0] for (_, calls), of in cells.items() if calls == 8),
        ratio_to_stock=lambda of: of["stock"]["ratio"],
        lost=lambda of: of["lost"],
        alone=alone,
        worst=worst,
        usual=span(of["fitted"][0] for where, of in alone.items() if where != worst),
    )
    return with_measured(PAGE.read_text(), "build_fit.py", part)


def figure() -> bytes:
    """Error against calls, for each network and the first random mixture."""
    told, names = load(DATA), ("klein-digits", "klein-emoji", "mixture-1")
    plot, axes = plt.subplots(1, len(names), figsize=(3.4 * len(names), 3.2), squeeze=False)
    kinds: dict[str, Callable[[Any], Sequence[float]]] = {
        "fitted": lambda of: of["fitted"],
        "best of diffusers": lambda of: of["stock"]["error"],
        "best of the catalogue": lambda of: of["catalogue"]["error"],
    }
    for ax, name in zip(axes[0], names, strict=True):
        flow = told[name]
        calls = [int(c) for c in flow["calls"]]
        for label, of in kinds.items():
            values = np.array([of(f) for f in flow["calls"].values()])
            below = np.minimum(values[:, 1], 0.9 * values[:, 0])
            ax.errorbar(calls, values[:, 0], yerr=[below, values[:, 1]], marker="o", capsize=2, label=label)
        ax.axhline(flow["euler 50"][0], color="gray", linestyle="--", label="Euler, 50 calls")
        ax.set(title=name, yscale="log", xlabel="model calls", xticks=calls)
    axes[0][0].set_ylabel("relative error")
    axes[0][0].legend(fontsize=7)
    plot.tight_layout()
    return drawn(plot)


WRITTEN = {PAGE: page, PLOT: figure}

if __name__ == "__main__":
    build(__doc__, WRITTEN, measure)
