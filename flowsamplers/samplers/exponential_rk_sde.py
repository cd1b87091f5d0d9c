r"""Stochastic one-step methods for the data prediction: exponential Runge-Kutta stages along one noise path, and ancestral steps.

Measured on Gaussian data, with noise, the weak order is 2 for any number of stages. An ancestral step has the weak order of its ODE
method, from 1 to 4. The strong order is 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeAlias

from flowsamplers._accepted import number
from flowsamplers.registry import register
from flowsamplers.sampler import Evaluate, SamplerLike, State, Step, StepGenerator, Tensor, converted
from flowsamplers.samplers.exponential_rk import RES2S, DPMSolverPP2S, DPMSolverPP3S, ExponentialRungeKutta
from flowsamplers.samplers.policies import LastStep
from flowsamplers.samplers.sde import SDE, exact_step, fresh_noise
from flowsamplers.samplers.wrappers import WithNoise

__all__ = ["SEEDS", "SEEDS2", "SEEDS3", "AncestralStep"]

Correction: TypeAlias = Literal["phi_1", "phi_2"]


@dataclass(frozen=True)
class SEEDS(LastStep):
    r"""Base of the stochastic exponential Runge-Kutta methods in $\lambda$.

    $$
    x_i = \frac{\sigma_i}{\sigma} e^{-\eta c_i h} x + \alpha_i (1 - e^{-c_i z}) D_0
    + \alpha_i \sum_{j \ge 1} z\,a_{ij}(z)\,(D_j - D_0) + \sigma_i n_i, \qquad z = (1 + \eta) h
    $$

    with the coefficients of the ODE method, `without_noise`, at the rate $1 + \eta$. The noises of the stages belong to one path,
    $n_i = e^{-\eta \delta_i} n_{i - 1} + \sqrt{1 - e^{-2 \eta \delta_i}}\;\xi_i$ with $\delta_i = (c_i - c_{i - 1}) h$, so a stage lies
    on the path of the step. On a step of infinite length, from ``sigma = 1`` or to 0, only the part without the sum remains.

    Args:
        last: policy of the last step, see `LastStep`.
        eta: strength of the noise, see `SDE`.
    """

    eta: float = 1.0

    affine: ClassVar[bool] = False
    order_to_data: ClassVar[int] = 2
    stochastic: ClassVar[bool] = True
    weak_order: ClassVar[int] = 2

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        _ = self.sde, self.without_noise

    @property
    def sde(self) -> SDE:
        """Strength and rule of the noise."""
        return SDE(self.eta)

    @property
    def without_noise(self) -> ExponentialRungeKutta:
        """The ODE method with the same coefficients."""
        raise NotImplementedError

    def advance(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """See `Sampler.step`."""
        ode, sde = self.without_noise, self.sde
        if not self.draws_noise:
            return (yield from ode.advance(x, at, state))
        v = yield Evaluate(x, at.s0)
        if not math.isfinite(ode.length(at)):
            return exact_step(x, v, at.s0, at.s1, sde, fresh_noise(x, at, at.s0, at.s1, sde)), state
        before, n = at.s0, x.new_zeros(x.shape)  # the noise that has come in since the start of the step

        def constant(sigma: float, stage: int) -> Tensor:
            nonlocal before, n
            n, before = _continued(n, at, before, sigma, sde, stage), sigma
            return exact_step(x, v, at.s0, sigma, sde, n)

        return (yield from ode.over_stages(x, v, at, constant, 1 + self.eta)), state


def _continued(n: Tensor, at: Step, s0: float, s1: float, sde: SDE, draw: int) -> Tensor:
    """The noise at s1 of the path that has the noise n at s0: the part of it that is kept, and fresh noise."""
    kept, fresh = sde.kept(s0, s1) * n, fresh_noise(n, at, s0, s1, sde, draw)
    return kept if fresh is None else kept + fresh


@register(
    "seeds_2",
    aliases=("dpmpp_sde", "dpmpp_sde_gpu"),
    presets={"exp_heun_2_x0_sde": {"r": 1.0, "correction": "phi_2"}},
    reference="SEEDS, arXiv:2305.14267, algorithm 2; ComfyUI; DPM-Solver++(SDE): k-diffusion",
    advice="Two calls per step. With few calls dpmpp_2m_sde is better. eta=0 is dpmpp_2s.",
)
@dataclass(frozen=True)
class SEEDS2(SEEDS):
    r"""SEEDS-2: the stochastic form of `DPMSolverPP2S` (``"phi_1"``) or `RES2S` (``"phi_2"``), with its second stage at $\lambda + r h$.

    With ``"phi_1"`` and r = 1/2, this method is k-diffusion's dpmpp_sde, except for the correlation of its two noises. There it
    comes from a Brownian motion in $\sigma/(1 - \sigma)$, which equals the SDE's correlation only in the limit of small steps.
    At r = 1 with ``"phi_2"`` it is ComfyUI's exp_heun_2_x0_sde.

    Args:
        last: policy of the last step, see `LastStep`.
        eta: strength of the noise. It agrees with k-diffusion's eta at 0 and 1; in between, k-diffusion's squared corresponds to it for
            small steps.
        r: node of the second stage, in (0, 1].
        correction: ``"phi_1"`` or ``"phi_2"``.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("seeds_2", fs.schedules.linear(8))  # the first and the last step are infinitely long in lambda: one call each
        14
    """

    r: float = 0.5
    correction: Correction = "phi_1"

    order: ClassVar[int] = 2

    @property
    def without_noise(self) -> ExponentialRungeKutta:
        """See `SEEDS`."""
        number("r", self.r, most=1, above=0)
        return converted(self, DPMSolverPP2S if self.correction == "phi_1" else RES2S, variable="lambda", c2=self.r)


@register(
    "seeds_3",
    reference="SEEDS, arXiv:2305.14267, algorithm 3; ComfyUI",
    advice="Three calls per step, without a higher order in the noise. eta=0 is dpmpp_3s.",
)
@dataclass(frozen=True)
class SEEDS3(SEEDS):
    r"""SEEDS-3: the stochastic form of `DPMSolverPP3S`, its stages at $\lambda + r_1 h$ and $\lambda + r_2 h$.

    Args:
        last: policy of the last step, see `LastStep`.
        eta: strength of the noise.
        r_1: node of the second stage.
        r_2: node of the third stage, larger than ``r_1``.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("seeds_3", fs.schedules.linear(8))
        20
    """

    r_1: float = 1 / 3
    r_2: float = 2 / 3

    order: ClassVar[int] = 3

    def __post_init__(self) -> None:
        """Check the options."""
        for option in ("r_1", "r_2"):
            number(option, getattr(self, option), most=1, above=0)
        super().__post_init__()
        if self.r_2 < self.r_1:
            raise ValueError(
                f"r_1={self.r_1}, r_2={self.r_2}: the path of the noise meets the second stage first, so r_1 <= r_2"
            )

    @property
    def without_noise(self) -> ExponentialRungeKutta:
        """See `SEEDS`."""
        return converted(self, DPMSolverPP3S, c2=self.r_1, c3=self.r_2)


@register(
    "dpmpp_2s_ancestral",
    presets={
        "dpmpp_2s_a": {},
        "dpm_2_ancestral": {"base": "dpm_2"},
        "kdpm2_ancestral": {"base": "dpm_2"},
    },
    reference="k-diffusion's ancestral samplers; ComfyUI's form for rectified flows",
    advice="Two calls per step, one draw of noise. base=midpoint has a last step of order 2.",
)
@dataclass(frozen=True)
class AncestralStep(WithNoise):
    r"""Ancestral sampling with any ODE method: a step to below the next sigma, then noise up to it, as in ComfyUI on rectified flows.

    $$
    \sigma_d = \sigma'\Bigl(1 + \eta\bigl(\tfrac{\sigma'}{\sigma} - 1\bigr)\Bigr), \qquad
    x' = \frac{1 - \sigma'}{1 - \sigma_d}\,\Phi_{\sigma \to \sigma_d}(x) + \sigma' \sqrt{1 - k^2}\;\xi, \qquad
    k = \frac{\sigma_d}{\sigma'}\,\frac{1 - \sigma'}{1 - \sigma_d}
    $$

    The fraction before $\Phi$ gives the correct mean. The form without it, made for $\alpha = 1$, is wrong on a rectified flow. For
    small steps $k \to e^{-\eta h}$. From ``sigma = 1`` DPM-Solver++(2S) takes a midpoint step; ComfyUI calls the model at 0.9999 instead.
    The step to 0 is Euler's, as in k-diffusion.

    Args:
        base: the ODE method, a one-step method.
        eta: strength of the noise, from 0 to 1.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("dpmpp_2s_ancestral", fs.schedules.linear(8))
        15
    """

    base: SamplerLike = DPMSolverPP2S("euler")  # noqa: RUF009  (a frozen value)
    eta: float = 1.0

    order_to_data: ClassVar[int] = 2
    look_ahead: ClassVar[int] = 1  # a base that asks at the end of its step asks below the next sigma

    def __post_init__(self) -> None:
        """Resolve the method at once."""
        number("eta", self.eta, 0, 1)
        super().__post_init__()

    def step(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """See `Sampler.step`."""
        sde = SDE(self.eta)
        sde.kept(at.s0, at.s1)  # refuses a step towards noise
        down = at.s1 * (1 + self.eta * (at.s1 / at.s0 - 1)) if self.eta > 0 else at.s1
        end, _ = yield from self.without_noise.step(x, replace(at, s1=down), None)
        scale = (1 - at.s1) / (1 - down) if down < at.s1 else 1.0
        added = math.sqrt(max(0.0, at.s1**2 - (down * scale) ** 2))
        if added > 0:
            return scale * end + added * at.noise(x, interval=sde.interval(at.s0, at.s1)), state
        return scale * end, state
