"""One function for each law. Each can be called alone: it returns when the law holds and raises AssertionError when not.

A law takes a `Subject` (or a sampler, its name, or its configuration) and the case to try it on. `NotApplicable` says
that a law has nothing to say of a subject, and why.
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from flowsamplers.drive import dry_run, sample, trace
from flowsamplers.flows import GaussianFlow, MixtureFlow
from flowsamplers.grid import SigmaGrid
from flowsamplers.lockstep import Run, sample_many
from flowsamplers.noise import GeneratorNoise, KeyedNoise
from flowsamplers.orders import order as judge
from flowsamplers.sampler import Sampler, SamplerLike, get_sampler
from flowsamplers.schedules import linear, shift
from flowsamplers.stepper import Stepper
from flowsamplers.testing.subject import Subject, subject_of

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
IRREGULAR = SigmaGrid([1.0, 0.93, 0.7, 0.41, 0.4, 0.15, 0.0])
"""A grid with very unequal steps."""
SEED = 7


class NotApplicable(Exception):  # noqa: N818  (not an error)
    """The law has nothing to say of this subject."""


Case = Subject | SamplerLike


# Exactness


def applied_dt_sum_to_end_minus_start(
    case: Case, grid: SigmaGrid = IRREGULAR, dtype: torch.dtype = torch.float64, value: float = 1.0
) -> None:
    r"""The headline law: the dt that are *applied* sum to end minus start, -1 for a complete run.

    A constant velocity c must carry x to $x + (\sigma_{end} - \sigma_{start}) c$. The stored sum telescopes and cannot fail;
    this one can: a wrong sign, a rounded dt, a forgotten step. The state is carried in float32 or better, so the bound
    is a few eps of that for each step, times the weights of a method that extrapolates.
    """
    subject = _quiet(case)
    v = torch.full((1, 1), value, dtype=dtype)
    x0 = subject.run(lambda x, sigma: v, torch.zeros(1, 1, dtype=dtype), grid)
    applied = x0.double().item()
    exact = (grid.end - grid.start) * v.double().item()
    ratios = [abs(b / a) for a, b in pairwise(grid.dt)] if subject.multistep else []
    eps = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    lost = 1 / min(s for s in grid.sigmas if s > 0) if subject.data_form else 1.0
    bound = 8 * lost * max([1.0, *ratios]) * grid.steps * eps * abs(v.double().item()) + torch.finfo(dtype).eps * abs(exact)
    assert abs(applied - exact) <= bound, f"{subject.name} applied {applied!r} on a constant velocity; {exact!r} is right"


def stored_dt_sum_to_end_minus_start(grid: SigmaGrid) -> None:
    """The dt of a schedule sum to its end minus its start, to within one rounding for each step."""
    exact = grid.end - grid.start
    assert abs(sum(grid.dt) - exact) <= 2 * grid.steps * torch.finfo(torch.float64).eps, (
        f"sum of dt {sum(grid.dt)!r}, not {exact!r}"
    )


def straight_paths_are_exact(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    """A single data point: all paths are straight, and any consistent sampler is exact on any grid, in one step or many.

    Reference:
        Liu et al., Flow Straight and Fast, arXiv:2209.03003.
    """
    subject = _quiet(case)
    data = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    x1 = _start(4, 3)

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        s = sigma[:, None]
        return torch.where(s > 0, (x - data) / s.clamp(min=1e-300), x1[: len(x)] - data)

    x0 = subject.run(velocity, x1, grid)
    gap = (x0 - data).abs().max().item()
    assert gap <= 256 * grid.steps * torch.finfo(torch.float64).eps * 4, (
        f"{subject.name} misses a straight path's end by {gap:.1e}"
    )


def polynomials_in_sigma_are_exact(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    r"""One-step methods of order p integrate $v = q \sigma^{q - 1}$, q up to p, without error.

    The velocity does not depend on x: what remains is the method's quadrature, exact to degree p - 1 by its order conditions.

    Reference:
        Hairer, Norsett, Wanner I, II.1.
    """
    subject = _quiet(case)
    if subject.multistep or not subject.affine:
        raise NotApplicable("its first steps are of lower order, or it does not interpolate the velocity in sigma")
    for q in range(1, subject.order + 1):
        x0 = subject.run(lambda x, s, q=q: q * s[:, None] ** (q - 1), torch.ones(1, 1, dtype=torch.float64), grid)
        exact = 1 - grid.start**q + grid.end**q
        gap = abs(x0.item() - exact)
        assert gap <= 16 * grid.steps * torch.finfo(torch.float64).eps * q, f"{subject.name}: sigma^{q - 1} is off by {gap:.1e}"


def memories_are_exact_once_full(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    r"""A method with memory of order p makes no error on $v = q \sigma^{q - 1}$, q up to p, in any step after its first p.

    Whatever the lengths of the steps: this finds a step ratio upside down, whose errors telescope and hide from the global order.

    Reference:
        Hairer, Norsett, Wanner I, III.5.
    """
    sampler = _generator(case)
    if not (sampler.multistep and sampler.affine and sampler.any_steps) or sampler.stochastic:
        raise NotApplicable("it has no memory, takes its steps for equal, or does not interpolate the velocity in sigma")
    for q in range(1, sampler.order + 1):
        start = torch.ones(1, 1, dtype=torch.float64)
        states = trace(lambda x, s, q=q: q * s[:, None] ** (q - 1), start, grid, sampler).states
        own = grid.steps - (sampler.options.get("last", "method") != "method")
        for i in range(sampler.order, own):
            made = (states[i + 1] - states[i]).item()
            gap = abs(made - (grid.sigmas[i + 1] ** q - grid.sigmas[i] ** q))
            ratio = abs(grid.dt[i] / grid.dt[i - 1])
            assert gap <= 64 * (1 + ratio) ** sampler.order * torch.finfo(torch.float64).eps, (
                f"{type(sampler).__name__}: step {i} is off by {gap:.1e} on sigma^{q - 1}"
            )


# Order


def order_is_the_declared_one(case: Case, tolerance: float = 0.2) -> None:
    r"""The global error falls like $h^p$: slope within the tolerance of the declared order, in a detected window.

    On a nonlinear field whose solution scipy's DOP853 knows to rounding, on uniform grids inside (0, 1), where
    every interpolation variable is regular.

    Reference:
        Hairer, Norsett, Wanner I, II.3.
    """
    subject = _steady(_quiet(case))
    start, end = 0.95, 0.05
    x, truth = _start(), _solution(start, end)
    steps = [32, 64, 128] if subject.order > 4 else [64, 128, 256, 512]
    errors = [_distance(subject.run(smooth, x, _between(start, end, n)), truth) for n in steps]
    verdict = judge(steps, errors, declared=subject.order, floor=1e-14)
    low = verdict.order is None or verdict.order < subject.order - tolerance
    assert not low, f"{subject.name} declares order {subject.order}; measured {verdict}, errors {errors} at {steps} steps"
    high = verdict.order is not None and verdict.order > subject.order + tolerance
    assert not high, f"{subject.name} declares order {subject.order} but has {verdict}: declare what it delivers"


def order_holds_on_alternating_steps(case: Case, tolerance: float = 0.3) -> None:
    r"""Steps that alternate between h and 2h cost no order: a method with a memory knows how long its steps were.

    Reference:
        Hairer, Norsett, Wanner I, III.5.
    """
    subject = _steady(_quiet(case))
    if subject.sampler is not None and not subject.sampler.any_steps:
        raise NotApplicable("it declares to take its steps for equal")
    start, end = 0.95, 0.05
    x, truth, steps = _start(), _solution(start, end), [64, 128, 256]
    errors: list[float] = []
    for n in steps:
        lengths = [1 + i % 2 for i in range(n)]
        nodes = [start + (end - start) * sum(lengths[:i]) / sum(lengths) for i in range(n)]
        errors.append(_distance(subject.run(smooth, x, SigmaGrid([*nodes, end])), truth))
    if errors[-1] < 1e-12:
        return
    slope = math.log2(errors[0] / errors[-1]) / 2
    assert slope >= subject.order - tolerance, (
        f"{subject.name}: slope {slope:.2f} on alternating steps, order is {subject.order}"
    )


def there_and_back_meet_to_the_order(case: Case) -> None:
    """Down a grid and up again: the distance to the start falls at least like h^p."""
    subject = _steady(_quiet(case))
    flow, gaps = MixtureFlow.appendix_a(), []
    x = flow.noise([0, 1])
    for n in (64, 128):
        grid = _between(0.95, 0.1, n)
        there = subject.run(flow.velocity, x, grid)
        gaps.append(_distance(subject.run(flow.velocity, there, grid.reversed()), x))
    if gaps[1] < 1e-12:
        return
    slope = math.log2(gaps[0] / gaps[1])
    assert slope >= subject.order - 0.4, f"{subject.name}: the way back closes with slope {slope:.2f}, order is {subject.order}"


# Symmetry


def rotations_commute(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    """Rotate the start and the field, and the result is rotated: no coordinate is special."""
    subject = _steady(_quiet(case))
    q, _ = torch.linalg.qr(_start(5, 5, seed=3))
    x1 = _start()
    turned = subject.run(lambda x, s: smooth(x @ q, s) @ q.T, x1 @ q.T, grid)
    _close(turned, subject.run(smooth, x1, grid) @ q.T, f"{subject.name} does not commute with a rotation")


def translations_commute(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    """Shift the start and the field by a constant: the result is shifted. A re-noise has the origin built in."""
    subject = _steady(_quiet(case))
    shift_by = torch.linspace(-1, 2, 5, dtype=torch.float64)
    x1 = _start()
    moved = subject.run(lambda x, s: smooth(x - shift_by, s), x1 + shift_by, grid)
    _close(moved, subject.run(smooth, x1, grid) + shift_by, f"{subject.name} does not commute with a translation")


def permutations_of_rows_commute(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    """The rows of a batch, with their seeds, can come in any order."""
    subject = subject_of(case)
    x1, order, seeds = _start(4), [2, 0, 3, 1], [11, 12, 13, 14]
    mixed = subject.run(smooth, x1[order], grid, seed=[seeds[i] for i in order])
    _close(mixed, subject.run(smooth, x1, grid, seed=seeds)[order], f"{subject.name} depends on the order of the rows")


def rows_do_not_see_each_other(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    """A row alone and the same row in a batch end at the same point."""
    subject = _steady(subject_of(case))
    x1 = _start(4)
    together = subject.run(smooth, x1, grid, seed=[11, 12, 13, 14])
    alone = subject.run(smooth, x1[2:3], grid, seed=[13])
    _close(alone, together[2:3], f"{subject.name}: a row depends on its neighbours")


def scaling_sigma_changes_nothing(case: Case, factor: float = 0.5) -> None:
    r"""On the grid $c\sigma$ with the field $v(x, \sigma / c) / c$ the same path is run, for methods that know only step lengths."""
    subject = _quiet(case)
    if not subject.affine:
        raise NotApplicable("its coefficients depend on sigma itself")
    x1 = _start()
    small = SigmaGrid([factor * s for s in IRREGULAR.sigmas])
    scaled = subject.run(lambda x, s: smooth(x, s / factor) / factor, x1, small)
    _close(scaled, subject.run(smooth, x1, IRREGULAR), f"{subject.name} is not invariant under a scaling of sigma")


# Bookkeeping


def evaluations_are_as_declared(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    """The model is called exactly as often as the subject declares, and at the sigmas of the dry run."""
    subject = subject_of(case)
    asked: list[float] = []

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        assert tuple(sigma.shape) == (len(x),), (
            f"{subject.name} asks with sigma of shape {tuple(sigma.shape)} for {len(x)} rows"
        )
        asked.append(sigma[0].item())
        return smooth(x, sigma)

    subject.run(velocity, _start(), grid, seed=SEED)
    if subject.sampler is not None and not subject.sampler.adaptive:
        planned = [e.sigma for e in dry_run(subject.sampler, grid)]
        assert asked == planned, f"{subject.name} asked at {asked}; its dry run said {planned}"
    if subject.evaluations is not None:
        declared = subject.evaluations(grid)
        assert len(asked) == declared, f"{subject.name} made {len(asked)} model calls and declares {declared}"


def requests_stay_inside_their_step(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    """No evaluation outside the interval of its step, or the ones it declares to look ahead into: nor ever outside the grid."""
    sampler = _generator(case)
    for call in dry_run(sampler, grid):
        end = min(call.step + 1 + sampler.look_ahead, grid.steps)
        low, high = sorted((grid.sigmas[call.step], grid.sigmas[end]))
        inside = low <= call.sigma <= high
        assert inside, f"{type(sampler).__name__} asks at sigma {call.sigma} in the step from {high} to {low}"


def seeds_determine_the_result(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    """The same seed twice gives the same bits; another seed gives another result, if noise is drawn at all."""
    subject = subject_of(case)
    x1 = _start()
    first, second = (subject.run(smooth, x1, grid, seed=SEED) for _ in range(2))
    assert torch.equal(first, second), f"{subject.name}: two runs with one seed differ"
    other = subject.run(smooth, x1, grid, seed=SEED + 1)
    assert torch.equal(first, other) != subject.stochastic, (
        f"{subject.name}: another seed must change a stochastic result, and no other"
    )


def noise_is_drawn_anew_for_every_step(case: Case) -> None:
    """Draws of different steps are independent: with all of them equal, variances add up wrongly."""
    sampler = _generator(case)
    if not sampler.stochastic:
        raise NotApplicable("it draws no noise")
    drawn: list[Tensor] = []

    def record(like: Tensor, step: int, draw: int) -> Tensor:
        drawn.append(KeyedNoise(SEED)(like, step, draw))
        return drawn[-1]

    sample(smooth, _start(), linear(4), sampler, seed=record)
    assert len(drawn) >= 3, f"{type(sampler).__name__} draws {len(drawn)} times in 4 steps"
    assert all(not torch.equal(a, b) for a, b in pairwise(drawn)), f"{type(sampler).__name__} uses one draw for two steps"


def without_noise_it_is_its_ode_twin(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    """At eta 0 a first-order stochastic sampler is Euler's method."""
    subject = subject_of(case)
    if not subject.stochastic:
        raise NotApplicable("it draws no noise")
    quiet = _quiet(subject)
    if quiet.order != 1:
        raise NotApplicable("its twin is of higher order")
    _close(
        quiet.run(smooth, _start(), grid),
        sample(smooth, _start(), grid, "euler"),
        f"{subject.name} at eta 0 is not Euler's method",
    )


