"""Correct samplers and schedules with one realistic mistake each: every one must be found by a law of the kit."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

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


@parent("euler")
def euler(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    return x + at.h * v, state


@parent("heun", order=2)
def heun(self, x, at, state):
    k1 = yield Evaluate(x, at.s0)
    k2 = yield Evaluate(x + at.h * k1, at.s1)
    return x + at.h / 2 * (k1 + k2), state


@parent("midpoint", order=2)
def midpoint(self, x, at, state):
    k1 = yield Evaluate(x, at.s0)
    k2 = yield Evaluate(x + at.h / 2 * k1, at.s0 + at.h / 2)
    return x + at.h * k2, state


@parent("ab2", order=2, multistep=True)
def ab2(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    v1, r = (v, 0.0) if state is None else (state[0], at.h / state[1])
    return x + at.h * ((1 + r / 2) * v - r / 2 * v1), (v, at.h)


@parent("lcm", **NOISY)
def lcm(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    return (1 - at.s1) * (x - at.s0 * v) + at.s1 * at.noise(x), state


# Steps and sigmas


@sampler("wrong sign of dt", "euler")
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    return x - at.h * v, state


@sampler("off-by-one sigma: asks at the end of the step", "euler")
def _(self, x, at, state):
    v = yield Evaluate(x, at.s1)
    return x + at.h * v, state


@sampler("off-by-one step length: that of the step before", "euler")
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    i = max(at.index - 1, 0)
    return x + (at.grid.sigmas[i + 1] - at.grid.sigmas[i]) * v, state


@sampler("the last step is forgotten", "euler")
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    return (x if at.last else x + at.h * v), state


@sampler("dt in float16", "euler")
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    return x + torch.tensor(at.h).half().item() * v, state


@sampler("dt rounded to bfloat16, as a 0-dim tensor does", "euler")
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    return x + torch.tensor(at.h).bfloat16().item() * v, state


@sampler("sigma clamped away from 0 by an epsilon", "euler", affine=False)
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    d = x - at.s0 * v
    return d + max(at.s1, 1e-3) / at.s0 * (x - d), state


@sampler("time counted from data: 1 - sigma", "euler")
def _(self, x, at, state):
    v = yield Evaluate(x, 1 - at.s0)
    return x + at.h * v, state


# Coefficients


@sampler("wrong weight in a tableau", "heun", order=2)
def _(self, x, at, state):
    k1 = yield Evaluate(x, at.s0)
    k2 = yield Evaluate(x + at.h * k1, at.s1)
    return x + at.h * (0.6 * k1 + 0.4 * k2), state


@sampler("weights that do not sum to 1", "heun", order=2)
def _(self, x, at, state):
    k1 = yield Evaluate(x, at.s0)
    k2 = yield Evaluate(x + at.h * k1, at.s1)
    return x + at.h * (0.5 * k1 + 0.501 * k2), state


@sampler("weights that divide by the first sigma of the grid", "heun")
def _(self, x, at, state):
    k1 = yield Evaluate(x, at.s0)
    k2 = yield Evaluate(x + at.h * k1, at.s1)
    w = at.s1 / (2 * at.grid.start)
    return x + at.h * ((1 - w) * k1 + w * k2), state


@sampler("stage at the wrong node", "midpoint", order=2)
def _(self, x, at, state):
    k1 = yield Evaluate(x, at.s0)
    k2 = yield Evaluate(x + at.h / 2 * k1, at.s1)
    return x + at.h * k2, state


@sampler("stage not moved", "midpoint", order=2)
def _(self, x, at, state):
    yield Evaluate(x, at.s0)
    k2 = yield Evaluate(x, at.s0 + at.h / 2)
    return x + at.h * k2, state


@sampler("stage beyond the step", "midpoint", order=1)
def _(self, x, at, state):
    k1 = yield Evaluate(x, at.s0)
    k2 = yield Evaluate(x - at.h / 2 * k1, at.s0 - at.h / 2)
    return x + at.h * (2 * k1 - k2), state


@sampler("history not rescaled for the step ratio", "ab2", order=2, multistep=True)
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    return x + at.h * (v if state is None else 1.5 * v - 0.5 * state), v


@sampler("step ratio upside down", "ab2", order=2, multistep=True)
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    v1, r = (v, 0.0) if state is None else (state[0], state[1] / at.h)
    return x + at.h * ((1 + r / 2) * v - r / 2 * v1), (v, at.h)


@sampler("history never renewed", "ab2", order=2, multistep=True)
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    v1, r = (v, 0.0) if state is None else (state[0], at.h / state[1])
    return x + at.h * ((1 + r / 2) * v - r / 2 * v1), state or (v, at.h)


@sampler("extrapolates with the wrong sign", "ab2", order=2, multistep=True)
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    v1, r = (v, 0.0) if state is None else (state[0], at.h / state[1])
    return x + at.h * ((1 - r / 2) * v + r / 2 * v1), (v, at.h)


@sampler("declares a higher order than it has", "euler", order=2)
def _(self, x, at, state):
    return (yield from euler(self, x, at, state))


@sampler("declares a lower order than it has", "heun", order=1)
def _(self, x, at, state):
    return (yield from heun(self, x, at, state))


# Noise


@sampler("noise from the global generator", "lcm", **NOISY)
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    return (1 - at.s1) * (x - at.s0 * v) + at.s1 * torch.randn_like(x), state


@sampler("one draw for all steps", "lcm", **NOISY)
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    return (1 - at.s1) * (x - at.s0 * v) + at.s1 * at.source(x, 0, 0), state


@sampler("one draw for all rows", "lcm", **NOISY)
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    return (1 - at.s1) * (x - at.s0 * v) + at.s1 * at.noise(x)[:1].expand_as(x), state


@sampler("s' instead of s in the re-noise", "lcm", **NOISY)
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    return (1 - at.s1) * (x - at.s1 * v) + at.s1 * at.noise(x), state


@sampler("variance instead of standard deviation", "lcm", **NOISY)
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    return (1 - at.s1) * (x - at.s0 * v) + at.s1**2 * at.noise(x), state


@sampler("noise of the variance-exploding form, data not rescaled", "lcm", **NOISY)
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    down = at.s1**2 / at.s0
    return x + (down - at.s0) * v + math.sqrt(max(at.s1**2 - down**2, 0)) * at.noise(x), state


@sampler("claims to keep the marginals", "lcm", stochastic=True, affine=False)
def _(self, x, at, state):
    return (yield from lcm(self, x, at, state))


@sampler("does not say that it is stochastic", "lcm", affine=False)
def _(self, x, at, state):
    return (yield from lcm(self, x, at, state))


@dataclass(frozen=True)
class EtaIgnored(Sampler):
    eta: float = 1.0
    stochastic: ClassVar[bool] = True
    affine: ClassVar[bool] = False
    keeps_marginals: ClassVar[bool] = False

    def step(self, x, at, state):
        return (yield from lcm(self, x, at, state))


SAMPLERS["eta has no effect"] = "lcm", EtaIgnored


# Hygiene


@sampler("state kept on the object", "ab2", order=2, multistep=True)
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    before = getattr(self, "memory", None)
    v1, r = (v, 0.0) if before is None else (before[0], at.h / before[1])
    object.__setattr__(self, "memory", (v, at.h))
    return x + at.h * ((1 + r / 2) * v - r / 2 * v1), None


@sampler("in-place edit of a request", "euler")
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    return x.add_(at.h * v), state


@sampler("in-place edit of a velocity", "heun", order=2)
def _(self, x, at, state):
    k1 = yield Evaluate(x, at.s0)
    k2 = yield Evaluate(x + at.h * k1, at.s1)
    return x + at.h / 2 * k1.add_(k2), state


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


@sampler("result in float32", "euler")
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    return (x + at.h * v).float().to(x.dtype), state


@sampler("default dtype changed", "euler")
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    torch.set_default_dtype(torch.float64)
    return x + at.h * v, state


@sampler("global generator seeded", "euler")
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    torch.manual_seed(at.index)
    return x + at.h * v, state


@sampler("global generator of numpy seeded", "euler")
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    np.random.seed(at.index)  # noqa: NPY002
    return x + at.h * v, state


@sampler("no_grad held over a request", "euler")
def _(self, x, at, state):
    with torch.no_grad():
        v = yield Evaluate(x, at.s0)
    return x + at.h * v, state


@sampler("graph cut by a detach", "euler")
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    return x + at.h * v.detach(), state


@sampler("waits for the device", "euler")
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    return (x if v.detach().abs().max().item() > 1e12 else x + at.h * v), state


@sampler("mean of the batch mixed in", "euler")
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    return x + at.h * (v + 1e-6 * (v.mean(0, keepdim=True) - v)), state


@sampler("latents flattened, not shaped back", "euler")
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    return (x + at.h * v).flatten(1), state


@sampler("clamped like an image", "euler")
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    return (x + at.h * v).clamp(-2, 2), state


@sampler("one coordinate treated apart", "euler")
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    first = torch.zeros_like(x)
    first[..., 0] = 1
    return x + at.h * v + 1e-3 * at.h**2 * first * v, state


@sampler("restarts from a stored position, so that edits are lost", "ab2", order=2, multistep=True)
def _(self, x, at, state):
    position = x if state is None else state[2]
    v = yield Evaluate(position, at.s0)
    v1, r = (v, 0.0) if state is None else (state[0], at.h / state[1])
    new = position + at.h * ((1 + r / 2) * v - r / 2 * v1)
    return new, (v, at.h, new)


@sampler("takes an edit for a change of the data prediction", "dpmpp_2m", order=2, multistep=True, affine=False)
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


@sampler("state in an object, where its graph is not cut", "ab2", order=2, multistep=True)
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    v1, r = (v, 0.0) if state is None else (state[0].v, at.h / state[1])
    return x + at.h * ((1 + r / 2) * v - r / 2 * v1), (Kept(v), at.h)


@sampler("options that cannot be hashed", "euler", freeze=False)
def _(self, x, at, state):
    return (yield from euler(self, x, at, state))


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
