"""Step a sampler from inside another program's loop, such as a diffusers pipeline."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowsamplers._accepted import function, integer, shown
from flowsamplers.edits import Edits, remembered, tensors
from flowsamplers.engine import NOTHING, as_start, check_velocity, dry_run, planned_calls, silence
from flowsamplers.grid import GridLike, SigmaGrid, as_grid
from flowsamplers.noise import Noise
from flowsamplers.registry import get_sampler
from flowsamplers.sampler import Evaluate, Running, SamplerLike, State, steps_of


class Stepper:
    """Run a sampler from a loop that calls the model itself.

    Read `point` and `sigma`, call the model there, pass its velocity to `tell`, and repeat until `done`. Optuna and CMA-ES call such
    an interface ask-and-tell. Between any two model calls a Stepper can be deep-copied or pickled. It stores ``x`` at the start of
    the step, the sampler's state, the velocities of this step, and the edits. The generator is rebuilt by replaying the step.

    Every tensor that is passed in is copied, so the caller may reuse its buffers.

    To continue from an edited point, call `edit`. At the start of a step, the edited point becomes ``x``. Between the stages of
    a step, the next velocity counts as that of the edited point. The edit is added to the result of the step. Latents in the
    sampler's state move by the same amount. An edit may be so large that earlier velocities no longer help, for example when
    rows change places. Such rows then take Euler steps until the sampler has new velocities, see `flowsamplers.edits.Edits`.

    Args:
        sampler: a sampler, its name, or its configuration.
        grid: the schedule, as a `SigmaGrid` or its sigmas, see `sample`.
        x: start, in the carry dtype; a numpy array is copied into a tensor.
        noise: source of noise; required by stochastic samplers.
        begin: index of the first model call. If it lies inside a step, the rest of that step is taken by Euler moves along the
            listed sigmas.

    Examples:
        >>> stepper = Stepper("heun", SigmaGrid([1.0, 0.5, 0.0]), torch.ones(1))
        >>> while not stepper.done:
        ...     stepper.tell(stepper.sigma * stepper.point)  # dx/dsigma = sigma * x
        >>> stepper.point.item()
        0.6015625
    """

    def __init__(
        self,
        sampler: SamplerLike,
        grid: GridLike,
        x: Tensor | np.ndarray[Any, Any],
        noise: Noise | None = None,
        *,
        begin: int = 0,
    ) -> None:
        self.sampler = get_sampler(sampler)
        self.grid = grid = as_grid(grid)
        x, noise = as_start(x), function("noise", noise, "a Noise, such as KeyedNoise(0), or None")
        self.steps = tuple(steps_of(grid, noise))
        self._index, self._moves = _beginning(self.sampler, grid, begin)
        self._x = x.clone()
        self._state: State = self.sampler.init(self._x)
        self._received: tuple[Tensor, ...] = ()
        self._offset: Tensor | None = None
        self._edited: Tensor | None = None
        self._edits = Edits(draws_noise=self.sampler.draws_noise)
        self._from_the_start = True
        self._run: Running[Evaluate, tuple[Tensor, State]] | None = None

    @property
    def done(self) -> bool:
        """Whether the run has reached the end of the schedule."""
        return not self._moves and self._index == len(self.steps)

    @property
    def point(self) -> Tensor:
        """The latents for the next model call, ``(rows, ...)``; the result, when done. Read-only."""
        request = self._resume()
        if request is None:
            return self._x
        return request.x if self._offset is None else request.x + self._offset

    @property
    def sigma(self) -> float:
        """The noise level of `point`: the sigma for the next model call; the end of the grid, when done."""
        if self._moves:
            return self._moves[0]
        request = self._resume()
        return self.grid.end if request is None else request.sigma

    @property
    def index(self) -> int:
        """The index of the current step, which is the number of finished steps."""
        return self._index

    @property
    def between_steps(self) -> bool:
        """Whether the run stands between two steps: no velocity of the current step has been received."""
        return not self._received

    @property
    def remembers(self) -> bool:
        """Whether the sampler still uses earlier velocities, of this step or of earlier steps."""
        return bool(self._received) or self._memory > 0

    def edit(self, point: Tensor, *, anew: Tensor | None = None) -> None:
        """Accept an edited sample between model calls.

        Args:
            point: the edited latents, like `point`. The run continues from them.
            anew: rows, ``(rows, 1, ...)``, that continue by Euler steps until they have new velocities, however small the edit.

        Raises:
            ValueError: it is no tensor of that shape.
        """
        before = self.point
        if not isinstance(point, Tensor) or point.shape != before.shape:
            told = f"of shape {tuple(point.shape)}" if isinstance(point, Tensor) else f"={shown(point)}"
            raise ValueError(f"point {told}: accepted is a tensor of shape {tuple(before.shape)}")
        point = point.to(before.dtype, copy=True)
        by = point - before
        if self.remembers:
            self._edits.edited(by, inside=not self.between_steps, anew=anew)
        self._shift(point, by)

    def round_to(self, dtype: torch.dtype) -> None:
        """Round the state to ``dtype``, at the start of a step, as a program does that keeps its latents in ``dtype``."""
        point = self.point
        rounded = point.to(dtype).to(point.dtype)
        self._shift(rounded, rounded - point)

    def detach(self) -> None:
        """Detach all stored tensors from the autograd graph."""
        if any(x.requires_grad for x in tensors(tuple(self._held.values()))):
            self.__dict__.update(self.__getstate__())

    def tell(self, velocity: Tensor) -> None:
        """Pass in the velocity at `point`, and advance to the next model call.

        Args:
            velocity: the model's output, like `point`.

        Raises:
            ValueError: it is no real tensor of that shape.
            IndexError: the run has ended.
        """
        if self.done:
            raise IndexError("the schedule is finished: every model call has been told")
        check_velocity(velocity, self._x)
        velocity = velocity.to(self._x.dtype, copy=True)
        self._edits.moves(self._length(), velocity)
        sigma, here, memory = self.sigma, self.point if self._edits.pending else None, self._memory
        self._take(velocity)
        if here is not None:
            euler = here + (self.sigma - sigma) * velocity
            by = self._edits.settled(self.point, euler, memory, step_ends=self.between_steps)
            self._shift(self.point + by, by, by_host=False)
            self._edits.forget(self._memory)

    @property
    def _memory(self) -> int:
        return remembered(self._state)

    @property
    def _held(self) -> dict[str, Any]:
        """The attributes that hold tensors."""
        return {name: self.__dict__[name] for name in ("_x", "_state", "_received", "_offset", "_edited")}

    def _length(self) -> float:
        return self._moves[1] - self._moves[0] if self._moves else self.grid.dt[self._index]

    def _take(self, velocity: Tensor) -> None:
        if self._moves:
            self._x = self._x + self._length() * velocity
            self._moves = self._moves[1:] if len(self._moves) > 2 else []
            self._state = self.sampler.resume(velocity)
            return
        request = self._resume()
        if not self._received:
            self._from_the_start = request is not None and request.sigma == self.grid.sigmas[self._index]
        self._received = (*self._received, velocity)
        assert self._run is not None
        self._run.send(velocity)
        if self._run.request is None:
            self._end_step(*self._run.result)

    def _shift(self, point: Tensor, by: Tensor, *, by_host: bool = True) -> None:
        """Go on from ``point``, which is `point` moved by ``by``; what is remembered as places moves with the host's edits alone."""
        request = self._resume()
        if request is None or (request.x is self._x and not self._received):
            self._state = self.sampler.translate(self._state, by) if by_host else self._state
            self._x, self._run = point, None
        else:
            self._offset = by if self._offset is None else self._offset + by
            if by_host:
                self._edited = by if self._edited is None else self._edited + by

    def _resume(self) -> Evaluate | None:
        """The pending request of the sampler; makes the generator, and replays the current step, where there is none."""
        if self.done or self._moves:
            return None
        if self._run is None:
            self._run = Running(self.sampler.step(self._x, self.steps[self._index], self._state))
            for v in self._received:
                self._run.send(v)
        return self._run.request

    def _end_step(self, end: Tensor, state: State) -> None:
        informed = len(self._received) > 1 or self._memory > 0
        if self._from_the_start and informed:
            self._edits.stepped(self._x, end, self.grid.dt[self._index], next(iter(self._received)))
        self._x = end if self._offset is None else end + self._offset
        self._state = state if self._edited is None else self.sampler.translate(state, self._edited)
        self._received, self._offset, self._edited, self._run = (), None, None, None
        self._index += 1

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the generator, which neither pickles nor copies, and the graph of autograd, which does not pickle."""
        return {**self.__dict__, **_map(Tensor.detach, self._held), "_run": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> Stepper:
        """A run of its own in the same graph: nothing that is held is ever edited in place, so that copies may share it."""
        memo.update({id(x): x for x in tensors(tuple(self._held.values()))})
        copied = memo[id(self)] = type(self).__new__(type(self))
        copied.__dict__.update(copy.deepcopy({**self.__dict__, "_run": None}, memo))
        return copied


def _beginning(sampler: Any, grid: SigmaGrid, begin: int) -> tuple[int, list[float]]:
    """Where a run stands that begins with the call ``begin``: the next whole step, and the sigmas of the Euler moves up to it.

    If the sampler, begun there, would not ask for the calls that are listed, the whole rest is Euler moves along them.
    """
    calls = dry_run(sampler, grid)
    if not 0 <= integer("begin", begin) < len(calls):
        raise ValueError(f"begin={begin}: the run has {len(calls)} model calls, from 0")
    _, stage, sigma = calls[begin]
    step = calls[begin].step
    inside = begin > 0 and (stage > 0 or sigma != grid.sigmas[step])
    later = step + 1 if inside else step
    moved = [c.sigma for c in calls[begin:] if c.step < later]
    rest = tuple(c for c in calls[begin:] if c.step >= later)
    state = sampler.resume(NOTHING) if inside else sampler.init(NOTHING)
    if planned_calls(sampler, list(steps_of(grid, silence))[later:], state) == rest:
        return later, [*moved, grid.sigmas[later]] if moved else []
    return grid.steps, [*(c.sigma for c in calls[begin:]), grid.end]


def _map(change: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """The same nested tuples with every tensor changed."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, dict):
        return {name: _map(change, part) for name, part in tree.items()}
    if not isinstance(tree, tuple | list):
        return tree
    parts = [_map(change, part) for part in tree]  # pyright: ignore[reportUnknownVariableType]
    return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
