"""Measure the orders of all samplers and write the catalogue page: flowsamplers/measurements/orders.json, docs/reference/samplers.md.

python tools/build_catalogue.py           # measure (half an hour, nearly all for the stochastic ones), then write the page
python tools/build_catalogue.py NAME ...  # measure these only
python tools/build_catalogue.py --page    # write the page from the registry and the committed orders
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import flowsamplers as fs
from flowsamplers import catalogue as cat
from flowsamplers.orders import order
from flowsamplers.study import observed as obs
from flowsamplers.testing.moments import variance_ratio

ROOT = Path(__file__).parent.parent
DATA = ROOT / "flowsamplers" / "measurements" / "orders.json"
PAGE = ROOT / "docs" / "reference" / "samplers.md"
FAMILIES = {
    "euler": "Euler",
    "runge_kutta": "Runge-Kutta",
    "multistep": "Adams-Bashforth and relatives",
    "exponential": "Exponential multistep, in the data prediction",
    "unipc": "UniPC",
    "exponential_rk": "Exponential Runge-Kutta",
    "wrappers": "Wrappers",
    "implicit": "Implicit, by fixed point",
    "adaptive": "Adaptive",
    "compat": "Kept for parity",
    "exponential_sde": "Stochastic multistep, in the data prediction",
    "exponential_rk_sde": "Stochastic one-step, in the data prediction",
    "sa_solver": "Stochastic predictor and corrector",
}


def measure(names: list[str]) -> None:
    """Take the orders of the named samplers, or of all."""
    torch.set_num_threads(1)
    known: dict[str, Any] = json.loads(DATA.read_text())["samplers"]  # an interrupted run keeps the others
    infos = [i for i in fs.list_samplers() if not i.adaptive and (i.name in names or not names)]
    for info in infos:
        known[info.name] = stochastic(info.name) if info.stochastic else deterministic(info.name)
        print(info.name, known[info.name], flush=True)
        write(known)


def deterministic(name: str) -> dict[str, dict[str, float | None]]:
    """The orders of an ODE sampler."""
    return {
        span: {
            f"{flow}, {shift}": rounded(obs.observed_order(name, flow, shift, span).order)
            for flow in obs.FLOWS
            for shift in obs.SHIFTS
        }
        for span in obs.SPANS
    }


def stochastic(name: str) -> dict[str, dict[str, dict[str, Any]]]:
    """The orders of a stochastic sampler."""
    found: dict[str, dict[str, dict[str, Any]]] = {"strong": {}, "weak": {"Gaussian": gaussian(name)}}
    for flow, shift in obs.BOTH:
        strong = obs.observed_strong_order(name, flow, shift)
        weak, errors, bars = obs.observed_weak_order(name, flow, shift)
        found["strong"][f"{flow}, {shift}"] = {
            "verdict": strong.verdict,
            "order": rounded(strong.order),
            "bar": rounded(strong.bar),
        }
        found["weak"][f"{flow}, {shift}"] = {
            "verdict": weak.verdict,
            "order": rounded(weak.order),
            "bar": rounded(weak.bar),
            "errors": [float(f"{e:.2g}") for e in errors],
            "bars": [float(f"{b:.1g}") for b in bars],
        }
    return found


def gaussian(name: str) -> dict[str, Any]:
    """The weak order on Gaussian data, from exact variances: no Monte Carlo, no bar."""
    steps = (64, 128, 256)
    errors = [abs(variance_ratio(name, obs.shifted(n, 1.0, 0.95, 0.05), std=1.7) - 1) for n in steps]
    found = order(steps, errors, declared=fs.sampler_info(name).weak_order)
    return {"verdict": found.verdict, "order": rounded(found.order), "bar": None}


def rounded(value: float | None) -> float | None:
    """To two digits after the point."""
    return None if value is None else round(value, 2)


def write(found: dict[str, Any]) -> None:
    """The committed file, in the order of the registry."""
    found = {i.name: found[i.name] for i in fs.list_samplers() if i.name in found}
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in found.items())
    DATA.write_text(f'{{"about": "observed orders; made by tools/build_catalogue.py", "samplers": {{\n{lines}\n}}}}\n')
    cat._measured.cache_clear()


def words(found: Mapping[str, cat.Observed]) -> str:
    """Orders of a stochastic sampler in a cell: on Gaussian data, where it is exact, and on the two mixtures."""
    exact = f"{found['Gaussian']} exactly, " if "Gaussian" in found else ""
    return exact + ", ".join(str(o) for key, o in found.items() if key != "Gaussian")


def row(entry: cat.Entry) -> str:
    """A line of the table."""
    i = entry.info
    names = f"`{i.name}`" + "".join(f", `{a}`" for a in (*i.aliases, *i.presets))
    claimed = str(i.order) + (f" ({i.literature} in the literature)" if i.literature != i.order else "")
    inside, complete = cat.spread(entry.inside), cat.spread(entry.complete)
    if i.stochastic:
        claimed = f"strong {i.strong_order:g}, weak {i.weak_order}; {claimed} without noise"
        inside, complete = (f"{kind} {words(its)}" for kind, its in (("strong", entry.strong), ("weak", entry.weak)))
    notes = [
        "stochastic" if i.stochastic else "",
        "" if i.keeps_noise_level else "does not keep the noise level",
        "" if i.keeps_marginals else "does not keep the marginals",
        "adaptive" if i.adaptive else "",
    ]
    note = "; ".join(n for n in (*notes, entry.ends and f"calls: {entry.ends}") if n)
    cells = (names, claimed, inside, complete, entry.calls, note, i.advice, i.reference)
    return "| " + " | ".join(cells) + " |"


def page() -> str:
    """The catalogue."""
    entries = cat.catalogue()
    families = list(dict.fromkeys(e.info.family for e in entries))
    text = [
        "# Samplers",
        "",
        "<!-- written by tools/build_catalogue.py from the registry and flowsamplers/measurements/orders.json -->",
        "",
        "The orders are measured, on two mixtures of Gaussians and two grids: *inside*, from sigma 0.95 to 0.05, where every variable is",
        "finite, and on *complete* runs from 1 to 0, where many last steps are Euler's. Model calls are those of a run of N steps; *first* and",
        "*last* say what these steps cost where they differ. Names after the first are aliases, or presets with options of their own.",
        "",
        "A stochastic sampler has other orders, measured inside (0, 1) with its noise on. The *strong* one is of a path, against the finest",
        f"run along the same Brownian motion, by {obs.PATHS} paths. The *weak* one is of mean and mean square of the results, against the",
        f"flow's own: on Gaussian data exactly, and on mixtures by {obs.SCRAMBLES} scrambled Sobol sequences of {obs.POINTS} runs, between the two finest",
        f"of up to {max(max(n) for n in obs.WEAK_STEPS.values())} steps. What follows ± is the Monte-Carlo standard error of the order; where an error is too small for one, it",
        "stands there itself.",
        "",
        "Which one to take: see the [benchmark](benchmark.md), or `flowsamplers.recommend`.",
        "",
        '`last=` says how the last step is made: `"method"`, or any sampler without memory, such as `"euler"`, `"midpoint"` or `"ralston3"`;',
        "`startup=` how a method with memory begins. Both are counted as what they cost.",
        "",
    ]
    for family in families:
        text += [
            f"## {FAMILIES.get(family, 'Stochastic')}" if family in FAMILIES else f"## Stochastic: {family.replace('_', ' ')}",
            "",
            "| names | order | measured inside | measured, complete | calls | notes | advice | reference |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
            *[row(e) for e in entries if e.info.family == family],
            "",
            f"::: flowsamplers.samplers.{family}",
            "",
        ]
    return "\n".join(text)


if __name__ == "__main__":
    if "--page" not in sys.argv[1:]:
        measure(sys.argv[1:])
    PAGE.write_text(page())
