"""Step control inside a step of the schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowsamplers._errors import unknown
from flowsamplers.sampler import Evaluate, Sampler, State, Step, StepGenerator, register
from flowsamplers.samplers.runge_kutta import moved
from flowsamplers.samplers.tableaux import PAIRS

SAFETY, LEAST, MOST = 0.9, 0.2, 5.0
"""Safety factor of a proposed step, and how far it may shrink and grow."""


@register(
    "dopri5",
    aliases=("rk45", "adaptive"),
    presets={"bosh3": {"pair": "bosh3"}, "rk23": {"pair": "bosh3"}, "tsit5": {"pair": "tsit5"}},
    reference="Dormand and Prince, J. Comput. Appl. Math. 6 (1980); PI control: Gustafsson, ACM TOMS 17 (1991)",
    advice="For a tolerance instead of a step count: give it a schedule of one step, [1, 0].",
)
@dataclass(frozen=True)
class Adaptive(Sampler):
    r"""An embedded pair with PI step control; one step of the schedule is as many steps of the pair as the tolerance asks for.

    A step of length h is accepted if

    $$ e = \max_{rows}\ \mathrm{rms}\,\frac{\text{estimate}}{atol + rtol\,\max(|x|, |x'|)} \le 1 $$

    and the next one is $h \cdot 0.9\,e^{-0.7/p} e_1^{0.4/p}$ long, p the pair's order and $e_1$ the error of the step before. All
    rows of a batch share their steps, so results depend a little on the batch, and the calls on the data: there is no dry run.

    Args:
        pair: ``"bosh3"`` (order 3), ``"dopri5"`` or ``"tsit5"`` (order 5).
        rtol: relative tolerance of a step.
        atol: absolute tolerance of a step.
        budget: the most evaluations in one step of the schedule, or None. When another step of control would exceed it, one step
            of the pair goes to the end, whatever its error.

    Examples:
        >>> import torch, flowsamplers as fs
        >>> run = fs.trace(lambda x, sigma: x, torch.ones(1, 1, dtype=torch.float64), fs.SigmaGrid([1.0, 0.0]), "dopri5")
        >>> abs(run.x0.item() - 0.36787944117) < 1e-5, run.nfe < 40
        (True, True)
    """

    pair: str = "dopri5"
    rtol: float = 1e-5
    atol: float = 1e-6
    budget: int | None = None

    order: ClassVar[int] = 5
    adaptive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the options."""
        if self.pair not in PAIRS:
            raise unknown("pair", self.pair, PAIRS)
        if not (self.rtol >= 0 and self.atol >= 0 and self.rtol + self.atol > 0):
            raise ValueError(f"rtol={self.rtol}, atol={self.atol}: tolerances are not negative, and one is positive")
        stages = PAIRS[self.pair].stages
        if self.budget is not None and self.budget < stages:
            raise ValueError(f"budget={self.budget}: one step of {self.pair} takes {stages} evaluations")
        object.__setattr__(self, "order", PAIRS[self.pair].order)

    def step(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """See `Sampler.step`."""
        table, sigma, sign = PAIRS[self.pair], at.s0, 1.0 if at.h > 0 else -1.0
        left, length, before = self.budget, abs(at.h), 1.0
        k1 = yield Evaluate(x, sigma)
        left = None if left is None else left - 1
        length *= 0.1 if left is None or left >= 2 * (table.stages - 1) else 1.0
        while True:
            remaining = abs(at.s1 - sigma)
            final = left is not None and left < 2 * (table.stages - 1)
            length = remaining if final or length >= 0.999 * remaining else length
            h, k = sign * length, [k1]
            end = at.s1 if length == remaining else sigma + h
            for a, c in zip(table.a[1:], table.c[1:], strict=True):
                k.append((yield Evaluate(moved(x, h, a, k), end if abs(c - 1) < 1e-15 else sigma + c * h)))
            left = None if left is None else left - table.stages + 1
            new = moved(x, h, table.b, k)
            error = self._error(moved(torch.zeros_like(x), h, table.error, k), x, new)
            if error <= 1 or final:
                if end == at.s1:
                    return new, state
                x, sigma, k1 = new, end, k[-1]
            factor = SAFETY * max(error, 1e-10) ** (-0.7 / table.order) * before ** (0.4 / table.order)
            length *= min(MOST, max(LEAST, factor if error <= 1 else min(factor, SAFETY)))
            before = max(error, 1e-4) if error <= 1 else before

    def _error(self, estimate: Tensor, x: Tensor, new: Tensor) -> float:
        """The worst row's error in units of the tolerance; waits for the device."""
        scale = self.atol + self.rtol * torch.maximum(x.abs(), new.abs())
        rows = (estimate / scale).square().flatten(1).mean(1).sqrt()
        worst = rows.max().item()
        if math.isnan(worst):
            raise FloatingPointError(f"{self.pair}: the velocity is not finite, so no step can be accepted")
        return worst
