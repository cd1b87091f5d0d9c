"""The instrument: integration error against the number of model calls, with the reference's own error beside it."""

from flowsamplers.orders import OrderVerdict, order, pairwise_slopes
from flowsamplers.study.plan import Planned, Study
from flowsamplers.study.results import Results, load
from flowsamplers.study.rows import Row

__all__ = ["OrderVerdict", "Planned", "Results", "Row", "Study", "load", "order", "pairwise_slopes"]
