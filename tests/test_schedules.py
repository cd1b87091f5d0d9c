"""What holds for every schedule, whatever its options."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flowsamplers as fs
from flowsamplers import schedules
from flowsamplers.testing import laws, strategies

STEPS = st.integers(1, 400)
TOKENS = st.integers(1, 20_000)
NAMES = [name for i in fs.list_schedules() for name in (i.name, *i.presets)]
STOCK = [i.name for i in fs.list_schedules() if "arithmetic" in i.options]


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data(), steps=strategies.steps())
def test_a_schedule_is_sound_whatever_its_options(name: str, data: st.DataObject, steps: int) -> None:
    info, options = fs.schedules.schedule_info(name), data.draw(strategies.schedule_options(name))
    build = strategies.Built(name, options)
    grid = build(steps)
    laws.a_schedule_is_sound(build, steps, exact_steps=info.exact_steps)
    laws.stored_dt_sum_to_end_minus_start(grid)
    assert grid.end == 0
    if info.complete or options.get("start") == 1.0:
        laws.a_schedule_runs_from_noise_to_data(build, steps)


@pytest.mark.parametrize("name", STOCK)
@given(data=st.data(), steps=STEPS, rising=st.booleans())
def test_in_stock_arithmetic_it_is_sound_or_says_that_float32_cannot_tell_the_nodes_apart(
    name: str, data: st.DataObject, steps: int, rising: bool
) -> None:
    options = {**data.draw(strategies.schedule_options(name)), "arithmetic": "stock"}
    options |= {"invert_sigmas": rising} if name == "flow_match_euler" else {}
    try:
        grid = fs.get_schedule(name, steps, **options)
    except ValueError as error:
        assert re.search("must (fall|rise) strictly", str(error))  # noqa: PT017  (only some draws raise)
        assert steps > 1
        return
    laws.stored_dt_sum_to_end_minus_start(grid)
    assert grid.rising == options.get("invert_sigmas", False)
    # The ends are shifted twice, each time with a cancellation that the law allows for too.
    assert sorted([grid.start, grid.end]) == pytest.approx([0.0, 1.0], abs=2**-20)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=50, unique=True))
def test_explicit_sigmas_are_kept_to_the_bit(sigmas: list[float]) -> None:
    nodes = sorted(sigmas, reverse=True)
    grid = schedules.explicit(nodes)
    assert grid.sigmas == tuple(nodes if nodes[-1] == 0 else [*nodes, 0.0])


@given(steps=st.integers(1, 64), mu=st.floats(-3, 4))
def test_the_exponential_shift_is_the_static_shift_with_k_equal_e_to_the_mu(steps: int, mu: float) -> None:
    a = schedules.flux2(steps, mu=mu).sigmas
    b = schedules.shift(steps, shift=math.exp(mu)).sigmas
    assert np.allclose(a, b, rtol=8 * np.finfo(float).eps, atol=0)


@given(sigma=st.floats(0, 1), a=st.floats(-2, 2), b=st.floats(-2, 2))
def test_time_shifts_form_a_group(sigma: float, a: float, b: float) -> None:
    one_by_one = schedules.time_shift(schedules.time_shift([sigma], a), b)
    assert np.allclose(one_by_one, schedules.time_shift([sigma], a + b), rtol=1e-13, atol=1e-300)


@given(steps=STEPS, tokens=TOKENS)
def test_stock_arithmetic_is_float64_rounded_to_a_few_ulps_of_float32(steps: int, tokens: int) -> None:
    mu = schedules.empirical_mu(tokens=tokens, steps=min(steps, 64))
    exact = np.array(schedules.flux2(steps, tokens=tokens, mu=mu).sigmas)
    stock = np.array(schedules.flux2(steps, tokens=tokens, mu=mu, arithmetic="stock").sigmas)
    assert (stock == stock.astype(np.float32)).all()
    # 1/t - 1 cancels near t = 1: an absolute error of an ulp of 1 in the base sigma, times the slope e^mu of the shift there.
    assert (np.abs(exact - stock) <= 8 * 2.0**-24 * max(1.0, math.exp(abs(mu)))).all()


def test_refining_keeps_the_nodes() -> None:
    grid = schedules.flux2(4)
    fine = grid.refined(3)
    assert fine.steps == 12
    assert np.allclose(fine.sigmas[::3], grid.sigmas, rtol=0, atol=1e-16)
    assert grid.reversed().reversed() == grid


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: schedules.flux2(4, tokens=0), "tokens=0"),
        (lambda: fs.SigmaGrid([1.0, float("nan"), 0.0]), r"sigmas\[1\]=nan: every sigma must be finite"),
        (lambda: fs.SigmaGrid([0.0, 0.5, 1.0]), r"sigmas\[0\]=0.0, sigmas\[1\]=0.5: sigmas must fall strictly"),
        (lambda: fs.SigmaGrid([1.0, 0.5, 0.5, 0.0]), r"sigmas\[1\]=0.5, sigmas\[2\]=0.5"),
        (lambda: fs.SigmaGrid([1000.0, 500.0, 0.0]), r"sigmas\[0\]=1000.0: sigmas lie between 0 \(data\) and 1 \(noise\)"),
        (lambda: fs.SigmaGrid([1.0]), "at least 1 step"),
        (lambda: fs.SigmaGrid([1.0, 0.0], rising=True), "must rise strictly"),
        (lambda: schedules.flow_match_euler(4, use_dynamic_shifting=True), "mu=None: use_dynamic_shifting needs"),
        (lambda: schedules.flow_match_euler(4, use_karras_sigmas=True, use_beta_sigmas=True), "only one re-spacing"),
        (lambda: schedules.flow_match_euler(3, sigmas=[1.0, 0.5]), "sigmas has 2 entries, but steps=3"),
        (lambda: schedules.flow_match_euler(sigmas=[]), r"sigmas=\[\]: a schedule needs at least 1 step"),
        (schedules.flow_match_euler, "steps=None: give steps, sigmas or timesteps"),
        (lambda: schedules.flow_match_euler(sigmas=[1.0, math.inf]), "every entry must be finite"),
        (lambda: schedules.flow_match_euler(sigmas=[1.0, 0.0], use_exponential_sigmas=True), "has no logarithm"),
        (lambda: schedules.flow_match_euler(4, shift=-1.0), "shift=-1.0: accepted is a finite number, above 0"),
        (lambda: schedules.flow_match_euler(4, shift_terminal=1.5), "shift_terminal=1.5"),
        (lambda: schedules.flow_match_euler(4, time_shift_type="log", mu=1.0, use_dynamic_shifting=True), "time_shift_type"),
        (lambda: schedules.time_shift([0.5], math.nan), "mu=nan"),
        (lambda: schedules.simple(4, mu=1e6), "mu=1000000.0: the time shift needs a finite number of at most 709"),
        (lambda: schedules.simple(4, points=1), "points=1: a table of sigmas has at least 2"),
        (lambda: schedules.normal(4, shift=0.0), "shift=0.0: accepted is a finite number, above 0"),
        (lambda: schedules.beta_comfy(4, alpha=0.0), "alpha=0.0: accepted is a finite number, above 0"),
        (lambda: schedules.karras_ve(4, sigma_min=2.0, sigma_max=1.0), "sigma_min=2.0, sigma_max=1.0"),
        (lambda: schedules.beta_comfy(4, beta="e", alpha="d", points="c", mu="b", shift="a"), "^alpha='d'"),
        (lambda: schedules.kl_optimal_rf(4, c=-1.0), "c=-1.0: accepted is a finite number, above 0"),
        (lambda: schedules.laplace(4, mu=math.inf), "mu=inf"),
        (lambda: schedules.linear_quadratic(4, threshold=1.0), "threshold=1.0"),
        (lambda: schedules.linear_quadratic(4, linear_steps=4), "linear_steps=4: between 1 and 3 of 4 steps"),
        (lambda: schedules.bong_tangent(4, pivot=0.1), "pivot=0.1: of 6 nodes it leaves 0 and 6 to the two sides"),
        (lambda: schedules.bong_tangent(4, middle=1.0), "middle=1.0: it lies between 0 and 1"),
        (lambda: schedules.table(4, nodes="oss_flx"), "unknown table 'oss_flx': did you mean 'oss_flux'"),
        (lambda: schedules.table(4, nodes=[1.0, 0.5, 0.0]), r"nodes\[2\]=0.0: it has no logarithm"),
        (lambda: schedules.table(4, nodes=[0.5, 1.0]), "at least 2 finite noise levels, falling"),
        (lambda: schedules.table(4, nodes=[1.0, 0.5], space="vp"), "unknown space 'vp'"),
        (lambda: schedules.table(4, start=0.5), "sigmas must fall strictly"),
        (lambda: schedules.tokens_for(8, 1024), "width=8"),
        (lambda: fs.get_schedule("shift", 4, shfit=3.0), "unknown option of schedule 'shift' 'shfit': did you mean 'shift'"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# Known numbers


@pytest.mark.parametrize(
    ("name", "steps", "options", "sigmas"),
    [
        ("bong_tangent", 4, {}, [1, 0.8572, 0.5, 0.1175, 0]),
        ("bong_tangent", 1, {}, [1, 0]),
        ("linear_quadratic", 4, {}, [1, 0.9875, 0.975, 0.725, 0]),
        ("linear_quadratic", 1, {}, [1, 0]),
        ("flux2_empirical", 4, {"tokens": 4096}, [1, 0.9673840, 0.9081439, 0.7671999, 0]),
        ("flux2", 4, {"tokens": 4301}, [1, 0.907, 0.766, 0.522, 0]),
        ("sd3", 4, {}, [1, 0.9, 0.75, 0.5, 0]),
        ("wan", 2, {}, [1, 5 / 6, 0]),
        ("auraflow", 2, {}, [1, 1.73 / 2.73, 0]),
        ("kl_optimal_rf", 3, {"c": 1.0}, [1, 3**0.5 / (3**0.5 + 1), 1 / (3**0.5 + 1), 0]),
        ("uniform_lambda", 4, {"sigma_max": 81.0, "sigma_min": 1 / 81}, [1, 0.9, 0.5, 0.1, 0]),
        ("exponential_ve", 3, {"sigma_max": 100.0, "sigma_min": 0.01}, [1, 0.5, 1 / 101, 0]),
        ("laplace", 8, {"mu": 0.0, "scale": 1.0}, [1, 0.8, 2 / 3, 4 / 7, 0.5, 3 / 7, 1 / 3, 0.2, 0]),
        ("chebyshev", 3, {}, [1, 0.75, 0.25, 0]),
    ],
)
def test_known_numbers(name: str, steps: int, options: dict, sigmas: list[float]) -> None:
    assert np.allclose(fs.get_schedule(name, steps, **options).sigmas, sigmas, rtol=0, atol=5e-4 if steps == 4 else 1e-12)


# Identities: the same schedule by another way


@given(steps=st.integers(1, 64), c=st.floats(0.1, 5))
def test_kl_optimal_rf_is_the_arctangent_rule_in_edms_sigma(steps: int, c: float) -> None:
    r"""Align Your Steps' closed form: $\sigma_{VE} = c\tan\theta$, theta even between 90 degrees and 0."""
    ve = c * np.tan(np.linspace(math.pi / 2, 0, steps + 1)[1:-1])
    assert np.allclose(schedules.kl_optimal_rf(steps, c=c).sigmas[1:-1], ve / (1 + ve), rtol=1e-12, atol=0)


