"""Fitted solvers: a schedule and a sampler for one flow, with their validation, as an object and as a file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from flowsamplers._files import as_path, without_nan, write_atomically
from flowsamplers.engine import nfe
from flowsamplers.grid import SigmaGrid
from flowsamplers.registry import get_sampler, to_config
from flowsamplers.sampler import Sampler
from flowsamplers.samplers.learned import NSSolver, OnItsGrid
from flowsamplers.scheme import MOST, Scheme, amplification, from_start

SCHEMA = 1
"""Version of the file. A file with a higher number was written by a newer version of this library."""


LOST = 1.15
"""Ratio of the errors on other rows and on the fitting rows above which the verdict mentions it."""


MARGIN = 10
"""An error is certain if it is so many times that of the reference."""


@dataclass(frozen=True)
class Score:
    """The error of one schedule with one sampler on the validation rows.

    Attributes:
        name: name of schedule and sampler.
        nfe: number of model calls.
        error: relative Euclidean error of the result over all rows.
        uncertainty: jackknife standard error of ``error``; NaN for a single row.
    """

    name: str
    nfe: int
    error: float
    uncertainty: float


@dataclass(frozen=True)
class Validation:
    """The validation of a solver: its error, and the errors of other samplers, on rows that it was not fitted to.

    Attributes:
        rows: number of validation rows.
        solver: the solver's score.
        others: the scores of other samplers.
        lost: the solver's error on the validation rows divided by its error on the fitting rows.
        chance: the same ratio for the best other sampler of as many calls, which was not fitted. It differs from 1 where few rows have
            most of the error.
        paths: largest relative error of the reference paths' ends.
    """

    rows: int
    solver: Score
    others: tuple[Score, ...]
    lost: float = math.nan
    chance: float = math.nan
    paths: float = math.nan

    @property
    def verdict(self) -> str:
        """Summarize the scores in a sentence or two."""
        same = [s for s in self.others if s.nfe <= self.solver.nfe]
        calls = "1 call has" if self.solver.nfe == 1 else f"{self.solver.nfe} calls have"
        found = f"{calls} an error of {self.solver.error:.2g} on {self.rows} rows that were not fitted to"
        if not same:
            return found + "."
        best = self._best
        ratio = self.solver.error / best.error if best.error else math.inf
        more = [s for s in self.others if s.nfe > self.solver.nfe]
        beside = "".join(f"; {s.name} has {s.error:.2g} with {s.nfe} calls" for s in more)
        judged = "Use it" if ratio < 1 else f"Do not use it: {best.name} is better"
        return f"{found}, {ratio:.2g} times that of {best.name}{beside}. {judged}.{self._of_new_rows}{self._of_paths}"

    @property
    def _of_new_rows(self) -> str:
        """A warning where the solver is worse on new rows by more than chance explains."""
        if not self.lost > LOST:
            return ""
        found = f" The error is {self.lost:.2g} times that on the rows of the fit"
        if self.lost <= LOST * self.chance:
            return f"{found}; for {self._best.name}, which was not fitted, it is {self.chance:.2g} times: chance, of few rows."
        return f"{found}: more rows would help."

    @property
    def _of_paths(self) -> str:
        """A warning where the error is not far above that of the reference."""
        if not self.paths > self.solver.error / MARGIN:
            return ""
        return (
            f" The reference paths are off by up to {self.paths:.1g}, so that smaller errors are not certain: use more nodes."
        )

    @property
    def _best(self) -> Score:
        """Of the others with as many calls."""
        return min((s for s in self.others if s.nfe <= self.solver.nfe), key=lambda s: s.error)

    def lines(self) -> list[str]:
        """Format for the terminal."""
        rows = sorted((self.solver, *self.others), key=lambda s: s.error)
        return [
            f"{'on rows that were not fitted to':<46} {'calls':>5} {'error':>9} {'+-':>8}",
            *(f"{s.name:<46} {s.nfe:>5} {s.error:>9.2e} {s.uncertainty:>8.0e}" for s in rows),
        ]


@dataclass(frozen=True)
class Solver:
    """A schedule and a sampler that were fitted to a flow.

    Attributes:
        grid: the schedule.
        sampler: the method for it.
        fitted_to: model, guidance, shape, dtype and rows of the fit. The solver may be inaccurate for anything else.
        validation: its error on rows that it was not fitted to; None if there were too few rows.

    Examples:
        >>> import flowsamplers as fs
        >>> flow = fs.flows.GaussianFlow([0.0, 1.0], std=0.5)
        >>> solver = fs.fit(flow.velocity, flow.noise(list(range(8))), nfe=4)
        >>> fs.sample(flow.velocity, flow.noise([9]), solver.grid, solver.sampler).shape
        torch.Size([1, 2])
    """

    grid: SigmaGrid
    sampler: Sampler
    fitted_to: Mapping[str, Any] = field(default_factory=dict[str, Any])
    validation: Validation | None = None

    def __repr__(self) -> str:
        """The solver in one line."""
        judged = "" if self.validation is None else f", {self.validation.verdict!r:.80}"
        return f"Solver({self.nfe} model calls, {self.grid!r}, fitted to {self.fitted_to.get('model', 'a velocity')}{judged})"

    @property
    def nfe(self) -> int:
        """Number of model calls of a run."""
        return nfe(self.sampler, self.grid)

    @property
    def as_sampler(self) -> OnItsGrid:
        """Convert to a sampler that includes its schedule, for every argument that takes a sampler."""
        return OnItsGrid(self.sampler, self.grid.sigmas, tuple(self.fitted_to.get("shape", ())))

    def save(self, path: str | Path) -> None:
        """Save the solver as a JSON file; a failed write leaves no partial file.

        Raises:
            OSError: the file cannot be written.
        """
        write_atomically(Path(path), json.dumps(self.to_dict(), indent=2) + "\n")

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        judged = self.validation and {**asdict(self.validation), "verdict": self.validation.verdict}
        return {
            "kind": "solver",
            "schema": SCHEMA,
            "sigmas": list(self.grid.sigmas),
            "sampler": to_config(self.sampler),
            "fitted_to": dict(self.fitted_to),
            "validation": without_nan(judged),
        }


def load_solver(path: str | Path) -> Solver:
    """Load a solver from its file.

    Args:
        path: a file written by `Solver.save` or ``flowsamplers fit``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, of another kind, or newer than this library. Numbers are not finite, or weights do not
            add up to their steps.
    """
    path = as_path("path", path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such solver file")
    try:
        found = json.loads(path.read_text(), parse_constant=_refused)
        return _read(found)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise ValueError(f"{path}: not a solver file that can be used ({reason})") from error


def bundled_solvers(model: str) -> list[Solver]:
    """Read the solvers that ship with a bundled model, by their number of model calls.

    Args:
        model: the name of a model. Only ``"klein-emoji"`` has some.

    Returns:
        The solvers; none for any other model.

    Examples:
        >>> [s.nfe for s in bundled_solvers("klein-emoji")], bundled_solvers("klein-digits")
        ([4, 6, 8], [])
    """
    folder = files("flowsamplers") / "measurements" / "fitted"
    found = [_read(json.loads(f.read_text())) for f in folder.iterdir() if f.name.rpartition("-")[0] == model]
    return sorted(found, key=lambda solver: solver.nfe)


def _read(found: Any) -> Solver:
    if not isinstance(found, Mapping) or found.get("kind") != "solver":
        raise ValueError("it does not say that it is a solver")
    schema = found["schema"]
    if not isinstance(schema, int) or schema < 1:
        raise ValueError(f"schema {schema!r}")
    if schema > SCHEMA:
        raise ValueError(f"schema {schema} is newer than {SCHEMA}; update flowsamplers")
    grid, sampler = SigmaGrid(found["sigmas"]), get_sampler(found["sampler"])
    if grid.end != 0:
        raise ValueError(f"its schedule ends at {grid.end}, not at 0")
    nfe(sampler, grid)  # a table of another number of steps is refused
    if isinstance(sampler, NSSolver):
        grown = amplification(Scheme(grid.sigmas[:-1], tuple(from_start(sampler.table, grid.dt))))
        if not grown <= MOST:
            raise ValueError(
                f"its weights make rounding errors of the velocities {grown:g} times as large; at most {MOST:g} is used"
            )
    judged = found.get("validation")
    validation = judged and Validation(
        judged["rows"],
        _score(judged["solver"]),
        tuple(map(_score, judged["others"])),
        *(_number(judged.get(k)) for k in ("lost", "chance", "paths")),
    )
    return Solver(grid, sampler, dict(found.get("fitted_to", {})), validation)


def _score(found: Mapping[str, Any]) -> Score:
    return Score(str(found["name"]), int(found["nfe"]), _number(found["error"]), _number(found["uncertainty"]))


def _number(found: float | None) -> float:
    return math.nan if found is None else float(found)


def _refused(text: str) -> Any:
    raise ValueError(f"it holds {text}")
