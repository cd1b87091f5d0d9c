"""Plot a schedule, a trace or the results of a study; matplotlib is imported on the first call.

Every function draws on the axes that it is given, or on new ones, and returns the axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flowsamplers._accepted import listed, refused
from flowsamplers.grid import SigmaGrid
from flowsamplers.tracing import Trace

if TYPE_CHECKING:
    from flowsamplers.study.results import Results


def schedule(*grids: SigmaGrid, labels: Sequence[str] = (), axes: Any = None) -> Any:
    """Plot sigma against the fraction of the steps taken.

    Args:
        *grids: the schedules; each becomes one line.
        labels: one label for each line.
        axes: matplotlib axes, or None.

    Returns:
        The axes.
    """
    for grid in grids:
        _is("grid", grid, "steps", "a SigmaGrid")
    if not all(isinstance(label, str) for label in listed("labels", labels, "a list of texts")):
        raise TypeError(str(refused("labels", labels, "a list of texts")))
    axes = _axes(axes)
    for i, grid in enumerate(grids):
        shares = [k / grid.steps for k in range(grid.steps + 1)]
        axes.plot(shares, grid.sigmas, marker=".", label=labels[i] if i < len(labels) else f"{grid.steps} steps")
    axes.set(xlabel="share of the steps", ylabel="sigma", ylim=(-0.02, 1.02))
    axes.legend()
    return axes


def trace(run: Trace, axes: Any = None) -> Any:
    """Plot the root mean squares of state and velocity at every model call, against sigma.

    Args:
        run: the result of `flowsamplers.trace`.
        axes: matplotlib axes, or None.

    Returns:
        The axes; sigma falls from left to right.
    """
    _is("run", run, "evaluations", "a Trace")
    axes = _axes(axes)
    sigmas = [e.sigma for e in run.evaluations]
    axes.plot(sigmas, [e.x_norm for e in run.evaluations], marker=".", label="state")
    axes.plot(sigmas, [e.v_norm for e in run.evaluations], marker=".", label="velocity")
    axes.set(xlabel="sigma", ylabel="root mean square", title=f"{run.nfe} model calls")
    axes.invert_xaxis()
    axes.legend()
    return axes


def results(results: Results, axis: str = "nfe", axes: Any = None) -> Any:
    """Plot the error of every sampler of a study against its cost, on logarithmic axes.

    Args:
        results: the results of a study, from `flowsamplers.study.load`.
        axis: ``"nfe"``, or another numeric column of the rows.
        axes: matplotlib axes, or None.

    Returns:
        The axes.
    """
    _is("results", results, "labels", "the Results of a study")
    axes = _axes(axes)
    for label in results.labels:
        axes.loglog(*results.curve(label, axis), marker=".", label=label)
    axes.set(xlabel="function evaluations" if axis == "nfe" else axis, ylabel="relative error")
    axes.legend()
    return axes


def _is(name: str, value: Any, attribute: str, accepted: str) -> None:
    if not hasattr(value, attribute):
        raise TypeError(str(refused(name, value, accepted)))


def _axes(axes: Any) -> Any:
    if axes is not None:
        _is("axes", axes, "plot", "axes of matplotlib, or None")
        return axes
    from matplotlib import pyplot as plt  # noqa: PLC0415

    return plt.subplots(figsize=(5, 3.4), layout="constrained")[1]
