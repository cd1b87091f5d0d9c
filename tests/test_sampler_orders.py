"""Measured orders: on two flows with known answers and two grids, inside (0, 1) and on complete runs."""

from __future__ import annotations

import pytest

import flowsamplers as fs
from fields import ALL
from flowsamplers.catalogue import FLOWS, SHIFTS, catalogue, observed_order
from flowsamplers.testing import subject_of
from flowsamplers.testing.laws import order_is_the_declared_one

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


RAISED = [
    ("er_sde", {"form": "polynomial", "startup": "heun", "last": "midpoint"}, 3),
    ("dpmpp_3m", {"kappa": 2.0, "startup": "heun"}, 3),
    ("deis_log_rho", {"max_order": 3, "startup": "heun"}, 3),
    ("gradient_estimation", {"gamma": 1.5}, 2),
    ("dpmpp_2s_ancestral", {"base": "rk4"}, 4),
    ("churn", {"base": "rk4"}, 4),
    ("restart", {"base": "ralston3"}, 3),
    ("sa_solver", {"predictor_order": 2, "corrector_order": 0}, 2),
    ("unipc", {"corrector": False}, 2),
    ("ab3", {"startup": "ramp"}, 2),
]
"""Options that make the order another one than the registry's."""


@pytest.mark.parametrize(("name", "options", "order"), RAISED)
def test_options_that_change_the_order_change_what_is_declared_and_what_is_measured(
    name: str, options: dict, order: int
) -> None:
    """Of a stochastic method: without its noise."""
    sampler = fs.get_sampler(name, **options)
    assert sampler.order == order != fs.sampler_info(name).order
    still = subject_of(sampler).quiet
    assert still is not None
    verdict = observed_order(still.sampler, "mixture-2", "shift-2", "inside")
    assert verdict.order is not None, verdict
    assert abs(verdict.order - order) <= 0.2, verdict


def test_richardson_extrapolation_of_rk4_has_order_5() -> None:
    order_is_the_declared_one(fs.get_sampler("richardson", base="rk4"))


def test_the_catalogue_has_a_measured_order_of_every_ode_sampler() -> None:
    for entry in catalogue():
        if entry.info.name in ODE:
            assert len(entry.inside) == len(FLOWS) * len(SHIFTS)
            assert all(abs(o - entry.info.order) <= 0.2 for o in entry.inside.values()), entry
            assert entry.info.advice
