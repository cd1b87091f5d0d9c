"""What this library does on a GPU, measured in sections under a time limit each, and the page made from it.

    python tools/gpu_report.py                        measures on CUDA, and writes docs/howto/gpu.json and the page
    python tools/gpu_report.py --seconds 180          the same, and stops after so many seconds
    python tools/gpu_report.py --dry-run --out FILE   runs every section on tiny shapes on the CPU
    python tools/gpu_report.py --page                 writes the measured part of docs/howto/gpu.md from what is there

The network is FLUX.2 [klein] 4B with random weights in bfloat16; random embeddings take the place of the text encoder. Every row is on
the disk as soon as it is measured. A row that fails says why, and neither it nor a section that runs out of time stops the next.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import diffusers
import torch
import transformers
from build_full_size import MODELS
from building import DOCS, ROOT, load, rendered, with_measured
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    UniPCMultistepScheduler,
)
from torch import Tensor, nn

import flowsamplers as fs
from flowsamplers.catalogue import unmeasured
from flowsamplers.noise import KeyedNoise
from flowsamplers.study import Study
from flowsamplers.study.cost import Meter
from flowsamplers.study.plan import plan
from flowsamplers_diffusers import FlowSamplerScheduler, KleinFlow, load_klein

DATA, PAGE = DOCS / "howto" / "gpu.json", DOCS / "howto" / "gpu.md"
TIMED = ("euler", "ab2", "unipc", "dpmpp_2m", "heun", "rk4", "euler_sde")
DIGIT = "a handwritten 3"
Row = dict[str, Any]
Cells = Generator[tuple[Row, Callable[[], Row]]]
"""What a section consists of: what is measured, and how; a row of the report is both together."""


class RandomText(KleinFlow):
    """A velocity field whose prompts are embedded as random numbers."""

    def _encoded(self, prompt: str) -> tuple[Tensor, Tensor]:
        if prompt not in self._embeddings:
            config, device = self.pipe.transformer.config, self.device
            noise = fs.noise.normal(len(prompt), (1, self.max_sequence_length, config.joint_attention_dim), self.dtype)
            self._embeddings[prompt] = noise.to(device), self.pipe._prepare_text_ids(noise).to(device)
        return self._embeddings[prompt]


class Place:
    """A device and the networks on it.

    Args:
        device: where to measure.
        tiny: a network of a few thousand parameters, 16 tokens and two steps in the place of the real ones.
    """

    def __init__(self, device: str, *, tiny: bool) -> None:
        self.device, self.tiny, self.cuda = torch.device(device), tiny, device == "cuda"
        self.side, self.text = (64, 8) if tiny else (1024, 512)
        self.tokens = (self.side // 16) ** 2
        self.steps, self.turns = (2, 1) if tiny else (20, 3)

    @cached_property
    def pipe(self) -> Any:
        """The stock pipeline of klein-4B with random weights in bfloat16, distilled, so that a call is one pass."""
        return self._pipeline(**MODELS["klein-4B"])

    @cached_property
    def thin(self) -> Any:
        """The same with one block of each kind: as wide, and a twelfth as long."""
        return self._pipeline(**{**MODELS["klein-4B"], "num_layers": 1, "num_single_layers": 1})

    @cached_property
    def _vae(self) -> Any:
        small: Row = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "layers_per_block": 1}
        with self.device:
            return nn.Module.to(AutoencoderKLFlux2(**(small if self.tiny else {})).eval(), torch.bfloat16)

    def _pipeline(self, **size: Any) -> Any:
        size["attention_head_dim"] = 128
        if self.tiny:
            size = {"num_layers": 1, "num_single_layers": 1, "num_attention_heads": 2, "joint_attention_dim": 24}
            size |= {"attention_head_dim": 16, "axes_dims_rope": (4, 4, 4, 4), "timestep_guidance_channels": 16}
        return self.random(**size)

    def random(self, **size: Any) -> Any:
        """A distilled pipeline whose network has this size and random weights."""
        torch.manual_seed(0)
        with torch.device("meta"):
            network = Flux2Transformer2DModel(in_channels=128, guidance_embeds=False, **size).eval()
        nn.Module.to(network, torch.bfloat16).to_empty(device=self.device)
        with torch.no_grad():
            for weights in network.parameters():
                weights.normal_(0, weights.shape[-1] ** -0.5) if weights.ndim > 1 else weights.fill_(1)
        parts: Row = {"transformer": network, "vae": self._vae, "text_encoder": None, "tokenizer": None}
        pipe = Flux2KleinPipeline(**parts, scheduler=stock_euler(), is_distilled=True)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @cached_property
    def flow(self) -> RandomText:
        """The velocity field of the network."""
        return self.flow_of(self.pipe, "klein-4B, random")

    def flow_of(self, pipe: Any, name: str) -> RandomText:
        """The velocity field of a pipeline without a text encoder."""
        return RandomText(pipe, height=self.side, width=self.side, max_sequence_length=self.text, name=name)

    @cached_property
    def embeddings(self) -> Tensor:
        """What stands for a prompt."""
        return self.flow._encoded("")[0]

    def run(self, scheduler: Any, steps: int | None = None, pipe: Any = None) -> Tensor:
        """The latents of one run of the pipeline."""
        pipe = pipe or self.pipe
        pipe.scheduler = scheduler
        return pipe(
            prompt_embeds=self.embeddings,
            height=self.side,
            width=self.side,
            num_inference_steps=steps or self.steps,
            guidance_scale=1.0,
            generator=torch.Generator("cpu").manual_seed(0),
            output_type="latent",
        ).images

    def scheduler(self, sampler: str, **options: Any) -> FlowSamplerScheduler:
        """A drop-in for this pipeline."""
        options.setdefault("seed", 0)
        return FlowSamplerScheduler(use_dynamic_shifting=True, shift=3.0, sampler=sampler, **options)

    def latents(self, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        """Noise of the pipeline's shape."""
        return fs.noise.normal(0, (1, self.tokens, 128), dtype, self.device)

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize()

    def allocated(self, *, peak: bool = False) -> int:
        """Bytes of tensors on the device; 0 on a CPU, where they are not counted."""
        if not self.cuda:
            return 0
        return torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()

    def seconds(self, work: Callable[[], Any]) -> tuple[float, float | None]:
        """How long the host is busy with some work, and the device (None on a CPU)."""
        self.synchronize()
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if self.cuda else []
        began = time.perf_counter()
        if events:
            events[0].record()
        work()
        if events:
            events[1].record()
        host = time.perf_counter() - began
        self.synchronize()
        return host, events[0].elapsed_time(events[1]) / 1000 if events else None


