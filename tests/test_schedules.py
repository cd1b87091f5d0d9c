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
from flowsamplers.schedules import Arithmetic

STEPS = st.integers(1, 400)
TOKENS = st.integers(1, 20_000)
ARITHMETIC: st.SearchStrategy[Arithmetic] = st.sampled_from(["float64", "stock"])
OPTIONS: dict[str, dict[str, st.SearchStrategy]] = {
    "flow_match_euler": {
        "mu": st.floats(-2, 5),
        "shift": st.floats(0.2, 20),
        "use_dynamic_shifting": st.booleans(),
        "invert_sigmas": st.booleans(),
        "shift_terminal": st.none() | st.floats(0.001, 0.5),
        "num_train_timesteps": st.sampled_from([500, 1000, 4096]),
    },
    "linear": {},
    "shift": {"shift": st.floats(0.2, 20)},
    "flux1": {"tokens": TOKENS},
    "flux2": {"tokens": TOKENS, "mu": st.none() | st.floats(-2, 5)},
    "karras": {"shift": st.floats(1, 20)},
    "exponential": {"shift": st.floats(1, 20)},
    "beta": {"shift": st.floats(1, 20)},
}
COMPLETE = {"linear", "shift", "flux1", "flux2", "karras", "exponential", "beta"}
"""Schedules that always run from 1 to 0."""


def test_every_registered_schedule_is_tested_here() -> None:
    assert set(OPTIONS) == {s.name for s in fs.list_schedules()}


@pytest.mark.parametrize("name", OPTIONS)
@given(data=st.data(), steps=STEPS, arithmetic=ARITHMETIC)
def test_a_schedule_is_strictly_monotone_and_its_dt_sum_to_end_minus_start(
    name: str, data: st.DataObject, steps: int, arithmetic: Arithmetic
) -> None:
    options = {k: data.draw(v, label=k) for k, v in OPTIONS[name].items()}
    try:
        grid = fs.get_schedule(name, steps, **options, arithmetic=arithmetic)
    except ValueError as error:
        # In float32 the nodes of many steps under a strong shift can coincide; that is said, not hidden.
        assert re.search("must (fall|rise) strictly", str(error))  # noqa: PT017  (only some draws raise)
        assert arithmetic == "stock" or name in ("karras", "exponential", "beta", "flow_match_euler")
        assert steps > 1
        return
    assert grid.rising == options.get("invert_sigmas", False)
    signs = np.sign(grid.dt)
    assert (signs == (1 if grid.rising else -1)).all()
    # Each dt is one rounded difference of numbers in [0, 1], the sum at most N more roundings.
    bound = 2 * grid.steps * np.finfo(np.float64).eps
    assert abs(sum(grid.dt) - (grid.end - grid.start)) <= bound
    if name in COMPLETE:
        assert (grid.start, grid.end) == pytest.approx((1.0, 0.0), abs=2**-23)
        assert abs(sum(grid.dt) + 1) <= bound + 2**-23 * (grid.start != 1.0)


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


def test_one_step_with_a_terminal_stretch_starts_at_noise() -> None:
    """Stock gives NaN (diffusers issue 14411)."""
    assert schedules.flow_match_euler(sigmas=[1.0], shift_terminal=0.1).sigmas == (1.0, 0.0)


def test_a_terminal_zero_is_not_doubled() -> None:
    assert schedules.flow_match_euler(sigmas=[1.0, 0.5, 0.0]).sigmas == (1.0, 0.5, 0.0)


def test_refining_keeps_the_nodes() -> None:
    grid = schedules.flux2(4)
    fine = grid.refined(3)
    assert fine.steps == 12
    assert np.allclose(fine.sigmas[::3], grid.sigmas, rtol=0, atol=1e-16)
    assert grid.reversed().reversed() == grid


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: schedules.linear(0), "steps=0: a schedule needs at least 1 step"),
        (lambda: schedules.flux2(-3), "steps=-3: a schedule needs at least 1 step"),
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
        (lambda: schedules.flow_match_euler(4, shift=-1.0), "shift=-1.0: the static shift is a positive number"),
        (lambda: schedules.flow_match_euler(4, shift_terminal=1.5), "shift_terminal=1.5"),
        (lambda: schedules.flow_match_euler(4, time_shift_type="log", mu=1.0, use_dynamic_shifting=True), "time_shift_type"),
        (lambda: schedules.time_shift([0.5], math.nan), "mu=nan"),
        (lambda: schedules.tokens_for(8, 1024), "width=8"),
        (lambda: fs.get_schedule("flux", 4), "unknown schedule 'flux': did you mean 'flux"),
        (lambda: fs.get_schedule("shift", 4, shfit=3.0), "unknown option of schedule 'shift' 'shfit': did you mean 'shift'"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
