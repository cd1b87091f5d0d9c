"""The velocity of a model for chunks of rows, as fits ask for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowsamplers._accepted import function, integer, listed
from flowsamplers.engine import Velocity, check_start, check_velocity
from flowsamplers.lockstep import Flow


@dataclass(frozen=True)
class RowVelocity:
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
            ValueError: a velocity that is no real tensor of the shape of x.
            FloatingPointError: a velocity that is not finite.
        """
        at = torch.full((len(x),), sigma, dtype=torch.promote_types(self.dtype, torch.float32), device=x.device)
        with torch.no_grad():
            if callable(self.source):
                v = self.source(x.to(self.dtype), at)
            else:
                given = None if self.condition is None else self.condition[rows]
                v = self.source.velocity(x.to(self.dtype), at, given)
        check_velocity(v, x)
        if not bool(torch.isfinite(v).all()):
            raise FloatingPointError(f"velocity is not finite at sigma {sigma}")
        if self.on_call is not None:
            self.on_call(len(x))
        return v.double()


def row_velocity(
    velocity: Velocity | Flow,
    x1: Tensor,
    condition: Sequence[Any] | None,
    max_batch: int | None,
    on_call: Callable[[int], None] | None,
) -> tuple[RowVelocity, int]:
    """The velocity for rows of ``x1``, and the rows in one model call.

    Raises:
        ValueError: an argument is not accepted.
        TypeError: likewise.
    """
    if not len(check_start(x1)):
        raise ValueError("x1 has no rows: at least 1 is needed")
    given = None if condition is None else listed("condition", condition, "a list with an entry for each row")
    if given is not None and (callable(velocity) or len(given) != len(x1)):
        raise ValueError(f"condition: {len(given)} entries for {len(x1)} rows; give one for each, and a Flow that reads them")
    return RowVelocity(velocity, x1.dtype, given, function("on_call", on_call, "a function of the number of rows")), batch_of(
        x1, max_batch
    )


def batch_of(x1: Tensor, max_batch: int | None = None) -> int:
    """Rows in one model call.

    Examples:
        >>> batch_of(torch.zeros(1, 2)), batch_of(torch.zeros(1, 16, 16)), batch_of(torch.zeros(1, 2), 8)
        (8192, 64, 8)
    """
    return max(64, 2**14 // max(1, math.prod(x1.shape[1:]))) if max_batch is None else integer("max_batch", max_batch, 1)


def chunks(rows: int, size: int, done: int = 0) -> Iterator[slice]:
    """The rows in batches."""
    for lo in range(done, rows, integer("max_batch", size, 1)):
        yield slice(lo, min(lo + size, rows))
