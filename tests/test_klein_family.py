"""Every pipeline of the Klein family with every sampler: runs, counts, edits, interruptions, strengths."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")
import diffusers

import flowsamplers as fs
from fields import FIXED
from flowsamplers_diffusers import FlowSamplerScheduler, full_precision_time
from klein_family import MEMBERS, mask, pipeline, run

WITH_CALLBACKS = [m for m in MEMBERS if not m.modular]
INPAINTING = next(m for m in MEMBERS if m.inpaints)
KINDS = ["euler", "heun", "dpmpp_2m", "unipc", "fireflow", "lcm"]
"""One stage and two, memories of velocities and of data, a corrector, a first request beside the sample, noise."""
STRENGTHS = (0.05, 0.3, 0.55, 0.8, 1.0)
every_kind = pytest.mark.parametrize("name", KINDS)
every_member = pytest.mark.parametrize("member", MEMBERS, ids=lambda m: m.name)
every_member_with_callbacks = pytest.mark.parametrize("member", WITH_CALLBACKS, ids=lambda m: m.name)


def ours(**options) -> FlowSamplerScheduler:
    return FlowSamplerScheduler(use_dynamic_shifting=True, shift=3.0, **options)


@every_member
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_euler_at_stocks_precision_is_stock_bit_for_bit(member, dtype) -> None:
    stock = run(member, pipeline(member, dtype=dtype), steps=4)
    same = run(member, pipeline(member, ours(carry="model"), dtype), steps=4)
    assert len(stock.latents) == len(same.latents) > 0
    assert all(torch.equal(a, b) for a, b in zip(stock.latents, same.latents, strict=True))
    assert torch.equal(stock.image, same.image)


@pytest.mark.parametrize(
    ("member", "name"),
    [(m, name) for m in MEMBERS for name in KINDS]
    + [(MEMBERS[i % len(MEMBERS)], name) for i, name in enumerate(FIXED) if name not in KINDS],
    ids=lambda v: v if isinstance(v, str) else v.name,
)
def test_every_sampler_does_in_a_pipeline_what_it_does_by_itself(name, member) -> None:
    """The velocities that the network gave in the pipeline, played back to `sample`, lead to the same bits by the same points.

    A pipeline sees of a sampler only its kind, so every kind runs in every pipeline here, and every other sampler in one of them. The tool
    that writes the table of the family runs them all in all.
    Inpainting edits the sample after every call; where the mask is white and the strength 1 it does not.
    """
    whole = {"strength": 1.0, "mask_image": mask(64)} if member.inpaints else {}
    pipe = pipeline(member, ours(sampler=name, seed=0))
    record = run(member, pipe, **whole)
    calls = fs.nfe(name, pipe.scheduler.grid)
    assert (len(record.latents), record.bar) == (calls, (calls, calls))
    assert record.forwards == calls * (2 if member.guided else 1)
    assert record.image.isfinite().all()
    turn = count()

    def play(x, sigma):
        v, seen = record.told[next(turn)]
        assert torch.equal(x, seen)
        return v

    direct = fs.sample(play, record.told[0][1], pipe.scheduler.grid, name, seed=0)
    assert torch.equal(record.latents[-1], direct)


SHIFT = 2**-7
"""Less than any step's correction of Euler: the memory of a sampler outlives such an edit."""


def one_each(pipe, i, x):
    """The callback of call i shifts the i-th entry, so that one run shows all of them."""
    return x.flatten().index_add(0, torch.tensor([i]), torch.tensor([SHIFT])).reshape(x.shape)


