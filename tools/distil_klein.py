"""Distil a Klein: four calls without guidance on the nodes of FLUX.2's schedule do what the teacher does with guidance.

    python tools/distil_klein.py klein-digits --work ../klein-digits-distilled
    python tools/distil_klein.py klein-emoji --source ../klein-emoji/klein-emoji --work ../klein-emoji

The student begins with the teacher's weights. It learns, at each node, the straight line to where the teacher's guided path is at the
next node. The first round follows the teacher from the noise; the others start from where the student itself arrives, so that it
learns to mend what it left. The checkpoint is kept in the work folder, and the same command goes on from it.
"""

from __future__ import annotations

import argparse
import copy
import math
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from building import rendered
from diffusers import Flux2KleinPipeline
from torch import Tensor
from train_klein_digits import TEXT_LENGTH as DIGITS_LENGTH
from train_klein_digits import prompts_of
from train_klein_emoji import CARD_DATA, GUIDANCE, PROMPTS, Phrasings
from training import Run, Texts, compiled, slow_times, swap_in

import flowsamplers as fs
from flowsamplers_diffusers import load_klein

CALLS, PARTS = 4, 6
"""Steps of the student, and steps of the teacher's solver in each of them."""
TEACHER_SOLVER = "midpoint"
CHUNK = 512


@dataclass(frozen=True)
class Subject:
    """What a model was taught: its texts, its guidance, and the length of a prompt in tokens."""

    texts: list[str]
    guidance: float
    length: int
    data: str


def subjects() -> dict[str, Subject]:
    """The models that can be distilled."""
    digits = list(chain.from_iterable(prompts_of(digit) for digit in range(10)))
    listed = {item.split("=")[1].strip(): category for category, items in PROMPTS.items() for item in items.split(";")}
    return {
        "klein-digits": Subject(digits, 2.0, DIGITS_LENGTH, DIGITS_DATA),
        "klein-emoji": Subject(Phrasings(list(listed), list(listed.values())).texts, GUIDANCE, 16, CARD_DATA),
    }


DIGITS_DATA = """The teacher learned from Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning Repository (1998),
CC BY 4.0 (https://doi.org/10.24432/C50P49)."""


class Teacher:
    """The guided field, and the student's nodes."""

    def __init__(self, pipe: Flux2KleinPipeline, subject: Subject) -> None:
        self.channels = pipe.transformer.config.in_channels
        side = pipe.vae.config.sample_size // (2 * pipe.vae_scale_factor)
        self.tokens, self.guidance = side * side, subject.guidance
        self.texts = Texts(pipe, subject.texts, side, subject.length)
        mu = fs.schedules.empirical_mu(tokens=self.tokens, steps=CALLS)
        self.sigmas = fs.schedules.flux2(CALLS, tokens=self.tokens, mu=mu).sigmas
        self.fine = fs.schedules.flux2(CALLS * PARTS, tokens=self.tokens, mu=mu).sigmas
        self.model = compiled(pipe.transformer.eval())

    def noise(self, n: int, rng: torch.Generator) -> Tensor:
        """Where paths begin."""
        return torch.randn(n, self.tokens, self.channels, generator=rng)

    def follow(self, x: Tensor, node: int, rows: Tensor) -> Tensor:
        """Where the guided path from ``x`` at one node is at the next."""

        def velocity(x: Tensor, sigma: Tensor) -> Tensor:
            return self.texts.guided(self.model, x, sigma.expand(len(x)), rows, self.guidance)

        grid = fs.SigmaGrid(self.fine[node * PARTS : (node + 1) * PARTS + 1])
        return fs.sample(velocity, x, grid, TEACHER_SOLVER)

    def straight(self, model: torch.nn.Module, x: Tensor, node: int, rows: Tensor) -> Tensor:
        """Where the student's step from one node leads."""
        v = self.texts.velocity(model, x, torch.full((len(x),), self.sigmas[node]), rows)
        return x + (self.sigmas[node + 1] - self.sigmas[node]) * v


