"""Errors that name the argument, the value and what would be accepted."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown(what: str, value: object, accepted: Iterable[str]) -> ValueError:
    """The error for a name that is not in a closed list; suggests the nearest one that is.

    >>> print(unknown("sampler", "huen", ["euler", "heun"]))
    unknown sampler 'huen': did you mean 'heun'? Accepted: euler, heun
    """
    names = list(accepted)
    near = difflib.get_close_matches(str(value), names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ValueError(f"unknown {what} {value!r}: {hint}Accepted: {', '.join(names) or '(none)'}")
