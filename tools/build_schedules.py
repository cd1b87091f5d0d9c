"""Measure samplers on every schedule and write the schedules' page: docs/reference/schedules.json and schedules.md.

python tools/build_schedules.py           # measure (five minutes on one core), then draw the plot and write the page
python tools/build_schedules.py NAME ...  # measure these schedules only, then draw and write the same
python tools/build_schedules.py --page    # draw the plot and write the page from the registry and the committed rows
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import partial
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from build_benchmark import Network, mixtures
from building import DOCS, build, drawn, load, rendered, save, table

import flowsamplers as fs
from flowsamplers.engine import largest_steps
from flowsamplers.study.results import geometric_mean

PAGE = DOCS / "reference" / "schedules.md"
DATA = PAGE.with_suffix(".json")
PLOT = DOCS / "assets" / "schedules.png"
SAMPLERS = ("euler", "fireflow", "unipc", "dpmpp_2m")
BUDGETS = (8, 16, 32)
KLEIN = "klein-digits"
FAMILIES = {
    "diffusers": "FLUX, SD3, Wan and diffusers",
    "comfyui": "ComfyUI",
    "closed": "Closed forms",
    "tables": "Tables",
}


def own() -> list[fs.ScheduleInfo]:
    """The library's schedules, not those of other packages."""
    return [i for i in fs.list_schedules() if i.origin == "flowsamplers"]


def candidates() -> list[tuple[str, dict[str, Any]]]:
    """Every schedule and preset as it comes; those that begin below 1 moved there where an option does it."""
    found: list[tuple[str, dict[str, Any]]] = []
    for info in own():
        if info.complete:
            found += [(name, {}) for name in (info.name, *_different(info))]
        elif "start" in info.options:
            found += [(name, {"start": 1.0}) for name in info.presets]
    return found


def _different(info: fs.ScheduleInfo) -> list[str]:
    """Presets that are not the schedule's defaults, nor each other."""
    seen, names = [dict(info.options)], []
    for name, preset in info.presets.items():
        options = {**info.options, **preset}
        if options not in seen:
            seen.append(options)
            names.append(name)
    return names


def label(name: str, options: dict[str, Any]) -> str:
    """In one word."""
    return name + "".join(f", {k}={v:g}" for k, v in options.items())


def measure(names: Collection[str] = ()) -> None:
    """Run all schedules, or some and their presets, on the flows of the benchmark."""
    torch.set_num_threads(1)
    network = Network(KLEIN)
    velocity = partial(network.flow.velocity, condition=network.prompts)
    problems = {**mixtures(), KLEIN: (velocity, network.x, network.truth)}
    old = load(DATA)["rows"] if names else []
    rows = list[dict[str, Any]]()
    for name, options in candidates():
        if names and not {name, fs.schedule_info(name).name} & {*names}:
            rows += [r for r in old if (r["schedule"], r["options"]) == (name, options)]
            continue
        for sampler in map(fs.get_sampler, SAMPLERS):
            for budget in BUDGETS:
                steps = largest_steps(sampler, budget, partial(fs.get_schedule, name, **options))
                grid, errors = fs.get_schedule(name, steps, **options), []
                for velocity, x, truth in problems.values():
                    gap = fs.sample(velocity, x, grid, sampler).double() - truth
                    errors.append(float(f"{(gap.norm() / truth.norm()).item():.4g}"))
                made_of = {"schedule": name, "options": options, "sampler": fs.to_config(sampler)["name"]}
                rows.append({**made_of, "nfe": budget, "steps": steps, "errors": errors})
        print(label(name, options), flush=True)
    about = "relative Euclidean error of the final state; made by tools/build_schedules.py"
    save(DATA, {"about": about, "flows": list(problems), "rows": rows})


SHOWN = 16
"""Model calls of the tables of all schedules."""


def errors(flow: str) -> dict[tuple[str, int], dict[str, float]]:
    """By sampler and number of calls the error on each schedule: on klein-digits, or the geometric mean over the mixtures."""
    data = load(DATA)
    chosen = [i for i, f in enumerate(data["flows"]) if (f == KLEIN) == (flow == KLEIN)]
    out: dict[tuple[str, int], dict[str, float]] = {}
    for r in data["rows"]:
        mean = geometric_mean([r["errors"][i] for i in chosen])
        out.setdefault((r["sampler"], r["nfe"]), {})[label(r["schedule"], r["options"])] = mean
    return out


def spec(name: str) -> str:
    """A label as a specification: ``oss_flux, start=1`` is ``oss_flux:start=1``."""
    return name.replace(", ", ":", 1)


