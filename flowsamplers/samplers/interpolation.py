r"""Integrals of interpolating polynomials, shared by all multistep methods.

Over one step the exact solution is $x' = A x + \int K(u)\,P(u)\,du$ for each prediction P of the model:

| prediction | P | A | K(u) du |
| --- | --- | --- | --- |
| ``velocity`` | $v$ | $1$ | $du$ |
| ``data`` | $D = x - \sigma v$ | $\sigma'/\sigma$ | $-\sigma' du/u^2$ |
| ``noise`` | $\hat\epsilon = x + (1 - \sigma) v$ | $\alpha'/\alpha$ | $\alpha' du/(1 - u)^2$ |

with $\alpha = 1 - \sigma$. A method replaces P by the polynomial, in some variable g of sigma, through its known predictions. A
constant P gives Euler's step in all three cases, so every method here is Euler's step plus corrections.

In an SDE the data prediction has the kernel $\alpha'\,d\bigl(\frac{\rho'}{\rho}\, e^{-G}\bigr)$ with $\rho = \frac{u}{1 - u}$.
G runs from u to the end of the step (`sde`). For $G = \eta\,\Delta\lambda$ that is the kernel above at the rate $1 + \eta$.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Literal, TypeAlias

import numpy as np

from flowsamplers.sampler import Tensor
from flowsamplers.samplers.sde import SDE

Prediction: TypeAlias = Literal["velocity", "data", "noise"]
Variable: TypeAlias = Literal["lambda", "neg_log_sigma", "sigma", "ve_sigma"]

POINTS = 48
"""Nodes of the Gauss-Legendre rule: exact to rounding for steps of up to 30 in log sigma."""


def half_log_snr(sigma: float) -> float:
    r"""$\lambda = \log\frac{1 - \sigma}{\sigma}$, exact at the ends: minus infinity at 1, infinity at 0.

    Examples:
        >>> half_log_snr(1.0), half_log_snr(0.5), half_log_snr(0.0)
        (-inf, 0.0, inf)
    """
    if sigma <= 0:
        return math.inf
    return math.log((1 - sigma) / sigma) if sigma < 1 else -math.inf


def neg_log_sigma(sigma: float) -> float:
    r"""$-\log\sigma$: 0 at 1, infinity at 0."""
    return -math.log(sigma) if sigma > 0 else math.inf


def ve_sigma(sigma: float) -> float:
    r"""$\rho = \frac{\sigma}{1 - \sigma}$, the noise-to-signal ratio: infinite at 1."""
    return sigma / (1 - sigma) if sigma < 1 else math.inf


LOG_LOW, LOG_HIGH, FIRST_TIME = math.log1p(0.002**2), math.log1p(80.0**2), 1e-3
VP_BETA_D = 2 * (LOG_HIGH - LOG_LOW / FIRST_TIME) / (1 - FIRST_TIME)
VP_BETA_MIN = LOG_HIGH - VP_BETA_D / 2
"""The variance-preserving diffusion whose noise-to-signal ratio is EDM's 0.002 at time 0.001 and 80 at time 1."""


def vp_time(sigma: float) -> float:
    r"""The time of the variance-preserving diffusion with noise-to-signal ratio ``sigma``.

    $t$ with $\sigma^2 = e^{\beta_d t^2 / 2 + \beta_{min} t} - 1$. ComfyUI and diff-sampler feed it the flow's sigma.

    Reference:
        DEIS, arXiv:2204.13902; diff-sampler, edm2t.
    """
    return (math.sqrt(VP_BETA_MIN**2 + 2 * VP_BETA_D * math.log1p(sigma**2)) - VP_BETA_MIN) / VP_BETA_D


VARIABLES: dict[str, Callable[[float], float]] = {
    "sigma": float,
    "neg_log_sigma": neg_log_sigma,
    "lambda": half_log_snr,
    "ve_sigma": ve_sigma,
    "vp_time": vp_time,
}

PREDICTIONS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "velocity": lambda x, v, sigma: v,
    "data": lambda x, v, sigma: x - sigma * v,
    "noise": lambda x, v, sigma: x + (1 - sigma) * v,
}


NO_NOISE = SDE(0.0)


