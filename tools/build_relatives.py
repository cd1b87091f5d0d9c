"""The drop-in in every flow pipeline of tests/relatives: writes docs/reference/pipelines.json.

python tools/build_relatives.py          # run the rows that lack a registered sampler (all: half an hour), then write the page
python tools/build_relatives.py --page   # write the page, docs/reference/compatibility.md, from the committed results
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
from flowsamplers_diffusers import FlowSamplerScheduler  # noqa: E402
from klein_family import MEMBERS  # noqa: E402
from relatives import RELATIVES, Relative, broken_promises, flow_pipelines, run, same  # noqa: E402

RESULTS = ROOT / "docs" / "reference" / "pipelines.json"
STEPS = 3
SAMPLERS = [info.name for info in list_samplers() if not info.adaptive]


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
    from build_compatibility import PAGE, page
    from building import build

    build(__doc__, PAGE, page, lambda _: measure())
