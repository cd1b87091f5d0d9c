"""Policies for the first steps (``startup``) and the last step (``last``) of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from flowsamplers.registry import get_sampler
from flowsamplers.sampler import Running, Sampler, SamplerLike, State, Step, StepGenerator, Tensor

__all__ = ["LastStep", "Multistep"]

METHOD = "method"
"""Value of ``last``: the method itself takes the last step."""
RAMP = "ramp"
"""Value of ``startup``: the first steps have orders 1, 2, ... until there are enough earlier predictions."""


@dataclass(frozen=True)
class LastStep(Sampler):
    """Base of the methods whose last step may be taken by another sampler.

    With few steps the last interval is the largest: at 4 steps of FLUX.2's schedule it covers 0.77 of the way from noise to data.
    Extrapolation from earlier steps is least accurate there, and some methods have no formula for a step to sigma 0.

    Args:
        last: the sampler of the last step. ``"method"`` is the method itself. Any other one-step sampler may be named, such as
            ``"euler"`` (one evaluation) or ``"midpoint"`` (two). For a stochastic method the policy applies only to a step to
            sigma 0, which draws no noise. A step above 0 without noise would reduce the strong order by 1/2.
    """

    last: SamplerLike = METHOD

    def __post_init__(self) -> None:
        """Resolve ``last`` at once, so that a wrong name fails where it was written; state the order that is left."""
        if self.last != METHOD:
            self._set(last=memoryless("last", self.last))
            self._limit_order(get_sampler(self.last).order + 1)

    def _limit_order(self, most: int) -> None:
        """One step of a method of order q leaves an error of $O(h^{q+1})$, once."""
        self._set(order=min(self.order, most))

    def other(self, at: Step) -> Sampler | None:
        """Return the sampler that takes this step by a policy; None if the method itself does."""
        if not at.last or self.last == METHOD or (self.draws_noise and at.s1 > 0):
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
        """Take one step of the method itself; subclasses write this in place of ``step``."""
        raise NotImplementedError


@dataclass(frozen=True)
class Multistep(LastStep):
    """Base of the multistep methods, with a policy for their first steps.

    A method of order p needs p - 1 earlier steps. A first step by Euler's method makes one error of $O(h^2)$. This reduces the
    order of a method of order 3, but not of order 2.

    Args:
        last: policy of the last step, see `LastStep`.
        startup: ``"ramp"``: the first steps have orders 1, 2, ..., with one evaluation each. Or a one-step sampler for the
            first p - 2 steps, at least one. It keeps the order if its own order is at least p - 1.
    """

    startup: SamplerLike = RAMP

    multistep: ClassVar[bool] = True
    memory: ClassVar[int] = 2
    """Number of predictions that the method uses, including the current one."""
    ramp_order: ClassVar[int] = 1
    """Order of the ramp's first step."""

    def __post_init__(self) -> None:
        """Resolve the policies at once."""
        super().__post_init__()
        if self.startup != RAMP:
            self._set(startup=memoryless("startup", self.startup))
        self._limit_order(1 + (self.ramp_order if self.startup == RAMP else get_sampler(self.startup).order))

    def other(self, at: Step) -> Sampler | None:
        """See `LastStep.other`."""
        starting = self.startup != RAMP and at.index < max(1, self.memory - 2) and not at.last
        return get_sampler(self.startup) if starting else super().other(at)


def with_first_velocity(work: StepGenerator, v: Tensor) -> StepGenerator:
    """Run another method's step with a known velocity at its start."""
    run = Running(work)
    run.send(v)
    while run.request is not None:
        run.send((yield run.request))
    return run.result


def memoryless(option: str, sampler: SamplerLike) -> SamplerLike:
    """Check a policy's sampler and return it; a name stays a name."""
    method = get_sampler(sampler)
    if method.multistep or method.adaptive or method.stochastic:
        raise ValueError(
            f"{option}={sampler!r}: this step needs a sampler without memory, noise or step control, such as 'midpoint'"
        )
    return sampler if isinstance(sampler, str) else method
