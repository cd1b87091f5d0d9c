"""The drop-in scheduler: any flowsamplers sampler inside any diffusers pipeline made for FlowMatchEuler.

The pipeline owns the loop and calls ``scheduler.step`` after every model call. So ``timesteps`` has one entry for each *model
call*: a sampler with two evaluations a step has twice as many entries as steps.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchEulerDiscreteSchedulerOutput,
)

# Not aliased: to reload a saved pipeline, diffusers looks for this very name in the module that defines the scheduler.
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401  # pyright: ignore[reportUnusedImport]
from torch import Tensor

from flowsamplers._accepted import unknown
from flowsamplers.engine import Evaluation, dry_run, largest_steps, nfe
from flowsamplers.grid import SigmaGrid
from flowsamplers.registry import get_sampler, to_config
from flowsamplers.sampler import Sampler
from flowsamplers.samplers import Euler, Renoise
from flowsamplers.schedules import explicit, flow_match_euler, pipeline_sigmas
from flowsamplers.solver import load_solver
from flowsamplers_diffusers.carried import CallNoise, CarriedRun, as_it_is
from flowsamplers_diffusers.foreign import sigmas_of, translated
from flowsamplers_diffusers.hosts import Order, skips_layers, told_the_target

logger = logging.getLogger(__name__)

Carry = Literal["float32", "float64", "model"]
Budget = Literal["steps", "nfe"]
_UNUSED = (0.0, 0.0, math.inf, 1.0)
"""Stock's defaults of s_churn, s_tmin, s_tmax and s_noise, which it accepts and never uses."""
_NEAR = 2**-8
"""Largest distance of a time from its entry, as a share of the whole range: bfloat16 rounds by up to 2 in 1000."""
_CARRIES: dict[str, torch.dtype] = {"float32": torch.float32, "float64": torch.float64, "model": torch.float32}


@dataclass
class FlowSamplerSchedulerOutput(FlowMatchEulerDiscreteSchedulerOutput):
    """The result of ``step`` unless ``return_dict=False``.

    Attributes:
        prev_sample: the latents for the next model call, ``(batch, ...)``, in the model output's dtype.
    """

    prev_sample: Tensor  # pyright: ignore[reportIncompatibleVariableOverride]


