"""The samplers, one family a file; importing this package registers them all."""

from flowsamplers.samplers.euler import Euler
from flowsamplers.samplers.exponential import DPMSolverPP2M
from flowsamplers.samplers.multistep import AdamsBashforth2, FireFlow, Multistep
from flowsamplers.samplers.runge_kutta import RK4, ButcherTableau, Heun, Midpoint, RungeKutta
from flowsamplers.samplers.stochastic import Renoise

__all__ = [
    "RK4",
    "AdamsBashforth2",
    "ButcherTableau",
    "DPMSolverPP2M",
    "Euler",
    "FireFlow",
    "Heun",
    "Midpoint",
    "Multistep",
    "Renoise",
    "RungeKutta",
]
