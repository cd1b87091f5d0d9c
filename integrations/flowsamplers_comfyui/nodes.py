"""The nodes, on ComfyUI's V3 schema. This is the only file that imports ComfyUI."""

# pyright: reportMissingImports=false, reportUntypedBaseClass=false

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy_api.latest import ComfyExtension, io
from torch import Tensor

import flowsamplers as fs
from flowsamplers.fitting import evaluations_at_most
from flowsamplers_comfyui import host, work
from flowsamplers_comfyui import schedule as schedules

CATEGORY = "sampling/flowsamplers"
NOISY = " (adds noise)"
WHOLE = torch.tensor([1.0, 0.0])
"""First and last sigma of a complete run."""


def sampler_menu() -> list[str]:
    """List every name of every sampler, grouped by family; stochastic ones are marked."""
    infos = sorted(fs.list_samplers(), key=lambda i: i.family)
    return [f"{i.family} / {name}{NOISY if i.stochastic else ''}" for i in infos for name in i.names]


def sampler_name(label: str) -> str:
    """Return the name in an entry of the menu; a plain name is returned unchanged."""
    return label.removesuffix(NOISY).rpartition(" / ")[2]


def schedule_menu() -> list[str]:
    """List every schedule and preset, grouped by family."""
    infos = sorted(fs.list_schedules(), key=lambda i: i.family)
    return [f"{i.family} / {name}" for i in infos for name in i.names]


def read_options(text: str, what: str) -> dict[str, Any]:
    """Read a JSON object from a text field; empty text means no options.

    Raises:
        ValueError: the text is no JSON object.
    """
    try:
        found = json.loads(text) if text.strip() else {}
    except json.JSONDecodeError as error:
        raise ValueError(f'{what}={text!r}: write a JSON object such as {{"eta": 0.5}}; {error}') from None
    if not isinstance(found, dict):
        raise ValueError(f'{what}={text!r}: write a JSON object such as {{"eta": 0.5}}')
    return found


def checked(ask: Callable[[], object]) -> bool | str:
    """Return the result of a validation for ComfyUI: True, or the error message."""
    try:
        ask()
    except (ValueError, TypeError, OSError) as error:
        return str(error)
    return True


def options_of(sampler: Any) -> dict[str, Any]:
    """Return the options of a SAMPLER made by the node Flow Sampler.

    Raises:
        ValueError: the sampler belongs to another program.
    """
    if getattr(sampler, "sampler_function", None) is not host.flow_sampler:
        raise ValueError("sampler: only a sampler of the nodes Flow Sampler and Fitted Solver can be counted and traced")
    return dict(sampler.extra_options)


def with_velocity(
    do: Callable[[host.Velocity, Tensor], Any], evaluations: int, sigmas: Tensor, /, model: Any, positive: Any, negative: Any,
    latent: Any, cfg: float, seed: int,
) -> Any:  # fmt: skip
    """Run ``do(velocity, x)`` in place of a sampler, with ComfyUI's own patches, guidance and conditioning.

    Args:
        do: function of the velocity and the start; its result is returned.
        evaluations: largest number of evaluations for the progress bar; each image of a model call counts once.
        sigmas: the schedule, or its first and last sigma.
        model: see `model_inputs`, as all that follow.
        positive: conditioning.
        negative: conditioning.
        latent: LATENT.
        cfg: the guidance scale.
        seed: seed of the noise.
    """
    found: list[Any] = []
    bar = comfy.utils.ProgressBar(evaluations)

    def on_call(x: Tensor, sigma: Tensor, denoised: Tensor) -> None:
        bar.update(len(x))
        comfy.model_management.throw_exception_if_processing_interrupted()

    def function(
        model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, callback: Any = None, disable: Any = None
    ) -> Tensor:
        host.check_flow(model)
        found.append(do(host.Velocity(model, extra_args or {}, on_call), x))
        return x

    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
    comfy.sample.sample_custom(
        model, noise, cfg, comfy.samplers.KSAMPLER(function), sigmas, positive, negative, samples,
        noise_mask=latent.get("noise_mask"), disable_pbar=True, seed=seed,
    )  # fmt: skip
    bar.update_absolute(evaluations)
    return found[0]


class Node(io.ComfyNode):
    """Base: the schema of a node from class attributes; its description is the docstring."""

    node_id: str
    display_name: str
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    is_output_node = False

    @classmethod
    def define_schema(cls) -> Any:
        """Return the schema."""
        return io.Schema(
            node_id=cls.node_id,
            display_name=cls.display_name,
            category=CATEGORY,
            description=cls.__doc__,
            inputs=list(cls.inputs),
            outputs=list(cls.outputs),
            is_output_node=cls.is_output_node,
        )


