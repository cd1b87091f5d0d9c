"""flowsamplers in ComfyUI: its samplers, schedules and measurements as nodes.

ComfyUI calls `comfy_entrypoint`; nothing of ComfyUI is imported before.
"""

from typing import Any

__all__ = ["comfy_entrypoint"]


async def comfy_entrypoint() -> Any:
    """The extension that ComfyUI asks for when it loads this folder."""
    from flowsamplers_comfyui.nodes import FlowExtension  # noqa: PLC0415  (needs ComfyUI)

    return FlowExtension()
