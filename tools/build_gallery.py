"""Draw the gallery: docs/gallery/*.png with the errors of their images, and docs/gallery.md.

python tools/build_gallery.py            # draw everything (a few minutes on one core), then write the page
python tools/build_gallery.py guidance   # draw one of them anew
python tools/build_gallery.py --page     # write the page from the committed errors

calls.png is also the picture of README.md and of the site's home.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import torch
from building import DOCS, build, load, rendered, save, table
from PIL import Image

import flowsamplers as fs
from flowsamplers.flows import load_flow
from flowsamplers.lockstep import Run
from flowsamplers.reference import Reference, relative_error, solve
from flowsamplers.solver import bundled_solvers
from flowsamplers.study import load as load_study
from flowsamplers.study.plots import image_grid
from flowsamplers.study.report import percent
from flowsamplers.study.results import geometric_mean

FOLDER = DOCS / "gallery"
DATA = FOLDER / "errors.json"
PAGE = DOCS / "gallery.md"
MODEL = "klein-emoji"
REFERENCE = 700
"""Evaluations of a reference; its error is some hundredths of those shown."""
PROMPTS = {"pizza": 0, "soccer ball": 1, "rocket": 5}
"""What calls.png shows, each with the seed of its noise. The fitted solvers were made for other prompts and other seeds."""
CALLS = (2, 4, 6, 8, 50)
CATALOGUE = ("euler", "ab2", "unipc", "dpmpp_2m", "fireflow")
"""Of these the one with the smallest error is shown."""
SCHEDULES = ("flux2", "shift", "linear", "karras", "exponential", "beta")
GUIDANCES = (1.0, 2.5, 4.0, 6.0)
FLUX2 = "FLUX.2's"
FLAT = "flat"
FITTED = "fitted"
CELL = 0.9
"""Width of an image in inches."""


class Drawing:
    """An image grid: what is in its cells.

    Attributes:
        title: what all cells share.
        columns: what the columns count.
        images: by row and column.
        errors: relative distance of the latents to the exact solution, by row and column; the reference's own is its uncertainty.
        captions: what stands below an image, by default its error.
    """

    def __init__(self, title: str, columns: str) -> None:
        self.title, self.columns = title, columns
        self.images: dict[tuple[str, str], Any] = {}
        self.errors: dict[tuple[str, str], float] = {}
        self.captions: dict[tuple[str, str], str] = {}

    def add(self, row: str, column: str, flow: Any, x0: torch.Tensor, truth: Reference, caption: str = "") -> None:
        """One cell; the caption goes before the error."""
        self.images[row, column] = flow.decode(x0)[0]
        exact = x0 is truth.x0
        error = (truth.error if exact else relative_error(x0, truth.x0)).item()
        self.errors[row, column] = float(f"{error:.3g}")
        self.captions[row, column] = f"known to {percent(error)}" if exact else f"{caption}{percent(error)}"


def grids(flow: Any) -> dict[str, Callable[[int], fs.SigmaGrid]]:
    """The pipeline's own schedule, and the flat one."""
    return {FLUX2: lambda n: fs.schedules.flux2(n, tokens=flow.tokens), FLAT: fs.schedules.linear}


def truth_of(flow: Any, x1: torch.Tensor, condition: Sequence[str] | None = None) -> Reference:
    """The solution that the errors are measured against."""
    return solve(flow, x1, condition=condition, max_evaluations=REFERENCE)


def calls() -> Drawing:
    """Three prompts, sharpening with the number of calls: as the pipeline draws them, by the best of the catalogue, and by fitted solvers."""
    prompts = list(PROMPTS)
    flow = load_flow(MODEL, prompt=prompts[0])
    x1 = flow.noise(list(PROMPTS.values()))
    truth = truth_of(flow, x1, prompts)
    cells: dict[tuple[str, int, Any], fs.SigmaGrid] = {(FITTED, s.nfe, s.sampler): s.grid for s in bundled_solvers(MODEL)}
    for name, grid in grids(flow).items():
        for n in CALLS:
            for sampler in CATALOGUE if name == "flat" else ("euler",):
                if steps := fs.largest_steps(fs.get_sampler(sampler), n, grid):
                    cells[name, n, sampler] = grid(steps)
    runs = [Run(x1[i : i + 1], grid, sampler, p) for (_, _, sampler), grid in cells.items() for i, p in enumerate(prompts)]
    outs = iter(fs.sample_many(flow, runs))
    ends = {key: torch.cat([next(outs) for _ in prompts]) for key in cells}
    drawing = Drawing(
        f"{MODEL}: Euler on FLUX.2's schedule, the best of {len(CATALOGUE)} samplers on a flat one, solvers fitted to other prompts",
        "model calls",
    )
    for name in (*grids(flow), FITTED):
        for n in CALLS:
            score = {k: relative_error(x, truth.x0).log().mean().item() for k, x in ends.items() if k[:2] == (name, n)}
            if not score:
                continue
            best = min(score, key=lambda k: score[k])
            sampler = "" if name == FITTED else f"{best[2]} "
            for i, prompt in enumerate(prompts):
                one = Reference(truth.x0[i : i + 1], truth.error[i : i + 1], truth.steps, truth.evaluations)
                row = f"{prompt}\n{name}".replace(" ", "\N{NO-BREAK SPACE}")
                drawing.add(row, str(n), flow, ends[best][i : i + 1], one, sampler)
    return drawing


