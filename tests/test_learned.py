"""Samplers made of tables: what any table keeps, what a fitted one buys, and where a table does not fit."""

from __future__ import annotations

import json

import pytest
import torch

import flowsamplers as fs
from fields import IRREGULAR, OF_GAUSSIAN_DATA, ON_ITS_GRID, at, smooth, start
from flowsamplers.samplers import NSSolver, ParallelMidpoints
from flowsamplers.testing import SamplerConformance

GAUSS = ((0.5 - 3**-0.5 / 2, 0.5), (0.5 + 3**-0.5 / 2, 0.5))
TABLE = ((1.0,), (1.3, -0.3), (1.2, -0.1, -0.1), (1.6, -0.6), (2.0, -1.5, 0.5), (1.5, -0.5))
"""For the six steps of IRREGULAR."""


class TestParallelMidpoints(SamplerConformance):
    @pytest.fixture(params=[GAUSS, ((0.3, 1.0),)], ids=["gauss", "one"])
    def subject(self, request):
        return ParallelMidpoints(table=(request.param,))


@pytest.mark.parametrize("law", ON_ITS_GRID, ids=lambda law: law.__name__)
def test_any_table_keeps_the_laws_on_its_own_schedule(law) -> None:
    law(NSSolver(table=TABLE), IRREGULAR)


@pytest.mark.parametrize("law", OF_GAUSSIAN_DATA, ids=lambda law: law.__name__)
def test_a_table_for_gaussian_data_keeps_the_laws_but_those_of_straight_paths(law) -> None:
    law(NSSolver(table=TABLE, std=0.5), IRREGULAR)


@pytest.mark.parametrize("std", [0.3, 1.0, 2.0])
def test_a_table_for_gaussian_data_is_exact_for_it_whatever_its_mean(std: float) -> None:
    flow = fs.flows.GaussianFlow([0.0, -3.0, 7.0], std=std)
    x1 = flow.noise([0, 1])
    found = fs.sample(flow.velocity, x1, IRREGULAR, NSSolver(table=TABLE, std=std))
    torch.testing.assert_close(found, flow.solution(x1), rtol=1e-13, atol=1e-13)


def test_a_table_for_gaussian_data_begins_at_sigma_1() -> None:
    solver = NSSolver(table=TABLE, std=0.5)
    with pytest.raises(ValueError, match="its runs begin there"):
        fs.sample(smooth, start(), fs.SigmaGrid([s * 0.9 for s in IRREGULAR.sigmas]), solver)
    with pytest.raises(ValueError, match="its runs begin there"):
        fs.Stepper(solver, IRREGULAR, start(), begin=2).tell(start())


def test_one_midpoint_in_the_middle_is_the_midpoint_rule() -> None:
    ours = fs.sample(smooth, start(), IRREGULAR, ParallelMidpoints(table=(((0.5, 1.0),),)))
    assert torch.equal(ours, fs.sample(smooth, start(), IRREGULAR, "midpoint"))


def test_midpoints_of_each_step_are_taken_in_turn() -> None:
    per_step = tuple(((c, 1.0),) for c in (0.5, 0.4, 0.3, 0.5, 0.6, 0.5))
    x = start()
    for ((c, _),), (s, t) in zip(per_step, zip(IRREGULAR.sigmas, IRREGULAR.sigmas[1:], strict=False), strict=True):
        v = at(x, s)
        x = x + (t - s) * at(x + c * (t - s) * v, s + c * (t - s))
    torch.testing.assert_close(fs.sample(smooth, start(), IRREGULAR, ParallelMidpoints(table=per_step)), x, rtol=1e-13, atol=0)


def test_with_the_weights_of_adams_and_bashforth_it_is_their_method() -> None:
    rows, h = [(1.0,)], IRREGULAR.dt
    rows += [(1 + h[i] / h[i - 1] / 2, -h[i] / h[i - 1] / 2) for i in range(1, 6)]
    ours = fs.sample(smooth, start(), IRREGULAR, NSSolver(table=tuple(rows)))
    torch.testing.assert_close(ours, fs.sample(smooth, start(), IRREGULAR, "ab2"), rtol=1e-12, atol=1e-12)


