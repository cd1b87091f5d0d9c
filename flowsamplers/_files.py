"""Files that are whole or not there, and what may be in them."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


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


def without_nan(value: Any) -> Any:
    """A value with null for every number that JSON does not have, as lists and dicts.

    Examples:
        >>> without_nan({"error": float("nan"), "steps": (1, 2)})
        {'error': None, 'steps': [1, 2]}
    """
    if isinstance(value, Mapping):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
