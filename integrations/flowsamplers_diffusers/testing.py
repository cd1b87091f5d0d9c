"""Test kit for diffusers schedulers: the needs of flow pipelines as laws, and a test class to inherit.

A law takes a *factory*, which makes a scheduler from configuration keywords. A law raises AssertionError if it is broken, and
`flowsamplers.testing.laws.NotApplicable` if it does not apply.
"""

from __future__ import annotations

import copy
import gc
import inspect
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from torch import Tensor

from flowsamplers.engine import Velocity
from flowsamplers.grid import SigmaGrid
from flowsamplers.noise import Seeds
from flowsamplers.schedules import flux2
from flowsamplers.testing.conformance import holds
from flowsamplers.testing.fields import smooth, solution, start_at
from flowsamplers.testing.laws import NotApplicable
from flowsamplers.testing.subject import Subject

Factory: TypeAlias = Callable[..., Any]
"""A function that makes a scheduler from configuration keywords."""

FOUR = tuple(flux2(4, tokens=4096).sigmas[:-1])
"""FLUX.2's nodes for four steps at 1024 x 1024."""


def begin(make: Factory, sigmas: Sequence[float] = FOUR, **config: Any) -> Any:
    """Set up a scheduler as pipelines do, with ``set_begin_index(0)``.

    Pipelines call ``set_timesteps(sigmas=..., mu=...)``. If the configuration has ``use_flow_sigmas``, only the number of steps is
    passed. A scheduler that accepts neither ``sigmas`` nor ``mu`` gets the arguments that it accepts.
    """
    scheduler = make(**config)
    takes = inspect.signature(scheduler.set_timesteps).parameters
    given: dict[str, Any] = {"mu": 1.0} if "mu" in takes else {}
    if "sigmas" in takes and not scheduler.config.get("use_flow_sigmas"):
        scheduler.set_timesteps(sigmas=np.array(sigmas), device="cpu", **given)
    else:
        scheduler.set_timesteps(len(sigmas), device="cpu", **given)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    return scheduler


def run(scheduler: Any, velocity: Velocity, x: Tensor, calls: slice = slice(None), **step: Any) -> Tensor:
    """Run a pipeline's loop, or some of its calls: call the model at every entry of ``timesteps``, in the latents' dtype."""
    for t in scheduler.timesteps[calls]:
        x = call(scheduler, velocity, x, t, **step)
    return x


def call(scheduler: Any, velocity: Velocity, x: Tensor, t: Tensor, **step: Any) -> Tensor:
    """Make one call of a pipeline's loop, at the time ``t``, and return the next latents."""
    sigma = (t.double() / scheduler.config.num_train_timesteps).expand(len(x))
    return scheduler.step(velocity(x, sigma).to(x.dtype), t, x, return_dict=False, **step)[0]


