"""Checks of arguments: a wrong one is an error that names the argument, its value, and what is accepted."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Iterable, Mapping
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, get_args, get_origin

_T = TypeVar("_T")
SHOWN = 200
"""Characters of a value in a message."""


def integer(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """Return a whole number of Python, NumPy or another package as an int.

    Raises:
        ValueError: it is none, or outside the range.

    Examples:
        >>> integer("parts", 0, 1)
        Traceback (most recent call last):
        ValueError: parts=0: accepted is a whole number, at least 1
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise refused(name, value, "a whole number" + _range(least, most))
    return int(_within(name, value, "a whole number", least, most))


def number(
    name: str, value: Any, least: float | None = None, most: float | None = None, *, above: float | None = None
) -> float:
    """Return a finite number as a float.

    Raises:
        ValueError: it is none, not finite, or outside the range.

    Examples:
        >>> number("rtol", float("nan"), above=0)
        Traceback (most recent call last):
        ValueError: rtol=nan: accepted is a finite number, above 0
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise refused(name, value, "a finite number" + _range(least, most, above))
    return float(_within(name, value, "a finite number", least, most, above))


def flag(name: str, value: Any) -> bool:
    """Return True or False.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, bool):
        raise refused(name, value, "True or False")
    return value


def text(name: str, value: Any, what: str = "a name") -> str:
    """Return a text that is not empty.

    Raises:
        TypeError: it is no text.
        ValueError: it is empty.
    """
    if not isinstance(value, str):
        raise TypeError(str(refused(name, value, what)))
    if not value:
        raise refused(name, value, f"{what} that is not empty")
    return value


def function(name: str, value: _T, what: str) -> _T:
    """Return a function or None.

    Raises:
        ValueError: it is something else.
    """
    if value is not None and (not callable(value) or isinstance(value, type)):
        raise refused(name, value, what)
    return value


def listed(name: str, value: Any, accepted: str) -> list[Any]:
    """Return a list of what is in a list, a tuple, an array, a tensor or a generator.

    Raises:
        TypeError: it is a text, a mapping, or nothing with entries.
    """
    if not isinstance(value, str | bytes | Mapping) and isinstance(value, Iterable):
        try:
            return list(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        except TypeError:  # a tensor of no axis
            pass
    raise TypeError(str(refused(name, value, accepted)))


def mapping(name: str, value: Any) -> dict[str, Any]:
    """Return a mapping as a dict.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(value, Mapping):
        raise TypeError(str(refused(name, value, "a dict of options")))
    return dict(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def as_declared(option: str, value: Any, declared: Any) -> Any:
    """Convert a value to its declared type, if that is a number or a tuple of numbers; return others unchanged.

    Raises:
        ValueError: the value has the wrong type, is not finite, or is not in a declared ``Literal``. The message names the option,
            the value, and what is accepted.

    Examples:
        >>> as_declared("shift", 3, "float | None"), as_declared("shift", None, "float | None")
        (3.0, None)
        >>> as_declared("mu", "abc", "float")
        Traceback (most recent call last):
        ValueError: mu='abc': accepted is a number
    """
    if get_origin(declared) is Literal:
        if value not in get_args(declared):
            raise unknown(option, value, get_args(declared))
        return value
    kind = declared if isinstance(declared, str) else getattr(declared, "__name__", "")
    optional, kind = kind.endswith(" | None"), kind.removesuffix(" | None")
    if optional and value is None:
        return None
    if kind in SEQUENCES or (kind == "str | Sequence[float]" and not isinstance(value, str)):
        return _several(option, value, two=kind == "tuple[float, float]")
    kinds: dict[str, tuple[type, type, str]] = {
        "bool": (bool, bool, "true or false"),
        "int": (Integral, int, "a whole number"),
        "float": (Real, float, "a number"),
    }
    if kind not in kinds:
        return value
    accepted, make, words = kinds[kind]
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind != "bool"):
        raise refused(option, value, words)
    if isinstance(value, Real) and not math.isfinite(value):
        raise refused(option, value, f"a finite {words.removeprefix('a ')}")
    return make(value)


SEQUENCES = ("Sequence[float]", "Values", "tuple[float, float]")
"""Declared types of several numbers."""


def _several(option: str, value: Any, *, two: bool) -> Any:
    try:
        if isinstance(value, str | Mapping) or len([float(v) for v in value]) != (2 if two else len(value)):
            raise TypeError
    except (TypeError, ValueError):
        accepted = "two numbers" if two else "numbers, such as [1, 0.5, 0.1]"
        raise ValueError(f"{option}={value!r}: accepted are {accepted}") from None
    return value


def literal(declared: Any, names: Mapping[str, Any]) -> Any:
    """Return the ``Literal`` that an annotation names in a module; other annotations as they are.

    Examples:
        >>> literal("Space", {"Space": Literal["sigma", "ve"]}), literal("float", {})
        (typing.Literal['sigma', 've'], 'float')
    """
    found = names.get(declared) if isinstance(declared, str) else declared
    return found if get_origin(found) is Literal else declared


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


def refused(name: str, value: Any, accepted: str) -> ValueError:
    """The error for an argument.

    Examples:
        >>> print(refused("seed", "12", "an int"))
        seed='12': accepted is an int
    """
    return ValueError(f"{name}={shown(value)}: accepted is {accepted}")


def shown(value: Any) -> str:
    """Return a value for a message."""
    words = repr(value)
    return words if len(words) <= SHOWN else f"{words[:SHOWN]}..."


def _within(name: str, value: Any, what: str, least: float | None, most: float | None, above: float | None = None) -> Any:
    if (least is not None and value < least) or (most is not None and value > most) or (above is not None and value <= above):
        raise refused(name, value, what + _range(least, most, above))
    return value


def _range(least: float | None, most: float | None, above: float | None = None) -> str:
    words = (("above", above), ("at least", least), ("at most", most))
    told = " and ".join(f"{word} {bound}" for word, bound in words if bound is not None)
    return f", {told}" if told else ""
