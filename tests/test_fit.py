"""A solver made for a flow: what its profile must be, what the fit must reach, and what a file may hold."""

from __future__ import annotations

import json
import math

import pytest
import torch

import flowsamplers as fs
from flowsamplers.fitting import Rows
from flowsamplers.flows import DataFlow, GaussianFlow, MixtureFlow
from flowsamplers.profiling import Profile, calls_of_a_path
from flowsamplers.scheme import Scheme, amplification, best_weights, from_start, scheme_of, squared_error


def error(flow, grid, sampler, exact=None, rows: int = 128) -> float:
    """On noise that nothing was fitted to."""
    x = flow.noise(list(range(10_000, 10_000 + rows)))
    exact = flow.solution(x) if exact is None else exact
    return ((fs.sample(flow.velocity, x, grid, sampler) - exact).norm() / exact.norm()).item()


@pytest.fixture(scope="module")
def flow() -> MixtureFlow:
    return MixtureFlow.random(1)


@pytest.fixture(scope="module")
def measured(flow) -> Profile:
    return fs.profile(flow.velocity, flow.noise(list(range(64))))


def test_the_moments_of_a_gaussian_flow_are_those_of_its_closed_form() -> None:
    flow, x1 = GaussianFlow([0.0], std=0.5), torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
    found = fs.profile(flow.velocity, x1, nodes=64).without(None)
    s = torch.tensor(found.sigmas)
    rho = ((1 - s) ** 2 / 4 + s**2).sqrt()
    slope = torch.cat([((s - (1 - s) / 4) / rho)[:-1], torch.ones(1)])  # the start stands behind the velocities
    size = rho[-1] ** 2  # every row has the same weight times its squared size
    torch.testing.assert_close(torch.tensor(found.velocities), torch.outer(slope, slope) / size, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.tensor(found.crossed), torch.outer(rho - 1, slope) / size, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.tensor(found.displacements), torch.outer(rho - 1, rho - 1) / size, rtol=1e-5, atol=1e-5)


def test_the_cost_of_a_profile_is_told_and_none_of_its_calls_is_at_sigma_0(flow) -> None:
    sigmas = list[float]()

    def velocity(x, sigma):
        sigmas.extend(sigma.tolist())
        return flow.velocity(x, sigma)

    found = fs.profile(velocity, flow.noise([0, 1, 2]), nodes=16)
    assert len(sigmas) == found.evaluations == 3 * calls_of_a_path(16)
    assert min(sigmas) > 0


def test_profiles_merge_and_batches_change_nothing_but_rounding(flow) -> None:
    x1 = flow.noise(list(range(10)))
    whole = fs.profile(flow.velocity, x1, nodes=16)
    parts = fs.profile(flow.velocity, x1[:3], nodes=16).merge(fs.profile(flow.velocity, x1[3:], nodes=16, max_batch=2))
    assert (whole.rows, whole.counts) == (parts.rows, parts.counts)
    for name in ("velocities", "crossed", "displacements", "sizes"):
        torch.testing.assert_close(
            torch.tensor(getattr(whole, name)), torch.tensor(getattr(parts, name)), rtol=1e-10, atol=1e-12
        )


def test_files_of_several_workers_merge_into_the_profile_of_all_rows_and_a_fit_takes_it(flow, tmp_path) -> None:
    x1, calls = flow.noise(list(range(12))), 0
    for worker in range(3):
        fs.profile(flow.velocity, x1[4 * worker : 4 * worker + 4], nodes=16, file=tmp_path / f"{worker}.safetensors")
    first, *others = (Profile.load(tmp_path / f"{worker}.safetensors") for worker in range(3))
    for other in others:
        first = first.merge(other)

    def velocity(x, sigma):
        nonlocal calls
        calls += len(x)
        return flow.velocity(x, sigma)

    solvers = [
        fs.fit(velocity, x1, 4, profile=p, rounds=0, validate=False) for p in (first, fs.profile(flow.velocity, x1, nodes=16))
    ]
    assert first.rows == 12
    assert solvers[0].grid.sigmas == pytest.approx(solvers[1].grid.sigmas)
    assert calls == 2 * 12 * calls_of_a_path(16, checked=False)  # the ends alone
    with pytest.raises(ValueError, match="same nodes and the same size"):
        first.merge(fs.profile(flow.velocity, x1, nodes=8))


