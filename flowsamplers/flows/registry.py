"""Open models by name; the command line and studies use only this function."""

from __future__ import annotations

from typing import Any

from flowsamplers._accepted import missing, text
from flowsamplers.registry import FLOWS

__all__ = ["load_flow"]

DEFAULT_LOADER = "klein"


def load_flow(model: str, **options: Any) -> Any:
    """Open the velocity field of a model by name.

    Args:
        model: ``"loader:name"``, such as ``"mixture:four-gaussians"``; without a loader, a Klein model: ``"klein-digits"`` or
            ``"klein-emoji"``, each also with ``-distilled``, a folder, or a hub id.
        **options: options of the loader. For Klein: prompt, height, width, guidance_scale, guidance_interval, batched_guidance,
            dtype, device, offload, full_time.

    Returns:
        A `Flow` with ``noise(seeds)``, ``tokens`` and ``passes_per_evaluation``, and with ``passes(sigma)`` if these depend on sigma.

    Raises:
        ValueError: there is no such loader, or the loader refuses a value.
        ImportError: the loader's package is not installed; the message says how to install it.

    Examples:
        >>> load_flow("mixture:four-gaussians").dim
        8
    """
    loader, colon, name = text("model", model, "the name of a model").partition(":")
    if colon and loader in FLOWS.names() and not name:
        raise ValueError(
            f"model={model!r}: the name after the colon is missing; accepted is 'loader:name', such as 'mixture:1'"
        )
    if loader not in FLOWS.names():
        loader, name = DEFAULT_LOADER, model
    try:
        found = FLOWS.find(loader)
    except ImportError as error:
        cause = error.__cause__
        if isinstance(cause, ModuleNotFoundError) and "flowsamplers_diffusers" in str(error):
            raise missing(f"the {loader!r} models need", str(cause.name), "diffusers") from cause
        raise
    return found.info(name, **options)
