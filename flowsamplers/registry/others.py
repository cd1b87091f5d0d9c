"""The registries of flow loaders and of metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from flowsamplers.registry.names import Registered, Registry

Loader: TypeAlias = Callable[..., Any]
"""A function that opens a flow: ``loader(model, **options)``."""


def _add_flow(name: str, loader: Any) -> None:
    FLOWS.add(Registered((name,), loader, loader, getattr(loader, "__module__", "?").partition(".")[0]))


FLOWS: Registry[Loader] = Registry("loader of models", "flowsamplers.flows", _add_flow)
"""The registry of flow loaders, see `flowsamplers.flows.load_flow`."""


def _add_metric(name: str, metric: Any) -> None:
    METRICS.add(Registered((name,), metric, metric, getattr(metric, "__module__", "?").partition(".")[0]))


METRICS: Registry[Callable[..., float]] = Registry("metric", "flowsamplers.metrics", _add_metric)
"""The registry of metrics: distances between two results, ``metric(first, second) -> float``."""