def test_an_interrupted_profile_goes_on_where_it_was(flow, tmp_path) -> None:
    x1, file, calls = flow.noise(list(range(8))), tmp_path / "p.safetensors", 0

    def velocity(x, sigma):
        nonlocal calls
        calls += len(x)
        if calls > 5 * calls_of_a_path(8):
            raise KeyboardInterrupt
        return flow.velocity(x, sigma)

    with pytest.raises(KeyboardInterrupt):
        fs.profile(velocity, x1, nodes=8, max_batch=2, file=file)
    assert Profile.load(file).rows == 4
    calls = 0
    found = fs.profile(velocity, x1, nodes=8, max_batch=2, file=file)
    assert (found.rows, calls) == (8, 4 * calls_of_a_path(8))
    again = Profile.load(file)
    assert again.seen == found.seen
    assert (again.velocities == found.velocities).all()
    with pytest.raises(ValueError, match="a profile of other rows"):
        fs.profile(velocity, x1 + 1, nodes=8, max_batch=2, file=file)


def test_a_damaged_profile_is_refused(tmp_path) -> None:
    file = tmp_path / "p.safetensors"
    file.write_bytes(b"{}")
    with pytest.raises(ValueError, match="not a profile"):
        Profile.load(file)


@pytest.mark.parametrize("name", ["euler", "ab2", "unipc", "fireflow", "heun", "dpmpp_2m", "ab3"])
def test_a_scheme_is_its_sampler(name: str, flow) -> None:
    grid, x1 = fs.schedules.flux2(5, tokens=4096), flow.noise([0, 1])
    scheme = scheme_of(name, grid)
    points = [x1]
    velocities = []
    for sigma, weights in zip(scheme.sigmas, scheme.weights, strict=True):
        velocities.append(flow.velocity(points[-1], x1.new_full((2,), sigma)))
        points.append(x1 + sum(w * v for w, v in zip(weights.tolist(), velocities, strict=True)))
    torch.testing.assert_close(points[-1], fs.sample(flow.velocity, x1, grid, name), rtol=1e-9, atol=1e-9)


def test_no_weights_are_better_along_the_path_than_the_best(measured) -> None:
    grid = fs.schedules.linear(6)
    moments = measured.without(None).at(grid.sigmas)
    _, least = best_weights(moments)
    for name in ("euler", "ab2", "unipc"):
        assert least < squared_error(moments, scheme_of(name, grid))


@pytest.mark.parametrize("calls", [4, 8])
def test_it_has_less_than_half_the_error_of_the_best_of_as_many_calls(calls: int, flow, measured) -> None:
    solver = fs.fit(flow.velocity, flow.noise(list(range(64))), calls, profile=measured)
    assert solver.nfe == calls
    grids = fs.schedules.linear(calls), fs.schedules.flux2(calls, tokens=4096)
    others = [error(flow, g, n) for g in grids for n in ("unipc", "dpmpp_2m", "ab2")]
    assert error(flow, solver.grid, solver.sampler) < min(others) / 2
    assert solver.validation is not None
    assert solver.validation.rows == 16
    assert "rows that were not fitted to" in solver.validation.verdict


def test_the_profile_alone_takes_no_call_but_for_the_ends(flow, measured) -> None:
    calls = 0

    def velocity(x, sigma):
        nonlocal calls
        calls += len(x)
        return flow.velocity(x, sigma)

    x1 = flow.noise(list(range(4)))
    fs.fit(velocity, x1, 6, profile=measured, rounds=0, validate=False)
    assert calls == 4 * calls_of_a_path(64, checked=False)


@pytest.mark.parametrize("method", ["ab2", "unipc", "fireflow"])
def test_nodes_for_a_method_are_better_than_both_schedules(method: str, flow, measured) -> None:
    solver = fs.fit(flow.velocity, flow.noise(list(range(64))), 8, profile=measured, method=method)
    assert solver.nfe == 8
    assert solver.sampler == fs.get_sampler(method)
    steps = solver.grid.steps
    known = [error(flow, g, method) for g in (fs.schedules.linear(steps), fs.schedules.flux2(steps, tokens=4096))]
    assert error(flow, solver.grid, solver.sampler) < 0.8 * min(known)


