"""The instrument: integration error against the number of model calls, with the reference's own error beside it."""

from flowsamplers.orders import OrderVerdict, order, pairwise_slopes
from flowsamplers.study.cost import Budget, Plan
from flowsamplers.study.diff import Diff, diff
from flowsamplers.study.distances import chance_level, energy_distance, sliced_wasserstein
from flowsamplers.study.plan import Planned, Study
from flowsamplers.study.results import Interval, Results, load
from flowsamplers.study.rows import Row
from flowsamplers.study.stochastic import StochasticOrders, stochastic_orders

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
