"""Work on a Ray cluster: the one that ``RAY_ADDRESS`` names, or a new one on this machine."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowsamplers._accepted import missing
from flowsamplers._devices import digest
from flowsamplers.evaluated import RowVelocity, chunks
from flowsamplers.profiling import Profile, part
from flowsamplers.study.cost import Meter

ATTEMPTS = 3
"""Number of attempts for a task whose worker dies."""
PATHS = 4
"""Number of paths that a worker follows at once."""


class Task(NamedTuple):
    """One call of a worker's ``measure``.

    Attributes:
        arguments: its arguments, or references to them in Ray's store.
        of: the caller's own note.
    """

    arguments: tuple[Any, ...]
    of: Any


def ray_here() -> Any:
    """Ray, with a running cluster.

    Raises:
        ImportError: Ray is not installed.
    """
    if find_spec("ray") is None:
        raise missing("engine='ray' needs", "ray", "ray")
    ray = import_module("ray")
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    return ray


def done_by_workers(
    worker: type, made_of: tuple[Any, ...], tasks: Iterable[Task], before: Callable[[], None]
) -> Iterator[tuple[Task, Any]]:
    """Give tasks to workers, one for each GPU or core; Ray replaces a worker that dies, and repeats its task.

    Args:
        worker: class with a method ``measure``; each process makes one.
        made_of: its arguments.
        tasks: the tasks.
        before: called before each task is given to a worker; it may raise to stop.

    Yields:
        Each task when it ends, with what ``measure`` returned. If its workers died `ATTEMPTS` times, it comes with Ray's error.
    """
    ray, pending, running = ray_here(), deque(tasks), dict[Any, tuple[Any, Task]]()
    resources = ray.cluster_resources()
    needs = {"num_gpus": 1} if resources.get("GPU", 0) >= 1 else {"num_cpus": 1}
    remote = ray.remote(max_restarts=-1, max_task_retries=ATTEMPTS - 1, **needs)(worker)
    size = int(resources.get("GPU", 0) or resources.get("CPU", 1)) or 1
    idle = [remote.remote(*made_of) for _ in range(min(size, len(pending)))]
    try:
        while pending or running:
            while pending and idle:
                before()
                free, task = idle.pop(), pending.popleft()
                running[free.measure.remote(*task.arguments)] = free, task
            (ended,), _ = ray.wait(list(running), num_returns=1)
            free, task = running.pop(ended)
            idle.append(free)
            try:
                found = ray.get(ended)
            except ray.exceptions.RayActorError as error:
                found = error
            yield task, found
    finally:
        for each in [*idle, *(free for free, _ in running.values())]:
            ray.kill(each)


class PathWorker:
    """A worker process with an open model, which follows paths.

    Args:
        opened: opens the model.
    """

    def __init__(self, opened: Callable[[], Any]) -> None:
        torch.set_num_threads(1)
        self.meter = Meter(opened())

    def measure(
        self, x1: Tensor, condition: Sequence[Any] | None, sigmas: tuple[float, ...], about: Mapping[str, Any]
    ) -> tuple[Profile, Tensor, int]:
        """Follow the paths of some rows; return their profile, their ends and the number of model calls."""
        before = self.meter.calls
        found = part(RowVelocity(self.meter, x1.dtype, condition), x1, slice(0, len(x1)), sigmas, about)
        return *found, self.meter.calls - before


@dataclass(frozen=True)
class OnRay:
    """Measures the profile of a flow on a Ray cluster; see `flowsamplers.profiling.Parts`.

    Attributes:
        opened: opens the model, in each worker.
        meter: counts the workers' evaluations.
    """

    opened: Callable[[], Any]
    meter: Meter

    def __call__(
        self, velocity: RowVelocity, x1: Tensor, batches: Iterable[slice], sigmas: tuple[float, ...], about: Mapping[str, Any]
    ) -> Iterator[tuple[Profile, Tensor]]:
        """Profile and ends of each batch of rows, in order.

        Raises:
            BudgetSpent: the budget's time is over.
            RuntimeError: the workers of some rows died `ATTEMPTS` times.
        """
        shares = [(rows, list(chunks(rows.stop, PATHS, rows.start))) for rows in batches]
        given, arrived = velocity.condition, dict[int, tuple[Profile, Tensor]]()
        tasks = [Task((x1[some], given and given[some], sigmas, about), some.start) for _, each in shares for some in each]
        done = done_by_workers(PathWorker, (self.opened,), tasks, self.meter.check_time)
        for rows, each in shares:
            while any(some.start not in arrived for some in each):
                task, found = next(done)
                if isinstance(found, Exception):
                    raise RuntimeError(f"the workers of some paths died {ATTEMPTS} times") from found
                profile, end, calls = found
                self.meter.credit(profile.evaluations, calls)
                if velocity.on_call is not None:
                    velocity.on_call(profile.evaluations)
                arrived[task.of] = profile, end
            profiles, ends = zip(*(arrived.pop(some.start) for some in each), strict=True)
            yield replace(reduce(Profile.merge, profiles), seen=digest(x1[rows])), torch.cat(ends)
