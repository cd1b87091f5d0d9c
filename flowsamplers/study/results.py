"""The results of a study: its rows, views of them, and comparisons of two studies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flowsamplers._files import as_path
from flowsamplers._html import table
from flowsamplers.orders import OrderVerdict, order
from flowsamplers.registry import get_sampler
from flowsamplers.study.plots import Plots, check_available
from flowsamplers.study.rows import Row, label_of, to_dict
from flowsamplers.study.store import read_rows, read_sessions, read_settings

RESAMPLES, SHARE = 2000, 0.95
"""Bootstrap: number of resamples, and the share of them inside the interval."""


class Interval(NamedTuple):
    """A number with its uncertainty.

    Attributes:
        value: the estimate.
        low: lower end of the interval.
        high: upper end.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """In words."""
        return f"{self.value:.2g} ({self.low:.2g} to {self.high:.2g})"


@dataclass(frozen=True)
class Results:
    """The results of a study: its rows, with curves, orders and figures.

    Attributes:
        settings: the settings of the study, with versions, device and dtype.
        rows: one row for each run and noise.
        sessions: cost of each call of `run`: rows, evaluations, model calls, seconds. A call that was killed left no record.
        folder: the folder of the study.
    """

    settings: Mapping[str, Any]
    rows: Sequence[Row]
    sessions: Sequence[Mapping[str, Any]] = ()
    folder: Path | None = field(default=None, compare=False)

    def _repr_html_(self) -> str:
        curves = [(label, *self.curve(label)) for label in self.labels]
        rows = [[label, n, e] for label, ns, errors in curves for n, e in zip(ns, errors, strict=True)]
        return table(["sampler", "NFE", "relative error"], rows)

    @property
    def labels(self) -> list[str]:
        """Labels of the samplers, in the order of the study."""
        place = {label_of(get_sampler(s)): i for i, s in enumerate(self.settings.get("samplers", []))}
        return sorted({row.label for row in self.rows}, key=lambda name: (place.get(name, len(place)), name))

    @property
    def nfes(self) -> list[int]:
        """The numbers of model calls of the runs, rising."""
        return sorted({row.nfe for row in self.rows})

    @property
    def cases(self) -> set[tuple[str, int]]:
        """The pairs of prompt and seed."""
        return {(row.prompt, row.seed) for row in self.rows}

    def curve(self, name: str, axis: str = "nfe") -> tuple[list[int], list[float]]:
        """Return the error curve of one sampler: an axis and the geometric mean of the error over prompts and seeds.

        Failed runs are omitted.

        Args:
            name: label of the sampler.
            axis: ``"nfe"``, ``"steps"``, ``"forward_passes"``, ``"h_max"`` or ``"seconds"``.
        """
        found = self._by(name, axis)
        return list(found), [geometric_mean(list(found[n].values())) for n in found]

    def intervals(self, name: str, axis: str = "nfe") -> list[Interval]:
        """Return the error curve of one sampler with 95 % confidence intervals, from a bootstrap over prompts and seeds."""
        return [bootstrap(list(cases.values())) for cases in self._by(name, axis).values()]

    def single_curves(self, name: str, axis: str = "nfe") -> list[tuple[list[int], list[float]]]:
        """Return the error curve of one sampler for each prompt and seed."""
        found = self._by(name, axis)
        curves = [
            {n: cases[case] for n, cases in found.items() if case in cases}
            for case in dict.fromkeys(c for cases in found.values() for c in cases)
        ]
        return [(list(curve), list(curve.values())) for curve in curves]

    def _by(self, name: str, axis: str) -> dict[Any, dict[tuple[str, int], float]]:
        found: dict[Any, dict[tuple[str, int], float]] = {}
        for row in self.rows:
            if row.label == name and row.status == "ok":
                found.setdefault(getattr(row, axis), {})[row.prompt, row.seed] = row.error
        return dict(sorted(found.items()))

    @property
    def reference_error(self) -> float:
        """Largest relative error of the references."""
        return max(row.reference_error for row in self.rows)

    @property
    def noise_floor(self) -> float:
        """Largest relative distance of two runs whose evaluations differ by rounding."""
        return max(row.noise_floor for row in self.rows)

    def error(self, name: str, nfe: int) -> float | None:
        """Return the error of a sampler with at most ``nfe`` evaluations; None if there is no such run."""
        cases = self._at(name, nfe)
        return geometric_mean(list(cases.values())) if cases else None

    def best(self, nfe: int) -> tuple[str, float] | None:
        """Return the sampler with the smallest error at a number of evaluations, and this error."""
        return next(iter(self._ranked(nfe)), None)

    def _ranked(self, nfe: int) -> list[tuple[str, float]]:
        errors = [(name, e) for name in self.labels if (e := self.error(name, nfe)) is not None]
        return sorted(errors, key=lambda pair: pair[1])

    def compare(self, name: str, other: str, nfe: int) -> Interval | None:
        """Compute the ratio of two samplers' errors, paired by prompt and noise.

        Args:
            name: label of the sampler in the numerator.
            other: label of the sampler in the denominator.
            nfe: number of evaluations; each sampler takes as many steps as fit.

        Returns:
            The geometric mean of the ratios with its interval; None if the samplers have no noise in common.
        """
        pairs = self._pairs(name, other, nfe).values()
        return bootstrap([a / b for a, b in pairs]) if pairs else None

    def leaders(self, nfe: int) -> list[str]:
        """The sampler with the smallest error at this budget, and those that the study cannot tell from it, by their errors.

        A sampler counts as worse than the best if its error is larger with 95 % confidence over the prompts and seeds. The
        references' own errors and the rounding of the model count against the best and for the other.
        """
        ranked = [name for name, _ in self._ranked(nfe)]
        return ranked[:1] + [name for name in ranked[1:] if not self._differ(ranked[0], name, nfe)]

    def _differ(self, best: str, other: str, nfe: int) -> bool:
        off = {(r.prompt, r.seed): uncertainty(r) for r in self.rows}
        pairs = [(low + off[case], high - off[case]) for case, (low, high) in self._pairs(best, other, nfe).items()]
        if not pairs or any(high <= 0 for _, high in pairs):
            return False
        return bootstrap([high / low if low else float("inf") for low, high in pairs]).low > 1

    @property
    def reference_is_coarse(self) -> bool:
        """Whether the reference is less than 3 times as exact as the best sampler at the largest number of calls."""
        best = self.best(self.nfes[-1])
        return best is not None and 3 * self.reference_error > best[1]

    @property
    def uncertainty(self) -> float:
        """The largest amount by which an error may be off, see `uncertainty`."""
        return max(map(uncertainty, self.rows))

    def _at(self, name: str, nfe: int) -> dict[tuple[str, int], float]:
        fits = [cases for n, cases in self._by(name, "nfe").items() if n <= nfe]
        return fits[-1] if fits else {}

    def _pairs(self, name: str, other: str, nfe: int) -> dict[tuple[str, int], tuple[float, float]]:
        """The errors of two samplers for each prompt and seed that both have."""
        first, second = self._at(name, nfe), self._at(other, nfe)
        return {case: (first[case], second[case]) for case in first if case in second}

    def orders(self) -> dict[str, OrderVerdict]:
        """Judge the order that each sampler declares for complete runs, from its errors against the number of steps.

        A sampler that brings its own schedule has none: with another number of steps it is another sampler.
        """
        verdicts: dict[str, OrderVerdict] = {}
        floor = max(self.reference_error, self.noise_floor)
        for name in self.labels:
            rows = [r for r in self.rows if r.label == name]
            if rows[0].method.own_grid is None:
                failed = {r.steps: float("nan") for r in rows if r.status != "ok"}
                points = sorted({**failed, **dict(zip(*self.curve(name, "steps"), strict=True))}.items())
                n, errors = zip(*points, strict=True)
                verdicts[name] = order(n, errors, declared=rows[0].method.claims.order_to_data, floor=floor)
        return verdicts

    @property
    def plot(self) -> Plots:
        """The figures of the study, such as ``results.plot.work_precision()``."""
        check_available()
        return Plots(self)

    def to_pandas(self) -> Any:
        """Return the rows as a pandas data frame.

        Raises:
            ImportError: pandas is not installed.
        """
        return _frames("pandas").DataFrame([to_dict(row) for row in self.rows])

    def to_polars(self) -> Any:
        """Return the rows as a polars data frame, with options as JSON.

        Raises:
            ImportError: polars is not installed.
        """
        flat = [{k: json.dumps(v) if isinstance(v, Mapping) else v for k, v in to_dict(row).items()} for row in self.rows]
        return _frames("polars").DataFrame(flat, infer_schema_length=None)


