"""Errors that name the argument, the value and what would be accepted."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable
from typing import TypeVar

_T = TypeVar("_T")


def unknown(what: str, value: object, accepted: Iterable[str], hint: str = "") -> ValueError:
    """The error for a name that is not in a closed list; suggests the nearest one that is, unless it is given a better hint.

    Examples:
        >>> print(unknown("sampler", "huen", ["euler", "heun"]))
        unknown sampler 'huen': did you mean 'heun'? Accepted: euler, heun
        >>> print(unknown("sampler", "DPM++ 2M", ["dpm_2", "dpmpp_2m"]))
        unknown sampler 'DPM++ 2M': did you mean 'dpmpp_2m'? Accepted: dpm_2, dpmpp_2m
    """
    names = list(accepted)
    spelled = re.sub(r"[\s-]+", "_", str(value).lower().replace("++", "pp"))
    near = difflib.get_close_matches(spelled, names, n=1) or difflib.get_close_matches(str(value), names, n=1)
    hint = hint or (f"did you mean {near[0]!r}? " if near else "")
    return ValueError(f"unknown {what} {value!r}: {hint}Accepted: {', '.join(names) or '(none)'}")


def one_of(option: str, value: _T, accepted: Collection[_T]) -> _T:
    """The value of an option, if it is among those accepted.

    Raises:
        ValueError: it is not; the message names option, value and what is accepted.
    """
    if value not in accepted:
        raise ValueError(f"{option}={value}: one of {accepted}")
    return value


def missing(what: str, package: str, extra: str) -> ImportError:
    """The error for an optional package that is not installed; it names commands that work in a clone and beside a wheel.

    Examples:
        >>> print(missing("plots need", "matplotlib", "study"))
        plots need the package 'matplotlib': pip install matplotlib, or in a clone of flowsamplers pip install -e '.[study]'
    """
    return ImportError(
        f"{what} the package {package!r}: pip install {package}, or in a clone of flowsamplers pip install -e '.[{extra}]'"
    )
