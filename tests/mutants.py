"""Correct samplers and schedules with one realistic mistake each: every one must be found by a law of the kit."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from flowsamplers import Evaluate, Sampler, SigmaGrid
from flowsamplers.schedules import linear, shift
from flowsamplers.testing.subject import Subject

SAMPLERS: dict[str, tuple[str, Callable[[], Sampler]]] = {}
"""Name of the mistake -> what it is a mutant of, and how to make it."""
SCHEDULES: dict[str, tuple[str, Callable[[int], SigmaGrid]]] = {}


PARENTS: dict[str, Callable[[], Sampler]] = {}


def method(name: str, step: Any, *, options: dict[str, Any] | None = None, freeze: bool = True, **claims: Any) -> type[Sampler]:
    """A sampler of a ``step`` function, with its options and claims, that pickle finds in this module."""
    fields = options or {}
    body = {"step": step, **fields, "__annotations__": {k: type(v) for k, v in fields.items()}, **claims}
    cls = dataclass(frozen=freeze)(type(name, (Sampler,), body))
    cls.__module__, cls.__qualname__ = __name__, name
    globals()[name] = cls
    return cls


def sampler(mistake: str, parent: str, *, order: int = 1, **claims: Any) -> Callable[[Any], Any]:
    """Decorator of a wrong ``step``."""

    def add(step: Any) -> Any:
        number = [*SAMPLERS, mistake].index(mistake)  # the same if its module is executed again
        SAMPLERS[mistake] = parent, method(f"Mutant{number}", step, order=order, **claims)
        return step

    return add


def parent(name: str, **claims: Any) -> Callable[[Any], Any]:
    """Decorator of a right ``step``, written the same way, so that the mistake is the only difference."""

    def add(step: Any) -> Any:
        PARENTS[name] = method(f"Parent_{name}", step, **claims)
        return step

    return add


def schedule(mistake: str, parent: str) -> Callable[[Any], Any]:
    def add(build: Any) -> Any:
        SCHEDULES[mistake] = parent, build
        return build

    return add


NOISY = {"stochastic": True, "affine": False, "keeps_marginals": False, "weak_order": 0}
AB2 = {"order": 2, "multistep": True}
End = Callable[..., torch.Tensor]


# The forms of a step: what is made of its model calls is given


def once(end: End, where: Callable[[Any], float] = lambda at: at.s0) -> Any:
    """One call."""

    def step(self, x, at, state):
        v = yield Evaluate(x, where(at))
        return end(x, v, at), state

    return step


def twice(end: End) -> Any:
    """A call at both ends."""

    def step(self, x, at, state):
        k1 = yield Evaluate(x, at.s0)
        k2 = yield Evaluate(x + at.h * k1, at.s1)
        return end(x, k1, k2, at), state

    return step


def halfway(node: Callable[[Any], float], moved: Callable[[Any], float] = lambda at: at.h / 2) -> Any:
    """A call at the beginning, and one in the middle, whose velocity is taken."""

    def step(self, x, at, state):
        k1 = yield Evaluate(x, at.s0)
        k2 = yield Evaluate(x + moved(at) * k1, node(at))
        return x + at.h * k2, state

    return step


def remembering(ratio: Callable[[float, float], float] = lambda h, h1: h / h1, kept: Any = lambda new, old: new) -> Any:
    """The line through the last two velocities."""

    def step(self, x, at, state):
        v = yield Evaluate(x, at.s0)
        v1, r = (v, 0.0) if state is None else (state[0], ratio(at.h, state[1]))
        return x + at.h * ((1 + r / 2) * v - r / 2 * v1), kept((v, at.h), state)

    return step


def renoised(x, v, at, noise):
    """The data prediction at the next noise level."""
    return (1 - at.s1) * (x - at.s0 * v) + at.s1 * noise


euler = parent("euler")(once(lambda x, v, at: x + at.h * v))
heun = parent("heun", order=2)(twice(lambda x, k1, k2, at: x + at.h / 2 * (k1 + k2)))
midpoint = parent("midpoint", order=2)(halfway(lambda at: at.s0 + at.h / 2))
ab2 = parent("ab2", **AB2)(remembering())
lcm = parent("lcm", **NOISY)(once(lambda x, v, at: renoised(x, v, at, at.noise(x))))


# Euler's method


def euler_as(mistake: str, **claims: Any) -> Callable[[End], Any]:
    """Decorator of a wrong end of its step."""
    return lambda end: sampler(mistake, "euler", **claims)(once(end))


EULER: dict[str, End] = {
    "wrong sign of dt": lambda x, v, at: x - at.h * v,
    "off-by-one step length: that of the step before": lambda x, v, at: x + at.grid.dt[max(at.index - 1, 0)] * v,
    "the last step is forgotten": lambda x, v, at: x if at.last else x + at.h * v,
    "dt in float16": lambda x, v, at: x + torch.tensor(at.h).half().item() * v,
    "dt rounded to bfloat16, as a 0-dim tensor does": lambda x, v, at: x + torch.tensor(at.h).bfloat16().item() * v,
    "result in float32": lambda x, v, at: (x + at.h * v).float().to(x.dtype),
    "in-place edit of a request": lambda x, v, at: x.add_(at.h * v),
    "graph cut by a detach": lambda x, v, at: x + at.h * v.detach(),
    "waits for the device": lambda x, v, at: x if v.detach().abs().max().item() > 1e12 else x + at.h * v,
    "mean of the batch mixed in": lambda x, v, at: x + at.h * (v + 1e-6 * (v.mean(0, keepdim=True) - v)),
    "latents flattened, not shaped back": lambda x, v, at: (x + at.h * v).flatten(1),
    "clamped like an image": lambda x, v, at: (x + at.h * v).clamp(-2, 2),
}
for mistake, end in EULER.items():
    euler_as(mistake)(end)
sampler("off-by-one sigma: asks at the end of the step", "euler")(once(lambda x, v, at: x + at.h * v, lambda at: at.s1))
sampler("time counted from data: 1 - sigma", "euler")(once(lambda x, v, at: x + at.h * v, lambda at: 1 - at.s0))
sampler("declares a higher order than it has", "euler", order=2)(euler)
sampler("options that cannot be hashed", "euler", freeze=False)(euler)


@euler_as("sigma clamped away from 0 by an epsilon", affine=False)
def _(x, v, at):
    d = x - at.s0 * v
    return d + max(at.s1, 1e-3) / at.s0 * (x - d)


@euler_as("one coordinate treated apart")
def _(x, v, at):
    first = torch.zeros_like(x)
    first[..., 0] = 1
    return x + at.h * v + 1e-3 * at.h**2 * first * v


@euler_as("default dtype changed")
def _(x, v, at):
    torch.set_default_dtype(torch.float64)
    return x + at.h * v


@euler_as("global generator seeded")
def _(x, v, at):
    torch.manual_seed(at.index)
    return x + at.h * v


@euler_as("global generator of numpy seeded")
def _(x, v, at):
    np.random.seed(at.index)  # noqa: NPY002
    return x + at.h * v


@sampler("no_grad held over a request", "euler")
def _(self, x, at, state):
    with torch.no_grad():
        v = yield Evaluate(x, at.s0)
    return x + at.h * v, state


# Two stages

HEUN: dict[str, End] = {
    "wrong weight in a tableau": lambda x, k1, k2, at: x + at.h * (0.6 * k1 + 0.4 * k2),
    "weights that do not sum to 1": lambda x, k1, k2, at: x + at.h * (0.5 * k1 + 0.501 * k2),
    "in-place edit of a velocity": lambda x, k1, k2, at: x + at.h / 2 * k1.add_(k2),
}
for mistake, end in HEUN.items():
    sampler(mistake, "heun", order=2)(twice(end))
sampler("declares a lower order than it has", "heun", order=1)(heun)
sampler("stage at the wrong node", "midpoint", order=2)(halfway(lambda at: at.s1))
sampler("stage not moved", "midpoint", order=2)(halfway(lambda at: at.s0 + at.h / 2, lambda at: 0.0))


@sampler("weights that divide by the first sigma of the grid", "heun")
@twice
def _(x, k1, k2, at):
    w = at.s1 / (2 * at.grid.start)
    return x + at.h * ((1 - w) * k1 + w * k2)


@sampler("stage beyond the step", "midpoint", order=1)
def _(self, x, at, state):
    k1 = yield Evaluate(x, at.s0)
    k2 = yield Evaluate(x - at.h / 2 * k1, at.s0 - at.h / 2)
    return x + at.h * (2 * k1 - k2), state


# Memories

sampler("history not rescaled for the step ratio", "ab2", **AB2)(remembering(lambda h, h1: 1.0))
sampler("step ratio upside down", "ab2", **AB2)(remembering(lambda h, h1: h1 / h))
sampler("extrapolates with the wrong sign", "ab2", **AB2)(remembering(lambda h, h1: -h / h1))
sampler("history never renewed", "ab2", **AB2)(remembering(kept=lambda new, old: old or new))


@sampler("state kept on the object", "ab2", **AB2)
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    before = getattr(self, "memory", None)
    v1, r = (v, 0.0) if before is None else (before[0], at.h / before[1])
    object.__setattr__(self, "memory", (v, at.h))
    return x + at.h * ((1 + r / 2) * v - r / 2 * v1), None


@sampler("restarts from a stored position, so that edits are lost", "ab2", **AB2)
def _(self, x, at, state):
    position = x if state is None else state[2]
    v = yield Evaluate(position, at.s0)
    v1, r = (v, 0.0) if state is None else (state[0], at.h / state[1])
    new = position + at.h * ((1 + r / 2) * v - r / 2 * v1)
    return new, (v, at.h, new)


@sampler("takes an edit for a change of the data prediction", "dpmpp_2m", **AB2, affine=False)
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    data = x - at.s0 * v
    end = x + at.h * v
    if state is not None and all(0 < s < 1 for s in (state[1], at.s0, at.s1)):
        a, b, c = (math.log((1 - s) / s) for s in (state[1], at.s0, at.s1))
        end = end + (1 - at.s1 / at.s0) * (c - b) / (b - a) / 2 * (data - state[0])
    return end, (data, at.s0)


class Kept:
    """A velocity in an object, where no driver finds it."""

    def __init__(self, v: torch.Tensor) -> None:
        self.v = v


@sampler("state in an object, where its graph is not cut", "ab2", **AB2)
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    v1, r = (v, 0.0) if state is None else (state[0].v, at.h / state[1])
    return x + at.h * ((1 + r / 2) * v - r / 2 * v1), (Kept(v), at.h)


# Noise

LCM: dict[str, End] = {
    "noise from the global generator": lambda x, v, at: renoised(x, v, at, torch.randn_like(x)),
    "one draw for all steps": lambda x, v, at: renoised(x, v, at, at.source(x, 0, 0)),
    "one draw for all rows": lambda x, v, at: renoised(x, v, at, at.noise(x)[:1].expand_as(x)),
    "s' instead of s in the re-noise": lambda x, v, at: (1 - at.s1) * (x - at.s1 * v) + at.s1 * at.noise(x),
    "variance instead of standard deviation": lambda x, v, at: renoised(x, v, at, at.s1 * at.noise(x)),
}
for mistake, end in LCM.items():
    sampler(mistake, "lcm", **NOISY)(once(end))
sampler("claims to keep the marginals", "lcm", stochastic=True, affine=False)(lcm)
sampler("does not say that it is stochastic", "lcm", affine=False)(lcm)
sampler("eta has no effect", "lcm", options={"eta": 1.0}, stochastic=True, affine=False, keeps_marginals=False)(lcm)


@sampler("noise of the variance-exploding form, data not rescaled", "lcm", **NOISY)
@once
def _(x, v, at):
    down = at.s1**2 / at.s0
    return x + (down - at.s0) * v + math.sqrt(max(at.s1**2 - down**2, 0)) * at.noise(x)


# What the engine relies on


def _remembers_the_buffer(velocity, x1, grid, *, seed=None, grad=False):
    """A loop of one's own for ab2: right, as long as the model makes a new tensor every time."""
    x, before = x1.clone(), None
    for i, h in enumerate(grid.dt):
        v = velocity(x.clone(), x.new_full((len(x),), grid.sigmas[i]))
        r = 0.0 if before is None else h / grid.dt[i - 1]
        x, before = x + h * ((1 + r / 2) * v - (0.0 if before is None else r / 2 * before)), v
    return x


