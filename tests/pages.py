"""The pages of the site and the README, read as tests need them: code blocks, directives, links, headings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    page: Path
    language: str
    text: str

    @property
    def doctest(self) -> bool:
        """Whether pytest runs it already."""
        return ">>>" in self.text


def name(page: Path) -> str:
    """How a test calls a page."""
    return str(page.relative_to(ROOT))


@cache
def blocks(page: Path) -> tuple[Block, ...]:
    """All fenced blocks of a page, in order."""
    return tuple(Block(page, m[2], re.sub(f"^{m[1]}", "", m[3], flags=re.MULTILINE)) for m in FENCE.finditer(page.read_text()))


def commands(page: Path) -> Iterator[list[str]]:
    """The commands of a page's bash blocks, as a shell splits them; continued lines are one."""
    for block in blocks(page):
        if block.language == "bash":
            for line in block.text.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                yield from _joined(words)


def _joined(words: list[str]) -> Iterator[list[str]]:
    """The commands between ``&&`` and ``|``, without redirections."""
    command: list[str] = []
    skip = False
    for word in [*words, "&&"]:
        if word in ("&&", "|"):
            if command:
                yield command
            command = []
        elif word in (">", ">>", "2>"):
            skip = True
        elif skip:
            skip = False
        else:
            command.append(word)


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text())


def links(page: Path) -> Iterator[tuple[str, str]]:
    """Relative links and images of a page: path and anchor."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield path, anchor


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as Markdown's table of contents makes them."""
    heads = re.findall(r"^#+ +(.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", re.sub(r"[`*]", "", h)).strip().lower()) for h in heads}


def directives() -> set[str]:
    """Modules and objects whose documentation the site shows."""
    return {m for page in PAGES for m in re.findall(r"^::: (\S+)", page.read_text(), re.MULTILINE)}


def nav(entry: Any) -> Iterator[str]:
    """Pages in the order of the navigation."""
    if isinstance(entry, str):
        yield entry
    elif isinstance(entry, dict):
        for value in entry.values():
            yield from nav(value)
    else:
        for item in entry:
            yield from nav(item)
