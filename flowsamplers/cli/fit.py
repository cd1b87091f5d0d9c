"""``flowsamplers fit``: fit a schedule and a sampler to a model."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from flowsamplers._accepted import integer, number
from flowsamplers.cli.models import model_options, open_flow, progress
from flowsamplers.cli.types import BUDGET, ENGINE, SEED, Command, Place, Several, check_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowsamplers.study.cost import Budget


@click.command(cls=Command)
@model_options("klein-digits")
@click.option("--prompt", "prompts", multiple=True, help="Prompt to fit to; may be repeated.")
@click.option(
    "--held-prompt",
    "held",
    multiple=True,
    help="Prompt to validate with; may be repeated.  [default: the prompts, with other seeds]",
)
@click.option(
    "--rows",
    type=int,
    help="Starting noises, each with a prompt. Every fourth is used for validation.  [default: 32; 4,096 of up to 64 numbers]",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the first starting noise; the others count on.")
@click.option("--nfe", type=int, cls=Several, help="Model calls, one or several.  [default: 8]")
@click.option("--nodes", type=int, default=48, show_default=True, help="Nodes of the reference paths.")
@click.option("--rounds", type=int, default=3, show_default=True, help="Gauss-Newton steps; 0 uses only the profile.")
@click.option("--profile", "kept", type=Place(), help="Store the profile in this file; an interrupted profile resumes.")
@click.option("--start", type=float, default=1.0, show_default=True, help="Sigma where runs begin; below 1 for image-to-image.")
@click.option("--distilled", is_flag=True, help="Allow a distilled model.")
@click.option("--max-batch", type=int, help="Rows in one model call.  [default: 64; more of rows with few numbers]")
@click.option(
    "--engine", type=ENGINE, default="local", show_default=True, help="Measure the paths on this machine, or on a Ray cluster."
)
@click.option("--dry-run", is_flag=True, help="Only print the cost; write nothing.")
@click.option("--budget", type=BUDGET, help="Stop at this number of evaluations, or after a time such as 90s, 10min, 2h.")
@click.option("--out", type=Place(), default=Path("solver.json"), show_default=True, help="JSON file.")
@click.option("--json", "as_rows", is_flag=True, help="Print the solvers as JSON lines, or the plan as JSON.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def fit(
    model: str,
    flow_options: dict[str, Any],
    prompts: tuple[str, ...],
    held: tuple[str, ...],
    rows: int | None,
    seed: int,
    nfe: tuple[int, ...],
    nodes: int,
    rounds: int,
    kept: Path | None,
    start: float,
    distilled: bool,
    max_batch: int | None,
    engine: Literal["local", "ray"],
    dry_run: bool,
    budget: Budget | None,
    out: Path,
    as_rows: bool,
    quiet: bool,
) -> None:
    """Fit a schedule and a sampler to a model and a number of model calls.

    The result is a file, which every option --sampler accepts. Several numbers of calls give one file each, such as solver-8.json.

    \b
    flowsamplers fit --nfe 8 --out klein8.json
    flowsamplers fit --nfe 4 8 --rows 16 --dry-run
    flowsamplers fit --model black-forest-labs/FLUX.2-klein-base-4B --device cuda --prompt "a cat" --profile cat.safetensors
    flowsamplers fit --start 0.6 --nfe 4 --out edit4.json
    flowsamplers generate --sampler klein8.json
    """  # noqa: D301
    import torch

    from flowsamplers.evaluated import batch_of
    from flowsamplers.fitting import Rows, evaluations_at_most, noised_images, rows_for
    from flowsamplers.flows import default_prompts
    from flowsamplers.study.cluster import OnRay
    from flowsamplers.study.cost import Meter, probe

    wanted = nfe or (8,)
    _check(rows, nodes, start, wanted, rounds, engine)
    if max_batch is not None and max_batch < 1:
        raise ValueError(f"max_batch={max_batch}: a model call needs at least 1 row")
    check_file(out, "a JSON file")
    own = default_prompts(model)
    fitting = prompts or own.given
    judging = held or prompts or own.held
    flow = open_flow(model, fitting[0], flow_options)
    if getattr(flow, "is_distilled", False) and not distilled:
        raise ValueError(
            f"model={model!r} is distilled: it was trained for a few Euler steps, and following its paths more closely may not please. "
            "Pass --distilled to fit to it all the same"
        )
    rows = rows or rows_for(flow.noise([0]))
    condition = prompts_of_rows(fitting, judging, rows)
    edits = start < 1
    cost = evaluations_at_most(rows, wanted, rounds, nodes, edits=edits)
    meter = Meter(flow, budget)
    if dry_run:
        timed = probe(meter, fitting[0], min(rows, batch_of(flow.noise([0]), max_batch)))
        plan = {"evaluations": cost, "passes": flow.passes_per_evaluation * cost, "seconds": cost * timed.batched}
        text = f"at most {cost:,} evaluations, {plan['passes']:,} forward passes, about {plan['seconds']:.0f} s"
        click.echo(json.dumps(plan) if as_rows else text)
        return
    prompts_used = {"prompts": list(fitting), "held_prompts": list(judging)}
    about = {**flow.describe(), **prompts_used, "first_seed": seed, "torch": torch.__version__}
    with progress(quiet) as report:
        meter.on_call = lambda _: report("fit", meter.rows, cost)
        noise = flow.noise([seed + i for i in range(rows + edits * rows)])
        x1 = noised_images(meter, noise, start, condition, nodes) if edits else noise
        measured = Rows.of(
            meter,
            x1,
            start=start,
            condition=condition,
            max_batch=max_batch,
            nodes=nodes,
            file=kept,
            about=about,
            parts=OnRay(partial(open_flow, model, fitting[0], flow_options), meter) if engine == "ray" else None,
        )
        solvers = [measured.fit(n, rounds=rounds, tokens=flow.tokens) for n in wanted]
    for n, solver in zip(wanted, solvers, strict=True):
        path = out if len(wanted) == 1 else out.with_name(f"{out.stem}-{n}{out.suffix}")
        solver.save(path)
        if as_rows:
            click.echo(json.dumps(solver.to_dict()))
            continue
        if solver.validation is not None:
            click.echo("\n".join([*solver.validation.lines(), "", solver.validation.verdict]))
        click.echo(f"solver: {path}\n")


def prompts_of_rows(fitting: Sequence[str | None], judging: Sequence[str | None], rows: int) -> list[str | None]:
    """Give every fourth row a prompt that judges, and the others the prompts to fit to, each in turn.

    Examples:
        >>> prompts_of_rows(["a", "b"], ["z"], 8)
        ['a', 'b', 'a', 'z', 'b', 'a', 'b', 'z']
    """
    from flowsamplers.fitting import FOLDS
    from flowsamplers.validation import JUDGE

    return [
        judging[i // FOLDS % len(judging)] if i % FOLDS == JUDGE else fitting[(i - i // FOLDS) % len(fitting)]
        for i in range(rows)
    ]


def _check(rows: int | None, nodes: int, start: float, wanted: tuple[int, ...], rounds: int, engine: str) -> None:
    """Refuse what no fit can be made of, before a model is opened."""
    if engine == "ray":
        from flowsamplers.study.cluster import ray_here

        ray_here()
    integer("nodes", nodes, 1)
    number("start", start, most=1, above=0)
    if rows is not None and rows < 1:
        raise ValueError(f"rows={rows}: a fit needs at least 1")
    if rounds < 0:
        raise ValueError(f"rounds={rounds}: must not be negative; 0 uses the profile alone")
    if len(set(wanted)) < len(wanted):
        raise ValueError(f"nfe={list(wanted)}: one of them is there twice")
    for n in wanted:
        if not 1 <= n <= nodes:
            raise ValueError(f"nfe={n}: a solver makes from 1 to {nodes} calls, as many as the profile has nodes")
