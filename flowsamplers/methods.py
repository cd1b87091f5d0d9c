"""The three methods behind `flowsamplers.reference`; no sampler of this library uses them."""

from __future__ import annotations

from typing import ClassVar

from scipy.integrate import DOP853
from torch import Tensor

from flowsamplers.sampler import Evaluate, Sampler, State, Step, StepGenerator
from flowsamplers.samplers.runge_kutta import ButcherTableau, RungeKutta


class DormandPrince8(RungeKutta):
    """The eighth-order method of Dormand and Prince, with scipy's coefficients; 12 evaluations a step.

    Reference:
        Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, II.5 (DOP853).
    """

    tableau: ClassVar[ButcherTableau] = ButcherTableau(
        a=tuple(tuple(float(x) for x in row[:i]) for i, row in enumerate(DOP853.A)),
        b=tuple(float(x) for x in DOP853.B),
        order=8,
    )


class CashKarp5(RungeKutta):
    """The fifth-order method of Cash and Karp: 6 evaluations a step, and no negative weight that would amplify rounding.

    Reference:
        Cash and Karp, ACM Transactions on Mathematical Software 16 (1990), 201.
    """

    tableau: ClassVar[ButcherTableau] = ButcherTableau(
        a=(
            (),
            (1 / 5,),
            (3 / 40, 9 / 40),
            (3 / 10, -9 / 10, 6 / 5),
            (-11 / 54, 5 / 2, -70 / 27, 35 / 27),
            (1631 / 55296, 175 / 512, 575 / 13824, 44275 / 110592, 253 / 4096),
        ),
        b=(37 / 378, 0.0, 250 / 621, 125 / 594, 0.0, 512 / 1771),
        order=5,
    )


class GraggExtrapolation(Sampler):
    r"""Gragg's modified midpoint rule with 2, 4, 6, 8 and 10 substeps, extrapolated: order ten, 26 evaluations a step.

    The rule's error has an expansion in $h^2$ when the number of substeps is even, so that each column of

    $$
    T_{j,k} = T_{j,k-1} + \frac{T_{j,k-1} - T_{j-1,k-1}}{(n_j / n_{j-k})^2 - 1}
    $$

    gains two orders.

    Reference:
        Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, II.9.
    """

    order: ClassVar[int] = 10
    substeps: ClassVar[tuple[int, ...]] = (2, 4, 6, 8, 10)
    evaluations: ClassVar[int] = 1 + sum(n - 1 for n in substeps)

    def step(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """See `Sampler.step`."""
        k = yield Evaluate(x, at.s0)
        above: list[Tensor] = []
        for j, n in enumerate(self.substeps):
            h = at.h / n
            before, now = x, x + h * k
            for i in range(1, n):
                v = yield Evaluate(now, at.s0 + i * h)
                before, now = now, before + 2 * h * v
            row = [now]
            for c, coarser in enumerate(above):
                row.append(row[c] + (row[c] - coarser) / ((n / self.substeps[j - c - 1]) ** 2 - 1))
            above = row
        return above[-1], state
