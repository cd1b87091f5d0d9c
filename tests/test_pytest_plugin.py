"""A foreign sampler is tested with no test file at all."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from hypothesis import settings

from flowsamplers_pytest import named_object

pytest_plugins = ["pytester"]

GOOD = """
from dataclasses import dataclass
from flowsamplers import Evaluate, Sampler

@dataclass(frozen=True)
class Mine(Sampler):
    order = 2
    def step(self, x, at, state):
        k1 = yield Evaluate(x, at.s0)
        k2 = yield Evaluate(x + 2 / 3 * at.h * k1, at.s0 + 2 / 3 * at.h)
        return x + at.h * (k1 / 4 + 3 / 4 * k2), state

@dataclass(frozen=True)
class Wrong(Mine):
    def step(self, x, at, state):
        k1 = yield Evaluate(x, at.s0)
        k2 = yield Evaluate(x + 2 / 3 * at.h * k1, at.s0 + 2 / 3 * at.h)
        return x + at.h * (3 / 4 * k1 + k2 / 4), state

def sample_heun(model, x, sigmas, extra_args=None, callback=None, disable=None):
    for s, t in zip(sigmas, sigmas[1:]):
        d = (x - model(x, s * x.new_ones([len(x)]))) / s
        if t == 0:
            x = x + (t - s) * d
            continue
        y = x + (t - s) * d
        x = x + (t - s) / 2 * (d + (y - model(y, t * x.new_ones([len(x)]))) / t)
    return x
"""
FOREIGN = GOOD + "\nfrom flowsamplers.testing import from_k_diffusion\nheun = from_k_diffusion(sample_heun, order=2)\n"


@pytest.fixture
def run(pytester: pytest.Pytester) -> Iterator[Callable[..., pytest.RunResult]]:
    """Run pytest in a folder of its own; a process of its own is started in tests/test_examples.py."""
    profile = settings.get_current_profile_name()
    pytester.syspathinsert()
    yield partial(pytester.runpytest_inprocess, "-q", "-p", "no:cacheprovider")
    settings.load_profile(profile)


def check(run: Callable[..., pytest.RunResult], pytester: pytest.Pytester, name: str, *chosen: str) -> pytest.RunResult:
    pytester.makepyfile(mypkg=FOREIGN)
    command = ["--pyargs", "flowsamplers.testing.check", f"--flowsamplers-sampler={name}"]
    return run(*command, "--hypothesis-profile=flowsamplers-ci", *chosen)


def test_a_right_sampler_passes(run, pytester) -> None:
    """One of other software; a sampler of this kit does in tests/test_examples.py."""
    assert check(run, pytester, "mypkg:heun").ret == 0


def test_a_wrong_weight_is_found_by_name(run, pytester) -> None:
    found = check(run, pytester, "mypkg:Wrong", "-k", "order_is_the_declared_one")
    assert found.ret == 1
    found.stdout.fnmatch_lines(["*Wrong declares order 2; measured 1.*", "FAILED *order_is_the_declared_one*"])


CLASSES = """
import pytest
import flowsamplers as fs
from hypothesis import given, settings
from flowsamplers.testing import SamplerConformance, ScheduleConformance, strategies

class TestHeun(SamplerConformance):
    @pytest.fixture
    def subject(self):
        return "heun"

class TestEuler(SamplerConformance):
    @pytest.fixture
    def subject(self):
        return "euler"

class TestLinear(ScheduleConformance):
    @pytest.fixture
    def build(self):
        return fs.schedules.linear

class TestBeta(ScheduleConformance):
    @pytest.fixture
    def build(self):
        return lambda steps: fs.get_schedule("beta_comfy", steps)

@settings(max_examples=200)
@given(build=strategies.schedules())
def test_of_ones_own_under_the_usual_deadline(build):
    assert build(1).steps >= 1
"""


def test_two_classes_of_each_kind_pass_in_one_session_under_the_default_profile(run, pytester) -> None:
    pytester.makepyfile(test_mine=CLASSES)
    chosen = "any_grid or applied or sound or dt_sum or deadline or noise_to_data"
    assert run("--hypothesis-profile=default", "-k", chosen, "test_mine.py").ret == 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("json:Nobody", "has no attribute 'Nobody'"),
        ("no_such_package:Mine", "No module named"),
        ("mypkg", "give PACKAGE:OBJECT"),
    ],
)
def test_a_wrong_name_is_said(name: str, said: str) -> None:
    with pytest.raises(pytest.UsageError, match=said):
        named_object(name)


def test_the_plugin_loads_neither_torch_nor_flowsamplers() -> None:
    code = "import sys, flowsamplers_pytest; print([m for m in ('torch', 'flowsamplers', 'hypothesis') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
