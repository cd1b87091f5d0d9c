"""``flowsamplers schedule``: print a schedule; no model is needed."""

from __future__ import annotations

import json
from typing import Any

import click

from flowsamplers.cli.types import SIZE, Command


@click.command(cls=Command)
@click.option("--steps", type=int, default=4, show_default=True)
@click.option("--size", type=SIZE, default="1024x1024", show_default=True, help="WIDTHxHEIGHT in pixels.")
@click.option("--tokens", type=int, help="Latent tokens, instead of the size.")
@click.option("--schedule", "name", default="flux2", show_default=True, help="Name of a schedule, see list --schedules.")
@click.option("--option", "options", multiple=True, help="NAME=VALUE, an option of the schedule; may be repeated.")
@click.option("--mu", type=float, help="Fix the shift at this value; short for --option mu=VALUE.")
@click.option("--sigmas", help="Explicit sigmas, separated by commas, instead of a schedule.")
@click.option("--json", "as_rows", is_flag=True, help="Print JSON.")
def schedule(
    steps: int,
    size: tuple[int, int],
    tokens: int | None,
    name: str,
    options: tuple[str, ...],
    mu: float | None,
    sigmas: str | None,
    as_rows: bool,
) -> None:
    """Print the numbers of a schedule: sigmas, timesteps, dt and their sum.

    \b
    flowsamplers schedule --steps 4 --size 1024x1024
    flowsamplers schedule --schedule beta_comfy --steps 8 --option shift=3 --option points=1000
    flowsamplers schedule --schedule table --option nodes=[1,0.9,0.5,0.01] --steps 6
    """  # noqa: D301
    import flowsamplers as fs
    from flowsamplers.registry import parse_options
    from flowsamplers.registry.specifications import as_declared
    from flowsamplers.schedules.shown import ScheduleTable, grid_lines

    given: dict[str, Any] = {**parse_options(options, "--option"), **({} if mu is None else {"mu": mu})}
    if sigmas is not None:
        grid = fs.schedules.explicit([_number(s) for s in sigmas.split(",")])
    else:
        info = fs.schedule_info(name)
        if "tokens" in info.options:
            given.setdefault("tokens", fs.schedules.tokens_for(*size) if tokens is None else tokens)
        if info.name == "flux2" and set(given) <= {"tokens", "mu"}:
            shift = as_declared("mu", given.get("mu"), "float | None")
            table = ScheduleTable.of(steps, as_declared("tokens", given["tokens"], "int"), shift)
            click.echo(json.dumps(table.to_dict()) if as_rows else "\n".join(table.lines()))
            return
        grid = fs.get_schedule(name, steps, **given)
    if as_rows:
        click.echo(json.dumps({"sigmas": grid.sigmas, "timesteps": grid.timesteps, "dt": grid.dt, "sum": sum(grid.dt)}))
        return
    click.echo("\n".join(grid_lines(grid)))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"sigmas: {text!r} is no number; give them as 1.0,0.5,0.0") from None
