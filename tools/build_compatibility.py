"""Write docs/reference/compatibility.md from what was run: pipelines.json, klein-family.json, full-size.json and versions.json beside it.

python tools/build_compatibility.py

`build_relatives.py`, `build_klein_family.py`, `build_full_size.py` and `test_versions.py` measure, and then write the page too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowsamplers.catalogue import unmeasured

DOCS = Path(__file__).parent.parent / "docs" / "reference"
PAGE = DOCS / "compatibility.md"
MIB, GIB = 2**20, 2**30
LATENTS = 64 * 64 * 128 * 4
"""Bytes of the latents of an image of 1024 x 1024 in float32."""
CLAIMS = {
    "stock": '`euler` with `carry="model"` equals stock bit for bit after every model call',
    "runs": "the sampler gives the latents of `fs.sample`, bit for bit, with the promised model calls",
    "edits": "an edit of the latents in a callback reaches the network and the result",
    "interrupts": "a run stops at any call, and the next run gives the usual result",
    "strengths": "a run from any slice of the schedule ends at sigma 0",
    "masks": "inpainting keeps the masked latents at every call, and exactly in the result",
}
"""What the columns of klein-family.json say."""
NOT_RUN = (
    "Cosmos Predict: its sigmas run from 80 to 0.002, so `set_timesteps` refuses them.",
    "Chroma inpaint: the pipeline reads `transformer.config.guidance_embeds`, which its transformer does not have.",
    "Qwen-Image-Edit: it enlarges its image to a million pixels, which is too slow for a test.",
    "Variants with image encoders, the other pipelines of LTX 2, OmniGen and GLM-Image: no tiny model was built.",
)
ASKED = """\
* **No sigmas passed** (Wan, AuraFlow, Kandinsky, PRX). The schedule is FlowMatchEuler's own, which is shifted twice, as in stock.
* **Strength.** A strength begins at the same noise level for every sampler. `fireflow` makes no model call where its steps begin, except
  in the first. Its run begins at its first call in that step, and a warning names both noise levels.
* **Progress bar.** It counts model calls if the pipeline passes sigmas, and steps otherwise, and it ends full. It can end up to two short
  with an unspent budget, or with a strength and a sampler whose steps take different numbers of calls.
* **Skipped layers** (`skip_guidance_layers` of SD3). The pipeline compares its window with the index of the model call. If a step takes
  several calls, a warning gives the values of `skip_layer_guidance_start` and `skip_layer_guidance_stop` for the same part of the run.
* **Division by sigma** (LTX 2). The pipeline divides a data prediction by sigma, so a model call at sigma 0 gives no finite result.
  `check="finite"` raises an error there. `sampler_options={"last": "midpoint"}` takes the last step without that call. `richardson`,
  `churn` and `restart` need `{"base": "midpoint"}`.
* **A time for every token** (`per_token_timesteps` of LTX condition). Only `euler` can do this; other samplers raise a ValueError.
* **Model calls instead of steps** (`budget="nfe"`). CogView4, Bria, Mochi and LTX condition compute sigmas for their number of steps, which
  the scheduler cannot compute again. There this option raises an error.
* **Rising sigmas** (`invert_sigmas` of Mochi). The sampler runs on the falling schedule, and the result is the same."""
BETWEEN_VERSIONS = """\
* **Custom timesteps.** 0.40 and 0.41 replace the `timesteps` that you pass by 1000 sigma. The drop-in passes them to the model unchanged in
  every version. Klein's pipelines pass sigmas, so nothing changes for them.
* **Pipelines.** Klein's key-value and inpaint pipelines came with 0.38.
* **Noise of `stochastic_sampling`.** Before 0.39, stock ignores the generator passed to `step`. The drop-in uses it in every version.
* **Z-Image.** Before 0.39, its pipelines set the lowest sigma to 0, and stock appends another 0. The drop-in keeps one 0 and gives the same
  bits after N - 1 steps. An image-to-image `strength` of at most 1/N leaves no step, and raises an error.
