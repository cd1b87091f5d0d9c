"""What the kit finds in the schedulers that diffusers ships: writes docs/reference/stock-defects.md.

python tools/build_stock_defects.py
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers

from flowsamplers.testing.laws import NotApplicable
from flowsamplers_diffusers import FlowSamplerScheduler
from flowsamplers_diffusers.testing import SCHEDULER_LAWS

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "stock-defects.md"
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


def verdicts(make: Callable[..., Any]) -> dict[str, str]:
    """``holds``, ``breaks``, ``raises`` with the error's name, or ``-`` where a law does not apply."""
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
                found[law.__name__] = "**breaks**"
            except Exception as error:
                found[law.__name__] = f"*raises {type(error).__name__}*"
    return found


def page() -> str:
    """The whole page."""
    table = {name: verdicts(make) for name, make in SCHEDULERS.items()}
    lines = ["| law | " + " | ".join(table) + " |", "| --- |" + " --- |" * len(table)]
    lines += [
        f"| `{law.__name__}` | " + " | ".join(row[law.__name__] for row in table.values()) + " |" for law in SCHEDULER_LAWS
    ]
    docs = [f"* `{law.__name__}`: {(law.__doc__ or '').strip().splitlines()[0]}" for law in SCHEDULER_LAWS]
    text = [
        "# What the kit finds in stock schedulers",
        "",
        "<!-- written by tools/build_stock_defects.py -->",
        "",
        f"The laws of `flowsamplers_diffusers.testing` on the schedulers of diffusers {diffusers.__version__} that can serve a flow model,",
        "called the way pipelines call them. *raises* means that the pipeline's call ends in that error. A stochastic scheduler has no exact",
        "end, so that the laws on the applied dt and on errors break for it by nature.",
        "",
        *lines,
        "",
        "## The laws",
        "",
        *docs,
        "",
        "Known to their makers: bfloat16 dt (`dt` is a 0-dim tensor that does not promote), [#14411](https://github.com/huggingface/diffusers/issues/14411)",
        "(one step), [#14353](https://github.com/huggingface/diffusers/issues/14353) (`s_churn`), [#11749](https://github.com/huggingface/diffusers/issues/11749)",
        "(time lookup), [#9607](https://github.com/huggingface/diffusers/issues/9607) (Heun takes no sigmas).",
        "",
    ]
    return "\n".join(text)


if __name__ == "__main__":
    PAGE.write_text(page())
