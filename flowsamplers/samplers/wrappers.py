r"""Wrappers: samplers that use other samplers.

`Churn` and `Restart` add noise to an ODE method: churn adds a little in every step, and restart adds much in one place. The noise
is added exactly as in the flow, so the weak order is the method's: measured on Gaussian data, from 1 to 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

from flowsamplers._accepted import integer, number
from flowsamplers.registry import get_sampler, register
from flowsamplers.sampler import Evaluate, Sampler, SamplerLike, State, Step, StepGenerator, Tensor
from flowsamplers.samplers.policies import memoryless, with_first_velocity

__all__ = ["Churn", "Restart", "Richardson"]


@register(
    "richardson",
    reference="L. F. Richardson, Phil. Trans. A 226 (1927); Hairer, Norsett, Wanner I, II.4, (4.4)",
    advice="Raises the order of any one-step method by one, for two and a half times the calls: for references.",
)
@dataclass(frozen=True)
class Richardson(Sampler):
    r"""Richardson extrapolation of a one-step method: combine one full step and two half steps.

    $$ x' = x_2 + \frac{x_2 - x_1}{2^p - 1} $$

    where p is the method's order. Both use the same velocity at the start. RX-Euler takes the two steps on neighboring
    intervals of the schedule. If these intervals have equal lengths, it is the midpoint rule on every second node.

    Args:
        base: the one-step method.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("richardson", fs.SigmaGrid([1.0, 0.0]))  # Heun: 2 + 2 + 2 calls, the first one shared
        5
    """

    base: SamplerLike = "heun"

    order: ClassVar[int] = 3

    def __post_init__(self) -> None:
        """Resolve the method at once."""
        self._set(base=memoryless("base", self.base), order=get_sampler(self.base).order + 1)

    def step(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """See `Sampler.step`."""
        base = get_sampler(self.base)
        half = at.s0 + at.h / 2
        v = yield Evaluate(x, at.s0)
        coarse, _ = yield from with_first_velocity(base.step(x, at, None), v)
        middle, _ = yield from with_first_velocity(base.step(x, replace(at, s1=half), None), v)
        fine, _ = yield from base.step(middle, replace(at, s0=half), None)
        return fine + (fine - coarse) / (2**base.order - 1), state


@dataclass(frozen=True)
class WithNoise(Sampler):
    """Base: noise around the steps of an ODE method, whose order becomes the weak order.

    Args:
        base: the ODE method, without memory.
    """

    base: SamplerLike = "heun"

    order: ClassVar[int] = 2
    stochastic: ClassVar[bool] = True
    weak_order: ClassVar[int] = 2
    affine: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Resolve the method at once; its orders are this one's."""
        self._set(base=memoryless("base", self.base))
        ode = self.without_noise
        self._set(order=ode.order, order_to_data=ode.order_to_data, weak_order=ode.order)

    @property
    def without_noise(self) -> Sampler:
        """See `Sampler.without_noise`."""
        return get_sampler(self.base)


def noised(x: Tensor, s0: float, s1: float, xi: Tensor) -> Tensor:
    r"""Add the flow's own noise: $a x + \sqrt{\sigma'^2 - a^2 \sigma^2}\;\xi$ with $a = \frac{1 - \sigma'}{1 - \sigma}$."""
    a = (1 - s1) / (1 - s0)
    return a * x + math.sqrt(s1**2 - (a * s0) ** 2) * xi


