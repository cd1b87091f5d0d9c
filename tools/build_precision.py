"""Measure what bfloat16 does to the integration, and write the page about it: docs/explanation/bf16.json, bf16.png, bf16.md.

python tools/build_precision.py           # measure (some minutes), then write figure and page
python tools/build_precision.py --page    # write figure and page from the committed rows
"""

from __future__ import annotations

import json
import math
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

import flowsamplers as fs
from flowsamplers.reference import relative_error, solve
from flowsamplers.study import plots
from flowsamplers.study.results import geometric_mean
from flowsamplers_diffusers import FlowSamplerScheduler, KleinFlow, full_precision_time, load_klein

PAGES = Path(__file__).parent.parent / "docs" / "explanation"
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


def measure() -> None:
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
    PAGES.mkdir(exist_ok=True)
    write(found)


def write(found: dict[str, Any]) -> None:
    """A line for each value, and for each row."""
    rows = ",\n".join(json.dumps(r) for r in found["rows"])
    head = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in found.items() if k != "rows")
    ROWS.write_text(f'{{{head},\n"rows": [\n{rows}\n]}}\n')


def curve(found: dict[str, Any], sampler: str, arm: str) -> list[tuple[int, float]]:
    """Steps and the geometric mean of the errors."""
    return [(r["steps"], geometric_mean(r["errors"])) for r in found["rows"] if (r["sampler"], r["arm"]) == (sampler, arm)]


def figure(found: dict[str, Any]) -> bytes:
    """Error against steps, a panel for each sampler."""
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


def table(found: dict[str, Any]) -> list[str]:
    """Samplers and arms, by steps."""
    lines = [
        "| sampler and arithmetic | " + " | ".join(f"{n} steps" for n in SHOWN) + " |",
        "| --- " + "| --: " * len(SHOWN) + "|",
    ]
    for sampler in SAMPLERS:
        for arm, words in ARMS.items():
            at = dict(curve(found, sampler, arm))
            lines.append(f"| `{sampler}`, {words} | " + " | ".join(f"{at[n]:.4f}" for n in SHOWN) + " |")
    return lines


def page(found: dict[str, Any] | None = None) -> str:
    """The page, from the committed rows."""
    found = found or json.loads(ROWS.read_text())
    at = {(s, a): dict(curve(found, s, a)) for s in SAMPLERS for a in ARMS}
    many, floor = STEPS[-1], found["output_rounding"]
    lowest = {s: min(at[s, "rounded"], key=at[s, "rounded"].__getitem__) for s in SAMPLERS}
    gains = [at["euler", "rounded"][n] / at["euler", "state"][n] for n in (16, 64, many)]
    late = max(at["midpoint", "state"][n] / at["midpoint", "time"][n] for n in (16, 64, many))
    ends = {n: (total, stock, ours) for n, total, stock, ours in found["sums"]}
    distinct = dict(found["distinct"])
    text = f"""
# What bfloat16 does to the error

<!-- written by tools/build_precision.py from docs/explanation/bf16.json -->

**With many steps, a stock pipeline in bfloat16 becomes less accurate,** because it rounds the latents after every step. `FlowSamplerScheduler`
keeps the latents in float32, so its error keeps falling. With few steps, precision does not matter.

![Relative error against the number of steps, with state and time in bfloat16 or float32](bf16.png)

## In your pipeline

```python
from flowsamplers_diffusers import FlowSamplerScheduler, full_precision_time

pipe.scheduler = FlowSamplerScheduler.from_config(pipe.scheduler.config)  # state in float32
with full_precision_time(pipe.transformer, pipe.scheduler):  # and time
    image = pipe(prompt="a cat", num_inference_steps=50).images[0]
```

The context gives the transformer's time embedding the scheduler's float32 time, if it equals the pipeline's value up to rounding. It
also works with stock's scheduler, and in every pipeline of [the Klein family](../reference/compatibility.md#flux2-klein).
`KleinFlow(pipe, full_time=True)` and `flowsamplers study --full-time` do the same for velocity fields.

## What a stock pipeline rounds

A bfloat16 number has eight significant bits. That is enough for a network, but too few for the sum of all steps.

1. **The network**, that is, weights and activations. A sampler cannot change this.
2. **The state.** N steps make N roundings of the latents, and with many steps each is as large as a step.
3. **The time.** Between 512 and 1024, bfloat16 numbers are 4 apart, so the network gets a slightly wrong noise level. Of 50 timesteps of a
   1024 x 1024 image, {distinct[50]} are different in bfloat16. Of 100, {distinct[100]} are.
4. **The step.** The steps in sigma must add up to -1. Stock's add up to {ends[4][0]:.6f} with 4 steps and to {ends[50][0]:.6f} with 50. With a
   velocity of 1, a run of {many} steps from 1 ends at {ends[many][1]:+.3f}. The drop-in ends at {ends[many][2]:.0f}.

## The measured error

{chr(10).join(table(found))}

These are relative errors of the final latents of klein-digits in bfloat16, run by the stock `Flux2KleinPipeline`. They are geometric means over
{len(PROMPTS)} prompts and noises, with guidance {GUIDANCE:g} and one fixed shift. The exact solution belongs to the same rounded weights in float32; its own error
is {found["reference_error"]:.0e}. `euler` with state and time in bf16 is stock's scheduler. Stock has no midpoint rule, so there `midpoint` is
`FlowSamplerScheduler(carry="model")`. [All values](bf16.json) include 8, 32, 128 and 256 steps.

* **Stock's error rises with many steps.** It is smallest at {lowest["euler"]} steps with `euler` and at {lowest["midpoint"]} with `midpoint`.
* **A float32 state removes this error.** With `euler` the error is {gains[0]:.2f}, {gains[1]:.2f} and {gains[2]:.1f} times smaller at 16, 64 and {many} steps.
* **The rounded time {verdict_of_time(late)}** It makes the error of `midpoint` at most {late:.2f} times larger. A larger model may depend more strongly on
  the time.
* **The noise floor:** the error of a bfloat16 model stops falling at its rounding error. Below it you cannot measure an order. `flowsamplers study`
  draws the floor. Rounding the result alone makes an error of {floor:.4f}, the dotted line.

The real weights have not been measured. This page says nothing about which images look better: a model may have been trained with rounded times.
"""
    return text.lstrip("\n")


def verdict_of_time(worst: float) -> str:
    """What the largest ratio of the errors with rounded and exact times says."""
    return "also matters." if worst > 1.5 else "matters less." if worst > 1.1 else "makes little difference here."


if __name__ == "__main__":
    if "--page" not in sys.argv[1:]:
        measure()
    FIGURE.write_bytes(figure(json.loads(ROWS.read_text())))
    PAGE.write_text(page())
