"""The root command: it imports subcommands when they run, and reports every mistake in one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click
from click.exceptions import NoArgsIsHelpError

from flowsamplers._accepted import missing

TRACEBACK = "FLOWSAMPLERS_TRACEBACK"
"""Environment variable: set to 1, a mistake ends in a traceback."""
LONGEST = 3000
"""Characters of a message; the value that it names may be a file's worth."""
EXPECTED = (ValueError, OSError, ImportError, FloatingPointError, MemoryError)
"""The exceptions for bad input, missing files, full disks and missing packages."""


class Root(click.Group):
    """A group whose commands are imported when they are given.

    Args:
        rooms: the commands: ``"module:object"`` in ``flowsamplers.cli``, and a line of help.
    """

    def __init__(self, *args: Any, rooms: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rooms = rooms

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names."""
        return list(self.rooms)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one."""
        if cmd_name not in self.rooms:
            return None
        module, _, name = self.rooms[cmd_name][0].partition(":")
        try:
            return getattr(import_module(f"flowsamplers.cli.{module}"), name)
        except ModuleNotFoundError as error:
            raise missing(f"flowsamplers {cmd_name} needs", str(error.name), "cli") from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in the help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.rooms.items()])

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run; a mistake is one line on standard error and exit code 2."""
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **extra)
        try:
            code = super().main(*args, standalone_mode=False, **extra)
        except NoArgsIsHelpError as error:
            if error.ctx.parent is None:
                error.show()
            else:
                click.echo(f"Error: {message(error)}", err=True)
            sys.exit(2)
        except click.Abort:
            click.echo("Aborted!", err=True)
            sys.exit(1)
        except Exception as error:
            if os.environ.get(TRACEBACK) == "1":
                raise
            click.echo(f"Error: {message(error)}", err=True)
            sys.exit(2)
        sys.exit(code if isinstance(code, int) else 0)


def message(error: Exception) -> str:
    """An error in one line.

    Examples:
        >>> message(ValueError("steps=0: a schedule needs at least 1 step"))
        'steps=0: a schedule needs at least 1 step'
        >>> message(KeyError("sigma"))
        "unexpected KeyError: 'sigma' (FLOWSAMPLERS_TRACEBACK=1 shows where)"
    """
    if isinstance(error, NoArgsIsHelpError) and isinstance(error.ctx.command, click.Group):
        text = f"{error.ctx.command_path}: give one of {', '.join(error.ctx.command.list_commands(error.ctx))}"
    elif isinstance(error, click.ClickException):
        text = error.format_message()
        if isinstance(error, click.UsageError) and type(error) is not click.BadParameter and error.ctx is not None:
            text = f"{text.rstrip('.')}; see {error.ctx.command_path} --help"
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}"
    elif isinstance(error, EXPECTED):
        text = next(iter(str(error).splitlines()), "") or type(error).__name__
    else:
        text = f"unexpected {type(error).__name__}: {error} ({TRACEBACK}=1 shows where)"
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