@every_member_with_callbacks
@every_kind
def test_an_edit_in_any_callback_counts(name, member) -> None:
    """The network is asked at the edited latents, also between the stages of a step, and its velocity counts as that of the edited point.

    The result is what the velocities told lead to by themselves, and the shifts. Of a shift in a stochastic run fresh noise replaces a
    part, of that in the last callback nothing.
    """
    whole = {"strength": 1.0, "mask_image": mask(64)} if member.inpaints else {}
    pipe = pipeline(member, ours(sampler=name, seed=0))
    record = run(member, pipe, steps=3, edit=one_each, **whole)
    calls, turn = len(pipe.scheduler.timesteps), count()
    assert all(torch.equal(x, edited) for (_, x), edited in zip(record.told[1:], record.latents, strict=False))

    def play(x, sigma):
        return record.told[next(turn)][0]

    unmoved = fs.sample(play, record.told[0][1], pipe.scheduler.grid, name, seed=0)
    moved = (record.latents[-1] - unmoved).flatten()
    assert torch.equal(moved[calls:], torch.zeros_like(moved[calls:]))
    eight = torch.full((calls,), SHIFT)
    if fs.get_sampler(name).stochastic:
        assert (moved[:calls] > 0).all()
        assert (moved[:calls] <= SHIFT + 1e-5).all()
        eight[:-1] = moved[: calls - 1]
    assert torch.allclose(moved[:calls], eight, rtol=0, atol=1e-5)


@every_kind
def test_a_shift_in_any_callback_is_the_shift_of_the_result_where_the_velocity_is_a_constant(name) -> None:
    """Two whole runs, which share nothing."""
    pipe = pipeline(WITH_CALLBACKS[0], ours(sampler=name, seed=0))
    plain, edited = (
        run(WITH_CALLBACKS[0], pipe, steps=3, edit=edit, velocity=lambda v: torch.full_like(v, 0.25)).latents[-1].flatten()
        for edit in (None, one_each)
    )
    calls = len(pipe.scheduler.timesteps)
    first = 0 if not fs.get_sampler(name).stochastic else calls - 1
    assert torch.allclose((edited - plain)[first:calls], torch.full((calls - first,), SHIFT), rtol=0, atol=1e-5)
    torch.testing.assert_close(edited[calls:], plain[calls:], rtol=0, atol=calls * 2**-23 * plain.abs().max().item())


@pytest.mark.parametrize(
    ("member", "name"),
    [(WITH_CALLBACKS[0], name) for name in KINDS] + [(m, "heun") for m in WITH_CALLBACKS[1:]],
    ids=lambda v: v if isinstance(v, str) else v.name,
)
def test_an_interrupted_run_stops_there_and_the_next_is_not_disturbed(name, member) -> None:
    pipe = pipeline(member, ours(sampler=name, seed=0))
    plain = run(member, pipe)
    for at in range(len(plain.latents)):

        def stop(pipe, i, x, at=at):
            pipe._interrupt = i == at

        broken = run(member, pipe, edit=stop)
        assert broken.forwards == (at + 1) * (2 if member.guided else 1)
        assert all(torch.equal(a, b) for a, b in zip(broken.latents, plain.latents[: at + 1], strict=True))
        assert broken.image.isfinite().all()
    assert torch.equal(run(member, pipe).image, plain.image)


@every_member_with_callbacks
def test_an_exception_leaves_a_pipeline_that_works(member) -> None:
    pipe = pipeline(member, ours(sampler="heun"))
    plain = run(member, pipe)

    def breaks(pipe, i, x):
        if i == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(member, pipe, edit=breaks)
    assert torch.equal(run(member, pipe).image, plain.image)


@every_member
def test_a_budget_of_model_calls_is_kept_and_counted(member) -> None:
    """Heun's method can use six of seven; bar, callbacks and network count those that are made."""
    pipe = pipeline(member, ours(sampler="heun", budget="nfe"))
    record = run(member, pipe, steps=7, **({"strength": 1.0} if member.inpaints else {}))
    assert (pipe.scheduler.num_inference_steps, len(record.latents), record.bar) == (3, 6, (6, 6))
    assert record.forwards == 6 * (2 if member.guided else 1)


@every_member
def test_in_bfloat16_the_network_can_be_told_the_exact_time_in_every_pipeline(member) -> None:
    """With key-value caches the times of the references go through the same module, after the call's own."""
    pipe = pipeline(member, ours(sampler="heun"), torch.bfloat16)
    seen, begins = list[torch.Tensor](), list[int]()
    hooks = [
        pipe.transformer.register_forward_pre_hook(lambda *_: begins.append(len(seen))),
        pipe.transformer.time_guidance_embed.time_proj.register_forward_hook(lambda _, args, out: seen.append(args[0].clone())),
    ]
    with full_precision_time(pipe.transformer, pipe.scheduler):
        calls = len(run(member, pipe, steps=4).latents)
    for hook in hooks:
        hook.remove()
    told = torch.cat([seen[i] for i in begins])
    assert told.dtype == torch.float32
    assert torch.equal(told, pipe.scheduler.timesteps[-calls:].repeat_interleave(2 if member.guided else 1))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of stock
