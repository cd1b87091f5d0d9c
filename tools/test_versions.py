"""The diffusers integration under every supported version of diffusers: writes docs/reference/versions.json, and versions.md from it.

python tools/test_versions.py                # all versions (about ten minutes each), each in an environment of its own outside the repository
python tools/test_versions.py 0.37.1         # one of them
python tools/test_versions.py tests/test_budget.py     # one file of tests, in all
python tools/test_versions.py --page         # write the page from the committed results
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import venv
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "reference" / "versions.json"
PAGE = RESULTS.with_suffix(".md")
ENVIRONMENTS = Path(os.environ.get("FLOWSAMPLERS_ENVIRONMENTS", Path(tempfile.gettempdir()) / "flowsamplers-versions"))

TESTS = (
    "tests/test_scheduler.py",
    "tests/test_scheduler_config.py",
    "tests/test_scheduler_state.py",
    "tests/test_scheduler_conformance.py",
    "tests/test_scheduler_contract.py",
    "tests/test_scheduler_laws_bite.py",
    "tests/test_progress_bars.py",
    "tests/test_stock.py",
    "tests/test_budget.py",
    "tests/test_golden_klein.py",
    "tests/test_klein_flow.py",
    "tests/test_klein_family.py",
    "tests/test_klein_stochastic.py",
    "tests/test_relatives.py",
    "tests/test_schedules_parity.py",
)
# The first with Klein, the last that replaces custom timesteps, the newest; and what fits to each: the transformers that was current
# with the first, and the one of constraints.txt with the others.
VERSIONS: dict[str, tuple[str, ...]] = {"0.37.1": ("transformers>=4.57,<5",), "0.41.0": (), "0.42.1": ()}
SHOWN = ("diffusers", "transformers", "accelerate", "torch", "numpy")


def constraints(version: str) -> str:
    """constraints.txt with another diffusers, and free where that needs another partner."""
    free = "|".join(
        ["diffusers", "huggingface_hub", "tokenizers", "accelerate", "peft"] + ["transformers"] * bool(VERSIONS[version])
    )
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return "\n".join([line for line in lines if not re.match(rf"({free})==", line)] + [f"diffusers=={version}"])


def environment(version: str) -> Path:
    """A Python with this version and the package, made once."""
    folder = ENVIRONMENTS / version
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    (folder / "constraints.txt").write_text(constraints(version))
    packages = [f"{ROOT}[diffusers,cli,study,testing]", "torchdiffeq", "scikit-learn", "peft", *VERSIONS[version]]
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", folder / "constraints.txt"]
    subprocess.run([*install, *packages[1:], "-e", packages[0]], check=True)
    return python


def outcome(python: Path, file: str) -> dict[str, Any]:
    """How many tests of a file passed, and the others; of those that were left out, why."""
    ran = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default", file],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    last = ran.stdout.strip().splitlines()[-1]
    counts: dict[str, Any] = {kind: int(n) for n, kind in re.findall(r"(\d+) (passed|failed|error)", last)}
    skipped: Counter[str] = Counter()
    for n, reason in re.findall(r"^SKIPPED \[(\d+)\] \S+: (.+)$", ran.stdout, re.MULTILINE):
        skipped[reason] += int(n)
    print(python.parent.parent.name, file, last, flush=True)
    if ran.returncode:
        print(ran.stdout[-6000:])
    return {**counts, "skipped": dict(sorted(skipped.items()))}


def installed(python: Path) -> dict[str, str]:
    """The versions of what matters."""
    program = f"import importlib.metadata as m, json; print(json.dumps({{p: m.version(p) for p in {SHOWN}}}))"
    return json.loads(subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout)


def page() -> str:
    """The whole page, from the committed results."""
    found: dict[str, Any] = json.loads(RESULTS.read_text())
    skipped = {v: sum((Counter(counts["skipped"]) for counts in ran["tests"].values()), Counter()) for v, ran in found.items()}
    lines = [
        "# Supported versions",
        "",
        "<!-- written by tools/test_versions.py -->",
        "",
        "flowsamplers works with diffusers 0.37, the first version with FLUX.2 Klein, and with all later versions. `make versions` sets up an",
        "environment for each version in the table and runs the tests of the integration. The table shows the results. Version 0.41 is included",
        "because it handles custom timesteps differently.",
        "",
        *_table("", {p: [ran["installed"][p] for ran in found.values()] for p in SHOWN[1:]}, list(found)),
        *_table("tests", {f"`{f}`": [_counts(ran["tests"].get(f)) for ran in found.values()] for f in TESTS}, list(found))[2:],
        "",
        "These tests were left out:",
        "",
        *_table(
            "reason", {r: [s[r] or "" for s in skipped.values()] for r in sorted({*chain(*skipped.values())})}, list(found)
        ),
        "",
        "## What differs between the versions",
        "",
        "* **Custom timesteps.** Up to 0.39, stock keeps the `timesteps` that you pass. 0.40 and 0.41 replace them by 1000 sigma. 0.42 keeps them",
        "  again. The drop-in passes them to the model unchanged in every version. Klein's pipelines pass sigmas, so nothing changes for them.",
        "* **Pipelines.** 0.37 has Klein's text and image pipeline and the modular pipelines. The key-value and inpaint pipelines came with 0.38.",
        "  Tests of a pipeline are left out in versions that do not have it.",
        "* **Noise of `stochastic_sampling`.** Before 0.39, stock ignores the generator passed to `step`, and the noise depends on the memory",
        "  layout of the latents. The drop-in draws noise as stock has since 0.39, in every version. The tests compare it with stock only where",
        "  stock uses the generator.",
        "* **Z-Image.** Before 0.39, its pipelines set the lowest sigma of the schedule to 0, and stock appends another 0. The last of N model",
        "  calls then has no effect. The drop-in keeps one 0, and gives the same bits after N - 1 steps. Image to image with a `strength` of at",
        "  most 1/N would have no steps left, so it raises an error. From 0.39 on, both make N steps.",
        "* **Group offloading.** Before 0.41, `enable_group_offload` raises an error on a machine without an accelerator, with any scheduler.",
        "* **Defects of stock's schedulers.** [The table](stock-defects.md) is the same in every version.",
        "* **Unpacking latents.** A private helper of the Klein pipeline takes the size of the image in newer versions, but not in 0.37.",
        "  `KleinFlow.decode` does not use the helper.",
        "* **transformers.** 4.57 reads the tokenizer of klein-digits from `vocab.json` and `merges.txt`, and 5 from `tokenizer.json`. The folder",
        "  has both, with the same tokens. From 5 on, two threads may share the text encoder. In 4.57 they must not, because it mixes up their",
        "  hidden states. They may share the other networks in both versions.",
        "",
    ]
    return "\n".join(lines)


def _table(corner: str, rows: dict[str, list[Any]], versions: list[str]) -> list[str]:
    """A column for each version."""
    head = [f"| {corner} | " + " | ".join(f"diffusers {v}" for v in versions) + " |", "| --- |" + " --- |" * len(versions)]
    return head + [f"| {name} | " + " | ".join(map(str, cells)) + " |" for name, cells in rows.items()]


def _counts(tests: dict[str, Any] | None) -> str:
    if tests is None:
        return "not run"
    counts = {**tests, "left out": sum(tests["skipped"].values())}
    return ", ".join(f"{n} {kind}" for kind, n in counts.items() if kind != "skipped" and n)


def main() -> None:
    """Run the versions and files that are named, or all; write the page."""
    versions = [v for v in VERSIONS if v in sys.argv] or list(VERSIONS)
    files = [f for f in TESTS if f in sys.argv] or list(TESTS)
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for version in versions if "--page" not in sys.argv else []:
        python = environment(version)
        tests = found.get(version, {}).get("tests", {})
        for file in files:
            tests[file] = outcome(python, file)
            ordered = {f: tests[f] for f in TESTS if f in tests}
            found[version] = {"installed": installed(python), "tests": ordered}
            RESULTS.write_text(json.dumps({v: found[v] for v in VERSIONS if v in found}, indent=1) + "\n")
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
