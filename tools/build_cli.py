"""Write docs/reference/cli.md from what the command line says of itself.

python tools/build_cli.py --page
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from flowsamplers.cli import main

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "cli.md"
WIDTH = 100


def commands(
    command: click.Command, parent: click.Context | None = None, name: str = "flowsamplers"
) -> Iterator[tuple[str, str]]:
    """Each command's path and its help."""
    context = click.Context(
        command,
        info_name=name,
        parent=parent,
        max_content_width=WIDTH,
        terminal_width=WIDTH,
        help_option_names=["-h", "--help"],
    )
    yield context.command_path, command.get_help(context)
    for sub in command.list_commands(context) if isinstance(command, click.Group) else ():
        child = command.get_command(context, sub)
        assert child is not None
        yield from commands(child, context, sub)


def page() -> str:
    """The whole page."""
    text = [
        "# Command line",
        "",
        "<!-- written by tools/build_cli.py from the commands' own help -->",
        "",
        "Every command explains itself with `--help`; this is what they say. A mistake exits with 2 and one line that names the option, the",
        "value and what is accepted; `study diff` exits with 1 if the studies differ. `--json` prints what a script wants.",
        "",
    ]
    for path, text_of in commands(main):
        text += [f"{'##' if path.count(' ') < 2 else '###'} {path}", "", "```text", text_of.rstrip(), "```", ""]
    return "\n".join(text)


if __name__ == "__main__":
    from building import build

    build(__doc__, PAGE, page)
