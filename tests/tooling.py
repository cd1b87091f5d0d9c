"""The scripts of tools/ as modules."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

TOOLS = Path(__file__).parent.parent / "tools"
AFTER_A_SAMPLER = "after a new sampler: make measured NAME=its_name"
AFTER_A_SCHEDULE = "after a new schedule: make measured NAME=its_name"
"""What to do when a page or a table lacks it."""


def tool(name: str) -> Any:
    """One script, with those beside it in reach as when it is run."""
    if str(TOOLS) not in sys.path:
        sys.path.append(str(TOOLS))
    return importlib.import_module(name)