class FlowSamplerScheduler(FlowMatchEulerDiscreteScheduler):
    r"""Run any flowsamplers sampler in a diffusers pipeline, in place of ``FlowMatchEulerDiscreteScheduler``.

    The class is a subclass of it, because some pipelines and trainers check that. The schedule is FlowMatchEuler's, bit for bit, with
    all of its options. The scheduler keeps the state in float32, and the pipeline gets its own dtype.

    Args:
        num_train_timesteps: the model gets the time ``num_train_timesteps * sigma``.
        shift: static shift, if ``use_dynamic_shifting`` is off.
        use_dynamic_shifting: shift by the ``mu`` that the pipeline passes.
        base_shift: read by FLUX.1 pipelines.
        max_shift: read by FLUX.1 pipelines.
        base_image_seq_len: read by FLUX.1 pipelines.
        max_image_seq_len: read by FLUX.1 pipelines.
        invert_sigmas: the pipeline counts sigma from 0 at the noise to 1 at the data (Mochi). The sampler still gets a falling
            schedule, 1 - sigma, in ``grid``, and the velocity with the opposite sign.
        shift_terminal: stretch the shifted schedule so that its last node before the end lies at this sigma.
        use_karras_sigmas: re-space by Karras' rule.
        use_exponential_sigmas: re-space evenly in log sigma.
        use_beta_sigmas: re-space by beta quantiles.
        time_shift_type: form of the dynamic shift, ``"exponential"`` or ``"linear"``.
        stochastic_sampling: FlowMatchEuler's full re-noise; the same as ``sampler="lcm"``.
        sampler: name or specification (``"unipc:last=ralston3"``) of a registered sampler, or a sampler object. Also a solver
            of `fit`, as an object or the path of its JSON file. A solver brings its own sigmas, which replace the pipeline's.
        sampler_options: its options as one dict, such as ``{"last": "midpoint"}``; a sampler in it may be an object.
        carry: dtype of the state between steps. ``"float32"`` or ``"float64"``: a master copy, so that many steps in bfloat16
            do not pile up rounding; ``"model"``: rounded to the model's dtype on every step, as stock does (for ``euler`` and
            the full re-noise, bit for bit stock).
        seed: seed of a stochastic sampler: an int (image i of the batch has a stream of its own), or one int per image. With
            None it draws from the generator passed to ``step``, or from torch's global one.
        mu: hold the dynamic shift here; the value that the pipeline passes is ignored.
        budget: the meaning of ``num_inference_steps``: ``"steps"``, or ``"nfe"`` for model calls. The run then has the largest number of
            steps that needs at most this many calls. The dynamic shift is still the one that the pipeline passes.
        final_sigmas: explicit sigmas passed to ``set_timesteps`` are final and not shifted again. A pipeline's own default,
            1, 1 - 1/N, ..., 1/N, is still shifted.
        check: ``"finite"`` raises an error at the first model output that is not finite; each check waits for the device.
        schedule_of: configuration of a UniPC, DPM-Solver, DEIS or SA-Solver scheduler for flows, with its ``_class_name``. If no sigmas
            are passed, the run has the sigmas of that scheduler. `from_config` sets it.

    Raises:
        ValueError: a sampler, option or choice is unknown (the message has the nearest name), or the sampler is adaptive.

    Examples:
        >>> from diffusers import FlowMatchEulerDiscreteScheduler
        >>> stock = FlowMatchEulerDiscreteScheduler(shift=3.0)
        >>> scheduler = FlowSamplerScheduler.from_config(stock.config, sampler="ab2", sampler_options={"last": "midpoint"})
        >>> scheduler.set_timesteps(sigmas=[1.0, 0.5])
        >>> [round(t) for t in scheduler.timesteps.tolist()]
        [1000, 750, 375]

    Reference:
        https://huggingface.co/docs/diffusers/api/schedulers/flow_match_euler_discrete
    """

    _compatibles = ["FlowMatchEulerDiscreteScheduler"]  # noqa: RUF012  (diffusers' own form)
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        shift: float = 1.0,
        use_dynamic_shifting: bool = False,
        base_shift: float | None = 0.5,
        max_shift: float | None = 1.15,
        base_image_seq_len: int | None = 256,
        max_image_seq_len: int | None = 4096,
        invert_sigmas: bool = False,
        shift_terminal: float | None = None,
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        time_shift_type: Literal["exponential", "linear"] = "exponential",
        stochastic_sampling: bool = False,
        sampler: str = "euler",
        sampler_options: dict[str, Any] | None = None,
        carry: Carry = "float32",
        seed: int | list[int] | None = None,
        mu: float | None = None,
        budget: Budget = "steps",
        final_sigmas: bool = False,
        check: Literal["finite"] | None = None,
        schedule_of: dict[str, Any] | None = None,
    ) -> None:
        for option, value, known in (
            ("carry", carry, [*_CARRIES]),
            ("budget", budget, ["steps", "nfe"]),
            ("check", check, [None, "finite"]),
        ):
            if value not in known:
                raise unknown(option, str(value), [name for name in known if name])
        self._method = _method(sampler, sampler_options or {}, stochastic=stochastic_sampling)
        held = any(isinstance(value, Sampler) for value in (sampler_options or {}).values())
        if not isinstance(sampler, str) or sampler.endswith(".json") or held:  # the configuration is JSON
            self._register_object(self._method)
        self._seed = _seeds(seed)
        self._dtype, self._rounds, self._checks = _CARRIES[carry], carry == "model", check == "finite"
        self._is_stock = self._rounds and self._method in (Euler(), Renoise(eta=1.0))
        self._check_respacing()
        self._init_stock()
        given = self.config.get("_use_default_values", [])
        other = {}
        if schedule_of is not None:  # as diffusers does, keep what only the other scheduler reads: one may swap back
            other = {k: v for k, v in schedule_of.items() if k not in self.config and not k.startswith("_")}
            other |= {"use_flow_sigmas": True, "flow_shift": shift}
        flags = {"seed": self._seed, **other}
        self.register_to_config(**flags, _use_default_values=[k for k in given if k not in flags or seed is None])
        self.num_inference_steps: int | None = None
        self.grid: SigmaGrid | None = None
        self._announced: tuple[int, int, int | None] | None = None
        self._calls: tuple[Evaluation, ...] = ()
        self._warned_of_shape = self._warned_of_start = self._noised = False
        self._first = 0
        self._run: CarriedRun | None = None
        self._mark_followed()
        self._written: tuple[list[float], list[float]] = ([], [])
        self.order = Order(1)

    def _init_stock(self) -> None:
        """FlowMatchEuler's own attributes; its ``__init__`` would register its options as if they were all."""
        config = self.config
        names = inspect.signature(FlowMatchEulerDiscreteScheduler.__init__).parameters
        init = inspect.unwrap(FlowMatchEulerDiscreteScheduler.__init__)
        init(self, **{k: config[k] for k in names if k != "self"})

    @property
    def config(self) -> Any:
        """The options, as a diffusers configuration."""
        return super().config

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Make a scheduler from another scheduler's configuration, with changes.

        From another flow scheduler (UniPC, DPM-Solver, DEIS) it takes the schedule but not the method, which ``sampler`` names. A warning
        says this.

        Args:
            config: the configuration, such as ``pipe.scheduler.config``.
            return_unused_kwargs: see diffusers.
            **kwargs: options of this class that override the configuration's.

        Raises:
            ValueError: a keyword is no option of this class. diffusers would ignore it silently, for example a sampler option that
                belongs into ``sampler_options``.
        """
        accepted = sorted(cls._get_init_keys(cls) - {"self"})
        swapped = isinstance(config, dict) and bool(config.get("use_flow_sigmas"))  # pyright: ignore[reportUnknownMemberType]
        for name in kwargs:
            if name not in (accepted if not swapped else [*accepted, "flow_shift"]) and not return_unused_kwargs:
                error = unknown("option", name, accepted)
                raise ValueError(f"{error}. Options of the sampler go into sampler_options={{{name!r}: ...}}")
        config = translated(config, accepted, kwargs)
        kwargs = {k: v for k, v in kwargs.items() if not (swapped and k == "flow_shift")}
        return super().from_config(config, return_unused_kwargs=return_unused_kwargs, **kwargs)

    @staticmethod
    def _get_init_keys(input_class: Any) -> set[str]:
        """Names of the options; of a subclass that passes ``*args, **kwargs`` on, those of its parents too."""
        keys = set[str]()
        for cls in input_class.__mro__:
            parameters = inspect.signature(cls.__init__).parameters
            keys |= {k for k, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
            if all(p.kind != p.VAR_KEYWORD for p in parameters.values()):
                break
        return keys

    # The schedule

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: Sequence[float] | np.ndarray | Tensor | None = None,
        mu: float | None = None,
        timesteps: Sequence[float] | np.ndarray | Tensor | None = None,
    ) -> None:
        """Make the schedule and start a new run.

        Args:
            num_inference_steps: number of steps N; a step may take more than one model call. With ``budget="nfe"`` the number
                of model calls.
            device: device of ``sigmas`` and ``timesteps``.
            sigmas: N noise levels before the shift, falling; a final 0 is appended if it is missing.
            mu: the dynamic shift.
            timesteps: the model's times at the N nodes; between nodes they are interpolated in sigma.

        Raises:
            ValueError: see `schedules.flow_match_euler`. With ``budget="nfe"``: the calls are too few for one step, or sigmas
                or timesteps are passed that are not a pipeline's default.
        """
        if sigmas is not None:
            _check_given(sigmas)
        make = self._grid if self.config.budget == "steps" else self._grid_within
        own = self._method.own_grid
        if own is None:
            self.grid = make(num_inference_steps, sigmas, mu, timesteps)
        else:
            asked = num_inference_steps if sigmas is None else len(sigmas)
            if asked not in (None, own.steps) or timesteps is not None:
                raise ValueError(
                    f"num_inference_steps={asked}: the solver was fitted to {own.steps} steps, with sigmas of its own; pass "
                    f"num_inference_steps={own.steps}"
                )
            self.grid = own
        self._refuse_targets()
        self._noised = False
        self.num_inference_steps = self.grid.steps
        self._calls, self._first = dry_run(self._method, self.grid), 0
        listed = [call.sigma for call in self._calls]
        inverted = self.config.invert_sigmas
        levels = torch.tensor([1 - s if inverted else s for s in (*listed, self.grid.end)], dtype=torch.float32, device="cpu")
        if timesteps is None or inverted:
            times = levels[:-1] * self.config.num_train_timesteps
        else:
            times = torch.tensor(_interpolated(listed, self.grid, timesteps), dtype=torch.float32, device="cpu")
        self.sigmas, self.timesteps = levels.to(device), times.to(device)
        self._written = levels.tolist(), times.tolist()
        self._mark_followed()
        # Pipelines slice the list by `order` entries for each of the steps that they count: those they asked for, or, where they
        # passed sigmas or timesteps, the entries themselves.
        entries = sigmas is not None or timesteps is not None or self.config.budget == "nfe"
        self.order = Order(1 if entries else _calls_in_every_step(self._calls, self.grid.steps)).of(
            self._calls, entries=entries
        )
        self._step_index = self._begin_index = self._run = None
        asked = num_inference_steps if sigmas is None else len(sigmas)
        self._announce(asked if self.config.budget == "nfe" else None)
        self._warn_of_windows()

    def _grid(self, steps: int | None, sigmas: Any, mu: float | None, timesteps: Any) -> SigmaGrid:
        config = self.config
        if config.final_sigmas and not _is_default(sigmas):
            return explicit(sigmas)
        mu = mu if config.mu is None else config.mu
        if config.schedule_of and sigmas is None and timesteps is None and steps is not None:
            return sigmas_of(config.schedule_of, steps, shift=self._shift, mu=mu)
        if sigmas is None and timesteps is not None and (config.use_dynamic_shifting or self._shift != 1):
            logger.warning(
                "timesteps without sigmas: the model is told these times, but the sigmas that follow from them are shifted, so the two "
                "do not agree; pass sigmas, or both"
            )
        return flow_match_euler(
            steps,
            sigmas=sigmas,
            timesteps=timesteps,
            mu=mu,
            num_train_timesteps=config.num_train_timesteps,
            shift=self._shift,
            use_dynamic_shifting=config.use_dynamic_shifting,
            shift_terminal=config.shift_terminal,
            use_karras_sigmas=bool(config.use_karras_sigmas),
            use_exponential_sigmas=bool(config.use_exponential_sigmas),
            use_beta_sigmas=bool(config.use_beta_sigmas),
            time_shift_type=config.time_shift_type,
            sigma_range=(self.sigma_max, self.sigma_min),
            respaced_range=(config.get("sigma_max"), config.get("sigma_min")),
            arithmetic="stock",
        )

    def _grid_within(self, calls: int | None, sigmas: Any, mu: float | None, timesteps: Any) -> SigmaGrid:
        """The schedule of the most steps that take at most so many model calls, at the ``mu`` that was passed."""
        calls, given = calls if sigmas is None else len(sigmas), calls
        if calls is None or given not in (None, calls) or timesteps is not None or not _is_default(sigmas):
            raise ValueError(
                "budget='nfe': the number of steps follows from num_inference_steps, the model calls to spend; sigmas or timesteps "
                "other than 1, 1 - 1/N, ..., 1/N, the caller's or the pipeline's own, fix it too. Leave them out, or use "
                "budget='steps'"
            )

        def grid_of(steps: int) -> SigmaGrid:
            return self._grid(steps, None if sigmas is None else pipeline_sigmas(steps, "stock"), mu, None)

        steps = largest_steps(self._method, calls, grid_of)
        if steps == 0:
            raise ValueError(
                f"num_inference_steps={calls}: with budget='nfe' these are model calls, and one step of "
                f"sampler={self.config.sampler!r} takes {nfe(self._method, grid_of(1))}"
            )
        return grid_of(steps)

    def _register_object(self, method: Sampler) -> None:
        """Put a sampler object into the configuration as a name and JSON options, and no longer as defaults."""
        config = to_config(method)
        defaults = [k for k in self.config.get("_use_default_values", []) if k not in ("sampler", "sampler_options")]
        self.register_to_config(sampler=config["name"], sampler_options=config["options"], _use_default_values=defaults)

    def _check_respacing(self) -> None:
        chosen = [k for k in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas") if self.config[k]]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)}: only one re-spacing of the sigmas can be used")
        if self.config.time_shift_type not in ("exponential", "linear"):
            raise unknown("time_shift_type", self.config.time_shift_type, ["exponential", "linear"])

    def _announce(self, budget: int | None) -> None:
        """Say once how many model calls the steps take, where it is not one each; of a budget, where it is not spent."""
        steps, calls = self.grid.steps if self.grid else 0, len(self._calls)
        if calls == (steps if budget is None else budget) or self._announced == (steps, calls, budget):
            return
        self._announced = steps, calls, budget
        unspent = "" if budget is None else f" of the {budget} that num_inference_steps allows"
        logger.warning("sampler %r: %d steps take %d model calls%s", self.config.sampler, steps, calls, unspent)

    def _warn_of_windows(self) -> None:
        """Say where a pipeline takes the index of a model call for the index of a step."""
        calls, steps = len(self._calls), self.num_inference_steps or 0
        window = skips_layers() if calls != steps else None
        if window is not None:
            logger.warning(
                "sampler %r: the pipeline skips layers in a window of model calls, and %d steps take %d of them; for the same part of the "
                "run pass skip_layer_guidance_start=%.3g, skip_layer_guidance_stop=%.3g",
                *(self.config.sampler, steps, calls, *(share * calls / steps for share in window)),
            )

    def _refuse_targets(self) -> None:
        """A model that is told where the step ends returns the mean velocity up to there, which is Euler's step and no other's."""
        model = None if self._method == Euler() else told_the_target(self)
        if model is not None:
            raise ValueError(
                f"sampler={self.config.sampler!r}: the pipeline tells {model} the next entry of timesteps as the end of its step, and the "
                "model returns the mean velocity up to there; only sampler='euler' asks and moves like that"
            )

    # Where a run stands

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Set the first model call, as an index into ``timesteps``.

        Raises:
            ValueError: the index is negative.
        """
        if begin_index < 0:
            raise ValueError(f"begin_index={begin_index}: an index into timesteps, from 0")
        self._begin_index = self.order.begin = begin_index

    def _warn_of_the_start(self, begin: int) -> None:
        """Say once where a run begins that is to begin at a node at which the sampler calls no model."""
        call = self._calls[begin]
        if call.stage or self.grid is None or self._warned_of_start or call.sigma == self.grid.sigmas[call.step]:
            return
        self._warned_of_start = True
        logger.warning(
            "sampler %r: the run begins at sigma %.3g, and a scheduler with one call a step at %.3g, where this one makes no call",
            *(self.config.sampler, call.sigma, self.grid.sigmas[call.step]),
        )

    def index_for_timestep(self, timestep: float | Tensor, schedule_timesteps: Tensor | None = None) -> int:
        """Find the index of an entry of ``timesteps``: by its place in memory, else by the nearest value.

        Of equal ones it is the first entry, or else the first that begins a step.

        Raises:
            ValueError: no entry is close enough, or two entries are equal up to the rounding of the time; the message names them.
        """
        entries = self.timesteps if schedule_timesteps is None else schedule_timesteps
        place = _place(timestep, entries)
        return self._indices([timestep], entries)[0] if place is None else place

    def _indices(self, times: Any, entries: Tensor) -> list[int]:
        """The index of each of several times by value."""
        listed = entries.tolist()
        first: dict[float, int] = {}
        for i, t in enumerate(listed):
            begins = len(listed) == len(self._calls) and self._calls[i].stage == 0
            if t not in first or (begins and first[t] > 0 and self._calls[first[t]].stage > 0):
                first[t] = i
        found = {t: _nearest(t, first, self.config.num_train_timesteps) for t in {float(t) for t in times}}
        return [first[found[float(t)]] for t in times]

    def _mark_followed(self) -> None:
        self._followed = (self.sigmas, as_it_is(self.sigmas), self.timesteps, as_it_is(self.timesteps))

    def _follow(self) -> None:
        """Go by ``sigmas`` and ``timesteps`` that were put in from outside.

        Raises:
            ValueError: the sampler makes other model calls on these sigmas.
        """
        sigmas, sigmas_seen, timesteps, timesteps_seen = self._followed
        same = self.sigmas is sigmas and self.timesteps is timesteps
        if same and (as_it_is(sigmas), as_it_is(timesteps)) == (sigmas_seen, timesteps_seen):
            return
        self.sigmas, self.timesteps = (torch.as_tensor(x, dtype=torch.float32) for x in (self.sigmas, self.timesteps))
        if not self.sigmas.is_meta and not self.timesteps.is_meta:
            self._adopt(self.sigmas.tolist(), self.timesteps.tolist())
        self._mark_followed()

    def _adopt(self, sigmas: list[float], times: list[float]) -> None:
        old_sigmas, old_times = self._written
        if sigmas == old_sigmas and len(times) == len(old_times):
            self._written = sigmas, times
            return
        if sigmas == old_sigmas and self._begin_index is not None:
            return  # timesteps alone were sliced, and the pipeline says where it begins
        place = _slice_of(times if sigmas == old_sigmas else sigmas, old_times if sigmas == old_sigmas else old_sigmas)
        if place is not None:
            self._calls = self._calls[place : place + len(times)]
            self._first += place
            self.sigmas = self.sigmas if sigmas != old_sigmas else self.sigmas[place : place + len(times) + 1]
        else:
            self.grid, self._calls, self._first = *self._grid_of_calls(sigmas, times), 0
        if len(self.sigmas) != len(times) + 1 or len(self._calls) != len(times):
            raise self._not_followed(sigmas, times)
        self._written, self._run = (self.sigmas.tolist(), times), None

    def _grid_of_calls(self, sigmas: list[float], times: list[float]) -> tuple[SigmaGrid | None, tuple[Evaluation, ...]]:
        """The schedule on which the sampler makes its calls at these sigmas."""
        listed = [1 - s for s in sigmas] if self.config.invert_sigmas else sigmas
        if self._is_stock:
            return None, tuple(Evaluation(i, 0, s) for i, s in enumerate(listed[:-1]))
        starts = [i for i, call in enumerate(self._calls) if call.stage == 0] if len(listed) == len(self._calls) + 1 else []
        for nodes in (listed, [*(listed[i] for i in starts), listed[-1]]):
            try:
                grid = SigmaGrid(nodes, rising=nodes[-1] > nodes[0])
                calls = dry_run(self._method, grid)
            except ValueError:
                continue
            if len(calls) == len(times) and np.allclose([c.sigma for c in calls], listed[:-1], rtol=0, atol=2**-20):
                return grid, calls
        raise self._not_followed(sigmas, times)

    def _not_followed(self, sigmas: list[float], times: list[float]) -> ValueError:
        return ValueError(
            f"scheduler.sigmas and scheduler.timesteps were replaced by {len(sigmas)} sigmas and {len(times)} times, which are not the "
            f"model calls of sampler={self.config.sampler!r} on any falling schedule. Pass the schedule to set_timesteps(sigmas=[...]), "
            "with final_sigmas=True in the configuration if it is not to be shifted, and loop over scheduler.timesteps"
        )

    # The run

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor | None = None) -> Tensor:
        """Return the sample unchanged, because flow models need no scaling."""
        return sample

    def step(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = float("inf"),
        s_noise: float = 1.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        per_token_timesteps: Tensor | None = None,
        return_dict: bool = True,
    ) -> FlowSamplerSchedulerOutput | tuple[Tensor]:
        """Take the velocity of one model call, and return the latents for the next call.

        Args:
            model_output: velocity at ``sample``, ``(batch, ...)``.
            timestep: read only if no begin index was set.
            sample: the model's input; it may have been edited since this scheduler returned it.
            s_churn: only 0 is accepted. Stock accepts and ignores it, and its noise would be wrong for a flow.
            s_tmin: only 0 is accepted.
            s_tmax: only infinity is accepted.
            s_noise: only 1 is accepted.
            generator: source of noise for a stochastic sampler, in place of the configuration's seed.
            per_token_timesteps: ``(batch, tokens)`` one time for each token, for ``sampler="euler"`` as in stock.
            return_dict: return a `FlowSamplerSchedulerOutput` instead of a tuple.

        Returns:
            The next sample, in the dtype of ``model_output``.

        Raises:
            ValueError: ``timestep`` is an integer, an argument is not supported, or ``set_timesteps`` was not called.
            IndexError: there are more calls than the schedule has.
            FloatingPointError: with ``check="finite"``, the model output is not finite.
        """
        self._check_arguments(timestep, s_churn, s_tmin, s_tmax, s_noise, per_token_timesteps)
        _check_tensors(model_output, sample)
        self._follow()
        if not self._calls:
            raise ValueError("step: call set_timesteps first")
        if self._step_index is None:
            self._init_step_index(timestep)  # pyright: ignore[reportArgumentType]
        index = int(self._step_index or 0)
        if not 0 <= index < len(self._calls):
            raise IndexError(f"step: the schedule has {len(self._calls)} model calls, and all have been made")
        if self._checks and not bool(torch.isfinite(model_output).all()):
            call = self._calls[index]
            raise FloatingPointError(f"model_output is not finite at step {call.step}, stage {call.stage}, sigma {call.sigma}")
        if per_token_timesteps is not None:
            out = self._per_token(model_output, sample, per_token_timesteps)
        elif self._is_stock:
            out = self._stock(index, model_output, sample, generator)
        else:
            out = self._carried(index, model_output, sample, generator)
        self._step_index = index + 1
        return FlowSamplerSchedulerOutput(prev_sample=out) if return_dict else (out,)

    def _stock(self, i: int, v: Tensor, sample: Tensor, generator: Any) -> Tensor:
        """Stock's arithmetic: 0-dim float32 tensors do not promote, so they round to the dtype of ``v`` first."""
        x, s0, s1 = sample.to(torch.float32), self.sigmas[i], self.sigmas[i + 1]
        if isinstance(self._method, Euler):
            return (x + (s1 - s0) * v).to(v.dtype)
        noise = CallNoise(self._seed)
        noise.use(generator)
        return ((1.0 - s1) * (x - s0 * v) + s1 * noise(x, i, 0)).to(v.dtype)

    def _per_token(self, v: Tensor, sample: Tensor, timesteps: Tensor) -> Tensor:
        """Each token goes to the next sigma below its own; the pipelines that use this pass ``-v``."""
        own = timesteps / self.config.num_train_timesteps
        listed = self.sigmas.to(own.dtype)[:, None, None]
        below = torch.where(listed < own[None] - 1e-6, listed, torch.zeros_like(listed)).amax(dim=0)
        return sample.to(torch.float32) + (own - below)[..., None] * v

    def _check_fitted(self, call: int, sample: Tensor) -> None:
        """A fitted solver runs from its first sigma; another shape than it was fitted to is told once."""
        own, shape = self._method.own_grid, getattr(self._method, "shape", ())
        if own is not None and call:
            raise ValueError(
                f"the run begins at model call {call}: a fitted solver runs from its first sigma, {own.start:g}. For "
                "image-to-image fit one with start=, and pass strength=0.999, so that the pipeline leaves out no call"
            )
        if own is not None and own.start < 1 and not self._noised and not self._warned_of_start:
            self._warned_of_start = True
            logger.warning(
                "the solver was fitted for image-to-image from sigma %.3g, and this run was not put there by scale_noise; a run from "
                "noise needs a solver that was fitted from 1",
                own.start,
            )
        if shape and tuple(sample.shape[1:]) != shape and not self._warned_of_shape:
            self._warned_of_shape = True
            logger.warning("the solver was fitted to rows of shape %s and runs on %s", shape, tuple(sample.shape[1:]))

    def _carried(self, index: int, v: Tensor, sample: Tensor, generator: Any) -> Tensor:
        """One call of the run; a run that stands elsewhere, or had another shape, is another run."""
        run, call = self._run, self._first + index
        if run is None or run.next != call or run.shape != sample.shape:
            assert self.grid is not None
            self._check_fitted(call, sample)
            if run is None:
                self._warn_of_the_start(index)
            run = self._run = CarriedRun(
                self._method,
                self.grid,
                sample,
                begin=call,
                dtype=self._dtype,
                rounds=self._rounds,
                noise=CallNoise(self._seed),
            )
        run.noise.use(generator)
        out = run.take(v, sample, sign=-1 if self.config.invert_sigmas else 1)
        if index + 1 == len(self._calls):
            self._run = None
        return out

    def _check_arguments(
        self, timestep: Any, s_churn: float, s_tmin: float, s_tmax: float, s_noise: float, per_token: Tensor | None
    ) -> None:
        if isinstance(timestep, float) and not math.isfinite(timestep):
            raise ValueError(f"timestep={timestep}: pass an entry of scheduler.timesteps")
        if isinstance(timestep, int) or (isinstance(timestep, Tensor) and not timestep.is_floating_point()):
            raise ValueError(f"timestep={timestep}: pass an entry of scheduler.timesteps, not an index")
        if (s_churn, s_tmin, s_tmax, s_noise) != _UNUSED:
            given = {"s_churn": s_churn, "s_tmin": s_tmin, "s_tmax": s_tmax, "s_noise": s_noise}
            name, value, default = next((k, v, d) for (k, v), d in zip(given.items(), _UNUSED, strict=True) if v != d)
            raise ValueError(f"{name}={value}: no sampler here honours it (stock ignores it); leave it at {default}")
        if per_token is not None and not isinstance(self._method, Euler):
            stochastic = " without stochastic_sampling" if self.config.stochastic_sampling else ""
            raise ValueError(f"per_token_timesteps: only sampler='euler'{stochastic} can give every token a time of its own")

    # Noise on data

    def scale_noise(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, sample: Tensor, timestep: Tensor, noise: Tensor | None = None
    ) -> Tensor:
        r"""Add noise to data: $x_\sigma = (1 - \sigma) x_0 + \sigma n$.

        Args:
            sample: data, ``(batch, ...)``.
            timestep: ``(batch,)`` entries of ``timesteps``, read only if no begin index was set.
            noise: standard normal noise, like ``sample``.

        Raises:
            ValueError: ``noise`` is missing.
        """
        if noise is None:
            raise ValueError("noise=None: pass unit normal noise shaped like the sample")
        times = torch.as_tensor(timestep).reshape(-1)
        self._follow()
        if self._begin_index is not None:
            index = [self._begin_index if self._step_index is None else self._step_index] * len(times)
        elif len(times) == 1:
            index = [self.index_for_timestep(times[0])]
        else:
            index = self._indices(times.tolist(), self.timesteps)
        self._noised = True
        sigma = self.sigmas.to(device=sample.device, dtype=sample.dtype)[index]
        sigma = sigma.reshape(-1, *[1] * (sample.ndim - 1))
        return sigma * noise + (1.0 - sigma) * sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Add noise to data like `scale_noise`, with the name and argument order of diffusers' older schedulers."""
        return self.scale_noise(original_samples, timesteps, noise)


