"""Draw the gallery: docs/gallery/*.png with the errors of their images, and docs/gallery.md.

python tools/build_gallery.py            # draw everything (a few minutes on one core), then write the page
python tools/build_gallery.py guidance   # draw one of them anew
python tools/build_gallery.py --page     # write the page from the committed errors
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import flowsamplers as fs
from flowsamplers.flows import load_flow
from flowsamplers.reference import relative_error, solve
from flowsamplers.study import load
from flowsamplers.study.plots import image_grid
from flowsamplers.study.rows import label_of
from flowsamplers.study.steps import STEPS, ScheduleTable

DOCS = Path(__file__).parent.parent / "docs"
FOLDER = DOCS / "gallery"
DATA = FOLDER / "errors.json"
PAGE = DOCS / "gallery.md"
TOLERANCE = 1e-3  # of the reference: the errors shown are ten times as large
PROMPT, SEED = "a handwritten 3", 0
SAMPLERS = ("euler", "ab2", {"name": "ab2", "options": {"last": "midpoint"}}, "fireflow")
SCHEDULES = ("flux2", "shift", "linear", "karras", "exponential", "beta")
GUIDANCES = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)


class Drawing:
    """An image grid: what is in its cells.

    Attributes:
        title: what all cells share.
        columns: what the columns count.
        images: by row and column.
        errors: relative distance of the latents to the exact solution, by row and column; the reference's own is its uncertainty.
    """

    def __init__(self, title: str, columns: str) -> None:
        self.title, self.columns = title, columns
        self.images: dict[tuple[str, str], Any] = {}
        self.errors: dict[tuple[str, str], float] = {}

    def add(self, row: str, column: str, flow: Any, x0: torch.Tensor, truth: fs.reference.Reference) -> None:
        """One cell."""
        self.images[row, column] = flow.decode(x0)[0]
        error = truth.error if x0 is truth.x0 else relative_error(x0, truth.x0)
        self.errors[row, column] = float(f"{error.item():.3g}")


def digits() -> Drawing:
    """Ten prompts from one noise each, at few calls."""
    drawing = Drawing("'a handwritten 0' to 'a handwritten 9', one noise each", "the digit")
    for digit in range(10):
        flow = load_flow("klein-digits", prompt=f"a handwritten {digit}")
        x1 = flow.noise([digit])
        truth = solve(flow, x1, tol=TOLERANCE)
        for name, steps in (("euler", 2), ("euler", 4), ("euler", 8), ("fireflow", 3), ("fireflow", 7)):
            x0 = fs.sample(flow.velocity, x1, fs.schedules.flux2(steps, tokens=flow.tokens), name)
            drawing.add(f"{name} {steps + (name == 'fireflow')} calls", str(digit), flow, x0, truth)
        drawing.add("reference", str(digit), flow, truth.x0, truth)
    return drawing


def schedules() -> Drawing:
    """The same noise and sampler on other schedules."""
    flow = load_flow("klein-digits", prompt=PROMPT)
    x1 = flow.noise([SEED])
    truth = solve(flow, x1, tol=TOLERANCE)
    drawing = Drawing(f"{PROMPT!r}, seed {SEED}, euler", "steps")
    for name in SCHEDULES:
        options = {"tokens": flow.tokens} if name == "flux2" else {}
        for steps in (2, 3, 4, 6, 8, 16):
            drawing.add(name, str(steps), flow, fs.sample(flow.velocity, x1, fs.get_schedule(name, steps, **options)), truth)
        drawing.add(name, "reference", flow, truth.x0, truth)
    return drawing


def guidance() -> Drawing:
    """The same noise under more and more guidance: another field, another solution, and a harder one."""
    drawing = Drawing(f"{PROMPT!r}, 8 model calls", "guidance")
    for scale in GUIDANCES:
        flow = load_flow("klein-digits", prompt=PROMPT, guidance_scale=scale)
        x1 = flow.noise([SEED])
        truth = solve(flow, x1, tol=TOLERANCE)
        for name in SAMPLERS:
            sampler = fs.get_sampler(name)
            steps = next(n for n in range(8, 0, -1) if fs.nfe(sampler, fs.schedules.linear(n)) <= 8)
            x0 = fs.sample(flow.velocity, x1, fs.schedules.flux2(steps, tokens=flow.tokens), sampler)
            drawing.add(label_of(sampler), f"{scale:g}", flow, x0, truth)
        drawing.add("reference", f"{scale:g}", flow, truth.x0, truth)
    return drawing


def seeds() -> Drawing:
    """A stochastic sampler draws another image from the same noise for every seed."""
    flow = load_flow("klein-digits", prompt=PROMPT)
    x1 = flow.noise([SEED])
    truth = solve(flow, x1, tol=TOLERANCE)
    drawing = Drawing(f"{PROMPT!r}, noise of seed {SEED}, 16 steps", "seed of the sampler")
    grid = fs.schedules.flux2(16, tokens=flow.tokens)
    for name in ("lcm", "er_sde"):
        for seed in range(8):
            drawing.add(name, str(seed), flow, fs.sample(flow.velocity, x1, grid, name, seed=seed), truth)
    for seed in range(8):
        drawing.add("euler", str(seed), flow, fs.sample(flow.velocity, x1, grid, "euler"), truth)
    return drawing


DRAWINGS: dict[str, Callable[[], Drawing]] = {"digits": digits, "schedules": schedules, "guidance": guidance, "seeds": seeds}


def unique(keys: Sequence[str]) -> list[str]:
    """The keys in their order, each once."""
    return list(dict.fromkeys(keys))


def draw(names: Sequence[str]) -> None:
    """Image grids, and the errors of their cells."""
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    data = json.loads(DATA.read_text()) if DATA.exists() else {}
    for name in names:
        drawing = DRAWINGS[name]()
        rows, columns = (unique([key[axis] for key in drawing.images]) for axis in (0, 1))
        (FOLDER / f"{name}.png").write_bytes(image_grid(rows, columns, drawing.images, drawing.title, drawing.columns))
        data[name] = {r: {c: drawing.errors[r, c] for c in columns if (r, c) in drawing.errors} for r in rows}
        DATA.write_text(json.dumps(data, indent=1) + "\n")
        print(name, flush=True)


def errors(name: str) -> dict[str, dict[str, float]]:
    """The committed errors of a drawing, by row and column."""
    return json.loads(DATA.read_text())[name]


def table(name: str, corner: str) -> list[str]:
    """The errors of a drawing, laid out as its images are."""
    cells = errors(name)
    columns = list(next(iter(cells.values())))
    head = [f"| {corner} | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    return head + [f"| {row} | " + " | ".join(f"{e:.2g}" for e in values.values()) + " |" for row, values in cells.items()]


def steps_table() -> list[str]:
    """The schedule of FLUX.2 at 1024x1024 for the step counts of the experiment."""
    head = ["| steps | mu | sigmas | last dt | sum of dt |", "|---:|---:|---|---:|---:|"]
    rows = []
    for t in (ScheduleTable.of(n, 4096) for n in STEPS):
        sigmas = ", ".join(f"{s:.4f}" for s in t.sigmas[:-1])
        rows.append(f"| {t.steps} | {t.mu:.4f} | {sigmas}, 0 | {t.dt[-1]:.4f} | {t.sum:.6f} |")
    return head + rows


def page() -> str:
    """The gallery."""
    summary = (DOCS / "studies" / "klein-steps" / "klein-steps.txt").read_text().split("\n\n")[-1].rstrip("\n")
    results = load(DOCS / "studies" / "klein-digits")
    four, best = ScheduleTable.of(4, 4096), min(errors("schedules"), key=lambda s: errors("schedules")[s]["8"])
    spread = errors("seeds")["er_sde"].values()
    text = [
        "# Gallery",
        "",
        "Images and plots of klein-digits, the tiny Klein that comes with the library, drawn by `python tools/build_gallery.py` and",
        "`flowsamplers study`. The numbers are relative distances of the final latents to the exact solution of the model's differential",
        "equation from the same noise: 0.01 is one per cent. What stands under *reference* is how well that solution is known itself.",
        "",
        "## One noise, more and more model calls",
        "",
        "```bash",
        "flowsamplers study",
        "```",
        "",
        "![Images by sampler and model calls](studies/klein-digits/images.png)",
        "",
        "The eye is soon content. The error is not: over all prompts and noises of the study it falls on, and the samplers part.",
        "",
        "![Relative error against model calls](studies/klein-digits/error-vs-nfe.png)",
        "",
        f"How to read this plot: [{len(results.labels)} samplers, and what the study says of them](start/first-study.md#how-to-read-it).",
        "",
        "![The best sampler at each number of model calls](studies/klein-digits/best-at-nfe.png)",
        "",
        "![The error on the way from noise to image](studies/klein-digits/trajectory.png)",
        "",
        "A grid of your own:",
        "",
        "```bash",
        "flowsamplers generate --nfe 2 4 8 16 --samplers euler heun fireflow --prompt 'the digit seven' --out sevens.png",
        "```",
        "",
        "## Ten prompts",
        "",
        "![Ten digits by sampler and model calls](gallery/digits.png)",
        "",
        *table("digits", "error"),
        "",
        "## The same steps, spread differently",
        "",
        "Euler's method from one noise on six schedules. The exact solution is the same in every row; only where the steps lie differs.",
        f"With 8 steps `{best}` comes nearest. Move them yourself in the [schedule explorer](explorer.md).",
        "",
        "![Images by schedule and steps](gallery/schedules.png)",
        "",
        *table("schedules", "error"),
        "",
        "## Guidance",
        "",
        "Classifier-free guidance changes the field, so every column has an exact solution of its own. At the strongest, little is left",
        "of the lead that methods of order two have over Euler's.",
        "",
        "![Images by sampler and guidance](gallery/guidance.png)",
        "",
        *table("guidance", "error"),
        "",
        "## Seeds of a stochastic sampler",
        "",
        "From one and the same noise a stochastic sampler draws another image for every seed; they are not worse for being away from the",
        f"ODE's solution (here `er_sde` {min(spread):.2g} to {max(spread):.2g}), because they solve another equation with the same",
        "distributions. Euler's method has no seed.",
        "",
        "![Images by stochastic sampler and seed](gallery/seeds.png)",
        "",
        "## The experiment this project grew from",
        "",
        'Somebody asked FLUX.2 [klein] for "A cat holding a sign", stopped the pipeline in a debugger before `scheduler.step`, and read',
        "the variables off by hand, for 1, 2, 3, 4, 6 and 10 steps from one noise. Those were, for 1024x1024:",
        "",
        *steps_table(),
        "",
        f"With 4 steps the dt are {', '.join(f'{d:.4f}' for d in four.dt)}: small steps near noise, one big step at the end, and their",
        "sum is -1, the way from noise to data. (`flowsamplers schedule --steps 4 --size 1024x1024` prints them with every digit.) Looking",
        "at the images, little seemed to change from three steps on.",
        "",
        "The same experiment without the debugger, on the bundled model:",
        "",
        "```bash",
        "flowsamplers study --preset klein-steps",
        "```",
        "",
        "![One noise, six step counts](studies/klein-steps/klein-steps.png)",
        "",
        "```text",
        summary,
        "```",
        "",
        "Again little seems to change from three steps on. The last column says what the eye does not see: how far each image still is",
        "from the one that the model describes. With weights and a GPU, add `--model black-forest-labs/FLUX.2-klein-4B --device cuda`;",
        "[that model is distilled](reference/diffusers.md), so there the exact solution is not what its makers aimed at.",
    ]
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    if "--page" not in sys.argv[1:]:
        draw(sys.argv[1:] or list(DRAWINGS))
    PAGE.write_text(page())
