"""Models by name: the command line and studies know a velocity field only through this door."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from flowsamplers._errors import missing, unknown

ENTRY_POINTS = "flowsamplers.flows"
"""Entry-point group: ``name = "package:loader"``, where ``loader(model, **options)`` returns a flow."""

DEFAULT_LOADER = "klein"


def load_flow(model: str, **options: Any) -> Any:
    """Open the velocity field of a model.

    Args:
        model: ``"loader:name"``, such as ``"mixture:appendix-a"``; without a loader, a Klein model: ``"klein-digits"``, a folder, or
            a hub id.
        **options: given to the loader: for Klein prompt, height, width, guidance_scale, guidance_interval,
            batched_guidance, dtype, device, offload, full_time.

    Returns:
        A `Flow` with ``noise(seeds)``, ``tokens`` and ``passes_per_evaluation``, and ``passes(sigma)`` if these differ.

    Raises:
        ValueError: a loader that is not there; whatever the loader raises.
        ImportError: the loader's package is not installed; says how to install it.

    Examples:
        >>> load_flow("mixture:appendix-a").dim
        8
    """
    loaders = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    loader, _, name = model.partition(":")
    if loader not in loaders:
        loader, name = DEFAULT_LOADER, model
    if loader not in loaders:
        raise unknown("loader of models", loader, loaders)
    return _opened(loaders[loader])(name, **options)


def _opened(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except ModuleNotFoundError as error:
        raise missing(f"the {entry.name!r} models need", str(error.name), "diffusers") from error
