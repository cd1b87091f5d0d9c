"""Bit for bit with stock diffusers, wherever stock is well defined."""

from __future__ import annotations

import contextlib
import itertools
import logging
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowsamplers import schedules

diffusers = pytest.importorskip("diffusers")
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler  # noqa: E402
from diffusers.pipelines.flux.pipeline_flux import calculate_shift  # noqa: E402
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu  # noqa: E402

logging.getLogger("diffusers").setLevel(logging.ERROR)
TOKENS = [16, 64, 255, 256, 1024, 4096, 4299, 4300, 4301, 8192]


def stock_schedule(config: dict, **call) -> tuple[np.ndarray, np.ndarray] | None:
    """Stock's sigmas and timesteps; None where stock raises or gives no strictly monotone finite schedule."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            scheduler = FlowMatchEulerDiscreteScheduler(**config)
            scheduler.set_timesteps(**call)
        except (ValueError, OverflowError, ZeroDivisionError):
            return None
    sigmas = scheduler.sigmas.numpy()
    steps = np.diff(sigmas)
    wanted = 1 if config.get("invert_sigmas") else -1
    return (sigmas, scheduler.timesteps.numpy()) if np.isfinite(sigmas).all() and (np.sign(steps) == wanted).all() else None


def ours(config: dict, num_inference_steps=None, **call) -> tuple[np.ndarray, np.ndarray] | None:
    with contextlib.suppress(ValueError):
        grid = schedules.flow_match_euler(num_inference_steps, **call, **config)
        sigmas = np.array(grid.sigmas)
        assert (sigmas == sigmas.astype(np.float32)).all()
        single = torch.tensor(grid.sigmas, dtype=torch.float32)
        return single.numpy(), (single[:-1] * config.get("num_train_timesteps", 1000)).numpy()
    return None


@pytest.mark.parametrize("tokens", TOKENS)
def test_the_klein_pipelines_schedule_and_the_mu_of_flux_1(tokens: int) -> None:
    assert schedules.flux1_mu(tokens=tokens) == calculate_shift(tokens)
    for steps in range(1, 65):
        mu = compute_empirical_mu(tokens, steps)
        assert schedules.empirical_mu(tokens=tokens, steps=steps) == mu
        stock = stock_schedule({"use_dynamic_shifting": True}, sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
        grid = schedules.flux2(steps, tokens=tokens, arithmetic="stock")
        assert stock is not None
        assert np.array_equal(np.array(grid.sigmas, dtype=np.float32), stock[0])
        assert np.array_equal((torch.tensor(grid.sigmas[:-1]) * 1000).numpy(), stock[1])


CONFIGS = [
    {
        "shift": shift,
        "use_dynamic_shifting": kind is not None,
        "time_shift_type": kind or "exponential",
        "shift_terminal": terminal,
        "invert_sigmas": invert,
        "num_train_timesteps": train,
        **({spacing: True} if spacing else {}),
    }
    for shift, kind, terminal, spacing, invert, train in itertools.product(
        [1.0, 1.15, 3.0],
        [None, "exponential", "linear"],
        [None, 0.02],
        [None, "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"],
        [False, True],
        [1000, 640],
    )
    if kind is None or shift == 3.0
]


@pytest.mark.parametrize("source", ["default", "sigmas", "timesteps"])
def test_every_combination_of_options(source: str) -> None:
    """Where stock gives a finite, strictly monotone schedule ours is the same bits; elsewhere ours is right or raises."""
    compared = undefined = 0
    # Every configuration at six or seven step counts; between them every count from 1 to 64.
    for config, steps in ((c, n) for i, c in enumerate(CONFIGS) for n in {1, 2, 3, *range(1 + i % 16, 65, 16)}):
        call: dict = {"mu": 1.6} if config["use_dynamic_shifting"] else {}
        if source == "default":
            call["num_inference_steps"] = steps
        else:
            base = np.linspace(1.0, 1 / steps, steps)
            call[source] = (base if source == "sigmas" else base * config["num_train_timesteps"]).tolist()
        stock, mine = stock_schedule(config, **call), ours(config, **call)
        if stock is None:
            undefined += 1
            assert mine is None or np.isfinite(mine[0]).all()
            continue
        compared += 1
        assert mine is not None, (config, call)
        assert np.array_equal(mine[0], stock[0]), (config, call)
        if source != "timesteps" or config["invert_sigmas"]:
            assert np.array_equal(mine[1], stock[1]), (config, call)
    assert compared > 5 * undefined


@given(
    values=st.lists(st.floats(2**-10, 1.0, width=32), min_size=1, max_size=40, unique=True),
    mu=st.floats(-3, 4),
    shift=st.floats(0.3, 10),
    dynamic=st.booleans(),
    terminal=st.none() | st.floats(0.01, 0.5),
)
def test_any_explicit_sigmas(values: list[float], mu: float, shift: float, dynamic: bool, terminal: float | None) -> None:
    config = {"shift": shift, "use_dynamic_shifting": dynamic, "shift_terminal": terminal}
    call: dict = {"sigmas": sorted(values, reverse=True), "mu": mu}
    stock, mine = stock_schedule(config, **call), ours(config, **call)
    if stock is None or stock[0].max() > 1 + 2**-20 or stock[0].min() < -(2**-20):
        return  # a stretch can leave [0, 1] where the base sigmas do not begin at 1
    assert mine is not None
    assert np.array_equal(mine[0], stock[0])


@pytest.mark.parametrize("make", [list, np.array, torch.tensor, lambda v: torch.tensor(v, dtype=torch.float64)])
def test_sigmas_may_be_a_list_an_array_or_a_tensor(make) -> None:
    values = [1.0, 0.7, 0.2]
    assert schedules.flow_match_euler(sigmas=make(values), shift=3.0) == schedules.flow_match_euler(sigmas=values, shift=3.0)


def test_what_stock_gets_wrong_and_we_do_not() -> None:
    assert stock_schedule({"shift_terminal": 0.1}, sigmas=[1.0]) is None  # NaN, issue 14411
    assert schedules.flow_match_euler(sigmas=[1.0], shift_terminal=0.1).sigmas == (1.0, 0.0)
    assert stock_schedule({}, sigmas=[1.0, 0.5, 0.0]) is None  # a second 0 is appended
    assert schedules.flow_match_euler(sigmas=[1.0, 0.5, 0.0]).steps == 2


def unipc(steps: int, **config) -> UniPCMultistepScheduler:
    scheduler = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", **config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # diffusers makes arrays of tensors by a way that NumPy retires
        scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8, 20, 50])
def test_the_flow_grid_of_unipc_is_sgm_uniform_of_a_thousand_points(steps: int) -> None:
    """But for its first node, which it moves to 1 - 1e-6; and its shift is applied once."""
    theirs = unipc(steps).sigmas.numpy()
    mine = schedules.sgm_uniform(steps, shift=1.0, points=1000).sigmas
    assert theirs[0] == np.float32(1 - 1e-6)
    assert np.allclose(theirs[1:], mine[1:], rtol=2**-23, atol=0)
    shifted = schedules.shift_sigmas(mine, 3.0)
    assert np.allclose(unipc(steps, flow_shift=3.0).sigmas.numpy()[1:], shifted[1:], rtol=2**-22, atol=0)


@pytest.mark.parametrize("steps", [2, 3, 4, 8, 20, 50])
def test_karras_in_edms_sigma_is_unipcs_with_flow_sigmas(steps: int) -> None:
    """Its ends are those of its noise schedule for images of before; a run here begins at 1."""
    scheduler = unipc(steps, use_karras_sigmas=True)
    levels = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).double().sqrt()
    low, high = levels.min().item(), levels.max().item()
    mine = schedules.karras_ve(steps, sigma_min=low, sigma_max=high).sigmas
    assert scheduler.sigmas[0].item() == pytest.approx(high / (1 + high), rel=1e-6)
    assert np.allclose(scheduler.sigmas.numpy()[1:], mine[1:], rtol=1e-5, atol=0)


@pytest.mark.parametrize("spacing", ["use_exponential_sigmas", "use_beta_sigmas"])
def test_unipcs_other_spacings_are_no_schedule_of_a_flow(spacing: str) -> None:
    """Stock forgets to map these from EDM's sigma: they begin above 100."""
    assert unipc(8, **{spacing: True}).sigmas[0] > 100
