r"""The profile of a flow: second moments of its own paths, from which solvers are designed without model calls.

Each row n has an exact path $x^n(s)$ from its start to data, with velocities $v^n(s)$. If a solver's points are the start plus weighted
velocities, its error depends only on three matrices over the nodes of the path:

$$
G_{ab} = \langle v(s_a), v(s_b) \rangle, \quad
P_{ab} = \langle x(s_a) - x(s_0), v(s_b) \rangle, \quad
Q_{ab} = \langle x(s_a) - x(s_0), x(s_b) - x(s_0) \rangle
$$

They are sums over rows, so they can be computed in batches, merged, and stored in a small file for any image size. In $G$ and $P$ the
start $x(s_0)$ follows the velocities as one more vector, for solvers that also give it a weight.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.linalg import block_diag
from torch import Tensor

from flowsamplers._accepted import integer, mapping, number, refused
from flowsamplers._devices import digest
from flowsamplers._files import write_atomically
from flowsamplers.engine import Velocity
from flowsamplers.evaluated import RowVelocity, chunks, row_velocity
from flowsamplers.grid import SigmaGrid
from flowsamplers.lockstep import Flow
from flowsamplers.samplers.learned import gaussian_path

Array = NDArray[np.float64]
Parts: TypeAlias = (
    "Callable[[RowVelocity, Tensor, Iterable[slice], tuple[float, ...], Mapping[str, Any]], Iterator[tuple[Profile, Tensor]]]"
)
"""Measures batches of rows, in their order: profiles and ends."""

FOLDS = 4
"""Row n belongs to fold n mod 4. Moments are kept for each fold, so that rows can be held back without another model call."""
NODES = 64
"""Default number of intervals of a path; a fitted solver has at most as many calls."""
HELD = 2**26
"""Numbers in float64 that are held at once beside the rows themselves, half a gigabyte: batches of large rows are smaller."""
SCHEMA = 3
"""Version of the file. A file with a higher number was written by a newer version of this library."""


MATRICES = ("velocities", "crossed", "displacements", "sizes")
"""Attributes of a profile that are arrays."""
NUMBERS = ("numbers", "error", "evaluations", "seen", "about")
"""Its other attributes that a file holds as they are."""


@dataclass(frozen=True, eq=False)
class Profile:
    """The profile: second moments of a flow along its own paths.

    Attributes:
        sigmas: M + 1 nodes, falling from the start to 0.
        velocities: G, ``(folds, M + 1, M + 1)``, sums over the rows of a fold of the mean over the numbers of a row. The start is the last.
        crossed: P, ``(folds, M + 1, M + 1)``, likewise.
        displacements: Q, ``(folds, M + 1, M + 1)``.
        sizes: ``(folds,)``, the same sums of the squared end points.
        counts: ``(folds,)``, rows.
        numbers: how many numbers a row has.
        error: relative error of the paths' ends: the largest distance of a row between two resolutions.
        evaluations: what it cost.
        seen: digest of the rows, in their order.
        about: what it was measured on.
    """

    sigmas: tuple[float, ...]
    velocities: Array = field(repr=False)
    crossed: Array = field(repr=False)
    displacements: Array = field(repr=False)
    sizes: Array = field(repr=False)
    counts: tuple[int, ...]
    numbers: int
    error: float
    evaluations: int
    seen: str = ""
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        """The profile in one line."""
        nodes = f"{len(self.sigmas)} nodes from {self.start:g}"
        return f"Profile({self.rows} rows, {nodes}, {self.evaluations} evaluations, error {self.error:.1e})"

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(self.counts)

    @property
    def start(self) -> float:
        """Sigma at which the paths begin."""
        return self.sigmas[0]

    def merge(self, other: Profile) -> Profile:
        """Merge two profiles, for example from another worker or an earlier session.

        Raises:
            ValueError: the nodes, the sizes of rows, or the models differ.
        """
        if self.sigmas != other.sigmas or self.numbers != other.numbers:
            raise ValueError("profiles merge if they have the same nodes and the same size of rows")
        if self.about != other.about:
            changed = [k for k in {**self.about, **other.about} if self.about.get(k) != other.about.get(k)]
            raise ValueError(f"profiles of different models or settings do not merge: {', '.join(changed)} differ")
        # The second set's row 0 follows the first set's last row, so that its folds are turned by as many.
        by = self.rows % FOLDS
        sums: dict[str, Any] = {k: getattr(self, k) + np.roll(getattr(other, k), by, axis=0) for k in MATRICES}
        return replace(
            self,
            **sums,
            counts=tuple(int(n) for n in np.array(self.counts) + np.roll(other.counts, by)),
            error=max(self.error, other.error),
            evaluations=self.evaluations + other.evaluations,
            seen=hashlib.sha256((self.seen + other.seen).encode()).hexdigest(),
        )

    def without(self, fold: int | None) -> Moments:
        """The moments of all rows, or of those that are not in a fold, divided by the mean size of an end point."""
        kept = [i for i in range(FOLDS) if i != fold]
        size = self.sizes[kept].sum()
        if not size > 0:
            raise ValueError("the paths end at zero: an error relative to the end has no meaning")
        g, p, q = (m[kept].sum(0) / size for m in (self.velocities, self.crossed, self.displacements))
        return Moments(np.array(self.sigmas), g, p, q, self.numbers * sum(self.counts[i] for i in kept))

    def save(self, path: str | Path) -> None:
        """Save the profile as a safetensors file.

        Raises:
            ImportError: safetensors is not installed.
            OSError: the file cannot be written.
        """
        from safetensors.numpy import save  # noqa: PLC0415  (an extra)

        tensors = {"sigmas": np.array(self.sigmas), **{k: getattr(self, k) for k in MATRICES}}
        about = {"kind": "profile", "schema": SCHEMA, **{k: getattr(self, k) for k in ("counts", *NUMBERS)}}
        write_atomically(Path(path), save(tensors, {"flowsamplers": json.dumps(about)}))

    @classmethod
    def load(cls, path: str | Path) -> Profile:
        """Load a profile from a file written by `save`.

        Raises:
            ValueError: the file is damaged, of another kind, or newer than this library.
            OSError: the file cannot be read.
        """
        from safetensors import SafetensorError, safe_open  # noqa: PLC0415  (an extra)

        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such profile")
        try:
            with safe_open(path, framework="numpy") as opened:
                about = json.loads(opened.metadata()["flowsamplers"])
                t = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            if about["kind"] != "profile":
                raise ValueError(f"it is a {about['kind']}")
            if about["schema"] != SCHEMA:
                other = "newer than {}; update flowsamplers" if about["schema"] > SCHEMA else "older than {}; measure it again"
                raise ValueError(f"its schema {about['schema']} is {other.format(SCHEMA)}")
            m = len(t["sigmas"]) - 1
            shapes = [*[(FOLDS, m + 1, m + 1)] * 3, (FOLDS,)]
            arrays: list[Array] = [t[k] for k in MATRICES]
            if [a.shape for a in arrays] != shapes or not all(np.isfinite(a).all() for a in arrays):
                raise ValueError("its matrices have wrong shapes or numbers that are not finite")
            rest = {k: about[k] for k in NUMBERS}
            return cls(SigmaGrid(t["sigmas"]).sigmas, *arrays, counts=tuple(about["counts"]), **rest)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: not a profile of a flow ({error})") from error


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean moments of some rows, relative to the mean squared size of their ends; see `Profile`."""

    sigmas: Array
    velocities: Array
    crossed: Array
    displacements: Array
    numbers: int

    def at(self, sigmas: Sequence[float]) -> Moments:
        """Interpolate the moments at other nodes, by splines through the measured nodes; the last node is the end."""
        known = {s: i for i, s in enumerate(self.sigmas.tolist())}
        if all(s in known for s in sigmas):
            return self.pick([known[s] for s in sigmas])
        wanted = np.asarray(sigmas)
        rising = self.sigmas[::-1]
        eye = np.eye(len(rising))
        places = CubicSpline(rising, eye[::-1])(wanted)
        speeds = cast(Array, block_diag(CubicSpline(rising[1:], eye[1:, 1:][::-1])(wanted[:-1]), 1.0))
        return Moments(
            wanted,
            speeds @ self.velocities @ speeds.T,
            places @ self.crossed @ speeds.T,
            places @ self.displacements @ places.T,
            self.numbers,
        )

    def pick(self, indices: Sequence[int]) -> Moments:
        """Select some of the measured nodes."""
        i, j = np.array(indices), np.array([*indices[:-1], -1])
        g, p, q = self.velocities[np.ix_(j, j)], self.crossed[np.ix_(i, j)], self.displacements[np.ix_(i, i)]
        return Moments(self.sigmas[i], g, p, q, self.numbers)

    def beyond(self, std: float) -> Moments:
        r"""Subtract the flow of Gaussian data: $v - \rho' x_1$ and $x - \rho x_1$ replace $v$ and $x - x_1$.

        Args:
            std: of the data; then $\rho = \sqrt{s^2 + (1 - s)^2 c^2}$ is the path of $x_1 = 1$, which begins at sigma 1.
        """
        rho, slope = gaussian_paths(self.sigmas, std)
        turn = np.eye(len(self.velocities))
        turn[:-1, -1] = -slope[:-1]
        left = (1 - rho)[:, None]
        crossed = self.crossed + left * self.velocities[-1]
        displacements = (
            self.displacements
            + left * self.crossed[:, -1]
            + self.crossed[:, -1:] * left.T
            + left * left.T * self.velocities[-1, -1]
        )
        return replace(self, velocities=turn @ self.velocities @ turn.T, crossed=crossed @ turn.T, displacements=displacements)


