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


METRICS: Registry[Callable[..., float]] = Registry(
    "metric",
    "flowsamplers.metrics",
    _add_metric,
    elsewhere=lambda _: "install a package with this entry point of flowsamplers.metrics. ",
)
"""The registry of image metrics, ``metric(image, reference) -> float``, such as a learned perceptual distance.

Both images are float32 tensors ``(channels, height, width)`` on the CPU with values in [0, 1]. All metrics are those of other packages:
this library has PSNR and SSIM, and it downloads nothing for a metric.
"""