def _hands_out_its_state(velocity, x1, grid, *, seed=None, grad=False):
    """A loop of one's own for Euler's method: right, as long as the model does not compute in place."""
    x = x1
    for i, h in enumerate(grid.dt):
        x = x + h * velocity(x, x.new_full((len(x),), grid.sigmas[i]))
    return x


SAMPLERS["a loop that remembers the model's output buffer"] = (
    "ab2",
    lambda: Subject("own ab2", _remembers_the_buffer, order=2, multistep=True),
)
SAMPLERS["a loop that hands out its own state"] = "euler", lambda: Subject("own euler", _hands_out_its_state)


@sampler("state that cannot be copied", "euler")
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    return x + at.h * v, (i for i in range(3))


@sampler("calls that depend on the data, not declared", "euler")
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    if v.device.type == "cpu" and float(v.detach().abs().sum()) > 0:
        v = yield Evaluate(x, at.s0)
    return x + at.h * v, state


# Schedules


@schedule("forgotten terminal zero", "linear")
def _(steps):
    return SigmaGrid([1 - i / (steps + 1) for i in range(steps + 1)])


@schedule("double shift", "shift")
def _(steps):
    return SigmaGrid([3 * s / (1 + 2 * s) for s in shift(steps, shift=3.0).sigmas])


@schedule("one step too few", "linear")
def _(steps):
    return linear(max(steps - 1, 1))


@schedule("starts below pure noise", "linear")
def _(steps):
    return SigmaGrid([0.999 * s for s in linear(steps).sigmas])


@schedule("ends at 1e-7", "linear")
def _(steps):
    return SigmaGrid([*linear(steps).sigmas[:-1], 1e-7])


@schedule("random", "linear")
def _(steps):
    inner = sorted((random.random() for _ in range(steps - 1)), reverse=True)
    return SigmaGrid([1.0, *inner, 0.0])


@schedule("rises in the middle", "linear")
def _(steps):
    s = list(linear(steps).sigmas)
    if steps > 2:
        s[1], s[2] = s[2], s[1]
    return SigmaGrid(s)


@schedule("not a number at one step: 0 / 0", "linear")
def _(steps):
    return SigmaGrid(
        [
            1.0,
            *(1 - (i / (steps - 1) if steps > 1 else math.nan) * (1 - 1 / steps) for i in range(1, steps)),
            0.0 if steps > 1 else math.nan,
        ]
    )


@schedule("takes any number of steps", "linear")
def _(steps):
    return linear(max(int(steps), 1))