def model_inputs() -> list[Any]:
    """List the inputs of every node that calls the model."""
    return [
        io.Model.Input("model"),
        io.Conditioning.Input("positive"),
        io.Conditioning.Input("negative"),
        io.Latent.Input("latent"),
        io.Float.Input("cfg", default=1.0, min=0.0, max=100.0, step=0.1),
        io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF),
    ]


class FlowSampler(Node):
    """A sampler for rectified flows. Its noise, if any, depends on the image and not on the batch."""

    node_id, display_name = "FlowSampler", "Flow Sampler"
    inputs = (
        io.Combo.Input("sampler", options=sampler_menu(), default="euler / euler", tooltip="Family / name."),
        io.Combo.Input(
            "last_step", options=[host.AUTO, host.OWN, *host.ENDS, "ralston", "gauss_legendre2"], default=host.AUTO,
            tooltip="auto: the sampler's own last step. If that needs the model at sigma 0: the cheapest one that keeps the order.",
        ),
        io.String.Input("options", default="", multiline=False, tooltip='JSON, such as {"eta": 0.5}.'),
        io.Int.Input(
            "noise_seed", default=-1, min=-1, max=0x7FFFFFFFFFFFFFFF,
            tooltip="Seed of a stochastic sampler's noise; -1 uses the seed of the run.",
        ),
    )  # fmt: skip
    outputs = (io.Sampler.Output(),)

    @classmethod
    def validate_inputs(cls, sampler: str, options: str) -> bool | str:
        """Refuse a name or option that is none, before anything runs."""
        return checked(lambda: fs.get_sampler(sampler_name(sampler), **read_options(options, "options")))

    @classmethod
    def execute(cls, sampler: str, last_step: str, options: str, noise_seed: int) -> Any:
        """Make it."""
        method = fs.get_sampler(sampler_name(sampler), **read_options(options, "options"))
        own = None if noise_seed < 0 else noise_seed
        return io.NodeOutput(comfy_sampler(method, last_step, own))


def comfy_sampler(method: fs.Sampler, last: str, noise_seed: int | None = None) -> Any:
    """Make a SAMPLER."""
    return comfy.samplers.KSAMPLER(host.flow_sampler, {"sampler": method, "last": last, "noise_seed": noise_seed})


class FlowSchedule(Node):
    """Sigmas for a number of steps, or for a number of model calls of the connected sampler."""

    node_id, display_name = "FlowSchedule", "Flow Schedule"
    inputs = (
        io.Combo.Input("schedule", options=schedule_menu(), default="diffusers / flux2"),
        io.Int.Input("count", default=8, min=1, max=10000),
        io.Combo.Input("count_is", options=["steps", "model calls"], default="steps", tooltip="model calls: connect the sampler."),
        io.Float.Input("denoise", default=1.0, min=0.0, max=1.0, step=0.01, tooltip="The last steps of a finer schedule."),
        io.Float.Input("start", default=1.0, min=0.0, max=1.0, step=0.001, tooltip="Begin at this sigma."),
        io.Combo.Input(
            "shift", options=[schedules.SCHEDULE_SHIFT, schedules.MODEL_SHIFT], default=schedules.SCHEDULE_SHIFT,
            tooltip="schedule: shift from the options and the size. model: shift of the connected model.",
        ),
        io.Int.Input("width", default=1024, min=16, max=16384, step=8, tooltip="Pixels; a latent overrides it."),
        io.Int.Input("height", default=1024, min=16, max=16384, step=8),
        io.String.Input("options", default="", tooltip='JSON, such as {"shift": 3.0}.'),
        io.String.Input("edits", default="", tooltip='JSON, applied in order: {"split_last": 2}.'),
        io.Model.Input("model", optional=True),
        io.Sampler.Input("sampler", optional=True),
        io.Latent.Input("latent", optional=True),
    )  # fmt: skip
    outputs = (io.Sigmas.Output(), io.String.Output(display_name="numbers"))

    @classmethod
    def validate_inputs(cls, options: str, edits: str) -> bool | str:
        """Refuse text that is no JSON, before anything runs."""
        return checked(lambda: (read_options(options, "options"), read_options(edits, "edits")))

    @classmethod
    def execute(
        cls, schedule: str, count: int, count_is: str, denoise: float, start: float, shift: str, width: int, height: int,
        options: str, edits: str, model: Any = None, sampler: Any = None, latent: Any = None,
    ) -> Any:  # fmt: skip
        """Make it."""
        if count_is == "model calls" and sampler is None:
            raise ValueError("count_is='model calls': connect the sampler whose calls are counted")
        if shift == schedules.MODEL_SHIFT and model is None:
            raise ValueError("shift='model': connect the model whose shift is taken")
        of = options_of(sampler) if count_is == "model calls" else {}
        sampling = None if shift != schedules.MODEL_SHIFT else model.get_model_object("model_sampling")
        sigmas = schedules.sigmas_of(
            sampler_name(schedule),
            count,
            sampler=of.get("sampler"),
            last=of.get("last", host.AUTO),
            denoise=denoise,
            start=start,
            tokens=fs.schedules.tokens_for(width, height) if latent is None else schedules.tokens_of(latent["samples"]),
            shift=None if sampling is None else schedules.model_shift(SimpleNamespace(model_sampling=sampling)),
            options=read_options(options, "options"),
            edits=read_options(edits, "edits"),
        )
        return io.NodeOutput(sigmas, numbers(sigmas, of))


