"""The built site in a real browser: what test_site.py and test_explorer.py share."""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


SOURCES = ("docs", "flowsamplers", "integrations", "README.md", "mkdocs.yml")


def made_by_docs() -> Path | None:
    """The site that ``make docs`` built, unless a source is newer."""
    site = ROOT / "site"
    files = [f for name in SOURCES for f in ((ROOT / name).rglob("*.*") if (ROOT / name).is_dir() else [ROOT / name])]
    newest = max(f.stat().st_mtime for f in files if f.is_file() and f.suffix != ".pyc")
    finished = site / "sitemap.xml"
    return site if finished.exists() and finished.stat().st_mtime > newest else None


def build_once(folder: Path) -> Path:
    """The site, built strictly as ``make docs`` builds it, by the first process that asks; the others wait for it."""
    there = made_by_docs()
    if there is not None:
        return there
    site = folder / "site"
    with (folder / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not site.exists():
            unfinished = folder / "site.unfinished"
            command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(unfinished)]
            path = os.pathsep.join([str(ROOT), str(ROOT / "integrations")])
            environment = {**os.environ, "PYTHONPATH": path, "NO_MKDOCS_2_WARNING": "1"}
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            unfinished.rename(site)
    return site


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The folder at an address of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def chromium() -> Iterator[Any]:
    """The system's chromium, without a window; skips the test where there is none."""
    if CHROMIUM is None:
        pytest.skip("no chromium here: `make browser` installs it")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e .[dev]")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


class Tab:
    """A page of the site, and everything that went wrong in it.

    Attributes:
        page: playwright's page.
        complaints: console errors and warnings, exceptions, failed requests, and requests that would have left this machine.
    """

    def __init__(self, browser: Any, site: str, *, width: int = 1400, scheme: str = "light") -> None:
        self.site = site
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", lambda m: m.type in ("error", "warning") and self.complaints.append(f"{m.type}: {m.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(f"exception: {error}"))
        self.page.on("requestfailed", self._failed)
        self.page.on("response", lambda r: r.status >= 400 and self.complaints.append(f"{r.status}: {r.url}"))
        self.page.route("**/*", self._only_here)

    def _failed(self, request: Any) -> None:
        if request.failure != "net::ERR_ABORTED":  # the tab went on before the icon had come
            self.complaints.append(f"failed: {request.url}")

    def _only_here(self, route: Any) -> None:
        if route.request.url.startswith(self.site):
            route.continue_()
        else:
            self.complaints.append(f"leaves this machine: {route.request.url}")
            route.abort()

    def open(self, path: str) -> Any:
        """Go there, and wait until the formulas are drawn."""
        self.page.goto(self.site + path)
        self.page.wait_for_function("() => !document.querySelector('.arithmatex:not(:has(.katex))')")
        return self.page
