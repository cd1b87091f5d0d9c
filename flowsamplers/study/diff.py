"""Two studies side by side: what differs by more than either can tell."""

from __future__ import annotations

from dataclasses import dataclass

from flowsamplers.study.results import Interval, Results, bootstrap
from flowsamplers.study.rows import Row

Case = tuple[str, str, int]


@dataclass(frozen=True)
class Difference:
    """One sampler at one number of evaluations in two studies.

    Attributes:
        label: the sampler.
        steps: N.
        nfe: evaluations.
        ratio: error in the second study over that in the first, from the same prompts and seeds, with its interval.
        differs: whether the ratio is clear of 1 and the errors differ by more than the references' own errors and the noise floors.
    """

    label: str
    steps: int
    nfe: int
    ratio: Interval
    differs: bool


@dataclass(frozen=True)
class Diff:
    """What two studies say of the same runs.

    Attributes:
        common: one entry for each sampler and number of steps that both have.
        only_first: runs that only the first has.
        only_second: runs that only the second has.
        failed: runs that failed in one of them only.
    """

    common: list[Difference]
    only_first: int
    only_second: int
    failed: int

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not (self.failed or any(d.differs for d in self.common))

    def lines(self) -> list[str]:
        """For the terminal, in at most 80 columns."""
        worse = [d for d in self.common if d.differs]
        lines = [f"{len(self.common)} samplers and step counts in both, {len(worse)} differ by more than the uncertainty"]
        if worse:
            lines.append(f"{'sampler':<28}{'steps':>6}{'calls':>6}  error of the second over the first")
            lines += [f"{d.label:<28}{d.steps:>6}{d.nfe:>6}  {d.ratio}" for d in worse]
        if self.failed:
            lines.append(f"{self.failed} runs failed in one of them only")
        if self.only_first or self.only_second:
            lines.append(f"not compared: {self.only_first} runs that only the first has, {self.only_second} only the second")
        return lines


def diff(first: Results, second: Results) -> Diff:
    """Compare two studies run by run.

    Args:
        first: the one, say of before.
        second: the other, say of after; it may be of another version, device or dtype.

    Raises:
        ValueError: they have no run in common.
    """
    sides = [{r.key[1:]: r for r in results.rows} for results in (first, second)]
    both = [k for k in sides[0] if k in sides[1]]
    if not both:
        raise ValueError("the two studies have no run in common: other samplers, steps, schedules, prompts or seeds")
    groups: dict[tuple[str, int], list[tuple[Row, Row]]] = {}
    failed = 0
    for k in both:
        a, b = sides[0][k], sides[1][k]
        if a.status == b.status == "ok":
            groups.setdefault((a.label, a.steps), []).append((a, b))
        failed += a.status != b.status
    common = [_difference(*key, pairs) for key, pairs in groups.items()]
    return Diff(common, len(sides[0]) - len(both), len(sides[1]) - len(both), failed)


def _difference(label: str, steps: int, pairs: list[tuple[Row, Row]]) -> Difference:
    ratio = bootstrap([b.error / a.error if a.error else float("inf") for a, b in pairs])
    clear = any(abs(a.error - b.error) > _uncertainty(a) + _uncertainty(b) for a, b in pairs)
    return Difference(label, steps, pairs[0][0].nfe, ratio, clear and not ratio.low <= 1 <= ratio.high)


def _uncertainty(row: Row) -> float:
    """How far a row's error may be off."""
    return row.reference_error + row.noise_floor
