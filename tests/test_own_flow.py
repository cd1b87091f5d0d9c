"""A velocity field of one's own can be studied: only the velocity and a shape are needed, and what is missing is said."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest
import torch

import flowsamplers as fs
from flowsamplers.flows import GaussianFlow, MixtureFlow, OwnFlow, completed
from flowsamplers.study import Study, load

pytest.importorskip("matplotlib")


class Bare:
    """Gaussian data by its velocity alone."""

    shape = (2,)

    def __init__(self, std: float = 0.5) -> None:
        self.exact = GaussianFlow([1.0, -1.0], std=std)

    def velocity(self, x, sigma):
        return self.exact.velocity(x, sigma)


def small(flow, **options) -> Study:
    return Study(flow=flow, **{"samplers": ("euler", "heun"), "nfe": (4, 8), "seeds": (0, 1), **options})


@pytest.fixture(autouse=True)
def no_figures(monkeypatch) -> None:
    monkeypatch.setattr("flowsamplers.study.report.write", lambda *_: None)


def test_a_velocity_and_a_shape_are_enough(tmp_path) -> None:
    results = small(Bare()).run(tmp_path)
    assert load(tmp_path).rows == results.rows
    assert {(r.model, r.prompt, r.dtype) for r in results.rows} == {("Bare", "", "float32")}
    exact = GaussianFlow([1.0, -1.0], std=0.5)
    for row in results.rows:
        x1 = OwnFlow(Bare()).noise([row.seed]).double()
        x0 = fs.sample(exact.velocity, x1, fs.get_schedule("flux2", row.steps, **row.schedule_options), row.sampler)
        true = fs.reference.relative_error(x0, exact.solution(x1)).item()
        assert row.error == pytest.approx(true, rel=1e-4, abs=2 * row.reference_error)


def test_a_function_and_a_network_are_flows() -> None:
    class Network(torch.nn.Linear):
        def forward(self, x, sigma):
            return super().forward(x)

    assert small(lambda x, sigma: x, shape=(3,)).plan().rows == 8
    study = small(Network(3, 3).double(), shape=(3,), model="mine")
    assert study.model == "mine"
    assert study.open().noise([0]).dtype == torch.float64


def test_noise_depends_on_the_seed_alone() -> None:
    flow = OwnFlow(Bare())
    assert torch.equal(flow.noise([3, 4])[1:], flow.noise([4]))


def test_what_an_object_brings_is_used_and_conditions_reach_it(tmp_path) -> None:
    class Guided(Bare):
        passes_per_evaluation, tokens, name = 2, 77, "guided"
        seen: ClassVar[set[str]] = set()

        def velocity(self, x, sigma, condition=None):
            self.seen |= set(condition)
            return self.exact.velocity(x, sigma)

    study = small(Guided(), prompts=("one", "two"))
    rows = study.run(tmp_path).rows
    assert Guided.seen == {"one", "two"}
    assert {r.model for r in rows} == {"guided"}
    assert all(r.forward_passes == 2 * r.nfe and r.schedule_options["tokens"] == 77 for r in rows)


def test_a_study_with_a_flow_can_be_replaced() -> None:
    study = small(Bare())
    assert replace(study, nfe=(4,)).flow is study.flow


def test_a_changed_field_is_another_model(tmp_path) -> None:
    small(Bare()).run(tmp_path)
    with pytest.raises(ValueError, match=r"begun with something else .*velocity"):
        small(Bare(0.6)).run(tmp_path)


def test_a_complete_flow_stays_itself() -> None:
    flow = MixtureFlow.four_gaussians()
    assert completed(flow) is flow


def returns(value):
    def velocity(x, sigma):
        return value(x)

    return velocity


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flow": object()}, r"flow=object: it has no velocity; a flow needs velocity\(x, sigma, condition=None\)"),
        ({"flow": Bare}, r"flow=Bare: this is a class; give an object, such as Bare\(\)"),
        ({"model": Bare()}, "give an object as flow="),
        ({"flow": returns(lambda x: x)}, "flow velocity: the shape of a row is missing"),
        ({"flow": Bare(), "shape": 2}, r"shape=2: give the shape of one row, such as \(2,\)"),
        ({"flow": Bare(), "shape": (0,)}, r"shape=\(0,\): give the shape"),
        ({"shape": (2,)}, "given as flow="),
        ({"flow": returns(lambda x: x.sum(1)), "shape": (2,)}, r"shape \(2,\) for x of shape \(2, 2\)"),
        ({"flow": returns(lambda x: x.numpy()), "shape": (2,)}, "velocity returned ndarray"),
        ({"flow": returns(lambda x: x / 0), "shape": (2,)}, "is not finite"),
        ({"flow": Bare(), "prompts": ("a cat",)}, "takes no condition; leave the prompts out"),
        ({"flow": Bare(), "flow_options": {"dtype": "bfloat16"}}, "opened by name, not for flow="),
    ],
)
def test_what_is_missing_is_said_at_once(options, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Study(**options)
