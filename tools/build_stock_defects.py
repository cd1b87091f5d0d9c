"""What the kit finds in the schedulers that diffusers ships: writes its part of docs/reference/differences.md.

python tools/build_stock_defects.py
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import diffusers
import torch
from building import build, with_measured
from torch import Tensor

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import flowsamplers as fs  # noqa: E402
from fields import smooth, start  # noqa: E402
from flowsamplers.testing.laws import NotApplicable  # noqa: E402
from flowsamplers_diffusers import FlowSamplerScheduler  # noqa: E402
from flowsamplers_diffusers.testing import SCHEDULER_LAWS  # noqa: E402
from test_sde_parity import with_noise  # noqa: E402

PAGE = ROOT / "docs" / "reference" / "differences.md"
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}


def with_options(name: str, **options: Any) -> Callable[..., Any]:
    """A factory of a stock scheduler."""
    return lambda **config: getattr(diffusers, name)(**{**options, **config})


SCHEDULERS: dict[str, Callable[..., Any]] = {
    "FlowMatchEuler": with_options("FlowMatchEulerDiscreteScheduler"),
    "FlowMatchEuler, stochastic_sampling": with_options("FlowMatchEulerDiscreteScheduler", stochastic_sampling=True),
    "FlowMatchHeun": with_options("FlowMatchHeunDiscreteScheduler"),
    "FlowMatchLCM": with_options("FlowMatchLCMScheduler"),
    "LTXEulerAncestralRF": with_options("LTXEulerAncestralRFScheduler"),
    "UniPCMultistep": with_options("UniPCMultistepScheduler", **FLOW),
    "DPMSolverMultistep": with_options(
        "DPMSolverMultistepScheduler", **FLOW, use_dynamic_shifting=True, time_shift_type="exponential"
    ),
    "DPMSolverSinglestep": with_options(
        "DPMSolverSinglestepScheduler", **FLOW, use_dynamic_shifting=True, time_shift_type="exponential"
    ),
    "DEISMultistep": with_options("DEISMultistepScheduler", **FLOW, use_dynamic_shifting=True, time_shift_type="exponential"),
    "SASolver": with_options("SASolverScheduler", **FLOW),
    "ours: euler": FlowSamplerScheduler,
    "ours: ab2, last step midpoint": lambda **config: FlowSamplerScheduler(
        sampler="ab2", sampler_options={"last": "midpoint"}, **config
    ),
    "ours: lcm with a seed": lambda **config: FlowSamplerScheduler(sampler="lcm", seed=0, **config),
}
OURS = ("ours: euler", "ours: ab2, last step midpoint", "ours: lcm with a seed")

ENDS = {"lower_order_final": False, "final_sigmas_type": "sigma_min"}
"""The order up to the last sigma, which is not 0."""
METHODS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "dpmsolver++, order 2": ("DPMSolverMultistep", {"solver_order": 2, **ENDS}, "dpmpp_2m", {}),
    "dpmsolver++, order 3": ("DPMSolverMultistep", {"solver_order": 3, **ENDS}, "dpmpp_3m", {}),
    **{
        f"sde-dpmsolver++, order {order}, {kind}": (
            "DPMSolverMultistep",
            {"algorithm_type": "sde-dpmsolver++", "solver_order": order, "solver_type": kind, **ENDS},
            f"dpmpp_{order}m_sde",
            {"correction": kind},
        )
        for order in (2, 3)
        for kind in ("midpoint", "heun")
    },
    "bh2, order 2": ("UniPCMultistep", {"solver_order": 2, **ENDS}, "unipc", {}),
    "bh2, order 3": ("UniPCMultistep", {"solver_order": 3, **ENDS}, "unipc_3", {}),
    "order 2": ("DEISMultistep", {"solver_order": 2, "lower_order_final": False}, "deis_log_rho", {"last": "method"}),
    "order 3": (
        "DEISMultistep",
        {"solver_order": 3, "lower_order_final": False},
        "deis_log_rho",
        {"max_order": 3, "last": "method"},
    ),
}
"""Options -> a stock scheduler with them, and ours."""


def no_noise(like: Tensor, *_: Any, **__: Any) -> Tensor:
    """For the drift alone."""
    return torch.zeros_like(like)


def slope(run: Callable[[tuple[float, ...]], Tensor]) -> float:
    """Order of the drift on uniform grids from sigma 0.95 to 0.1, in float64: what is between 64, 128 and 256 steps."""
    ends = [run(tuple(0.95 - 0.85 * i / n for i in range(n + 1))) for n in (64, 128, 256)]
    first, second = ((a - b).norm().item() for a, b in pairwise(ends))
    return math.log2(first / second)


def orders() -> list[tuple[str, str, float, str, float]]:
    """Scheduler, options and order of each method, and the sampler here with its order."""
    rows: list[tuple[str, str, float, str, float]] = []
    for options, (name, config, ours, chosen) in METHODS.items():

        def stock(sigmas: tuple[float, ...], name: str = name, config: dict[str, Any] = config) -> Tensor:
            scheduler = getattr(diffusers, f"{name}Scheduler")(**config, **FLOW)
            return with_noise(scheduler, sigmas, lambda _: torch.zeros_like(start()))

        def here(sigmas: tuple[float, ...], ours: str = ours, chosen: dict[str, Any] = chosen) -> Tensor:
            return fs.sample(smooth, start(), fs.SigmaGrid(sigmas), fs.get_sampler(ours, **chosen), seed=no_noise)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows.append((name, options, slope(stock), ours, slope(here)))
    return rows


@cache
def verdicts(make: Callable[..., Any]) -> dict[str, str]:
    """``holds``, ``breaks``, the name of an error in parentheses, or ``-`` if a law does not apply."""
    found: dict[str, str] = {}
    for law in SCHEDULER_LAWS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                law(make)
                found[law.__name__] = "holds"
            except NotApplicable:
                found[law.__name__] = "-"
            except AssertionError:
                found[law.__name__] = "breaks"
            except Exception as error:
                found[law.__name__] = f" ({type(error).__name__})"
    return found


def measured() -> str:
    """Which laws the schedulers break, and which of their methods have another order than ours."""
    table = {name: verdicts(make) for name, make in SCHEDULERS.items()}
    refused = {name: row[SCHEDULER_LAWS[0].__name__] for name, row in table.items()}
    left = {name: error.strip(" ()") for name, error in refused.items() if error.startswith(" (")}
    theirs = {name: row for name, row in table.items() if name not in (*left, *OURS)}
    lines = ["| law | broken by |", "| --- | --- |"]
    for law in (law.__name__ for law in SCHEDULER_LAWS):
        wrong = [name for name, row in theirs.items() if row[law] not in ("holds", "-")]
        words = law.replace("_", " ")
        lines.append(f"| [{words}](diffusers.md#flowsamplers_diffusers.testing.{law}) | {'; '.join(wrong) or 'none'} |")
    here = [name.removeprefix("ours: ") for name in OURS if all(v in ("holds", "-") for v in table[name].values())]
    assert here == ["euler", "ab2, last step midpoint"]
    differ = [
        f"* {name} with {options}: {stock:.1f} there, {ours:.1f} for `{sampler}` here."
        for name, options, stock, sampler, ours in orders()
        if f"{stock:.1f}" != f"{ours:.1f}"
    ]
    return "\n".join(
        [
            f"This table shows which laws the schedulers of diffusers {diffusers.__version__} break. The laws are those of",
            "[`flowsamplers_diffusers.testing`](diffusers.md#flowsamplers_diffusers.testing), which call a scheduler as pipelines do.",
            "",
            "* The drop-in with `euler`, and with `ab2` and a midpoint last step, passes every law.",
            "* A stochastic scheduler has no exact end point. It cannot pass the laws on the applied dt, on errors and on changed places.",
            *(f"* {name} is not in the table: the pipeline's call ends with a {error}." for name, error in left.items()),
            "",
            *lines,
            "",
            f"The measured orders of {len(METHODS)} multistep methods equal those of the same methods here, except for these:",
            "",
            *differ,
            "",
            "The weight of its second difference has a wrong sign there. It is $\\frac{1 - e^{-z} - z}{z^2} - \\frac12$, and should be",
            "$\\frac{1 - e^{-z} - z}{z^2} + \\frac12$ (`tests/test_sde_parity.py`).",
        ]
    )


def page() -> str:
    """The whole page."""
    return with_measured(PAGE, "build_stock_defects.py", measured())


if __name__ == "__main__":
    build(__doc__, PAGE, page)
