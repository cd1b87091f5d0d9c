"""Judge orders of convergence from measured errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from typing import Any, Literal, TypeAlias

import numpy as np

from flowsamplers._accepted import number, refused

Verdict: TypeAlias = Literal["confirmed", "reduced", "higher", "pre-asymptotic", "floor-limited", "unstable"]

AGREE = 0.25
"""Tolerance for slopes: neighbors in a window differ by less, and a confirmed order is this close to the declared one."""

SPANS = {"inside": (0.95, 0.05), "complete": (1.0, 0.0)}
"""The two spans of sigma for ODE samplers: from 0.95 to 0.05, and complete runs."""


@dataclass(frozen=True)
class OrderVerdict:
    """The result of `order`: a verdict on a declared order.

    Attributes:
        verdict: ``confirmed``; ``reduced`` or ``higher`` than declared; ``pre-asymptotic``: the slopes do not settle;
            ``floor-limited``: too few errors are clearly above the floor; ``unstable``: errors grow or are not finite.
        order: the slope in the window; None if there is no window.
        window: first and last number of steps of the window.
        bar: upper bound of the order's standard error, if the errors have standard errors.
    """

    verdict: Verdict
    order: float | None = None
    window: tuple[float, float] | None = None
    bar: float | None = None

    def __str__(self) -> str:
        """In words, for a table."""
        if self.order is None:
            return self.verdict
        bar = "" if self.bar is None else f" ± {self.bar:.2f}"
        return f"{self.order:.2f}{bar} {self.verdict}"


def pairwise_slopes(n: Sequence[float], error: Sequence[float]) -> list[float]:
    """Compute the slope ``log(e_i / e_{i+1}) / log(n_{i+1} / n_i)`` for each pair of neighboring n.

    Examples:
        >>> [round(s, 6) for s in pairwise_slopes([1, 2, 8], [1.0, 0.25, 0.25 / 16])]
        [2.0, 2.0]

    Raises:
        ValueError: ``n`` does not rise, or there is not one positive error for each.
    """
    n, error = _rising(n), _one_for_each("error", error, n)
    for e in error:
        number("error", e, above=0)
    pairs = zip(n, n[1:], error, error[1:], strict=False)
    return [math.log(e0 / e1) / math.log(n1 / n0) for n0, n1, e0, e1 in pairs]


def order(
    n: Sequence[float],
    error: Sequence[float],
    *,
    declared: float,
    floor: float = 0.0,
    uncertainty: Sequence[float] | None = None,
) -> OrderVerdict:
    """Compare measured errors with a declared order of convergence.

    Errors below ten times the floor are ignored, and so are errors whose uncertainty exceeds a third. The window is the finest run
    of at least three points whose neighboring slopes agree within `AGREE`. The order is the least-squares slope in the window. The
    bound of its standard error holds for any dependence between the errors.

    Args:
        n: numbers of steps, rising.
        error: positive errors at these numbers.
        declared: the declared order.
        floor: error of the reference, or of one evaluation.
        uncertainty: standard errors of the errors, where these are means over samples.

    Raises:
        ValueError: ``n`` does not rise, or there is not one number for each.

    Examples:
        >>> order([4, 8, 16, 32], [1.6e-1, 4e-2, 1e-2, 2.5e-3], declared=2).verdict
        'confirmed'
    """
    n, error = _rising(n), _one_for_each("error", error, n)
    declared, floor = number("declared", declared, 0), number("floor", floor, 0)
    if not all(math.isfinite(e) for e in error):
        return OrderVerdict("unstable")
    unsure = [0.0] * len(error) if uncertainty is None else _one_for_each("uncertainty", uncertainty, n)
    clear = [(m, e, u) for m, e, u in zip(n, error, unsure, strict=True) if e > max(10 * floor, 3 * u, 0.0)]
    if len(clear) < 3:
        return OrderVerdict("floor-limited" if len(clear) < len(error) else "pre-asymptotic")
    ns, es = [m for m, _, _ in clear], [e for _, e, _ in clear]
    slopes = pairwise_slopes(ns, es)
    if slopes[-1] < 0 and len(clear) == len(error):
        return OrderVerdict("unstable")
    window = _window(slopes)
    if window is None:
        return OrderVerdict("pre-asymptotic")
    lo, hi = window
    slope = -float(np.polyfit(np.log(ns[lo : hi + 1]), np.log(es[lo : hi + 1]), 1)[0])
    bar = None if uncertainty is None else _bar(ns[lo : hi + 1], [u / e for _, e, u in clear[lo : hi + 1]])
    if abs(slope - declared) <= AGREE:
        verdict: Verdict = "confirmed"
    else:
        verdict = "reduced" if slope < declared else "higher"
    return OrderVerdict(verdict, slope, (ns[lo], ns[hi]), bar)


def _rising(n: Sequence[float]) -> list[float]:
    many = _one_for_each("n", n)
    if any(not a < b for a, b in pairwise([0.0, *many])):
        raise refused("n", n, "a list of positive numbers that rise")
    return many


def _one_for_each(name: str, values: Sequence[float], n: Sequence[float] | None = None) -> list[float]:
    """The numbers of a list; infinite ones and NaN are those of a run that failed."""
    many: list[Any] = list(values) if isinstance(values, Sequence | np.ndarray) and not isinstance(values, str) else [None]
    if any(isinstance(v, bool) or not isinstance(v, Real) for v in many) or (n is not None and len(many) != len(n)):
        raise refused(name, values, "a list of numbers" + (f", one for each of {len(n)}" if n is not None else ""))
    return [float(v) for v in many]


def _bar(n: Sequence[float], relative: Sequence[float]) -> float:
    """The most that the standard error of a least-squares slope can be, for relative standard errors of the points."""
    away = np.log(n) - np.mean(np.log(n))
    return float(np.abs(away) @ np.array(relative) / (away @ away))


def _window(slopes: Sequence[float]) -> tuple[int, int] | None:
    """First and last point of the finest run of at least two agreeing slopes."""
    for last in range(len(slopes) - 1, 0, -1):
        if abs(slopes[last] - slopes[last - 1]) <= AGREE:
            first = last - 1
            while first > 0 and abs(slopes[first - 1] - slopes[last]) <= AGREE:
                first -= 1
            return first, last + 1
    return None
