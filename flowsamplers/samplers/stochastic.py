r"""First-order stochastic samplers: they split ``x`` into data and noise, and replace a part of the noise.

They share one formula,

$$
x' = (1 - \sigma')\,D + \sqrt{\sigma'^2 - q^2}\;\hat\epsilon + q\,\xi, \qquad
D = x - \sigma v, \quad \hat\epsilon = x + (1 - \sigma) v
$$

with fresh noise $\xi$, and differ only in q. The coefficients of data and noise are always those of the new sigma, so a data point
keeps its noise level at any step size. Whether the marginals are kept in the limit depends on q. `FlowSDE`, the Euler-Maruyama method,
is another formula for the same equations. The measured weak order on Gaussian data and the strong order are 1. The exception is
`Renoise`, whose noise does not shrink with the step, so it has no limit.

Given its start, every step is a draw from a normal distribution. `GaussianStep.log_prob` is its log-density, for reinforcement learning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from flowsamplers._accepted import number, unknown
from flowsamplers.grid import SigmaGrid
from flowsamplers.registry import register
from flowsamplers.sampler import Evaluate, Interval, Sampler, State, Step, StepGenerator, Tensor, steps_of
from flowsamplers.samplers.sde import SDE, AnyRule

__all__ = ["DDIMEta", "EulerAncestral", "EulerSDE", "FlowSDE", "Renoise"]


class GaussianStep(Sampler):
    """Base of the methods whose step is a draw from a normal distribution, given its start and velocity."""

    stochastic: ClassVar[bool] = True
    affine: ClassVar[bool] = False

    def transition(self, x: Tensor, v: Tensor, at: Step) -> tuple[Tensor, float]:
        """Return mean and standard deviation of the step's end; subclasses write this in place of ``step``."""
        raise NotImplementedError

    def interval(self, at: Step) -> Interval | None:
        """Return the Brownian interval of this step's noise, see `Step.noise`; None for the default."""
        return None

    def step(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """See `Sampler.step`."""
        v = yield Evaluate(x, at.s0)
        mean, std = self.transition(x, v, at)
        return mean + std * at.noise(x, interval=self.interval(at)) if std > 0 else mean, state

    def log_prob(self, x: Tensor, v: Tensor, at: Step, end: Tensor) -> Tensor:
        r"""Compute the log-density of a step's end given its start: $\sum \log N(x'; \mu, s^2)$ over the numbers of each row.

        Flow-GRPO uses the mean over the numbers; divide by their count for that. A step without noise has the value 0.

        Args:
            x: start of the step, ``(rows, ...)``.
            v: the velocity at the start; gradients flow through it.
            at: the step.
            end: end of the step, like ``x``.

        Returns:
            One log-density for each row, ``(rows,)``.
        """
        mean, std = self.transition(x, v, at)
        if std == 0:
            return x.new_zeros(len(x))
        z = ((end - mean) / std).flatten(1)
        return -0.5 * z.square().sum(1) - z.shape[1] * (math.log(std) + 0.5 * math.log(2 * math.pi))

    def log_probs(self, grid: SigmaGrid, states: Sequence[Tensor], velocities: Sequence[Tensor]) -> Tensor:
        """Compute `log_prob` of every step of a run.

        Args:
            grid: the schedule with N steps.
            states: N + 1 states, ``(rows, ...)``; no gradients flow through them.
            velocities: N velocities, at all states but the last; gradients flow through them.

        Returns:
            The log-densities, ``(rows, N)``.
        """
        import torch  # noqa: PLC0415  (names and options are read without it)

        steps = zip(steps_of(grid), states, velocities, states[1:], strict=False)
        return torch.stack([self.log_prob(x.detach(), v, at, end.detach()) for at, x, v, end in steps], dim=1)


class FirstOrder(GaussianStep):
    """Base of the methods with the shared formula: a subclass chooses the shares of old and fresh noise."""

    def shares(self, s0: float, s1: float) -> tuple[float, float]:
        r"""Return the factors of $\sigma'\hat\epsilon$ and of $\sigma'\xi$; their squares add to 1."""
        raise NotImplementedError

    def transition(self, x: Tensor, v: Tensor, at: Step) -> tuple[Tensor, float]:
        """See `GaussianStep`."""
        data, eps = x - at.s0 * v, x + (1 - at.s0) * v
        kept, fresh = self.shares(at.s0, at.s1)
        return (1 - at.s1) * data + (at.s1 * kept) * eps, at.s1 * fresh


@dataclass(frozen=True)
class OfSDE(GaussianStep):
    """Base of the methods for the SDEs with the flow's marginals, see `flowsamplers.samplers.sde.SDE`.

    Args:
        eta: strength of the noise.
        rule: name of the SDE.
    """

    eta: float = 1.0
    rule: AnyRule = "reverse_time"

    def __post_init__(self) -> None:
        """Check the options."""
        _ = self.sde

    @property
    def sde(self) -> SDE:
        """Strength and rule of the noise."""
        return SDE(self.eta, self.rule)

    def interval(self, at: Step) -> Interval:
        """See `GaussianStep`; it is the interval of the exact step, so that all methods follow one path."""
        return self.sde.interval(at.s0, at.s1)


@register(
    "lcm",
    aliases=("euler_stochastic", "cps", "flow_match_lcm"),
    reference="LCM, arXiv:2310.04378, algorithm 3; eta: Flow-CPS, arXiv:2509.05952; diffusers' stochastic_sampling=True, FlowMatchLCM",
    advice="For models that were distilled with it. With other models it narrows the distribution, at any number of steps.",
)
@dataclass(frozen=True)
class Renoise(FirstOrder):
    r"""Jump to the predicted data and add noise again, a share of it fresh.

    $$ q = \sigma' \sin\tfrac{\eta\pi}{2} $$

    At ``eta = 1`` all the noise is fresh, as in LCM and in FlowMatchEuler's ``stochastic_sampling``. At ``eta = 0`` it is Euler's
    method; between them it is CPS. The share of fresh noise in a step does not shrink with the step, so the marginals are *not* kept.

    Args:
        eta: share of fresh noise, from 0 (none) to 1 (all).

    Examples:
        >>> import torch, flowsamplers as fs
        >>> x1 = torch.ones(1, 1, dtype=torch.float64)
        >>> fs.sample(lambda x, sigma: x, x1, fs.schedules.linear(2), Renoise(eta=0.0), seed=0)
        tensor([[0.2500]], dtype=torch.float64)
    """

    eta: float = 1.0

    keeps_marginals: ClassVar[bool] = False
    weak_order: ClassVar[int] = 0
    strong_order: ClassVar[float] = 0

    def __post_init__(self) -> None:
        """Check the options."""
        number("eta", self.eta, 0, 1)

    def shares(self, s0: float, s1: float) -> tuple[float, float]:
        """See `FirstOrder`."""
        return math.cos(self.eta * math.pi / 2), math.sin(self.eta * math.pi / 2)


@register(
    "euler_sde",
    aliases=("memoryless", "dpmpp_1_sde"),
    reference="DPM-Solver++, arXiv:2211.01095, SDE-DPM-Solver++1; Adjoint Matching, arXiv:2409.08861; rules: SiT, arXiv:2401.08740",
    advice="The first-order SDE sampler with exact noise: any strength, any rule, exact at both ends.",
)
@dataclass(frozen=True)
class EulerSDE(OfSDE, FirstOrder):
    r"""The SDE with the flow's marginals, solved exactly for a constant data prediction.

    $$ q = \sigma' \sqrt{1 - e^{-2G}}, \qquad G = \int_{\sigma'}^{\sigma} \frac{g(u)^2}{2u^2}\,du $$

    From ``sigma = 1`` the rules that depend on lambda draw all noise afresh; this is the exact limit. At ``eta = 1`` the default rule is
    the memoryless SDE of Adjoint Matching, SiT's "SBDM", whose end does not depend on the start.

    Args:
        eta: strength of the noise.
        rule: name of the SDE, see `flowsamplers.samplers.sde.SDE`.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe(EulerSDE(rule="linear"), fs.schedules.linear(8))
        8
    """

    def shares(self, s0: float, s1: float) -> tuple[float, float]:
        """See `FirstOrder`."""
        return self.sde.kept(s0, s1), self.sde.fresh(s0, s1)


@register(
    "euler_ancestral",
    aliases=("euler_a", "euler_ancestral_rf", "ltx_euler_ancestral_rf"),
    reference="ComfyUI's euler_ancestral for flow models; diffusers' LTXEulerAncestralRFScheduler",
    advice="The ancestral sampler of ComfyUI and LTX; close to euler_sde for small steps.",
)
@dataclass(frozen=True)
class EulerAncestral(FirstOrder):
    r"""Ancestral Euler for rectified flows: an Euler step to below the next sigma, then noise up to it.

    $$
    \frac{\sqrt{\sigma'^2 - q^2}}{\sigma'} = \frac{\sigma_d}{\sigma'}\,\frac{1 - \sigma'}{1 - \sigma_d}, \qquad
    \sigma_d = \sigma' \bigl(1 + \eta (\tfrac{\sigma'}{\sigma} - 1)\bigr)
    $$

    For small steps this is `EulerSDE` with the same eta.

    Args:
        eta: strength of the noise, from 0 to 1.
        s_noise: factor of the fresh noise; values other than 1 change the flow's marginals.

    Examples:
        >>> EulerAncestral(eta=1.0).shares(1.0, 0.5)  # unlike an exact step, not all noise is fresh
        (0.3333333333333333, 0.9428090415820634)
    """

    eta: float = 1.0
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        """Check the options; state what another size of the noise costs."""
        number("eta", self.eta, 0, 1)
        number("s_noise", self.s_noise, 0)
        if self.s_noise != 1:
            self._set(keeps_marginals=False, keeps_noise_level=False)

    def shares(self, s0: float, s1: float) -> tuple[float, float]:
        """See `FirstOrder`."""
        if self.eta == 0:
            return 1.0, 0.0
        _ = SDE(self.eta).kept(s0, s1)  # refuses a step towards noise
        ratio = 1 + self.eta * (s1 / s0 - 1)
        kept = ratio * (1 - s1) / (1 - s1 * ratio)
        return kept, self.s_noise * math.sqrt(1 - kept**2)

    def interval(self, at: Step) -> Interval:
        """See `GaussianStep`; it is the interval in the limit of small steps."""
        return SDE(self.eta).interval(at.s0, at.s1)


@register(
    "ddim_eta",
    aliases=("ddpm_rf",),
    reference="DDIM, arXiv:2010.02502, (16); k-diffusion's ancestral step, Karras et al., arXiv:2206.00364, in sigma / (1 - sigma)",
    advice="DDIM with eta on a flow model. eta=1 is euler_sde.",
)
@dataclass(frozen=True)
class DDIMEta(FirstOrder):
    r"""DDIM with eta, which equals k-diffusion's ancestral step, in the noise-to-signal ratio $\rho = \sigma/(1 - \sigma)$.

    $$ q = \eta\,\sigma' \sqrt{1 - (\rho'/\rho)^2} $$

    ComfyUI's ``ddpm`` and ``res_multistep_ancestral`` use sigma itself as rho. On a rectified flow this is wrong: it keeps neither
    noise levels nor marginals. For small steps this method is `EulerSDE` with eta squared; at ``eta = 1`` it is so for any step.

    Args:
        eta: strength of the noise, from 0 to 1: q is eta times its largest possible value.

    Examples:
        >>> [round(share, 12) for share in DDIMEta(eta=1.0).shares(0.5, 0.25)]
        [0.333333333333, 0.942809041582]
        >>> [round(share, 12) for share in EulerSDE(eta=1.0).shares(0.5, 0.25)]
        [0.333333333333, 0.942809041582]
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        """Check the options."""
        number("eta", self.eta, 0, 1)

    def shares(self, s0: float, s1: float) -> tuple[float, float]:
        """See `FirstOrder`."""
        if self.eta == 0:
            return 1.0, 0.0
        fresh = self.eta * SDE(1.0).fresh(s0, s1) if s1 < s0 else SDE(1.0).kept(s0, s1)  # refuses a step towards noise
        return math.sqrt(max(0.0, 1 - fresh**2)), fresh

    def interval(self, at: Step) -> Interval:
        """See `GaussianStep`; it is the interval in the limit of small steps."""
        return SDE(self.eta**2).interval(at.s0, at.s1)


@register(
    "flow_sde",
    aliases=("flow_grpo",),
    presets={
        "dance_grpo": {"rule": "constant", "eta": 0.045},
        "sit_sbdm": {"eta": 1.0},
        "sit_sigma": {"rule": "linear", "eta": 1.0},
        "sit_constant": {"rule": "constant", "eta": 1.0},
        "sit_decreasing": {"rule": "decreasing", "eta": 1.0},
        "sit_increasing_decreasing": {"rule": "increasing_decreasing", "eta": 1.0},
    },
    reference="Flow-GRPO, arXiv:2505.05470, (9); DanceGRPO, arXiv:2505.07818; SiT, arXiv:2401.08740, (5)",
    advice="For parity with reinforcement learning on flow models. For images use euler_sde, which leaves no extra noise.",
)
@dataclass(frozen=True)
class FlowSDE(OfSDE):
    r"""Euler-Maruyama for the SDE with the flow's marginals.

    $$
    x' = x + h \Bigl[v + \frac{g(\sigma)^2}{2\sigma}\,\hat\epsilon\Bigr] + g(\sigma) \sqrt{-h}\;\xi, \qquad h = \sigma' - \sigma < 0
    $$

    For a data point its variance is too large by $\frac{h^2}{\sigma}(g^2 + \frac{g^4}{4\sigma})$ in each step, and its last step leaves
    noise in the image. At ``sigma = 1``, where $g^2 = 2\eta\sigma/(1 - \sigma)$ is infinite, the denominator is taken at the next
    node, as in Flow-GRPO. Flow-GRPO's noise level is $a = \sqrt{2\eta}$, by default 0.7. DanceGRPO's constant g = 0.3 is
    ``rule="constant"``, ``eta=0.045``.

    Args:
        eta: strength of the noise.
        rule: name of the SDE, see `flowsamplers.samplers.sde.SDE`.

    Examples:
        >>> import flowsamplers as fs, torch
        >>> run = fs.trace(lambda x, sigma: x, torch.ones(2, 3), fs.schedules.linear(4), "flow_grpo", seed=0)
        >>> run.log_prob.shape  # rows, steps
        torch.Size([2, 4])
    """

    eta: float = 0.245

    keeps_noise_level: ClassVar[bool] = False

    def transition(self, x: Tensor, v: Tensor, at: Step) -> tuple[Tensor, float]:
        """See `GaussianStep`."""
        if self.eta == 0:
            return x + at.h * v, 0.0
        _ = self.sde.kept(at.s0, at.s1)  # refuses a step towards noise
        g2 = self.sde.squared(at.s0, at.s1)
        eps = x + (1 - at.s0) * v
        return x + at.h * (v + g2 / (2 * at.s0) * eps), math.sqrt(g2 * -at.h)


class Convention(NamedTuple):
    r"""The unit in which a paper or program states the strength of its noise: $\eta = c\,y^p$ for its number y.

    Attributes:
        factor: c.
        power: p.
        exact: whether the methods agree at any step size; otherwise they agree in the limit of small steps.
        symbol: the paper's or program's symbol.
    """

    factor: float
    power: int
    exact: bool
    symbol: str


CONVENTIONS = {
    "euler_sde": Convention(1.0, 1, True, "eta of DPM-Solver++ (SDE), SEEDS; $g^2 = 2\\eta\\sigma/(1 - \\sigma)$"),
    "sa_solver": Convention(1.0, 2, True, "tau of SA-Solver"),
    "flow_grpo": Convention(
        0.5, 2, True, "noise level a of Flow-GRPO, $g^2 = a^2\\sigma/(1 - \\sigma)$; memoryless: $\\sqrt2$"
    ),
    "sit_sbdm": Convention(1.0, 1, True, "norm of SiT's SBDM, $w = \\sigma/(1 - \\sigma)$, $g^2 = 2w$"),
    "euler_ancestral": Convention(1.0, 1, False, "eta of ComfyUI's and LTX's ancestral step"),
    "ddim_eta": Convention(1.0, 2, False, "eta of DDIM and of k-diffusion's ancestral step (exact at 1)"),
}
"""The known conventions; all belong to the SDE of the rule ``"reverse_time"``."""


def convert_eta(value: float, source: str, target: str = "euler_sde") -> float:
    r"""Convert the strength of the noise to another convention.

    $$ \eta_\text{DPM++ SDE} = \tau^2_\text{SA} = \tfrac12 a^2_\text{Flow-GRPO} \approx \eta_\text{ancestral} \approx \eta^2_\text{DDIM} $$

    Args:
        value: strength in the source's convention.
        source: a key of `CONVENTIONS`.
        target: a key of `CONVENTIONS`.

    Raises:
        ValueError: a convention is unknown, or the strength is negative or not finite.

    Examples:
        >>> round(convert_eta(0.7, "flow_grpo"), 3), round(convert_eta(1.0, "euler_sde", "flow_grpo"), 3)
        (0.245, 1.414)
    """
    for option, name in (("source", source), ("target", target)):
        if not isinstance(name, str) or name not in CONVENTIONS:
            raise unknown(option, name, list(CONVENTIONS))
    value = number("value", value, 0)
    there, here = CONVENTIONS[source], CONVENTIONS[target]
    return (there.factor * value**there.power / here.factor) ** (1 / here.power)
