"""The report: one HTML file that needs nothing else, and the figures beside it."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from flowsamplers.study.plots import image_grid, png, svg
from flowsamplers.study.report import DISTILLED, alike, caution, cost, one, takeaway, within_percent
from flowsamplers.study.results import Results
from flowsamplers.study.store import IMAGES, write_atomically

REPORT = "report.html"
TRAJECTORY_NFE = 8

FIGURES = {
    "error-vs-nfe": (
        "Error against work",
        (
            "Left to right: more calls of the model, so more time. Top to bottom: smaller error. The further to the lower left a line, "
            "the better its sampler. Thin lines are single {some}, bold lines their geometric mean. Dashed: an error that halves "
            "(order 1) or quarters (order 2) with every doubling of the work. Hollow points are too near to the reference's own "
            "error to be read."
        ),
    ),
    "best-at-nfe": (
        "The best sampler at each number of model calls",
        "Dashed: Euler's method, the usual choice, for comparison.",
    ),
    "error-vs-steps": (
        "Error against steps",
        (
            "The same errors, over the number of steps. Some samplers call the model more than once in a step. The slope of a line is the "
            "order of its sampler."
        ),
    ),
    "trajectory": (
        "Where the error arises",
        (
            "One {one}, from noise (left) to data (right). Above: how far the run has strayed after each step. Below: the error that each "
            f"step makes by itself, when it starts from the exact place. Each sampler with at most {TRAJECTORY_NFE} model calls."
        ),
    ),
    "schedule": (
        "The schedule",
        "At which noise levels the steps begin and end; 1 is pure noise, 0 is the {one}. Most steps are spent where marks are dense.",
    ),
}

STYLE = """
body{max-width:46rem;margin:2rem auto;padding:0 1rem;font:16px/1.55 system-ui,sans-serif;color:#1a1a1a;background:#fff}
h1{font-size:1.5rem;line-height:1.25}h2{font-size:1.15rem;margin-top:2.5rem}
.main{font-size:1.2rem;border-left:4px solid #0072B2;padding:.3rem 0 .3rem 1rem}
img{width:100%;height:auto}.pixels{image-rendering:pixelated}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .55rem;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
.floored{color:#666;font-style:italic}
.best{font-weight:700;background:#e8f2f9}
figcaption,.note{color:#555;font-size:.9rem}figure{margin:1rem 0}
pre{white-space:pre-wrap;font-size:.8rem;background:#f5f5f5;padding:.8rem}dt{font-weight:600}dd{margin:0 0 .6rem 1rem}
"""

PICTURED = "PSNR, SSIM"

GLOSSARY = (
    (
        "relative error",
        (
            "How far what a run ends with (for an image: the latents, before they are decoded) is from the exact solution of the model's "
            "differential equation from the same noise, divided by the size of the solution. 0.01 is one per cent."
        ),
    ),
    ("model calls, NFE", "Number of function evaluations: how often the network is asked in one run. Time is spent here."),
    (
        "step, sampler",
        "A sampler is the rule that gets from noise to data in steps; some rules ask the model more than once in a step.",
    ),
    (
        "order",
        (
            "An order of 2 says that twice as many steps make the error 2² = 4 times smaller. 'reduced' says that at these step counts it "
            "falls more slowly than theory promises for many steps, 'pre-asymptotic' that no slope has settled."
        ),
    ),
    (
        "reference",
        (
            "The exact solution is not known. It is computed with much finer steps by one method of high order and checked by another; "
            "what they disagree by is the reference's own error."
        ),
    ),
    (PICTURED, "How alike two decoded pictures are: in decibels (40 is hard to see), and from 0 to 1 (alike)."),
    ("a small error", "is not a good picture. It says that the sampler did what the model asked for."),
)


def write(results: Results, folder: Path) -> None:
    """Make all figures and the report of a study anew, from its rows.

    Args:
        results: the rows.
        folder: where the figures and ``report.html`` go, and where the pictures of the runs are.

    Raises:
        OSError: they cannot be written.
        ImportError: no matplotlib.
    """
    about = {k: results.settings.get(k) for k in ("model", "prompts", "seeds", "schedule", "mu", "flow", "versions")}
    plots = results.plot
    made = {
        "error-vs-nfe": plots.work_precision(),
        "best-at-nfe": plots.best(),
        "error-vs-steps": plots.error_vs_steps(),
        "trajectory": plots.trajectory(TRAJECTORY_NFE),
        "schedule": plots.schedule(),
    }
    pictures: dict[str, bytes] = {}
    for name, figure in made.items():
        pictures[name] = svg(figure, about)
        write_atomically(folder / f"{name}.svg", pictures[name])
        write_atomically(folder / f"{name}.png", png(figure, about))
    grid = pictures_of_runs(results, folder, about)
    if grid is not None:
        write_atomically(folder / "images.png", grid)
    write_atomically(folder / REPORT, html(results, pictures, grid))


def pictures_of_runs(results: Results, folder: Path, about: Mapping[str, Any]) -> bytes | None:
    """The pictures from the first noise side by side, as PNG; None if there are none."""
    from PIL import Image  # noqa: PLC0415  (an extra)

    truth = folder / IMAGES / "reference.png"
    if not truth.exists():
        return None
    wanted = [n for n in (1, 2, 3, 4, 6, 8, 16, 32, 64) if n in results.settings["nfe"]][:8] or results.settings["nfe"][:8]
    images: dict[tuple[str, str], Any] = {}
    for name in results.labels:
        images[name, "reference"] = Image.open(truth)
        nfes, _ = results.curve(name)
        for budget in wanted:
            fits = [n for n in nfes if n <= budget and not any(n <= w < budget for w in wanted)]
            path = folder / IMAGES / f"{name}-{fits[-1] if fits else 0}.png"
            if path.exists():
                images[name, str(budget)] = Image.open(io.BytesIO(path.read_bytes()))
    prompt, seed = results.settings["prompts"][0], results.settings["seeds"][0]
    return image_grid(
        results.labels, [*map(str, wanted), "reference"], images, f"{prompt!r}, seed {seed}", "model calls", about=about
    )


def html(results: Results, figures: Mapping[str, bytes], grid: bytes | None) -> str:
    """The report.

    Args:
        results: the rows.
        figures: SVG by name, those of `FIGURES`.
        grid: the pictures, as PNG.
    """
    cases = len({(r.prompt, r.seed) for r in results.rows})
    model = escape(str(results.settings["model"]))
    parts = [
        f"<h1>How far from the truth? {model}</h1>",
        *(f'<p class="main">{escape(" ".join(first.split()))}</p>' for first in [caution(results)] if first),
        f'<p class="main">{escape(" ".join(takeaway(results).split()))}</p>',
        (
            f"<p>{len(results.labels)} samplers drew the same {cases} {one(results, cases)} with few and with many calls of the model. "
            "This report says how far each came from what the model really asked for. "
            '<a href="#words">What the words mean</a>.</p>'
        ),
    ]
    if results.settings.get("flow", {}).get("is_distilled"):
        parts.append(f'<p class="note">{escape(" ".join(DISTILLED.split()))}</p>')
    for name, (title, template) in FIGURES.items():
        caption = template.format(one=one(results), some=one(results, 2))
        parts.append(_figure(title, caption, f"data:image/svg+xml;base64,{_base64(figures[name])}"))
        if name == "error-vs-nfe":
            parts.append(_error_table(results))
            parts.append(_picture_table(results))
            if grid is not None:
                parts.append(
                    _figure(
                        "What that looks like",
                        "The same image by every sampler (rows) with more and more model calls (columns); last, the exact solution.",
                        f"data:image/png;base64,{_base64(grid)}",
                    )
                )
        if name == "error-vs-steps":
            parts.append(_order_table(results))
    shown = [(w, text) for w, text in GLOSSARY if w != PICTURED or alike(results, TRAJECTORY_NFE)]
    words = "".join(f"<dt>{escape(w)}</dt><dd>{escape(text)}</dd>" for w, text in shown)
    parts += [
        f'<h2 id="words">What the words mean</h2><dl>{words}</dl>',
        "<h2>How it was measured</h2>" + "".join(f"<p>{escape(line)}</p>" for line in cost(results)),
        _failures(results),
        f"<details><summary>Settings and versions</summary><pre>{escape(json.dumps(results.settings, indent=1))}</pre></details>",
    ]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<title>{model}: integration error</title><style>{STYLE}</style></head>\n'
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _figure(title: str, caption: str, source: str) -> str:
    return (
        f'<h2>{escape(title)}</h2><figure><img src="{source}" alt="{escape(title)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _error_table(results: Results) -> str:
    nfes = [n for n in (1, 2, 4, 8, 16, 32, 64, 128, 256) if n in {r.nfe for r in results.rows}]
    nfes = nfes or sorted({r.nfe for r in results.rows})[:8]
    rows: list[list[tuple[str, str]]] = []
    for name in results.labels:
        floored = {r.nfe for r in results.rows if r.label == name and r.floored}
        marks = {n: "best" if (results.best(n) or ("",))[0] == name else "floored" if n in floored else "" for n in nfes}
        rows.append([(name, ""), *((within_percent(results, name, n), marks[n]) for n in nfes)])
    note = f"Relative error, geometric mean over the {one(results, 2)}. Shaded: the smallest."
    if any(text.startswith("(") for row in rows for text, _ in row):
        note += " In brackets: with fewer model calls than the column has."
    return _table(["model calls", *map(str, nfes)], rows) + f'<p class="note">{note}</p>'


def _picture_table(results: Results) -> str:
    """How alike the decoded images are to the reference's; nothing for a model that makes none."""
    found = alike(results, TRAJECTORY_NFE)
    if not found:
        return ""
    rows = [[(name, ""), (f"{p:.1f}", ""), (f"{s:.3f}", "")] for name, (p, s) in found.items()]
    note = f"Decoded images with at most {TRAJECTORY_NFE} model calls against the reference's, mean."
    return _table(["sampler", "PSNR in dB", "SSIM"], rows) + f'<p class="note">{note}</p>'


def _order_table(results: Results) -> str:
    rows = [
        [
            (name, ""),
            (verdict.verdict, ""),
            ("" if verdict.order is None else f"{verdict.order:.2f}", ""),
            (_window(verdict.window), ""),
        ]
        for name, verdict in results.orders().items()
    ]
    return "<h2>Order</h2>" + _table(["sampler", "verdict", "slope", "on steps"], rows)


def _window(window: tuple[float, float] | None) -> str:
    return "" if window is None else f"{window[0]:g} to {window[1]:g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[tuple[str, str]]]) -> str:
    top = "".join(f"<th>{escape(h)}</th>" for h in head)
    body = "".join(
        "<tr>"
        + "".join(f'<td class="{mark}">{escape(text)}</td>' if mark else f"<td>{escape(text)}</td>" for text, mark in row)
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'


def _failures(results: Results) -> str:
    failed = [r for r in results.rows if r.status != "ok"]
    if not failed:
        return ""
    rows = [[(r.label, ""), (str(r.steps), ""), (r.prompt, ""), (str(r.seed), ""), (r.message, "")] for r in failed[:50]]
    return f"<h2>{len(failed)} runs failed</h2>" + _table(["sampler", "steps", "prompt", "seed", "why"], rows)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
