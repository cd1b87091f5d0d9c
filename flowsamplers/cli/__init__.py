"""The ``flowsamplers`` command, with one module per subcommand.

A module is imported when its command runs, so ``flowsamplers --help`` does not wait for torch.
"""

from __future__ import annotations

import sys

from flowsamplers import __version__
from flowsamplers._accepted import missing

try:
    import click

    from flowsamplers.cli.root import Root
except ModuleNotFoundError as error:
    sys.exit(str(missing("the flowsamplers command needs", str(error.name), "cli")))

ROOMS = {
    "cite": ("cite:cite", "Print BibTeX of the library, samplers and schedules."),
    "comfyui": ("comfyui:comfyui", "Install the nodes into ComfyUI, or remove them."),
    "fit": ("fit:fit", "Fit a schedule and a sampler to a model and a number of model calls."),
    "generate": ("generate:generate", "Draw an image, or a labeled grid of images, all from one noise."),
    "list": ("listing:list_", "List samplers and schedules: all of them, or those with the given NAMES."),
    "report": ("study:report", "Write the figures and the HTML report of a study again."),
    "schedule": ("schedule:schedule", "Print the numbers of a schedule: sigmas, timesteps, dt and their sum."),
    "study": ("study:study", "Measure the error of samplers against the number of model calls."),
    "trace": ("trace:trace", "Run once and print every model call."),
}
"""Commands: module and object, and a line of help."""


@click.group(
    "flowsamplers", cls=Root, rooms=ROOMS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__)
def main() -> None:
    """Samplers and schedules for flow-matching models, and the tools to measure them."""
