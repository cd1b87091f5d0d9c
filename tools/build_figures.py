"""Draw the figures of the explanations, docs/figures/*.svg, from the library and its committed measurements.

python tools/build_figures.py   # ten seconds
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import matplotlib as mpl
import torch
from building import DOCS, build, drawn
from matplotlib.figure import Figure

import flowsamplers as fs
from flowsamplers.benchmark import BUDGETS, measured
from flowsamplers.catalogue import catalogue
from flowsamplers.schedules import empirical_mu
from flowsamplers.study.plots import GREY, MARKERS, PALETTE
from flowsamplers.testing.moments import variance_ratio

FIGURES = DOCS / "figures"
BLUE, ORANGE, GREEN, PINK, YELLOW, SKY = PALETTE[:6]
STYLE = {"font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True}


def canvas(height: float, panels: int = 1, **kwargs: Any) -> tuple[Figure, Any]:
    """A figure as wide as the site's text on a telephone can show, on white, so that it reads the same on dark pages."""
    figure = Figure(figsize=(5.4, height), layout="constrained", facecolor="white")
    axes = figure.subplots(1, panels, **kwargs)
    return figure, axes


def paths() -> Figure:
    """A flow between noise and three lumps of data: the exact paths, and four Euler steps along one of them."""
    flow = fs.flows.MixtureFlow([[-1.6], [0.2], [1.7]], [0.12, 0.12, 0.12])
    figure, axes = canvas(3.6)
    starts = torch.linspace(-2.3, 2.3, 24, dtype=torch.float64)[:, None]
    run = fs.trace(flow.velocity, starts, fs.schedules.linear(200), "rk4")
    sigmas = run.grid.sigmas
    for row in range(len(starts)):
        axes.plot(sigmas, [x[row, 0] for x in run.states], color=GREY, linewidth=0.7, alpha=0.6)
    start = torch.tensor([[0.85]], dtype=torch.float64)
    exact = fs.trace(flow.velocity, start, fs.schedules.linear(200), "rk4")
    axes.plot(sigmas, [x[0, 0] for x in exact.states], color=BLUE, linewidth=2.2, label="exact path")
    for name, colour, marker in (("euler", ORANGE, "s"), ("fireflow", GREEN, "o")):
        coarse = fs.trace(flow.velocity, start, fs.schedules.linear(4), name)
        label = f"{name}, 4 steps, {coarse.nfe} calls"
        axes.plot(coarse.grid.sigmas, [x[0, 0] for x in coarse.states], marker=marker, color=colour, linewidth=1.6, label=label)
    axes.set(xlabel="sigma (1 noise, 0 data)", ylabel="x", xlim=(1.02, -0.02))
    axes.legend(loc="lower left", fontsize=9.5, edgecolor="none", framealpha=0.9)
    return figure


def nodes() -> Figure:
    """The nodes of FLUX.2's schedule at 4,096 tokens by number of steps; the last step is drawn bold."""
    figure, axes = canvas(3.6)
    counts = (1, 2, 3, 4, 6, 8, 10, 20, 28, 50)
    for y, steps in enumerate(reversed(counts)):
        sigmas = fs.schedules.flux2(steps, tokens=4096).sigmas
        axes.plot(sigmas, [y] * len(sigmas), "o", color=BLUE, markersize=4)
        axes.plot(sigmas[-2:], [y, y], color=ORANGE, linewidth=3, solid_capstyle="butt", zorder=1)
        axes.text(sigmas[-2] / 2, y + 0.16, f"{sigmas[-2]:.2f}", ha="center", fontsize=9, color="#8a3c00")
    axes.set(yticks=range(len(counts)), yticklabels=reversed(counts), xlim=(1.03, -0.02), ylim=(-0.5, len(counts)))
    axes.set(xlabel="sigma", ylabel="steps")
    axes.text(1.0, len(counts) - 0.35, "noise", fontsize=10, color=GREY)
    axes.text(0.0, len(counts) - 0.35, "data", fontsize=10, color=GREY, ha="right")
    return figure


