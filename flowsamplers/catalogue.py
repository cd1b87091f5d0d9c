"""The catalogue: each sampler's declared properties beside its measured orders."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from flowsamplers.orders import OrderVerdict
from flowsamplers.registry import SamplerInfo, get_sampler, list_samplers, sampler_info


@dataclass(frozen=True)
class Observed(OrderVerdict):
    """A measured order of a stochastic sampler, without its window.

    Attributes:
        errors: for a weak order on a mixture, the errors at numbers of steps that double.
        bars: standard errors of ``errors``.

    Examples:
        >>> str(Observed("confirmed", 1.07, bar=0.08)), str(Observed("pre-asymptotic", errors=[2e-2, 4e-3], bars=[1e-4, 3e-4]))
        ('1.07 ± 0.08', '2.3 ± 0.1')
    """

    errors: Sequence[float] = ()
    bars: Sequence[float] = ()

    @property
    def finest(self) -> tuple[float, float]:
        """The slope between the last two errors, and its standard error."""
        (e0, e1), (u0, u1) = self.errors[-2:], self.bars[-2:]
        return math.log2(e0 / e1), math.hypot(u0 / e0, u1 / e1) / math.log(2)

    def __str__(self) -> str:
        """For a table."""
        if self.errors:
            slope, bar = self.finest
            if bar > 0.5:
                return f"error {self.errors[-1]:.0e} ± {self.bars[-1]:.0e}"
            return f"{slope:.1f} ± {bar:.1f}" if bar >= 0.05 else f"{slope:.2f} ± {max(bar, 0.01):.2f}"
        if self.order is None:
            return "not settled"
        return f"{self.order:.2f}" + ("" if self.bar is None else f" ± {self.bar:.2f}")


@dataclass(frozen=True)
class Entry:
    """One line of the catalogue.

    Attributes:
        info: the registry's entry.
        inside: measured orders on runs from 0.95 to 0.05, by flow and grid; empty for an adaptive or stochastic sampler.
        complete: measured orders on runs from 1 to 0.
        strong: measured strong orders of a stochastic sampler, by flow and grid.
        weak: measured weak orders of a stochastic sampler, by flow and grid.
        calls: number of model calls of a run with N steps, as a formula.
        evaluations: model calls of the first, a middle, and the last step of a complete run; None for an adaptive sampler.
    """

    info: SamplerInfo
    inside: Mapping[str, float]
    complete: Mapping[str, float]
    strong: Mapping[str, Observed]
    weak: Mapping[str, Observed]
    calls: str
    evaluations: Sequence[int] | None

    @property
    def name(self) -> str:
        """The sampler's name; for a preset, the preset's name."""
        return self.info.preset or self.info.name

    @property
    def ends(self) -> str:
        """Model calls of the first and the last step of a complete run, if they differ from the others."""
        first, usual, last = self.evaluations or (0, 0, 0)
        return ", ".join(f"{word} {n}" for word, n in (("first", first), ("last", last)) if n != usual)


def cost(name: str) -> dict[str, Any]:
    """Count the model calls of a sampler from dry runs: a formula for N steps, and the first, a middle and the last step.

    Examples:
        >>> cost("fireflow")
        {'calls': 'N + 1', 'evaluations': [2, 1, 1]}
    """
    from flowsamplers.engine import dry_run  # noqa: PLC0415  (what was measured is read without torch)
    from flowsamplers.schedules import linear  # noqa: PLC0415

    if get_sampler(name).claims.adaptive:
        return {"calls": "by tolerance", "evaluations": None}
    few, more, many = (dry_run(name, linear(n)) for n in (20, 21, 200))
    per = len(more) - len(few)
    extra = len(few) - 20 * per
    slope = "N" if per == 1 else f"{per} N"
    calls = slope if extra == 0 else f"{slope} {'+' if extra > 0 else '-'} {abs(extra)}"
    steps = [e.step for e in few]
    return {
        "calls": calls if len(many) == 200 * per + extra else f"about {len(many) / 200:.1f} N",
        "evaluations": [steps.count(i) for i in (0, 10, 19)],
    }


def spread(orders: Mapping[str, float | None]) -> str:
    """Format the smallest and largest measured order; empty if none was measured.

    Examples:
        >>> spread({"mixture-2, uniform": 1.98, "mixture-4, uniform": 2.01, "mixture-4, shift-2": None})
        '1.98 to 2.01'
    """
    known = sorted(v for v in orders.values() if v is not None)
    if not known:
        return ""
    return f"{known[0]:.2f}" if known[0] == known[-1] else f"{known[0]:.2f} to {known[-1]:.2f}"


def catalogue() -> list[Entry]:
    """List every registered sampler with its measured orders, from ``tools/build_catalogue.py``."""
    return [_entry(info) for info in list_samplers()]


def entry(name: str) -> Entry:
    """Return the catalogue's entry for a name.

    A preset has its own declared properties. The measured orders are those of the method with its default options.

    Raises:
        ValueError: there is no such sampler.
    """
    return _entry(sampler_info(name))


def unmeasured(names: Collection[str]) -> str:
    """A sentence that names the samplers with a fixed number of model calls that are not among those measured; empty if there is none.

    Examples:
        >>> unmeasured([i.name for i in list_samplers() if i.name != "heun"])
        'Not measured here: `heun`.'
    """
    rest = [f"`{info.name}`" for info in list_samplers() if not info.adaptive and info.name not in names]
    return f"Not measured here: {', '.join(rest)}." if rest else ""


def _entry(info: SamplerInfo) -> Entry:
    name = info.preset or info.name
    its = _measured().get(name, {})
    strong, weak = ({key: Observed(**o) for key, o in its.get(kind, {}).items()} for kind in ("strong", "weak"))
    return Entry(info, its.get("inside", {}), its.get("complete", {}), strong, weak, **(its.get("cost") or cost(name)))


@cache
def _measured() -> dict[str, Any]:
    return json.loads((files("flowsamplers") / "measurements" / "orders.json").read_text())["samplers"]
