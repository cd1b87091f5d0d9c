"""Samplers on klein-emoji-distilled: how far from the teacher, how well recognised, how near to the data.

python tools/build_distilled.py ../klein-emoji   measures, and writes docs/explanation/distilled.json, the figures and the page
python tools/build_distilled.py --page           writes figure and page from the committed measurements

The work folder is that of ``tools/train_klein_emoji.py``; what was drawn is kept in its ``runs``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from building import DOCS, build, drawn, load, save, table, with_measured
from measure_klein_emoji import SEED, Gallery, ends_of, features, kept, labels_of, models, originals, rms, share, solve
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from train_klein_emoji import COMMON_PROMPTS, GUIDANCE, load_data

import flowsamplers as fs
from flowsamplers.schedules import empirical_mu

EXPLANATION = DOCS / "explanation"
DATA, PAGE, PLOT, PICTURES = (EXPLANATION / f"distilled{end}" for end in (".json", ".md", ".svg", ".png"))
SAMPLERS = ("euler", "ab2", "midpoint", "fireflow", "unipc", "dpmpp_2m", "lcm", "euler_sde")
CALLS = (1, 2, 3, 4, 6, 8, 16)
COLUMNS = (4, 8)
"""Of these those of the page's table."""
FEW = (2, 4, 8)
"""Model calls on schedules that the student was not trained for."""
ROWS = slice(0, len(COMMON_PROMPTS), 2)
"""Which of the prompts and noises of ``measure_klein_emoji`` are used."""
TEACHER_STEPS = 50
SHOWN = (8, 19, 29)
"""Rows that are shown as pictures."""


def shifted(tokens: int, steps: int) -> fs.SigmaGrid:
    """FLUX.2's schedule with the shift of 4 steps at some number of tokens."""
    return fs.schedules.flux2(steps, tokens=64, mu=empirical_mu(tokens=tokens, steps=4))


SCHEDULES: dict[str, Callable[[int], fs.SigmaGrid]] = {
    "own": partial(shifted, 64),
    "4096": partial(shifted, 4096),
    "linear": fs.schedules.linear,
}
"""The schedule that the student learned at 4 steps, the one of 1024x1024 pixels, and one without a shift."""
MEASURES = {
    "to_teacher": "distance to the teacher's end point",
    "recognised": "share recognized",
    "to_data": "distance to the nearest training picture",
    "energy": "energy distance to the data",
}


def energies(mine: Tensor, real: Tensor) -> Tensor:
    """The part of each row in the squared energy distance between two sets, without bias; the mean over the rows is the distance."""
    within = torch.cdist(mine, mine).sum(dim=1) / (len(mine) - 1)
    among = torch.cdist(real, real).sum() / (len(real) * (len(real) - 1))
    return 2 * torch.cdist(mine, real).mean(dim=1) - within - among


class Judge:
    """What pictures are compared with: the teacher's end points, and the pictures of the training."""

    def __init__(self, work: Path, prompts: list[str], end: Tensor) -> None:
        data = load_data(work)
        names, number = labels_of(data.prompts, data.prompts)
        self.real, self.end = (data.images + 1) / 2, end
        self.labels, self.wanted = names[data.labels], torch.tensor([number[p] for p in prompts])
        self.gallery = Gallery(self.real, self.labels, len(number))
        pictures, there, all_names, _ = originals(work)
        rows = torch.tensor([all_names.index(p) for p in prompts])
        self.same = torch.cat([features(pictures[k, rows[there[k, rows]]]) for k in range(len(pictures))])

    def __call__(self, x0: Tensor, images: Tensor) -> dict[str, Tensor]:
        """The measures, a value for each picture."""
        own = [rms(image[None], self.real[self.labels == w]).min() for image, w in zip(images, self.wanted, strict=True)]
        return {
            "to_teacher": fs.reference.relative_error(x0, self.end),
            "recognised": (self.gallery.ranks(images, self.wanted) == 0).double(),
            "to_data": torch.stack(own),
            "energy": energies(features(images), self.same),
        }


