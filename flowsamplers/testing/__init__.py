"""The property kit: anybody can prove their sampler, schedule or diffusers scheduler right.

Inherit one class, give one fixture, get the laws:

    from flowsamplers.testing import SamplerConformance

    class TestMine(SamplerConformance):
        @pytest.fixture
        def subject(self):
            return MySampler()
"""

from flowsamplers.testing.conformance import SamplerConformance, ScheduleConformance
from flowsamplers.testing.subject import Subject, from_k_diffusion, subject_of

__all__ = ["SamplerConformance", "ScheduleConformance", "Subject", "from_k_diffusion", "subject_of"]
