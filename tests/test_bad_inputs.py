"""A mistake in a call is an error that names the argument and the value; a table of calls and of what each must say."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import flowsamplers as fs

GRID = fs.SigmaGrid([1.0, 0.5, 0.0])
X = torch.ones(2, 3)
NAN, INF = math.nan, math.inf


def decay(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    return x


def ends(*_: Any) -> torch.Tensor:
    raise StopIteration


def wrong_shape(like: torch.Tensor, step: int, draw: int, interval: Any = None) -> torch.Tensor:
    return torch.zeros(1)


def no_tensor(like: torch.Tensor, step: int, draw: int, interval: Any = None) -> float:
    return 0.0


class Flow:
    shape = (3,)

    def velocity(self, x: torch.Tensor, sigma: torch.Tensor, condition: Any = None) -> torch.Tensor:
        return x


Case = tuple[Callable[[], Any], str]


def each(call: Callable[[Any], Any], said: str, values: Iterable[Any]) -> list[Case]:
    """A call with each of the values, for which ``{v}`` stands in what is said."""
    return [(partial(call, v), said.format(v=v)) for v in values]


def options(call: Callable[..., Any], said: str = "{o}=", /, **values: Iterable[Any]) -> list[Case]:
    """A call with each value of each option, for which ``{v}`` and ``{o}`` stand in what is said."""
    return [(partial(call, **{o: v}), said.format(o=o, v=v)) for o, wrong in values.items() for v in wrong]


sample = partial(fs.sample, velocity=decay, x1=X, grid=GRID)
noisy = partial(sample, sampler="lcm")
many = partial(fs.sample_many, Flow())
fit, profile, fit_ns = partial(fs.fit, decay, X), partial(fs.profile, decay, X), partial(fs.fit_ns_solver, decay, X, GRID)
study = partial(fs.study.Study, flow=Flow())
solve = partial(fs.reference.solve, Flow(), X.double())
gaussian = partial(fs.flows.GaussianFlow, [0.0, 1.0])
GAUSSIAN = gaussian(std=1.0)
MIXTURE = fs.flows.MixtureFlow
RUN = fs.Run(X, GRID)
RECORDED = fs.trace(decay, X, GRID, "flow_grpo", seed=0)
SEEDS = ("x", "", b"x", True, None, 1.5, NAN, INF, object(), [True], ["x"], [0.5], {}, 2**64, [-(2**63) - 1])
COUNTS = (2.5, "4", None, NAN, [], True)
OF_SAMPLERS: list[tuple[str, str, tuple[Any, ...]]] = [
    ("gradient_estimation", "gamma", (True, NAN, "x", None)),
    ("unipc", "corrector", (1, "no", None)),
    ("unipc", "variable", (3, [], None)),
    ("seeds_2", "r", (0.0, 1.5, NAN, True)),
    ("seeds_3", "r_1", (0.0, NAN, True)),
    ("churn", "low", (-1.0, NAN, True, "x")),
    ("churn", "high", (1.5, NAN, True)),
    ("restart", "repeats", (1.5, True, -1)),
    ("dopri5", "rtol", (INF, True, "x")),
    ("dopri5", "max_calls", (0, -1, True, 1.5)),
    ("dpm_adaptive", "max_calls", (0, True)),
    ("gauss_legendre2", "sweeps", (NAN, True, "x")),
    ("sa_solver", "pece", (1, None, "x")),
]

CASES: list[Case] = [
    # Sampling
    *options(sample, "check {v!r}", check=("finit", "Finite", "", True, 1, "nan")),
    *options(sample, carry=(torch.int64, torch.bool, torch.complex64, "float32", float, 32)),
    *options(noisy, seed=("12", "", b"1", 1.5, NAN, True, None, object(), {"a": 1}, [1.5, 2], ["1", "2"])),
    *options(noisy, "rows; give one for each row", seed=([1], [1, 2, 3], np.array([1]), torch.tensor([1, 2, 3]))),
    (partial(noisy, seed=torch.Generator()), "GeneratorNoise"),
    *options(
        partial(sample, seed=wrong_shape), "the Noise returned (1,)", sampler=("lcm", "euler_sde", "er_sde", "churn", "seeds_2")
    ),
    (partial(noisy, seed=no_tensor), "the Noise returned float"),
    *options(sample, "x1", x1=(1.0, None, "x", [1.0], torch.ones(()), torch.ones(2, dtype=torch.int64), X.to(torch.complex64))),
    *options(sample, velocity=(None, 1.0, "euler", X)),
    *each(lambda v: sample(velocity=lambda x, s: v), "velocity returned", (None, 1.0, X[:1], X[None], (X,), {"sample": X})),
    *each(lambda d: sample(velocity=lambda x, s: x.to(d)), "a velocity is real", (torch.complex64, torch.complex128)),
    (partial(sample, velocity=ends), "velocity raised StopIteration at step 0, stage 0, sigma 1.0"),
    *each(lambda v: sample(velocity=lambda x, s: x * v, check="finite"), "not finite at step 0", (NAN, INF, -INF)),
    (
        partial(sample, velocity=lambda x, s: x.where(s[:, None] >= 0.3, NAN), grid=fs.schedules.linear(4), check="finite"),
        "step 3, stage 0, sigma 0.25",
    ),
    *options(sample, on_step=(1, "show", True)),
    *each(lambda v: sample(on_step=lambda end: v), "on_step returned", (1.0, True, "stop", X[:1], X[None])),
    *options(sample, "unknown sampler {v!r}", sampler=("huen", "", "DPM 2")),
    (partial(sample, sampler="huen"), "did you mean 'heun'?"),
    (partial(sample, sampler={"options": {}}), "sampler="),
    (noisy, "seed=None: Renoise draws noise; pass seed=<int>"),
    (partial(sample, velocity=lambda x, s: x[:, :1]), "velocity returned shape (2, 1) for x of shape (2, 3)"),
    (partial(sample, velocity=lambda x, s: None), "velocity returned NoneType, not a tensor"),
    (partial(sample, x1=torch.zeros(2, 2, dtype=torch.long)), "floating"),
    (lambda: fs.nfe(dataclass(type("Mutable", (fs.Sampler,), {}))(), GRID), "use @dataclass(frozen=True)"),
    (partial(noisy, grid=GRID.reversed(), seed=0), "grid from sigma 0.0 to 1.0"),
    (partial(sample, x1=X.to_sparse()), "torch.sparse_coo"),
    *options(sample, progress=(None, 0, 1, "yes", object()), grad=(None, 0, 1, "yes", object())),
    *options(partial(fs.trace, decay, X, GRID), on_evaluation=(1, "x", True, Flow)),
    *each(lambda n: fs.dry_run(n, GRID), "is adaptive", ("dopri5", "bosh3", "dpm_adaptive")),
    *each(lambda c: fs.largest_steps("heun", c, fs.schedules.linear), "calls=", (2.5, "8", None, NAN, True, -1, INF)),
    *each(lambda g: fs.largest_steps("heun", 4, g), "grid_of=", (None, 3, GRID)),
    *each(lambda m: fs.sample_many(None, [RUN], max_batch=m), "max_batch=", (0, -1)),
    *options(partial(many, [RUN]), max_batch=(True, 1.5, NAN, "2", None), on_call=(1, "x", True)),
    (lambda: fs.sample_many(None, [RUN, fs.Run(X[:, :1], GRID)]), "share one shape"),
    *each(lambda r: fs.sample_many(None, [r]), "runs[0]=", (3, None, "x")),
    *each(many, "runs=", (None, 3, "x", RUN, torch.tensor(1.0))),
    *each(lambda f: fs.sample_many(f, [RUN]), "flow=", (None, 3, decay, Flow)),
    *each(lambda x: fs.Run(x, GRID), "x1", ("x", None, 1.0, X.to_sparse(), torch.ones(()))),
    *each(lambda s: fs.Run(X, GRID, s), "sampler", (None, "huen", 3, True)),
    *each(lambda s: fs.Run(X, GRID, seeds=s), "seed=", ("x", True, 1.5, [NAN])),
    *each(partial(fs.Stepper, "heun", GRID), "x1 ", (None, 3, "x", torch.ones(2, dtype=torch.int64))),
    *each(partial(fs.Stepper, "lcm", GRID, X), "noise=", (3, "x", True, fs.KeyedNoise)),
    *options(partial(fs.Stepper, "heun", GRID, X), begin=(True, 1.0, NAN, "1", None, -1, 4)),
    *each(lambda v: fs.Stepper("heun", GRID, X).tell(v), "velocity returned", (None, 1.0, X[:1], X.to(torch.complex64))),
    *each(lambda p: fs.Stepper("heun", GRID, X).edit(p), "point", (None, 1.0, X[:1])),
    *each(fs.KeyedNoise, "seeds={v!r}: accepted is an int", SEEDS),
    *each(fs.BrownianNoise, "seeds={v!r}: accepted is an int", SEEDS),
    *each(fs.GeneratorNoise, "generator=", (True, 3, "x", "", b"x", [1], object(), torch.Generator)),
    *each(lambda v: fs.log_prob(v, RECORDED), "velocity=", (None, 3, "x")),
    *each(partial(fs.log_prob, decay), "run=", (None, 3, "x")),
    # Schedules and grids
    *[
        case
        for name in ("flux2", "linear", "shift", "karras")
        for case in each(partial(fs.get_schedule, name), "steps={v!r}", (0, -1, 2.5, NAN, INF, "8", None, True, 10**9))
    ],
    *options(partial(fs.get_schedule, "linear", 4), "start={v}", start=(0.0, -0.1, 1.1, NAN, INF)),
    (partial(fs.get_schedule, "linaer", 4), "unknown schedule"),
    (partial(fs.get_schedule, "linear", 4, shif=3.0), "option of schedule"),
    (partial(fs.get_schedule, "karras_ve", 4, rho=0), "rho=0.0: no schedule can be computed"),
    *each(fs.SigmaGrid, "sigmas", ([], [1.0], [1.0, NAN], [1.0, INF], [1.0, 1.0], [0.0, 1.0], [1.5, 0.0])),
    *each(fs.SigmaGrid, "sigmas=", (None, True, 1.5, "", "x", object())),
    *each(fs.SigmaGrid, "sigmas[0]=", (["1", "0"], [True, False], [[1.0], [0.0]], [1j, 0])),
    *options(partial(fs.SigmaGrid, [1.0, 0.0]), rising=(None, 0, 1, "no", [])),
    *each(GRID.refined, "parts=", (0, -1, True, 1.5, NAN, "2", None, 10**9)),
    *each(GRID.split_last, "parts=", (0, True, 1.5, None)),
    *each(
        GRID.truncate,
        "strength={v!r}: accepted is a finite number, above 0 and at most 1",
        (0.0, -0.5, 1.5, NAN, True, INF, "x", None),
    ),
    *each(GRID.split, "index=", (0, 2, -1, True, 1.0, "1", None)),
    *each(GRID.floor, "lowest=", (-0.1, 1.0, NAN, True, INF, "x", None)),
    *each(GRID.stretch_terminal, "terminal=", (True, NAN, "x", None, 0.0, 1.0)),
    *each(GRID.concatenate, "other=", (None, [0.0, 1.0], "x")),
    (partial(fs.schedules.linear(4).split, 0), "index=0: of 4 steps, from 1 to 3"),
    (partial(GRID.concatenate, fs.SigmaGrid([0.5, 0.0])), "other.start=0.5: it must begin where this grid ends, at 0.0"),
    (partial(fs.SigmaGrid([1.0, 0.5]).concatenate, GRID.reversed().split(1)[1]), "sigmas must fall strictly"),
    (partial(GRID.stretch_terminal, 0.0), "terminal=0.0: the last sigma before the end lies between 0.0 and 1"),
    (partial(GRID.reversed().stretch_terminal, 0.1), "the grid rises"),
    (partial(GRID.floor, 1.0), "lowest=1.0: a floor lies between 0 and the grid's higher end"),
    (partial(fs.schedules.denoise, "linear", 4, 0.0), "denoise=0.0"),
    (partial(fs.schedules.denoise, "linear", 0, 0.5), "steps=0"),
    (partial(fs.schedules.denoise, "linaer", 4, 0.5), "unknown schedule 'linaer': did you mean 'linear'"),
    # The registry, and options of samplers by name and by class
    *options(partial(fs.get_sampler, "dopri5"), "{o}", rtol=(-1.0, NAN), pair=("rk99",), budget=(1,)),
    *options(partial(fs.get_sampler, "lcm"), "eta={v}", eta=(-0.1, 1.1, NAN)),
    *[
        case
        for name, option, values in OF_SAMPLERS
        for made in (partial(fs.get_sampler, name), fs.sampler_info(name).factory)
        for case in options(made, **{option: values})
    ],
    (partial(fs.get_sampler, "ab2", lst="euler"), "unknown option of AdamsBashforth2 'lst': did you mean 'last'?"),
    (partial(fs.get_sampler, "ab2", last="ab2"), "last='ab2': this step needs a sampler without memory"),
    (partial(fs.get_sampler, {"sampler": "euler"}), "a configuration is"),
    *each(fs.sampler_info, "sampler=", (None, 3, [], True)),
    *each(fs.schedule_info, "schedule=", (None, 3, [], True)),
    *each(fs.register, "name=", ("", None, 3)),
    *each(fs.schedules.register_schedule, "name=", ("", None, 3)),
    *options(fs.list_samplers, needing=(1, "x", None)),
    *options(partial(fs.recommend, "flux2"), "{o}={v!r}", nfe=(True, 0, -1, 2.5, 4.0, NAN, INF, "4")),
    *each(partial(fs.recommend, nfe=4), "grid=", (None, 3, True, object())),
    (partial(fs.recommend, "flux2", 0), "nfe=0: accepted is a whole number, at least 1"),
    (partial(fs.recommend, "flux2"), "nfe=None: with the name 'flux2' alone"),
    (partial(fs.recommend, "karras", 8), "unknown schedule of the benchmark 'karras'"),
    (partial(fs.recommend, "karras", 8), "Pass a grid instead of a name"),
    (partial(fs.recommend, fs.SigmaGrid([0.6, 0.3, 0.0]), 8), "grid from 0.6 to 0.0: the benchmark has complete runs only"),
    (partial(fs.recommend, GRID.reversed()), "grid from 0.0 to 1.0"),
    *each(lambda v: fs.convert_eta(v, "sa_solver"), "value=", (True, NAN, INF, -1.0, "x", None)),
    *each(partial(fs.convert_eta, 1.0), "unknown source", (None, [], "x", 3)),
    # Flows
    *each(GAUSSIAN.noise, "seeds=", SEEDS),
    *each(partial(GAUSSIAN.noise, 0), "rows=", (0, -1, True, 1.5, "2")),
    (partial(GAUSSIAN.noise, [1, 2], 3), "2 seeds for 3 rows"),
    *each(partial(GAUSSIAN.noise, 0, 1), "dtype=", (torch.int64, "float32", None)),
    *options(
        gaussian,
        std=(-1, 0, NAN, INF, True, "x", [], [1.0], [1.0, 2.0, 3.0], [1.0, -1.0], [[1.0], [2.0, 3.0]], 3j, object()),
        cov=([[1.0]], [[1.0, 0.5], [0.0, 1.0]], [[1.0, 2.0], [2.0, 1.0]], [[NAN, 0.0], [0.0, 1.0]], "x", 1.0),
    ),
    *each(partial(fs.flows.GaussianFlow, std=1.0), "mean=", ([], 1.0, "x", [NAN], [True], [[1.0]], None, [1j])),
    *each(lambda m: MIXTURE(m, [1.0]), "means", ([], 1.0, "x", [NAN], [[True]], [[1.0], [1.0, 2.0]], None)),
    *each(partial(MIXTURE, [[0.0, 1.0]]), "stds=", ([], [0.0], [-1.0], [NAN], [INF], [True], "x", [1.0, 2.0], 1.0)),
    *each(partial(MIXTURE, [[0.0]], [1.0]), "weights=", ([], [0.0], [-1.0], [NAN], [True], "x", [1.0, 2.0])),
    *options(partial(MIXTURE, [[0.0]], [1.0]), name=("", None, 3)),
    *options(partial(MIXTURE.random, seed=1), "{o}", seed=(-1, 1.5, True), dim=(0, True, 2.0), components=(0, NAN)),
    *each(fs.flows.DataFlow, "points", ([], [1.0], "x", [[NAN]], [[True]], None)),
    *options(partial(fs.flows.DataFlow, [[0.0]]), floor=(0, -1.0, NAN, INF, True, "x", None)),
    *each(GAUSSIAN.solution, "x", (None, "x", torch.ones(2), torch.ones(2, 3), torch.ones(1, 2, dtype=torch.int64))),
    *each(partial(GAUSSIAN.solution, torch.ones(1, 2)), "start=", (-0.1, 1.1, NAN, True, "x", None)),
    *each(lambda x: GAUSSIAN.velocity(x, torch.ones(2)), "x", (None, "x", torch.ones(2, 3))),
    *each(partial(GAUSSIAN.velocity, torch.ones(3, 2)), "sigma", (None, 1.0, torch.ones(2))),
    *each(partial(fs.flows.OwnFlow, decay), "shape=", ((), (0,), (2.0,), (True,), "x", b"x", 3, (NAN,))),
    *each(partial(fs.flows.OwnFlow, decay, (2,)), "name=", ("", 3, True)),
    *each(fs.flows.load_flow, "model=", ("", None, 3, True, [], "mixture:", "klein:")),
    *each(fs.flows.default_prompts, "model=", (None, 3, [])),
    *each(fs.flows.check_flow, "flow=", (None, 3, decay)),
    (partial(fs.flows.GaussianFlow, [0.0]), "give exactly one"),
    (partial(gaussian, cov=[[1.0, 2.0], [2.0, 1.0]]), "semi-definite matrix"),
    (partial(MIXTURE, [0.0], [1.0]), "means of shape"),
    (partial(MIXTURE, [[0.0]], [0.0]), "positive"),
    (partial(MIXTURE, [[0.0], [1.0]], [1.0, 1.0], [NAN, 1.0]), "positive"),
    (partial(fs.flows.DataFlow, [0.0]), "points of shape"),
    (partial(fs.flows.load_flow, "mixture:nope"), "unknown mixture 'nope': accepted are four-gaussians"),
    (partial(fs.flows.load_flow, "mixture", device="cuda"), "device: a mixture has no such option"),
    # The reference
    *each(lambda f: fs.reference.solve(f, X), "accepted is an object with velocity", (None, 3, "x", decay)),
    *each(partial(fs.reference.solve, Flow()), "accepted is a tensor", (None, 3, "x", [1.0])),
    *options(solve, "max_evaluations={v!r}", max_evaluations=(NAN, "9", 2.5, None)),
    *options(
        solve,
        "{o}",
        tol=(-1, NAN, True, "x"),
        max_batch=(0, True, 1.5),
        follow=(True, 2, -1, 0.0),
        on_call=(1,),
        condition=("ab", 3, [None]),
        max_evaluations=(True,),
    ),
    *each(partial(fs.reference.path, Flow(), X.double()), "nodes=", ([], None, 1.0, "x", [1.5], [NAN], [True])),
    # Studies
    *options(
        lambda **o: study(**{k: [v] for k, v in o.items()}),
        "{o}={v!r}: accepted is a whole number",
        nfe=(*COUNTS, INF, 1e9),
        seeds=(*COUNTS, INF, 1e9),
    ),
    *options(
        study,
        "{o}={v!r}: accepted is a whole number",
        max_batch=(*COUNTS, -3),
        reference_evaluations=(*COUNTS, -3),
        local_nfe=(*COUNTS, -3),
    ),
    *options(study, "{o}={v!r}: accepted is a list", **dict.fromkeys(("nfe", "seeds", "samplers", "prompts"), ("12", 3, None))),
    (partial(study, metrics="lpips"), "metrics='lpips': accepted is a list of names"),
    (partial(study, metrics=["nope"]), "unknown metric 'nope': install a package"),
    *options(
        study,
        mu=(NAN, INF, True, None, [], "x"),
        schedule_options=(None, 3, "x", []),
        prompts=([3], [True], [b"x"], ["a", "a"]),
        nfe=((4, 4), b"4"),
        seeds=((0, 0), {}),
        model=("",),
        shape=((0,), (1.5,), (True,), "x", 3),
    ),
    *options(study, "schedule", schedule=("", "nope", None, 3)),
    *options(partial(fs.study.Study, "mixture"), flow_options=(None, 3, "x", [])),
    *options(lambda **o: study().run("unused", **o), budget=(3, "2h"), progress=(True,), references=(3,)),
    *each(lambda f: study().run(f), "folder=", (None, 3, True)),
    *each(fs.study.load, "folder={v!r}: accepted is a path", (3, None, 1.5, [])),
    *options(fs.study.Budget, evaluations=(0, True, 1.5), seconds=(0, -1.0, NAN, "9")),
    *each(fs.study.Budget.parse, "budget=", ("", "x", "-1", "0", None, 3)),
    *options(partial(fs.study.sliced_wasserstein, X, X), p=(0.5, NAN, True), projections=(0, 1.5), seed=(-1, "x")),
    *options(partial(fs.study.chance_level, fs.study.energy_distance, X, X), share=(1.5, NAN), splits=(0, True), seed=(1.5,)),
    (lambda: fs.study.chance_level(3, X, X), "distance=3"),
    *each(lambda x: fs.study.energy_distance(x, X), "first=", (None, 3, [[1.0]], X.to(torch.complex64))),
    *each(lambda n: fs.study.order(n, [1.0, 0.5], declared=1), "n=", (None, "ab", [2, 1], [0, 1], [True, 2], [NAN, 1])),
    *each(lambda e: fs.study.order([1, 2], e, declared=1), "error=", (None, [1.0], ["1", "2"], [1.0, True])),
    *options(partial(fs.study.order, [1, 2], [1.0, 0.5]), declared=(NAN, -1, True, "x")),
    *each(partial(fs.study.pairwise_slopes, [1, 2]), "error=", ([1.0], [1.0, 0.0], [1.0, NAN], [1.0, -1.0])),
    *options(partial(fs.plot.schedule, GRID), axes=(3, "x"), labels=(None, "x", [3])),
    *each(lambda f: f(3), "=3: accepted is", (fs.plot.schedule, fs.plot.trace, fs.plot.results)),
    # Fits
    *each(fs.load_solver, "path={v!r}: accepted is a path", (3, None, 1.5, [])),
    *[case for f in (fs.fit, fs.profile) for case in each(lambda v, f=f: f(v, X), "velocity={v!r}", (None, 3, "x"))],
    (lambda: fs.fit(lambda x, s: None, X), "velocity returned NoneType"),
    (lambda: fs.fit(lambda x, s: 1j * x, X), "velocity returned torch.complex64: a velocity is real"),
    *options(fit, nfe=(True, 2.5), rounds=(-1, NAN), profile=(3, "x.safetensors", X)),
    *options(fit, "{o}={v!r}: accepted is True or False", validate=(None, 1, "a")),
    *[
        case
        for f in (fit, profile)
        for case in options(
            f,
            "{o}={v!r}: accepted is",
            max_batch=(0, True, 2.5, "a"),
            start=(0, 2, NAN, "a", True),
            condition=(5, "a"),
            on_call=(5, "a"),
        )
    ],
    *options(profile, "{o}={v!r}: accepted is", nodes=(True, 3, 5, 8.0, "8", None), about=(3, "a", [1])),
    *options(profile, "{o}={v!r}: accepted is a path", file=(3, 1.5, [1])),
    *options(fit_ns, "{o}={v!r}: accepted is", memory=(0, True, 1.5, "a"), parts=(0, True, 1.5, "a", None)),
    *each(partial(fs.fit_ns_solver, decay, X), "grid=", (None, 3, [1.0, 0.0])),
    *each(lambda x: fs.fit_ns_solver(decay, x, GRID), "x1", (None, 3, [1.0])),
]


def test_there_are_at_least_700() -> None:
    assert len(CASES) >= 700


@pytest.mark.parametrize("number", range(len(CASES)))
def test_a_mistake_is_named(number: int) -> None:
    call, said = CASES[number]
    with pytest.raises((ValueError, TypeError, RuntimeError, FloatingPointError), match=re.escape(said)) as caught:
        call()
    assert len(str(caught.value)) <= 3000


@pytest.mark.parametrize("seed", [np.int64(3), np.uint8(3), 3])
def test_every_kind_of_integer_is_a_seed(seed: Any) -> None:
    assert torch.equal(fs.sample(decay, X, GRID, "lcm", seed=seed), fs.sample(decay, X, GRID, "lcm", seed=3))


@pytest.mark.parametrize("seeds", [[3, 4], (3, 4), np.array([3, 4]), torch.tensor([3, 4]), [np.int64(3), 4]])
def test_every_kind_of_list_is_a_list_of_seeds(seeds: Any) -> None:
    assert torch.equal(fs.sample(decay, X, GRID, "lcm", seed=seeds), fs.sample(decay, X, GRID, "lcm", seed=[3, 4]))


@pytest.mark.parametrize("steps", [np.int64(4), np.int32(4)])
def test_every_kind_of_integer_is_a_number_of_steps(steps: Any) -> None:
    assert fs.get_schedule("flux2", steps) == fs.get_schedule("flux2", 4)


@pytest.mark.parametrize("info", fs.list_schedules(), ids=lambda i: i.name)
def test_an_option_of_another_kind_is_named_by_the_builder_itself(info) -> None:
    """Called as a function, not by name: text, complex numbers and what is not finite, for every option that is a number."""
    base = {"tokens": 4096} if "tokens" in info.options else {}
    declared = inspect.signature(info.builder).parameters
    for option in info.options:
        kind = str(declared[option].annotation).removesuffix(" | None")
        if kind in ("float", "int"):
            unread = (option, info.name) == ("mu", "flow_match_euler")  # without dynamic shifting
            for value in ("abc", 2j, [1.0], *([] if unread else [float("nan")])):
                with pytest.raises(ValueError, match=option):
                    info.builder(4, **{**{k: v for k, v in base.items() if option != "mu"}, option: value})
