"""The drop-in scheduler: any flowsamplers sampler inside any diffusers pipeline made for FlowMatchEuler.

The pipeline owns the loop and calls ``scheduler.step`` after every model call. So ``timesteps`` has one entry for each *model
call*: a sampler with two evaluations a step has twice as many entries as steps.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Sequence
from typing import Any, Literal, cast

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
from flowsamplers.noise import as_seeds
from flowsamplers.registry import get_sampler, to_config
from flowsamplers.sampler import Sampler
from flowsamplers.samplers import Euler, Renoise
from flowsamplers.schedules import explicit, flow_match_euler, pipeline_sigmas
from flowsamplers.solver import load_solver
from flowsamplers_diffusers.other_schedulers import sigmas_of, translated
from flowsamplers_diffusers.pipelines import Order, mean_velocity_model, skipped_layers
from flowsamplers_diffusers.run import CARRIES, CallNoise, Carry, PipelineRun, contents
from flowsamplers_diffusers.timesteps import indices, place_of_slice

logger = logging.getLogger(__name__)

Budget = Literal["steps", "nfe"]
_UNUSED = {"s_churn": 0.0, "s_tmin": 0.0, "s_tmax": math.inf, "s_noise": 1.0}
"""Arguments of ``step`` that stock accepts and never uses, with their defaults."""
_SEEDS = "an integer of at most 64 bits, a list with one for each image, or None"
_RESPACINGS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
_OF_THE_SCHEDULE = ("num_train_timesteps", "use_dynamic_shifting", "shift_terminal", "time_shift_type")
"""Options that `flow_match_euler` takes as they are."""


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
            ("carry", carry, [*CARRIES]),
            ("budget", budget, ["steps", "nfe"]),
            ("check", check, [None, "finite"]),
            ("time_shift_type", time_shift_type, ["exponential", "linear"]),
        ):
            if value not in known:
                raise unknown(option, str(value), [name for name in known if name])
        respacings = [name for name in _RESPACINGS if self.config[name]]
        if len(respacings) > 1:
            raise ValueError(f"{' and '.join(respacings)}: only one re-spacing of the sigmas can be used")
        self._method = _method(sampler, sampler_options or {}, stochastic=stochastic_sampling)
        self._is_stock = carry == "model" and self._method in (Euler(), Renoise(eta=1.0))
        self._init_stock()
        self._register_as_json()
        self.num_inference_steps: int | None = None
        self.grid: SigmaGrid | None = None
        self.order = Order(1)
        self._calls: tuple[Evaluation, ...] = ()
        self._first = 0
        """Index of the first of ``_calls`` in the run on ``grid``: above 0 if the host cut the schedule."""
        self._run: PipelineRun | None = None
        self._noised = False
        self._warnings = set[str]()
        self._listed: tuple[list[float], list[float]] = ([], [])
        """The numbers in ``sigmas`` and ``timesteps`` to which ``_calls`` belongs."""
        self._mark_seen()

    def _init_stock(self) -> None:
        """FlowMatchEuler's own attributes; its ``__init__`` would register its options as if they were all."""
        init = inspect.unwrap(FlowMatchEulerDiscreteScheduler.__init__)
        init(self, **{k: self.config[k] for k in inspect.signature(init).parameters if k != "self"})

    def _register_as_json(self) -> None:
        """Put JSON values into the configuration: seeds as integers, a sampler object as its name and options."""
        config = self.config
        seed, sampler, options = config.seed, config.sampler, config.sampler_options or {}
        changed: dict[str, Any] = {"seed": None if seed is None else as_seeds(seed, "seed", _SEEDS)}
        named = isinstance(sampler, str) and not sampler.endswith(".json")
        if not named or any(isinstance(value, Sampler) for value in options.values()):
            made = to_config(self._method)
            changed |= {"sampler": made["name"], "sampler_options": made["options"]}
        if config.schedule_of is not None:  # as diffusers does, keep what only the other scheduler reads: one may swap back
            changed |= {k: v for k, v in config.schedule_of.items() if k not in config and not k.startswith("_")}
            changed |= {"use_flow_sigmas": True, "flow_shift": config.shift}
        defaults = [k for k in config.get("_use_default_values", []) if k not in changed or changed[k] == config[k]]
        self.register_to_config(**changed, _use_default_values=defaults)

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
        config, kwargs = translated(config, accepted, kwargs)
        for name in kwargs:
            if name not in accepted and not return_unused_kwargs:
                error = unknown("option", name, accepted)
                raise ValueError(f"{error}. Options of the sampler go into sampler_options={{{name!r}: ...}}")
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
        asked = num_inference_steps if sigmas is None else len(sigmas)
        by_calls, own, inverted = self.config.budget == "nfe", self._method.own_grid, self.config.invert_sigmas
        if own is None:
            make = self._grid_within if by_calls else self._grid
            self.grid = grid = make(num_inference_steps, sigmas, mu, timesteps)
        elif asked in (None, own.steps) and timesteps is None:
            self.grid = grid = own
        else:
            raise ValueError(
                f"num_inference_steps={asked}: the solver was fitted to {own.steps} steps, with sigmas of its own; pass "
                f"num_inference_steps={own.steps}"
            )
        self._refuse_targets()
        self.num_inference_steps = grid.steps
        self._calls, self._first = dry_run(self._method, grid), 0
        nodes = [call.sigma for call in self._calls]
        levels = torch.tensor([1 - s if inverted else s for s in (*nodes, grid.end)], dtype=torch.float32, device="cpu")
        times = levels[:-1] * self.config.num_train_timesteps
        if timesteps is not None and not inverted:
            known = [*map(float, timesteps), 0.0][: grid.steps + 1]
            between = np.interp(nodes, grid.sigmas[: len(known)][::-1], known[::-1])
            times = torch.tensor(between, dtype=torch.float32, device="cpu")
        self.sigmas, self.timesteps = levels.to(device), times.to(device)
        self._listed = levels.tolist(), times.tolist()
        self._mark_seen()
        # Pipelines slice the list by `order` entries for each of the steps that they count: those they asked for, or, where they
        # passed sigmas or timesteps, the entries themselves.
        self.order = Order.of(self._calls, entries=sigmas is not None or timesteps is not None or by_calls)
        self._step_index = self._begin_index = self._run = None
        self._noised = False
        self._warn_of_calls(asked if by_calls else None)

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
            shift=self._shift,
            sigma_range=(self.sigma_max, self.sigma_min),
            respaced_range=(config.get("sigma_max"), config.get("sigma_min")),
            arithmetic="stock",
            **{option: config[option] for option in _OF_THE_SCHEDULE},
            **{option: cast(Any, bool(config[option])) for option in _RESPACINGS},
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

    def _warn_once(self, message: str, *values: Any) -> None:
        """Log a warning, each sentence once for each scheduler."""
        text = message % values
        if text not in self._warnings:
            self._warnings.add(text)
            logger.warning(text)

    def _warn_of_calls(self, budget: int | None) -> None:
        """Warn if the number of model calls is not the one that the pipeline counts with, its steps or its budget."""
        assert self.grid is not None
        sampler, steps, calls = self.config.sampler, self.grid.steps, len(self._calls)
        if calls != (steps if budget is None else budget):
            unspent = "" if budget is None else f" of the {budget} that num_inference_steps allows"
            self._warn_once("sampler %r: %d steps take %d model calls%s", sampler, steps, calls, unspent)
        window = skipped_layers() if calls != steps else None
        if window is not None:
            self._warn_once(
                "sampler %r: the pipeline skips layers in a window of model calls, and %d steps take %d of them; for the same part of the "
                "run pass skip_layer_guidance_start=%.3g, skip_layer_guidance_stop=%.3g",
                *(sampler, steps, calls, *(share * calls / steps for share in window)),
            )

    def _refuse_targets(self) -> None:
        """Refuse a model that returns the mean velocity over a step, with which only Euler's method can move."""
        model = None if self._method == Euler() else mean_velocity_model(self)
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

    def index_for_timestep(self, timestep: float | Tensor, schedule_timesteps: Tensor | None = None) -> int:
        """Find the index of an entry of ``timesteps``: by its place in memory, else by the nearest value.

        Of equal ones it is the first entry, or else the first that begins a step.

        Raises:
            ValueError: no entry is close enough, or two entries are equal up to the rounding of the time; the message names them.
        """
        entries = self.timesteps if schedule_timesteps is None else schedule_timesteps
        return indices([timestep], entries, self._calls, self.config.num_train_timesteps)[0]

    def _mark_seen(self) -> None:
        self._seen = [(x, contents(x)) for x in (self.sigmas, self.timesteps)]

    def _follow(self) -> None:
        """Continue with ``sigmas`` and ``timesteps`` that the host has written.

        Raises:
            ValueError: the sampler makes other model calls on these sigmas.
        """
        now = self.sigmas, self.timesteps
        if all(x is seen and contents(x) == before for x, (seen, before) in zip(now, self._seen, strict=True)):
            return
        self.sigmas, self.timesteps = (torch.as_tensor(x, dtype=torch.float32) for x in now)
        if not self.sigmas.is_meta and not self.timesteps.is_meta:
            self._adopt(self.sigmas.tolist(), self.timesteps.tolist())
        self._mark_seen()

    def _adopt(self, sigmas: list[float], times: list[float]) -> None:
        old_sigmas, old_times = self._listed
        if sigmas == old_sigmas and len(times) == len(old_times):
            self._listed = sigmas, times
            return
        if sigmas == old_sigmas and self._begin_index is not None:
            return  # timesteps alone were sliced, and the pipeline says where it begins
        place = place_of_slice(times, old_times) if sigmas == old_sigmas else place_of_slice(sigmas, old_sigmas)
        if place is not None:
            self._calls = self._calls[place : place + len(times)]
            self._first += place
            self.sigmas = self.sigmas if sigmas != old_sigmas else self.sigmas[place : place + len(times) + 1]
        else:
            self.grid, self._calls, self._first = *self._grid_of_calls(sigmas, times), 0
        if len(self.sigmas) != len(times) + 1 or len(self._calls) != len(times):
            raise self._not_followed(sigmas, times)
        self._listed, self._run = (self.sigmas.tolist(), times), None

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
    ) -> FlowMatchEulerDiscreteSchedulerOutput | tuple[Tensor]:
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
            return_dict: return diffusers' output with ``prev_sample`` instead of a tuple.

        Returns:
            The next sample, in the dtype of ``model_output``.

        Raises:
            ValueError: ``timestep`` is an integer, an argument is not supported, or ``set_timesteps`` was not called.
            IndexError: there are more calls than the schedule has.
            FloatingPointError: with ``check="finite"``, the model output is not finite.
        """
        unused = dict(zip(_UNUSED, (s_churn, s_tmin, s_tmax, s_noise), strict=True))
        _check_step(model_output, timestep, sample, unused)
        if per_token_timesteps is not None and not isinstance(self._method, Euler):
            stochastic = " without stochastic_sampling" if self.config.stochastic_sampling else ""
            raise ValueError(f"per_token_timesteps: only sampler='euler'{stochastic} can give every token a time of its own")
        self._follow()
        if not self._calls:
            raise ValueError("step: call set_timesteps first")
        if self._step_index is None:
            self._init_step_index(timestep)  # pyright: ignore[reportArgumentType]
        index = int(self._step_index or 0)
        if not 0 <= index < len(self._calls):
            raise IndexError(f"step: the schedule has {len(self._calls)} model calls, and all have been made")
        if self.config.check and not bool(torch.isfinite(model_output).all()):
            call = self._calls[index]
            raise FloatingPointError(f"model_output is not finite at step {call.step}, stage {call.stage}, sigma {call.sigma}")
        if per_token_timesteps is not None or (self._is_stock and isinstance(self._method, Euler)):
            given = {"per_token_timesteps": per_token_timesteps, "return_dict": return_dict}
            return super().step(model_output, timestep, sample, **given)  # pyright: ignore[reportArgumentType]
        take = self._renoised if self._is_stock else self._sampled
        out = take(index, model_output, sample, generator)
        self._step_index = index + 1
        return FlowMatchEulerDiscreteSchedulerOutput(prev_sample=out) if return_dict else (out,)  # pyright: ignore[reportArgumentType]

    def _renoised(self, i: int, v: Tensor, sample: Tensor, generator: Any) -> Tensor:
        """Stock's full re-noise in its arithmetic: 0-dim float32 tensors do not promote, so they round to the dtype of ``v`` first."""
        x, s0, s1 = sample.to(torch.float32), self.sigmas[i], self.sigmas[i + 1]
        noise = CallNoise(self.config.seed)
        noise.use(generator)
        return ((1.0 - s1) * (x - s0 * v) + s1 * noise(x, i, 0)).to(v.dtype)

    def _sampled(self, index: int, v: Tensor, sample: Tensor, generator: Any) -> Tensor:
        """One call of the run. At another call than the next one, or with another shape, a new run begins."""
        run, call = self._run, self._first + index
        if run is None or run.next_call != call or run.shape != sample.shape:
            assert self.grid is not None
            self._check_beginning(index, sample)
            carry, seed = self.config.carry, self.config.seed
            run = self._run = PipelineRun(self._method, self.grid, sample, begin=call, carry=carry, seed=seed)
        out = run.take(-v if self.config.invert_sigmas else v, sample, generator)
        if index + 1 == len(self._calls):
            self._run = None
        return out

    def _check_beginning(self, index: int, sample: Tensor) -> None:
        """Refuse or warn of a run that does not begin as the sampler expects."""
        assert self.grid is not None
        own, shape, call = self._method.own_grid, getattr(self._method, "shape", ()), self._calls[index]
        if own is not None and self._first + index:
            raise ValueError(
                f"the run begins at model call {self._first + index}: a fitted solver runs from its first sigma, {own.start:g}. For "
                "image-to-image fit one with start=, and pass strength=0.999, so that the pipeline leaves out no call"
            )
        if own is not None and own.start < 1 and not self._noised:
            self._warn_once(
                "the solver was fitted for image-to-image from sigma %.3g, and this run was not put there by scale_noise; a run from "
                "noise needs a solver that was fitted from 1",
                own.start,
            )
        if shape and tuple(sample.shape[1:]) != shape:
            self._warn_once("the solver was fitted to rows of shape %s and runs on %s", shape, tuple(sample.shape[1:]))
        node = self.grid.sigmas[call.step]
        if self._run is None and call.stage == 0 and call.sigma != node:
            self._warn_once(
                "sampler %r: the run begins at sigma %.3g, and a scheduler with one call a step at %.3g, where this one makes no call",
                *(self.config.sampler, call.sigma, node),
            )

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
        if self._begin_index is None:
            index = indices(times, self.timesteps, self._calls, self.config.num_train_timesteps)
        else:
            index = [self._begin_index if self._step_index is None else self._step_index] * len(times)
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


