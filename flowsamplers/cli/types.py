"""The types of the command line's options."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from flowsamplers.sampler import Sampler
    from flowsamplers.study.cost import Budget


class Several(click.Option):
    """An option that takes one value or several, and may be repeated: ``--steps 1 2 4`` is ``--steps 1 --steps 2 --steps 4``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, multiple=True, **kwargs)


def spread(args: Sequence[str], several: Container[str]) -> list[str]:
    """Arguments with the name of the option before each of its values; values go on until the next option.

    Examples:
        >>> spread(["--steps", "1", "2", "--out", "a.png", "--seed", "-1", "0"], {"--steps", "--seed"})
        ['--steps', '1', '--steps', '2', '--out', 'a.png', '--seed', '-1', '--seed', '0']
    """
    out: list[str] = []
    option, values = "", 0
    for i, arg in enumerate(args):
        if arg == "--":
            return [*out, *args[i:]]
        if arg.startswith("-") and not re.fullmatch(r"-\d.*", arg):
            option, values = arg if arg in several else "", 0
        elif option:
            out += [option] * (values > 0)
            values += 1
        out.append(arg)
    return out


class Command(click.Command):
    """A command with options of the kind `Several`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See `spread`."""
        names = {name for p in self.params if isinstance(p, Several) for name in p.opts}
        return super().parse_args(ctx, spread(args, names))


class CommandWithOthers(Command, click.Group):
    """A command that has others below it."""

    command_class = Command


SEED = click.IntRange(-(2**63), 2**64 - 1)
"""The range of seeds that a torch generator takes."""


ENGINE = click.Choice(["local", "ray"])
"""Where a study or a fit runs."""


class Place(click.Path):
    """The path of a file or a folder."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse an empty text, which would be the current folder."""
        if value == "":
            self.fail("'': accepted is a path that is not empty", param, ctx)
        return super().convert(value, param, ctx)


def check_file(out: Path, kind: str) -> None:
    """Refuse a file that cannot be written, before a model is opened.

    Raises:
        OSError: it is a folder, or its own folder cannot be written.
    """
    from flowsamplers.study.store import check_writable

    check_writable(out.parent)
    if out.is_dir():
        raise IsADirectoryError(f"out={str(out)!r} is a folder; name {kind}")


class Parsed(click.ParamType[Any]):
    """A value that a function makes of a text; its error becomes the option's.

    Args:
        name: name of the type in the help.
        parse: the function.
    """

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name, self.parse = name, parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse a text."""
        if not isinstance(value, str):
            return value
        try:
            return self.parse(value)
        except (TypeError, ValueError, ImportError, OSError) as error:
            self.fail(str(error), param, ctx)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)[xX](\d+)", text)
    if match is None:
        raise ValueError(f"{text!r}: give the size as WIDTHxHEIGHT, such as 1024x1024")
    return int(match[1]), int(match[2])


def _sampler(text: str) -> Sampler:
    from flowsamplers.registry import get_sampler

    if not text.endswith(".json"):
        return get_sampler(text)
    from flowsamplers.solver import load_solver

    return load_solver(text).as_sampler


def _budget(text: str) -> Budget:
    from flowsamplers.study.cost import Budget

    return Budget.parse(text)


def _shift(text: str) -> float | str:
    try:
        return text if text in ("fixed", "follow") else float(text)
    except ValueError:
        raise ValueError(f"{text!r}: accepted are a number, 'fixed' and 'follow'") from None


SIZE = Parsed("WxH", _size)
"""``WIDTHxHEIGHT`` in pixels."""
SAMPLER = Parsed("SAMPLER", _sampler)
"""``NAME``, ``NAME:option=value,option=value``, or the JSON file of a fitted solver."""
BUDGET = Parsed("NUMBER|TIME", _budget)
"""A number of evaluations or a time."""
SHIFT = Parsed("NUMBER|fixed|follow", _shift)
"""A number, ``fixed`` or ``follow``."""
