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
) -> Iterator[tuple[str, click.Command, str]]:
    """Each command's path, the command, and its help without the options."""
    context = click.Context(
        command,
        info_name=name,
        parent=parent,
        max_content_width=WIDTH,
        terminal_width=WIDTH,
        help_option_names=["-h", "--help"],
    )
    yield context.command_path, command, command.get_help(context).partition("\n\nOptions:")[0]
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
        "`--help` after any command explains its options and their defaults. A mistake exits with 2 and one line that names the option, the value",
        "and what is accepted. `--json` prints what a script needs.",
        "",
        "[`flowsamplers cite`](#flowsamplers-cite) prints what to cite. In Python it is [`cite`](api.md#flowsamplers.citations.cite).",
        "",
    ]
    for path, command, told in commands(main):
        options = [o.opts[-1] for o in command.params if isinstance(o, click.Option) and o.name != "json"]
        text += [f"{'##' if path.count(' ') < 2 else '###'} {path}", "", "```text", told, "```", ""]
        text += [f"Options: {', '.join(f'`{o}`' for o in options)}", ""] if options else []
    return "\n".join(text)


if __name__ == "__main__":
    from building import build

    build(__doc__, PAGE, page)