def mu() -> Figure:
    """The empirical mu by number of tokens, at some numbers of steps."""
    figure, axes = canvas(3.4)
    below, above = range(256, 4301, 4), range(4301, 8193, 4)
    for steps, colour in ((4, BLUE), (28, GREEN), (50, PINK), (200, YELLOW)):
        axes.plot(below, [empirical_mu(tokens=t, steps=steps) for t in below], color=colour, linewidth=2)
        slope = empirical_mu(tokens=1300, steps=steps) - empirical_mu(tokens=300, steps=steps)
        where = {"rotation": math.degrees(math.atan2(slope, 1000)), "transform_rotates_text": True, "rotation_mode": "anchor"}
        height = empirical_mu(tokens=300, steps=steps) + 0.03
        axes.text(300, height, f"{steps} steps", color=colour, fontsize=10, weight="bold", **where)
    axes.plot(above, [empirical_mu(tokens=t, steps=4) for t in above], color=ORANGE, linewidth=2)
    height = empirical_mu(tokens=6300, steps=4) - 0.16
    axes.text(6300, height, "any number\nof steps", color=ORANGE, va="top", fontsize=10, weight="bold")
    axes.axvline(4300.5, color=GREY, linewidth=1, linestyle=":")
    for tokens, name in ((1024, "512²"), (4096, "1024²"), (4356, "1056²")):
        axes.plot(tokens, 0.22, "|", color="black")
        axes.text(tokens, 0.28, name, ha="right" if tokens == 4096 else "left" if tokens == 4356 else "center", fontsize=9)
    axes.set(xlabel="tokens", ylabel="mu", ylim=(0.2, 2.6), xlim=(0, 8300))
    return figure


def last_step() -> Figure:
    """What the last step costs and buys: the committed benchmark, on FLUX.2's schedule."""
    figure, axes = canvas(3.6)
    lines = (
        ("euler", "euler", GREY),
        ("unipc", "unipc, Euler last", ORANGE),
        ("unipc:last=midpoint", "unipc, midpoint last", SKY),
        ("unipc:last=ralston3", "unipc, ralston3 last", BLUE),
    )
    for (label, words, colour), marker in zip(lines, MARKERS, strict=False):
        found = {m.nfe: m.error for m in measured() if m.schedule == "flux2" and m.label == label}
        axes.plot(list(found), list(found.values()), marker=marker, color=colour, linewidth=2, markersize=5, label=words)
    axes.set(
        xscale="log", yscale="log", xlabel="model calls (NFE)", ylabel="relative error", xticks=BUDGETS, xticklabels=BUDGETS
    )
    axes.minorticks_off()
    axes.grid(color="#dddddd")
    axes.legend(frameon=False, loc="lower left", fontsize=9.5)
    return figure


def orders() -> Figure:
    """Declared and measured orders of the samplers that have them, from the committed measurements of the catalogue."""
    names = [
        "euler",
        "midpoint",
        "heun",
        "rk4",
        "rk5",
        "fireflow",
        "ab2",
        "ab4",
        "ipndm",
        "dpmpp_2m",
        "dpmpp_3m",
        "unipc_3",
        "res_3s",
        "etdrk4",
    ]
    entries = {e.info.name: e for e in catalogue()}
    figure, axes = canvas(4.6)
    for y, name in enumerate(reversed(names)):
        entry = entries[name]
        mark = {"color": "black", "markersize": 13, "markeredgewidth": 2}
        axes.plot([entry.info.literature], [y], "|", label="literature" if y == 0 else None, **mark)
        for values, fill, colour, label, shift in (
            (entry.inside, BLUE, BLUE, "measured, sigma 0.95 to 0.05", 0.14),
            (entry.complete, "white", ORANGE, "measured, complete runs", -0.14),
        ):
            found = [v for v in values.values() if v is not None]
            mark = {"color": colour, "markerfacecolor": fill, "markersize": 5, "label": label if y == 0 else None}
            axes.plot(found, [y + shift] * len(found), "o", **mark)
    axes.set(yticks=range(len(names)), yticklabels=reversed(names), xlabel="order", xlim=(0.5, 5.5), xticks=range(1, 6))
    axes.grid(axis="x", color="#dddddd")
    axes.legend(frameon=False, fontsize=9.5, loc="upper center", bbox_to_anchor=(0.42, -0.12), ncols=1)
    return figure


