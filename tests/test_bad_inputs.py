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


def wrong_shape(like: torch.Tensor, step: int, draw: int, clock: Any = None) -> torch.Tensor:
    return torch.zeros(1)


def no_tensor(like: torch.Tensor, step: int, draw: int, clock: Any = None) -> float:
    return 0.0


class Flow:
    shape = (3,)

    def velocity(self, x: torch.Tensor, sigma: torch.Tensor, condition: Any = None) -> torch.Tensor:
        return x


def study(**given: Any) -> fs.study.Study:
    return fs.study.Study(flow=Flow(), **given)


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
    (lambda: fs.get_schedule("karras_ve", 4, rho=0), "rho=0.0: no schedule can be computed"),
    *[(lambda f=f: f(3), "=3: accepted is") for f in (fs.plot.schedule, fs.plot.trace, fs.plot.results)],
]


def test_there_are_at_least_240() -> None:
    assert len(CASES) >= 240


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
