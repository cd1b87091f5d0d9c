"""Explicit Runge-Kutta methods: each is a table of coefficients for one shared step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from flowsamplers.registry import register
from flowsamplers.sampler import Evaluate, State, Step, StepGenerator, Tensor
from flowsamplers.samplers.policies import LastStep
from flowsamplers.samplers.tableaux import ButcherTableau, low_storage

__all__ = [
    "RK4",
    "RK5",
    "RK38",
    "SSPRK3",
    "CarpenterKennedy4",
    "Heun",
    "Kutta3",
    "LowStorage",
    "Midpoint",
    "Ralston",
    "Ralston3",
    "RungeKutta",
    "Williamson3",
]


@dataclass(frozen=True)
class RungeKutta(LastStep):
    r"""Base of the explicit Runge-Kutta methods: a subclass defines its ``tableau``, which has the order."""

    tableau: ClassVar[ButcherTableau]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Take the order from the tableau."""
        super().__init_subclass__(**kwargs)
        if "tableau" in vars(cls) and "order" not in vars(cls):
            cls.order = cls.tableau.order

    def advance(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """See `Sampler.step`."""
        k: list[Tensor] = []
        for a, c in zip(self.tableau.a, self.tableau.c, strict=True):
            k.append((yield Evaluate(linear_combination(x, at.h, a, k), node(at, c))))
        return linear_combination(x, at.h, self.tableau.b, k), state


def linear_combination(x: Tensor, h: float, weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """Compute ``x + h * sum_j weights[j] * slopes[j]``; ``x`` itself if all weights are zero."""
    for w, k in zip(weights, slopes, strict=True):
        if w:
            x = x + (h * w) * k
    return x


def node(at: Step, c: float) -> float:
    """Compute the sigma at the fraction ``c`` of a step, exact at both ends."""
    return at.s1 if abs(c - 1) < 1e-15 else at.s0 + c * at.h


@register(
    "midpoint",
    aliases=("rf_solver",),
    reference="C. Runge, Math. Ann. 46 (1895); RF-Solver, arXiv:2411.04746",
    advice="A good last step for multistep methods. On its own, fireflow is as accurate with half the calls.",
)
@dataclass(frozen=True)
class Midpoint(RungeKutta):
    r"""The explicit midpoint rule: $x' = x + h\,v(x + \tfrac h2 v,\ \sigma + \tfrac h2)$.

    It takes two evaluations per step and never calls the model at ``sigma = 0``. RF-Solver writes the same method as a Taylor step.

    Args:
        last: policy of the last step, see `LastStep`.

    Examples:
        >>> import torch, flowsamplers as fs
        >>> fs.sample(lambda x, sigma: 2 * sigma.view(-1, 1), torch.ones(1, 1), fs.SigmaGrid([1.0, 0.0]), Midpoint())
        tensor([[0.]])
    """

    tableau: ClassVar[ButcherTableau] = ButcherTableau(a=((), (1 / 2,)), b=(0, 1), order=2)


@register(
    "heun",
    presets={"flow_match_heun": {"last": "euler"}},
    reference="K. Heun, Z. Math. Phys. 45 (1900); EDM, arXiv:2206.00364, algorithm 1",
    advice="EDM's method. It calls the model at sigma 0, where models are hardly trained; last='midpoint' avoids that.",
)
@dataclass(frozen=True)
class Heun(RungeKutta):
    r"""Heun's method, the trapezoidal rule: $x' = x + \tfrac h2 (v(x, \sigma) + v(x + h v, \sigma'))$.

    It takes two evaluations on every step, also on the last, because the velocity is finite at ``sigma = 0``. EDM, ComfyUI and
    diffusers end with an Euler step; ``last="euler"`` does the same.

    Args:
        last: policy of the last step, see `LastStep`.

    Examples:
        >>> import torch, flowsamplers as fs
        >>> fs.sample(lambda x, sigma: x, torch.ones(1, 1), fs.SigmaGrid([1.0, 0.0]), Heun())
        tensor([[0.5000]])
    """

    tableau: ClassVar[ButcherTableau] = ButcherTableau(a=((), (1,)), b=(1 / 2, 1 / 2), order=2)


@register(
    "ralston",
    aliases=("ralston2",),
    reference="A. Ralston, Math. Comp. 16 (1962)",
    advice="The two-call method with the smallest error bound; no call at sigma 0.",
)
@dataclass(frozen=True)
class Ralston(RungeKutta):
    r"""Ralston's method of order 2: node 2/3, weights 1/4 and 3/4.

    Args:
        last: policy of the last step, see `LastStep`.

    Examples:
        >>> import flowsamplers as fs
        >>> [e.sigma for e in fs.dry_run("ralston", fs.SigmaGrid([0.75, 0.0]))]
        [0.75, 0.25]
    """

    tableau: ClassVar[ButcherTableau] = ButcherTableau(a=((), (2 / 3,)), b=(1 / 4, 3 / 4), order=2)


@register("kutta3", reference="W. Kutta, Z. Math. Phys. 46 (1901)", advice="Order 3 in three calls; start-up of ab4.")
@dataclass(frozen=True)
class Kutta3(RungeKutta):
    r"""Kutta's method of order 3; it is Simpson's rule if the velocity depends only on sigma.

    Args:
        last: policy of the last step, see `LastStep`.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("kutta3", fs.schedules.linear(4))
        12
    """

    tableau: ClassVar[ButcherTableau] = ButcherTableau(a=((), (1 / 2,), (-1, 2)), b=(1 / 6, 2 / 3, 1 / 6), order=3)


@register(
    "ralston3",
    aliases=("bosh3_fixed",),
    reference="A. Ralston, Math. Comp. 16 (1962); Bogacki and Shampine, Appl. Math. Lett. 2 (1989)",
    advice="The most accurate method of order 3 with three calls; no call at sigma 0.",
)
@dataclass(frozen=True)
class Ralston3(RungeKutta):
    r"""Ralston's method of order 3, nodes 1/2 and 3/4: the main method of Bogacki and Shampine's pair.

    Args:
        last: policy of the last step, see `LastStep`.

    Examples:
        >>> import flowsamplers as fs
        >>> [e.sigma for e in fs.dry_run("ralston3", fs.SigmaGrid([1.0, 0.0]))]
        [1.0, 0.5, 0.25]
    """

    tableau: ClassVar[ButcherTableau] = ButcherTableau(a=((), (1 / 2,), (0, 3 / 4)), b=(2 / 9, 1 / 3, 4 / 9), order=3)


@register("ssprk3", reference="Shu and Osher, J. Comput. Phys. 77 (1988)", advice="For parity with RES4LYF.")
@dataclass(frozen=True)
class SSPRK3(RungeKutta):
    r"""The strong-stability-preserving method of order 3: a convex combination of Euler steps.

    Args:
        last: policy of the last step, see `LastStep`.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("ssprk3", fs.schedules.linear(4))
        12
    """

    tableau: ClassVar[ButcherTableau] = ButcherTableau(a=((), (1,), (1 / 4, 1 / 4)), b=(1 / 6, 1 / 6, 2 / 3), order=3)


@register(
    "rk4",
    reference="W. Kutta, Z. Math. Phys. 46 (1901)",
    advice="For small errors at 64 calls and more, and for references.",
)
@dataclass(frozen=True)
class RK4(RungeKutta):
    r"""The classical Runge-Kutta method of order 4, four evaluations a step.

    Args:
        last: policy of the last step, see `LastStep`.

    Examples:
        >>> import torch, flowsamplers as fs
        >>> v = lambda x, sigma: 4 * sigma.view(-1, 1) ** 3  # a cubic is integrated exactly
        >>> abs(fs.sample(v, torch.ones(1, 1, dtype=torch.float64), fs.SigmaGrid([1.0, 0.0]), RK4()).item()) < 1e-15
        True
    """

    tableau: ClassVar[ButcherTableau] = ButcherTableau(
        a=((), (1 / 2,), (0, 1 / 2), (0, 0, 1)), b=(1 / 6, 1 / 3, 1 / 3, 1 / 6), order=4
    )


@register("rk38", aliases=("kutta38",), reference="W. Kutta, Z. Math. Phys. 46 (1901)", advice="Like rk4, with smaller errors.")
@dataclass(frozen=True)
class RK38(RungeKutta):
    r"""Kutta's 3/8 rule, of order 4.

    Args:
        last: policy of the last step, see `LastStep`.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("rk38", fs.schedules.linear(4))
        16
    """

    tableau: ClassVar[ButcherTableau] = ButcherTableau(
        a=((), (1 / 3,), (-1 / 3, 1), (1, -1, 1)), b=(1 / 8, 3 / 8, 3 / 8, 1 / 8), order=4
    )


@register(
    "rk5",
    aliases=("butcher5",),
    reference="J. C. Butcher, J. Austral. Math. Soc. 4 (1964)",
    advice="For references: order 5 with six calls per step.",
)
@dataclass(frozen=True)
class RK5(RungeKutta):
    r"""Butcher's method of order 5, six evaluations per step; it is Boole's rule if the velocity depends only on sigma.

    Args:
        last: policy of the last step, see `LastStep`.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("rk5", fs.schedules.linear(4))
        24
    """

    tableau: ClassVar[ButcherTableau] = ButcherTableau(
        a=(
            (),
            (1 / 4,),
            (1 / 8, 1 / 8),
            (0, -1 / 2, 1),
            (3 / 16, 0, 0, 9 / 16),
            (-3 / 7, 2 / 7, 12 / 7, -12 / 7, 8 / 7),
        ),
        b=(7 / 90, 0, 32 / 90, 12 / 90, 32 / 90, 7 / 90),
        order=5,
    )


@dataclass(frozen=True)
class LowStorage(RungeKutta):
    r"""Base of the Runge-Kutta methods with two registers: $q \leftarrow A_i q + h v$, $x \leftarrow x + B_i q$ in every stage.

    Reference:
        Williamson, J. Comput. Phys. 35 (1980).
    """

    registers: ClassVar[tuple[tuple[float, ...], tuple[float, ...]]]
    """A and B."""

    def advance(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """See `Sampler.step`."""
        q: Tensor | None = None
        for a, b, c in zip(*self.registers, self.tableau.c, strict=True):
            v = yield Evaluate(x, node(at, c))
            q = at.h * v if q is None else a * q + at.h * v
            x = x + b * q
        return x, state


@register(
    "williamson3",
    reference="Williamson, J. Comput. Phys. 35 (1980), case 7",
    advice="Order 3 with little memory: two copies of the state.",
)
@dataclass(frozen=True)
class Williamson3(LowStorage):
    r"""Williamson's method of order 3 in two registers, three evaluations a step.

    Args:
        last: policy of the last step, see `LastStep`.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("williamson3", fs.schedules.linear(4))
        12
    """

    registers: ClassVar[tuple[tuple[float, ...], tuple[float, ...]]] = ((0, -5 / 9, -153 / 128), (1 / 3, 15 / 16, 8 / 15))
    tableau: ClassVar[ButcherTableau] = low_storage(*registers, 3)


@register(
    "carpenter_kennedy4",
    reference="Carpenter and Kennedy, NASA TM 109112 (1994), solution 3",
    advice="Order 4 with little memory: two copies of the state, five calls per step.",
)
@dataclass(frozen=True)
class CarpenterKennedy4(LowStorage):
    r"""Carpenter and Kennedy's method of order 4 in two registers, five evaluations a step.

    Args:
        last: policy of the last step, see `LastStep`.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("carpenter_kennedy4", fs.schedules.linear(4))
        20
    """

    registers: ClassVar[tuple[tuple[float, ...], tuple[float, ...]]] = (
        (
            0,
            -567301805773 / 1357537059087,
            -2404267990393 / 2016746695238,
            -3550918686646 / 2091501179385,
            -1275806237668 / 842570457699,
        ),
        (
            1432997174477 / 9575080441755,
            5161836677717 / 13612068292357,
            1720146321549 / 2090206949498,
            3134564353537 / 4481467310338,
            2277821191437 / 14882151754819,
        ),
    )
    tableau: ClassVar[ButcherTableau] = low_storage(*registers, 4)
