r"""The SDE with the marginals of a flow: the factor $e^{-G}$ by which its exact step reduces the old noise.

The SDE with the flow's marginals and the noise g, solved exactly for a constant data prediction D, steps by

$$
x' = (1 - \sigma')\,D + \sigma'\left(e^{-G}\,\hat\epsilon + \sqrt{1 - e^{-2G}}\;\xi\right), \qquad
G = \int_{\sigma'}^{\sigma} \frac{g(u)^2}{2u^2}\,du
$$

G is a difference, $P(\lambda') - P(\lambda)$, of a potential of the half log-SNR $\lambda = \log\frac{1 - \sigma}{\sigma}$.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias, get_args

import numpy as np

from flowsamplers._accepted import number, unknown
from flowsamplers.sampler import Interval, Step, Tensor

Rule: TypeAlias = Literal["reverse_time", "er_sde"]
"""The rules that depend on sigma only through lambda, as exponential integrators need."""
AnyRule: TypeAlias = Literal[Rule, "linear", "constant", "decreasing", "increasing_decreasing"]
RULES: tuple[AnyRule, ...] = get_args(AnyRule)


@dataclass(frozen=True)
class SDE:
    r"""The strength and rule of a stochastic sampler's noise, as a potential P of sigma.

    * ``"reverse_time"``: $P = \eta\lambda$, $g^2 = 2\eta\sigma/(1 - \sigma)$, the SDE of DPM-Solver++, SEEDS and SA-Solver
      ($\eta = \tau^2$).
    * ``"er_sde"``: $P = -\eta\log(e^{\rho^{0.3}} + 10)$ with $\rho = \sigma/(1 - \sigma)$, which the ER-SDE paper recommends: much noise
      near sigma 1, little below.
    * ``"linear"``: $P = -\eta\log\sigma$, $g^2 = 2\eta\sigma$.
    * ``"constant"``: $P = \eta/\sigma$, $g^2 = 2\eta$.
    * ``"decreasing"`` (SiT): $g^2 = \frac\eta2 (1 - \cos\pi\sigma)^2$, with P by quadrature.
    * ``"increasing_decreasing"`` (SiT): $g^2 = 2\eta\sin^2\pi\sigma$, with P by quadrature.

    Args:
        eta: strength of the noise; g² is proportional to it, and 0 gives the ODE.
        rule: name of the SDE.

    Reference:
        DPM-Solver++, arXiv:2211.01095; ER-SDE-Solver, arXiv:2309.06169; SiT, arXiv:2401.08740, section 3.4.

    Examples:
        >>> SDE(1.0).kept(0.5, 0.25), SDE(1.0).kept(1.0, 0.5), SDE(0.0).kept(1.0, 0.0)
        (0.3333333333333333, 0.0, 1.0)
    """

    eta: float = 1.0
    rule: AnyRule = "reverse_time"

    def __post_init__(self) -> None:
        """Check the options."""
        number("eta", self.eta, 0)
        if self.rule not in RULES:
            raise unknown("rule", self.rule, RULES)

    def potential(self, sigma: float) -> float:
        """Compute P at a sigma: at 1 it is minus infinity for the rules that depend on lambda; at 0 it may be infinite."""
        if self.rule in _SQUARED:
            return self.eta * _potential(self.rule, sigma)
        rho = sigma / (1 - sigma) if sigma < 1 else math.inf
        if self.rule == "er_sde":
            return -self.eta * float(np.logaddexp(rho**0.3, math.log(10)))
        return -self.eta * math.log(rho) if rho > 0 else math.inf

    def along(self, lam: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute P and its derivative at several finite lambda."""
        if self.rule in _SQUARED:
            raise ValueError(f"rule={self.rule!r}: an exponential integrator in lambda has 'reverse_time' and 'er_sde'")
        if self.rule == "reverse_time":
            return self.eta * lam, np.full_like(lam, self.eta)
        power = np.exp(-0.3 * lam)
        size = np.logaddexp(power, math.log(10))
        return -self.eta * size, self.eta * 0.3 * power * np.exp(power - size)

    def squared(self, sigma: float, below: float = 0.0) -> float:
        r"""Compute $g^2$, the variance that the SDE adds per unit of sigma.

        Args:
            sigma: noise level.
            below: the next node. At ``sigma = 1`` the rules that depend on lambda take $1 - \sigma$ and lambda from there.
        """
        if self.rule in _SQUARED:
            return self.eta * _SQUARED[self.rule](sigma)
        near = below if sigma == 1 else sigma
        with np.errstate(divide="ignore"):
            _, slope = self.along(np.log((1 - near) / np.array([near])))
        return 2 * sigma / (1 - near) * float(slope[0])

    def loss(self, s0: float, s1: float) -> float:
        """Compute G from s0 to s1; it may be infinite from sigma 1.

        Raises:
            ValueError: the step goes towards noise.
        """
        if self.eta == 0:
            return 0.0
        if s1 > s0:
            raise ValueError(
                f"a step from sigma {s0} to {s1}: with noise a run goes down, from noise to data; eta=0 goes both ways"
            )
        return self.potential(s1) - self.potential(s0)

    def kept(self, s0: float, s1: float) -> float:
        r"""Compute $e^{-G}$, the share of the old noise that a step from s0 to s1 keeps."""
        return math.exp(-self.loss(s0, s1))

    def fresh(self, s0: float, s1: float) -> float:
        r"""Compute $\sqrt{1 - e^{-2G}}$, the share of fresh noise."""
        return math.sqrt(-math.expm1(-2 * self.loss(s0, s1)))

    def interval(self, s0: float, s1: float) -> Interval:
        r"""Compute the interval of $T = e^{2P}$: the noise of a step is the increment of a Brownian motion over it."""
        start, end = (math.exp(min(2 * self.potential(s), 700.0)) for s in (s0, s1))
        return start, end, 0


