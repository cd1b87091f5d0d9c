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
    lines = ["| sampler | " + " | ".join(["carried", *map(str, STEPS)]) + " |", "| --- " * (2 + len(STEPS)) + "|"]
    for sampler in SAMPLERS:
        for arm, words in ARMS.items():
            cells = [f"{error:.4f}" for _, error in curve(found, sampler, arm)]
            lines.append("| " + " | ".join([f"`{sampler}`", words, *cells]) + " |")
    return lines


def page(found: dict[str, Any] | None = None) -> str:
    """The page, from the committed rows."""
    found = found or json.loads(ROWS.read_text())
    at = {(s, a): dict(curve(found, s, a)) for s in SAMPLERS for a in ARMS}
    many, floor = STEPS[-1], found["output_rounding"]
    lowest = {s: min(at[s, "rounded"], key=at[s, "rounded"].__getitem__) for s in SAMPLERS}
    gains = [at["euler", "rounded"][n] / at["euler", "state"][n] for n in (16, 64, many)]
    late = [at["midpoint", "state"][n] / at["midpoint", "time"][n] for n in (16, 64, many)]
    sums = [f"| {n} | {total:+.6f} | {stock:+.6f} | {ours:+.6f} |" for n, total, stock, ours in found["sums"]]
    distinct = [f"| {n} | {seen} |" for n, seen in found["distinct"]]
    text = f"""
# What bfloat16 does to the error

<!-- written by tools/build_precision.py from docs/explanation/bf16.json -->

With many steps, a stock pipeline in bfloat16 becomes less accurate, because it rounds the latents after every step. `FlowSamplerScheduler`
keeps the latents in float32, so its error keeps falling.

A bfloat16 number has eight significant bits. This is enough for the weights and the arithmetic of a network, but too few for the sum of all
steps. A stock bfloat16 pipeline rounds three things, with different effects:

1. **The network**, that is, weights and activations. A sampler cannot change this.
2. **The state.** The latents are rounded to bfloat16 after every step. N steps make N roundings, and each is as large as a small step.
3. **The time.** The pipeline rounds the timestep before the transformer gets it. Between 512 and 1024, bfloat16 numbers are 4 apart, so the
   network often gets a slightly wrong noise level. Different timesteps can also become equal. This table counts them for a 1024 x 1024 image:

| steps | different times in bfloat16 |
| --: | --: |
{chr(10).join(distinct)}

## The measured error

The figures are relative errors of the final latents of klein-digits in bfloat16, run by the stock `Flux2KleinPipeline`. They are geometric
means over {len(PROMPTS)} prompts and noises, with guidance {GUIDANCE:g} and one fixed shift. The exact solution belongs to the same rounded weights in
float32 arithmetic; its own error is {found["reference_error"]:.0e}.

In the rows *state and time in bf16*, `euler` is stock's `FlowMatchEulerDiscreteScheduler`. Stock has no midpoint rule, so `midpoint` is
`FlowSamplerScheduler(carry="model")`, which rounds as stock does. One step of `midpoint` takes two model calls.

![Relative error against the number of steps, with state and time in bfloat16 or float32](bf16.png)

{chr(10).join(table(found))}

The pipeline gives its result to the autoencoder in bfloat16. This last rounding alone makes an error of {floor:.4f}, the dotted line. The figures
do not include the rounding of the weights, which changes the result by {found["weights"]:.4f}.

## What to conclude

* **With stock, many steps increase the error.** It is smallest at {lowest["euler"]} steps with `euler` and at {lowest["midpoint"]} with `midpoint`. At {many}
  steps it is {at["euler", "rounded"][many]:.2f} and {at["midpoint", "rounded"][many]:.2f}.
* **A float32 state removes this error.** With `euler` the error is {gains[0]:.2f}, {gains[1]:.2f} and {gains[2]:.1f} times smaller at 16, 64 and {many} steps.
  The state takes four bytes for each number of the latents, and no extra time. This is the default of `FlowSamplerScheduler`.
* **The rounded time {verdict_of_time(late)}** With a float32 state, `midpoint` was run with rounded and with exact times. Rounded times gave
  {late[0]:.2f}, {late[1]:.2f} and {late[2]:.2f} times the error at 16, 64 and {many} steps. A larger model may depend more strongly on the time. The real weights
  have not been measured.
* **With few steps, precision does not matter.** With 4 `euler` steps the three errors are {at["euler", "rounded"][4]:.3f}, {at["euler", "state"][4]:.3f} and
  {at["euler", "time"][4]:.3f}, because the method's own error is far larger. Precision matters if you use many steps, measure orders, or compare
  methods.
* The error of a bfloat16 model stops falling at its rounding error, the noise floor. Below this floor you cannot measure an order.
  `flowsamplers study` measures and draws the floor.

## In your pipeline

```python
from flowsamplers_diffusers import FlowSamplerScheduler, full_precision_time

pipe.scheduler = FlowSamplerScheduler.from_config(pipe.scheduler.config)  # state in float32
with full_precision_time(pipe.transformer, pipe.scheduler):  # and time
    image = pipe(prompt="a cat", num_inference_steps=50).images[0]
```

The pipeline rounds the time, but the scheduler still has the exact value. Inside the context, the transformer computes its time embedding from
the scheduler's float32 value for the current call. It does so only if that value equals the pipeline's value up to rounding. The context also
works with stock's scheduler, and in every pipeline of [the Klein family](../reference/compatibility.md#flux2-klein).

`KleinFlow(pipe, full_time=True)` and `flowsamplers study --full-time` do the same for velocity fields. This page compares solutions of the
model's equation. It does not say which images look better, since a model may have been trained with rounded or with exact times.

## The steps that stock applies

From noise to data, the steps in sigma must add up to -1. In bfloat16, stock's steps do not, because stock rounds each step to the
velocity's dtype. This table shows the sum for a velocity of 1 and the schedule of a 1024 x 1024 image:

| steps | sum of stock's steps | where stock ends from 1 | where the drop-in ends |
| --- | --- | --- | --- |
{chr(10).join(sums)}

The correct values are -1, 0 and 0.
"""
    return text.lstrip("\n")


def verdict_of_time(ratios: list[float]) -> str:
    """What the ratios of the errors with rounded and exact times say."""
    worst = max(ratios)
    return "also matters." if worst > 1.5 else "matters less." if worst > 1.1 else "makes little difference here."


if __name__ == "__main__":
    if "--page" not in sys.argv[1:]:
        measure()
    FIGURE.write_bytes(figure(json.loads(ROWS.read_text())))
    PAGE.write_text(page())