def error(flow: fs.flows.MixtureFlow, grid: fs.SigmaGrid, sampler: fs.Sampler | str) -> float:
    """On noise that nothing was fitted to."""
    x = flow.noise(list(range(1000, 1064)))
    exact = flow.solution(x)
    return ((fs.sample(flow.velocity, x, grid, sampler) - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_fitted_table_has_half_of_the_error_of_the_best_of_as_many_calls(seed: int) -> None:
    """On the uniform schedule, of the samplers of one call a step; fireflow, with a call more, has twice the error."""
    flow, grid = fs.flows.MixtureFlow.random(seed), fs.schedules.linear(8)
    fitted = fs.fit_ns_solver(flow.velocity, flow.noise(list(range(96))), grid)
    others = ("euler", "ab2", "dpmpp_2m", "res_2m", "unipc", "ipndm", "deis", "gradient_estimation")
    assert {fs.nfe(n, grid) for n in (*others, fitted)} == {8}
    assert error(flow, grid, fitted) <= min(error(flow, grid, n) for n in others) / 2
    assert error(flow, grid, fitted) <= 0.5 * error(flow, grid, "fireflow")


def test_what_was_fitted_hits_the_path_at_every_node() -> None:
    """Closer than the method that it was made of, Euler's, at all of them."""
    flow, grid = fs.flows.MixtureFlow.four_gaussians(), fs.schedules.flux2(8, tokens=4096)
    x = flow.noise(list(range(64)))
    path = fs.trace(flow.velocity, x, grid.refined(32), "rk4").states[::32]
    gaps = [
        [(a - b).norm().item() for a, b in zip(fs.trace(flow.velocity, x, grid, s).states[1:], path[1:], strict=True)]
        for s in (fs.fit_ns_solver(flow.velocity, x, grid, memory=4), "euler")
    ]
    assert all(a <= b * (1 + 1e-9) for a, b in zip(*gaps, strict=True))


def test_a_last_step_of_another_method_needs_no_row_and_is_fitted_around() -> None:
    flow, grid = fs.flows.MixtureFlow.random(1), fs.schedules.flux2(8, tokens=4096)
    fitted = fs.fit_ns_solver(flow.velocity, flow.noise(list(range(64))), grid, last="midpoint")
    assert (len(fitted.table), fs.nfe(fitted, grid)) == (7, 9)
    assert error(flow, grid, fitted) < error(flow, grid, fs.get_sampler("ab2", last="midpoint"))


def test_a_table_goes_through_json_and_the_scheduler() -> None:
    pytest.importorskip("diffusers")
    from flowsamplers_diffusers import FlowSamplerScheduler

    for sampler in (NSSolver(table=TABLE), ParallelMidpoints(table=(GAUSS,), last="euler")):
        config = json.loads(json.dumps(fs.to_config(sampler)))
        assert fs.get_sampler(config) == sampler
        scheduler = FlowSamplerScheduler(sampler=config["name"], sampler_options=config["options"], carry="float64")
        scheduler.set_timesteps(sigmas=list(IRREGULAR.sigmas[:-1]))
        x = start()
        for t in scheduler.timesteps:
            sigma = float(t) / 1000
            v = at(x, sigma)
            x = scheduler.step(v, t, x, return_dict=False)[0]
        torch.testing.assert_close(x, fs.sample(smooth, start(), IRREGULAR, sampler), rtol=1e-5, atol=1e-5)


def test_they_are_found_by_name_and_not_listed_among_what_runs_as_it_is() -> None:
    names = {n for i in fs.list_samplers() for n in i.names}
    for name in ("ns_solver", "bns", "epd"):
        assert name not in names
        assert fs.sampler_info(name).needs == "table"
        with pytest.raises(ValueError, match=r"is made by its table"):
            fs.get_sampler(name)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NSSolver(table=((1.0,), (0.5, 0.4))), r"table\[1\]: the weights add to 0.9"),
        (lambda: NSSolver(table=((0.5, 0.5),)), r"table\[0\]: 2 weights; in step 0 there are 1 to 1 velocities"),
        (lambda: ParallelMidpoints(table=(((1.5, 1.0),),)), "lie between 0 and 1"),
        (lambda: ParallelMidpoints(table=(((0.5, 0.9),),)), "the weights add to 0.9"),
        (lambda: fs.sample(smooth, start(), fs.schedules.linear(3), NSSolver(table=TABLE)), "6 rows for 3 steps"),
        (
            lambda: fs.sample(smooth, start(), fs.schedules.linear(3), ParallelMidpoints(table=(GAUSS, GAUSS))),
            "2 rows for 3 steps",
        ),
        (lambda: fs.fit_ns_solver(smooth, start(), IRREGULAR, memory=0), "memory=0"),
    ],
)
def test_bad_tables_are_named(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
