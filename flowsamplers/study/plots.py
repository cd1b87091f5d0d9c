"""Figures of a study, as PNG bytes. They take rows, never a model."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowsamplers.study.results import Results

# Okabe and Ito's palette: distinguishable for all kinds of colour vision. Black is kept for text.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#B8A800", "#882255")
MARKERS = "osD^vP*Xh"


def check_available() -> None:
    """Raise the error that says what to install, before anything is computed.

    Raises:
        ImportError: no matplotlib.
    """
    if find_spec("matplotlib") is None:
        raise ImportError("plots need matplotlib: pip install 'flowsamplers[study]'")


def work_precision(results: Results) -> bytes:
    """Error against model calls, log-log: thin lines for each noise, bold their geometric mean.

    Below the reference's own error, shaded, nothing can be read; guides show what orders 1, 2 and 4 look like.
    """
    figure, ((axes,),) = _figure(8.6, 5.8)
    ends: list[tuple[float, float, str, str]] = []
    for i, name in enumerate(results.labels):
        colour, marker = PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]
        for nfes, errors in results.single_curves(name):
            axes.plot(nfes, errors, color=colour, alpha=0.18, linewidth=0.8)
        nfes, errors = results.curve(name)
        if not nfes:
            continue
        axes.plot(nfes, errors, color=colour, marker=marker, markersize=5, linewidth=2.2)
        ends.append((nfes[-1], errors[-1], name, colour))
    axes.set(xscale="log", yscale="log")
    _floor(axes, results)
    _guides(axes, results)
    _ticks(axes, sorted({row.nfe for row in results.rows}))
    _labels_at_ends(axes, ends)
    axes.set_xlabel("model calls per image (NFE)")
    axes.set_ylabel("relative error of the final latents")
    axes.set_title(_title(results), loc="left", fontsize=12)
    axes.grid(visible=True, which="major", color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    return _png(figure)


def image_grid(
    rows: Sequence[str], columns: Sequence[str], images: Mapping[tuple[str, str], Any], title: str, note: str = "model calls"
) -> bytes:
    """Images side by side with labels; a missing cell stays empty. Small images are enlarged without smoothing.

    Args:
        rows: labels of the rows.
        columns: labels of the columns.
        images: PIL images by (row, column).
        title: what is shown.
        note: what the columns count.
    """
    first = next(iter(images.values()))
    aspect = first.height / first.width
    cell = 1.15 if first.width < 256 else 2.4
    figure, axes = _figure(1.5 + cell * len(columns), 0.9 + cell * aspect * len(rows), len(rows), len(columns))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            ax = axes[i][j]
            ax.set_xticks([])
            ax.set_yticks([])
            for spine in ax.spines.values():
                spine.set_visible(False)
            if (row, column) in images:
                ax.imshow(images[row, column], interpolation="nearest" if first.width < 256 else "antialiased")
            if i == 0:
                ax.set_title(column, fontsize=10)
            if j == 0:
                ax.set_ylabel(row.replace(" ", "\n", 1), rotation=0, ha="right", va="center", fontsize=10)
    figure.suptitle(f"{title}   (columns: {note})", fontsize=11, x=0.02, ha="left")
    return _png(figure)


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415  (an extra; no window, no global state)
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=130)
    return out.getvalue()


def _title(results: Results) -> str:
    cases = len({(row.prompt, row.seed) for row in results.rows})
    held = results.settings.get("mu")
    mu = {"fixed": ", mu held fixed", "follow": ", mu follows the steps"}.get(str(held), f", mu={held}")
    schedule = results.settings["schedule"]
    return (
        f"{results.settings['model']}: integration error, {cases} runs a point, schedule {schedule}{mu * (schedule == 'flux2')}"
    )


def _floor(axes: Any, results: Results) -> None:
    """Shade what the reference cannot tell, if that is anywhere near the errors."""
    low = min(row.error for row in results.rows if row.status == "ok" and row.error > 0)
    own = results.reference_error
    note = f"the reference's own error, {own:.0e}"
    if own < low / 300:
        axes.set_ylim(bottom=low / 30)
        axes.annotate(f"{note}, lies below this plot", (0.01, 0.015), xycoords="axes fraction", fontsize=9, color="#666666")
        return
    axes.set_ylim(bottom=min(low, own) / 3)
    axes.axhspan(axes.get_ylim()[0], own, color="#EEEEEE", zorder=0)
    axes.axhline(own, color="#999999", linewidth=1, linestyle=":")
    axes.annotate(
        note,
        (0.01, own),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        fontsize=9,
        color="#666666",
    )


def _guides(axes: Any, results: Results) -> None:
    """A small fan below the curves: what the slopes of orders 1, 2 and 4 look like."""
    nfes = sorted({row.nfe for row in results.rows})
    left = nfes[0]
    bottom, top = axes.get_ylim()
    start = min(row.error for row in results.rows if row.nfe == left and row.status == "ok") / 6
    length = min(4.0, nfes[-1] / left)
    if length == 1 or start < 4 * bottom:
        return
    for order in (1, 2, 4):
        span = min(length, (start / (1.6 * bottom)) ** (1 / order))
        end = start * span**-order
        axes.plot([left, left * span], [start, end], color="#999999", linestyle="--", linewidth=1, zorder=1)
        axes.annotate(
            f"order {order}", (left * span, end), xytext=(3, -3), textcoords="offset points", fontsize=8, color="#777777"
        )
    axes.set_ylim(bottom, top)


def _ticks(axes: Any, nfes: Sequence[int]) -> None:
    shown = [n for n in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if nfes[0] <= n <= nfes[-1]] or list(nfes)
    axes.set_xticks(shown, [str(n) for n in shown])
    axes.minorticks_off()


def _labels_at_ends(axes: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Names beside the right ends of the lines, pushed apart where they would overlap."""
    figure = axes.get_figure()
    bottom, top = axes.get_ylim()
    axes.set_xlim(right=axes.get_xlim()[1])
    height = axes.get_window_extent().height if figure.canvas else 400
    gap = 15 * figure.dpi / 72 / height  # of the axis
    span = math.log(top / bottom)
    placed: list[float] = []
    for x, y, name, colour in sorted(ends, key=lambda e: e[1]):
        at = math.log(y / bottom) / span
        at = max(at, placed[-1] + gap) if placed else at
        placed.append(at)
        axes.annotate(
            name,
            (x, y),
            xytext=(1.015, at),
            textcoords="axes fraction",
            color=colour,
            fontsize=10,
            fontweight="bold",
            va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "alpha": 0.5, "linewidth": 0.8},
        )
