"""Whoever uses a sampler can cite it: every reference has a BibTeX entry, and the entries are whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import flowsamplers as fs
from flowsamplers.citations import bibliography, cite, resolve, used

ROOT = Path(__file__).parent.parent
REQUIRED = {
    "article": {"author", "title", "journal", "year"},
    "book": {"author", "title", "publisher", "year"},
    "techreport": {"author", "title", "institution", "number", "year"},
    "software": {"author", "title", "year"},
}
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{5})")


@pytest.mark.parametrize("info", fs.list_samplers(), ids=lambda i: i.name)
def test_every_samplers_reference_has_its_entries(info: fs.SamplerInfo) -> None:
    """A new paper: add its entry to flowsamplers/references.bib."""
    parts = [part for part in info.reference.split(";") if part.strip()]
    assert parts, f"{info.name} names no source"
    for part in parts:
        assert resolve(part), f"{part!r}: no entry of flowsamplers/references.bib has its arXiv id or its words"


@pytest.mark.parametrize("info", fs.list_schedules(), ids=lambda i: i.name)
def test_what_a_schedules_reference_names_is_in_what_is_printed_to_cite(info: fs.ScheduleInfo) -> None:
    assert all(e.bibtex in cite(schedules=[info.name]) for e in resolve(info.reference))
    assert info.reference in cite(schedules=[info.names[-1]])


@pytest.mark.parametrize("room", ["samplers", "schedules", "flows"])
def test_every_arxiv_id_that_a_docstring_names_has_an_entry(room: str) -> None:
    known = {e.fields.get("eprint") for e in bibliography()}
    named = {i for p in (ROOT / "flowsamplers" / room).rglob("*.py") for i in ARXIV.findall(p.read_text())}
    assert named <= known, f"add to flowsamplers/references.bib: {named - known}"


def test_entries_are_whole_and_their_keys_are_different() -> None:
    entries = bibliography()
    text = (ROOT / "flowsamplers" / "references.bib").read_text()
    assert len(entries) == len(re.findall(r"^@", text, re.MULTILINE)) == len({e.key for e in entries})
    for entry in entries:
        assert set(entry.fields) >= REQUIRED[entry.kind], entry.key
        assert entry.bibtex.count("{") == entry.bibtex.count("}")
        assert "eprint" in entry.fields or "words" in entry.fields or entry.key == "flowsamplers"
        for place in ("journal", "archiveprefix"):
            assert "eprint" not in entry.fields or "arXiv" in entry.fields[place]


def test_the_librarys_entry_has_the_librarys_version() -> None:
    assert f"version = {{{fs.__version__}}}" in cite("euler")


def test_what_a_sampler_employs_is_cited_too() -> None:
    assert used(fs.get_sampler("richardson", base="rk4")) == ["richardson", "rk4"]
    assert used(fs.get_sampler("ab2", last="ralston3")) == ["ab2", "ralston3"]
    assert used("euler") == ["euler"]
    text = cite(fs.get_sampler("fireflow", last="midpoint"), "unipc")
    keys = re.findall(r"^@\w+\{(\w+),", text, re.MULTILINE)
    assert keys == ["flowsamplers", "deng2024fireflow", "runge1895ueber", "wang2024taming", "zhao2023unipc"]


def test_samplers_of_tables_are_cited() -> None:
    text = cite(fs.samplers.NSSolver(table=((1.0,),)), fs.samplers.ParallelMidpoints(table=(((0.5, 1.0),),)))
    for eprint in ("2403.01329", "2505.21114", "2507.14797", "2312.00094"):
        assert f"eprint = {{{eprint}}}" in text


def test_nothing_is_cited_twice_and_everything_is_there_without_arguments() -> None:
    keys = re.findall(r"^@\w+\{(\w+),", cite(), re.MULTILINE)
    assert len(keys) == len(set(keys))
    assert set(keys) >= {e.key for i in fs.list_samplers() for e in resolve(i.reference)}


def test_a_wrong_schedule_is_named() -> None:
    with pytest.raises(ValueError, match="unknown schedule 'karas': did you mean 'karras'"):
        cite(schedules=["karas"])
