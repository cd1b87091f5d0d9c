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


def rest(k):
    """The share of fresh noise beside the share k of the old."""
    return math.sqrt(1 - k**2)


# The forms of a step, right where nothing is given


def blended(weights=lambda eta, k, at: (at.s1 * k, at.s1 * rest(k)), noise=lambda at, x: at.noise(x)):
    """The data prediction at the next noise level; the weights are those of the old and of the fresh noise."""

    def step(self, x, at, state):
        data, eps = parts(x, (yield Evaluate(x, at.s0)), at)
        old, new = weights(self.eta, kept(self.eta, at.s0, at.s1), at)
        return (1 - at.s1) * data + old * eps + new * noise(at, x), state

    return step


def drifting(score=lambda x, eps: eps, spread=lambda g2, h: math.sqrt(-g2 * h)):
    """Euler and Maruyama's step of the SDE with the diffusion g."""

    def step(self, x, at, state):
        v = yield Evaluate(x, at.s0)
        g2 = 2 * self.eta * at.s0 / (1 - (at.s1 if at.s0 == 1 else at.s0))
        return x + at.h * (v + g2 / (2 * at.s0) * score(x, parts(x, v, at)[1])) + spread(g2, at.h) * at.noise(x), state

    return step


def ancestral(rescaled):
    """A step beyond the next sigma, and noise back to it."""

    def step(self, x, at, state):
        v = yield Evaluate(x, at.s0)
        down = at.s1 * (1 + self.eta * (at.s1 / at.s0 - 1))
        scale = (1 - at.s1) / (1 - down) if rescaled else 1.0
        return scale * (x + (down - at.s0) * v) + math.sqrt(max(0.0, at.s1**2 - (scale * down) ** 2)) * at.noise(x), state

    return step


def two_predictions(rate=lambda eta: 1 + eta):
    """SDE-DPM-Solver++(2M), its correction at any rate."""

    def step(self, x, at, state):
        data, eps = parts(x, (yield Evaluate(x, at.s0)), at)
        k = kept(self.eta, at.s0, at.s1)
        end = (1 - at.s1) * data + at.s1 * (k * eps + rest(k) * at.noise(x))
        if state is not None and at.s1 > 0 and state[1] < 1:
            h, before = (half_log_snr(b) - half_log_snr(a) for a, b in ((at.s0, at.s1), (state[1], at.s0)))
            end = end - (1 - at.s1) * math.expm1(-rate(self.eta) * h) / 2 * h / before * (data - state[0])
        return end, (data, at.s0)

    return step


def two_stages(combine=lambda k, early, at: k * early + rest(k) * at.noise(early, 1)):
    """SEEDS-2: the second stage half-way in lambda; the noise of the step is made of that of the stage and of more."""

    def step(self, x, at, state):
        data, eps = parts(x, (yield Evaluate(x, at.s0)), at)
        if at.s0 == 1 or at.s1 == 0:
            k = kept(self.eta, at.s0, at.s1)
            return (1 - at.s1) * data + at.s1 * (k * eps + rest(k) * at.noise(x)), state
        h = half_log_snr(at.s1) - half_log_snr(at.s0)
        middle = 1 / (1 + math.exp(half_log_snr(at.s0) + h / 2))
        k = math.exp(-self.eta * h / 2)
        early = rest(k) * at.noise(x, 0)
        stage = (1 - middle) * data + middle * (k * eps + early)
        later = stage - middle * (yield Evaluate(stage, middle))
        straight = at.s1 / at.s0 * kept(self.eta, at.s0, at.s1) * x - (1 - at.s1) * math.expm1(-(1 + self.eta) * h) * later
        return straight + at.s1 * combine(k, early, at), state

    return step


def churned(rescaled):
    """Euler's method after sigma was raised by EDM's factor of the noise-to-signal ratio."""

    def step(self, x, at, state):
        gamma, up = min(self.churn / at.count, math.sqrt(2) - 1), at.s0
        if at.s0 < 1 and gamma > 0:
            rho = (1 + gamma) * at.s0 / (1 - at.s0)
            up = rho / (1 + rho)
            a = (1 - up) / (1 - at.s0) if rescaled else 1.0
            x = a * x + math.sqrt(up**2 - (a * at.s0) ** 2) * at.noise(x)
        v = yield Evaluate(x, up)
        return x + (at.s1 - up) * v, state

    return step


def restarted(draws):
    """Euler's method; the step that passes sigma 0.2 goes up to 0.5 and comes down again, some times."""

    def step(self, x, at, state):
        x = x + at.h * (yield Evaluate(x, at.s0))
        if at.s1 <= 0.2 < at.s0:
            a = (1 - 0.5) / (1 - at.s1)
            for draw in draws[: int(self.repeats)]:
                x = a * x + math.sqrt(0.25 - (a * at.s1) ** 2) * at.noise(x, draw)
                for s0, s1 in pairwise([0.5, *(s for s in at.grid.sigmas if at.s1 <= s < 0.5)]):
                    x = x + (s1 - s0) * (yield Evaluate(x, s0))
        return x, state

    return step


