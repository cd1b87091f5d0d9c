"""One Brownian path, asked at any time: additive, of the right variance, independent, and the same whatever was asked before."""

from __future__ import annotations

import copy
import math
import pickle
from time import process_time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import flowsamplers as fs
from fields import smooth, start
from flowsamplers.brownian import _bits, _halvings
from flowsamplers.noise import row_seeds

times = st.floats(0, 1e300, allow_subnormal=False) | st.floats(1e-9, 10.0)
LIKE = torch.zeros(2, 3, dtype=torch.float64)
MANY = torch.zeros(1, 20_000, dtype=torch.float64)


def increment(t0: float, t1: float, like: torch.Tensor = LIKE, draw: int = 0, seeds: fs.noise.Seeds = 5) -> torch.Tensor:
    """W(t1) - W(t0), not normalised."""
    return fs.BrownianNoise(seeds)(like, 0, draw, (t0, t1)) * math.sqrt(abs(t1 - t0))


def test_a_time_costs_at_most_63_halvings_each_of_one_draw() -> None:
    """Of latents of FLUX too: what is drawn does not depend on what was drawn before, and nothing else is computed."""
    for time in (1.0, 0.3, 1e-200, 7e299, math.pi, 5e-324):
        found = _halvings(_bits(time))
        assert len(found) <= 63
        assert found[-1][1] == _bits(time)


def test_the_noise_of_a_FLUX_latent_takes_the_time_of_few_keyed_ones() -> None:  # noqa: N802
    """A path has at most 63 nodes, each about a fifth of a keyed draw: 13 keyed draws. The rest is for a busy machine."""
    like = torch.zeros(1, 4096, 64)

    def seconds(noise: fs.Noise) -> float:
        begin = process_time()
        noise(like, 0, 0, (0.0, math.pi))
        return process_time() - begin

    keyed = min(seconds(fs.KeyedNoise(i)) for i in range(5))
    assert min(seconds(fs.BrownianNoise(i)) for i in range(5)) <= 20 * keyed


@given(st.lists(times, min_size=3, max_size=3, unique=True))
def test_increments_add_up(three: list[float]) -> None:
    """At any magnitude of the times, to rounding of the path."""
    a, b, c = sorted(three)
    gap = increment(a, c) - (increment(a, b) + increment(b, c))
    assert gap.abs().max() <= 64 * torch.finfo(torch.float64).eps * 8 * math.sqrt(c)
    torch.testing.assert_close(increment(c, a), -increment(a, c), rtol=0, atol=0)


@pytest.mark.parametrize(
    "interval", [(0.0, 1.0), (1.0, 1.0 + 1e-12), (0.3, 0.7), (0.0, 1e-200), (1e-8, 1e8), (3.0, math.inf), (7e299, 8e299)]
)
def test_noise_is_unit_normal_on_any_interval(interval: tuple[float, float]) -> None:
    x = fs.BrownianNoise(0)(MANY, 0, 0, interval)
    n = MANY.numel()
    assert abs(x.mean()) <= 5 / math.sqrt(n)
    assert abs(x.var() - 1) <= 5 * math.sqrt(2 / n)
    assert abs((x**4).mean() - 3) <= 5 * math.sqrt(96 / n)  # the fourth moment of a normal is 3, its variance 96


@pytest.mark.parametrize("times", [(0.2, 0.5, 0.6), (1e-12, 1e-3, 1e9), (1.0, 1.0 + 1e-13, 1.0 + 3e-13), (0.5, 1.0, 2.0)])
def test_disjoint_intervals_are_independent(times: tuple[float, float, float]) -> None:
    """Uncorrelated, and their squares too."""
    noise = fs.BrownianNoise(1)
    x, y = noise(MANY, 0, 0, times[:2]), noise(MANY, 0, 0, times[1:])
    assert abs((x * y).mean()) <= 5 / math.sqrt(MANY.numel())
    assert abs(((x**2 - 1) * (y**2 - 1)).mean()) <= 5 * 2 / math.sqrt(MANY.numel())


