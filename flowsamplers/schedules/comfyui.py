r"""ComfyUI's schedules: functions of the model's table of sigmas.

The table of a flow model is $\tau_j = S_k(j / T)$, j = 1..T, where $S_k$ is the static shift. For FLUX (``ModelSamplingFlux``),
T = 10,000 and $k = e^\mu$, with mu 1.15, and 2.02 for FLUX.2. For SD3, Wan and most others (``ModelSamplingDiscreteFlow``),
T = 1,000, and k is given itself. Its last entry is 1, its first, "sigma_min", is $S_k(1/T)$. Here it is given by the options
``shift``, ``mu`` and ``points``. The table is computed in float64; ComfyUI's own is float32, a few 1e-7 apart.
"""

from __future__ import annotations

import math

import numpy as np

from flowsamplers.grid import SigmaGrid
from flowsamplers.registry import register_schedule
from flowsamplers.schedules.maps import Array, Values, beta_quantiles, karras_spacing, shift_sigmas, time_shift

__all__ = [
    "beta_comfy",
    "comfy_table",
    "ddim_uniform",
    "exponential_comfy",
    "karras_comfy",
    "kl_optimal",
    "normal",
    "sgm_uniform",
    "simple",
]

FLUX_MU = 1.15
FLUX_POINTS = 10_000
_ZERO = 1e-5
"""ComfyUI treats smaller sigmas as 0."""


def comfy_table(*, shift: float | None = None, mu: float = FLUX_MU, points: int = FLUX_POINTS) -> Array:
    """The table of sigmas of a flow model in ComfyUI, rising, from sigma_min to 1.

    Args:
        shift: static shift k; None for e^mu.
        mu: strength of the exponential shift, used where shift is None.
        points: T, at least 2.

    Raises:
        ValueError: fewer than 2 points, or a shift that is not positive.

    Examples:
        >>> comfy_table(shift=3.0, points=4).round(4).tolist()
        [0.5, 0.75, 0.9, 1.0]

    Reference:
        ComfyUI, comfy/model_sampling.py, ``ModelSamplingFlux`` and ``ModelSamplingDiscreteFlow``.
    """
    if points < 2:
        raise ValueError(f"points={points}: a table of sigmas has at least 2")
    return _shifted(np.arange(1, points + 1) / points, shift, mu)


@register_schedule(
    "simple",
    form="ComfyUI",
    reference="ComfyUI, comfy/samplers.py, simple_scheduler",
    advice="The schedule of ComfyUI's FLUX workflows: the shifted uniform grid, rounded to the table.",
)
def simple(steps: int, *, shift: float | None = None, mu: float = FLUX_MU, points: int = FLUX_POINTS) -> SigmaGrid:
    r"""Every (T/N)-th entry of the table, from its end; then 0.

    $\sigma_i = \tau_{T - \lfloor iT/N \rfloor}$. Where N divides T it is `shift`.

    Args:
        steps: N, at most T.
        shift: static shift of the table; None for e^mu.
        mu: see `comfy_table`.
        points: T.

    Raises:
        ValueError: more steps than points.

    Examples:
        >>> [round(s, 4) for s in simple(4, shift=3.0, points=1000).sigmas]
        [1.0, 0.9, 0.75, 0.5, 0.0]
    """
    table = comfy_table(shift=shift, mu=mu, points=points)
    stride = points / steps
    return _picked(table, [points - 1 - int(i * stride) for i in range(steps)], "simple")


@register_schedule(
    "normal",
    form="ComfyUI",
    reference="ComfyUI, comfy/samplers.py, normal_scheduler",
    advice="Like the shifted uniform grid, but its last node before 0 is sigma_min, shifted a second time: the last step is tiny.",
)
def normal(steps: int, *, shift: float | None = None, mu: float = FLUX_MU, points: int = FLUX_POINTS) -> SigmaGrid:
    """N times evenly spaced from 1 to sigma_min, shifted; then 0.

    sigma_min is shifted already and is shifted again, as in ComfyUI. Where the last of these sigmas is below 1e-5, ComfyUI takes one
    more and ends there; here that one is 0.

    Args:
        steps: N.
        shift: static shift of the table; None for e^mu.
        mu: see `comfy_table`.
        points: T.

    Examples:
        >>> [round(s, 4) for s in normal(4, shift=3.0, points=1000).sigmas]
        [1.0, 0.8577, 0.6022, 0.0089, 0.0]
    """
    low = float(comfy_table(shift=shift, mu=mu, points=points)[0])
    ends_there = float(_shifted([low], shift, mu)[0]) <= _ZERO
    sigmas = _shifted(np.linspace(1, low, steps + ends_there), shift, mu)
    return SigmaGrid([*sigmas[:steps], 0.0])