# The parents

ETA = {"options": {"eta": 1.0}, **NOISY}
FLOW = {"options": {"eta": 0.245}, "keeps_noise_level": False, **NOISY}
TWO_STAGES = {"order": 2, "weak_order": 2, **ETA}
TWO_STEPS = {
    "multistep": True,
    "translate": lambda self, state, by: state and (state[0] + by, state[1]),
    **TWO_STAGES,
}  # a place
CHURN = {"options": {"churn": 1.0}, "noise_option": "churn", "look_back": 99, **NOISY}
RESTART = {"options": {"repeats": 2}, "noise_option": "repeats", "look_back": 99, **NOISY}
for name, step, claims in (
    ("euler_sde", blended(), ETA),
    ("euler_ancestral", ancestral(rescaled=True), ETA),
    ("flow_sde", drifting(), FLOW),
    ("dpmpp_2m_sde", two_predictions(), TWO_STEPS),
    ("seeds_2", two_stages(), TWO_STAGES),
    ("churn", churned(rescaled=True), CHURN),
    ("restart", restarted((0, 1)), RESTART),
):
    parent(name, **claims)(step)


# How much noise

EULER_SDE = {
    "all of the old noise kept, and fresh noise added": lambda eta, k, at: (at.s1, at.s1 * rest(k)),
    "noise at the old sigma, not at the new one": lambda eta, k, at: (at.s1 * k, at.s0 * rest(k)),
    "q² instead of q": lambda eta, k, at: (at.s1 * k, at.s1 * rest(k) ** 2),
    "√(1 - exp(-G)) instead of √(1 - exp(-2G))": lambda eta, k, at: (at.s1 * k, at.s1 * math.sqrt(1 - k)),
    "G in -log sigma, not in lambda, with the memoryless noise": lambda eta, k, at: (
        at.s1 * (at.s1 / at.s0) ** eta,
        at.s1 * rest(k),
    ),
    "noise left at sigma 0: the fresh noise is clamped": lambda eta, k, at: (at.s1 * k, max(at.s1, 1e-3) * rest(k)),
    "noise beside eta 0": lambda eta, k, at: (
        at.s1 * (more := kept(eta + 0.01, at.s0, at.s1)),
        at.s1 * rest(more),
    ),
}
for mistake, weights in EULER_SDE.items():
    sampler(mistake, "euler_sde", **ETA)(blended(weights))
sampler("the score with the sign of rising time", "flow_sde", **FLOW)(drifting(lambda x, eps: -eps))
sampler("the state for the predicted noise in the score", "flow_sde", **FLOW)(drifting(lambda x, eps: x))
sampler("g dt instead of g √dt", "flow_sde", **FLOW)(drifting(spread=lambda g2, h: math.sqrt(g2) * h))
sampler("the mean not rescaled: 1 - sigma_d where 1 - sigma' belongs", "euler_ancestral", **ETA)(ancestral(rescaled=False))
sampler("churn of the variance-exploding form: sigma raised, the mean not rescaled", "churn", **CHURN)(churned(rescaled=False))


@sampler("the model asked at sigma 0.9999 for the state at 1", "euler_sde", **ETA)
def _(self, x, at, state):
    near = min(at.s0, 0.9999)
    v = yield Evaluate(x, near)
    k = kept(self.eta, near, at.s1)
    return (1 - at.s1) * (x - near * v) + at.s1 * (k * (x + (1 - near) * v) + rest(k) * at.noise(x)), state


# Weak order

sampler("the correction without the damping: h for (1 + eta) h", "dpmpp_2m_sde", **TWO_STEPS)(two_predictions(lambda eta: 1))
sampler("the stage's noise is not a part of the step's", "seeds_2", **TWO_STAGES)(
    two_stages(lambda k, early, at: rest(k**2) * at.noise(early, 1))
)
sampler("declares weak order 2", "euler_sde", **{**ETA, "weak_order": 2})(blended())


# Which noise

sampler("one draw for both stages", "seeds_2", **TWO_STAGES)(
    two_stages(lambda k, early, at: k * early + rest(k) * at.noise(early, 0))
)
sampler("one draw for all restarts", "restart", **RESTART)(restarted((0, 0)))


def seeded_by_the_step(at, x):
    """A generator of its own."""
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(at.index), dtype=torch.float64).to(x)


def standardised(at, x):
    """Over the batch."""
    noise = at.noise(x)
    return (noise - noise.mean()) / noise.std(correction=0).clamp(min=1e-6)


sampler("a generator of its own, seeded by the step", "euler_sde", **ETA)(blended(noise=seeded_by_the_step))
sampler("noise standardised over the batch", "euler_sde", **ETA)(blended(noise=standardised))
