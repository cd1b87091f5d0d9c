"""Laws of symmetry: rotations, translations, permutations, a scaling of sigma."""

from __future__ import annotations

import torch
from torch import Tensor

from flowsamplers.grid import SigmaGrid
from flowsamplers.testing.fields import smooth, start_at
from flowsamplers.testing.laws.common import IRREGULAR, Case, NotApplicable, close, steady, without_noise
from flowsamplers.testing.subject import subject_of

__all__ = [
    "permutations_of_rows_commute",
    "rotations_commute",
    "rows_do_not_see_each_other",
    "scaling_sigma_changes_nothing",
    "shapes_do_not_matter",
    "translations_commute",
]


def rotations_commute(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    r"""If start and velocity field are rotated, the result is rotated.

    With $w(y) = Q\,v(Q^T y)$ the path of $Qx$ is Q times the path of x. Methods made of linear combinations are affine equivariant.

    Reference:
        McLachlan, Modin, Munthe-Kaas, Verdier, B-series methods are exactly the affine equivariant methods, arXiv:1409.1019.
    """
    subject = steady(without_noise(case))
    q, _ = torch.linalg.qr(start_at(5, 5, seed=3))
    x1 = start_at()
    turned = subject.run(lambda x, s: smooth(x @ q, s) @ q.T, x1 @ q.T, grid)
    close(turned, subject.run(smooth, x1, grid) @ q.T, f"{subject.name} does not commute with a rotation")


def translations_commute(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    r"""If start and velocity field are shifted by a constant, the result is shifted.

    With $w(y) = v(y - c)$ the path of $x + c$ is the path of x, plus c. The law does not apply to samplers that re-noise, which
    depend on the origin.

    Reference:
        McLachlan, Modin, Munthe-Kaas, Verdier, arXiv:1409.1019.
    """
    subject = steady(without_noise(case))
    shift_by = torch.linspace(-1, 2, 5, dtype=torch.float64)
    x1 = start_at()
    moved = subject.run(lambda x, s: smooth(x - shift_by, s), x1 + shift_by, grid)
    close(moved, subject.run(smooth, x1, grid) + shift_by, f"{subject.name} does not commute with a translation")


def permutations_of_rows_commute(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    """Permuting the rows of a batch, with their seeds, permutes the results.

    Reference:
        The rule of keyed noise, `flowsamplers.KeyedNoise`; diffusers' lists of generators promise the same.
    """
    subject = subject_of(case)
    x1, order, seeds = start_at(4), [2, 0, 3, 1], [11, 12, 13, 14]
    mixed = subject.run(smooth, x1[order], grid, seed=[seeds[i] for i in order])
    close(mixed, subject.run(smooth, x1, grid, seed=seeds)[order], f"{subject.name} depends on the order of the rows")


def shapes_do_not_matter(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    r"""Vectors, tokens ``(rows, tokens, channels)`` and images ``(rows, c, h, w)`` with equal entries give equal results.

    The velocity field acts on each entry alone, $v_i = \sin 3 x_i + \sigma$, so no axis but the first may matter.

    Reference:
        FLUX packs an image of latents into tokens and back; the ODE does not know.
    """
    subject = steady(without_noise(case))
    x1 = start_at(2, 12)

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.sin(3 * x) + sigma.reshape(-1, *[1] * (x.ndim - 1))

    flat = subject.run(velocity, x1, grid)
    for shape in ((2, 4, 3), (2, 3, 2, 2)):
        shaped = subject.run(velocity, x1.reshape(shape), grid)
        assert shaped.shape == shape, f"{subject.name} returns shape {tuple(shaped.shape)} from a start of shape {shape}"
        close(shaped.reshape(2, 12), flat, f"{subject.name} depends on the shape of the latents")


def rows_do_not_see_each_other(case: Case, grid: SigmaGrid = IRREGULAR) -> None:
    """A row alone and the same row in a batch have the same result, up to rounding.

    It finds a norm or a mean over the batch, one draw of noise for all rows, and one error estimate for all rows.

    Reference:
        torchode, arXiv:2210.12375, section 3 (independent rows).
    """
    subject = steady(subject_of(case))
    x1 = start_at(4)
    together = subject.run(smooth, x1, grid, seed=[11, 12, 13, 14])
    alone = subject.run(smooth, x1[2:3], grid, seed=[13])
    close(alone, together[2:3], f"{subject.name}: a row depends on its neighbours")


def scaling_sigma_changes_nothing(case: Case, factor: float = 0.5) -> None:
    r"""On the grid $c\sigma$ with the field $v(x, \sigma / c) / c$, a method that uses only step lengths takes the same path.

    Reference:
        Hairer, Norsett, Wanner I, II.1: a change of the independent variable by an affine map commutes with a Runge-Kutta method.
    """
    subject = without_noise(case)
    if not subject.affine:
        raise NotApplicable("its coefficients depend on sigma itself")
    x1 = start_at()
    small = SigmaGrid([factor * s for s in IRREGULAR.sigmas])
    scaled = subject.run(lambda x, s: smooth(x, s / factor) / factor, x1, small)
    close(scaled, subject.run(smooth, x1, IRREGULAR), f"{subject.name} is not invariant under a scaling of sigma")
