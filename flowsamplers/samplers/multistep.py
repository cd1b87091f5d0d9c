"""Multistep methods for the velocity: one evaluation per step, regular at both ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, TypeAlias

from flowsamplers._accepted import one_of
from flowsamplers.registry import register
from flowsamplers.sampler import Evaluate, SamplerLike, State, Step, StepGenerator, Tensor
from flowsamplers.samplers.interpolation import PREDICTIONS, moments, polynomial_weights, positions
from flowsamplers.samplers.policies import LastStep, Multistep, with_first_velocity

__all__ = ["DEIS", "IPNDM", "Adams", "AdamsBashforth2", "AdamsBashforth3", "AdamsBashforth4", "FireFlow", "GradientEstimation"]


Memory: TypeAlias = "tuple[tuple[float, Tensor], ...]"
"""Sigmas and predictions, the newest first."""


@dataclass(frozen=True)
class LinearMultistep(Multistep):
    r"""Base: the step for a constant prediction, and weighted differences of earlier predictions from the present one.

    $$ x' = x + h\,v + \sum_j w_j\,(P_j - P) $$

    A subclass gives the prediction and the weights. It may correct the end of a step with the evaluation that the next step needs anyway.
    """

    prediction: ClassVar[str] = "velocity"

    def weights(self, s0: float, s1: float, past: tuple[float, ...]) -> Sequence[float]:
        """Compute the weights of (P_j - P) for a step from s0 to s1, given the sigmas of the earlier predictions."""
        raise NotImplementedError

    def constant(self, x: Tensor, v: Tensor, at: Step) -> Tensor:
        """Take the step for a constant prediction: Euler's."""
        return x + at.h * v

    def reach(self, at: Step, index: int) -> int:
        """Return how many earlier predictions the step with this index may use."""
        return self.memory

    @property
    def kept(self) -> int:
        """Number of predictions that a step remembers."""
        return self.memory - 1

    def correcting_offset(self, memory: Memory, at: Step, new: Tensor) -> Tensor | None:
        """Return the corrected minus the predicted end of the step that ended at ``at.s0``, for methods with a corrector."""
        return None

    @property
    def evaluates_again(self) -> bool:
        """Whether the corrected point is evaluated too (PECE)."""
        return False

    def step(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """See `Sampler.step`."""
        v = yield Evaluate(x, at.s0)
        p = PREDICTIONS[self.prediction](x, v, at.s0)
        memory, predicted = state or ((), False)
        offset = self.correcting_offset(memory, at, p) if predicted else None
        if offset is not None:
            x, v = x + offset, v + offset / at.s0  # the prediction, not the velocity, is that of the corrected point
            if self.evaluates_again:
                v = yield Evaluate(x, at.s0)
                p = PREDICTIONS[self.prediction](x, v, at.s0)
        other = self.other(at)
        if other is not None:
            end, _ = yield from with_first_velocity(other.step(x, at, other.init(x)), v)
        else:
            past = tuple(s for s, _ in memory)[: self.reach(at, at.index)]
            end = combined(self.constant(x, v, at), self.weights(at.s0, at.s1, past), memory, p)
        return end, (((at.s0, p), *memory)[: self.kept], other is None)

    def translate(self, state: State, by: Tensor) -> State:
        """See `Sampler.translate`: predictions of data and of noise are places."""
        if state is None or self.prediction == "velocity":
            return state
        memory, predicted = state
        return tuple((s, p + by) for s, p in memory), predicted


def combined(x: Tensor, weights: Sequence[float], past: Sequence[tuple[float, Tensor]], p: Tensor) -> Tensor:
    r"""Compute $x + \sum_j w_j (P_j - P)$; earlier predictions without a weight are not used."""
    for w, (_, earlier) in zip(weights, past, strict=False):
        x = x + w * (earlier - p)
    return x


@dataclass(frozen=True)
class Adams(LinearMultistep):
    r"""Base: integrate the polynomial through the last predictions.

    The weights come from the integrals of `interpolation`. A subclass names the prediction, the variable and the number of
    predictions.
    """

    def variable_on(self, s0: float, s1: float, past: Sequence[float]) -> str:
        """Return the variable of the polynomial in a step from s0 to s1 with these earlier nodes."""
        return "sigma"

    def moments(self, variable: str, s0: float, s1: float, count: int) -> tuple[float, ...]:
        r"""$M_k = \int K \theta^k du$ for k from 0 to ``count - 1``; empty for Euler's step."""
        return moments(self.prediction, variable, s0, s1, count)

    def integrals(self, variable: str, s0: float, s1: float, thetas: Sequence[float]) -> tuple[float, ...]:
        """Return the method's values for $M_k$, k from 1 to the number of earlier predictions, which lie at ``thetas``."""
        return self.moments(variable, s0, s1, len(thetas) + 1)[1:]

    def weights(self, s0: float, s1: float, past: tuple[float, ...]) -> Sequence[float]:
        """See `LinearMultistep`."""
        return _weights(self, s0, s1, past)


@lru_cache(maxsize=8192)
def _weights(method: Adams, s0: float, s1: float, past: tuple[float, ...]) -> list[float]:
    variable = method.variable_on(s0, s1, past)
    if not method.moments(variable, s0, s1, 1):
        return []
    thetas = positions(variable, s0, s1, past)
    return polynomial_weights(thetas, method.integrals(variable, s0, s1, thetas))


@register(
    "ab2",
    aliases=("stork2",),
    presets={name: {"last": "euler"} for name in ("lms2", "ipndm_v2", "deis_rhoab2")},
    reference="Hairer, Norsett, Wanner I, III.5 (variable step size)",
    advice="A simple choice from 16 calls on, one call per step. From about 20 calls on FLUX.2's schedule, use last='midpoint'.",
)
@dataclass(frozen=True)
class AdamsBashforth2(Adams):
    r"""Adams-Bashforth of order 2 with variable steps: integrate the line through the last two velocities.

    $$
    x' = x + h\left[(1 + \tfrac r2)\,v - \tfrac r2\,v_1\right], \qquad r = h / h_1
    $$

    where $v_1$ and $h_1$ belong to the step before. It takes one evaluation per step. The first step is Euler's; its single error of
    $O(h^2)$ keeps the order. STORK-2 with corrected coefficients is this method.

    Args:
        last: policy of the last step, see `LastStep`.
        startup: policy of the first step, see `Multistep`.

    Examples:
        >>> import torch, flowsamplers as fs
        >>> fs.nfe("ab2", fs.SigmaGrid([1.0, 0.5, 0.0])), fs.nfe(AdamsBashforth2("midpoint"), fs.SigmaGrid([1.0, 0.5, 0.0]))
        (2, 3)
    """

    order: ClassVar[int] = 2
    memory: ClassVar[int] = 2


@register(
    "ab3",
    aliases=("stork4",),
    presets={name: {"startup": "ramp", "last": "euler"} for name in ("lms3", "ipndm_v3", "deis_rhoab3")},
    reference="Hairer, Norsett, Wanner I, III.5 (variable step size)",
    advice="From about 24 calls on. A large last step makes its extrapolation inaccurate: use last='midpoint' or a flat schedule.",
)
@dataclass(frozen=True)
class AdamsBashforth3(Adams):
    r"""Adams-Bashforth of order 3 with variable steps: integrate the parabola through the last three velocities.

    It takes one evaluation per step, and one more at the start: the first step is Heun's, because Euler's would reduce the order.
    STORK-4 with corrected coefficients is this method, because its inner stages use only this parabola.

    Args:
        last: policy of the last step, see `LastStep`.
        startup: policy of the first step. ``"ramp"`` is the start of LMS, iPNDM and DEIS, and gives order 2.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("ab3", fs.schedules.linear(8)), fs.nfe(fs.get_sampler("ab3", startup="ramp"), fs.schedules.linear(8))
        (9, 8)
    """

    startup: SamplerLike = "heun"

    order: ClassVar[int] = 3
    memory: ClassVar[int] = 3


@register(
    "ab4",
    presets={name: {"startup": "ramp", "last": "euler"} for name in ("lms", "lms4", "ipndm_v", "ipndm_v4")},
    reference="Hairer, Norsett, Wanner I, III.5 (variable step size)",
    advice="For references and smooth velocity fields with many steps. Below 32 calls a lower order is better.",
)
@dataclass(frozen=True)
class AdamsBashforth4(Adams):
    r"""Adams-Bashforth of order 4 with variable steps: integrate the cubic through the last four velocities.

    It takes one evaluation per step, and four more at the start: the first two steps are Kutta's of order 3.

    Args:
        last: policy of the last step, see `LastStep`.
        startup: policy of the first two steps. ``"ramp"`` is the start of LMS and iPNDM, and gives order 2.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("ab4", fs.schedules.linear(8))
        12
    """

    startup: SamplerLike = "kutta3"

    order: ClassVar[int] = 4
    memory: ClassVar[int] = 4


@register(
    "deis",
    aliases=("deis_tab3",),
    presets={"deis_tab2": {"max_order": 2}},
    reference="DEIS, arXiv:2204.13902 (tAB); the form of diff-sampler and ComfyUI",
    advice="For parity with ComfyUI. ab3 does the same in sigma and keeps order 3.",
)
@dataclass(frozen=True)
class DEIS(Adams):
    r"""DEIS-tAB of order 3: Adams-Bashforth with a polynomial in the time of a variance-preserving diffusion.

    $$ x' = x + \sum_j v_j \int_{\sigma}^{\sigma'} \ell_j(\tau(u))\,du $$

    That time is not the rectified flow's, but any smooth variable works. As in the original program, the first steps have lower
    orders and the last step is Euler's, so the order is 2.

    Args:
        last: policy of the last step, see `LastStep`.
        startup: policy of the first steps, see `Multistep`.
        max_order: number of velocities in the polynomial, 2 or 3.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("deis", fs.schedules.linear(8))
        8
    """

    last: SamplerLike = "euler"
    max_order: int = 3

    order: ClassVar[int] = 2
    literature: ClassVar[int] = 3
    memory: ClassVar[int] = 3
    affine: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the options."""
        self._set(memory=one_of("max_order", self.max_order, (2, 3)))
        super().__post_init__()

    def variable_on(self, s0: float, s1: float, past: Sequence[float]) -> str:
        """See `Adams`."""
        return "vp_time"


@dataclass(frozen=True)
class UniformWeights(LinearMultistep):
    """Base of the methods that assume earlier steps to be as long as the current one."""

    any_steps: ClassVar[bool] = False

    def classical(self, count: int) -> tuple[float, ...]:
        """Give the weights of the last ``count`` velocities on a uniform grid of step 1, the newest first."""
        raise NotImplementedError

    def weights(self, s0: float, s1: float, past: tuple[float, ...]) -> Sequence[float]:
        """See `LinearMultistep`."""
        return [(s1 - s0) * w for w in self.classical(len(past) + 1)[1:]]


@register(
    "ipndm",
    aliases=("ipndm4",),
    presets={"ipndm3": {"max_order": 3}},
    reference="Zhang and Chen, arXiv:2204.13902, appendix H.2 (iPNDM)",
    advice="With few calls on FLUX.2's schedule. ab2 to ab4 use the true lengths of the steps.",
)
@dataclass(frozen=True)
class IPNDM(UniformWeights):
    r"""iPNDM: Adams-Bashforth of order 4 with the weights of a uniform grid, on any grid.

    $$ x' = x + \tfrac{h}{24}\,(55 v - 59 v_1 + 37 v_2 - 9 v_3) $$

    The assumed lengths are wrong on other grids: the order is 2 on a smooth grid and 1 on an irregular one. As in ComfyUI, the first
    steps have lower orders and the last step is Euler's.

    Args:
        last: policy of the last step, see `LastStep`.
        startup: policy of the first steps, see `Multistep`.
        max_order: number of velocities, from 2 to 4.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("ipndm", fs.schedules.linear(8))
        8
    """

    last: SamplerLike = "euler"
    max_order: int = 4

    order: ClassVar[int] = 2
    literature: ClassVar[int] = 4
    memory: ClassVar[int] = 4

    def __post_init__(self) -> None:
        """Check the options."""
        self._set(memory=one_of("max_order", self.max_order, (2, 3, 4)))
        super().__post_init__()

    def classical(self, count: int) -> tuple[float, ...]:
        """See `UniformWeights`."""
        return CLASSICAL[count - 1]


CLASSICAL: tuple[tuple[float, ...], ...] = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
"""Adams-Bashforth on a uniform grid, orders 1 to 4."""


@register(
    "gradient_estimation",
    aliases=("ge",),
    presets={"ipndm2": {"gamma": 1.5}},
    reference="Permenter and Yuan, arXiv:2306.04848, algorithm 2; ComfyUI",
    advice="For parity. With ComfyUI's gamma=2 its order is 1; gamma=1.5 is ab2 on a uniform grid.",
)
@dataclass(frozen=True)
class GradientEstimation(UniformWeights):
    r"""Gradient estimation: $x' = x + h\,[v + (\gamma - 1)(v - v_1)]$.

    At $\gamma = 3/2$ it is iPNDM-2, which is Adams-Bashforth 2 on a uniform grid, of order 2. At $\gamma = 2$, ComfyUI's default,
    the correction is twice as large as it should be, and the order is 1.

    Args:
        last: policy of the last step, see `LastStep`.
        startup: policy of the first step, see `Multistep`.
        gamma: how far to extrapolate.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("gradient_estimation", fs.schedules.linear(8))
        8
    """

    last: SamplerLike = "euler"
    gamma: float = 2.0

    order: ClassVar[int] = 1
    literature: ClassVar[int] = 2
    memory: ClassVar[int] = 2

    def __post_init__(self) -> None:
        """Resolve the policies; state the order of this gamma."""
        if self.gamma == 1.5:
            self._set(order=2)
        super().__post_init__()

    def classical(self, count: int) -> tuple[float, ...]:
        """See `UniformWeights`."""
        return (self.gamma, 1 - self.gamma) if count > 1 else (1.0,)


@register(
    "fireflow",
    reference="FireFlow, arXiv:2412.07517, algorithm 1",
    advice="Order 2 with one call per step, without a call at sigma 0; for smooth velocity fields, or from about 20 calls on.",
)
@dataclass(frozen=True)
class FireFlow(LastStep):
    r"""The midpoint rule with one evaluation per step: its half step reuses the midpoint velocity of the step before.

    $$
    x_m = x + \tfrac h2 \bar v, \quad \bar v' = v(x_m, \sigma + \tfrac h2), \quad x' = x + h\,\bar v'
    $$

    The first step takes one more evaluation, $\bar v = v(x, \sigma)$. An error of $O(h)$ in the half step moves the midpoint by
    $O(h^2)$, so the order stays 2 on any grid with bounded step ratios.

    Args:
        last: policy of the last step, see `LastStep`.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("fireflow", fs.schedules.linear(8))
        9
    """

    order: ClassVar[int] = 2
    multistep: ClassVar[bool] = True

    def resume(self, velocity: Tensor) -> State:
        """Use the Euler move's velocity in place of the midpoint velocity of the step before."""
        return velocity

    def advance(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """See `Sampler.step`."""
        v_bar = (yield Evaluate(x, at.s0)) if state is None else state
        v_mid = yield Evaluate(x + at.h / 2 * v_bar, at.s0 + at.h / 2)
        return x + at.h * v_mid, v_mid
