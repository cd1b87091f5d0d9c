"""The scheduler's own time per model call beside stock FlowMatchEuler's, in one run, as a ratio.

    python tools/bench_scheduler.py

Both run the same loop over the same schedule with a velocity that costs nothing. The machine's noise hits both alike: they take
turns, and the median over the turns is printed.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from flowsamplers_diffusers import FlowSamplerScheduler

STEPS, TURNS = 50, 40
SHAPES = {"tiny 1x16x16": (1, 16, 16), "1024x1024 image 1x4096x128": (1, 4096, 128)}


def seconds_per_call(scheduler: object, x: torch.Tensor, v: torch.Tensor) -> float:
    """One run through the schedule."""
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / STEPS, STEPS))
    scheduler.set_begin_index(0)
    sample = x
    began = time.perf_counter()
    for t in scheduler.timesteps:
        sample = scheduler.step(v, t, sample, return_dict=False)[0]
    return (time.perf_counter() - began) / len(scheduler.timesteps)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(f"{'latents':<28}{'dtype':<10}{'sampler':<10}{'stock us':>10}{'ours us':>10}{'ratio':>8}")
    for label, shape in SHAPES.items():
        for dtype in (torch.bfloat16, torch.float32):
            x, v = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
            for sampler, carry in (
                ("euler", "model"),
                ("euler", "float32"),
                ("ab2", "float32"),
                ("heun", "float32"),
                ("rk4", "float32"),
            ):
                stock = FlowMatchEulerDiscreteScheduler(shift=3.0)
                ours = FlowSamplerScheduler(shift=3.0, sampler=sampler, carry=carry)
                ours._announced = (STEPS, STEPS)
                pairs = [(seconds_per_call(stock, x, v), seconds_per_call(ours, x, v)) for _ in range(TURNS)]
                a, b = (statistics.median(p) * 1e6 for p in zip(*pairs, strict=True))
                name = f"{sampler}{'*' if carry == 'model' else ''}"
                print(f"{label:<28}{str(dtype).removeprefix('torch.'):<10}{name:<10}{a:>10.1f}{b:>10.1f}{b / a:>8.2f}")
    print("* carry='model': stock's own arithmetic")


if __name__ == "__main__":
    main()
