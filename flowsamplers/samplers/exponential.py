r"""Multistep methods that integrate the linear part exactly and interpolate the data prediction $D = x - \sigma v$.

The variable is $y = \lambda$ or $-\log\sigma$. Over a step of length h the kernel of `interpolation` is
$e^{-(1 - \theta) h} h\,d\theta$ (times $1 - \sigma'$ for $\lambda$). So its moments are the phi functions of exponential integrators.
A step to ``sigma = 0`` is infinitely long in both variables, and the formula becomes Euler's step. In plain ``"sigma"`` the
moments stay finite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from flowsamplers._accepted import one_of
from flowsamplers.registry import register
from flowsamplers.sampler import SamplerLike
from flowsamplers.samplers.interpolation import Variable, regular
from flowsamplers.samplers.multistep import Adams

__all__ = ["RES2M", "RES3M", "DEISLogRho", "DPMSolverPP2M", "DPMSolverPP3M", "ExponentialAdams"]


@dataclass(frozen=True)
class ExponentialAdams(Adams):
    r"""Base of the exponential Adams methods: integrate the polynomial through the last data predictions.

    Args:
        last: policy of the last step, see `LastStep`.
        startup: policy of the first steps, see `Multistep`.
        variable: where the prediction is interpolated: ``"lambda"``, the half log-SNR (papers, diffusers);
            ``"neg_log_sigma"`` (ComfyUI, RES4LYF); ``"ve_sigma"``, $\sigma/(1 - \sigma)$ (ER-SDE); or ``"sigma"``, regular at both ends.
    """

    variable: Variable = "neg_log_sigma"

    prediction: ClassVar[str] = "data"
    affine: ClassVar[bool] = False
    order_to_data: ClassVar[int] = 2

    def variable_on(self, s0: float, s1: float, past: Sequence[float]) -> str:
        """See `Adams` and `regular`."""
        return regular(self.variable, s0, s1, past)


@register(
    "res_2m",
    aliases=("res_multistep", "abnorsett_2m"),
    reference="RES, arXiv:2308.02157; Hochbruck and Ostermann, Acta Numerica 19 (2010), 2.5",
    advice="The sampler of RES4LYF users. It has the order of ab2; its last step is Euler's by default.",
)
@dataclass(frozen=True)
class RES2M(ExponentialAdams):
    r"""The exponential Adams method of order 2: the line through the last two data predictions, integrated exactly.

    $$
    x' = \frac{\sigma'}{\sigma} x + \Bigl(1 - \frac{\sigma'}{\sigma}\Bigr) D
    + \Bigl(1 - \frac{1 - e^{-h}}{h}\Bigr)\frac{D - D_1}{r}, \qquad h = \log\frac{\sigma}{\sigma'},\ r = \frac{h_1}{h}
    $$

    It is DPM-Solver++(2M) with an exact integral of the correction, in place of the midpoint rule.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("res_2m", fs.schedules.linear(8))
        8
    """

    order: ClassVar[int] = 2
    memory: ClassVar[int] = 2


@register(
    "res_3m",
    aliases=("abnorsett_3m",),
    reference="Hochbruck and Ostermann, Acta Numerica 19 (2010), 2.5 (exponential Adams, k = 3)",
    advice="Order 3 from about 32 calls on smooth velocity fields. With fewer calls res_2m is as good.",
)
@dataclass(frozen=True)
class RES3M(ExponentialAdams):
    r"""The exponential Adams method of order 3: the parabola through the last three data predictions, integrated exactly.

    The first step is Heun's, with one more evaluation, to keep the order. RES4LYF's method of this name satisfies the same order
    conditions with slightly different coefficients.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("res_3m", fs.schedules.linear(8))
        9
    """

    startup: SamplerLike = "heun"

    order: ClassVar[int] = 3
    memory: ClassVar[int] = 3


@register(
    "dpmpp_2m",
    aliases=("dpm_solver_pp_2m",),
    reference="DPM-Solver++, arXiv:2211.01095, algorithm 2",
    advice="A usual choice in diffusers and ComfyUI. From about 20 calls on FLUX.2's schedule, use last='midpoint'.",
)
@dataclass(frozen=True)
class DPMSolverPP2M(ExponentialAdams):
    r"""DPM-Solver++(2M), the multistep method of second order, on a rectified flow ($\alpha = 1 - \sigma$).

    $$
    x' = \frac{\sigma'}{\sigma} x + \Bigl(1 - \frac{\sigma'}{\sigma}\Bigr)
    \Bigl[D + \frac{1}{2r}(D - D_1)\Bigr], \qquad r = \frac{\lambda - \lambda_1}{\lambda' - \lambda}
    $$

    It takes one evaluation per step. After a step from ``sigma = 1``, r is infinite, and the limit of the formula would ignore the
    first prediction. That step therefore uses the line in $-\log\sigma$, see `regular`. A step to ``sigma = 0`` is Euler's.
    On grids from 1 to 0 the order is 2 up to a logarithm, $h^2 \log(1/h)$, because the local error is proportional to $h^3/\sigma$.
    Observed slopes are 1.76 to 1.86 up to 8,192 steps, with any last step; strictly inside (0, 1) they are 2.

    Args:
        last: policy of the last step, see `LastStep`.
        startup: policy of the first step, see `Multistep`.
        variable: where the prediction is interpolated: ``"lambda"`` (the paper, diffusers), ``"neg_log_sigma"`` (ComfyUI), ``"sigma"``.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("dpmpp_2m", fs.schedules.linear(8))
        8
    """

    variable: Variable = "lambda"

    order: ClassVar[int] = 2
    memory: ClassVar[int] = 2

    def integrals(self, variable: str, s0: float, s1: float, thetas: Sequence[float]) -> tuple[float, ...]:
        """Use $M_0 / 2$ for the correction, in place of the exact $M_1$."""
        return tuple(m / 2 for m in self.moments(variable, s0, s1, 1)[: len(thetas)])


@register(
    "dpmpp_3m",
    aliases=("dpm_solver_pp_3m",),
    reference="DPM-Solver++, arXiv:2211.01095; the multistep form of order 3 as in diffusers and ComfyUI",
    advice="For parity: in its published form its order is 2. res_3m is the form of order 3.",
)
@dataclass(frozen=True)
class DPMSolverPP3M(ExponentialAdams):
    r"""DPM-Solver++(3M) as diffusers and ComfyUI ship it.

    $$ x' = \frac{\sigma'}{\sigma} x + M_0 D + M_1 d_1 + \tfrac{\kappa}{2} M_2 d_2 $$

    where $D + d_1\theta + d_2\theta^2$ is the parabola through the last three predictions and $M_k$ its moments. In diffusers
    and ComfyUI, $\kappa = 1$: half of the last term, which gives order 2. $\kappa = 2$ is the exact integral. With it and a
    ``startup`` that keeps order 3, the method is `RES3M` in $\lambda$.

    Args:
        last: policy of the last step, see `LastStep`.
        startup: policy of the first steps, see `Multistep`.
        variable: as in `DPMSolverPP2M`.
        kappa: share of the second-order term, 1 (shipped) or 2 (exact).

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("dpmpp_3m", fs.schedules.linear(8))
        8
    """

    variable: Variable = "lambda"
    kappa: float = 1.0

    order: ClassVar[int] = 2
    literature: ClassVar[int] = 3
    memory: ClassVar[int] = 3

    def __post_init__(self) -> None:
        """Resolve the policies; state the order of this kappa."""
        if self.kappa == 2:
            self._set(order=3)
        super().__post_init__()

    def integrals(self, variable: str, s0: float, s1: float, thetas: Sequence[float]) -> tuple[float, ...]:
        """With two predictions, those of `DPMSolverPP2M`."""
        m0, m1, m2 = self.moments(variable, s0, s1, 3)
        return (m1, self.kappa / 2 * m2) if len(thetas) > 1 else (m0 / 2,)[: len(thetas)]


@register(
    "deis_log_rho",
    aliases=("deis_diffusers",),
    reference="DEIS, arXiv:2204.13902 (rhoAB in log rho); diffusers' DEISMultistepScheduler",
    advice="DEIS of diffusers, with a last step to sigma 0, which diffusers' own lacks.",
)
@dataclass(frozen=True)
class DEISLogRho(Adams):
    r"""DEIS as in diffusers: the noise prediction, interpolated in $\log\rho$, $\rho = \sigma/(1 - \sigma)$.

    $$ x' = \frac{\alpha'}{\alpha} x + \alpha' \int_\rho^{\rho'} \hat\epsilon\,d\rho $$

    Args:
        last: policy of the last step, see `LastStep`. diffusers' DEIS has no such step, because it never reaches 0.
        startup: policy of the first step, see `Multistep`.
        max_order: number of predictions, 2 or 3; order 3 needs a ``startup`` that keeps it.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("deis_log_rho", fs.schedules.linear(8))
        9
    """

    last: SamplerLike = "midpoint"
    max_order: int = 2

    order: ClassVar[int] = 2
    memory: ClassVar[int] = 2
    order_to_data: ClassVar[int] = 1  # 2 up to a slow logarithm: slopes of 1.2 to 1.8 up to 4,096 steps
    prediction: ClassVar[str] = "noise"
    affine: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the options; state the order of as many predictions."""
        predictions = one_of("max_order", self.max_order, (2, 3))
        self._set(memory=predictions, order=predictions)
        super().__post_init__()

    def variable_on(self, s0: float, s1: float, past: Sequence[float]) -> str:
        """See `Adams` and `regular`."""
        return regular("lambda", s0, s1, past)