* **Group offloading.** Before 0.41, `enable_group_offload` needs an accelerator, with any scheduler.
* **transformers.** Before 5, two threads must not share a text encoder, because it mixes up their hidden states."""


def load(name: str) -> dict[str, Any]:
    """What was measured."""
    return json.loads((DOCS / f"{name}.json").read_text())


def page() -> str:
    """The whole page."""
    pipelines, klein, sizes, versions = map(load, ("pipelines", "klein-family", "full-size", "versions"))
    samplers = set[str]().union(*(row["samplers"] for row in pipelines["pipelines"].values()))
    left = unmeasured(set.intersection(*(set(row["samplers"]) for row in pipelines["pipelines"].values())))
    most = max(of[model]["held"] for of in sizes["samplers"].values() for model in sizes["models"])
    return f"""# Compatibility

<!-- written by tools/build_compatibility.py from the JSON files that it links to -->

`FlowSamplerScheduler` can replace `FlowMatchEulerDiscreteScheduler` in the pipelines of diffusers for flow models:

* [{pipelines["run"]} pipelines](#pipelines) of diffusers {pipelines["diffusers"]} were run with {len(samplers)} samplers. All but two run with every sampler.
  With `sampler="euler", carry="model"`, each equals stock bit for bit, in float32 and bfloat16.
* All pipelines of [FLUX.2 [klein]](#flux2-klein) also pass tests of edits, interrupts, strengths and masks.
* klein-4B and 9B run [in their real sizes](#the-real-sizes), without weights. The scheduler adds at most {most // MIB} MiB.
* [diffusers 0.37 and later](#versions-of-diffusers) is supported.

The networks of the pipelines are tiny and have random weights: these runs test the connection between pipeline and scheduler.
[In ComfyUI](../howto/comfyui.md) has the same for ComfyUI.

## Pipelines

{ran(pipelines["pipelines"])}
{left and chr(10) + left + chr(10)}
Each pipeline ran through its own `__call__` with {pipelines["steps"]} steps. Every sampler made the model calls of its dry run, once and in order, with a
finite result. diffusers has {pipelines["classes"]} pipelines that name FlowMatchEuler. A test reads the code of the others: they use nothing of
FlowMatchEuler that the drop-in lacks. All results are in [pipelines.json](pipelines.json).

These were not run:

{chr(10).join(f"* {why}" for why in NOT_RUN)}

What to know about some pipelines:

{ASKED}

## FLUX.2 [klein]

{family(klein)}

## The real sizes

{real(sizes)}

## Versions of diffusers

{", ".join([*versions][:-1])} and {[*versions][-1]} pass all tests of the integration. 0.37 is the first version with Klein. `make versions` runs the tests in
an environment for each version; [versions.json](versions.json) has its results, and why some tests are left out. These points differ:

{BETWEEN_VERSIONS}
"""


def ran(rows: Mapping[str, dict[str, Any]]) -> str:
    """The classes that ran, and those that did not run with everything."""
    models: dict[str, dict[str, None]] = {}
    for name, row in rows.items():
        models.setdefault(name.split()[0].rstrip(",").removesuffix(".5"), {})[f"`{row['pipeline']}`"] = None
    single = [name for model in models.values() if len(model) == 1 for name in model]
    names = [f"* {model}: {', '.join(found)}" for model, found in models.items() if len(found) > 1]
    few: dict[tuple[str, int, int], None] = {}
    cast = []
    for row in rows.values():
        count = sum(not wrong for wrong in row["samplers"].values())
        if count < len(row["samplers"]):
            few[row["pipeline"], count, len(row["samplers"])] = None
        if row["euler"]["bfloat16"] is None:
            cast.append(f"`{row['pipeline']}`")
    exceptions = [
        f"* `{name}` runs with {count} of {of} samplers: "
        + ("only `euler` can give every token a time of its own." if count == 1 else "the others call the model at sigma 0.")
        for name, count, of in few
    ]
    if cast:
        exceptions.append(f"* Stock itself does not run in bfloat16 with the tiny networks of {', '.join(cast)}.")
    return "\n".join(
        ["These pipelines ran:", "", *names, f"* others: {', '.join(single)}", "", "These are the exceptions:", "", *exceptions]
    )


def family(found: Mapping[str, Any]) -> str:
    """What held in the pipelines of the Klein family."""
    lines = ["| what holds | ways to call | cases |", "| --- | --: | --: |"]
    for claim, text in CLAIMS.items():
        counts = [row[claim] for row in found["members"].values() if row[claim] is not None]
        lines.append(f"| {text} | {len(counts)} | {sum(c[0] for c in counts):,} of {sum(c[1] for c in counts):,} |")
    classes = ", ".join(dict.fromkeys(f"`{row['pipeline']}`" for row in found["members"].values()))
    return f"""{chr(10).join(lines)}

The {len(found["members"])} ways to call are: text or references, base or distilled, with a key-value cache, for inpainting, and modular. The pipelines are
{classes}.
A case is one sampler, called in one way. Modular pipelines have no callbacks. A stochastic sampler replaces part of an edit by fresh
noise. The cases are tests (`tests/test_klein_family.py`), with their counts in [klein-family.json](klein-family.json)."""


def real(found: Mapping[str, Any]) -> str:
    """What a run of the real models costs."""
    models: dict[str, dict[str, float]] = found["models"]
    rows = {
        "parameters": [f"{m['parameters'] / 1e9:.3f}e9" for m in models.values()],
        "weights in bfloat16": [f"{m['weight_bytes'] / GIB:.2f} GiB" for m in models.values()],
        "one evaluation": [f"{m['flops'] / 1e12:.1f} TFLOP" for m in models.values()],
        "activations of an evaluation, at their peak": [f"{m['activation_bytes'] / MIB:.0f} MiB" for m in models.values()],
        "activations of the decoder, at their peak": [f"{m['decoding_bytes'] / MIB:.0f} MiB" for m in models.values()],
    }
    table = ["| 1024 x 1024 | " + " | ".join(models) + " |", "| --- |" + " --: |" * len(models)]
    table += [f"| {what} | {' | '.join(cells)} |" for what, cells in rows.items()]
    held: dict[int, list[str]] = {}
    for name, of in found["samplers"].items():
        held.setdefault(next(iter(of.values()))["held"] // LATENTS, []).append(f"`{name}`")
    memory = ["| copies of the latents | samplers |", "| --: | --- |"]
    memory += [f"| {copies} | {', '.join(held[copies])} |" for copies in sorted(held)]
    calls = sum(of[m]["made"] for of in found["samplers"].values() for m in models)
    left = unmeasured(found["samplers"])
    return f"""Every sampler took 4 steps through the stock `Flux2KleinPipeline` in the real configurations, in bfloat16. The runs used torch's `meta`
device, whose tensors have a shape and a dtype but no data:

* All {calls:,} model calls were those that the dry runs had promised.
* No step waits for the GPU: reading a value raises an error on this device.
* All calls gave the network the same shapes, strides and dtypes, so a compiled network is reused.

{chr(10).join(table)}

These figures are from torch {found["torch"]} and diffusers {found["diffusers"]}. A multiplication and an addition count as two operations. Attention
counts as one kernel that stores no scores. A base model with guidance makes two such passes in each model call.

The scheduler holds these float32 copies of the latents between model calls. One copy takes {LATENTS // MIB} MiB at this size, with both models:

{chr(10).join(memory)}
{left and chr(10) + left + chr(10)}
The bytes and the model calls of each sampler are in [full-size.json](full-size.json)."""


if __name__ == "__main__":
    from building import build

    build(__doc__, PAGE, page)