@lru_cache(maxsize=8192)
def moments(prediction: str, variable: str, s0: float, s1: float, count: int, sde: SDE = NO_NOISE) -> tuple[float, ...]:
    r"""Compute $\int K\,\theta^k\,du$ for k = 0 to ``count - 1``, where $\theta$ runs from 0 to 1 over the step in the variable.

    The result is empty if the variable or the kernel is infinite at an end; the formula then becomes Euler's step. The data prediction
    in plain sigma has a limit at ``sigma = 0``, with all moments 1.

    Examples:
        >>> moments("velocity", "sigma", 1.0, 0.5, 3)  # h, h / 2, h / 3
        (-0.5, -0.25, -0.16666666666666666)
    """
    g = VARIABLES[variable]
    start, length = g(s0), g(s1) - g(s0)
    if not (math.isfinite(start) and math.isfinite(length)) or length == 0:
        return ()
    if prediction == "velocity" and variable == "sigma":
        return tuple((s1 - s0) / (k + 1) for k in range(count))
    if prediction == "data" and (s0 <= 0 or s1 <= 0):
        return (1.0,) * count if s1 == 0 < s0 else ()
    if prediction == "noise" and (s0 >= 1 or s1 >= 1):
        return ()
    in_lambda = sde.eta > 0 or variable == "ve_sigma" or (variable == "lambda" and s0 >= 1 - NEAR_NOISE)
    u, measure = _rule_in_lambda(s0, s1, sde) if in_lambda else _rule(prediction, s0, s1)
    theta = np.array([(g(float(w)) - start) / length for w in u])
    return tuple(float(np.dot(measure, theta**k)) for k in range(count))


