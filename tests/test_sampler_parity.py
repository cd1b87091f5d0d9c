"""Our samplers beside what people run today: diffusers' schedulers on the same field and grid, in float64.

Each is wrapped so that it runs on the given sigmas with exact times; where stock itself is wrong, that is a test too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

import flowsamplers as fs
from fields import smooth, start
from flowsamplers.samplers.interpolation import NEAR_NOISE

diffusers = pytest.importorskip("diffusers")

INSIDE = (0.95, 0.88, 0.75, 0.6, 0.52, 0.35, 0.2, 0.1)
TO_DATA = (*INSIDE, 0.0)
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
CLOSE = 1e-13

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]


def stock(scheduler: Any, sigmas: tuple[float, ...], prepare: Callable[[Any], None] = lambda it: None, **step: Any) -> Tensor:
    """Run a stock multistep scheduler on these sigmas, its casts to float32 made casts to float64."""
    scheduler.set_timesteps(len(sigmas) - 1)
    scheduler.sigmas = torch.tensor(sigmas, dtype=torch.float64)
    scheduler.timesteps = scheduler.sigmas[:-1] * 1000
    prepare(scheduler)
    scheduler.set_begin_index(0)
    x = start()
    for t in scheduler.timesteps:
        v = smooth(x, torch.full((len(x),), t.item() / 1000, dtype=x.dtype))
        x = in_float64(scheduler.step, v, t, x, return_dict=False, **step)[0]
    return x


def in_float64(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Call with float64 where stock writes float32, and as the default."""
    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch("torch.float32", torch.float64):
            return function(*args, **kwargs)
    finally:
        torch.set_default_dtype(torch.float)


def ends(sigmas: tuple[float, ...]) -> dict[str, Any]:
    """The configuration under which stock keeps its order up to the last sigma, if that is not 0."""
    return {} if sigmas is TO_DATA else {"lower_order_final": False, "final_sigmas_type": "sigma_min"}


def ours(name: str, sigmas: tuple[float, ...], **options: Any) -> Tensor:
    return fs.sample(smooth, start(), fs.SigmaGrid(list(sigmas)), fs.get_sampler(name, **options))


def agree(a: Tensor, b: Tensor) -> None:
    assert (a - b).abs().max() <= CLOSE * b.abs().max()


@pytest.mark.parametrize("sigmas", [INSIDE, TO_DATA], ids=["inside", "to-data"])
@pytest.mark.parametrize("base", ["bh1", "bh2"])
@pytest.mark.parametrize(("name", "order"), [("unipc", 2), ("unipc_3", 3)])
def test_unipc_equals_diffusers(name: str, order: int, base: str, sigmas: tuple[float, ...]) -> None:
    if base == "bh1" and sigmas is TO_DATA:
        pytest.skip("diffusers' bh1 is not finite there, see below")
    scheduler = diffusers.UniPCMultistepScheduler(solver_order=order, solver_type=base, **ends(sigmas), **FLOW)
    agree(ours(name, sigmas, base=base, startup="ramp"), stock(scheduler, sigmas))


def test_stock_unipc_with_bh1_is_not_finite_at_sigma_0_and_ours_takes_the_limit() -> None:
    """B = h is infinite on the last step: infinity times no correction."""
    scheduler = diffusers.UniPCMultistepScheduler(solver_order=2, solver_type="bh1", **FLOW)
    assert not torch.isfinite(stock(scheduler, TO_DATA)).any()
    assert torch.isfinite(ours("unipc", TO_DATA, base="bh1")).all()


@pytest.mark.parametrize("sigmas", [INSIDE, TO_DATA], ids=["inside", "to-data"])
@pytest.mark.parametrize(("kind", "name"), [("midpoint", "dpmpp_2m"), ("heun", "res_2m")])
def test_dpmpp_2m_equals_diffusers(kind: str, name: str, sigmas: tuple[float, ...]) -> None:
    """solver_type="heun" integrates the line exactly: that is res_2m in lambda."""
    scheduler = diffusers.DPMSolverMultistepScheduler(solver_order=2, solver_type=kind, **ends(sigmas), **FLOW)
    agree(ours(name, sigmas, variable="lambda"), stock(scheduler, sigmas))


def test_dpmpp_3m_equals_diffusers() -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(solver_order=3, solver_type="midpoint", **ends(INSIDE), **FLOW)
    agree(ours("dpmpp_3m", INSIDE), stock(scheduler, INSIDE))


