r"""Fit nodes and weights of a solver to a flow, from its `Profile` and then from the solver's own runs.

The nodes and first weights come from the profile alone, see `scheme`. Gauss-Newton steps on the error of the end then change both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from flowsamplers._accepted import flag, integer, refused
from flowsamplers.engine import Velocity
from flowsamplers.evaluated import RowVelocity, batch_of, chunks, row_velocity
from flowsamplers.fitting_families import BEGIN, LARGEST, Learned, OfMethod
from flowsamplers.lockstep import Flow
from flowsamplers.profiling import (
    FOLDS,
    HELD,
    NODES,
    Array,
    Moments,
    Profile,
    calls_of_a_path,
    ends,
    measured,
    path_nodes,
    row_weights,
)
from flowsamplers.sampler import SamplerLike
from flowsamplers.scheme import MOST, Scheme, amplification, first_other, run_scheme
from flowsamplers.solver import Solver
from flowsamplers.validation import JUDGE, RowsWithEnds, validated

DATA = 2
"""Numbers in the fitting rows per polished parameter, at least."""
DAMPINGS = 10.0 ** np.arange(-9, 3)
JUMP = 0.05
"""Squared error of a row, relative to its size, above which it counts less: it ends in another image, and no small step mends that."""
PARTS = 12
"""The fitting rows are divided into so many parts for the cross-validation of the damping."""
STDS = (0.0, 0.25, 0.75, 1.5)
"""Standard deviations of Gaussian data for whose flow a solver is exact, where polishing begins; 0 stands for straight paths."""
TRIED = 4
"""Number of starts that are polished, because there are many local minima; see `polished_at_once`."""
STARTS = len(STDS) * (1 + len(BEGIN))
"""Number of starts."""
LENGTHS = (1.0, 0.3, 0.1, 0.03)
"""Parts of a step that are tried."""
ROUNDS = 6
"""Default number of Gauss-Newton steps."""
FEW_NUMBERS, MANY_ROWS, FEW_ROWS = 64, 4096, 32
"""A fit should have 4,096 rows if a row has up to 64 numbers, and 32 rows otherwise; see `rows_for`."""


def fit(
    velocity: Velocity | Flow,
    x1: Tensor,
    nfe: int = 8,
    *,
    profile: Profile | None = None,
    method: SamplerLike | None = None,
    start: float = 1.0,
    condition: Sequence[Any] | None = None,
    rounds: int = ROUNDS,
    validate: bool = True,
    tokens: int = 4096,
    max_batch: int | None = None,
    on_call: Callable[[int], None] | None = None,
) -> Solver:
    r"""Fit a schedule and a sampler to one flow and a number of model calls.

    The first stage uses only the profile. It finds the nodes and weights with the smallest squared errors of all steps along the flow's
    own paths. The second stage runs the solver. Gauss-Newton steps change nodes and weights together to reduce the error of the result,
    and cross-validation over the rows decides how far. Every fourth row is held back from both stages, for the validation.

    With ``method`` only the nodes are fitted. They are compared with a flat schedule, FLUX.2's schedule and three shifts on the rows
    that were held back. The fit returns the best of these unless the fitted nodes are better by more than two standard errors.

    Args:
        velocity: ``velocity(x, sigma)``, or a `Flow`.
        x1: starts, ``(rows, ...)``, from the distribution that you will sample from. Use 32 for images, and 4,096 for rows of up to 64
            numbers.
        nfe: number of model calls.
        profile: a profile of these or other rows; by default it is measured here.
        method: fit only the nodes, for this registered sampler; by default nodes and weights are fitted.
        start: sigma of ``x1``, for image-to-image.
        condition: the condition of each row, such as its prompt; for a `Flow` only.
        rounds: Gauss-Newton steps; 0 uses only the profile. Each step runs the solver once for each parameter, on all fitting rows.
        validate: measure the solver and others on the rows that were held back.
        tokens: number of tokens of an image, for FLUX.2's schedule, on which other samplers are measured.
        max_batch: largest number of rows in one model call; by default 64, and more for rows of few numbers.
        on_call: called with the number of rows after every model call.

    Returns:
        The `Solver`: ``grid``, ``sampler``, ``fitted_to``, ``validation``, ``save(path)``.

    Raises:
        ValueError: ``nfe`` is below 1 or above the profile's number of nodes; ``method`` draws noise, stores latents or is adaptive; or not
            one of its steps fits.
        FloatingPointError: a velocity is not finite.

    Examples:
        >>> import flowsamplers as fs
        >>> flow = fs.flows.MixtureFlow.random(1)
        >>> solver = fit(flow.velocity, flow.noise(list(range(64))), nfe=6)
        >>> x1 = flow.noise(list(range(1000, 1032)))  # other noise than it was fitted to
        >>> def error(grid, sampler):
        ...     return (fs.sample(flow.velocity, x1, grid, sampler) - flow.solution(x1)).norm()
        >>> bool(error(solver.grid, solver.sampler) < error(fs.schedules.linear(6), "unipc") / 2)
        True

    Reference:
        Nodes and weights from one set of second moments are this project's. Relatives: BNS (arXiv:2403.01329), GITS (arXiv:2405.11326),
        S4S (arXiv:2502.17423), SharpEuler (arXiv:2605.11547).
    """
    flag("validate", validate)
    rows = Rows.of(velocity, x1, profile, start, condition, max_batch, on_call)
    return rows.fit(nfe, method=method, rounds=rounds, validate=validate, tokens=tokens)


def rows_for(x1: Tensor) -> int:
    """Number of rows that a fit should have. Among rows with few numbers, some are rare and have most of the error.

    Examples:
        >>> rows_for(torch.zeros(1, 2)), rows_for(torch.zeros(1, 16, 16))
        (4096, 32)
    """
    return MANY_ROWS if math.prod(x1.shape[1:]) <= FEW_NUMBERS else FEW_ROWS


def polished_at_once(rounds: int) -> list[int]:
    """Number of starts in each round of polishing: after each third of the rounds only the better half goes on.

    Examples:
        >>> polished_at_once(6)
        [4, 4, 2, 2, 1, 1]
    """
    return [TRIED >> 3 * done // rounds for done in range(rounds)]


def noised_images(flow: Flow, noise: Tensor, start: float, condition: Sequence[Any], nodes: int) -> Tensor:
    r"""Starts for image-to-image: the model's own images with noise, $(1 - s)\,x_0 + s\,n$.

    Args:
        flow: the model.
        noise: pure noise, ``(2 * rows, ...)``: of the first half it draws the images, and the second half is n.
        start: s, in (0, 1].
        condition: of each row.
        nodes: intervals of the paths that end in the images.
    """
    path_nodes(nodes, start)
    drawn, other = noise.chunk(2)
    images = ends(RowVelocity(flow, noise.dtype, condition), drawn, path_nodes(nodes), batch_of(noise))
    return ((1 - start) * images + start * other.double()).to(noise.dtype)


def evaluations_at_most(rows: int, wanted: Sequence[int], rounds: int, nodes: int = NODES, *, edits: bool = False) -> int:
    """Bound the evaluations of fits to one flow: the paths, the runs with changed parameters, and the validation.

    Args:
        rows: number of starts.
        wanted: model calls of each solver.
        rounds: Gauss-Newton steps of each solver.
        nodes: number of intervals of a path.
        edits: include the images that the model draws for image-to-image starts.

    Examples:
        >>> evaluations_at_most(32, [8], 0)  # 12,224 of them for the paths
        14928
    """
    judges = rows // FOLDS
    total = rows * (calls_of_a_path(nodes) + edits * calls_of_a_path(nodes, checked=False))
    for n in wanted:
        parameters = n + n * (n - 1) // 2
        each = STARTS * (rounds > 0) + sum(polished_at_once(rounds)) * (parameters // 2 + 6) + 2
        total += (rows - judges) * n * each + judges * (30 * n + 50)
    return total


@dataclass(frozen=True, eq=False)
class Rows(RowsWithEnds):
    """Starts, their ends and their profile: what all fits to one flow share."""

    profile: Profile

    @classmethod
    def of(
        cls,
        velocity: Velocity | Flow,
        x1: Tensor,
        profile: Profile | None = None,
        start: float = 1.0,
        condition: Sequence[Any] | None = None,
        max_batch: int | None = None,
        on_call: Callable[[int], None] | None = None,
        **how: Any,
    ) -> Rows:
        """Measure what is missing; see `fit`, and `profile` for ``file``, ``about`` and ``nodes``."""
        of_rows, max_batch = row_velocity(velocity, x1, condition, max_batch, on_call)
        if profile is not None:
            if not isinstance(profile, Profile):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise refused("profile", profile, "a Profile")
            if profile.numbers != math.prod(x1.shape[1:]):
                raise ValueError(f"profile of rows of {profile.numbers} numbers: x1 has rows of {math.prod(x1.shape[1:])}")
            return cls(of_rows, x1, ends(of_rows, x1, profile.sigmas, max_batch), max_batch, profile)
        sigmas, found, known = path_nodes(how.pop("nodes", NODES), start), list[Tensor](), 0
        for profile, end in measured(of_rows, x1, sigmas, max_batch, **how):  # noqa: PLR1704  (the last is meant)
            if end is None:
                known = profile.rows
            else:
                found.append(end)
        assert profile is not None
        if known:
            first = replace(of_rows, condition=condition and condition[:known])
            found.insert(0, ends(first, x1[:known], sigmas, max_batch))
        return cls(of_rows, x1, torch.cat(found), max_batch, profile)

    @property
    def judged(self) -> int | None:
        """The fold that is held back; None where there are too few rows."""
        return JUDGE if len(self.x1) >= FOLDS else None

    def only(self, *, judging: bool) -> Rows:
        """The rows that judge, or those that fit."""
        chosen = [i for i in range(len(self.x1)) if (i % FOLDS == self.judged) == judging]
        given = self.velocity.condition
        velocity = replace(self.velocity, condition=None if given is None else [given[i] for i in chosen])
        return replace(self, velocity=velocity, x1=self.x1[chosen], x0=self.x0[chosen])

    def fit(
        self, nfe: int, *, method: SamplerLike | None = None, rounds: int = ROUNDS, validate: bool = True, tokens: int = 4096
    ) -> Solver:
        """See `fit`."""
        nfe, rounds = integer("nfe", nfe, 1), integer("rounds", rounds, 0)
        nodes = len(self.profile.sigmas) - 1
        if nfe > nodes:
            raise ValueError(
                f"nfe={nfe}: the profile has {nodes} nodes, and a solver at most as many calls; measure one with more"
            )
        moments, fitting = self.profile.without(self.judged), self.only(judging=False)
        polish = rounds if len(fitting.x1) >= 2 * (FOLDS - 1) else 0
        families = fitting.families(nfe, moments) if method is None else [OfMethod(nfe, moments, method, tokens)]
        if polish:
            family, found = fitting.best_polished(families, polish)
        else:
            family, found = families[0], families[0].starts()[0]
        if isinstance(family, OfMethod):
            found = (fitting if self.judged is None else self.only(judging=True)).no_worse(family, found)
        grid, sampler = family.solver(found)
        scheme = family.scheme(found)
        about = {
            **self.profile.about,
            "nfe": len(scheme.sigmas),
            "start": self.profile.start,
            "shape": list(self.x1.shape[1:]),
            "dtype": str(self.x1.dtype).removeprefix("torch."),
            "rows": len(fitting.x1),
            "rows_of_profile": self.profile.rows,
            "path_error": self.profile.error,
            "amplification": amplification(scheme),
        }
        solver = Solver(grid, sampler, about)
        if validate and self.judged is not None:
            judged = validated(solver, self.only(judging=True), fitting, tokens, self.profile.error)
            solver = replace(solver, validation=judged)
        return solver

    def families(self, steps: int, moments: Moments) -> list[Learned]:
        """List the families: exact for straight paths, or for those of Gaussian data, which begin at sigma 1."""
        most = min(LARGEST, self.x1.numel() // DATA)
        return [Learned(steps, moments, s, self.x1.dtype, most) for s in STDS if not s or self.profile.start == 1]

    def best_polished(self, families: Sequence[Learned | OfMethod], rounds: int) -> tuple[Learned | OfMethod, Array]:
        """Polish the starts with the smallest errors. After each round the better half goes on."""
        runs = [Polishing(self, family, theta) for family in families for theta in family.starts()]
        for going_on in polished_at_once(rounds):
            runs = sorted(runs, key=lambda run: run.error)[:going_on]
            for run in runs:
                run.step()
        best = min(runs, key=lambda run: run.error)
        return best.family, best.theta

    def no_worse(self, family: OfMethod, theta: Array) -> Array:
        """Fitted nodes, or the best known schedule unless they are better than it by more than two standard errors."""
        mine = self.errors(family.scheme(theta))
        known = [self.errors(family.scheme(other)) for other in family.known]
        best = int(np.argmin([its.sum() for its in known]))
        new, old = float(mine.sum()), float(known[best].sum())
        if not new or not old or not math.isfinite(new + old):
            return theta if new < old else family.known[best]
        doubt = math.sqrt(float(np.square(known[best] / old - mine / new).sum()))
        return theta if math.log(old / new) > 2 * doubt else family.known[best]

    def error(self, scheme: Scheme) -> float:
        r"""The relative error that a fit makes small: the sum of $J \log(1 + e / J)$ over the squared errors e of the rows, J = `JUMP`."""
        return float((JUMP * np.log1p(self.errors(scheme) / JUMP)).sum()) / self.size

    @cached_property
    def size(self) -> float:
        """The sum of the squared sizes of the ends, each row by its weight."""
        return float((self.x0.flatten(1).square().sum(1) * row_weights(self.x1, self.x0)).sum())

    def errors(self, scheme: Scheme) -> Array:
        """Compute the squared error of each row, by its weight."""
        weights = row_weights(self.x1, self.x0)
        found = list[Tensor]()
        for rows in chunks(len(self.x1), self.max_batch):
            gap = run_scheme(self.velocity, self.x1, rows, scheme)[0] - self.x0[rows]
            found.append(gap.flatten(1).square().sum(1) * weights[rows])
        return cast(Array, torch.cat(found).nan_to_num(math.inf).cpu().numpy())


class Polishing:
    """Gauss-Newton steps on the squared error of the end, from one start.

    Those of anchored families are damped towards the start as cross-validation asks, and shortened until they help. Of nodes alone there
    are few: the best of several dampings is taken.

    Attributes:
        family: of the solver.
        theta: its parameters.
        error: its squared error on the rows.
    """

    def __init__(self, rows: Rows, family: Learned | OfMethod, theta: Array) -> None:
        self.rows, self.family, self.begun, self.theta = rows, family, theta, theta
        self.error = self._error(theta)
        self._ended = not family.free or not math.isfinite(self.error)

    def step(self) -> None:
        """Take one step if one helps."""
        if self._ended:
            return
        self._ended = True
        free = self.family.free
        try:
            a, g, left = _linearized(self.family, self.theta, self.rows, free)
        except FloatingPointError:  # a solver that ran away tells nothing
            return
        if not a.any():
            return
        off, size = self._off(self.theta), np.trace(a.sum(0)) / len(free)
        if self.family.anchored:
            anchor = size * _damping(a, g, left, off)
            tried = [(anchor, length) for length in LENGTHS]
        else:
            anchor = 0.0
            tried = [(size * damping, 1.0) for damping in DAMPINGS[2::2]]
        least, best = (self.error + anchor * float(off @ off)) * (1 - 1e-9), (self.theta, self.error)
        for damping, length in tried:
            move = -np.linalg.solve(a.sum(0) + damping * np.eye(len(free)), g.sum(0) + anchor * off) * self.family.unit[free]
            theta = _moved(self.theta, length * move, free)
            error, away = self._error(theta), self._off(theta)
            if (cost := error + anchor * float(away @ away)) < least:
                least, best, self._ended = cost, (theta, error), False
        self.theta, self.error = best

    def _off(self, theta: Array) -> Array:
        """The distance from the start in natural units."""
        return ((theta - self.begun) / self.family.unit)[self.family.free]

    def _error(self, theta: Array) -> float:
        try:
            scheme = self.family.scheme(theta)
            return self.rows.error(scheme) if amplification(scheme) <= MOST else math.inf
        except (FloatingPointError, ValueError):
            return math.inf


def _moved(theta: Array, by: Array, free: Sequence[int]) -> Array:
    moved = theta.copy()
    moved[list(free)] += by
    return moved


def _linearized(family: Learned | OfMethod, theta: Array, rows: Rows, free: Sequence[int]) -> tuple[Array, Array, Array]:
    """Of each part of the rows: J.J, J.r and r.r for the residual r of the end, J by differences. Rows stream."""
    delta = max(1e-4, min(0.03, torch.finfo(rows.x1.dtype).eps ** (1 / 3)))
    base, p = family.scheme(theta), len(free)
    others = [family.scheme(_moved(theta, np.array([delta * family.unit[i]]), [i])) for i in free]
    parts = min(PARTS, len(rows.x1))
    a, g, left = np.zeros((parts, p, p)), np.zeros((parts, p)), np.zeros(parts)
    weights = row_weights(rows.x1, rows.x0)
    size = min(rows.max_batch, max(1, HELD // ((p + 2) * max(1, math.prod(rows.x1.shape[1:])))))
    for some in chunks(len(rows.x1), size):
        end, known = run_scheme(rows.velocity, rows.x1, some, base)
        gap = (end - rows.x0[some]).flatten(1)
        less = 1 + gap.square().sum(1) * weights[some] / JUMP  # the slope of the logarithm in `Rows.error`
        root = (weights[some] / rows.size / less).sqrt()[:, None]
        r = (gap * root).cpu().numpy()
        columns = [
            (
                (run_scheme(rows.velocity, rows.x1, some, o, known[: first_other(base, o)])[0] - end).flatten(1)
                * (root / delta)
            ).cpu()
            for o in others
        ]
        j = torch.stack(columns, 2).numpy()
        for part in range(parts):
            mine = slice((part - some.start) % parts, None, parts)
            flat, its = j[mine].reshape(-1, p), r[mine].reshape(-1)
            a[part] += flat.T @ flat
            g[part] += flat.T @ its
            left[part] += its @ its
    return a, g, left


def _damping(a: Array, g: Array, left: Array, off: Array) -> float:
    """The strongest damping whose error on parts held back in turn is not clearly above the least, by the linear model of each round.

    Clearly is more than one standard error of the difference over the parts (Breiman's rule): few rows then move less.
    """
    parts, p = g.shape
    size, eye = np.trace(a.sum(0)) / p, np.eye(p)

    def errors(damping: float) -> Array:
        lam = damping * size * (parts - 1) / parts
        moves = -np.linalg.solve(a.sum(0) - a + lam * eye, (g.sum(0) - g + lam * off)[..., None])[..., 0]
        quadratic = np.einsum("ki,kij,kj->k", moves, a, moves)
        return np.maximum(0.0, left + 2 * (g * moves).sum(1) + quadratic)

    held = np.array([errors(d) for d in DAMPINGS])
    more = held - held[held.sum(1).argmin()]
    return float(max(d for d, m in zip(DAMPINGS, more, strict=True) if m.sum() <= math.sqrt(parts) * m.std(ddof=1)))
