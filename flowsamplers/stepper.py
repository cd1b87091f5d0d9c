"""The inside-out driver: for hosts that own the loop, such as diffusers' pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from flowsamplers.engine import NOTHING, asked_for, dry_run, silence
from flowsamplers.grid import SigmaGrid
from flowsamplers.noise import Noise
from flowsamplers.sampler import Evaluate, Sampler, State, StepGenerator, steps_of


class Stepper:
    """The inside-out driver, for a host that owns the loop and calls the model itself.

    Ask for `point`, call the model there (or at an edited point), `tell` its velocity, and so on until
    `done`. Between any two calls it can be deep-copied or pickled: what it holds is ``x`` at the start of the step,
    the state, the velocities received in this step and an offset; the generator is made again by replay.

    If the host edits the point, `edit` says so: at the start of a step the edited point becomes ``x``; between stages
    the velocity counts as that of the edited point, and the edit is carried into the result of the step. What the sampler
    remembers as places in space moves along, so that an edit is never taken for a derivative.

    Args:
        sampler: what to run.
        grid: the schedule.
        x: start, in the carry dtype.
        noise: for stochastic samplers.
        begin: index of the model call to begin with. Inside a step, the calls left in it become Euler moves along the
            listed sigmas to the end of the step.

    Examples:
        >>> from flowsamplers import get_sampler
        >>> stepper = Stepper(get_sampler("heun"), SigmaGrid([1.0, 0.5, 0.0]), torch.ones(1))
        >>> while not stepper.done:
        ...     stepper.tell(stepper.point)  # dx/dsigma = x
        >>> stepper.point.item()
        0.390625
    """

    def __init__(self, sampler: Sampler, grid: SigmaGrid, x: Tensor, noise: Noise | None = None, *, begin: int = 0) -> None:
        self.sampler = sampler
        self.steps = tuple(steps_of(grid, noise))
        self._index, self._moves = _beginning(sampler, grid, begin)
        self._x = x
        self._state: State = sampler.init(x)
        self._received: tuple[Tensor, ...] = ()
        self._offset: Tensor | None = None
        self._work: StepGenerator | None = None
        self._request: Evaluate | None = None

    @property
    def done(self) -> bool:
        """Whether the end of the grid is reached."""
        return not self._moves and self._index == len(self.steps)

    @property
    def point(self) -> Tensor:
        """Where the model is to be called next; the result, when done. Read-only."""
        request = self._resume()
        if request is None:
            return self._x
        return request.x if self._offset is None else request.x + self._offset

    @property
    def between_steps(self) -> bool:
        """Whether no velocity of the current step has been received yet."""
        return not self._received

    def edit(self, point: Tensor) -> None:
        """The host goes on from ``point`` instead of `point`."""
        request = self._resume()
        if request is None or (request.x is self._x and not self._received):
            self._state = self.sampler.moved(self._state, point - self._x)
            self._x, self._work = point, None
        else:
            before = torch.zeros_like(point) if self._offset is None else self._offset
            self._offset = torch.where(point == request.x + before, before, point - request.x)

    def tell(self, velocity: Tensor) -> None:
        """Take the velocity at the point and move on.

        Raises:
            IndexError: the run is done.
        """
        if self.done:
            raise IndexError("the schedule is finished: every model call has been told")
        if self._moves:
            h, *self._moves = self._moves
            self._x = self._x + h * velocity
            self._state = self.sampler.resume(velocity)
            return
        self._resume()
        self._received = (*self._received, velocity)
        self._advance(velocity)

    def _resume(self) -> Evaluate | None:
        """The pending request of the sampler; makes the generator, and replays the current step, where there is none."""
        if self.done or self._moves:
            return None
        if self._work is None:
            self._work = self.sampler.step(self._x, self.steps[self._index], self._state)
            self._request = next(self._work)
            for v in self._received:
                self._request = self._work.send(v)
        return self._request

    def _advance(self, velocity: Tensor) -> None:
        assert self._work is not None
        try:
            self._request = self._work.send(velocity)
        except StopIteration as done:
            self._x, self._state = done.value
            if self._offset is not None:
                self._x = self._x + self._offset
                self._state = self.sampler.moved(self._state, self._offset)
            self._received, self._offset, self._work, self._request = (), None, None, None
            self._index += 1

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the generator, which neither pickles nor copies."""
        return {**self.__dict__, "_work": None, "_request": None}


def _beginning(sampler: Sampler, grid: SigmaGrid, begin: int) -> tuple[int, list[float]]:
    """Where a run stands that begins with the call ``begin``: the next whole step, and the Euler moves up to it.

    If the sampler, begun there, would not ask for the calls that are listed, the whole rest is Euler moves along them.
    """
    calls = dry_run(sampler, grid)
    if not 0 <= begin < len(calls):
        raise ValueError(f"begin={begin}: the run has {len(calls)} model calls, from 0")
    _, stage, sigma = calls[begin]
    step = calls[begin].step
    inside = begin > 0 and (stage > 0 or sigma != grid.sigmas[step])
    whole = step + 1 if inside else step
    moved = [c.sigma for c in calls[begin:] if c.step < whole]
    rest = tuple(c for c in calls[begin:] if c.step >= whole)
    state = sampler.resume(NOTHING) if inside else sampler.init(NOTHING)
    if asked_for(sampler, list(steps_of(grid, silence))[whole:], state) == rest:
        return whole, _differences([*moved, grid.sigmas[whole]]) if moved else []
    return grid.steps, _differences([*(c.sigma for c in calls[begin:]), grid.end])


def _differences(nodes: Sequence[float]) -> list[float]:
    return [b - a for a, b in pairwise(nodes)]
