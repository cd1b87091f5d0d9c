"""The references of a study, stored by content in safetensors files, so that studies can share them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowsamplers._devices import digest
from flowsamplers.engine import carry_dtype, integrate
from flowsamplers.grid import SigmaGrid
from flowsamplers.lockstep import Task, run_tasks
from flowsamplers.reference import Path as Trajectory
from flowsamplers.reference import dithered, relative_error, solve
from flowsamplers.registry import get_sampler
from flowsamplers.sampler import steps_of
from flowsamplers.study.store import write_atomically

DITHER_STEPS = 16
"""Steps of the two midpoint-rule runs whose distance is the noise floor: 32 evaluations each."""
NUMBERS = ("error", "noise_floor", "evaluations", "steps", "method")
"""The metadata of a file, beside its tensors."""


@dataclass(frozen=True)
class Truth:
    """A prompt and noise with their reference solution.

    Attributes:
        prompt: the prompt.
        seed: seed of the noise.
        x1: the noise, ``(1, ...)``, in the network's dtype.
        x0: the solution, ``(1, ...)``, in float64.
        error: estimated relative error of the solution.
        noise_floor: relative distance of two runs whose evaluations differ by rounding.
        first: the velocity at the noise, which identifies the model.
        evaluations: number of evaluations that were used.
        steps: number of steps of the finest run.
        method: name of the method.
        path: the trajectory, if it was kept.
    """

    prompt: str | None
    seed: int
    x1: Tensor
    x0: Tensor
    error: float
    noise_floor: float
    first: Tensor
    evaluations: int
    steps: int
    method: str
    path: Trajectory | None = None


def key(flow: Mapping[str, Any], prompt: str | None, x1: Tensor, evaluations: int) -> str:
    """Compute the file name of a reference: a digest of the model, the prompt, the noise, and the budget.

    Args:
        flow: the model's description: name, revision, size, guidance, dtype, versions.
        prompt: the prompt.
        x1: the noise.
        evaluations: budget of the reference.
    """
    return hashlib.sha256(json.dumps([flow, prompt, digest(x1), evaluations], sort_keys=True).encode()).hexdigest()[:32]


def truths(
    flow: Any,
    described: Mapping[str, Any],
    cases: Sequence[tuple[str | None, int]],
    folder: Path,
    *,
    evaluations: int,
    max_batch: int,
    chunk: int,
) -> list[Truth]:
    """Load the reference of every case from a folder, or solve it and store it there; keep the trajectory of the first.

    Args:
        flow: the model.
        described: the model's description.
        cases: prompts and seeds.
        folder: folder of the files.
        evaluations: budget of each reference.
        max_batch: largest number of rows in one model call.
        chunk: number of cases that are solved and stored at once.

    Raises:
        ImportError: safetensors is not installed.
        ValueError: a file is no reference, or belongs to another model.
    """
    starts = [flow.noise([seed]) for _, seed in cases]
    names = [key(described, prompt, x1, evaluations) for (prompt, _), x1 in zip(cases, starts, strict=True)]
    files = [folder / f"{name}.safetensors" for name in names]
    found = {i: read(file, *cases[i], starts[i]) for i, file in enumerate(files) if file.exists()}
    if 0 in found and found[0].path is None:  # another study did not need its trajectory
        del found[0]
    _recognise(flow, [*found.values()], max_batch, folder)
    missing = [i for i in range(len(cases)) if i not in found]
    for lo in range(0, len(missing), chunk):
        some = missing[lo : lo + chunk]
        solved = _solved(flow, [cases[i] for i in some], torch.cat([starts[i] for i in some]), evaluations, max_batch)
        for i, truth in zip(some, solved, strict=True):
            write(files[i], truth, {"model": described, "prompt": truth.prompt, "seed": truth.seed})
            found[i] = truth
    return [found[i] for i in range(len(cases))]


def _solved(flow: Any, cases: Sequence[tuple[str | None, int]], x1: Tensor, evaluations: int, max_batch: int) -> list[Truth]:
    conditions = [prompt for prompt, _ in cases]
    reference = solve(flow, x1, condition=conditions, max_evaluations=evaluations, max_batch=max_batch, follow=0)
    floors = noise_floors(flow, x1, conditions, max_batch)
    first = _first_velocity(flow, x1, conditions)
    common = reference.evaluations, reference.steps, reference.method
    rows = zip(x1.split(1), reference.x0.split(1), reference.error.tolist(), floors, first.split(1), strict=True)
    return [
        Truth(*cases[i], noise, x0, error, floor, v, *common, path=None if i else reference.path)
        for i, (noise, x0, error, floor, v) in enumerate(rows)
    ]


def _first_velocity(flow: Any, x1: Tensor, conditions: Sequence[Any]) -> Tensor:
    return flow.velocity(x1.clone(), x1.new_ones(len(x1), dtype=carry_dtype(x1)), conditions).clone()


def noise_floors(flow: Any, x1: Tensor, conditions: Sequence[Any], max_batch: int) -> list[float]:
    r"""Measure how far rounding inside the model moves a result: the distance of two runs with differently rounded points.

    One run evaluates at its points $x$, the other at $x (1 + \epsilon u)$, with the eps of the network's dtype and u uniform in
    $\pm\tfrac12$. If the model gets the time in its own dtype, sigma is changed in the same way. Kernels that are not deterministic add
    to the distance. Errors below this distance cannot be distinguished.

    Args:
        flow: the model.
        x1: the noises, ``(rows, ...)``, in the network's dtype.
        conditions: one condition for each row.
        max_batch: largest number of rows in one model call.

    Returns:
        One relative distance for each row.
    """
    eps = torch.finfo(x1.dtype).eps
    time = eps if flow.describe().get("full_time") is False else torch.finfo(carry_dtype(x1)).eps
    grid = SigmaGrid([1.0 - i / DITHER_STEPS for i in range(DITHER_STEPS)] + [0.0])

    def start(i: int, size: float) -> Any:
        work = integrate(get_sampler("midpoint"), x1[i : i + 1].to(carry_dtype(x1)), steps_of(grid))
        return dithered(work, size, time, torch.Generator().manual_seed(i)) if size else work

    tasks = [Task(partial(start, i, size), c) for size in (0.0, eps) for i, c in enumerate(conditions)]
    outs: dict[int, Tensor] = {}
    run_tasks(flow, tasks, outs.__setitem__, dtype=x1.dtype, max_batch=max_batch)
    return [relative_error(outs[len(x1) + i], outs[i]).item() for i in range(len(x1))]


def evaluations_at_most(evaluations: int) -> int:
    """Bound the evaluations for one case: the reference, the noise floor, the first velocity."""
    return evaluations + 4 * DITHER_STEPS + 1


def _recognise(flow: Any, found: Sequence[Truth], max_batch: int, folder: Path) -> None:
    """Make sure that references from files are of this very model: its first velocity is theirs, but for rounding."""
    for lo in range(0, len(found), max_batch):
        some = found[lo : lo + max_batch]
        x1 = torch.cat([t.x1 for t in some])
        first = _first_velocity(flow, x1, [t.prompt for t in some])
        off = relative_error(first, torch.cat([t.first for t in some]).to(first.device))
        allowed = min(256 * torch.finfo(x1.dtype).eps, 0.03)
        if not bool((off <= allowed).all()):
            worst = off.max().item()
            raise ValueError(
                f"{folder}: these references are of another model: its first velocity differs by {worst:.0e}; "
                "choose another folder for the references"
            )


def write(file: Path, truth: Truth, about: Mapping[str, Any]) -> None:
    """Write a reference into a file."""
    from safetensors.torch import save  # noqa: PLC0415  (an extra)

    tensors = {"x1": truth.x1, "x0": truth.x0, "first": truth.first}
    if truth.path is not None:
        sigmas = torch.tensor(truth.path.sigmas, dtype=torch.float64)
        tensors |= {"sigmas": sigmas, "states": truth.path.states, "velocities": truth.path.velocities}
    numbers = {k: getattr(truth, k) for k in NUMBERS}
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    metadata = {"flowsamplers": json.dumps({**about, **numbers, "digest": _digest(numbers, tensors)})}
    write_atomically(file, save(tensors, metadata))


def _digest(numbers: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """What tells that a file is as it was written."""
    content = {**numbers, **{name: digest(x) for name, x in tensors.items()}}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read(file: Path, prompt: str | None, seed: int, x1: Tensor) -> Truth:
    """Read a reference from a file, to the device of ``x1``.

    Raises:
        ValueError: the file is no reference for this noise.
    """
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415  (an extra)

    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            about = json.loads(opened.metadata()["flowsamplers"])
            kept = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        numbers = {k: about[k] for k in NUMBERS}
        if about["digest"] != _digest(numbers, kept):
            raise ValueError("it is not as it was written")
        t = {name: x.to(x1.device) for name, x in kept.items()}
        if not torch.equal(t["x1"], x1):
            raise ValueError("it is of another noise")
        path = Trajectory(tuple(t["sigmas"].tolist()), t["states"], t["velocities"]) if "sigmas" in t else None
        return Truth(prompt, seed, x1, t["x0"], first=t["first"], path=path, **numbers)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: not a reference of this study ({error}); move it away to have it solved again") from error
