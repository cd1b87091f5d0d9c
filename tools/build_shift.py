"""How the shift of the schedule changes the error of a model of 64 tokens.

python tools/build_shift.py ../shift   measures, and writes docs/explanation/shift-and-tokens.json and .svg, and flux2-schedule.md
python tools/build_shift.py --page     writes figure and page from the committed measurements

The work folder keeps what was solved, so that a measurement that was interrupted goes on.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from building import DOCS, build, drawn, load, save, table, with_measured
from measure_klein_emoji import kept, models, share, solve
from torch import Tensor
from train_klein_emoji import COMMON_PROMPTS, GUIDANCE

import flowsamplers as fs
from flowsamplers.schedules import empirical_mu

EXPLANATION = DOCS / "explanation"
PAGE = EXPLANATION / "flux2-schedule.md"
DATA, PLOT = (EXPLANATION / f"shift-and-tokens{end}" for end in (".json", ".svg"))
PROMPTS = COMMON_PROMPTS[::8]
NOISES = 2
SEED = 200_000
SAMPLERS = ("euler", "ab2", "midpoint")
CALLS = (4, 6, 8, 12, 20)
SWEEP = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 3.0)
"""Values of mu beside those of FLUX.2."""
SWEPT = 8
"""Model calls of the sweep."""
TOKENS = (64, 4096)
FINE = 80
"""Steps of the reference, by rk4; half as many check it."""


def shifts(calls: int) -> dict[str, float]:
    """The values of mu at one number of calls: those of FLUX.2 for that many steps, and others."""
    named = {f"{tokens} tokens": empirical_mu(tokens=tokens, steps=calls) for tokens in TOKENS}
    others = SWEEP if calls == SWEPT else (0.0,)
    return named | {f"{mu:g}": mu for mu in others}


def measure(given: list[str]) -> None:
    """Relative errors of the end points against the reference, means over prompts and noises."""
    torch.set_num_threads(1)
    work = Path(given[0])
    flow = models()["teacher"]
    prompts = [p for p in PROMPTS for _ in range(NOISES)]
    x1 = flow.noise([SEED + i for i in range(len(prompts))])

    def path(steps: int) -> Tensor:
        grid = fs.schedules.flux2(steps, tokens=64, mu=1.0)
        run = fs.trace(lambda x, s: flow.velocity(x, s, prompts), x1, grid, "rk4")
        return torch.stack([x.float() for x in run.states])

    fine, coarse = (kept(work / "runs" / "shift" / f"path-{n}.pt", partial(path, n)) for n in (FINE, FINE // 2))
    end, off = fine[-1], fs.reference.relative_error
    found: dict[str, Any] = {"prompts": prompts, "guidance": GUIDANCE, "rows": len(prompts), "torch": torch.__version__}
    found["reference"] = {"steps": FINE, "to_half_as_many": share(off(coarse[-1], end))}
    found["bend"] = bend(fine)
    found["runs"] = []
    for calls in CALLS:
        for label, mu in shifts(calls).items():
            for name in SAMPLERS:
                steps = fs.largest_steps(name, calls, lambda n, mu=mu: fs.schedules.flux2(n, tokens=64, mu=mu))
                grid = fs.schedules.flux2(steps, tokens=64, mu=mu)
                file = work / "runs" / "shift" / f"{name}-{calls}-{mu:.4f}.pt"
                x0 = kept(file, partial(solve, flow, prompts, x1, grid, name))
                run = {"calls": calls, "shift": label, "mu": mu, "sampler": name, "error": share(off(x0, end))}
                found["runs"].append(run)
        print(calls, flush=True)
    save(DATA, found)


def bend(states: Tensor) -> list[list[float]]:
    """How fast the velocity turns along the reference path: (sigma, norm of its derivative by sigma, relative to its norm)."""
    sigmas = torch.tensor(fs.schedules.flux2(len(states) - 1, tokens=64, mu=1.0).sigmas)
    flat = states.flatten(2).double()
    v = flat.diff(dim=0) / sigmas.diff()[:, None, None]
    middle = (sigmas[1:] + sigmas[:-1]) / 2
    turn = (v.diff(dim=0) / middle.diff()[:, None, None]).norm(dim=2) / v[1:].norm(dim=2)
    return [[float(s), float(t)] for s, t in zip(sigmas[1:-1], turn.mean(dim=1), strict=True)]


# What is written


def figure() -> bytes:
    """The error against mu, and where the path bends."""
    found = load(DATA)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), constrained_layout=True)
    for name in SAMPLERS:
        runs = sorted((r for r in found["runs"] if (r["sampler"], r["calls"]) == (name, SWEPT)), key=lambda r: r["mu"])
        mean, half = np.array([r["error"] for r in runs]).T
        left.errorbar([r["mu"] for r in runs], mean, half, label=name, marker="o", markersize=3, capsize=2, linewidth=1)
    for label, mu in list(shifts(SWEPT).items())[: len(TOKENS)]:
        left.axvline(mu, color="black", linewidth=0.6, linestyle="--")
        left.annotate(label, (mu, 0.03), rotation=90, fontsize=7, ha="right", va="bottom", xycoords=("data", "axes fraction"))
    left.set(title=f"{SWEPT} model calls", xlabel="mu", ylabel="relative error", yscale="log")
    left.legend(fontsize=8, frameon=False)
    right.plot(*np.array(found["bend"]).T, linewidth=1)
    right.set(title="where the path bends", xlabel="sigma", ylabel="change of the velocity by sigma, relative", ylim=(0, None))
    return drawn(figure)


def page() -> str:
    """The page with its measured part renewed."""
    found = load(DATA)
    at = {(r["sampler"], r["calls"], r["shift"]): r["error"] for r in found["runs"]}
    shown = ("0", "64 tokens", "4096 tokens")
    rows = ([f"`{name}`", *("{:.2f} ± {:.2f}".format(*at[name, SWEPT, label]) for label in shown)] for name in SAMPLERS)
    other = ", ".join(str(calls) for calls in CALLS if calls != SWEPT)
    part = f"""{table("sampler | no shift, mu = 0: | mu of 64 tokens: | mu of 4,096 tokens:", rows)}

The figures are relative errors of the final latents of {found["rows"]} pictures, with 95 % intervals. [All values](shift-and-tokens.json) include
{other} calls. The reference is `rk4` with {FINE} steps; its own error is about {found["reference"]["to_half_as_many"][0]:.1%}."""
    return with_measured(PAGE.read_text(), "build_shift.py", part)


WRITTEN = {PAGE: page, PLOT: figure}

if __name__ == "__main__":
    build(__doc__, WRITTEN, measure)