def best() -> str:
    """A table of the schedule with the smallest error, for each sampler and number of calls."""
    kinds = [errors(flow) for flow in ("mixtures", KLEIN)]

    def cell(found: dict[str, float]) -> str:
        first = min(found, key=found.__getitem__)
        return f"{spec(first)}: {found[first]:.2g} (linear: {found['linear']:.2g})"

    rows = ([f"`{sampler}`, {calls}", *(cell(kind[sampler, calls]) for kind in kinds)] for sampler, calls in kinds[0])
    return table("sampler, calls | best on mixtures | best on klein-digits", rows)


def multiples(flow: str) -> dict[str, float]:
    """The error of every schedule as a multiple of that on the uniform one, as a geometric mean over the samplers."""
    cells = [found for (_, budget), found in errors(flow).items() if budget == SHOWN]
    return {n: geometric_mean([found[n] / found["linear"] for found in cells]) for n in cells[0]}


def compared() -> str:
    """A table of every schedule with one number of calls, on both kinds of flows."""
    mixtures, digits = map(multiples, ("mixtures", KLEIN))
    order = sorted(mixtures, key=lambda n: mixtures[n] * digits[n])
    rows = ([spec(name), f"{mixtures[name]:.2f}", f"{digits[name]:.2f}"] for name in order)
    return table("schedule | mixtures: | klein-digits:", rows)


def plot() -> bytes:
    """The nodes of every schedule at 8 and at 20 steps."""
    mpl.use("Agg")
    infos = [i for family in FAMILIES for i in own() if i.family == family]
    shown = [(i.family, name, {}) for i in infos for name in ((i.name, *_different(i)) if i.name != "table" else i.presets)]
    shown = [s for s in shown if s[1] != "flow_match_euler"]
    figure, panels = plt.subplots(1, 2, figsize=(11, 0.26 * len(shown) + 0.8), sharey=True)
    colours = dict(zip(FAMILIES, ("C0", "C1", "C2", "C3"), strict=True))
    for panel, steps in zip(panels, (8, 20), strict=True):
        for row, (family, name, options) in enumerate(shown):
            sigmas = fs.get_schedule(name, steps, **options).sigmas
            panel.plot([1, 0], [row, row], color="0.85", lw=0.8, zorder=1)
            panel.plot(sigmas, [row] * len(sigmas), "|", color=colours[family], ms=9, mew=1.4, zorder=2)
        panel.set(xlim=(1.02, -0.02), title=f"N = {steps}", xlabel="sigma, from noise to data")
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.tick_params(left=False)
    panels[0].set_yticks(range(len(shown)), [name for _, name, _ in shown], fontsize=8)
    for tick, (family, _, _) in zip(panels[0].get_yticklabels(), shown, strict=True):
        tick.set_color(colours[family])
    panels[0].invert_yaxis()
    figure.tight_layout()
    return drawn(figure, "png", dpi=110)


def row(info: fs.ScheduleInfo) -> list[str]:
    """A line of the catalogue."""
    others = [*(f"`{n}`" for n in info.aliases), *(preset(p, o) for p, o in info.presets.items())]
    cells = (f"[`{info.name}`](#flowsamplers.schedules.{info.family}.{info.name})", info.advice, ", ".join(others))
    return [c.replace("|", "\\|").replace("``", "`") for c in cells]


def source(info: fs.ScheduleInfo) -> str:
    """Where a schedule comes from, as a list item."""
    told = re.sub(r"arXiv:([\d.]+\d)", r"[arXiv:\1](https://arxiv.org/abs/\1)", info.reference).replace("``", "`")
    return f"* `{info.name}`: {told}"


def preset(name: str, options: dict[str, Any]) -> str:
    """A preset with its options; that of a table is the table."""
    given = ", ".join(f"{k}={v:g}" for k, v in options.items() if not isinstance(v, str))
    return f"`{name}`" + (f" ({given})" if given else "")


def page() -> str:
    """The page."""
    head = "schedule | when to use it | other names and presets"
    return rendered(
        "schedules.md",
        globals(),
        worst=max(found["flux2"] / found["linear"] for found in errors("mixtures").values()),
        flows=len(load(DATA)["flows"]) - 1,
        sources=[source(i) for f in FAMILIES for i in own() if i.family == f],
        listed=[(title, table(head, (row(i) for i in own() if i.family == f))) for f, title in FAMILIES.items()],
    )


WRITTEN = {PAGE: page, PLOT: plot}

if __name__ == "__main__":
    build(__doc__, WRITTEN, measure)
