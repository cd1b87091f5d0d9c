r"""diffusers' schedules and those of the FLUX, SD3 and Wan pipelines; all are cases of `flow_match_euler`.

Base sigmas, shift, stretch, re-spacing, end. The static shift multiplies the odds $\sigma/(1 - \sigma)$ of every node by k; the
exponential shift of a mu is the static one with $k = e^\mu$.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np

from flowsamplers.grid import NUM_TRAIN_TIMESTEPS, SigmaGrid, at_least_one
from flowsamplers.registry import register_schedule
from flowsamplers.schedules.maps import (
    Array,
    Values,
    as_array,
    beta_spacing,
    empirical_mu,
    exponential_spacing,
    flux1_mu,
    karras_spacing,
    shift_as_diffusers,
    shift_sigmas,
    stretch_terminal,
    time_shift,
)

__all__ = [
    "Arithmetic",
    "beta",
    "explicit",
    "exponential",
    "flow_match_euler",
    "flux1",
    "flux2",
    "karras",
    "linear",
    "pipeline_sigmas",
    "shift",
]

Arithmetic: TypeAlias = Literal["float64", "stock"]
"""``"float64"``, or ``"stock"``: diffusers' own operations in diffusers' precision, for the same bits."""


def explicit(sigmas: Values) -> SigmaGrid:
    """Use explicit sigmas; a final 0 is appended if it is missing.

    Raises:
        ValueError: see `grid.SigmaGrid`.

    Examples:
        >>> explicit([1.0, 0.4]).sigmas
        (1.0, 0.4, 0.0)
    """
    return SigmaGrid(_with_end(as_array(sigmas), 0.0))


@register_schedule(
    "flow_match_euler",
    form="diffusers",
    reference="diffusers' FlowMatchEulerDiscreteScheduler.set_timesteps",
    advice="For parity with a scheduler's configuration: all its options, the same float32 numbers.",
)
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
    respaced_range: tuple[float | None, float | None] = (None, None),
    arithmetic: Arithmetic = "stock",
) -> SigmaGrid:
    """The schedule of diffusers' FlowMatchEulerDiscreteScheduler, with every option of its configuration.

    It applies, in this order: base sigmas; the dynamic or static shift; the stretch to ``shift_terminal``; Karras, exponential or beta
    re-spacing between the first and last sigma; the end, 0, or 1 after ``invert_sigmas``.

    Args:
        steps: N; may be left out where sigmas or timesteps are given.
        sigmas: N base sigmas, before the shift. By default N of them between the ends of the training schedule. These ends are
            shifted already, and are shifted again, as in diffusers (issue 13243).
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
        respaced_range: ends (high, low) of a re-spacing, such as Cosmos' (80, 0.002); by default those of the sigmas so far.
        arithmetic: ``"stock"`` for diffusers' own bits, or ``"float64"``.

    Raises:
        ValueError: there are no steps, or mu is missing. Sigmas, timesteps and steps do not fit together. There is more than
            one re-spacing. Nodes are not finite or not strictly monotone.

    Examples:
        >>> flow_match_euler(sigmas=[1.0, 0.5], shift=3.0).sigmas
        (1.0, 0.75, 0.0)

    Reference:
        diffusers/schedulers/scheduling_flow_match_euler_discrete.py, ``set_timesteps``.
    """
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

    static = shift_as_diffusers if arithmetic == "stock" else shift_sigmas
    given = np.float32 if arithmetic == "stock" else np.float64
    s = _base(steps, sigmas, timesteps, num_train_timesteps, given)
    if s is None:
        high, low = sigma_range or _training_ends(num_train_timesteps, 1.0 if use_dynamic_shifting else shift)
        s = np.linspace(high * num_train_timesteps, low * num_train_timesteps, steps or 0) / num_train_timesteps
    s = time_shift(s, mu, time_shift_type) if use_dynamic_shifting and mu is not None else static(s, shift)
    if shift_terminal:
        s = stretch_terminal(s, shift_terminal)
    for spacing in chosen.values():
        high, low = (
            given if given is not None else end for given, end in zip(respaced_range, (s[0].item(), s[-1].item()), strict=True)
        )
        s = spacing(high, low, len(s))
    s = s.astype(given)
    if invert_sigmas:
        return SigmaGrid(_with_end(1 - s, 1.0), rising=True)
    return SigmaGrid(_with_end(s, 0.0))


@register_schedule(
    "linear",
    aliases=("uniform",),
    reference="Liu et al., Flow Straight and Fast, arXiv:2209.03003",
    advice="A good first choice for smooth velocity fields, and for small models with few tokens.",
)
def linear(steps: int, *, arithmetic: Arithmetic = "float64") -> SigmaGrid:
    """Evenly spaced: sigma_i = 1 - i / N.

    Examples:
        >>> linear(4).sigmas
        (1.0, 0.75, 0.5, 0.25, 0.0)
    """
    return shift(steps, shift=1.0, arithmetic=arithmetic)


@register_schedule(
    "shift",
    presets={
        "sd3": {"shift": 3.0},
        "auraflow": {"shift": 1.73},
        "wan": {"shift": 5.0},
        "wan_480p": {"shift": 3.0},
        "hunyuan_video": {"shift": 7.0},
    },
    reference="Esser et al., Scaling Rectified Flow Transformers, arXiv:2403.03206, (23)",
    advice="The schedule of most flow models, each with its own shift. Larger images have larger shifts.",
)
def shift(steps: int, *, shift: float = 3.0, arithmetic: Arithmetic = "float64") -> SigmaGrid:
    """Evenly spaced, then the static shift (Stable Diffusion 3: 3).

    Examples:
        >>> shift(2, shift=3.0).sigmas
        (1.0, 0.75, 0.0)
    """
    return flow_match_euler(sigmas=pipeline_sigmas(steps, arithmetic), shift=shift, arithmetic=arithmetic)


@register_schedule(
    "flux1",
    form="FLUX.1",
    reference="calculate_shift of diffusers' FLUX pipelines; arXiv:2403.03206, 5.3.2",
    advice="FLUX.1's own: mu between 0.5 at 256 tokens and 1.15 at 4,096.",
)
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


@register_schedule(
    "flux2",
    aliases=("flux2_empirical",),
    form="FLUX.2",
    reference="compute_empirical_mu of black-forest-labs/flux2 and of diffusers' FLUX.2 pipelines",
    advice="FLUX.2's own. Its last step covers a third to three quarters of the way from noise to data.",
)
def flux2(steps: int, *, tokens: int = 4096, mu: float | None = None, arithmetic: Arithmetic = "float64") -> SigmaGrid:
    """FLUX.2: exponential time shift with the empirical mu of tokens and steps.

    The empirical mu jumps: above 4,300 tokens it no longer depends on the steps, and falls at 4 steps from 2.31 to 1.18; see
    `empirical_mu`.

    Args:
        steps: N.
        tokens: latent tokens of the image, see `tokens_for`; 4,096 at 1024x1024.
        mu: hold the shift fixed instead; for convergence studies, because the empirical mu changes with N.
        arithmetic: ``"float64"``, or ``"stock"`` for the bits of the diffusers pipeline.

    Examples:
        >>> [round(s, 4) for s in flux2(4, tokens=4096).sigmas]
        [1.0, 0.9674, 0.9081, 0.7672, 0.0]
        >>> [[round(s, 3) for s in flux2(4, tokens=tokens).sigmas] for tokens in (4300, 4301)]
        [[1.0, 0.968, 0.91, 0.77, 0.0], [1.0, 0.907, 0.766, 0.522, 0.0]]
    """
    return _dynamic(steps, empirical_mu(tokens=tokens, steps=steps) if mu is None else mu, arithmetic)


@register_schedule(
    "karras",
    aliases=("karras_diffusers",),
    form="diffusers",
    reference="Karras et al., EDM, arXiv:2206.00364, (5), in sigma itself, between the ends of a shifted grid",
    advice="Its last node before 0 is the shifted grid's, 0.1 or more with few steps. ComfyUI's schedule of that name is another one.",
)
def karras(steps: int, *, shift: float = 3.0, arithmetic: Arithmetic = "float64") -> SigmaGrid:
    """FlowMatchEuler's ``use_karras_sigmas``: Karras spacing between the ends of a shifted grid.

    Examples:
        >>> [round(s, 4) for s in karras(4).sigmas]
        [1.0, 0.7997, 0.6348, 0.5, 0.0]
    """
    return flow_match_euler(
        sigmas=pipeline_sigmas(steps, arithmetic), shift=shift, use_karras_sigmas=True, arithmetic=arithmetic
    )


@register_schedule(
    "exponential",
    aliases=("exponential_diffusers",),
    form="diffusers",
    reference="diffusers' use_exponential_sigmas: log-linear in sigma, between the ends of a shifted grid",
    advice="For parity. Most of its steps are at low noise.",
)
def exponential(steps: int, *, shift: float = 3.0, arithmetic: Arithmetic = "float64") -> SigmaGrid:
    """FlowMatchEuler's ``use_exponential_sigmas``: log-linear between the ends of a shifted grid.

    Examples:
        >>> [round(s, 4) for s in exponential(4).sigmas]
        [1.0, 0.7937, 0.63, 0.5, 0.0]
    """
    return flow_match_euler(
        sigmas=pipeline_sigmas(steps, arithmetic), shift=shift, use_exponential_sigmas=True, arithmetic=arithmetic
    )


@register_schedule(
    "beta",
    aliases=("beta_diffusers",),
    form="diffusers",
    reference="Lee et al., Beta Sampling is All You Need, arXiv:2407.12173, as diffusers has it: quantiles 1 - i/(N - 1)",
    advice="Dense at both ends, for velocity fields that are hard there. beta_comfy is another schedule.",
)
def beta(steps: int, *, shift: float = 3.0, arithmetic: Arithmetic = "float64") -> SigmaGrid:
    """FlowMatchEuler's ``use_beta_sigmas``: quantiles of a beta distribution, 0.6 and 0.6, between the ends of a shifted grid.

    Examples:
        >>> [round(s, 4) for s in beta(4).sigmas]
        [1.0, 0.8623, 0.6377, 0.5, 0.0]
    """
    return flow_match_euler(sigmas=pipeline_sigmas(steps, arithmetic), shift=shift, use_beta_sigmas=True, arithmetic=arithmetic)


def pipeline_sigmas(steps: int, arithmetic: Arithmetic = "float64") -> Array:
    """The base sigmas that diffusers' FLUX pipelines pass: 1, 1 - 1/N, ..., 1/N.

    Raises:
        ValueError: fewer than 1 step.

    Examples:
        >>> pipeline_sigmas(4).tolist()
        [1.0, 0.75, 0.5, 0.25]
    """
    at_least_one("steps", steps)
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
    if steps is None and sigmas is None and timesteps is None:
        raise ValueError("steps=None: give steps, sigmas or timesteps")
    for name, values in (("sigmas", sigmas), ("timesteps", timesteps)):
        if values is None:
            continue
        if len(values) == 0:
            raise ValueError(f"{name}=[]: a schedule needs at least 1 step")
        if steps is not None and len(values) != steps:
            raise ValueError(f"{name} has {len(values)} entries, but steps={steps}; leave steps out or make them equal")
        if not np.isfinite(as_array(values)).all():
            raise ValueError(f"{name}={list(as_array(values))}: every entry must be finite")
    if sigmas is not None and timesteps is not None and len(sigmas) != len(timesteps):
        raise ValueError(f"sigmas has {len(sigmas)} entries and timesteps {len(timesteps)}; they belong together")
    if sigmas is not None:
        return as_array(sigmas).astype(dtype)
    return None if timesteps is None else as_array(timesteps).astype(dtype) / train


def _training_ends(train: int, shift: float) -> tuple[float, float]:
    """First and last sigma of the training schedule, shifted, in float32 as diffusers computes them."""
    ends = shift_as_diffusers(np.array([train, 1], dtype=np.float32) / train, shift)
    return ends[0].item(), ends[1].item()


def _with_end(sigmas: Array, end: float) -> list[float]:
    nodes: list[float] = sigmas.tolist()
    return nodes if len(nodes) > 1 and nodes[-1] == end else [*nodes, end]
