"""The laws of samplers and schedules, one function each. A law raises AssertionError if it is broken.

A law of samplers takes a `Subject` (or a sampler, its name, or its configuration) and the case to test. A law of schedules takes
a function that builds one. A law that does not apply to a subject raises `NotApplicable` with the reason. Every name in the
``__all__`` of a module of laws of samplers is such a law.
"""

from __future__ import annotations

from collections.abc import Callable

from flowsamplers.testing.laws import calls, drivers, exactness, hygiene, orders, randomness, symmetry
from flowsamplers.testing.laws.calls import *
from flowsamplers.testing.laws.common import *
from flowsamplers.testing.laws.drivers import *
from flowsamplers.testing.laws.exactness import *
from flowsamplers.testing.laws.grids import *
from flowsamplers.testing.laws.hygiene import *
from flowsamplers.testing.laws.orders import *
from flowsamplers.testing.laws.randomness import *
from flowsamplers.testing.laws.symmetry import *

SAMPLER_LAWS: tuple[Callable[..., None], ...] = tuple(
    getattr(room, name) for room in (exactness, orders, symmetry, calls, randomness, hygiene, drivers) for name in room.__all__
)
"""Every law of a sampler, each callable with the subject alone."""
