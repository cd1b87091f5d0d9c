"""Fitted solvers beside diffusers' schedulers, the catalogue and Euler with 50 steps, on rows that they were not fitted to.

python tools/build_fit.py --flow klein-digits   measures one flow again, and writes docs/explanation/fitting.json, figure and page
python tools/build_fit.py                       measures all flows
python tools/build_fit.py --page                writes figure and page from the committed measurements
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from torch import Tensor

import flowsamplers as fs
from flowsamplers.benchmark import SCHEDULES, Measured, measured, measured_stock
from flowsamplers.evaluated import Asked, batch_of
from flowsamplers.fitting import MANY_ROWS, OfMethod, Rows
from flowsamplers.flows import MixtureFlow, load_flow
from flowsamplers.flows.prompts import default_prompts
from flowsamplers.profiling import FOLDS, ends, path_nodes
from flowsamplers.validation import MANY
from flowsamplers_diffusers import stock

mpl.use("Agg")
import matplotlib.pyplot as plt

EXPLANATION = Path(__file__).parent.parent / "docs" / "explanation"
DATA, PAGE, PLOT = (EXPLANATION / f"fitting{end}" for end in (".json", ".md", ".svg"))
BEGIN, END = "<!-- measured: written by tools/build_fit.py -->", "<!-- end of what is measured -->"
MIXTURES = 5
SEED = 500_000
"""Of the first noise that judges."""
TRIED = 4
"""So many of the best cells of the benchmark stand for the catalogue, and as many for diffusers: the best of them on the judges counts."""
METHODS = ("ab2", "unipc", "fireflow")
"""Samplers for which nodes alone are fitted, for `NODES_FOR` calls."""
NODES_FOR, SOME, ROUNDS_FOR_JUDGES = 8, 2048, 12
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

    def __init__(self, asked: Asked, x1: Tensor, x0: Tensor) -> None:
        self.asked, self.x1, self.x0 = asked, x1, x0.double()

    def squares(self, run: Callable[[Callable[[Tensor, Tensor], Tensor], Tensor], Tensor]) -> np.ndarray:
        """The squared error of each row."""
        rows = slice(0, len(self.x1))
        with torch.no_grad():
            end = run(lambda x, sigma: self.asked(x, sigma[0].item(), rows).to(x.dtype), self.x1)
        return (end.double() - self.x0).flatten(1).square().sum(1).numpy()

    def solve(self, grid: fs.SigmaGrid, sampler: Any) -> np.ndarray:
        """Those of a sampler on a grid."""
        return self.squares(lambda velocity, x: fs.sample(velocity, x, grid, sampler))

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


def measure(subject: Subject) -> dict[str, Any]:
    """One flow: all that the page tells of it."""
    flow, given, held = opened(subject)
    source = Conditioned(flow) if given else flow.velocity
    x1 = flow.noise(list(range(subject.fitting)))
    condition = None
    if given:  # as the command does: every fourth row has a prompt that is not fitted to
        condition = [(held if i % FOLDS == FOLDS - 1 else given)[i // FOLDS % 3] for i in range(subject.fitting)]
    begun = time.perf_counter()
    rows = Rows.of(source, x1, condition=condition, nodes=subject.nodes)
    told: dict[str, Any] = {
        "rows": subject.fitting,
        "intervals": subject.nodes,
        "rounds": subject.rounds,
        "torch": torch.__version__,
    }
    told |= {"path_error": rows.profile.error, "seconds of the paths": time.perf_counter() - begun, "prompts": list(given)}
    told |= {"other prompts": list(held), **subject.options}

    def judges(prompts: Sequence[Any], seed: int) -> Judges:
        noise = flow.noise([seed + i for i in range(subject.judging)])
        asked = Asked(source, noise.dtype, [prompts[i % len(prompts)] for i in range(len(noise))] if prompts else None)
        exact = ends(asked, noise, path_nodes(subject.nodes * (1 if prompts else 2)), batch_of(noise))
        return Judges(asked, noise, exact)

    other = judges(held, SEED)
    same = judges(given, SEED + subject.judging) if given else None
    fitted = rows.only(judging=False)
    seen = Judges(fitted.asked, fitted.x1, fitted.x0)
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
        runs = {
            f"{c.sampler['name']} on {c.schedule}": other.squares(
                lambda v, x, c=c: stock.run(c.sampler["name"], v, x, schedule(c))
            )
            for c in likely(measured_stock(), subject.name, calls)
        }
        catalogue = {
            f"{c.label} on {c.schedule}": other.solve(schedule(c), c.sampler) for c in likely(measured(), subject.name, calls)
        }
        for kind, candidates in (("stock", runs), ("catalogue", catalogue)):
            best = min(candidates, key=lambda n: candidates[n].sum())
            found[kind] = {"name": best, "error": other.error(candidates[best]), "ratio": ratio(mine, candidates[best])}
        told["calls"][str(calls)] = found
        print(
            subject.name,
            calls,
            {k: v for k, v in found.items() if k in ("fitted", "on fitting rows")},
            found["stock"],
            flush=True,
        )
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
    there = Rows(judges.asked, judges.x1[some], judges.x0[some], rows.profile, SOME)
    family = OfMethod(NODES_FOR, rows.profile.without(None), method)
    least = judges.solve(family.solver(there.best_polished([family], ROUNDS_FOR_JUDGES)[1])[0], method)
    mine = judges.solve(solver.grid, method)
    return {"fitted": ratio(mine, known), "least": ratio(least, known), "sigmas": solver.grid.sigmas}


# What is written


def number(value: Sequence[float]) -> str:
    """A value with its interval."""
    digits = max(0, 1 - int(np.floor(np.log10(max(value[1], 1e-12)))))
    return f"{value[0]:.{digits}f} ± {value[1]:.{digits}f}"


def table(told: Mapping[str, Any]) -> str:
    """All values."""
    lines = [
        "| flow, calls | fitted | best of diffusers | best of the catalogue | Euler, 50 calls |",
        "| --- | --: | --: | --: | --: |",
    ]
    for name, flow in told.items():
        for calls, found in flow["calls"].items():
            cells = [found["fitted"], found["stock"]["error"], found["catalogue"]["error"], flow["euler 50"]]
            lines.append(f"| `{name}`, {calls} | " + " | ".join(map(number, cells)) + " |")
    lines += ["", "The same errors as ratios, row by row:", ""]
    lines += ["| flow, calls | fitted / diffusers | fitted / catalogue | fitted / Euler 50 |", "| --- | --: | --: | --: |"]
    for name, flow in told.items():
        for calls, found in flow["calls"].items():
            cells = [found["stock"]["ratio"], found["catalogue"]["ratio"], found["against euler 50"]]
            lines.append(f"| `{name}`, {calls} | " + " | ".join(map(number, cells)) + " |")
    lines += [
        "",
        "The error on new rows divided by that on fitting rows, beside the same ratio of `ab2` on a flat schedule:",
        "",
    ]
    lines += ["| flow, calls | fitted | `ab2`, not fitted |", "| --- | --: | --: |"]
    for name, flow in told.items():
        for calls, found in flow["calls"].items():
            if "lost" in found:
                lines.append(f"| `{name}`, {calls} | {number(found['lost'])} | {number(found['lost by ab2'])} |")
    lines += [
        "",
        f"Nodes alone, {NODES_FOR} calls: the error divided by that on the better of a flat schedule and FLUX.2's.",
        "",
    ]
    lines += ["| flow, sampler | fitted nodes | best nodes for the judging rows themselves |", "| --- | --: | --: |"]
    for name, flow in told.items():
        for method, found in flow.get("nodes alone", {}).items():
            lines.append(f"| `{name}`, `{method}` | {number(found['fitted'])} | {number(found['least'])} |")
    return "\n".join(lines)


def figure(told: Mapping[str, Any]) -> None:
    """Error against calls, for each network and the first random mixture."""
    names = [n for n in ("klein-digits", "klein-emoji", "mixture-1") if n in told]
    mpl.rcParams["svg.hashsalt"] = "fitting"
    plot, axes = plt.subplots(1, len(names), figsize=(3.4 * len(names), 3.2), squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        flow = told[name]
        calls = [int(c) for c in flow["calls"]]
        for label, of in (
            ("fitted", lambda f: f["fitted"]),
            ("best of diffusers", lambda f: f["stock"]["error"]),
            ("best of the catalogue", lambda f: f["catalogue"]["error"]),
        ):
            values = np.array([of(f) for f in flow["calls"].values()])
            below = np.minimum(values[:, 1], 0.9 * values[:, 0])
            ax.errorbar(calls, values[:, 0], yerr=[below, values[:, 1]], marker="o", capsize=2, label=label)
        ax.axhline(flow["euler 50"][0], color="gray", linestyle="--", label="Euler, 50 calls")
        ax.set(title=name, yscale="log", xlabel="model calls", xticks=calls)
    axes[0][0].set_ylabel("relative error")
    axes[0][0].legend(fontsize=7)
    plot.tight_layout()
    plot.savefig(PLOT, metadata={"Date": None})


def write() -> None:
    """The figure, and the values in the page."""
    told = json.loads(DATA.read_text())
    figure(told)
    text = PAGE.read_text()
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    PAGE.write_text(f"{before}\n\n{table(told)}\n\n{after}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", action="store_true", help="only write figure and page")
    parser.add_argument("--flow", action="append", choices=[s.name for s in SUBJECTS], help="only this; may be repeated")
    given = parser.parse_args()
    if not given.page:
        known = json.loads(DATA.read_text()) if DATA.exists() else {}
        for subject in SUBJECTS:
            if not given.flow or subject.name in given.flow:
                known[subject.name] = measure(subject)
                ordered = {s.name: known[s.name] for s in SUBJECTS if s.name in known}
                DATA.write_text(json.dumps(ordered, indent=1) + "\n")
    write()
