"""Write the page of names in other programs, docs/reference/names.md, from flowsamplers/_elsewhere.py and the registry.

python tools/build_names.py
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flowsamplers import _elsewhere as elsewhere

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "names.md"


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


def page() -> str:
    """The whole page."""
    text = [
        "# Names from elsewhere",
        "",
        "<!-- written by tools/build_names.py from flowsamplers/_elsewhere.py -->",
        "",
        "What a sampler or schedule of another program is called here. A name that is not one here is refused by `get_sampler` and",
        "`get_schedule` with the entry of this page. Options are written as the command line takes them: `heun:last=euler` is",
        '`fs.get_sampler("heun", last="euler")`.',
        "",
        "## ComfyUI",
        "",
        *table(elsewhere.COMFYUI),
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
        "Of its noise modes `hard` with eta y is `lcm` with eta $\\frac2\\pi \\arcsin y$, and `exp` is `euler_sde:rule=linear`; the others are",
        "rules of their own, and not here. Noise that is not Gaussian and white keeps no marginals: `seed` takes any `Noise` of your own.",
        "",
        "## Papers and others",
        "",
        *table(elsewhere.OTHERS),
        "",
    ]
    return "\n".join(text)


if __name__ == "__main__":
    PAGE.write_text(page())
