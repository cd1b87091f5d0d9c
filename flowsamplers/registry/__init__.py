"""The registry: samplers, schedules, flows and metrics by name, those of other packages among them.

A package adds its own by an entry point. The entry points of the environment are read once, by name; the code behind one is imported
when its name is asked for, or when everything is listed. One that cannot be loaded is a warning in a list, and an error where it is
asked for by name; a name that two things claim is an error that names both.

Samplers and schedules may be written as *specifications*, ``name:option=value,option=value``, wherever a name is accepted.
"""

from flowsamplers.registry.names import Registered, Registry
from flowsamplers.registry.others import FLOWS, METRICS
from flowsamplers.registry.samplers import (
    SAMPLERS,
    SamplerInfo,
    get_sampler,
    list_samplers,
    name_of,
    register,
    sampler_info,
    to_config,
)
from flowsamplers.registry.schedules import (
    SCHEDULES,
    ScheduleInfo,
    get_schedule,
    list_schedules,
    register_schedule,
    schedule_info,
)
from flowsamplers.registry.specifications import parse_options, parse_specification

__all__ = [
    "FLOWS",
    "METRICS",
    "SAMPLERS",
    "SCHEDULES",
    "Registered",
    "Registry",
    "SamplerInfo",
    "ScheduleInfo",
    "get_sampler",
    "get_schedule",
    "list_samplers",
    "list_schedules",
    "name_of",
    "parse_options",
    "parse_specification",
    "register",
    "register_schedule",
    "sampler_info",
    "schedule_info",
    "to_config",
]
