"""Write docs/reference/citations.md from the registry and flowsamplers/references.bib.

python tools/build_citations.py --page
"""

from __future__ import annotations

import re
from pathlib import Path

import flowsamplers as fs
from flowsamplers.citations import LIBRARY, BibEntry, bibliography, cite, resolve

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "citations.md"


def plain(text: str) -> str:
    """BibTeX's text as a reader sees it."""
    for mark, letter in {'{\\"u}': "ü", '{\\"o}': "ö", '{\\"a}': "ä", "{\\o}": "ø", "{\\'e}": "é"}.items():
        text = text.replace(mark, letter)
    return re.sub(r"[{}]", "", text)


def where(entry: BibEntry) -> str:
    """Where it was published, with a link if there is one."""
    f = entry.fields
    if "eprint" in f:
        return f"[arXiv:{f['eprint']}](https://arxiv.org/abs/{f['eprint']})"
    if "url" in f:
        return f"<{f['url']}>"
    if "journal" in f:
        return f"*{plain(f['journal'])}* {f['volume']}, {f['pages'].replace('--', '–')}"
    return plain(f.get("publisher") or f"{f['institution']}, {f['number']}")


def authors(entry: BibEntry) -> str:
    """Names as they are said; more than three are the first and others."""
    names = [" ".join(reversed(n.split(", "))) for n in plain(entry.fields["author"]).split(" and ")]
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and others"


def page() -> str:
    """The whole page."""
    users: dict[str, list[str]] = {}
    for info in fs.list_samplers(needing=True):
        for entry in resolve(info.reference):
            users.setdefault(entry.key, []).append(f"`{info.name}`")
    text = [
        "# How to cite",
        "",
        "<!-- written by tools/build_citations.py from flowsamplers/references.bib -->",
        "",
        "A study that used a sampler owes its authors a citation. `flowsamplers cite` prints the BibTeX of what was used: of the library,",
        "of the samplers, and of those that they employ for a first or last step.",
        "",
        "```bash",
        "flowsamplers cite fireflow",
        "flowsamplers cite unipc:last=ralston3 ab2 > references.bib",
        "flowsamplers cite    # everything",
        "```",
        "",
        "The same in Python:",
        "",
        "```pycon",
        ">>> import flowsamplers as fs",
        ">>> from flowsamplers.citations import cite",
        '>>> print(cite(fs.get_sampler("fireflow", last="midpoint")))',
        *cite(fs.get_sampler("fireflow", last="midpoint")).replace("\n\n", "\n<BLANKLINE>\n").split("\n"),
        "",
        "```",
        "",
        "The library itself is the first entry. A sampler that you register with `reference=` is cited by what it says.",
        "",
        "## References",
        "",
        "| | | used by |",
        "| --- | --- | --- |",
    ]
    for entry in sorted(bibliography(), key=lambda e: (e.fields["year"], e.key)):
        if entry.key != LIBRARY:
            used = ", ".join(users.get(entry.key, []))
            text.append(
                f"| {authors(entry)} ({entry.fields['year']}) | {plain(entry.fields['title'])}. {where(entry)} | {used} |"
            )
    return "\n".join([*text, ""])


if __name__ == "__main__":
    from building import build

    build(__doc__, PAGE, page)
