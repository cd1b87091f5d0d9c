"""The types of the command line's options."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
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


class Place(click.Path):
    """The path of a file or a folder."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse an empty text, which would be the current folder."""
        if value == "":
            self.fail("'': accepted is a path that is not empty", param, ctx)
        return super().convert(value, param, ctx)


class Size(click.ParamType[Any]):
    """``WIDTHxHEIGHT`` in pixels."""

    name = "WxH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Parse it."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d+)[xX](\d+)", str(value))
        if match is None:
            self.fail(f"{value!r}: give the size as WIDTHxHEIGHT, such as 1024x1024", param, ctx)
        return int(match[1]), int(match[2])


class Method(click.ParamType[Any]):
    """``NAME``, ``NAME:option=value,option=value``, or the JSON file of a fitted solver."""

    name = "SAMPLER"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Sampler:
        """Parse it."""
        from flowsamplers.registry import get_sampler
        from flowsamplers.sampler import Sampler

        if isinstance(value, Sampler):
            return value
        try:
            if not str(value).endswith(".json"):
                return get_sampler(str(value))
            from flowsamplers.solver import load_solver

            return load_solver(value).as_sampler
        except (TypeError, ValueError, ImportError, OSError) as error:
            self.fail(str(error), param, ctx)


class Cost(click.ParamType[Any]):
    """A number of evaluations or a time."""

    name = "NUMBER|TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Budget:
        """Parse it."""
        from flowsamplers.study.cost import Budget

        try:
            return value if isinstance(value, Budget) else Budget.parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Shift(click.ParamType[Any]):
    """A number, ``fixed`` or ``follow``."""

    name = "NUMBER|fixed|follow"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        """Parse it."""
        if value in ("fixed", "follow") or isinstance(value, float):
            return value
        try:
            return float(value)
        except ValueError:
            self.fail(f"{value!r}: accepted are a number, 'fixed' and 'follow'", param, ctx)
