"""``flowsamplers schedule`` and ``flowsamplers list``: numbers that need no model."""

from __future__ import annotations

import json
from typing import Any

import click

import flowsamplers as fs
from flowsamplers.cli.types import Command, Size
from flowsamplers.schedules import list_schedules, tokens_for
from flowsamplers.study.steps import ScheduleTable, as_json, grid_lines


@click.command(cls=Command)
@click.option("--steps", type=int, default=4, show_default=True)
@click.option("--size", type=Size(), default="1024x1024", show_default=True, help="WIDTHxHEIGHT in pixels.")
@click.option("--tokens", type=int, help="Latent tokens, instead of the size.")
@click.option("--schedule", "name", default="flux2", show_default=True, help="Name of a schedule, see list --schedules.")
@click.option("--mu", type=float, help="Hold the shift of flux2 here.")
@click.option("--sigmas", help="Explicit sigmas, separated by commas, instead of a schedule.")
@click.option("--json", "as_rows", is_flag=True, help="Print JSON.")
def schedule(
    steps: int, size: tuple[int, int], tokens: int | None, name: str, mu: float | None, sigmas: str | None, as_rows: bool
) -> None:
    """Print the numbers of a schedule: sigmas, timesteps, dt and their sum.

    \b
    flowsamplers schedule --steps 4 --size 1024x1024
    flowsamplers schedule --schedule beta --steps 8
    """  # noqa: D301
    tokens = tokens_for(*size) if tokens is None else tokens
    if name == "flux2" and sigmas is None:
        table = ScheduleTable.of(steps, tokens, mu)
        click.echo(json.dumps(as_json(table)) if as_rows else "\n".join(table.lines()))
        return
    if sigmas is not None:
        grid = fs.schedules.explicit([_number(s) for s in sigmas.split(",")])
    else:
        grid = fs.get_schedule(name, steps, **({"tokens": tokens} if name == "flux1" else {}))
    if as_rows:
        click.echo(json.dumps({"sigmas": grid.sigmas, "timesteps": grid.timesteps, "dt": grid.dt, "sum": sum(grid.dt)}))
        return
    click.echo("\n".join(grid_lines(grid)))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"sigmas: {text!r} is no number; give them as 1.0,0.5,0.0") from None


@click.command("list", cls=Command)
@click.option("--schedules", is_flag=True, help="Schedules instead of samplers.")
@click.option("--json", "as_rows", is_flag=True, help="Print JSON.")
def list_(schedules: bool, as_rows: bool) -> None:
    """List samplers, or schedules.

    \b
    flowsamplers list
    flowsamplers list --schedules
    """  # noqa: D301
    if schedules:
        infos = [{"name": s.name, "options": sorted(s.options), "summary": s.summary} for s in list_schedules()]
        lines = [f"{s['name']:<17} {s['summary']}" for s in infos]
    else:
        grid = fs.schedules.linear(8)
        infos: list[dict[str, Any]] = [
            {
                "name": i.name,
                "aliases": list(i.aliases),
                "family": i.family,
                "order": i.order,
                "nfe_at_8_steps": None if i.adaptive else fs.nfe(i.name, grid),
                "stochastic": i.stochastic,
                "adaptive": i.adaptive,
                "keeps_marginals": i.keeps_marginals,
                "keeps_noise_level": i.keeps_noise_level,
                "options": i.options,
                "reference": i.reference,
            }
            for i in fs.list_samplers()
        ]
        lines = [f"{'name':<10} {'order':>5} {'calls at 8 steps':>17}  {'kind':<10} also known as"]
        for info in infos:
            kind = "stochastic" if info["stochastic"] else "ODE"
            aliases = ", ".join(info["aliases"])
            lines.append(f"{info['name']:<10} {info['order']:>5} {info['nfe_at_8_steps']!s:>17}  {kind:<10} {aliases}")
    click.echo(json.dumps(infos, indent=2) if as_rows else "\n".join(lines))
