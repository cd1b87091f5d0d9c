"""Describe a study in text and figures: for the terminal, and as one self-contained HTML file."""

from __future__ import annotations

import base64
import io
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

from flowsamplers.orders import OrderVerdict
from flowsamplers.study.plots import image_grid, png, svg
from flowsamplers.study.results import Results
from flowsamplers.study.store import IMAGES, write_atomically

WIDTH = 80
DISTILLED = (
    "This model is distilled for a few steps: its ODE has no limit that means quality.\n"
    "The errors are distances from the model's own fine solution. They do not measure\nhow good the images are."
)
FITTED = (
    "The fitted solvers were made for one model. Each number of calls has its own\n"
    "solver with its own schedule. All other samplers share one schedule."
)
_SHOWN = (1, 2, 4, 8, 16, 32, 64, 128)


def terminal(results: Results) -> str:
    """Write the whole text for the terminal, in at most 80 columns."""
    parts = [caution(results), table(results), pictures(results), best_lines(results), order_lines(results), takeaway(results)]
    if results.settings.get("flow", {}).get("is_distilled"):
        parts.append(DISTILLED)
    if "fitted" in results.labels:
        parts.append(FITTED)
    return "\n\n".join(part for part in parts if part)


def caution(results: Results) -> str:
    """Return a warning if the reference is hardly more accurate than the runs; else an empty text."""
    budget = max(row.nfe for row in results.rows)
    best = results.best(budget)
    if best is None or not results.reference_is_coarse:
        return ""
    return _wrapped(
        f"Read this first: the reference is known to {percent(results.reference_error)} only. At {budget} model calls, the best "
        f"sampler, {best[0]}, differs from it by {percent(best[1])}. This study cannot rank samplers whose errors differ by less than "
        f"{percent(2 * results.uncertainty)}. A dtype with less rounding, such as float32, gives a better reference."
    )


def table(results: Results) -> str:
    """Make the table of geometric mean relative errors: rows are samplers, columns are model calls."""
    nfes = sorted({row.nfe for row in results.rows})
    name_width = max(len(name) for name in results.labels)
    room = (WIDTH - name_width) // 9
    columns = ([n for n in _SHOWN if n in nfes] or nfes)[:room]
    head = f"{'model calls':<{name_width}}" + "".join(f"{n:>9}" for n in columns)
    lines = ["Relative error of the final latents (geometric mean over prompts and seeds)", head]
    for name in results.labels:
        near = {r.nfe for r in results.rows if r.label == name and r.floored}
        cells = [f"{'~' * (n in near)}{within(results, name, n)}" for n in columns]
        lines.append(f"{name:<{name_width}}" + "".join(f"{cell:>9}" for cell in cells))
    lines.append(f"{'reference':<{name_width}}  its own relative error is at most {results.reference_error:.1e}")
    if any(row.floored for row in results.rows):
        lines.append("~ below ten times the reference's own error, so inexact")
    failed = sum(row.status != "ok" for row in results.rows)
    if failed:
        lines.append(f"{failed} of {len(results.rows)} runs failed; rows.jsonl has the reasons")
    return "\n".join(lines)


def pictures(results: Results, budget: int = 8) -> str:
    """Make the table of PSNR and SSIM of the images at one number of calls; empty for a model without images."""
    found = alike(results, budget)
    if not found:
        return ""
    width = max(map(len, results.labels))
    head = f"Decoded images with at most {budget} model calls, against the reference's (mean)"
    lines = [head]
    for name, (p, s, more) in found.items():
        cells = [f"{p:>8.1f} dB PSNR", f"{s:>8.3f} SSIM", *(f"{v:>9.3g} {metric}" for metric, v in more.items())]
        lines += textwrap.wrap(
            f"{name:<{width}}{''.join(cells)}", WIDTH, subsequent_indent=" " * width + "   ", break_on_hyphens=False
        )
    return "\n".join(lines)


def alike(results: Results, budget: int) -> dict[str, tuple[float, float, dict[str, float]]]:
    """Compute mean PSNR, SSIM and metrics of each sampler at a number of model calls, if there are images."""
    found: dict[str, tuple[float, float, dict[str, float]]] = {}
    for name in results.labels:
        rows = [r for r in results.rows if r.label == name and r.nfe <= budget and math.isfinite(r.psnr)]
        most = [r for r in rows if r.nfe == max(other.nfe for other in rows)]
        if most:
            metrics = {m: fmean(r.metrics.get(m, math.nan) for r in most) for m in most[0].metrics}
            found[name] = fmean(r.psnr for r in most), fmean(r.ssim for r in most), metrics
    return found


