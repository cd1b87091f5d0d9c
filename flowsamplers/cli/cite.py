"""``flowsamplers cite``: where samplers come from."""

from __future__ import annotations

import click

from flowsamplers.cli.types import Command
from flowsamplers.sampler import sampler_info


@click.command(cls=Command)
@click.argument("sampler")
def cite(sampler: str) -> None:
    """Print where a sampler comes from.

    \b
    flowsamplers cite fireflow
    """  # noqa: D301
    info = sampler_info(sampler)
    click.echo(f"{info.name}: {info.reference}")
