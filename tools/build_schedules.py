"""Measure samplers on every schedule and write the schedules' page: flowsamplers/measurements/schedules.json, docs/reference/schedules.md.

python tools/build_schedules.py           # measure (five minutes on one core), draw the plot, write the page
python tools/build_schedules.py --plot    # draw the plot and write the page from the committed rows
python tools/build_schedules.py --page    # write the page from the registry and the committed rows
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch

import flowsamplers as fs

ROOT = Path(__file__).parent.parent
DATA = ROOT / "flowsamplers" / "measurements" / "schedules.json"
PAGE = ROOT / "docs" / "reference" / "schedules.md"
PLOT = ROOT / "docs" / "assets" / "schedules.png"
SAMPLERS = ("euler", "fireflow", "unipc", "dpmpp_2m")
BUDGETS = (8, 16, 32)
KLEIN = "klein-digits"
FAMILIES = {
    "diffusers": "diffusers, FLUX, SD3, Wan: one pipeline",
    "comfyui": "ComfyUI: functions of the model's table",
    "closed": "Closed forms for a flow",
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


def steps_for(sampler: fs.Sampler, name: str, options: dict[str, Any], nfe: int) -> int:
    """The most steps that take at most so many model calls."""
    return next(n for n in range(nfe, 0, -1) if fs.nfe(sampler, fs.get_schedule(name, n, **options)) <= nfe)


def measure() -> None:
    """Run it all, on the flows of the benchmark."""
    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("build_benchmark", ROOT / "tools" / "build_benchmark.py")
    assert spec is not None
    assert spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    problems, rows = bench.flows(), list[dict[str, Any]]()
    for name, options in candidates():
        for sampler in map(fs.get_sampler, SAMPLERS):
            for budget in BUDGETS:
                steps = steps_for(sampler, name, options, budget)
                grid, errors = fs.get_schedule(name, steps, **options), []
                for velocity, x, truth in problems.values():
                    gap = fs.sample(velocity, x, grid, sampler).double() - truth
                    errors.append(float(f"{(gap.norm() / truth.norm()).item():.4g}"))
                made_of = {"schedule": name, "options": options, "sampler": fs.to_config(sampler)["name"]}
                rows.append({**made_of, "nfe": budget, "steps": steps, "errors": errors})
        print(label(name, options), flush=True)
    lines = ",\n".join(json.dumps(r) for r in rows)
    about = "relative Euclidean error of the final state; made by tools/build_schedules.py"
    DATA.write_text(f'{{"about": {json.dumps(about)}, "flows": {json.dumps(list(problems))}, "rows": [\n{lines}\n]}}\n')


SHOWN = 16
"""Model calls of the tables of all schedules."""


def errors(flow: str) -> dict[tuple[str, int], dict[str, float]]:
    """By sampler and number of calls the error on each schedule: on klein-digits, or the geometric mean over the mixtures."""
    data = json.loads(DATA.read_text())
    chosen = [i for i, f in enumerate(data["flows"]) if (f == KLEIN) == (flow == KLEIN)]
    out: dict[tuple[str, int], dict[str, float]] = {}
    for r in data["rows"]:
        mean = math.exp(sum(math.log(r["errors"][i]) for i in chosen) / len(chosen))
        out.setdefault((r["sampler"], r["nfe"]), {})[label(r["schedule"], r["options"])] = mean
    return out


def spec(name: str) -> str:
    """A label as a specification: ``oss_flux, start=1`` is ``oss_flux:start=1``."""
    return name.replace(", ", ":", 1)


def best(flow: str) -> list[str]:
    """The three schedules with the smallest errors, for each sampler and number of calls."""
    lines = [
        "| sampler, calls | best, its error | next | error on `linear` | on `flux2` |",
        "| --- | --- | --- | --: | --: |",
    ]
    for (sampler, budget), found in errors(flow).items():
        first, second, third = sorted(found, key=found.__getitem__)[:3]
        lines.append(
            f"| `{sampler}`, {budget} | **{spec(first)}** {found[first]:.2g} | {spec(second)}, {spec(third)} | {found['linear']:.2g} "
            f"| {found['flux2']:.2g} |"
        )
    return lines


def table(flow: str) -> list[str]:
    """Every schedule with one number of calls: its error as a multiple of that on the uniform one."""
    cells = {at: found for at, found in errors(flow).items() if at[1] == SHOWN}
    names = list(next(iter(cells.values())))
    order = sorted(names, key=lambda n: sum(math.log(found[n]) for found in cells.values()))
    lines = [
        "| schedule | " + " | ".join(f"`{s}`" for s, _ in cells) + " |",
        "| --- |" + " --: |" * len(cells),
    ]
    for name in order:
        row = [(found[name] / found["linear"], found[name] == min(found.values())) for found in cells.values()]
        lines.append(f"| {spec(name)} | " + " | ".join(f"**{r:.2f}**" if least else f"{r:.2f}" for r, least in row) + " |")
    return lines


def plot() -> None:
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
    figure.savefig(PLOT, dpi=110)


def row(info: fs.ScheduleInfo) -> str:
    """A line of the catalogue."""
    runs = "1 to 0" if info.complete else "begins below 1"
    runs += "" if info.exact_steps else "; its own number of steps"
    cells = (f"`{info.name}`", info.summary, runs, info.advice)
    return "| " + " | ".join(c.replace("|", "\\|").replace("``", "`") for c in cells) + " |"


def about(info: fs.ScheduleInfo) -> str:
    """Other names, presets, options and source of a schedule, as a list item."""
    options = ", ".join(f"`{k}={v}`" for k, v in info.options.items() if k != "arithmetic")
    if info.name == "flow_match_euler":
        options = "all of the scheduler's configuration"
    presets = "; ".join(f"`{p}` ({', '.join(f'{k}={v}' for k, v in o.items())})" for p, o in info.presets.items())
    parts = [
        f"other names {', '.join(f'`{n}`' for n in info.aliases)}" if info.aliases else "",
        f"presets {presets}" if presets else "",
        f"options {options}" if options else "",
        f"form of {info.form}" if info.form else "",
        f"source {info.reference}" if info.reference else "",
    ]
    return f"* `{info.name}`: {'; '.join(part for part in parts if part)}."


def page() -> str:
    """The page."""
    infos = own()
    worst = max(found["flux2"] / found["linear"] for found in errors("mixtures").values())
    text = [
        "# Schedules",
        "",
        "<!-- written by tools/build_schedules.py from the registry and flowsamplers/measurements/schedules.json -->",
        "",
        "A schedule is the list of noise levels at which the steps of a run begin and end. `fs.get_schedule(name, steps, **options)`, or the",
        "function with that name in `flowsamplers.schedules`, makes one. `flowsamplers list --schedules` lists them, and",
        "`flowsamplers schedule --schedule NAME --steps 8 --option NAME=VALUE` prints the numbers of one.",
        "[Custom schedules](../howto/custom-schedules.md) shows how to change a schedule and how to use your own.",
        "",
        "**Some names mean two schedules.** diffusers and ComfyUI have different nodes for `karras`, `exponential` and `beta`. Here the plain",
        "name is diffusers' schedule, and ComfyUI's ends in `_comfy`. k-diffusion's rules in their own variable end in `_ve`. A name that only",
        "ComfyUI or RES4LYF has is their schedule.",
        "",
        "![The nodes of every schedule at 8 and at 20 steps, one row for each](../assets/schedules.png)",
        "",
        "## Which schedule for which sampler?",
        "",
        "Four samplers with their default options ran on every schedule with its default options, at equal model calls. `fireflow` needs one",
        "call for its start, so it takes one step less. The error is the relative Euclidean distance to the exact solution.",
        "",
        f"These flows rank schedules by their numerical error. On mixtures FLUX.2's schedule has up to {worst:.0f} times the error of `linear`. Do not",
        "conclude this for a real FLUX.2 model: a mixture does not decide the content of an image at high noise, and shifted schedules were",
        "made for that phase. Measure your model with `flowsamplers study --model ... --schedule NAME`.",
        "",
        f"### Mixtures of Gaussians: geometric mean over {len(json.loads(DATA.read_text())['flows']) - 1} of them",
        "",
        *best("mixtures"),
        "",
        "### klein-digits",
        "",
        *best(KLEIN),
        "",
        f"### All schedules with {SHOWN} calls",
        "",
        "The error is given as a multiple of the error on `linear`; the smallest of each column is bold. The values for all numbers of calls are",
        "in `flowsamplers/measurements/schedules.json`. On mixtures of Gaussians:",
        "",
        *table("mixtures"),
        "",
        "On klein-digits:",
        "",
        *table(KLEIN),
        "",
    ]
    for family, title in FAMILIES.items():
        text += [
            f"## {title}",
            "",
            "| schedule | what it is | runs | when to use it |",
            "| --- | --- | --- | --- |",
            *[row(i) for i in infos if i.family == family],
            "",
            *[about(i) for i in infos if i.family == family],
            "",
            f"::: flowsamplers.schedules.{family}",
            "",
        ]
    return "\n".join(text)


if __name__ == "__main__":
    if not {"--page", "--plot"} & set(sys.argv[1:]):
        measure()
    if "--page" not in sys.argv[1:]:
        plot()
    PAGE.write_text(page())