_SQUARED = {
    "linear": lambda s: 2 * s,
    "constant": lambda s: 2.0,
    "decreasing": lambda s: (1 - math.cos(math.pi * s)) ** 2 / 2,
    "increasing_decreasing": lambda s: 2 * math.sin(math.pi * min(s, 1 - s)) ** 2,  # 0 at 1 too
}
"""g² at eta 1 of the rules that are regular at sigma 1."""


@cache
def _potential(rule: str, sigma: float) -> float:
    r"""$\int_\sigma^1 g^2/(2u^2)\,du$ at eta 1."""
    if rule == "linear":
        return -math.log(sigma) if sigma > 0 else math.inf
    if rule == "constant":
        return 1 / sigma if sigma > 0 else math.inf
    from scipy.integrate import quad  # noqa: PLC0415  (half a second, and two rules need it)

    return quad(lambda u: _SQUARED[rule](u) / (2 * u * u), sigma, 1, epsabs=1e-14, epsrel=1e-13)[0]


def exact_step(x: Tensor, v: Tensor, s0: float, s1: float, sde: SDE, noise: Tensor | None) -> Tensor:
    """Take the exact step for a constant data prediction: an Euler step that replaces a part of the noise.

    Args:
        x: the state at s0.
        v: its velocity.
        s0: sigma at the start of the step.
        s1: sigma at its end.
        sde: strength and rule of the noise.
        noise: the fresh noise, of variance 1 - e^{-2G}; None for none.
    """
    end = x + (s1 - s0) * v
    lost = s1 * (1 - sde.kept(s0, s1))
    if lost > 0:
        end = end - lost * (x + (1 - s0) * v)
    return end if noise is None else end + s1 * noise


def fresh_noise(like: Tensor, at: Step, s0: float, s1: float, sde: SDE, draw: int = 0) -> Tensor | None:
    """Draw the fresh noise of a step from s0 to s1, of variance 1 - e^{-2G}; None if its factor is zero."""
    fresh = sde.fresh(s0, s1) if s1 > 0 else 0.0
    return fresh * at.noise(like, draw, interval=sde.interval(s0, s1)) if fresh > 0 else None