@pytest.mark.parametrize(
    ("flow", "rows"),
    [
        (GaussianFlow([0.0, 1.0], std=[0.01, 2.0]), 1),
        (GaussianFlow([0.0, 1.0], std=[0.01, 2.0]), 3),
        (DataFlow([[2.0, 0.0], [-2.0, 0.0], [0.0, 2.0]]), 5),
        (MixtureFlow.random(2, dim=2), 8),
    ],
    ids=["stiff, 1 row", "stiff, 3 rows", "points, 5 rows", "plane, 8 rows"],
)
@pytest.mark.parametrize("calls", [1, 2, 5])
def test_few_rows_make_no_worse_a_solver_than_euler(flow, rows: int, calls: int) -> None:
    solver = fs.fit(flow.velocity, flow.noise(list(range(rows))), calls)
    assert (solver.validation is None) == (rows < 4)
    grids = fs.schedules.linear(calls), fs.schedules.flux2(calls, tokens=4096)
    x = flow.noise(list(range(10_000, 10_064)))
    exact = fs.sample(flow.velocity, x, fs.SigmaGrid([*(1 - i / 1024 for i in range(1024)), 0.0]), "midpoint")
    euler = min(error(flow, grid, "euler", exact, rows=64) for grid in grids)
    assert error(flow, solver.grid, solver.sampler, exact, rows=64) <= 1.01 * euler


def test_as_many_calls_as_nodes_and_not_one_more(flow, measured) -> None:
    x1 = flow.noise(list(range(8)))
    assert fs.fit(flow.velocity, x1, 64, profile=measured, rounds=0, validate=False).nfe == 64
    with pytest.raises(ValueError, match="nfe=65: the profile has 64 nodes"):
        fs.fit(flow.velocity, x1, 65, profile=measured)


def test_a_start_in_the_middle_is_a_solver_from_there(flow) -> None:
    start = 0.6
    half = fs.SigmaGrid([1 - 0.4 * i / 64 for i in range(65)])
    x = fs.sample(flow.velocity, flow.noise(list(range(32))), half, "rk4")
    solver = fs.fit(flow.velocity, x, 4, start=start)
    assert solver.validation is not None
    assert {s.nfe for s in solver.validation.others} > {4}
    assert solver.validation.solver.error < min(s.error for s in solver.validation.others if s.nfe == 4)
    assert (solver.grid.start, solver.fitted_to["start"]) == (start, start)
    new = fs.sample(flow.velocity, flow.noise(list(range(900, 932))), half, "rk4")
    exact = fs.sample(flow.velocity, new, fs.SigmaGrid([start * (1 - i / 64) for i in range(65)]), "rk4")
    errors = [
        (fs.sample(flow.velocity, new, g, s) - exact).norm()
        for g, s in ((solver.grid, solver.sampler), (fs.SigmaGrid([0.6, 0.45, 0.3, 0.15, 0.0]), "ab2"))
    ]
    assert errors[0] < errors[1] / 2


def test_float32_is_enough(flow) -> None:
    solver = fs.fit(flow.velocity, flow.noise(list(range(64))).float(), 6)
    assert error(flow, solver.grid, solver.sampler) < 0.5 * error(flow, fs.schedules.linear(6), "unipc")


def test_rounding_the_velocities_adds_no_more_than_its_bound_to_a_solver_fitted_in_bfloat16(flow, measured) -> None:
    """Each rounded velocity is off by at most u |v|; the runs' own drift from that is of second order, and inside the bound's room."""
    u = torch.finfo(torch.bfloat16).eps / 2
    solver = fs.fit(flow.velocity, flow.noise(list(range(64))).bfloat16(), 8, profile=measured, validate=False)
    x1, largest = flow.noise(list(range(10_000, 10_128))), 0.0
    exact = flow.solution(x1)

    def rounded(x, sigma):
        nonlocal largest
        v = flow.velocity(x, sigma).bfloat16().to(x.dtype)
        largest = max(largest, v.norm().item())
        return v

    ends = [fs.sample(v, x1.float(), solver.grid, solver.sampler).double() for v in (flow.velocity, rounded)]
    plain, noisy = (((x - exact).norm() / exact.norm()).item() for x in ends)
    weights = list(from_start(solver.sampler.table, solver.grid.dt))[-1]
    assert noisy <= plain + u * abs(weights).sum() * largest / exact.norm().item()
    assert solver.fitted_to["amplification"] < 4
    finer = fs.fit(flow.velocity, flow.noise(list(range(64))), 8, profile=measured, validate=False)
    assert solver.fitted_to["amplification"] < finer.fitted_to["amplification"] / 2


@pytest.mark.parametrize("rows", [4, 12, 24, 64])
def test_two_numbers_of_the_rows_stand_behind_each_parameter_that_is_polished(flow, rows: int) -> None:
    fitting = Rows.of(flow.velocity, flow.noise(list(range(rows))), nodes=16).only(judging=False)
    for calls in (4, 8, 16):
        for family in fitting.families(calls, fitting.profile.without(3)):
            few = calls - 1 + bool(family.std)  # the nodes are always free
            assert len(family.free) <= max(few, fitting.x1.numel() / 2)


