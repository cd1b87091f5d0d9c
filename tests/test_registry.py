"""The registry: other packages add to it, and what is wrong with one of them harms nobody else."""

from __future__ import annotations

import contextlib
import io
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

import pytest

import flowsamplers as fs
from flowsamplers import samplers, schedules
from flowsamplers.registry import SAMPLERS, SCHEDULES, Registered, Registry

SOURCE = """
from dataclasses import dataclass
import flowsamplers as fs
from flowsamplers import Evaluate, Sampler

@dataclass(frozen=True)
class Slow(Sampler):
    'Euler in disguise.'
    def step(self, x, at, state):
        v = yield Evaluate(x, at.s0)
        return x + at.h * v, state

def half(steps):
    'Everything at once.'
    return fs.SigmaGrid([1.0, 0.5, 0.0])
"""


def installed(folder: Path, package: str, entries: str, source: str = SOURCE) -> None:
    """A package that is on the path with nothing but a module and its metadata."""
    (folder / f"{package}.py").write_text(source)
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entries)


class Done(NamedTuple):
    """What a program printed, and its traceback."""

    stdout: str
    stderr: str


def python(folder: Path, code: str) -> Done:
    """Run a program that imports flowsamplers anew, with the folder on the path; afterwards the modules are this process's own again."""
    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0].startswith("flowsamplers")}
    out, trace = io.StringIO(), ""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        for name in kept:
            patch.delitem(sys.modules, name)
        try:
            with contextlib.redirect_stdout(out):
                exec(compile(code, "program", "exec"), {"__name__": "__main__"})
        except Exception:
            trace = traceback.format_exc()
        finally:
            for name in [n for n in sys.modules if n.partition(".")[0].startswith(("flowsamplers", "theirs", "others"))]:
                del sys.modules[name]
    return Done(out.getvalue(), trace)


def test_flowsamplers_is_imported_anew_in_a_program_and_is_this_processs_own_afterwards(tmp_path: Path) -> None:
    before = sys.modules["flowsamplers.sampler"]
    assert python(tmp_path, f"import flowsamplers.sampler as s; print(id(s) == {id(before)})").stdout == "False\n"
    assert sys.modules["flowsamplers.sampler"] is before


def test_a_package_adds_samplers_schedules_flows_and_metrics(tmp_path: Path) -> None:
    groups = {"samplers": "slow = theirs:Slow", "schedules": "half = theirs:half"}
    groups |= {"flows": "mine = theirs:half", "metrics": "distance = theirs:half"}
    installed(tmp_path, "theirs", "".join(f"[flowsamplers.{g}]\n{line}\n" for g, line in groups.items()))
    code = (
        "import flowsamplers as fs, sys; from flowsamplers.registry import METRICS, FLOWS\n"
        "fs.get_sampler('euler'); assert 'theirs' not in sys.modules\n"
        "print(fs.nfe('slow', fs.get_schedule('half', 2)), fs.sampler_info('slow').origin, fs.list_samplers()[-1].name)\n"
        "print(METRICS.names(), 'mine' in FLOWS.names(), fs.to_config(fs.get_sampler('slow')))"
    )
    run = python(tmp_path, code)
    assert run.stdout.splitlines() == ["2 theirs slow", "['distance'] True {'name': 'slow', 'options': {}}"], run.stderr


BROKEN = {
    "an attribute that is not there": ("theirs0:Nothing", SOURCE),
    "a module that is not there": ("nowhere.at.all:Slow", SOURCE),
    "an exception when imported": ("theirs2:Slow", "raise RuntimeError('out of order')"),
    "a syntax error": ("theirs3:Slow", "def ("),
    "something else than a sampler": ("theirs4:value", "value = 3"),
}


@pytest.mark.parametrize(("group", "ask"), [("samplers", "get_sampler(n)"), ("schedules", "get_schedule(n, 4)")])
def test_a_broken_entry_point_is_a_warning_and_everything_else_works(tmp_path: Path, group: str, ask: str) -> None:
    for i, (target, source) in enumerate(BROKEN.values()):
        installed(tmp_path, f"theirs{i}", f"[flowsamplers.{group}]\nbroken{i} = {target}\n", source)
    code = (
        "import warnings, flowsamplers as fs\n"
        "warnings.simplefilter('error'); print(fs.nfe('heun', fs.get_schedule('flux2', 4)))\n"  # nothing is said where nobody asks
        "warnings.resetwarnings()\n"
        "with warnings.catch_warnings(record=True) as said:\n"
        "    warnings.simplefilter('always')\n"
        f"    print(len(fs.list_{group}()) > 20)\n"
        "for w in said: print(w.message)\n"
        f"for n in {[f'broken{i}' for i in range(len(BROKEN))]}:\n"
        f"    try: fs.{ask}\n"
        "    except ImportError as error: print(error)"
    )
    run = python(tmp_path, code)
    works, lists, *told = run.stdout.splitlines()
    assert (works, lists) == ("8", "True")
    for i, (kind, (target, _)) in enumerate(BROKEN.items()):
        named = f"{group.removesuffix('s')} 'broken{i}' of package 'theirs{i}' (entry point '{target}') cannot be loaded"
        assert sum(named in text for text in told) == 2, kind  # when listed, and when asked for
    assert "Traceback" not in run.stderr


