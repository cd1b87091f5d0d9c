"""Settings of the whole test run."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)  # the runs are spread over processes


@pytest.hookimpl(trylast=True)  # after the plugin has registered its profiles
def pytest_configure() -> None:
    """The plugin's profiles: reproducible in CI."""
    settings.load_profile(
        os.environ.get("HYPOTHESIS_PROFILE", "flowsamplers-ci" if os.environ.get("CI") else "flowsamplers-dev")
    )
