"""A mistake in a call is an error that names the argument and the value; a table of calls and of what each must say."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
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


def sample(**given: Any) -> Callable[[], Any]:
    call = {"velocity": decay, "x1": X, "grid": GRID, **given}
    return lambda: fs.sample(**call)


def wrong_shape(like: torch.Tensor, step: int, draw: int, interval: Any = None) -> torch.Tensor:
    return torch.zeros(1)


def no_tensor(like: torch.Tensor, step: int, draw: int, interval: Any = None) -> float:
    return 0.0


class Flow:
    shape = (3,)

    def velocity(self, x: torch.Tensor, sigma: torch.Tensor, condition: Any = None) -> torch.Tensor:
        return x


def study(**given: Any) -> fs.study.Study:
    return fs.study.Study(flow=Flow(), **given)


SEEDS = ("x", "", b"x", True, None, 1.5, NAN, INF, object(), [True], ["x"], [0.5], {}, 2**64, [-(2**63) - 1])
GAUSSIAN_OF = fs.flows.GaussianFlow
GAUSSIAN = GAUSSIAN_OF([0.0, 1.0], std=1.0)
RECORDED = fs.trace(decay, X, GRID, "flow_grpo", seed=0)

CASES: list[tuple[Callable[[], Any], str]] = [
    *[(sample(check=c), f"check {c!r}") for c in ("finit", "Finite", "", True, 1, "nan")],
    *[(sample(carry=c), "carry=") for c in (torch.int64, torch.bool, torch.complex64, "float32", float, 32)],
    *[
        (sample(sampler="lcm", seed=s), "seed=")
        for s in ("12", "", b"1", 1.5, NAN, True, None, object(), {"a": 1}, [1.5, 2], ["1", "2"])
    ],
    *[(sample(sampler="lcm", seed=s), "2 rows") for s in ([1], [1, 2, 3], np.array([1]), torch.tensor([1, 2, 3]))],
    (sample(sampler="lcm", seed=torch.Generator()), "GeneratorNoise"),
    *[
        (sample(sampler=s, seed=wrong_shape), "the Noise returned (1,)")
        for s in ("lcm", "euler_sde", "er_sde", "churn", "seeds_2")
    ],
    (sample(sampler="lcm", seed=no_tensor), "the Noise returned float"),
    *[
        (sample(x1=x), "x1")
        for x in (1.0, None, "x", [1.0], torch.ones(()), torch.ones(2, dtype=torch.int64), X.to(torch.complex64))
    ],
    *[(sample(velocity=v), "velocity=") for v in (None, 1.0, "euler", X)],
    *[(sample(velocity=lambda x, s, v=v: v), "velocity returned") for v in (None, 1.0, X[:1], X[None], (X,), {"sample": X})],
    *[(sample(velocity=lambda x, s, d=d: x.to(d)), "a velocity is real") for d in (torch.complex64, torch.complex128)],
    (sample(velocity=ends), "velocity raised StopIteration at step 0, stage 0, sigma 1.0"),
    *[(sample(velocity=lambda x, s, v=v: x * v, check="finite"), "not finite at step 0") for v in (NAN, INF, -INF)],
    *[(sample(on_step=f), "on_step=") for f in (1, "show", True)],
    *[(sample(on_step=lambda end, v=v: v), "on_step returned") for v in (1.0, True, "stop", X[:1], X[None])],
    *[(sample(sampler=s), "unknown sampler") for s in ("huen", "", "DPM 2")],
    (sample(sampler={"options": {}}), "sampler="),
    (sample(sampler="lcm", grid=GRID.reversed(), seed=0), "grid from sigma 0.0 to 1.0"),
    *[
        (lambda name=name, n=n: fs.get_schedule(name, n), f"steps={n!r}")
        for name in ("flux2", "linear", "shift", "karras")
        for n in (0, -1, 2.5, NAN, INF, "8", None, True, 10**9)
    ],
    *[(lambda s=s: fs.get_schedule("linear", 4, start=s), f"start={s}") for s in (0.0, -0.1, 1.1, NAN, INF)],
    (lambda: fs.get_schedule("linaer", 4), "unknown schedule"),
    (lambda: fs.get_schedule("linear", 4, shif=3.0), "option of schedule"),
    *[(lambda s=s: fs.SigmaGrid(s), "sigmas") for s in ([], [1.0], [1.0, NAN], [1.0, INF], [1.0, 1.0], [0.0, 1.0], [1.5, 0.0])],
    *[(lambda p=p: GRID.refined(p), "parts=") for p in (0, -1)],
    *[(lambda p=p: GRID.truncate(p), "strength=") for p in (0.0, -0.5, 1.5, NAN)],
    *[(lambda p=p: GRID.split(p), "index=") for p in (0, 2, -1)],
    *[(lambda p=p: GRID.floor(p), "lowest=") for p in (-0.1, 1.0, NAN)],
    *[(lambda c=c: fs.largest_steps("heun", c, fs.schedules.linear), "calls=") for c in (2.5, "8", None, NAN, True)],
    *[(lambda n=n: fs.dry_run(n, GRID), "is adaptive") for n in ("dopri5", "bosh3", "dpm_adaptive")],
    *[
        (lambda o=o: fs.get_sampler("dopri5", **o), next(iter(o)))
        for o in ({"rtol": -1.0}, {"rtol": NAN}, {"pair": "rk99"}, {"budget": 1})
    ],
    *[(lambda e=e: fs.get_sampler("lcm", eta=e), f"eta={e}") for e in (-0.1, 1.1, NAN)],
    *[(lambda m=m: fs.sample_many(None, [fs.Run(X, GRID)], max_batch=m), "max_batch=") for m in (0, -1)],
    (lambda: fs.sample_many(None, [fs.Run(X, GRID), fs.Run(X[:, :1], GRID)]), "runs:"),
    *[(lambda r=r: fs.sample_many(None, [r]), "runs[0]=") for r in (3, None, "x")],
    *[(lambda x=x: fs.Run(x, GRID), "x1") for x in ("x", None, 1.0, X.to_sparse(), torch.ones(()))],
    (sample(x1=X.to_sparse()), "torch.sparse_coo"),
    *[
        (lambda n=name, v=v: study(**{n: [v]}), f"{name}={v!r}: accepted is a whole number")
        for name in ("nfe", "seeds")
        for v in (2.5, "4", None, NAN, INF, True, [], 1e9)
    ],
    *[
        (lambda n=name, v=v: study(**{n: v}), f"{name}={v!r}: accepted is a whole number")
        for name in ("max_batch", "reference_evaluations", "local_nfe")
        for v in (2.5, "4", None, NAN, [], True, -3)
    ],
    *[
        (lambda n=name, v=v: study(**{n: v}), f"{name}={v!r}: accepted is a list")
        for name in ("nfe", "seeds", "samplers", "prompts")
        for v in ("12", 3, None)
    ],
    (lambda: study(metrics="lpips"), "metrics='lpips': accepted is a list of names"),
    (lambda: study(metrics=["nope"]), "unknown metric 'nope': install a package"),
    *[(lambda f=f: fs.study.load(f), f"folder={f!r}: accepted is a path") for f in (3, None, 1.5, [])],
    *[(lambda f=f: fs.load_solver(f), f"path={f!r}: accepted is a path") for f in (3, None, 1.5, [])],
    *[(lambda f=f: fs.reference.solve(f, X), "accepted is an object with velocity") for f in (None, 3, "x", decay)],
    *[(lambda x=x: fs.reference.solve(Flow(), x), "accepted is a tensor") for x in (None, 3, "x", [1.0])],
    *[(lambda n=n: fs.reference.solve(Flow(), X, max_evaluations=n), f"max_evaluations={n!r}") for n in (NAN, "9", 2.5, None)],
    *[(lambda f=f: fs.fit(f, X), f"velocity={f!r}") for f in (None, 3, "x")],
    *[(lambda f=f: fs.profile(f, X), f"velocity={f!r}") for f in (None, 3, "x")],
    *[
        (lambda o=o: fs.fit(decay, X, **o), f"{next(iter(o))}=")
        for o in ({"nfe": True}, {"nfe": 2.5}, {"rounds": -1}, {"rounds": NAN})
    ],
    *[
        (lambda k=k, v=v, f=f: f(decay, X, **{k: v}), f"{k}={v!r}: accepted is")
        for f in (fs.fit, fs.profile)
        for k, values in {
            "max_batch": (0, True, 2.5, "a"),
            "start": (0, 2, NAN, "a", True),
            "condition": (5, "a"),
            "on_call": (5, "a"),
        }.items()
        for v in values
    ],
    *[(lambda n=n: fs.profile(decay, X, nodes=n), f"nodes={n!r}: accepted is") for n in (True, 3, 5, 8.0, "8", None)],
    *[(lambda f=f: fs.profile(decay, X, file=f), f"file={f!r}: accepted is a path") for f in (3, 1.5, [1])],
    *[(lambda a=a: fs.profile(decay, X, about=a), f"about={a!r}: accepted is") for a in (3, "a", [1])],
    *[(lambda p=p: fs.fit(decay, X, profile=p), "profile=") for p in (3, "x.safetensors", X)],
    *[(lambda v=v: fs.fit(decay, X, validate=v), f"validate={v!r}: accepted is True or False") for v in (None, 1, "a")],
    (lambda: fs.fit(lambda x, s: None, X), "velocity returned NoneType"),
    *[(lambda m=m: fs.fit_ns_solver(decay, X, GRID, memory=m), f"memory={m!r}: accepted is") for m in (0, True, 1.5, "a")],
    *[(lambda p=p: fs.fit_ns_solver(decay, X, GRID, parts=p), f"parts={p!r}: accepted is") for p in (0, True, 1.5, "a", None)],
    *[(lambda g=g: fs.fit_ns_solver(decay, X, g), "grid=") for g in (None, 3, [1.0, 0.0])],
    *[(lambda x=x: fs.fit_ns_solver(decay, x, GRID), "x1") for x in (None, 3, [1.0])],
    (lambda: fs.get_schedule("karras_ve", 4, rho=0), "rho=0.0: no schedule can be computed"),
    # bool for a number, NaN, infinity, text, a wrong shape: every argument of every public function
    *[(lambda n=n, s=s: n(s), f"seeds={s!r}: accepted is an int") for n in (fs.KeyedNoise, fs.BrownianNoise) for s in SEEDS],
    *[(lambda s=s: GAUSSIAN.noise(s), "seeds=") for s in SEEDS],
    *[(lambda r=r: GAUSSIAN.noise(0, r), "rows=") for r in (0, -1, True, 1.5, "2")],
    (lambda: GAUSSIAN.noise([1, 2], 3), "2 seeds for 3 rows"),
    *[(lambda d=d: GAUSSIAN.noise(0, 1, d), "dtype=") for d in (torch.int64, "float32", None)],
    *[(lambda g=g: fs.GeneratorNoise(g), "generator=") for g in (True, 3, "x", "", b"x", [1], object(), torch.Generator)],
    *[(lambda s=s: fs.SigmaGrid(s), "sigmas=") for s in (None, True, 1.5, "", "x", object())],
    *[(lambda s=s: fs.SigmaGrid(s), "sigmas[0]=") for s in (["1", "0"], [True, False], [[1.0], [0.0]], [1j, 0])],
    *[(lambda r=r: fs.SigmaGrid([1.0, 0.0], rising=r), "rising=") for r in (None, 0, 1, "no", [])],
    *[(lambda p=p: GRID.refined(p), "parts=") for p in (True, 1.5, NAN, "2", None, 10**9)],
    *[(lambda p=p: GRID.split_last(p), "parts=") for p in (0, True, 1.5, None)],
    *[(lambda p=p: GRID.truncate(p), "strength=") for p in (True, INF, "x", None)],
    *[(lambda p=p: GRID.split(p), "index=") for p in (True, 1.0, "1", None)],
    *[(lambda p=p: GRID.floor(p), "lowest=") for p in (True, INF, "x", None)],
    *[(lambda p=p: GRID.stretch_terminal(p), "terminal=") for p in (True, NAN, "x", None, 0.0, 1.0)],
    *[(lambda o=o: GRID.concatenate(o), "other=") for o in (None, [0.0, 1.0], "x")],
    *[(lambda s=s: fs.Run(X, GRID, s), "sampler") for s in (None, "huen", 3, True)],
    *[(lambda s=s: fs.Run(X, GRID, seeds=s), "seed=") for s in ("x", True, 1.5, [NAN])],
    *[(lambda x=x: fs.Stepper("heun", GRID, x), "x1 ") for x in (None, 3, "x", torch.ones(2, dtype=torch.int64))],
    *[(lambda n=n: fs.Stepper("lcm", GRID, X, n), "noise=") for n in (3, "x", True, fs.KeyedNoise)],
    *[(lambda b=b: fs.Stepper("heun", GRID, X, begin=b), "begin=") for b in (True, 1.0, NAN, "1", None, -1, 4)],
    *[
        (lambda v=v: fs.Stepper("heun", GRID, X).tell(v), "velocity returned")
        for v in (None, 1.0, X[:1], X.to(torch.complex64))
    ],
    *[(lambda p=p: fs.Stepper("heun", GRID, X).edit(p), "point") for p in (None, 1.0, X[:1])],
    *[(sample(progress=p), "progress=") for p in (None, 0, 1, "yes", object())],
    *[(sample(grad=g), "grad=") for g in (None, 0, 1, "yes", object())],
    *[(lambda f=f: fs.trace(decay, X, GRID, on_evaluation=f), "on_evaluation=") for f in (1, "x", True, Flow)],
    *[(lambda c=c: fs.largest_steps("heun", c, fs.schedules.linear), "calls=") for c in (-1, INF)],
    *[(lambda g=g: fs.largest_steps("heun", 4, g), "grid_of=") for g in (None, 3, GRID)],
    *[(lambda m=m: fs.sample_many(Flow(), [fs.Run(X, GRID)], max_batch=m), "max_batch=") for m in (True, 1.5, NAN, "2", None)],
    *[(lambda f=f: fs.sample_many(f, [fs.Run(X, GRID)]), "flow=") for f in (None, 3, decay, Flow)],
    *[(lambda r=r: fs.sample_many(Flow(), r), "runs=") for r in (None, 3, "x", fs.Run(X, GRID), torch.tensor(1.0))],
    *[(lambda f=f: fs.sample_many(Flow(), [fs.Run(X, GRID)], on_call=f), "on_call=") for f in (1, "x", True)],
    *[(lambda n=n: fs.recommend("flux2", nfe=n), f"nfe={n!r}") for n in (True, 0, -1, 2.5, 4.0, NAN, INF, "4")],
    *[(lambda g=g: fs.recommend(g, nfe=4), "grid=") for g in (None, 3, True, object())],
    *[(lambda v=v: fs.convert_eta(v, "sa_solver"), "value=") for v in (True, NAN, INF, -1.0, "x", None)],
    *[(lambda s=s: fs.convert_eta(1.0, s), "unknown source") for s in (None, [], "x", 3)],
    *[(lambda v=v: fs.log_prob(v, RECORDED), "velocity=") for v in (None, 3, "x")],
    *[(lambda r=r: fs.log_prob(decay, r), "run=") for r in (None, 3, "x")],
    *[(lambda n=n: fs.sampler_info(n), "sampler=") for n in (None, 3, [], True)],
    *[(lambda n=n: fs.schedule_info(n), "schedule=") for n in (None, 3, [], True)],
    *[(lambda n=n: fs.register(n), "name=") for n in ("", None, 3)],
    *[(lambda n=n: fs.schedules.register_schedule(n), "name=") for n in ("", None, 3)],
    *[(lambda n=n: fs.list_samplers(needing=n), "needing=") for n in (1, "x", None)],
    *[
        (lambda s=s: GAUSSIAN_OF([0.0, 1.0], std=s), "std=")
        for s in (-1, 0, NAN, INF, True, "x", [], [1.0], [1.0, 2.0, 3.0], [1.0, -1.0], [[1.0], [2.0, 3.0]], 3j, object())
    ],
    *[(lambda m=m: GAUSSIAN_OF(m, std=1.0), "mean=") for m in ([], 1.0, "x", [NAN], [True], [[1.0]], None, [1j])],
    *[
        (lambda c=c: GAUSSIAN_OF([0.0, 1.0], cov=c), "cov=")
        for c in ([[1.0]], [[1.0, 0.5], [0.0, 1.0]], [[1.0, 2.0], [2.0, 1.0]], [[NAN, 0.0], [0.0, 1.0]], "x", 1.0)
    ],
    *[
        (lambda m=m: fs.flows.MixtureFlow(m, [1.0]), "means")
        for m in ([], 1.0, "x", [NAN], [[True]], [[1.0], [1.0, 2.0]], None)
    ],
    *[
        (lambda s=s: fs.flows.MixtureFlow([[0.0, 1.0]], s), "stds=")
        for s in ([], [0.0], [-1.0], [NAN], [INF], [True], "x", [1.0, 2.0], 1.0)
    ],
    *[
        (lambda w=w: fs.flows.MixtureFlow([[0.0]], [1.0], w), "weights=")
        for w in ([], [0.0], [-1.0], [NAN], [True], "x", [1.0, 2.0])
    ],
    *[(lambda n=n: fs.flows.MixtureFlow([[0.0]], [1.0], name=n), "name=") for n in ("", None, 3)],
    *[
        (lambda o=o: fs.flows.MixtureFlow.random(**{"seed": 1, **o}), next(iter(o)))
        for o in (
            {"seed": -1},
            {"seed": 1.5},
            {"seed": True},
            {"dim": 0},
            {"dim": True},
            {"dim": 2.0},
            {"components": 0},
            {"components": NAN},
        )
    ],
    *[(lambda p=p: fs.flows.DataFlow(p), "points") for p in ([], [1.0], "x", [[NAN]], [[True]], None)],
    *[(lambda f=f: fs.flows.DataFlow([[0.0]], floor=f), "floor=") for f in (0, -1.0, NAN, INF, True, "x", None)],
    *[
        (lambda x=x: GAUSSIAN.solution(x), "x")
        for x in (None, "x", torch.ones(2), torch.ones(2, 3), torch.ones(1, 2, dtype=torch.int64))
    ],
    *[(lambda s=s: GAUSSIAN.solution(torch.ones(1, 2), s), "start=") for s in (-0.1, 1.1, NAN, True, "x", None)],
    *[(lambda x=x: GAUSSIAN.velocity(x, torch.ones(2)), "x") for x in (None, "x", torch.ones(2, 3))],
    *[(lambda s=s: GAUSSIAN.velocity(torch.ones(3, 2), s), "sigma") for s in (None, 1.0, torch.ones(2))],
    *[(lambda s=s: fs.flows.OwnFlow(decay, s), "shape=") for s in ((), (0,), (2.0,), (True,), "x", b"x", 3, (NAN,))],
    *[(lambda n=n: fs.flows.OwnFlow(decay, (2,), n), "name=") for n in ("", 3, True)],
    *[(lambda m=m: fs.flows.load_flow(m), "model=") for m in ("", None, 3, True, [], "mixture:", "klein:")],
    *[(lambda m=m: fs.flows.default_prompts(m), "model=") for m in (None, 3, [])],
    *[(lambda f=f: fs.flows.check_flow(f), "flow=") for f in (None, 3, decay)],
    *[
        (lambda o=o: fs.reference.solve(Flow(), X.double(), **o), next(iter(o)))
        for o in (
            {"tol": -1},
            {"tol": NAN},
            {"tol": True},
            {"tol": "x"},
            {"max_batch": 0},
            {"max_batch": True},
            {"max_batch": 1.5},
            {"follow": True},
            {"follow": 2},
            {"follow": -1},
            {"follow": 0.0},
            {"on_call": 1},
            {"condition": "ab"},
            {"condition": 3},
            {"condition": [None]},
            {"max_evaluations": True},
        )
    ],
    *[(lambda n=n: fs.reference.path(Flow(), X.double(), n), "nodes=") for n in ([], None, 1.0, "x", [1.5], [NAN], [True])],
    *[(lambda m=m: study(mu=m), "mu=") for m in (NAN, INF, True, None, [], "x")],
    *[(lambda s=s: study(schedule=s), "schedule") for s in ("", "nope", None, 3)],
    *[(lambda o=o: study(schedule_options=o), "schedule_options=") for o in (None, 3, "x", [])],
    *[(lambda o=o: fs.study.Study("mixture", flow_options=o), "flow_options=") for o in (None, 3, "x", [])],
    *[(lambda p=p: study(prompts=p), "prompts=") for p in ([3], [True], [b"x"], ["a", "a"])],
    *[
        (lambda n=n: study(**n), f"{next(iter(n))}=")
        for n in ({"nfe": (4, 4)}, {"seeds": (0, 0)}, {"nfe": b"4"}, {"seeds": {}}, {"model": ""})
    ],
    *[(lambda s=s: study(shape=s), "shape=") for s in ((0,), (1.5,), (True,), "x", 3)],
    *[
        (lambda o=o: study().run("unused", **o), f"{next(iter(o))}=")
        for o in ({"budget": 3}, {"budget": "2h"}, {"progress": True}, {"references": 3})
    ],
    *[(lambda f=f: study().run(f), "folder=") for f in (None, 3, True)],
    *[
        (lambda o=o: fs.study.Budget(**o), f"{next(iter(o))}=")
        for o in (
            {"evaluations": 0},
            {"evaluations": True},
            {"evaluations": 1.5},
            {"seconds": 0},
            {"seconds": -1.0},
            {"seconds": NAN},
            {"seconds": "9"},
        )
    ],
    *[(lambda t=t: fs.study.Budget.parse(t), "budget=") for t in ("", "x", "-1", "0", None, 3)],
    *[
        (lambda o=o: fs.study.sliced_wasserstein(X, X, **o), f"{next(iter(o))}=")
        for o in ({"p": 0.5}, {"p": NAN}, {"p": True}, {"projections": 0}, {"projections": 1.5}, {"seed": -1}, {"seed": "x"})
    ],
    *[
        (lambda o=o: fs.study.chance_level(fs.study.energy_distance, X, X, **o), f"{next(iter(o))}=")
        for o in ({"share": 1.5}, {"share": NAN}, {"splits": 0}, {"splits": True}, {"seed": 1.5})
    ],
    (lambda: fs.study.chance_level(3, X, X), "distance=3"),
    *[(lambda x=x: fs.study.energy_distance(x, X), "first=") for x in (None, 3, [[1.0]], X.to(torch.complex64))],
    *[(lambda n=n: fs.study.order(n, [1.0, 0.5], declared=1), "n=") for n in (None, "ab", [2, 1], [0, 1], [True, 2], [NAN, 1])],
    *[(lambda e=e: fs.study.order([1, 2], e, declared=1), "error=") for e in (None, [1.0], ["1", "2"], [1.0, True])],
    *[(lambda d=d: fs.study.order([1, 2], [1.0, 0.5], declared=d), "declared=") for d in (NAN, -1, True, "x")],
    *[(lambda e=e: fs.study.pairwise_slopes([1, 2], e), "error=") for e in ([1.0], [1.0, 0.0], [1.0, NAN], [1.0, -1.0])],
    *[(lambda a=a: fs.plot.schedule(GRID, axes=a), "axes=") for a in (3, "x")],
    *[(lambda a=a: fs.plot.schedule(GRID, labels=a), "labels=") for a in (None, "x", [3])],
    # options of samplers, by name and by class
    *[
        (lambda n=name, o=option, v=value, made=made: made(n, {o: v}), f"{option}=")
        for made in (lambda n, o: fs.get_sampler(n, **o), lambda n, o: fs.sampler_info(n).factory(**o))
        for name, option, values in (
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
        )
        for value in values
    ],
    *[(lambda f=f: f(3), "=3: accepted is") for f in (fs.plot.schedule, fs.plot.trace, fs.plot.results)],
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
