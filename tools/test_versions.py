"""The diffusers integration under every supported version of diffusers: writes docs/reference/versions.json, and versions.md from it.

python tools/test_versions.py                # all versions (about ten minutes each), each in an environment of its own outside the repository
python tools/test_versions.py 0.37.1         # one of them
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
    "tests/test_relatives.py",
    "tests/test_golden_klein.py",
    "tests/test_klein_flow.py",
    "tests/test_schedules_parity.py",
)
# What fits to each: the transformers that was current with the first, and the one of constraints.txt with the last.
VERSIONS: dict[str, tuple[str, ...]] = {"0.37.1": ("transformers>=4.57,<5",), "0.42.1": ()}
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


def outcome(version: str) -> dict[str, Any]:
    """What was installed, and what every file of tests said."""
    python = environment(version)
    program = f"import importlib.metadata as m, json; print(json.dumps({{p: m.version(p) for p in {SHOWN}}}))"
    installed = json.loads(subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout)
    tests: dict[str, dict[str, int]] = {}
    for file in TESTS:
        ran = subprocess.run(
            [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default", file],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        last = ran.stdout.strip().splitlines()[-1]
        tests[file] = {kind: int(n) for n, kind in re.findall(r"(\d+) (passed|failed|skipped|error)", last)}
        print(version, file, last, flush=True)
        if tests[file].get("failed") or tests[file].get("error"):
            print(ran.stdout[-6000:])
    return {"installed": installed, "tests": tests}


def page(found: dict[str, Any]) -> str:
    """The whole page."""
    versions = list(found)
    lines = [
        "# Supported versions",
        "",
        "<!-- written by tools/test_versions.py -->",
        "",
        "flowsamplers works with diffusers from 0.37, the first with FLUX.2 Klein, on. `make versions` sets up an environment for each of the",
        "versions below and runs the tests of the integration in it; this is what came out.",
        "",
        "| | " + " | ".join(f"diffusers {v}" for v in versions) + " |",
        "| --- |" + " --- |" * len(versions),
        *(f"| {p} | " + " | ".join(found[v]["installed"][p] for v in versions) + " |" for p in SHOWN[1:]),
        *(f"| `{file}` | " + " | ".join(_counts(found[v]["tests"][file]) for v in versions) + " |" for file in TESTS),
        "",
        "## What changed between them, and what that changes here",
        "",
        "* **Custom timesteps.** Stock keeps the `timesteps` that it is given up to 0.39, replaces them by 1000 sigma in 0.40 and 0.41, and",
        "  keeps them again from 0.42.1. The drop-in keeps them in every version: they are what the model is told.",
        "* **Noise of the full re-noise.** Stock's `stochastic_sampling` ignores the generator passed to `step` before 0.39, and draws in the",
        "  order in which the latents lie in memory. The drop-in draws as stock has since 0.39, in every version; its equality with stock bit",
        "  for bit is tested where stock honours the generator.",
        "* **Unpacking latents.** A private helper of the Klein pipeline takes the size of the image in newer versions and not in 0.37.",
        "  `KleinFlow.decode` does without it.",
        "* **transformers.** 4.57 reads the tokenizer of klein-digits from `vocab.json` and `merges.txt`, 5 from `tokenizer.json`; the folder",
        "  has both, with the same tokens.",
        "* **Fewer pipelines.** Tests of relatives that 0.37 does not have yet are left out there.",
        "",
    ]
    return "\n".join(lines)


def _counts(tests: dict[str, int]) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in tests.items())


def main() -> None:
    """Run the versions that are named, or all; write the page."""
    named = [v for v in sys.argv[1:] if not v.startswith("-")] or list(VERSIONS)
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for version in named if "--page" not in sys.argv else []:
        found[version] = outcome(version)
        RESULTS.write_text(json.dumps({v: found[v] for v in VERSIONS if v in found}, indent=1) + "\n")
    PAGE.write_text(page(found))


if __name__ == "__main__":
    main()