@cache
def _legendre(points: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of Gauss and Legendre in [-1, 1]: finding them takes longer than a step of a small model."""
    return np.polynomial.legendre.leggauss(points)


def _rule(prediction: str, s0: float, s1: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes in sigma and weights, kernel included; Gauss-Legendre in the variable that makes the kernel tame."""
    z, w = _legendre(POINTS)
    z, w = (z + 1) / 2, w / 2
    if prediction == "data":  # t = log u: -s1 / u^2 du = -s1 / u dt
        t = math.log(s0) + z * math.log(s1 / s0)
        u = np.exp(t)
        return u, -w * math.log(s1 / s0) * s1 / u
    if prediction == "noise":  # t = log(1 - u): (1 - s1) / (1 - u)^2 du = -(1 - s1) / (1 - u) dt
        length = math.log((1 - s1) / (1 - s0))
        a = (1 - s0) * np.exp(z * length)
        return 1 - a, -w * length * (1 - s1) / a
    return s0 + z * (s1 - s0), w * (s1 - s0)


def _rule_in_lambda(s0: float, s1: float, sde: SDE) -> tuple[np.ndarray, np.ndarray]:
    r"""The same for the data prediction of an SDE: $\alpha' (1 + P')\,e^{-(\lambda' - l) - (P(\lambda') - P(l))}\,dl$, in panels.

    Further back than the kernel reaches (40 e-foldings) nothing counts.
    """
    end = half_log_snr(s1)
    start = half_log_snr(s0)
    if start < end:
        back = np.linspace(end, max(start, end - 40), 2048)
        potential, _ = sde.along(back)
        start = float(back[min(int(np.searchsorted(end - back + potential[0] - potential, 40)), len(back) - 1)])
    steepest = 1 + float(sde.along(np.array([start]))[1][0])
    panels = max(1, math.ceil(abs(end - start) * steepest / 3))
    z, w = _legendre(24)
    edges = np.linspace(start, end, panels + 1)
    width = edges[1] - edges[0]
    lam = (edges[:-1, None] + width * (z + 1) / 2).ravel()
    potential, slope = sde.along(lam)
    last = sde.along(np.array([end]))[0][0]
    kernel = (1 - s1) * (1 + slope) * np.exp(lam - end + potential - last)
    return 1 / (1 + np.exp(lam)), np.tile(w * width / 2, panels) * kernel


def positions(variable: str, s0: float, s1: float, past: Sequence[float]) -> list[float]:
    """Compute the positions of earlier nodes in units of the step from s0 to s1, up to the first node at infinity.

    Examples:
        >>> positions("sigma", 0.5, 0.25, (0.75, 1.0))
        [-1.0, -2.0]
    """
    g = VARIABLES[variable]
    length = g(s1) - g(s0)
    thetas = [(g(s) - g(s0)) / length for s in past]
    finite = next((i for i, t in enumerate(thetas) if not math.isfinite(t)), len(thetas))
    return thetas[:finite]


NEAR_NOISE = 1e-6
"""Distance from ``sigma = 1`` at which diffusers starts a method that works in the log-SNR."""


def off_noise(s1: float, s0: float, past: Sequence[float] = ()) -> tuple[float, ...]:
    r"""The nodes ``(s0, *past)`` of falling sigmas, with ``sigma = 1`` where diffusers puts it: $10^{-6}$ below.

    There the log-SNR is -13.8, so the prediction made at ``sigma = 1`` counts a little instead of not at all.

    Args:
        s1: sigma at the end of the step; no node is moved as far as this.
        s0: sigma at its start.
        past: sigmas of the earlier predictions, the newest first.

    Examples:
        >>> off_noise(0.5, 0.75, (1.0,)), off_noise(0.5, 0.75)
        ((0.75, 0.999999), (0.75,))
    """
    nodes = (s1, s0, *past)
    if nodes[-1] < 1:
        return nodes[1:]
    return (*nodes[1:-1], 1 - min(NEAR_NOISE, (1 - nodes[-2]) / 2))


def regular(variable: str, s0: float, s1: float, past: Sequence[float], *, new: bool = False) -> str:
    r"""Choose the variable for a step from s0 to s1: the method's own, or $-\log\sigma$ if all its nodes are at infinity.

    If ``sigma = 1`` is at infinity, the limit of a polynomial through it ignores the prediction made there. If there are other nodes,
    the order stays. If there are none, the order would be 1 for two steps. In $-\log\sigma$ the same formulas hold and ``sigma = 1``
    lies at 0, so the method has its order from the second step on.

    Args:
        variable: a name in `VARIABLES`.
        s0: sigma at the start of the step.
        s1: sigma at its end.
        past: sigmas of the earlier predictions.
        new: whether there is also a prediction at s1.

    Examples:
        >>> regular("lambda", 0.75, 0.5, (1.0,)), regular("lambda", 0.5, 0.25, (0.75, 1.0))
        ('neg_log_sigma', 'lambda')
    """
    g = VARIABLES[variable]
    lost = not math.isfinite(g(s0)) or not (new or not past or positions(variable, s0, s1, past))
    return "neg_log_sigma" if lost and max((s0, *past)) >= 1 else variable


def polynomial_weights(thetas: Sequence[float], values: Sequence[float]) -> list[float]:
    r"""Solve $\sum_j w_j (P_j - P_0) = \sum_{k \ge 1} M_k d_k$ for the weights w, with $P_0 + \sum_k d_k \theta^k$ through all $P_j$.

    Args:
        thetas: positions of the P_j, without the 0 of $P_0$.
        values: $M_1, M_2, \dots$, one for each position.

    Examples:
        >>> [round(w, 12) for w in polynomial_weights([-1.0], [0.5])]  # Adams-Bashforth 2
        [-0.5]
    """
    powers = np.array([[t ** (k + 1) for t in thetas] for k in range(len(thetas))])
    return [float(w) for w in np.linalg.solve(powers, np.array(values))] if len(thetas) else []


def phi(k: int, z: float) -> float:
    r"""$\varphi_k(-z) = \int_0^1 e^{-(1 - \theta) z}\,\frac{\theta^{k - 1}}{(k - 1)!}\,d\theta$ for $k \ge 1$.

    Reference:
        Hochbruck and Ostermann, Exponential integrators, Acta Numerica 19 (2010), (2.10).

    Examples:
        >>> phi(1, 0.0), phi(2, 0.0), abs(phi(1, 2.0) - (1 - math.exp(-2)) / 2) < 1e-15
        (1.0, 0.5, True)
    """
    if z < 1:  # the series has no cancellation
        return math.fsum((-z) ** j / math.factorial(j + k) for j in range(24))
    value = math.exp(-z)  # phi_0; then z phi_{j+1} = 1 / j! - phi_j
    for j in range(k):
        value = (1 / math.factorial(j) - value) / z
    return value
