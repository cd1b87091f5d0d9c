"""The drop-in in every flow pipeline of tests/relatives: writes docs/reference/pipelines.json, and pipelines.md from it.

python tools/build_relatives.py          # run the rows that lack a registered sampler (all: half an hour), then write the page
python tools/build_relatives.py --page   # write the page from the committed results
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import diffusers  # noqa: E402
from diffusers import FlowMatchEulerDiscreteScheduler  # noqa: E402

from flowsamplers import list_samplers  # noqa: E402
from flowsamplers.catalogue import unmeasured  # noqa: E402
from flowsamplers_diffusers import FlowSamplerScheduler  # noqa: E402
from klein_family import MEMBERS  # noqa: E402
from relatives import RELATIVES, Relative, broken_promises, flow_pipelines, run, same  # noqa: E402

RESULTS = ROOT / "docs" / "reference" / "pipelines.json"
PAGE = RESULTS.with_suffix(".md")
STEPS = 3
SAMPLERS = [info.name for info in list_samplers() if not info.adaptive]
NOT_RUN = {
    "Cosmos Predict": "needs torchvision; its sigmas run from 80 to 0.002, which is no path from noise at 1 to data at 0: `set_timesteps` refuses them",
    "Chroma inpaint": "the pipeline reads `transformer.config.guidance_embeds`, which its transformer does not have",
    "Qwen-Image-Edit": "enlarges its image to a million pixels, which is too slow for a test",
    "Variants with image encoders, the other pipelines of LTX 2, OmniGen, GLM-Image and those that no family above stands for": "no tiny model was built",
}


def outcome(name: str, entry: Relative) -> dict[str, Any]:
    """One row: euler against stock in two dtypes, and what every sampler with a fixed number of calls did."""
    row: dict[str, Any] = {"pipeline": entry.pipeline, "scheduler": entry.scheduler, "note": entry.note, "euler": {}}
    config = FlowMatchEulerDiscreteScheduler(**entry.scheduler).config
    for dtype in (torch.bfloat16, torch.float32):
        try:
            stock = run(name, FlowMatchEulerDiscreteScheduler.from_config(config), steps=STEPS, dtype=dtype)
        except RuntimeError as error:  # networks cast by hand, where the real ones keep parts of themselves in float32
            if dtype == torch.float32:
                raise RuntimeError(name) from error
            row["euler"]["bfloat16"] = None
            continue
        ours = run(name, FlowSamplerScheduler.from_config(config, carry="model"), steps=STEPS, dtype=dtype)
        row["euler"][str(dtype).removeprefix("torch.")] = same(ours, stock)
    row["model_calls"] = len(stock.indices)
    row["samplers"] = {}
    for sampler in SAMPLERS:
        scheduler = FlowSamplerScheduler.from_config(config, sampler=sampler, seed=0)
        try:
            wrong = broken_promises(run(name, scheduler, steps=STEPS), stock)
        except ValueError as error:
            wrong = [str(error)]
        row["samplers"][sampler] = "; ".join(wrong)
    return row


def page() -> str:
    """The whole page, from the committed results."""
    found = json.loads(RESULTS.read_text())
    lines = [
        "# Pipelines it was run in",
        "",
        "<!-- written by tools/build_relatives.py -->",
        "",
        f"The drop-in inside other pipelines of diffusers {found['diffusers']} that are made for FlowMatchEuler, each through its own",
        f'`__call__`, with tiny random networks and {found["steps"]} steps. *Stock bit for bit*: with `sampler="euler", carry="model"` every',
        "tensor that the transformer was given in every call, and the result, equal those of FlowMatchEuler, in float32 and in bfloat16.",
        "*Samplers*: how many of the registered samplers with a fixed number of calls ran to the end, with every model call of their dry",
        "run made once, in order, and a finite result. A pipeline with a strength or a mask begins inside the schedule.",
        "",
        f"diffusers has {found['classes']} pipelines whose files name FlowMatchEuler; {found['run']} of them are run here or on",
        "[the page of the Klein family](klein-family.md), and the others are looked through by a test: of FlowMatchEuler and its",
        "configuration they read nothing that the drop-in does not have.",
        "",
        "| pipeline | class | schedule | stock bit for bit | samplers | remarks |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in found["pipelines"].items():
        compared = {dtype: equal for dtype, equal in row["euler"].items() if equal is not None}
        equal = "no" if not all(compared.values()) else "yes" if len(compared) == 2 else "yes; in bfloat16 stock does not run"
        ran = [s for s, wrong in row["samplers"].items() if not wrong]
        remarks = [row["note"]] if row["note"] else []
        if len(ran) < len(row["samplers"]):
            reasons = {wrong for wrong in row["samplers"].values() if wrong}
            remarks.append("; ".join(f"others: {reason}" for reason in sorted(reasons)))
        lines.append(
            f"| {name} | `{row['pipeline']}` | {_schedule(row['scheduler'])} | {equal} | {len(ran)}/{len(row['samplers'])} | "
            f"{'; '.join(remarks)} |"
        )
    if left := unmeasured(set.intersection(*(set(row["samplers"]) for row in found["pipelines"].values()))):
        lines += ["", left]
    lines += [
        "",
        "## Not run",
        "",
        *(f"* {name}: {why}." for name, why in NOT_RUN.items()),
        "",
        "## What pipelines ask of a scheduler",
        "",
        "* **Sign of the velocity.** Z-Image, Lumina 2, HiDream and LTX's condition pipeline turn the sign before or inside `step`; the",
        "  scheduler always receives dx/dsigma, except with `per_token_timesteps`, where stock moves by a positive dt and LTX passes `-v`.",
        "* **A time for every token** (`per_token_timesteps`): only `euler` moves every token from its own sigma; others raise a ValueError.",
        "* **No sigmas passed** (Wan, AuraFlow, Kandinsky, PRX): the schedule is FlowMatchEuler's own, whose last node before 0 is the shifted",
        "  sigma of timestep 1, and which is shifted twice, as in stock.",
        "* **Strength.** A pipeline slices `timesteps` by `order` entries for each step that it counts. It counts the entries where it passed",
        "  sigmas, and the steps where it did not. `order` answers both, so that a strength begins at the same noise level for every sampler.",
        "  `fireflow` makes no model call where its steps begin, except in the first. Its run begins at its first call in that step, and a",
        "  warning names both noise levels.",
        "* **Progress bar.** It counts model calls where the pipeline passed sigmas, and steps where it passed a number, and it ends full. Two",
        "  cases end up to two short: a strength below 1 with a sampler whose steps take different numbers of calls, and an unspent budget.",
        "* **Skipped layers** (SD3's `skip_guidance_layers`): the pipeline compares its window with the index of the model call. Where a step takes",
        "  several calls, a warning says which `skip_layer_guidance_start` and `skip_layer_guidance_stop` mean the same part of the run.",
        "* **Division by sigma** (LTX 2): the pipeline makes a data prediction of the velocity, guides it, and divides by sigma to have a",
        '  velocity again. At sigma 0 there is none, and the result of a method that asks there is not finite; `check="finite"` says so.',
        '  `sampler_options={"last": "midpoint"}` takes the last step without that call, and `{"base": "midpoint"}` in a method that is made',
        "  of another (`richardson`, `churn`, `restart`).",
        '* **Model calls instead of steps** (`budget="nfe"`): the sigmas 1, 1 - 1/N, ..., 1/N that most pipelines pass are made anew for',
        "  the number of steps that the calls pay for, and so is the schedule where none are passed. CogView4, Bria, Mochi and LTX's",
        "  condition pipeline compute other sigmas for their number of steps, which no scheduler can make anew: there it raises. A pipeline",
        "  that passes the number alone shows it as the length of its progress bar, also where the sampler cannot use it up.",
        "* **Rising sigmas** (Mochi, `invert_sigmas`): the pipeline counts from 0 at the noise to 1 at the data. The sampler runs on the",
        "  falling schedule that this is, with the sign of the velocity turned; the run is the same.",
        "",
    ]
    return "\n".join(lines)


def _schedule(config: dict[str, Any]) -> str:
    dynamic = config.get("use_dynamic_shifting")
    parts = (
        [f"dynamic {config.get('base_shift')} to {config.get('max_shift')}"]
        if dynamic
        else [f"shift {config.get('shift', 1.0):g}"]
    )
    parts += [f"{k} {v:g}" for k, v in config.items() if k == "shift_terminal"]
    parts += [k for k in ("use_beta_sigmas", "use_karras_sigmas", "invert_sigmas") if config.get(k)]
    if config.get("time_shift_type", "exponential") != "exponential":
        parts.append(config["time_shift_type"])
    return ", ".join(parts)


def measure() -> None:
    """Run every pipeline with every sampler that has not been run."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    diffusers.utils.logging.set_verbosity_error()
    logging.getLogger("flowsamplers_diffusers").setLevel(logging.ERROR)
    rows = json.loads(RESULTS.read_text())["pipelines"] if RESULTS.exists() else {}
    for name, entry in RELATIVES.items():
        if name not in rows or list(rows[name]["samplers"]) != SAMPLERS:
            rows[name] = outcome(name, entry)
        print(name, rows[name]["euler"], sum(not wrong for wrong in rows[name]["samplers"].values()), flush=True)
        found = {
            "diffusers": diffusers.__version__,
            "steps": STEPS,
            "classes": len(flow_pipelines()),
            "run": len(set(flow_pipelines()) & {x.pipeline for x in (*RELATIVES.values(), *MEMBERS)}),
            "pipelines": {k: rows[k] for k in RELATIVES if k in rows},
        }
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    from building import build

    build(__doc__, PAGE, page, lambda _: measure())
