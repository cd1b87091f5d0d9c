"""Measure what bfloat16 does to the integration, and write the page about it: docs/explanation/bf16.json, bf16.png, bf16.md.

python tools/build_precision.py           # measure (some minutes), then write figure and page
python tools/build_precision.py --page    # write figure and page from the committed rows
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from building import DOCS, build, load, rendered, save, table
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

import flowsamplers as fs
from flowsamplers.reference import relative_error, solve
from flowsamplers.study import plots
from flowsamplers.study.results import geometric_mean
from flowsamplers_diffusers import FlowSamplerScheduler, KleinFlow, full_precision_time, load_klein

PAGES = DOCS / "explanation"
ROWS, FIGURE, PAGE = PAGES / "bf16.json", PAGES / "bf16.png", PAGES / "bf16.md"
STEPS = (4, 8, 16, 32, 64, 128, 256, 512)
SHOWN = (4, 16, 64, 512)
"""Of these the columns of the page, few enough for a phone."""
SUMS = (1, 2, 3, 4, 8, 16, 50, 512)
PROMPTS = ["a handwritten 3", "the digit seven", "eight", "zero"]
GUIDANCE = 1.0
SAMPLERS = {"euler": "Euler", "midpoint": "midpoint"}
ARMS = {
    "rounded": "state and time in bf16",
    "state": "state in float32",
    "time": "state and time in float32",
}
TOKENS, MU_STEPS = 16, 50


def scheduler(arm: str, sampler: str) -> Any:
    """Stock's where it has the method, with a shift that does not change with the number of steps; else the drop-in."""
    shift = math.exp(fs.schedules.empirical_mu(tokens=TOKENS, steps=MU_STEPS))
    stock = FlowMatchEulerDiscreteScheduler(shift=shift)
    if arm == "rounded" and sampler == "euler":
        return stock
    return FlowSamplerScheduler.from_config(stock.config, sampler=sampler, carry="model" if arm == "rounded" else "float32")


def final(pipe: Any, arm: str, sampler: str, steps: int) -> Tensor:
    """The packed latents that the pipeline ends with, one row a prompt."""
    seen: list[Tensor] = []

    def record(pipe: Any, i: int, t: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
        seen[:] = [values["latents"]]
        return {}

    pipe.scheduler = scheduler(arm, sampler)
    with full_precision_time(pipe.transformer, pipe.scheduler) if arm == "time" else nullcontext():
        pipe(
            prompt=PROMPTS,
            height=16,
            width=16,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            max_sequence_length=32,
            generator=[torch.Generator().manual_seed(i) for i in range(len(PROMPTS))],
            callback_on_step_end=record,
            output_type="latent",
        )
    return seen[0]


def applied(steps: int) -> tuple[float, float, float]:
    """What stock's steps add up to in bfloat16 where the velocity is 1, where they end from 1, and where the drop-in ends."""
    stock = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    one, total, ends = torch.ones(1, dtype=torch.bfloat16), 0.0, []
    for carried in (stock, FlowSamplerScheduler.from_config(stock.config)):
        carried.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), mu=fs.schedules.empirical_mu(tokens=4096, steps=steps))
        x = one
        for t in carried.timesteps:
            x = carried.step(one, t, x, return_dict=False)[0]
        ends.append(x.item())
    stock.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), mu=fs.schedules.empirical_mu(tokens=4096, steps=steps))
    for t in stock.timesteps:
        total += stock.step(one, t, torch.zeros_like(one), return_dict=False)[0].item()
    return total, *ends


def distinct(steps: int) -> int:
    """How many of the times of a 1024 x 1024 image the network can tell apart in bfloat16, by the pipeline's arithmetic."""
    grid = fs.schedules.flux2(steps, tokens=4096, arithmetic="stock")
    told = torch.tensor(grid.timesteps, dtype=torch.float32).to(torch.bfloat16) / 1000 * 1000
    return len(set(told.tolist()))