@contextmanager
def seeded(seed: int = 0) -> Generator[None]:
    """Seed torch's global generator inside this context."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def subject_of_scheduler(make: Factory, *, order: int = 1, stochastic: bool = False) -> Subject:
    """Make a subject of the sampler laws from a diffusers scheduler, on complete schedules.

    Args:
        make: the factory; its configuration must not shift the schedule.
        order: the declared order.
        stochastic: whether it draws noise.

    Examples:
        >>> from flowsamplers_diffusers import FlowSamplerScheduler
        >>> from flowsamplers.testing import laws
        >>> laws.applied_dt_sum_to_end_minus_start(subject_of_scheduler(FlowSamplerScheduler), dtype=torch.bfloat16)
    """

    def integrate(velocity: Velocity, x1: Tensor, grid: SigmaGrid, *, seed: Seeds | None = None, grad: bool = False) -> Tensor:
        if grid.end != 0:
            raise NotApplicable("a diffusers scheduler ends at sigma 0")
        with torch.set_grad_enabled(grad):
            return run(begin(make, grid.sigmas[:-1]), velocity, x1)

    return Subject(name=type(make()).__name__, run=integrate, order=order, stochastic=stochastic)


def takes_the_pipelines_call(make: Factory) -> None:
    """``set_timesteps`` accepts ``sigmas`` and ``mu``, which pipelines pass."""
    names = inspect.signature(make().set_timesteps).parameters
    assert "sigmas" in names, "set_timesteps takes no sigmas: pipelines of flow models refuse the scheduler"
    assert "mu" in names, "set_timesteps takes no mu: pipelines of flow models end in a TypeError"
    begin(make)


def the_sigmas_given_are_used(make: Factory) -> None:
    """Without a configured shift, the nodes of the run are the sigmas that were passed.

    A scheduler that also calls the model between its nodes shows them as ``grid``, a `flowsamplers.SigmaGrid`.
    """
    scheduler = begin(make)
    asked = [float(t) / scheduler.config.num_train_timesteps for t in scheduler.timesteps]
    seen = scheduler.grid.sigmas if hasattr(scheduler, "grid") else asked
    for sigma in FOUR:
        assert min(abs(sigma - s) for s in seen) <= 2**-20, f"sigma {sigma} was given; the nodes are {seen}"


def it_starts_at_pure_noise(make: Factory) -> None:
    """The scheduler's own schedule begins at sigma 1, the noise level of the initial latents."""
    scheduler = begin(make)
    first = float(scheduler.timesteps[0]) / scheduler.config.num_train_timesteps
    assert abs(first - 1) <= 2**-20, f"the latents are pure noise, and the model is told sigma {first}"


def the_last_sigma_is_0(make: Factory) -> None:
    """The schedule ends at the data, not at the last time of a model call."""
    last = float(begin(make).sigmas[-1])
    assert last == 0, f"the last sigma is {last}: noise stays in the picture"


def times_are_not_rounded(make: Factory) -> None:
    """``timesteps`` are floats. An integer would be wrong by up to 0.1 % of the whole range."""
    scheduler = begin(make)
    assert scheduler.timesteps.is_floating_point(), f"timesteps are {scheduler.timesteps.dtype}"
    times = scheduler.timesteps.double()
    assert bool((times != times.round()).any()), f"timesteps are whole numbers: {times.tolist()}"


def the_dt_applied_sum_to_minus_1(make: Factory, dtype: torch.dtype = torch.bfloat16) -> None:
    """A constant velocity of 1 moves a sample from 1 to 0 in a pipeline's loop, in every dtype.

    The end is near 0, where every dtype is accurate, so the law measures the rounding of the state and not of the result.
    """
    scheduler = begin(make)
    out = run(scheduler, lambda x, sigma: torch.ones_like(x), torch.ones(1, 4, 8, dtype=dtype))
    gap = out.double().abs().max().item()
    assert gap <= 16 * len(scheduler.timesteps) * torch.finfo(torch.float32).eps, f"{dtype}: {gap:.2e} of the noise stays"


def order_is_at_least_1_and_errors_fall(make: Factory) -> None:
    """With 128 nodes the error is at most a third of that with 32 nodes, or only rounding remains.

    The solution is that of `scipy.integrate.solve_ivp`. A state in float32 is rounded up to four times a step.
    """
    x1, truth = start_at().float(), solution(1, 0)
    errors = [float((run(begin(make, _uniform(n)), smooth, x1) - truth).norm() / truth.norm()) for n in (32, 128)]
    rounding = 4 * 128 * torch.finfo(torch.float32).eps
    assert errors[1] <= max(0.35 * errors[0], rounding), f"errors at 32 and 128 nodes: {errors}"
    exact = run(begin(make, _uniform(64)), lambda x, sigma: x1, x1)
    assert float(exact.abs().max()) <= 1e-4, "a straight path to 0 ends elsewhere"


def one_step_is_finite(make: Factory) -> None:
    """A run of one step with a terminal sigma has finite sigmas, without 0 / 0."""
    if "shift_terminal" not in make().config:
        raise NotApplicable("it has no shift_terminal")
    scheduler = make(shift_terminal=0.1)
    if scheduler.config.get("use_flow_sigmas"):
        raise NotApplicable("it makes its own sigmas")
    scheduler.set_timesteps(sigmas=[1.0], device="cpu")
    assert bool(torch.isfinite(scheduler.sigmas).all()), f"sigmas are {scheduler.sigmas.tolist()}"


