"""Run the schedulers of diffusers on any flow and any grid, for comparison.

Each run uses diffusers' own class, in float32, with its own first node, start-up and last steps. Two properties of pipelines are
omitted, both in diffusers' favor: UniPC and DPM-Solver++ round times to integers, and they have their own schedules. Here a scheduler
gets the grid's nodes and calls the flow at exactly these. Schedulers that use the log-SNR, which is infinite at sigma = 1, begin at
`START`, as UniPC does in diffusers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch
from torch import Tensor

from flowsamplers import SigmaGrid

START = 1 - 1e-6
"""First sigma, in place of 1, of a scheduler that uses the log-SNR."""


@dataclass(frozen=True)
class Stock:
    """A scheduler of diffusers with its usual options.

    Attributes:
        scheduler: the name of the class in diffusers.
        options: arguments of its constructor.
        doubled: whether every inner node stands twice in its list, one for each stage (FlowMatchHeun).
        in_log_snr: whether sigma = 1 is replaced by `START`.
        reaches_zero: whether its last sigma is 0. DEIS repeats its last node, because 0 would give NaN.
        stochastic: whether it draws noise.
    """

    scheduler: str
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    doubled: bool = False
    in_log_snr: bool = False
    reaches_zero: bool = True
    stochastic: bool = False

    def calls(self, steps: int) -> int:
        """Count the model calls on a grid with this many steps."""
        return 2 * steps - 1 if self.doubled else steps


def _log_snr(scheduler: str, *, reaches_zero: bool = True, stochastic: bool = False, **options: Any) -> Stock:
    options = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", **options}
    return Stock(scheduler, options, in_log_snr=True, reaches_zero=reaches_zero, stochastic=stochastic)


_MULTISTEP, _SINGLESTEP = "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"

STOCK: dict[str, Stock] = {
    "FlowMatchEuler": Stock("FlowMatchEulerDiscreteScheduler"),
    "FlowMatchHeun": Stock("FlowMatchHeunDiscreteScheduler", doubled=True),
    "UniPC-2": _log_snr("UniPCMultistepScheduler", solver_order=2),
    "UniPC-3": _log_snr("UniPCMultistepScheduler", solver_order=3),
    "DPM++ 2M": _log_snr(_MULTISTEP, solver_order=2),
    "DPM++ 2M Heun": _log_snr(_MULTISTEP, solver_order=2, solver_type="heun"),
    "DPM++ 3M": _log_snr(_MULTISTEP, solver_order=3),
    "DPM++ 2S": _log_snr(_SINGLESTEP, solver_order=2, lower_order_final=True),
    "DPM++ 3S": _log_snr(_SINGLESTEP, solver_order=3, lower_order_final=True),
    "DEIS-2": _log_snr("DEISMultistepScheduler", solver_order=2, reaches_zero=False),
    "DEIS-3": _log_snr("DEISMultistepScheduler", solver_order=3, reaches_zero=False),
    "DPM++ 2M SDE": _log_snr(_MULTISTEP, solver_order=2, algorithm_type="sde-dpmsolver++", stochastic=True),
    "DPM++ 3M SDE": _log_snr(_MULTISTEP, solver_order=3, algorithm_type="sde-dpmsolver++", stochastic=True),
    "FlowMatchLCM": Stock("FlowMatchLCMScheduler", stochastic=True),
}
"""The schedulers of diffusers that can run a flow on a given grid, by their usual names."""

SAME_NAME: dict[str, dict[str, Any]] = {
    "FlowMatchEuler": {"name": "euler"},
    "FlowMatchHeun": {"name": "heun"},
    "UniPC-2": {"name": "unipc"},
    "UniPC-3": {"name": "unipc_3"},
    "DPM++ 2M": {"name": "dpmpp_2m"},
    "DPM++ 2M Heun": {"name": "res_2m", "options": {"variable": "lambda"}},
    "DPM++ 3M": {"name": "dpmpp_3m"},
    "DPM++ 2S": {"name": "dpmpp_2s", "options": {"nodes": "grid"}},
    "DPM++ 3S": {"name": "dpmpp_3s", "options": {"nodes": "grid"}},
    "DEIS-2": {"name": "deis_log_rho"},
    "DEIS-3": {"name": "deis_log_rho", "options": {"max_order": 3}},
}
"""The sampler here that is the same method, for each of `STOCK` that solves the ODE."""


def run(
    name: str | Stock,
    velocity: Callable[[Tensor, Tensor], Tensor],
    x1: Tensor,
    grid: SigmaGrid | Sequence[float],
    *,
    seed: int = 0,
) -> Tensor:
    """Solve a flow with a scheduler of diffusers.

    Args:
        name: a key of `STOCK`, for example ``"UniPC-2"``, or a `Stock` with other options.
        velocity: ``velocity(x, sigma)`` with ``x`` of shape ``(rows, ...)`` and ``sigma`` of shape ``(rows,)``, both float32.
        x1: the start, ``(rows, ...)``; it is cast to float32.
        grid: a `SigmaGrid`, or falling sigmas that end at 0.
        seed: seed of the noise, for a stochastic scheduler.

    Returns:
        The final state in float32.

    Raises:
        ValueError: the name is unknown.

    Examples:
        >>> import flowsamplers as fs
        >>> x0 = run("UniPC-2", lambda x, sigma: x, torch.ones(1, 2), fs.schedules.linear(8))
        >>> round(x0[0, 0].item(), 3)  # exp(-1) is 0.368
        0.369
    """
    if isinstance(name, str) and name not in STOCK:
        raise ValueError(f"name={name!r}: not a scheduler of diffusers here; one of {', '.join(STOCK)}")
    stock = STOCK[name] if isinstance(name, str) else name
    scheduler = scheduler_on(stock, grid)
    generator = torch.Generator(x1.device).manual_seed(seed)
    noise = {"generator": generator} if stock.stochastic else {}
    x = x1.float()
    for t in scheduler.timesteps:
        v = velocity(x, (t / scheduler.config.num_train_timesteps).to(x).expand(len(x)))
        x = scheduler.step(v.to(x.dtype), t, x, return_dict=False, **noise)[0]
    return x


def scheduler_on(stock: Stock, grid: SigmaGrid | Sequence[float]) -> Any:
    """Make a scheduler of diffusers for a run on exactly this grid.

    Args:
        stock: the scheduler.
        grid: a `SigmaGrid`, or falling sigmas that end at 0.
    """
    nodes = list(grid.sigmas if isinstance(grid, SigmaGrid) else grid)
    with torch.device("cpu"):  # whatever the default device is: they send their tables to the host
        scheduler = getattr(diffusers, stock.scheduler)(**stock.options)
        scheduler.set_timesteps(len(nodes) - 1)
    if stock.in_log_snr:
        nodes[0] = min(nodes[0], START)
    if not stock.reaches_zero:
        nodes[-1] = nodes[-2]
    sigmas = torch.tensor(nodes, dtype=torch.float32, device="cpu")
    if stock.doubled:
        sigmas = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
    scheduler.sigmas = sigmas
    scheduler.timesteps = sigmas[:-1] * scheduler.config.num_train_timesteps
    scheduler.set_begin_index(0)
    return scheduler
