"""Tensors that count themselves: how many of them are alive at once."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor


class Counted(Tensor):
    """A tensor whose results are of its class; the class knows the most distinct memories that were alive after an operation."""

    alive: ClassVar[list[weakref.ref[Tensor]]]
    peak: ClassVar[int]

    @classmethod
    def counting(cls) -> type[Counted]:
        """A class with a count of its own."""
        return type("Counting", (cls,), {"alive": [], "peak": 0})

    @staticmethod
    def __new__(cls: type[Counted], data: Tensor) -> Counted:
        """The same memory, counted."""
        made = data.as_subclass(cls)
        cls._note([made])
        return made

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Do the operation, and count."""
        out = super().__torch_function__(func, types, args, dict(kwargs or {}))  # type: ignore[misc]
        cls._note(out if isinstance(out, list | tuple) else [out])
        return out

    @classmethod
    def _note(cls, made: Sequence[Any]) -> None:
        with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001  (as torch's notes on extending say)
            cls.alive.extend(weakref.ref[Tensor](t) for t in made if isinstance(t, cls) and t.numel() >= 16)
            there = [t for ref in cls.alive if (t := ref()) is not None]
            cls.alive = [weakref.ref[Tensor](t) for t in there]
            cls.peak = max(cls.peak, len({t.untyped_storage().data_ptr() for t in there}))