def options_of_step_are_honoured_or_refused(make: Factory) -> None:
    """An ``s_churn`` passed to ``step`` changes the result or raises an error."""
    scheduler = begin(make)
    if "s_churn" not in inspect.signature(scheduler.step).parameters:
        raise NotApplicable("its step has no s_churn")
    x1 = torch.ones(1, 4, 8)
    with seeded():
        plain = run(scheduler, smooth, x1)
    try:
        with seeded():
            churned = run(begin(make), smooth, x1, s_churn=1.0)
    except (ValueError, NotImplementedError):
        return
    assert not torch.equal(plain, churned), "s_churn=1.0 is accepted and ignored"


def a_rounded_time_finds_its_step(make: Factory) -> None:
    """A time that the pipeline rounded to bfloat16 finds its step. If two entries round to the same time, the scheduler raises an error."""
    scheduler = begin(make)
    if not hasattr(scheduler, "set_begin_index"):
        raise NotApplicable("it does not look times up")
    scheduler._begin_index = None
    x = torch.ones(1, 4, 8)
    t = scheduler.timesteps[1].bfloat16().float()
    try:
        scheduler.step(x, t, x, return_dict=False)
    except (IndexError, ValueError) as error:
        alike = int((scheduler.timesteps.unique().bfloat16().float() == t).sum())
        if isinstance(error, IndexError) or alike == 1:
            raise AssertionError(f"time {t.item()} for {scheduler.timesteps[1].item()} ends in {error!r}") from None


def results_do_not_depend_on_the_global_generator(make: Factory) -> None:
    """Two runs with different global seeds give the same image. Pipelines pass no generator to ``step``."""
    x1 = torch.ones(1, 4, 8)
    outs: list[Tensor] = []
    for seed in (1, 2):
        with seeded(seed):
            outs.append(run(begin(make), smooth, x1))
    assert torch.equal(*outs), "noise comes from the global generator"


def runs_repeat_and_copies_agree(make: Factory) -> None:
    """A scheduler that is set up twice gives the same result twice. A deepcopy between two calls continues as the original does."""
    x, scheduler = torch.ones(1, 4, 8), begin(make)
    with seeded():
        first = run(scheduler, smooth, x)
    with seeded():
        again = begin(lambda **_: scheduler)
        for t in again.timesteps:
            again = copy.deepcopy(again)
            x = call(again, smooth, x, t)
    assert torch.equal(first, x), "a second run, copied between its calls, differs"


def another_number_of_rows_is_another_run(make: Factory) -> None:
    """If a callback keeps one image of three, the run continues with that image as a new run would, without the old rows."""
    scheduler, x1 = begin(make), torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    half = len(scheduler.timesteps) // 2
    x = run(scheduler, smooth, x1, slice(half))[[2]]
    anew = begin(make)
    if not hasattr(anew, "set_begin_index"):
        raise NotApplicable("it does not begin inside its schedule")
    anew.set_begin_index(half)
    with seeded():
        out = run(scheduler, smooth, x, slice(half, None))
    with seeded():
        expected = run(anew, smooth, x, slice(half, None))
    assert out.shape == x.shape, f"one row of three comes back as {tuple(out.shape)}"
    assert torch.allclose(out, expected, rtol=0, atol=1e-5), "the run of one row of three is not the run that begins with it"