def stock_euler() -> FlowMatchEulerDiscreteScheduler:
    """The scheduler of the real pipeline."""
    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)


@contextmanager
def no_wait(place: Place) -> Iterator[None]:
    """Whatever waits for the device raises; on a CPU nothing does."""
    if not place.cuda:
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def first_wait(place: Place, work: Callable[[], Any]) -> str | None:
    """The first wait for the device in some work and where it is, None where there is none."""
    try:
        with no_wait(place):
            work()
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        return told(error)
    return None


def told(error: BaseException) -> str:
    """The first line of an error, and the innermost line of Python that raised it."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]} ({Path(at.filename).name}:{at.lineno})"


def steps_through(scheduler: Any, x: Tensor, v: Tensor) -> Tensor:
    """All steps of a schedule with a velocity that costs nothing."""
    for t in scheduler.timesteps:
        x = scheduler.step(v, t, x, return_dict=False)[0]
    return x


def began(scheduler: Any, steps: int, device: torch.device) -> Any:
    """A scheduler at the beginning of a run."""
    scheduler.set_timesteps(steps, device=device, mu=2.0)
    scheduler.set_begin_index(0)
    return scheduler


def fixed_samplers() -> list[Any]:
    """Everything that runs in a pipeline."""
    return [i for i in fs.list_samplers() if not i.adaptive]


# The sections, in order of worth


def waits(place: Place) -> Cells:
    """Whether `step` and `fs.sample` ever wait for the device."""
    x, v = place.latents(), place.latents()
    grid = fs.schedules.flux2(4, tokens=place.tokens)

    def stepping(name: str, carry: str, noise: str | None) -> Row:
        scheduler = began(place.scheduler(name, carry=carry, seed=None if noise == "stock" else 0), 4, place.device)
        return {"waits": first_wait(place, partial(steps_through, scheduler, x, v))}

    def sampling(name: str, velocity: Callable[[Tensor, Tensor], Tensor]) -> Row:
        return {"waits": first_wait(place, partial(fs.sample, velocity, x, grid, name, seed=0))}

    for info in fixed_samplers():
        for carry in ("model", "float32", "float64"):
            for noise in ("keyed", "stock") if info.stochastic else (None,):
                what = {"loop": "step", "sampler": info.name, "carry": carry, "noise": noise}
                yield what, partial(stepping, info.name, carry, noise)
        noise = "keyed" if info.stochastic else None
        what = {"loop": "sample", "sampler": info.name, "carry": "float32", "noise": noise}
        yield what, partial(sampling, info.name, lambda x, sigma: v)
    place.flow.velocity(x, x.new_full((1,), 0.5))  # embeds the prompt
    for name in TIMED:
        yield {"loop": "sample, with the network", "sampler": name}, partial(sampling, name, place.flow.velocity)


def correctness(place: Place) -> Cells:
    """The device against the CPU in float32, and against stock bit for bit."""
    x1, grid = fs.noise.normal(0, (2, 64), torch.float32), fs.schedules.flux2(8, tokens=place.tokens)
    eps = torch.finfo(torch.float32).eps

    def field(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.sin(3 * x) + sigma[:, None] - 0.3 * x.roll(1, dims=1)

    def against_the_cpu(name: str) -> Row:
        here, there = (fs.sample(field, x1.to(d), grid, name, seed=0).cpu() for d in ("cpu", place.device))
        # One ulp in each velocity, amplified by at most e^L with L = 3.3, the field's Lipschitz constant, over [0, 1].
        off, limit = float((there - here).norm() / here.norm()) / eps, 27 * fs.nfe(name, grid)
        return {"ulps": off, "limit": limit, "right": off <= limit}

    def keyed(dtype: torch.dtype) -> Row:
        like = torch.zeros(2, place.tokens, 128, dtype=dtype)
        draws = [KeyedNoise(7)(like.to(d), step=1, draw=0).cpu() for d in ("cpu", place.device)]
        return {"right": torch.equal(*draws)}

    def renoised() -> Row:
        x, v, ends = place.latents(), place.latents(), list[Tensor]()
        for make in (FlowMatchEulerDiscreteScheduler, partial(FlowSamplerScheduler, carry="model")):
            scheduler = began(make(use_dynamic_shifting=True, stochastic_sampling=True), 4, place.device)
            generator, state = torch.Generator(place.device).manual_seed(3), x
            for t in scheduler.timesteps:
                state = scheduler.step(v, t, state, generator=generator, return_dict=False)[0]
            ends.append(state)
        return {"right": torch.equal(*ends)}

    def euler() -> Row:
        ends = [place.run(scheduler, 4) for scheduler in (stock_euler(), place.scheduler("euler", carry="model"))]
        return {"right": torch.equal(*ends) and bool(ends[0].isfinite().all())}

    yield {"what": "euler is stock's in the pipeline, bfloat16"}, euler
    yield {"what": "full re-noise draws stock's stream"}, renoised
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        yield {"what": f"keyed noise is the CPU's, {str(dtype).removeprefix('torch.')}"}, partial(keyed, dtype)
    for info in fixed_samplers():
        yield {"what": "against the CPU", "sampler": info.name}, partial(against_the_cpu, info.name)


def call_times(place: Place) -> Cells:
    """The scheduler's own time per model call, beside stock's and the network's."""
    flow, x = place.flow, place.latents()
    sigma = torch.full((1,), 0.5, device=place.device)
    network = 0.0

    def eager() -> Row:
        nonlocal network
        runs = [place.seconds(lambda: flow.velocity(x, sigma, [""])) for _ in range(2 + place.turns)][2:]
        found = _medians(runs, 1)
        network = found["device"] or found["host"]
        return found

    def stepping(make: Callable[[], Any], steps: int) -> Row:
        runs, count = list[tuple[float, float | None]](), 1
        for _ in range(1 + place.turns):
            scheduler = began(make(), steps, place.device)
            count = len(scheduler.timesteps)
            runs.append(place.seconds(partial(steps_through, scheduler, x, x)))
        found = _medians(runs[1:], count)
        return {**found, "share": (found["device"] or found["host"]) / network if network else None}

    yield {"what": "network"}, eager
    dynamic: Row = {"use_dynamic_shifting": True}
    unipc = partial(UniPCMultistepScheduler, use_flow_sigmas=True, prediction_type="flow_prediction", **dynamic)
    made: dict[str, Callable[[], Any]] = {
        "stock FlowMatchEuler": partial(FlowMatchEulerDiscreteScheduler, **dynamic),
        "stock UniPC": unipc,
        "euler, stock's arithmetic": partial(place.scheduler, "euler", carry="model"),
        "euler_sde, stock's noise": partial(place.scheduler, "euler_sde", seed=None),
        **{name: partial(place.scheduler, name) for name in TIMED},
        **{i.name: partial(place.scheduler, i.name) for i in fixed_samplers()},
    }
    for name, make in made.items():
        steps = place.steps if name not in (i.name for i in fixed_samplers()) or name in TIMED else min(place.steps, 8)
        yield {"what": "scheduler", "scheduler": name, "steps": steps}, partial(stepping, make, steps)


