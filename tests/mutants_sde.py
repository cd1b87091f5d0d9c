"""Stochastic samplers with one realistic mistake each, beside their parents; importing this adds them to `mutants`."""

from __future__ import annotations

import math
from itertools import pairwise

import torch

from flowsamplers import Evaluate
from mutants import parent, sampler

NOISY = {"stochastic": True, "affine": False}


def parts(x, v, at):
    """Data and noise."""
    return x - at.s0 * v, x + (1 - at.s0) * v


def kept(eta, s0, s1):
    r"""$e^{-G}$, $G = \eta(\lambda' - \lambda)$; from pure noise the limit 0."""
    if eta == 0:
        return 1.0
    return 0.0 if s0 == 1 else (s1 * (1 - s0) / (s0 * (1 - s1))) ** eta


def half_log_snr(s):
    return math.log((1 - s) / s)


# The parents


@parent("euler_sde", options={"eta": 1.0}, **NOISY)
def euler_sde(self, x, at, state):
    data, eps = parts(x, (yield Evaluate(x, at.s0)), at)
    k = kept(self.eta, at.s0, at.s1)
    return (1 - at.s1) * data + at.s1 * (k * eps + math.sqrt(1 - k**2) * at.noise(x)), state


@parent("euler_ancestral", options={"eta": 1.0}, **NOISY)
def ancestral(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    down = at.s1 * (1 + self.eta * (at.s1 / at.s0 - 1))
    scale = (1 - at.s1) / (1 - down)
    return scale * (x + (down - at.s0) * v) + math.sqrt(max(0.0, at.s1**2 - (scale * down) ** 2)) * at.noise(x), state


@parent("flow_sde", options={"eta": 0.245}, keeps_noise_level=False, **NOISY)
def flow_sde(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    _, eps = parts(x, v, at)
    g2 = 2 * self.eta * at.s0 / (1 - (at.s1 if at.s0 == 1 else at.s0))
    return x + at.h * (v + g2 / (2 * at.s0) * eps) + math.sqrt(-g2 * at.h) * at.noise(x), state


MULTISTEP = {
    "order": 2,
    "weak_order": 2,
    "multistep": True,
    "moved": lambda self, state, by: state and (state[0] + by, state[1]),  # it remembers a place
    **NOISY,
}


def two_predictions(self, x, at, state, rate):
    """SDE-DPM-Solver++(2M), its correction at any rate."""
    data, eps = parts(x, (yield Evaluate(x, at.s0)), at)
    k = kept(self.eta, at.s0, at.s1)
    end = (1 - at.s1) * data + at.s1 * (k * eps + math.sqrt(1 - k**2) * at.noise(x))
    if state is not None and at.s1 > 0 and state[1] < 1:
        h, before = (half_log_snr(b) - half_log_snr(a) for a, b in ((at.s0, at.s1), (state[1], at.s0)))
        end = end - (1 - at.s1) * math.expm1(-rate * h) / 2 * h / before * (data - state[0])
    return end, (data, at.s0)


@parent("dpmpp_2m_sde", options={"eta": 1.0}, **MULTISTEP)
def dpmpp_2m_sde(self, x, at, state):
    return (yield from two_predictions(self, x, at, state, 1 + self.eta))


TWO_STAGES = {"order": 2, "weak_order": 2, **NOISY}


def two_stages(self, x, at, state, combine):
    """SEEDS-2: the second stage half-way in lambda; the noise of the step is made of that of the stage and of more."""
    data, eps = parts(x, (yield Evaluate(x, at.s0)), at)
    if at.s0 == 1 or at.s1 == 0:
        k = kept(self.eta, at.s0, at.s1)
        return (1 - at.s1) * data + at.s1 * (k * eps + math.sqrt(1 - k**2) * at.noise(x)), state
    h = half_log_snr(at.s1) - half_log_snr(at.s0)
    middle = 1 / (1 + math.exp(half_log_snr(at.s0) + h / 2))
    k = math.exp(-self.eta * h / 2)
    early = math.sqrt(1 - k**2) * at.noise(x, 0)
    stage = (1 - middle) * data + middle * (k * eps + early)
    later = stage - middle * (yield Evaluate(stage, middle))
    straight = at.s1 / at.s0 * kept(self.eta, at.s0, at.s1) * x - (1 - at.s1) * math.expm1(-(1 + self.eta) * h) * later
    return straight + at.s1 * combine(k, early, math.sqrt(1 - k**2), at), state


@parent("seeds_2", options={"eta": 1.0}, **TWO_STAGES)
def seeds_2(self, x, at, state):
    return (yield from two_stages(self, x, at, state, lambda k, early, size, at: k * early + size * at.noise(x, 1)))


CHURN = {"noise_option": "churn", "look_back": 99, **NOISY}


def raised(self, at):
    """EDM's sigma before the step, in the noise-to-signal ratio."""
    gamma = min(self.churn / at.count, math.sqrt(2) - 1)
    if at.s0 == 1 or gamma == 0:
        return at.s0
    rho = (1 + gamma) * at.s0 / (1 - at.s0)
    return rho / (1 + rho)


@parent("churn", options={"churn": 1.0}, **CHURN)
def churn(self, x, at, state):
    up = raised(self, at)
    if up > at.s0:
        a = (1 - up) / (1 - at.s0)
        x = a * x + math.sqrt(up**2 - (a * at.s0) ** 2) * at.noise(x)
    v = yield Evaluate(x, up)
    return x + (at.s1 - up) * v, state


def restarted(self, x, at, state, draws):
    """Euler's method; the step that passes sigma 0.2 goes up to 0.5 and comes down again, some times."""
    v = yield Evaluate(x, at.s0)
    x = x + at.h * v
    if at.s1 <= 0.2 < at.s0:
        a = (1 - 0.5) / (1 - at.s1)
        for draw in draws[: int(self.repeats)]:
            x = a * x + math.sqrt(0.25 - (a * at.s1) ** 2) * at.noise(x, draw)
            nodes = [0.5, *(s for s in at.grid.sigmas if at.s1 <= s < 0.5)]
            for s0, s1 in pairwise(nodes):
                x = x + (s1 - s0) * (yield Evaluate(x, s0))
    return x, state


@parent("restart", options={"repeats": 2}, noise_option="repeats", look_back=99, **NOISY)
def restart(self, x, at, state):
    return (yield from restarted(self, x, at, state, (0, 1)))


# How much noise


@sampler("all of the old noise kept, and fresh noise added", "euler_sde", options={"eta": 1.0}, **NOISY)
def _(self, x, at, state):
    data, eps = parts(x, (yield Evaluate(x, at.s0)), at)
    k = kept(self.eta, at.s0, at.s1)
    return (1 - at.s1) * data + at.s1 * (eps + math.sqrt(1 - k**2) * at.noise(x)), state


@sampler("noise at the old sigma, not at the new one", "euler_sde", options={"eta": 1.0}, **NOISY)
def _(self, x, at, state):
    data, eps = parts(x, (yield Evaluate(x, at.s0)), at)
    k = kept(self.eta, at.s0, at.s1)
    return (1 - at.s1) * data + at.s1 * k * eps + at.s0 * math.sqrt(1 - k**2) * at.noise(x), state


@sampler("q² instead of q", "euler_sde", options={"eta": 1.0}, **NOISY)
def _(self, x, at, state):
    data, eps = parts(x, (yield Evaluate(x, at.s0)), at)
    k = kept(self.eta, at.s0, at.s1)
    return (1 - at.s1) * data + at.s1 * (k * eps + (1 - k**2) * at.noise(x)), state


@sampler("√(1 - exp(-G)) instead of √(1 - exp(-2G))", "euler_sde", options={"eta": 1.0}, **NOISY)
def _(self, x, at, state):
    data, eps = parts(x, (yield Evaluate(x, at.s0)), at)
    k = kept(self.eta, at.s0, at.s1)
    return (1 - at.s1) * data + at.s1 * (k * eps + math.sqrt(1 - k) * at.noise(x)), state


@sampler("G in -log sigma, not in lambda, with the memoryless noise", "euler_sde", options={"eta": 1.0}, **NOISY)
def _(self, x, at, state):
    data, eps = parts(x, (yield Evaluate(x, at.s0)), at)
    k, wrong = kept(self.eta, at.s0, at.s1), (at.s1 / at.s0) ** self.eta
    return (1 - at.s1) * data + at.s1 * (wrong * eps + math.sqrt(1 - k**2) * at.noise(x)), state


@sampler("the mean not rescaled: 1 - sigma_d where 1 - sigma' belongs", "euler_ancestral", options={"eta": 1.0}, **NOISY)
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    down = at.s1 * (1 + self.eta * (at.s1 / at.s0 - 1))
    return x + (down - at.s0) * v + math.sqrt(at.s1**2 - down**2) * at.noise(x), state


@sampler("the score with the sign of rising time", "flow_sde", options={"eta": 0.245}, keeps_noise_level=False, **NOISY)
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    _, eps = parts(x, v, at)
    g2 = 2 * self.eta * at.s0 / (1 - (at.s1 if at.s0 == 1 else at.s0))
    return x + at.h * (v - g2 / (2 * at.s0) * eps) + math.sqrt(-g2 * at.h) * at.noise(x), state


@sampler("the state for the predicted noise in the score", "flow_sde", options={"eta": 0.245}, keeps_noise_level=False, **NOISY)
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    g2 = 2 * self.eta * at.s0 / (1 - (at.s1 if at.s0 == 1 else at.s0))
    return x + at.h * (v + g2 / (2 * at.s0) * x) + math.sqrt(-g2 * at.h) * at.noise(x), state


@sampler("g dt instead of g √dt", "flow_sde", options={"eta": 0.245}, keeps_noise_level=False, **NOISY)
def _(self, x, at, state):
    v = yield Evaluate(x, at.s0)
    _, eps = parts(x, v, at)
    g2 = 2 * self.eta * at.s0 / (1 - (at.s1 if at.s0 == 1 else at.s0))
    return x + at.h * (v + g2 / (2 * at.s0) * eps) + math.sqrt(g2) * at.h * at.noise(x), state


@sampler("churn of the variance-exploding form: sigma raised, the mean not rescaled", "churn", options={"churn": 1.0}, **CHURN)
def _(self, x, at, state):
    up = raised(self, at)
    if up > at.s0:
        x = x + math.sqrt(up**2 - at.s0**2) * at.noise(x)
    v = yield Evaluate(x, up)
    return x + (at.s1 - up) * v, state


# Its ends


@sampler("noise left at sigma 0: the fresh noise is clamped", "euler_sde", options={"eta": 1.0}, **NOISY)
def _(self, x, at, state):
    data, eps = parts(x, (yield Evaluate(x, at.s0)), at)
    k = kept(self.eta, at.s0, at.s1)
    return (1 - at.s1) * data + at.s1 * k * eps + max(at.s1, 1e-3) * math.sqrt(1 - k**2) * at.noise(x), state


@sampler("the model asked at sigma 0.9999 for the state at 1", "euler_sde", options={"eta": 1.0}, **NOISY)
def _(self, x, at, state):
    near = min(at.s0, 0.9999)
    v = yield Evaluate(x, near)
    data, eps = x - near * v, x + (1 - near) * v
    k = kept(self.eta, near, at.s1)
    return (1 - at.s1) * data + at.s1 * (k * eps + math.sqrt(1 - k**2) * at.noise(x)), state


# Weak order


@sampler("the correction without the damping: h for (1 + eta) h", "dpmpp_2m_sde", options={"eta": 1.0}, **MULTISTEP)
def _(self, x, at, state):
    return (yield from two_predictions(self, x, at, state, 1))


@sampler("the stage's noise is not a part of the step's", "seeds_2", options={"eta": 1.0}, **TWO_STAGES)
def _(self, x, at, state):
    apart = lambda k, early, size, at: math.sqrt(1 - k**4) * at.noise(x, 1)  # noqa: E731
    return (yield from two_stages(self, x, at, state, apart))


@sampler("declares weak order 2", "euler_sde", options={"eta": 1.0}, weak_order=2, **NOISY)
def _(self, x, at, state):
    return (yield from euler_sde(self, x, at, state))


# Which noise


@sampler("one draw for both stages", "seeds_2", options={"eta": 1.0}, **TWO_STAGES)
def _(self, x, at, state):
    same = lambda k, early, size, at: k * early + size * at.noise(x, 0)  # noqa: E731
    return (yield from two_stages(self, x, at, state, same))


@sampler("one draw for all restarts", "restart", options={"repeats": 2}, noise_option="repeats", look_back=99, **NOISY)
def _(self, x, at, state):
    return (yield from restarted(self, x, at, state, (0, 0)))


@sampler("a generator of its own, seeded by the step", "euler_sde", options={"eta": 1.0}, **NOISY)
def _(self, x, at, state):
    data, eps = parts(x, (yield Evaluate(x, at.s0)), at)
    k, generator = kept(self.eta, at.s0, at.s1), torch.Generator().manual_seed(at.index)
    noise = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
    return (1 - at.s1) * data + at.s1 * (k * eps + math.sqrt(1 - k**2) * noise), state


@sampler("noise standardised over the batch", "euler_sde", options={"eta": 1.0}, **NOISY)
def _(self, x, at, state):
    data, eps = parts(x, (yield Evaluate(x, at.s0)), at)
    k, noise = kept(self.eta, at.s0, at.s1), at.noise(x)
    noise = (noise - noise.mean()) / noise.std(correction=0).clamp(min=1e-6)
    return (1 - at.s1) * data + at.s1 * (k * eps + math.sqrt(1 - k**2) * noise), state


@sampler("noise beside eta 0", "euler_sde", options={"eta": 1.0}, **NOISY)
def _(self, x, at, state):
    data, eps = parts(x, (yield Evaluate(x, at.s0)), at)
    k = kept(self.eta + 0.01, at.s0, at.s1)
    return (1 - at.s1) * data + at.s1 * (k * eps + math.sqrt(1 - k**2) * at.noise(x)), state
