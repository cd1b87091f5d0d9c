"""Describe a study in text and figures: for the terminal, and as one self-contained HTML file."""

from __future__ import annotations

import base64
import io
import json
import math
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from flowsamplers.study.plots import POWERS, Plots, image_grid, png, svg
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
BUDGET = 8
"""The number of model calls in the conclusion, the table of images and the plot of trajectories."""
REPORT, TEMPLATE = "report.html", "report.html.jinja"
FIGURES: Mapping[str, tuple[str, Callable[[Plots], Any]]] = {
    "error-vs-nfe": ("Error against model calls", Plots.work_precision),
    "best-at-nfe": ("The best sampler at each number of model calls", Plots.best),
    "error-vs-steps": ("Error against steps", Plots.error_vs_steps),
    "trajectory": ("Where the error arises", lambda plots: plots.trajectory(BUDGET)),
    "schedule": ("The schedule", Plots.schedule),
}
"""The figures by the names of their files: title, and how to draw them."""


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
    budget = results.nfes[-1]
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
    width = max(map(len, results.labels))
    columns = _columns(results)[: (WIDTH - width) // 9]
    floored = {(row.label, row.nfe) for row in results.rows if row.floored}
    lines = ["Relative error of the final latents (geometric mean over prompts and seeds)"]
    lines.append(f"{'model calls':<{width}}" + "".join(f"{n:>9}" for n in columns))
    for name in results.labels:
        cells = [f"{'~' * ((name, n) in floored)}{error_text(results, name, n)}" for n in columns]
        lines.append(f"{name:<{width}}" + "".join(f"{cell:>9}" for cell in cells))
    lines.append(f"{'reference':<{width}}  its own relative error is at most {results.reference_error:.1e}")
    if floored:
        lines.append("~ below ten times the reference's own error, so inexact")
    failed = sum(row.status != "ok" for row in results.rows)
    if failed:
        lines.append(f"{failed} of {len(results.rows)} runs failed; rows.jsonl has the reasons")
    return "\n".join(lines)


def _columns(results: Results) -> list[int]:
    """The numbers of model calls that a table shows."""
    return [n for n in POWERS if n in results.nfes] or results.nfes[:8]


def pictures(results: Results, budget: int = BUDGET) -> str:
    """Make the table of PSNR and SSIM of the images at one number of calls; empty for a model without images."""
    found = similarity(results, budget)
    if not found:
        return ""
    width = max(map(len, results.labels))
    lines = [f"Decoded images with at most {budget} model calls, against the reference's (mean)"]
    for name, (p, s, more) in found.items():
        cells = [f"{p:>8.1f} dB PSNR", f"{s:>8.3f} SSIM", *(f"{v:>9.3g} {metric}" for metric, v in more.items())]
        lines += textwrap.wrap(
            f"{name:<{width}}{''.join(cells)}", WIDTH, subsequent_indent=" " * width + "   ", break_on_hyphens=False
        )
    return "\n".join(lines)


def similarity(results: Results, budget: int = BUDGET) -> dict[str, tuple[float, float, dict[str, float]]]:
    """Compute mean PSNR, SSIM and metrics of each sampler at a number of model calls, if there are images."""
    found: dict[str, tuple[float, float, dict[str, float]]] = {}
    for name in results.labels:
        rows = [r for r in results.rows if r.label == name and r.nfe <= budget and math.isfinite(r.psnr)]
        most = [r for r in rows if r.nfe == max(other.nfe for other in rows)]
        if most:
            metrics = {m: fmean(r.metrics.get(m, math.nan) for r in most) for m in most[0].metrics}
            found[name] = fmean(r.psnr for r in most), fmean(r.ssim for r in most), metrics
    return found


def image_or_sample(results: Results, count: int = 1) -> str:
    """Return "image" if the model decodes images, else "sample"."""
    word = "image" if any(math.isfinite(r.psnr) for r in results.rows) else "sample"
    return word if count == 1 else f"{word}s"


def error_text(
    results: Results,
    name: str,
    budget: int,
    exactly: Callable[[float], str] = "{:.1e}".format,
    fewer: Callable[[float], str] = "{:.0e}".format,
) -> str:
    """Format the error at a number of calls; in brackets the error with fewer, but at least half as many."""
    at = dict(zip(*results.curve(name), strict=True))
    less = [n for n in at if budget / 2 <= n < budget]
    if budget in at:
        return exactly(at[budget])
    return f"({fewer(at[less[-1]])})" if less else "-"


def best_lines(results: Results) -> str:
    """Make one line for the best sampler at each number of calls, with those that the study cannot tell from it."""
    lines = ["Smallest error at each number of model calls"]
    width = max(map(len, results.labels))
    for n in POWERS:
        if n in results.nfes and (leaders := results.leaders(n)):
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


def takeaway(results: Results, budget: int = BUDGET) -> str:
    """Write the conclusion: the best sampler at a number of calls, compared with Euler's method, or that the study has no single best."""
    nfes = results.nfes
    budget = budget if budget in nfes else nfes[len(nfes) // 2]
    best, leaders = results.best(budget), results.leaders(budget)
    if best is None:
        return ""
    start = f"With {budget} model call{'s' * (budget > 1)}, "
    end = f" This is the result of one {image_or_sample(results)}; others may differ." if len(results.cases) == 1 else ""
    name, error = best
    euler = results.error("euler", budget)
    if len(leaders) > 1:
        *others, last = [f"{n} ({percent(e)})" for n in leaders if (e := results.error(n, budget)) is not None]
        known = f": differences below {percent(2 * results.uncertainty)} mean nothing" if results.reference_is_coarse else ""
        ratio = None if "euler" in leaders else results.compare("euler", name, budget)
        worse = f" The error of euler ({percent(euler)}) is {ratio} times that of {name}." if ratio and euler else ""
        return _wrapped(f"{start}this study cannot tell apart {', '.join(others)} and {last}{known}.{worse}{end}")
    start += f"{name} has the smallest error, {percent(error)}"
    if euler is None or name == "euler" or not error:
        return _wrapped(f"{start}.{end}")
    needed = next((n for n in nfes if (e := results.error("euler", n)) is not None and e <= error), None)
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


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH)


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
    drawn: dict[str, bytes] = {}
    for name, (_, draw) in FIGURES.items():
        figure = draw(results.plot)
        drawn[name] = svg(figure, about)
        write_atomically(folder / f"{name}.svg", drawn[name])
        write_atomically(folder / f"{name}.png", png(figure, about))
    grid = pictures_of_runs(results, folder, about)
    if grid is not None:
        write_atomically(folder / "images.png", grid)
    write_atomically(folder / REPORT, html(results, drawn, grid))


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
    pages.filters |= {"base64": _base64, "in_one_line": _in_one_line}
    columns, cases = _columns(results), len(results.cases)
    leaders = {n: results.leaders(n) for n in columns}
    floored = {(r.label, r.nfe) for r in results.rows if r.floored}

    def cell(name: str, n: int) -> tuple[str, str]:
        """The text and its style."""
        mark = "best" if name in leaders[n] else "floored" if (name, n) in floored else ""
        return error_text(results, name, n, percent, percent), mark

    return pages.get_template(TEMPLATE).render(
        results=results,
        figures={name: (title, figures[name]) for name, (title, _) in FIGURES.items()},
        grid=grid,
        caution=caution(results),
        takeaway=takeaway(results),
        distilled=DISTILLED if results.settings.get("flow", {}).get("is_distilled") else "",
        sample=image_or_sample(results),
        samples=image_or_sample(results, 2),
        cases=f"{cases} {image_or_sample(results, cases)}",
        columns=columns,
        leaders=leaders,
        floored=floored,
        errors={name: [cell(name, n) for n in columns] for name in results.labels},
        pictures=similarity(results),
        settings=json.dumps(results.settings, indent=1),
    )


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _in_one_line(text: str) -> str:
    return " ".join(text.split())