def gaussian_paths(sigmas: Array, std: float) -> tuple[Array, Array]:
    """`gaussian_path` at several sigmas: places and slopes."""
    rho, slope = np.array([gaussian_path(s, std) for s in sigmas.tolist()]).T
    return rho, slope


def profile(
    velocity: Velocity | Flow,
    x1: Tensor,
    *,
    nodes: int = NODES,
    start: float = 1.0,
    condition: Sequence[Any] | None = None,
    max_batch: int | None = None,
    file: str | Path | None = None,
    about: Mapping[str, Any] | None = None,
    on_call: Callable[[int], None] | None = None,
) -> Profile:
    r"""Measure the second moments of a flow along its own paths, see the module.

    Each row costs `calls_of_a_path` evaluations, about six for each node. The classical Runge-Kutta method of order 4 runs between the
    nodes, and again with half as many nodes to estimate the error. Memory does not grow with the number of rows.

    Args:
        velocity: ``velocity(x, sigma)``, or a `Flow`.
        x1: starts, ``(rows, ...)``; pure noise for ``start=1``.
        nodes: M, intervals of a path; they are shorter near both ends.
        start: sigma of ``x1``, for image-to-image.
        condition: of each row, such as its prompt; for a `Flow` only.
        max_batch: rows in one model call; by default 64, and more of rows with few numbers.
        file: where the profile is saved after every batch. If the file is there with the first of these rows, only the others are
            measured.
        about: what is measured, for the record: model, guidance, size, dtype.
        on_call: told the number of rows after every model call.

    Raises:
        ValueError: fewer than 4 or an odd number of nodes, a start outside (0, 1], no rows, a file of other rows.
        FloatingPointError: a velocity that is not finite.

    Examples:
        >>> import flowsamplers as fs
        >>> flow = fs.flows.MixtureFlow.random(1)
        >>> measured = profile(flow.velocity, flow.noise(list(range(16))), nodes=32)
        >>> measured.rows, measured.velocities.shape, measured.error < 1e-3
        (16, (4, 33, 33), True)

    Reference:
        The moments are this project's; the literature's relatives are GITS (arXiv:2405.11326) and BNS (arXiv:2403.01329).
    """
    sigmas = path_nodes(nodes, start)
    of_rows, max_batch = row_velocity(velocity, x1, condition, max_batch, on_call)
    if file is not None and not isinstance(file, str | Path):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise refused("file", file, "a path")
    *_, (found, _) = measured(of_rows, x1, sigmas, max_batch, file, mapping("about", about or {}))
    return found


