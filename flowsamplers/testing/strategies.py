"""Hypothesis strategies for the inputs of the laws; they shrink to small readable cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from flowsamplers.flows import DataFlow, GaussianFlow, MixtureFlow
from flowsamplers.grid import SigmaGrid
from flowsamplers.registry import get_sampler, list_samplers
from flowsamplers.sampler import Sampler
from flowsamplers.schedules import TABLES, flux2, get_schedule, linear, list_schedules, schedule_info, shift

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def dtypes() -> st.SearchStrategy[torch.dtype]:
    """Draw floating dtypes, float64 first."""
    return st.sampled_from(DTYPES)


def seeds() -> st.SearchStrategy[int]:
    """Draw seeds of noise."""
    return st.integers(0, 2**32 - 1)


def steps(most: int = 300) -> st.SearchStrategy[int]:
    """Draw numbers of steps: one, a few, hundreds."""
    return st.one_of(st.just(1), st.integers(1, 12), st.integers(1, most))


def image_sizes() -> st.SearchStrategy[tuple[int, int]]:
    """Draw (width, height) in pixels: multiples of 16 up to 2048, on both sides of FLUX.2's jump at 4,300 tokens."""
    side = st.integers(1, 128).map(lambda k: 16 * k)
    return st.tuples(side, side)


def token_counts() -> st.SearchStrategy[int]:
    """Draw numbers of latent tokens, including both sides of the jump at 4,300."""
    return st.one_of(st.integers(1, 16_384), st.sampled_from([16, 256, 1024, 4096, 4299, 4300, 4301]))


def grids(most: int = 40) -> st.SearchStrategy[SigmaGrid]:
    """Draw schedules: uniform, shifted, FLUX.2's, random, with one tiny step, with one step; some start below 1 or end above 0."""
    count = st.integers(1, most)
    shifted = st.builds(lambda n, k: shift(n, shift=k), count, st.floats(0.3, 12))
    flux = st.builds(lambda n, tokens: flux2(n, tokens=tokens), count, token_counts())
    return st.one_of(count.map(linear), shifted, flux, random_grids(most), near_degenerate_grids())


def random_grids(most: int = 40) -> st.SearchStrategy[SigmaGrid]:
    """Draw any falling nodes, at least 1e-6 apart."""
    nodes = st.lists(st.integers(0, 10**6), min_size=2, max_size=most, unique=True)
    return nodes.map(lambda ks: SigmaGrid([k / 10**6 for k in sorted(ks, reverse=True)]))


def near_degenerate_grids() -> st.SearchStrategy[SigmaGrid]:
    """Draw schedules with a tiny step between two large ones: step ratios of up to a million."""
    return st.builds(lambda at, k: SigmaGrid([1.0, at, at - 10.0**-k, 0.0]), st.floats(0.1, 0.9), st.integers(2, 6))


def samplers(*, stochastic: bool | None = None) -> st.SearchStrategy[Sampler]:
    """Draw registered samplers with random options."""
    names = [i.name for i in list_samplers() if not i.adaptive and (stochastic is None or i.stochastic == stochastic)]

    def with_options(name: str) -> st.SearchStrategy[Sampler]:
        drawn: dict[str, st.SearchStrategy[Any]] = {}
        options = get_sampler(name).options
        if "last" in options:
            drawn["last"] = st.sampled_from(["method", "euler", "midpoint", "heun"])
        if "eta" in options:
            drawn["eta"] = st.floats(0, 1)
        return st.fixed_dictionaries(drawn).map(lambda given: get_sampler(name, **given))

    return st.sampled_from(names).flatmap(with_options)


def analytic_flows() -> st.SearchStrategy[GaussianFlow | MixtureFlow | DataFlow]:
    """Draw flows with known solutions: Gaussians, mixtures, small data sets."""
    number = st.floats(-2, 2)
    point = st.tuples(number, number).map(list)
    gaussian = st.builds(lambda mean, std: GaussianFlow(mean, std=std), point, st.floats(0.1, 2))
    mixture = st.integers(0, 10**6).map(MixtureFlow.random)
    data = st.lists(point, min_size=1, max_size=5).map(DataFlow)
    return st.one_of(gaussian, mixture, data)


def shapes(rows: int = 4, axes: int = 3, side: int = 6) -> st.SearchStrategy[tuple[int, ...]]:
    """Draw shapes of latents: vectors, packed tokens ``(rows, tokens, channels)``, images ``(rows, c, h, w)``."""
    inner = st.lists(st.integers(1, side), min_size=1, max_size=axes)
    return st.builds(lambda r, rest: (r, *rest), st.integers(1, rows), inner)


def tensors(
    shape: st.SearchStrategy[tuple[int, ...]] | None = None, dtype: st.SearchStrategy[torch.dtype] | None = None
) -> st.SearchStrategy[Tensor]:
    """Draw standard normal tensors by shape, dtype and seed, so that a failing case prints in one line.

    Args:
        shape: strategy for the shape; by default `shapes`.
        dtype: strategy for the dtype; float64 by default.

    Examples:
        >>> from hypothesis import find
        >>> find(tensors(), lambda x: x.ndim == 3).shape  # the smallest packed latents
        torch.Size([1, 1, 1])
    """

    def make(size: tuple[int, ...], kind: torch.dtype, seed: int) -> Tensor:
        return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(kind)

    sizes = shapes() if shape is None else shape
    kinds = st.just(torch.float64) if dtype is None else dtype
    return st.builds(make, sizes, kinds, st.integers(0, 10**6))