def _medians(runs: list[tuple[float, float | None]], calls: int) -> Row:
    host = statistics.median(h for h, _ in runs) / calls
    device = [d for _, d in runs if d is not None]
    return {"host": host, "device": statistics.median(device) / calls if device else None}


def memory(place: Place) -> Cells:
    """Peak of a run in the pipeline above stock Euler's, in float32 latents, and what is held afterwards."""
    every = tuple(i.name for i in fixed_samplers())
    yield from _peaks(place, "klein-4B", place.pipe, TIMED)
    yield from _peaks(place, "two blocks", place.thin, every)


def _peaks(place: Place, network: str, pipe: Any, samplers: tuple[str, ...]) -> Cells:
    one, base, steps = place.tokens * 128 * 4, 0, 4

    def peak(name: str) -> Row:
        nonlocal base
        before = place.allocated()
        if place.cuda:
            torch.cuda.reset_peak_memory_stats()
        place.run(stock_euler() if name == "stock" else place.scheduler(name), steps, pipe)
        most = place.allocated(peak=True)
        base = most if name == "stock" else base
        pipe.scheduler = None
        return {"peak": most, "latents": (most - base) / one, "held": place.allocated() - before}

    place.run(stock_euler(), 1, pipe)  # the libraries of the device take their workspaces
    pipe.scheduler = None
    for name in ("stock", *samplers):
        yield {"network": network, "sampler": name}, partial(peak, name)


