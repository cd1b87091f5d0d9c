"""flowsamplers in diffusers: a drop-in scheduler, and the velocity field of a FLUX.2 Klein pipeline.

`scheduler` is the class that a pipeline calls. It makes the schedule, and drives `run`: one run of a sampler, with its state between
the calls. `timesteps` looks up the times that a pipeline passes back. `pipelines` reads what a pipeline does not pass.
`other_schedulers` reads the configurations of UniPC, DPM-Solver, DEIS and SA-Solver. `stock` runs diffusers' own schedulers for
comparison, and `testing` has the laws of a scheduler.

`klein` is the velocity field. `loading` opens its pipeline, and `time_conditioning` gives its network the exact time.
"""

from flowsamplers_diffusers.klein import KleinFlow
from flowsamplers_diffusers.loading import load_klein
from flowsamplers_diffusers.scheduler import FlowSamplerScheduler
from flowsamplers_diffusers.time_conditioning import full_precision_time

__all__ = ["FlowSamplerScheduler", "KleinFlow", "full_precision_time", "load_klein"]
