"""The results of a study: its rows, and views of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flowsamplers.orders import OrderVerdict, order
from flowsamplers.sampler import sampler_info
from flowsamplers.study.rows import Row, from_jsonl

SETTINGS, ROWS, TABLE = "study.json", "rows.jsonl", "rows.csv"


@dataclass(frozen=True)
class Results:
    """The rows of a study, and views of them.

    Attributes:
        settings: what defined the study, with versions, device and dtype.
        rows: one for each run and noise.
    """

    settings: Mapping[str, Any]
    rows: Sequence[Row]

    @property
    def labels(self) -> list[str]:
        """The samplers, in the order of the study."""
        return list(dict.fromkeys(row.label for row in self.rows))

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """NFE and geometric mean of the error over prompts and seeds of one sampler; failed runs are left out."""
        by_nfe: dict[int, list[float]] = {}
        for row in self.rows:
            if row.label == name and row.status == "ok":
                by_nfe.setdefault(row.nfe, []).append(row.error)
        nfes = sorted(by_nfe)
        return nfes, [geometric_mean(by_nfe[n]) for n in nfes]

    def single_curves(self, name: str) -> list[tuple[list[int], list[float]]]:
        """NFE and error of one sampler for each prompt and seed."""
        curves: dict[tuple[str, int], list[tuple[int, float]]] = {}
        for row in self.rows:
            if row.label == name and row.status == "ok":
                curves.setdefault((row.prompt, row.seed), []).append((row.nfe, row.error))
        return [([n for n, _ in sorted(c)], [e for _, e in sorted(c)]) for c in curves.values()]

    @property
    def reference_error(self) -> float:
        """The largest of the references' own relative errors."""
        return max(row.reference_error for row in self.rows)

    def error(self, name: str, nfe: int) -> float | None:
        """The error of a sampler with at most ``nfe`` model calls; None if it has no such run."""
        nfes, errors = self.curve(name)
        fits = [e for n, e in zip(nfes, errors, strict=True) if n <= nfe]
        return fits[-1] if fits else None

    def best(self, nfe: int) -> tuple[str, float] | None:
        """The sampler with the smallest error at this budget, and the error."""
        found = [(e, i, name) for i, name in enumerate(self.labels) if (e := self.error(name, nfe)) is not None]
        return (min(found)[2], min(found)[0]) if found else None

    def orders(self) -> dict[str, OrderVerdict]:
        """The verdict on each sampler's declared order, from the errors against the number of steps."""
        verdicts: dict[str, OrderVerdict] = {}
        for name in self.labels:
            rows = [r for r in self.rows if r.label == name]
            by_steps: dict[int, list[float]] = {}
            for r in rows:
                by_steps.setdefault(r.steps, []).append(r.error)
            steps = sorted(by_steps)
            errors = [geometric_mean(by_steps[n]) for n in steps]
            declared = sampler_info(rows[0].sampler).order
            verdicts[name] = order(steps, errors, declared=declared, floor=self.reference_error)
        return verdicts


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive numbers; NaN if one is not finite.

    >>> round(geometric_mean([1.0, 100.0]), 9)
    10.0
    """
    return float(np.exp(np.mean(np.log(values)))) if all(v > 0 for v in values) else float("nan")


def load(folder: str | Path) -> Results:
    """The results of a study from its folder.

    Raises:
        FileNotFoundError: no study there.
        ValueError: files that are not a study's.
    """
    folder = Path(folder)
    for name in (SETTINGS, ROWS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder}: no study here, {name} is missing")
    try:
        settings = json.loads((folder / SETTINGS).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder / SETTINGS}: not a study's settings: {error}") from error
    return Results(settings, from_jsonl((folder / ROWS).read_text(), str(folder / ROWS)))
