"""The cost of a study: its budget, a meter of evaluations, and a timing probe."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from flowsamplers._accepted import integer, number, refused
from flowsamplers.engine import carry_dtype
from flowsamplers.lockstep import Halt


class BudgetSpent(Halt):
    """Raised when a study has spent its budget."""


@dataclass(frozen=True)
class Budget:
    """A limit on evaluations or on time.

    Attributes:
        evaluations: largest number of evaluations of one row, or None.
        seconds: largest wall time in seconds, or None.

    Raises:
        ValueError: a limit is not above 0, or no number.

    Examples:
        >>> Budget.parse("5000"), Budget.parse("1.5h")
        (Budget(evaluations=5000, seconds=None), Budget(evaluations=None, seconds=5400.0))
    """

    evaluations: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        """Check the limits."""
        if self.evaluations is not None:
            object.__setattr__(self, "evaluations", integer("evaluations", self.evaluations, 1))
        if self.seconds is not None:
            object.__setattr__(self, "seconds", number("seconds", self.seconds, above=0))

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Parse a number of evaluations, or a time such as ``90s``, ``10min``, ``2h``.

        Raises:
            ValueError: the text is neither.
            TypeError: it is no text.
        """
        if not isinstance(text, str):
            raise TypeError(str(refused("budget", text, "a text, such as '5000', '90s' or '2h'")))
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h)?", text.strip())
        if match is None or float(match[1]) <= 0 or (match[2] is None and "." in match[1]):
            raise ValueError(f"budget={text!r}: give a number of evaluations, or a time such as 90s, 10min or 2h")
        if match[2] is None:
            return cls(evaluations=int(match[1]))
        return cls(seconds=float(match[1]) * {"s": 1, "min": 60, "h": 3600}[match[2]])

    def __str__(self) -> str:
        """In words."""
        return f"{self.evaluations} evaluations" if self.seconds is None else f"{self.seconds:g} seconds"


class Meter:
    """A flow that counts its evaluations, stops before the budget is exceeded, and splits batches that do not fit into memory.

    Args:
        flow: the model.
        budget: the limit; by default none.
        on_call: called with the number of rows after every model call.

    Attributes:
        rows: number of evaluations so far.
        calls: number of model calls so far.
        fits: largest batch size to try; it is halved whenever memory runs out.
    """

    def __init__(self, flow: Any, budget: Budget | None = None, on_call: Callable[[int], None] | None = None) -> None:
        self.flow, self.budget, self.on_call = flow, budget or Budget(), on_call
        self.rows = self.calls = 0
        self.fits = sys.maxsize
        self.began = time.monotonic()
        self._slowest: dict[int, float] = {}

    def __getattr__(self, name: str) -> Any:
        """Everything else is the flow's."""
        return getattr(self.flow, name)

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began

    def left(self, seconds_each: float) -> float:
        """Compute how many more evaluations fit into the budget, if one takes this many seconds."""
        if self.budget.evaluations is not None:
            return self.budget.evaluations - self.rows
        return float("inf") if self.budget.seconds is None else (self.budget.seconds - self.seconds) / seconds_each

    def check_time(self, likely: float = 0.0) -> None:
        """Check that the budget's time is not over, nor will be after a call that is likely to take this many seconds.

        Raises:
            BudgetSpent: it is.
        """
        if self.budget.seconds is not None and self.seconds + likely > self.budget.seconds:
            raise BudgetSpent(str(self.budget))

    def velocity(self, x: Tensor, sigma: Tensor, condition: Sequence[Any] | None = None) -> Tensor:
        """Return the flow's velocity, and count it.

        Raises:
            BudgetSpent: this call would exceed the budget.
        """
        n = len(x)
        likely = self._slowest.get(n, 0.0)
        if self.budget.evaluations is not None and self.rows + n > self.budget.evaluations:
            raise BudgetSpent(str(self.budget))
        self.check_time(likely)
        before = time.monotonic()
        parts = self._fitting(x, sigma, condition)
        self._slowest[n] = max(likely, time.monotonic() - before)
        self.credit(n, len(parts))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _fitting(self, x: Tensor, sigma: Tensor, condition: Sequence[Any] | None) -> list[Tensor]:
        """The velocity in as few parts as fit the memory; of a single row that does not, the error."""
        parts: list[Tensor] = []
        lo = 0
        while lo < len(x):
            rows = slice(lo, lo + self.fits)
            try:
                parts.append(self.flow.velocity(x[rows], sigma[rows], condition and condition[rows]))
            except torch.cuda.OutOfMemoryError:
                tried = len(x[rows])
                if tried == 1:
                    raise
                self.fits = tried // 2
                continue
            lo += self.fits
        return parts

    def credit(self, rows: int, calls: int) -> None:
        """Count evaluations, including those of workers."""
        self.rows += rows
        self.calls += calls
        if self.on_call is not None:
            self.on_call(rows)


@dataclass(frozen=True)
class Probe:
    """The result of `probe`: time, operations and memory of one evaluation.

    Attributes:
        solo: seconds for an evaluation of one row alone.
        batched: seconds per row in a full batch.
        rows: number of rows in that batch.
        flops: floating-point operations of an evaluation; 0 if they were not counted.
        memory: peak memory so far, in bytes, of the device or the process; 0 if unknown.
        evaluations: number of evaluations that the probe used.
    """

    solo: float
    batched: float
    rows: int
    flops: int
    memory: int
    evaluations: int


SOLO_CALLS = 5


def probe(flow: Any, condition: str | None, rows: int) -> Probe:
    """Time a model: one row alone (the median of five calls), and a batch.

    Args:
        flow: the model.
        condition: a prompt.
        rows: number of rows in the batch.
    """
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415  (slow to import)

    x1 = flow.noise(list(range(rows)))
    sigma = torch.full((rows,), 0.5, dtype=carry_dtype(x1), device=x1.device)

    def call(n: int) -> float:
        began = time.perf_counter()
        flow.velocity(x1[:n], sigma[:n], [condition] * n)
        if x1.is_cuda:
            torch.cuda.synchronize(x1.device)
        return time.perf_counter() - began

    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            call(1)
        solo = median(call(1) for _ in range(SOLO_CALLS))
        batched = min(call(rows) for _ in range(2)) / rows if rows > 1 else solo
    spent = 1 + SOLO_CALLS + (2 * rows if rows > 1 else 0)
    return Probe(solo, batched, rows, int(counter.get_total_flops()), _memory(x1.device), spent)


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource  # noqa: PLC0415  (not on Windows)
    except ModuleNotFoundError:
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
