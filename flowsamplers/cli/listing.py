"""``flowsamplers list``: what the registry knows of samplers and schedules, beside what was measured of them."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict
from typing import Any

import click

from flowsamplers._elsewhere import elsewhere
from flowsamplers._errors import unknown
from flowsamplers.catalogue import Entry, catalogue, entry, spread
from flowsamplers.cli.types import Command
from flowsamplers.schedules import ScheduleInfo, list_schedules
from flowsamplers.solver import load_solver

WIDTH = 80


@click.command("list", cls=Command)
@click.argument("names", nargs=-1)
@click.option("--samplers", is_flag=True, help="Samplers only.")
@click.option("--schedules", is_flag=True, help="Schedules only.")
@click.option("--json", "as_rows", is_flag=True, help="Print JSON.")
def list_(names: tuple[str, ...], samplers: bool, schedules: bool, as_rows: bool) -> None:
    """List samplers and schedules, or those with the NAMES given.

    \b
    flowsamplers list
    flowsamplers list fireflow karras
    flowsamplers list --schedules
    flowsamplers list --samplers --json
    """  # noqa: D301
    for name in [n for n in names if n.endswith(".json")]:
        click.echo("\n".join(solver_lines(name)))
    if names and all(n.endswith(".json") for n in names):
        return
    names = tuple(n for n in names if not n.endswith(".json"))
    methods = [] if schedules and not samplers else catalogue()
    grids = [] if samplers and not schedules else list_schedules()
    if names:
        known = [name for e in methods for name in e.info.names] + [name for i in grids for name in i.names]
        for name in names:
            if name not in known:
                raise unknown("sampler or schedule", name, known, elsewhere(name))
        presets = [name for e in methods for name in e.info.presets if name in names]
        methods = [e for e in methods if set(names) & {e.info.name, *e.info.aliases}] + [entry(name) for name in presets]
        grids = [i for i in grids if set(names) & set(i.names)]
    if as_rows:
        rows = {"samplers": [sampler_row(e) for e in methods], "schedules": [schedule_row(i) for i in grids]}
        click.echo(json.dumps(rows, indent=2))
        return
    blocks = [("sampler", e.info.family, sampler_lines(e)) for e in methods]
    blocks += [("schedule", i.family, schedule_lines(i)) for i in grids]
    click.echo("\n".join(_under_headings(blocks)))


def solver_lines(path: str) -> list[str]:
    """The file of a fitted solver for the terminal."""
    solver = load_solver(path)
    told = ", ".join(f"{k}={v}" for k, v in solver.fitted_to.items())
    judged = [] if solver.validation is None else [*solver.validation.lines(), *_wrapped(solver.validation.verdict)]
    return [
        path,
        *_wrapped("sigmas: " + ", ".join(f"{s:.4f}" for s in solver.grid.sigmas)),
        *_wrapped(f"fitted to: {told}"),
        *judged,
    ]


def sampler_row(entry: Entry) -> dict[str, Any]:
    """A sampler as JSON values."""
    info = entry.info
    first, usual, last = entry.evaluations or (None, None, None)
    return {
        "name": info.name,
        "preset": info.preset,
        "aliases": list(info.aliases),
        "presets": {k: dict(v) for k, v in info.presets.items()},
        "family": info.family,
        "order": info.order,
        "order_in_literature": info.literature,
        "measured_inside": dict(entry.inside),
        "measured_complete": dict(entry.complete),
        "calls": entry.calls,
        "evaluations_per_step": usual,
        "evaluations_first_step": first,
        "evaluations_last_step": last,
        "stochastic": info.stochastic,
        "adaptive": info.adaptive,
        "strong_order": info.strong_order if info.stochastic else None,
        "weak_order": info.weak_order if info.stochastic else None,
        "measured_strong": {key: asdict(o) for key, o in entry.strong.items()},
        "measured_weak": {key: asdict(o) for key, o in entry.weak.items()},
        "keeps_marginals": info.keeps_marginals,
        "keeps_noise_level": info.keeps_noise_level,
        "options": info.options,
        "advice": info.advice,
        "reference": info.reference,
    }


def schedule_row(info: ScheduleInfo) -> dict[str, Any]:
    """A schedule as JSON values."""
    return {
        "name": info.name,
        "aliases": list(info.aliases),
        "presets": {k: dict(v) for k, v in info.presets.items()},
        "family": info.family,
        "form": info.form,
        "complete": info.complete,
        "exact_steps": info.exact_steps,
        "options": info.options,
        "summary": info.summary,
        "advice": info.advice,
        "reference": info.reference,
    }


def sampler_lines(entry: Entry) -> list[str]:
    """A sampler for the terminal."""
    info = entry.info
    order = f"order {info.order}" + (f" ({info.literature} in the literature)" if info.literature != info.order else "")
    inside, complete = spread(entry.inside), spread(entry.complete)
    measured = f"measured {inside or '?'} inside, {complete or '?'} complete" if inside or complete else "not measured here"
    if entry.strong or entry.weak:
        order += " without noise"
        measured = "; ".join(
            f"{kind} measured {', '.join(map(str, its.values()))}"
            for kind, its in (("strong", entry.strong), ("weak", entry.weak))
        )
    calls = f"calls {entry.calls}" + (f" ({entry.ends})" if entry.ends else "")
    marginals = "keeps the marginals" if info.keeps_marginals else "does not keep the marginals"
    kind = (
        f"stochastic, strong order {info.strong_order:g}, weak order {info.weak_order}, {marginals}"
        if info.stochastic
        else "adaptive"
        if info.adaptive
        else "ODE"
    )
    made = " ".join([info.name, *(f"{k}={v}" for k, v in info.presets.get(info.preset, {}).items())])
    return [
        *_names((f"{info.preset}: {made}",) if info.preset else info.names),
        *_wrapped(f"{order}, {measured}; {calls}; {kind}"),
        *_options(info.options),
        *_wrapped(info.advice),
        *_wrapped(info.reference),
    ]


def schedule_lines(info: ScheduleInfo) -> list[str]:
    """A schedule for the terminal."""
    notes = [
        f"form: {info.form}" if info.form else "",
        "" if info.complete else "begins below 1",
        "" if info.exact_steps else "has its own number of steps",
    ]
    return [
        *_names(info.names),
        *_wrapped("; ".join(n for n in notes if n)),
        *_options(info.options),
        *_wrapped(info.summary.replace("``", "")),
        *_wrapped(info.advice),
        *_wrapped(info.reference),
    ]


def _under_headings(blocks: list[tuple[str, str, list[str]]]) -> list[str]:
    lines: list[str] = []
    for heading in dict.fromkeys((kind, family) for kind, family, _ in blocks):
        kind, family = heading
        lines += [f"{kind.upper()}S: {family.replace('_', ' ')}", ""]
        for block in (b for k, f, b in blocks if (k, f) == heading):
            lines += [*block, ""]
    return lines[:-1]


def _names(names: tuple[str, ...]) -> list[str]:
    return textwrap.wrap(", ".join(names), WIDTH, subsequent_indent="    ")


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)


def _options(options: dict[str, Any]) -> list[str]:
    words = ", ".join(f"{k}={json.dumps(v) if isinstance(v, dict) else v}" for k, v in options.items())
    return _wrapped(f"options: {words}") if options else []
