"""Run or continue a study: first the references, then all runs, here or on a Ray cluster; every row is saved when finished."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch

from flowsamplers._accepted import missing
from flowsamplers.study import plots, report
from flowsamplers.study.bench import NOT_FINITE, Bench, Ended, Job, Wanted, png, runs_by_key
from flowsamplers.study.cluster import ATTEMPTS, Task, done_by_workers, ray_here
from flowsamplers.study.cost import Budget, BudgetSpent, Meter, Probe, probe
from flowsamplers.study.results import Results, load
from flowsamplers.study.rows import Key, Row, to_csv
from flowsamplers.study.store import GROWING, IMAGES, PROBE, TABLE, Store, check_writable, read_settings, write_atomically
from flowsamplers.study.truth import Truth, evaluations_at_most, truths

if TYPE_CHECKING:
    from flowsamplers.study.plan import Planned, Study

Progress: TypeAlias = Callable[[str, int, int], None]
"""A callback ``progress(stage, done, total)``, in evaluations; ``total`` is an upper bound."""

Engine: TypeAlias = Literal["local", "ray"]
"""The place of the runs: ``"local"`` in this process, or ``"ray"`` on a Ray cluster."""

FLUSH = 0.25
"""Longest time in seconds before finished rows are saved."""


def run(
    study: Study,
    folder: Path,
    *,
    engine: Engine = "local",
    budget: Budget | None = None,
    references: Path,
    progress: Progress | None = None,
) -> Results:
    """Run the missing part of a study, and write rows, figures and the report into a folder.

    Args:
        study: the study.
        folder: folder for ``study.json``, ``rows.jsonl``, ``rows.csv``, figures and ``report.html``; it is created if missing. If it
            holds a part of this study, only the missing runs are made; samplers and numbers of calls may be added. Failed runs are
            repeated, unless their result was not finite.
        engine: ``"local"``, or ``"ray"`` for a Ray cluster.
        budget: limit of this call; the next call runs what is then missing.
        references: folder of the references; studies of one model may share it.
        progress: called after every model call.

    Returns:
        The results of everything in the folder.

    Raises:
        OSError: one of the folders cannot be written; this is checked before anything is computed.
        ValueError: the folder holds something else, another study, or a damaged file; or the budget ends before the first row.
        ImportError: an optional package is missing.
    """
    _check_available(engine)
    store = Store(folder)
    store.check_free(study.settings())
    if references.exists() or folder not in references.parents:  # else it is made where the store has just written
        check_writable(references)
    flow = study.open()
    if study.metrics and not hasattr(flow, "decode"):
        raise ValueError(f"metrics={list(study.metrics)}: they compare images, and {study.model} makes none")
    wanted = runs_by_key(study, flow.tokens)  # before the folder is taken: it may refuse an option
    try:
        store.claim(study.settings())
        stopped = _Session(study, store, Meter(flow, budget), progress).go(wanted, engine, references)
    finally:
        store.close()
    results = load(folder)
    if not results.rows:
        raise ValueError(f"budget={stopped}: it ended before the first row; what was solved is kept, run it again to go on")
    write_atomically(folder / TABLE, to_csv(results.rows))
    report.write(results, folder)
    return results


def _check_available(engine: Engine) -> None:
    plots.check_available()
    if find_spec("safetensors") is None:
        raise missing("references need", "safetensors", "study")
    if engine not in ("local", "ray"):
        raise ValueError(f"engine={engine!r}: accepted are 'local' and 'ray'")
    if engine == "ray":
        ray_here()


@dataclass
class _Session:
    """One sitting of a study."""

    study: Study
    store: Store
    flow: Meter
    progress: Progress | None
    waiting: list[Row] = field(default_factory=list[Row])
    flushed: float = 0.0
    ended: int = 0

    def go(self, wanted: Mapping[Key, Wanted], engine: Engine, references: Path) -> str:
        """Do what is missing; why it stopped early, or nothing."""
        rows = self.store.rows()
        union = self.study.with_earlier(read_settings(self.store.folder))
        self.store.check(rows, runs_by_key(union, self.flow.tokens))
        origin = provenance(self.flow.flow)
        self.store.describe(origin)
        settings = union.settings()
        self.store.note({"tokens": self.flow.tokens, **{k: settings[k] for k in GROWING}})
        done = {row.key for row in rows if row.status == "ok" or row.message == NOT_FINITE}
        missing = [each for key, each in wanted.items() if key not in done]
        stopped = ""
        try:
            if missing:
                self._work(missing, engine, references, origin)
        except BudgetSpent as spent:
            stopped = str(spent)
        finally:
            self._flush()
            if self.flow.rows:
                cost = {"evaluations": self.flow.rows, "model_calls": self.flow.calls, "seconds": round(self.flow.seconds, 3)}
                self.store.log({"rows": self.ended, **cost, "engine": engine, "stopped": stopped})
        return stopped

    def _work(self, missing: Sequence[Wanted], engine: Engine, references: Path, origin: Mapping[str, Any]) -> None:
        measured = self._probe(len(missing))
        found = self._truths(references, measured)
        about = {
            "method": found[0].method,
            "steps": max(t.steps for t in found),
            "evaluations": max(t.evaluations for t in found),
            "error": [t.error for t in found],
            "noise_floor": [t.noise_floor for t in found],
        }
        self.store.note({"reference": about})
        bench = Bench(self.study, self.flow, measured.solo, origin_of_rows(self.flow.flow, origin))
        image = bench.truth_image(found[0])
        if image is not None:
            write_atomically(self.store.folder / IMAGES / "reference.png", png(image))
        solved = dict(zip(self.study.cases, found, strict=True))
        jobs = self._affordable([Job(planned, solved[case]) for planned, case in missing], measured)
        self._begin("runs", sum(map(self._cost, jobs)))
        if engine == "ray":
            measure_on_ray(bench, jobs, self._end)
        else:
            bench.measure(jobs, self._end)
        if len(jobs) < len(missing):
            raise BudgetSpent(str(self.flow.budget))

    def _begin(self, stage: str, total: int) -> None:
        """Report all model calls from now on as those of a stage."""
        before = self.flow.rows
        self.flow.on_call = lambda _: self.progress and self.progress(stage, self.flow.rows - before, total)

    def _probe(self, rows: int) -> Probe:
        """The times of this machine, measured once for a study."""
        path = self.store.folder / PROBE
        if path.exists():
            with suppress(ValueError, TypeError):  # a broken one is measured again
                return Probe(**json.loads(path.read_text()))
        measured = probe(self.flow, self.study.prompts[0], min(self.study.max_batch, rows))
        write_atomically(path, json.dumps(asdict(measured), indent=2) + "\n")
        return measured

    def _truths(self, references: Path, measured: Probe) -> list[Truth]:
        study, most = self.study, evaluations_at_most(self.study.reference_evaluations)
        self._begin("reference", most * len(study.cases))
        room = int(min(study.max_batch, self.flow.left(measured.batched) / most))
        return truths(
            self.flow,
            self.flow.describe(),
            study.cases,
            references,
            evaluations=study.reference_evaluations,
            max_batch=study.max_batch,
            chunk=max(1, room),
        )

    def _affordable(self, jobs: Sequence[Job], measured: Probe) -> list[Job]:
        """As many jobs, from the cheapest, as the budget has room for."""
        left, costs = self.flow.left(measured.batched), accumulate(map(self._cost, jobs))
        return [job for job, cost in zip(jobs, costs, strict=True) if cost <= left]

    def _cost(self, job: Job) -> int:
        """Evaluations at most."""
        local = job.truth.path is not None and job.planned.nfe <= self.study.local_nfe
        return job.planned.nfe * (2 if local else 1)

    def _end(self, ended: Ended) -> None:
        if ended.picture is not None:
            write_atomically(self.store.folder / IMAGES / f"{ended.row.label}-{ended.row.nfe}.png", ended.picture)
        self.waiting.append(ended.row)
        self.ended += 1
        if time.monotonic() - self.flushed > FLUSH:
            self._flush()

    def _flush(self) -> None:
        rows, self.waiting = self.waiting, []  # first: rows of an interrupted append are never written twice
        if rows:
            self.store.append(rows)
            self.flushed = time.monotonic()


def provenance(flow: Any) -> dict[str, Any]:
    """Describe model, versions and machine."""
    weights = weights_digest(flow)
    return {
        "flow": {**flow.describe(), **({} if weights is None else {"weights": weights})},
        "versions": {"flowsamplers": version("flowsamplers"), "torch": torch.__version__, "python": platform.python_version()},
    }


def weights_digest(flow: Any) -> str | None:
    """Compute a digest of all weights and buffers of a flow's networks; None if no network is found.

    Networks may be the flow itself, its attributes, or components of its ``pipe``.
    """
    flow = getattr(flow, "own", flow)
    parts = {**getattr(getattr(flow, "pipe", None), "components", {}), **getattr(flow, "__dict__", {})}
    if isinstance(flow, torch.nn.Module):
        parts = {"": flow}
    digest, found = hashlib.sha256(), False
    for name, part in sorted(parts.items()):
        for key, tensor in part.state_dict().items() if isinstance(part, torch.nn.Module) else ():
            if isinstance(tensor, torch.Tensor) and not tensor.is_meta:
                found = True
                digest.update(f"{name}.{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32] if found else None


def origin_of_rows(flow: Any, origin: Mapping[str, Any]) -> dict[str, Any]:
    """Return device, dtype and versions for the rows."""
    x1 = flow.noise([0])
    versions = ", ".join(f"{k} {v}" for k, v in origin["versions"].items() if k != "python")
    return {"device": str(x1.device), "dtype": str(x1.dtype).removeprefix("torch."), "versions": versions}


SHARD = 16
"""Number of runs that a worker gets at once, all from one noise; they are repeated if the worker dies."""


class Worker:
    """A worker process with an open model.

    Args:
        study: the study.
        seconds: seconds for one evaluation of one row on its own.
        origin: device, dtype and versions, for the rows.
    """

    def __init__(self, study: Study, seconds: float, origin: Mapping[str, Any]) -> None:
        torch.set_num_threads(1)
        self.flow = Meter(study.open())
        self.bench = Bench(study, self.flow, seconds, dict(origin))

    def measure(self, truth: Truth, planned: Sequence[Planned]) -> tuple[list[Ended], int, int]:
        """Run jobs; return how they ended, the number of evaluations, and the number of model calls."""
        before = self.flow.rows, self.flow.calls
        ended: list[Ended] = []
        self.bench.measure([Job(p, truth) for p in planned], ended.append)
        return ended, self.flow.rows - before[0], self.flow.calls - before[1]


def measure_on_ray(bench: Bench, jobs: Sequence[Job], on_end: Callable[[Ended], None]) -> None:
    """Run jobs on a Ray cluster, see `done_by_workers`.

    Runs fail if their workers die `ATTEMPTS` times.

    Args:
        bench: this process's bench; its meter counts the workers' evaluations.
        jobs: the jobs.
        on_end: called with each job when it ends.

    Raises:
        BudgetSpent: the budget's time is over.
        ImportError: Ray is not installed.
    """
    ray, by_truth = ray_here(), dict[int, list[Job]]()
    for job in jobs:
        by_truth.setdefault(id(job.truth), []).append(job)
    tasks = list[Task]()
    for some in by_truth.values():
        truth = ray.put(some[0].truth)
        shards = [some[i : i + SHARD] for i in range(0, len(some), SHARD)]
        tasks += [Task((truth, [job.planned for job in shard]), shard) for shard in shards]
    made_of = (bench.study, bench.seconds, bench.origin)
    for task, found in done_by_workers(Worker, made_of, tasks, bench.flow.check_time):
        if isinstance(found, Exception):
            for job in task.of:
                on_end(bench.failed(job, f"its worker died {ATTEMPTS} times: {type(found).__name__}"))
            continue
        ended, rows, calls = found
        bench.flow.credit(rows, calls)
        for one in ended:
            on_end(one)
