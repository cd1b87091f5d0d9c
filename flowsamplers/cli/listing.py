"""``flowsamplers list``: describe samplers and schedules, with their measured orders."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Any

import click

from flowsamplers.cli.types import Command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowsamplers.catalogue import Entry
    from flowsamplers.registry import ScheduleInfo

WIDTH = 80
MEASURED = ("verdict", "order", "bar", "errors", "bars")


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
    methods = [] if schedules and not samplers else entries()
    grids = [] if samplers and not schedules else list_schedules()
    if names:
        known = [name for e in methods for name in _known(e)] + [name for i in grids for name in i.names]
        for name in names:
            if name not in known:
                raise unknown("sampler or schedule", name, known, elsewhere(name))
        methods = [e for e in methods if set(names) & set(_known(e))]
        grids = [i for i in grids if set(names) & set(i.names)]
    else:
        methods = [e for e in methods if not e.info.preset]
    if as_rows:
        rows = {"samplers": [sampler_row(e) for e in methods], "schedules": [schedule_row(i) for i in grids]}
        click.echo(json.dumps(rows, indent=2))
        return
    blocks = [("sampler", e.info.family, sampler_lines(e)) for e in methods]
    blocks += [("schedule", i.family, schedule_lines(i)) for i in grids]
    click.echo("\n".join(_under_headings(blocks)))


def entries() -> list[Entry]:
    """List the catalogue's entries of all samplers, then of all presets."""
    from flowsamplers.catalogue import catalogue, entry

    methods = catalogue()
    return [*methods, *(entry(name) for e in methods for name in e.info.presets)]


def _known(entry: Entry) -> tuple[str, ...]:
    """The names by which an entry is found."""
    return (entry.info.preset,) if entry.info.preset else (entry.info.name, *entry.info.aliases)


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
        "measured_strong": {key: _of(o, *MEASURED) for key, o in entry.strong.items()},
        "measured_weak": {key: _of(o, *MEASURED) for key, o in entry.weak.items()},
        **_of(info, "keeps_marginals", "keeps_noise_level", "options", "advice", "reference"),
    }


def schedule_row(info: ScheduleInfo) -> dict[str, Any]:
    """A schedule as JSON values."""
    names = ("name", "aliases", "presets", "family", "form", "complete", "exact_steps", "options", "summary", "advice")
    return _of(info, *names, "reference")


def _of(info: object, *names: str) -> dict[str, Any]:
    return {name: getattr(info, name) for name in names}


def sampler_lines(entry: Entry) -> list[str]:
    """A sampler for the terminal."""
    from flowsamplers.catalogue import spread

    info = entry.info
    order = f"order {info.order}" + (f" ({info.literature} in the literature)" if info.literature != info.order else "")
    inside, complete = spread(entry.inside), spread(entry.complete)
    measured = f"measured {inside or '?'} inside, {complete or '?'} complete" if inside or complete else "not measured here"
    if entry.strong or entry.weak:
        order += " without noise"
        kinds = {"strong": entry.strong, "weak": entry.weak}
        measured = "; ".join(f"{kind} measured {', '.join(map(str, found.values()))}" for kind, found in kinds.items())
    calls = f"calls {entry.calls}" + (f" ({entry.ends})" if entry.ends else "")
    kind = "adaptive" if info.adaptive else "ODE"
    if info.stochastic:
        marginals = "keeps the marginals" if info.keeps_marginals else "does not keep the marginals"
        kind = f"stochastic, strong order {info.strong_order:g}, weak order {info.weak_order}, {marginals}"
    made = " ".join([info.name, *(f"{k}={v}" for k, v in info.presets.get(info.preset, {}).items())])
    names = [f"{info.preset}: {made}"] if info.preset else info.names
    return _block(names, f"{order}, {measured}; {calls}; {kind}", info.options, info.advice, info.reference)


def schedule_lines(info: ScheduleInfo) -> list[str]:
    """A schedule for the terminal."""
    notes = [
        f"form: {info.form}" if info.form else "",
        "" if info.complete else "begins below 1",
        "" if info.exact_steps else "has its own number of steps",
    ]
    about, summary = "; ".join(n for n in notes if n), info.summary.replace("``", "")
    return _block(info.names, about, info.options, summary, info.advice, info.reference)


def _block(names: Sequence[str], about: str, options: dict[str, Any], *texts: str) -> list[str]:
    words = ", ".join(f"{k}={json.dumps(v) if isinstance(v, dict) else v}" for k, v in options.items())
    lines = [about, f"options: {words}" if words else "", *texts]
    heading = textwrap.wrap(", ".join(names), WIDTH, subsequent_indent="    ")
    return [*heading, *(line for text in lines for line in _wrapped(text))]


def _under_headings(blocks: list[tuple[str, str, list[str]]]) -> list[str]:
    lines: list[str] = []
    for heading in dict.fromkeys((kind, family) for kind, family, _ in blocks):
        kind, family = heading
        lines += [f"{kind.upper()}S: {family.replace('_', ' ')}", ""]
        for block in (b for k, f, b in blocks if (k, f) == heading):
            lines += [*block, ""]
    return lines[:-1]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
