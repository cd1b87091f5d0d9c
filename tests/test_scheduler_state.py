"""What a run leaves behind, and what else pipelines do to their parts: threads, exceptions, compilation, offloading, LoRA."""

from __future__ import annotations

import copy
import gc
import inspect
import threading
from collections.abc import Callable
from itertools import zip_longest

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("diffusers")
import accelerate
import transformers
from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline
from diffusers.hooks import group_offloading

from fields import every_fixed_sampler
from flowsamplers_diffusers import FlowSamplerScheduler
from klein import PROMPT, latents, pipeline

SOME = pytest.mark.parametrize("sampler", ["heun", "unipc", "lcm"])
X1 = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))


def own_pipeline(scheduler: type = FlowSamplerScheduler, **options) -> Flux2KleinPipeline:
    """klein-digits with networks of its own, so that a test may change them."""
    shared = pipeline()
    parts = {k: copy.deepcopy(v) if isinstance(v, nn.Module) else v for k, v in shared.components.items()}
    parts["scheduler"] = scheduler.from_config(shared.scheduler.config, **options)
    pipe = Flux2KleinPipeline(**parts, is_distilled=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def calls_of(scheduler: FlowSamplerScheduler, steps: int = 4):
    """A pipeline's loop, one model call at a time."""
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(0)
    yield from calls_left(scheduler, X1)


def calls_left(scheduler: FlowSamplerScheduler, x: Tensor):
    for t in scheduler.timesteps[scheduler.step_index or 0 :]:
        x = scheduler.step(torch.sin(3 * x) + t / 1000, t, x, return_dict=False)[0]
        yield x


def result(scheduler: FlowSamplerScheduler) -> Tensor:
    return list(calls_of(scheduler))[-1]


# One scheduler


@every_fixed_sampler
def test_a_run_that_is_broken_off_leaves_a_scheduler_as_good_as_new(name) -> None:
    """After the first two calls, in the middle, and after the last call: a second run is the first again."""
    fresh = result(FlowSamplerScheduler(sampler=name, seed=3))
    scheduler = FlowSamplerScheduler(sampler=name, seed=3)
    calls = sum(1 for _ in calls_of(scheduler))
    for broken_off in {0, 1, calls // 2, calls - 1}:
        for _ in zip(range(broken_off + 1), calls_of(scheduler), strict=False):
            pass
        assert torch.equal(result(scheduler), fresh)


@every_fixed_sampler
def test_a_copy_made_after_any_call_and_its_original_both_go_on(name) -> None:
    """The copy first, to its end: nothing that it writes is the original's."""
    original, end = FlowSamplerScheduler(sampler=name, seed=3), result(FlowSamplerScheduler(sampler=name, seed=3))
    for x in calls_of(original):
        *_, last = [x, *calls_left(copy.deepcopy(original), x)]
        assert torch.equal(last, end)
    assert torch.equal(x, end)


@SOME
def test_a_call_of_the_pipeline_leaves_nothing_to_the_next(sampler) -> None:
    """Other numbers of steps and images, another size and guidance in between."""
    pipe = pipeline(scheduler=FlowSamplerScheduler.from_config(pipeline().scheduler.config, sampler=sampler, seed=3))
    first = latents(pipe)
    latents(pipe, steps=3, prompt=[PROMPT, "seven"], height=32, guidance=1.0)
    assert all(torch.equal(a, b) for a, b in zip(latents(pipe), first, strict=True))


# Several schedulers


@every_fixed_sampler
def test_schedulers_stepped_in_turns_do_not_disturb_each_other(name) -> None:
    alone = [list(calls_of(FlowSamplerScheduler(sampler=name, seed=seed, shift=shift))) for seed, shift in ((3, 1.0), (4, 2.0))]
    turns = [calls_of(FlowSamplerScheduler(sampler=name, seed=seed, shift=shift)) for seed, shift in ((3, 1.0), (4, 2.0))]
    for i, pair in enumerate(zip_longest(*turns)):  # a restart, begun at one level, is in one of the schedules only
        assert all(torch.equal(x, run[i]) if x is not None else i >= len(run) for x, run in zip(pair, alone, strict=True))


THREADS_MAY_SHARE_TEXT = int(transformers.__version__.partition(".")[0]) >= 5
"""transformers 4.57 patches the layers of a text encoder to collect its hidden states, which other threads then see."""


@pytest.mark.parametrize("networks", ["own", "shared"])
def test_two_threads_with_a_pipeline_each_do_not_disturb_each_other(networks) -> None:
    """They meet after every model call, so that their runs are interleaved to the last call."""
    settings = [({"sampler": "heun"}, 4), ({"sampler": "lcm", "seed": 3}, 8)]  # eight model calls each
    pipes = [own_pipeline(**options) for options, _ in settings]
    if networks == "shared":
        own = {"scheduler"} if THREADS_MAY_SHARE_TEXT else {"scheduler", "text_encoder"}
        pipes[1].register_modules(**{k: v for k, v in pipes[0].components.items() if k not in own})
    alone = [latents(pipe, steps=steps) for pipe, (_, steps) in zip(pipes, settings, strict=True)]
    meeting, together = threading.Barrier(2, timeout=120), {}

    def meet(*_) -> dict:
        meeting.wait()
        return {}

    def work(i: int) -> None:
        together[i] = latents(pipes[i], steps=settings[i][1], callback=meet)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, run in enumerate(alone):
        assert len(run) == 8
        assert all(torch.equal(a, b) for a, b in zip(run, together[i], strict=True))


# Batches


@pytest.mark.parametrize("sampler", ["unipc", "lcm"])
def test_images_of_a_batch_of_prompts_are_those_of_each_prompt_and_generator_alone(sampler) -> None:
    """Two prompts, two images each, four generators and four seeds, in float64: up to its rounding in batched matrix products."""
    prompts, config = [PROMPT, "the digit seven"], pipeline().scheduler.config

    def run(prompt: list[str], generators: list[int], seed: list[int], **call) -> Tensor:
        options = {"sampler": sampler, "seed": seed, "carry": "float64"}
        pipe = pipeline(torch.float64, scheduler=FlowSamplerScheduler.from_config(config, **options))
        first = [torch.Generator().manual_seed(s) for s in generators]
        return latents(pipe, prompt=prompt, generator=first, **call)[-1]

    together = run(prompts, [1, 2, 3, 4], [5, 6, 7, 8], num_images_per_prompt=2)
    for i, image in enumerate(together):
        alone = run([prompts[i // 2]], [1 + i], [5 + i])[0]
        assert (image - alone).norm() <= 1e3 * torch.finfo(torch.float64).eps * alone.norm()


# What pipelines do to their networks


def offloaded(pipe: Flux2KleinPipeline, kind: str) -> None:
    """On a machine without an accelerator: the hooks are in place and called, and move weights to a CPU."""
    cpu = torch.device("cpu")
    if kind == "model":
        pipe.enable_model_cpu_offload(device="cpu")
        assert hasattr(pipe.transformer, "_hf_hook")
    elif kind == "sequential":
        with (
            pytest.MonkeyPatch.context() as patch
        ):  # diffusers names the device "cpu:0", which accelerate takes for another than "cpu"
            patch.setattr(accelerate, "cpu_offload", lambda model, device, **rest: OFFLOAD(model, cpu, **rest))
            pipe.enable_sequential_cpu_offload(device="cpu")
        assert {p.device.type for p in pipe.transformer.parameters()} == {"meta"}
    else:
        pipe.transformer.enable_group_offload(onload_device=cpu, offload_device=cpu, offload_type=kind)


OFFLOAD = accelerate.cpu_offload
WANTS_AN_ACCELERATOR = "current_accelerator().type" in inspect.getsource(group_offloading)
"""Group offloading in diffusers before 0.41."""


@pytest.mark.parametrize(("kind", "sampler"), [("model", "heun"), ("sequential", "ab2"), ("leaf_level", "heun")])
def test_offloading_changes_nothing(kind, sampler) -> None:
    if kind == "leaf_level" and WANTS_AN_ACCELERATOR and torch.accelerator.current_accelerator() is None:
        with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'type'"):
            offloaded(own_pipeline(FlowMatchEulerDiscreteScheduler), kind)
        pytest.skip("before 0.41 diffusers cannot offload groups without an accelerator, under its own scheduler neither")
    expected = latents(own_pipeline(sampler=sampler), steps=2)
    pipe = own_pipeline(sampler=sampler)
    offloaded(pipe, kind)
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(latents(pipe, steps=2), expected, strict=True))
    if kind == "sequential":
        assert {p.device.type for p in pipe.transformer.parameters()} == {"meta"}


def test_a_compiled_transformer_is_traced_once_in_one_graph_and_changes_nothing() -> None:
    graphs = []

    def counting(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        graphs.append(graph)
        return graph.forward

    expected = latents(own_pipeline(sampler="unipc"), guidance=1.0)
    torch._dynamo.reset()
    pipe = own_pipeline(sampler="unipc")
    pipe.transformer.compile(fullgraph=True, backend=counting)
    assert all(torch.equal(a, b) for a, b in zip(latents(pipe, guidance=1.0), expected, strict=True))
    assert len(graphs) == 1


# LoRA


def lora(transformer: nn.Module, rank: int = 2) -> dict[str, Tensor]:
    """Random low-rank updates of the attention's projections."""
    generator = torch.Generator().manual_seed(1)
    weights = {}
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in ("to_q", "to_k", "to_v"):
            rows, columns = module.weight.shape
            weights[f"transformer.{name}.lora_A.weight"] = 0.3 * torch.randn(rank, columns, generator=generator)
            weights[f"transformer.{name}.lora_B.weight"] = 0.3 * torch.randn(rows, rank, generator=generator)
    return weights


def test_a_transformer_with_a_lora_is_served_like_any_other() -> None:
    pytest.importorskip("peft")
    pipe = own_pipeline(carry="model")
    ours, config = pipe.scheduler, pipeline().scheduler.config
    plain = latents(pipe)
    pipe.load_lora_weights(lora(pipe.transformer))
    adapted = latents(pipe)
    assert not torch.allclose(adapted[-1], plain[-1])
    pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
    assert all(torch.equal(a, b) for a, b in zip(latents(pipe), adapted, strict=True))
    pipe.scheduler = FlowSamplerScheduler.from_config(config, sampler="heun")
    assert len(latents(pipe)) == 8
    pipe.unload_lora_weights()
    pipe.scheduler = ours
    assert all(torch.equal(a, b) for a, b in zip(latents(pipe), plain, strict=True))


@pytest.mark.parametrize(("sampler", "alike"), [("euler_sde", "euler"), ("lcm", "euler"), ("dpmpp_2m_sde", "dpmpp_2m")])
def test_the_noise_of_a_step_that_is_done_is_not_kept_while_the_model_runs(sampler, alike) -> None:
    def most(name: str) -> int:
        gc.collect()
        gc.freeze()  # what was there before is not looked at
        scheduler = FlowSamplerScheduler(sampler=name, seed=0)
        scheduler.set_timesteps(4)
        shape, counts = (1, 3, 7, 11), list[int]()
        x = torch.ones(shape, dtype=torch.bfloat16)
        for t in scheduler.timesteps:
            counts.append(sum(type(o) is Tensor and o.shape == shape and o.dtype == torch.float32 for o in gc.get_objects()))
            x = scheduler.step(x, t, x, return_dict=False)[0]
        return max(counts)

    try:
        assert most(sampler) == most(alike)
    finally:
        gc.unfreeze()
