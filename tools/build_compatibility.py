"""What was run in diffusers' pipelines: pipelines.json, klein-family.json, and the page docs/reference/compatibility.md.

python tools/build_compatibility.py pipelines   # every flow pipeline of tests/relatives, where a sampler is missing (all: half an hour)
python tools/build_compatibility.py family      # the claims of tests/test_klein_family.py, counted for each pipeline (some minutes)
python tools/build_compatibility.py --page      # write the page from what was run

`build_full_size.py` and `test_versions.py` measure the other two files of the page, and then write it too.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import diffusers
import torch
from building import DOCS, ROOT, build, load, rendered, save, table
from diffusers import FlowMatchEulerDiscreteScheduler

from flowsamplers.catalogue import unmeasured
from flowsamplers.registry import list_samplers
from flowsamplers_diffusers import FlowSamplerScheduler

PAGE = DOCS / "reference" / "compatibility.md"
PIPELINES, FAMILY, SIZES, VERSIONS = (
    PAGE.with_name(f"{name}.json") for name in ("pipelines", "klein-family", "full-size", "versions")
)
STEPS = 3
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
COSTS: dict[str, Callable[[dict[str, float]], str]] = {
    "parameters": lambda m: f"{m['parameters'] / 1e9:.3f}e9",
    "weights in bfloat16": lambda m: f"{m['weight_bytes'] / GIB:.2f} GiB",
    "one evaluation": lambda m: f"{m['flops'] / 1e12:.1f} TFLOP",
    "activations of an evaluation, at their peak": lambda m: f"{m['activation_bytes'] / MIB:.0f} MiB",
    "activations of the decoder, at their peak": lambda m: f"{m['decoding_bytes'] / MIB:.0f} MiB",
}
"""What a run of a real model costs."""


def outcome(name: str, entry: Any, samplers: list[str]) -> dict[str, Any]:
    """One row of the pipelines: euler against stock in two dtypes, and what every sampler with a fixed number of calls did."""
    from relatives import broken_promises, run, same  # noqa: PLC0415

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
    for sampler in samplers:
        scheduler = FlowSamplerScheduler.from_config(config, sampler=sampler, seed=0)
        try:
            wrong = broken_promises(run(name, scheduler, steps=STEPS), stock)
        except ValueError as error:
            wrong = [str(error)]
        row["samplers"][sampler] = "; ".join(wrong)
    return row


def measure_pipelines() -> None:
    """Run every pipeline with every sampler that has not been run."""
    from klein_family import MEMBERS  # noqa: PLC0415
    from relatives import RELATIVES, flow_pipelines  # noqa: PLC0415

    samplers = [info.name for info in list_samplers() if not info.adaptive]
    rows = load(PIPELINES).get("pipelines", {})
    for name, entry in RELATIVES.items():
        if name not in rows or list(rows[name]["samplers"]) != samplers:
            rows[name] = outcome(name, entry, samplers)
        print(name, rows[name]["euler"], sum(not wrong for wrong in rows[name]["samplers"].values()), flush=True)
        found = {
            "diffusers": diffusers.__version__,
            "steps": STEPS,
            "classes": len(flow_pipelines()),
            "run": len(set(flow_pipelines()) & {x.pipeline for x in (*RELATIVES.values(), *MEMBERS)}),
            "pipelines": {k: rows[k] for k in RELATIVES if k in rows},
        }
        save(PIPELINES, found)


def count(check: Callable[..., None], cases: Iterable[tuple[Any, ...]]) -> list[int] | None:
    """How many cases hold, of how many that apply; None where there are none."""
    from _pytest.outcomes import Skipped  # noqa: PLC0415

    held, tried = 0, 0
    for case in cases:
        try:
            check(*case)
        except Skipped:
            continue
        except Exception as error:
            print(case, repr(error))
        else:
            held += 1
        tried += 1
    return [held, tried] if tried else None


def measure_family() -> None:
    """The claims of tests/test_klein_family.py, counted for each member."""
    import test_klein_family as t  # noqa: PLC0415

    found: dict[str, Any] = {"diffusers": diffusers.__version__, "samplers": t.FIXED, "members": {}}
    for m in t.MEMBERS:
        cases = [(name, m) for name in t.FIXED]
        edited, masked = ([] if m.modular else cases), (cases if m.inpaints else [])
        found["members"][m.name] = {
            "pipeline": m.pipeline,
            "stock": count(t.test_euler_at_stocks_precision_is_stock_bit_for_bit, [(m, torch.float32), (m, torch.bfloat16)]),
            "runs": count(t.test_every_sampler_does_in_a_pipeline_what_it_does_by_itself, cases),
            "edits": count(t.test_an_edit_in_any_callback_counts, edited),
            "interrupts": count(t.test_an_interrupted_run_stops_there_and_the_next_is_not_disturbed, edited),
            "strengths": count(
                t.test_inpainting_ends_at_sigma_0_wherever_its_slice_begins,
                [(name, s, m) for name, _ in masked for s in t.STRENGTHS],
            ),
            "masks": count(t.test_what_the_mask_keeps_is_kept, masked),
        }
    save(FAMILY, found)


def measure(names: list[str]) -> None:
    """Run what is named, or both."""
    sys.path.insert(0, str(ROOT / "tests"))
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    kinds = {"pipelines": measure_pipelines, "family": measure_family}
    for name in names or kinds:
        kinds[name]()


def page() -> str:
    """The whole page."""
    pipelines, family, sizes, versions = map(load, (PIPELINES, FAMILY, SIZES, VERSIONS))
    return rendered(
        "compatibility.md",
        globals(),
        pipelines=pipelines,
        family=family,
        sizes=sizes,
        versions=list(versions),
        **of_pipelines(pipelines["pipelines"]),
        **of_family(family["members"].values()),
        **of_sizes(sizes),
    )


def of_pipelines(rows: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The classes that ran by model, and those that did not run with everything."""
    models: dict[str, dict[str, None]] = {}
    for name, row in rows.items():
        models.setdefault(name.split()[0].rstrip(",").removesuffix(".5"), {})[f"`{row['pipeline']}`"] = None
    ran = ((row["pipeline"], sum(not w for w in row["samplers"].values()), len(row["samplers"])) for row in rows.values())
    tried = [set(row["samplers"]) for row in rows.values()]
    return {
        "models": {model: list(found) for model, found in models.items() if len(found) > 1},
        "others": [name for found in models.values() if len(found) == 1 for name in found],
        "few": list(dict.fromkeys(row for row in ran if row[1] < row[2])),
        "cast": [f"`{row['pipeline']}`" for row in rows.values() if row["euler"]["bfloat16"] is None],
        "samplers": set[str]().union(*tried),
        "left": unmeasured(set.intersection(*tried)),
    }