class Lessons:
    """Points at all nodes and where the teacher leads from them, ``(n, calls, tokens, channels)``, in half precision on a GPU."""

    def __init__(self, teacher: Teacher, rng: torch.Generator) -> None:
        self.teacher, self.rng = teacher, rng
        self.here, self.there, self.rows = [], [], []

    @torch.no_grad()
    def add(self, paths: int, student: torch.nn.Module | None) -> None:
        """Some more paths: the teacher's own, or with stops where the student arrives."""
        for _ in range(0, paths, CHUNK):
            n = min(CHUNK, paths)
            rows = torch.randint(self.teacher.texts.empty, (n,), generator=self.rng)
            x, here, there = self.teacher.noise(n, self.rng), [], []
            for node in range(CALLS):
                after = self.teacher.follow(x, node, rows)
                here.append(x)
                there.append(after)
                x = after if student is None else self.teacher.straight(student, x, node, rows)
            half = torch.float16 if x.is_cuda else torch.float32
            self.here.append(torch.stack(here, dim=1).to(half))
            self.there.append(torch.stack(there, dim=1).to(half))
            self.rows.append(rows)

    def draw(self, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Points, where they lead, the numbers of their nodes and of their texts."""
        chunk = torch.randint(len(self.rows), (1,), generator=self.rng).item()
        rows = torch.randint(len(self.rows[chunk]), (n,), generator=self.rng)
        node = torch.randint(CALLS, (n,), generator=self.rng)
        return self.here[chunk][rows, node].float(), self.there[chunk][rows, node].float(), node, self.rows[chunk][rows]


def train(pipe: Flux2KleinPipeline, subject: Subject, work: Path, options: argparse.Namespace) -> Run:
    """Fit the student, and put it into the pipeline."""
    student = copy.deepcopy(pipe.transformer).train()
    teacher = Teacher(pipe, subject)
    run = Run(student, work / "student.pt", options.steps, options.rate, seed=0, minutes=options.minutes)
    lessons, model, average = Lessons(teacher, run.rng), compiled(student), run.average
    sigmas = torch.tensor(teacher.sigmas)
    begun = 0

    def loss() -> Tensor:
        nonlocal begun
        while begun <= min(options.rounds - 1, int(run.share * options.rounds)):
            lessons.add(options.paths, student=average if run.done else None)
            begun += 1
        x, then, node, rows = lessons.draw(options.batch)
        target = (then - x) / (sigmas[node + 1] - sigmas[node])[:, None, None]
        return F.mse_loss(teacher.texts.velocity(model, x, sigmas[node], rows), target)

    run(loss, slow_times(student), every=120.0 if options.minutes == math.inf else 6 * options.minutes)
    pipe.transformer = run.average.eval()
    pipe.register_to_config(is_distilled=True)
    return run


def card(
    name: str, subject: Subject, command: str, steps: int, seconds: float, measured: str = "", machine: str = "one machine"
) -> str:
    """The model card.

    Args:
        name: of the teacher.
        subject: what it was taught.
        command: that made the student.
        steps: of the optimizer.
        seconds: that they took.
        measured: what is known of the student.
        machine: where it was trained.
    """
    told = {"name": name, "subject": subject, "command": command, "steps": steps, "minutes": seconds / 60}
    return rendered("card-distilled.md", globals(), **told, measured=measured, machine=machine)


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=subjects())
    parser.add_argument("--source", help="folder of the teacher; by default the bundled one")
    parser.add_argument("--work", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--out", type=Path, help="folder of the student; by default the bundled one")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--minutes", type=float, default=math.inf, help="of training, those of earlier runs among them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--paths", type=int, default=1024, help="in each round")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    subject = subjects()[args.name]
    args.work.mkdir(parents=True, exist_ok=True)
    pipe = load_klein(args.source or args.name, device=args.device, dtype=torch.float32)
    torch.set_default_device(args.device)
    run = train(pipe, subject, args.work, args)
    command = f"python tools/distil_klein.py {args.name} --rounds {args.rounds} --paths {args.paths} --batch {args.batch} --device {args.device}"
    bundled = Path(f"integrations/flowsamplers_diffusers/{args.name.replace('-', '_')}_distilled")
    swap_in(pipe, card(args.name, subject, command, run.done, run.seconds), args.out or bundled)


if __name__ == "__main__":
    main()