def schedules() -> Drawing:
    """The same noise and sampler on other schedules."""
    prompt, seed = "rocket", PROMPTS["rocket"]
    flow = load_flow(MODEL, prompt=prompt)
    x1 = flow.noise([seed])
    truth = truth_of(flow, x1)
    drawing = Drawing(f"{prompt!r}, seed {seed}, euler", "steps")
    counts = (3, 4, 6, 8, 12)
    options = {name: {"tokens": flow.tokens} if name == "flux2" else {} for name in SCHEDULES}
    ends = iter(fs.sample_many(flow, [Run(x1, fs.get_schedule(s, n, **options[s])) for s in SCHEDULES for n in counts]))
    for name in SCHEDULES:
        for steps in counts:
            drawing.add(name, str(steps), flow, next(ends), truth)
        drawing.add(name, "reference", flow, truth.x0, truth)
    return drawing


def guidance() -> Drawing:
    """The same noise under more and more guidance: another velocity field, another solution, and a harder one."""
    prompt, seed = "house", 4
    drawing = Drawing(f"{prompt!r}, seed {seed}, 8 model calls", "guidance")
    for scale in GUIDANCES:
        flow = load_flow(MODEL, prompt=prompt, guidance_scale=scale)
        x1 = flow.noise([seed])
        truth = truth_of(flow, x1)
        shown = [(name, sampler, grid) for name, grid in grids(flow).items() for sampler in ("euler", "fireflow")]
        ends = fs.sample_many(flow, [Run(x1, g(fs.largest_steps(fs.get_sampler(s), 8, g)), s) for _, s, g in shown])
        for (name, sampler, _), end in zip(shown, ends, strict=True):
            drawing.add(f"{sampler} {name}", f"{scale:g}", flow, end, truth)
        drawing.add("reference", f"{scale:g}", flow, truth.x0, truth)
    return drawing


def seeds() -> Drawing:
    """A stochastic sampler draws another image from the same noise for every seed."""
    prompt, seed, shown = "pizza", PROMPTS["pizza"], range(6)
    flow = load_flow(MODEL, prompt=prompt)
    x1 = flow.noise([seed])
    truth = truth_of(flow, x1)
    drawing = Drawing(f"{prompt!r}, noise of seed {seed}, 16 steps of a flat schedule", "seed of the sampler")
    grid = fs.schedules.linear(16)
    for name in ("lcm", "er_sde"):
        for s in shown:
            drawing.add(name, str(s), flow, fs.sample(flow.velocity, x1, grid, name, seed=s), truth)
    end = fs.sample(flow.velocity, x1, grid, "euler")
    for s in shown:
        drawing.add("euler", str(s), flow, end, truth)
    return drawing


DRAWINGS: dict[str, Callable[[], Drawing]] = {"calls": calls, "schedules": schedules, "guidance": guidance, "seeds": seeds}


def unique(keys: Sequence[str]) -> list[str]:
    """The keys in their order, each once."""
    return list(dict.fromkeys(keys))


def fewer_colors(picture: bytes) -> bytes:
    """The same PNG in 256 colors: a third of the size, and no difference to the eye."""
    out = io.BytesIO()
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def draw(names: Sequence[str]) -> None:
    """Image grids, and the errors of their cells."""
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    data = load(DATA)
    for name in names:
        drawing = DRAWINGS[name]()
        rows, columns = (unique([key[axis] for key in drawing.images]) for axis in (0, 1))
        if name == "calls":  # the rows of a prompt together
            rows.sort(key=lambda row: list(PROMPTS).index(row.split("\n")[0].replace("\N{NO-BREAK SPACE}", " ")))
        picture = image_grid(
            rows, columns, drawing.images, drawing.title, drawing.columns, captions=drawing.captions, cell=CELL
        )
        (FOLDER / f"{name}.png").write_bytes(fewer_colors(picture))
        data[name] = {r: {c: drawing.errors[r, c] for c in columns if (r, c) in drawing.errors} for r in rows}
        save(DATA, data)
        print(name, flush=True)


def errors(name: str) -> dict[str, dict[str, float]]:
    """The committed errors of a drawing, by row and column."""
    return load(DATA)[name]


def means() -> list[list[object]]:
    """The geometric means of the errors of calls.png over its prompts, by number of calls and method."""

    def mean(how: str, calls: int) -> float:
        ending = how.replace(" ", "\N{NO-BREAK SPACE}")
        return geometric_mean([row[str(calls)] for name, row in errors("calls").items() if name.endswith(ending)])

    return [[calls, *(percent(mean(how, calls)) for how in (FLUX2, FLAT, FITTED))] for calls in (4, 6, 8)]


def page() -> str:
    """The gallery."""
    results, by_schedule = load_study(DOCS / "studies" / MODEL), errors("schedules")
    return rendered(
        "gallery.md",
        globals(),
        means=table("model calls: | Euler, FLUX.2's schedule: | best of the catalogue, flat: | fitted:", means()),
        samplers=len(results.labels) - 1,
        best=min(by_schedule, key=lambda s: by_schedule[s]["8"]),
        by_schedule=by_schedule,
        strong=errors("guidance")["euler " + FLUX2],
        spread=errors("seeds")["er_sde"].values(),
    )


WRITTEN = {PAGE: page}

if __name__ == "__main__":
    build(__doc__, WRITTEN, lambda names: draw(names or list(DRAWINGS)))
