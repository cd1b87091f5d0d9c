"""Read from the calling diffusers pipeline what it does not pass to its scheduler."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

from flowsamplers.engine import Evaluation


class Order(int):
    """The value of ``scheduler.order``: an integer that also finds the first model call for image-to-image.

    Image-to-image pipelines slice ``timesteps[t_start * scheduler.order:]``. ``t_start`` counts steps if the pipeline passed a number
    to ``set_timesteps``, and entries of ``timesteps`` if it passed sigmas. In both cases the product here is the first call of the step
    at which stock would begin. If all steps have equally many calls, ``t_start`` determines that step. Otherwise it is computed from the
    strength, which is read from the pipeline's own function.

    A progress bar advances once for each step or entry that the pipeline counts. The pipeline computes the calls at which it advances
    from ``len(timesteps) - num_inference_steps * order`` and ``(i + 1) % order``.

    Examples:
        >>> calls = [Evaluation(i // 2, i % 2, 1.0) for i in range(6)]  # 3 steps of 2 calls
        >>> order = Order.of(calls, entries=True)
        >>> order, [t * order for t in range(7)]
        (1, [0, 0, 2, 2, 4, 4, 6])
        >>> 6 - 5 * order  # it begins with call 0 and counts 5 entries: the bar skips one call
        1
    """

    _calls: Sequence[Evaluation] = ()
    _entries = False
    begin = 0
    """Index of the first model call of the run."""

    @classmethod
    def of(cls, calls: Sequence[Evaluation], *, entries: bool) -> Order:
        """Return the order for these model calls; ``entries`` says whether the pipeline counts entries or steps."""
        most = max(Counter(call.step for call in calls).values())
        order = cls(most if not entries and len(calls) == most * (calls[-1].step + 1) else 1)
        order._calls, order._entries = tuple(calls), entries
        return order

    def __mul__(self, count: Any) -> Any:
        """The index of a model call."""
        if not self._calls or not isinstance(count, int):
            return int(self) * count
        strength = _strength()
        step = self._step(count, strength) if self._entries else count
        index = next((i for i, call in enumerate(self._calls) if call.step >= step), len(self._calls))
        self.begin = self.begin if strength is None else index
        found = _Index(index)
        found.count = count if self._entries else None
        return found

    __rmul__ = __mul__

    def __rmod__(self, calls: Any) -> Any:
        """0 if the bar advances after so many calls of the run: after each, or, where pipelines count steps, at the end of a step."""
        if not self._calls or self._entries or not isinstance(calls, int):
            return calls % int(self)
        next_call = self.begin + calls
        return int(next_call < len(self._calls) and self._calls[next_call].stage > 0)

    def _step(self, entry: int, strength: float | None) -> int:
        """The step where stock begins, if a pipeline that counts entries begins with this one."""
        steps, listed = self._calls[-1].step + 1, len(self._calls)
        if strength is not None and t_start(listed, strength) == entry:
            return t_start(steps, strength)
        return int((entry + 0.5) * steps / listed)


class _Index(int):
    """The index of a model call. Subtracted from the calls that a pipeline has, it leaves those that its progress bar does not count."""

    count: int | None = None
    """How many entries the pipeline counts, or None if it counts steps."""

    def __rsub__(self, calls: Any) -> Any:
        """The calls before the first update of the bar."""
        return 0 if self.count is None else max(0, calls - self.count)


def t_start(count: int, strength: float) -> int:
    """Compute ``t_start`` of a pipeline from its number of steps and strength, in diffusers' arithmetic.

    Examples:
        >>> t_start(3, 0.5), t_start(4, 0.5)
        (1, 2)
    """
    return int(max(count - min(count * strength, count), 0))


def _strength() -> float | None:
    """The strength, if it is a pipeline's ``get_timesteps`` that multiplies by `Order`: it slices the list of times there."""
    frame = inspect.currentframe()
    host = frame and frame.f_back and frame.f_back.f_back
    value = host.f_locals.get("strength") if host and host.f_code.co_name == "get_timesteps" else None
    return value if isinstance(value, float | int) else None


def skipped_layers() -> tuple[float, float] | None:
    """Find the window of SD3's skip-layer guidance, if the calling pipeline uses it, as shares of the number of steps.

    The pipeline compares the window with the index of the model call.
    """
    for frame in _frames():
        window = [frame.f_locals.get(f"skip_layer_guidance_{end}") for end in ("start", "stop")]
        if frame.f_locals.get("skip_guidance_layers") is not None and all(isinstance(w, float | int) for w in window):
            return window[0], window[1]  # pyright: ignore[reportReturnType]
    return None


def mean_velocity_model(scheduler: Any) -> str | None:
    """Return the model's class if the calling pipeline passes it the end of the step, the next entry of ``timesteps``; else None.

    Such models (MeanFlow, flow maps) return the mean velocity up to that time. A scheduler has no access to the model, so the
    pipeline is searched among the callers.
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
    for frame in _frames():
        code = frame.f_code
        names = [n for n in ("self", "components", "pipe", "pipeline") if n in code.co_varnames[: code.co_argcount]]
        yield from (frame.f_locals[n] for n in names if n in frame.f_locals)


def _frames() -> Iterator[FrameType]:
    """Where this is called from, the nearest first."""
    frame = inspect.currentframe()
    while frame is not None:
        yield frame
        frame = frame.f_back
