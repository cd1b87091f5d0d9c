"""Measure the orders of all samplers and write the catalogue page: flowsamplers/measurements/orders.json, docs/reference/samplers.md.

python tools/build_catalogue.py           # measure (two minutes), then write the page
python tools/build_catalogue.py --page    # write the page from the registry and the committed orders
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

import flowsamplers as fs
from flowsamplers import catalogue as cat

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


def measure() -> None:
    """Take all orders."""
    torch.set_num_threads(1)
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for info in fs.list_samplers():
        if info.stochastic or info.adaptive:
            continue
        found[info.name] = {
            span: {
                f"{flow}, {shift}": round(o, 2)
                if (o := cat.observed_order(info.name, flow, shift, span).order) is not None
                else None
                for flow in cat.FLOWS
                for shift in cat.SHIFTS
            }
            for span in cat.SPANS
        }
        print(info.name, found[info.name], flush=True)
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in found.items())
    DATA.write_text(f'{{"about": "observed orders; made by tools/build_catalogue.py", "samplers": {{\n{lines}\n}}}}\n')
    cat._measured.cache_clear()


def row(entry: cat.Entry) -> str:
    """A line of the table."""
    i = entry.info
    names = f"`{i.name}`" + "".join(f", `{a}`" for a in (*i.aliases, *i.presets))
    claimed = str(i.order) + (f" ({i.literature} in the literature)" if i.literature != i.order else "")
    complete = cat.spread(entry.complete)
    notes = [
        f"stochastic, weak order {i.weak_order}" if i.stochastic else "",
        "" if i.keeps_noise_level else "does not keep the noise level",
        "" if i.keeps_marginals else "does not keep the marginals",
        "adaptive" if i.adaptive else "",
    ]
    note = "; ".join(n for n in (*notes, entry.ends and f"calls: {entry.ends}") if n)
    cells = (names, claimed, cat.spread(entry.inside), complete, entry.calls, note, i.advice, i.reference)
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
        measure()
    PAGE.write_text(page())
