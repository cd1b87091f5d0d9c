"""How a run begins and ends: policies that the user sees, and that are paid for in the open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from flowsamplers.sampler import Evaluate, Running, Sampler, SamplerLike, State, Step, StepGenerator, get_sampler

METHOD = "method"
"""The ``last=`` policy that keeps the method itself on the last step."""
RAMP = "ramp"
"""The ``startup=`` policy of orders 1, 2, ... while the memory fills."""


@dataclass(frozen=True)
class LastStep(Sampler):
    """Base of the methods whose last step may be another's.

    Schedules for few steps make the last interval the largest (0.77 of the way at 4 steps of FLUX.2's), where
    extrapolation from the past is worth least, and where some methods have no step of their own.

    Args:
        last: how the last step is made: ``"method"``, the method itself, or any sampler that needs no memory, such as
            ``"euler"`` (one evaluation) or ``"midpoint"`` (two). Of a method with noise it is the policy of the step to sigma 0, which
            draws none: a step above 0 that left out its noise would cost half an order of the path.
    """

    last: SamplerLike = METHOD

    def __post_init__(self) -> None:
        """Resolve ``last`` at once, so that a wrong name fails where it was written; state the order that is left."""
        if self.last != METHOD:
            object.__setattr__(self, "last", memoryless("last", self.last))
            self._limit_order(get_sampler(self.last).order + 1)

    def _limit_order(self, most: int) -> None:
        """One step of a method of order q leaves an error of $O(h^{q+1})$, once."""
        object.__setattr__(self, "order", min(self.order, most))

    def other(self, at: Step) -> Sampler | None:
        """The sampler that makes this step by a policy, if one does."""
        if not at.last or self.last == METHOD or (self.noisy and at.s1 > 0):
            return None
        return get_sampler(self.last)

    def step(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """See `Sampler.step`."""
        other = self.other(at)
        if other is None:
            return (yield from self.advance(x, at, state))
        end, _ = yield from other.step(x, at, other.init(x))
        return end, state

    def advance(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """One step of the method itself; what a subclass writes instead of ``step``."""
        raise NotImplementedError


@dataclass(frozen=True)
class Multistep(LastStep):
    """Base of the methods that remember predictions: their first steps are a policy too.

    A method of order p needs p - 1 earlier steps. A first step of Euler's leaves an error of $O(h^2)$, once: it costs a
    method of order 3 its order, and nothing to one of order 2.

    Args:
        last: policy of the last step, see `LastStep`.
        startup: ``"ramp"``: orders 1, 2, ... while the memory fills, one evaluation each; or a sampler without memory for the
            first p - 2 steps (one at least), which keeps the order if its own is p - 1 or more.
    """

    startup: SamplerLike = RAMP

    multistep: ClassVar[bool] = True
    memory: ClassVar[int] = 2
    """How many predictions the method uses, the present one included."""
    ramp_order: ClassVar[int] = 1
    """Order of the ramp's first step."""

    def __post_init__(self) -> None:
        """Resolve the policies at once."""
        super().__post_init__()
        if self.startup != RAMP:
            object.__setattr__(self, "startup", memoryless("startup", self.startup))
        self._limit_order(1 + (self.ramp_order if self.startup == RAMP else get_sampler(self.startup).order))

    def other(self, at: Step) -> Sampler | None:
        """See `LastStep.other`."""
        starting = self.startup != RAMP and at.index < max(1, self.memory - 2) and not at.last
        return get_sampler(self.startup) if starting else super().other(at)

    def step(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """See `Sampler.step`."""
        other = self.other(at)
        if other is None:
            return (yield from self.advance(x, at, state))
        v = yield Evaluate(x, at.s0)
        end, _ = yield from answered(other.step(x, at, other.init(x)), v)
        return end, self.remember(state, x, v, at)

    def remember(self, state: State, x: Tensor, v: Tensor, at: Step) -> State:
        """The memory after a step that began at ``x`` with velocity ``v``."""
        raise NotImplementedError


def answered(work: StepGenerator, v: Tensor) -> StepGenerator:
    """Another method's step whose first request, the velocity at its start, is answered already."""
    run = Running(work)
    run.tell(v)
    while run.request is not None:
        run.tell((yield run.request))
    return run.result


def memoryless(option: str, sampler: SamplerLike) -> SamplerLike:
    """The policy's sampler, checked; a name stays a name."""
    method = get_sampler(sampler)
    if method.multistep or method.adaptive or method.stochastic:
        raise ValueError(
            f"{option}={sampler!r}: this step needs a sampler without memory, noise or step control, such as 'midpoint'"
        )
    return sampler if isinstance(sampler, str) else method
