"""Test kit: run all laws on your own sampler, schedule or diffusers scheduler.

Inherit one class and define one fixture; every law becomes a test:

    from flowsamplers.testing import SamplerConformance

    class TestMine(SamplerConformance):
        @pytest.fixture
        def subject(self):
            return MySampler()
"""

from flowsamplers.testing.conformance import SamplerConformance, ScheduleConformance
from flowsamplers.testing.subject import Subject, from_k_diffusion, subject_of

__all__ = ["SamplerConformance", "ScheduleConformance", "Subject", "from_k_diffusion", "subject_of"]