def _method(sampler: Any, options: dict[str, Any], *, stochastic: bool) -> Sampler:
    if isinstance(sampler, str) and sampler.endswith(".json"):
        sampler = load_solver(sampler)
    method = get_sampler(sampler, **options)
    if method.adaptive:
        raise ValueError(
            f"sampler={sampler!r} is adaptive: it chooses its model calls as it goes, but a diffusers pipeline fixes them before "
            "the run. Use flowsamplers.sample with KleinFlow, or a sampler with a fixed number of calls"
        )
    if not stochastic or method == Renoise(eta=1.0):
        return method
    if method != Euler():
        raise ValueError(f"stochastic_sampling=True is FlowMatchEuler's full re-noise; it excludes sampler={sampler!r}")
    return Renoise(eta=1.0)


def _is_default(sigmas: Any) -> bool:
    """Whether these are no sigmas, or those that pipelines pass of their own: 1, 1 - 1/N, ..., 1/N."""
    if sigmas is None:
        return True
    default = pipeline_sigmas(max(1, len(sigmas)), "stock")
    return len(sigmas) == len(default) and np.allclose([float(s) for s in sigmas], default, rtol=0, atol=2**-20)


def _interpolated(sigmas: list[float], grid: SigmaGrid, timesteps: Any) -> list[float]:
    """The model times of any sigmas, linear between those given at the nodes; the end of the grid keeps its own."""
    times = [float(t) for t in timesteps]
    nodes = grid.sigmas[: len(times)]
    ends = [*nodes, grid.end] if len(nodes) <= grid.steps else [*nodes]
    values = [*times, 0.0][: len(ends)]
    return [float(t) for t in np.interp(sigmas, ends[::-1], values[::-1])]


