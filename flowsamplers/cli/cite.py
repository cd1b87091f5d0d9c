"""``flowsamplers cite``: print BibTeX."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flowsamplers.cli.types import SAMPLER, Command

if TYPE_CHECKING:
    from flowsamplers.sampler import Sampler


@click.command(cls=Command)
@click.argument("samplers", nargs=-1, type=SAMPLER)
@click.option("--schedule", "schedules", multiple=True, help="A schedule that you used; may be repeated.")
def cite(samplers: tuple[Sampler, ...], schedules: tuple[str, ...]) -> None:
    """Print BibTeX of the library, samplers and schedules.

    SAMPLERS are NAME or NAME:option=value. Samplers of their first or last step are included. Without arguments, everything is
    printed.

    \b
    flowsamplers cite fireflow
    flowsamplers cite ab2:last=midpoint --schedule karras > references.bib
    flowsamplers cite
    """  # noqa: D301
    from flowsamplers import citations

    click.echo(citations.cite(*samplers, schedules=schedules))