def studies(place: Place) -> Cells:
    """A study on the device: the same rows as calls of a pipeline, what it costs, and a batch that does not fit."""
    steps, seeds = (2, [0, 1]) if place.tiny else (8, list(range(16)))
    few: Row = {"samplers": ("euler",), "nfe": (2,)} if place.tiny else {"samplers": ("euler", "ab2"), "nfe": (2, 4)}
    pipe = load_klein("klein-digits", device=place.device)
    pipe.set_progress_bar_config(disable=True)
    flow = KleinFlow(pipe, DIGIT, guidance_scale=2.0)
    grid = fs.schedules.flux2(steps, tokens=flow.tokens)

    def by_pipeline(name: str, seed: int) -> Tensor:
        last: Row = {}
        pipe.scheduler = FlowSamplerScheduler.from_config(
            pipe.scheduler.config, sampler=name, sampler_options=None, carry="float32"
        )
        pipe(
            prompt=DIGIT,
            num_inference_steps=steps,
            guidance_scale=2.0,
            max_sequence_length=flow.max_sequence_length,
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type="latent",
            callback_on_step_end=lambda pipe, i, t, values: last.update(values) or {},
        )
        return last["latents"]

    def lockstep(name: str) -> Row:
        runs = [fs.Run(flow.noise([s]), grid, name) for s in seeds]
        fs.sample_many(flow, runs)
        batch = list[Tensor]()
        together, _ = place.seconds(lambda: batch.extend(fs.sample_many(flow, runs)))
        alone = list[Tensor]()
        loop, _ = place.seconds(lambda: alone.extend(by_pipeline(name, s) for s in seeds))
        off = (torch.cat(batch) - torch.cat(alone)).norm() / torch.cat(alone).norm()
        return {"rows": len(seeds), "difference": float(off), "seconds": together, "by pipeline": loop}

    for name in ("euler", "ab2", "heun"):
        yield {"what": "rows in lock-step against calls of the pipeline", "sampler": name}, partial(lockstep, name)
    options: Row = {"device": str(place.device), "guidance_scale": 1.0}
    digits = Study(
        prompts=(DIGIT,), seeds=(0,) if place.tiny else (0, 1), **few, reference_evaluations=256, flow_options=options
    )
    yield {"what": "a study of klein-digits"}, partial(_studied, place, digits)
    small: Row = {"prompts": ("a",), **few, "max_batch": 4, "reference_evaluations": 256}
    yield {"what": "the probe's estimate, klein-4B"}, lambda: _estimated(place, Study(seeds=(0, 1), **small))
    yield {"what": "a batch out of memory is halved"}, partial(_halved, place)
    wide = place.flow_of(place.thin, "two blocks, random")
    yield {"what": "a study of two blocks"}, lambda: _studied(place, Study(flow=wide, seeds=(0,), **small))


