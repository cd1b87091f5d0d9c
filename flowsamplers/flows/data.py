"""The flow of a finite data set, as a perfectly trained model would have it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowsamplers._accepted import number
from flowsamplers.flows._posterior import VectorFlow, column, numbers

__all__ = ["DataFlow"]


class DataFlow(VectorFlow):
    r"""The flow between unit normal noise and the points of a data set.

    The posterior over the points is a softmax, and $E[x_0 \mid x]$ is the mean under it. Away from the data, the velocity
    $v = (x - E[x_0]) / \sigma$ has no limit at ``sigma = 0``. Below ``floor`` the velocity field is kept constant, so it stays
    finite, and runs end at a distance of about ``floor`` from a point.

    Args:
        points: the data, ``(points, dim)``.
        floor: sigma below which the velocity field is kept constant. Choose it a few times smaller than the distance between points.

    Raises:
        ValueError: ``points`` is no matrix of finite numbers, or ``floor`` is not positive.

    Examples:
        >>> flow = DataFlow([[0.0, 0.0], [2.0, 0.0]])
        >>> flow.velocity(torch.tensor([[1.0, 0.0]]), torch.tensor([1.0]))
        tensor([[0., 0.]])
    """

    def __init__(self, points: Sequence[Sequence[float]] | Tensor, *, floor: float = 1e-3) -> None:
        self.points = numbers("points", points, "a matrix (points, dim) of finite numbers")
        if self.points.ndim != 2 or not self.points.numel():
            raise ValueError(f"points of shape {tuple(self.points.shape)}: give (points, dim)")
        self.dim, self.floor = self.points.shape[1], number("floor", floor, above=0)

    def velocity(self, x: Tensor, sigma: Tensor, condition: Sequence[Any] | None = None) -> Tensor:
        """Return the exact velocity, shaped like ``x``, see `Flow`."""
        self._check("x", x)
        points = self.points.to(x)
        s = column(sigma, x)
        held = s.clamp(min=self.floor)
        square = ((x[:, None, :] - (1 - s)[:, :, None] * points) ** 2).sum(-1)  # |x - (1 - s) p|^2 for each row and point
        weights = torch.softmax(-square / (2 * held**2), dim=1)
        return (x - weights @ points) / held
