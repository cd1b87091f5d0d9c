"""A study in words: the table, the best at each budget, the orders, the sentence to take away."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from statistics import fmean

from flowsamplers.study.results import Results

WIDTH = 80
DISTILLED = (
    "This model is distilled for a few steps: its ODE has no limit that means quality.\n"
    "Read these figures as the distance from its own fine solution, not as how good\nthe pictures are."
)
_SHOWN = (1, 2, 4, 8, 16, 32, 64, 128)


def terminal(results: Results) -> str:
    """Everything, in at most 80 columns."""
    parts = [caution(results), table(results), pictures(results), best_lines(results), order_lines(results), takeaway(results)]
    if results.settings.get("flow", {}).get("is_distilled"):
        parts.append(DISTILLED)
    return "\n\n".join(part for part in parts if part)


def caution(results: Results) -> str:
    """What must be read first where the reference is hardly better than what is measured; else nothing."""
    budget = max(row.nfe for row in results.rows)
    best = results.best(budget)
    if best is None or 3 * results.reference_error <= best[1]:
        return ""
    return _wrapped(
        f"Read this first: the reference is known to {percent(results.reference_error)} only. At {budget} model calls the best "
        f"sampler, {best[0]}, differs from it by {percent(best[1])}. This study cannot rank samplers whose errors are below "
        f"{percent(10 * results.reference_error)}. A dtype with less rounding, such as float32, gives a better reference."
    )


def table(results: Results) -> str:
    """Rows samplers, columns model calls: the geometric mean of the relative error."""
    nfes = sorted({row.nfe for row in results.rows})
    name_width = max(len(name) for name in results.labels)
    room = (WIDTH - name_width) // 9
    columns = ([n for n in _SHOWN if n in nfes] or nfes)[:room]
    head = f"{'model calls':<{name_width}}" + "".join(f"{n:>9}" for n in columns)
    lines = ["Relative error of the final latents (geometric mean over prompts and seeds)", head]
    for name in results.labels:
        cells = "".join(f"{within(results, name, n):>9}" for n in columns)
        lines.append(f"{name:<{name_width}}{cells}")
    lines.append(f"{'reference':<{name_width}}  its own relative error is at most {results.reference_error:.1e}")
    failed = sum(row.status != "ok" for row in results.rows)
    if failed:
        lines.append(f"{failed} of {len(results.rows)} runs failed; rows.jsonl says why")
    return "\n".join(lines)


def pictures(results: Results, budget: int = 8) -> str:
    """PSNR and SSIM of the decoded images against the reference's, at one budget; nothing for a model that makes none."""
    found = alike(results, budget)
    if not found:
        return ""
    width = max(map(len, results.labels))
    head = f"Decoded images with at most {budget} model calls, against the reference's (mean)"
    lines = [f"{name:<{width}}{p:>8.1f} dB PSNR{s:>8.3f} SSIM" for name, (p, s) in found.items()]
    return "\n".join([head, *lines])


def alike(results: Results, budget: int) -> dict[str, tuple[float, float]]:
    """The mean PSNR and SSIM of each sampler with the most model calls that it can make of these, where there are images."""
    found: dict[str, tuple[float, float]] = {}
    for name in results.labels:
        rows = [r for r in results.rows if r.label == name and r.nfe <= budget and math.isfinite(r.psnr)]
        most = [r for r in rows if r.nfe == max(other.nfe for other in rows)]
        if most:
            found[name] = fmean(r.psnr for r in most), fmean(r.ssim for r in most)
    return found


def one(results: Results, count: int = 1) -> str:
    """What a run ends with: an image where the model decodes to one, else a sample."""
    word = "image" if any(math.isfinite(r.psnr) for r in results.rows) else "sample"
    return word if count == 1 else f"{word}s"


def within(results: Results, name: str, budget: int) -> str:
    """The error at a budget in words; with fewer calls in brackets, where the sampler cannot spend it exactly."""
    exactly, fewer = _spent(results, name, budget)
    if exactly is not None:
        return f"{exactly:.1e}"
    return "-" if fewer is None else f"({fewer:.0e})"


def within_percent(results: Results, name: str, budget: int) -> str:
    """The same for everybody."""
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
    """The best sampler at each budget."""
    lines = ["Best at each budget of model calls"]
    for n in _SHOWN:
        best = results.best(n)
        if best and n in {row.nfe for row in results.rows}:
            lines.append(f"{n:>5}  {best[0]:<24}{best[1]:.1e}")
    return "\n".join(lines)


def order_lines(results: Results) -> str:
    """What the errors say of each declared order."""
    width = max(len(name) for name in results.labels)
    lines = ["Order, from the errors against the number of steps"]
    for name, verdict in results.orders().items():
        window = f"  on {verdict.window[0]:g} to {verdict.window[1]:g} steps" if verdict.window else ""
        lines.append(f"{name:<{width}}  {verdict}{window}")
    return "\n".join(lines)


def takeaway(results: Results, budget: int = 8) -> str:
    """One sentence, computed from the rows: the best at a budget, against Euler's method."""
    nfes = sorted({row.nfe for row in results.rows})
    budget = budget if budget in nfes else nfes[len(nfes) // 2]
    best = results.best(budget)
    euler = results.error("euler", budget)
    if best is None:
        return ""
    name, error = best
    start = f"With {budget} model call{'s' * (budget > 1)} {name} has the smallest error, {percent(error)}"
    if euler is None or name == "euler":
        return start + "."
    needed = _calls_for("euler", error, results, nfes)
    more = f"euler needs {needed} calls for that" if needed else f"euler does not get there in {nfes[-1]}"
    return _wrapped(
        f"{start}: {euler / error:.1f} times less than euler ({percent(euler)}); {more}.{_doubt(results, name, budget)}"
    )


def _doubt(results: Results, name: str, budget: int) -> str:
    """What the interval of the paired comparison with the runner-up says, if it says that there is no winner."""
    others = [(e, n) for n in results.labels if n != name and (e := results.error(n, budget)) is not None]
    second = min(others)[1] if others else name
    ratio = results.compare(second, name, budget)
    if len({(r.prompt, r.seed) for r in results.rows}) == 1:
        return f" This is from one {one(results)}; others may say otherwise."
    if ratio is None or ratio.low > 1 or second == name:
        return ""
    return f" On these {one(results, 2)} {second} could as well be the best: its error is {ratio} times that."


def percent(error: float) -> str:
    """A relative error for everybody; very small ones as powers of ten.

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
    """How it was measured and what it cost, in sentences."""
    settings, rows = results.settings, results.rows
    reference = settings.get("reference", {})
    lines = [
        (
            f"{len(rows)} runs. Truth: {reference.get('method', '')}, with up to {reference.get('evaluations', '?')} model calls for one "
            f"{one(results)}; "
            f"its own relative error is at most {results.reference_error:.1e}. Rounding inside the model moves a result by up to "
            f"{results.noise_floor:.1e}; no smaller difference means anything."
        ),
    ]
    if results.sessions:
        done, calls, seconds = (sum(s[k] for s in results.sessions) for k in ("evaluations", "model_calls", "seconds"))
        asked = sum(row.nfe for row in rows)
        lines.append(
            f"The runs asked for {asked:,} evaluations. Performed were {done:,}, those for the references among them, in {calls:,} batched "
            f"model calls and {seconds:.0f} seconds. What several runs ask for alike was computed once."
        )
    first = rows[0]
    lines.append(
        f"{first.versions}; {first.device}, {first.dtype}. One evaluation on its own takes {1e3 * first.seconds / first.nfe:.1f} ms."
    )
    return lines
