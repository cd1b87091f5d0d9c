"""Adaptive samplers: they choose their own steps inside each interval of the schedule."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

from flowsamplers._accepted import integer
from flowsamplers.registry import register
from flowsamplers.sampler import Evaluate, Sampler, State, Step, StepGenerator, Tensor
from flowsamplers.samplers.runge_kutta import linear_combination
from flowsamplers.samplers.tableaux import PAIRS, Pair

__all__ = ["Adaptive", "DPMAdaptive"]

SAFETY, LEAST, MOST = 0.9, 0.2, 5.0
"""Safety factor of a proposed step, and how far it may shrink and grow."""


@register(
    "dopri5",
    aliases=("rk45", "adaptive"),
    presets={"bosh3": {"pair": "bosh3"}, "rk23": {"pair": "bosh3"}, "tsit5": {"pair": "tsit5"}},
    reference="Dormand and Prince, J. Comput. Appl. Math. 6 (1980); PI control: Gustafsson, ACM TOMS 17 (1991)",
    advice="To reach a tolerance instead of choosing a number of steps: use the schedule [1, 0].",
)
@dataclass(frozen=True)
class Adaptive(Sampler):
    r"""An embedded Runge-Kutta pair with PI step control: it takes as many steps in each interval as the tolerance requires.

    A step of length h is accepted if

    $$ e = \max_{rows}\ \mathrm{rms}\,\frac{\text{estimate}}{atol + rtol\,\max(|x|, |x'|)} \le 1 $$

    and the next step has the length $h \cdot 0.9\,e^{-0.7/p} e_1^{0.4/p}$, where p is the pair's order and $e_1$ the error of the step
    before. All rows of a batch share their steps, so results depend slightly on the batch. The model calls depend on the data, so
    there is no dry run.

    Args:
        pair: ``"bosh3"`` (order 3), ``"dopri5"`` or ``"tsit5"`` (order 5).
        rtol: relative tolerance of a step.
        atol: absolute tolerance of a step.
        budget: the largest number of evaluations in one interval of the schedule, or None. If another step would exceed it, one
            step goes to the end of the interval, without a check of its error.
        max_calls: the most evaluations in one step of the schedule before it is an error.

    Raises:
        RuntimeError: ``max_calls`` evaluations were not enough, or a step of control fell below the spacing of floats. The
            tolerance is below the rounding of the state's dtype. The message names step, sigma and what to change.

    Examples:
        >>> import torch, flowsamplers as fs
        >>> run = fs.trace(lambda x, sigma: x, torch.ones(1, 1, dtype=torch.float64), fs.SigmaGrid([1.0, 0.0]), "dopri5")
        >>> abs(run.x0.item() - 0.36787944117) < 1e-5, run.nfe < 40
        (True, True)
    """

    pair: Pair = "dopri5"
    rtol: float = 1e-5
    atol: float = 1e-6
    budget: int | None = None
    max_calls: int = 10_000

    order: ClassVar[int] = 5
    adaptive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the options."""
        if not (self.rtol >= 0 and self.atol >= 0 and self.rtol + self.atol > 0):
            raise ValueError(f"rtol={self.rtol}, atol={self.atol}: tolerances are not negative, and one is positive")
        integer("max_calls", self.max_calls, 1)
        stages = PAIRS[self.pair].stages
        if self.budget is not None and self.budget < stages:
            raise ValueError(f"budget={self.budget}: one step of {self.pair} takes {stages} evaluations")
        self._set(order=PAIRS[self.pair].order)

    def step(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """See `Sampler.step`."""
        table, sigma, sign = PAIRS[self.pair], at.s0, 1.0 if at.h > 0 else -1.0
        left, length, before, floor = self.budget, abs(at.h), 1.0, Floor(self, at)
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
                k.append((yield Evaluate(linear_combination(x, h, a, k), end if abs(c - 1) < 1e-15 else sigma + c * h)))
            left = None if left is None else left - table.stages + 1
            floor.called(table.stages - 1, sigma)
            new = linear_combination(x, h, table.b, k)
            error = self._error(linear_combination(x.new_zeros(x.shape), h, table.error, k), x, new)
            if error > 1 and not final:
                floor.check(length, sigma, x, self._error(h * _eps(x) * k1, x, new))
            if error <= 1 or final:
                if end == at.s1:
                    return new, state
                x, sigma, k1 = new, end, k[-1]
            factor = SAFETY * max(error, 1e-10) ** (-0.7 / table.order) * before ** (0.4 / table.order)
            length *= min(MOST, max(LEAST, factor if error <= 1 else min(factor, SAFETY)))
            before = max(error, 1e-4) if error <= 1 else before

    def _error(self, estimate: Tensor, x: Tensor, new: Tensor) -> float:
        return worst(estimate / (self.atol + self.rtol * x.abs().maximum(new.abs())))


def worst(errors: Tensor) -> float:
    """Compute the largest root mean square of a row; waits for the device.

    Raises:
        FloatingPointError: it is not finite, so no step can be accepted.
    """
    found = errors.square().flatten(1).mean(1).sqrt().max().item()
    if math.isnan(found):
        raise FloatingPointError("the velocity is not finite, so no step can be accepted")
    return found


def _eps(x: Tensor) -> float:
    import torch  # noqa: PLC0415  (the names and options of samplers are read without it)

    return torch.finfo(x.dtype).eps


class Floor:
    """Stop step control if the tolerance cannot be reached.

    Args:
        sampler: with ``rtol``, ``atol`` and ``max_calls``.
        at: the step of the schedule.
    """

    def __init__(self, sampler: Adaptive | DPMAdaptive, at: Step) -> None:
        self.sampler, self.at, self.calls = sampler, at, 1

    def called(self, calls: int, sigma: float) -> None:
        """Count evaluations.

        Raises:
            RuntimeError: more than ``max_calls`` in this step of the schedule.
        """
        self.calls += calls
        if self.calls > self.sampler.max_calls:
            raise self._error(
                sigma,
                f"max_calls={self.sampler.max_calls} evaluations were not enough. "
                "Raise rtol or atol, or max_calls; the rounding of a model in low precision can be above the tolerance",
            )

    def check(self, length: float, sigma: float, x: Tensor, rounding: float = 0.0) -> None:
        """Look at a step of control that was rejected.

        Args:
            length: of the step.
            sigma: where it began.
            x: the state there.
            rounding: of one such step, in units of the tolerance.

        Raises:
            RuntimeError: rounding alone exceeds the tolerance, or no shorter step exists.
        """
        if rounding > 1:
            raise self._error(
                sigma,
                f"the tolerance is below the rounding of {x.dtype} ({_eps(x):.0e}). Raise rtol or atol, or carry=torch.float64",
            )
        if length <= 16 * math.ulp(sigma):
            raise self._error(
                sigma,
                f"a step of length {length:.0e} still misses the tolerance. The velocity field is not smooth here, or its noise is above "
                "the tolerance: raise rtol or atol, or set budget, which ends the step whatever its error",
            )

    def _error(self, sigma: float, why: str) -> RuntimeError:
        tolerance = f"rtol={self.sampler.rtol}, atol={self.sampler.atol}"
        return RuntimeError(f"{type(self.sampler).__name__}, step {self.at.index}, sigma {sigma:.6g}, {tolerance}: {why}")


FIRST, ACCEPTED = 0.05, 0.81
"""k-diffusion's first step in -log sigma, and the smallest factor of the next step with which one is accepted."""


@register(
    "dpm_adaptive",
    presets={"dpm_adaptive_12": {"pair": 2}, "dpm_adaptive_23": {"pair": 3}},
    reference="DPM-Solver-12 and -23, arXiv:2206.00927, appendix C; step control: k-diffusion's DPMSolver",
    advice="For parity, with k-diffusion's coarse tolerance. dopri5 needs fewer calls for a small error.",
)
@dataclass(frozen=True)
class DPMAdaptive(Sampler):
    r"""DPM-Solver-12 or -23 with step control, in $-\log\sigma$: $h = \log(\sigma/\sigma')$.

    $$
    x_2 = x + (\sigma' - \sigma)\bigl[v + \tfrac{1}{2 r_1}(v_1 - v)\bigr], \qquad
    x_3 = x + (\sigma' - \sigma)\,v - \tfrac{\sigma'}{r_2}\bigl(\tfrac{e^h - 1}{h} - 1\bigr)(v_2 - v)
    $$

    with the stages at $\sigma e^{-r_i h}$. A step is accepted if the next one, $h\,[1 + \arctan(e^{-1/p} - 1)]$, is at least $0.81\,h$
    long. Here e is the difference of the two orders, in the worst row, in units of $\max(atol, rtol\,|x|)$. k-diffusion stops at the
    last sigma above 0. This sampler takes an Euler step to 0 as soon as its error, estimated from the last two velocities as
    $\sigma^2 |v'| / 2$, is within the tolerance. On a rising grid it leaves 0 in the same way.

    Args:
        pair: 3 for DPM-Solver-23, 2 for DPM-Solver-12.
        rtol: relative tolerance of a step.
        atol: absolute tolerance of a step.
        max_calls: the most evaluations in one step of the schedule before it is an error.

    Raises:
        RuntimeError: see `Adaptive`.

    Examples:
        >>> import torch, flowsamplers as fs
        >>> run = fs.trace(lambda x, sigma: x, torch.ones(1, 1, dtype=torch.float64), fs.SigmaGrid([1.0, 0.0]), "dpm_adaptive")
        >>> abs(run.x0.item() - 0.367879) < 0.01, run.nfe < 60
        (True, True)
    """

    pair: int = 3
    rtol: float = 0.05
    atol: float = 0.0078
    max_calls: int = 10_000

    order: ClassVar[int] = 3
    order_to_data: ClassVar[int] = 1
    adaptive: ClassVar[bool] = True
    affine: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the options."""
        if self.pair not in (2, 3):
            raise ValueError(f"pair={self.pair}: 2 for DPM-Solver-12, 3 for DPM-Solver-23")
        integer("max_calls", self.max_calls, 1)
        if not (self.rtol >= 0 and self.atol > 0):
            raise ValueError(f"rtol={self.rtol}, atol={self.atol}: rtol is not negative, atol positive")
        self._set(order=self.pair)

    def step(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """See `Sampler.step`."""
        sigma, length, sign = at.s0, FIRST, 1.0 if at.h < 0 else -1.0
        if sigma == 0:
            x, sigma = yield from self._leave(x, at.s1)
        before, known, floor = x, None, Floor(self, at)
        while sigma != at.s1:
            v = yield Evaluate(x, sigma)
            floor.called(1, sigma)
            if at.s1 == 0 and known is not None:
                slope = (v - known[1]) / (sigma - known[0])
                if worst(sigma**2 / 2 * slope / self._scale(before, x)) <= 1:
                    return x - sigma * v, state
            known = sigma, v
            remaining = sign * math.log(sigma / at.s1) if at.s1 > 0 else math.inf
            while True:
                final = length >= remaining - 1e-12
                h = sign * min(length, remaining)
                end = at.s1 if final else sigma * math.exp(-h)
                low, high = yield from self._pair(x, v, sigma, end, h)
                floor.called(self.pair - 1, sigma)
                error = worst((low - high) / self._scale(low, before))
                factor = 1 + math.atan((error + 1e-8) ** (-1 / self.pair) - 1)
                length *= factor
                if factor >= ACCEPTED:
                    break
                floor.check(length * sigma, sigma, x)
            x, sigma, before = high, end, low
        return x, state

    def _leave(self, x: Tensor, s1: float) -> Generator[Evaluate, Tensor, tuple[Tensor, float]]:
        """From sigma 0 by Euler's step, as far up as the tolerance allows: where it ends."""
        v, sigma = (yield Evaluate(x, 0.0)), s1
        while True:
            end = x + sigma * v
            error = worst(sigma / 2 * ((yield Evaluate(end, sigma)) - v) / self._scale(end, x))
            if error <= 1:
                return end, sigma
            if sigma < 1e-300:
                raise RuntimeError(
                    f"{type(self).__name__}: no step from sigma 0 meets rtol={self.rtol}, atol={self.atol}; raise them"
                )
            sigma *= max(LEAST, SAFETY * error**-0.5)

    def _scale(self, low: Tensor, before: Tensor) -> Tensor:
        return (self.rtol * low.abs().maximum(before.abs())).clamp(min=self.atol)

    def _pair(
        self, x: Tensor, v: Tensor, sigma: float, end: float, h: float
    ) -> Generator[Evaluate, Tensor, tuple[Tensor, Tensor]]:
        """The two orders' ends of a step."""
        r1 = 1 / 2 if self.pair == 2 else 1 / 3
        m1 = sigma * math.exp(-r1 * h)
        d1 = (yield Evaluate(x + (m1 - sigma) * v, m1)) - v
        euler = x + (end - sigma) * v
        second = euler + (end - sigma) / (2 * r1) * d1
        if self.pair == 2:
            return euler, second
        m2, z = sigma * math.exp(-2 / 3 * h), 2 / 3 * h
        d2 = (yield Evaluate(x + (m2 - sigma) * v - 2 * m2 * (math.expm1(z) / z - 1) * d1, m2)) - v
        return second, euler - end * 3 / 2 * (math.expm1(h) / h - 1) * d2
