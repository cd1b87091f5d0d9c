"""``flowsamplers list``: describe samplers and schedules, with their measured orders."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from flowsamplers.cli.types import Command

if TYPE_CHECKING:
    from flowsamplers.catalogue import Entry
    from flowsamplers.registry import SamplerInfo, ScheduleInfo

WIDTH = 80


@click.command("list", cls=Command)
@click.argument("names", nargs=-1)
@click.option("--samplers", is_flag=True, help="Samplers only.")
@click.option("--schedules", is_flag=True, help="Schedules only.")
@click.option("--json", "as_rows", is_flag=True, help="Print JSON.")
def list_(names: tuple[str, ...], samplers: bool, schedules: bool, as_rows: bool) -> None:
    """List samplers and schedules: all of them, or those with the given NAMES.

    \b
    flowsamplers list
    flowsamplers list fireflow karras
    flowsamplers list --schedules
    flowsamplers list --samplers --json
    """  # noqa: D301
    from flowsamplers._accepted import unknown
    from flowsamplers._elsewhere import elsewhere
    from flowsamplers.schedules import list_schedules

    for name in [n for n in names if n.endswith(".json")]:
        click.echo("\n".join(solver_lines(name)))
    if names and all(n.endswith(".json") for n in names):
        return
    names = tuple(n for n in names if not n.endswith(".json"))
    methods = [] if schedules and not samplers else sampler_rows()
    grids = [] if samplers and not schedules else list_schedules()
    if names:
        known = [name for row in methods for name in _known(row)] + [name for i in grids for name in i.names]
        for name in names:
            if name not in known:
                raise unknown("sampler or schedule", name, known, elsewhere(name))
        methods = [row for row in methods if set(names) & set(_known(row))]
        grids = [i for i in grids if set(names) & set(i.names)]
    else:
        methods = [row for row in methods if not row["preset"]]
    if as_rows:
        click.echo(json.dumps({"samplers": methods, "schedules": [schedule_row(i) for i in grids]}, indent=2))
        return
    blocks = [("sampler", row["family"], sampler_lines(row)) for row in methods]
    blocks += [("schedule", i.family, schedule_lines(i)) for i in grids]
    click.echo("\n".join(_under_headings(blocks)))


def sampler_rows() -> list[dict[str, Any]]:
    """List all samplers, then all presets, as JSON values."""
    from flowsamplers.catalogue import catalogue, entry

    entries = catalogue()
    return [sampler_row(e) for e in (*entries, *(entry(name) for e in entries for name in e.info.presets))]


def _known(row: dict[str, Any]) -> list[str]:
    """The names by which a row is asked for."""
    return [row["preset"]] if row["preset"] else [row["name"], *row["aliases"]]


def solver_lines(path: str) -> list[str]:
    """The file of a fitted solver for the terminal."""
    from flowsamplers.solver import load_solver

    solver = load_solver(path)
    sigmas = ", ".join(f"{s:.4f}" for s in solver.grid.sigmas)
    about = ", ".join(f"{k}={v}" for k, v in solver.fitted_to.items())
    judged = [] if solver.validation is None else [*solver.validation.lines(), *_wrapped(solver.validation.verdict)]
    return [path, *_wrapped(f"sigmas: {sigmas}"), *_wrapped(f"fitted to: {about}"), *judged]


def sampler_row(entry: Entry) -> dict[str, Any]:
    """A sampler as JSON values."""
    info = entry.info
    first, usual, last = entry.evaluations or (None, None, None)
    return {
        **_of(info, "name", "preset", "aliases", "presets", "family", "order"),
        "order_in_literature": info.literature,
        "measured_inside": entry.inside,
        "measured_complete": entry.complete,
        "calls": entry.calls,
        "evaluations_per_step": usual,
        "evaluations_first_step": first,
        "evaluations_last_step": last,
        **_of(info, "stochastic", "adaptive"),
        "strong_order": info.strong_order if info.stochastic else None,
        "weak_order": info.weak_order if info.stochastic else None,
        "measured_strong": {key: asdict(o) for key, o in entry.strong.items()},
        "measured_weak": {key: asdict(o) for key, o in entry.weak.items()},
        **_of(info, "keeps_marginals", "keeps_noise_level", "options", "advice", "reference"),
    }


def schedule_row(info: ScheduleInfo) -> dict[str, Any]:
    """A schedule as JSON values."""
    names = ("name", "aliases", "presets", "family", "form", "complete", "exact_steps", "options", "summary", "advice")
    return _of(info, *names, "reference")


def _of(info: SamplerInfo | ScheduleInfo, *names: str) -> dict[str, Any]:
    return {name: getattr(info, name) for name in names}


def sampler_lines(row: dict[str, Any]) -> list[str]:
    """A sampler for the terminal."""
    from flowsamplers.catalogue import Observed, spread

    literature = row["order_in_literature"]
    order = f"order {row['order']}" + (f" ({literature} in the literature)" if literature != row["order"] else "")
    inside, complete = spread(row["measured_inside"]), spread(row["measured_complete"])
    measured = f"measured {inside or '?'} inside, {complete or '?'} complete" if inside or complete else "not measured here"
    if row["measured_strong"] or row["measured_weak"]:
        order += " without noise"
        measured = "; ".join(
            f"{kind} measured {', '.join(str(Observed(**its)) for its in row[f'measured_{kind}'].values())}"
            for kind in ("strong", "weak")
        )
    usual = row["evaluations_per_step"]
    ends = [f"{end} {row[f'evaluations_{end}_step']}" for end in ("first", "last") if row[f"evaluations_{end}_step"] != usual]
    calls = f"calls {row['calls']}" + (f" ({', '.join(ends)})" if ends else "")
    marginals = "keeps the marginals" if row["keeps_marginals"] else "does not keep the marginals"
    kind = (
        f"stochastic, strong order {row['strong_order']:g}, weak order {row['weak_order']}, {marginals}"
        if row["stochastic"]
        else "adaptive"
        if row["adaptive"]
        else "ODE"
    )
    preset = row["preset"]
    made = " ".join([row["name"], *(f"{k}={v}" for k, v in row["presets"].get(preset, {}).items())])
    names = (row["name"], *row["aliases"], *row["presets"])
    return [
        *_names((f"{preset}: {made}",) if preset else names),
        *_wrapped(f"{order}, {measured}; {calls}; {kind}"),
        *_options(row["options"]),
        *_wrapped(row["advice"]),
        *_wrapped(row["reference"]),
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
