"""The registries of flow loaders and of metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from flowsamplers.registry.names import Registry

__all__ = ["FLOWS", "METRICS"]

Loader: TypeAlias = Callable[..., Any]
"""A function that opens a flow: ``loader(model, **options)``."""


FLOWS: Registry[Loader] = Registry("loader of models", "flowsamplers.flows")
"""The registry of flow loaders, see `flowsamplers.flows.load_flow`."""


METRICS: Registry[Callable[..., float]] = Registry(
    "metric", "flowsamplers.metrics", elsewhere=lambda _: "install a package with this entry point of flowsamplers.metrics. "
)
"""The registry of image metrics, ``metric(image, reference) -> float``, such as a learned perceptual distance.

Both images are float32 tensors ``(channels, height, width)`` on the CPU with values in [0, 1]. All metrics are those of other packages:
this library has PSNR and SSIM, and it downloads nothing for a metric.
"""
