"""The velocity field of a Klein pipeline is the pipeline's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

import flowsamplers as fs
from flowsamplers_diffusers import FlowSamplerScheduler, KleinFlow, full_precision_time, load_klein
from klein import PROMPT, latents, pipeline
from tooling import tool

MODELS = pytest.mark.parametrize(("distilled", "guidance"), [(False, 4.0), (True, 1.0)], ids=["base", "distilled"])


def flow_of(pipe, **options) -> KleinFlow:
    return KleinFlow(pipe, PROMPT, height=16, width=16, **options)


@MODELS
def test_euler_in_float32_equals_the_stock_pipeline_bit_for_bit(distilled, guidance) -> None:
    pipe = pipeline(distilled=distilled)
    flow = flow_of(pipe, guidance_scale=guidance)
    run = fs.trace(flow.velocity, flow.noise([0]), fs.schedules.flux2(6, tokens=16, arithmetic="stock"), "euler")
    stock = latents(pipe, steps=6, guidance=guidance)
    assert all(torch.equal(a, b) for a, b in zip(run.states[1:], stock, strict=True))


@MODELS
def test_euler_in_bfloat16_with_stocks_rounding_equals_the_stock_pipeline_bit_for_bit(distilled, guidance) -> None:
    pipe = pipeline(torch.bfloat16, distilled=distilled)
    flow = flow_of(pipe, guidance_scale=guidance)
    scheduler = FlowSamplerScheduler.from_config(pipe.scheduler.config, carry="model")
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 6, 6), mu=fs.schedules.empirical_mu(tokens=16, steps=6))
    x = flow.noise([0])
    for i, t in enumerate(scheduler.timesteps):
        x = scheduler.step(flow.velocity(x, scheduler.sigmas[i].expand(1)), t, x, return_dict=False)[0]
    assert torch.equal(x, latents(pipe, steps=6, guidance=guidance)[-1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_decoded_images_are_the_pipelines_pixel_for_pixel(dtype) -> None:
    pipe = pipeline(dtype)
    flow = flow_of(pipe)
    final = latents(pipe, steps=3)[-1]
    call = {"prompt": PROMPT, "height": 16, "width": 16, "num_inference_steps": 3, "max_sequence_length": 32}
    image = pipe(**call, generator=torch.Generator().manual_seed(0)).images[0]
    assert np.array_equal(np.asarray(flow.decode(final)[0]), np.asarray(image))


def test_noise_of_each_row_is_what_the_pipeline_draws_for_its_seed() -> None:
    pipe = pipeline()
    both = flow_of(pipe).noise([4, 9])
    for row, seed in zip(both, (4, 9), strict=True):
        latent, _ = pipe.prepare_latents(1, 4, 16, 16, torch.float32, "cpu", torch.Generator().manual_seed(seed))
        assert torch.equal(row, latent[0])


def test_rows_of_a_batch_have_prompts_of_their_own() -> None:
    flow = flow_of(pipeline())
    x, sigma = flow.noise([0, 1, 2]), torch.tensor([1.0, 0.7, 0.2])
    prompts = ["three", "the digit seven", None]
    together = flow.velocity(x, sigma, prompts)
    for i, prompt in enumerate(prompts):
        alone = flow.velocity(x[i : i + 1], sigma[i : i + 1], [prompt])
        assert torch.allclose(together[i : i + 1], alone, atol=1e-4)
    assert not torch.allclose(together[:1], flow.velocity(x[:1], sigma[:1], ["eight"]), atol=1e-2)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_one_sigma_for_all_rows_may_be_a_number(guidance: float) -> None:
    flow = flow_of(pipeline(), guidance_scale=guidance)
    x = flow.noise([0, 1])
    expected = flow.velocity(x, torch.tensor([0.5, 0.5]))
    for sigma in (0.5, torch.tensor(0.5), torch.tensor([0.5]), torch.tensor(0.5, dtype=torch.float64)):
        assert torch.equal(flow.velocity(x, sigma), expected)
    within = flow_of(pipeline(), guidance_scale=guidance, guidance_interval=(0.2, 0.8))
    assert torch.equal(within.velocity(x, 0.5), expected)


def test_sigmas_of_another_number_than_the_rows_are_refused() -> None:
    flow = flow_of(pipeline())
    with pytest.raises(ValueError, match=r"sigma of shape \(3,\): give one number, or one for each of 2 rows"):
        flow.velocity(flow.noise([0, 1]), torch.ones(3))


def test_guidance_in_one_batch_equals_two_passes() -> None:
    """Sums of 64 products in another order: some tens of eps; guidance multiplies them by 4."""
    pipe = pipeline()
    two, one = flow_of(pipe), flow_of(pipe, batched_guidance=True)
    x, sigma = two.noise([0, 1]), torch.tensor([0.9, 0.4])
    assert fs.reference.relative_error(one.velocity(x, sigma), two.velocity(x, sigma)).max() < 200 * torch.finfo(x.dtype).eps
    assert two.forward_passes == one.forward_passes == 4


@pytest.mark.parametrize("interval", [None, (0.2, 0.8)], ids=["everywhere", "between two sigmas"])
def test_in_float64_guidance_in_one_batch_and_in_two_passes_are_one_field_and_make_one_image(interval) -> None:
    """Agreement is that of float64, though diffusers turns queries and keys (``apply_rotary_emb``) and makes sinusoids in float32.

    Both compute these roundings of the same numbers, to a few eps of float64, so that a rounding to float32 falls otherwise once in
    2^-53 / 2^-24 = 2e-9 numbers, of which there are 2e4 here.
    """
    pipe = pipeline(torch.float64)
    two, one = (flow_of(pipe, batched_guidance=b, guidance_interval=interval) for b in (False, True))
    x, sigma = two.noise([0, 1, 2]), torch.tensor([1.0, 0.6, 0.1], dtype=torch.float64)
    passes = [one.velocity(x, sigma), two.velocity(x, sigma)]
    assert passes[0].dtype == torch.float64
    assert fs.reference.relative_error(*passes).max() < 1e-12
    grid = fs.schedules.flux2(4, tokens=16)
    images = [fs.sample(flow.velocity, x, grid, "heun") for flow in (one, two)]
    assert fs.reference.relative_error(*images).max() < 1e-12
    counted = [*sigma.tolist(), *(call.sigma for call in fs.dry_run("heun", grid) for _ in x)]
    assert one.forward_passes == two.forward_passes == sum(two.passes(s) for s in counted)


def test_forward_passes_are_counted() -> None:
    base, plain = flow_of(pipeline()), flow_of(pipeline(), guidance_scale=1.0)
    grid = fs.schedules.flux2(3, tokens=16)
    for flow, passes in ((base, 2), (plain, 1)):
        fs.sample(flow.velocity, flow.noise([0, 1]), grid, "heun")
        assert flow.passes_per_evaluation == passes
        assert flow.forward_passes == 2 * fs.nfe("heun", grid) * passes


BATCHED = pytest.mark.parametrize("batched", [False, True], ids=["two passes", "one batch"])


@BATCHED
def test_outside_the_guidance_interval_a_row_follows_the_prompt_alone_and_pays_one_pass(batched) -> None:
    pipe = pipeline()
    always, never = flow_of(pipe, batched_guidance=batched), flow_of(pipe, guidance_scale=1.0)
    flow = flow_of(pipe, batched_guidance=batched, guidance_interval=(0.25, 0.7))
    sigma = torch.tensor([1.0, 0.7, 0.5, 0.25, 0.2, 0.0])  # both ends are inside; 0.7 is rounded to float32 on both sides
    inside = torch.tensor([False, True, True, True, False, False])
    x = flow.noise(list(range(6)))
    expected = torch.where(inside[:, None, None], always.velocity(x, sigma), never.velocity(x, sigma))
    assert fs.reference.relative_error(flow.velocity(x, sigma), expected).max() < 200 * torch.finfo(x.dtype).eps
    assert flow.forward_passes == 6 + 3
    assert [flow.passes(s) for s in sigma.tolist()] == [1, 2, 2, 2, 1, 1]
    flow.velocity(x[:1], sigma[:1])
    assert flow.forward_passes == 6 + 3 + 1


@BATCHED
def test_rows_in_lock_step_that_are_outside_the_guidance_interval_do_not_pay_for_those_inside(batched) -> None:
    flow = flow_of(pipeline(), batched_guidance=batched, guidance_interval=(0.3, 0.8))
    runs = [
        fs.Run(flow.noise([i]), fs.schedules.linear(n), s) for i, (n, s) in enumerate([(3, "euler"), (4, "heun"), (7, "rk4")])
    ]
    together = fs.sample_many(flow, runs)
    assert flow.forward_passes == sum(flow.passes(c.sigma) for r in runs for c in fs.dry_run(r.sampler, r.grid))
    for run, x0 in zip(runs, together, strict=True):
        alone = fs.sample(flow.velocity, run.x1, run.grid, run.sampler)
        assert fs.reference.relative_error(x0, alone).max() < 1e-4


@pytest.mark.parametrize("interval", [None, (0.0, 1.0), [0, 1]])
def test_guidance_everywhere_is_the_stock_pipelines_bit_for_bit(interval) -> None:
    pipe = pipeline()
    flow = flow_of(pipe, guidance_interval=interval)
    x0 = fs.sample(flow.velocity, flow.noise([0]), fs.schedules.flux2(3, tokens=16, arithmetic="stock"), "euler")
    assert torch.equal(x0, latents(pipe, steps=3)[-1])
    assert flow.forward_passes == 6


@pytest.mark.parametrize("interval", [(0.8, 0.2), (-0.1, 1.0), (0.0, 1.5), (0.5,), (float("nan"), 1.0)])
def test_a_guidance_interval_that_is_none_is_refused(interval) -> None:
    with pytest.raises(ValueError, match=r"guidance_interval=.*give two sigmas in \[0, 1\], the lower one first"):
        flow_of(pipeline(), guidance_interval=interval)


def test_a_distilled_model_ignores_guidance_and_says_so(caplog) -> None:
    flow = flow_of(pipeline(distilled=True), guidance_scale=3.0)
    assert flow.passes_per_evaluation == 1
    assert "ignored: the model is distilled" in caplog.text


def test_full_precision_time_tells_times_apart_that_bfloat16_does_not() -> None:
    pipe = pipeline(torch.bfloat16)
    rounded, exact = flow_of(pipe, guidance_scale=1.0), flow_of(pipe, guidance_scale=1.0, full_time=True)
    x = rounded.noise([0])
    a, b = torch.tensor([0.7672]), torch.tensor([0.7664])  # 767.2 and 766.4 are both 768 in bfloat16
    assert torch.equal(rounded.velocity(x, a), rounded.velocity(x, b))
    assert not torch.equal(exact.velocity(x, a), exact.velocity(x, b))


def test_full_precision_time_changes_nothing_in_float32_and_leaves_no_hooks() -> None:
    pipe = pipeline()
    plain, exact = flow_of(pipe), flow_of(pipe, full_time=True)
    x, sigma = plain.noise([0]), torch.tensor([0.5])  # 500 and 0.5 are exact, so no rounding differs
    assert torch.equal(plain.velocity(x, sigma), exact.velocity(x, sigma))
    assert not pipe.transformer._forward_pre_hooks
    assert not pipe.transformer.time_guidance_embed.time_proj._forward_pre_hooks
    with pytest.raises(ValueError, match=r"only FLUX\.2 transformers"), full_precision_time(torch.nn.Linear(1, 1)):
        pass


SCHEDULERS = {
    "stock": FlowMatchEulerDiscreteScheduler.from_config,
    "euler": FlowSamplerScheduler.from_config,
    "heun": lambda config: FlowSamplerScheduler.from_config(config, sampler="heun"),
    "ab2": lambda config: FlowSamplerScheduler.from_config(config, sampler="ab2", sampler_options={"last": "midpoint"}),
}


def times_seen(pipe, run) -> list[Tensor]:
    """What the sinusoids of the time are computed from, in every call of the network."""
    seen: list[Tensor] = []
    projection = pipe.transformer.time_guidance_embed.time_proj
    hook = projection.register_forward_hook(lambda module, args, out: seen.append(args[0].clone()))
    try:
        run()
    finally:
        hook.remove()
    return seen


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("guidance", [4.0, 1.0])
def test_in_a_stock_bfloat16_pipeline_the_network_sees_1000_sigma_in_float32(name, guidance) -> None:
    """With guidance the network is called twice at each time."""
    pipe = pipeline(torch.bfloat16)
    pipe.scheduler = SCHEDULERS[name](pipe.scheduler.config)
    passes = 2 if guidance > 1 else 1
    rounded = times_seen(pipe, lambda: latents(pipe, steps=4, guidance=guidance))
    assert {t.dtype for t in rounded} == {torch.bfloat16}
    with full_precision_time(pipe.transformer, pipe.scheduler):
        seen = times_seen(pipe, lambda: latents(pipe, steps=4, guidance=guidance))
    exact = pipe.scheduler.timesteps.repeat_interleave(passes)
    assert {t.dtype for t in seen} == {torch.float32}
    assert torch.equal(torch.cat(seen), exact)
    assert torch.equal(exact, (1000 * pipe.scheduler.sigmas[: len(pipe.scheduler.timesteps)]).repeat_interleave(passes))
    assert not torch.equal(torch.cat(rounded).float(), exact)


def test_a_network_that_is_told_of_another_time_than_the_schedulers_keeps_it() -> None:
    """Such as a KleinFlow on the transformer of a pipeline whose scheduler stands elsewhere."""
    pipe = pipeline(torch.bfloat16)
    pipe.scheduler.set_timesteps(sigmas=[1.0, 0.5], mu=0.0)
    flow = flow_of(pipe, guidance_scale=1.0)
    with full_precision_time(pipe.transformer, pipe.scheduler):
        (seen,) = times_seen(pipe, lambda: flow.velocity(flow.noise([0, 1]), torch.tensor([0.9, 1.0])))
    assert seen.tolist() == [torch.tensor(900.0).bfloat16().div(1000).float().mul(1000).item(), 1000.0]


class Timed(nn.Module):
    """The way of the time through a FLUX.2 transformer, and nothing else: small enough to be compiled in a test."""

    def __init__(self) -> None:
        super().__init__()
        self.time_guidance_embed = nn.Module()
        self.time_guidance_embed.time_proj = nn.Identity()

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
        return self.time_guidance_embed.time_proj(timestep.to(hidden_states.dtype) * 1000)


@pytest.mark.parametrize("before", [False, True], ids=["compiled within", "compiled before"])
def test_a_compiled_transformer_sees_the_exact_time_or_says_that_it_was_compiled_too_early(before) -> None:
    torch._dynamo.reset()
    x, time = torch.ones(1, dtype=torch.bfloat16), torch.tensor([0.7672])
    compiled = torch.compile(Timed(), backend="eager")
    if before:
        assert compiled(hidden_states=x, timestep=time).item() == 764
    with full_precision_time(compiled):
        if before:
            with pytest.raises(RuntimeError, match="compile it within the context"):
                compiled(hidden_states=x, timestep=time)
        else:
            assert torch.equal(compiled(hidden_states=x, timestep=time), time * 1000)
    assert compiled(hidden_states=x, timestep=time).item() == 764
    torch._dynamo.reset()


def test_offloading_changes_nothing() -> None:
    flow, plain = flow_of(load_klein("klein-digits", offload="model", device="cpu")), flow_of(pipeline())
    x, sigma = plain.noise([0]), torch.ones(1)
    assert torch.equal(flow.velocity(x, sigma), plain.velocity(x, sigma))
    assert flow.decode(x)[0].size == (16, 16)


def test_bad_input_is_named(tmp_path) -> None:
    flow = flow_of(pipeline())
    with pytest.raises(ValueError, match=r"x of shape \(1, 4, 16\): this flow has rows of shape \(16, 16\)"):
        flow.velocity(torch.zeros(1, 4, 16), torch.ones(1))
    with pytest.raises(ValueError, match="condition: 1 prompts for 2 rows"):
        flow.velocity(torch.zeros(2, 16, 16), torch.ones(2), ["a"])
    with pytest.raises(ValueError, match="height=18: this model draws sizes that are multiples of 4"):
        KleinFlow(pipeline(), height=18)
    with pytest.raises(ValueError, match="guidance_scale=-1"):
        KleinFlow(pipeline(), guidance_scale=-1)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_klein(tmp_path / "missing" / "model")
    with pytest.raises(FileNotFoundError, match=r"no model_index\.json"):
        load_klein(tmp_path)
    with pytest.raises(ValueError, match="unknown model 'klein-digit': did you mean 'klein-digits'"):
        load_klein("klein-digit")
    with pytest.raises(ValueError, match="unknown dtype 'float23': did you mean 'float"):
        load_klein(dtype="float23")
    for neither in (0, "", [torch.float32]):  # diffusers would take float32 and go on
        with pytest.raises(ValueError, match=r"unknown dtype .*Accepted: float32, bfloat16"):
            load_klein(dtype=neither)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="unknown offload"):
        load_klein(offload="modell")
    with pytest.raises(
        ValueError, match="offload='sequential': device='cpu' is where the weights are kept; it needs an accelerator"
    ):
        load_klein(offload="sequential", device="cpu")


def test_klein_digits_draws_what_it_is_asked_for() -> None:
    """50 digits at 20 Euler steps, read by a classifier of the real ones; the card has 500 at 50 steps."""
    pytest.importorskip("sklearn")
    training = tool("train_klein_digits")
    share, held_out = training.recognised(*training.generate(pipeline(), per_digit=5, guidance=2.0, steps=20))
    assert held_out > 0.95
    assert share >= 0.95
