"""Flows of Gaussian mixtures: nonlinear, with an analytic velocity and a solution to rounding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowsamplers._accepted import integer, number, refused, text
from flowsamplers.flows._posterior import VectorFlow, column, numbers

__all__ = ["MixtureFlow"]


class MixtureFlow(VectorFlow):
    r"""The flow between unit normal noise and a mixture of Gaussians with diagonal covariances.

    Component k contributes with its posterior weight $r_k(x, \sigma)$, and within it data and noise have the means

    $$
    E[x_0] = m_k + \frac{(1 - \sigma) c_k^2}{V_k} d_k, \quad E[n] = \frac{\sigma}{V_k} d_k, \qquad
    d_k = x - (1 - \sigma) m_k,\ V_k = (1 - \sigma)^2 c_k^2 + \sigma^2 .
    $$

    The velocity is finite at both ends.

    Args:
        means: ``(components, dim)``.
        stds: standard deviations, ``(components,)`` or ``(components, dim)``, positive.
        weights: ``(components,)``, positive; normalized here. Equal by default.

    Raises:
        ValueError: shapes do not fit, or a number is not positive.

    Examples:
        >>> flow = MixtureFlow.four_gaussians()
        >>> x1 = flow.noise([0, 1])
        >>> flow.velocity(x1, torch.ones(2, dtype=torch.float64)).shape
        torch.Size([2, 8])
    """

    def __init__(
        self,
        means: Sequence[Sequence[float]] | Tensor | np.ndarray,
        stds: Sequence[float] | Tensor | np.ndarray,
        weights: Sequence[float] | Tensor | np.ndarray | None = None,
        name: str = "mixture",
    ) -> None:
        self.means = numbers("means", means, "a matrix (components, dim) of finite numbers")
        if self.means.ndim != 2 or not self.means.numel():
            raise ValueError(f"means of shape {tuple(self.means.shape)}: give (components, dim)")
        components, self.dim = self.means.shape
        accepted = f"positive numbers, ({components},) or ({components}, {self.dim})"
        found = numbers("stds", stds, accepted, above=0)
        if found.shape not in ((components,), (components, self.dim)):
            raise refused("stds", stds, accepted)
        self.stds = (found[:, None] if found.ndim == 1 else found).expand(components, self.dim)
        accepted = f"{components} positive numbers, or None"
        found = numbers("weights", [1.0] * components if weights is None else weights, accepted, above=0)
        if found.shape != (components,):
            raise refused("weights", weights, accepted)
        self.weights = found / found.sum()
        self.name = text("name", name)

    @classmethod
    def four_gaussians(cls) -> MixtureFlow:
        """Make a fixed mixture of four isotropic Gaussians in 8 dimensions, for tests and examples."""
        means = np.random.default_rng(0).normal(size=(4, 8))
        return cls(means, [0.35, 0.5, 0.7, 0.45], [0.3, 0.3, 0.2, 0.2], name="mixture:four-gaussians")

    @classmethod
    def random(cls, seed: int, dim: int = 6, components: int = 3) -> MixtureFlow:
        """Make a random mixture whose components have a different standard deviation along every axis."""
        rng = np.random.default_rng(integer("seed", seed, 0))
        dim, components = integer("dim", dim, 1), integer("components", components, 1)
        return cls(
            rng.normal(size=(components, dim)),
            rng.uniform(0.3, 0.9, size=(components, dim)),
            rng.uniform(0.5, 1.5, size=components),
            name=f"mixture:{seed}",
        )

    @classmethod
    def load(cls, name: str = "four-gaussians", **options: Any) -> MixtureFlow:
        """Open a mixture by name: ``"four-gaussians"``, or an integer that seeds `random`.

        Raises:
            ValueError: the name is unknown, or an option is given; mixtures have no options.
        """
        given = {k: v for k, v in options.items() if v is not None}
        if given:
            raise ValueError(f"{', '.join(given)}: a mixture has no such option")
        if not isinstance(name, str):
            raise TypeError(str(refused("name", name, "a name")))
        if name in ("", "four-gaussians"):
            return cls.four_gaussians()
        if not name.isdigit():
            raise ValueError(f"unknown mixture {name!r}: accepted are four-gaussians and an integer seed")
        return cls.random(int(name))

    def velocity(self, x: Tensor, sigma: Tensor, condition: Sequence[Any] | None = None) -> Tensor:
        """Return the exact velocity, shaped like ``x``, see `Flow`."""
        self._check("x", x)
        means, stds, weights = (t.to(x) for t in (self.means, self.stds, self.weights))
        s = column(sigma, x)[:, :, None]  # (rows, 1, 1) against (rows, components, dim)
        variance = ((1 - s) * stds) ** 2 + s**2
        d = x[:, None, :] - (1 - s) * means
        r = torch.softmax(weights.log() - 0.5 * (variance.log() + d**2 / variance).sum(-1), dim=1)[:, :, None]
        data = (r * (means + (1 - s) * stds**2 / variance * d)).sum(1)
        noise = (r * (s / variance) * d).sum(1)
        return noise - data

    def solution(self, x: Tensor, start: float = 1.0, end: float = 0.0, rtol: float = 1e-13) -> Tensor:
        """Solve from ``x``, ``(rows, dim)``, at sigma ``start`` to sigma ``end`` by scipy's DOP853 in float64."""
        self._start(x, start, end)
        shape, rtol = x.shape, number("rtol", rtol, above=0)

        def field(s: float, flat: np.ndarray) -> np.ndarray:
            rows = torch.from_numpy(flat).reshape(shape)
            return self.velocity(rows, rows.new_full((shape[0],), s)).reshape(-1).numpy()

        flat = x.detach().double().cpu().reshape(-1).numpy()
        from scipy.integrate import solve_ivp  # noqa: PLC0415  (half a second)

        run = solve_ivp(field, (start, end), flat, method="DOP853", rtol=rtol, atol=rtol)
        return torch.from_numpy(run.y[:, -1].copy()).reshape(shape).to(x)

    def describe(self) -> dict[str, Any]:
        """Return what a study stores about its model."""
        return {"model": self.name, "dim": self.dim, "components": len(self.weights)}