def _place(entry: Any, entries: Tensor) -> int | None:
    """Which element of a vector this tensor is a view of: no search, no wait for the device, and equal ones are told apart."""
    if not isinstance(entry, Tensor) or entry.numel() != 1 or entry.dtype != entries.dtype or entry.device != entries.device:
        return None
    if entry.untyped_storage().data_ptr() != entries.untyped_storage().data_ptr():
        return None
    place = int(entry.storage_offset() - entries.storage_offset())
    return place if 0 <= place < len(entries) and entries.is_contiguous() else None


def _calls_in_every_step(calls: Sequence[Evaluation], steps: int) -> int:
    """How many model calls each step takes, if that is one number; else 1."""
    counts = Counter(call.step for call in calls)
    most = max(counts.values())
    return most if len(calls) == most * steps else 1


def _nearest(time: float, entries: dict[float, int], train: int) -> float:
    """The entry that a time is, but for the rounding of float32, or of bfloat16 and float16.

    Raises:
        ValueError: none, or two that would be rounded to it.
    """
    if time in entries:
        return time
    nearest = min(entries, key=lambda t: abs(t - time), default=math.nan)
    for rounding in (2**-20, _NEAR):
        near = [t for t in entries if abs(t - time) <= rounding * train]
        if len(near) == 1:
            return near[0]
        if near:
            names = " and ".join(map(str, sorted(near, reverse=True)))
            raise ValueError(f"timestep={time}: it is rounded, and may be any of {names}; pass an entry of scheduler.timesteps")
    raise ValueError(f"timestep={time}: not in the schedule, whose nearest entry is {nearest}")


