"""Define a study (model, prompts, seeds, samplers, model calls), and predict its cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from flowsamplers._accepted import function, listed, mapping, refused, text
from flowsamplers._files import as_path
from flowsamplers.engine import carry_dtype, integrate, largest_steps, live_latents, nfe
from flowsamplers.flows.own import check_flow, completed
from flowsamplers.flows.prompts import default_prompts
from flowsamplers.flows.registry import load_flow
from flowsamplers.grid import SigmaGrid
from flowsamplers.lockstep import Task, run_tasks
from flowsamplers.noise import normal
from flowsamplers.registry import METRICS, get_sampler, parse_specification, schedule_info, to_config
from flowsamplers.registry.specifications import as_declared
from flowsamplers.sampler import Sampler, SamplerLike, grid_from_noise, steps_of
from flowsamplers.schedules import empirical_mu, get_schedule
from flowsamplers.solver import bundled_solvers
from flowsamplers.study.cost import Budget, Meter, Probe, probe
from flowsamplers.study.results import Results
from flowsamplers.study.run import Engine, Progress, run
from flowsamplers.study.store import REFERENCES
from flowsamplers.study.truth import evaluations_at_most

PIPELINE_STEPS = 50
"""Default number of steps of FLUX.2 pipelines; studies keep mu fixed at its value for it."""

WINDOW = 4
"""Number of full batches of runs that are in memory at once."""

DEFAULT_SAMPLERS: tuple[SamplerLike, ...] = ("euler", "heun", "midpoint", "ab2", "ab2:last=midpoint", "fireflow", "dpmpp_2m")
OWN_PROMPTS: tuple[str | None, ...] = ("the model's own",)
"""Stands for the first two of `flows.default_prompts` of the model, or for one None if ``flow`` is given."""


REFERENCE = 2400
"""Evaluations of a reference: two resolutions of 32 and 64 steps, and a cross-check."""
REFERENCES_OF = {"klein-emoji": 700}
"""Fewer where a call takes longer: 8 and 16 steps, and an error of at most about a thousandth."""


@dataclass(frozen=True)
class Planned:
    """A sampler with a schedule, to be run from every noise.

    Attributes:
        sampler: the sampler.
        grid: its schedule.
        nfe: number of model calls.
        schedule_options: options of the schedule, for the rows.
    """

    sampler: Sampler
    grid: SigmaGrid
    nfe: int
    schedule_options: Mapping[str, Any]


@dataclass(frozen=True)
class Study:
    """A study: measure the error of samplers against the number of model calls, on one model.

    Args:
        model: name of the model, see `flows.load_flow`; with ``flow`` only a name for the results.
        prompts: the prompts; one None for a model without prompts. By default the first two of `flows.default_prompts` of the
            model, and one None if ``flow`` is given.
        seeds: seeds of the noises; every prompt is run from every noise.
        samplers: names, configurations or objects; no stochastic or adaptive samplers. By default `DEFAULT_SAMPLERS`, and for a model
            that ships with fitted solvers these too, see `solver.bundled_solvers`.
        nfe: numbers of model calls; each sampler takes as many steps as fit into each.
        schedule: name of a schedule.
        schedule_options: its options; ``tokens`` is filled in from the model.
        mu: for ``flux2``: a number, ``"fixed"`` or ``"follow"``. With ``"fixed"``, all grids have the empirical mu of 50 steps.
            With ``"follow"``, each has that of its number of steps, as in the pipeline.
        flow_options: options of the model's loader: height, width, guidance_scale, guidance_interval,
            batched_guidance, dtype, device, offload, full_time.
        max_batch: largest number of rows in one model call; it changes the cost of a study, not its results.
        reference_evaluations: budget of each reference. By default `REFERENCE`, and for the bundled klein-emoji 700.
        local_nfe: up to this number of model calls the local errors of the first prompt and seed are measured.
        metrics: names of registered metrics, see `registry.METRICS`; each compares the decoded image with the reference's.
        flow: your own model in place of one that is opened by name; only ``velocity(x, sigma)`` is required, see
            `flows.OwnFlow`.
        shape: shape of one row of its noise, if the object has no attribute ``shape``.

    Raises:
        ValueError: a number of calls is below 1. There is nothing to do, or something twice. A sampler is stochastic or
            adaptive. A flow has no shape, or a velocity of another shape.
        TypeError: a flow has no velocity, or ``model`` is no name.

    Examples:
        >>> study = Study("mixture:four-gaussians", prompts=(None,), seeds=(0, 1), samplers=("euler", "heun"), nfe=(4, 8))
        >>> [(p.grid.steps, p.nfe) for p in study.runs(tokens=8)]
        [(4, 4), (8, 8), (2, 4), (4, 8)]
        >>> study.plan().rows
        8
    """

    model: str = "klein-emoji"
    prompts: Sequence[str | None] = OWN_PROMPTS
    seeds: Sequence[int] = (0, 1)
    samplers: Sequence[SamplerLike] = DEFAULT_SAMPLERS
    nfe: Sequence[int] = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
    schedule: str = "flux2"
    schedule_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    mu: float | Literal["fixed", "follow"] = "fixed"
    flow_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    max_batch: int = 64
    reference_evaluations: int = 0
    local_nfe: int = 16
    metrics: Sequence[str] = ()
    flow: Any = field(default=None, repr=False)
    shape: Sequence[int] | None = None

    def __post_init__(self) -> None:
        """Check everything that can be checked before a model is loaded."""
        for name in ("prompts", "seeds", "nfe", "samplers"):
            value = getattr(self, name)  # a tuple stays the same object: a default is known by it
            self._set(**{name: value if isinstance(value, tuple) else tuple(listed(name, value, "a list"))})
        self._check_names()
        self._check_mu()
        if self.flow is None:
            self._complete_named()
        else:
            self._complete_flow()
        self._set(samplers=tuple(map(get_sampler, self.samplers)))
        self._check_numbers()
        for name in ("prompts", "seeds", "samplers", "nfe"):
            if not getattr(self, name):
                raise ValueError(f"{name}=[]: a study needs at least one")
        for name in ("prompts", "seeds", "nfe", "samplers", "metrics"):
            values = getattr(self, name)
            if any(value in values[:i] for i, value in enumerate(values)):
                shown = name if name == "samplers" else f"{name}={list(values)}"
                raise ValueError(f"{shown}: one of them is there twice")
        for sampler in self.methods:
            if sampler.claims.stochastic or sampler.claims.adaptive:
                kind = "stochastic (see study.stochastic_orders)" if sampler.claims.stochastic else "adaptive"
                name = to_config(sampler)["name"]
                raise ValueError(f"sampler {name!r} is {kind}: it has no error against the number of steps")

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _check_names(self) -> None:
        if not isinstance(self.model, str):
            raise TypeError(f"model={type(self.model).__name__}: accepted is a name; give an object as flow=")
        text("model", self.model)
        schedule_info(parse_specification(text("schedule", self.schedule))[0])
        for name in ("schedule_options", "flow_options"):
            self._set(**{name: mapping(name, getattr(self, name))})
        for prompt in self.prompts:
            if prompt is not None and not isinstance(prompt, str):
                raise TypeError(str(refused("prompts", self.prompts, "a list of texts; None stands for no prompt")))
        self._set(metrics=tuple(listed("metrics", self.metrics, "a list of names")))
        for name in self.metrics:
            METRICS.find(name)

    def _check_mu(self) -> None:
        if isinstance(self.mu, str):
            if self.mu not in ("fixed", "follow"):
                raise ValueError(f"mu={self.mu!r}: accepted are a number, 'fixed' and 'follow'")
        else:
            as_declared("mu", self.mu, "float")

    def _complete_named(self) -> None:
        """Fill in the prompts of a model that is opened by name, and the solvers that ship with it."""
        if self.shape is not None:
            raise ValueError(f"shape={self.shape}: this is the shape of a row of an object, which is given as flow=")
        if self.prompts is OWN_PROMPTS:
            self._set(prompts=default_prompts(self.model).given[:2])
        if self.samplers is DEFAULT_SAMPLERS and not self.flow_options:
            fitted = [s.as_sampler for s in bundled_solvers(self.model) if s.nfe in self.nfe]
            self._set(samplers=(*DEFAULT_SAMPLERS, *fitted))

    def _complete_flow(self) -> None:
        """Give an object that was passed as the flow what it does not bring, and see that it works."""
        if self.prompts is OWN_PROMPTS:
            self._set(prompts=(None,))
        if self.flow_options:
            raise ValueError(
                f"flow_options={dict(self.flow_options)}: these are for a model that is opened by name, not for flow="
            )
        condition = next(iter(self.prompts), None)
        flow = completed(self.flow, self.shape, condition=condition)
        own_name = str(getattr(flow, "name", type(flow).__name__))
        self._set(flow=flow, model=own_name if self.model == Study.model else self.model)
        check_flow(flow, condition)
        if self.metrics and not hasattr(flow, "decode"):
            raise ValueError(f"metrics={list(self.metrics)}: they compare images, and this flow has no decode(x0, 'pt')")

    def _check_numbers(self) -> None:
        for name in ("nfe", "seeds"):
            self._set(**{name: tuple(as_declared(name, v, "int") for v in getattr(self, name))})
        for name in ("max_batch", "reference_evaluations", "local_nfe"):
            self._set(**{name: as_declared(name, getattr(self, name), "int")})
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: accepted is a whole number that is not negative")
        if self.reference_evaluations == 0:
            self._set(reference_evaluations=REFERENCES_OF.get(self.model, REFERENCE))
        for budget in self.nfe:
            if budget < 1:
                raise ValueError(f"nfe={budget}: a budget is at least 1 model call")
        if self.max_batch < 1:
            raise ValueError(f"max_batch={self.max_batch}: a model call needs at least 1 row")
        for seed in self.seeds:
            if not -(2**63) <= seed < 2**63:
                raise ValueError(f"seed={seed}: a seed is a whole number of at most 64 bits, its sign among them")

    def grid(self, steps: int, tokens: int) -> tuple[SigmaGrid, dict[str, Any]]:
        """Make the schedule with N steps for a model with this many tokens, and return its options too."""
        options = dict(self.schedule_options)
        if self.schedule in ("flux1", "flux2"):
            options.setdefault("tokens", tokens)
        if self.schedule == "flux2" and "mu" not in options and self.mu != "follow":
            fixed = empirical_mu(tokens=options["tokens"], steps=PIPELINE_STEPS)
            options["mu"] = fixed if self.mu == "fixed" else self.mu
        return get_schedule(self.schedule, steps, **options), options

    def runs(self, tokens: int) -> list[Planned]:
        """List the runs: for each sampler and number of calls the largest number of steps that fits, each number once."""
        planned: list[Planned] = []
        for sampler in self.methods:
            own = grid_from_noise(sampler)
            if own is None:
                fitting = {largest_steps(sampler, budget, lambda n: self.grid(n, tokens)[0]) for budget in self.nfe}
                grids = [self.grid(steps, tokens) for steps in sorted(fitting - {0})]
            else:
                grids = [(own, {})]
            planned += [Planned(sampler, grid, nfe(sampler, grid), options) for grid, options in grids]
        if not planned:
            raise ValueError(f"nfe={list(self.nfe)}: not one step of any of the samplers fits")
        return planned

    @property
    def methods(self) -> Sequence[Sampler]:
        """The samplers, as objects."""
        return cast("Sequence[Sampler]", self.samplers)

    @property
    def cases(self) -> list[tuple[str | None, int]]:
        """All pairs of prompt and seed; every run is made from each."""
        return [(prompt, seed) for prompt in self.prompts for seed in self.seeds]

    @property
    def window(self) -> int:
        """Number of runs that are in memory at once: a few full batches."""
        return WINDOW * self.max_batch

    def settings(self) -> dict[str, Any]:
        """The settings that define the study, as JSON values; settings of the computation are not among them."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("max_batch", "flow", "shape")}
        values["samplers"] = [to_config(s) for s in self.methods]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    def with_earlier(self, settings: Mapping[str, Any]) -> Study:
        """Merge this study with the samplers and numbers of calls in the settings of an earlier one."""
        before = [get_sampler(s) for s in settings.get("samplers", ())]
        return replace(
            self,
            samplers=(*before, *(s for s in self.methods if s not in before)),
            nfe=sorted({*settings.get("nfe", ()), *self.nfe}),
        )

    def open(self) -> Any:
        """Open the model: return ``flow``, or the result of `flows.load_flow`."""
        if self.flow is not None:
            return self.flow
        prompt = {} if self.prompts[0] is None else {"prompt": self.prompts[0]}
        return completed(load_flow(self.model, **prompt, **self.flow_options), condition=self.prompts[0])

    def plan(self, flow: Any = None) -> Plan:
        """Predict the cost: open the model, time a few calls, and write nothing.

        Args:
            flow: the model, if it is already open.
        """
        return plan(self, self.open() if flow is None else flow)

    def run(
        self,
        folder: str | Path,
        *,
        engine: Engine = "local",
        budget: Budget | None = None,
        references: str | Path | None = None,
        progress: Progress | None = None,
    ) -> Results:
        """Run or continue the study, and write rows, figures and the report into a folder; see `study.run.run`."""
        folder = as_path("folder", folder)
        where = folder / REFERENCES if references is None else as_path("references", references)
        if budget is not None and not isinstance(budget, Budget):
            raise TypeError(str(refused("budget", budget, "a Budget, such as Budget.parse('2h'), or None")))
        function("progress", progress, "a function of stage, done and total")
        return run(self, folder, engine=engine, budget=budget, references=where, progress=progress)


