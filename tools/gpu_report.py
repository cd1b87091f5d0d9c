"""What this library does on a GPU, measured in sections under a time limit each, and the page made from it.

    python tools/gpu_report.py                        measures on CUDA, and writes docs/howto/gpu.json and the page
    python tools/gpu_report.py --dry-run --out FILE   runs every section on tiny shapes on the CPU
    python tools/gpu_report.py --page                 writes docs/howto/gpu.md from what is there

The network is FLUX.2 [klein] 4B with random weights in bfloat16; random embeddings take the place of the text encoder. Every value
is on the disk as soon as it is measured, and a section that fails or runs out of time does not stop the next.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import platform
import signal
import statistics
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from build_full_size import MODELS
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    UniPCMultistepScheduler,
)
from torch import Tensor

import flowsamplers as fs
from flowsamplers.noise import KeyedNoise
from flowsamplers.study import Study
from flowsamplers.study.cost import Meter, plan
from flowsamplers_diffusers import FlowSamplerScheduler, KleinFlow, load_klein

HOWTO = Path(__file__).parent.parent / "docs" / "howto"
DATA, PAGE = HOWTO / "gpu.json", HOWTO / "gpu.md"
BEGIN, END = "<!-- measured: written by tools/gpu_report.py -->", "<!-- end of what is measured -->"
TIMED = ("euler", "ab2", "unipc", "dpmpp_2m", "heun", "rk4", "euler_sde")
Row = dict[str, Any]


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
        self.steps, self.turns = (2, 1) if tiny else (20, 5)

    @cached_property
    def pipe(self) -> Any:
        """The stock pipeline of klein-4B with random weights in bfloat16, distilled, so that a call is one pass."""
        size: Row = dict(MODELS["klein-4B"], attention_head_dim=128)
        vae: Row = {}
        if self.tiny:
            size = {"num_layers": 1, "num_single_layers": 1, "num_attention_heads": 2, "joint_attention_dim": 24}
            size |= {"attention_head_dim": 16, "axes_dims_rope": (4, 4, 4, 4), "timestep_guidance_channels": 16}
            vae = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "layers_per_block": 1}
        default = torch.get_default_dtype()
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16)
        try:
            with self.device:
                parts: Row = {
                    "transformer": Flux2Transformer2DModel(in_channels=128, guidance_embeds=False, **size).eval(),
                    "vae": AutoencoderKLFlux2(**vae).eval(),
                }
        finally:
            torch.set_default_dtype(default)
        scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)
        pipe = Flux2KleinPipeline(**parts, scheduler=scheduler, text_encoder=None, tokenizer=None, is_distilled=True)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @cached_property
    def flow(self) -> RandomText:
        """Its velocity field."""
        return RandomText(self.pipe, height=self.side, width=self.side, max_sequence_length=self.text, name="klein-4B, random")

    def run(self, scheduler: Any, steps: int | None = None) -> Tensor:
        """The latents of one run of the pipeline."""
        self.pipe.scheduler = scheduler
        embeddings, _ = self.flow._encoded("")
        return self.pipe(
            prompt_embeds=embeddings,
            height=self.side,
            width=self.side,
            num_inference_steps=steps or self.steps,
            guidance_scale=1.0,
            generator=torch.Generator().manual_seed(0),
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
    """The first wait for the device in some work, None where there is none."""
    try:
        with no_wait(place):
            work()
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        return str(error).splitlines()[0]
    return None


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


def waits(place: Place) -> Iterator[Row]:
    """Whether `step` and `fs.sample` ever wait for the device."""
    x, v = place.latents(), place.latents()
    for info in fixed_samplers():
        for carry in ("model", "float32", "float64"):
            for noise in ("keyed", "stock") if info.stochastic else (None,):
                scheduler = place.scheduler(info.name, carry=carry, seed=None if noise == "stock" else 0)
                work = partial(steps_through, began(scheduler, 4, place.device), x, v)
                yield {"loop": "step", "sampler": info.name, "carry": carry, "noise": noise, "waits": first_wait(place, work)}
        grid = fs.schedules.flux2(4, tokens=place.tokens)
        work = partial(fs.sample, lambda x, sigma: v, x, grid, info.name, seed=0)
        noise = "keyed" if info.stochastic else None
        yield {"loop": "sample", "sampler": info.name, "carry": "float32", "noise": noise, "waits": first_wait(place, work)}


def correctness(place: Place) -> Iterator[Row]:
    """The device against the CPU in float32, and against stock bit for bit."""
    x1, grid = fs.noise.normal(0, (2, 64), torch.float32), fs.schedules.flux2(8, tokens=place.tokens)
    eps = torch.finfo(torch.float32).eps

    def field(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.sin(3 * x) + sigma[:, None] - 0.3 * x.roll(1, dims=1)

    for info in fixed_samplers():
        here, there = (fs.sample(field, x1.to(d), grid, info.name, seed=0).cpu() for d in ("cpu", place.device))
        calls = fs.nfe(info.name, grid)
        off = float((there - here).norm() / here.norm()) / eps
        # One ulp in each velocity, amplified by at most e^L with L = 3.3, the field's Lipschitz constant, over [0, 1].
        yield {"what": "against the CPU", "sampler": info.name, "ulps": off, "limit": 27 * calls, "right": off <= 27 * calls}

    like = torch.zeros(2, 64)
    draws = [KeyedNoise(7)(like.to(d), step=1, draw=0).cpu() for d in ("cpu", place.device)]
    yield {"what": "keyed noise is the CPU's", "right": torch.equal(*draws)}

    x, v, ends = place.latents(), place.latents(), list[Tensor]()
    for make in (FlowMatchEulerDiscreteScheduler, partial(FlowSamplerScheduler, carry="model")):
        scheduler = began(make(use_dynamic_shifting=True, stochastic_sampling=True), 4, place.device)
        generator, state = torch.Generator(place.device).manual_seed(3), x
        for t in scheduler.timesteps:
            state = scheduler.step(v, t, state, generator=generator, return_dict=False)[0]
        ends.append(state)
    yield {"what": "full re-noise draws stock's stream", "right": torch.equal(*ends)}

    stock = place.run(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0))
    ours = place.run(place.scheduler("euler", carry="model"))
    yield {"what": "euler is stock's in the pipeline, bfloat16", "right": torch.equal(stock, ours)}


def call_times(place: Place) -> Iterator[Row]:
    """The scheduler's own time per model call, beside stock's and the network's."""
    flow, x = place.flow, place.latents()
    sigma = torch.full((1,), 0.5, device=place.device)
    calls = [place.seconds(lambda: flow.velocity(x, sigma, [""])) for _ in range(2 + place.turns)][2:]
    yield {"what": "network", **_medians(calls, 1)}

    dynamic: Row = {"use_dynamic_shifting": True}
    unipc = partial(UniPCMultistepScheduler, use_flow_sigmas=True, prediction_type="flow_prediction", **dynamic)
    made: dict[str, Callable[[], Any]] = {
        "stock FlowMatchEuler": partial(FlowMatchEulerDiscreteScheduler, **dynamic),
        "stock UniPC": unipc,
        "euler, stock's arithmetic": partial(place.scheduler, "euler", carry="model"),
        **{name: partial(place.scheduler, name) for name in TIMED},
    }
    for name, make in made.items():
        runs, count = list[tuple[float, float | None]](), 1
        for _ in range(1 + place.turns):
            scheduler = began(make(), place.steps, place.device)
            count = len(scheduler.timesteps)
            runs.append(place.seconds(partial(steps_through, scheduler, x, x)))
        yield {"what": "scheduler", "scheduler": name, **_medians(runs[1:], count)}


