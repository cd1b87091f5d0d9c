"""Time what a yield costs; docs/howto/write-a-sampler.md has the figures.

python tools/bench_yield.py
"""

from __future__ import annotations

import timeit
from collections.abc import Generator

import torch

import flowsamplers as fs

STEPS = 1000


def asking() -> Generator[fs.Evaluate, float, float]:
    """Ask for ever."""
    request = fs.Evaluate(torch.zeros(1), 0.5)
    while True:
        yield request


def best(statement: object, number: int) -> float:
    """Nanoseconds of one call, the fastest of seven rounds."""
    return 1e9 * min(timeit.repeat(statement, number=number, repeat=7)) / number  # type: ignore[call-overload]


def lines() -> list[str]:
    """What is measured."""
    work = asking()
    next(work)
    x, grid = torch.zeros(1, 4), fs.schedules.linear(STEPS)
    loop = best(lambda: fs.sample(lambda x, sigma: x, x, grid, "euler"), 1) / STEPS

    def plain() -> None:
        y = x
        for h in grid.dt:
            y = y + h * y

    return [
        f"one yield, asked and sent               {best(lambda: work.send(0.0), 100_000):8.0f} ns",
        f"one step of euler on 4 numbers          {loop:8.0f} ns",
        f"the same in a loop without the library  {best(plain, 1) / STEPS:8.0f} ns",
    ]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("\n".join(lines()))