def _studied(place: Place, study: Study) -> Row:
    found: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        took, _ = place.seconds(lambda: found.append(study.run(Path(folder) / "study")))
    ended = [row.status for row in found[0].rows]
    worst = max(row.reference_error for row in found[0].rows)
    return {"rows": len(ended), "ok": ended.count("ok"), "seconds": took, "reference": worst}


def _estimated(place: Place, study: Study) -> Row:
    planned, foretold = study.runs(place.flow.tokens), plan(study, place.flow)
    runs = [fs.Run(place.flow.noise([s]), p.grid, p.sampler, condition=c) for c, s in study.cases for p in planned]
    meter = Meter(place.flow)
    took, _ = place.seconds(lambda: (fs.sample_many(meter, runs, max_batch=study.max_batch), place.synchronize()))
    probe = foretold.probe
    return {
        "told": probe.batched * meter.rows,
        "took": took,
        "rows": meter.rows,
        "solo": probe.solo,
        "batched": probe.batched,
        "bytes": probe.memory,
        "flops": probe.flops,
    }


def _halved(place: Place) -> Row:
    rows = 8
    x, sigma = place.flow.noise(list(range(rows))), torch.full((rows,), 0.5, device=place.device)
    with small_memory(place) as limited:
        meter = Meter(limited)
        v = meter.velocity(x, sigma, [""] * rows)
    alone = place.flow.velocity(x[-1:], sigma[-1:], [""])
    off = float((v[-1:].float() - alone.float()).norm() / alone.float().norm())
    return {"of": rows, "fits": meter.fits, "difference": off, "right": meter.fits < rows == len(v)}


@contextmanager
def small_memory(place: Place) -> Iterator[Any]:
    """A flow that cannot hold eight rows: by the allocator's limit, or on a CPU by decree."""
    if not place.cuda:
        yield _Narrow(place.flow)
        return
    torch.cuda.empty_cache()
    x, sigma = place.flow.noise([0, 1]), torch.full((2,), 0.5, device=place.device)
    torch.cuda.reset_peak_memory_stats()
    place.flow.velocity(x, sigma, [""] * 2)
    limit = torch.cuda.max_memory_allocated() * 1.02
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(0).total_memory)
    try:
        yield place.flow
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


