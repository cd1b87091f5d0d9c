"""List, for each page and module, the sentences that a reader may have to read twice: long ones, and banned turns of phrase.

    python tools/prose.py                            # one line for each page and package, then the total
    python tools/prose.py docs/index.md              # every finding of one page
    python tools/prose.py flowsamplers/engine.py     # every finding in the public docstrings of one module

This is information and never fails: a long sentence can be right.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
LONGEST = 25
"""Words a sentence."""
BANNED = (
    r"\bwhatever\b",
    r"\bwherever\b",
    r"\bthat is where\b",
    r"^Nor\b",
    r"^Right are\b",
    r"\bof which\b",
    r"\bone makes of\b",
    r"\bbites?\b",
    r"\bsays so\b",
    r"\bis told\b",
    r"\bare told\b",
    r"\bin the open\b",
    r"\bbut for\b",
    r"\bhonou?r",
    r"\bbehaviour\b",
    r"\bcolour\b",
    r"\bneighbour",
)
"""Turns of phrase that hide the subject, invert the sentence or personify a method; British spellings."""
FIRST = re.compile(r"(What|Where|Who|Of|How|As|The same|Likewise|Which|So)\b(?! is \w+ing)")
"""How the first line of a docstring must not begin: a stranger cannot tell what the thing does."""


def sentences(text: str) -> list[str]:
    """The sentences of a page's prose: no code, tables, headings, formulas, links' targets or front matter."""
    text = re.sub(r"\A---.*?^---$|^ *```.*?^ *```|^\$\$.*?^\$\$|<[^>]+>", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in text.splitlines() if not re.match(r"\s*(\||#|:::|!!!|\?\?\?|!\[|\{%)", line)]
    text = re.sub(r"\]\([^)]*\)", "]", "\n".join(lines)).replace("**", "")
    blocks = re.split(r"\n\s*\n|\n\s*(?=[*-] |\d+\. )", text)
    found = [s for block in blocks for s in re.split(r"(?<=[.!?:;])\s+(?=[\[*`A-Z])", " ".join(block.split()))]
    return [s for s in found if re.search(r"[a-z]{2}", s)]


def words(sentence: str) -> int:
    """How many words; a formula or a piece of code is one."""
    return len(re.sub(r"\$[^$]*\$|`[^`]*`", "X", sentence).split())


def docstrings(path: Path) -> Iterator[str]:
    """Docstrings of a module and of its public classes, functions and constants."""
    nodes: list[ast.AST] = [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop(0)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            if not getattr(node, "name", "").startswith("_"):
                yield ast.get_docstring(node) or ""
                nodes[:0] = node.body if not isinstance(node, ast.FunctionDef) else []
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and node.col_offset == 0 and node.lineno > 1:
            yield str(node.value.value)


def prose(path: Path) -> list[str]:
    """The sentences of a page, or of a module's docstrings without examples and sources."""
    if path.suffix != ".py":
        return sentences(path.read_text())
    texts = [re.sub(r"(Examples|Reference):\n( +.*\n?|\n)*", "", text) for text in docstrings(path)]
    texts = [re.sub(r"\x08\n.*?(\n\n|\Z)", "", text, flags=re.DOTALL) for text in texts]  # commands, as click marks them
    texts = [re.sub(r"^(Args|Attributes|Returns|Raises|Warns):$", "", text, flags=re.MULTILINE) for text in texts]
    return [s for text in texts for s in sentences(re.sub(r"\n +(?=\*{0,2}\w+: )", "\n\n", text))]


def inverted(path: Path) -> list[str]:
    """First lines of docstrings that do not say what the thing is or does."""
    return [text.split("\n")[0] for text in docstrings(path) if FIRST.match(text)] if path.suffix == ".py" else []


def findings(path: Path) -> list[tuple[str, str]]:
    """What there is to look at on a page, each with the sentence."""
    found = [("first line", line) for line in inverted(path)]
    for sentence in prose(path):
        if words(sentence) > LONGEST:
            found.append((f"{words(sentence)} words", sentence))
        found += [(match[0], sentence) for pattern in BANNED for match in re.finditer(pattern, sentence)]
    return found


def modules() -> list[Path]:
    """The modules whose docstrings are on the site or in an editor."""
    return [*sorted((ROOT / "flowsamplers").rglob("*.py")), *sorted((ROOT / "integrations").rglob("*.py"))]


def main(arguments: list[str]) -> None:
    """Print findings of the named pages and modules, or one line for each page and package."""
    for path in map(Path, arguments):
        for what, sentence in findings(path):
            print(f"{what:>12}  {sentence}")
    if not arguments:
        pages = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
        for path in pages:
            print(f"{len(findings(path)):4} of {len(prose(path)):4} sentences  {path.relative_to(ROOT)}")
        rooms: dict[Path, list[Path]] = {}
        for path in modules():
            rooms.setdefault(path.parent, []).append(path)
        for room, paths in rooms.items():
            of = sum(len(prose(p)) for p in paths)
            print(f"{sum(len(findings(p)) for p in paths):4} of {of:4} sentences  {room.relative_to(ROOT)}/*.py")
        for name, paths in (("pages", pages), ("docstrings", modules())):
            print(f"{sum(len(findings(p)) for p in paths):4} of {sum(len(prose(p)) for p in paths):4} in all {name}")


if __name__ == "__main__":
    main(sys.argv[1:])