def data_points_keep_their_noise_level(case: Case, grid: SigmaGrid | None = None, rows: int = 20_000) -> None:
    r"""Invariant I1: if $x_\sigma = (1 - \sigma) m + \sigma n$ then every state has mean $(1 - \sigma')m$ and variance $\sigma'^2$.

    Exact for any step size; checked on 20,000 rows within five standard errors.
    """
    subject = subject_of(case)
    if not subject.stochastic:
        raise NotApplicable("it draws no noise")
    m = 1.5
    grid = grid or SigmaGrid([0.9, 0.7, 0.5, 0.3])
    x = (1 - grid.start) * m + grid.start * _start(rows, 1, seed=5)

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        return (x - m) / sigma[:, None]

    out = subject.run(velocity, x, grid, seed=SEED)
    mean, var = out.mean().item(), out.var().item()
    mean_error, var_error = 5 * grid.end / math.sqrt(rows), 5 * grid.end**2 * math.sqrt(2 / rows)
    assert abs(mean - (1 - grid.end) * m) <= mean_error, f"{subject.name}: mean {mean:.4f}, not {(1 - grid.end) * m:.4f}"
    assert abs(var - grid.end**2) <= var_error, f"{subject.name}: variance {var:.4f}, not {grid.end**2:.4f}"