def numbers(sigmas: Tensor, of: dict[str, Any]) -> str:
    """Describe the sigmas, and the sampler's run if a sampler is connected."""
    if len(sigmas) < 2:
        return "no sigmas: nothing to do"
    listed = ", ".join(f"{s:.5f}" for s in sigmas.tolist())
    what = host.description(of["sampler"], sigmas, of["last"]) if of else f"{len(sigmas) - 1} steps"
    return f"{what}\n{listed}"


class FlowInspect(Node):
    """Sample, and record sigma, dt and the root mean squares of x and of the velocity at every model call."""

    node_id, display_name = "FlowInspect", "Flow Inspect"
    inputs = (*model_inputs(), io.Sampler.Input("sampler"), io.Sigmas.Input("sigmas"))
    outputs = (io.Latent.Output(), io.String.Output(display_name="table"), io.Image.Output(display_name="plot"))

    @classmethod
    def execute(cls, sampler: Any, sigmas: Tensor, **given: Any) -> Any:
        """Run it."""
        of, model, latent = options_of(sampler), given["model"], given["latent"]
        seed = given["seed"] if of.get("noise_seed") is None else of["noise_seed"]

        def run(velocity: host.Velocity, x: Tensor) -> work.Inspection:
            return work.inspect(velocity, x, sigmas, of["sampler"], last=of["last"], seed=seed)

        calls = work.calls_of(of["sampler"], sigmas, of["last"]) * len(latent["samples"])
        found = with_velocity(run, calls, sigmas, **given)
        return io.NodeOutput(finished(model, latent, found.x0, float(sigmas[-1])), str(found), work.plot_inspection(found))


def finished(model: Any, latent: Any, x: Tensor, end: float = 0.0) -> dict[str, Any]:
    """Convert a result of the sampler function to LATENT, as ComfyUI does after sampling."""
    sampling = model.get_model_object("model_sampling")
    samples = model.model.process_latent_out(sampling.inverse_noise_scaling(torch.tensor(end, device=x.device), x).float())
    kept = {k: v for k, v in latent.items() if k != "noise_mask"}
    return {**kept, "samples": samples.to(comfy.model_management.intermediate_device())}


class FlowStudy(Node):
    """Compare samplers at equal numbers of model calls with an accurate reference, whose own error is shown."""

    node_id, display_name = "FlowStudy", "Flow Study"
    inputs = (
        *model_inputs(),
        io.Vae.Input("vae"),
        io.String.Input("samplers", default="euler, heun, ab2, dpmpp_2m"),
        io.String.Input("calls", default="4, 8, 16"),
        io.Combo.Input("schedule", options=schedule_menu(), default="diffusers / flux2"),
        io.Int.Input("budget", default=400, min=60, max=100000, tooltip="Largest number of model calls, including the reference."),
    )  # fmt: skip
    outputs = (
        io.Image.Output(display_name="plot"),
        io.Image.Output(display_name="grid"),
        io.String.Output(display_name="result"),
    )
    is_output_node = True

    @classmethod
    def validate_inputs(cls, samplers: str, calls: str, schedule: str, budget: int) -> bool | str:
        """Refuse a plan that does not fit its budget, before anything runs."""
        return checked(lambda: planned(samplers, calls, schedule, budget, 4096))

    @classmethod
    def execute(cls, vae: Any, samplers: str, calls: str, schedule: str, budget: int, **given: Any) -> Any:
        """Run it."""
        model, latent = given["model"], given["latent"]
        what = planned(samplers, calls, schedule, budget, schedules.tokens_of(latent["samples"]))
        host.log.info("Flow Study: %s", what)
        evaluations = what.calls * len(latent["samples"])
        found = with_velocity(lambda velocity, x: work.study(velocity, x, what), evaluations, WHOLE, **given)
        keys = [*((name, count) for name, count, _ in what.runs), ("reference", max(c for _, c, _ in what.runs))]
        decoded = [vae.decode(finished(model, latent, x[:1])["samples"]) for x in found.pictures]
        pictures = {key: image.reshape(-1, *image.shape[-3:])[0].cpu() for key, image in zip(keys, decoded, strict=True)}
        return io.NodeOutput(work.plot_study(found), work.tiles(pictures), str(found))


