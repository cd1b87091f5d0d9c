"""Take a part of a finer schedule; changes of the nodes are methods of `grid.SigmaGrid`."""

from __future__ import annotations

from typing import Any

from flowsamplers._accepted import number
from flowsamplers.grid import SigmaGrid, at_least_one
from flowsamplers.registry import get_schedule

__all__ = ["denoise"]


def denoise(name: str, steps: int, denoise: float, **options: Any) -> SigmaGrid:
    r"""Take the last N steps of a schedule of $\lfloor N / d \rfloor$ steps, for image-to-image, by ComfyUI's ``denoise``.

    It always takes N steps, on a finer schedule. Two other rules keep the schedule and take fewer steps of it. diffusers' ``strength`` is
    `SigmaGrid.truncate`. ComfyUI's node SplitSigmasDenoise is ``grid.split(grid.steps - round(grid.steps * denoise))[1]``. The three rules
    begin at different sigmas.

    Args:
        name: name of the schedule.
        steps: number of steps N.
        denoise: d, in (0, 1]; 1 is the whole schedule.
        **options: options of the schedule.

    Raises:
        ValueError: ``denoise`` is outside (0, 1], or the schedule refuses a value.

    Examples:
        >>> denoise("linear", 4, 0.5).sigmas
        (0.5, 0.375, 0.25, 0.125, 0.0)

    Reference:
        ComfyUI, comfy/samplers.py, ``KSampler.set_steps``, and the node BasicScheduler.
    """
    at_least_one("steps", steps)
    number("denoise", denoise, most=1, above=0)
    whole = get_schedule(name, steps if denoise > 0.9999 else int(steps / denoise), **options)
    return whole.split(whole.steps - steps)[1] if whole.steps > steps else whole
