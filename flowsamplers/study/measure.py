"""What is measured of a run: errors of latents and of pictures, along the way and of single steps."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowsamplers.engine import OnStep, StepEnd, Work
from flowsamplers.reference import Path, relative_error
from flowsamplers.sampler import Sampler, Step

BEST_PSNR = 120.0
"""Decibels; pictures nearer than this are the same."""


@dataclass(frozen=True)
class Errors:
    """Distances of latents to the truth.

    Attributes:
        error: relative L2.
        rmse: root mean square.
        max_error: largest.
        cosine: of the angle.
    """

    error: float
    rmse: float
    max_error: float
    cosine: float

    @classmethod
    def of(cls, x: Tensor, truth: Tensor) -> Errors:
        """Of one row ``(1, ...)``; computed in float64.

        Examples:
            >>> Errors.of(torch.tensor([[3.0, 5.0]]), torch.tensor([[3.0, 4.0]])).error
            0.2
        """
        a, b = x.double().flatten(), truth.double().flatten()
        angle = torch.nn.functional.cosine_similarity(a, b, dim=0, eps=0.0)
        d = a - b
        return cls(relative_error(x, truth).item(), d.square().mean().sqrt().item(), d.abs().max().item(), angle.item())


NOTHING = Errors(math.nan, math.nan, math.nan, math.nan)


def forward_passes(flow: Any, sigmas: Iterable[float]) -> int:
    """Passes through the network that evaluations of one row take; they differ where guidance acts only between two sigmas.

    Args:
        flow: with ``passes(sigma)`` if they differ, else with ``passes_per_evaluation``.
        sigmas: of the evaluations.
    """
    passes = getattr(flow, "passes", lambda sigma: flow.passes_per_evaluation)
    return sum(map(passes, sigmas))


def psnr(image: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio in decibels of images with values in [0, 1], at most `BEST_PSNR`.

    Examples:
        >>> round(psnr(torch.zeros(3, 4, 4), torch.full((3, 4, 4), 0.1)), 6)
        20.0
    """
    mse = (image.double() - truth.double()).square().mean().item()
    return BEST_PSNR if mse <= 10 ** (-BEST_PSNR / 10) else -10 * math.log10(mse)


def ssim(image: Tensor, truth: Tensor) -> float:
    r"""Structural similarity of images ``(channels, height, width)`` with values in [0, 1]; 1 for equal ones.

    A Gaussian window of standard deviation 1.5 and 11 pixels, fewer in smaller images; $C_1 = 0.01^2$, $C_2 = 0.03^2$.

    Reference:
        Wang, Bovik, Sheikh, Simoncelli, IEEE Transactions on Image Processing 13 (2004), equation 13.

    Examples:
        >>> ssim(torch.rand(3, 16, 16), torch.rand(3, 16, 16)) < 1.0 == ssim(torch.ones(3, 9, 9), torch.ones(3, 9, 9))
        True
    """
    size = min(11, *image.shape[1:])
    line = torch.exp(-((torch.arange(size, dtype=torch.float64) - (size - 1) / 2) ** 2) / (2 * 1.5**2))
    weights = (line / line.sum()).tolist()
    a, b = (t.double().cpu() for t in (image, truth))

    def mean(t: Tensor) -> Tensor:
        for dim in (
            1,
            2,
        ):  # the window is a product; as one convolution in float64 it takes 30 times as long, and 1 GB at 1024 x 1024
            inside = t.shape[dim] - size + 1
            total = torch.zeros_like(t.narrow(dim, 0, inside))
            for i, w in enumerate(weights):
                total.add_(t.narrow(dim, i, inside), alpha=w)
            t = total
        return t

    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    return (((2 * ma * mb + c1) * (2 * cov + c2)) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean().item()


def along(path: Path, errors: list[float]) -> OnStep:
    """An observer of a run that writes down the relative error at the end of each step."""

    def on_step(end: StepEnd) -> None:
        errors.append(relative_error(end.x, path(end.sigma)).item())

    return on_step


def local_errors(sampler: Sampler, path: Path, steps: Iterable[Step], dtype: torch.dtype) -> Work:
    """The relative error that each step makes by itself: every step starts on the path, with a history from the path."""
    state = sampler.init(path(1.0).to(dtype))
    errors: list[float] = []
    for at in steps:
        x, state = yield from sampler.step(path(at.s0).to(dtype), at, state)
        errors.append(relative_error(x, path(at.s1)).item())
    return errors