@register(
    "churn",
    reference="EDM, arXiv:2206.00364, algorithm 2, in sigma / (1 - sigma)",
    advice="Adds a little noise to any one-step ODE method. It reduces errors with many steps and adds errors with few.",
)
@dataclass(frozen=True)
class Churn(WithNoise):
    r"""Add a little noise before every step of an ODE method, as in EDM, in the form for rectified flows.

    $$
    \hat\rho = (1 + \gamma)\,\rho, \quad \rho = \frac{\sigma}{1 - \sigma}, \qquad
    \hat x = a x + \sqrt{\hat\sigma^2 - a^2\sigma^2}\;\xi, \quad a = \frac{1 - \hat\sigma}{1 - \sigma}, \qquad
    x' = \Phi_{\hat\sigma \to \sigma'}(\hat x)
    $$

    with $\gamma = \min(S/N, \sqrt2 - 1)$, so the noise of a whole run does not depend on the number of steps. A step from ``sigma = 1``
    adds no noise. Programs that raise sigma itself and omit the factor a are wrong on a rectified flow.

    Args:
        base: the ODE method, a one-step method.
        churn: S, the churn of the whole run; 0 is the ODE method.
        low: lowest sigma at which noise is added.
        high: highest sigma at which noise is added.

    Examples:
        >>> import flowsamplers as fs
        >>> [round(e.sigma, 3) for e in fs.dry_run(Churn("euler", churn=1.0), fs.schedules.linear(4))]
        [1.0, 0.789, 0.556, 0.294]
    """

    churn: float = 1.0
    low: float = 0.0
    high: float = 1.0

    noise_option: ClassVar[str] = "churn"
    look_back: ClassVar[int] = 99

    def __post_init__(self) -> None:
        """Resolve the method at once."""
        number("churn", self.churn, 0)
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"low={self.low}, high={self.high}: sigmas from 0 to 1 between which there is noise, low <= high")
        super().__post_init__()

    def step(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """See `Sampler.step`."""
        gamma = min(self.churn / at.count, math.sqrt(2) - 1) if self.low <= at.s0 <= self.high else 0.0
        if gamma > 0 and 0 < at.s0 < 1:
            rho = (1 + gamma) * at.s0 / (1 - at.s0)
            xi = at.noise(x, interval=(at.index / at.count, (at.index + 1) / at.count))  # as much in every step
            x, at = noised(x, at.s0, rho / (1 + rho), xi), replace(at, s0=rho / (1 + rho))
        end, _ = yield from self.without_noise.step(x, at, None)
        return end, state


@register(
    "restart",
    reference="Restart sampling, arXiv:2306.14878, algorithm 1",
    advice="Adds much noise once, in place of a little in every step; needs many calls.",
)
@dataclass(frozen=True)
class Restart(WithNoise):
    r"""Restart sampling: at a low sigma, add noise up to a higher sigma and integrate down again over the same nodes, several times.

    The noise is added as in `Churn`. The model calls of the restarts belong to the step that reaches ``low``. The strong order is 1,
    because the start of a restart moves with the grid unless ``low`` is a node. The weak order is the base method's.

    Args:
        base: the ODE method, a one-step method.
        low: restarts begin at the first node at or below this sigma.
        high: sigma up to which noise is added, below 1.
        repeats: number of restarts; 0 is the ODE method.

    Examples:
        >>> import flowsamplers as fs
        >>> [e.sigma for e in fs.dry_run(Restart("euler", low=0.3, high=0.6, repeats=1), fs.schedules.linear(4))]
        [1.0, 0.75, 0.5, 0.6, 0.5, 0.25]
    """

    low: float = 0.2
    high: float = 0.5
    repeats: int = 2

    noise_option: ClassVar[str] = "repeats"
    look_back: ClassVar[int] = 99

    def __post_init__(self) -> None:
        """Resolve the method at once."""
        if not 0 <= self.low < self.high < 1:
            raise ValueError(f"low={self.low}, high={self.high}: a restart goes up from low to high, with 0 <= low < high < 1")
        integer("repeats", self.repeats, 0)
        super().__post_init__()

    def step(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """See `Sampler.step`."""
        x, _ = yield from self.without_noise.step(x, at, None)
        if not at.s1 <= self.low < at.s0:
            return x, state
        nodes = [self.high, *(s for s in at.grid.sigmas if at.s1 <= s < self.high)]
        for draw in range(int(self.repeats)):
            x = noised(x, at.s1, self.high, at.noise(x, draw, interval=(0.0, 1.0)))  # the same for any number of steps
            for s0, s1 in pairwise(nodes):
                x, _ = yield from self.without_noise.step(x, replace(at, s0=s0, s1=s1), None)
        return x, state