def marginals_are_kept_as_declared(case: Case, steps: int = 150, rows: int = 1_500) -> None:
    """Invariant I2: on Gaussian data of standard deviation 0.5 the variance tends to 0.25 as steps shrink, if declared so.

    A subject that declares the opposite must miss it by more than the Monte-Carlo error: the label is tested both ways.
    """
    subject = subject_of(case)
    if not subject.stochastic:
        raise NotApplicable("an ODE sampler keeps the marginals to its order")
    flow = GaussianFlow([0.0], std=0.5)
    out = subject.run(flow.velocity, _start(rows, 1, seed=6), shift(steps, shift=3.0), seed=SEED)
    ratio = out.var().item() / 0.25
    error = 5 * math.sqrt(2 / rows)
    kept = abs(ratio - 1) <= error + 0.05
    assert kept == subject.keeps_marginals, (
        f"{subject.name}: variance {ratio:.3f} of the true one; declared keeps_marginals={subject.keeps_marginals}"
    )


# Hygiene


def inputs_and_modes_are_untouched(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    """No input, request or velocity is edited; grad mode, default dtype and the global random state stay as they were."""
    subject = subject_of(case)
    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    x1 = _start()
    before, handed = x1.clone(), list[tuple[Tensor, Tensor]]()

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        v = smooth(x, sigma)
        handed.extend([(x, x.clone()), (v, v.clone())])
        assert torch.get_default_dtype() == dtype, f"{subject.name} changed the default dtype"
        return v

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20_261_124)  # a state that no sampler would set by itself
        rng = torch.get_rng_state()
        subject.run(velocity, x1, grid, seed=SEED)
        assert torch.equal(torch.get_rng_state(), rng), f"{subject.name} used torch's global generator"
    assert torch.equal(x1, before), f"{subject.name} edited its start"
    assert all(torch.equal(now, then) for now, then in handed), (
        f"{subject.name} edited a tensor that it had handed out or been given"
    )
    assert torch.get_default_dtype() == dtype, f"{subject.name} changed the default dtype"
    assert torch.is_grad_enabled() == grad, f"{subject.name} changed the grad mode"


