"""Test a sampler from the command line, without a test file.

pytest --pyargs flowsamplers.testing.check --flowsamplers-sampler=mypkg:MySampler
"""

from __future__ import annotations

from typing import Any

import pytest

from flowsamplers.testing.conformance import SamplerConformance
from flowsamplers.testing.subject import subject_of
from flowsamplers_pytest import named_object


class TestNamedSampler(SamplerConformance):
    """Run all laws on the sampler that the command line names."""

    @pytest.fixture
    def subject(self, request: pytest.FixtureRequest) -> Any:
        """The sampler named by ``--flowsamplers-sampler``."""
        name = request.config.getoption("--flowsamplers-sampler")
        if not name:
            pytest.skip("no --flowsamplers-sampler=PACKAGE:OBJECT was given")
        return subject_of(named_object(str(name)))
