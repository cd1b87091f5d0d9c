"""Write docs/reference/cli.md from what the command line says of itself.

python tools/build_cli.py --page
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
from building import DOCS, build, rendered

from flowsamplers.cli import main

PAGE = DOCS / "reference" / "cli.md"
WIDTH = 100


def commands(
    command: click.Command, parent: click.Context | None = None, name: str = "flowsamplers"
) -> Iterator[tuple[str, click.Command, str]]:
    """Each command's path, the command, and its help without the options."""
    wide: dict[str, Any] = {"max_content_width": WIDTH, "terminal_width": WIDTH, "help_option_names": ["-h", "--help"]}
    context = click.Context(command, info_name=name, parent=parent, **wide)
    yield context.command_path, command, command.get_help(context).partition("\n\nOptions:")[0]
    for sub in command.list_commands(context) if isinstance(command, click.Group) else ():
        child = command.get_command(context, sub)
        assert child is not None
        yield from commands(child, context, sub)


def page() -> str:
    """The whole page."""
    told = [
        (path, text, [o.opts[-1] for o in command.params if isinstance(o, click.Option) and o.name != "json"])
        for path, command, text in commands(main)
    ]
    return rendered("cli.md", {"commands": told})


WRITTEN = {PAGE: page}

if __name__ == "__main__":
    build(__doc__, WRITTEN)
