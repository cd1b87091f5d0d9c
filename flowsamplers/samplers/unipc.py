r"""UniPC: an exponential Adams predictor, with a corrector that needs no extra evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import ClassVar, Literal, TypeAlias

from flowsamplers.registry import register
from flowsamplers.sampler import Step, Tensor
from flowsamplers.samplers.interpolation import NO_NOISE, VARIABLES, moments, off_noise, polynomial_weights, positions, regular
from flowsamplers.samplers.multistep import LinearMultistep, Memory, combined
from flowsamplers.samplers.policies import RAMP
from flowsamplers.samplers.sde import SDE

__all__ = ["UniPC", "UniPC2", "UniPC3"]

InVariable: TypeAlias = Literal["lambda", "neg_log_sigma", "sigma"]
Base: TypeAlias = Literal["bh1", "bh2"]
Solve: TypeAlias = Literal["shortcut", "full"]


@dataclass(frozen=True)
class PredictorCorrector(LinearMultistep):
    r"""Base of the predictor-corrector methods: predict, evaluate once, and correct with the evaluation that the next step needs anyway.

    Args:
        last: policy of the last step, see `LastStep`; its starting point is corrected first.
        startup: policy of the first steps, see `Multistep`.
    """

    prediction: ClassVar[str] = "data"
    affine: ClassVar[bool] = False
    order_to_data: ClassVar[int] = 2
    ramp_order: ClassVar[int] = 2  # Euler's step, corrected to the trapezoidal rule

    @property
    def corrects(self) -> bool:
        """Whether there is a corrector."""
        return True

    def weights(self, s0: float, s1: float, past: tuple[float, ...], *, new: bool = False) -> list[float]:
        """Compute weights of (D_j - D): for the prediction at s1, if ``new``, and for the earlier ones."""
        raise NotImplementedError

    def reach(self, at: Step, index: int) -> int:
        """Return how many earlier predictions the step with this index may use; on a run to data, the last two steps use one."""
        return max(1, at.count - index - 1) if at.grid.end == 0 else self.memory

    @property
    def kept(self) -> int:
        """See `LinearMultistep`."""
        return self.memory

    def correcting_offset(self, memory: Memory, at: Step, new: Tensor) -> Tensor | None:
        """See `LinearMultistep`: an offset, so that an edit made from outside survives."""
        if not self.corrects:
            return None
        (s0, d), *older = memory
        s1, past = at.s0, tuple(s for s, _ in older)[: self.reach(at, at.index - 1)]
        before = self.weights(s0, s1, past)
        w_new, *after = self.weights(s0, s1, past, new=True) or (0.0,)
        changes = [wc - wp for wc, wp in zip_longest(after, before, fillvalue=0.0)]
        return combined(w_new * (new - d), changes, older, d)


@dataclass(frozen=True)
class UniPC(PredictorCorrector):
    r"""UniPC: predict, evaluate once, and correct with the evaluation that the next step needs anyway.

    $$
    x' = \frac{\sigma'}{\sigma} x + \Bigl(1 - \frac{\sigma'}{\sigma}\Bigr) D + \alpha' B \sum_j \rho_j\,\frac{D_j - D}{\theta_j}
    $$

    The predictor's sum runs over earlier predictions; the corrector's sum also includes the new one, at $\theta = 1$. With
    ``solve="full"`` the $\rho_j$ solve the paper's linear system, B drops out, and both integrate a polynomial. With ``"shortcut"``, as in
    other programs, $\rho = 1/2$ if a single unknown remains; there $B = h$ (bh1) differs from $B = 1 - e^{-h}$ (bh2).

    In $\lambda$ the corrected method has ``sigma = 1`` where diffusers has it, at $1 - 10^{-6}$, see `off_noise`. In $-\log\sigma$ the
    predictor of the second step would extrapolate ten times as far. The corrector leaves little to gain from that, and with 4 calls a
    guided network loses by it.

    Args:
        last: policy of the last step, see `LastStep`; its starting point is corrected first.
        startup: policy of the first steps, see `Multistep`.
        variable: where the prediction is interpolated: ``"lambda"`` (the paper), ``"neg_log_sigma"`` (ComfyUI), or ``"sigma"``.
        base: the function B, ``"bh1"`` or ``"bh2"``.
        solve: ``"shortcut"`` (as in diffusers and ComfyUI) or ``"full"``.
        corrector: whether to use the corrector.
    """

    variable: InVariable = "lambda"
    base: Base = "bh2"
    solve: Solve = "shortcut"
    corrector: bool = True

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if not self.corrector:
            self._limit_order(self.memory)
        if self.variable == "sigma" and self.base == "bh1":
            raise ValueError("base='bh1' is a length in a logarithm; with variable='sigma' use base='bh2'")

    @property
    def corrects(self) -> bool:
        """See `PredictorCorrector`."""
        return self.corrector

    def weights(self, s0: float, s1: float, past: tuple[float, ...], *, new: bool = False) -> list[float]:
        """See `PredictorCorrector`."""
        used = past[: self.memory - 1]
        return unipc_weights(self.variable, self.base, self.solve, s0, s1, used, new=new, corrects=self.corrector)


@lru_cache(maxsize=8192)
def unipc_weights(
    variable: str,
    base: Base,
    solve: Solve,
    s0: float,
    s1: float,
    past: tuple[float, ...],
    *,
    new: bool,
    corrects: bool,
    sde: SDE = NO_NOISE,
) -> list[float]:
    """Compute the weights of (D_j - D) for the new prediction, if there is one, and for the earlier ones; see `UniPC`."""
    if sde.eta == 0:
        if corrects and variable == "lambda":
            s0, *earlier = off_noise(s1, s0, past)
            past = tuple(earlier)
        variable = regular(variable, s0, s1, past, new=new)
    m = moments("data", variable, s0, s1, len(past) + 2, sde)
    if not m:
        return []
    thetas = [*([1.0] if new else []), *positions(variable, s0, s1, past)]
    if not thetas:  # no node has a finite place in the variable
        return []
    if (len(thetas) if sde.eta else len(past) + new) != 1 or solve == "full":
        return polynomial_weights(thetas, m[1 : len(thetas) + 1])
    scale = m[0]
    if base == "bh1":
        alpha = 1 - s1 if variable == "lambda" else 1.0
        scale = alpha * (1 + sde.eta) * (VARIABLES[variable](s1) - VARIABLES[variable](s0))
    return [scale / 2 / thetas[0]]


@register(
    "unipc",
    aliases=("unipc_2",),
    reference="UniPC, arXiv:2302.04867, algorithms 5 to 8",
    advice="The usual choice for Wan, and good with 10 to 20 calls on flat schedules. Its last step is Euler's by default.",
)
@dataclass(frozen=True)
class UniPC2(UniPC):
    """UniPC-2: with its corrector it has order 3 inside (0, 1), and 2 on runs to ``sigma = 0``; see `UniPC` for the options.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("unipc", fs.schedules.linear(8))
        8
    """

    order: ClassVar[int] = 3
    memory: ClassVar[int] = 2


@register(
    "unipc_3",
    aliases=("unipc3",),
    presets={
        "uni_pc": {"variable": "neg_log_sigma", "base": "bh1"},
        "uni_pc_bh2": {"variable": "neg_log_sigma"},
    },
    reference="UniPC, arXiv:2302.04867, algorithms 5 to 8",
    advice="From about 24 calls, on schedules without a large last step.",
)
@dataclass(frozen=True)
class UniPC3(UniPC):
    """UniPC-3: with its corrector it has order 3 inside (0, 1), and 2 on runs to ``sigma = 0``; see `UniPC` for the options.

    Its first step has order 2, as in diffusers, which limits the order to 3. ``startup="kutta3"`` gives order 4, for two more evaluations.
    On a run to ``sigma = 0`` the second-to-last step has order 2, as in diffusers. Order 3 is 4 to 9 times worse there from 16
    calls on.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("unipc_3", fs.schedules.linear(8)), fs.nfe(fs.get_sampler("unipc_3", startup="kutta3"), fs.schedules.linear(8))
        (8, 10)
    """

    order: ClassVar[int] = 3
    memory: ClassVar[int] = 3

    def __post_init__(self) -> None:
        """Check the options; state the order that this start-up allows."""
        if self.startup != RAMP:
            self._set(order=4)
        super().__post_init__()
