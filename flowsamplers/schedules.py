r"""Builders of schedules: how the N steps are spread between noise and data.

Every builder returns a `grid.SigmaGrid`. They are all one pipeline, `flow_match_euler`, the one of
diffusers' ``FlowMatchEulerDiscreteScheduler``: base sigmas, shift, stretch, re-spacing, terminal sigma.

Two arithmetics: ``"float64"`` computes in float64; ``"stock"`` repeats diffusers' operations in diffusers' precision, so the
float32 numbers are the same bit for bit (float64 rounded once differs in a third of the nodes).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from flowsamplers._errors import unknown
from flowsamplers.grid import NUM_TRAIN_TIMESTEPS, SigmaGrid

Array: TypeAlias = NDArray[np.floating[Any]]
Arithmetic: TypeAlias = Literal["float64", "stock"]
Values: TypeAlias = Sequence[float] | Array | Tensor
Builder: TypeAlias = Callable[..., SigmaGrid]

ENTRY_POINTS = "flowsamplers.schedules"
"""Entry-point group through which other packages add schedules."""

PIXELS_PER_TOKEN = 16
"""FLUX.2: the autoencoder divides by 8, the 2x2 packing by 2."""


# The elementary maps


def tokens_for(width: int, height: int) -> int:
    """Number of latent tokens of a FLUX.2 image.

    Args:
        width: in pixels.
        height: in pixels.

    Raises:
        ValueError: a side below 16 pixels.

    >>> tokens_for(1024, 1024)
    4096
    """
    for name, side in (("width", width), ("height", height)):
        if side < PIXELS_PER_TOKEN:
            raise ValueError(f"{name}={side}: an image side has at least {PIXELS_PER_TOKEN} pixels")
    return (height // PIXELS_PER_TOKEN) * (width // PIXELS_PER_TOKEN)


def empirical_mu(*, tokens: int, steps: int) -> float:
    r"""FLUX.2's empirical mu: the strength of the exponential time shift.

    Two lines in the number of tokens L were fitted, for 10 and for 200 steps; between them, and beyond, mu is linear in the
    number of steps N. Nothing clamps it: at 4,096 tokens it is negative from N = 399 on. Above 4,300 tokens the 200-step line
    is used whatever N is, so mu jumps there, at 4 steps from 2.31 to 1.18.

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
    _at_least_one("tokens", tokens)
    _at_least_one("steps", steps)
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
    _at_least_one("tokens", tokens)
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
        ValueError: another kind, or a mu that is not finite.

    Examples:
        >>> time_shift([1.0, 0.75, 0.5, 0.25, 0.0], mu=2.291179894115571).round(4).tolist()
        [1.0, 0.9674, 0.9081, 0.7672, 0.0]

    Reference:
        Esser et al., Scaling Rectified Flow Transformers, arXiv:2403.03206, section 5.3.2; diffusers ``time_shift``.
    """
    if kind not in ("exponential", "linear"):
        raise unknown("time_shift_type", kind, ["exponential", "linear"])
    if not math.isfinite(mu):
        raise ValueError(f"mu={mu}: the time shift needs a finite number")
    t = _array(sigmas)
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
    _check_shift(shift)
    s = _array(sigmas)
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
    rest = 1 - _array(sigmas)
    if rest[-1] == 0:
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
    from scipy import stats  # noqa: PLC0415  (half a second, and only this schedule needs it)

    quantiles: Array = stats.beta.ppf(1 - np.linspace(0, 1, steps), alpha, beta)  # pyright: ignore[reportAttributeAccessIssue]
    return sigma_min + quantiles * (sigma_max - sigma_min)


# The registry


@dataclass(frozen=True)
class ScheduleInfo:
    """What the registry knows of a schedule.

    Attributes:
        name: the name under which it is found.
        options: its options with their defaults.
        summary: first line of its docstring.
        builder: the function; called as ``builder(steps, **options)``.
    """

    name: str
    options: dict[str, Any]
    summary: str
    builder: Builder


_B = TypeVar("_B", bound=Builder)
_registry: dict[str, ScheduleInfo] = {}


def register_schedule(name: str) -> Callable[[_B], _B]:
    """Decorator: make a builder ``(steps, **options) -> SigmaGrid`` findable by name.

    Raises:
        ValueError: a name that is taken.
    """

    def add(builder: _B) -> _B:
        if name in _registry and _registry[name].builder is not builder:
            raise ValueError(f"schedule name {name!r} is taken by {_registry[name].builder.__qualname__}")
        parameters = list(inspect.signature(builder).parameters.values())[1:]
        options = {p.name: p.default for p in parameters}
        _registry[name] = ScheduleInfo(name, options, (builder.__doc__ or "").strip().split("\n")[0], builder)
        return builder

    return add


def list_schedules() -> list[ScheduleInfo]:
    """All registered schedules."""
    _load()
    return list(_registry.values())


def get_schedule(name: str, steps: int, **options: Any) -> SigmaGrid:
    """A schedule by name.

    Args:
        name: a registered name.
        steps: N, at least 1.
        **options: options of the builder.

    Raises:
        ValueError: unknown name or option, with the nearest one; whatever the builder raises.

    Examples:
        >>> get_schedule("shift", 2, shift=3.0).sigmas
        (1.0, 0.75, 0.0)
    """
    _load()
    if name not in _registry:
        raise unknown("schedule", name, _registry)
    info = _registry[name]
    for option in options:
        if option not in info.options:
            raise unknown(f"option of schedule {name!r}", option, info.options)
    return info.builder(steps, **options)


@cache
def _load() -> None:
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name not in _registry:
            register_schedule(entry.name)(entry.load())


# The builders


def explicit(sigmas: Values) -> SigmaGrid:
    """These sigmas, as they are; a terminal 0 is appended unless it is there.

    Raises:
        ValueError: see `grid.SigmaGrid`.

    Examples:
        >>> explicit([1.0, 0.4]).sigmas
        (1.0, 0.4, 0.0)
    """
    return SigmaGrid(_with_end(_array(sigmas), 0.0))


@register_schedule("flow_match_euler")
def flow_match_euler(
    steps: int | None = None,
    *,
    sigmas: Values | None = None,
    timesteps: Values | None = None,
    mu: float | None = None,
    num_train_timesteps: int = NUM_TRAIN_TIMESTEPS,
    shift: float = 1.0,
    use_dynamic_shifting: bool = False,
    invert_sigmas: bool = False,
    shift_terminal: float | None = None,
    use_karras_sigmas: bool = False,
    use_exponential_sigmas: bool = False,
    use_beta_sigmas: bool = False,
    time_shift_type: Literal["exponential", "linear"] = "exponential",
    sigma_range: tuple[float, float] | None = None,
    arithmetic: Arithmetic = "stock",
) -> SigmaGrid:
    """The schedule of diffusers' FlowMatchEulerDiscreteScheduler, with every option of its configuration.

    Base sigmas, then the dynamic or static shift, then the stretch to ``shift_terminal``, then Karras, exponential or beta
    re-spacing between the first and the last of them, then the end: 0, or 1 after ``invert_sigmas``.

    Args:
        steps: N; may be left out where sigmas or timesteps are given.
        sigmas: N base sigmas, before the shift. By default N of them between the ends of the training schedule; these ends
            are shifted already, and the shift is applied again, as in diffusers (issue 13243).
        timesteps: N base times ``num_train_timesteps * sigma``, instead of sigmas.
        mu: strength of the dynamic shift; not used without it.
        num_train_timesteps: the model's time at sigma 1.
        shift: static shift, not used with the dynamic one.
        use_dynamic_shifting: shift by mu.
        invert_sigmas: rise from data to noise.
        shift_terminal: see `stretch_terminal`; None or 0 for none.
        use_karras_sigmas: see `karras_spacing`.
        use_exponential_sigmas: see `exponential_spacing`.
        use_beta_sigmas: see `beta_spacing`.
        time_shift_type: see `time_shift`.
        sigma_range: ends (high, low) of the default base sigmas; by default those of the shifted training schedule.
        arithmetic: ``"stock"`` for diffusers' own bits, or ``"float64"``.

    Raises:
        ValueError: no steps; sigmas, timesteps and steps that do not fit together; mu missing; more than one re-spacing; nodes
            that are not finite or not strictly monotone.

    Examples:
        >>> flow_match_euler(sigmas=[1.0, 0.5], shift=3.0).sigmas
        (1.0, 0.75, 0.0)

    Reference:
        diffusers/schedulers/scheduling_flow_match_euler_discrete.py, ``set_timesteps``.
    """
    if arithmetic not in ("float64", "stock"):
        raise unknown("arithmetic", arithmetic, ["float64", "stock"])
    if use_dynamic_shifting and mu is None:
        raise ValueError("mu=None: use_dynamic_shifting needs the strength of the shift; pass mu")
    spacings = {
        "use_karras_sigmas": (use_karras_sigmas, karras_spacing),
        "use_exponential_sigmas": (use_exponential_sigmas, exponential_spacing),
        "use_beta_sigmas": (use_beta_sigmas, beta_spacing),
    }
    chosen = {name: spacing for name, (wanted, spacing) in spacings.items() if wanted}
    if len(chosen) > 1:
        raise ValueError(f"{' and '.join(chosen)}: only one re-spacing of the sigmas can be used")

    static = _shift_as_diffusers if arithmetic == "stock" else shift_sigmas
    given = np.float32 if arithmetic == "stock" else np.float64
    s = _base(steps, sigmas, timesteps, num_train_timesteps, given)
    if s is None:
        high, low = sigma_range or _training_ends(num_train_timesteps, 1.0 if use_dynamic_shifting else shift)
        s = np.linspace(high * num_train_timesteps, low * num_train_timesteps, steps or 0) / num_train_timesteps
    s = time_shift(s, mu, time_shift_type) if use_dynamic_shifting and mu is not None else static(s, shift)
    if shift_terminal:
        s = stretch_terminal(s, shift_terminal)
    for spacing in chosen.values():
        s = spacing(s[0].item(), s[-1].item(), len(s))
    s = s.astype(given)
    if invert_sigmas:
        return SigmaGrid(_with_end(1 - s, 1.0), rising=True)
    return SigmaGrid(_with_end(s, 0.0))


@register_schedule("linear")
def linear(steps: int, *, arithmetic: Arithmetic = "float64") -> SigmaGrid:
    """Evenly spaced: sigma_i = 1 - i / N.

    Examples:
        >>> linear(4).sigmas
        (1.0, 0.75, 0.5, 0.25, 0.0)
    """
    return shift(steps, shift=1.0, arithmetic=arithmetic)


@register_schedule("shift")
def shift(steps: int, *, shift: float = 3.0, arithmetic: Arithmetic = "float64") -> SigmaGrid:
    """Evenly spaced, then the static shift (Stable Diffusion 3: 3).

    Examples:
        >>> shift(2, shift=3.0).sigmas
        (1.0, 0.75, 0.0)
    """
    return flow_match_euler(sigmas=pipeline_sigmas(steps, arithmetic), shift=shift, arithmetic=arithmetic)


@register_schedule("flux1")
def flux1(
    steps: int, *, tokens: int = 4096, base_shift: float = 0.5, max_shift: float = 1.15, arithmetic: Arithmetic = "float64"
) -> SigmaGrid:
    """FLUX.1: exponential time shift with a mu that is linear in the number of tokens.

    Examples:
        >>> round(flux1(2, tokens=4096).sigmas[1], 4)
        0.7595
    """
    mu = flux1_mu(tokens=tokens, base_shift=base_shift, max_shift=max_shift)
    return _dynamic(steps, mu, arithmetic)


@register_schedule("flux2")
def flux2(steps: int, *, tokens: int = 4096, mu: float | None = None, arithmetic: Arithmetic = "float64") -> SigmaGrid:
    """FLUX.2: exponential time shift with the empirical mu of tokens and steps.

    Args:
        steps: N.
        tokens: latent tokens of the image, see `tokens_for`; 4,096 at 1024x1024.
        mu: hold the shift fixed instead; for convergence studies, because the empirical mu changes with N.
        arithmetic: ``"float64"``, or ``"stock"`` for the bits of the diffusers pipeline.

    Examples:
        >>> [round(s, 4) for s in flux2(4, tokens=4096).sigmas]
        [1.0, 0.9674, 0.9081, 0.7672, 0.0]
    """
    _at_least_one("steps", steps)
    return _dynamic(steps, empirical_mu(tokens=tokens, steps=steps) if mu is None else mu, arithmetic)


@register_schedule("karras")
def karras(steps: int, *, shift: float = 3.0, arithmetic: Arithmetic = "float64") -> SigmaGrid:
    """FlowMatchEuler's ``use_karras_sigmas``: Karras spacing between the ends of a shifted grid."""
    return flow_match_euler(
        sigmas=pipeline_sigmas(steps, arithmetic), shift=shift, use_karras_sigmas=True, arithmetic=arithmetic
    )