def rows_that_change_places_keep_their_velocities(make: Factory) -> None:
    """If a callback reorders the images, no image is extrapolated with the velocities of another.

    Every row moves by its first column, which is constant. Euler's method is exact on such paths, in any order of the rows.
    """
    x1, order = torch.randn(4, 2, 8, generator=torch.Generator().manual_seed(0)), [2, 0, 3, 1]

    def shear(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.stack([torch.zeros_like(x[:, 0]), x[:, 0]], 1)

    scheduler = begin(make, _uniform(8))
    calls = len(scheduler.timesteps)
    x = run(scheduler, shear, x1, slice(calls // 2))
    at = float(scheduler.timesteps[calls // 2]) / scheduler.config.num_train_timesteps
    ends = (x - at * shear(x, torch.ones(4)))[order]
    gap = float((run(scheduler, shear, x[order], slice(calls // 2, None)) - ends).abs().max())
    assert gap <= 16 * calls * torch.finfo(torch.float32).eps, f"rows that changed places end {gap:.1e} away from where they go"


def tensors_belong_to_who_made_them(make: Factory) -> None:
    """A host that writes into the sample has edited it. What the host writes elsewhere changes nothing.

    The network returns one buffer every time, the host keeps its latents in another, and both are overwritten after ``step``.
    """

    def end(edit: Callable[[Tensor], Any], *, buffers: bool) -> Tensor:
        scheduler, x, out = begin(make), torch.ones(1, 4, 8), torch.empty(1, 4, 8)

        def network(x: Tensor, sigma: Tensor) -> Tensor:
            return out.copy_(smooth(x, sigma)) if buffers else smooth(x, sigma)

        with seeded():
            for i, t in enumerate(scheduler.timesteps):
                new = call(scheduler, network, x, t)
                out.fill_(7)
                x = x.copy_(new) if buffers else new
                edited = edit(x) if i == 1 else None
                x = x if edited is None else edited
        return x

    def write(x: Tensor) -> None:
        x.mul_(1.25)

    for edit in (lambda x: x, lambda x: 1.25 * x):
        plain = end(edit, buffers=False)
        assert torch.equal(plain, end(edit, buffers=True)), "a tensor that was passed is read after the call"
    for way, edit in {"in place": write, "through .data": lambda x: write(x.data)}.items():
        assert torch.equal(plain, end(edit, buffers=False)), f"an edit {way} is ignored"


def noise_comes_from_the_generator_of_each_call(make: Factory) -> None:
    """``step(generator=g)`` draws the same numbers as stock: tensors with the sample's shape, in order, from the generator of that call."""
    scheduler, x1 = begin(make), torch.ones(3, 4, 8)
    if "generator" not in inspect.signature(scheduler.step).parameters:
        raise NotApplicable("its step takes no generator")

    def drawn(count: int) -> Tensor:
        stream = torch.Generator().manual_seed(1)
        for _ in range(count):
            torch.randn(x1.shape, generator=stream)
        return stream.get_state()

    def end(*generators: torch.Generator) -> Tensor:
        made, x = begin(make), x1
        half = len(made.timesteps) // 2
        for part, g in zip((slice(half), slice(half, None)), generators, strict=True):
            x = run(made, smooth, x, part, generator=g)
        return x

    state = torch.get_rng_state()
    one = torch.Generator().manual_seed(1)
    first = end(one, one)
    assert torch.equal(torch.get_rng_state(), state), "a generator is passed, and the global one draws"
    draws = next((n for n in range(8 * len(scheduler.timesteps)) if torch.equal(drawn(n), one.get_state())), None)
    assert draws is not None, "what was drawn is not a number of tensors like the sample"
    if draws:
        assert not torch.equal(first, end(torch.Generator().manual_seed(1), torch.Generator().manual_seed(2))), (
            "the generator of a later call is ignored"
        )


def a_cut_sample_cuts_the_graph(make: Factory) -> None:
    """If the sample is detached before the last step, the gradient is that of the last step alone (DRaFT-K, ReFL)."""

    def ends(last: Tensor, early: Tensor) -> Tensor:
        scheduler, x = begin(make), torch.ones(1, 4, 8)
        with seeded():
            *times, end = scheduler.timesteps
            for t in times:
                x = call(scheduler, lambda x, sigma: early * smooth(x, sigma), x, t).detach()
            return call(scheduler, lambda x, sigma: last * smooth(x, sigma), x, end).double().sum()

    last, early = torch.ones((), requires_grad=True), torch.ones((), requires_grad=True)
    here, before = torch.autograd.grad(ends(last, early), (last, early), allow_unused=True)
    assert before is None, "the gradient flows through a sample that was detached"
    assert here is not None, "no gradient flows through the last step"
    step, one = 2**-6, torch.ones(())
    slope = float(ends(one + step, one) - ends(one - step, one)) / (2 * step)  # linear in the last velocity
    assert abs(float(here) - slope) <= 1e-3 * max(1.0, abs(slope)), f"gradient {float(here):.4f}, by differences {slope:.4f}"


def nothing_is_held_after_the_last_call(make: Factory) -> None:
    """After the last call, the scheduler holds no tensor of the size of the latents."""
    scheduler, x1 = begin(make), torch.ones(3, 5, 7)
    run(scheduler, smooth, x1)
    held, seen, level = list[str](), set[int](), [scheduler.__dict__]
    for _ in range(6):
        level = [
            o for o in gc.get_referents(*level) if id(o) not in seen and not isinstance(o, type | ModuleType | FunctionType)
        ]
        seen |= {id(o) for o in level}
        held += [f"{tuple(o.shape)} in {o.dtype}" for o in level if isinstance(o, Tensor) and o.numel() == x1.numel()]
    assert held == [], f"held after the run: {', '.join(held)}"


SCHEDULER_LAWS: tuple[Callable[[Factory], None], ...] = (
    takes_the_pipelines_call,
    the_sigmas_given_are_used,
    it_starts_at_pure_noise,
    the_last_sigma_is_0,
    times_are_not_rounded,
    the_dt_applied_sum_to_minus_1,
    order_is_at_least_1_and_errors_fall,
    one_step_is_finite,
    options_of_step_are_honoured_or_refused,
    a_rounded_time_finds_its_step,
    results_do_not_depend_on_the_global_generator,
    runs_repeat_and_copies_agree,
    another_number_of_rows_is_another_run,
    rows_that_change_places_keep_their_velocities,
    tensors_belong_to_who_made_them,
    noise_comes_from_the_generator_of_each_call,
    a_cut_sample_cuts_the_graph,
    nothing_is_held_after_the_last_call,
)
"""Every law of a scheduler, each callable with the factory alone."""


EXACT = (the_dt_applied_sum_to_minus_1, order_is_at_least_1_and_errors_fall, rows_that_change_places_keep_their_velocities)
"""Laws that compare with an exact end; stochastic schedulers have none."""


class DiffusersSchedulerConformance:
    """Run every law of a diffusers scheduler: inherit this in a test class named ``Test...`` and define the fixture ``factory``.

    Examples:
        >>> class TestMine(DiffusersSchedulerConformance):
        ...     @pytest.fixture
        ...     def factory(self):
        ...         return MyScheduler  # called with configuration keywords
    """

    stochastic = False
    """Whether the scheduler draws noise; the laws on errors and on the applied dt then do not apply."""

    @pytest.fixture
    def factory(self) -> Factory:
        """Return the factory of the scheduler under test; override this fixture."""
        raise NotImplementedError("give a fixture named 'factory' that returns a scheduler class or a function that makes one")

    @pytest.mark.parametrize("law", SCHEDULER_LAWS, ids=lambda law: law.__name__)
    def test_law(self, factory: Factory, law: Callable[[Factory], None]) -> None:
        """Test each law."""
        if self.stochastic and law in EXACT:
            pytest.skip("it draws noise")
        holds(law, factory)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
    def test_the_dt_applied_sum_to_minus_1(self, factory: Factory, dtype: torch.dtype) -> None:
        """Test that the applied dt sum to -1, in every dtype of a model."""
        if self.stochastic:
            pytest.skip("it draws noise")
        the_dt_applied_sum_to_minus_1(factory, dtype)


def _uniform(steps: int) -> list[float]:
    return [1 - i / steps for i in range(steps)]
