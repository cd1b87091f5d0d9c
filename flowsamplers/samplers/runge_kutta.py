"""Explicit Runge-Kutta methods: coefficients are data, one step serves them all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

from torch import Tensor

from flowsamplers.sampler import Evaluate, Sampler, State, Step, StepGenerator, register


@dataclass(frozen=True)
class ButcherTableau:
    r"""The coefficients of an explicit Runge-Kutta method; checks itself when made.

    ```text
    c_1 |
    c_2 | a_21
    c_3 | a_31 a_32             k_i = v(x + h sum_j a_ij k_j,  sigma + c_i h)
    ... | ...
    ----+-------------------
        | b_1  b_2  b_3 ...     x'  = x + h sum_i b_i k_i
    ```

    Args:
        a: the rows below the diagonal; row i has i numbers, the first is empty.
        b: the weights, one for each stage.
        order: the order p that the method claims, at most 4 is checked.

    Raises:
        ValueError: shapes that do not fit, or an order condition that fails.

    The nodes are the row sums, $c_i = \sum_j a_{ij}$. A method of order p must satisfy one condition for each
    rooted tree with at most p nodes: 1, 2, 4 and 8 of them for p = 1, 2, 3, 4.

    Examples:
        >>> ButcherTableau(a=((), (0.5,)), b=(0.0, 1.0), order=2).c
        (0.0, 0.5)
        >>> ButcherTableau(a=((), (0.5,)), b=(0.5, 0.5), order=2)
        Traceback (most recent call last):
        ...
        ValueError: order=2: the condition sum b c = 1/2 fails: 0.25

    Reference:
        Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, II.2, Table 2.2.
    """

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    order: int

    def __post_init__(self) -> None:
        """Check the shapes and every order condition up to ``min(order, 4)``."""
        if len(self.a) != len(self.b):
            raise ValueError(f"a has {len(self.a)} rows and b {len(self.b)} weights; there is one of each for a stage")
        for i, row in enumerate(self.a):
            if len(row) != i:
                raise ValueError(f"a[{i}] has {len(row)} entries; an explicit method has {i} there")
        for p, name, want, have in self.conditions():
            if p <= self.order and not math.isclose(have, want, rel_tol=1e-12):
                raise ValueError(f"order={self.order}: the condition {name} fails: {have}")

    @property
    def c(self) -> tuple[float, ...]:
        """The nodes: row sums of ``a``."""
        return tuple(math.fsum(row) for row in self.a)

    @property
    def stages(self) -> int:
        """How many evaluations a step takes."""
        return len(self.b)

    def conditions(self) -> list[tuple[int, str, float, float]]:
        """The order conditions up to order 4: (order, name, required value, value)."""
        b, c = self.b, self.c
        ac = tuple(_dot(row, c) for row in self.a)
        acc = tuple(_dot(row, [x * x for x in c]) for row in self.a)
        aac = tuple(_dot(row, ac) for row in self.a)
        return [
            (1, "sum b = 1", 1.0, math.fsum(b)),
            (2, "sum b c = 1/2", 1 / 2, _dot(b, c)),
            (3, "sum b c^2 = 1/3", 1 / 3, _dot(b, [x**2 for x in c])),
            (3, "sum b (a c) = 1/6", 1 / 6, _dot(b, ac)),
            (4, "sum b c^3 = 1/4", 1 / 4, _dot(b, [x**3 for x in c])),
            (4, "sum b c (a c) = 1/8", 1 / 8, _dot(b, [x * y for x, y in zip(c, ac, strict=True)])),
            (4, "sum b (a c^2) = 1/12", 1 / 12, _dot(b, acc)),
            (4, "sum b (a a c) = 1/24", 1 / 24, _dot(b, aac)),
        ]


def _dot(weights: Sequence[float], values: Sequence[float]) -> float:
    return math.fsum(w * v for w, v in zip(weights, values, strict=False))


class RungeKutta(Sampler):
    r"""Any explicit Runge-Kutta method: a subclass gives ``tableau`` and ``order``."""

    tableau: ClassVar[ButcherTableau]

    def step(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """See `Sampler.step`."""
        k: list[Tensor] = []
        for a, c in zip(self.tableau.a, self.tableau.c, strict=True):
            k.append((yield Evaluate(moved(x, at.h, a, k), node(at, c))))
        return moved(x, at.h, self.tableau.b, k), state


def moved(x: Tensor, h: float, weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """``x + h * sum_j weights[j] * slopes[j]``; ``x`` itself where all weights are zero."""
    terms = [(h * w) * k for w, k in zip(weights, slopes, strict=True) if w]
    return reduce(Tensor.add, terms, x)


def node(at: Step, c: float) -> float:
    """The sigma at the fraction ``c`` of a step, exact at both ends."""
    return at.s1 if c == 1 else at.s0 + c * at.h


@register("midpoint", aliases=("rf_solver",), reference="C. Runge, Math. Ann. 46 (1895); RF-Solver, arXiv:2411.04746")
@dataclass(frozen=True)
class Midpoint(RungeKutta):
    r"""The explicit midpoint rule: $x' = x + h\,v(x + \tfrac h2 v,\ \sigma + \tfrac h2)$.

    Two evaluations a step; it never asks for the velocity at ``sigma = 0``. RF-Solver writes the same map as a Taylor step.

    Examples:
        >>> import torch, flowsamplers as fs
        >>> fs.sample(lambda x, sigma: 2 * sigma.view(-1, 1), torch.ones(1, 1), fs.SigmaGrid([1.0, 0.0]), Midpoint())
        tensor([[0.]])
    """

    order: ClassVar[int] = 2
    tableau: ClassVar[ButcherTableau] = ButcherTableau(a=((), (1 / 2,)), b=(0, 1), order=2)


@register("heun", reference="K. Heun, Z. Math. Phys. 45 (1900); EDM, arXiv:2206.00364, algorithm 1")
@dataclass(frozen=True)
class Heun(RungeKutta):
    r"""Heun's method, the trapezoidal rule: $x' = x + \tfrac h2 (v(x, \sigma) + v(x + h v, \sigma'))$.

    Two evaluations on every step, the last one included: in velocity form nothing is singular at ``sigma = 0``.

    Examples:
        >>> import torch, flowsamplers as fs
        >>> fs.sample(lambda x, sigma: x, torch.ones(1, 1), fs.SigmaGrid([1.0, 0.0]), Heun())
        tensor([[0.5000]])
    """

    order: ClassVar[int] = 2
    tableau: ClassVar[ButcherTableau] = ButcherTableau(a=((), (1,)), b=(1 / 2, 1 / 2), order=2)


@register("rk4", reference="W. Kutta, Z. Math. Phys. 46 (1901)")
@dataclass(frozen=True)
class RK4(RungeKutta):
    r"""The classical Runge-Kutta method of order 4, four evaluations a step.

    Examples:
        >>> import torch, flowsamplers as fs
        >>> v = lambda x, sigma: 4 * sigma.view(-1, 1) ** 3  # a cubic is integrated exactly
        >>> abs(fs.sample(v, torch.ones(1, 1, dtype=torch.float64), fs.SigmaGrid([1.0, 0.0]), RK4()).item()) < 1e-15
        True
    """

    order: ClassVar[int] = 4
    tableau: ClassVar[ButcherTableau] = ButcherTableau(
        a=((), (1 / 2,), (0, 1 / 2), (0, 0, 1)), b=(1 / 6, 1 / 3, 1 / 3, 1 / 6), order=4
    )
