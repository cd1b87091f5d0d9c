"""Sources of noise for stochastic samplers.

A sampler calls ``at.noise(x, draw)``, and the step asks a `Noise`. The values depend only on which draw it is, and not on the
batch or on earlier draws. So a step can be replayed.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from flowsamplers._accepted import refused
from flowsamplers._devices import sent

Interval: TypeAlias = tuple[float, float] | tuple[float, float, int]
"""An interval of a Brownian motion's time; optionally the index of the motion, by default one for each draw of a step."""


@runtime_checkable
class Noise(Protocol):
    """Protocol for a source of standard normal tensors, one for each (step, draw)."""

    def __call__(self, like: Tensor, step: int, draw: int, interval: Interval | None = None) -> Tensor:
        """Return a standard normal tensor.

        Args:
            like: tensor with the shape ``(rows, ...)``, dtype and device of the result.
            step: index of the step in the run.
            draw: index of the draw within the step.
            interval: times of a Brownian motion. `BrownianNoise` returns the motion's increment over it, divided by its standard
                deviation; other sources ignore it.

        Returns:
            The noise; equal arguments give equal values.
        """
        ...


Seeds: TypeAlias = int | Sequence[int]
"""One seed for all rows (row i then uses ``fold(seed, i)``), or a seed for each row."""