def _medians(runs: list[tuple[float, float | None]], calls: int) -> Row:
    host = statistics.median(h for h, _ in runs) / calls
    device = [d for _, d in runs if d is not None]
    return {"host": host, "device": statistics.median(device) / calls if device else None}


def compiled(place: Place) -> Iterator[Row]:
    """Graphs that `torch.compile` makes of the network over runs of several samplers: one is right."""
    pipe, plain = place.pipe, place.pipe.transformer
    modes: dict[str, Row] = {"eager backend": {"backend": "eager"}}
    if place.cuda:
        modes = {"default": {}, "CUDA graphs": {"mode": "reduce-overhead"}}
    for mode, options in modes.items():
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        plain.forward, forward = torch.compile(plain.forward, **options), plain.forward
        try:
            for name in ("euler", "ab2", "heun"):
                place.run(place.scheduler(name))
                graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
                host, device = place.seconds(lambda name=name: place.run(place.scheduler(name)))
                yield {"mode": mode, "sampler": name, "graphs": graphs, "host": host, "device": device}
        finally:
            plain.forward = forward
    pipe.transformer = plain


def memory(place: Place) -> Iterator[Row]:
    """Peak of a run in the pipeline above stock Euler's, in float32 latents, and what is held afterwards."""
    one = place.tokens * 128 * 4
    for offload in (None, "model"):
        if offload and not place.cuda:
            yield {"offload": offload, "skipped": "no accelerator to keep weights away from"}
            continue
        if offload:
            place.pipe.enable_model_cpu_offload()
        base = None
        for name in ("stock", *TIMED) if offload else ("stock", *(i.name for i in fixed_samplers())):
            before = place.allocated()
            if place.cuda:
                torch.cuda.reset_peak_memory_stats()
            stock = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)
            place.run(stock if name == "stock" else place.scheduler(name), 4)
            peak = place.allocated(peak=True)
            base = peak if base is None else base
            place.pipe.scheduler = stock
            held = place.allocated() - before
            yield {"offload": offload, "sampler": name, "peak": peak, "latents": (peak - base) / one, "held": held}
    if place.cuda:
        place.pipe.remove_all_hooks()
        place.pipe.to(place.device)


