r"""Fit nodes and weights of a solver to a flow, from its `Profile` and then from the solver's own runs.

The nodes and first weights come from the profile alone, see `scheme`. Gauss-Newton steps on the error of the end then change both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from flowsamplers.engine import Velocity, carry_dtype
from flowsamplers.fitting_families import LARGEST, Learned, OfMethod
from flowsamplers.lockstep import Flow
from flowsamplers.profiling import (
    FOLDS,
    HELD,
    NODES,
    Array,
    Asked,
    Moments,
    Profile,
    batch_of,
    chunks,
    ends,
    measured,
    path_nodes,
    row_weights,
)
from flowsamplers.registry.specifications import as_declared
from flowsamplers.sampler import SamplerLike
from flowsamplers.scheme import (
    MOST,
    Scheme,
    amplification,
    first_other,
    run_scheme,
)
from flowsamplers.solver import Solver
from flowsamplers.validation import JUDGE, TRIAL, Judges, validated

DATA = 2
"""Numbers in the fitting rows per polished parameter, at least."""
DAMPINGS = 10.0 ** np.arange(-9, 3)
SLACK = 1.01
"""The strongest damping is chosen whose error on held-back rows is within one percent of the smallest."""
STDS = (0.25, 0.75)
"""Standard deviations of Gaussian data for whose flow a solver may be exact, where polishing begins: there are several local minima."""
WORTH = 0.8
"""Solvers for Gaussian data and for straight paths are both tried if the smaller squared error is at least this part of the larger."""
TRIED = 2
"""Number of starts that are polished."""
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
    rows = Rows.of(velocity, x1, profile, start, condition, max_batch, on_call)
    return rows.fit(nfe, method=method, rounds=rounds, validate=validate, tokens=tokens)


def rows_for(x1: Tensor) -> int:
    """Number of rows that a fit should have. Among rows with few numbers, some are rare and have most of the error.

    Examples:
        >>> rows_for(torch.zeros(1, 2)), rows_for(torch.zeros(1, 16, 16))
        (4096, 32)
    """
    return MANY_ROWS if math.prod(x1.shape[1:]) <= FEW_NUMBERS else FEW_ROWS


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
    images = ends(Asked(flow, noise.dtype, condition), drawn, path_nodes(nodes), batch_of(noise))
    return ((1 - start) * images + start * other.double()).to(noise.dtype)


@dataclass(frozen=True, eq=False)
class Rows:
    """Starts, their ends and their profile: what all fits to one flow share."""

    asked: Asked
    x1: Tensor
    x0: Tensor
    profile: Profile
    max_batch: int

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
        carry_dtype(x1)
        max_batch = batch_of(x1, max_batch)
        asked = Asked(velocity, x1.dtype, condition, on_call)
        if not len(x1):
            raise ValueError("x1 has no rows: a fit needs at least 1")
        if condition is not None and (callable(velocity) or len(condition) != len(x1)):
            raise ValueError(
                f"condition: {len(condition)} entries for {len(x1)} rows; give one for each, and a Flow that reads them"
            )
        if profile is not None:
            if profile.numbers != math.prod(x1.shape[1:]):
                raise ValueError(f"profile of rows of {profile.numbers} numbers: x1 has rows of {math.prod(x1.shape[1:])}")
            return cls(asked, x1, ends(asked, x1, profile.sigmas, max_batch), profile, max_batch)
        sigmas, found, known = path_nodes(how.pop("nodes", NODES), start), list[Tensor](), 0
        for profile, end in measured(asked, x1, sigmas, max_batch, **how):  # noqa: PLR1704  (the last is meant)
            if end is None:
                known = profile.rows
            else:
                found.append(end)
        assert profile is not None
        if known:
            first = replace(asked, condition=condition and condition[:known])
            found.insert(0, ends(first, x1[:known], sigmas, max_batch))
        return cls(asked, x1, torch.cat(found), profile, max_batch)

    @property
    def judged(self) -> int | None:
        """The fold that is held back; None where there are too few rows."""
        return JUDGE if len(self.x1) >= FOLDS else None

    def only(self, *, judging: bool) -> Rows:
        """The rows that judge, or those that fit."""
        chosen = [i for i in range(len(self.x1)) if (i % FOLDS == self.judged) == judging]
        given = self.asked.condition
        asked = replace(self.asked, condition=None if given is None else [given[i] for i in chosen])
        return replace(self, asked=asked, x1=self.x1[chosen], x0=self.x0[chosen])

    def fit(
        self, nfe: int, *, method: SamplerLike | None = None, rounds: int = ROUNDS, validate: bool = True, tokens: int = 4096
    ) -> Solver:
        """See `fit`."""
        nfe, rounds = as_declared("nfe", nfe, "int"), as_declared("rounds", rounds, "int")
        if rounds < 0:
            raise ValueError(f"rounds={rounds}: must not be negative; 0 uses the profile alone")
        if nfe < 1:
            raise ValueError(f"nfe={nfe}: a solver makes at least 1 model call")
        nodes = len(self.profile.sigmas) - 1
        if nfe > nodes:
            raise ValueError(
                f"nfe={nfe}: the profile has {nodes} nodes, and a solver at most as many calls; measure one with more"
            )
        moments, fitting = self.profile.without(self.judged), self.only(judging=False)
        polish = rounds if len(fitting.x1) >= 2 * (FOLDS - 1) else 0
        families = fitting.families(int(nfe), moments, polish > 0)
        if method is not None:
            families = [OfMethod(int(nfe), moments, method, tokens)]

        def best(tried: list[tuple[Learned | OfMethod, Array]], most: int = 1) -> list[tuple[Learned | OfMethod, Array]]:
            return sorted(tried, key=lambda t: fitting.error(t[0].scheme(t[1])))[:most] if len(tried) > most else tried

        def gone_on(tried: list[tuple[Learned | OfMethod, Array]], rounds: int) -> list[tuple[Learned | OfMethod, Array]]:
            return [(family, polished(family, theta, fitting, rounds)) for family, theta in tried]

        begun = best([(family, theta) for family in families for theta in family.starts()], TRIED)
        first = polish if len(begun) == 1 else min(polish, TRIAL)
        family, found = best([*begun, *gone_on(best(gone_on(begun, first)), polish - first)] if polish else begun)[0]
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
            judges, seen = (Judges(r.asked, r.x1, r.x0, r.max_batch) for r in (self.only(judging=True), fitting))
            solver = replace(solver, validation=validated(solver, judges, seen, tokens, self.profile.error))
        return solver

    def families(self, steps: int, moments: Moments, several: bool) -> list[Learned]:  # noqa: FBT001
        """List the families that the profile does not rule out: exact for straight paths, or for those of Gaussian data."""
        dtype, most = self.x1.dtype, min(LARGEST, self.x1.numel() // DATA)
        straight = Learned(steps, moments, 0.0, dtype, most)
        if self.profile.start != 1:
            return [straight]
        gaussian = [Learned(steps, moments, std, dtype, most) for std in STDS]
        ratio = min(f.cost for f in gaussian) / max(straight.cost, np.finfo(float).tiny)
        found = [*[straight] * (ratio >= WORTH), *gaussian * (ratio <= 1 / WORTH)]
        return found if several else [min(found, key=lambda f: f.cost)]

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
        """Mean squared error of the end, relative, each row by its weight."""
        return float(self.errors(scheme).sum())

    def errors(self, scheme: Scheme) -> Array:
        """Compute the contribution of each row to `error`."""
        weights = row_weights(self.x1, self.x0)
        found = list[Tensor]()
        for rows in chunks(len(self.x1), self.max_batch):
            gap = run_scheme(self.asked, self.x1, rows, scheme)[0] - self.x0[rows]
            found.append(gap.flatten(1).square().sum(1) * weights[rows])
        size = (self.x0.flatten(1).square().sum(1) * weights).sum()
        each = (torch.cat(found) / size).nan_to_num(math.inf)
        return cast(Array, each.cpu().numpy())


def polished(family: Learned | OfMethod, theta: Array, rows: Rows, rounds: int) -> Array:
    """Gauss-Newton steps on the squared error of the end.

    Those of anchored families are damped towards where they began as cross-validation asks, and shortened until they help. Of nodes
    alone there are few: the best of several dampings is taken.
    """
    begun, unit, free = theta, family.unit, family.free
    for _ in range(rounds if free else 0):
        try:
            a, g, left = _linearized(family, theta, rows, free)
        except FloatingPointError:  # a solver that ran away tells nothing
            return theta
        if not a.any():
            return theta
        off = ((theta - begun) / unit)[free] if family.anchored else np.zeros(len(free))
        size = np.trace(a.sum(0)) / len(free)

        def move(lam: float) -> Array:
            return -np.linalg.solve(a.sum(0) + lam * np.eye(len(free)), g.sum(0) + lam * off) * unit[free]  # noqa: B023

        anchor = size * _damping(a, g, left, off) if family.anchored else 0.0

        def cost(theta: Array) -> float:
            away = ((theta - begun) / unit)[free]
            try:
                scheme = family.scheme(theta)
                if amplification(scheme) > MOST:
                    return math.inf
                return rows.error(scheme) + anchor * float(away @ away)  # noqa: B023  (called in this round)
            except (FloatingPointError, ValueError):
                return math.inf

        now = (float(left.sum()) + anchor * float(off @ off)) * (1 - 1e-9)
        if family.anchored:
            tried = (_moved(theta, step * move(anchor), free) for step in (1.0, 0.3, 0.1, 0.03))
            better = next((t for t in tried if cost(t) < now), None)
        else:
            tried = [_moved(theta, move(size * damping), free) for damping in DAMPINGS[2::2]]
            costs = [cost(t) for t in tried]
            better = tried[int(np.argmin(costs))] if min(costs) < now else None
        if better is None:
            return theta
        theta = better
    return theta


def _moved(theta: Array, by: Array, free: Sequence[int]) -> Array:
    moved = theta.copy()
    moved[list(free)] += by
    return moved


def _linearized(family: Learned | OfMethod, theta: Array, rows: Rows, free: Sequence[int]) -> tuple[Array, Array, Array]:
    """Of each fold of rows: J.J, J.r and r.r for the residual r of the end, J by differences. Rows stream."""
    delta = max(1e-4, min(0.03, torch.finfo(rows.x1.dtype).eps ** (1 / 3)))
    base, p = family.scheme(theta), len(free)
    others = [family.scheme(_moved(theta, np.array([delta * family.unit[i]]), [i])) for i in free]
    folds = FOLDS - 1
    a, g, left = np.zeros((folds, p, p)), np.zeros((folds, p)), np.zeros(folds)
    weights = row_weights(rows.x1, rows.x0)
    total = (rows.x0.flatten(1).square().sum(1) * weights).sum().item()
    size = min(rows.max_batch, max(1, HELD // ((p + 2) * max(1, math.prod(rows.x1.shape[1:])))))
    for some in chunks(len(rows.x1), size):
        end, known = run_scheme(rows.asked, rows.x1, some, base)
        root = (weights[some] / total).sqrt()[:, None]
        r = ((end - rows.x0[some]).flatten(1) * root).cpu().numpy()
        columns = [
            (
                (run_scheme(rows.asked, rows.x1, some, o, known[: first_other(base, o)])[0] - end).flatten(1) * (root / delta)
            ).cpu()
            for o in others
        ]
        j = torch.stack(columns, 2).numpy()
        for fold in range(folds):
            mine = [i for i in range(len(r)) if (some.start + i) % folds == fold]
            flat, its = j[mine].reshape(-1, p), r[mine].reshape(-1)
            a[fold] += flat.T @ flat
            g[fold] += flat.T @ its
            left[fold] += its @ its
    return a, g, left


def _damping(a: Array, g: Array, left: Array, off: Array) -> float:
    """The damping with the least error on the folds that are held back in turn, by the linear model of each round."""
    folds, p = g.shape
    size, eye = np.trace(a.sum(0)) / p, np.eye(p)

    def error(damping: float) -> float:
        total = 0.0
        for fold in range(folds):
            lam = damping * size * (folds - 1) / folds
            move = -np.linalg.solve(a.sum(0) - a[fold] + lam * eye, g.sum(0) - g[fold] + lam * off)
            total += max(0.0, float(left[fold] + 2 * g[fold] @ move + move @ a[fold] @ move))
        return total

    errors = [error(d) for d in DAMPINGS]
    return float(max(d for d, e in zip(DAMPINGS, errors, strict=True) if e <= SLACK * min(errors)))
