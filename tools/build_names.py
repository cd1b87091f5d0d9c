"""Write the page of names in other programs, docs/reference/names.md, from flowsamplers/_elsewhere.py and docs/reference/comfyui.json.

python tools/build_names.py
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from flowsamplers import _elsewhere as elsewhere

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "names.md"
RUNS = json.loads((PAGE.parent / "comfyui.json").read_text())
"""What `make comfyui` measured, by the version of ComfyUI."""
ROUNDING = 1e-5


def table(names: Mapping[str, elsewhere.Here]) -> list[str]:
    """Names with one answer share a row."""
    rows: dict[elsewhere.Here, list[str]] = {}
    for name, here in names.items():
        key = here._replace(spec="=") if here == (name, "") else here
        rows.setdefault(key, []).append(name)
    lines = ["| there | here | note |", "| --- | --- | --- |"]
    for here, known in rows.items():
        spec = "the same name" if here.spec == "=" else f"`{here.spec}`" if here.spec else "-"
        lines.append(f"| {', '.join(f'`{n}`' for n in known)} | {spec} | {here.note} |")
    return lines


def worst(what: str, name: str) -> str:
    """The largest distance of a name, over versions and models; from 1e-5 on it is another map."""
    found = [v for run in RUNS.values() for k, v in run[what].items() if k.split()[0] == name and not isinstance(v, str)]
    if not found:
        return "-"
    return f"{max(found):.0e}".replace("e-0", "e-") if max(found) > ROUNDING else "equal"


def measured_table(names: Mapping[str, elsewhere.Here]) -> list[str]:
    """As `table`, with what was measured beside ComfyUI."""
    rows: dict[tuple[elsewhere.Here, str, str], list[str]] = {}
    for name, here in names.items():
        key = here._replace(spec="=") if here == (name, "") else here
        rows.setdefault((key, worst("below 1", name), worst("from 1", name)), []).append(name)
    lines = ["| there | here | below sigma 1 | from sigma 1 | note |", "| --- | --- | --- | --- | --- |"]
    for (here, below, whole), known in rows.items():
        spec = "the same name" if here.spec == "=" else f"`{here.spec}`" if here.spec else "-"
        lines.append(f"| {', '.join(f'`{n}`' for n in known)} | {spec} | {below} | {whole} | {here.note} |")
    return lines


def page() -> str:
    """The whole page."""
    text = [
        "# Names from elsewhere",
        "",
        "<!-- written by tools/build_names.py from flowsamplers/_elsewhere.py and docs/reference/comfyui.json -->",
        "",
        "What a sampler or schedule of another program is called here. A name that is not one here is refused by `get_sampler` and",
        "`get_schedule` with the entry of this page. Options are written as the command line takes them: `heun:last=euler` is",
        '`fs.get_sampler("heun", last="euler")`.',
        "",
        "## ComfyUI",
        "",
        *(
            f"* ComfyUI {version}, commit `{run['commit'][:12]}`, measured {run['date']} with torch {run['torch']}"
            for version, run in sorted(RUNS.items())
        ),
        "",
        "The two columns in the middle show the largest relative distance between ComfyUI's result and the one here, with 6 steps. The models are",
        'tiny random ones of the kinds FLUX.1, FLUX.2 and SD3. Both sides get the same noise and float64 sigmas. "equal" is',
        "a distance of at most 1e-5. ComfyUI 0.10.0 is the fork hiddenswitch/ComfyUI, and the only one of them with FLUX.2.",
        "",
        "From sigma 1, ComfyUI moves the first sigma of the methods in the log-SNR to 0.9999. This explains the values above 1e-5 in that column:",
        "if the sigma is moved here too, the results are equal. `make comfyui AT=PATH` repeats the measurement.",
        "",
        "Leave out `last=euler` on a schedule that ends above sigma 0, such as the first part of SplitSigmas. The nodes do so themselves.",
        "",
        *measured_table(elsewhere.COMFYUI),
        "",
        "### Its schedules",
        "",
        "Where one name means two schedules, the plain one is diffusers' and ComfyUI's ends in `_comfy`.",
        "",
        *table(elsewhere.SCHEDULES),
        "",
        "## diffusers",
        "",
        "Its schedulers are sampler and schedule in one; these are the samplers. What is different: [differences](differences.md).",
        "",
        *table(elsewhere.DIFFUSERS),
        "",
        "## RES4LYF",
        "",
        "All of them step to the model's smallest sigma before 0, unless told otherwise; here the last step is the option `last`.",
        "",
        *table(elsewhere.RES4LYF),
        "",
        "Its noise mode `hard` with eta y is `lcm` with eta $\\frac2\\pi \\arcsin y$, and `exp` is `euler_sde:rule=linear`. The other modes are not",
        "available here. Noise that is not Gaussian and white does not keep the marginals; `seed` takes any `Noise` of your own.",
        "",
        "## Papers and others",
        "",
        *table(elsewhere.OTHERS),
        "",
    ]
    return "\n".join(text)


if __name__ == "__main__":
    from building import build

    build(__doc__, PAGE, page)
