"""What the command line's options are made of, and how errors become messages."""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import click

from flowsamplers.sampler import Sampler, get_sampler
from flowsamplers.study.cost import Budget

FAMILIAR = (ValueError, OSError, ImportError, FloatingPointError)
"""What the library raises for bad input, missing files, full disks and missing extras: a message, not a traceback."""


@contextmanager
def messages(ctx: click.Context) -> Generator[None]:
    """Turn the library's errors into a message and exit code 2."""
    try:
        yield
    except FAMILIAR as error:
        text = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.strerror else str(error)
        raise click.UsageError(text.splitlines()[0] if text else type(error).__name__, ctx) from error


class Command(click.Command):
    """A command whose errors are messages."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run it."""
        with messages(ctx):
            return super().invoke(ctx)


class CommandWithOthers(click.Group):
    """A command that has others below it; errors are messages."""

    command_class = Command

    def invoke(self, ctx: click.Context) -> Any:
        """Run it."""
        with messages(ctx):
            return super().invoke(ctx)


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
    """``NAME`` or ``NAME:option=value,option=value``."""

    name = "SAMPLER"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Sampler:
        """Parse it."""
        if isinstance(value, Sampler):
            return value
        try:
            return parse_sampler(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Cost(click.ParamType[Any]):
    """A number of evaluations or a time."""

    name = "NUMBER|TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Budget:
        """Parse it."""
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


def parse_sampler(text: str) -> Sampler:
    """A sampler from ``name:option=value,option=value``; values are numbers where they look like it.

    >>> parse_sampler("ab2:last=midpoint")
    AdamsBashforth2(last='midpoint', startup='ramp')
    """
    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"{item!r} in {text!r}: give options as name=value")
        try:
            options[key] = json.loads(value)
        except json.JSONDecodeError:
            options[key] = value
    return get_sampler(name, **options)
