r"""Schedules: the noise levels of the N steps between noise and data.

Every function returns a `grid.SigmaGrid`, and is registered by name (`get_schedule`, `list_schedules`). A family is a module:

* `diffusers`: one pipeline, `flow_match_euler`, the one of diffusers' ``FlowMatchEulerDiscreteScheduler``: base sigmas, shift,
  stretch, re-spacing, terminal sigma; and the presets of FLUX, SD3 and Wan.
* `comfyui`: functions of the model's table of sigmas.
* `closed`: closed forms in the variables that suit a flow.
* `tables`: published or your own nodes.

Where one name means different schedules in diffusers and in ComfyUI, the plain name is diffusers', and ComfyUI's ends in ``_comfy``.

The option ``arithmetic``: ``"float64"`` computes in float64. ``"stock"`` repeats diffusers' operations in diffusers' precision,
so the float32 numbers are equal bit for bit. Results in float64, rounded to float32, differ in a third of the nodes.
"""

from flowsamplers.registry import ScheduleInfo, get_schedule, list_schedules, register_schedule, schedule_info
from flowsamplers.schedules.closed import (
    bong_tangent,
    chebyshev,
    exponential_ve,
    karras_ve,
    kl_optimal_rf,
    laplace,
    linear_quadratic,
    uniform_lambda,
)
from flowsamplers.schedules.combinators import denoise
from flowsamplers.schedules.comfyui import (
    beta_comfy,
    comfy_table,
    ddim_uniform,
    exponential_comfy,
    karras_comfy,
    kl_optimal,
    normal,
    sgm_uniform,
    simple,
)
from flowsamplers.schedules.diffusers import (
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
    beta_quantiles,
    beta_spacing,
    empirical_mu,
    exponential_spacing,
    flux1_mu,
    karras_spacing,
    loglinear,
    shift_sigmas,
    stretch_terminal,
    time_shift,
    tokens_for,
)
from flowsamplers.schedules.tables import TABLES, Table, table

__all__ = [
    "TABLES",
    "Arithmetic",
    "ScheduleInfo",
    "Table",
    "beta",
    "beta_comfy",
    "beta_quantiles",
    "beta_spacing",
    "bong_tangent",
    "chebyshev",
    "comfy_table",
    "ddim_uniform",
    "denoise",
    "empirical_mu",
    "explicit",
    "exponential",
    "exponential_comfy",
    "exponential_spacing",
    "exponential_ve",
    "flow_match_euler",
    "flux1",
    "flux1_mu",
    "flux2",
    "get_schedule",
    "karras",
    "karras_comfy",
    "karras_spacing",
    "karras_ve",
    "kl_optimal",
    "kl_optimal_rf",
    "laplace",
    "linear",
    "linear_quadratic",
    "list_schedules",
    "loglinear",
    "normal",
    "pipeline_sigmas",
    "register_schedule",
    "schedule_info",
    "sgm_uniform",
    "shift",
    "shift_sigmas",
    "simple",
    "stretch_terminal",
    "table",
    "time_shift",
    "tokens_for",
    "uniform_lambda",
]