def studies(place: Place) -> Iterator[Row]:
    """A study on the device: the same rows as calls of a pipeline, what it costs, and a batch that does not fit."""
    steps = 2 if place.tiny else 8
    pipe = load_klein("klein-digits", device=place.device)
    flow = KleinFlow(pipe, "a handwritten 3", guidance_scale=2.0)
    seeds = list(range(2 if place.tiny else 32))
    x1, grid = flow.noise(seeds), fs.schedules.flux2(steps, tokens=flow.tokens)
    for name in ("euler", "ab2", "heun"):
        run = partial(fs.sample, flow.velocity, x1, grid, name)
        batch, together = run(), place.seconds(run)
        alone = [fs.sample(flow.velocity, x1[i : i + 1], grid, name) for i in range(len(seeds))]
        off = float((torch.cat(alone) - batch).norm() / batch.norm())
        yield {"what": "rows of a batch against rows alone", "sampler": name, "difference": off, "seconds": together[0]}

    study = Study(prompts=("", "a"), seeds=(0, 1), samplers=("euler", "ab2"), nfe=(2, 4), max_batch=4, reference_evaluations=64)
    planned = study.runs(place.flow.tokens)
    told = plan(study, place.flow)
    runs = [fs.Run(place.flow.noise([s]), p.grid, p.sampler, condition=c) for c, s in study.cases for p in planned]
    meter = Meter(place.flow)
    host, _ = place.seconds(lambda: fs.sample_many(meter, runs, max_batch=study.max_batch))
    yield {"what": "the probe's estimate", "told": told.probe.batched * meter.rows, "took": host, "rows": meter.rows}
    yield {"what": "memory in the probe", "bytes": told.probe.memory, "flops": told.probe.flops}

    rows = 8
    x, sigma = place.flow.noise(list(range(rows))), torch.full((rows,), 0.5, device=place.device)
    with small_memory(place) as limited:
        meter = Meter(limited)
        v = meter.velocity(x, sigma, [""] * rows)
    yield {"what": "a batch out of memory is halved", "of": rows, "fits": meter.fits, "right": meter.fits < rows == len(v)}


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


