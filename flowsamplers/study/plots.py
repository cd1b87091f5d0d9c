"""The figures of a study, drawn from its rows.

They can be read at a width of 400 pixels. They use the colors of Okabe and Ito, with one marker for each sampler.
"""

from __future__ import annotations

import io
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from flowsamplers._accepted import missing
from flowsamplers.schedules import get_schedule
from flowsamplers.study.rows import Row

if TYPE_CHECKING:
    from flowsamplers.study.results import Results

# Okabe and Ito's palette: distinguishable for all kinds of colour vision. Black is kept for text.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#B8A800", "#882255")
MARKERS = "osD^vP*Xh"
POWERS = tuple(2**i for i in range(10))
"""Numbers of steps or model calls in tables and at ticks."""
WIDTH, HEIGHT = 5.4, 4.4
GREY = "#666666"
SMALL = {"fontsize": 8.5, "color": GREY}


def check_available() -> None:
    """Check that the packages for figures are installed, before anything is computed.

    Raises:
        ImportError: matplotlib or pillow is not installed.
    """
    for package, name in (("matplotlib", "matplotlib"), ("PIL", "pillow")):
        if find_spec(package) is None:
            raise missing("plots need", name, "study")


@dataclass(frozen=True)
class Plots:
    """The figures of a study, as matplotlib figures; `png` and `svg` turn them into files.

    Args:
        results: the rows.
    """

    results: Results

    def work_precision(self) -> Any:
        """Plot error against model calls on logarithmic axes: thin lines for each noise, a bold line for their geometric mean.

        Errors in the shaded region are below the reference's own error and mean nothing; points near it are hollow. Dashed lines show
        the slopes of orders 1, 2 and 4.
        """
        return self._errors("nfe", "model calls for one image (NFE)")

    def error_vs_steps(self) -> Any:
        """Plot error against the number of steps on logarithmic axes; the slope of a line is the order of its sampler."""
        return self._errors("steps", "steps")

    def _errors(self, axis: str, what: str) -> Any:
        results = self.results
        figure, ((axes,),) = _figure(WIDTH, HEIGHT)
        for name in results.labels:
            colour, marker = self.style(name)
            for ns, errors in results.single_curves(name, axis):
                axes.plot(ns, errors, color=colour, alpha=0.18, linewidth=0.7)
            ns, errors = results.curve(name, axis)
            axes.plot(ns, errors, color=colour, linewidth=2, label=name if ns else None)
            floored = {getattr(r, axis) for r in results.rows if r.label == name and r.floored}
            for n, error in zip(ns, errors, strict=True):
                axes.plot(n, error, marker, color=colour, markersize=4.5, markerfacecolor="white" if n in floored else colour)
        axes.set(xscale="log", yscale="log", xlabel=what, ylabel="relative error")
        _floor(axes, results)
        numbers = sorted({getattr(row, axis) for row in results.rows})
        _guides(axes, results, numbers, axis)
        _ticks(axes, numbers)
        _grid(axes)
        _labels_at_ends(axes)
        _caution(axes, results)
        return figure

    def best(self) -> Any:
        """Plot the smallest error of any sampler at each number of model calls, beside Euler's method."""
        results = self.results
        figure, ((axes,),) = _figure(WIDTH, HEIGHT)
        winners = [(n, *best) for n in results.nfes if (best := results.best(n)) is not None]
        if "euler" in results.labels:
            ns, errors = results.curve("euler")
            axes.plot(ns, errors, color="#999999", linewidth=1.5, linestyle="--")
            for last in list(zip(ns, errors, strict=True))[-1:]:  # none if all of its runs failed
                axes.annotate("euler", last, (0, 14), textcoords="offset points", color=GREY, ha="right")
        axes.plot([n for n, _, _ in winners], [e for _, _, e in winners], color="#BBBBBB", linewidth=1, zorder=1)
        first = {name: n for n, name, _ in reversed(winners)}
        for n, name, error in winners:
            colour, marker = self.style(name)
            face = colour if len(results.leaders(n)) == 1 else "white"
            label = name if first[name] == n else None
            axes.plot(n, error, marker, color=colour, markersize=8, markerfacecolor=face, label=label)
        axes.set(xscale="log", yscale="log", xlabel="model calls for one image (NFE)", ylabel="smallest relative error")
        if winners:
            axes.legend(loc="lower left", frameon=False, title="best sampler", alignment="left")
        _ticks(axes, results.nfes)
        _grid(axes)
        _caution(axes, results)
        return figure

    def schedule(self) -> Any:
        """Plot the nodes of the schedules for a few numbers of steps."""
        rows = self._of_first_case(self.results.labels[0])
        shown = [n for n in POWERS[:7] if n in rows][-5:] or list(rows)[:5]
        figure, ((axes,),) = _figure(WIDTH, 0.6 + 0.42 * len(shown))
        for i, n in enumerate(shown):
            axes.plot(grid_of(rows[n]).sigmas, [i] * (n + 1), color=PALETTE[0], marker="|", markersize=11, linewidth=1)
        axes.set_yticks(range(len(shown)), [f"{n} step{'s' * (n > 1)}" for n in shown])
        axes.set(xlabel="noise level sigma, from noise to data", xlim=(1.02, -0.02), ylim=(len(shown) - 0.5, -0.5))
        _grid(axes)
        return figure

    def trajectory(self, nfe: int = 8) -> Any:
        """Plot the error after each step, from the first noise, and below it the error that each step makes by itself.

        Args:
            nfe: number of model calls; each sampler takes as many steps as fit.
        """
        figure, ((above,), (below,)) = _figure(WIDTH, 1.35 * HEIGHT, 2)
        for name in self.results.labels:
            fits = [row for row in self._of_first_case(name).values() if row.nfe <= nfe and row.trajectory]
            for row in fits[-1:]:
                colour, marker = self.style(name)
                sigmas, style = grid_of(row).sigmas[1:], {"color": colour, "marker": marker, "markersize": 4.5}
                above.plot(sigmas, row.trajectory, label=name, **style)
                if row.local_errors:
                    below.plot(sigmas, row.local_errors, linewidth=1, **style)
        for axes, what in ((above, "error so far"), (below, "error of the step alone")):
            axes.set(yscale="log", ylabel=what, xlim=(1.02, -0.02))
            _grid(axes)
        below.set_xlabel("noise level sigma, from noise to data")
        _labels_at_ends(above)
        return figure

    def style(self, name: str) -> tuple[str, str]:
        """Return color and marker of a sampler, the same in all figures of a study."""
        i = self.results.labels.index(name)
        return PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]

    def _of_first_case(self, name: str) -> dict[int, Row]:
        """Rows of a sampler from the first prompt and seed, by steps."""
        settings = self.results.settings
        first = (settings["prompts"][0] or "", settings["seeds"][0])
        rows = [r for r in self.results.rows if r.label == name and (r.prompt, r.seed) == first]
        return {r.steps: r for r in sorted(rows, key=lambda r: r.steps)}


