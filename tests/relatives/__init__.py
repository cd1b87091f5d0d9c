"""The flow pipelines of diffusers as tiny random models, and how to run them."""

from __future__ import annotations

import functools
import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import diffusers
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from flowsamplers import nfe
from relatives.table import RELATIVES, Relative

__all__ = ["RELATIVES", "Outcome", "Relative", "broken_promises", "build", "flow_pipelines", "run", "same"]


def flow_pipelines() -> dict[str, str]:
    """The pipelines of this diffusers whose files name FlowMatchEuler, by class; and the files' text."""
    texts = [path.read_text() for path in sorted((Path(diffusers.__file__).parent / "pipelines").rglob("*.py"))]
    made_for_it = [text for text in texts if "FlowMatchEuler" in text]
    return {name: text for text in made_for_it for name in re.findall(r"^class (\w+Pipeline)\(", text, re.MULTILINE)}


@dataclass(frozen=True)
class Outcome:
    """What the model was asked in a run, and what came out.

    Attributes:
        asked: every tensor that every call of a transformer was given, in order.
        result: the pipeline's output.
        calls: calls of transformers; classifier-free guidance may take two a model call.
        indices: which model call of the schedule each call of ``scheduler.step`` was.
        scheduler: the scheduler after the run.
    """

    asked: list[Tensor]
    result: list[Tensor]
    calls: int
    indices: list[int]
    scheduler: Any

    @property
    def finite(self) -> bool:
        """Whether the output holds numbers alone."""
        return all(bool(torch.isfinite(x).all()) for x in self.result)


def build(name: str, scheduler: Any, dtype: torch.dtype = torch.float32) -> Any:
    """The pipeline with this scheduler; the networks are the same in every call."""
    entry = RELATIVES[name]
    cls = getattr(diffusers, entry.pipeline)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = entry.parts()
    for part in parts.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
            if dtype != torch.float32:
                part.to(dtype)
    names = [k for k, p in inspect.signature(cls.__init__).parameters.items() if k != "self" and p.default is p.empty]
    pipe = cls(**{**dict.fromkeys(names), **parts, "scheduler": scheduler})
    for limit, small in {"default_sample_size": 16, "resolutions": [(32, 32)]}.items():
        if hasattr(pipe, limit):
            setattr(pipe, limit, small)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(name: str, scheduler: Any, *, steps: int = 4, dtype: torch.dtype = torch.float32, **more: Any) -> Outcome:
    """One call of the pipeline."""
    pipe = build(name, scheduler, dtype)
    asked: list[Tensor] = []
    begun: list[int] = []
    calls = 0

    def record(module: Any, args: Any, kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        asked.extend(leaf.detach().clone() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))

    step = type(scheduler).step

    @functools.wraps(step)
    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = step(self, *args, **kwargs)
        if self is scheduler:  # LTX 2 has a copy for the sound
            begun.append(self.step_index - 1)
        return out

    for part in (pipe.transformer, getattr(pipe, "transformer_2", None)):
        if part is not None:
            part.register_forward_pre_hook(record, with_kwargs=True)
    given = {k: _cast(v, dtype) for k, v in RELATIVES[name].call().items()}
    seeded = {"generator": torch.Generator().manual_seed(0), "num_inference_steps": steps}
    with torch.random.fork_rng(devices=[]), mock.patch.object(type(scheduler), "step", counted):
        torch.manual_seed(11)  # stock's only source in a pipeline that passes no generator to the scheduler
        out = pipe(**{**seeded, "output_type": "pt", "return_dict": False, **given, **more})
    result = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
    return Outcome(asked, result, calls, begun, scheduler)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, list):
        return [_cast(v, dtype) for v in value]
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def same(a: Outcome, b: Outcome) -> bool:
    """Whether two runs asked the model the same, and ended in the same, bit for bit."""
    pairs = [(a.asked, b.asked), (a.result, b.result)]
    return all(len(x) == len(y) > 0 and all(torch.equal(i, j) for i, j in zip(x, y, strict=True)) for x, y in pairs)


def broken_promises(ours: Outcome, stock: Outcome) -> list[str]:
    """What is wrong with a run of any sampler: the calls that the dry run listed, each once, from where it began to the end."""
    scheduler, wrong = ours.scheduler, []
    listed = len(scheduler.timesteps)
    if listed != nfe(scheduler._method, scheduler.grid):
        wrong.append(f"{listed} entries for {nfe(scheduler._method, scheduler.grid)} evaluations of the dry run")
    if ours.indices != list(range(ours.indices[0], listed)):
        wrong.append(f"made the calls {ours.indices} of {listed}")
    passes = stock.calls // len(stock.indices)
    if ours.calls != passes * len(ours.indices):
        wrong.append(f"{ours.calls} forward passes for {len(ours.indices)} model calls of {passes}")
    if not ours.finite:
        wrong.append("not finite")
    return wrong
