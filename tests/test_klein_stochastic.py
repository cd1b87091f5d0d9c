"""Stochastic samplers in a pipeline that passes no generator to ``step``: whose noise it is, and that the batch does not matter."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("diffusers")
from flowsamplers.noise import row_seeds
from flowsamplers_diffusers import FlowSamplerScheduler
from klein_family import MEMBERS, components, pipeline, run

KINDS = ["lcm", "dpmpp_2m_sde", "seeds_3", "restart"]
"""One draw in a step, a memory, draws for stages, steps that draw as often as they go back. The laws of seeds hold for every sampler."""
every_kind = pytest.mark.parametrize("name", KINDS)
TEXT = MEMBERS[0]


def generators(*seeds: int) -> list[torch.Generator]:
    """Of the initial noise, which is the pipeline's."""
    return [torch.Generator().manual_seed(s) for s in seeds]


def ends(name: str, seed: int | list[int] | None, first: list[torch.Generator], **call) -> torch.Tensor:
    """Final latents under a constant velocity: rows meet in no matrix product, so that they can be compared to the bit."""
    pipe = pipeline(TEXT, FlowSamplerScheduler(use_dynamic_shifting=True, sampler=name, seed=seed))
    return run(TEXT, pipe, steps=6, velocity=lambda v: torch.full_like(v, 0.25), generator=first, **call).latents[-1]


@every_kind
def test_image_i_of_a_batch_is_the_image_of_its_seed_alone(name) -> None:
    together = ends(name, [7, 8, 9], generators(1, 2, 3), num_images_per_prompt=3)
    for i, (own, first) in enumerate(zip((7, 8, 9), (1, 2, 3), strict=True)):
        assert torch.equal(together[i : i + 1], ends(name, [own], generators(first)))


@every_kind
def test_one_seed_gives_every_image_a_stream_of_its_own_that_can_be_named(name) -> None:
    together = ends(name, 5, generators(1, 1, 1), num_images_per_prompt=3)
    assert torch.equal(together[:1], ends(name, 5, generators(1)))
    for i, own in enumerate(row_seeds(5, 3)):
        assert torch.equal(together[i : i + 1], ends(name, [own], generators(1)))
    assert not torch.equal(together[0], together[1])  # the initial noise is one, the sampler's is not


@every_kind
def test_a_batch_of_prompts_counts_images_prompt_by_prompt(name) -> None:
    prompts = components()["prompt_embeds"].repeat(2, 1, 1)
    seeds = [3, 4, 5, 6]
    together = ends(name, seeds, generators(1, 2, 3, 4), num_images_per_prompt=2, prompt_embeds=prompts)
    assert torch.equal(together[2:3], ends(name, [5], generators(3)))
    with pytest.raises(ValueError, match="seed: 3 seeds for 2 rows; give one for each row, or a single int"):
        ends(name, [1, 2, 3], generators(1, 2), num_images_per_prompt=2)


@every_kind
def test_a_seed_repeats_itself_and_leaves_the_global_generator_alone(name) -> None:
    runs = []
    for seed in (11, 12):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        runs.append(ends(name, 5, generators(1)))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*runs)


@every_kind
def test_without_a_seed_the_noise_is_the_global_generators(name) -> None:
    """What stock does: another image every time, unless torch's generator is seeded."""
    torch.manual_seed(11)
    one, two = ends(name, None, generators(1)), ends(name, None, generators(1))
    torch.manual_seed(11)
    assert torch.equal(ends(name, None, generators(1)), one)
    assert not torch.equal(one, two)


@every_kind
def test_pipelines_of_both_dtypes_draw_one_noise(name) -> None:
    """The noise is drawn in float64 and cast to the state, so that bfloat16 changes rounding and nothing else."""
    draws = []
    for dtype in (torch.float32, torch.bfloat16):
        pipe = pipeline(TEXT, FlowSamplerScheduler(use_dynamic_shifting=True, sampler=name, seed=5), dtype)
        latents = torch.zeros(1, 4, 4, 4, dtype=dtype)
        draws.append(run(TEXT, pipe, steps=6, velocity=torch.zeros_like, latents=latents).latents[-2])
    rounding = 8 * torch.finfo(torch.bfloat16).eps * draws[0].abs().max()
    assert (draws[0] - draws[1].float()).abs().max() <= rounding
    assert draws[0].abs().max() > 0


@every_kind
def test_a_generator_given_to_step_goes_before_the_seed(name) -> None:
    """For loops of one's own; the stream is torch's, in the order of the draws."""
    runs = []
    for seed, other in ((0, 1), (5, 1), (5, 2)):
        scheduler = FlowSamplerScheduler(sampler=name, seed=seed)
        scheduler.set_timesteps(sigmas=[1.0, 0.6, 0.3])
        source, x = torch.Generator().manual_seed(other), torch.ones(1, 2)
        for t in scheduler.timesteps:
            x = scheduler.step(torch.sin(x), t, x, generator=source, return_dict=False)[0]
        runs.append(x)
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[1], runs[2])
