"""Flows: velocity fields with known solutions, and models by name."""

from flowsamplers.flows.data import *
from flowsamplers.flows.gaussian import *
from flowsamplers.flows.mixture import *
from flowsamplers.flows.own import *
from flowsamplers.flows.prompts import *
from flowsamplers.flows.registry import *
from flowsamplers.lockstep import Flow as Flow
