"""Measured orders: on two flows with known answers and two grids, inside (0, 1) and on complete runs."""

from __future__ import annotations

import pytest

import flowsamplers as fs
from fields import ALL
from flowsamplers.catalogue import FLOWS, SHIFTS, catalogue, observed_order

ODE = [n for n in ALL if not fs.sampler_info(n).stochastic and not fs.sampler_info(n).adaptive]


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("name", ODE)
def test_the_order_inside_is_the_declared_one(name: str, flow: str, shift: str) -> None:
    """Strictly between 0 and 1, where every interpolation variable is finite."""
    verdict = observed_order(name, flow, shift, "inside")
    assert verdict.order is not None, verdict
    assert abs(verdict.order - fs.sampler_info(name).order) <= 0.2, verdict


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("name", ODE)
def test_the_order_of_complete_runs_is_the_declared_one(name: str, shift: str) -> None:
    """From 1 to 0. Where a variable is infinite at the ends the order holds up to a logarithm, seen as a deficit of up to 0.3."""
    verdict = observed_order(name, "mixture-2", shift, "complete")
    assert verdict.order is not None, verdict
    assert verdict.order >= fs.sampler_info(name).order_to_data - 0.35, verdict


def test_the_catalogue_has_a_measured_order_of_every_ode_sampler() -> None:
    for entry in catalogue():
        if entry.info.name in ODE:
            assert len(entry.inside) == len(FLOWS) * len(SHIFTS)
            assert all(abs(o - entry.info.order) <= 0.2 for o in entry.inside.values()), entry
            assert entry.info.advice
