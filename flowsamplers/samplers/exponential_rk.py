r"""Exponential Runge-Kutta methods: one-step methods for the data prediction $D = x - \sigma v$, with phi functions as coefficients."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from flowsamplers._accepted import number
from flowsamplers.registry import get_sampler, register
from flowsamplers.sampler import Evaluate, State, Step, StepGenerator, Tensor
from flowsamplers.samplers.interpolation import VARIABLES, half_log_snr, off_noise, phi
from flowsamplers.samplers.policies import LastStep, with_first_velocity

__all__ = ["ETDRK4", "RES2S", "RES3S", "DPMSolverPP2S", "DPMSolverPP3S", "ExponentialRungeKutta", "Krogstad"]

INVERSES: dict[str, Callable[[float], float]] = {
    "lambda": lambda y: 1 / (1 + math.exp(y)),
    "neg_log_sigma": lambda y: math.exp(-y),
}

CLASSICAL = {2: "midpoint", 3: "ralston3", 4: "rk4"}
"""The method for a step of infinite length, by order."""

LogVariable: TypeAlias = Literal["lambda", "neg_log_sigma"]
"""The variables in which a step to sigma 0 is infinitely long."""

Row: TypeAlias = tuple[float, ...]
"""Coefficients of ``D_j - D_0`` for j = 1, 2, ...; that of ``D_0`` follows from their sum."""


@dataclass(frozen=True)
class ExponentialRungeKutta(LastStep):
    r"""Base of the explicit exponential Runge-Kutta methods.

    With $y = \lambda$ or $-\log\sigma$, h the step's length in y, $y_i = y + c_i h$ and $\beta_i$ its factor ($1 - \sigma_i$ or 1):

    $$
    x_i = \frac{\sigma_i}{\sigma} x + \Bigl(1 - \frac{\sigma_i}{\sigma}\Bigr) D_0 + \beta_i \sum_{j \ge 1} h a_{ij}(h)\,(D_j - D_0)
    $$

    and likewise $x'$ with the weights $b_j$. The part without the sum is Euler's move from $\sigma$ to $\sigma_i$.
    A step of infinite length (to ``sigma = 0``; in $\lambda$ also from ``sigma = 1``) has no such stages. It is made in plain sigma, by
    a classical method with as many stages: midpoint, Ralston's of order 3, or Kutta's of order 4.

    Args:
        last: policy of the last step, see `LastStep`.
        variable: ``"neg_log_sigma"`` (ComfyUI, RES4LYF), finite at ``sigma = 1``, or ``"lambda"``, the half log-SNR.
    """

    variable: LogVariable = "neg_log_sigma"

    affine: ClassVar[bool] = False
    order_to_data: ClassVar[int] = 2

    def stages(self, h: float) -> list[tuple[float, Row]]:
        """List node c and row of coefficients for every stage after the first."""
        raise NotImplementedError

    def weights(self, h: float) -> Row:
        """List the weights of the stages after the first."""
        raise NotImplementedError

    def advance(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """See `Sampler.step`."""
        v = yield Evaluate(x, at.s0)
        if not math.isfinite(self.length(at)):
            classical = get_sampler(CLASSICAL[type(self).order])
            end, _ = yield from with_first_velocity(classical.step(x, at, classical.init(x)), v)
            return end, state
        return (yield from self.over_stages(x, v, at, lambda sigma, draw: x + (sigma - at.s0) * v)), state

    def length(self, at: Step) -> float:
        """Compute h, the length of a step in y."""
        y = VARIABLES[self.variable]
        return y(at.s1) - y(at.s0)

    def over_stages(
        self, x: Tensor, v: Tensor, at: Step, constant: Callable[[float, int], Tensor], rate: float = 1.0
    ) -> Generator[Evaluate, Tensor, Tensor]:
        """Take a step of finite length from its first velocity.

        Args:
            x: the state at the start.
            v: its velocity.
            at: the step.
            constant: returns the move to a sigma for a constant prediction, given this sigma and the index of the stage.
            rate: the rate of the kernel, 1 for the ODE.
        """
        y, h = VARIABLES[self.variable], self.length(at)
        z = rate * h
        further: list[Tensor] = []  # D_j - D_0

        def reached(sigma: float, stage: int, row: Row) -> Tensor:
            end = constant(sigma, stage)
            beta = z * (1 - sigma if self.variable == "lambda" else 1.0)
            for w, d in zip(row, further, strict=True):
                end = end + (beta * w) * d
            return end

        stages = self.stages(z)
        for stage, (c, row) in enumerate(stages):
            sigma = at.s1 if c == 1 else INVERSES[self.variable](y(at.s0) + c * h)
            point = reached(sigma, stage, row)
            further.append(point - sigma * (yield Evaluate(point, sigma)) - (x - at.s0 * v))
        return reached(at.s1, len(stages), self.weights(z))


@register(
    "res_2s",
    presets={"exp_heun_2_x0": {"c2": 1.0, "variable": "lambda"}},
    reference="RES, arXiv:2308.02157; Hochbruck and Ostermann, Acta Numerica 19 (2010), (2.39)",
    advice="RES4LYF's two-call method. midpoint costs the same and has a last step of order 2.",
)
@dataclass(frozen=True)
class RES2S(ExponentialRungeKutta):
    r"""The exponential Runge-Kutta method of order 2 with free node $c_2$: $b_2 = \varphi_2(-h)/c_2$.

    At $c_2 = 1$ it is ComfyUI's exp_heun_2_x0.

    Args:
        last: policy of the last step, see `LastStep`.
        variable: see `ExponentialRungeKutta`.
        c2: node of the second stage, in (0, 1].

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("res_2s", fs.schedules.linear(8))
        16
    """

    c2: float = 0.5

    order: ClassVar[int] = 2

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        number("c2", self.c2, most=1, above=0)

    def stages(self, h: float) -> list[tuple[float, Row]]:
        """See `ExponentialRungeKutta`."""
        return [(self.c2, ())]

    def weights(self, h: float) -> Row:
        """See `ExponentialRungeKutta`."""
        return (phi(2, h) / self.c2,)


Nodes: TypeAlias = Literal["own", "grid"]


@dataclass(frozen=True)
class StagesOnTheGrid(ExponentialRungeKutta):
    r"""Base of the methods whose stages may be the nodes of the grid, as in diffusers' DPMSolverSinglestepScheduler.

    With ``nodes="grid"`` a step is one call. Every p steps are one step of the method of order p, and its stages lie at the
    nodes between. All later moves start again from the first node of the p, with the data predictions $D_0, D_1, \dots$ made
    since:

    $$
    x' = \frac{\sigma'}{\sigma_0} x_0 + \Bigl(1 - \frac{\sigma'}{\sigma_0}\Bigr) D_0 + c', \qquad
    c' = \alpha' h\,b\,\frac{D_j - D_0}{\theta}, \qquad \theta = \frac{\lambda_j - \lambda_0}{h},\ h = \lambda' - \lambda_0
    $$

    with $b = \varphi_1(-h)/2$ for j = 1 and $b = \varphi_2(-h)$ for j = 2. The last step of a run is Euler's, from where the run stands.
    ``sigma = 1`` is put at $1 - 10^{-6}$, see `off_noise`. The order is 2. Steps that are left after the last p are of lower order, so
    the error falls unevenly with the number of steps.
    """

    nodes: Nodes = "own"

    def __post_init__(self) -> None:
        """Check the options; state what a method with these nodes claims."""
        super().__post_init__()
        if self.nodes == "grid":
            if self.variable != "lambda":
                raise ValueError(f"variable={self.variable!r}: with nodes='grid' the variable is 'lambda'")
            self._limit_order(2)
            self._set(literature=type(self).order, multistep=True)

    def advance(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """See `Sampler.step`."""
        if self.nodes == "own":
            return (yield from super().advance(x, at, state))
        v = yield Evaluate(x, at.s0)
        stage = at.index % type(self).order
        if stage == 0 or state is None or at.last:
            return x + at.h * v, self._after(at, (at.s0, v, x.new_zeros(x.shape)))
        first, v0, correction = state
        (start,) = off_noise(at.s0, first)
        h = half_log_snr(at.s1) - half_log_snr(start)
        if not math.isfinite(h):  # up a grid from sigma 0
            return x + at.h * v, None
        theta = (half_log_snr(at.s0) - half_log_snr(start)) / h
        # D_0 is the same all along the line from x_0 with velocity v_0, which the run has left by the correction
        difference = correction + at.s0 * (v0 - v)
        b = phi(1, h) / 2 if stage == 1 else phi(2, h)
        corrected = ((1 - at.s1) * h * b / theta) * difference
        return x + at.h * v0 + (corrected - correction), self._after(at, (first, v0, corrected))

    def _after(self, at: Step, state: State) -> State:
        return None if (at.index + 1) % type(self).order == 0 else state


@register(
    "dpmpp_2s",
    aliases=("dpm_solver_pp_2s", "seeds_2_ode"),
    reference="DPM-Solver++, arXiv:2211.01095, algorithm 1",
    advice="For parity with DPM-Solver++(2S). res_2s differs in the fourth digit.",
)
@dataclass(frozen=True)
class DPMSolverPP2S(StagesOnTheGrid, RES2S):
    r"""DPM-Solver++(2S): as `RES2S`, with the correction $b_2 = \varphi_1(-h)/(2 c_2)$.

    With ``nodes="grid"`` it is DPM-Solver++(2S) of diffusers, one call a step, see `StagesOnTheGrid`.

    Args:
        last: policy of the last step, see `LastStep`.
        variable: see `ExponentialRungeKutta`.
        c2: node of the second stage.
        nodes: where the stages lie: ``"own"``, as many calls a step as the order; or ``"grid"``, one.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("dpmpp_2s", fs.schedules.linear(8)), fs.nfe("dpmpp_2s:nodes=grid", fs.schedules.linear(8))
        (16, 8)
    """

    variable: LogVariable = "lambda"

    def weights(self, h: float) -> Row:
        """See `ExponentialRungeKutta`."""
        return (phi(1, h) / 2 / self.c2,)


@register(
    "res_3s",
    reference="Hochbruck and Ostermann, Acta Numerica 19 (2010), (5.8); RES4LYF",
    advice="RES4LYF's three-call method.",
)
@dataclass(frozen=True)
class RES3S(ExponentialRungeKutta):
    r"""The exponential Runge-Kutta methods of order 3 with free nodes.

    $$
    a_{32} = \gamma c_2 \varphi_2(-c_2 h) + \tfrac{c_3^2}{c_2} \varphi_2(-c_3 h), \quad
    b_2 = \gamma b_3, \quad b_3 = \frac{\varphi_2(-h)}{\gamma c_2 + c_3}, \quad
    \gamma = \frac{c_3 (3 c_3 - 2)}{c_2 (2 - 3 c_2)}
    $$

    where $2(\gamma c_2 + c_3) = 3(\gamma c_2^2 + c_3^2)$. At $c = (1/3, 2/3)$, $\gamma = 0$, it is DPM-Solver++(3S).

    Args:
        last: policy of the last step, see `LastStep`.
        variable: see `ExponentialRungeKutta`.
        c2: node of the second stage, in (0, 1] but not 2/3.
        c3: node of the third stage, in (0, 1].

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("res_3s", fs.schedules.linear(8))
        24
    """

    c2: float = 0.5
    c3: float = 1.0

    order: ClassVar[int] = 3

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        number("c2", self.c2, most=1, above=0)
        number("c3", self.c3, most=1, above=0)
        if abs(self.c2 - 2 / 3) < 1e-12 or abs(self.gamma * self.c2 + self.c3) < 1e-12:
            raise ValueError(f"c2={self.c2}, c3={self.c3}: no method of order 3 has these nodes; c2=0.5, c3=1 is one")

    @property
    def gamma(self) -> float:
        """The ratio of the last two weights."""
        return self.c3 * (3 * self.c3 - 2) / (self.c2 * (2 - 3 * self.c2))

    def stages(self, h: float) -> list[tuple[float, Row]]:
        """See `ExponentialRungeKutta`."""
        a32 = self.gamma * self.c2 * phi(2, self.c2 * h) + self.c3**2 / self.c2 * phi(2, self.c3 * h)
        return [(self.c2, ()), (self.c3, (a32,))]

    def weights(self, h: float) -> Row:
        """See `ExponentialRungeKutta`."""
        b3 = phi(2, h) / (self.gamma * self.c2 + self.c3)
        return self.gamma * b3, b3


@register(
    "dpmpp_3s",
    aliases=("dpm_solver_pp_3s",),
    reference="DPM-Solver++, arXiv:2211.01095, with DPM-Solver-3's nodes (arXiv:2206.00927, algorithm 5)",
    advice="For parity with DPM-Solver++(3S).",
)
@dataclass(frozen=True)
class DPMSolverPP3S(StagesOnTheGrid, RES3S):
    r"""DPM-Solver++(3S): `RES3S` in $\lambda$ with nodes 1/3 and 2/3.

    With ``nodes="grid"`` it is DPM-Solver++(3S) of diffusers, one call a step, see `StagesOnTheGrid`.

    Args:
        last: policy of the last step, see `LastStep`.
        variable: see `ExponentialRungeKutta`.
        c2: node of the second stage.
        c3: node of the third stage.
        nodes: as in `DPMSolverPP2S`.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("dpmpp_3s", fs.schedules.linear(8)), fs.nfe("dpmpp_3s:nodes=grid", fs.schedules.linear(8))
        (24, 8)
    """

    variable: LogVariable = "lambda"
    c2: float = 1 / 3
    c3: float = 2 / 3


@register(
    "etdrk4",
    reference="Cox and Matthews, J. Comput. Phys. 176 (2002), (26) to (29)",
    advice="Order 4 inside (0, 1). rk4 has order 4 up to sigma 0.",
)
@dataclass(frozen=True)
class ETDRK4(ExponentialRungeKutta):
    r"""Cox and Matthews' exponential method of order 4, four evaluations a step.

    Args:
        last: policy of the last step, see `LastStep`.
        variable: see `ExponentialRungeKutta`.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("etdrk4", fs.schedules.linear(8))
        32
    """

    order: ClassVar[int] = 4

    def stages(self, h: float) -> list[tuple[float, Row]]:
        """See `ExponentialRungeKutta`."""
        half = phi(1, h / 2)
        return [(1 / 2, ()), (1 / 2, (half / 2,)), (1, (0.0, half))]

    def weights(self, h: float) -> Row:
        """See `ExponentialRungeKutta`."""
        p2, p3 = phi(2, h), phi(3, h)
        return 2 * p2 - 4 * p3, 2 * p2 - 4 * p3, 4 * p3 - p2


@register(
    "krogstad",
    aliases=("res_4s", "res_4s_krogstad"),
    reference="Krogstad, J. Comput. Phys. 203 (2005); Hochbruck and Ostermann, Acta Numerica 19 (2010), (2.42)",
    advice="Like etdrk4, with smaller errors if the linear part is stiff.",
)
@dataclass(frozen=True)
class Krogstad(ETDRK4):
    r"""Krogstad's exponential method of order 4, four evaluations a step.

    Args:
        last: policy of the last step, see `LastStep`.
        variable: see `ExponentialRungeKutta`.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("krogstad", fs.schedules.linear(8))
        32
    """

    def stages(self, h: float) -> list[tuple[float, Row]]:
        """See `ExponentialRungeKutta`."""
        return [(1 / 2, ()), (1 / 2, (phi(2, h / 2),)), (1, (0.0, 2 * phi(2, h)))]
