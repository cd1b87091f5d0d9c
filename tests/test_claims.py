"""What a sampler claims is computed from its options, and everybody reads it there."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from typing import Any

import pytest
from click.testing import CliRunner

import flowsamplers as fs
from flowsamplers.catalogue import entry
from flowsamplers.cli import main
from flowsamplers.orders import order as judge
from flowsamplers.study.results import Results
from flowsamplers.study.rows import Row
from flowsamplers.testing import subject_of
from flowsamplers.testing.fields import between, smooth, solution, start_at

NAMES = [name for info in fs.list_samplers() for name in info.names]
PRESETS = {
    json.dumps(fs.to_config(fs.get_sampler(name)), sort_keys=True): name
    for info in fs.list_samplers()
    for name in info.presets
    if not info.adaptive
}
"""One name for each map."""
ORDERS = {
    "bosh3": 3, "rk23": 3, "tsit5": 5, "dpm_adaptive_12": 2, "dpm_adaptive_23": 3,
    "lms": 2, "lms3": 2, "ipndm_v": 2, "ipndm_v3": 2, "deis_rhoab3": 2, "ipndm2": 2, "er_sde_1": 1, "sa_solver_diffusers": 2,
}  # fmt: skip
"""Of presets, from their papers and from what their options take away."""


@pytest.mark.parametrize("name", NAMES)
def test_what_is_known_of_a_name_is_what_its_sampler_claims(name: str) -> None:
    info, sampler = fs.sampler_info(name), fs.get_sampler(name)
    assert info.claims == sampler.claims
    assert info.options == sampler.options
    assert (info.order, info.literature) == (sampler.order, info.claims.literature)
    assert info.order_to_data <= info.order <= info.literature


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_a_preset_states_its_own_order(name: str, order: int) -> None:
    assert fs.sampler_info(name).order == order
    assert entry(name).inside == {}  # measured is the method with its defaults
    result = CliRunner().invoke(main, ["list", name])
    assert f"order {order}" in result.output, result.output
    assert result.output.splitlines()[2].startswith(f"{name}: {fs.sampler_info(name).name} ")
    [row] = json.loads(CliRunner().invoke(main, ["list", name, "--json"]).output)["samplers"]
    assert (row["preset"], row["order"], row["options"]) == (name, order, fs.get_sampler(name).options)


@pytest.mark.parametrize("name", PRESETS.values())
def test_a_preset_has_at_least_the_order_that_it_states(name: str) -> None:
    """Of a stochastic one without its noise. A ramp's error has a small factor, so uni_pc shows more than its 3 up to 512 steps."""
    still = subject_of(name).without_noise
    assert still is not None
    steps, x, truth = [32, 64, 128, 256], start_at(), solution(0.95, 0.05)
    errors = [float((still.run(smooth, x, between(0.95, 0.05, n)) - truth).norm()) for n in steps]
    verdict = judge(steps, errors, declared=still.order, floor=1e-14)
    assert verdict.verdict in ("confirmed", "higher"), verdict


def test_the_literature_claims_no_more_than_the_predictions_that_are_left() -> None:
    claimed = {name: fs.get_sampler(name).claims.literature for name in ("ipndm", "ipndm3", "deis", "deis_tab2", "dpmpp_3m")}
    assert claimed == {"ipndm": 4, "ipndm3": 3, "deis": 3, "deis_tab2": 2, "dpmpp_3m": 3}


def rows(sampler: str, options: dict[str, Any], slope: float) -> list[Row]:
    kinds: dict[str, Any] = {"float": 0.0, "int": 0, "str": "", "bool": False}
    plain = {f.name: kinds.get(str(f.type), {} if "Mapping" in str(f.type) else None) for f in fields(Row)}
    own = {"sampler": sampler, "options": options, "status": "ok"}
    return [Row(**{**plain, **own, "steps": n, "nfe": n, "error": float(n) ** -slope}) for n in (8, 16, 32, 64)]


JUDGED = [
    ("ab3", {"startup": "ramp"}, 2.1, "confirmed"),
    ("ab3", {}, 2.1, "reduced"),
    ("unipc_3", {}, 2.0, "confirmed"),  # of complete runs
    ("churn", {"base": {"name": "rk4", "options": {}}}, 4.0, "confirmed"),
]


@pytest.mark.parametrize(("sampler", "options", "slope", "verdict"), JUDGED)
def test_a_study_judges_by_the_claims_of_the_sampler_that_ran(sampler: str, options: dict, slope: float, verdict: str) -> None:
    [judged] = Results({}, rows(sampler, options, slope)).orders().values()
    assert judged.verdict == verdict, judged
    assert judged.order == pytest.approx(slope)


def test_claims_of_ones_own_class_are_its_attributes_and_what_its_options_set() -> None:
    @dataclass(frozen=True)
    class Mine(fs.Sampler):
        careful: bool = True
        order = 3
        order_to_data = 2

        def __post_init__(self) -> None:
            if not self.careful:
                object.__setattr__(self, "order", 1)

    assert (Mine().claims.order, Mine().claims.order_to_data, Mine().claims.literature) == (3, 2, 3)
    assert (Mine(careful=False).claims.order, Mine(careful=False).claims.order_to_data) == (1, 1)
    assert math.isfinite(Mine().claims.strong_order)
