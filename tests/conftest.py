"""Settings of the whole test run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from browsing import build_once, chromium, served

torch.set_num_threads(1)  # the runs are spread over processes
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of programs that tests start


@pytest.hookimpl(trylast=True)  # after the plugin has registered its profiles
def pytest_configure() -> None:
    """The plugin's profiles: reproducible in CI."""
    settings.load_profile(
        os.environ.get("HYPOTHESIS_PROFILE", "flowsamplers-ci" if os.environ.get("CI") else "flowsamplers-dev")
    )


@pytest.fixture(scope="session")
def site_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built once, also where the tests are spread over processes."""
    own = tmp_path_factory.getbasetemp()
    return build_once(own.parent if "PYTEST_XDIST_WORKER" in os.environ else own)


@pytest.fixture(scope="module")
def site(site_folder: Path) -> Iterator[str]:
    """The address of the site."""
    with served(site_folder) as address:
        yield address


@pytest.fixture(scope="module")  # not longer: playwright keeps an event loop running in this thread
def browser() -> Iterator[Any]:
    """One chromium for a module."""
    with chromium() as it:
        yield it
