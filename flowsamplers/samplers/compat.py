"""Methods of other programs, kept so that results can be compared, with their true orders."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from flowsamplers.registry import register
from flowsamplers.sampler import Evaluate, Sampler, State, Step, StepGenerator, Tensor
from flowsamplers.samplers.policies import LastStep

__all__ = ["DPM2", "HeunPP2"]


@register(
    "dpm_2",
    aliases=("kdpm2",),
    reference="DPM-Solver-2 in k-diffusion's form; EDM, arXiv:2206.00364, appendix F",
    advice="For parity. midpoint uses the middle of sigma, also in its last step.",
)
@dataclass(frozen=True)
class DPM2(LastStep):
    r"""The midpoint rule with the geometric mean as the middle sigma.

    $$ x' = x + h\,v(x + (\sigma_m - \sigma)v,\ \sigma_m), \qquad \sigma_m = \sqrt{\sigma\sigma'} $$

    The middle of a step to ``sigma = 0`` would be 0: that step is Euler's.

    Args:
        last: policy of the last step, see `LastStep`.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("dpm_2", fs.schedules.linear(8))
        15
    """

    order: ClassVar[int] = 2
    order_to_data: ClassVar[int] = 1  # erratic: slopes of 0.9 to 3.6, because the mean is far from the middle near sigma 0
    affine: ClassVar[bool] = False

    def advance(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """See `Sampler.step`."""
        v = yield Evaluate(x, at.s0)
        middle = math.sqrt(at.s0 * at.s1)
        if middle > 0:
            v = yield Evaluate(x + (middle - at.s0) * v, middle)
        return x + at.h * v, state


@register(
    "heunpp2",
    reference="Heun++ of the extension that goes with Z. Cheng, arXiv:2311.06845; ComfyUI",
    advice="For parity. It needs three calls per step for order 1.",
)
@dataclass(frozen=True)
class HeunPP2(Sampler):
    r"""ComfyUI's Heun++: a mean of up to three velocities, with weights that depend on sigma instead of the step lengths.

    $$
    x' = x + h\,(w_1 v_i + w_2 v_{i+1} + w_3 v_{i+2}), \quad
    w_2 = \frac{\sigma_{i+1}}{3\sigma_{\max}},\ w_3 = \frac{\sigma_{i+2}}{3\sigma_{\max}},\ w_1 = 1 - w_2 - w_3
    $$

    The velocities are taken at Euler points on the next two nodes, one of them beyond the step's end. On the second-to-last step
    $w_2 = \sigma_{i+1}/(2\sigma_{\max})$ and $w_3 = 0$. The last step is Euler's. The higher end of the grid is
    $\sigma_{\max}$; other programs take its first node. The weights do not satisfy the conditions of order 2.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("heunpp2", fs.schedules.linear(8))
        21
    """

    order: ClassVar[int] = 1
    literature: ClassVar[int] = 2
    affine: ClassVar[bool] = False
    look_ahead: ClassVar[int] = 1

    def step(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """See `Sampler.step`."""
        v = yield Evaluate(x, at.s0)
        if at.last:
            return x + at.h * v, state
        ahead, top = at.grid.sigmas[at.index + 2], max(at.grid.start, at.grid.end)
        second = x + at.h * v
        v2 = yield Evaluate(second, at.s1)
        if at.index == at.count - 2:
            w2 = at.s1 / (2 * top)
            return x + at.h * ((1 - w2) * v + w2 * v2), state
        v3 = yield Evaluate(second + (ahead - at.s1) * v2, ahead)
        w2, w3 = at.s1 / (3 * top), ahead / (3 * top)
        return x + at.h * ((1 - w2 - w3) * v + w2 * v2 + w3 * v3), state
