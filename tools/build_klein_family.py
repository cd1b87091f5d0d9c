"""What was run in every pipeline of the Klein family: writes docs/reference/klein-family.json and .md from tests/test_klein_family.py.

python tools/build_klein_family.py          runs the tests' claims, some minutes, and writes both
python tools/build_klein_family.py --page   writes the page from the committed results
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs" / "reference"
PAGE, DATA = DOCS / "klein-family.md", DOCS / "klein-family.json"
CLAIMS = {
    "stock": '`euler` with `carry="model"` equals stock bit for bit after every model call, in float32 and bfloat16',
    "runs": "The sampler gives the same latents in the pipeline as in `fs.sample`, bit for bit. The progress bar, the callbacks and the "
    "network count the same calls as the dry run",
    "edits": "A callback may edit the latents after any call. The network then gets the edited latents, and the edit shifts the result. "
    "A stochastic sampler replaces part of the edit by fresh noise",
    "interrupts": "A run can be interrupted at every call. It stops there, and the next run gives the usual result",
    "strengths": "A run from any slice of the schedule ends at sigma 0. Counted are pairs of a sampler and a strength",
    "masks": "Inpainting keeps the masked latents: at the noise level of the next call after every call, and exactly in the result",
}
"""What the columns say."""


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


def measure() -> dict[str, Any]:
    """The claims of tests/test_klein_family.py, counted for each member."""
    sys.path.insert(0, str(ROOT / "tests"))
    import diffusers  # noqa: PLC0415
    import torch  # noqa: PLC0415

    import test_klein_family as t  # noqa: PLC0415

    logging.disable(logging.WARNING)
    found: dict[str, Any] = {"diffusers": diffusers.__version__, "samplers": t.FIXED, "members": {}}
    for m in t.MEMBERS:
        found["members"][m.name] = {
            "pipeline": m.pipeline,
            "stock": count(t.test_euler_at_stocks_precision_is_stock_bit_for_bit, [(m, torch.float32), (m, torch.bfloat16)]),
            "runs": count(t.test_every_sampler_does_in_every_pipeline_what_it_does_by_itself, [(name, m) for name in t.FIXED]),
            "edits": count(t.test_an_edit_in_any_callback_counts, [(name, m) for name in t.FIXED if not m.modular]),
            "interrupts": count(
                t.test_an_interrupted_run_stops_there_and_the_next_is_not_disturbed,
                [(name, m) for name in t.FIXED if not m.modular],
            ),
            "strengths": count(
                t.test_inpainting_ends_at_sigma_0_wherever_its_slice_begins,
                [(name, s, m) for name in t.FIXED for s in t.STRENGTHS if m.inpaints],
            ),
            "masks": count(t.test_what_the_mask_keeps_is_kept, [(name, m) for name in t.FIXED if m.inpaints]),
        }
    return found


def page() -> str:
    """The whole page, from the committed results."""
    found = json.loads(DATA.read_text())
    lines = ["| called with | pipeline | " + " | ".join(CLAIMS) + " |", "| --- | --- |" + " --- |" * len(CLAIMS)]
    for name, row in found["members"].items():
        cells = ["-" if row[c] is None else f"{row[c][0]}/{row[c][1]}" for c in CLAIMS]
        lines.append(f"| {name} | `{row['pipeline']}` | " + " | ".join(cells) + " |")
    names = ", ".join(f"`{name}`" for name in found["samplers"])
    claims = "\n".join(f"* **{name}**: {what}." for name, what in CLAIMS.items())
    return f"""# The Klein family

<!-- written by tools/build_klein_family.py from docs/reference/klein-family.json -->

All pipelines that diffusers {found["diffusers"]} has for FLUX.2 [klein] run with all {len(found["samplers"])} samplers of fixed steps. The pipelines are diffusers' own
classes, with our scheduler in place of stock's. The networks are tiny and have random weights, since this page tests the connection
between pipeline and scheduler. [Another page](full-size.md) covers the real sizes.

A cell such as 51/51 says how many cases passed, and how many were tried. The cases are tests (`tests/test_klein_family.py`).

{chr(10).join(lines)}

{claims}

Modular pipelines have no callbacks and no interrupt.

In the column *strengths*, a slice of the schedule may begin inside a step. The remaining calls of that step then become Euler steps along the
listed sigmas. The test uses a constant velocity, for which the exact result is known. For a stochastic sampler it only tests that the run
reaches the end of the schedule.

These samplers were tried: {names}.
"""


if __name__ == "__main__":
    from building import build

    build(__doc__, PAGE, page, lambda _: DATA.write_text(json.dumps(measure(), indent=1) + "\n"))
