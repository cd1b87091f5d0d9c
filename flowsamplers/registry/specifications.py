"""Parse specifications, ``name:option=value,option=value``, of samplers and schedules."""

from __future__ import annotations

import ast
import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from flowsamplers._accepted import as_declared, unknown

__all__ = ["parse_options", "parse_specification"]


def parse_specification(text: str) -> tuple[str, dict[str, Any]]:
    """Split ``name:option=value,option=value`` into its name and options.

    Args:
        text: the specification. A comma inside brackets or quotes belongs to the value. Values may be JSON or Python literals.

    Raises:
        ValueError: an option has no name or no value, or there is none after the colon.

    Examples:
        >>> parse_specification("unipc:last=ralston3,corrector=false")
        ('unipc', {'last': 'ralston3', 'corrector': False})
        >>> parse_specification("epd:table=[[[0.5, 1.0]]]")
        ('epd', {'table': [[[0.5, 1.0]]]})
    """
    name, colon, rest = text.partition(":")
    return name.strip(), parse_options(_split(rest) if colon else [], repr(text))


def parse_options(items: Iterable[str], where: str) -> dict[str, Any]:
    """Parse options written as ``name=value``; values may be JSON or Python literals.

    Examples:
        >>> parse_options(["shift=3", "nodes=[1, 0.5, 0.1]", "space=ve", "c2=.5"], "--option")
        {'shift': 3, 'nodes': [1, 0.5, 0.1], 'space': 've', 'c2': 0.5}
    """
    options: dict[str, Any] = {}
    for item in items:
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not key:
            raise ValueError(f"{item!r} in {where}: give options as name=value")
        if key in options:
            raise ValueError(f"{item!r} in {where}: {key} is given twice")
        options[key] = _value(value)
    return options


def _split(text: str) -> list[str]:
    """At the commas outside of brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for c in text:
        if c in "'\"" and quote in ("", c):
            quote = "" if quote else c
        elif not quote:
            depth += (c in "[({") - (c in "])}")
        if c == "," and depth <= 0 and not quote:
            parts.append("")
        else:
            parts[-1] += c
    return parts


def _value(text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return text


def options_of(factory: type[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Check options against the fields of a dataclass: names must be known, and declared numbers must be numbers.

    Raises:
        ValueError: an option is wrong; the message names it, its value, and what is accepted.
    """
    accepted = {f.name: f.type for f in dataclasses.fields(factory)} if dataclasses.is_dataclass(factory) else {}
    for option in given:
        if option not in accepted:
            raise unknown(f"option of {factory.__name__}", option, accepted)
    return {option: as_declared(option, value, accepted[option]) for option, value in given.items()}
