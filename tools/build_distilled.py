"""Samplers on the distilled model: how far from the teacher, how well recognised, how near to the data.

python tools/build_distilled.py          measures, and writes docs/explanation/distilled.json, the figures and the page
python tools/build_distilled.py --page   writes figures and page from the committed measurements
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from scipy.spatial.distance import cdist, pdist
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from train_klein_digits import PHRASES, digits, prompts_of

import flowsamplers as fs
from flowsamplers_diffusers import KleinFlow

mpl.use("Agg")
import matplotlib.pyplot as plt

EXPLANATION = Path(__file__).parent.parent / "docs" / "explanation"
DATA, PAGE, PLOT, PICTURES = (EXPLANATION / f"distilled{end}" for end in (".json", ".md", ".svg", ".png"))
BEGIN, END = "<!-- measured: written by tools/build_distilled.py -->", "<!-- end of what is measured -->"
SAMPLERS = ("euler", "ab2", "midpoint", "fireflow", "unipc", "dpmpp_2m", "lcm", "euler_sde")
CALLS = (1, 2, 3, 4, 6, 8, 16)
GUIDANCE, TEACHER_STEPS = 2.0, 50
SHOWN = ("euler", "fireflow", "lcm")

SCHEDULES: dict[str, Callable[[int, int], fs.SigmaGrid]] = {
    "flux2": lambda n, tokens: fs.schedules.flux2(n, tokens=tokens),
    "flux2, 4096 tokens": lambda n, tokens: fs.schedules.flux2(n, tokens=4096),
    "linear": lambda n, tokens: fs.schedules.linear(n),
}
"""The schedule that the student learned at 4 steps, the one of 1024x1024 pixels, and one without a shift."""


class Judge:
    """What pictures are compared with: real digits, and a classifier fitted on them."""

    def __init__(self, asked: list[int]) -> None:
        real, labels = digits()
        flat = ((real[:, 0] + 1) / 2).flatten(1).numpy()
        self.classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)).fit(flat, labels.numpy())
        self.asked, self.real = np.array(asked), [flat[labels.numpy() == digit] for digit in range(10)]

    def __call__(self, x0: Tensor, teacher: Tensor | None, images: Tensor) -> dict[str, Any]:
        """Means over the pictures, each with the half width of a 95 % interval."""
        flat = images.mean(dim=1).flatten(1).numpy()
        right = (self.classifier.predict(flat) == self.asked).astype(float)
        found = {"recognised": _with_interval(right), "energy": _with_interval(self._energies(flat))}
        if teacher is not None:
            off = (x0 - teacher).flatten(1).norm(dim=1) / teacher.flatten(1).norm(dim=1)
            found["to_teacher"] = _with_interval(off.numpy())
        return found

    def _energies(self, flat: np.ndarray) -> np.ndarray:
        """The part of each picture in the energy distance between the pictures of its digit and the real ones."""
        energies = np.empty(len(flat))
        for digit, real in enumerate(self.real):
            mine = np.flatnonzero(self.asked == digit)
            if len(mine) > 1:
                within = cdist(flat[mine], flat[mine]).sum(axis=1) / (len(mine) - 1)
                energies[mine] = 2 * cdist(flat[mine], real).mean(axis=1) - within - pdist(real).mean()
        return energies


def _with_interval(values: np.ndarray) -> list[float]:
    return [float(values.mean()), 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5]


def measure(student: KleinFlow, teacher: KleinFlow, rows: int) -> tuple[dict[str, Any], Tensor]:
    """All samplers, calls and schedules from the same noise; and pictures to look at."""
    asked = [i % 10 for i in range(rows)]
    condition = [prompts_of(d)[(i // 10) % len(PHRASES)] for i, d in enumerate(asked)]
    x1 = student.noise([100_000 + i for i in range(rows)])
    judge = Judge(asked)
    told: dict[str, Any] = {"rows": rows, "guidance": GUIDANCE, "teacher_steps": TEACHER_STEPS, "torch": torch.__version__}

    def solve(flow: KleinFlow, grid: fs.SigmaGrid, sampler: str) -> Tensor:
        return fs.sample(lambda x, s: flow.velocity(x, s, condition), x1, grid, sampler, seed=0)

    end = solve(teacher, SCHEDULES["flux2"](TEACHER_STEPS, teacher.tokens), "euler")
    four = solve(teacher, SCHEDULES["flux2"](4, teacher.tokens), "euler")
    told["teacher"] = judge(end, None, teacher.decode(end, "pt"))
    told["teacher in 4 calls"] = judge(four, end, teacher.decode(four, "pt"))
    told["runs"], shown = [], [teacher.decode(end[:10], "pt")]
    for schedule, make in SCHEDULES.items():
        for name in SAMPLERS:
            done: set[int] = set()
            for budget in CALLS:
                steps = fs.largest_steps(name, budget, lambda n, make=make: make(n, student.tokens))
                if not steps or steps in done:
                    continue
                done.add(steps)
                grid = make(steps, student.tokens)
                x0 = solve(student, grid, name)
                images = student.decode(x0, "pt")
                run = {"schedule": schedule, "sampler": name, "steps": steps, "calls": fs.nfe(name, grid)}
                told["runs"].append(run | judge(x0, end, images))
                if schedule == "flux2" and name in SHOWN and run["calls"] == budget:
                    shown.append(images[:10])
        print(schedule, flush=True)
    return told, torch.cat(shown)


# What is written


def figure(found: dict[str, Any]) -> None:
    """The three measures against the number of calls, on the schedule that the student learned."""
    plt.rcParams["svg.hashsalt"] = "distilled"
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), constrained_layout=True)
    titles = {
        "to_teacher": "distance to the teacher's end point",
        "recognised": "share recognised",
        "energy": "energy distance to real digits",
    }
    for axis, (key, title) in zip(axes, titles.items(), strict=True):
        for name in SAMPLERS:
            runs = [r for r in found["runs"] if r["sampler"] == name and r["schedule"] == "flux2"]
            mean, half = np.array([r[key] for r in runs]).T
            axis.errorbar([r["calls"] for r in runs], mean, half, label=name, marker="o", markersize=3, capsize=2, linewidth=1)
        if key in found["teacher"]:
            axis.axhline(found["teacher"][key][0], color="black", linewidth=0.8, linestyle="--")
        axis.set(title=title, xlabel="model calls", xscale="log")
        axis.set_xticks(CALLS, [str(c) for c in CALLS])
        axis.minorticks_off()
    axes[0].legend(fontsize=7, frameon=False)
    figure.savefig(PLOT, metadata={"Date": None})


def pictures(found: dict[str, Any], images: Tensor) -> None:
    """The first ten pictures of some samplers, a line for each number of calls, below the teacher's."""
    lines = [torch.cat(list(images[i : i + 10]), dim=2).mean(dim=0).numpy() for i in range(0, len(images), 10)]
    figure, axes = plt.subplots(1, len(SHOWN), figsize=(11, 3.4), constrained_layout=True)
    first = 1
    for axis, name in zip(axes, SHOWN, strict=True):
        calls = [r["calls"] for r in found["runs"] if r["sampler"] == name and r["schedule"] == "flux2" and r["calls"] in CALLS]
        shown = [lines[0], *lines[first : first + len(calls)]]
        first += len(calls)
        blank = np.ones((2, shown[0].shape[1]))
        axis.imshow(np.concatenate([part for line in shown for part in (line, blank)]), cmap="gray", vmin=0, vmax=1)
        ticks = [8 + 18 * i for i in range(len(shown))]
        axis.set_yticks(ticks, ["teacher", *(f"{c} call{'s' * (c > 1)}" for c in calls)], fontsize=8)
        axis.set(title=name, xticks=[])
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    figure.savefig(PICTURES, dpi=110)


