"""The velocity of a model for chunks of rows, as fits ask for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowsamplers.engine import Velocity
from flowsamplers.lockstep import Flow


@dataclass(frozen=True)
class Asked:
    """A velocity callable or a `Flow`, asked for chunks of rows at one sigma.

    Attributes:
        source: ``velocity(x, sigma)``, or an object with ``velocity(x, sigma, condition)``.
        dtype: of the x that the model is given.
        condition: of each row, for a flow.
        on_call: told the number of rows after every model call.
    """

    source: Velocity | Flow
    dtype: torch.dtype
    condition: Sequence[Any] | None = None
    on_call: Callable[[int], None] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be asked."""
        if not callable(self.source) and not callable(getattr(self.source, "velocity", None)):
            raise TypeError(f"velocity={self.source!r}: accepted are velocity(x, sigma) and an object with such a method")

    def __call__(self, x: Tensor, sigma: float, rows: slice) -> Tensor:
        """The velocity in float64 at ``x`` ``(rows, ...)``, which are these rows of all.

        Raises:
            ValueError: a velocity of another shape.
            FloatingPointError: a velocity that is not finite.
        """
        at = torch.full((len(x),), sigma, dtype=torch.promote_types(self.dtype, torch.float32), device=x.device)
        with torch.no_grad():
            if callable(self.source):
                v = self.source(x.to(self.dtype), at)
            else:
                given = None if self.condition is None else self.condition[rows]
                v = self.source.velocity(x.to(self.dtype), at, given)
        if not isinstance(v, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"velocity returned {type(v).__name__}; a tensor of the shape of x is needed")
        if v.shape != x.shape:
            raise ValueError(f"velocity returned shape {tuple(v.shape)} for x of shape {tuple(x.shape)}")
        if not bool(torch.isfinite(v).all()):
            raise FloatingPointError(f"velocity is not finite at sigma {sigma}")
        if self.on_call is not None:
            self.on_call(len(x))
        return v.double()
