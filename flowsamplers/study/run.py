"""Run a study: one reference, then all runs in lock-step, then rows and pictures."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from flowsamplers.flows.registry import load_flow
from flowsamplers.lockstep import Run, sample_many
from flowsamplers.reference import Reference, relative_error, solve
from flowsamplers.sampler import get_sampler, to_config
from flowsamplers.study.plan import Planned, Study
from flowsamplers.study.results import ROWS, SETTINGS, TABLE, Results, load
from flowsamplers.study.rows import Row, changed_options, check_writable, label, to_csv, to_jsonl, write_atomically

Progress: TypeAlias = Callable[[str, int, int], None]
"""``progress(stage, done, total)`` in rows of model calls; the total of the reference is its budget."""


def run(study: Study, folder: Path, *, progress: Progress | None = None) -> Results:
    """Run a study and write its files.

    Args:
        study: what to run.
        folder: where ``study.json``, ``rows.jsonl``, ``rows.csv``, ``error-vs-nfe.png`` and ``images.png`` go; made if missing.
        progress: called after every model call.

    Raises:
        OSError: the folder cannot be written; found out before anything is computed.
        ValueError: the folder holds something else, or another study.
    """
    from flowsamplers.study import plots  # noqa: PLC0415  (matplotlib is an extra)

    plots.check_available()
    claim(folder, study)
    flow = load_flow(study.model, prompt=_first(study), **study.flow_options)
    cases = [(prompt, seed) for prompt in study.prompts for seed in study.seeds]
    x1 = torch.cat([flow.noise([seed]) for _, seed in cases])
    reference = _reference(study, flow, x1, cases, progress)
    planned = study.plan(flow.tokens)
    outs = _lock_step(study, flow, x1, cases, planned, progress)
    rows = [
        row
        for p, out in zip(planned, outs, strict=True)
        for row in _rows(study, p, out, reference, cases, flow.passes_per_evaluation)
    ]
    results = Results({**study.settings(), **provenance(flow), "reference": _described(reference)}, rows)
    write_atomically(folder / ROWS, to_jsonl(rows))
    write_atomically(folder / TABLE, to_csv(rows))
    write_atomically(folder / "error-vs-nfe.png", plots.work_precision(results))
    if hasattr(flow, "decode"):
        grid = _image_grid(study, flow, planned, outs, reference)
        write_atomically(folder / "images.png", plots.image_grid(*grid))
    write_atomically(folder / SETTINGS, json.dumps(results.settings, indent=2) + "\n")
    return results


def claim(folder: Path, study: Study) -> None:
    """Make sure that a folder can be written and holds nothing but this study.

    Raises:
        OSError: it cannot be made or written.
        ValueError: it holds other files, or a study with other settings.
    """
    check_writable(folder)
    settings = folder / SETTINGS
    if settings.exists():
        before = load(folder).settings
        changed = [k for k, v in json.loads(json.dumps(study.settings())).items() if before.get(k) != v]
        if changed:
            raise ValueError(f"{folder} holds a study with other settings ({', '.join(changed)}); choose another folder")
    elif any(folder.iterdir()):
        raise ValueError(f"{folder} holds files that are not a study's; choose another folder")


def provenance(flow: Any) -> dict[str, Any]:
    """Model, versions and machine, for the record."""
    described = flow.describe() if hasattr(flow, "describe") else {}
    return {
        "flow": described,
        "versions": {"flowsamplers": version("flowsamplers"), "torch": torch.__version__, "python": platform.python_version()},
    }


def _first(study: Study) -> str | None:
    return study.prompts[0]


def _reference(
    study: Study, flow: Any, x1: Tensor, cases: Sequence[tuple[str | None, int]], progress: Progress | None
) -> Reference:
    done = 0

    def on_call(rows: int) -> None:
        nonlocal done
        done += rows
        if progress:
            progress("reference", done, study.reference_evaluations * len(cases))

    return solve(
        flow,
        x1,
        condition=[prompt for prompt, _ in cases],
        max_evaluations=study.reference_evaluations,
        max_batch=study.max_batch,
        on_call=on_call,
    )


def _lock_step(
    study: Study,
    flow: Any,
    x1: Tensor,
    cases: Sequence[tuple[str | None, int]],
    planned: Sequence[Planned],
    progress: Progress | None,
) -> list[Tensor]:
    """The result of every planned run, ``(cases, ...)``."""
    total, done = sum(p.nfe for p in planned) * len(cases), 0

    def on_call(rows: int) -> None:
        nonlocal done
        done += rows
        if progress:
            progress("runs", done, total)

    runs = [Run(x[None], p.grid, p.sampler, prompt) for p in planned for x, (prompt, _) in zip(x1, cases, strict=True)]
    outs = sample_many(flow, runs, max_batch=study.max_batch, on_call=on_call)
    return [torch.cat(outs[i : i + len(cases)]) for i in range(0, len(outs), len(cases))]


def _rows(
    study: Study, planned: Planned, out: Tensor, reference: Reference, cases: Sequence[tuple[str | None, int]], passes: int
) -> list[Row]:
    difference = (out.double() - reference.x0).flatten(1)
    errors = relative_error(out, reference.x0)
    rows: list[Row] = []
    for i, (prompt, seed) in enumerate(cases):
        error, own = errors[i].item(), reference.error[i].item()
        finite = bool(torch.isfinite(out[i]).all())
        rows.append(
            Row(
                model=study.model,
                prompt=prompt or "",
                seed=seed,
                sampler=to_config(planned.sampler)["name"],
                options=changed_options(planned.sampler),
                schedule=study.schedule,
                schedule_options=planned.schedule_options,
                steps=planned.grid.steps,
                nfe=planned.nfe,
                forward_passes=planned.nfe * passes,
                h_max=max(abs(h) for h in planned.grid.dt),
                error=error,
                rmse=difference[i].square().mean().sqrt().item(),
                max_error=difference[i].abs().max().item(),
                reference_error=own,
                floored=error < 10 * own,
                status="ok" if finite else "failed",
                message="" if finite else "the result is not finite",
            )
        )
    return rows


def _described(reference: Reference) -> dict[str, Any]:
    return {
        "method": reference.method,
        "steps": reference.steps,
        "evaluations": reference.evaluations,
        "error": [float(e) for e in reference.error],
    }


def _image_grid(
    study: Study, flow: Any, planned: Sequence[Planned], outs: Sequence[Tensor], reference: Reference
) -> tuple[list[str], list[str], dict[tuple[str, str], Any], str]:
    """Row labels, column labels, images by both, and a title: the first prompt and seed."""
    wanted = [n for n in (1, 2, 3, 4, 6, 8, 16, 32, 64) if n in study.nfe][:8]
    names = [label(to_config(s)["name"], changed_options(s)) for s in map(get_sampler, study.samplers)]
    images: dict[tuple[str, str], Any] = {}
    truth = flow.decode(reference.x0[:1])[0]
    for name in names:
        images[name, "reference"] = truth
    for p, out in zip(planned, outs, strict=True):
        name = label(to_config(p.sampler)["name"], changed_options(p.sampler))
        fits = [n for n in wanted if n >= p.nfe]
        if fits and bool(torch.isfinite(out[0]).all()):
            images[name, str(fits[0])] = flow.decode(out[:1])[0]
    return names, [*map(str, wanted), "reference"], images, f"{study.model}: {study.prompts[0]!r}, seed {study.seeds[0]}"
