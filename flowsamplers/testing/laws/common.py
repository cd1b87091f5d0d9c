"""Helpers of the laws: the standard case, and checks that a law applies."""

from __future__ import annotations

import torch
from torch import Tensor

from flowsamplers.grid import SigmaGrid
from flowsamplers.registry import get_sampler
from flowsamplers.sampler import Sampler, SamplerLike
from flowsamplers.testing.subject import Subject, subject_of

__all__ = ["DTYPES", "IRREGULAR", "SEED", "Case", "NotApplicable"]

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Dtypes of the state."""
IRREGULAR = SigmaGrid([1.0, 0.93, 0.7, 0.41, 0.4, 0.15, 0.0])
"""A grid with very unequal steps."""
SEED = 7
"""Seed of the laws that draw noise."""


class NotApplicable(Exception):  # noqa: N818  (not an error)
    """Raised by a law that does not apply to a subject; the message says why."""


Case = Subject | SamplerLike
"""The argument of a law: a subject, or a sampler, its name or its configuration."""


def without_noise(case: Case) -> Subject:
    """Return the subject without its noise.

    Raises:
        NotApplicable: the subject has no deterministic version.
    """
    subject = subject_of(case)
    if subject.without_noise is None:
        raise NotApplicable("it is stochastic and has no twin without noise")
    return subject.without_noise


def steady(subject: Subject) -> Subject:
    """Return the subject if its steps do not depend on the data.

    Raises:
        NotApplicable: it is adaptive.
    """
    if subject.sampler is not None and subject.sampler.adaptive:
        raise NotApplicable("it is adaptive: it chooses its steps by the data, to a tolerance")
    return subject


def generator_of(case: Case) -> Sampler:
    """Return the flowsamplers sampler of a subject, for the laws of the generator protocol.

    Raises:
        NotApplicable: the subject belongs to another library, or it is adaptive.
    """
    subject = subject_of(case)
    if subject.sampler is None:
        raise NotApplicable("it is no flowsamplers sampler, so it has no generator to drive")
    if subject.sampler.adaptive:
        raise NotApplicable("it is adaptive: its model calls depend on the data")
    return get_sampler(subject.sampler)


def stochastic(case: Case) -> Subject:
    """Return the subject if it draws noise.

    Raises:
        NotApplicable: it draws none.
    """
    subject = subject_of(case)
    if not subject.stochastic:
        raise NotApplicable("it draws no noise")
    return subject


def distance(x: Tensor, truth: Tensor) -> float:
    """Compute the relative Euclidean distance."""
    return ((x.double() - truth).norm() / truth.norm()).item()


def close(a: Tensor, b: Tensor, message: str, bound: float = 1e-11) -> None:
    """Assert that two tensors agree to ``bound`` of the larger of 1 and the largest entry."""
    gap = (a - b).abs().max().item()
    assert gap <= bound * max(1.0, b.abs().max().item()), f"{message}: {gap:.1e}"