class _Rough:
    """A field on which only equal requests have equal answers."""

    def velocity(self, x: Tensor, sigma: Tensor, condition: Sequence[Any] | None = None) -> Tensor:
        return torch.sin(3 * x) + sigma[:, None] - 0.3 * x.roll(1, dims=1)


def unique_evaluations(planned: Sequence[Planned]) -> int:
    """Count the evaluations of all runs from one noise, if equal evaluations are computed once.

    The count comes from a run on a small velocity field, because which requests are equal depends only on the samplers.
    """
    x1, meter = normal(0, (1, 16), torch.float64), Meter(_Rough())
    tasks = [Task(partial(integrate, p.sampler, x1, steps_of(p.grid))) for p in planned]
    run_tasks(meter, tasks, lambda *_: None, dtype=torch.float64)
    return meter.rows


@dataclass(frozen=True)
class Plan:
    """The plan of a study: its runs and their cost.

    Attributes:
        cases: number of prompts times number of seeds.
        runs: number of samplers times schedules.
        asked: evaluations of all runs together.
        unique: evaluations that remain if equal ones are computed once.
        local: evaluations for the local errors of the first case.
        references: evaluations for references and noise floors, at most.
        passes: forward passes of one evaluation.
        states: bytes of all runs that are in memory at once.
        probe: measured times, operations and memory.
    """

    cases: int
    runs: int
    asked: int
    unique: int
    local: int
    references: int
    passes: int
    states: int
    probe: Probe

    @property
    def rows(self) -> int:
        """Number of rows: one for each run from each noise."""
        return self.cases * self.runs

    @property
    def evaluations(self) -> int:
        """Number of evaluations of the whole study, at most."""
        return self.unique + self.local + self.references + self.probe.evaluations

    @property
    def seconds(self) -> float:
        """Seconds that the study will take, at most, from the probe."""
        return self.evaluations * self.probe.batched

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {**asdict(self), "rows": self.rows, "evaluations": self.evaluations, "seconds": self.seconds}

    def lines(self) -> list[str]:
        """Format for the terminal."""
        p = self.probe
        flops = f"{p.flops * self.evaluations:.1e}   ({p.flops:.1e} an evaluation)" if p.flops else "not counted for this model"
        memory = f"{_bytes(p.memory)} in the probe" if p.memory else "not known here"
        return [
            f"rows                  {self.rows:>10,}   {self.runs} runs from each of {self.cases} prompts and seeds",
            f"evaluations asked for {self.asked:>10,}",
            f"  left after sharing  {self.unique:>10,}",
            f"  for local errors    {self.local:>10,}",
            f"  for references      {self.references:>10,}   at most",
            f"forward passes        {self.evaluations * self.passes:>10,}   at most, {self.passes} an evaluation",
            f"FLOPs                 {flops}",
            f"memory                {memory}, and {_bytes(self.states)} for the runs on their way",
            (
                f"time                  {_duration(self.seconds)} at most, by a probe: an evaluation takes\n"
                f"{'':<22}{1e3 * p.solo:.1f} ms alone, {1e3 * p.batched:.1f} ms in a batch of {p.rows}"
            ),
        ]