def fold(seed: int, *keys: int) -> int:
    """Derive a 63-bit seed from a seed and any integers.

    Examples:
        >>> fold(0, 1, 2) == fold(0, 1, 2), fold(0, 1, 2) == fold(0, 2, 1)
        (True, False)
    """
    digest = hashlib.blake2b(b"".join(struct.pack("<q", k) for k in (_as_int64(seed), *keys)), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def row_seeds(seeds: Seeds, rows: int) -> list[int]:
    """List one seed for each row.

    Raises:
        ValueError: ``seeds`` is a list whose length is not ``rows``, or no seeds, see `as_seeds`.

    Examples:
        >>> row_seeds([3, 4], 2)
        [3, 4]
    """
    seeds = as_seeds(seeds)
    if isinstance(seeds, int):
        return [fold(seeds, i) for i in range(rows)]
    if len(seeds) != rows:
        raise ValueError(f"seed: {len(seeds)} seeds for {rows} rows; give one for each row, or a single int")
    return seeds


def normal(seed: int, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """Draw standard normal numbers that depend only on the seed and the shape.

    They are drawn on the CPU in float64, then cast. So runs in float32 and float64, on any device, get the same noise up to rounding.

    Examples:
        >>> torch.equal(normal(7, (2,), torch.float64).float(), normal(7, (2,), torch.float32))
        True
    """
    if torch.device(device).type == "meta":
        return torch.empty(tuple(shape), dtype=dtype, device="meta")
    generator = torch.Generator("cpu").manual_seed(seed)
    return sent(torch.randn(tuple(shape), generator=generator, dtype=torch.float64, device="cpu").to(dtype), device)


class KeyedNoise:
    """The default noise: it depends only on (seed of the row, step, draw), not on the batch or the order of calls.

    Args:
        seeds: an int, which gives row i the seed ``fold(seed, i)``; or a list with each row's own seed.

    Raises:
        ValueError: ``seeds`` is something else, see `as_seeds`.

    Examples:
        >>> both = KeyedNoise([5, 6])(torch.zeros(2, 3), step=0, draw=0)
        >>> alone = KeyedNoise([6])(torch.zeros(1, 3), step=0, draw=0)
        >>> torch.equal(both[1:], alone)
        True
    """

    def __init__(self, seeds: Seeds) -> None:
        self.seeds = as_seeds(seeds, "seeds")

    def __call__(self, like: Tensor, step: int, draw: int, interval: Interval | None = None) -> Tensor:
        """A unit normal tensor like ``like``; see `Noise`."""
        seeds = row_seeds(self.seeds, like.shape[0])
        if like.is_meta or not seeds:
            return torch.empty_like(like)
        return sent(torch.stack([normal(fold(s, step, draw), like.shape[1:], like.dtype) for s in seeds]), like.device)


class GeneratorNoise:
    """The sequential stream of a ``torch.Generator``, as diffusers' schedulers draw from it.

    The draws of the current step are stored, so a replay of the step reuses them.

    Args:
        generator: one generator for the whole batch, a list with one for each row, or None for torch's global stream.

    Raises:
        ValueError: ``generator`` is something else.
    """

    def __init__(self, generator: torch.Generator | Sequence[torch.Generator] | None = None) -> None:
        several: Any = [generator] if generator is None or isinstance(generator, torch.Generator) else generator
        if not isinstance(several, list | tuple) or not all(g is generator or isinstance(g, torch.Generator) for g in several):
            raise refused("generator", generator, "a torch.Generator, a list with one for each row, or None")
        self.generator = list(generator) if isinstance(generator, list | tuple) else generator
        self._step = -1
        self._drawn: dict[int, Tensor] = {}

    def __call__(self, like: Tensor, step: int, draw: int, interval: Interval | None = None) -> Tensor:
        """A unit normal tensor like ``like``; see `Noise`."""
        if step != self._step:
            self._step, self._drawn = step, {}
        if draw not in self._drawn:
            self._drawn[draw] = self._next(like)
        return self._drawn[draw]

    def _next(self, like: Tensor) -> Tensor:
        if self.generator is None or isinstance(self.generator, torch.Generator):
            return _randn(like.shape, self.generator, like)
        if len(self.generator) != like.shape[0]:
            raise ValueError(f"generator: {len(self.generator)} generators for {like.shape[0]} rows; give one for each")
        return torch.cat([_randn((1, *like.shape[1:]), g, like) for g in self.generator])

    def __getstate__(self) -> dict[str, Any]:
        """A ``torch.Generator`` does not pickle; its device and state do."""
        return {"generator": _each(_pack, self.generator), "step": self._step, "drawn": dict(self._drawn)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild the generators where they stood."""
        self.generator = _each(_unpack, state["generator"])
        self._step, self._drawn = state["step"], state["drawn"]


def _each(change: Callable[[Any], Any], generator: Any) -> Any:
    """A change of one generator, of all in a list, or of none."""
    return [change(g) for g in generator] if isinstance(generator, list) else generator and change(generator)


def as_noise(seed: Seeds | Noise | None) -> Noise | None:
    """Convert the argument ``seed`` to a `Noise`: seeds become `KeyedNoise`; a `Noise` and None are returned as they are."""
    if seed is None:
        return None
    if isinstance(seed, torch.Generator):
        raise ValueError("seed=<torch.Generator>: wrap it, flowsamplers.GeneratorNoise(generator)")
    if callable(seed) and not isinstance(seed, type):
        return seed
    return KeyedNoise(as_seeds(seed, "seed", f"{SEEDS}, or a Noise"))


SEEDS = "an int of at most 64 bits, or a list with one such int per row"


def as_seeds(seeds: Seeds | Any, name: str = "seeds", accepted: str = SEEDS) -> int | list[int]:
    """Return one seed as an int, or the seeds of the rows as a list of ints; they may be those of NumPy or torch.

    Raises:
        ValueError: they are no seeds; the message has the argument's name.
    """
    given: Any = seeds.tolist() if isinstance(seeds, np.ndarray | Tensor) else seeds
    several = isinstance(given, Sequence) and not isinstance(given, str | bytes)
    found: list[Any] = list(given) if several else [given]  # pyright: ignore[reportUnknownArgumentType]
    if any(isinstance(s, bool) or not isinstance(s, Integral) or not -(2**63) <= int(s) < 2**64 for s in found):
        raise refused(name, seeds, accepted)
    return [int(s) for s in found] if several else int(found[0])


def _as_int64(seed: int) -> int:
    return (int(seed) + 2**63) % 2**64 - 2**63


def _randn(shape: Sequence[int], generator: torch.Generator | None, like: Tensor) -> Tensor:
    device = like.device if generator is None else generator.device
    return sent(torch.randn(tuple(shape), generator=generator, device=device, dtype=like.dtype), like.device)


def _pack(generator: torch.Generator) -> tuple[str, Tensor]:
    return str(generator.device), generator.get_state()


def _unpack(packed: tuple[str, Tensor]) -> torch.Generator:
    generator = torch.Generator(packed[0])
    generator.set_state(packed[1])
    return generator
