"""The pytest plugin: the option ``--flowsamplers-sampler``, and Hypothesis profiles.

pytest loads it in every environment with flowsamplers, so it imports neither torch nor flowsamplers.
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest

PROFILES = {"dev": 20, "ci": 40, "nightly": 2000}
"""Examples of each property. The profiles are called ``flowsamplers-dev`` and so on: Hypothesis has a ``ci`` of its own."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--flowsamplers-sampler=package:Object``."""
    parser.getgroup("flowsamplers").addoption(
        "--flowsamplers-sampler",
        metavar="PACKAGE:OBJECT",
        help="sampler, class or Subject to put under the laws; with --pyargs flowsamplers.testing.check",
    )


@pytest.hookimpl(tryfirst=True)  # before Hypothesis looks for the profile that the command line names
def pytest_configure(config: pytest.Config) -> None:
    """Register the profiles and the marker."""
    config.addinivalue_line("markers", "flowsamplers: a law of the flowsamplers property kit")
    try:
        from hypothesis import HealthCheck, settings  # noqa: PLC0415  (an extra)
    except ModuleNotFoundError:
        return
    for name, examples in PROFILES.items():
        settings.register_profile(
            f"flowsamplers-{name}",
            max_examples=examples,
            deadline=None,
            derandomize=name == "ci",
            suppress_health_check=[HealthCheck.too_slow],
        )


def named_object(name: str) -> Any:
    """Import the object ``package:Object``; a class is called without arguments.

    Raises:
        pytest.UsageError: there is no such module or object.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        raise pytest.UsageError(f"--flowsamplers-sampler={name}: give PACKAGE:OBJECT, such as mypkg.samplers:MySampler")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise pytest.UsageError(f"--flowsamplers-sampler={name}: {error}") from error
    return found() if isinstance(found, type) else found
