"""ComfyUI's and RES4LYF's schedules: numbers that they themselves gave out, and their rules in torch's float32, step by step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betaincinv

import flowsamplers as fs
from flowsamplers import schedules

FLUX: dict = {"mu": 1.15, "points": 10_000}
SD3: dict = {"shift": 3.0, "points": 1000}
PLAIN: dict = {"shift": 1.15, "points": 1000}
MODELS = {"flux": FLUX, "flux2": {"mu": 2.02, "points": 10_000}, "sd3": SD3, "unshifted": {"shift": 1.0, "points": 1000}}
SINGLE = 4 * 2.0**-24
"""Float32 sigmas: the table and the shift are rounded."""

# ComfyUI 783545f and RES4LYF 26036f6, run with torch 2.13 and scipy 1.18
GOLDEN = [
    ("beta_comfy", 6, FLUX, "1 .9690954089 .8925824165 .7595839500 .5456489921 .2415402681 0"),
    (
        "beta_comfy",
        9,
        FLUX,
        "1 .9845904112 .9488037229 .8925824165 .8115419745 .6985387802 .5456489921 .3500697315 .1352856010 0",
    ),
    ("beta_comfy", 6, PLAIN, "1 .9199189544 .7519729733 .5358787179 .3047820032 .1043598279 0"),
    ("beta57", 6, FLUX, "1 .9415575266 .8237770200 .6409309506 .3900720477 .1250626743 0"),
    ("beta57", 6, PLAIN, "1 .8542740345 .6301224828 .3948591352 .1895450205 .0502682291 0"),
    (
        "beta57",
        9,
        PLAIN,
        "1 .9172462821 .7836333514 .6301224828 .4716343880 .3206534684 .1895450205 .0875389278 .0229312032 0",
    ),
    ("bong_tangent", 2, {}, "1 .5 0"),
    ("bong_tangent", 6, {}, "1 .9289700985 .7976859212 .5 .1856007278 .0568021834 0"),
    ("bong_tangent", 9, {}, "1 .9699400067 .9261783957 .8573469520 .7369901538 .5 .2463918030 .1093777567 .0397943780 0"),
    (
        "bong_tangent",
        12,
        {},
        (
            "1 .9822903275 .9590834379 .9274672866 .8821867108 .8130338788 .6989855170 .5 "
            ".2896697819 .1548288316 .0775448903 .0306840222 0"
        ),
    ),
]


@pytest.mark.parametrize(("name", "steps", "options", "numbers"), GOLDEN)
def test_these_are_the_numbers_that_comfyui_gives_out(name: str, steps: int, options: dict, numbers: str) -> None:
    wanted = [float(n) for n in numbers.split()]
    assert np.allclose(fs.get_schedule(name, steps, **options).sigmas, wanted, rtol=0, atol=2e-7)


def test_comfyuis_denoise_takes_the_end_of_a_finer_schedule() -> None:
    grid = schedules.denoise("bong_tangent", 2, 0.2)
    assert np.allclose(grid.sigmas, [0.1174605638, 0.0432651490, 0], rtol=0, atol=1e-7)


# The rules themselves, on the float32 table that ComfyUI has


def table_of(options: dict) -> torch.Tensor:
    k = options.get("shift") or math.exp(options["mu"])
    t = torch.arange(1, options["points"] + 1) / options["points"]
    return k * t / (1 + (k - 1) * t)


def shifted(t: torch.Tensor, options: dict) -> torch.Tensor:
    k = options.get("shift") or math.exp(options["mu"])
    return k * t / (1 + (k - 1) * t)


def rule(name: str, n: int, options: dict) -> list[float]:
    """What ComfyUI does, in float32."""
    table = table_of(options)
    low, size = table[0], len(table)
    if name == "simple":
        return [*(table[size - 1 - int(i * size / n)].item() for i in range(n)), 0.0]
    if name == "ddim_uniform":
        return [*reversed([table[j].item() for j in range(1, size, size // n)]), 0.0]
    if name == "normal":
        return [*shifted(torch.linspace(1, low.item(), n), options).tolist(), 0.0]
    if name == "sgm_uniform":
        return [*shifted(torch.linspace(1, low.item(), n + 1), options).tolist()[:-1], 0.0]
    ramp = torch.linspace(0, 1, n)
    if name == "karras_comfy":
        spaced = (1 + ramp * (low ** (1 / 7) - 1)) ** 7
    elif name == "exponential_comfy":
        spaced = torch.linspace(0, low.log().item(), n).exp()
    else:
        spaced = (ramp * low.atan() + (1 - ramp) * torch.tensor(1.0).atan()).tan()
    return [*spaced.tolist(), 0.0]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "name", ["simple", "normal", "sgm_uniform", "ddim_uniform", "karras_comfy", "exponential_comfy", "kl_optimal"]
)
def test_the_rule_in_float32_gives_the_same_to_rounding(name: str, model: str) -> None:
    for steps in (1, 2, 3, 4, 7, 8, 20, 25, 30, 50, 64, 100, 250):
        mine, theirs = fs.get_schedule(name, steps, **MODELS[model]), rule(name, steps, MODELS[model])
        assert mine.steps == len(theirs) - 1
        # karras: seven roundings of a number near 1, to the seventh power
        assert np.allclose(mine.sigmas, theirs, rtol=8 * SINGLE, atol=4 * SINGLE), (name, steps)


def test_the_last_sigma_of_normal_is_sigma_min_shifted_twice() -> None:
    once = 3 * 0.001 / (1 + 2 * 0.001)
    twice = 3 * once / (1 + 2 * once)
    assert schedules.normal(8, **SD3).sigmas[-2] == pytest.approx(twice, rel=1e-14)


def test_where_sigma_min_counts_as_zero_the_schedules_end_at_zero() -> None:
    """ComfyUI ends there, at 1e-6 or so; these end at exactly 0 with as many steps."""
    low: dict = {"shift": 0.001, "points": 1000}
    for name in ("normal", "ddim_uniform"):
        grid = fs.get_schedule(name, 10, **low)
        assert grid.end == 0
        assert grid.sigmas[-2] > 1e-5
    assert schedules.normal(10, **low).steps == 10


@given(steps=st.integers(1, 200), shift=st.floats(0.3, 12), factor=st.integers(1, 50))
def test_simple_is_the_shifted_uniform_grid_where_the_table_divides(steps: int, shift: float, factor: int) -> None:
    points = max(2, steps * factor)
    if points % steps == 0:
        a, b = schedules.simple(steps, shift=shift, points=points), schedules.shift(steps, shift=shift)
        assert np.allclose(a.sigmas, b.sigmas, rtol=1e-13, atol=0)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_sgm_uniform_tends_to_the_shifted_uniform_grid_as_the_table_grows(shift: float) -> None:
    """The last of N + 1 times is sigma_min, about shift / T, instead of 0; the shift's slope is at most its k."""
    limit = np.array(schedules.shift(16, shift=shift).sigmas)
    for points in (1000, 10_000, 100_000):
        gap = np.abs(np.array(schedules.sgm_uniform(16, shift=shift, points=points).sigmas) - limit).max()
        assert 0 < gap <= shift**2 / points


