"""Samplers and schedules for flow-matching models, and the tools to measure them.

Examples:
    >>> import flowsamplers as fs
    >>> grid = fs.schedules.flux2(steps=4, tokens=4096)
    >>> [round(s, 4) for s in grid.sigmas]
    [1.0, 0.9674, 0.9081, 0.7672, 0.0]
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowsamplers import flows, plot, reference, schedules, study
    from flowsamplers.benchmark import recommend
    from flowsamplers.brownian import BrownianNoise
    from flowsamplers.engine import StepEnd, Stop, Velocity, dry_run, largest_steps, live_latents, nfe, sample
    from flowsamplers.fitting import fit
    from flowsamplers.fitting_weights import fit_ns_solver
    from flowsamplers.grid import SigmaGrid
    from flowsamplers.lockstep import Flow, Run, sample_many
    from flowsamplers.noise import GeneratorNoise, KeyedNoise, Noise
    from flowsamplers.profiling import Profile, profile
    from flowsamplers.registry import SamplerInfo, get_sampler, list_samplers, register, sampler_info, to_config
    from flowsamplers.sampler import Evaluate, Sampler, Step
    from flowsamplers.samplers.stochastic import convert_eta
    from flowsamplers.schedules import ScheduleInfo, get_schedule, list_schedules, schedule_info
    from flowsamplers.solver import Solver, Validation, load_solver
    from flowsamplers.stepper import Stepper
    from flowsamplers.tracing import Trace, log_prob, trace

__version__ = "0.1.0"

__all__ = [
    "BrownianNoise",
    "Evaluate",
    "Flow",
    "GeneratorNoise",
    "KeyedNoise",
    "Noise",
    "Profile",
    "Run",
    "Sampler",
    "SamplerInfo",
    "ScheduleInfo",
    "SigmaGrid",
    "Solver",
    "Step",
    "StepEnd",
    "Stepper",
    "Stop",
    "Trace",
    "Validation",
    "Velocity",
    "__version__",
    "convert_eta",
    "dry_run",
    "fit",
    "fit_ns_solver",
    "flows",
    "get_sampler",
    "get_schedule",
    "largest_steps",
    "list_samplers",
    "list_schedules",
    "live_latents",
    "load_solver",
    "log_prob",
    "nfe",
    "plot",
    "profile",
    "recommend",
    "reference",
    "register",
    "sample",
    "sample_many",
    "sampler_info",
    "schedule_info",
    "schedules",
    "study",
    "to_config",
    "trace",
]

_HOMES = {
    "benchmark": "recommend",
    "brownian": "BrownianNoise",
    "engine": "StepEnd Stop Velocity dry_run largest_steps live_latents nfe sample",
    "fitting": "fit",
    "fitting_weights": "fit_ns_solver",
    "grid": "SigmaGrid",
    "lockstep": "Flow Run sample_many",
    "noise": "GeneratorNoise KeyedNoise Noise",
    "profiling": "Profile profile",
    "registry": "SamplerInfo get_sampler list_samplers register sampler_info to_config",
    "sampler": "Evaluate Sampler Step",
    "samplers.stochastic": "convert_eta",
    "schedules": "ScheduleInfo get_schedule list_schedules schedule_info",
    "solver": "Solver Validation load_solver",
    "stepper": "Stepper",
    "tracing": "Trace log_prob trace",
}
"""The public names by the module that has them: it is imported, and torch with it, when one of its names is used first."""
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}


if not TYPE_CHECKING:  # a type checker knows the names from above, and what is not among them is an error

    def __getattr__(name: str) -> Any:
        if name in _HOME:
            value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        elif name in __all__:
            value = import_module(f"{__name__}.{name}")
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
