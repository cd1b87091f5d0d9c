"""Run a study: one reference, then all runs in lock-step, then rows and pictures."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from flowsamplers.flows.registry import load_flow
from flowsamplers.lockstep import Run, sample_many
from flowsamplers.reference import Reference, relative_error, solve
from flowsamplers.sampler import get_sampler, sampler_info, to_config
from flowsamplers.study.orders import OrderVerdict, order
from flowsamplers.study.plan import Planned, Study
from flowsamplers.study.rows import Row, changed_options, check_writable, from_jsonl, label, to_csv, to_jsonl, write_atomically

Progress: TypeAlias = Callable[[str, int, int], None]
"""``progress(stage, done, total)`` in rows of model calls; the total of the reference is its budget."""

SETTINGS, ROWS, TABLE = "study.json", "rows.jsonl", "rows.csv"


@dataclass(frozen=True)
class Results:
    """The rows of a study, and views of them.

    Attributes:
        settings: what defined the study, with versions, device and dtype.
        rows: one for each run and noise.
    """

    settings: Mapping[str, Any]
    rows: Sequence[Row]

    @property
    def labels(self) -> list[str]:
        """The samplers, in the order of the study."""
        return list(dict.fromkeys(row.label for row in self.rows))

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """NFE and geometric mean of the error over prompts and seeds of one sampler; failed runs are left out."""
        by_nfe: dict[int, list[float]] = {}
        for row in self.rows:
            if row.label == name and row.status == "ok":
                by_nfe.setdefault(row.nfe, []).append(row.error)
        nfes = sorted(by_nfe)
        return nfes, [geometric_mean(by_nfe[n]) for n in nfes]

    def single_curves(self, name: str) -> list[tuple[list[int], list[float]]]:
        """NFE and error of one sampler for each prompt and seed."""
        curves: dict[tuple[str, int], list[tuple[int, float]]] = {}
        for row in self.rows:
            if row.label == name and row.status == "ok":
                curves.setdefault((row.prompt, row.seed), []).append((row.nfe, row.error))
        return [([n for n, _ in sorted(c)], [e for _, e in sorted(c)]) for c in curves.values()]

    @property
    def reference_error(self) -> float:
        """The largest of the references' own relative errors."""
        return max(row.reference_error for row in self.rows)

    def error(self, name: str, nfe: int) -> float | None:
        """The error of a sampler with at most ``nfe`` model calls; None if it has no such run."""
        nfes, errors = self.curve(name)
        fits = [e for n, e in zip(nfes, errors, strict=True) if n <= nfe]
        return fits[-1] if fits else None

    def best(self, nfe: int) -> tuple[str, float] | None:
        """The sampler with the smallest error at this budget, and the error."""
        found = [(e, i, name) for i, name in enumerate(self.labels) if (e := self.error(name, nfe)) is not None]
        return (min(found)[2], min(found)[0]) if found else None

    def orders(self) -> dict[str, OrderVerdict]:
        """The verdict on each sampler's declared order, from the errors against the number of steps."""
        verdicts: dict[str, OrderVerdict] = {}
        for name in self.labels:
            rows = [r for r in self.rows if r.label == name]
            by_steps: dict[int, list[float]] = {}
            for r in rows:
                by_steps.setdefault(r.steps, []).append(r.error)
            steps = sorted(by_steps)
            errors = [geometric_mean(by_steps[n]) for n in steps]
            declared = sampler_info(rows[0].sampler).order
            verdicts[name] = order(steps, errors, declared=declared, floor=self.reference_error)
        return verdicts


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive numbers; NaN if one is not finite.

    >>> round(geometric_mean([1.0, 100.0]), 9)
    10.0
    """
    return float(np.exp(np.mean(np.log(values)))) if all(v > 0 for v in values) else float("nan")


def load(folder: str | Path) -> Results:
    """The results of a study from its folder.

    Raises:
        FileNotFoundError: no study there.
        ValueError: files that are not a study's.
    """
    folder = Path(folder)
    for name in (SETTINGS, ROWS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder}: no study here, {name} is missing")
    try:
        settings = json.loads((folder / SETTINGS).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder / SETTINGS}: not a study's settings: {error}") from error
    return Results(settings, from_jsonl((folder / ROWS).read_text(), str(folder / ROWS)))


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
