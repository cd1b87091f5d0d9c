"""The registry: samplers, schedules, flows and metrics by name, including those of other packages.

A package adds its own through an entry point. The names of all entry points are read once. The code of an entry point is
imported when its name is requested, or when everything is listed. If it cannot be loaded, a list shows a warning, and a request
by name raises an error. If two things have one name, the error names both.

Every argument that takes a name also takes a *specification*, ``name:option=value,option=value``.
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
