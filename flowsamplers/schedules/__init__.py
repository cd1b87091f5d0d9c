r"""Builders of schedules: how the N steps are spread between noise and data.

Every builder returns a `grid.SigmaGrid`. They are all one pipeline, `flow_match_euler`, the one of
diffusers' ``FlowMatchEulerDiscreteScheduler``: base sigmas, shift, stretch, re-spacing, terminal sigma.

Two arithmetics: ``"float64"`` computes in float64; ``"stock"`` repeats diffusers' operations in diffusers' precision, so the
float32 numbers are the same bit for bit (float64 rounded once differs in a third of the nodes).
"""

from flowsamplers.schedules.builders import (
    Arithmetic,
    beta,
    explicit,
    exponential,
    flow_match_euler,
    flux1,
    flux2,
    karras,
    linear,
    pipeline_sigmas,
    shift,
)
from flowsamplers.schedules.maps import (
    beta_spacing,
    empirical_mu,
    exponential_spacing,
    flux1_mu,
    karras_spacing,
    shift_sigmas,
    stretch_terminal,
    time_shift,
    tokens_for,
)
from flowsamplers.schedules.registry import ScheduleInfo, get_schedule, list_schedules, register_schedule

__all__ = [
    "Arithmetic",
    "ScheduleInfo",
    "beta",
    "beta_spacing",
    "empirical_mu",
    "explicit",
    "exponential",
    "exponential_spacing",
    "flow_match_euler",
    "flux1",
    "flux1_mu",
    "flux2",
    "get_schedule",
    "karras",
    "karras_spacing",
    "linear",
    "list_schedules",
    "pipeline_sigmas",
    "register_schedule",
    "shift",
    "shift_sigmas",
    "stretch_terminal",
    "time_shift",
    "tokens_for",
]
