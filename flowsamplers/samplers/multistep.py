"""Methods that remember velocities of earlier steps, in the velocity and in plain sigma: regular at both ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from flowsamplers.sampler import Evaluate, Sampler, SamplerLike, State, Step, StepGenerator, get_sampler, register

METHOD = "method"
"""The ``last=`` policy that keeps the method itself on the last step."""


@dataclass(frozen=True)
class Multistep(Sampler):
    """Base of the methods with a memory: the last step is a policy that the user sees.

    Schedules for few steps make the last interval the largest (0.77 of the way at 4 steps of FLUX.2's), where
    extrapolation from the past is worth least.

    Args:
        last: how the last step is made: ``"method"``, the method itself, or any sampler that needs no memory, such as
            ``"euler"`` (one evaluation) or ``"midpoint"`` (two).
    """

    last: SamplerLike = METHOD

    multistep: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Resolve ``last`` at once, so that a wrong name fails where it was written."""
        if self.last != METHOD:
            last = get_sampler(self.last)
            if isinstance(last, Multistep):
                raise ValueError(f"last={self.last!r}: the last step needs a sampler without memory, such as 'midpoint'")
            if not isinstance(self.last, str):
                object.__setattr__(self, "last", last)

    def step(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """See `Sampler.step`."""
        if at.last and self.last != METHOD:
            last = get_sampler(self.last)
            x, _ = yield from last.step(x, at, last.init(x))
            return x, state
        return (yield from self.advance(x, at, state))

    def advance(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """One step of the method itself; what a subclass writes instead of ``step``."""
        raise NotImplementedError


@register("ab2", aliases=("lms2", "ipndm_v2"), reference="Hairer, Norsett, Wanner I, III.5 (variable step size)")
@dataclass(frozen=True)
class AdamsBashforth2(Multistep):
    r"""Adams-Bashforth of order 2 with variable steps: integrate the line through the last two velocities.

    $$
    x' = x + h\left[(1 + \tfrac r2)\,v - \tfrac r2\,v_1\right], \qquad r = h / h_1
    $$

    where $v_1$ and $h_1$ belong to the step before. One evaluation a step; the first step is Euler's, whose one
    error of $O(h^2)$ keeps the order.

    Examples:
        >>> import torch, flowsamplers as fs
        >>> fs.nfe("ab2", fs.SigmaGrid([1.0, 0.5, 0.0])), fs.nfe(AdamsBashforth2("midpoint"), fs.SigmaGrid([1.0, 0.5, 0.0]))
        (2, 3)
    """

    order: ClassVar[int] = 2

    def advance(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """See `Sampler.step`."""
        v = yield Evaluate(x, at.s0)
        if state is None:
            return x + at.h * v, (v, at.h)
        v1, h1 = state
        r = at.h / h1
        return x + at.h * ((1 + r / 2) * v - (r / 2) * v1), (v, at.h)


@register("fireflow", reference="FireFlow, arXiv:2412.07517, algorithm 1")
@dataclass(frozen=True)
class FireFlow(Multistep):
    r"""The midpoint rule whose half step reuses the midpoint velocity of the step before.

    $$
    x_m = x + \tfrac h2 \bar v, \quad \bar v' = v(x_m, \sigma + \tfrac h2), \quad x' = x + h\,\bar v'
    $$

    One evaluation a step, one more on the first, where $\bar v = v(x, \sigma)$. An error of $O(h)$ in the half
    step moves the midpoint by $O(h^2)$, so the order 2 of the midpoint rule stays on any grid with bounded step ratios.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("fireflow", fs.schedules.linear(8))
        9
    """

    order: ClassVar[int] = 2

    def resume(self, velocity: Tensor) -> State:
        """The velocity inside the step before is all that the method remembers."""
        return velocity

    def advance(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """See `Sampler.step`."""
        v_bar = (yield Evaluate(x, at.s0)) if state is None else state
        v_mid = yield Evaluate(x + at.h / 2 * v_bar, at.s0 + at.h / 2)
        return x + at.h * v_mid, v_mid
