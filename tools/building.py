"""What the tools that write pages share: templates, tables, measured parts of pages that are written by hand, one command line."""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = Environment(
    loader=FileSystemLoader(ROOT / "tools" / "pages"), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
)
PAGES.filters["f"] = format
END = "<!-- end of what is measured -->"


def rendered(template: str, values: Mapping[str, Any], **more: Any) -> str:
    """A text from its template in ``tools/pages``, with the names of a tool and more; ``{{ value|f(".2f") }}`` formats a number."""
    return PAGES.get_template(template).render({**values, **more}).strip() + "\n"


def table(head: str, rows: Iterable[Iterable[object]]) -> str:
    """A table in Markdown; a column whose heading ends in a colon is aligned to the right.

    >>> print(table("sampler | calls:", [["`heun`", 16]]))
    | sampler | calls |
    | --- | --: |
    | `heun` | 16 |
    """
    names = head.split(" | ")
    ruler = ["--:" if name.endswith(":") else "---" for name in names]
    lines = [[name.removesuffix(":") for name in names], ruler, *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def with_measured(text: str, tool: str, part: str) -> str:
    """The text of a page with the part of a tool made anew; a page without that part is an error.

    Args:
        text: the page.
        tool: the name of the tool's file, such as ``"build_shift.py"``, which the part's first line names.
        part: Markdown.
    """
    begin = f"<!-- measured: written by tools/{tool} -->"
    head, rest = text.split(begin)
    return f"{head}{begin}\n\n{part.strip()}\n\n{END}{rest.split(END, 1)[1]}"


def load(data: Path) -> Any:
    """What was measured, or nothing yet."""
    return json.loads(data.read_text()) if data.exists() else {}


def save(data: Path, found: Mapping[str, Any]) -> None:
    """Replace what was measured as a whole, with a line for each row: nobody reads half of it, and one changed row is one changed line."""

    def laid_out(value: Any) -> str:
        if isinstance(value, dict):
            return "{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()) + "\n}"
        return "[\n" + ",\n".join(map(json.dumps, value)) + "\n]" if isinstance(value, list) else json.dumps(value)

    part = data.with_suffix(".part")
    part.write_text("{" + ",\n".join(f"{json.dumps(key)}: {laid_out(value)}" for key, value in found.items()) + "}\n")
    part.replace(data)


def drawn(figure: Any, kind: str = "svg", **options: Any) -> bytes:
    """The file of a figure of matplotlib, the same in every run."""
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib import pyplot as plt  # noqa: PLC0415

    out = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "flowsamplers"}):
        figure.savefig(out, format=kind, metadata={"Date": None} if kind == "svg" else None, **options)
    plt.close(figure)
    return out.getvalue()


def build(
    doc: str | None, written: Mapping[Path, Callable[[], str | bytes]], measure: Callable[[list[str]], object] | None = None
) -> None:
    """Run a tool: measure, unless ``--page`` is given, and write what is made of the measurements.

    Args:
        doc: for ``--help``.
        written: the files, and what makes the content of each.
        measure: measures anew; it gets the names that the command line gives.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="of what is measured, or a folder to work in: see above")
    parser.add_argument("--page", action="store_true", help="write pages and figures from what was measured")
    given = parser.parse_args()
    if measure is not None and not given.page:
        measure(given.names)
    for path, make in written.items():
        content = make()
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
