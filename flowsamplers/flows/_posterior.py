r"""Base of the analytic flows, whose velocity is a difference of two posterior means."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowsamplers._accepted import integer, number, refused, shown
from flowsamplers.noise import Seeds, as_seeds, normal, row_seeds


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

        Raises:
            ValueError: ``seeds`` are no seeds, or not one for each of ``rows`` rows; or ``dtype`` is no floating dtype.
        """
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise refused("dtype", dtype, "a floating dtype, such as torch.float64")
        given = as_seeds(seeds)
        count = len(given) if isinstance(given, list) and rows is None else integer("rows", 1 if rows is None else rows, 1)
        drawn = [normal(s, (self.dim,), dtype) for s in row_seeds(given, count)]
        return torch.stack(drawn) if drawn else torch.empty((0, self.dim), dtype=dtype)

    def _start(self, x: Tensor, start: float, end: float) -> None:
        """Check the arguments of a solution."""
        number("start", start, 0, 1)
        number("end", end, 0, 1)
        self._check("x", x)

    def _check(self, name: str, x: Tensor) -> None:
        if not isinstance(x, Tensor) or x.ndim != 2 or x.shape[1] != self.dim or not x.is_floating_point():
            told = f" of shape {tuple(x.shape)}, {x.dtype}" if isinstance(x, Tensor) else f"={shown(x)}"
            raise ValueError(f"{name}{told}: accepted is a floating tensor (rows, {self.dim})")


def column(sigma: Tensor, x: Tensor) -> Tensor:
    """``(rows,)`` as ``(rows, 1)``, in the dtype and on the device of ``x``."""
    if not isinstance(sigma, Tensor) or sigma.numel() not in (1, len(x)):
        told = f" of shape {tuple(sigma.shape)}" if isinstance(sigma, Tensor) else f"={shown(sigma)}"
        raise ValueError(f"sigma{told}: accepted is a tensor with one number for each of {len(x)} rows")
    return sigma.to(x).reshape(-1, 1)


def numbers(name: str, value: Any, accepted: str, *, above: float | None = None) -> Tensor:
    """Return finite numbers as a float64 tensor.

    Raises:
        ValueError: they are something else; the message names the argument.
    """
    try:
        found = value.detach().cpu() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    except (TypeError, ValueError):  # a ragged list; text; any object
        raise refused(name, value, accepted) from None
    found = found if found.dtype == torch.bool or found.is_complex() else found.double()
    low = bool((found <= above).any()) if above is not None and found.dtype == torch.float64 else False
    if found.dtype != torch.float64 or not bool(found.isfinite().all()) or low:
        raise refused(name, value, accepted)
    return found
