"""Small velocity fields and parametrisations that several test files share."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import flowsamplers as fs
from flowsamplers.testing import laws

ALL = [info.name for info in fs.list_samplers()]
FIXED = [info.name for info in fs.list_samplers() if not info.adaptive]
DETERMINISTIC = [info.name for info in fs.list_samplers() if not info.stochastic]

every_sampler = pytest.mark.parametrize("name", ALL)
every_fixed_sampler = pytest.mark.parametrize("name", FIXED)
every_deterministic_sampler = pytest.mark.parametrize("name", DETERMINISTIC)

IRREGULAR = fs.SigmaGrid([1.0, 0.93, 0.7, 0.41, 0.4, 0.15, 0.0])
"""A grid with very unequal steps."""


def variants(name: str) -> list[fs.Sampler]:
    """A registered sampler with its default options, and what makes it another method; of some every other choice of the last step."""
    plain = fs.get_sampler(name)
    if name == "dpmpp_2s":
        return [plain, fs.get_sampler(name, nodes="grid")]
    if name not in ("ab2", "fireflow", "dpmpp_2m", "unipc"):
        return [plain]
    return [plain, *(fs.get_sampler(name, last=last) for last in ("euler", "midpoint"))]


def name_of(name: str, sampler: fs.Sampler) -> str:
    """What a test of this variant is called."""
    return "-".join(filter(None, [name, *(str(sampler.options.get(option, "")) for option in ("last", "nodes"))]))


EVERY_VARIANT = [(name, sampler) for name in ALL for sampler in variants(name)]
every_variant = pytest.mark.parametrize("sampler", [s for _, s in EVERY_VARIANT], ids=[name_of(*v) for v in EVERY_VARIANT])
FIXED_VARIANTS = [(n, s) for n, s in EVERY_VARIANT if not s.adaptive]
every_fixed_variant = pytest.mark.parametrize(
    "sampler", [s for _, s in FIXED_VARIANTS], ids=[name_of(*v) for v in FIXED_VARIANTS]
)


ON_ITS_GRID = (
    laws.applied_dt_sum_to_end_minus_start,
    laws.straight_paths_are_exact,
    laws.rotations_commute,
    laws.translations_commute,
    laws.permutations_of_rows_commute,
    laws.rows_do_not_see_each_other,
    laws.shapes_do_not_matter,
    laws.evaluations_are_as_declared,
    laws.requests_stay_inside_their_step,
    laws.inputs_and_modes_are_untouched,
    laws.drivers_agree,
    laws.every_host_applies_the_same_dt,
    laws.copies_between_calls_change_nothing,
    laws.edits_are_honoured,
)
"""What a sampler keeps on the one schedule that its table is for."""
OF_GAUSSIAN_DATA = tuple(law for law in ON_ITS_GRID if law not in (laws.straight_paths_are_exact, laws.translations_commute))
"""The same of a table that is exact for Gaussian data, whose paths are not straight."""


def smooth(x: Tensor, sigma: Tensor) -> Tensor:
    """A smooth nonlinear field in any dimension."""
    s = sigma.reshape(-1, *[1] * (x.ndim - 1))
    return torch.sin(3 * x) + s * x.roll(1, dims=-1) - 0.3


def at(x: Tensor, sigma: float) -> Tensor:
    """`smooth` where all rows have one sigma."""
    return smooth(x, torch.full((len(x),), sigma, dtype=x.dtype))


def lam(sigma: float) -> float:
    """Half the logarithm of the signal-to-noise ratio."""
    return math.log((1 - sigma) / sigma)


class Conditioned:
    """A flow whose rows are conditioned on a number each; counts its calls and rows."""

    def __init__(self) -> None:
        self.calls = 0
        self.rows = 0

    def velocity(self, x: Tensor, sigma: Tensor, condition: list[float | None] | None = None) -> Tensor:
        self.calls += 1
        self.rows += x.shape[0]
        shift = x.new_tensor([c or 0.0 for c in condition or [None] * len(x)])
        return smooth(x, sigma) + shift.reshape(-1, *[1] * (x.ndim - 1))


def start(rows: int = 3, dim: int = 5, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Some unit normal rows."""
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def rounding(steps: int, dtype: torch.dtype, size: float = 1.0) -> float:
    """How far ``steps`` roundings of numbers of magnitude ``size`` can lead."""
    return 4 * steps * torch.finfo(dtype).eps * max(1.0, math.ceil(size))
