"""flowsamplers in diffusers: a drop-in scheduler, and the velocity field of a FLUX.2 Klein pipeline."""

from flowsamplers_diffusers.klein import KleinFlow
from flowsamplers_diffusers.loading import load_klein
from flowsamplers_diffusers.scheduler import FlowSamplerScheduler
from flowsamplers_diffusers.time_conditioning import full_precision_time

__all__ = ["FlowSamplerScheduler", "KleinFlow", "full_precision_time", "load_klein"]