def grad_mode_is_not_held_over_a_request(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    """Between two requests the caller's modes are the caller's: a generator that yields inside no_grad leaks it."""
    sampler = _generator(case)
    with torch.enable_grad():
        stepper = Stepper(sampler, grid, _start(), KeyedNoise(SEED))
        for call in dry_run(sampler, grid):
            point = stepper.point
            assert torch.is_grad_enabled(), f"{type(sampler).__name__} holds no_grad over a request"
            stepper.tell(smooth(point.detach(), torch.full((len(point),), call.sigma, dtype=point.dtype)))


def dtype_and_device_are_kept(case: Case, dtype: torch.dtype = torch.float32) -> None:
    """The result has the dtype of the start, and the model is asked in it."""
    subject = subject_of(case)

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        assert x.dtype == dtype, f"{subject.name} asks in {x.dtype} from a start in {dtype}"
        return smooth(x, sigma).to(dtype)

    out = subject.run(velocity, _start().to(dtype), IRREGULAR, seed=SEED)
    assert out.dtype == dtype, f"{subject.name} returns {out.dtype} from a start in {dtype}"


def nothing_waits_for_the_device(case: Case) -> None:
    """On torch's meta device, where no tensor has values, any look at one raises."""
    sampler = _generator(case)
    out = sample(lambda x, sigma: x * sigma[:, None], torch.empty(2, 3, device="meta"), IRREGULAR, sampler, seed=SEED)
    assert out.device.type == "meta", f"{type(sampler).__name__} left the device"


def gradients_flow(case: Case) -> None:
    """The result is differentiable in the start, and the derivative is right."""
    subject = subject_of(case)
    x1 = _start(1, 2).requires_grad_()
    grid = SigmaGrid([1.0, 0.6, 0.3])
    right = torch.autograd.gradcheck(lambda x: subject.run(smooth, x, grid, seed=SEED, grad=True), (x1,), raise_exception=False)
    assert right, f"{subject.name}: its derivative is wrong, or there is none"


def the_sampler_is_an_immutable_value(case: Case) -> None:
    """Two runs do not see each other: a sampler holds options only, is hashable, and survives a pickle."""
    sampler = _generator(case)
    x1 = _start()
    fresh = sample(smooth, x1, IRREGULAR, copy.deepcopy(sampler), seed=SEED)
    sample(smooth, x1 + 1, linear(3), sampler, seed=SEED)
    again = sample(smooth, x1, IRREGULAR, sampler, seed=SEED)
    assert torch.equal(fresh, again), f"{type(sampler).__name__} remembers a run on the object"
    assert hash(pickle.loads(pickle.dumps(sampler))) == hash(sampler), f"{type(sampler).__name__} does not survive a pickle"  # noqa: S301


# The drivers


def drivers_agree(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    """Direct, inside-out and lock-step sampling give one result: the first two bit for bit."""
    sampler = _generator(case)
    x1 = _start()
    direct = sample(smooth, x1, grid, sampler, seed=SEED)
    _inside_out(sampler, x1, grid, lambda s: s, direct, "inside out")
    together = sample_many(_Field(), [Run(x1, grid, sampler, seeds=SEED), Run(x1, linear(3), "euler")], max_batch=4)[0]
    _close(together, direct, f"{type(sampler).__name__}: lock-step and direct sampling differ")


def every_host_applies_the_same_dt(case: Case, grid: SigmaGrid = IRREGULAR, dtype: torch.dtype = torch.float32) -> None:
    """The headline law through every host of this package: direct, inside out, and in lock-step with another run."""
    sampler = _generator(case)
    if sampler.stochastic:
        raise NotApplicable("fresh noise replaces a part of the state")
    x1, v = torch.zeros(1, 2, dtype=dtype), torch.ones(1, 2, dtype=dtype)
    hosts = {"direct": sample(lambda x, sigma: v, x1, grid, sampler)}
    stepper = Stepper(sampler, grid, x1)
    for _ in dry_run(sampler, grid):
        stepper.tell(v)
    hosts["inside out"] = stepper.point
    runs = [Run(x1, grid, sampler), Run(x1, linear(3), "euler")]
    hosts["lock-step"] = sample_many(_Constant(), runs, max_batch=4)[0]
    ratios = [abs(b / a) for a, b in pairwise(grid.dt)] if sampler.multistep else []
    lost = 1 / min(s for s in grid.sigmas if s > 0)
    bound = 8 * lost * max([1.0, *ratios]) * grid.steps * torch.finfo(dtype).eps
    for host, out in hosts.items():
        gap = (out - (grid.end - grid.start)).abs().max().item()
        assert gap <= bound, f"{type(sampler).__name__}, {host}: the dt applied miss end minus start by {gap:.1e}"


def copies_between_calls_change_nothing(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    """A deepcopy or a pickle after every model call, also between stages, changes no bit."""
    sampler = _generator(case)
    x1 = _start()
    direct = sample(smooth, x1, grid, sampler, seed=SEED)
    _inside_out(sampler, x1, grid, copy.deepcopy, direct, "a deepcopy between two model calls")
    _inside_out(sampler, x1, grid, lambda s: pickle.loads(pickle.dumps(s)), direct, "a pickle between two model calls")  # noqa: S301
    stream = sample(smooth, x1, grid, sampler, seed=GeneratorNoise(torch.Generator().manual_seed(1)))
    noise = GeneratorNoise(torch.Generator().manual_seed(1))
    _inside_out(sampler, x1, grid, copy.deepcopy, stream, "a deepcopy with a stream of noise", noise)


def edits_at_a_step_boundary_are_honoured(case: Case) -> None:
    """A host that shifts the state between two steps finds the shift in the result."""
    sampler = _generator(case)
    if sampler.stochastic:
        raise NotApplicable("fresh noise replaces a part of the state")
    grid, v = SigmaGrid([1.0, 0.5, 0.0]), torch.zeros(1, 2, dtype=torch.float64)
    stepper = Stepper(sampler, grid, v)
    for call in dry_run(sampler, grid):
        if call.step == 1 and call.stage == 0:
            stepper.edit(stepper.point + 1.0)
        stepper.tell(v)
    _close(stepper.point, torch.ones_like(v), f"{type(sampler).__name__} loses an edit of its state")


# Errors


def bad_velocities_are_named(case: Case) -> None:
    """A velocity that is not finite is reported with its step and sigma, if asked; one of the wrong shape always."""
    sampler = _generator(case)
    x1, grid = _start(), linear(2)
    for velocity, error, text in (
        (lambda x, s: x * math.nan, FloatingPointError, "step 0"),
        (lambda x, s: x[:, :1], ValueError, "shape"),
    ):
        said = ""
        try:
            sample(velocity, x1, grid, sampler, seed=SEED, check="finite")
        except error as raised:
            said = str(raised)
        assert text in said, f"{type(sampler).__name__}: a bad velocity goes unnoticed, or unnamed: {said!r}"


# Schedules


def a_schedule_is_sound(build: Callable[[int], SigmaGrid], steps: int) -> None:
    """N steps, finite, strictly monotone within [0, 1], and the same each time."""
    grid = build(steps)
    assert grid.steps == steps, f"{steps} steps were asked for, the grid has {grid.steps}"
    signs = {math.copysign(1, h) for h in grid.dt if h != 0}
    assert len(signs) == 1, f"the sigmas are not strictly monotone: {grid.sigmas}"
    assert all(math.isfinite(s) and -1e-6 <= s <= 1 + 1e-6 for s in grid.sigmas), f"sigmas outside [0, 1]: {grid.sigmas}"
    assert build(steps) == grid, "the schedule is not the same each time"


def a_schedule_runs_from_noise_to_data(build: Callable[[int], SigmaGrid], steps: int) -> None:
    """It begins at 1 and ends at exactly 0, so that the dt sum to -1."""
    grid = build(steps)
    assert abs(grid.start - 1) <= 2**-20, f"the first sigma is {grid.start}, not 1"
    assert grid.end == 0, f"the last sigma is {grid.end}, not 0: noise stays in the picture"


def a_shift_multiplies_the_odds(build: Callable[[int], SigmaGrid], steps: int, shift: float) -> None:
    r"""A static shift k makes the odds $\sigma/(1 - \sigma)$ of every inner node of a uniform grid k times as large: once, not twice.

    Reference:
        Esser et al., arXiv:2403.03206, (23).
    """
    for i, sigma in enumerate(build(steps).sigmas[1:-1], 1):
        odds, plain = sigma / (1 - sigma), (steps - i) / i
        assert abs(odds / plain / shift - 1) <= 2**-18, (
            f"node {i}: odds are {odds / plain:.6g} times the uniform grid's, not {shift}"
        )


def bad_steps_are_named(build: Callable[[int], SigmaGrid]) -> None:
    """Zero and negative numbers of steps are refused with a message that names the argument."""
    for steps in (0, -3):
        said = ""
        try:
            build(steps)
        except ValueError as error:
            said = str(error)
        assert "steps" in said, f"build({steps}) must raise a ValueError that names steps; it said {said!r}"


def bad_grids_are_named(make: Callable[[Sequence[float]], Any] = SigmaGrid) -> None:
    """Sigmas that are not finite, not strictly monotone, too few, or rising unasked are refused, each with a message of its own."""
    for sigmas in (
        [1.0, math.nan, 0.0],
        [1.0, math.inf, 0.0],
        [1.0, 0.5, 0.5, 0.0],
        [1.0, 0.2, 0.4, 0.0],
        [1.0],
        [],
        [0.0, 1.0],
    ):
        said = ""
        try:
            make(sigmas)
        except ValueError as error:
            said = str(error)
        assert said, f"{sigmas} is taken for a schedule, or refused without a word"


# Helpers


def smooth(x: Tensor, sigma: Tensor) -> Tensor:
    """A smooth nonlinear field in any dimension."""
    s = sigma.reshape(-1, *[1] * (x.ndim - 1))
    return torch.sin(3 * x) + s * x.roll(1, dims=-1) - 0.3


class _Constant:
    def velocity(self, x: Tensor, sigma: Tensor, condition: Sequence[Any] | None = None) -> Tensor:
        return torch.ones_like(x)


class _Field:
    def velocity(self, x: Tensor, sigma: Tensor, condition: Sequence[Any] | None = None) -> Tensor:
        return smooth(x, sigma)


def _start(rows: int = 3, dim: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _between(start: float, end: float, steps: int) -> SigmaGrid:
    return SigmaGrid([start + (end - start) * i / steps for i in range(steps + 1)], rising=end > start)


def _quiet(case: Case) -> Subject:
    subject = subject_of(case)
    if subject.quiet is None:
        raise NotApplicable("it is stochastic and has no twin without noise")
    return subject.quiet


def _steady(subject: Subject) -> Subject:
    if subject.sampler is not None and subject.sampler.adaptive:
        raise NotApplicable("it is adaptive: it chooses its steps by the data, to a tolerance")
    return subject


@cache
def _solution(start: float, end: float) -> Tensor:
    """Where `smooth` leads from `_start`, to rounding."""
    x = _start()

    def field(sigma: float, y: np.ndarray) -> np.ndarray:
        return smooth(torch.tensor(y).reshape(x.shape), torch.full((len(x),), sigma, dtype=x.dtype)).numpy().ravel()

    run = solve_ivp(field, (start, end), x.numpy().ravel(), method="DOP853", rtol=3e-14, atol=1e-15)
    return torch.tensor(run.y[:, -1]).reshape(x.shape)


def _generator(case: Case) -> Sampler:
    subject = subject_of(case)
    if subject.sampler is None:
        raise NotApplicable("it is no flowsamplers sampler, so it has no generator to drive")
    if subject.sampler.adaptive:
        raise NotApplicable("it is adaptive: its model calls depend on the data")
    return get_sampler(subject.sampler)


def _distance(x: Tensor, truth: Tensor) -> float:
    return ((x.double() - truth).norm() / truth.norm()).item()


def _close(a: Tensor, b: Tensor, message: str, bound: float = 1e-11) -> None:
    gap = (a - b).abs().max().item()
    assert gap <= bound * max(1.0, b.abs().max().item()), f"{message}: {gap:.1e}"


def _inside_out(
    sampler: Sampler,
    x1: Tensor,
    grid: SigmaGrid,
    between: Callable[[Stepper], Stepper],
    expected: Tensor,
    what: str,
    noise: Any = None,
) -> None:
    stepper = Stepper(sampler, grid, x1, noise or KeyedNoise(SEED))
    for call in dry_run(sampler, grid):
        stepper = between(stepper)
        stepper.tell(smooth(stepper.point, torch.full((len(x1),), call.sigma, dtype=x1.dtype)))
    same = stepper.done and torch.equal(stepper.point, expected)
    assert same, f"{type(sampler).__name__}: {what} differs from direct sampling"


SAMPLER_LAWS: tuple[Callable[..., None], ...] = (
    applied_dt_sum_to_end_minus_start,
    straight_paths_are_exact,
    polynomials_in_sigma_are_exact,
    memories_are_exact_once_full,
    order_is_the_declared_one,
    order_holds_on_alternating_steps,
    there_and_back_meet_to_the_order,
    rotations_commute,
    translations_commute,
    permutations_of_rows_commute,
    rows_do_not_see_each_other,
    scaling_sigma_changes_nothing,
    evaluations_are_as_declared,
    requests_stay_inside_their_step,
    seeds_determine_the_result,
    noise_is_drawn_anew_for_every_step,
    without_noise_it_is_its_ode_twin,
    data_points_keep_their_noise_level,
    marginals_are_kept_as_declared,
    inputs_and_modes_are_untouched,
    grad_mode_is_not_held_over_a_request,
    dtype_and_device_are_kept,
    nothing_waits_for_the_device,
    gradients_flow,
    the_sampler_is_an_immutable_value,
    drivers_agree,
    every_host_applies_the_same_dt,
    copies_between_calls_change_nothing,
    edits_at_a_step_boundary_are_honoured,
    bad_velocities_are_named,
)
"""Every law of a sampler, each callable with the subject alone."""