def tables(found: dict[str, Any]) -> str:
    """The measured part of the page."""
    lines: list[str] = []
    for key, title in (
        ("to_teacher", "Distance to the teacher's end point"),
        ("recognised", "Share of digits recognised"),
        ("energy", "Energy distance to real digits"),
    ):
        lines += ["", f"**{title}**, on the schedule that the student learned, by number of model calls:", ""]
        lines += ["| sampler | " + " | ".join(map(str, CALLS)) + " |", "| --- |" + " --: |" * len(CALLS)]
        for name in SAMPLERS:
            by = {r["calls"]: r[key] for r in found["runs"] if r["sampler"] == name and r["schedule"] == "flux2"}
            lines.append(f"| `{name}` | " + " | ".join(_cell(by.get(c)) for c in CALLS) + " |")
    lines += [
        "",
        "**Other schedules**, `euler` with 4 calls:",
        "",
        "| schedule | to the teacher | recognised | energy |",
        "| --- | --: | --: | --: |",
    ]
    for schedule in SCHEDULES:
        run = next(r for r in found["runs"] if (r["schedule"], r["sampler"], r["calls"]) == (schedule, "euler", 4))
        lines.append(f"| {schedule} | " + " | ".join(_cell(run[k]) for k in ("to_teacher", "recognised", "energy")) + " |")
    for label in ("teacher", "teacher in 4 calls"):
        run = found[label]
        lines.append(f"| *{label}* | " + " | ".join(_cell(run.get(k)) for k in ("to_teacher", "recognised", "energy")) + " |")
    return "\n".join(lines).strip()


def _cell(value: list[float] | None) -> str:
    return "" if value is None else f"{value[0]:.2f} ± {value[1]:.2f}"


def page() -> str:
    """The page with its measured part renewed."""
    head, rest = PAGE.read_text().split(BEGIN)
    return f"{head}{BEGIN}\n\n{tables(json.loads(DATA.read_text()))}\n\n{END}{rest.split(END)[1]}"


def main() -> None:
    """Measure, or only write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="figure and page from what is there")
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--student", default="klein-digits-distilled")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not args.page:
        teacher = KleinFlow.load("klein-digits", guidance_scale=GUIDANCE, batched_guidance=True, device="cpu")
        student = KleinFlow.load(args.student, device="cpu", dtype="float32")
        found, images = measure(student, teacher, args.rows)
        DATA.write_text(json.dumps(found, indent=1) + "\n")
        pictures(found, images)
    figure(json.loads(DATA.read_text()))
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