def fitting(place: Place) -> Iterator[Row]:
    """A solver fitted to klein-digits on the device, and what the same fit would take at full size."""
    rows, parts, steps = (2, 1, 2) if place.tiny else (64, 16, 6)
    flow = KleinFlow(load_klein("klein-digits", device=place.device), "a handwritten 3", guidance_scale=1.0)
    grid = fs.schedules.flux2(steps, tokens=flow.tokens)
    x1, fresh = flow.noise(list(range(rows))), flow.noise(list(range(1000, 1000 + rows)))
    solver: Any = None

    def fit() -> None:
        nonlocal solver
        solver = fs.fit_ns_solver(flow.velocity, x1, grid, parts=parts)

    host, _ = place.seconds(fit)
    calls = flow.forward_passes // rows
    truth = fs.sample(flow.velocity, fresh, grid.refined(2 * parts), "rk4")
    errors = {
        label: float((fs.sample(flow.velocity, fresh, grid, s) - truth).norm() / truth.norm())
        for label, s in (("fitted", solver), ("ab2", "ab2"), ("euler", "euler"))
    }
    yield {"what": "a fit of klein-digits", "seconds": host, "rows": rows, "calls": calls, "steps": steps, "errors": errors}
    one = statistics.median(place.seconds(lambda: _whole_call(place))[0] for _ in range(3))
    yield {"what": "the same fit at full size", "call": one, "hours": one * calls * rows / 3600}


def _whole_call(place: Place) -> None:
    place.flow.velocity(place.latents(), torch.full((1,), 0.5, device=place.device), [""])
    place.synchronize()


def training(place: Place) -> Iterator[Row]:
    """The training of klein-emoji on pictures of noise: seconds for some steps."""
    import train_klein_emoji as emoji  # noqa: PLC0415  (scikit-learn is an extra)

    steps, batch = (1, 8) if place.tiny else (50, emoji.BATCH)
    data = emoji.Data(torch.rand(8, 3, emoji.SIZE, emoji.SIZE) * 2 - 1, torch.arange(8), list("abcdefgh"), [""] * 8)
    with tempfile.TemporaryDirectory() as folder, place.device:
        work = Path(folder)
        for stage, train in (("vae", emoji.train_vae), ("teacher", emoji.train_teacher)):
            began_at = time.perf_counter()
            train(work, data, steps, batch=batch)
            place.synchronize()
            yield {"stage": stage, "steps": steps, "seconds": time.perf_counter() - began_at}


SECTIONS: dict[str, tuple[Callable[[Place], Iterator[Row]], int]] = {
    "waits": (waits, 60),
    "correctness": (correctness, 60),
    "call_times": (call_times, 60),
    "memory": (memory, 90),
    "studies": (studies, 60),
    "fitting": (fitting, 60),
    "training": (training, 60),
    "compiled": (compiled, 120),
}
"""What is measured, in order of worth, and the seconds that each may take."""


# Under a time limit, with nothing lost


class OutOfTimeError(Exception):
    """A section came to the end of its time."""


