"""Coefficients of explicit Runge-Kutta methods, with a check of their order conditions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

__all__ = ["ButcherTableau"]

EPS = 2.0**-52

Tree: TypeAlias = "tuple[Tree, ...]"
"""A rooted tree: the tuple of the trees that hang from its root."""


@dataclass(frozen=True)
class ButcherTableau:
    r"""The coefficients of an explicit Runge-Kutta method; the order conditions are checked on construction.

    ```text
    c_1 |
    c_2 | a_21
    c_3 | a_31 a_32             k_i = v(x + h sum_j a_ij k_j,  sigma + c_i h)
    ... | ...
    ----+-------------------
        | b_1  b_2  b_3 ...     x'  = x + h sum_i b_i k_i
        | e_1  e_2  e_3 ...     error estimate  h sum_i e_i k_i, of embedded pairs
    ```

    Args:
        a: the rows below the diagonal; row i has i numbers, the first is empty.
        b: the weights, one for each stage.
        order: the declared order p.
        error: ``b`` minus the weights of an embedded method of order p - 1.

    Raises:
        ValueError: shapes do not fit, or an order condition fails.

    The nodes are the row sums, $c_i = \sum_j a_{ij}$. A method of order p must satisfy one condition for each rooted tree with
    at most p nodes. There are 1, 2, 4, 8 and 17 of them for p = 1 to 5.

    Examples:
        >>> ButcherTableau(a=((), (0.5,)), b=(0.0, 1.0), order=2).c
        (0.0, 0.5)
        >>> ButcherTableau(a=((), (0.5,)), b=(0.5, 0.5), order=2)
        Traceback (most recent call last):
        ...
        ValueError: order=2: the condition sum b c = 1/2 fails: 0.25

    Reference:
        Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, II.2, Theorem 2.13.
    """

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    order: int
    error: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check the shapes and every order condition."""
        if len(self.a) != len(self.b):
            raise ValueError(f"a has {len(self.a)} rows and b {len(self.b)} weights; there is one of each for a stage")
        if self.error and len(self.error) != len(self.b):
            raise ValueError(f"error has {len(self.error)} weights and b {len(self.b)}; there is one of each for a stage")
        for i, row in enumerate(self.a):
            if len(row) != i:
                raise ValueError(f"a[{i}] has {len(row)} entries; an explicit method has {i} there")
        low = [b - e for b, e in zip(self.b, self.error, strict=False)]
        for weights, order, name in ((self.b, self.order, "b"), (low, self.order - 1, "(b - error)")):
            for tree in (t for p in range(1, order + 1) for t in trees(p)) if weights else ():
                value, size = self._weight(weights, tree)
                if abs(value - 1 / density(tree)) > 64 * EPS * size:
                    condition = f"sum {name}{_written(tree)} = {'1/' if density(tree) > 1 else ''}{density(tree)}"
                    raise ValueError(f"order={self.order}: the condition {condition} fails: {value}")

    @property
    def c(self) -> tuple[float, ...]:
        """The nodes, which are the row sums of ``a``."""
        return tuple(math.fsum(row) for row in self.a)

    @property
    def stages(self) -> int:
        """The number of evaluations per step."""
        return len(self.b)

    def _weight(self, weights: Sequence[float], tree: Tree) -> tuple[float, float]:
        """The elementary weight of a tree, and the sum of the absolute values that it is a sum of."""
        exact = _dot(weights, self._stages(tree, self.a))
        size = _dot([abs(w) for w in weights], self._stages(tree, tuple(tuple(map(abs, row)) for row in self.a)))
        return exact, size

    def _stages(self, tree: Tree, a: tuple[tuple[float, ...], ...]) -> list[float]:
        below = [self._stages(t, a) for t in tree]
        return [math.prod(_dot(row, values) for values in below) for row in a]


@cache
def trees(nodes: int) -> tuple[Tree, ...]:
    """List all rooted trees with this many nodes.

    Examples:
        >>> [len(trees(n)) for n in range(1, 7)]
        [1, 1, 2, 4, 9, 20]
    """

    def forests(left: int, largest: int) -> Iterator[Tree]:
        """Multisets of trees with ``left`` nodes in all, none above position ``largest``."""
        if left == 0:
            yield ()
        pool = [t for n in range(1, left + 1) for t in trees(n)]
        for i, tree in enumerate(pool[: largest + 1]):
            for rest in forests(left - size(tree), i):
                yield (tree, *rest)

    return tuple(forests(nodes - 1, 10**9))


def size(tree: Tree) -> int:
    """Count the nodes of a tree."""
    return 1 + sum(size(t) for t in tree)


def density(tree: Tree) -> int:
    r"""Compute $\gamma(t) = |t| \prod \gamma(t_i)$; the method's weight for the tree must be its reciprocal."""
    return size(tree) * math.prod(density(t) for t in tree)


def _written(tree: Tree) -> str:
    """The product that belongs to a tree's root: `` c^2 (a c)`` and the like."""
    leaves = sum(not t for t in tree)
    power = f" c^{leaves}" if leaves > 1 else " c" * leaves
    return power + "".join(f" (a{_written(t)})" for t in tree if t)


def _dot(weights: Sequence[float], values: Sequence[float]) -> float:
    return math.fsum(w * v for w, v in zip(weights, values, strict=False))


def low_storage(a: Sequence[float], b: Sequence[float], order: int) -> ButcherTableau:
    r"""Convert a method in Williamson's two registers, $q \leftarrow A_i q + h v$, $x \leftarrow x + B_i q$, to a tableau.

    Reference:
        Williamson, J. Comput. Phys. 35 (1980).

    Examples:
        >>> low_storage((0, -1 / 2), (1 / 2, 1), 2).b
        (0.0, 1.0)
    """
    q, x, rows = [0.0] * len(a), [0.0] * len(a), list[tuple[float, ...]]()
    for i, (ai, bi) in enumerate(zip(a, b, strict=True)):
        rows.append(tuple(x[:i]))
        q = [ai * w + (j == i) for j, w in enumerate(q)]
        x = [w + bi * r for w, r in zip(x, q, strict=True)]
    return ButcherTableau(tuple(rows), tuple(x), order)


BOSH3 = ButcherTableau(
    a=((), (1 / 2,), (0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    b=(2 / 9, 1 / 3, 4 / 9, 0),
    order=3,
    error=(2 / 9 - 7 / 24, 1 / 3 - 1 / 4, 4 / 9 - 1 / 3, -1 / 8),
)
"""Bogacki and Shampine, Appl. Math. Lett. 2 (1989)."""

DOPRI5 = ButcherTableau(
    a=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    b=(35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0),
    order=5,
    error=(71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
)
"""Dormand and Prince, J. Comput. Appl. Math. 6 (1980)."""

TSIT5 = ButcherTableau(
    a=(
        (),
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383),
        (0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774),
    ),
    b=(0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774, 0),
    order=5,
    error=(
        -0.001780011052225771,
        -0.0008164344596567469,
        0.007880878010261995,
        -0.1447110071732629,
        0.5823571654525552,
        -0.45808210592918697,
        1 / 66,
    ),
)
"""Tsitouras, Comput. Math. Appl. 62 (2011)."""

Pair: TypeAlias = Literal["bosh3", "dopri5", "tsit5"]
PAIRS: dict[Pair, ButcherTableau] = {"bosh3": BOSH3, "dopri5": DOPRI5, "tsit5": TSIT5}
