"""``flowsamplers comfyui``: install the nodes into ComfyUI."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from flowsamplers.cli.types import Command, CommandWithOthers, Place

FOLDER = "flowsamplers"
MARK = "# written by flowsamplers comfyui install"
LINES = f"""{MARK}
from flowsamplers_comfyui import comfy_entrypoint

__all__ = ["comfy_entrypoint"]
"""


@click.group(cls=CommandWithOthers)
def comfyui() -> None:
    """Install the nodes into ComfyUI, or remove them.

    \b
    flowsamplers comfyui install ~/ComfyUI
    """  # noqa: D301


@comfyui.command(cls=Command)
@click.argument("path", type=Place())
def install(path: Path) -> None:
    """Write the folder custom_nodes/flowsamplers in the ComfyUI at PATH: a few lines that import this package.

    \b
    flowsamplers comfyui install ~/ComfyUI
    """  # noqa: D301
    init = _nodes_of(path) / FOLDER / "__init__.py"
    if init.parent.exists() and not _ours(init.parent):
        raise ValueError(
            f"{init.parent}: there is a folder of this name that this command did not write; remove or rename it first"
        )
    init.parent.mkdir(exist_ok=True)
    init.write_text(LINES)
    click.echo(
        f"wrote {init}\nrestart ComfyUI; the nodes are under sampling/flowsamplers\nundo: flowsamplers comfyui uninstall {path}"
    )


@comfyui.command(cls=Command)
@click.argument("path", type=Place())
def uninstall(path: Path) -> None:
    """Remove what install wrote into the ComfyUI at PATH, and nothing else.

    \b
    flowsamplers comfyui uninstall ~/ComfyUI
    """  # noqa: D301
    folder = _nodes_of(path) / FOLDER
    if not folder.exists():
        raise ValueError(f"{folder}: there is no such folder, so there is nothing to remove")
    if not _ours(folder):
        raise ValueError(f"{folder}: it holds files that this command did not write; remove it yourself")
    shutil.rmtree(folder)
    click.echo(f"removed {folder}\nrestart ComfyUI")


def _nodes_of(path: Path) -> Path:
    nodes = path / "custom_nodes"
    if not nodes.is_dir():
        raise ValueError(f"{path}: it has no folder custom_nodes; give the folder of ComfyUI that holds it")
    return nodes


def _ours(folder: Path) -> bool:
    init = folder / "__init__.py"
    others = [p for p in folder.iterdir() if p.name not in ("__init__.py", "__pycache__")]
    return not others and init.is_file() and init.read_text().startswith(MARK)