def grid_of(row: Row) -> Any:
    """Return the schedule of a row: its sampler's own, if the sampler has one."""
    return row.method.own_grid or get_schedule(row.schedule, row.steps, **row.schedule_options)


def image_grid(
    rows: Sequence[str],
    columns: Sequence[str],
    images: Mapping[tuple[str, str], Any],
    title: str,
    note: str = "",
    *,
    captions: Mapping[tuple[str, str], str] | None = None,
    cell: float | None = None,
    about: Mapping[str, Any] | None = None,
) -> bytes:
    """Draw images side by side with labels; a missing cell stays empty. Small images are enlarged without smoothing.

    Args:
        rows: labels of the rows.
        columns: labels of the columns.
        images: PIL images by (row, column).
        title: title of the figure.
        note: meaning of the columns, if their labels do not tell it.
        captions: one line below each image.
        cell: width of an image in inches.
        about: metadata for the file: settings, versions.
    """
    first = next(iter(images.values()))
    aspect = first.height / first.width
    cell = cell or (0.56 if first.width < 256 else 1.2)
    below = 0.2 if captions else 0.0
    figure, axes = _figure(1.1 + cell * len(columns), 0.7 + (cell * aspect + below) * len(rows), len(rows), len(columns))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            ax = axes[i][j]
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if (row, column) in images:
                ax.imshow(images[row, column], interpolation="nearest" if first.width < 256 else "antialiased")
                ax.set_xlabel((captions or {}).get((row, column), ""), fontsize=7.5, labelpad=2)
            if i == 0:
                ax.set_title(column, fontsize=8.5)
            if j == 0:
                ax.set_ylabel(row.replace(" ", "\n", 1), rotation=0, ha="right", va="center", fontsize=8.5)
    heading = f"{title}   (columns: {note})" if note else title
    figure.suptitle(
        textwrap.fill(heading, int(12 * figure.get_figwidth())).replace("$", r"\$"), fontsize=9.5, x=0.02, ha="left"
    )
    return png(figure, about)


def png(figure: Any, about: Mapping[str, Any] | None = None) -> bytes:
    """Save a figure as PNG with 200 dots per inch.

    Args:
        figure: a figure of `Plots`.
        about: metadata for the file: settings, versions.
    """
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=200, metadata=_metadata(about))
    return out.getvalue()


def svg(figure: Any, about: Mapping[str, Any] | None = None) -> bytes:
    """Save a figure as SVG, with the same bytes every time.

    Args:
        figure: a figure of `Plots`.
        about: metadata for the file: settings, versions.
    """
    from matplotlib import rc_context  # noqa: PLC0415

    out = io.BytesIO()
    with rc_context({"svg.hashsalt": "flowsamplers"}):
        figure.savefig(out, format="svg", metadata={"Date": None, **_metadata(about)})
    return out.getvalue()


