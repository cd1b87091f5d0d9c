r"""Base of the analytic flows, whose velocity is a difference of two posterior means."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowsamplers.noise import Seeds, normal, row_seeds


class VectorFlow:
    r"""Base of the flows on vectors, with standard normal noise of shape ``(rows, dim)``.

    With $x_\sigma = (1 - \sigma) x_0 + \sigma n$ the velocity of the flow is
    $v(x, \sigma) = E[n - x_0 \mid x_\sigma = x]$.
    """

    dim: int
    passes_per_evaluation = 1
    is_distilled = False

    @property
    def tokens(self) -> int:
        """The dimension, which stands for the number of tokens in schedules that depend on the size of an image."""
        return self.dim

    def noise(self, seeds: Seeds, rows: int | None = None, dtype: torch.dtype = torch.float64) -> Tensor:
        """Draw starts of runs, at ``sigma = 1``.

        Args:
            seeds: a list with one seed for each row, or one int for ``rows`` rows.
            rows: number of rows if ``seeds`` is an int; 1 by default.
            dtype: dtype of the result.

        Returns:
            Standard normal noise, ``(rows, dim)``.
        """
        count = len(seeds) if isinstance(seeds, Sequence) else (rows or 1)
        return torch.stack([normal(s, (self.dim,), dtype) for s in row_seeds(seeds, count)])


def column(sigma: Tensor) -> Tensor:
    """``(rows,)`` as ``(rows, 1)``."""
    return sigma.reshape(-1, 1)
