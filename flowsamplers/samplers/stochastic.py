r"""Stochastic samplers: split ``x`` into data and noise, and replace a part of the noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from flowsamplers.sampler import Evaluate, Sampler, State, Step, StepGenerator, register


@register(
    "lcm",
    aliases=("euler_stochastic", "cps"),
    reference="LCM, arXiv:2310.04378, algorithm 3; eta: Flow-CPS, arXiv:2509.05952; diffusers' stochastic_sampling=True",
)
@dataclass(frozen=True)
class Renoise(Sampler):
    r"""Jump to the predicted data and put noise back, a share of it fresh.

    $$
    x' = (1 - \sigma')\,D + \sqrt{\sigma'^2 - q^2}\;\hat\epsilon + q\,\xi, \qquad q = \sigma' \sin\tfrac{\eta\pi}{2}
    $$

    with $D = x - \sigma v$, $\hat\epsilon = x + (1 - \sigma) v$ and $\xi$ fresh. At ``eta = 1`` all the
    noise is fresh: this is LCM's step and FlowMatchEuler's ``stochastic_sampling``; at ``eta = 0`` it is Euler's.
    The share of fresh noise in a step does not shrink with the step, so the marginals are *not* kept as steps shrink.

    Args:
        eta: share of fresh noise, from 0 (none) to 1 (all).

    Examples:
        >>> import torch, flowsamplers as fs
        >>> x1 = torch.ones(1, 1, dtype=torch.float64)
        >>> fs.sample(lambda x, sigma: x, x1, fs.schedules.linear(2), Renoise(eta=0.0), seed=0)
        tensor([[0.2500]], dtype=torch.float64)
    """

    eta: float = 1.0

    order: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True
    affine: ClassVar[bool] = False
    keeps_marginals: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the options."""
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta={self.eta}: the share of fresh noise lies between 0 and 1")

    def step(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """See `Sampler.step`."""
        v = yield Evaluate(x, at.s0)
        data, eps = x - at.s0 * v, x + (1 - at.s0) * v
        kept, fresh = (at.s1 * f(self.eta * math.pi / 2) for f in (math.cos, math.sin))
        return (1 - at.s1) * data + kept * eps + fresh * at.noise(x), state
