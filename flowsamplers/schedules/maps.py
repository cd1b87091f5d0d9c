"""The maps behind the schedules, on arrays of sigmas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flowsamplers._accepted import number, unknown
from flowsamplers.grid import at_least_one

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "beta_quantiles",
    "beta_spacing",
    "empirical_mu",
    "exponential_spacing",
    "flux1_mu",
    "karras_spacing",
    "loglinear",
    "shift_sigmas",
    "stretch_terminal",
    "time_shift",
    "tokens_for",
]

Array: TypeAlias = NDArray[np.floating[Any]]
Values: TypeAlias = "Sequence[float] | Array | Tensor"

MOST = math.log(np.finfo(np.float64).max)
"""Largest mu; the strength of the shift is exp(mu)."""

PIXELS_PER_TOKEN = 16
"""Pixels per token and axis of FLUX.2: the autoencoder divides by 8, the 2x2 packing by 2."""


def tokens_for(width: int, height: int) -> int:
    """Compute the number of latent tokens of a FLUX.2 image.

    Args:
        width: width in pixels.
        height: height in pixels.

    Raises:
        ValueError: a side is below 16 pixels.

    Examples:
        >>> tokens_for(1024, 1024)
        4096
    """
    for name, side in (("width", width), ("height", height)):
        if side < PIXELS_PER_TOKEN:
            raise ValueError(f"{name}={side}: an image side has at least {PIXELS_PER_TOKEN} pixels")
    return (height // PIXELS_PER_TOKEN) * (width // PIXELS_PER_TOKEN)


def empirical_mu(*, tokens: int, steps: int) -> float:
    r"""Compute FLUX.2's empirical mu, the strength of the exponential time shift.

    Two lines in the number of tokens were fitted, for 10 and for 200 steps. For other numbers of steps N, mu is linear in N. It is not
    clamped: at 4,096 tokens it is negative from N = 399 on. Above 4,300 tokens the 200-step line is used for any N. So mu jumps there, at
    4 steps from 2.31 to 1.18.

    Args:
        tokens: latent tokens of the image, without text and reference images.
        steps: the ``num_inference_steps`` argument of the pipeline.

    Raises:
        ValueError: no tokens or no steps.

    Examples:
        >>> empirical_mu(tokens=4096, steps=4)
        2.291179894115571

    Reference:
        ``compute_empirical_mu`` of black-forest-labs/flux2 and of diffusers' FLUX.2 pipelines.
    """
    at_least_one("tokens", tokens)
    at_least_one("steps", steps)
    at_200 = 0.00016927 * tokens + 0.45666666
    if tokens > 4300:
        return float(at_200)
    at_10 = 8.73809524e-05 * tokens + 1.89833333
    slope = (at_200 - at_10) / 190.0
    return float(slope * steps + (at_200 - 200.0 * slope))


def flux1_mu(
    *, tokens: int, base_shift: float = 0.5, max_shift: float = 1.15, base_tokens: int = 256, max_tokens: int = 4096
) -> float:
    """FLUX.1's mu: a line through ``(base_tokens, base_shift)`` and ``(max_tokens, max_shift)``.

    Examples:
        >>> flux1_mu(tokens=4096)
        1.15

    Reference:
        ``calculate_shift`` of diffusers' FLUX pipelines.
    """
    at_least_one("tokens", tokens)
    slope = (max_shift - base_shift) / (max_tokens - base_tokens)
    return tokens * slope + (base_shift - slope * base_tokens)


def time_shift(sigmas: Values, mu: float, kind: Literal["exponential", "linear"] = "exponential") -> Array:
    r"""Shift sigmas towards noise: $\sigma \mapsto k / (k + (1/\sigma - 1))$, k = e^mu or mu.

    The ends 0 and 1 stay where they are. The exponential shift is `shift_sigmas` with $k = e^\mu$.

    Args:
        sigmas: noise levels in [0, 1]; float32 stays float32, everything else is computed in float64.
        mu: strength; 0 of the exponential and 1 of the linear kind change nothing.
        kind: ``"exponential"`` or ``"linear"``.

    Raises:
        ValueError: another kind, or a mu that is not finite, or its exponential.

    Examples:
        >>> time_shift([1.0, 0.75, 0.5, 0.25, 0.0], mu=2.291179894115571).round(4).tolist()
        [1.0, 0.9674, 0.9081, 0.7672, 0.0]

    Reference:
        Esser et al., Scaling Rectified Flow Transformers, arXiv:2403.03206, section 5.3.2; diffusers ``time_shift``.
    """
    if kind not in ("exponential", "linear"):
        raise unknown("time_shift_type", kind, ["exponential", "linear"])
    if not math.isfinite(mu) or (kind == "exponential" and mu > MOST):
        raise ValueError(f"mu={mu}: the time shift needs a finite number" + f" of at most {int(MOST)}" * math.isfinite(mu))
    t = as_array(sigmas)
    strength = math.exp(mu) if kind == "exponential" else mu
    with np.errstate(divide="ignore", over="ignore"):
        return strength / (strength + (1 / t - 1))


def shift_sigmas(sigmas: Values, shift: float) -> Array:
    r"""The static shift: $\sigma \mapsto k\sigma / (1 + (k - 1)\sigma)$, exact at 0 and 1.

    Examples:
        >>> shift_sigmas([1.0, 0.5, 0.0], 3.0).tolist()
        [1.0, 0.75, 0.0]

    Reference:
        arXiv:2403.03206, equation 23.
    """
    number("shift", shift, above=0)
    s = as_array(sigmas)
    return shift * s / (shift * s + (1 - s))


def stretch_terminal(sigmas: Values, terminal: float) -> Array:
    """Stretch so that the last of these sigmas lies at ``terminal`` while 1 stays at 1.

    A schedule of one step has a single node, which is where the run begins: it stays. (Stock diffusers returns NaN.)

    Args:
        sigmas: the nodes without the end, falling.
        terminal: where the last of them is to lie, in [0, 1).

    Raises:
        ValueError: a terminal outside [0, 1).

    Examples:
        >>> stretch_terminal([1.0, 0.75, 0.5], 0.1).round(3).tolist()
        [1.0, 0.55, 0.1]
    """
    if not 0 <= terminal < 1:
        raise ValueError(f"shift_terminal={terminal}: the last sigma before the end lies in [0, 1)")
    rest = 1 - as_array(sigmas)
    if abs(rest[-1]) <= 2**-20:  # a float32 shift of 1 may be a rounding off
        return 1 - rest
    return 1 - rest / (rest[-1] / (1 - terminal))


def karras_spacing(sigma_max: float, sigma_min: float, steps: int, *, rho: float = 7.0) -> Array:
    r"""N nodes evenly spaced in $\sigma^{1/\rho}$.

    Reference:
        Karras et al., EDM, arXiv:2206.00364, equation 5.
    """
    ramp = np.linspace(0, 1, steps)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return (high + ramp * (low - high)) ** rho


def exponential_spacing(sigma_max: float, sigma_min: float, steps: int) -> Array:
    r"""N nodes evenly spaced in $\log\sigma$.

    Raises:
        ValueError: a sigma that is 0, which has no logarithm.
    """
    if min(sigma_max, sigma_min) <= 0:
        raise ValueError(f"use_exponential_sigmas: the last sigma before the end is {sigma_min}, which has no logarithm")
    return np.exp(np.linspace(math.log(sigma_max), math.log(sigma_min), steps))


def beta_spacing(sigma_max: float, sigma_min: float, steps: int, *, alpha: float = 0.6, beta: float = 0.6) -> Array:
    """N nodes at evenly spaced quantiles of a beta distribution, dense at both ends.

    Reference:
        Lee et al., Beta Sampling is All You Need, arXiv:2407.12173, as diffusers has it.
    """
    return sigma_min + beta_quantiles(1 - np.linspace(0, 1, steps), alpha, beta) * (sigma_max - sigma_min)


def beta_quantiles(probabilities: Array, alpha: float, beta: float) -> Array:
    """Compute quantiles of the beta distribution.

    Raises:
        ValueError: a parameter that is not positive.

    Examples:
        >>> beta_quantiles(np.array([0.0, 0.5, 1.0]), 0.6, 0.6).round(6).tolist()
        [0.0, 0.5, 1.0]
    """
    number("alpha", alpha, above=0)
    number("beta", beta, above=0)
    from scipy import stats  # noqa: PLC0415  (half a second, and only these schedules need it)

    return stats.beta.ppf(probabilities, alpha, beta)  # pyright: ignore[reportAttributeAccessIssue]


def loglinear(levels: Values, count: int) -> Array:
    """Interpolate falling positive levels to another number of levels, linearly in the logarithm over the index.

    If ``count`` is their own number, the levels are returned unchanged.

    Args:
        levels: at least 2, falling, positive.
        count: at least 2.

    Examples:
        >>> loglinear([1.0, 0.01], 3).round(6).tolist()
        [1.0, 0.1, 0.01]

    Reference:
        Align Your Steps, https://research.nvidia.com/labs/toronto-ai/AlignYourSteps/howto.html
    """
    known = as_array(levels)
    if count == len(known):
        return known
    at = np.linspace(0, len(known) - 1, count)
    return np.exp(np.interp(at, np.arange(len(known)), np.log(known)))


def shift_as_diffusers(s: Array, shift: float) -> Array:
    """Apply the static shift in diffusers' order of operations, which loses digits near 1 for small shifts."""
    number("shift", shift, above=0)
    return shift * s / (1 + (shift - 1) * s)


def as_array(values: Values) -> Array:
    """Convert values to an array: float32 stays float32, everything else becomes float64."""
    given: Any = values
    a = given.detach().cpu().double().numpy() if hasattr(given, "detach") else np.asarray(given)
    return a if a.dtype == np.float32 else a.astype(np.float64)
