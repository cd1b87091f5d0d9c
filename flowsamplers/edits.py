"""Decide whether earlier velocities are still useful after the caller has edited the latents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


class Edits:
    r"""Track the rows that an edit moved so far that their earlier velocities are no longer useful.

    A step that remembers velocities ends at Euler's end and a correction c, which is what Euler's error is estimated by. Where the state
    is moved by d, the remembered velocities are those of points d away. They are wrong by at most $L |d|$, and with them the next
    correction by $h L |d|$, where L is the Lipschitz constant of the velocity. An explicit step needs $h L \le 1$. So memory does less harm
    than good as long as

    $$ |d| \le |c| $$

    with the norms of the row and the last step's c. If it is moved further, the whole row takes Euler steps until all
    remembered velocities are new, since a network couples the elements of a row. A sampler with noise keeps its steps where
    nothing was edited, because an Euler step has no noise. Before the first correction the step's own move takes its place,
    because the remembered velocity then belongs to a point that far away. Nothing here waits for the device.

    Args:
        draws_noise: whether the sampler draws noise.
    """

    def __init__(self, *, draws_noise: bool) -> None:
        self._draws_noise = draws_noise
        self._worth: Tensor | None = None
        self._corrected = False
        self._age: Tensor | None = None
        self._youngest = 0

    @property
    def pending(self) -> bool:
        """Whether there may be rows that go on by Euler steps."""
        return self._age is not None

    def moves(self, length: float, velocity: Tensor) -> None:
        """The state moves on by this length times the velocity."""
        if not self._corrected:
            self._worth = abs(length) * row_norm(velocity)

    @torch.no_grad()
    def stepped(self, start: Tensor, end: Tensor, h: float, velocity: Tensor) -> None:
        """A step has ended that had more to go by than its first velocity, at its start."""
        self._worth, self._corrected = row_norm(end - start - h * velocity), True

    @torch.no_grad()
    def edited(self, by: Tensor, *, inside: bool = False, anew: Tensor | None = None) -> None:
        """Record an edit of the state while the sampler stores earlier velocities.

        Args:
            by: the move, ``(rows, ...)``.
            inside: whether a velocity of the current step is among what is remembered.
            anew: rows whose earlier velocities are of no use, however small the edit.
        """
        worth = torch.zeros_like(row_norm(by)) if self._worth is None else self._worth
        far = ((row_norm(by) <= worth) & worth.isfinite()).logical_not()
        far = far if anew is None else far | anew
        far = far & ((by != 0) if anew is None else (by != 0) | anew) if self._draws_noise else far
        age = torch.full_like(far, torch.iinfo(torch.int16).max // 2, dtype=torch.int16) if self._age is None else self._age
        self._youngest = -1 if inside else 0
        self._age = torch.where(far, self._youngest, age)

    def settled(self, point: Tensor, euler: Tensor, memory: int, *, step_ends: bool) -> Tensor:
        """Compute the correction that puts rows that moved far onto an Euler step.

        Args:
            point: where it goes on.
            euler: where the Euler step leads.
            memory: how many tensors the sampler remembered at the start of the step.
            step_ends: whether this is its last call.
        """
        assert self._age is not None
        by = torch.where(self._age < memory, euler - point, torch.zeros_like(point))
        if step_ends:
            self._age, self._youngest = self._age + 1, self._youngest + 1
        return by

    def forget(self, memory: int) -> None:
        """Be done where as many steps have passed since the last edit as there are tensors remembered now."""
        if self._youngest >= memory:
            self._age = None


@torch.no_grad()
def row_norm(x: Tensor) -> Tensor:
    """The Euclidean norm of every row, shaped to go with x."""
    return torch.linalg.vector_norm(x, dim=tuple(range(1, x.ndim)), keepdim=True) if x.ndim > 1 else x.abs()


def tensors(tree: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, tuple | list):
        for part in tree:  # pyright: ignore[reportUnknownVariableType]
            yield from tensors(part)


def remembered(state: Any) -> int:
    """Count the tensors in a sampler's state."""
    return sum(1 for _ in tensors(state))