@register_schedule(
    "sgm_uniform",
    form="ComfyUI",
    reference="ComfyUI, comfy/samplers.py, normal_scheduler with sgm=True",
    advice="The shifted uniform grid except for sigma_min. With T = 1,000 and no shift it is the flow grid of diffusers' UniPC.",
)
def sgm_uniform(steps: int, *, shift: float | None = None, mu: float = FLUX_MU, points: int = FLUX_POINTS) -> SigmaGrid:
    """N + 1 times evenly spaced from 1 to sigma_min, shifted, the last of them replaced by 0.

    It tends to `shift` as the table grows.

    Args:
        steps: N.
        shift: static shift of the table; None for e^mu.
        mu: see `comfy_table`.
        points: T.

    Examples:
        >>> [round(s, 4) for s in sgm_uniform(4, shift=3.0, points=1000).sigmas]
        [1.0, 0.9004, 0.7511, 0.503, 0.0]
    """
    low = float(comfy_table(shift=shift, mu=mu, points=points)[0])
    sigmas = _shifted(np.linspace(1, low, steps + 1)[:-1], shift, mu)
    return SigmaGrid([*sigmas, 0.0])


@register_schedule(
    "ddim_uniform",
    form="ComfyUI",
    complete=False,
    exact_steps=False,
    reference="ComfyUI, comfy/samplers.py, ddim_scheduler",
    advice="For parity only. It begins below pure noise, far below with few steps, and often has one step too many.",
)
def ddim_uniform(steps: int, *, shift: float | None = None, mu: float = FLUX_MU, points: int = FLUX_POINTS) -> SigmaGrid:
    r"""Every d-th entry of the table, from its second; then 0.

    $\tau_{2 + jd}$ with $d = \lfloor T/N \rfloor$ and j = 0, 1, ..., falling. It has $\lceil (T - 1) / d \rceil$ steps: N where
    N divides T, often more where not, fewer only where N is T or more. It does not begin at 1, but up to d entries below
    it.

    Args:
        steps: N, which need not be how many steps come out.
        shift: static shift of the table; None for e^mu.
        mu: see `comfy_table`.
        points: T.

    Examples:
        >>> [round(s, 4) for s in ddim_uniform(4, shift=3.0, points=1000).sigmas]
        [0.901, 0.7515, 0.5027, 0.006, 0.0]
        >>> ddim_uniform(30).steps
        31
    """
    table = comfy_table(shift=shift, mu=mu, points=points)
    ends_there = bool(table[1] <= _ZERO)
    stride = max(points // (steps + ends_there), 1)
    falling = table[1::stride][::-1]
    return SigmaGrid([*(falling[:-1] if ends_there and len(falling) > 1 else falling), 0.0])


@register_schedule(
    "beta_comfy",
    presets={"beta57": {"alpha": 0.5, "beta": 0.7}},
    form="ComfyUI; beta57 is RES4LYF's",
    reference="Lee et al., Beta Sampling is All You Need, arXiv:2407.12173; ComfyUI, comfy/samplers.py, beta_scheduler",
    advice="Dense at both ends of the table's index, then shifted: quantiles 1 - i/N, while diffusers' beta has 1 - i/(N - 1).",
)
def beta_comfy(
    steps: int,
    *,
    alpha: float = 0.6,
    beta: float = 0.6,
    shift: float | None = None,
    mu: float = FLUX_MU,
    points: int = FLUX_POINTS,
) -> SigmaGrid:
    r"""The table at beta quantiles, rounded to the nearest entry; then 0.

    $\sigma_i = \tau_{1 + [(T - 1) F^{-1}(1 - i/N)]}$ with the quantile function $F^{-1}$. Near the ends the quantiles of many
    steps fall on the same entry of the table. ComfyUI drops the duplicates, and so takes fewer steps than were asked for;
    here that is an error.

    Args:
        steps: N.
        alpha: of the beta distribution.
        beta: of the beta distribution.
        shift: static shift of the table; None for e^mu.
        mu: see `comfy_table`.
        points: T.

    Raises:
        ValueError: more steps than the table can tell apart; the message says how many it can.

    Examples:
        >>> [round(s, 4) for s in beta_comfy(4, shift=3.0, points=1000).sigmas]
        [1.0, 0.9335, 0.7507, 0.3922, 0.0]
    """
    table = comfy_table(shift=shift, mu=mu, points=points)
    quantiles = beta_quantiles(1 - np.linspace(0, 1, steps, endpoint=False), alpha, beta)
    return _picked(table, np.rint(quantiles * (points - 1)).astype(int).tolist(), "beta_comfy")


@register_schedule(
    "karras_comfy",
    form="ComfyUI",
    reference="Karras et al., EDM, arXiv:2206.00364, (5), applied to sigma of the flow; ComfyUI, get_sigmas_karras",
    advice="For parity: EDM's rule applied to the flow's sigma; most steps are at low noise. karras_ve is the rule in EDM's sigma.",
)
def karras_comfy(
    steps: int, *, rho: float = 7.0, shift: float | None = None, mu: float = FLUX_MU, points: int = FLUX_POINTS
) -> SigmaGrid:
    """Karras spacing between 1 and sigma_min; then 0.

    Args:
        steps: N.
        rho: the larger, the more steps at low noise.
        shift: static shift of the table; None for e^mu.
        mu: see `comfy_table`.
        points: T.

    Examples:
        >>> [round(s, 4) for s in karras_comfy(4, shift=3.0, points=1000).sigmas]
        [1.0, 0.2327, 0.0368, 0.003, 0.0]
    """
    low = float(comfy_table(shift=shift, mu=mu, points=points)[0])
    return SigmaGrid([*karras_spacing(1.0, low, steps, rho=rho), 0.0])


@register_schedule(
    "exponential_comfy",
    aliases=("polyexponential_comfy",),
    form="ComfyUI",
    reference="ComfyUI and k-diffusion, get_sigmas_exponential and get_sigmas_polyexponential, applied to sigma of the flow",
    advice="For parity. Almost all steps are at low noise. exponential_ve is the same rule in EDM's sigma.",
)
def exponential_comfy(
    steps: int, *, rho: float = 1.0, shift: float | None = None, mu: float = FLUX_MU, points: int = FLUX_POINTS
) -> SigmaGrid:
    r"""Log-linear between 1 and sigma_min; then 0.

    $\ln\sigma_i = (1 - r_i^\rho) \ln\sigma_{min}$, with r from 1 to 0.

    Args:
        steps: N.
        rho: 1 is the exponential schedule, others the polyexponential.
        shift: static shift of the table; None for e^mu.
        mu: see `comfy_table`.
        points: T.

    Examples:
        >>> [round(s, 4) for s in exponential_comfy(4, shift=3.0, points=1000).sigmas]
        [1.0, 0.1441, 0.0208, 0.003, 0.0]
    """
    low = float(comfy_table(shift=shift, mu=mu, points=points)[0])
    ramp = np.linspace(1, 0, steps) ** rho
    return SigmaGrid([*np.exp((1 - ramp) * math.log(low)), 0.0])


@register_schedule(
    "kl_optimal",
    aliases=("kl_optimal_comfy",),
    form="ComfyUI",
    reference="Sabour et al., Align Your Steps, arXiv:2404.14507, theorem 3.1, applied to sigma of the flow; ComfyUI, kl_optimal_scheduler",
    advice="For parity. The rule is meant for EDM's sigma, as in kl_optimal_rf.",
)
def kl_optimal(steps: int, *, shift: float | None = None, mu: float = FLUX_MU, points: int = FLUX_POINTS) -> SigmaGrid:
    """N nodes evenly spaced in the arctangent of sigma between 1 and sigma_min; then 0.

    Args:
        steps: N.
        shift: static shift of the table; None for e^mu.
        mu: see `comfy_table`.
        points: T.

    Examples:
        >>> [round(s, 4) for s in kl_optimal(4, shift=3.0, points=1000).sigmas]
        [1.0, 0.5787, 0.2701, 0.003, 0.0]
    """
    low = float(comfy_table(shift=shift, mu=mu, points=points)[0])
    angles = np.linspace(math.atan(1), math.atan(low), steps)
    return SigmaGrid([1.0, *np.tan(angles[1:]), 0.0])


def _shifted(sigmas: Values, shift: float | None, mu: float) -> Array:
    return time_shift(sigmas, mu) if shift is None else shift_sigmas(sigmas, shift)


def _picked(table: Array, indices: list[int], name: str) -> SigmaGrid:
    """The table at falling indices, then 0; refused where two of them are the same entry."""
    different = len(set(indices))
    if different < len(indices):
        raise ValueError(
            f"steps={len(indices)}: {name} takes its sigmas from a table of points={len(table)}, where only {different} of these steps "
            "are different; take fewer steps or more points"
        )
    return SigmaGrid([*table[indices], 0.0])