def _slice_of(part: list[float], whole: list[float]) -> int | None:
    """Where a list begins in a longer one."""
    return next((i for i in range(len(whole) - len(part) + 1) if whole[i : i + len(part)] == part), None)


def _check_given(sigmas: Any) -> None:
    """The sigmas as they were given, before any shift."""
    try:
        explicit(sigmas)
    except ValueError as error:
        raise ValueError(str(error).partition(" (pass rising")[0]) from None


def _check_tensors(model_output: Tensor, sample: Tensor) -> None:
    for name, x in (("model_output", model_output), ("sample", sample)):
        if not x.is_floating_point():
            raise ValueError(f"{name} of dtype {x.dtype}: a velocity and the latents are floating tensors")
    if model_output.shape != sample.shape:
        raise ValueError(f"model_output of shape {tuple(model_output.shape)} for a sample of shape {tuple(sample.shape)}")


def _seeds(seed: Any) -> int | list[int] | None:
    """Seeds as Python integers."""
    if seed is None:
        return None
    listed = [*seed] if isinstance(seed, list | tuple | np.ndarray) else [seed]
    if not all(isinstance(s, int | np.integer) and not isinstance(s, bool) for s in listed):
        raise ValueError(f"seed={seed!r}: an integer, a list with one for each image, or None")
    numbers = [int(s) for s in listed]
    return numbers if isinstance(seed, list | tuple | np.ndarray) else numbers[0]