def test_equal_nodes_amplify_without_limit_and_end_no_fit() -> None:
    assert amplification(Scheme((1.0, 1.0), (torch.tensor([0.0]).numpy(), torch.tensor([-1.0, 0.0]).numpy()))) == math.inf
    flow = GaussianFlow([float(i) for i in range(8)], std=[0.01, 0.03, 0.1, 0.3, 1.0, 1.5, 2.0, 3.0])
    assert fs.fit(flow.velocity, flow.noise(list(range(256))), 6, validate=False).nfe == 6  # its polishing tries equal nodes


def test_a_fit_to_a_flow_that_does_not_move_ends() -> None:
    """All its moments are 0, and so is what rounding leaves in them."""
    x = torch.ones(8, 2, dtype=torch.float64)
    solver = fs.fit(lambda x, sigma: 0 * x, x, nfe=2)
    assert torch.equal(fs.sample(lambda x, sigma: 0 * x, x, solver), x)


def test_a_fit_stays_below_the_limit_of_amplification(flow, measured, monkeypatch) -> None:
    free = fs.fit(flow.velocity, flow.noise(list(range(64))), 8, profile=measured, validate=False)
    assert free.fitted_to["amplification"] > 4
    monkeypatch.setattr("flowsamplers.fitting.MOST", 2.0)
    monkeypatch.setattr("flowsamplers.fitting_families.MOST", 2.0)
    held = fs.fit(flow.velocity, flow.noise(list(range(64))), 8, profile=measured, validate=False)
    assert held.fitted_to["amplification"] <= 2
    assert error(flow, held.grid, held.sampler) < error(flow, fs.schedules.linear(8), "unipc") / 2


def test_a_file_whose_weights_amplify_rounding_beyond_the_limit_is_refused(flow, measured, tmp_path) -> None:
    solver = fs.fit(flow.velocity, flow.noise([0]), 2, profile=measured, validate=False)
    grid = fs.schedules.linear(2)
    for far, fine in ((10.0, True), (40.0, False)):
        wild = fs.get_sampler("ns_solver", table=((1.0,), (far, 1 - far)))
        grown = amplification(Scheme(grid.sigmas[:-1], tuple(from_start(wild.table, grid.dt))))
        file = tmp_path / f"{far}.json"
        fs.Solver(grid, wild, solver.fitted_to).save(file)
        if fine:
            assert fs.load_solver(file).sampler == wild
            continue
        with pytest.raises(ValueError, match=f"rounding errors of the velocities {grown:g} times as large; at most 32"):
            fs.load_solver(file)


def test_a_file_is_the_solver(flow, measured, tmp_path) -> None:
    solver = fs.fit(flow.velocity, flow.noise(list(range(16))), 5, profile=measured)
    file = tmp_path / "five.json"
    solver.save(file)
    again = fs.load_solver(file)
    assert (again.grid, again.sampler, again.fitted_to) == (solver.grid, solver.sampler, solver.fitted_to)
    assert again.validation == solver.validation


def _altered(**changes):
    def change(found):
        return {**found, **changes}

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_altered(kind="profile"), "does not say that it is a solver"),
        (_altered(schema=99), "schema 99 is newer than 1; update flowsamplers"),
        (_altered(sigmas=[1.0, 0.5, 0.6, 0.0]), "must fall strictly"),
        (_altered(sigmas=[1.0, 0.5, 0.0]), "rows for 2 steps"),
        (_altered(sigmas=[1.0, math.nan, 0.5, 0.0]), "it holds NaN"),
        (_altered(sampler={"name": "ns_solver", "options": {"table": [[1.0], [0.5, 0.4], [1.0]]}}), "add to 0.9"),
        (_altered(sampler={"name": "no_such", "options": {}}), "no_such"),
        (lambda found: {k: v for k, v in found.items() if k != "sigmas"}, "'sigmas' is missing"),
        (lambda found: [found], "does not say that it is a solver"),
    ],
)
def test_a_bad_file_is_refused_in_a_sentence(change, message: str, flow, measured, tmp_path) -> None:
    solver = fs.fit(flow.velocity, flow.noise([0]), 3, profile=measured, validate=False)
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(change(solver.to_dict())))
    with pytest.raises(ValueError, match="not a solver file that can be used") as caught:
        fs.load_solver(file)
    assert message in str(caught.value)


