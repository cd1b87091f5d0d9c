"""The state of a run inside a pipeline: a master copy in the carry dtype, beside the pipeline's own sample."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor

from flowsamplers.grid import SigmaGrid
from flowsamplers.noise import GeneratorNoise, Interval, KeyedNoise, Noise, Seeds
from flowsamplers.sampler import Sampler
from flowsamplers.stepper import Stepper

Carry = Literal["float32", "float64", "model"]
CARRIES: dict[str, torch.dtype] = {"float32": torch.float32, "float64": torch.float64, "model": torch.float32}
"""The dtype of the master copy, by the option ``carry``."""


class CallNoise:
    """The noise of a run in a pipeline, which may pass another generator with every call.

    The draws of the current step are stored, so a replay of the step reuses them.

    Args:
        seed: seed to use if no generator is passed; None uses torch's global stream.
    """

    def __init__(self, seed: Seeds | None) -> None:
        self.seed = seed
        self._stored: dict[tuple[int, int], Tensor] = {}
        self.use(None)

    def use(self, generator: Any) -> None:
        """Draw from this generator, or a list with one for each row; None draws from the seed."""
        keyed = generator is None and self.seed is not None
        self._source: Noise = KeyedNoise(self.seed) if keyed else GeneratorNoise(generator)  # pyright: ignore[reportArgumentType]

    def forget(self, step: int) -> None:
        """Delete the stored draws of earlier steps."""
        self._stored = {key: x for key, x in self._stored.items() if key[0] >= step}

    def __call__(self, like: Tensor, step: int, draw: int, interval: Interval | None = None) -> Tensor:
        """A unit normal tensor like ``like``; see `flowsamplers.Noise`."""
        if (step, draw) not in self._stored:
            self._stored[step, draw] = self._source(like, step, draw, interval)
        return self._stored[step, draw]


class PipelineRun:
    r"""One run of a sampler in a pipeline's loop.

    The master copy has the dtype ``dtype``; the pipeline gets copies in its model's dtype. Elements that the pipeline returns
    unchanged continue from the master copy. Elements that it edited continue from its values. Autograd follows the pipeline's graph:

    $$ x = s + (m - h), \qquad m - h \text{ a constant} $$

    with the pipeline's sample s, the master copy m, and the value h that the pipeline was given. The sum is exact, because h is m
    rounded. If s does not depend on h in the graph, the pipeline has detached it. All stored velocities are then detached too.

    A velocity that is not finite makes the sample NaN there, as in stock. The master copy stays finite. When the pipeline has put finite
    numbers into a whole row again, the row continues from them, by Euler steps at first.

    Args:
        method: the sampler.
        grid: the schedule.
        sample: the pipeline's sample.
        begin: index of the first model call.
        carry: see `FlowSamplerScheduler`; with ``"model"`` the state is rounded to the pipeline's dtype after every step.
        seed: seed of a stochastic sampler, see `CallNoise`.
    """

    def __init__(
        self,
        method: Sampler,
        grid: SigmaGrid,
        sample: Tensor,
        *,
        begin: int,
        carry: Carry,
        seed: Seeds | None,
    ) -> None:
        self.next_call, self.shape = begin, sample.shape
        self._noise = CallNoise(seed)
        self.stepper = Stepper(method, grid, sample.to(CARRIES[carry]), self._noise, begin=begin)
        self._rounds = carry == "model"
        self._returned_dtype: torch.dtype | None = None
        self._lost: Tensor | None = None  # rows (rows, 1, ...) with a velocity that was not finite
        self._origin: Any = None

    def take(self, v: Tensor, sample: Tensor, generator: Any = None) -> Tensor:
        """Take the velocity at ``sample``; return the latents for the next call, in the dtype of ``v``."""
        stepper = self.stepper
        self._noise.use(generator)
        self._accept(sample)
        with torch.no_grad():
            known = v.isfinite() if self._lost is None else v.isfinite() & sample.isfinite()
            all_known = v.is_cpu and bool(known.all())  # of a device it is not asked, because that waits
            unknown = known.logical_not()  # not ~, which fake tensors of a device refuse where torch has no driver for it
        if not all_known:
            self._lost = _rows(unknown) if self._lost is None else self._lost | _rows(unknown)
            v = torch.where(v.isfinite(), v, 0)
        stepper.tell(v)
        if self._rounds and stepper.between_steps and not stepper.done:
            stepper.round_to(v.dtype)
        out = stepper.point.to(v.dtype, copy=True)
        if not all_known:
            out = out.masked_fill_(unknown, torch.nan)  # in place keeps the strides
        self._noise.forget(stepper.index)
        if out.grad_fn is None or not stepper.remembers:
            stepper.detach()
        self.next_call += 1
        self._returned_dtype = v.dtype
        self._origin = out.grad_fn if stepper.remembers else None
        return out

    def _accept(self, sample: Tensor) -> None:
        """Continue from the sample. Its values say what the host edited: a write through ``.data`` or numpy leaves no other trace."""
        if self._returned_dtype is None:
            return
        if self._origin is not None and not _descends(sample, self._origin):
            self.stepper.detach()
        master = self.stepper.point  # with the graph, where the step has to be replayed for it
        with torch.no_grad():
            returned = master.to(self._returned_dtype)
            returned = returned if self._rounds else returned.to(sample.dtype)  # the host may have cast it
            if sample.is_cpu and not sample.requires_grad and torch.equal(sample, returned.to(sample.dtype)):
                return
            untouched, repaired = sample == returned, None
            if self._lost is not None:
                missing = sample.isfinite().logical_not()
                repaired = self._lost & _rows(missing).logical_not()
                untouched, self._lost = untouched | (self._lost & missing), self._lost & repaired.logical_not()
            kept = torch.where(untouched, master - returned.to(master.dtype), torch.zeros_like(master))
        sample = sample if repaired is None else torch.where(untouched, returned.to(sample.dtype), sample)
        self.stepper.edit(sample.to(master.dtype) + kept, anew=repaired)

    def __getstate__(self) -> dict[str, Any]:
        """A node of the graph cannot be pickled."""
        return {**self.__dict__, "_origin": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> PipelineRun:
        """A run of its own that goes on from the same sample, in the same graph."""
        copied = memo[id(self)] = type(self).__new__(type(self))
        copied.__dict__.update({**copy.deepcopy({**self.__dict__, "_origin": None}, memo), "_origin": self._origin})
        return copied


def _rows(x: Tensor) -> Tensor:
    """Whether any element of a row is true, ``(rows, 1, ...)``."""
    return x.flatten(1).any(1).reshape(-1, *[1] * (x.ndim - 1)) if x.ndim > 1 else x


def contents(x: Tensor) -> list[float] | int | None:
    """A value that changes if a vector is edited in place: its numbers on the CPU, else torch's counter, if it has one."""
    return x.tolist() if x.is_cpu else None if x.is_inference() else x._version


def _descends(x: Tensor, origin: Any) -> bool:
    """Whether a node is among the ancestors of x in the graph, the nearest first."""
    seen, front = set[Any](), [x.grad_fn]
    while front:
        if origin in front:
            return True
        front = [n for n in dict.fromkeys(front) if n is not None and n not in seen]
        seen.update(front)
        front = [n for node in front for n, _ in node.next_functions]
    return False
