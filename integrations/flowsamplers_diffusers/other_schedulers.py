"""Read configurations of diffusers' other flow schedulers (UniPC, DPM-Solver, DEIS, SA-Solver), and compute their sigmas."""

from __future__ import annotations

import difflib
import inspect
import json
import logging
import warnings
from collections.abc import Collection, Mapping
from typing import Any

import diffusers

from flowsamplers.grid import SigmaGrid

logger = logging.getLogger(__name__)


def translated(config: Any, accepted: Collection[str], changes: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Translate a configuration of any scheduler to FlowMatchEuler's options; warn if something is lost.

    Args:
        config: the configuration.
        accepted: names of our options.
        changes: what the caller wants otherwise, by our names or the other scheduler's.

    Returns:
        The configuration and the changes, by our names.

    Raises:
        ValueError: a key is unknown and similar to one of ours.
    """
    if not isinstance(config, dict):
        return config, changes
    values: dict[str, Any] = dict(config)
    _refuse_typos(values, accepted)
    predicts = values.get("prediction_type") or "flow_prediction"
    if predicts != "flow_prediction":
        logger.warning(
            "prediction_type=%r: the model does not predict a velocity, and this scheduler takes nothing else", predicts
        )
    if not values.pop("use_flow_sigmas", False):
        return values, changes
    known, flow_shift = values.get("schedule_of"), values.pop("flow_shift", values.get("shift", 1.0))
    # a keyword, because diffusers drops values of a configuration that are defaults of its own class
    changes = {"shift": changes.pop("flow_shift", flow_shift), **changes}
    values["schedule_of"] = _description({**(known or {}), **values, **changes}, known)
    if not known:
        logger.warning(
            "use_flow_sigmas: the schedule of %s is taken over with shift=%s; the method is what sampler= names",
            *(values["schedule_of"]["_class_name"], changes["shift"]),
        )
    return {k: v for k, v in values.items() if k in accepted or k.startswith("_")}, changes


def sigmas_of(description: Mapping[str, Any], steps: int, *, shift: float, mu: float | None) -> SigmaGrid:
    """Compute the sigmas of a scheduler with this configuration.

    If the last sigma is repeated (DEIS, or ``final_sigmas_type="sigma_min"``), the image would keep noise. The run then ends at 0.

    Args:
        description: the configuration, with ``_class_name``.
        steps: number of steps N.
        shift: its ``flow_shift``.
        mu: strength of the dynamic shift, used if the configuration has ``use_dynamic_shifting``.

    Raises:
        ValueError: diffusers has no such class; or sigmas are outside [0, 1], as with Karras re-spacing in DPM-Solver.
    """
    name = description.get("_class_name")
    cls = getattr(diffusers, name, None) if isinstance(name, str) else None
    if cls is None:
        raise ValueError(f"schedule_of: {name!r} is no scheduler of diffusers; _class_name says whose sigmas are wanted")
    takes = inspect.signature(cls.__init__).parameters
    dynamic = {"mu": mu} if description.get("use_dynamic_shifting") and mu is not None else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of numpy, for what diffusers does with its tensors
        scheduler = cls(**{k: v for k, v in {**description, "flow_shift": shift}.items() if k in takes})
        scheduler.set_timesteps(steps, **dynamic)
    *nodes, end = scheduler.sigmas.tolist()
    if not all(0 <= s <= 1 for s in nodes):
        chosen = [k for k in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas") if description.get(k)]
        raise ValueError(
            f"{' and '.join(f'{k}=True' for k in chosen)}: with it, {name} makes sigmas from {nodes[0]:.3g} to {nodes[-1]:.3g}, and "
            "noise levels of a flow lie between 0 and 1. Set it to False in from_config, or pass sigmas to set_timesteps"
        )
    return SigmaGrid([*nodes, end if end < nodes[-1] else 0.0])


def _description(config: Mapping[str, Any], known: Mapping[str, Any] | None) -> dict[str, Any]:
    """What is needed to make the scheduler again, as JSON values; of one that is described already, with what has changed since."""
    name = known["_class_name"] if known else _class_of(config)
    takes = inspect.signature(getattr(diffusers, name).__init__).parameters
    kept = {k: v for k, v in config.items() if k in takes and k != "flow_shift" and _is_json(v)}
    return {"_class_name": name, "use_flow_sigmas": True, **kept}


def _class_of(config: Mapping[str, Any]) -> str:
    """The class is in the configuration if it was read from a file or another configuration; else the keys tell."""
    name = config.get("_class_name")
    cls = getattr(diffusers, name, None) if isinstance(name, str) else None
    if cls is not None and "use_flow_sigmas" in inspect.signature(cls.__init__).parameters:
        return str(name)
    if config.get("algorithm_type") == "deis":
        return "DEISMultistepScheduler"
    return next((name for key, name in _OWN_KEYS.items() if key in config), "DPMSolverSinglestepScheduler")


_OWN_KEYS = {
    "predict_x0": "UniPCMultistepScheduler",
    "predictor_order": "SASolverScheduler",
    "use_lu_lambdas": "DPMSolverMultistepScheduler",
}
"""Options that one scheduler alone has."""


def _refuse_typos(config: Mapping[str, Any], accepted: Collection[str]) -> None:
    for key in config:
        near = difflib.get_close_matches(key, accepted, n=1, cutoff=0.8)
        if key not in accepted and not key.startswith("_") and near and key not in _KNOWN_ELSEWHERE:
            raise ValueError(f"configuration: unknown key {key!r}, did you mean {near[0]!r}?")


_KNOWN_ELSEWHERE = {"final_sigmas_type", "schedule_mode"}
"""Keys of other schedulers that look like ours."""


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True
