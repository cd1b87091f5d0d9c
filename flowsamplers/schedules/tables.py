r"""Schedules from tables, published or your own, with log-linear interpolation for other numbers of steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from flowsamplers._accepted import unknown
from flowsamplers.grid import SigmaGrid
from flowsamplers.registry import register_schedule
from flowsamplers.schedules.maps import Array, loglinear

__all__ = ["TABLES", "Table", "table"]

Space = Literal["sigma", "ve"]
"""``"sigma"`` of the flow, or ``"ve"``: EDM's sigma, $\\sigma_{VE} = \\sigma / (1 - \\sigma)$."""


class Table(NamedTuple):
    """A published table of falling noise levels; the last one stands for 0.

    Attributes:
        space: the unit of its numbers.
        nodes: N + 1 noise levels.
    """

    space: Space
    nodes: tuple[float, ...]


# fmt: off
TABLES: dict[str, Table] = {
    "oss_flux": Table("sigma", (0.9968, 0.9886, 0.9819, 0.975, 0.966, 0.9471, 0.9158, 0.8287, 0.5512, 0.2808, 0.001)),
    "oss_wan": Table("sigma", (
        1.0, 0.997, 0.995, 0.993, 0.991, 0.989, 0.987, 0.985, 0.98, 0.975, 0.973,
        0.968, 0.96, 0.946, 0.927, 0.902, 0.864, 0.776, 0.539, 0.208, 0.001,
    )),
    "oss_chroma": Table("sigma", (
        0.992, 0.99, 0.988, 0.985, 0.982, 0.978, 0.973, 0.968, 0.961, 0.953, 0.943, 0.931, 0.917, 0.9,
        0.881, 0.858, 0.832, 0.802, 0.769, 0.731, 0.69, 0.646, 0.599, 0.55, 0.501, 0.451, 0.402, 0.355,
        0.311, 0.27, 0.232, 0.199, 0.169, 0.143, 0.12, 0.101, 0.084, 0.07, 0.058, 0.048, 0.001,
    )),
    "ays_sd1": Table("ve", (
        14.6146412293, 6.4745760956, 3.8636745985, 2.6946151520, 1.8841921177, 1.3943805092,
        0.9642583904, 0.6523686016, 0.3977456272, 0.1515232662, 0.0291671582,
    )),
    "ays_sdxl": Table("ve", (
        14.6146412293, 6.3184485287, 3.7681790315, 2.1811480769, 1.3405244945, 0.8620721141,
        0.5550693289, 0.3798540708, 0.2332364134, 0.1114188177, 0.0291671582,
    )),
    "ays_svd": Table("ve", (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002)),
    "gits_sd1": Table("ve", (
        14.61464119, 5.85520077, 2.84484982, 1.67050016, 1.08895338, 0.74807048,
        0.50118381, 0.32104823, 0.19894916, 0.09824532, 0.02916753,
    )),
}
# fmt: on
"""Optimal Steps (FLUX.1, Wan, Chroma), Align Your Steps (SD 1.5, SDXL, SVD) and GITS (SD 1.5, 10 steps, coefficient 1.2)."""


@register_schedule(
    "table",
    presets={name: {"nodes": name} for name in TABLES},
    form="as published, and ComfyUI's interpolation",
    complete=False,
    reference="Pei et al., Optimal Stepsize for Diffusion Sampling, arXiv:2503.21774; Sabour et al., Align Your Steps, "
    "arXiv:2404.14507; Chen et al., GITS, arXiv:2405.11326",
    advice="Only the oss_* tables were made for flows, none for FLUX.2. Most begin below 1; start=1 makes the run complete.",
)
def table(
    steps: int, *, nodes: str | Sequence[float] = "oss_flux", space: Space = "sigma", start: float | None = None
) -> SigmaGrid:
    r"""Use the nodes of a table; other numbers of steps are interpolated linearly in the logarithm. The last node becomes 0.

    Published tables begin at the first sigma of their model; that of Optimal Steps for FLUX.1 is 0.9968. A run from pure noise on such a
    grid omits the first part, so its dt sum to -0.9968. With ``start=1`` the first node is moved to 1.

    Args:
        steps: number of steps N; a table of N + 1 nodes is used unchanged.
        nodes: name of a published table (see `TABLES`), or falling positive noise levels; the last one stands for 0.
        space: unit of your own nodes: ``"sigma"`` of the flow, or ``"ve"`` for EDM's sigma.
        start: new value of the first node; None leaves it.

    Raises:
        ValueError: a name or space is unknown; nodes are not falling and positive; or ``start`` is not above the second node.

    Examples:
        >>> table(10).sigmas[:3], table(10).sigmas[-2:]
        ((0.9968, 0.9886, 0.9819), (0.2808, 0.0))
        >>> [round(s, 4) for s in table(4, nodes=[1.0, 0.8, 0.01], start=1.0).sigmas]
        [1.0, 0.8944, 0.8, 0.0894, 0.0]
    """
    if isinstance(nodes, str):
        if nodes not in TABLES:
            raise unknown("table", nodes, TABLES)
        space, nodes = TABLES[nodes]
    levels = loglinear(_checked(nodes), steps + 1)[:-1]
    sigmas = [float(s) for s in (levels if space == "sigma" else levels / (1 + levels))]
    return SigmaGrid([*([sigmas[0] if start is None else start]), *sigmas[1:], 0.0])


def _checked(nodes: Sequence[float]) -> Array:
    values = np.array([float(n) for n in nodes])
    if len(values) < 2 or not (np.isfinite(values).all() and (np.diff(values) < 0).all()):
        raise ValueError(f"nodes={list(nodes)}: at least 2 finite noise levels, falling")
    if values[-1] <= 0:
        raise ValueError(
            f"nodes[{len(values) - 1}]={values[-1]}: it has no logarithm; end the table at the smallest positive level, which becomes 0"
        )
    return values