@register_schedule("exponential")
def exponential(steps: int, *, shift: float = 3.0, arithmetic: Arithmetic = "float64") -> SigmaGrid:
    """FlowMatchEuler's ``use_exponential_sigmas``: log-linear between the ends of a shifted grid."""
    return flow_match_euler(
        sigmas=pipeline_sigmas(steps, arithmetic), shift=shift, use_exponential_sigmas=True, arithmetic=arithmetic
    )


@register_schedule("beta")
def beta(steps: int, *, shift: float = 3.0, arithmetic: Arithmetic = "float64") -> SigmaGrid:
    """FlowMatchEuler's ``use_beta_sigmas``: quantiles of a beta distribution, 0.6 and 0.6, between the ends of a shifted grid."""
    return flow_match_euler(sigmas=pipeline_sigmas(steps, arithmetic), shift=shift, use_beta_sigmas=True, arithmetic=arithmetic)


def pipeline_sigmas(steps: int, arithmetic: Arithmetic = "float64") -> Array:
    """The base sigmas that diffusers' FLUX pipelines pass: 1, 1 - 1/N, ..., 1/N.

    Raises:
        ValueError: fewer than 1 step.

    >>> pipeline_sigmas(4).tolist()
    [1.0, 0.75, 0.5, 0.25]
    """
    _at_least_one("steps", steps)
    if arithmetic == "stock":
        return np.linspace(1.0, 1 / steps, steps)
    return np.arange(steps, 0, -1) / steps


