"""The schedule as a value: a validated, strictly monotone list of noise levels."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

NUM_TRAIN_TIMESTEPS = 1000
"""Models of this family are told the time as ``1000 * sigma``."""

_SLACK = 2.0**-20
"""A few float32 ulps at 1: a shift computed in float32 may return 1.0000001 for 1."""


@dataclass(frozen=True, init=False)
class SigmaGrid:
    r"""The nodes $\sigma_0 > \sigma_1 > \dots > \sigma_N$ of a schedule.

    A sampler integrates $dx/d\sigma = v(x, \sigma)$ over them, one step for each interval. ``sigma`` runs
    from 1 (noise) to 0 (data). The nodes are Python floats, so a sampler never waits for a device.

    Args:
        sigmas: N + 1 numbers in [0, 1], at least two of them, strictly falling.
        rising: the nodes must rise strictly instead (inversion: from data to noise).

    Raises:
        ValueError: too few nodes, a node that is not finite or outside [0, 1], or nodes out of order;
            the message names the index and the value.

    Examples:
        >>> grid = SigmaGrid([1.0, 0.75, 0.25, 0.0])
        >>> grid.steps, grid.dt, grid.timesteps
        (3, (-0.25, -0.5, -0.25), (1000.0, 750.0, 250.0))
    """

    sigmas: tuple[float, ...]

    def __init__(self, sigmas: Iterable[float], *, rising: bool = False) -> None:
        nodes = tuple(float(s) for s in sigmas)
        _validate(nodes, rising=rising)
        object.__setattr__(self, "sigmas", nodes)

    @property
    def steps(self) -> int:
        """N, the number of intervals."""
        return len(self.sigmas) - 1

    @property
    def start(self) -> float:
        """The first node."""
        return self.sigmas[0]

    @property
    def end(self) -> float:
        """The last node."""
        return self.sigmas[-1]

    @property
    def rising(self) -> bool:
        """Whether the nodes run from data to noise."""
        return self.end > self.start

    @cached_property
    def dt(self) -> tuple[float, ...]:
        """N signed step lengths ``sigmas[i + 1] - sigmas[i]``; they sum to ``end - start``, -1 for a complete run."""
        return tuple(b - a for a, b in pairwise(self.sigmas))

    @cached_property
    def timesteps(self) -> tuple[float, ...]:
        """N model times ``1000 * sigma``, one for the start of each step."""
        return tuple(NUM_TRAIN_TIMESTEPS * s for s in self.sigmas[:-1])

    def reversed(self) -> SigmaGrid:
        """The same nodes in the opposite direction.

        >>> SigmaGrid([1.0, 0.25, 0.0]).reversed().sigmas
        (0.0, 0.25, 1.0)
        """
        return SigmaGrid(reversed(self.sigmas), rising=not self.rising)

    def refined(self, parts: int) -> SigmaGrid:
        """Every interval cut into ``parts`` equal ones: the same-family grid for a convergence study.

        >>> SigmaGrid([1.0, 0.5, 0.0]).refined(2).sigmas
        (1.0, 0.75, 0.5, 0.25, 0.0)
        """
        if parts < 1:
            raise ValueError(f"parts={parts}: an interval is cut into at least 1 part")
        inner = [a + (b - a) * j / parts for a, b in pairwise(self.sigmas) for j in range(parts)]
        return SigmaGrid([*inner, self.end], rising=self.rising)


def _validate(nodes: tuple[float, ...], *, rising: bool) -> None:
    if len(nodes) < 2:
        raise ValueError(f"sigmas={list(nodes)}: a schedule needs at least 1 step, that is 2 sigmas")
    for i, s in enumerate(nodes):
        if not math.isfinite(s):
            raise ValueError(f"sigmas[{i}]={s}: every sigma must be finite")
        if not -_SLACK <= s <= 1 + _SLACK:
            raise ValueError(
                f"sigmas[{i}]={s}: sigmas lie between 0 (data) and 1 (noise); timesteps are {NUM_TRAIN_TIMESTEPS} * sigma"
            )
    for i, (a, b) in enumerate(pairwise(nodes)):
        if rising and not b > a:
            raise ValueError(f"sigmas[{i}]={a}, sigmas[{i + 1}]={b}: a rising schedule must rise strictly")
        if not rising and not b < a:
            raise ValueError(
                f"sigmas[{i}]={a}, sigmas[{i + 1}]={b}: sigmas must fall strictly (pass rising=True for inversion)"
            )
