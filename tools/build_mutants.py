"""Which law kills which mutant: writes tests/mutants.json from tests/mutants.py and tests/mutants_sde.py.

python tools/build_mutants.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from building import ROOT, build

sys.path.insert(0, str(ROOT / "tests"))

import mutants
import mutants_sde  # noqa: F401  (adds its own)
from flowsamplers.grid import SigmaGrid
from flowsamplers.schedules import linear, shift
from flowsamplers.testing import laws

DATA = ROOT / "tests" / "mutants.json"
SOUND: dict[str, Callable[[int], SigmaGrid]] = {"linear": linear, "shift": lambda n: shift(n, shift=3.0)}
STEPS = (1, 2, 5, 40)


def killers(tries: dict[str, list[Callable[[], Any]]]) -> list[str]:
    """Names of the laws of which one of the tries fails."""
    found: list[str] = []
    for name, cases in tries.items():
        for case in cases:
            try:
                case()
            except laws.NotApplicable:
                continue
            except Exception:
                found.append(name)
                break
            finally:
                torch.set_default_dtype(torch.float32)
                torch.set_grad_enabled(True)  # a generator that died inside no_grad leaves it behind
    return found


LAWS = [law.__name__ for law in laws.SAMPLER_LAWS]


def sampler_killers(make: Callable[[], Any], names: Sequence[str] = LAWS) -> list[str]:
    """Which of these laws a sampler breaks, each on its standard case."""
    return killers({name: [partial(lambda law: law(make()), getattr(laws, name))] for name in names})


def schedule_killers(parent: str, build: Callable[[int], SigmaGrid]) -> list[str]:
    """Laws that a schedule breaks at one of a few numbers of steps."""
    factor = {"linear": 1.0, "shift": 3.0}[parent]
    return killers(
        {
            "a_schedule_is_sound": [lambda n=n: laws.a_schedule_is_sound(build, n) for n in STEPS],
            "a_schedule_runs_from_noise_to_data": [
                lambda n=n: laws.a_schedule_runs_from_noise_to_data(build, n) for n in STEPS
            ],
            "a_shift_multiplies_the_odds": [lambda n=n: laws.a_shift_multiplies_the_odds(build, n, factor) for n in STEPS],
            "bad_steps_are_named": [lambda: laws.bad_steps_are_named(build)],
        }
    )


def table() -> str:
    """The whole file: for each mistake the laws that find it."""
    found = {
        "samplers": {mistake: sampler_killers(make) for mistake, (_, make) in mutants.SAMPLERS.items()},
        "schedules": {mistake: schedule_killers(*made) for mistake, made in mutants.SCHEDULES.items()},
    }
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


WRITTEN = {DATA: table}

if __name__ == "__main__":
    build(__doc__, WRITTEN)
