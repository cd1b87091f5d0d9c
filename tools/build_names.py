"""Write the page of names in other programs, docs/reference/names.md, from flowsamplers/_elsewhere.py and docs/reference/comfyui.json.

python tools/build_names.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from flowsamplers import _elsewhere as elsewhere

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "names.md"
RUNS = json.loads((PAGE.parent / "comfyui.json").read_text())
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


def table(names: Mapping[str, elsewhere.Here], *, measured: bool = False) -> str:
    """The names of a program in a table that can be filtered; names with one answer share a line, and what is the same here has none."""
    same: list[str] = []
    endings: list[str] = []
    rows: dict[tuple[str, str], list[str]] = {}
    for name, here in names.items():
        note = "; ".join(filter(None, [here.note, distance(name) if measured else ""]))
        if not note and here.spec in (name, re.sub(r"_\ds$", "", name).replace("-", "_")):
            (same if here.spec == name else endings).append(f"`{name}`")
        else:
            spec = "the same name" if here.spec == name else f"`{here.spec}`" if here.spec else "-"
            rows.setdefault((spec, note), []).append(f"`{name}`")
    lines = [f"The same here: {', '.join(same)}.", ""] if same else []
    lines += [f"The same without the number of stages: {', '.join(endings)}.", ""] if endings else []
    lines += ['<div class="filtered" markdown="1">', "", "| there | here | note |", "| --- | --- | --- |"]
    lines += [f"| {', '.join(known)} | {spec} | {note} |" for (spec, note), known in rows.items()]
    return "\n".join([*lines, "", "</div>"])


def page() -> str:
    """The whole page."""
    versions = "\n".join(
        f"* ComfyUI {version}, commit `{run['commit'][:12]}`, measured {run['date']} with torch {run['torch']}"
        for version, run in sorted(RUNS.items())
    )
    return f"""# Names from elsewhere

<!-- written by tools/build_names.py from flowsamplers/_elsewhere.py and docs/reference/comfyui.json -->

These tables say how a sampler or schedule of another program is called here. `get_sampler` and `get_schedule` answer an unknown name with the
same text. Options are written as for the command line: `heun:last=euler` is `fs.get_sampler("heun", last="euler")`.

## ComfyUI: samplers

A sampler whose note has no distance gives the same result here, up to 1e-5. A distance is relative, and the largest of these runs:

{versions}

They took 6 steps with tiny random models of the kinds FLUX.1, FLUX.2 and SD3. Both sides had the same noise and float64 sigmas. ComfyUI 0.10.0
is the fork hiddenswitch/ComfyUI, and the only one of them with FLUX.2.

* From sigma 1, ComfyUI moves the first sigma of methods in the log-SNR to 0.9999. With the same first sigma, the results are equal.
* Leave out `last=euler` on a schedule that ends above sigma 0, such as the first part of SplitSigmas. The nodes do so themselves.

{table(elsewhere.COMFYUI, measured=True)}

`make comfyui AT=PATH` repeats the measurement, and [comfyui.json](comfyui.json) has its figures.

## ComfyUI: schedules

The plain names `karras`, `exponential` and `beta` are diffusers' schedules here.

{table(elsewhere.SCHEDULES)}

## diffusers

[Differences](differences.md) says what diffusers' schedulers do differently.

{table(elsewhere.DIFFUSERS)}

## RES4LYF

RES4LYF steps to the model's smallest sigma before 0. Here the last step is the option `last`.

{table(elsewhere.RES4LYF)}

The noise mode `hard` with eta y is `lcm` with eta $\\frac2\\pi \\arcsin y$, and `exp` is `euler_sde:rule=linear`. The other modes are not available
here. Noise that is not Gaussian and white does not keep the marginals; `seed` takes any `Noise` of your own.

## Papers and others

{table(elsewhere.OTHERS)}
"""


if __name__ == "__main__":
    from building import build

    build(__doc__, PAGE, page)