def one(results: Results, count: int = 1) -> str:
    """Return "image" if the model decodes images, else "sample"."""
    word = "image" if any(math.isfinite(r.psnr) for r in results.rows) else "sample"
    return word if count == 1 else f"{word}s"


def within(results: Results, name: str, budget: int) -> str:
    """Format the error at a number of calls; in brackets the actual number, if the sampler needs fewer."""
    exactly, fewer = _spent(results, name, budget)
    if exactly is not None:
        return f"{exactly:.1e}"
    return "-" if fewer is None else f"({fewer:.0e})"


def within_percent(results: Results, name: str, budget: int) -> str:
    """Format the error at a number of calls in percent."""
    exactly, fewer = _spent(results, name, budget)
    if exactly is not None:
        return percent(exactly)
    return "-" if fewer is None else f"({percent(fewer)})"


def _spent(results: Results, name: str, budget: int) -> tuple[float | None, float | None]:
    """The error with exactly these model calls, or with fewer but more than half of them."""
    at = dict(zip(*results.curve(name), strict=True))
    fewer = [n for n in at if budget / 2 <= n < budget]
    return at.get(budget), at[fewer[-1]] if fewer else None


def best_lines(results: Results) -> str:
    """Make one line for the best sampler at each number of calls, with those that the study cannot tell from it."""
    lines = ["Smallest error at each number of model calls"]
    width = max(map(len, results.labels))
    for n in _SHOWN:
        leaders = results.leaders(n) if n in {row.nfe for row in results.rows} else []
        if leaders:
            start = f"{n:>5}  {leaders[0]:<{width}}  {results.error(leaders[0], n):.1e}"
            more = f"  not told apart: {', '.join(leaders[1:])}" if leaders[1:] else ""
            lines += textwrap.wrap(start + more, WIDTH, subsequent_indent=" " * (len(start) + 2), drop_whitespace=True)
    return "\n".join(lines)


def order_lines(results: Results) -> str:
    """Make one line for the measured order of each sampler."""
    width = max(len(name) for name in results.labels)
    lines = ["Order of convergence, from the errors against the number of steps"]
    for name, verdict in results.orders().items():
        window = f"  on {verdict.window[0]:g} to {verdict.window[1]:g} steps" if verdict.window else ""
        lines.append(f"{name:<{width}}  {verdict}{window}")
    return "\n".join(lines)


def takeaway(results: Results, budget: int = 8) -> str:
    """Write the conclusion: the best sampler at a number of calls, compared with Euler's method, or that the study has no single best."""
    nfes = sorted({row.nfe for row in results.rows})
    budget = budget if budget in nfes else nfes[len(nfes) // 2]
    best, leaders = results.best(budget), results.leaders(budget)
    if best is None:
        return ""
    start = f"With {budget} model call{'s' * (budget > 1)}, "
    cases = len({(r.prompt, r.seed) for r in results.rows})
    end = f" This is the result of one {one(results)}; others may differ." if cases == 1 else ""
    name, error = best
    euler = results.error("euler", budget)
    if len(leaders) > 1:
        *others, last = [f"{n} ({percent(e)})" for n in leaders if (e := results.error(n, budget)) is not None]
        known = f": differences below {percent(2 * results.uncertainty)} mean nothing" if results.reference_is_coarse else ""
        ratio = None if "euler" in leaders else results.compare("euler", name, budget)
        worse = (
            "" if ratio is None or euler is None else f" The error of euler ({percent(euler)}) is {ratio} times that of {name}."
        )
        return _wrapped(f"{start}this study cannot tell apart {', '.join(others)} and {last}{known}.{worse}{end}")
    start += f"{name} has the smallest error, {percent(error)}"
    if euler is None or name == "euler" or not error:
        return _wrapped(f"{start}.{end}")
    needed = _calls_for("euler", error, results, nfes)
    more = f"euler needs {needed} calls for that" if needed else f"euler does not reach it with {nfes[-1]} calls"
    return _wrapped(f"{start}: {euler / error:.1f} times less than euler ({percent(euler)}); {more}.{end}")


def percent(error: float) -> str:
    """Format a relative error in percent; very small ones as powers of ten.

    Examples:
        >>> percent(0.076), percent(1.1), percent(3e-7)
        ('7.6 %', '110 %', '3.0e-07')
    """
    if error < 1e-4:
        return f"{error:.1e}"
    return f"{100 * error:.0f} %" if error >= 0.1 else f"{100 * error:.2g} %"


def _calls_for(name: str, error: float, results: Results, nfes: Sequence[int]) -> int | None:
    return next((n for n in nfes if (e := results.error(name, n)) is not None and e <= error), None)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH)