def measure(_: list[str]) -> None:
    """All runs, against the solution of the same weights in float32 arithmetic."""
    torch.set_num_threads(1)
    pipe: Any = load_klein("klein-digits", dtype="bfloat16")
    exact: Any = load_klein("klein-digits", dtype="float32")
    truths: dict[str, Any] = {}
    for name in ("float32 weights", "bfloat16 weights"):
        if name.startswith("b"):
            exact.transformer.to(torch.bfloat16).to(torch.float32)
        flow = KleinFlow(exact, height=16, width=16, guidance_scale=GUIDANCE)
        x1 = KleinFlow(pipe, height=16, width=16).noise(list(range(len(PROMPTS)))).float()
        flow._embeddings = {p: flow._encoded(p) for p in PROMPTS}
        truths[name] = solve(flow, x1, condition=PROMPTS)
    truth = truths["bfloat16 weights"]
    rows: list[dict[str, Any]] = []
    for sampler in SAMPLERS:
        for steps in STEPS:
            for arm in ARMS:
                errors = relative_error(final(pipe, arm, sampler, steps), truth.x0).tolist()
                calls = fs.nfe(sampler, fs.schedules.linear(steps))
                rows.append({"sampler": sampler, "arm": arm, "steps": steps, "nfe": calls, "errors": errors})
                print(rows[-1], flush=True)
    found = {
        "about": "made by tools/build_precision.py",
        "reference_error": truth.error.max().item(),
        "output_rounding": geometric_mean(relative_error(truth.x0.bfloat16(), truth.x0).tolist()),
        "weights": geometric_mean(relative_error(truths["float32 weights"].x0, truth.x0).tolist()),
        "sums": [[n, *applied(n)] for n in SUMS],
        "distinct": [[n, distinct(n)] for n in (4, 10, 20, 50, 100)],
        "rows": rows,
    }
    save(ROWS, found)


def curve(found: dict[str, Any], sampler: str, arm: str) -> list[tuple[int, float]]:
    """Steps and the geometric mean of the errors."""
    return [(r["steps"], geometric_mean(r["errors"])) for r in found["rows"] if (r["sampler"], r["arm"]) == (sampler, arm)]


def figure() -> bytes:
    """Error against steps, a panel for each sampler."""
    found = load(ROWS)
    fig, ((left, right),) = plots._figure(7.2, 3.9, 1, 2)
    top = max(e for s in SAMPLERS for a in ARMS for _, e in curve(found, s, a))
    for axes, sampler in ((left, "euler"), (right, "midpoint")):
        for arm, colour, marker in zip(ARMS, plots.PALETTE, plots.MARKERS, strict=False):
            steps, errors = zip(*curve(found, sampler, arm), strict=True)
            wide = {"linewidth": 5, "markersize": 8, "alpha": 0.6} if arm == "state" else {"linewidth": 1.8, "markersize": 4.5}
            axes.plot(steps, errors, color=colour, marker=marker, label=ARMS[arm], **wide)
        axes.axhline(found["output_rounding"], color="#999999", linewidth=1, linestyle=":")
        axes.set(xscale="log", yscale="log", xlabel="steps", title=sampler, ylim=(found["output_rounding"] / 2, 2 * top))
        plots._ticks(axes, STEPS)
        plots._grid(axes)
    left.set_ylabel("relative error")
    left.annotate(
        "rounding of the result",
        (STEPS[0], found["output_rounding"]),
        xytext=(0, 3),
        textcoords="offset points",
        fontsize=8.5,
        color=plots.GREY,
    )
    fig.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return plots.png(fig)


def page() -> str:
    """The page, from the committed rows."""
    found = load(ROWS)
    at = {(s, a): dict(curve(found, s, a)) for s in SAMPLERS for a in ARMS}
    many = STEPS[-1]
    some = (16, 64, many)
    rows = ([f"`{s}`, {words}", *(f"{at[s, arm][n]:.4f}" for n in SHOWN)] for s in SAMPLERS for arm, words in ARMS.items())
    return rendered(
        "bf16.md",
        globals(),
        found=found,
        many=many,
        lowest={s: min(at[s, "rounded"], key=at[s, "rounded"].__getitem__) for s in SAMPLERS},
        gains=[at["euler", "rounded"][n] / at["euler", "state"][n] for n in some],
        late=max(at["midpoint", "state"][n] / at["midpoint", "time"][n] for n in some),
        ends={n: ends for n, *ends in found["sums"]},
        distinct=dict(found["distinct"]),
        errors_at=table(" | ".join(["sampler and arithmetic", *(f"{n} steps:" for n in SHOWN)]), rows),
    )


def verdict_of_time(worst: float) -> str:
    """What the largest ratio of the errors with rounded and exact times says."""
    return "also matters." if worst > 1.5 else "matters less." if worst > 1.1 else "makes little difference here."


WRITTEN = {PAGE: page, FIGURE: figure}

if __name__ == "__main__":
    build(__doc__, WRITTEN, measure)
