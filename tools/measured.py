"""Measure a sampler or a schedule, or make a table again, and write every page that shows it: make measured NAME=heun.

python tools/measured.py heun       # a sampler: its orders, its rows of the benchmark, and the pages that list samplers
python tools/measured.py karras_ve  # a schedule: its rows, the plot, and the pages that list schedules
python tools/measured.py mutants    # a table: tools/build_mutants.py

What needs large models, real pipelines or a GPU is not measured here. The pages of these name what they lack.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import flowsamplers as fs

TOOLS = Path(__file__).parent


def commands(name: str) -> list[list[str]]:
    """The tools to run, with their arguments.

    Raises:
        ValueError: there is no such sampler, schedule or table; the message suggests the nearest sampler.
    """
    if (TOOLS / f"build_{name}.py").exists():
        return [[f"build_{name}"]]
    if name in {n for info in fs.list_schedules() for n in info.names}:
        schedule = fs.schedule_info(name).name
        return [["build_schedules", schedule]]
    sampler = fs.sampler_info(name).name
    pages = [["build_compatibility", "--page"], ["gpu_report", "--page"]]
    return [["build_catalogue", sampler], ["build_benchmark", sampler], *pages]


if __name__ == "__main__":
    for tool, *arguments in commands(sys.argv[1]):
        print(f"tools/{tool}.py", *arguments, flush=True)
        subprocess.run([sys.executable, str(TOOLS / f"{tool}.py"), *arguments], check=True)
