"""Build the HTML that a notebook shows for a value."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

MOST = 24
"""Rows of a table; of a longer one the first and last are shown."""


def table(head: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "") -> str:
    """A table in HTML, numbers to six digits.

    Examples:
        >>> table(["sigma"], [[0.5]])
        '<table><tr><th>sigma</th></tr><tr><td>0.5</td></tr></table>'
    """
    shown = list(rows) if len(rows) <= MOST else [*rows[: MOST // 2], ["..."] * len(head), *rows[-MOST // 2 :]]
    lines = [_row("th", head), *(_row("td", row) for row in shown)]
    return f"<table>{f'<caption>{escape(caption)}</caption>' if caption else ''}{''.join(lines)}</table>"


def _row(tag: str, cells: Sequence[object]) -> str:
    texts = (f"{c:.6g}" if isinstance(c, float) else escape(str(c)) for c in cells)
    return f"<tr>{''.join(f'<{tag}>{text}</{tag}>' for text in texts)}</tr>"
