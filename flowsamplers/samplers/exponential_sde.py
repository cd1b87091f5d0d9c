r"""Stochastic multistep methods for the data prediction: the SDE's exact step for a polynomial through the last predictions.

They are the methods of `exponential` with the kernel at the rate $1 + \eta$, and with fresh noise in the part for a constant prediction:

$$
x' = \frac{\sigma'}{\sigma} e^{-\eta h} x + \alpha' (1 + \eta) \int_\lambda^{\lambda'} e^{-(1 + \eta)(\lambda' - l)} D(l)\,dl
+ \sigma' \sqrt{1 - e^{-2 \eta h}}\;\xi, \qquad h = \lambda' - \lambda
$$

The noise is additive and its integral is exact. A polynomial does not follow the part of D that changes with the noise. So the
orders of the ODE methods are reached only without noise. With noise, the measured weak order is 2 on Gaussian data (1 for
`ERSDE` with one stage). The strong order is 1, for any number of predictions. If ``startup`` names an ODE method, its steps
draw no noise. This keeps the marginals, but it reduces the strong order to 1/2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from flowsamplers.registry import register
from flowsamplers.sampler import Sampler, SamplerLike, Step, Tensor, converted
from flowsamplers.samplers.exponential import RES2M, RES3M, DPMSolverPP2M, DPMSolverPP3M, ExponentialAdams
from flowsamplers.samplers.interpolation import Variable, moments
from flowsamplers.samplers.policies import RAMP
from flowsamplers.samplers.sde import SDE, Rule, exact_step, fresh_noise

__all__ = ["ERSDE", "DPMSolverPP2MSDE", "DPMSolverPP3MSDE", "StochasticAdams"]

Correction: TypeAlias = Literal["midpoint", "heun"]
Form: TypeAlias = Literal["shipped", "polynomial"]


@dataclass(frozen=True)
class StochasticAdams(ExponentialAdams):
    """Base of the exponential Adams methods for an SDE.

    Args:
        last: policy of the last step, see `LastStep`.
        startup: policy of the first steps, see `Multistep`. Steps of another sampler draw no noise, which keeps the marginals and
            reduces the strong order to 1/2.
        variable: where the prediction is interpolated, see `ExponentialAdams`.
        eta: strength of the noise, see `SDE`; 0 for none.
    """

    variable: Variable = "lambda"
    eta: float = 1.0

    stochastic: ClassVar[bool] = True
    weak_order: ClassVar[int] = 2

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        _ = self.sde
        self._set(strong_order=1 if self.startup == RAMP else 0.5)

    @property
    def sde(self) -> SDE:
        """Strength and rule of the noise."""
        return SDE(self.eta)

    def variable_on(self, s0: float, s1: float, past: Sequence[float]) -> str:
        """See `Adams`; with noise a run from ``sigma = 1`` stays the limit of runs from below."""
        return self.variable if self.draws_noise else super().variable_on(s0, s1, past)

    def moments(self, variable: str, s0: float, s1: float, count: int) -> tuple[float, ...]:
        """See `Adams`."""
        return moments(self.prediction, variable, s0, s1, count, self.sde)

    def constant(self, x: Tensor, v: Tensor, at: Step) -> Tensor:
        """See `Adams`."""
        return exact_step(x, v, at.s0, at.s1, self.sde, fresh_noise(x, at, at.s0, at.s1, self.sde))


@register(
    "dpmpp_2m_sde",
    aliases=("dpmpp_2m_sde_gpu", "dpm_solver_pp_2m_sde"),
    presets={name: {"correction": "heun"} for name in ("dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu", "res_2m_sde")},
    reference="DPM-Solver++, arXiv:2211.01095, SDE-DPM-Solver++(2M); k-diffusion, diffusers' sde-dpmsolver++",
    advice="The usual stochastic choice; from about 20 calls. eta=0 is dpmpp_2m.",
)
@dataclass(frozen=True)
class DPMSolverPP2MSDE(StochasticAdams, DPMSolverPP2M):
    r"""SDE-DPM-Solver++(2M): the line through the last two data predictions.

    $$
    x' = \frac{\sigma'}{\sigma} e^{-\eta h} x + \alpha' (1 - e^{-z}) D + w\,\frac{D - D_1}{r} + \sigma' \sqrt{1 - e^{-2 \eta h}}\;\xi,
    \qquad z = (1 + \eta) h
    $$

    with $w = \alpha'(1 - e^{-z})/2$ for ``"midpoint"`` and $w = \alpha'\bigl(1 - \frac{1 - e^{-z}}{z}\bigr)$, the integral of the line,
    for ``"heun"``: then it is the stochastic form of `RES2M`. From ``sigma = 1`` all noise is fresh, a limit; a step to ``sigma = 0``
    ends at D.

    Args:
        last: policy of the last step, see `LastStep`.
        startup: policy of the first step, see `Multistep`.
        variable: where the prediction is interpolated, see `ExponentialAdams`.
        eta: strength of the noise; 0 is `DPMSolverPP2M`.
        correction: ``"midpoint"`` or ``"heun"``.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("dpmpp_2m_sde", fs.schedules.linear(8))
        8
    """

    correction: Correction = "midpoint"

    @property
    def without_noise(self) -> Sampler:
        """See `Sampler.without_noise`."""
        return converted(self, DPMSolverPP2M if self.correction == "midpoint" else RES2M)

    def integrals(self, variable: str, s0: float, s1: float, thetas: Sequence[float]) -> tuple[float, ...]:
        """See `Adams`."""
        if self.correction == "midpoint":
            return super().integrals(variable, s0, s1, thetas)
        return self.moments(variable, s0, s1, len(thetas) + 1)[1:]


@register(
    "dpmpp_3m_sde",
    aliases=("dpmpp_3m_sde_gpu", "dpm_solver_pp_3m_sde"),
    reference="k-diffusion's sample_dpmpp_3m_sde, after DPM-Solver++, arXiv:2211.01095",
    advice="Like dpmpp_2m_sde, from about 30 calls. eta=0 is dpmpp_3m.",
)
@dataclass(frozen=True)
class DPMSolverPP3MSDE(StochasticAdams, DPMSolverPP3M):
    r"""SDE-DPM-Solver++(3M): the parabola through the last three data predictions, its last term as in `DPMSolverPP3M`.

    diffusers' form of order 3 has a wrong sign in that term and has order 1; this is k-diffusion's form.

    Args:
        last: policy of the last step, see `LastStep`.
        startup: policy of the first steps, see `Multistep`.
        variable: where the prediction is interpolated, see `ExponentialAdams`.
        eta: strength of the noise; 0 is `DPMSolverPP3M`.
        kappa: share of the second-order term, 1 (shipped) or 2 (exact).
        correction: of the step with two predictions only: ``"midpoint"`` (diffusers) or ``"heun"`` (k-diffusion).

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("dpmpp_3m_sde", fs.schedules.linear(8))
        8
    """

    correction: Correction = "midpoint"

    @property
    def without_noise(self) -> Sampler | None:
        """See `Sampler.without_noise`."""
        return converted(self, DPMSolverPP3M) if self.correction == "midpoint" else None

    def integrals(self, variable: str, s0: float, s1: float, thetas: Sequence[float]) -> tuple[float, ...]:
        """See `Adams`."""
        integral = self.correction == "heun" and len(thetas) == 1
        return self.moments(variable, s0, s1, 2)[1:] if integral else super().integrals(variable, s0, s1, thetas)


@register(
    "er_sde",
    aliases=("er_sde_3",),
    presets={"er_sde_1": {"stages": 1}, "er_sde_2": {"stages": 2}},
    reference="ER-SDE-Solver, arXiv:2309.06169, algorithms 1 to 3; ComfyUI",
    advice="Stochastic near sigma 1 and almost deterministic below; from about 16 calls.",
)
@dataclass(frozen=True)
class ERSDE(StochasticAdams):
    r"""ER-SDE-Solver with 1 to 3 stages: a Taylor polynomial of D in $\rho = \sigma/(1 - \sigma)$, with derivatives from differences.

    $$
    x' = \frac{\alpha'}{\alpha} r x + \alpha' \bigl[(1 - r) D + (\Delta + \varphi' I_1)\,\dot D
    + (\tfrac{\Delta^2}{2} + \varphi' I_2)\,\ddot D\bigr] + \alpha' \sqrt{\rho'^2 - \rho^2 r^2}\;\xi, \qquad
    r = \frac{\varphi(\rho')}{\varphi(\rho)},\ I_k = \int_{\rho'}^{\rho} \frac{(u - \rho)^{k - 1}}{\varphi(u)}\,du
    $$

    $\varphi(\rho) = \rho\,(e^{\rho^{0.3}} + 10)^\eta$; with ``rule="reverse_time"`` $\varphi = \rho^{1 + \eta}$. The integrals are exact
    up to rounding; ComfyUI uses a Riemann sum of 200 points. In the published form, $\dot D$ is the last difference for any number of
    stages, so three stages have order 2. ``form="polynomial"`` differentiates the parabola through the three predictions; with
    ``startup="heun"`` and ``last="midpoint"`` it has order 3.

    Args:
        last: policy of the last step, see `LastStep`; ``"method"`` on a step to 0 extrapolates to it.
        startup: policy of the first steps, see `Multistep`.
        variable: where the prediction is interpolated.
        eta: strength of the noise; 0 is the ODE.
        rule: ``"er_sde"`` or ``"reverse_time"``, see `SDE`.
        stages: how many predictions, from 1 to 3.
        form: ``"shipped"`` or ``"polynomial"``.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("er_sde", fs.schedules.linear(8))
        8
    """

    last: SamplerLike = "euler"
    variable: Variable = "ve_sigma"
    rule: Rule = "er_sde"
    stages: int = 3
    form: Form = "shipped"

    order: ClassVar[int] = 2
    literature: ClassVar[int] = 3
    memory: ClassVar[int] = 3

    def __post_init__(self) -> None:
        """Check the options; state the order of these stages."""
        if self.stages not in (1, 2, 3):
            raise ValueError(f"stages={self.stages}: ER-SDE-Solver has 1, 2 or 3")
        self._set(
            memory=self.stages,
            weak_order=min(self.stages, 2),
            order=self.stages if self.form == "polynomial" else min(self.stages, 2),
        )
        super().__post_init__()

    @property
    def sde(self) -> SDE:
        """Strength and rule of the noise."""
        return SDE(self.eta, self.rule)

    @property
    def without_noise(self) -> Sampler | None:
        """See `Sampler.without_noise`."""
        if self.stages == 3 and self.form == "shipped":
            return None
        return converted(self, RES2M if self.stages == 2 else RES3M) if self.stages > 1 else None

    def integrals(self, variable: str, s0: float, s1: float, thetas: Sequence[float]) -> tuple[float, ...]:
        r"""Shipped, the first derivative is the last difference, $d_1 + \theta_1 d_2$, not $d_1$."""
        m = super().integrals(variable, s0, s1, thetas)
        return (m[0], m[1] + thetas[0] * m[0]) if self.form == "shipped" and len(m) > 1 else m