@given(steps=st.integers(1, 64), k=st.floats(0.1, 10))
def test_kl_optimal_rf_with_c_is_the_cosine_schedule_shifted_by_c(steps: int, k: float) -> None:
    cosine = schedules.shift_sigmas(fs.get_schedule("cosine", steps).sigmas, k)
    assert np.allclose(schedules.kl_optimal_rf(steps, c=k).sigmas, cosine, rtol=1e-12, atol=0)


@given(steps=st.integers(1, 64))
def test_the_cosine_schedule_is_sd3s_cosmap(steps: int) -> None:
    """arXiv:2403.03206, (21): t = 1 - 1 / (tan(pi u / 2) + 1)."""
    u = np.linspace(1, 0, steps + 1)[1:-1]
    assert np.allclose(fs.get_schedule("cosmap", steps).sigmas[1:-1], 1 - 1 / (np.tan(np.pi * u / 2) + 1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["uniform_lambda", "cosine", "laplace", "chebyshev", "linear"])
@given(steps=st.integers(1, 100))
def test_some_schedules_are_symmetric_about_one_half(name: str, steps: int) -> None:
    s = np.array(fs.get_schedule(name, steps).sigmas)
    assert np.allclose(s + s[::-1], 1, rtol=0, atol=1e-14)


@given(steps=st.integers(1, 64))
def test_uniform_lambda_is_exponential_ve_of_a_step_more_without_its_last_node(steps: int) -> None:
    levels = {"sigma_min": 0.002, "sigma_max": 80.0}
    longer = schedules.exponential_ve(steps + 1, **levels).sigmas
    assert np.allclose(schedules.uniform_lambda(steps, **levels).sigmas, [*longer[:-2], 0.0], rtol=1e-13, atol=0)


@given(steps=st.integers(3, 64))
def test_karras_tends_to_the_exponential_schedule_as_rho_grows(steps: int) -> None:
    a = np.array(schedules.karras_ve(steps, rho=1e7).sigmas)
    assert np.allclose(a, schedules.exponential_ve(steps).sigmas, rtol=1e-4, atol=0)


@given(steps=st.integers(2, 64))
def test_chebyshev_is_the_beta_schedule_of_one_half_and_one_half(steps: int) -> None:
    spaced = schedules.beta_quantiles(1 - np.arange(steps + 1) / steps, 0.5, 0.5)
    assert np.allclose(schedules.chebyshev(steps).sigmas, spaced, rtol=1e-9, atol=1e-12)


@given(steps=st.integers(1, 64), mu=st.floats(-2, 2), scale=st.floats(0.2, 2))
def test_laplace_is_scipys_quantiles(steps: int, mu: float, scale: float) -> None:
    from scipy import special, stats

    log_sigma = stats.laplace.ppf(1 - np.arange(1, steps) / steps, mu, scale)
    assert np.allclose(schedules.laplace(steps, mu=mu, scale=scale).sigmas[1:-1], special.expit(log_sigma), rtol=1e-12, atol=0)


@given(steps=st.integers(2, 200), threshold=st.floats(0.001, 0.4))
def test_linear_quadratic_has_a_linear_half_and_no_kink(steps: int, threshold: float) -> None:
    """The first m steps have one length, the rest a constant second difference, and the slope is that of the line where they meet."""
    s = np.array(schedules.linear_quadratic(steps, threshold=threshold).sigmas)
    m = steps // 2
    assert np.allclose(np.diff(s[: m + 1]), -threshold / m, rtol=0, atol=1e-14)
    rest = np.diff(s[m:], 2)
    assert np.allclose(rest, rest[:1].mean() if len(rest) else 0, rtol=0, atol=1e-14)
    assert s[m] == pytest.approx(1 - threshold, abs=1e-14)
    if len(rest):
        assert s[m + 1] - s[m] == pytest.approx(-threshold / m + rest[0] / 2, abs=1e-13)


@given(data=st.data(), count=st.integers(2, 12), steps=st.integers(1, 40))
def test_a_table_comes_back_as_it_is_and_is_log_linear_between(data: st.DataObject, count: int, steps: int) -> None:
    logs = sorted(data.draw(st.lists(st.integers(1, 5000), min_size=count, max_size=count, unique=True)))
    nodes = [10 ** (-k / 1000) for k in logs]
    assert schedules.table(count - 1, nodes=nodes).sigmas == (*nodes[:-1], 0.0)
    fine = schedules.table(steps * (count - 1), nodes=nodes).sigmas
    assert np.allclose(fine[::steps][:-1], nodes[:-1], rtol=1e-12, atol=0)
    inside = np.log(fine[: steps + 1 if count > 2 else steps])
    assert np.allclose(np.diff(inside, 2), 0, rtol=0, atol=1e-12)


def test_published_tables_say_where_they_begin() -> None:
    starts = {name: fs.get_schedule(name, 10).start for name in schedules.TABLES}
    assert starts["oss_flux"] == 0.9968
    assert starts["oss_wan"] == 1.0
    assert starts["ays_sd1"] == pytest.approx(14.6146412293 / 15.6146412293, abs=1e-15)
    assert sum(fs.get_schedule("oss_flux", 10).dt) == pytest.approx(-0.9968, abs=1e-14)
    assert not fs.schedules.schedule_info("oss_flux").complete
    for name in schedules.TABLES:
        whole = fs.get_schedule(name, 10, start=1.0)
        assert whole.sigmas == (1.0, *fs.get_schedule(name, 10).sigmas[1:])


@pytest.mark.parametrize("start", [1.0, 0.95, 0.6, 0.3333, 0.03])
def test_every_schedule_begins_exactly_where_it_is_asked_to(start: float) -> None:
    for name in [n for i in fs.list_schedules() for n in i.names]:
        grid = fs.get_schedule(name, 5, start=start)
        assert (grid.start, grid.end) == (start, 0.0)


def test_the_forms_of_diffusers_and_comfyui_differ() -> None:
    for plain, other in (("beta", "beta_comfy"), ("karras", "karras_comfy"), ("exponential", "exponential_comfy")):
        theirs = fs.get_schedule(other, 8, shift=3.0, points=1000)
        assert fs.get_schedule(plain, 8, shift=3.0) == fs.get_schedule(f"{plain}_diffusers", 8, shift=3.0)
        assert max(abs(a - b) for a, b in zip(fs.get_schedule(plain, 8, shift=3.0).sigmas, theirs.sigmas, strict=True)) > 0.1


@pytest.mark.parametrize("info", fs.list_schedules(), ids=lambda i: i.name)
def test_every_schedule_says_where_it_comes_from_and_when_to_use_it(info: fs.schedules.ScheduleInfo) -> None:
    assert info.reference
    assert info.advice
    assert info.summary.endswith((".", "*"))
    for name in info.names:
        assert fs.get_schedule(name, 5).steps >= 1


def test_one_step_stays_at_1_where_the_shift_rounds() -> None:
    grid = fs.schedules.flow_match_euler(1, num_train_timesteps=500, shift=0.2, shift_terminal=0.5)
    assert grid.sigmas == pytest.approx((1.0, 0.0), abs=2**-20)