@pytest.mark.parametrize("name", ["UniPCMultistepScheduler", "DPMSolverMultistepScheduler"])
def test_stocks_multistep_schedulers_take_an_edit_for_a_derivative(name) -> None:
    """The control of the test of shifts: a constant velocity, a shift of 8 after the second of four calls."""
    ends = []
    for shift in (0.0, 8.0):
        scheduler = getattr(diffusers, name)(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
        scheduler.set_timesteps(4)
        x = torch.zeros(1, 2)
        for i, t in enumerate(scheduler.timesteps):
            x = scheduler.step(torch.full_like(x, 0.25), t, x, return_dict=False)[0] + (shift if i == 1 else 0.0)
        ends.append(x)
    assert (ends[1] - ends[0] - 8.0).abs().min() > 1


# Inpainting


@every_kind
@pytest.mark.parametrize("strength", STRENGTHS)  # the drivers' tests begin at every call, with every sampler
def test_inpainting_ends_at_sigma_0_wherever_its_slice_begins(name, strength) -> None:
    """With a constant velocity all that is applied is the distance from the first sigma to 0; a slice may begin inside a step."""
    pipe = pipeline(INPAINTING, ours(sampler=name, seed=0))
    record = run(INPAINTING, pipe, steps=3, velocity=torch.ones_like, strength=strength, mask_image=mask(64))
    calls = len(pipe.scheduler.timesteps)
    begin = calls - len(record.latents)
    node = pipe.scheduler.grid.sigmas[int(3 - 3 * strength)]  # stock's arithmetic: whole steps are left out
    assert (pipe.scheduler.sigmas[:begin] >= node - 1e-6).all()
    assert (pipe.scheduler.sigmas[begin:] <= node + 1e-6).all()
    moved = record.latents[-1] - record.told[0][1]
    assert pipe.scheduler.step_index == calls
    assert pipe.scheduler.sigmas[-1] == 0
    assert moved.isfinite().all()
    if not fs.get_sampler(name).stochastic:
        assert torch.allclose(moved, -pipe.scheduler.sigmas[begin].expand_as(moved), rtol=0, atol=1e-5)


@every_kind
def test_what_the_mask_keeps_is_kept(name) -> None:
    """The black part of the mask is the image's own latents in the end, to the bit, though every call's sample was edited.

    After every call before, between stages too, it is the image at the noise level of the call that comes next.
    """
    stock = run(INPAINTING, pipeline(INPAINTING), strength=0.4).latents[-1]
    pipe = pipeline(INPAINTING, ours(sampler=name, seed=0))
    record = run(INPAINTING, pipe, strength=0.7)
    assert torch.equal(record.latents[-1][:, :8], stock[:, :8])
    assert record.latents[-1][:, 8:].isfinite().all()
    levels = pipe.scheduler.sigmas[-1 - len(record.latents) :]
    image, first = stock[:, :8], record.told[0][1][:, :8]
    noise = (first - (1 - levels[0]) * image) / levels[0]
    for sigma, latents in zip(levels[1:-1], record.latents, strict=False):
        assert torch.allclose(latents[:, :8], (1 - sigma) * image + sigma * noise, rtol=0, atol=1e-5)


def test_the_committed_table_says_that_everything_holds() -> None:
    committed = json.loads((Path(__file__).parent.parent / "docs" / "reference" / "klein-family.json").read_text())
    found = committed["members"]
    assert committed["samplers"] == FIXED
    assert list(found) == [m.name for m in MEMBERS]
    counts = [c for row in found.values() for c in row.values() if isinstance(c, list)]
    assert len(counts) >= 2 * len(MEMBERS)
    assert all(held == tried > 0 for held, tried in counts)
