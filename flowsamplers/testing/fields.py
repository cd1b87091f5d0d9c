"""The velocity fields, starts and grids on which the laws run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from flowsamplers.grid import SigmaGrid


def smooth(x: Tensor, sigma: Tensor) -> Tensor:
    """Compute a smooth nonlinear velocity field in any dimension."""
    s = sigma.reshape(-1, *[1] * (x.ndim - 1))
    return torch.sin(3 * x) + s * x.roll(1, dims=-1) - 0.3


class Constant:
    """The constant velocity 1."""

    def velocity(self, x: Tensor, sigma: Tensor, condition: Sequence[Any] | None = None) -> Tensor:
        """See `flowsamplers.Flow`."""
        return torch.ones_like(x)


class Field:
    """`smooth` as a flow."""

    def velocity(self, x: Tensor, sigma: Tensor, condition: Sequence[Any] | None = None) -> Tensor:
        """See `flowsamplers.Flow`."""
        return smooth(x, sigma)


def start_at(rows: int = 3, dim: int = 5, seed: int = 0) -> Tensor:
    """Draw a standard normal start, ``(rows, dim)``, in float64."""
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def between(start: float, end: float, steps: int) -> SigmaGrid:
    """Make a grid of evenly spaced nodes, falling or rising."""
    return SigmaGrid([start + (end - start) * i / steps for i in range(steps + 1)], rising=end > start)


@cache
def solution(start: float, end: float) -> Tensor:
    """Solve `smooth` from `start_at()`, to rounding."""
    x = start_at()

    def field(sigma: float, y: np.ndarray) -> np.ndarray:
        return smooth(torch.tensor(y).reshape(x.shape), torch.full((len(x),), sigma, dtype=x.dtype)).numpy().ravel()

    run = solve_ivp(field, (start, end), x.numpy().ravel(), method="DOP853", rtol=3e-14, atol=1e-15)
    return torch.tensor(run.y[:, -1]).reshape(x.shape)
