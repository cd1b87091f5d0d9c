"""Find the entries of ``scheduler.timesteps`` that a pipeline passes back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from flowsamplers.engine import Evaluation

ROUNDINGS = (2**-20, 2**-8)
"""Largest distance of a time from its entry, as a share of the whole range: in float32, and in bfloat16 or float16."""


def indices(times: Any, entries: Tensor, calls: Sequence[Evaluation], train: int) -> list[int]:
    """Find the index of each of several times: by its place in memory, else by the nearest value.

    Args:
        times: numbers or tensors of one element.
        entries: the list, a vector.
        calls: the model calls that the entries belong to. Of equal entries the first is taken, or else the first that begins a step.
        train: the model's time at sigma 1.

    Raises:
        ValueError: no entry is close enough, or two entries are equal up to the rounding of the time; the message names them.

    Examples:
        >>> import torch
        >>> entries = torch.tensor([1000.0, 600.0, 600.0, 0.0])
        >>> calls = [Evaluation(0, 0, 1.0), Evaluation(0, 1, 0.6), Evaluation(1, 0, 0.6), Evaluation(1, 1, 0.0)]
        >>> indices([entries[1], 600.0], entries, calls, 1000)
        [1, 2]
    """
    places = [_place(t, entries) for t in times]
    if None not in places:  # without a wait for the device
        return [place for place in places if place is not None]
    listed = entries.tolist()
    first: dict[float, int] = {}
    for i, t in enumerate(listed):
        begins = len(listed) == len(calls) and calls[i].stage == 0
        if t not in first or (begins and first[t] > 0 and calls[first[t]].stage > 0):
            first[t] = i
    values: list[float] = times.tolist() if isinstance(times, Tensor) else [float(t) for t in times]
    both = zip(values, places, strict=True)
    return [first[_nearest(t, first, train)] if place is None else place for t, place in both]


def place_of_slice(part: list[float], whole: list[float]) -> int | None:
    """Find where a list begins in a longer one; None if it is no slice of it."""
    return next((i for i in range(len(whole) - len(part) + 1) if whole[i : i + len(part)] == part), None)


def _place(entry: Any, entries: Tensor) -> int | None:
    """Which element of a vector this tensor is a view of: no search, no wait for the device, and equal ones are told apart."""
    if not isinstance(entry, Tensor) or entry.numel() != 1 or entry.dtype != entries.dtype or entry.device != entries.device:
        return None
    if entry.untyped_storage().data_ptr() != entries.untyped_storage().data_ptr():
        return None
    place = int(entry.storage_offset() - entries.storage_offset())
    return place if 0 <= place < len(entries) and entries.is_contiguous() else None


def _nearest(time: float, entries: dict[float, int], train: int) -> float:
    """The entry that a time is, but for the rounding of float32, or of bfloat16 and float16.

    Raises:
        ValueError: none, or two that would be rounded to it.
    """
    if time in entries:
        return time
    nearest = min(entries, key=lambda t: abs(t - time), default=math.nan)
    for rounding in ROUNDINGS:
        near = [t for t in entries if abs(t - time) <= rounding * train]
        if len(near) == 1:
            return near[0]
        if near:
            names = " and ".join(map(str, sorted(near, reverse=True)))
            raise ValueError(f"timestep={time}: it is rounded, and may be any of {names}; pass an entry of scheduler.timesteps")
    raise ValueError(f"timestep={time}: not in the schedule, whose nearest entry is {nearest}")
