"""Laws of the order of convergence."""

from __future__ import annotations

import math

from flowsamplers.flows import MixtureFlow
from flowsamplers.grid import SigmaGrid
from flowsamplers.orders import order as judge
from flowsamplers.testing.fields import between, smooth, solution, start_at
from flowsamplers.testing.laws.common import Case, NotApplicable, distance, steady, without_noise

__all__ = ["order_holds_on_alternating_steps", "order_is_the_declared_one", "there_and_back_meet_to_the_order"]


def order_is_the_declared_one(case: Case, tolerance: float = 0.2) -> None:
    r"""The global error falls like $h^p$: in a detected window, the slope equals the declared order within the tolerance.

    It is measured on a nonlinear velocity field that scipy's DOP853 solves to rounding. The grids are uniform and inside (0, 1),
    where every interpolation variable is regular.

    Reference:
        Hairer, Norsett, Wanner I, II.3.
    """
    subject = steady(without_noise(case))
    start, end = 0.95, 0.05
    x, truth = start_at(), solution(start, end)
    steps = [16, 32, 64] if subject.order > 4 else [32, 64, 128]
    errors = [distance(subject.run(smooth, x, between(start, end, n)), truth) for n in steps]
    seen = math.nan
    while True:
        seen = judge(steps[-3:], errors[-3:], declared=subject.order, floor=1e-14).order or seen
        off = seen - subject.order
        if abs(off) <= tolerance or steps[-1] >= (2048 if off > 0 else 512):  # one rough step at the start shows late
            break
        steps.append(2 * steps[-1])
        errors.append(distance(subject.run(smooth, x, between(start, end, steps[-1])), truth))
    measured = f"{subject.name} declares order {subject.order}; measured {seen:.2f}, errors {errors} at {steps} steps"
    assert off >= -tolerance, measured
    assert off <= tolerance, f"{measured}: declare what it delivers"


def order_holds_on_alternating_steps(case: Case, tolerance: float = 0.3) -> None:
    r"""The order also holds on steps that alternate between h and 2h.

    Reference:
        Hairer, Norsett, Wanner I, III.5.
    """
    subject = steady(without_noise(case))
    if subject.sampler is not None and not subject.sampler.any_steps:
        raise NotApplicable("it declares to take its steps for equal")
    start, end = 0.95, 0.05
    x, truth, errors, slope = start_at(), solution(start, end), list[float](), 0.0
    for n in (32, 64, 128, 256):  # the finest decides where the one before is too coarse
        lengths = [1 + i % 2 for i in range(n)]
        nodes = [start + (end - start) * sum(lengths[:i]) / sum(lengths) for i in range(n)]
        errors.append(distance(subject.run(smooth, x, SigmaGrid([*nodes, end])), truth))
        slope = math.log2(errors[-3] / errors[-1]) / 2 if errors[2:] and errors[-1] >= 1e-12 else math.inf
        if errors[2:] and slope >= subject.order - tolerance:
            return
    raise AssertionError(f"{subject.name}: slope {slope:.2f} on alternating steps, order is {subject.order}")


def there_and_back_meet_to_the_order(case: Case) -> None:
    r"""After a run down a grid and up again, the distance to the start falls at least like $h^p$.

    Both runs have order p, so together they are the identity up to $O(h^p)$. A symmetric method returns to the start up to rounding.

    Reference:
        Hairer, Lubich, Wanner, Geometric Numerical Integration (2006), II.3 (the adjoint method).
    """
    subject = steady(without_noise(case))
    flow, gaps, slope = MixtureFlow.four_gaussians(), list[float](), 0.0
    x = flow.noise([0, 1])
    for n in (32, 64, 128):  # the finest decides where the one before is too coarse
        grid = between(0.95, 0.1, n)
        there = subject.run(flow.velocity, x, grid)
        gaps.append(distance(subject.run(flow.velocity, there, grid.reversed()), x))
        slope = math.log2(gaps[-2] / gaps[-1]) if gaps[1:] and gaps[-1] >= 1e-12 else math.inf
        if gaps[1:] and slope >= subject.order - 0.4:
            return
    raise AssertionError(f"{subject.name}: the way back closes with slope {slope:.2f}, order is {subject.order}")