def _metadata(about: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"Description": json.dumps(about)} if about else {}


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # noqa: PLC0415  (an extra; no window, no global state)

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _grid(axes: Any) -> None:
    axes.grid(visible=True, which="major", color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _caution(axes: Any, results: Results) -> None:
    """Say above the figure that the reference is hardly better than what is measured, where it is so."""
    if results.reference_is_coarse:
        known, apart = (f"{100 * e:.2g} %" for e in (results.reference_error, 2 * results.uncertainty))
        warning = f"The reference is known to {known} only: differences below {apart} mean nothing."
        axes.set_title(textwrap.fill(warning, 60), fontsize=9.5, color="#B00000", loc="left")


def _floor(axes: Any, results: Results) -> None:
    """Shade what the reference cannot tell, and draw how far rounding moves a result, if that is near the errors."""
    low = min((row.error for row in results.rows if row.status == "ok" and row.error > 0), default=1.0)
    for own, what, line in (
        (results.reference_error, "error of the reference", ":"),
        (results.noise_floor, "noise of the model", "--"),
    ):
        if own < low / 300:
            continue
        axes.set_ylim(bottom=min(low, own, axes.get_ylim()[0] * 3) / 3)
        axes.axhline(own, color="#999999", linewidth=1, linestyle=line)
        axes.annotate(f"{what}, {own:.0e}", (0.01, own), (0, 3), ("axes fraction", "data"), "offset points", **SMALL)
        if line == ":":
            axes.axhspan(axes.get_ylim()[0] / 1e3, own, color="#EEEEEE", zorder=0)
    if results.reference_error < low / 300:
        axes.set_ylim(bottom=low / 12)
        note = f"truth known to {results.reference_error:.0e}, rounding {results.noise_floor:.0e}: below this plot"
        axes.annotate(note, (0.01, 0.015), xycoords="axes fraction", **SMALL)


def _guides(axes: Any, results: Results, numbers: Sequence[int], axis: str) -> None:
    """A small fan below the curves: what the slopes of orders 1, 2 and 4 look like."""
    left = numbers[0]
    bottom, top = axes.get_ylim()
    firsts = [row.error for row in results.rows if getattr(row, axis) == left and row.status == "ok"]
    start = min(firsts, default=bottom) / 4
    length = min(4.0, numbers[-1] / left)
    floors = [floor for floor in (results.reference_error, results.noise_floor) if bottom < floor < start]
    bottom_of_fan = max(2.2 * bottom, 3.5 * max(floors, default=0.0))  # off these lines and what is written on them
    if length == 1 or start < 4 * bottom_of_fan:
        return
    for order in (1, 2, 4):
        span = min(length, (start / bottom_of_fan) ** (1 / order))
        end = start * span**-order
        axes.plot([left, left * span], [start, end], color="#999999", linestyle="--", linewidth=1, zorder=1)
        axes.annotate(f"order {order}", (left * span, end), (3, -4), textcoords="offset points", **SMALL)
    axes.set_ylim(bottom, top)


def _ticks(axes: Any, nfes: Sequence[int]) -> None:
    shown = [n for n in POWERS if nfes[0] <= n <= nfes[-1]] or list(nfes)
    axes.set_xticks(shown, [str(n) for n in shown])
    axes.minorticks_off()


def _labels_at_ends(axes: Any) -> None:
    """Labels beside the right ends of the lines, pushed apart where they would overlap, options on a line of their own."""
    bottom, top = axes.get_ylim()
    axes.set_xlim(axes.get_xlim())
    height = axes.get_position().height * axes.get_figure().get_figheight() * 72
    span = math.log(top / bottom)
    lines = [line for line in axes.lines if not line.get_label().startswith("_")]
    lines.sort(key=lambda line: line.get_ydata()[-1])
    sizes = [(1 + line.get_label().count(" ")) * 12.5 / height for line in lines]
    ends = [line.get_ydata()[-1] for line in lines]
    wanted = [math.log(y / bottom) / span if 0 < y < math.inf else 0.0 for y in ends]
    for line, y, at in zip(lines, ends, _apart(wanted, sizes), strict=True):
        text, x, color = line.get_label().replace(" ", "\n"), line.get_xdata()[-1], line.get_color()
        bold = {"color": color, "fontsize": 9.5, "fontweight": "bold", "va": "center", "linespacing": 1.0}
        arrow = {"arrowstyle": "-", "color": color, "alpha": 0.5, "linewidth": 0.8, "relpos": (0, 0.5)}
        axes.annotate(text, (x, y), (1.03, at), textcoords="axes fraction", arrowprops=arrow, **bold)


def _apart(wanted: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Rising places as near as may be to the wanted ones, at least so far apart that things of these sizes do not overlap.

    Examples:
        >>> [round(y, 3) for y in _apart([0.5, 0.5], [0.1, 0.1])]
        [0.45, 0.55]
    """
    middles = np.cumsum(sizes) - np.asarray(sizes) / 2  # of things that follow each other without a gap
    free, n = np.asarray(wanted) - middles, len(sizes)
    rising = [
        max(min(free[j : k + 1].mean() for k in range(i, n)) for j in range(i + 1)) for i in range(n)
    ]  # isotonic regression
    return (np.clip(rising, 0.0, max(1.0 - sum(sizes), 0.0)) + middles).tolist()