def test_a_broken_loader_of_flows_leaves_the_others_alone(tmp_path: Path) -> None:
    installed(tmp_path, "theirs", "[flowsamplers.flows]\nbroken = theirs:Nothing\n")
    code = (
        "import flowsamplers as fs; print(fs.flows.load_flow('mixture:four-gaussians').dim)\n"
        "try: fs.flows.load_flow('broken:model')\n"
        "except ImportError as error: print(error)"
    )
    dim, said = python(tmp_path, code).stdout.splitlines()
    assert dim == "8"
    assert "'broken' of package 'theirs' (entry point 'theirs:Nothing')" in said


def test_a_name_that_two_claim_is_an_error_that_names_both_and_no_other_name_is_touched(tmp_path: Path) -> None:
    taken = ["heun", "ddim", "lms"]  # a name, an alias, a preset
    installed(tmp_path, "theirs", "[flowsamplers.samplers]\n" + "".join(f"{name} = theirs:Slow\n" for name in taken))
    code = (
        "import warnings, flowsamplers as fs\n"
        "with warnings.catch_warnings(record=True) as said:\n"
        "    warnings.simplefilter('always')\n"
        "    fs.list_samplers()\n"
        "print(fs.get_sampler('midpoint'))\n"
        "for w in said: print(w.message)\n"
        f"for name in {taken}:\n"
        "    try: fs.get_sampler(name)\n"
        "    except ValueError as error: print(error)"
    )
    other, *told = python(tmp_path, code).stdout.splitlines()
    assert other.startswith("Midpoint")
    for name, text in zip(taken * 2, told, strict=True):
        assert f"sampler name '{name}' is claimed twice" in text
        assert "of package 'flowsamplers'" in text
        assert "by theirs:Slow of package 'theirs'" in text


def test_two_packages_that_claim_one_name_are_named_both(tmp_path: Path) -> None:
    for package in ("theirs", "others"):
        installed(tmp_path, package, f"[flowsamplers.samplers]\nslow = {package}:Slow\n")
    run = python(tmp_path, "import flowsamplers as fs; fs.get_sampler('slow')")
    assert "claimed twice" in run.stderr
    assert "theirs" in run.stderr
    assert "others" in run.stderr


def test_a_class_that_decorates_itself_may_be_an_entry_point_too(tmp_path: Path) -> None:
    source = SOURCE.replace("@dataclass(frozen=True)", "@fs.register('slow', aliases=('slower',))\n@dataclass(frozen=True)")
    installed(tmp_path, "theirs", "[flowsamplers.samplers]\nslow = theirs:Slow\n", source)
    run = python(tmp_path, "import flowsamplers as fs; print(fs.get_sampler('slower'), fs.get_sampler('slow'))")
    assert run.stdout.strip() == "Slow() Slow()", run.stderr  # the alias is found although no entry point has its name


@pytest.mark.parametrize("name", ["heun", "rf_solver"])
def test_registering_a_name_that_is_taken_names_both(name: str) -> None:
    with pytest.raises(ValueError, match=rf"'{name}' is claimed twice: by flowsamplers\..* and by .*\.Other of package"):

        @fs.register(name)
        class Other(fs.Sampler):
            """Another."""

    assert fs.get_sampler(name).order == 2


def test_one_registry_serves_anything() -> None:
    """Names, aliases, the thing behind a target, and clashes, of things that are numbers."""
    numbers: Registry[int] = Registry("number", "flowsamplers.numbers", lambda name, target: None)
    numbers.add(Registered(("one", "uno"), "1", 1, "mine"))
    numbers.add(Registered(("two",), "2", 2, "mine"))
    assert [numbers.find(n).info for n in ("one", "uno", "two")] == [1, 1, 2]
    assert numbers.names() == ["one", "uno", "two"]
    assert numbers.of("2") == numbers.find("two")
    with pytest.raises(ValueError, match="number name 'uno' is claimed twice"):
        numbers.add(Registered(("three", "uno"), "3", 3, "yours"))
    assert "three" not in numbers.names()


@pytest.mark.parametrize("registry", [SAMPLERS, SCHEDULES], ids=lambda r: r.what)
def test_every_name_finds_the_thing_that_lists_it(registry: Registry) -> None:
    things = registry.all()
    assert len({n for t in things for n in t.names}) == sum(len(t.names) for t in things)
    for thing in things:
        assert all(registry.find(name) is thing for name in thing.names)


def test_every_built_in_sampler_and_schedule_is_exported_by_its_package() -> None:
    """A name that is missing in the ``__all__`` of its module cannot be imported."""
    made = [(samplers, i.factory) for i in fs.list_samplers()] + [(schedules, i.builder) for i in fs.list_schedules()]
    assert [thing.__name__ for room, thing in made if getattr(room, thing.__name__, None) is not thing] == []


def test_a_name_that_joins_a_sampler_and_a_schedule_is_answered_with_both() -> None:
    from flowsamplers._elsewhere import data

    for name, sampler in {
        "DPM++ 2M": "dpmpp_2m",
        "DPM++ 2M SDE": "dpmpp_2m_sde",
        "LMS": "lms",
        "DPM2 a": "dpm_2_ancestral",
        "Euler": "euler",
    }.items():
        assert fs.sampler_info(sampler)
        for schedule, here in data()["webui"]["schedules"].items():
            assert fs.schedule_info(here)
            with pytest.raises(ValueError, match=rf"in one name: here they are '{sampler}' and '{here}'\. Accepted"):
                fs.get_sampler(f"{name} {schedule.title()}")
