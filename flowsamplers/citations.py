"""BibTeX entries for the samplers and schedules that you used."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from flowsamplers.registry import get_sampler, list_samplers, sampler_info, to_config
from flowsamplers.sampler import POLICIES, Sampler, SamplerLike
from flowsamplers.schedules import list_schedules, schedule_info

LIBRARY = "flowsamplers"
"""Key of the library's own entry."""


@dataclass(frozen=True)
class BibEntry:
    """An entry of the bibliography.

    Attributes:
        kind: ``article``, ``book``, ``software``, ...
        key: its citation key.
        fields: its fields, as in the file.
        bibtex: its BibTeX text.
    """

    kind: str
    key: str
    fields: dict[str, str]
    bibtex: str

    def found_in(self, reference: str) -> int:
        """Find the position of this entry in a reference text; -1 if the text does not name it."""
        marks = [f"arXiv:{self.fields['eprint']}"] if "eprint" in self.fields else []
        places = [reference.find(mark) for mark in (*marks, self.fields.get("words", "\0"))]
        return min((p for p in places if p >= 0), default=-1)


@cache
def bibliography() -> tuple[BibEntry, ...]:
    """Read all entries of ``flowsamplers/references.bib``."""
    text = (files("flowsamplers") / "references.bib").read_text("utf-8")
    return tuple(_entry(block) for block in re.findall(r"^@.*?^}$", text, re.MULTILINE | re.DOTALL))


def resolve(reference: str) -> tuple[BibEntry, ...]:
    """Find the entries that a reference text names, in its order.

    Examples:
        >>> [e.key for e in resolve("RES, arXiv:2308.02157; Hochbruck and Ostermann, Acta Numerica 19 (2010), 2.5")]
        ['zhang2023improved', 'hochbruck2010exponential']
    """
    found = [(e.found_in(reference), e) for e in bibliography()]
    return tuple(e for place, e in sorted(found, key=lambda pair: pair[0]) if place >= 0)


def used(sampler: SamplerLike) -> list[str]:
    """List the names of a sampler and of the samplers in its options, such as its first or last step.

    Examples:
        >>> used(get_sampler("ab4", last="ralston3", startup="kutta3"))
        ['ab4', 'ralston3', 'kutta3']
    """
    return list(dict.fromkeys(to_config(s)["name"] for s in _nested(get_sampler(sampler))))


def cite(*samplers: SamplerLike, schedules: Sequence[str] = ()) -> str:
    """Return BibTeX for the library and for the named samplers and schedules; for all of them without arguments.

    Lines between the entries name the samplers that need them; BibTeX ignores such lines.

    Args:
        *samplers: names, configurations or objects; samplers in their options are included.
        schedules: names of schedules.

    Raises:
        ValueError: a name is unknown; the message suggests the nearest.

    Examples:
        >>> print(cite("krogstad"))
        The library
        <BLANKLINE>
        @software{flowsamplers,
        ...
        krogstad: Krogstad, J. Comput. Phys. 203 (2005); Hochbruck and Ostermann, Acta Numerica 19 (2010), (2.42)
        <BLANKLINE>
        @article{krogstad2005generalized,
          author = {Krogstad, Stein},
          ...
    """
    names = list(dict.fromkeys(n for s in samplers for n in used(s)))
    if not samplers and not schedules:
        names, schedules = [i.name for i in list_samplers(needing=True)], [i.name for i in list_schedules()]
    sources = [(name, sampler_info(name).reference) for name in names]
    sources += [(f"schedule {name}", schedule_info(name).reference) for name in schedules]
    given = {LIBRARY: next(e for e in bibliography() if e.key == LIBRARY)}
    pieces = ["The library", given[LIBRARY].bibtex]
    for name, reference in sources:
        pieces.append(f"{name}: {reference or 'names no source'}")
        pieces += [e.bibtex for e in resolve(reference) if e.key not in given]
        given |= {e.key: e for e in resolve(reference)}
    return "\n\n".join(pieces)


def _nested(sampler: Sampler) -> Iterator[Sampler]:
    yield sampler
    for field in dataclasses.fields(sampler) if dataclasses.is_dataclass(sampler) else ():
        value = getattr(sampler, field.name)
        if field.type in POLICIES and not (isinstance(value, str) and value not in _names()):
            yield from _nested(get_sampler(value))


def _names() -> set[str]:
    return {name for info in list_samplers() for name in info.names}


def _entry(block: str) -> BibEntry:
    head = re.match(r"@(\w+)\{(\S+),\n", block)
    assert head is not None, block
    fields = dict(re.findall(r"^  (\w+) = \{(.*)\},$", block, re.MULTILINE))
    return BibEntry(head[1], head[2], fields, re.sub(r"  words = .*\n", "", block))