def cost(results: Results) -> list[str]:
    """Describe in sentences how the study was measured and what it cost."""
    settings, rows = results.settings, results.rows
    reference = settings.get("reference", {})
    lines = [
        (
            f"{len(rows)} runs. The reference is {reference.get('method', '')}, with up to {reference.get('evaluations', '?')} model calls "
            f"for one {one(results)}. Its own relative error is at most {results.reference_error:.1e}. Rounding inside the model moves a "
            f"result by up to {results.noise_floor:.1e}; smaller differences mean nothing."
        ),
    ]
    if results.sessions:
        done, calls, seconds = (sum(s[k] for s in results.sessions) for k in ("evaluations", "model_calls", "seconds"))
        asked = sum(row.nfe for row in rows)
        lines.append(
            f"The runs need {asked:,} evaluations; equal ones were computed once. In total, {done:,} evaluations were performed, including "
            f"those for the references, in {calls:,} batched model calls and {seconds:.0f} seconds."
        )
    first = rows[0]
    lines.append(
        f"{first.versions}; {first.device}, {first.dtype}. One evaluation alone takes {1e3 * first.seconds / first.nfe:.1f} ms."
    )
    return lines


REPORT, TEMPLATE = "report.html", "report.html.jinja"
TRAJECTORY_NFE = 8

FIGURES = {
    "error-vs-nfe": (
        "Error against model calls",
        (
            "Horizontal: number of model calls, which is proportional to time. Vertical: error. The closer a line is to the lower left "
            "corner, the better is its sampler. Thin lines are single {some}, bold lines their geometric mean. Dashed lines: an error that "
            "halves (order 1) or quarters (order 2) when the number of calls doubles. Hollow points are too close to the reference's own "
            "error to be reliable."
        ),
    ),
    "best-at-nfe": (
        "The best sampler at each number of model calls",
        "Dashed: Euler's method, the default of most pipelines. Hollow: this study cannot tell others from the best sampler.",
    ),
    "error-vs-steps": (
        "Error against steps",
        (
            "The same errors against the number of steps. Some samplers call the model more than once per step. The slope of a line is the "
            "order of its sampler."
        ),
    ),
    "trajectory": (
        "Where the error arises",
        (
            "One {one}, from noise (left) to data (right). Upper plot: the error after each step. Lower plot: the error that each step "
            f"makes by itself, when it starts from the exact state. Each sampler has at most {TRAJECTORY_NFE} model calls."
        ),
    ),
    "schedule": (
        "The schedule",
        "The noise levels at which the steps begin and end; 1 is pure noise, 0 is the {one}.",
    ),
}

PICTURED = "PSNR, SSIM"

GLOSSARY = (
    (
        "relative error",
        (
            "The distance of a run's result from the exact solution of the model's differential equation for the same noise, divided by "
            "the norm of the solution. It is measured before decoding, for an image on its latents. 0.01 is one percent."
        ),
    ),
    ("model calls, NFE", "Number of function evaluations: how often one run calls the network. This determines its time."),
    (
        "step, sampler",
        "A sampler goes from noise to data in steps; some samplers call the model more than once per step.",
    ),
    (
        "order",
        (
            "Order 2 means that twice as many steps make the error 2² = 4 times smaller. 'reduced': at these numbers of steps the error "
            "falls more slowly than the theory predicts for many steps. 'pre-asymptotic': the slope has not settled yet."
        ),
    ),
    (
        "reference",
        (
            "The exact solution is not known. It is computed with much finer steps by a method of high order and checked by another "
            "method. Their difference is the reference's own error."
        ),
    ),
    (
        PICTURED,
        "The similarity of two decoded images: in decibels (a difference at 40 is hard to see), and from 0 to 1 (equal).",
    ),
    (
        "a small error",
        "does not mean a good result to look at. It means that the sampler solved the model's equation accurately.",
    ),
)