def _check_given(sigmas: Any) -> None:
    """The sigmas as they were given, before any shift."""
    try:
        explicit(sigmas)
    except ValueError as error:
        raise ValueError(str(error).partition(" (pass rising")[0]) from None


def _check_step(model_output: Tensor, timestep: Any, sample: Tensor, unused: dict[str, float]) -> None:
    """Refuse what ``step`` cannot use."""
    if isinstance(timestep, float) and not math.isfinite(timestep):
        raise ValueError(f"timestep={timestep}: pass an entry of scheduler.timesteps")
    if isinstance(timestep, int) or (isinstance(timestep, Tensor) and not timestep.is_floating_point()):
        raise ValueError(f"timestep={timestep}: pass an entry of scheduler.timesteps, not an index")
    for name, default in _UNUSED.items():
        if unused[name] != default:
            raise ValueError(f"{name}={unused[name]}: no sampler here honours it (stock ignores it); leave it at {default}")
    for name, x in (("model_output", model_output), ("sample", sample)):
        if not x.is_floating_point():
            raise ValueError(f"{name} of dtype {x.dtype}: a velocity and the latents are floating tensors")
    if model_output.shape != sample.shape:
        raise ValueError(f"model_output of shape {tuple(model_output.shape)} for a sample of shape {tuple(sample.shape)}")