def uncertainty(row: Row) -> float:
    """Bound the uncertainty of a row's error: the reference's own error plus the effect of rounding inside the model."""
    return row.reference_error + row.noise_floor


def _frames(package: str) -> Any:
    try:
        return import_module(package)
    except ModuleNotFoundError as missing:
        raise ImportError(f"this needs the package {package!r}: pip install {package}") from missing


def geometric_mean(values: Sequence[float]) -> float:
    """Compute the geometric mean of positive numbers; NaN if one is not positive.

    Examples:
        >>> round(geometric_mean([1.0, 100.0]), 9)
        10.0
    """
    if all(v > 0 for v in values):
        return float(np.exp(np.mean(np.log(values))))
    return 0.0 if all(v >= 0 for v in values) else float("nan")


def bootstrap(values: Sequence[float]) -> Interval:
    """Compute the geometric mean of positive numbers with a 95 % bootstrap interval.

    The resampling is the same every time.

    Examples:
        >>> bootstrap([2.0, 2.0, 2.0])
        Interval(value=2.0, low=2.0, high=2.0)
    """
    from scipy import stats  # noqa: PLC0415  (slow to import)

    value = geometric_mean(values)
    if len(values) < 2 or not np.isfinite(value) or not value:
        return Interval(value, value, value)
    found = stats.bootstrap(
        (np.log(values),),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=SHARE,
        method="percentile",
        random_state=np.random.default_rng(0),  # pyright: ignore[reportCallIssue]  # rng= from scipy 1.15 on
    )
    low, high = np.exp(found.confidence_interval)
    return Interval(value, min(float(low), value), max(float(high), value))


