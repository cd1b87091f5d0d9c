"""Velocity fields with known answers, and the way to open a model's field by name."""

from flowsamplers.flows.data import DataFlow
from flowsamplers.flows.gaussian import GaussianFlow
from flowsamplers.flows.mixture import MixtureFlow
from flowsamplers.flows.registry import load_flow

__all__ = ["DataFlow", "GaussianFlow", "MixtureFlow", "load_flow"]
