"""Run a study's jobs on one machine, and measure each when it ends."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from flowsamplers.engine import Work, carry_dtype, dry_run, integrate
from flowsamplers.lockstep import Task, run_tasks
from flowsamplers.reference import Path, relative_error
from flowsamplers.registry import METRICS, to_config
from flowsamplers.sampler import Sampler, Step, steps_of
from flowsamplers.study.cost import Meter
from flowsamplers.study.distances import NOTHING, Errors, psnr, ssim
from flowsamplers.study.rows import Key, Row, changed_options, key
from flowsamplers.study.truth import Truth

if TYPE_CHECKING:
    from flowsamplers.study.plan import Planned, Study

NOT_FINITE = "the result is not finite"
"""Message of a run whose result is not finite: the only failure that the next call does not try again."""


class Job(NamedTuple):
    """One run of a study: a sampler, a prompt and a noise."""

    planned: Planned
    truth: Truth


class Ended(NamedTuple):
    """A finished job: its row; for a run from the first noise also its image as PNG."""

    row: Row
    picture: bytes | None


@dataclass
class Bench:
    """A study with an open model and loaded references.

    Args:
        study: the study.
        flow: its model, metered.
        seconds: seconds for one evaluation of one row on its own.
        origin: device, dtype and versions, for the rows.
    """

    study: Study
    flow: Meter
    seconds: float
    origin: dict[str, Any]
    _images: dict[tuple[str | None, int], Tensor | None] = field(
        default_factory=dict[tuple["str | None", int], "Tensor | None"]
    )

    def measure(self, jobs: Sequence[Job], on_end: Callable[[Ended], None]) -> None:
        """Run jobs in shared batches; a job that fails becomes a row with the status ``"failed"``.

        Args:
            jobs: the jobs, in the order in which they begin.
            on_end: called with each job when it ends.
        """
        if not jobs:
            return
        run_tasks(
            self.flow,
            [Task(partial(self._work, job), job.truth.prompt) for job in jobs],
            lambda i, result: on_end(self._ended(jobs[i], *result)),
            dtype=jobs[0].truth.x1.dtype,
            max_batch=self.study.max_batch,
            window=self.study.window,
            on_error=lambda i, error: on_end(self.failed(jobs[i], _reason(error))),
        )

    def failed(self, job: Job, reason: str) -> Ended:
        """Make the row of a job that failed."""
        return Ended(self._row(job, NOTHING, status="failed", message=reason), None)

    def _work(self, job: Job) -> Work:
        """The run; from the first noise, its errors on the way and those of its single steps."""
        sampler, grid, path = job.planned.sampler, job.planned.grid, job.truth.path
        x = job.truth.x1.to(carry_dtype(job.truth.x1))
        if path is None:
            return (yield from integrate(sampler, x, steps_of(grid))), {}
        errors, local = list[float](), None
        x0 = yield from integrate(
            sampler, x, steps_of(grid), lambda end: errors.append(relative_error(end.x, path(end.sigma)).item())
        )
        if job.planned.nfe <= self.study.local_nfe:
            local = yield from local_errors(sampler, path, steps_of(grid), x.dtype)
        return x0, {"trajectory": errors, "local_errors": local}

    def _ended(self, job: Job, end: Tensor, followed: Mapping[str, Any]) -> Ended:
        x0 = end.to(job.truth.x1.dtype)
        if not bool(torch.isfinite(x0).all()):
            return self.failed(job, NOT_FINITE)
        image, compared = self._compared(x0, job.truth)
        row = self._row(job, Errors.of(end, job.truth.x0), **followed, **compared)
        return Ended(row, None if image is None or job.truth.path is None else png(image))

    def _compared(self, x0: Tensor, truth: Truth) -> tuple[Tensor | None, dict[str, Any]]:
        """The image of a result, and how it compares with the reference's, as columns of a row."""
        image, metrics = None, dict[str, float]()
        found: dict[str, Any] = {}
        try:
            image = self._image(x0)
            true = self.truth_image(truth)
            if image is not None and true is not None:
                found |= {"psnr": psnr(image, true), "ssim": ssim(image, true), "metrics": metrics}
                for name in self.study.metrics:
                    metrics[name] = math.nan
                    metrics[name] = float(METRICS.find(name).target(image, true))
        except Exception as error:
            found["message"] = f"{'metric ' + [*metrics][-1] if metrics else 'no picture'}: {_reason(error)}"
        return image, found

    def truth_image(self, truth: Truth) -> Tensor | None:
        """Decode the image of a reference; None if the model makes no images."""
        case = truth.prompt, truth.seed
        if case not in self._images:
            self._images[case] = self._image(truth.x0.to(truth.x1.dtype))
        return self._images[case]

    def _image(self, x0: Tensor) -> Tensor | None:
        return self.flow.decode(x0, "pt")[0].float().cpu() if hasattr(self.flow, "decode") else None

    def _row(self, job: Job, errors: Errors, **more: Any) -> Row:
        planned, truth = job
        measured: dict[str, Any] = {"psnr": math.nan, "ssim": math.nan, **more}
        return Row(
            **identity(self.study, planned, truth.prompt, truth.seed),
            **asdict(errors),
            **self.origin,
            nfe=planned.nfe,
            forward_passes=forward_passes(self.flow, (call.sigma for call in dry_run(planned.sampler, planned.grid))),
            h_max=max(abs(h) for h in planned.grid.dt),
            seconds=planned.nfe * self.seconds,
            reference_error=truth.error,
            noise_floor=truth.noise_floor,
            floored=errors.error < 10 * truth.error,
            **measured,
        )


