"""``flowsamplers trace``: print every model call of one run."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import click

from flowsamplers.cli.models import model_options, open_flow
from flowsamplers.cli.types import SAMPLER, SEED, Command

if TYPE_CHECKING:
    from flowsamplers.sampler import Sampler


@click.command(cls=Command)
@model_options("klein-digits")
@click.option("--sampler", "method", type=SAMPLER, default="euler", show_default=True)
@click.option("--steps", type=int, default=4, show_default=True)
@click.option("--prompt", help="What to draw.")
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option("--json", "as_rows", is_flag=True, help="Print JSON.")
def trace(
    model: str, flow_options: dict[str, Any], method: Sampler, steps: int, prompt: str | None, seed: int, as_rows: bool
) -> None:
    """Run once and print every model call.

    \b
    flowsamplers trace --sampler heun --steps 4
    """  # noqa: D301
    import flowsamplers as fs
    from flowsamplers.sampler import grid_from_noise
    from flowsamplers.study.bench import forward_passes

    flow = open_flow(model, prompt, flow_options)
    grid = grid_from_noise(method) or fs.schedules.flux2(steps, tokens=flow.tokens, arithmetic="stock")
    run = fs.trace(flow.velocity, flow.noise([seed]), grid, method, seed=seed)
    parts = flow.parts() if hasattr(flow, "parts") else []
    rows = [
        {"step": e.step, "stage": e.stage, "sigma": e.sigma, "timestep": 1000 * e.sigma, "dt": grid.dt[e.step]}
        | {"x_rms": e.x_norm, "v_rms": e.v_norm}
        for e in run.evaluations
    ]
    if as_rows:
        click.echo(json.dumps({"parts": parts, "evaluations": rows, "sum_of_dt": sum(grid.dt)}))
        return
    for name, kind, count in parts:
        click.echo(f"{name:<14} {kind:<34} {f'{count:,} parameters' if count else ''}")
    about = {k: v for k, v in flow.describe().items() if k in ("is_distilled", "guidance_scale", "tokens")}
    click.echo("  ".join(f"{k}={v}" for k, v in about.items()))
    click.echo(f"\n{'step':>4} {'stage':>5} {'sigma':>10} {'timestep':>10} {'dt of step':>11} {'rms x':>9} {'rms v':>9}")
    line = "{step:>4} {stage:>5} {sigma:>10.7f} {timestep:>10.4f} {dt:>11.7f} {x_rms:>9.5f} {v_rms:>9.5f}"
    click.echo("\n".join(line.format(**row) for row in rows))
    lost = next((r for r in rows if not math.isfinite(r["v_rms"])), None)
    if lost is not None:
        raise FloatingPointError(f"the velocity at sigma {lost['sigma']:g} in step {lost['step']} is not finite")
    passes = forward_passes(flow, (e.sigma for e in run.evaluations))
    click.echo(f"sum of dt {sum(grid.dt):.7f}, {run.nfe} model calls, {passes} forward passes")
