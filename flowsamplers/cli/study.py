"""``flowsamplers study``, ``study diff`` and ``report``."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from flowsamplers.cli.models import LOADING, model_options, open_flow, progress, settle_threads
from flowsamplers.cli.types import BUDGET, ENGINE, SAMPLER, SEED, SHIFT, Command, CommandWithOthers, Place, Several

if TYPE_CHECKING:
    from flowsamplers.study import Budget


@click.group(cls=CommandWithOthers, invoke_without_command=True)
@model_options("klein-emoji")
@click.option("--prompt", "prompts", multiple=True, help="Prompt; may be repeated.")
@click.option("--seed", "--seeds", "seeds", type=SEED, cls=Several, help="Seeds of the noise, one or several.  [default: 0 1]")
@click.option(
    "--sampler", "--samplers", "samplers", type=SAMPLER, cls=Several, help="NAME or NAME:option=value, one or several."
)
@click.option("--nfe", type=int, cls=Several, help="Numbers of model calls, one or several.")
@click.option("--schedule", default="flux2", show_default=True, help="Name of a schedule.")
@click.option(
    "--mu", type=SHIFT, default="fixed", show_default=True, help="Shift of flux2: a number, fixed (at 50 steps), follow."
)
@click.option("--metric", "metrics", multiple=True, help="Image metric of an installed package; may be repeated.")
@click.option("--max-batch", type=int, default=64, show_default=True, help="Rows in one model call.")
@click.option("--dry-run", is_flag=True, help="Only print the cost; write nothing.")
@click.option(
    "--budget",
    type=BUDGET,
    help="Stop at this number of evaluations, or after a time such as 90s, 10min, 2h. Run again to continue.",
)
@click.option("--engine", type=ENGINE, default="local", show_default=True, help="Run on this machine, or on a Ray cluster.")
@click.option("--out", type=Place(), help="Folder for rows and figures.  [default: studies/MODEL]")
@click.option("--references", type=Place(), help="Folder of references to share.  [default: OUT/references]")
@click.option("--preset", type=click.Choice(["klein-steps"]), help="Run this predefined study instead.")
@click.option("--json", "as_rows", is_flag=True, help="Print the rows as JSON lines, or the plan as JSON.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@click.pass_context
def study(
    ctx: click.Context,
    dry_run: bool,
    budget: Budget | None,
    engine: Literal["local", "ray"],
    out: Path | None,
    references: Path | None,
    preset: str | None,
    as_rows: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Measure the error of samplers against the number of model calls.

    Without arguments, it measures the bundled klein-emoji on this machine, in about two minutes. To continue an interrupted study,
    give the same command again.

    \b
    flowsamplers study
    flowsamplers study --dry-run
    flowsamplers study --samplers euler ab2:last=midpoint --nfe 4 8 16
    flowsamplers study --model black-forest-labs/FLUX.2-klein-base-4B --device cuda --prompt "a cat" --budget 2h
    flowsamplers study --preset klein-steps
    flowsamplers study diff studies/before studies/after
    """  # noqa: D301
    if ctx.invoked_subcommand is not None:
        return
    from flowsamplers.cli.steps import klein_steps
    from flowsamplers.study.bench import runs_by_key
    from flowsamplers.study.cost import Meter
    from flowsamplers.study.plan import Study
    from flowsamplers.study.report import caution, terminal
    from flowsamplers.study.rows import to_jsonl

    given = {name: value for name, value in settings.items() if value != ()}
    settle_threads(given["model"])
    folder = out or Path("studies") / re.sub(r"[^A-Za-z0-9._-]+", "-", given["model"])
    if preset:
        _check_preset(ctx, preset)
        with progress(quiet) as report:
            meter = Meter(open_flow(given["model"], given.get("prompts", (None,))[0], given["flow_options"]))
            meter.on_call = lambda _: report("runs", meter.rows, 0)
            text = klein_steps(meter, folder, seed=given.get("seeds", (0,))[0])
        click.echo(f"{text}\n\nimages: {folder / 'klein-steps.png'}")
        return
    wanted = Study(**given)
    if dry_run:
        plan = wanted.plan()
        click.echo(json.dumps(plan.to_dict()) if as_rows else "\n".join(plan.lines()))
        return
    with progress(quiet) as report:
        results = wanted.run(folder, engine=engine, budget=budget, references=references, progress=report)
    if as_rows:
        click.echo(to_jsonl(results.rows), nl=False)
        if first := caution(results):
            click.echo(first, err=True)
        return
    click.echo(terminal(results))
    missing = runs_by_key(wanted, results.settings["tokens"]).keys() - {row.key for row in results.rows}
    if missing:
        click.echo(f"\nThe budget ended before {len(missing)} runs were made; give the same command again to continue.")
    click.echo(f"\nreport: {folder / 'report.html'}")


def _check_preset(ctx: click.Context, preset: str) -> None:
    """Refuse options that a preset decides itself, and several prompts or seeds."""
    free = {*LOADING, "model", "size", "prompts", "seeds", "out", "preset", "quiet"}
    for name, value in ctx.params.items():
        if ctx.get_parameter_source(name) is not click.core.ParameterSource.COMMANDLINE:
            continue
        if name not in free:
            raise ValueError(f"{name}: the preset {preset} has no such option")
        if name in ("prompts", "seeds") and len(value) > 1:
            raise ValueError(f"{name}={list(value)}: the preset {preset} takes one")


@study.command("diff")
@click.argument("first", type=Place())
@click.argument("second", type=Place())
def diff_(first: Path, second: Path) -> None:
    """Compare two studies within their uncertainty; exit with 1 if they differ.

    \b
    flowsamplers study diff studies/before studies/after
    """  # noqa: D301
    from flowsamplers.study import diff, load

    found = diff(load(first), load(second))
    click.echo("\n".join(found.lines()))
    sys.exit(not found.same)


@click.command(cls=Command)
@click.argument("folder", type=Place())
def report(folder: Path) -> None:
    """Write the figures and the HTML report of a study again from its rows, and print its tables.

    \b
    flowsamplers report studies/klein-emoji
    """  # noqa: D301
    from flowsamplers.study import load
    from flowsamplers.study.report import REPORT, terminal, write

    results = load(folder)
    if not results.rows:
        raise ValueError(f"{folder}: this study has no rows yet; run its command again")
    write(results, folder)
    click.echo(f"{terminal(results)}\n\nreport: {folder / REPORT}")
