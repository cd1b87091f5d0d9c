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

from flowsamplers.registry.schedules import *
from flowsamplers.schedules.closed import *
from flowsamplers.schedules.combinators import *
from flowsamplers.schedules.comfyui import *
from flowsamplers.schedules.diffusers import *
from flowsamplers.schedules.maps import *
from flowsamplers.schedules.tables import *
