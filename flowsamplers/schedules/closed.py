r"""Schedules in closed form, in the variables that suit a rectified flow.

$\sigma_{VE} = \sigma / (1 - \sigma)$ is the noise level of EDM and k-diffusion; $\lambda = -\ln\sigma_{VE}$ is half the logarithm of
the signal-to-noise ratio. Both are infinite at an end of the flow. So a rule in them places the inner nodes, and the outermost nodes
are moved to 1 and 0.
"""

from __future__ import annotations

import math

import numpy as np

from flowsamplers._accepted import number
from flowsamplers.grid import SigmaGrid
from flowsamplers.registry import register_schedule
from flowsamplers.schedules.maps import Array, karras_spacing

__all__ = [
    "bong_tangent",
    "chebyshev",
    "exponential_ve",
    "karras_ve",
    "kl_optimal_rf",
    "laplace",
    "linear_quadratic",
    "uniform_lambda",
]


@register_schedule(
    "karras_ve",
    aliases=("edm",),
    form="EDM's rule in EDM's sigma",
    reference="Karras et al., EDM, arXiv:2206.00364, (5); diffusers' UniPC with use_karras_sigmas and use_flow_sigmas",
    advice="k-diffusion's Karras rule on a flow; most steps are at low noise.",
)
def karras_ve(steps: int, *, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> SigmaGrid:
    r"""Karras spacing of EDM's sigma from ``sigma_max`` to ``sigma_min``, the first node moved to pure noise; then 0.

    N nodes evenly spaced in $\sigma_{VE}^{1/\rho}$.

    Args:
        steps: N.
        sigma_min: last noise level before 0, in EDM's sigma.
        sigma_max: where the rule begins, in EDM's sigma; the run begins at pure noise.
        rho: the larger, the more steps at low noise.

    Raises:
        ValueError: levels that are not 0 < sigma_min < sigma_max.

    Examples:
        >>> [round(s, 4) for s in karras_ve(4).sigmas]
        [1.0, 0.9067, 0.3197, 0.002, 0.0]
    """
    _check_levels(sigma_min, sigma_max)
    return _from_noise(_flow_sigma(karras_spacing(sigma_max, sigma_min, steps, rho=rho)[1:]))


@register_schedule(
    "exponential_ve",
    aliases=("polyexponential_ve",),
    form="k-diffusion's rule in k-diffusion's sigma",
    reference="k-diffusion, get_sigmas_exponential and get_sigmas_polyexponential",
    advice="Evenly spaced in the log of the signal-to-noise ratio; uniform_lambda without its last node.",
)
def exponential_ve(steps: int, *, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 1.0) -> SigmaGrid:
    r"""Log-linear in EDM's sigma from ``sigma_max`` to ``sigma_min``, the first node moved to pure noise; then 0.

    $\ln\sigma_{VE} = r_i^\rho \ln\sigma_{max} + (1 - r_i^\rho) \ln\sigma_{min}$, with r from 1 to 0.

    Args:
        steps: N.
        sigma_min: last noise level before 0, in EDM's sigma.
        sigma_max: where the rule begins, in EDM's sigma.
        rho: power of the ramp from 1 to 0; 1 is the exponential schedule, others the polyexponential.

    Raises:
        ValueError: levels that are not 0 < sigma_min < sigma_max.

    Examples:
        >>> [round(s, 4) for s in exponential_ve(4).sigmas]
        [1.0, 0.7005, 0.064, 0.002, 0.0]
    """
    _check_levels(sigma_min, sigma_max)
    return _from_noise(_flow_sigma(_log_linear(sigma_max, sigma_min, np.linspace(1, 0, steps)[1:] ** rho)))


@register_schedule(
    "uniform_lambda",
    aliases=("logsnr", "uniform_logsnr"),
    form="DPM-Solver's logSNR",
    reference="Lu et al., DPM-Solver, arXiv:2206.00927, 3.4 (uniform steps in lambda)",
    advice="Even in the variable in which exponential samplers interpolate; symmetric about sigma 1/2.",
)
def uniform_lambda(steps: int, *, sigma_min: float = 1e-3, sigma_max: float = 1e3) -> SigmaGrid:
    r"""N + 1 nodes evenly spaced in the log of the signal-to-noise ratio, the outermost moved to 1 and 0.

    Even in $\lambda = \ln((1 - \sigma)/\sigma)$. Where ``sigma_min`` is 1 / ``sigma_max`` it is symmetric: $\sigma_i + \sigma_{N-i} = 1$.

    Args:
        steps: N.
        sigma_min: $e^{-\lambda}$ where the rule ends.
        sigma_max: $e^{-\lambda}$ where the rule begins.

    Raises:
        ValueError: levels that are not 0 < sigma_min < sigma_max.

    Examples:
        >>> [round(s, 4) for s in uniform_lambda(4).sigmas]
        [1.0, 0.9693, 0.5, 0.0307, 0.0]
    """
    _check_levels(sigma_min, sigma_max)
    return _from_noise(_flow_sigma(_log_linear(sigma_max, sigma_min, np.linspace(1, 0, steps + 1)[1:-1])))


@register_schedule(
    "kl_optimal_rf",
    aliases=("arctan",),
    presets={"cosine": {"c": 1.0}, "cosmap": {"c": 1.0}},
    form="the rule in EDM's sigma, exact at both ends",
    reference="Sabour et al., Align Your Steps, arXiv:2404.14507, theorem 3.1; with c = 1 the cosine schedule, arXiv:2403.03206, (21)",
    advice="A good first choice for smooth velocity fields; c is the standard deviation of the data.",
)
def kl_optimal_rf(steps: int, *, c: float = 1.0) -> SigmaGrid:
    r"""Evenly spaced in the arctangent of EDM's sigma over c, exact at both ends.

    $\theta = \arctan(\sigma_{VE} / c)$ falls evenly from 90 degrees to 0, and $\sigma = c\sin\theta / (c\sin\theta +
    \cos\theta)$. The schedule that minimises the Kullback-Leibler bound of Align Your Steps for Gaussian data of standard
    deviation c. With c = 1 the angle of the flow's own $(\cos\theta, \sin\theta)$ is uniform, which is the cosine schedule.

    Args:
        steps: N.
        c: standard deviation of the data, positive.

    Raises:
        ValueError: c that is not positive.

    Examples:
        >>> [round(s, 4) for s in kl_optimal_rf(4).sigmas]
        [1.0, 0.7071, 0.5, 0.2929, 0.0]
    """
    number("c", c, above=0)
    angle = math.pi / 2 * np.arange(steps, -1, -1) / steps
    return _from_noise((c * np.sin(angle) / (c * np.sin(angle) + np.cos(angle)))[1:-1])


@register_schedule(
    "chebyshev",
    aliases=("arcsine",),
    reference="Chebyshev-Lobatto nodes; the beta schedule of alpha = beta = 1/2",
    advice="Dense at both ends.",
)
def chebyshev(steps: int) -> SigmaGrid:
    r"""Chebyshev points: the projections of evenly spaced points on a half circle.

    $\sigma_i = (1 + \cos(\pi i/N)) / 2$.

    Examples:
        >>> [round(s, 4) for s in chebyshev(4).sigmas]
        [1.0, 0.8536, 0.5, 0.1464, 0.0]
    """
    return _from_noise(np.sin(math.pi / 2 * np.arange(steps - 1, 0, -1) / steps) ** 2)


@register_schedule(
    "laplace",
    form="the rule in EDM's sigma, exact at both ends",
    reference="Hang et al., Improved Noise Schedule for Diffusion Training, arXiv:2407.03297",
    advice="Most steps near sigma = e^mu / (1 + e^mu), few at the ends; ComfyUI's form clamps half its nodes to 1 on a flow.",
)
def laplace(steps: int, *, mu: float = 0.0, scale: float = 0.5) -> SigmaGrid:
    r"""Quantiles of a Laplace distribution of the log of EDM's sigma, with mean ``mu`` and scale ``scale``.

    $\ln\sigma_{VE} = \mu \mp b \ln(2r)$ on the two sides of the median, so $\sigma = 1/(1 + e^{-\mu}(2r)^b)$ for r up to 1/2.

    Args:
        steps: N.
        mu: the mean; note that this is $+\ln\sigma_{VE} = -\lambda$.
        scale: b, positive; the larger, the more steps near the ends.

    Raises:
        ValueError: a scale that is not positive, or a mu that is not finite.

    Examples:
        >>> [round(s, 4) for s in laplace(4).sigmas]
        [1.0, 0.5858, 0.5, 0.4142, 0.0]
    """
    number("scale", scale, above=0)
    number("mu", mu)
    r = np.arange(1, steps) / steps
    log_odds = np.where(r <= 0.5, mu - scale * np.log(2 * r), mu + scale * np.log(2 * (1 - r)))
    return _from_noise(1 / (1 + np.exp(-log_odds)))


@register_schedule(
    "linear_quadratic",
    form="Mochi and ComfyUI",
    reference="genmo Mochi, linear_quadratic_schedule; ComfyUI, comfy/samplers.py",
    advice="Half of the steps are above sigma = 0.975; for models that decide the content of the image there.",
)
def linear_quadratic(steps: int, *, threshold: float = 0.025, linear_steps: int | None = None) -> SigmaGrid:
    r"""Linear steps from 1 to 1 - ``threshold``, then a parabola to 0 that begins with the same slope.

    With m linear steps of length t/m: $1 - \sigma_i = ti/m$ for i < m, and $q(i^2 + m^2) + li$ from there, with
    $q = (m - tN) / (m(N - m)^2)$ and $l = t/m - 2(m - tN)/(N - m)^2$.

    Args:
        steps: N.
        threshold: t, how far the linear steps go, between 0 and 1.
        linear_steps: m; by default half of the steps.

    Raises:
        ValueError: a threshold outside (0, 1); no linear step, or nothing but linear steps.

    Examples:
        >>> [round(s, 4) for s in linear_quadratic(4).sigmas]
        [1.0, 0.9875, 0.975, 0.725, 0.0]
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold={threshold}: the linear steps go a part of the way, between 0 and 1")
    if steps == 1:
        return SigmaGrid([1.0, 0.0])
    m, n, t = steps // 2 if linear_steps is None else linear_steps, steps, threshold
    if not 0 < m < n:
        raise ValueError(f"linear_steps={m}: between 1 and {n - 1} of {n} steps are linear")
    q = (m - t * n) / (m * (n - m) ** 2)
    slope = t / m - 2 * (m - t * n) / (n - m) ** 2
    i = np.arange(1, n)
    return _from_noise(1 - np.where(i < m, t * i / m, q * (i**2 + m**2) + slope * i))


@register_schedule(
    "bong_tangent",
    form="RES4LYF",
    reference="RES4LYF, bong_tangent",
    advice="The schedule of RES4LYF users for res_2s and res_2m: dense at both ends and in the middle. It ignores the model's shift.",
)
def bong_tangent(steps: int, *, pivot: float = 0.6, slope: float = 0.2, middle: float = 0.5) -> SigmaGrid:
    r"""Two arctangent sigmoids, from 1 to ``middle`` and from there to 0.

    Let n = N + 2, m = ⌊pivot n⌋, k = 40 slope / n and $A_p(x) = -\arctan(k(x - p))$. The first half runs over x = 0..m - 1 with
    p = m. The second runs over x = 0..n - m - 1 with p = 0. Each is stretched to its ends. The shared node is taken once.

    Args:
        steps: N.
        pivot: where the sigmoids meet, as a share of n, in (0, 1).
        slope: steepness, positive.
        middle: sigma where they meet, in (0, 1).

    Raises:
        ValueError: a pivot or middle outside (0, 1), or so near an end that a side keeps no node; a slope that is not positive.

    Examples:
        >>> [round(s, 4) for s in bong_tangent(4).sigmas]
        [1.0, 0.8572, 0.5, 0.1175, 0.0]
    """
    for name, value in (("pivot", pivot), ("middle", middle)):
        if not 0 < value < 1:
            raise ValueError(f"{name}={value}: it lies between 0 and 1")
    number("slope", slope, above=0)
    if steps == 1:
        return SigmaGrid([1.0, 0.0])
    n = steps + 2
    m = int(pivot * n)
    if not 2 <= m <= n - 2:
        raise ValueError(f"pivot={pivot}: of {n} nodes it leaves {m} and {n - m} to the two sides; each needs 2")
    k = 40 * slope / n

    def side(count: int, centre: int, high: float, low: float) -> Array:
        a = -np.arctan(k * (np.arange(count) - centre))
        return low + (high - low) * (a - a[-1]) / (a[0] - a[-1])

    return SigmaGrid([*side(m, m, 1.0, middle)[:-1], *side(n - m, 0, middle, 0.0)])


def _from_noise(inner: Array) -> SigmaGrid:
    return SigmaGrid([1.0, *inner, 0.0])


def _flow_sigma(ve: Array) -> Array:
    return ve / (1 + ve)


def _log_linear(high: float, low: float, ramp: Array) -> Array:
    return np.exp(ramp * (math.log(high) - math.log(low)) + math.log(low))


def _check_levels(low: float, high: float) -> None:
    if not (0 < low < high and math.isfinite(high)):
        raise ValueError(f"sigma_min={low}, sigma_max={high}: noise levels are positive, and sigma_min is the lower")
