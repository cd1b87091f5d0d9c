"""What was run in every pipeline of the Klein family: writes docs/reference/klein-family.json from tests/test_klein_family.py.

python tools/build_klein_family.py          runs the tests' claims, some minutes, then writes the page
python tools/build_klein_family.py --page   writes the page, docs/reference/compatibility.md, from the committed results
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DATA = ROOT / "docs" / "reference" / "klein-family.json"


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
            "runs": count(t.test_every_sampler_does_in_a_pipeline_what_it_does_by_itself, [(name, m) for name in t.FIXED]),
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


if __name__ == "__main__":
    from build_compatibility import PAGE, page
    from building import build

    build(__doc__, PAGE, page, lambda _: DATA.write_text(json.dumps(measure(), indent=1) + "\n"))
