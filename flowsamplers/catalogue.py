"""The catalogue: what the registry says of each sampler beside what was measured of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from torch import Tensor

from flowsamplers.drive import dry_run, sample
from flowsamplers.flows import MixtureFlow
from flowsamplers.grid import SigmaGrid
from flowsamplers.orders import OrderVerdict, order
from flowsamplers.sampler import SamplerInfo, get_sampler, list_samplers

FLOWS = {"mixture-2": 2, "mixture-4": 4}
"""Anisotropic mixtures of three Gaussians in six dimensions, by the seed of `MixtureFlow.random`."""
SHIFTS = {"uniform": 1.0, "shift-2": 2.0}
"""Grids: the way from start to end, shifted as sigmas are."""
SPANS = {"inside": (0.95, 0.05), "complete": (1.0, 0.0)}
"""Where every variable is finite, and complete runs."""
STEPS = {
    1: (256, 512, 1024),
    2: (256, 512, 1024, 2048),
    3: (128, 256, 512, 1024),
    4: (64, 128, 256, 512),
    5: (32, 64, 128),
}
"""Numbers of steps by the order that is expected."""
ROUNDING = 2e-14
"""Errors near this say nothing of an order."""


@dataclass(frozen=True)
class Entry:
    """One line of the catalogue.

    Attributes:
        info: what the registry knows.
        inside: measured orders on runs from 0.95 to 0.05, by flow and grid; empty for an adaptive or stochastic sampler.
        complete: measured orders on runs from 1 to 0.
    """

    info: SamplerInfo
    inside: Mapping[str, float]
    complete: Mapping[str, float]

    @property
    def calls(self) -> str:
        """Model calls of a run of N steps, as a formula."""
        if self.info.adaptive:
            return "by tolerance"
        a, b = (len(dry_run(self.info.name, _uniform(n))) for n in (20, 21))
        per, extra = b - a, a - 20 * (b - a)
        slope = "N" if per == 1 else f"{per} N"
        return slope if extra == 0 else f"{slope} {'+' if extra > 0 else '-'} {abs(extra)}"

    @property
    def evaluations(self) -> tuple[int, int, int] | None:
        """What the first, a usual, and the last step of a complete run cost; None for an adaptive sampler."""
        if self.info.adaptive:
            return None
        calls = [e.step for e in dry_run(self.info.name, _uniform(20))]
        return calls.count(0), calls.count(10), calls.count(19)

    @property
    def ends(self) -> str:
        """What the first and the last step of a complete run cost, where they differ from the others."""
        first, usual, last = self.evaluations or (0, 0, 0)
        return ", ".join(f"{word} {n}" for word, n in (("first", first), ("last", last)) if n != usual)


def spread(orders: Mapping[str, float | None]) -> str:
    """Smallest and largest of the measured orders, in words; empty where none was measured.

    >>> spread({"mixture-2, uniform": 1.98, "mixture-4, uniform": 2.01, "mixture-4, shift-2": None})
    '1.98 to 2.01'
    """
    known = sorted(v for v in orders.values() if v is not None)
    if not known:
        return ""
    return f"{known[0]:.2f}" if known[0] == known[-1] else f"{known[0]:.2f} to {known[-1]:.2f}"


def catalogue() -> list[Entry]:
    """Every registered sampler with its measured orders, which ``tools/build_catalogue.py`` took."""
    measured = _measured()
    return [Entry(i, *(measured.get(i.name, {}).get(span, {}) for span in SPANS)) for i in list_samplers()]


def observed_order(name: str, flow: str, shift: str, span: str) -> OrderVerdict:
    """Measure the order of an ODE sampler.

    Args:
        name: of the sampler.
        flow: key of `FLOWS`.
        shift: key of `SHIFTS`.
        span: key of `SPANS`.

    Returns:
        The verdict on the declared order, over the numbers of steps in `STEPS`.
    """
    method = get_sampler(name)
    declared = method.order if span == "inside" else min(method.order, method.order_to_data)
    x, exact = _truth(flow, *SPANS[span])
    errors: list[float] = []
    for n in STEPS[declared]:
        out = sample(_flow(flow).velocity, x, shifted(n, SHIFTS[shift], *SPANS[span]), method)
        errors.append(((out - exact).norm() / exact.norm()).item())
    return order(STEPS[declared], errors, declared=declared, floor=ROUNDING)


def shifted(steps: int, shift: float, start: float, end: float) -> SigmaGrid:
    """A grid between any two sigmas whose steps grow as those of a shifted schedule do."""
    way = np.arange(steps + 1) / steps
    way = way / (shift - (shift - 1) * way)
    return SigmaGrid([start, *(start + (end - start) * way[1:-1]), end])


@cache
def _flow(name: str) -> MixtureFlow:
    return MixtureFlow.random(FLOWS[name])


@cache
def _truth(flow: str, start: float, end: float) -> tuple[Tensor, Tensor]:
    x = _flow(flow).noise([0, 1])
    return x, _flow(flow).solution(x, start, end)


def _uniform(steps: int) -> SigmaGrid:
    return shifted(steps, 1.0, 1.0, 0.0)


@cache
def _measured() -> dict[str, Any]:
    return json.loads((files("flowsamplers") / "measurements" / "orders.json").read_text())["samplers"]