@pytest.mark.parametrize("rows", [3, 8, 64])
@pytest.mark.parametrize("method", ["ab2", "unipc", "fireflow"])
def test_no_known_schedule_is_better_on_the_rows_that_decide(rows: int, method: str) -> None:
    flow = MixtureFlow.four_gaussians()
    measured = Rows.of(flow.velocity, flow.noise(list(range(rows))), nodes=32)
    solver = measured.fit(8, method=method, validate=False)
    judges = measured.only(judging=True) if measured.judged is not None else measured
    steps = solver.grid.steps
    known = fs.schedules.linear(steps), fs.schedules.flux2(steps, tokens=4096), fs.schedules.shift(steps, shift=0.5)
    errors = [judges.errors(scheme_of(method, grid)).sum() for grid in (solver.grid, *known)]
    assert errors[0] <= min(errors) * (1 + 1e-6)  # a known schedule comes back through the logarithms of its steps


def test_the_verdict_tells_what_new_rows_lose_and_whether_chance_explains_it() -> None:
    def verdict(lost: float, chance: float, paths: float = 0.0) -> str:
        mine, other = fs.solver.Score("fitted", 8, 0.1, 0.01), fs.solver.Score("unipc", 8, 0.3, 0.01)
        return fs.solver.Validation(16, mine, (other,), lost, chance, paths).verdict

    assert verdict(1.1, 1.0).endswith("Use it.")
    assert verdict(2.0, 1.0).endswith("Use it. The error is 2 times that on the rows of the fit: more rows would help.")
    assert verdict(2.0, 1.9).endswith("for unipc, which was not fitted, it is 1.9 times: chance, of few rows.")
    assert verdict(math.nan, math.nan).endswith("Use it.")
    assert verdict(1.0, 1.0, 0.009).endswith("Use it.")
    once = fs.solver.Validation(16, fs.solver.Score("fitted", 1, 0.1, 0.01), ())
    assert once.verdict.startswith("1 call has an error of 0.1 on 16 rows")
    assert "off by up to 0.02, so that smaller errors are not certain: use more nodes." in verdict(1.0, 1.0, 0.02)


def test_with_the_rows_that_a_mixture_should_have_new_rows_lose_little() -> None:
    flow = MixtureFlow.random(3)
    x1 = flow.noise(list(range(fs.fitting.rows_for(flow.noise([0])))))
    fitted = fs.fit(flow.velocity, x1, 6).validation
    assert fitted is not None
    assert fitted.lost <= 1.15
    few = fs.fit(flow.velocity, x1[:32], 6).validation
    assert few is not None
    assert few.lost > fitted.lost


def test_polishing_leaves_a_start_that_the_paths_suggest_and_runs_do_not_like() -> None:
    """On this ring the best nodes along the paths have more error at 4 calls than diffusers' best, and no small step helps them."""
    ring = [[2 * math.cos(k * math.pi / 4), 2 * math.sin(k * math.pi / 4)] for k in range(8)]
    flow = MixtureFlow(means=ring, stds=[0.2] * 8)
    x1 = flow.noise(list(range(512)))
    solver, unpolished = fs.fit(flow.velocity, x1, 4, validate=False), fs.fit(flow.velocity, x1, 4, rounds=0, validate=False)
    other = min(error(flow, fs.schedules.linear(4), name, rows=512) for name in ("euler", "unipc", "dpmpp_2m", "dpmpp_3m"))
    assert error(flow, unpolished.grid, unpolished.sampler, rows=512) > 0.9 * other
    assert error(flow, solver.grid, solver.sampler, rows=512) < other / 2


@pytest.mark.parametrize("content", ["", "{", "null", "\x00\x01", '{"kind": "solver"}'])
def test_a_damaged_file_is_refused_in_a_sentence(content: str, tmp_path) -> None:
    file = tmp_path / "bad.json"
    file.write_text(content)
    with pytest.raises(ValueError, match="not a solver file that can be used"):
        fs.load_solver(file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nfe": 0}, "nfe=0"),
        ({"method": "er_sde"}, "is stochastic"),
        ({"method": "dopri5"}, "is adaptive"),
        ({"method": "rk4", "nfe": 3}, "not one step"),
        ({"start": 1.5}, "start=1.5"),
    ],
)
def test_what_cannot_be_fitted_is_named(options, message: str, flow) -> None:
    with pytest.raises(ValueError, match=message):
        fs.fit(flow.velocity, flow.noise([0, 1]), **{"nfe": 4, **options})
