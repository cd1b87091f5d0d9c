"""Replace the sampler of a FLUX.2 [klein] pipeline.

The script uses klein-digits, the small Klein that ships with the library. For the real model, load
"black-forest-labs/FLUX.2-klein-base-4B" with Flux2KleinPipeline.from_pretrained instead, and use your own prompt and size.
"""

import torch

from flowsamplers_diffusers import FlowSamplerScheduler, load_klein

pipe = load_klein("klein-digits")
call = {"prompt": "a handwritten 7", "height": 16, "width": 16, "max_sequence_length": 32, "num_inference_steps": 8}


def draw():
    """One image from one noise, as latents."""
    return pipe(**call, guidance_scale=2.0, generator=torch.Generator().manual_seed(0), output_type="latent").images


before = draw()
pipe.scheduler = FlowSamplerScheduler.from_config(pipe.scheduler.config, sampler="ab2", sampler_options={"last": "midpoint"})
after = draw()
print(f"model calls: {len(pipe.scheduler.timesteps)}")
print(f"relative difference of the latents: {((after - before).norm() / before.norm()).item():.3f}")
