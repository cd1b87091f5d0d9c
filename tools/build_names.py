"""Write the page of names in other programs, docs/reference/names.md, from flowsamplers/elsewhere.toml and docs/reference/comfyui.json.

python tools/build_names.py
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from building import DOCS, build, load, rendered, table

from flowsamplers._elsewhere import Here, names

PAGE = DOCS / "reference" / "names.md"
RUNS = load(PAGE.parent / "comfyui.json")
"""What `make comfyui` measured, by the version of ComfyUI."""
ROUNDING = 1e-5


def distance(name: str) -> str:
    """How far ComfyUI's result is from the one here, over versions and models, if it is not equal."""
    found = {what: worst(what, name) for what in ("below 1", "from 1")}
    if found["below 1"] == found["from 1"]:
        return f"distance {found['below 1']}" if found["below 1"] else ""
    return ", ".join(f"distance {size} {what.replace('1', 'sigma 1')}" for what, size in found.items() if size)


def worst(what: str, name: str) -> str:
    """The largest distance, from 1e-5 on."""
    most = max(
        (v for run in RUNS.values() for k, v in run[what].items() if k.split()[0] == name and not isinstance(v, str)), default=0
    )
    return f"{most:.0e}".replace("e-0", "e-").replace("e+00", "") if most > ROUNDING else ""


def listed(known: Mapping[str, Here], *, measured: bool = False) -> str:
    """The names of a program in a table that can be filtered; names with one answer share a line, and what is the same here has none."""
    same: list[str] = []
    endings: list[str] = []
    rows: dict[tuple[str, str], list[str]] = {}
    for name, here in known.items():
        note = "; ".join(filter(None, [here.note, distance(name) if measured else ""]))
        if not note and here.spec in (name, re.sub(r"_\ds$", "", name).replace("-", "_")):
            (same if here.spec == name else endings).append(f"`{name}`")
        else:
            spec = "the same name" if here.spec == name else f"`{here.spec}`" if here.spec else "-"
            rows.setdefault((spec, note), []).append(f"`{name}`")
    lines = [f"The same here: {', '.join(same)}.", ""] if same else []
    lines += [f"The same without the number of stages: {', '.join(endings)}.", ""] if endings else []
    found = table("there | here | note", ([", ".join(theirs), *answer] for answer, theirs in rows.items()))
    return "\n".join([*lines, '<div class="filtered" markdown="1">', "", found, "", "</div>"])


def page() -> str:
    """The whole page."""
    versions = "\n".join(
        f"* ComfyUI {version}, commit `{run['commit'][:12]}`, measured {run['date']} with torch {run['torch']}"
        for version, run in sorted(RUNS.items())
    )
    return rendered("names.md", globals(), names=names(), versions=versions)


WRITTEN = {PAGE: page}

if __name__ == "__main__":
    build(__doc__, WRITTEN)