@given(steps=st.integers(1, 400), points=st.integers(2, 2000))
def test_ddim_uniform_has_the_steps_that_it_says(steps: int, points: int) -> None:
    grid = schedules.ddim_uniform(steps, shift=1.0, points=points)
    assert grid.steps == math.ceil((points - 1) / max(points // steps, 1))
    assert grid.end == 0


@pytest.mark.parametrize(("name", "steps", "a", "b"), [("beta_comfy", 300, 0.6, 0.6), ("beta57", 400, 0.5, 0.7)])
def test_where_comfyui_would_drop_duplicates_it_is_an_error_that_says_how_many_are_left(
    name: str, steps: int, a: float, b: float
) -> None:
    entries = {round(999 * betaincinv(a, b, 1 - i / steps)) for i in range(steps)}
    with pytest.raises(ValueError, match=f"steps={steps}: .* points=1000, where only {len(entries)} of these steps"):
        fs.get_schedule(name, steps, **SD3)
    assert fs.get_schedule(name, steps, shift=3.0, points=100_000).steps == steps


def test_simple_has_at_most_as_many_steps_as_the_table_has_points() -> None:
    assert schedules.simple(1000, **SD3).steps == 1000
    with pytest.raises(ValueError, match=r"steps=1001: .* points=1000, where only 1000 of these steps"):
        schedules.simple(1001, **SD3)


def test_published_tables_are_interpolated_as_comfyui_does() -> None:
    """Optimal Steps for FLUX at 16 and 14 steps, as a user of ComfyUI's node wrote them down."""
    sixteen = ".9968 .99167 .98692 .98274 .97844 .97387 .96824 .95887 .9471 .92741 .8932 .83912 .67585 .50664 .33237 .0339 0"
    fourteen = ".9968 .99094 .98572 .98091 .97598 .96985 .96056 .9471 .92464 .8774 .78181 .58426 .37491 .05609 0"
    for numbers in (sixteen, fourteen):
        wanted = [float(n) for n in numbers.split()]
        assert np.allclose(fs.get_schedule("oss_flux", len(wanted) - 1).sigmas, wanted, rtol=0, atol=1e-5)
