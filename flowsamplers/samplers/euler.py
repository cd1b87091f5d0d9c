"""Euler's method, the default of flow pipelines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from flowsamplers.registry import register
from flowsamplers.sampler import Evaluate, Sampler, State, Step, StepGenerator, Tensor

__all__ = ["Euler"]


@register(
    "euler",
    aliases=("flow_match_euler", "ddim", "dpmpp_1"),
    reference="L. Euler, Institutionum calculi integralis (1768), art. 650; DDIM for a rectified flow (arXiv:2010.02502)",
    advice="The default of FLUX.2, the method for distilled models, and the baseline of every study.",
)
@dataclass(frozen=True)
class Euler(Sampler):
    r"""Euler's method: $x' = x + h\,v(x, \sigma)$.

    diffusers' ``FlowMatchEulerDiscreteScheduler`` computes the same step. On a rectified flow, so do DDIM and first-order
    DPM-Solver++.

    Examples:
        >>> import torch, flowsamplers as fs
        >>> fs.sample(lambda x, sigma: x, torch.ones(1, 1), fs.SigmaGrid([1.0, 0.5, 0.0]), Euler())
        tensor([[0.2500]])
    """

    order: ClassVar[int] = 1

    def step(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """See `Sampler.step`."""
        v = yield Evaluate(x, at.s0)
        return x + at.h * v, state
