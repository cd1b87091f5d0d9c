"""What is done with a whole schedule before it is made; what is done with its nodes are methods of `grid.SigmaGrid`."""

from __future__ import annotations

from typing import Any

from flowsamplers.grid import SigmaGrid
from flowsamplers.registry import get_schedule
from flowsamplers.schedules.maps import at_least_one


def denoise(name: str, steps: int, denoise: float, **options: Any) -> SigmaGrid:
    r"""ComfyUI's ``denoise``: the last N steps of a schedule of $\lfloor N / d \rfloor$ steps, for image-to-image.

    It always takes N steps, on a finer schedule. The other two rules keep the schedule and take fewer steps of it: diffusers'
    ``strength`` is `SigmaGrid.truncate`, ComfyUI's node SplitSigmasDenoise is
    ``grid.split(grid.steps - round(grid.steps * denoise))[1]``. They begin at different sigmas.

    Args:
        name: of the schedule.
        steps: N.
        denoise: d, in (0, 1]; 1 is the whole schedule.
        **options: of the schedule.

    Raises:
        ValueError: a denoise outside (0, 1]; whatever the schedule raises.

    Examples:
        >>> denoise("linear", 4, 0.5).sigmas
        (0.5, 0.375, 0.25, 0.125, 0.0)

    Reference:
        ComfyUI, comfy/samplers.py, ``KSampler.set_steps``, and the node BasicScheduler.
    """
    at_least_one("steps", steps)
    if not 0 < denoise <= 1:
        raise ValueError(f"denoise={denoise}: the share of the schedule to run, above 0 and at most 1")
    whole = get_schedule(name, steps if denoise > 0.9999 else int(steps / denoise), **options)
    return whole.split(whole.steps - steps)[1] if whole.steps > steps else whole
