"""Samplers made of samplers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from flowsamplers.sampler import Evaluate, Sampler, SamplerLike, State, Step, StepGenerator, get_sampler, register
from flowsamplers.samplers.policies import answered, memoryless


@register(
    "richardson",
    reference="L. F. Richardson, Phil. Trans. A 226 (1927); Hairer, Norsett, Wanner I, II.4, (4.4)",
    advice="Turns any one-step method into one of an order more, at two and a half times the price: for references.",
)
@dataclass(frozen=True)
class Richardson(Sampler):
    r"""Richardson extrapolation of a one-step method: one step of full length, two of half length, and the difference.

    $$ x' = x_2 + \frac{x_2 - x_1}{2^p - 1} $$

    where p is the method's order. The velocity at the start serves both. RX-Euler, which takes the two steps on neighbouring
    intervals of the schedule, is the midpoint rule on every second node when these are of one length.

    Args:
        base: the method, without memory.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("richardson", fs.SigmaGrid([1.0, 0.0]))  # Heun: 2 + 2 + 2 calls, the first one shared
        5
    """

    base: SamplerLike = "heun"

    order: ClassVar[int] = 3

    def __post_init__(self) -> None:
        """Resolve the method at once."""
        object.__setattr__(self, "base", memoryless("base", self.base))
        object.__setattr__(self, "order", get_sampler(self.base).order + 1)

    def step(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """See `Sampler.step`."""
        base = get_sampler(self.base)
        half = at.s0 + at.h / 2
        v = yield Evaluate(x, at.s0)
        coarse, _ = yield from answered(base.step(x, at, None), v)
        middle, _ = yield from answered(base.step(x, replace(at, s1=half), None), v)
        fine, _ = yield from base.step(middle, replace(at, s0=half), None)
        return fine + (fine - coarse) / (2**base.order - 1), state