def _dynamic(steps: int, mu: float, arithmetic: Arithmetic) -> SigmaGrid:
    base = pipeline_sigmas(steps, arithmetic)
    return flow_match_euler(sigmas=base, mu=mu, use_dynamic_shifting=True, arithmetic=arithmetic)


def _base(
    steps: int | None, sigmas: Values | None, timesteps: Values | None, train: int, dtype: type[np.floating[Any]]
) -> Array | None:
    """The base sigmas that were given, checked; None where there are none."""
    if steps is not None:
        _at_least_one("steps", steps)
    elif sigmas is None and timesteps is None:
        raise ValueError("steps=None: give steps, sigmas or timesteps")
    for name, values in (("sigmas", sigmas), ("timesteps", timesteps)):
        if values is None:
            continue
        if len(values) == 0:
            raise ValueError(f"{name}=[]: a schedule needs at least 1 step")
        if steps is not None and len(values) != steps:
            raise ValueError(f"{name} has {len(values)} entries, but steps={steps}; leave steps out or make them equal")
        if not np.isfinite(_array(values)).all():
            raise ValueError(f"{name}={list(_array(values))}: every entry must be finite")
    if sigmas is not None and timesteps is not None and len(sigmas) != len(timesteps):
        raise ValueError(f"sigmas has {len(sigmas)} entries and timesteps {len(timesteps)}; they belong together")
    if sigmas is not None:
        return _array(sigmas).astype(dtype)
    return None if timesteps is None else _array(timesteps).astype(dtype) / train


def _shift_as_diffusers(s: Array, shift: float) -> Array:
    """The static shift in diffusers' order of operations, whose sum cancels near 1 where the shift is small."""
    _check_shift(shift)
    return shift * s / (1 + (shift - 1) * s)


def _check_shift(shift: float) -> None:
    if not (math.isfinite(shift) and shift > 0):
        raise ValueError(f"shift={shift}: the static shift is a positive number; 1 changes nothing")


def _training_ends(train: int, shift: float) -> tuple[float, float]:
    """First and last sigma of the training schedule, shifted, in float32 as diffusers computes them."""
    ends = _shift_as_diffusers(np.array([train, 1], dtype=np.float32) / train, shift)
    return ends[0].item(), ends[1].item()


def _array(values: Values) -> Array:
    a = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else np.asarray(values)
    return a if a.dtype == np.float32 else a.astype(np.float64)


def _with_end(sigmas: Array, end: float) -> list[float]:
    nodes: list[float] = sigmas.tolist()
    return nodes if len(nodes) > 1 and nodes[-1] == end else [*nodes, end]


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        what = "a schedule needs at least 1 step" if name == "steps" else f"{name} must be at least 1"
        raise ValueError(f"{name}={value}: {what}")
