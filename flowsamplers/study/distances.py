r"""Distances of latents and images from the reference, and between two sets of samples.

A stochastic sampler or a distilled model has no single correct result for a noise, so distributions are compared. One set has many
results of a sampler, from many seeds. The other has many results of a fine solution or of another sampler, or data.
`sliced_wasserstein` and `energy_distance` are 0 for equal distributions. For finite sets they are above 0 by chance, and
`chance_level` computes by how much.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flowsamplers._accepted import integer, number, refused
from flowsamplers.reference import relative_error

BEST_PSNR = 120.0
"""Largest PSNR in decibels; images closer than this count as equal."""


@dataclass(frozen=True)
class Errors:
    """Distances of latents from the reference.

    Attributes:
        error: relative L2 distance.
        rmse: root mean square difference.
        max_error: largest absolute difference.
        cosine: cosine of the angle between them.
    """

    error: float
    rmse: float
    max_error: float
    cosine: float

    @classmethod
    def of(cls, x: Tensor, truth: Tensor) -> Errors:
        """Compute the distances of one row, ``(1, ...)``, in float64.

        Examples:
            >>> Errors.of(torch.tensor([[3.0, 5.0]]), torch.tensor([[3.0, 4.0]])).error
            0.2
        """
        a, b = x.double().flatten(), truth.double().flatten()
        angle = torch.nn.functional.cosine_similarity(a, b, dim=0, eps=0.0)
        d = a - b
        return cls(relative_error(x, truth).item(), d.square().mean().sqrt().item(), d.abs().max().item(), angle.item())


NOTHING = Errors(math.nan, math.nan, math.nan, math.nan)


def psnr(image: Tensor, truth: Tensor) -> float:
    """Compute the peak signal-to-noise ratio in decibels of images with values in [0, 1], at most `BEST_PSNR`.

    Examples:
        >>> round(psnr(torch.zeros(3, 4, 4), torch.full((3, 4, 4), 0.1)), 6)
        20.0
    """
    mse = (image.double() - truth.double()).square().mean().item()
    return BEST_PSNR if mse <= 10 ** (-BEST_PSNR / 10) else -10 * math.log10(mse)


def ssim(image: Tensor, truth: Tensor) -> float:
    r"""Compute the structural similarity of images ``(channels, height, width)`` with values in [0, 1]; 1 for equal images.

    A Gaussian window of standard deviation 1.5 and 11 pixels, fewer in smaller images; $C_1 = 0.01^2$, $C_2 = 0.03^2$.

    Reference:
        Wang, Bovik, Sheikh, Simoncelli, IEEE Transactions on Image Processing 13 (2004), equation 13.

    Examples:
        >>> ssim(torch.rand(3, 16, 16), torch.rand(3, 16, 16)) < 1.0 == ssim(torch.ones(3, 9, 9), torch.ones(3, 9, 9))
        True
    """
    size = min(11, *image.shape[1:])
    line = torch.exp(-((torch.arange(size, dtype=torch.float64) - (size - 1) / 2) ** 2) / (2 * 1.5**2))
    weights = (line / line.sum()).tolist()
    a, b = (t.double().cpu() for t in (image, truth))

    def mean(t: Tensor) -> Tensor:
        # the window is a product; as one convolution in float64 it takes 30 times as long, and 1 GB at 1024 x 1024
        for dim in (1, 2):
            inside = t.shape[dim] - size + 1
            total = torch.zeros_like(t.narrow(dim, 0, inside))
            for i, w in enumerate(weights):
                total.add_(t.narrow(dim, i, inside), alpha=w)
            t = total
        return t

    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    return (((2 * ma * mb + c1) * (2 * cov + c2)) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean().item()


CHUNK = 2**24
"""Largest number of differences in memory at once."""


def sliced_wasserstein(first: Tensor, second: Tensor, *, p: float = 2.0, projections: int = 256, seed: int = 0) -> float:
    r"""Compute the Wasserstein distance of order p of one-dimensional projections, averaged over random directions.

    $$ \Bigl( \frac1K \sum_k W_p^p(\theta_k \cdot X,\ \theta_k \cdot Y) \Bigr)^{1/p}, \qquad |\theta_k| = 1 $$

    Each one-dimensional distance is exact: the quantile functions of both sets, of any two sizes, are compared.

    Args:
        first: ``(rows, ...)``; rows are flattened and computed in float64.
        second: ``(other rows, ...)`` with rows of the same shape.
        p: order, at least 1.
        projections: number of directions.
        seed: seed of the directions.

    Returns:
        The distance, in the units of the samples.

    Raises:
        ValueError: rows have different shapes, there are no rows, numbers are not finite, or ``p`` is below 1.

    Reference:
        Bonneel, Rabin, Peyre, Pfister, Journal of Mathematical Imaging and Vision 51 (2015).

    Examples:
        >>> x = torch.randn(100, 1, generator=torch.Generator().manual_seed(0))
        >>> round(sliced_wasserstein(x, x + 3), 6)
        3.0
    """
    p, projections, seed = number("p", p, 1), integer("projections", projections, 1), integer("seed", seed, 0, 2**64 - 1)
    x, y = _matrices(first, second)
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(x.shape[1], projections, generator=generator, dtype=torch.float64, device="cpu").to(x)
    theta /= theta.norm(dim=0)
    a, b = ((z @ theta).sort(dim=0).values for z in (x, y))
    n, m = len(a), len(b)
    # between the places where one of the two quantile functions jumps, in units of 1 / (n m), both are constant
    jumps = torch.cat([torch.arange(n + 1) * m, torch.arange(m + 1) * n]).unique()
    at = jumps[:-1].to(x.device)
    weights = (jumps.diff().double() / (n * m)).to(x)
    powers = (a[at // m] - b[at // n]).abs() ** p
    return float((weights @ powers).mean() ** (1 / p))


def energy_distance(first: Tensor, second: Tensor) -> float:
    r"""Compute the energy distance, $\sqrt{2 E|X - Y| - E|X - X'| - E|Y - Y'|}$, with Euclidean distances.

    Args:
        first: ``(rows, ...)``; rows are flattened and computed in float64.
        second: ``(other rows, ...)`` with rows of the same shape.

    Returns:
        The distance, in the square root of the units of the samples; in one dimension that of ``scipy.stats``.

    Raises:
        ValueError: rows have different shapes, there are no rows, or numbers are not finite.

    Reference:
        Szekely and Rizzo, Journal of Statistical Planning and Inference 143 (2013), 1249.

    Examples:
        >>> round(energy_distance(torch.zeros(3, 2), torch.tensor([[3.0, 4.0]])) ** 2, 9)
        10.0
    """
    x, y = _matrices(first, second)
    return math.sqrt(max(2 * _mean(x, y) - _mean(x, x) - _mean(y, y), 0.0))


def chance_level(
    distance: Callable[[Tensor, Tensor], float],
    first: Tensor,
    second: Tensor,
    *,
    share: float = 0.95,
    splits: int = 200,
    seed: int = 0,
) -> float:
    """Compute how large a distance gets by chance: a quantile over random splits of both sets together.

    A measured distance below this level does not show that the sets differ.

    Args:
        distance: a function of two sets, such as `energy_distance`.
        first: ``(rows, ...)``.
        second: ``(other rows, ...)``.
        share: share of the splits below the level, by default 95 %.
        splits: number of splits.
        seed: seed of the splits.

    Raises:
        ValueError: the distance refuses the sets, or an argument is out of range.

    Examples:
        >>> x, y = torch.randn(2, 40, 2, generator=torch.Generator().manual_seed(0))
        >>> energy_distance(x, y) < chance_level(energy_distance, x, y) < energy_distance(x, y + 2)
        True
    """
    if not callable(distance):
        raise refused("distance", distance, "a function of two sets, such as energy_distance")
    share, splits, seed = number("share", share, 0, 1), integer("splits", splits, 1), integer("seed", seed, 0, 2**64 - 1)
    x, y = _matrices(first, second)
    both = torch.cat([x, y])
    generator = torch.Generator().manual_seed(seed)
    found = torch.empty(splits, dtype=torch.float64)
    for i in range(splits):
        order = torch.randperm(len(both), generator=generator).to(both.device)
        found[i] = distance(both[order[: len(x)]], both[order[len(x) :]])
    return found.quantile(share).item()


def _matrices(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    for name, value in (("first", first), ("second", second)):
        if not isinstance(value, Tensor) or value.is_complex():
            raise TypeError(str(refused(name, value, "a tensor (rows, ...) of real numbers")))
    if first.shape[1:] != second.shape[1:] or not len(first) or not len(second) or first.ndim < 2 or second.ndim < 2:
        raise ValueError(
            f"samples of shapes {tuple(first.shape)} and {tuple(second.shape)}: give (rows, ...) with rows of one shape"
        )
    x, y = first.detach().flatten(1).double(), second.detach().flatten(1).double().to(first.device)
    if not bool(x.isfinite().all() and y.isfinite().all()):
        raise ValueError("samples: some numbers are not finite")
    return x, y


def _mean(x: Tensor, y: Tensor) -> float:
    """The mean distance of a row of one to a row of the other; differences are formed, so equal rows are exactly 0 apart."""
    rows = max(1, CHUNK // y.numel())
    mode = "donot_use_mm_for_euclid_dist"
    sums = [torch.cdist(x[lo : lo + rows], y, compute_mode=mode).sum().item() for lo in range(0, len(x), rows)]
    return math.fsum(sums) / (len(x) * len(y))