class SmoothField:
    r"""A random smooth velocity field with a known Lipschitz constant: $v = A \sin(B x + c \sigma)$, scaled.

    Args:
        seed: seed of the matrices.
        dim: dimension of the vectors.
        lipschitz: a bound on $|v(x, \sigma) - v(y, \sigma)| / |x - y|$.
    """

    def __init__(self, seed: int, dim: int, lipschitz: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.a, self.b = (torch.randn(dim, dim, generator=generator, dtype=torch.float64) for _ in range(2))
        self.c = torch.randn(dim, generator=generator, dtype=torch.float64)
        self.a *= lipschitz / (torch.linalg.matrix_norm(self.a, 2) * torch.linalg.matrix_norm(self.b, 2))
        self.seed, self.dim, self.lipschitz = seed, dim, lipschitz

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The velocity."""
        inner = x @ self.b.to(x).T + sigma.to(x)[:, None] * self.c.to(x)
        return torch.sin(inner) @ self.a.to(x).T

    def __repr__(self) -> str:
        """How to make it again."""
        return f"SmoothField(seed={self.seed}, dim={self.dim}, lipschitz={self.lipschitz})"


def smooth_fields(dim: int = 3, most: float = 4.0) -> st.SearchStrategy[SmoothField]:
    """Draw random smooth velocity fields with a Lipschitz constant of at most ``most``."""
    return st.builds(SmoothField, st.integers(0, 10**6), st.just(dim), st.floats(0.1, most))


@dataclass(frozen=True)
class Built:
    """A schedule with options, as a function ``built(steps)``."""

    name: str
    options: Mapping[str, Any]

    def __call__(self, steps: int) -> SigmaGrid:
        """Return the schedule with N steps."""
        return get_schedule(self.name, steps, **self.options)


def schedule_options(name: str) -> st.SearchStrategy[dict[str, Any]]:
    """Draw options of a registered schedule for which up to 300 nodes differ in float64.

    Options of schedules of other packages keep their defaults.
    """
    info = schedule_info(name)
    fixed: dict[str, st.SearchStrategy[Any]] = dict(_TOGETHER.get(info.name, {}))
    if "arithmetic" in info.options:
        fixed["arithmetic"] = st.just("float64")
    free = [o for o in info.options if o in _OPTIONS and o not in fixed and o not in info.presets.get(name, {})]
    return st.fixed_dictionaries(fixed, optional={o: _OPTIONS[o] for o in free})


def schedules(*, complete: bool | None = None, exact_steps: bool | None = None) -> st.SearchStrategy[Built]:
    """Draw functions ``steps -> SigmaGrid`` of all registered schedules and presets, with random options.

    Args:
        complete: if given, draw only schedules that do (True) or do not (False) run from 1 to 0.
        exact_steps: if given, draw only schedules that always have (True) or may miss (False) the requested number of steps.
    """
    infos = [i for i in list_schedules() if complete in (None, i.complete) and exact_steps in (None, i.exact_steps)]
    names = [name for i in infos for name in (i.name, *i.presets)]
    return st.sampled_from(names).map(_imported).flatmap(lambda name: schedule_options(name).map(lambda o: Built(name, o)))


@cache
def _imported(name: str) -> str:
    """The name, once what its first grid imports (scipy.stats takes half a second) is there: no deadline of a test pays for it."""
    get_schedule(name, 1)
    return name


_OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "shift": st.floats(0.2, 20),
    "mu": st.floats(-2, 5),
    "tokens": token_counts(),
    "points": st.sampled_from([10_000, 100_000]),
    "alpha": st.floats(0.6, 1.5),
    "beta": st.floats(0.6, 1.5),
    "rho": st.floats(0.5, 3),
    "sigma_min": st.floats(1e-4, 0.1),
    "sigma_max": st.floats(10, 1e3),
    "c": st.floats(0.1, 4),
    "scale": st.floats(0.2, 2),
    "threshold": st.floats(0.001, 0.4),
    "pivot": st.floats(0.5, 0.6),
    "slope": st.floats(0.05, 1),
    "middle": st.floats(0.2, 0.8),
    "nodes": st.sampled_from(sorted(TABLES)),
    "start": st.just(1.0),
    "base_shift": st.floats(0.1, 1),
    "max_shift": st.floats(1, 2),
    "shift_terminal": st.none() | st.floats(0.001, 0.5),
    "num_train_timesteps": st.sampled_from([500, 1000, 4096]),
}
"""Ranges of the options that schedules have, by name."""
_TOGETHER: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "flow_match_euler": {"use_dynamic_shifting": st.booleans(), "mu": st.floats(-2, 5)},
    "beta_comfy": {"points": st.just(100_000)},  # the first of 300 quantiles is 300^(-1/0.6) = 7e-5 away from the end
}
"""Options that need each other."""
