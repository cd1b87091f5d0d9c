"""flowsamplers in ComfyUI: its samplers, schedules and measurements as nodes.

ComfyUI calls `comfy_entrypoint`; nothing of ComfyUI is imported before that.
"""

from typing import Any

__all__ = ["comfy_entrypoint"]


async def comfy_entrypoint() -> Any:
    """Return the extension; ComfyUI calls this when it loads the folder."""
    from flowsamplers_comfyui.nodes import FlowExtension  # noqa: PLC0415  (needs ComfyUI)

    return FlowExtension()