def write(results: Results, folder: Path) -> None:
    """Write all figures and the report of a study from its rows.

    Args:
        results: the rows.
        folder: folder for the figures and ``report.html``; it contains the images of the runs.

    Raises:
        OSError: a file cannot be written.
        ImportError: matplotlib is not installed.
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
    """Put the images from the first noise side by side, as PNG; None if there are no images."""
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
    """Build the HTML of the report, from the template beside this module.

    Args:
        results: the rows.
        figures: SVG texts by the names of `FIGURES`.
        grid: the images, as PNG.
    """
    from jinja2 import Environment, PackageLoader  # noqa: PLC0415  (an extra)

    loader = PackageLoader("flowsamplers.study", "")
    pages = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    pages.filters["base64"] = _base64
    cases = len({(r.prompt, r.seed) for r in results.rows})
    sample, samples = one(results), one(results, 2)
    return pages.get_template(TEMPLATE).render(
        model=results.settings["model"],
        main=[_line(caution(results)), _line(takeaway(results))],
        samplers=len(results.labels),
        cases=f"{cases} {one(results, cases)}",
        distilled=_line(DISTILLED) if results.settings.get("flow", {}).get("is_distilled") else "",
        captions=[(name, title, text.format(one=sample, some=samples)) for name, (title, text) in FIGURES.items()],
        figures=figures,
        grid=grid,
        errors=_error_table(results),
        pictures=_picture_table(results),
        orders=[_plain(name, *_verdict(verdict)) for name, verdict in results.orders().items()],
        words=[(w, text) for w, text in GLOSSARY if w != PICTURED or alike(results, TRAJECTORY_NFE)],
        cost=cost(results),
        failed=[_plain(r.label, r.steps, r.prompt, r.seed, r.message) for r in results.rows if r.status != "ok"],
        settings=json.dumps(results.settings, indent=1),
    )


Cell: TypeAlias = tuple[str, str]
"""A text and its style in a table."""
Table: TypeAlias = tuple[list[str], list[list[Cell]], str]
"""Names of the columns, rows, and a note."""


def _plain(*values: object) -> list[Cell]:
    return [(str(value), "") for value in values]


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _line(text: str) -> str:
    return " ".join(text.split())


def _verdict(verdict: OrderVerdict) -> tuple[str, str, str]:
    slope = "" if verdict.order is None else f"{verdict.order:.2f}"
    return verdict.verdict, slope, "" if verdict.window is None else f"{verdict.window[0]:g} to {verdict.window[1]:g}"


def _error_table(results: Results) -> Table:
    nfes = [n for n in (1, 2, 4, 8, 16, 32, 64, 128, 256) if n in {r.nfe for r in results.rows}]
    nfes = nfes or sorted({r.nfe for r in results.rows})[:8]
    leaders = {n: results.leaders(n) for n in nfes}
    rows: list[list[Cell]] = []
    for name in results.labels:
        floored = {r.nfe for r in results.rows if r.label == name and r.floored}
        marks = {n: "best" if name in leaders[n] else "floored" if n in floored else "" for n in nfes}
        rows.append([(name, ""), *((within_percent(results, name, n), marks[n]) for n in nfes)])
    note = f"Relative error, geometric mean over the {one(results, 2)}. Shaded: the smallest error of a column."
    if any(len(names) > 1 for names in leaders.values()):
        note += " Where several are shaded, this study cannot tell them apart."
    if any(r.floored for r in results.rows):
        note += " In italics: below ten times the reference's own error, so inexact."
    if any(text.startswith("(") for row in rows for text, _ in row):
        note += " In brackets: the sampler used fewer model calls than the column's number."
    return ["model calls", *map(str, nfes)], rows, note


def _picture_table(results: Results) -> Table | None:
    """How alike the decoded images are to the reference's; nothing for a model that makes none."""
    found = alike(results, TRAJECTORY_NFE)
    if not found:
        return None
    rows = [_plain(name, f"{p:.1f}", f"{s:.3f}", *(f"{v:.3g}" for v in more.values())) for name, (p, s, more) in found.items()]
    metrics = next(iter(found.values()))[2]
    note = f"Mean over the images, decoded from runs with at most {TRAJECTORY_NFE} model calls and compared with the reference."
    return ["sampler", "PSNR in dB", "SSIM", *metrics], rows, note
