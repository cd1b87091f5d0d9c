"""Implicit Runge-Kutta methods by fixed-point iteration, for reference solutions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from flowsamplers.registry import register
from flowsamplers.sampler import Evaluate, State, Step, StepGenerator, Tensor
from flowsamplers.samplers.policies import LastStep
from flowsamplers.samplers.runge_kutta import linear_combination, node

__all__ = ["FixedPoint", "GaussLegendre2", "RadauIIA2"]

ROOT3 = math.sqrt(3)


@dataclass(frozen=True)
class FixedPoint(LastStep):
    r"""Base of the implicit methods: sweeps $k_i \leftarrow v(x + h \sum_j a_{ij} k_j,\ \sigma + c_i h)$ over all stages.

    The sweeps begin with $k_i = v(x, \sigma)$. Every sweep adds an order until the method's own order is reached. The number of sweeps
    is fixed, so the number of evaluations is known in advance. The iteration converges if $h$ times the Lipschitz constant of the
    velocity is below about 1.

    Args:
        last: policy of the last step, see `LastStep`.
        sweeps: how often all stages are evaluated; at least the method's order minus one.
    """

    sweeps: int = 4

    a: ClassVar[tuple[tuple[float, ...], ...]]
    b: ClassVar[tuple[float, ...]]

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if self.sweeps < type(self).order - 1:
            raise ValueError(f"sweeps={self.sweeps}: order {type(self).order} takes {type(self).order - 1} sweeps or more")

    def advance(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """See `Sampler.step`."""
        v = yield Evaluate(x, at.s0)
        k = [v for _ in self.b]
        for _ in range(self.sweeps):
            swept: list[Tensor] = []
            for row in self.a:
                v = yield Evaluate(linear_combination(x, at.h, row, k), node(at, math.fsum(row)))
                swept.append(v)
            k = swept
        return linear_combination(x, at.h, self.b, k), state


@register(
    "gauss_legendre2",
    aliases=("gauss2",),
    reference="Hammer and Hollingsworth (1955); Hairer, Norsett, Wanner I, II.7, Table 7.3",
    advice="For references and for running there and back: symmetric in time.",
)
@dataclass(frozen=True)
class GaussLegendre2(FixedPoint):
    r"""The two-stage Gauss method of order 4, by fixed-point sweeps; its nodes lie inside the step.

    Args:
        last: policy of the last step, see `LastStep`.
        sweeps: see `FixedPoint`.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("gauss_legendre2", fs.SigmaGrid([1.0, 0.0]))  # one call, then four sweeps of two
        9
    """

    order: ClassVar[int] = 4
    a: ClassVar[tuple[tuple[float, ...], ...]] = ((1 / 4, 1 / 4 - ROOT3 / 6), (1 / 4 + ROOT3 / 6, 1 / 4))
    b: ClassVar[tuple[float, ...]] = (1 / 2, 1 / 2)


@register(
    "radau_iia2",
    reference="Ehle (1969); Hairer and Wanner II, IV.5, Table 5.5",
    advice="For references.",
)
@dataclass(frozen=True)
class RadauIIA2(FixedPoint):
    r"""The two-stage Radau IIA method of order 3, by fixed-point sweeps.

    Args:
        last: policy of the last step, see `LastStep`.
        sweeps: see `FixedPoint`.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("radau_iia2", fs.SigmaGrid([1.0, 0.0]))
        9
    """

    order: ClassVar[int] = 3
    a: ClassVar[tuple[tuple[float, ...], ...]] = ((5 / 12, -1 / 12), (3 / 4, 1 / 4))
    b: ClassVar[tuple[float, ...]] = (3 / 4, 1 / 4)