def planned(samplers: str, calls: str, schedule: str, budget: int, tokens: int) -> work.Plan:
    """Make the plan of a study from its text fields."""
    name = sampler_name(schedule)
    options = schedules.options_for(name, {}, tokens=tokens, shift=None)
    try:
        counts = [int(c) for c in calls.split(",")]
    except ValueError:
        raise ValueError(f"calls={calls!r}: whole numbers, separated by commas, such as 4, 8, 16") from None
    names = [s.strip() for s in samplers.split(",") if s.strip()]
    return work.plan(names, counts, lambda steps: fs.get_schedule(name, steps, **options), budget)


class FittedSolver(Node):
    """A solver from a file of the command flowsamplers fit or the node Fit. Use its sampler and its sigmas together."""

    node_id, display_name = "FlowFittedSolver", "Fitted Solver"
    inputs = (io.String.Input("path", default="", tooltip="The JSON file of the solver."),)
    outputs = (io.Sampler.Output(), io.Sigmas.Output(), io.String.Output(display_name="about"))

    @classmethod
    def validate_inputs(cls, path: str) -> bool | str:
        """Refuse a file that is none, before anything runs; a path that is connected is read later."""
        return checked(lambda: fs.load_solver(path)) if path else True

    @classmethod
    def fingerprint_inputs(cls, path: str) -> str:
        """Return the content of the file, so that a changed file is read again."""
        return Path(path).read_text() if path and Path(path).is_file() else ""

    @classmethod
    def execute(cls, path: str) -> Any:
        """Read it."""
        return io.NodeOutput(*solver_outputs(fs.load_solver(path)))


def solver_outputs(solver: fs.Solver) -> tuple[Any, Tensor, str]:
    """Return SAMPLER, SIGMAS and a description of a fitted solver."""
    about = f"{solver.nfe} model calls\nfitted to {dict(solver.fitted_to)}"
    if solver.validation is not None:
        about += f"\n{solver.validation.verdict}"
    return comfy_sampler(solver.sampler, host.OWN), torch.tensor(solver.grid.sigmas, dtype=torch.float32), about


class FlowFit(Node):
    """Fit the sigmas and weights of a solver to this model. The latent's batch gives the starts; use some dozens."""

    node_id, display_name = "FlowFit", "Fit"
    inputs = (
        *model_inputs(),
        io.Int.Input("calls", default=8, min=1, max=100, tooltip="Model calls of the solver."),
        io.Int.Input("rounds", default=0, min=0, max=10, tooltip="Gauss-Newton rounds; 0 uses only the profile."),
        io.Int.Input("max_batch", default=8, min=1, max=4096, tooltip="Images in one model call."),
        io.String.Input("path", default="solver.json", tooltip="JSON file for the solver."),
    )
    outputs = (io.Sampler.Output(), io.Sigmas.Output(), io.String.Output(display_name="about"))

    @classmethod
    def execute(cls, calls: int, rounds: int, max_batch: int, path: str, **given: Any) -> Any:
        """Fit it."""
        starts = given["latent"]["samples"]

        def fit(velocity: host.Velocity, x: Tensor) -> fs.Solver:
            return fs.fit(velocity, x, calls, rounds=rounds, max_batch=max_batch, tokens=schedules.tokens_of(starts))

        solver = with_velocity(fit, evaluations_at_most(len(starts), [calls], rounds), WHOLE, **given)
        solver.save(path)
        return io.NodeOutput(*solver_outputs(solver))


class FlowExtension(ComfyExtension):
    """The extension that `comfy_entrypoint` returns."""

    async def get_node_list(self) -> list[Any]:
        """List the nodes, and add the schedules to the menu of the stock KSampler. ComfyUI 0.3.64 does not call ``on_load``."""
        schedules.register_stock(comfy.samplers)
        return [FlowSampler, FlowSchedule, FittedSolver, FlowFit, FlowInspect, FlowStudy]