def measure(given: list[str]) -> None:
    """All samplers, calls and schedules from the same noise; and a page of pictures."""
    torch.set_num_threads(1)
    work = Path(given[0])
    flows = models()
    student, prompts = flows["student"], list(COMMON_PROMPTS[ROWS])
    x1 = student.noise([SEED + i for i in range(len(COMMON_PROMPTS))[ROWS]])
    end = ends_of(work, flows["teacher"], TEACHER_STEPS)[ROWS][: len(prompts)]
    judge, shown = Judge(work, prompts, end), {}
    told: dict[str, Any] = {"prompts": prompts, "guidance": GUIDANCE, "teacher_steps": TEACHER_STEPS}
    told["torch"] = torch.__version__
    four = kept(
        work / "runs" / "distilled" / "teacher-4.pt",
        partial(solve, flows["teacher"], prompts, x1, SCHEDULES["own"](4), "euler"),
    )
    best = solve(student, prompts, x1, SCHEDULES["own"](4), "euler")
    euler4 = judge(best, student.decode(best, "pt"))
    for name, x0 in (("teacher", end), ("teacher in 4 calls", four)):
        images = student.decode(x0, "pt")
        told[name] = {key: share(value) for key, value in judge(x0, images).items()}
        shown[name] = images[list(SHOWN)]
    told["runs"] = []
    for schedule, make in SCHEDULES.items():
        for name in SAMPLERS:
            for calls in CALLS if schedule == "own" else FEW:
                steps = fs.largest_steps(name, calls, make)
                if not steps or fs.nfe(name, make(steps)) != calls:
                    continue
                file = work / "runs" / "distilled" / f"{schedule}-{name}-{calls}.pt"
                x0 = kept(file, partial(solve, student, prompts, x1, make(steps), name))
                images = student.decode(x0, "pt")
                values = judge(x0, images)
                run = {"schedule": schedule, "sampler": name, "steps": steps, "calls": calls}
                run |= {key: share(value) for key, value in values.items()}
                run["more than euler with 4 calls"] = {key: share(values[key] - euler4[key]) for key in MEASURES}
                told["runs"].append(run)
                if schedule == "own":
                    shown[name, calls] = images[list(SHOWN)]
        print(schedule, flush=True)
    pictures(shown).save(PICTURES, optimize=True)
    save(DATA, told)


# What is written


def pictures(shown: dict[Any, Tensor]) -> Image.Image:
    """A line for each sampler and a column for each number of calls, three pictures in each cell; the teacher above."""
    font, left, width, height = ImageFont.load_default(size=13), 80, 3 * 66 + 8, 70
    page = Image.new("RGB", (left + len(CALLS) * width, 40 + (len(SAMPLERS) + 1) * height), "white")
    pen = ImageDraw.Draw(page)

    def put(images: Tensor, x: int, y: int) -> None:
        for k, image in enumerate(images):
            pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
            page.paste(Image.fromarray(pixels), (x + 66 * k, y))

    pen.text((2, 45), "teacher", "black", font)
    for k, name in enumerate(("teacher", "teacher in 4 calls")):
        put(shown[name], left + k * 2 * width, 20)
        pen.text((left + (2 * k + 1) * width + 4, 45), ("50 steps", "4 steps")[k] + ", guidance", "black", font)
    for i, name in enumerate(SAMPLERS):
        top = 40 + (i + 1) * height
        pen.text((2, top + 25), name, "black", font)
        for j, calls in enumerate(CALLS):
            if i == 0:
                pen.text((left + j * width + 66, top - 2), f"{calls} call{'s' * (calls > 1)}", "black", font, anchor="mb")
            if (name, calls) in shown:
                put(shown[name, calls], left + j * width, top)
    return page.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def figure() -> bytes:
    """Three measures against the number of calls, on the schedule that the student learned."""
    found = load(DATA)
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), constrained_layout=True)
    for axis, key in zip(axes, ("to_teacher", "recognised", "to_data"), strict=True):
        for name in SAMPLERS:
            runs = sorted(
                (r for r in found["runs"] if (r["sampler"], r["schedule"]) == (name, "own")), key=lambda r: r["calls"]
            )
            mean, half = np.array([r[key] for r in runs]).T
            axis.errorbar([r["calls"] for r in runs], mean, half, label=name, marker="o", markersize=3, capsize=2, linewidth=1)
        if key != "to_teacher":
            axis.axhline(found["teacher"][key][0], color="black", linewidth=0.8, linestyle="--")
        axis.set(title=MEASURES[key], xlabel="model calls", xscale="log")
        axis.set_xticks(CALLS, [str(c) for c in CALLS])
        if key != "recognised":
            axis.set_yscale("log")
        axis.minorticks_off()
    axes[1].legend(fontsize=7, frameon=False)
    return drawn(figure)


def page() -> str:
    """The page with its measured part renewed: few columns without intervals, so that a phone can show them."""
    found = load(DATA)
    at = {(r["sampler"], r["calls"]): r for r in found["runs"] if r["schedule"] == "own"}
    most = max(at[name, calls]["to_teacher"][1] for name in SAMPLERS for calls in COLUMNS)
    lines = [(f"`{name}`", *(at[name, calls] for calls in COLUMNS)) for name in SAMPLERS]
    rows: list[list[str]] = []
    for name, four, eight in [*lines, ("teacher with 4 steps", found["teacher in 4 calls"], None)]:
        far = [f"{its['to_teacher'][0]:.2f}" if its else "" for its in (four, eight)]
        rows.append([name, *far, f"{four['recognised'][0]:.0%}", f"{four['to_data'][0]:.3f}"])
    part = f"""{table("sampler | distance, 4 calls: | distance, 8 calls: | recognized, 4 calls: | to the data, 4 calls:", rows)}

The 95 % intervals of the distances are at most ± {most:.2f}. [All values](distilled.json) include the other numbers of calls."""
    return with_measured(PAGE.read_text(), "build_distilled.py", part)


WRITTEN = {PAGE: page, PLOT: figure}

if __name__ == "__main__":
    build(__doc__, WRITTEN, measure)