def identity(study: Study, planned: Planned, prompt: str | None, seed: int) -> dict[str, Any]:
    """Return the values that identify a row, see `Row.key`."""
    return {
        "model": study.model,
        "prompt": prompt or "",
        "seed": seed,
        "sampler": to_config(planned.sampler)["name"],
        "options": changed_options(planned.sampler),
        "schedule": study.schedule,
        "schedule_options": planned.schedule_options,
        "steps": planned.grid.steps,
    }


Wanted: TypeAlias = "tuple[Planned, tuple[str | None, int]]"
"""A run, with the prompt and the seed from which it is made."""


def runs_by_key(study: Study, tokens: int) -> dict[Key, Wanted]:
    """List all runs of a study from all noises by the keys of their rows, cheap runs first."""
    planned = sorted(study.runs(tokens), key=lambda p: p.nfe)
    return {key(identity(study, p, *case)): (p, case) for p in planned for case in study.cases}


def png(image: Tensor) -> bytes:
    """Encode an image ``(channels, height, width)`` with values in [0, 1] as PNG."""
    from PIL import Image  # noqa: PLC0415  (an extra)

    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    out = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(out, format="PNG")
    return out.getvalue()


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def forward_passes(flow: Any, sigmas: Iterable[float]) -> int:
    """Count the forward passes for evaluations of one row; they differ if guidance acts only between two sigmas.

    Args:
        flow: a flow with ``passes(sigma)`` or ``passes_per_evaluation``.
        sigmas: noise levels of the evaluations.
    """
    passes = getattr(flow, "passes", lambda sigma: flow.passes_per_evaluation)
    return sum(map(passes, sigmas))


def local_errors(sampler: Sampler, path: Path, steps: Iterable[Step], dtype: torch.dtype) -> Work:
    """Compute the relative error that each step makes by itself: every step starts on the exact path, with exact earlier velocities."""
    state = sampler.init(path(1.0).to(dtype))
    errors: list[float] = []
    for at in steps:
        x, state = yield from sampler.step(path(at.s0).to(dtype), at, state)
        errors.append(relative_error(x, path(at.s1)).item())
    return errors