def of_family(members: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What held in the pipelines of the Klein family, and their classes."""
    counts = {claim: [row[claim] for row in members if row[claim] is not None] for claim in CLAIMS}
    rows = ([CLAIMS[claim], len(c), f"{sum(n for n, _ in c):,} of {sum(n for _, n in c):,}"] for claim, c in counts.items())
    return {
        "claims": table("what holds | ways to call: | cases:", rows),
        "classes": ", ".join(dict.fromkeys(f"`{row['pipeline']}`" for row in members)),
    }


def of_sizes(found: Mapping[str, Any]) -> dict[str, Any]:
    """What a run of the real models costs, and what each sampler holds."""
    models, samplers = found["models"], found["samplers"]
    held: dict[int, list[str]] = {}
    for name, of in samplers.items():
        held.setdefault(next(iter(of.values()))["held"] // LATENTS, []).append(f"`{name}`")
    runs = [of[model] for of in samplers.values() for model in models]
    head = " | ".join(["1024 x 1024", *(f"{model}:" for model in models)])
    return {
        "costs": table(head, ([what, *map(cost, models.values())] for what, cost in COSTS.items())),
        "memory": table("copies of the latents: | samplers", ([n, ", ".join(held[n])] for n in sorted(held))),
        "calls": sum(run["made"] for run in runs),
        "most": max(run["held"] for run in runs),
        "unsized": unmeasured(samplers),
    }


WRITTEN = {PAGE: page}

if __name__ == "__main__":
    build(__doc__, WRITTEN, measure)
