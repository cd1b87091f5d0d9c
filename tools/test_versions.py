"""The diffusers integration under every supported version of diffusers: writes docs/reference/versions.json.

python tools/test_versions.py                # all versions (about ten minutes each), each in an environment of its own outside the repository
python tools/test_versions.py 0.37.1         # one of them
python tools/test_versions.py tests/test_budget.py     # one file of tests, in all
python tools/test_versions.py --page         # write the page, docs/reference/compatibility.md, from the committed results
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
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "reference" / "versions.json"
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
    from build_compatibility import PAGE, page  # noqa: PLC0415

    PAGE.write_text(page())


if __name__ == "__main__":
    main()