@contextmanager
def limit(seconds: int) -> Iterator[None]:
    """Raise `OutOfTimeError` in the main thread after so many seconds."""

    def ring(*_: Any) -> None:
        raise OutOfTimeError(f"stopped after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def describe(place: Place) -> Row:
    """Card, versions and date."""
    card = torch.cuda.get_device_name() if place.cuda else f"CPU, {platform.machine()}"
    today = dt.datetime.now(dt.UTC).date().isoformat()
    versions = {"torch": torch.__version__, "diffusers": diffusers.__version__, "cuda": torch.version.cuda}
    return {"device": card, "tiny": place.tiny, "date": today, "tokens": place.tokens, **versions}


def measure(place: Place, out: Path, only: list[str], scale: float = 1.0) -> Row:
    """Run the sections; after every row the file on the disk holds all rows so far."""
    found: Row = {"place": describe(place), "sections": {}}

    def write() -> None:
        part = out.with_suffix(".part")
        part.write_text(json.dumps(found, indent=1) + "\n")
        part.rename(out)

    for name in only:
        section, seconds = SECTIONS[name]
        rows: list[Row] = []
        entry = found["sections"][name] = {"what": (section.__doc__ or "").rstrip("."), "rows": rows, "ended": "unfinished"}
        start = time.monotonic()
        try:
            with limit(max(1, round(seconds * scale))), torch.no_grad() if name != "training" else torch.enable_grad():
                for row in section(place):
                    rows.append(row)
                    write()
            entry["ended"] = "complete"
        except Exception as error:  # the next section is worth as much
            entry["ended"] = f"{type(error).__name__}: {error}".splitlines()[0]
        entry["seconds"] = time.monotonic() - start
        write()
        print(f"{name:<12} {len(rows):>4} rows in {entry['seconds']:.1f} s: {entry['ended']}", flush=True)
    return found


# The page


def measured(found: Row | None) -> str:
    """The part of the page that the measurements make."""
    if found is None:
        told = [
            "## What has been measured on a GPU",
            "Nothing yet. The tests of this library run on the CPU and on the `meta` device, and no figure on this site is from a GPU. The "
            f"measurement is one command, which takes at most {sum(t for _, t in SECTIONS.values()) / 60:.0f} minutes after the weights "
            "are made. The weights take 7.2 GiB of the card's memory.",
            "```bash\npython tools/gpu_report.py\n```",
            "It builds FLUX.2 [klein] 4B with random weights on the device and measures, in this order:",
            "\n".join(
                textwrap.fill(f"* {(s.__doc__ or '').strip()}", 128, subsequent_indent="  ") for s, _ in SECTIONS.values()
            ),
            "Every section is rehearsed on the CPU in each run of the tests. `pytest -m gpu` runs the tests that need a GPU.",
        ]
        return "\n\n".join(t if t.startswith(("*", "`")) else textwrap.fill(t, 128) for t in told)
    place, sections = found["place"], found["sections"]
    lines = [
        f"## What has been measured on {place['device']}",
        "",
        f"On {place['date']}, with torch {place['torch']} (CUDA {place['cuda']}) and diffusers {place['diffusers']}. The network is FLUX.2 "
        f"[klein] 4B with random weights in bfloat16, at {place['tokens']} tokens. [All values](gpu.json).",
    ]
    for section in sections.values():
        lines += ["", f"### {section['what']}", ""]
        lines += _table(section["rows"]) or ["Nothing was measured."]
        if section["ended"] != "complete":
            lines += ["", f"This section did not finish: {section['ended']}"]
    return "\n".join(lines)


def _table(rows: list[Row]) -> list[str]:
    kinds = dict.fromkeys(tuple(k for k in row if k != "what") for row in rows)
    lines: list[str] = []
    for kind in kinds:
        mine = [r for r in rows if tuple(k for k in r if k != "what") == kind]
        named = any("what" in r for r in mine)
        head = (["what"] if named else []) + list(kind)
        lines += ["", "| " + " | ".join(head) + " |", "| --- |" + " --- |" * (len(head) - 1)]
        lines += ["| " + " | ".join(_cell(r.get(k)) for k in head) + " |" for r in mine]
    return lines[1:]


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_cell(v)}" for k, v in value.items())
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def page() -> str:
    """The page with its measured part renewed."""
    head, rest = PAGE.read_text().split(BEGIN)
    found = json.loads(DATA.read_text()) if DATA.exists() else None
    return f"{head}{BEGIN}\n\n{measured(found)}\n\n{END}{rest.split(END)[1]}"


def main() -> None:
    """Measure, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU; the page is left alone")
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--out", type=Path, default=DATA)
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--scale", type=float, default=1.0, help="of the time limits")
    args = parser.parse_args()
    if not args.page:
        if not args.dry_run and not torch.cuda.is_available():
            raise SystemExit("no CUDA device here; --dry-run rehearses on the CPU")
        if args.dry_run and args.out == DATA:
            raise SystemExit("a rehearsal is no measurement: name another file with --out")
        measure(Place("cpu" if args.dry_run else "cuda", tiny=args.dry_run), args.out, args.sections, args.scale)
    if not args.dry_run:
        PAGE.write_text(page())


if __name__ == "__main__":
    main()