def load(folder: str | Path) -> Results:
    """Load the results of a study from its folder; an unfinished study gives the rows so far.

    Raises:
        FileNotFoundError: there is no study in the folder.
        ValueError: the files do not belong to a study.
    """
    folder = as_path("folder", folder)
    settings = read_settings(folder)
    rows, _ = read_rows(folder)
    return Results(settings, rows, read_sessions(folder), folder)


@dataclass(frozen=True)
class Difference:
    """The comparison of one sampler at one number of evaluations in two studies.

    Attributes:
        label: the sampler with its options.
        steps: number of steps N.
        nfe: number of evaluations.
        ratio: error in the second study divided by that in the first, for equal prompts and seeds, with its interval.
        differs: whether the interval excludes 1 and the errors differ by more than the references' errors and the noise floors.
    """

    label: str
    steps: int
    nfe: int
    ratio: Interval
    differs: bool


@dataclass(frozen=True)
class Diff:
    """The comparison of two studies.

    Attributes:
        common: one entry for each sampler and number of steps in both studies.
        only_first: runs that only the first study has.
        only_second: runs that only the second study has.
        failed: runs that failed in only one of them.
    """

    common: list[Difference]
    only_first: int
    only_second: int
    failed: int

    @property
    def same(self) -> bool:
        """Whether no common run differs."""
        return not (self.failed or any(d.differs for d in self.common))

    def lines(self) -> list[str]:
        """Format for the terminal, in at most 80 columns."""
        worse = [d for d in self.common if d.differs]
        lines = [f"{len(self.common)} samplers and step counts in both, {len(worse)} differ by more than the uncertainty"]
        if worse:
            lines.append(f"{'sampler':<28}{'steps':>6}{'calls':>6}  error of the second over the first")
            lines += [f"{d.label:<28}{d.steps:>6}{d.nfe:>6}  {d.ratio}" for d in worse]
        if self.failed:
            lines.append(f"{self.failed} runs failed in one of them only")
        if self.only_first or self.only_second:
            lines.append(f"not compared: {self.only_first} runs that only the first has, {self.only_second} only the second")
        return lines


def diff(first: Results, second: Results) -> Diff:
    """Compare two studies run by run.

    Args:
        first: one study, for example from before a change.
        second: the other study; it may have another version, device or dtype.

    Raises:
        ValueError: the studies have no run in common.
    """
    sides = [{r.key[1:]: r for r in results.rows} for results in (first, second)]
    both = [k for k in sides[0] if k in sides[1]]
    if not both:
        raise ValueError("the two studies have no run in common: other samplers, steps, schedules, prompts or seeds")
    groups: dict[tuple[str, int], list[tuple[Row, Row]]] = {}
    failed = 0
    for k in both:
        a, b = sides[0][k], sides[1][k]
        if a.status == b.status == "ok":
            groups.setdefault((a.label, a.steps), []).append((a, b))
        failed += a.status != b.status
    common = [_difference(*key, pairs) for key, pairs in groups.items()]
    return Diff(common, len(sides[0]) - len(both), len(sides[1]) - len(both), failed)


def _difference(label: str, steps: int, pairs: list[tuple[Row, Row]]) -> Difference:
    ratio = bootstrap([b.error / a.error if a.error else float("inf") for a, b in pairs])
    clear = any(abs(a.error - b.error) > uncertainty(a) + uncertainty(b) for a, b in pairs)
    return Difference(label, steps, pairs[0][0].nfe, ratio, clear and not ratio.low <= 1 <= ratio.high)