def test_overlapping_intervals_have_the_covariance_of_what_they_share() -> None:
    x, y = (increment(*t, like=MANY) for t in ((0.1, 0.6), (0.4, 2.0)))
    spread = math.sqrt(0.5 * 1.6 + 0.2**2)  # of the product of two normals
    assert abs((x * y).mean() - 0.2) <= 5 * spread / math.sqrt(MANY.numel())


def test_rows_draws_and_seeds_have_paths_of_their_own() -> None:
    noise = fs.BrownianNoise(0)
    x = torch.stack([noise(MANY, 0, draw, (0.2, 0.9)).ravel() for draw in range(3)])
    x = torch.cat([x, fs.BrownianNoise(1)(MANY, 0, 0, (0.2, 0.9)).ravel()[None], x[:1].roll(1)])
    correlation = torch.corrcoef(x) - torch.eye(5)
    assert correlation.abs().max() <= 5 / math.sqrt(MANY.numel())


@given(interval=st.tuples(times, times), step=st.integers(0, 50), seed=st.integers(-(2**62), 2**62))
def test_a_draw_depends_on_its_row_and_time_alone(interval: tuple[float, float], step: int, seed: int) -> None:
    noise = fs.BrownianNoise(seed)
    first = noise(LIKE, step, 0, interval)
    noise(LIKE, 3, 1, (0.1, 0.2))
    assert torch.equal(noise(LIKE, step, 0, interval), first)
    assert torch.equal(pickle.loads(pickle.dumps(noise))(LIKE, step, 0, interval), first)
    assert torch.equal(copy.deepcopy(noise)(LIKE, step, 0, interval), first)
    seeds = row_seeds(seed, 2)
    assert torch.equal(fs.BrownianNoise(seeds[::-1])(LIKE, step, 0, interval), first.flip(0))
    assert torch.equal(fs.BrownianNoise(seeds[1:])(LIKE[:1], step, 0, interval), first[1:])
    if interval[0] != interval[1]:
        assert torch.equal(noise(LIKE, step + 1, 0, interval), first)


def test_beyond_the_range_of_floats_noise_is_keyed_by_the_step() -> None:
    noise, beyond = fs.BrownianNoise(0), (math.inf, math.inf)
    x, y = (noise(MANY, step, 0, beyond) for step in (0, 1))
    assert abs((x * y).mean()) <= 5 / math.sqrt(MANY.numel())
    assert abs(x.var() - 1) <= 5 * math.sqrt(2 / MANY.numel())


def test_dtypes_share_a_path() -> None:
    noise = fs.BrownianNoise(0)
    assert torch.equal(noise(LIKE, 0, 0, (0.0, 0.3)).float(), noise(LIKE.float(), 0, 0, (0.0, 0.3)))
    assert noise(LIKE.to("meta"), 0, 0, (0.0, 0.3)).device.type == "meta"


def test_bad_clocks_are_named() -> None:
    for interval in (None, (-0.5, 1.0), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="asked for an interval of times"):
            fs.BrownianNoise(0)(LIKE, 0, 0, interval)


def test_every_stochastic_sampler_runs_on_a_path_the_same_twice() -> None:
    for info in fs.list_samplers():
        if info.stochastic:
            runs = [
                fs.sample(smooth, start(), fs.schedules.linear(4), info.name, seed=fs.BrownianNoise(seed)) for seed in (0, 0, 1)
            ]
            assert torch.equal(runs[0], runs[1]), info.name
            assert not torch.equal(runs[0], runs[2]), info.name


def test_by_default_the_clock_is_sigma() -> None:
    """So the noise of a step of the coarse grid is that of its two halves."""
    drawn: dict[int, list[torch.Tensor]] = {}

    class Draws(fs.Sampler):
        stochastic = True

        def step(self, x, at, state):
            drawn.setdefault(at.count, []).append(at.noise(x) * math.sqrt(-at.h))
            yield fs.Evaluate(x, at.s0)
            return x, state

    for steps in (2, 4):
        fs.sample(smooth, LIKE, fs.schedules.linear(steps), Draws(), seed=fs.BrownianNoise(0))
    torch.testing.assert_close(drawn[2][1], drawn[4][2] + drawn[4][3])
