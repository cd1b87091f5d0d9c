"""Pages that are written by hand but for one part, which a tool makes of its measurements."""

from __future__ import annotations

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