def local_errors() -> Figure:
    """Error of each single step of Euler's method from the exact path, on FLUX.2's schedule, 8 steps, the mixture of four Gaussians."""
    flow = fs.flows.MixtureFlow.four_gaussians()
    x = flow.noise(list(range(32)))
    grid = fs.schedules.flux2(8, tokens=4096)
    figure, axes = canvas(3.2)
    for name, colour, shift in (("euler", ORANGE, -0.2), ("midpoint", BLUE, 0.2)):
        errors = step_errors(flow, x, grid, name)
        axes.bar([i + 1 + shift for i in range(grid.steps)], errors, width=0.38, color=colour, label=f"one step of {name}")
    axes.set(yscale="log", xlabel="step", ylabel="error of the step", xticks=range(1, grid.steps + 1))
    axes.legend(frameon=False, fontsize=9.5)
    return figure


def step_errors(flow: fs.flows.MixtureFlow, x: torch.Tensor, grid: fs.SigmaGrid, sampler: str) -> list[float]:
    """Relative to the size of the result: how far one step from an exact point misses the next exact point."""
    size = flow.solution(x).norm()
    errors: list[float] = []
    for s0, s1 in zip(grid.sigmas, grid.sigmas[1:], strict=False):
        start = x if s0 == 1 else flow.solution(x, 1.0, s0)
        end = fs.sample(flow.velocity, start, fs.SigmaGrid([s0, s1]), sampler)
        errors.append(((end - flow.solution(start, s0, s1)).norm() / size).item())
    return errors


def variances() -> Figure:
    """The variance of the result over the true one by number of steps, exact: Gaussian data of variance 0.25, a grid of shift 3."""
    figure, axes = canvas(4.2)
    axes.axhline(1, color="black", linewidth=1)
    axes.text(1100, 1.02, "right", fontsize=9.5, ha="right")
    lines = (
        ("euler_sde", {}, "euler_sde", BLUE),
        ("er_sde_1", {}, "er_sde_1", SKY),
        ("dpmpp_2m_sde", {}, "dpmpp_2m_sde", GREEN),
        ("churn", {}, "churn", PINK),
        ("cps", {"eta": 0.5}, "cps, eta=0.5", YELLOW),
        ("lcm", {}, "lcm", ORANGE),
    )
    counts = [4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]
    for (name, options, words, colour), marker in zip(lines, MARKERS, strict=False):
        sampler = fs.get_sampler(name, **options)
        ratios = [variance_ratio(sampler, fs.schedules.shift(n, shift=3.0)) for n in counts]
        axes.plot(counts, ratios, marker=marker, markersize=4, color=colour, linewidth=1.8, label=words)
    ticks = (4, 16, 64, 256, 1024)
    axes.set(xscale="log", xlabel="steps", ylabel="variance of the result / of the data", xticks=ticks, xticklabels=ticks)
    axes.set(ylim=(0, 1.25), xlim=(3.5, 1200))
    axes.minorticks_off()
    axes.grid(color="#dddddd")
    axes.legend(frameon=False, loc="lower right", fontsize=9.5, ncols=2)
    return figure


FUNCTIONS: dict[str, Callable[[], Figure]] = {
    f.__name__.replace("_", "-"): f for f in (paths, nodes, mu, last_step, orders, local_errors, variances)
}


def styled(make: Callable[[], Figure]) -> bytes:
    """The file of a figure in the style of all."""
    with mpl.rc_context(STYLE):
        return drawn(make())


WRITTEN = {FIGURES / f"{name}.svg": partial(styled, make) for name, make in FUNCTIONS.items()}

if __name__ == "__main__":
    build(__doc__, WRITTEN)