@pytest.mark.parametrize(("order", "name"), [(2, "dpmpp_2s"), (3, "dpmpp_3s")])
def test_dpmpp_singlestep_equals_diffusers_on_its_intermediate_nodes(order: int, name: str) -> None:
    """Theirs reads every node of its list as a stage; ours is asked on the outer nodes alone, and finds the inner ones in lambda.

    Stock's 3S takes its second stage with the shortcut of its "midpoint" type; the paper's, and ours, is the one of type "heun".
    """

    class Stock(diffusers.DPMSolverSinglestepScheduler):
        def step(self, *given: Any, **options: Any) -> Any:
            second = order == 3 and (self.step_index or 0) % 3 == 1
            self.register_to_config(solver_type="heun" if second else "midpoint")
            return super().step(*given, **options)

    def staged(scheduler: Any) -> None:
        scheduler.order_list = [*range(1, order + 1)] * (len(outer) - 1)

    outer = (0.95, 0.7, 0.4, 0.15)
    nodes = [e.sigma for e in fs.dry_run(name, fs.SigmaGrid(list(outer)))]
    scheduler = Stock(solver_order=order, solver_type="midpoint", lower_order_final=True, **FLOW)
    agree(ours(name, outer), stock(scheduler, (*nodes, outer[-1]), staged))


@pytest.mark.parametrize("steps", range(1, 9))
@pytest.mark.parametrize(("order", "name"), [(2, "dpmpp_2s"), (3, "dpmpp_3s")])
def test_dpmpp_singlestep_with_stages_on_the_grid_equals_diffusers_at_every_number_of_calls(
    order: int, name: str, steps: int
) -> None:
    """Whether the steps are full groups of stages or not, and whether the run ends at 0."""
    for sigmas in (INSIDE, TO_DATA):
        nodes = sigmas[-steps - 1 :]
        if len(nodes) <= steps:
            continue
        scheduler = diffusers.DPMSolverSinglestepScheduler(
            solver_order=order, solver_type="midpoint", lower_order_final=True, **FLOW
        )
        agree(ours(name, nodes, nodes="grid"), stock(scheduler, nodes))


@pytest.mark.parametrize(
    ("name", "options", "scheduler", "settings"),
    [
        ("unipc", {}, "UniPCMultistepScheduler", {"solver_order": 2}),
        ("unipc_3", {}, "UniPCMultistepScheduler", {"solver_order": 3}),
        ("dpmpp_2s", {"nodes": "grid"}, "DPMSolverSinglestepScheduler", {"solver_order": 2}),
        ("dpmpp_3s", {"nodes": "grid"}, "DPMSolverSinglestepScheduler", {"solver_order": 3}),
    ],
)
@pytest.mark.parametrize("steps", range(4, 9))
def test_from_sigma_1_these_are_diffusers_from_a_millionth_below(name, options, scheduler, settings, steps) -> None:
    """A run that begins a millionth away is about as far away all along, and no further in its weights."""
    nodes = fs.schedules.linear(steps).sigmas
    theirs = stock(getattr(diffusers, scheduler)(**settings, **FLOW), (1 - NEAR_NOISE, *nodes[1:]))
    from_one = ours(name, nodes, **options)
    assert (from_one - theirs).abs().max() <= 10 * NEAR_NOISE * theirs.abs().max()


def test_a_grid_whose_second_node_is_nearer_to_1_than_diffusers_begins_goes_on_to_the_data() -> None:
    nodes = (1.0, 1 - 1e-7, 0.6, 0.3, 0.0)
    for name, options in (("unipc", {}), ("unipc_3", {"solve": "full"}), ("dpmpp_3s", {"nodes": "grid"})):
        gap = ours(name, nodes, **options) - ours(name, (1.0, 0.6, 0.3, 0.0), **options)
        assert gap.norm() < 0.5 * ours(name, nodes, **options).norm()


def test_heun_equals_flow_match_heun() -> None:
    """On its own doubled list of nodes; its last step is Euler's."""

    def doubled(scheduler: Any) -> None:
        s = scheduler.sigmas
        scheduler.sigmas = torch.cat([s[:1], s[1:-1].repeat_interleave(2), s[-1:]])
        scheduler.timesteps = scheduler.sigmas[:-1] * 1000

    agree(ours("heun", TO_DATA, last="euler"), stock(diffusers.FlowMatchHeunDiscreteScheduler(), TO_DATA, doubled))


@pytest.mark.parametrize("order", [2, 3])
def test_deis_in_log_rho_equals_diffusers_where_it_does_not_end(order: int) -> None:
    scheduler = diffusers.DEISMultistepScheduler(solver_order=order, lower_order_final=False, **FLOW)
    agree(ours("deis_log_rho", INSIDE, max_order=order, last="method"), stock(scheduler, INSIDE))
