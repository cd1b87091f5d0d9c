"""Rebuild the committed studies and the page that shows them: docs/studies and docs/start/first-study.md.

python tools/build_first_study.py           # run both studies anew (about three minutes), then write the page
python tools/build_first_study.py --page    # write the page from the committed rows
"""

from __future__ import annotations

import json
import shutil
import time

import torch
from building import DOCS, build

from flowsamplers.cli.images import draw
from flowsamplers.cli.steps import STEPS, klein_steps
from flowsamplers.flows import default_prompts, load_flow
from flowsamplers.registry import get_sampler
from flowsamplers.study import Study
from flowsamplers.study import load as load_study
from flowsamplers.study.report import terminal

STUDIES = DOCS / "studies"
MODEL = Study.model
PAGE = DOCS / "start" / "first-study.md"
START, END = "```text\n", "\n```"


def run() -> None:
    """As ``flowsamplers study``, ``flowsamplers study --preset klein-steps`` and ``flowsamplers generate`` do."""
    torch.set_num_threads(1)
    shutil.rmtree(STUDIES, ignore_errors=True)
    Study().run(STUDIES / MODEL)
    seconds = {
        "processor seconds": round(time.process_time(), 1),
        "threads": 1,
    }  # from the start of this process, as the command
    (STUDIES / MODEL / "time.json").write_text(json.dumps(seconds) + "\n")
    for name in ("images", "references"):  # what the report was made from, and what can be solved again
        shutil.rmtree(STUDIES / MODEL / name)
    unseen = (STUDIES / MODEL / name for name in (".lock", "error-vs-steps.png", "schedule.png"))
    for file in (*(STUDIES / MODEL).glob("*.svg"), *unseen):
        file.unlink(missing_ok=True)
    flow = load_flow(MODEL, prompt=default_prompts(MODEL).given[0])
    klein_steps(flow, STUDIES / "klein-steps")
    draw(flow, [get_sampler(s) for s in ("euler", "fireflow", "ab2")], STEPS, 0, STUDIES / "klein-steps" / "samplers.png")


def page() -> str:
    """The page with the reports between its fences, in order."""
    table = (STUDIES / "klein-steps" / "klein-steps.txt").read_text().split("\n\n")[-1].rstrip("\n")
    reports = [terminal(load_study(STUDIES / MODEL)), table]
    before, *fenced = PAGE.read_text().split(START)
    parts = zip(reports, fenced, strict=True)
    return before + "".join(START + report + END + rest.split(END, 1)[1] for report, rest in parts)


WRITTEN = {PAGE: page}

if __name__ == "__main__":
    build(__doc__, WRITTEN, lambda _: run())