def plan(study: Study, flow: Any) -> Plan:
    """Make the plan of a study on an open model, with a few timed model calls.

    Args:
        study: the study.
        flow: its model.
    """
    planned = study.runs(flow.tokens)
    cases = len(study.cases)
    timed = probe(Meter(flow), study.prompts[0], min(study.max_batch, cases * len(planned)))
    x1 = flow.noise([study.seeds[0]])
    state = x1.numel() * torch.finfo(carry_dtype(x1)).bits // 8
    return Plan(
        cases=cases,
        runs=len(planned),
        asked=cases * sum(p.nfe for p in planned),
        unique=cases * unique_evaluations(planned),
        local=sum(p.nfe for p in planned if p.nfe <= study.local_nfe),
        references=cases * evaluations_at_most(study.reference_evaluations),
        passes=flow.passes_per_evaluation,
        states=min(study.window, cases * len(planned)) * max(map(_live, planned)) * state,
        probe=timed,
    )


def _live(planned: Planned) -> int:
    """Latents that a run holds at its peak: a few of its steps show it."""
    few = planned.sampler.own_grid is None and planned.grid.steps > SHOWN
    return live_latents(planned.sampler, SigmaGrid(planned.grid.sigmas[: SHOWN + 1]) if few else planned.grid)


SHOWN = 12
"""Number of steps after which the memory of a run no longer grows."""


def _bytes(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
