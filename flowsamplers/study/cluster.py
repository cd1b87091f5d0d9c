"""The same work spread over a Ray cluster: one worker for each GPU, or for each core where there are none."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from flowsamplers.study.bench import Bench, Ended, Job
from flowsamplers.study.cost import BudgetSpent, Meter
from flowsamplers.study.plan import Planned, Study
from flowsamplers.study.truth import Truth

SHARD = 16
"""Runs that a worker is given at once, all from one noise; so many are done again when it dies."""

ATTEMPTS = 3
"""How often runs are tried whose worker dies."""


@dataclass
class _Shard:
    """Runs from one noise."""

    truth: Any  # a reference to it in Ray's store
    jobs: list[Job]
    attempts: int = 0


class Worker:
    """A process with the model open.

    Args:
        study: what is measured.
        seconds: of one evaluation on its own.
        origin: device, dtype and versions, for the rows.
    """

    def __init__(self, study: Study, seconds: float, origin: Mapping[str, Any]) -> None:
        torch.set_num_threads(1)
        self.flow = Meter(study.open())
        self.bench = Bench(study, self.flow, seconds, dict(origin))

    def measure(self, truth: Truth, planned: Sequence[Planned]) -> tuple[list[Ended], int, int]:
        """How the runs ended, evaluations performed, and model calls."""
        before = self.flow.rows, self.flow.calls
        ended: list[Ended] = []
        self.bench.measure([Job(p, truth) for p in planned], ended.append)
        return ended, self.flow.rows - before[0], self.flow.calls - before[1]


def measure(bench: Bench, jobs: Sequence[Job], on_end: Callable[[Ended], None]) -> None:
    """Run jobs on a Ray cluster, the one that ``RAY_ADDRESS`` names or one made of this machine.

    A worker that dies is replaced, and its runs are done again; runs whose workers die three times fail.

    Args:
        bench: of this process; its meter counts what the workers do.
        jobs: what to run.
        on_end: told of each job when it ends.

    Raises:
        BudgetSpent: the time of the budget is over.
        ImportError: no Ray.
    """
    ray = import_module("ray")
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    _Pool(ray, bench, on_end).run(jobs)


class _Pool:
    """Workers and what they are at."""

    def __init__(self, ray: Any, bench: Bench, on_end: Callable[[Ended], None]) -> None:
        self.ray, self.bench, self.on_end = ray, bench, on_end
        resources = ray.cluster_resources()
        self.kind = {"num_gpus": 1} if resources.get("GPU", 0) >= 1 else {"num_cpus": 1}
        self.size = int(resources.get("GPU", 0) or resources.get("CPU", 1)) or 1
        self.running: dict[Any, tuple[Any, _Shard]] = {}

    def run(self, jobs: Sequence[Job]) -> None:
        pending = deque(self._shards(jobs))
        idle = [self._worker() for _ in range(min(self.size, len(pending)))]
        try:
            while pending or self.running:
                while pending and idle:
                    self._check_budget()
                    worker, shard = idle.pop(), pending.popleft()
                    work = worker.measure.remote(shard.truth, [job.planned for job in shard.jobs])
                    self.running[work] = worker, shard
                (done,), _ = self.ray.wait(list(self.running), num_returns=1)
                worker, shard = self.running.pop(done)
                if self._collected(done, shard):
                    idle.append(worker)
                    continue
                idle.append(self._worker())
                if shard.attempts < ATTEMPTS:
                    pending.appendleft(shard)
        finally:
            for worker in [*idle, *(w for w, _ in self.running.values())]:
                self.ray.kill(worker)

    def _shards(self, jobs: Sequence[Job]) -> list[_Shard]:
        by_truth: dict[int, list[Job]] = {}
        for job in jobs:
            by_truth.setdefault(id(job.truth), []).append(job)
        stored = {k: self.ray.put(some[0].truth) for k, some in by_truth.items()}
        return [_Shard(stored[k], some[i : i + SHARD]) for k, some in by_truth.items() for i in range(0, len(some), SHARD)]

    def _worker(self) -> Any:
        kind = self.ray.remote(**self.kind)(Worker)
        return kind.remote(self.bench.study, self.bench.seconds, self.bench.origin)

    def _collected(self, work: Any, shard: _Shard) -> bool:
        """Take the rows of a shard; whether its worker is alive."""
        try:
            ended, rows, calls = self.ray.get(work)
        except self.ray.exceptions.RayActorError as error:
            shard.attempts += 1
            if shard.attempts == ATTEMPTS:
                for job in shard.jobs:
                    self.on_end(self.bench.failed(job, f"its worker died {ATTEMPTS} times: {type(error).__name__}"))
            return False
        self.bench.flow.credit(rows, calls)
        for one in ended:
            self.on_end(one)
        return True

    def _check_budget(self) -> None:
        limit = self.bench.flow.budget
        if limit.seconds is not None and self.bench.flow.seconds > limit.seconds:
            raise BudgetSpent(str(limit))
