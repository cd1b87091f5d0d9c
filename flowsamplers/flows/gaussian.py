"""The flow of Gaussian data, with velocity and solution in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowsamplers._accepted import refused
from flowsamplers.flows._posterior import VectorFlow, column, numbers

__all__ = ["GaussianFlow"]


class GaussianFlow(VectorFlow):
    r"""The flow between unit normal noise and data $N(m, S)$.

    In the eigenbasis of S, with standard deviation c along an axis, $x_\sigma$ has the standard deviation
    $\rho(\sigma) = \sqrt{(1 - \sigma)^2 c^2 + \sigma^2}$ about $(1 - \sigma) m$, and

    $$
    v = -m + \frac{\rho'}{\rho} (x - (1 - \sigma) m), \qquad
    x(\sigma') = (1 - \sigma') m + \frac{\rho(\sigma')}{\rho(\sigma)} (x - (1 - \sigma) m).
    $$

    Args:
        mean: m, ``(dim,)``.
        std: standard deviations along the axes, ``(dim,)`` or one number, positive; or give ``cov``.
        cov: the covariance S, ``(dim, dim)``, positive semi-definite.

    Raises:
        ValueError: shapes do not fit, a number is not finite or out of range, or not exactly one of ``std`` and ``cov`` is given.

    Examples:
        >>> flow = GaussianFlow([1.0, -1.0], std=0.5)
        >>> flow.solution(torch.zeros(1, 2, dtype=torch.float64))
        tensor([[ 1., -1.]], dtype=torch.float64)

    Reference:
        Albergo and Vanden-Eijnden, arXiv:2209.15571; the closed form is elementary.
    """

    def __init__(
        self,
        mean: Sequence[float] | Tensor,
        *,
        std: float | Sequence[float] | Tensor | None = None,
        cov: Sequence[Sequence[float]] | Tensor | None = None,
    ) -> None:
        self.mean = numbers("mean", mean, "a list of finite numbers")
        if self.mean.ndim != 1 or not len(self.mean):
            raise refused("mean", mean, "a list of finite numbers")
        self.dim = len(self.mean)
        if (std is None) == (cov is None):
            raise ValueError("std, cov: give exactly one of the two")
        if cov is None:
            accepted = f"a finite number above 0, or a list of {self.dim} of them"
            given = numbers("std", std, accepted, above=0)
            if given.ndim and given.shape != (self.dim,):
                raise refused("std", std, accepted)
            self.std = given.expand(self.dim)
            self.basis = torch.eye(self.dim, dtype=torch.float64)
        else:
            accepted = f"a symmetric positive semi-definite matrix ({self.dim}, {self.dim}) of finite numbers"
            matrix = numbers("cov", cov, accepted)
            if matrix.shape != (self.dim, self.dim) or not torch.allclose(matrix, matrix.T, rtol=1e-6):
                raise refused("cov", cov, accepted)
            values, self.basis = torch.linalg.eigh(matrix)
            if values.min() < -1e-6 * values.abs().max():  # what rounding to float32 can do
                raise refused("cov", cov, accepted)
            self.std = values.clamp(min=0).sqrt()

    def velocity(self, x: Tensor, sigma: Tensor, condition: Sequence[Any] | None = None) -> Tensor:
        """Return the exact velocity, shaped like ``x``, see `Flow`."""
        self._check("x", x)
        mean, std, basis = (t.to(x) for t in (self.mean, self.std, self.basis))
        s = column(sigma, x)
        slope = (s - (1 - s) * std**2) / ((1 - s) ** 2 * std**2 + s**2).clamp(min=torch.finfo(x.dtype).tiny)
        return (((x - (1 - s) * mean) @ basis) * slope) @ basis.T - mean

    def solution(self, x: Tensor, start: float = 1.0, end: float = 0.0) -> Tensor:
        """Return the exact solution at sigma ``end`` of the path through ``x``, ``(rows, dim)``, at sigma ``start``."""
        self._start(x, start, end)
        mean, std, basis = (t.to(x) for t in (self.mean, self.std, self.basis))
        rho = [((1 - s) ** 2 * std**2 + s**2).sqrt() for s in (start, end)]
        return (((x - (1 - start) * mean) @ basis) * (rho[1] / rho[0])) @ basis.T + (1 - end) * mean
