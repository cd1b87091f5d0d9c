"""The ``flowsamplers`` command: a thin shell over the library, with a room for each command."""

from __future__ import annotations

import sys

import flowsamplers as fs
from flowsamplers._errors import missing

try:
    import click

    from flowsamplers.cli.cite import cite
    from flowsamplers.cli.comfyui import comfyui
    from flowsamplers.cli.fit import fit
    from flowsamplers.cli.generate import generate
    from flowsamplers.cli.listing import list_
    from flowsamplers.cli.schedule import schedule
    from flowsamplers.cli.study import report, study
    from flowsamplers.cli.trace import trace
except ModuleNotFoundError as error:
    sys.exit(str(missing("the flowsamplers command needs", str(error.name), "cli")))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(fs.__version__)
def main() -> None:
    """Samplers and schedules for flow-matching models, and the tools to measure them."""


for command in (study, report, schedule, list_, trace, generate, cite, comfyui, fit):
    main.add_command(command)
