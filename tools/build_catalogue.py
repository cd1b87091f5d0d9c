"""Measure the orders of all samplers and write their pages: flowsamplers/measurements/orders.json, docs/reference/samplers*.

python tools/build_catalogue.py           # measure (a quarter of an hour, nearly all for weak orders), then write the page
python tools/build_catalogue.py NAME ...  # measure these only
python tools/build_catalogue.py --page    # write the page from the registry and the committed orders
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from building import DOCS, ROOT, build, load, rendered, save, table

import flowsamplers as fs
from flowsamplers import catalogue as cat
from flowsamplers.orders import order, pairwise_slopes
from flowsamplers.study import orders as obs
from flowsamplers.testing.fields import between, smooth, solution, start_at
from flowsamplers.testing.laws.common import distance
from flowsamplers.testing.moments import variance_ratio
from flowsamplers.testing.subject import subject_of

PAGE = DOCS / "reference" / "samplers.md"
DATA = ROOT / "flowsamplers" / "measurements" / "orders.json"
FINE = (1024, 2048)
"""Steps at which a declared order is looked for that coarser steps do not show."""
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
TOGETHER = {
    "runge_kutta": (
        "Euler, Runge-Kutta and other one-step methods",
        ("euler", "runge_kutta", "exponential_rk", "implicit", "adaptive", "compat"),
    ),
    "multistep": ("Multistep methods: Adams, exponential, UniPC", ("multistep", "exponential", "unipc")),
    "stochastic": ("Stochastic samplers", ("stochastic", "exponential_sde", "exponential_rk_sde", "sa_solver")),
}
"""Families that share a page; every other has one of its own."""


def measure(names: list[str]) -> None:
    """Take the orders of the named samplers, or of all."""
    torch.set_num_threads(1)
    known: dict[str, Any] = load(DATA)["samplers"]  # an interrupted run keeps the others
    infos = [i for i in fs.list_samplers() if not i.adaptive and (i.name in names or not names)]
    known |= deterministic([i.name for i in infos if not i.stochastic])
    write(known)
    for name in [i.name for i in infos if i.stochastic]:
        known[name] = stochastic(name)
        print(name, known[name], flush=True)
        write(known)


def deterministic(names: list[str]) -> dict[str, dict[str, dict[str, float | None]]]:
    """The orders of ODE samplers, measured together."""
    found: dict[str, dict[str, dict[str, float | None]]] = {name: {} for name in names}
    for span in obs.SPANS:
        for name, verdicts in zip(names, obs.observed_orders(names, span), strict=True):
            found[name][span] = {key: rounded(v.order) for key, v in verdicts.items()}
    return found


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
    names = [name for i in fs.list_samplers() for name in (i.name, *i.presets)]
    found = {name: {**found.get(name, {}), "cost": cat.cost(name)} for name in names}
    save(DATA, {"about": "observed orders, and model calls; made by tools/build_catalogue.py", "samplers": found})
    cat._measured.cache_clear()


def words(found: Mapping[str, cat.Observed]) -> str:
    """Orders of a stochastic sampler in a cell: on Gaussian data, where it is exact, and on the two mixtures."""
    exact = f"{found['Gaussian']} exactly, " if "Gaussian" in found else ""
    return exact + ", ".join(str(o) for key, o in found.items() if key != "Gaussian")


def row(entry: cat.Entry) -> list[str]:
    """A line of a table of orders."""
    i = entry.info
    claimed = str(i.order) + (f" ({i.literature} in the literature)" if i.literature != i.order else "")
    inside, complete = cat.spread(entry.inside), cat.spread(entry.complete)
    if i.stochastic:
        claimed = f"strong {i.strong_order:g}, weak {i.weak_order}; {claimed} without noise"
        inside, complete = map(words, (entry.strong, entry.weak))
    return [f"`{i.name}`", claimed, inside, complete, entry.calls]


def heading(family: str) -> str:
    """What a family is called."""
    return FAMILIES.get(family, f"Stochastic: {family.replace('_', ' ')}" if family != "stochastic" else "Stochastic")


def home(family: str) -> str:
    """The page of a family, by its name."""
    return next((page for page, (_, together) in TOGETHER.items() if family in together), family)


def page() -> str:
    """The short table of all samplers."""
    rows: list[list[str]] = []
    for entry in cat.catalogue():
        i = entry.info
        link = f"[`{i.name}`](samplers/{home(i.family)}.md#flowsamplers.samplers.{i.family}.{i.factory.__name__})"
        family = heading(i.family).removeprefix("Stochastic: ")
        rows.append([link, i.advice, entry.calls, f"{i.weak_order}, noise" if i.stochastic else str(i.order), family])
    return rendered("samplers.md", {"samplers": table("sampler | when to use it | calls for N steps | order | family", rows)})


def family_page(name: str) -> str:
    """Everything on the families of a page. Methods are for those who write samplers: the API page of the protocol has them."""
    title, together = TOGETHER.get(name, (heading(name), (name,)))
    entries = {family: [e for e in cat.catalogue() if e.info.family == family] for family in together}
    every = [e for found in entries.values() for e in found]
    return rendered(
        "family.md",
        globals(),
        title=title,
        ode=[row(e) for e in every if not e.info.stochastic],
        noisy=[row(e) for e in every if e.info.stochastic],
        faster=[found for e in every for found in faster(e)],
        sources=map(about, every),
        families=[(f, list(dict.fromkeys(e.info.factory.__name__ for e in found))) for f, found in entries.items()],
    )


def faster(entry: cat.Entry) -> list[tuple[str, int, float]]:
    """A sampler that is measured above its declared order: with its order on the velocity field of the laws, with very fine steps."""
    seen = [o for o in entry.inside.values() if o is not None]
    if entry.info.stochastic or not seen or min(seen) < entry.info.order + 0.5:
        return []
    sampler, truth = subject_of(entry.info.name), solution(0.95, 0.05)
    errors = [distance(sampler.run(smooth, start_at(), between(0.95, 0.05, n)), truth) for n in FINE]
    return [(entry.info.name, entry.info.order, pairwise_slopes(FINE, errors)[0])]


def about(entry: cat.Entry) -> str:
    """Other names, notes and source of a sampler, as a list item."""
    i = entry.info
    notes = [
        "" if i.keeps_noise_level else "It does not keep the noise level of a data point.",
        "" if i.keeps_marginals else "It does not keep the marginals.",
        f"Calls: {entry.ends}." if entry.ends else "",
    ]
    others = ", ".join([f"`{n}`" for n in i.aliases] + [preset(n, i) for n in i.presets])
    source = re.sub(r"arXiv:([\d.]+\d)", r"[arXiv:\1](https://arxiv.org/abs/\1)", i.reference)
    return " ".join([f"* **`{i.name}`**{f', also {others}' if others else ''}.", *filter(None, notes), f"{source}."])


def preset(name: str, method: fs.SamplerInfo) -> str:
    """A preset, with its order where that is another than the method's."""
    own = fs.sampler_info(name).order
    return f"`{name}`" + (f" (order {own})" if own != method.order else "")


WRITTEN = {
    PAGE: page,
    **{
        PAGE.with_suffix("") / f"{name}.md": partial(family_page, name)
        for name in {home(i.family): 0 for i in fs.list_samplers()}
    },
}

if __name__ == "__main__":
    build(__doc__, WRITTEN, measure)
