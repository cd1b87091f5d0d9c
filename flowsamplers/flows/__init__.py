"""Flows: velocity fields with known solutions, and models by name."""

from flowsamplers.flows.data import DataFlow
from flowsamplers.flows.gaussian import GaussianFlow
from flowsamplers.flows.mixture import MixtureFlow
from flowsamplers.flows.own import OwnFlow, check_flow, completed
from flowsamplers.flows.prompts import default_prompts
from flowsamplers.flows.registry import load_flow
from flowsamplers.lockstep import Flow

__all__ = [
    "DataFlow",
    "Flow",
    "GaussianFlow",
    "MixtureFlow",
    "OwnFlow",
    "check_flow",
    "completed",
    "default_prompts",
    "load_flow",
]
