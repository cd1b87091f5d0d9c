"""Files that are whole or not there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def as_path(name: str, value: str | os.PathLike[str]) -> Path:
    """The path in an argument.

    Raises:
        TypeError: it is no path; the message names the argument and the value.
    """
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name}={value!r}: accepted is a path")
    return Path(value)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OSError: it cannot be written; no part of it is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
        sync(path.parent)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def sync(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can say so."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