class _Narrow:
    def __init__(self, flow: Any) -> None:
        self.flow = flow

    def velocity(self, x: Tensor, sigma: Tensor, condition: Any = None) -> Tensor:
        if len(x) > 3:
            raise torch.cuda.OutOfMemoryError("by decree")
        return self.flow.velocity(x, sigma, condition)


def fitting(place: Place) -> Cells:
    """A profile and a solver of klein-digits on the device, and what the same fit would take at full size."""
    rows, nodes, calls, rounds = (4, 8, 2, 1) if place.tiny else (48, 64, 6, 4)
    flow = KleinFlow(load_klein("klein-digits", device=place.device), DIGIT, guidance_scale=1.0)
    x1 = flow.noise(list(range(rows)))
    known: Row = {}

    def profiled() -> Row:
        seconds, _ = place.seconds(lambda: known.update(profile=fs.profile(flow, x1, nodes=nodes)))
        found = known["profile"]
        return {"seconds": seconds, "rows": rows, "evaluations": found.evaluations, "of the ends": found.error}

    def fitted() -> Row:
        before, options = flow.forward_passes, {"profile": known["profile"], "rounds": rounds, "validate": False}
        seconds, _ = place.seconds(lambda: known.update(solver=fs.fit(flow, x1, calls, **options)))
        known["evaluations"] = flow.forward_passes - before + known["profile"].evaluations
        return {"seconds": seconds, "calls": calls, "rows": rows, "evaluations": known["evaluations"]}

    def judged() -> Row:
        fresh = flow.noise(list(range(1000, 1000 + rows)))
        solver, grid = known["solver"], fs.schedules.flux2(calls, tokens=flow.tokens)
        truth = fs.sample(flow.velocity, fresh, fs.schedules.flux2(8 * calls, tokens=flow.tokens), "rk4")
        runs = {"fitted": (solver.grid, solver.sampler), "ab2": (grid, "ab2"), "euler": (grid, "euler")}
        return {k: float((fs.sample(flow.velocity, fresh, g, s) - truth).norm() / truth.norm()) for k, (g, s) in runs.items()}

    def at_full_size() -> Row:
        sigma = torch.full((1,), 0.5, device=place.device)
        one = _medians([place.seconds(lambda: place.flow.velocity(place.latents(), sigma, [""])) for _ in range(4)], 1)
        call = one["device"] or one["host"]
        return {"call": call, "hours": call * known["evaluations"] / 3600}

    yield {"what": "a profile of klein-digits"}, profiled
    yield {"what": "the same solver, fitted"}, fitted
    yield {"what": "errors on other rows"}, judged
    yield {"what": "the same fit at full size"}, at_full_size


def tests(place: Place) -> Cells:
    """The tests that need a GPU."""

    def run() -> Row:
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "junit.xml"
            order = ["-m", "pytest", "tests/gpu", "-q", "-p", "no:cacheprovider", "-o", "filterwarnings=default"]
            path = os.pathsep.join([str(ROOT), str(ROOT / "integrations"), os.environ.get("PYTHONPATH", "")])
            command, environment = [sys.executable, *order, f"--junitxml={report}"], {**os.environ, "PYTHONPATH": path}
            subprocess.run(command, cwd=ROOT, env=environment, check=False)
            cases = list(ET.parse(report).iter("testcase"))
        bad = {kind: [c for c in cases if c.find(kind) is not None] for kind in ("failure", "error", "skipped")}
        why = {c.get("name"): str(c.find(k).get("message", ""))[:300] for k in ("failure", "error") for c in bad[k]}  # type: ignore[union-attr]
        return {
            "passed": len(cases) - sum(map(len, bad.values())),
            "failed": len(why),
            "skipped": len(bad["skipped"]),
            "failures": why,
        }

    yield {"what": "pytest tests/gpu"}, run


