r"""SA-Solver: the predictor and corrector of `unipc` for an SDE, both with the same draw of noise.

Measured with noise on all steps, the weak order is 2 on Gaussian data, and the strong order is 1 with ``startup="ramp"``. Any other
start-up takes its steps without noise, see `exponential_sde`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from flowsamplers._accepted import number, one_of
from flowsamplers.registry import register
from flowsamplers.sampler import Sampler, SamplerLike, Step, Tensor, converted
from flowsamplers.samplers.policies import RAMP
from flowsamplers.samplers.sde import SDE, exact_step, fresh_noise
from flowsamplers.samplers.unipc import PredictorCorrector, UniPC2, UniPC3, unipc_weights

__all__ = ["SASolver"]


@register(
    "sa_solver",
    presets={
        "sa_solver_pece": {"pece": True},
        "sa_solver_diffusers": {"startup": "ramp", "predictor_order": 2, "corrector_order": 2, "simple_order_2": True},
    },
    reference="SA-Solver, arXiv:2309.05019, algorithm 1; diffusers' SASolverScheduler, ComfyUI",
    advice="Adds noise only at middle noise levels; from about 20 calls. tau=0 is unipc_3.",
)
@dataclass(frozen=True)
class SASolver(PredictorCorrector):
    r"""SA-Solver: stochastic Adams methods, a predictor with s data predictions and a corrector that also uses the new one.

    $$
    x' = \frac{\sigma'}{\sigma} e^{-\tau^2 h} x + \sum_j b_j D_j + \sigma' \sqrt{1 - e^{-2 \tau^2 h}}\;\xi, \qquad
    b_j = \alpha' (1 + \tau^2) \int_\lambda^{\lambda'} e^{-(1 + \tau^2)(\lambda' - l)}\,\ell_j(l)\,dl
    $$

    Predictor and corrector share $\xi$, so the correction is a sum over predictions only: `UniPC`'s at the rate $1 + \tau^2$.
    diffusers' SA-Solver never reaches ``sigma = 0``; this one ends there, at D. Without noise it is `UniPC3`, with its start-up; diffusers
    uses ``startup="ramp"``. A step that begins outside the range of sigmas with noise draws none, even if it ends inside. This reduces
    the strong order by 1/2.

    Args:
        last: policy of the last step, see `LastStep`; the point it starts from is corrected first.
        startup: policy of the first steps, see `Multistep`.
        tau: strength of the noise; $\tau^2$ is the eta of `SDE`.
        low: lowest sigma at which a step with noise starts.
        high: highest sigma at which a step with noise starts. Set ``low`` to 0 and ``high`` to 1 for noise on all steps.
        predictor_order: number of predictions in the predictor, from 1 to 4.
        corrector_order: number of predictions in the corrector, from 2 to 4; 0 for no corrector.
        pece: evaluate the corrected point too, two calls per step.
        simple_order_2: if only two predictions remain, integrate their line with the factor 1/2 (diffusers; `UniPC`'s bh1).

    Examples:
        >>> import flowsamplers as fs
        >>> fs.nfe("sa_solver", fs.schedules.linear(8)), fs.nfe("sa_solver_pece", fs.schedules.linear(8))
        (10, 16)
    """

    startup: SamplerLike = "kutta3"
    tau: float = 1.0
    low: float = 0.2
    high: float = 0.8
    predictor_order: int = 3
    corrector_order: int = 4
    pece: bool = False
    simple_order_2: bool = False

    order: ClassVar[int] = 4
    memory: ClassVar[int] = 3
    stochastic: ClassVar[bool] = True
    weak_order: ClassVar[int] = 2
    strong_order: ClassVar[float] = 0.5
    noise_option: ClassVar[str] = "tau"

    def __post_init__(self) -> None:
        """Check the options; state the order of these."""
        one_of("predictor_order", self.predictor_order, (1, 2, 3, 4))
        one_of("corrector_order", self.corrector_order, (0, 2, 3, 4))
        number("tau", self.tau, 0)
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"low={self.low}, high={self.high}: sigmas from 0 to 1 between which there is noise, low <= high")
        corrected = min(self.corrector_order, self.predictor_order + 1)
        self._set(
            memory=max(self.predictor_order, self.corrector_order - 1),
            order=corrected if self.corrects else self.predictor_order,
            ramp_order=2 if self.corrects else 1,
        )
        everywhere = self.low == 0 and self.high == 1 and self.startup == RAMP
        self._set(strong_order=1 if everywhere else 0.5)
        super().__post_init__()

    def sde(self, s0: float) -> SDE:
        """Strength and rule of the noise in a step from s0."""
        return SDE(self.tau**2 if self.low <= s0 <= self.high else 0.0)

    @property
    def without_noise(self) -> Sampler | None:
        """See `Sampler.without_noise`."""
        twin = {(2, 3): UniPC2, (3, 4): UniPC3}.get((self.predictor_order, self.corrector_order))
        if twin is None or self.pece or self.simple_order_2:
            return None
        return converted(self, twin, solve="full")

    @property
    def corrects(self) -> bool:
        """See `PredictorCorrector`."""
        return self.corrector_order > 0

    @property
    def evaluates_again(self) -> bool:
        """See `LinearMultistep`."""
        return self.pece

    def constant(self, x: Tensor, v: Tensor, at: Step) -> Tensor:
        """See `PredictorCorrector`."""
        sde = self.sde(at.s0)
        return exact_step(x, v, at.s0, at.s1, sde, fresh_noise(x, at, at.s0, at.s1, sde))

    def weights(self, s0: float, s1: float, past: tuple[float, ...], *, new: bool = False) -> list[float]:
        """See `PredictorCorrector`."""
        used = past[: self.corrector_order - 2 if new else self.predictor_order - 1]
        solve = "shortcut" if self.simple_order_2 else "full"
        return unipc_weights("lambda", "bh1", solve, s0, s1, used, new=new, corrects=self.corrects, sde=self.sde(s0))
