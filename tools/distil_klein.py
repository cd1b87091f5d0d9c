"""Distil a bundled Klein: four calls without guidance on the nodes of FLUX.2's schedule do what the teacher does with guidance.

    python tools/distil_klein.py --work ../klein-digits-distilled

The student begins with the teacher's weights. It learns, at each node of the teacher's guided path, the straight line to the next
node. Paths and checkpoints are kept in the work folder, and the same command goes on from them.
"""

from __future__ import annotations

import argparse
import copy
from itertools import chain
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from train_klein_digits import fast_columns, prompts_of, swap_in
from train_klein_emoji import Run

import flowsamplers as fs
from flowsamplers_diffusers import KleinFlow

CALLS = 4
GUIDANCE = 2.0
"""Of the teacher, as in its card."""
PARTS = 4
"""Steps of the teacher's solver in each of the student's."""
PROMPTS = list(chain.from_iterable(prompts_of(digit) for digit in range(10)))


def grids(tokens: int) -> tuple[fs.SigmaGrid, fs.SigmaGrid]:
    """The student's schedule, and the teacher's, which passes through all its nodes."""
    mu = fs.schedules.empirical_mu(tokens=tokens, steps=CALLS)
    return fs.schedules.flux2(CALLS, tokens=tokens, mu=mu), fs.schedules.flux2(CALLS * PARTS, tokens=tokens, mu=mu)


def teacher(name: str) -> KleinFlow:
    """The velocity field to learn from; both passes of the guidance in one batch."""
    return KleinFlow.load(name, guidance_scale=GUIDANCE, batched_guidance=True, device="cpu")


def make_paths(flow: KleinFlow, path: Path, count: int) -> tuple[Tensor, Tensor]:
    """Points of guided paths at the student's nodes, ``(n, nodes, tokens, channels)``, and the numbers of their prompts."""
    coarse, fine = grids(flow.tokens)
    assert all(abs(a - b) < 1e-6 for a, b in zip(fine.sigmas[::PARTS], coarse.sigmas, strict=True))
    kept = torch.load(path, weights_only=True) if path.exists() else {"states": [], "prompts": []}
    while sum(map(len, kept["states"])) < count:
        first = sum(map(len, kept["states"]))
        seeds = list(range(first, min(first + 128, count)))
        chosen = torch.randint(len(PROMPTS), (len(seeds),), generator=torch.Generator().manual_seed(first))
        condition = [PROMPTS[i] for i in chosen]
        states = fs.trace(lambda x, s, c=condition: flow.velocity(x, s, c), flow.noise(seeds), fine, "ab2").states[::PARTS]
        kept["states"].append(torch.stack(states, dim=1))
        kept["prompts"].append(chosen)
        torch.save(kept, path)
        print(f"{seeds[-1] + 1}/{count} paths", flush=True)
    return torch.cat(kept["states"])[:count], torch.cat(kept["prompts"])[:count]


def train(name: str, work: Path, steps: int, paths: int, batch: int = 64, rate: float = 1e-3) -> KleinFlow:
    """Fit the student; returns it as a velocity field."""
    work.mkdir(parents=True, exist_ok=True)
    flow = teacher(name)
    states, prompts = make_paths(flow, work / "paths.pt", paths)
    sigmas = torch.tensor(grids(flow.tokens)[0].sigmas)
    with torch.no_grad():
        for prompt in PROMPTS:
            flow._encoded(prompt)
    student = copy.deepcopy(flow.pipe.transformer).train()
    run = Run(student, work / "student.pt", steps, rate, seed=0)
    fast, weight = fast_columns(student), student.time_guidance_embed.timestep_embedder.linear_1.weight
    flow.pipe.transformer = student

    def hold() -> None:
        with torch.no_grad():
            weight[:, fast] = 0

    def loss() -> Tensor:
        rows = torch.randint(len(states), (batch,), generator=run.rng)
        k = torch.randint(CALLS, (batch,), generator=run.rng)
        now, then = states[rows, k], states[rows, k + 1]
        v = flow._forward(now, sigmas[k], [PROMPTS[i] for i in prompts[rows]], "cond")
        return F.mse_loss(v, (then - now) / (sigmas[k + 1] - sigmas[k])[:, None, None])

    run(loss, hold)
    flow.pipe.transformer = run.average.eval()
    flow.pipe.register_to_config(is_distilled=True)
    print(f"{run.seconds / 60:.0f} minutes, loss {run.losses[-1][1]:.4f}")
    return flow


def card(steps: int, paths: int) -> str:
    """The model card."""
    return f"""---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# klein-digits-distilled

`klein-digits`, distilled: four Euler steps without guidance draw what the teacher draws with guidance {GUIDANCE:g}. `is_distilled` is true,
as it is for FLUX.2 [klein] 4B. It ships with flowsamplers so that samplers can be measured on a distilled model.

```python
from flowsamplers_diffusers import load_klein

pipe = load_klein("klein-digits-distilled")
image = pipe(prompt="a handwritten 3", num_inference_steps=4, max_sequence_length=32).images[0]
```

The prompts are those of `klein-digits`. The measurements are on the site's page "Distilled against base".

## Made by
`python tools/distil_klein.py --steps {steps} --paths {paths}` (seeded, one thread of a shared CPU). The student begins with the teacher's
weights and learns by regression: at each of the four nodes of FLUX.2's schedule (4 steps, 16 tokens) the straight line to the next node
of the teacher's guided path. The teacher's paths are made by `ab2` with {CALLS * PARTS} steps.

## Data and licence
The teacher learned from Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning Repository (1998),
CC BY 4.0 (https://doi.org/10.24432/C50P49). Weights and code: Apache-2.0.
"""


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="klein-digits")
    parser.add_argument("--work", type=Path, required=True, help="folder of the paths and the checkpoint")
    parser.add_argument("--out", type=Path, default=Path("integrations/flowsamplers_diffusers/klein_digits_distilled"))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--paths", type=int, default=3072)
    args = parser.parse_args()
    torch.set_num_threads(1)
    flow = train(args.teacher, args.work, args.steps, args.paths)
    swap_in(flow.pipe, card(args.steps, args.paths), args.out)


if __name__ == "__main__":
    main()