def compiled(place: Place) -> Cells:
    """Graphs that `torch.compile` makes of two blocks of the network over runs of several samplers: one is right."""
    pipe, samplers = place.thin, ("euler", "ab2", "heun", "unipc")
    network, steps = pipe.transformer, 2 if place.tiny else 8
    eager = {name: place.run(place.scheduler(name), steps, pipe) for name in samplers}

    def run(name: str) -> Row:
        first, _ = place.seconds(lambda: place.run(place.scheduler(name), steps, pipe))
        host, device = place.seconds(lambda: place.run(place.scheduler(name), steps, pipe))
        end = place.run(place.scheduler(name), steps, pipe).float()
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        off = float((end - eager[name].float()).norm() / eager[name].float().norm())
        return {"graphs": graphs, "first run": first, "host": host, "device": device, "difference": off}

    modes: dict[str, Row] = {"eager backend": {"backend": "eager"}}
    if place.cuda:
        modes = {"default": {}, "CUDA graphs": {"mode": "reduce-overhead"}}
    for mode, options in modes.items():
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        network.forward, forward = torch.compile(network.forward, **options), network.forward
        try:
            for name in samplers:
                yield {"mode": mode, "sampler": name, "steps": steps}, partial(run, name)
        finally:
            network.forward = forward


def offload(place: Place) -> Cells:
    """The same peaks with `enable_model_cpu_offload`, which keeps the weights on the CPU."""
    if not place.cuda:
        yield {"skipped": "no accelerator to keep weights away from"}, dict
        return
    place.embeddings  # noqa: B018  (made while the network is on the device)
    for network, pipe, samplers in (("two blocks", place.thin, TIMED), ("klein-4B", place.pipe, ("ab2",))):
        pipe.enable_model_cpu_offload()
        try:
            yield from _peaks(place, network, pipe, samplers)
        finally:
            pipe.remove_all_hooks()
            pipe.to(place.device)  # the hooks leave it on the CPU


def rounding_of_time(place: Place) -> Cells:
    """How far compiled and eager runs lie apart in bfloat16, on the CPU, with the time rounded as in stock and in full precision."""
    size: Row = {"num_layers": 1, "num_single_layers": 1, "axes_dims_rope": (16, 16, 16, 16), "joint_attention_dim": 64}
    heads, side = (2, 64) if place.tiny else (8, 256)
    here = Place("cpu", tiny=True)
    here.side = side
    pipe = here.random(**size, num_attention_heads=heads, attention_head_dim=64)
    flow = here.flow_of(pipe, "two narrow blocks, random")
    x1, grid = flow.noise([0]), fs.schedules.flux2(8, tokens=4096)
    samplers = ("heun",) if place.tiny else ("euler", "ab2", "heun", "unipc")
    network = pipe.transformer

    def apart(name: str, *, full: bool) -> Row:
        flow.full_time, eager = full, network.forward
        ends = [fs.sample(flow.velocity, x1, grid, name).float()]
        torch._dynamo.reset()
        network.forward = torch.compile(eager, backend="eager" if place.tiny else "inductor")
        try:
            ends.append(fs.sample(flow.velocity, x1, grid, name).float())
        finally:
            network.forward = eager
        return {"difference": float((ends[1] - ends[0]).norm() / ends[0].norm())}

    for full in (False, True):
        for name in samplers:
            yield {"time": "full precision" if full else "as in stock", "sampler": name}, partial(apart, name, full=full)


SECTIONS: dict[str, tuple[Callable[[Place], Cells], int]] = {
    "waits": (waits, 20),
    "correctness": (correctness, 15),
    "call_times": (call_times, 15),
    "memory": (memory, 20),
    "studies": (studies, 30),
    "fitting": (fitting, 20),
    "tests": (tests, 30),
    "compiled": (compiled, 30),
    "offload": (offload, 30),
    "rounding_of_time": (rounding_of_time, 20),
}
"""What is measured, in order of worth, and the seconds that each may take."""


# Under a time limit, with nothing lost


