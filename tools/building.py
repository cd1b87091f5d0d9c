"""What the tools that write a page of the site share: their command line, and the measured part of a page that is written by hand."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

END = "<!-- end of what is measured -->"


def with_measured(page: Path, tool: str, part: str) -> str:
    """The text of a page with the part of a tool made anew; a page without that part is an error.

    Args:
        page: the file.
        tool: the name of the tool's file, such as ``"build_shift.py"``, which the part's first line names.
        part: Markdown.
    """
    begin = f"<!-- measured: written by tools/{tool} -->"
    head, rest = page.read_text().split(begin)
    return f"{head}{begin}\n\n{part}\n\n{END}{rest.split(END)[1]}"


def build(
    doc: str | None, page: Path, content: Callable[[], str], measure: Callable[[list[str]], object] | None = None
) -> None:
    """Run a tool: measure, unless ``--page`` is given, and write the page; with ``--check`` only say whether it is up to date.

    Args:
        doc: for ``--help``.
        page: the file.
        content: makes its text.
        measure: measures anew; it gets the other arguments.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="write the page from what was measured")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page would change")
    given, others = parser.parse_known_args()
    if measure is None and others:
        parser.error(f"unknown arguments: {' '.join(others)}")
    if measure is not None and not (given.page or given.check):
        measure(others)
    text = content()
    if given.check:
        sys.exit(text != page.read_text())
    page.write_text(text)


def build_with_data(
    doc: str | None, work: str, data: Path, measure: Callable[[Path], object], publish: Callable[[], object]
) -> None:
    """Run a tool that measures once and for long: measure into a JSON file, unless ``--page`` is given, and publish what is in it.

    Args:
        doc: for ``--help``.
        work: what the folder of ``--work`` holds, for ``--help``.
        data: the JSON file.
        measure: measures anew; it gets the folder.
        publish: writes figures and pages from the file.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help=work)
    parser.add_argument("--page", action="store_true", help="write figures and pages from what was measured")
    given = parser.parse_args()
    if not given.page:
        data.write_text(json.dumps(measure(given.work), indent=1) + "\n")
    publish()
