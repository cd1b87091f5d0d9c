"""List, for each page, the sentences that a reader may have to read twice: long ones, and banned turns of phrase.

    python tools/prose.py                 # one line a page, then the total
    python tools/prose.py docs/index.md   # every finding of one page

This is information and never fails: a long sentence can be right.
"""

from __future__ import annotations

import re
import sys
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


def sentences(text: str) -> list[str]:
    """The sentences of a page's prose: no code, tables, headings, formulas, links' targets or front matter."""
    text = re.sub(r"\A---.*?^---$|^ *```.*?^ *```|^\$\$.*?^\$\$|<[^>]+>", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in text.splitlines() if not re.match(r"\s*(\||#|:::|!!!|\?\?\?|!\[|\{%)", line)]
    text = re.sub(r"\]\([^)]*\)", "]", "\n".join(lines))
    blocks = re.split(r"\n\s*\n|\n\s*(?=[*-] |\d+\. )", text)
    found = [s for block in blocks for s in re.split(r"(?<=[.!?:;])\s+(?=[\[*`A-Z])", " ".join(block.split()))]
    return [s for s in found if re.search(r"[a-z]{2}", s)]


def words(sentence: str) -> int:
    """How many words; a formula or a piece of code is one."""
    return len(re.sub(r"\$[^$]*\$|`[^`]*`", "X", sentence).split())


def findings(path: Path) -> list[tuple[str, str]]:
    """What there is to look at on a page, each with the sentence."""
    found: list[tuple[str, str]] = []
    for sentence in sentences(path.read_text()):
        if words(sentence) > LONGEST:
            found.append((f"{words(sentence)} words", sentence))
        found += [(match[0], sentence) for pattern in BANNED for match in re.finditer(pattern, sentence)]
    return found


def main(arguments: list[str]) -> None:
    """Print findings of the named pages, or one line for each page."""
    for path in map(Path, arguments):
        for what, sentence in findings(path):
            print(f"{what:>12}  {sentence}")
    if not arguments:
        pages = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
        for path in pages:
            print(f"{len(findings(path)):4} of {len(sentences(path.read_text())):4} sentences  {path.relative_to(ROOT)}")
        print(f"{sum(len(findings(p)) for p in pages):4} of {sum(len(sentences(p.read_text())) for p in pages):4} in all")


if __name__ == "__main__":
    main(sys.argv[1:])