def measured(
    velocity: RowVelocity,
    x1: Tensor,
    sigmas: tuple[float, ...],
    max_batch: int,
    file: str | Path | None = None,
    about: Mapping[str, Any] | None = None,
    parts: Parts | None = None,
) -> Iterator[tuple[Profile, Tensor | None]]:
    """The profile as it grows by batches of rows, with the ends of the newest rows; None for rows that were in the file.

    ``parts`` measures the batches elsewhere, for example on a cluster, and returns them in order.
    """
    size = min(max_batch, max(1, HELD // (2 * len(sigmas) * max(1, math.prod(x1.shape[1:])))))
    found, done = _begun(file, sigmas, x1, size, dict(about or {}))
    if found is not None:
        yield found, None
    for part, end in (parts or _parts_here)(velocity, x1, chunks(len(x1), size, done), sigmas, dict(about or {})):
        found = part if found is None else found.merge(part)
        if file is not None:
            found.save(file)
        yield found, end


def path_nodes(nodes: int, start: float = 1.0) -> tuple[float, ...]:
    """The nodes of a path, close to each other near both ends.

    Examples:
        >>> [round(s, 3) for s in path_nodes(4)]
        [1.0, 0.854, 0.5, 0.146, 0.0]
    """
    if integer("nodes", nodes, 4) % 2:
        raise refused("nodes", nodes, "an even number of intervals")
    number("start", start, most=1, above=0)
    inner = (1 + np.cos(np.pi * np.arange(1, nodes) / nodes)) / 2 * start
    return (start, *(float(s) for s in inner), 0.0)


def calls_of_a_path(nodes: int, *, checked: bool = True) -> int:
    """Evaluations of each row of a path, and of the same at half the resolution.

    Examples:
        >>> calls_of_a_path(64), calls_of_a_path(64, checked=False)
        (382, 255)
    """
    return 4 * nodes - 1 + (4 * (nodes // 2) - 1 if checked else 0)


def path(velocity: RowVelocity, x1: Tensor, rows: slice, sigmas: Sequence[float]) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The state at every node of some rows, with the velocity at all nodes but the last.

    The last interval is Ralston's of order 3, which does not ask at sigma 0: a trained model has not learned what to say there.
    """
    x = x1[rows].double()
    for a, b in pairwise(sigmas):
        h = b - a
        k1 = velocity(x, a, rows)
        yield x, k1
        k2 = velocity(x + h / 2 * k1, a + h / 2, rows)
        if b == sigmas[-1]:
            k3 = velocity(x + 3 * h / 4 * k2, a + 3 * h / 4, rows)
            x = x + h / 9 * (2 * k1 + 3 * k2 + 4 * k3)
        else:
            k3 = velocity(x + h / 2 * k2, a + h / 2, rows)
            k4 = velocity(x + h * k3, b, rows)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    yield x, None


def ends(velocity: RowVelocity, x1: Tensor, sigmas: Sequence[float], max_batch: int) -> Tensor:
    """Return the ends of the paths, in float64."""
    return torch.cat([[x for x, _ in path(velocity, x1, rows, sigmas)][-1] for rows in chunks(len(x1), max_batch)])


def row_weights(x1: Tensor, x0: Tensor) -> Tensor:
    """The weight of each row, so that none dominates: one over its squared size, of start and end together."""
    size = x1.double().flatten(1).square().sum(1) + x0.double().flatten(1).square().sum(1)
    return 1 / size.clamp(min=torch.finfo(torch.float64).tiny)


def _parts_here(
    velocity: RowVelocity, x1: Tensor, batches: Iterable[slice], sigmas: tuple[float, ...], about: Mapping[str, Any]
) -> Iterator[tuple[Profile, Tensor]]:
    return (part(velocity, x1, rows, sigmas, about) for rows in batches)


def part(
    velocity: RowVelocity, x1: Tensor, rows: slice, sigmas: tuple[float, ...], about: Mapping[str, Any]
) -> tuple[Profile, Tensor]:
    """The profile of a few rows and their ends; the row that it counts as number 0 is the first of them."""
    states, speeds = list[Tensor](), list[Tensor]()
    for x, v in path(velocity, x1, rows, sigmas):
        states.append(x)
        if v is not None:
            speeds.append(v)
    end = states[-1]
    rough = [x for x, _ in path(velocity, x1, rows, sigmas[::2])][-1]
    error = ((rough - end).flatten(1).norm(dim=1) / end.flatten(1).norm(dim=1).clamp(min=1e-300)).max().item()
    root = row_weights(x1[rows], end).sqrt()
    v, away = ([t.flatten(1) * root[:, None] for t in ts] for ts in ([*speeds, states[0]], [x - states[0] for x in states]))
    n = len(end)
    g, p, q, size = [], [], [], []
    for fold in range(FOLDS):
        mine = slice(fold, n, FOLDS)
        a = torch.stack([t[mine].flatten() for t in v])
        b = torch.stack([t[mine].flatten() for t in away])
        g.append(a @ a.T)
        p.append(b @ a.T)
        q.append(b @ b.T)
        size.append((end.flatten(1)[mine] * root[mine][:, None]).square().sum())
    sums = (cast(Array, torch.stack(t).cpu().numpy()) for t in (g, p, q, size))
    counts = tuple(len(range(fold, n, FOLDS)) for fold in range(FOLDS))
    cost = n * calls_of_a_path(len(sigmas) - 1)
    found = Profile(
        sigmas,
        *sums,
        counts=counts,
        numbers=math.prod(x1.shape[1:]),
        error=error,
        evaluations=cost,
        seen=digest(x1[rows]),
        about=about,
    )
    return found, end


def _begun(
    file: str | Path | None, sigmas: tuple[float, ...], x1: Tensor, max_batch: int, about: Mapping[str, Any]
) -> tuple[Profile | None, int]:
    """What a file holds of these rows already, and how many of them."""
    if file is None or not Path(file).exists():
        return None, 0
    found = Profile.load(file)
    seen = ""
    for i, rows in enumerate(chunks(min(found.rows, len(x1)), max_batch)):
        part = digest(x1[rows])
        seen = part if i == 0 else hashlib.sha256((seen + part).encode()).hexdigest()
    if found.sigmas != sigmas or found.seen != seen or found.about != json.loads(json.dumps(about)):
        raise ValueError(f"{file}: a profile of other rows, nodes, batches or another model; choose another file")
    return found, found.rows