class OutOfTimeError(BaseException):
    """A section came to the end of its time; nobody else's ``except Exception`` is to catch it."""


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raise `OutOfTimeError` in the main thread after so many seconds."""

    def ring(*_: Any) -> None:
        raise OutOfTimeError(f"stopped after {max(seconds, 0):.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def describe(place: Place) -> Row:
    """Card, versions and date."""
    card = torch.cuda.get_device_name() if place.cuda else f"CPU, {platform.machine()}"
    today = dt.datetime.now(dt.UTC).date().isoformat()
    versions = {"torch": torch.__version__, "diffusers": diffusers.__version__, "transformers": transformers.__version__}
    versions |= {"python": platform.python_version(), "cuda": torch.version.cuda}
    return {"device": card, "tiny": place.tiny, "date": today, "tokens": place.tokens, **versions}


def measure(place: Place, out: Path, only: list[str], scale: float = 1.0, seconds: float = float("inf")) -> Row:
    """Run the sections; after every row the file on the disk holds all rows so far."""
    found: Row = {"place": describe(place), "sections": {}}
    deadline = time.monotonic() + seconds

    def write() -> None:
        part = out.with_suffix(".part")
        part.write_text(json.dumps(found, indent=1) + "\n")
        part.replace(out)

    for name in only:
        section, its = SECTIONS[name]
        rows: list[Row] = []
        entry = found["sections"][name] = {"what": (section.__doc__ or "").rstrip("."), "rows": rows, "ended": "unfinished"}
        start = time.monotonic()
        cells = section(place)
        try:
            with limit(min(its * scale, deadline - start)), torch.no_grad():
                for what, how in cells:
                    rows.append({**what, "error": "not finished"})
                    rows[-1] = {**what, **_done(how)}
                    write()
            entry["ended"] = "complete"
        except (Exception, OutOfTimeError) as error:  # the next section is worth as much
            entry["ended"] = told(error) if isinstance(error, Exception) else f"OutOfTimeError: {error}"
        with contextlib.suppress(Exception):
            cells.close()
        entry["seconds"] = time.monotonic() - start
        write()
        failed = sum("error" in row for row in rows)
        print(f"{name:<12} {len(rows):>4} rows, {failed} failed, in {entry['seconds']:.1f} s: {entry['ended']}", flush=True)
    return found


def _done(how: Callable[[], Row]) -> Row:
    """What a cell measures, or why it could not."""
    try:
        return how()
    except Exception as error:
        return {"error": told(error)}


# The page

EVERY = {"waits": "sampler", "correctness": "sampler", "call_times": "scheduler", "memory": "sampler"}
"""The sections that run every sampler, and the column of its name."""


def samplers_of(sections: Row) -> set[str]:
    """The names in all sections that run every sampler, as far as these were measured."""
    return set.intersection(
        *({row.get(of) for row in sections[name]["rows"]} for name, of in EVERY.items() if name in sections)
    )


def measured(found: Row) -> str:
    """The part of the page that the measurements make."""
    sections = found["sections"]
    rows = {name: [row for row in section["rows"] if "error" not in row] for name, section in sections.items()}
    text = rendered(
        "gpu.md",
        found,
        rows={name: [row for row in good if not isinstance(row.get("skipped"), str)] for name, good in rows.items()},
        left=unmeasured(samplers_of(sections)) if sections.keys() & EVERY.keys() else "",
        median=statistics.median,
        ms=lambda seconds: f"{1e3 * seconds:.3g} ms",
        TIMED=TIMED,
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def page() -> str:
    """The page with its measured part renewed."""
    return with_measured(PAGE.read_text(), "gpu_report.py", measured(load(DATA)))


WRITTEN = {PAGE: page}


def main() -> None:
    """Measure, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU; the page is left alone")
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--out", type=Path, default=DATA)
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for all sections together")
    args = parser.parse_args()
    if not args.page:
        if not args.dry_run and not torch.cuda.is_available():
            raise SystemExit("no CUDA device here; --dry-run rehearses on the CPU")
        if args.dry_run and args.out == DATA:
            raise SystemExit("a rehearsal is no measurement: name another file with --out")
        measure(Place("cpu" if args.dry_run else "cuda", tiny=args.dry_run), args.out, args.sections, seconds=args.seconds)
    if args.page or args.out == DATA:
        PAGE.write_text(page())


if __name__ == "__main__":
    main()
