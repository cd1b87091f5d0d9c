"""Studies: measure the integration error of samplers against the number of model calls."""

from flowsamplers.orders import OrderVerdict, order, pairwise_slopes
from flowsamplers.study.cost import Budget
from flowsamplers.study.distances import chance_level, energy_distance, sliced_wasserstein
from flowsamplers.study.orders import StochasticOrders, stochastic_orders
from flowsamplers.study.plan import Plan, Planned, Study
from flowsamplers.study.results import Diff, Interval, Results, diff, load
from flowsamplers.study.rows import Row

__all__ = [
    "Budget",
    "Diff",
    "Interval",
    "OrderVerdict",
    "Plan",
    "Planned",
    "Results",
    "Row",
    "StochasticOrders",
    "Study",
    "chance_level",
    "diff",
    "energy_distance",
    "load",
    "order",
    "pairwise_slopes",
    "sliced_wasserstein",
    "stochastic_orders",
]
