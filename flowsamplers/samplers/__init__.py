"""The samplers, one family per file. Importing this package registers them all, in this order.

| | for the velocity | for the data prediction |
| --- | --- | --- |
| ODE, one step | `runge_kutta`, `implicit`, `adaptive` | `exponential_rk` |
| ODE, multistep | `multistep` | `exponential`, `unipc` |
| SDE, one step | | `stochastic` (order 1), `exponential_rk_sde` |
| SDE, multistep | | `exponential_sde`, `sa_solver` |

`wrappers` change another sampler, `learned` takes its coefficients from a table, and `compat` is for parity. They share `policies` (first
and last steps), `tableaux`, `interpolation` and `sde`.
"""

# isort: off
from flowsamplers.samplers.euler import Euler
from flowsamplers.samplers.policies import LastStep, Multistep
from flowsamplers.samplers.tableaux import ButcherTableau
from flowsamplers.samplers.runge_kutta import (
    RK4,
    RK5,
    RK38,
    SSPRK3,
    CarpenterKennedy4,
    Heun,
    Kutta3,
    LowStorage,
    Midpoint,
    Ralston,
    Ralston3,
    RungeKutta,
    Williamson3,
)
from flowsamplers.samplers.multistep import (
    DEIS,
    IPNDM,
    Adams,
    AdamsBashforth2,
    AdamsBashforth3,
    AdamsBashforth4,
    FireFlow,
    GradientEstimation,
)
from flowsamplers.samplers.exponential import RES2M, RES3M, DEISLogRho, DPMSolverPP2M, DPMSolverPP3M, ExponentialAdams
from flowsamplers.samplers.unipc import UniPC, UniPC2, UniPC3
from flowsamplers.samplers.exponential_rk import (
    ETDRK4,
    RES2S,
    RES3S,
    DPMSolverPP2S,
    DPMSolverPP3S,
    ExponentialRungeKutta,
    Krogstad,
)
from flowsamplers.samplers.wrappers import Churn, Restart, Richardson
from flowsamplers.samplers.implicit import FixedPoint, GaussLegendre2, RadauIIA2
from flowsamplers.samplers.adaptive import Adaptive, DPMAdaptive
from flowsamplers.samplers.compat import DPM2, HeunPP2
from flowsamplers.samplers.stochastic import DDIMEta, EulerAncestral, EulerSDE, FlowSDE, Renoise
from flowsamplers.samplers.exponential_sde import ERSDE, DPMSolverPP2MSDE, DPMSolverPP3MSDE, StochasticAdams
from flowsamplers.samplers.exponential_rk_sde import SEEDS, SEEDS2, SEEDS3, AncestralStep
from flowsamplers.samplers.sa_solver import SASolver
from flowsamplers.samplers.learned import NSSolver, OnItsGrid, ParallelMidpoints

__all__ = [
    "DEIS",
    "DPM2",
    "ERSDE",
    "ETDRK4",
    "IPNDM",
    "RES2M",
    "RES2S",
    "RES3M",
    "RES3S",
    "RK4",
    "RK5",
    "RK38",
    "SEEDS",
    "SEEDS2",
    "SEEDS3",
    "SSPRK3",
    "Adams",
    "AdamsBashforth2",
    "AdamsBashforth3",
    "AdamsBashforth4",
    "Adaptive",
    "AncestralStep",
    "ButcherTableau",
    "CarpenterKennedy4",
    "Churn",
    "DDIMEta",
    "DEISLogRho",
    "DPMAdaptive",
    "DPMSolverPP2M",
    "DPMSolverPP2MSDE",
    "DPMSolverPP2S",
    "DPMSolverPP3M",
    "DPMSolverPP3MSDE",
    "DPMSolverPP3S",
    "Euler",
    "EulerAncestral",
    "EulerSDE",
    "ExponentialAdams",
    "ExponentialRungeKutta",
    "FireFlow",
    "FixedPoint",
    "FlowSDE",
    "GaussLegendre2",
    "GradientEstimation",
    "Heun",
    "HeunPP2",
    "Krogstad",
    "Kutta3",
    "LastStep",
    "LowStorage",
    "Midpoint",
    "Multistep",
    "NSSolver",
    "OnItsGrid",
    "ParallelMidpoints",
    "RadauIIA2",
    "Ralston",
    "Ralston3",
    "Renoise",
    "Restart",
    "Richardson",
    "RungeKutta",
    "SASolver",
    "StochasticAdams",
    "UniPC",
    "UniPC2",
    "UniPC3",
    "Williamson3",
]
