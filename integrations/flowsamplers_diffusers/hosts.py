"""What pipelines do to a scheduler that no argument of a scheduler tells."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from flowsamplers.engine import Evaluation


class Order(int):
    """``scheduler.order``: as a number the model calls of a step, or 1; multiplied, the index of the call that begins a step.

    Image-to-image pipelines slice ``timesteps[t_start * scheduler.order:]``. What ``t_start`` counts depends on what they passed
    to ``set_timesteps``: after a number, steps; after sigmas, entries of ``timesteps``. Either way the product is the first call of
    the step at which stock would begin.

    Examples:
        >>> calls = [Evaluation(i // 2, i % 2, 1.0) for i in range(6)]  # 3 steps of 2 calls
        >>> order = Order(1).of(calls, entries=True)
        >>> order, [t * order for t in range(7)]
        (1, [0, 0, 2, 2, 4, 4, 6])
    """

    _calls: Sequence[Evaluation] = ()
    _entries = False

    def of(self, calls: Sequence[Evaluation], *, entries: bool) -> Order:
        """The same number for these model calls; whether pipelines count entries or steps."""
        self._calls, self._entries = tuple(calls), entries
        return self

    def __mul__(self, count: Any) -> Any:
        """The index of a model call."""
        if not self._calls or not isinstance(count, int):
            return int(self) * count
        steps, listed = self._calls[-1].step + 1, len(self._calls)
        step = int((count + 0.5) * steps / listed) if self._entries else count
        return next((i for i, call in enumerate(self._calls) if call.step >= step), listed)

    __rmul__ = __mul__


def told_the_target(scheduler: Any) -> str | None:
    """The class of the model, if the calling pipeline tells it where a step ends: the next entry of ``timesteps``.

    Such models (MeanFlow, flow maps) return the mean velocity up to that time. A scheduler is told nothing of the model, so the pipeline
    is looked for among the callers.
    """
    for host in _callers():
        model = getattr(host, "transformer", None)
        if getattr(host, "scheduler", None) is scheduler and model is not None:
            config = getattr(model, "config", {})
            flagged = any(config.get(name) for name in ("use_meanflow", "flow_map")) if hasattr(config, "get") else False
            takes = "r_timestep" in inspect.signature(model.forward).parameters if hasattr(model, "forward") else False
            return type(model).__name__ if flagged or takes else None
    return None


def _callers() -> Iterator[Any]:
    frame = inspect.currentframe()
    while frame is not None:
        code = frame.f_code
        names = [n for n in ("self", "components", "pipe", "pipeline") if n in code.co_varnames[: code.co_argcount]]
        yield from (frame.f_locals[n] for n in names if n in frame.f_locals)
        frame = frame.f_back
