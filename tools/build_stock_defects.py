"""What the kit finds in the schedulers that diffusers ships: writes docs/reference/stock-defects.md.

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
from torch import Tensor

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import flowsamplers as fs  # noqa: E402
from fields import smooth, start  # noqa: E402
from flowsamplers.testing.laws import NotApplicable  # noqa: E402
from flowsamplers_diffusers import FlowSamplerScheduler  # noqa: E402
from flowsamplers_diffusers.testing import SCHEDULER_LAWS  # noqa: E402
from test_sde_parity import with_noise  # noqa: E402

PAGE = ROOT / "docs" / "reference" / "stock-defects.md"
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
    "ours: FlowSamplerScheduler, euler": FlowSamplerScheduler,
    "ours: ab2, last step midpoint": lambda **config: FlowSamplerScheduler(
        sampler="ab2", sampler_options={"last": "midpoint"}, **config
    ),
    "ours: lcm with a seed": lambda **config: FlowSamplerScheduler(sampler="lcm", seed=0, **config),
}

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


def orders() -> list[str]:
    """Rows of the table of orders."""
    rows: list[str] = []
    for options, (name, config, ours, chosen) in METHODS.items():

        def stock(sigmas: tuple[float, ...], name: str = name, config: dict[str, Any] = config) -> Tensor:
            scheduler = getattr(diffusers, f"{name}Scheduler")(**config, **FLOW)
            return with_noise(scheduler, sigmas, lambda _: torch.zeros_like(start()))

        def here(sigmas: tuple[float, ...], ours: str = ours, chosen: dict[str, Any] = chosen) -> Tensor:
            return fs.sample(smooth, start(), fs.SigmaGrid(sigmas), fs.get_sampler(ours, **chosen), seed=no_noise)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows.append(f"| {name} | {options} | {slope(stock):.1f} | `{ours}` | {slope(here):.1f} |")
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


def page() -> str:
    """The whole page."""
    table = {name: verdicts(make) for name, make in SCHEDULERS.items()}
    lines = ["| law | holds for | does not hold for |", "| --- | --- | --- |"]
    for law in SCHEDULER_LAWS:
        found = {name: row[law.__name__] for name, row in table.items() if row[law.__name__] != "-"}
        wrong = [name + found[name].removeprefix("breaks") for name in found if found[name] != "holds"]
        lines.append(f"| `{law.__name__}` | {len(found) - len(wrong)} of {len(found)} | {'; '.join(wrong) or 'none'} |")
    docs = [f"* `{law.__name__}`: {(law.__doc__ or '').strip().splitlines()[0].replace('``', '`')}" for law in SCHEDULER_LAWS]
    text = [
        "# Which laws the stock schedulers break",
        "",
        "<!-- written by tools/build_stock_defects.py -->",
        "",
        f"This table shows which laws hold for the schedulers of diffusers {diffusers.__version__} that can serve a flow model. The laws are those of",
        "`flowsamplers_diffusers.testing`, explained below. They call a scheduler as pipelines do.",
        "",
        f"The {len(SCHEDULERS)} schedulers are: {'; '.join(SCHEDULERS)}.",
        "",
        "* A name in parentheses is the error with which the pipeline's call ends.",
        "* Each law counts the schedulers to which it applies.",
        "* A stochastic scheduler has no exact end point, so it cannot pass the laws on the applied dt and on errors.",
        "",
        *lines,
        "",
        "## The laws",
        "",
        *docs,
        "",
        "## The order of their methods",
        "",
        "The table compares the measured orders of diffusers' multistep methods with those of the same methods here. The runs use exact times in",
        "float64, on the same nodes strictly inside (0, 1). Stochastic methods run without their noise.",
        "",
        "`sde-dpmsolver++` of order 3 has order 1, because the weight of its second difference has a wrong sign. It is",
        "$\\frac{1 - e^{-z} - z}{z^2} - \\frac12$, and should be $\\frac{1 - e^{-z} - z}{z^2} + \\frac12$ (`tests/test_sde_parity.py`).",
        "",
        "| scheduler | options | order, stock | here | order, here |",
        "| --- | --- | --: | --- | --: |",
        *orders(),
        "",
        "These defects are known in diffusers:",
        "",
        "* `dt` is rounded to bfloat16, because it is a 0-dim tensor that does not promote the dtype.",
        "* One step: [#14411](https://github.com/huggingface/diffusers/issues/14411).",
        "* `s_churn`: [#14353](https://github.com/huggingface/diffusers/issues/14353).",
        "* The lookup of times: [#11749](https://github.com/huggingface/diffusers/issues/11749).",
        "* Heun takes no sigmas: [#9607](https://github.com/huggingface/diffusers/issues/9607).",
        "",
    ]
    return "\n".join(text)


if __name__ == "__main__":
    from building import build

    build(__doc__, PAGE, page)
