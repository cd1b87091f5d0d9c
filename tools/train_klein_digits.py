"""Train ``klein-digits``, the tiny FLUX.2 Klein that ships with flowsamplers, and measure it.

The model has the very classes and the folder format of FLUX.2 [klein], learns the 1,797 handwritten digits that scikit-learn
ships, and takes about half an hour on one core. The work folder keeps checkpoints, and the same command goes on from them:

    python tools/train_klein_digits.py --work ../klein-digits

    python tools/train_klein_digits.py --evaluate-only integrations/flowsamplers_diffusers/klein_digits
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from building import rendered
from diffusers import Flux2KleinPipeline
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tokenizers import models
from torch import Tensor
from training import (
    BATCH,
    MAX_FREQUENCY,
    SPECIALS,
    Run,
    Texts,
    alphabet,
    as_qwen,
    byte_level,
    encode,
    make_scheduler,
    make_text_encoder,
    make_transformer,
    make_vae,
    matching,
    reconstruction,
    slow_times,
    swap_in,
)
from transformers import Qwen2TokenizerFast

import flowsamplers as fs
from flowsamplers_diffusers import KleinFlow

SIZE = 16
"""Height and width of an image in pixels."""
TEXT_LENGTH = 32
"""Tokens of a prompt, padding included."""
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PHRASES = ("{d}", "{w}", "a {w}", "a handwritten {d}", "a handwritten {w}", "the digit {d}", "the digit {w}", "the number {d}")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)


def prompts_of(digit: int) -> list[str]:
    """All phrasings of one digit."""
    return [p.format(d=digit, w=WORDS[digit]) for p in PHRASES]


def digits() -> tuple[Tensor, Tensor]:
    """Images ``(1797, 3, 16, 16)`` in [-1, 1] and labels ``(1797,)``."""
    data = load_digits()
    small = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    large = F.interpolate(small, size=(SIZE, SIZE), mode="bicubic", align_corners=False).clamp(-1, 1)
    return large.expand(-1, 3, -1, -1).contiguous(), torch.tensor(data.target)


def make_tokenizer() -> Qwen2TokenizerFast:
    """A byte-level Qwen2 tokenizer without merges, with a chat template short enough for 32 tokens."""
    vocab = {token: i for i, token in enumerate([*SPECIALS, *alphabet()])}
    return as_qwen(byte_level(models.BPE(vocab=vocab, merges=[])), CHAT_TEMPLATE, TEXT_LENGTH)


def train(work: Path, steps: int, vae_steps: int, seed: int) -> tuple[Flux2KleinPipeline, list[Run]]:
    """The pipeline with averaged weights, and the runs of the autoencoder and of the transformer."""
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    (images, labels), tokenizer = digits(), make_tokenizer()
    encoder = make_text_encoder(len(tokenizer))
    transformer = make_transformer(3 * encoder.config.hidden_size)
    vae = Run(make_vae(), work / "vae.pt", vae_steps, 2e-3, seed)
    vae(lambda: reconstruction(vae.model, images[torch.randint(len(images), (BATCH,), generator=vae.rng)], vae.rng))
    parts: dict[str, Any] = {"vae": vae.average, "text_encoder": encoder, "tokenizer": tokenizer, "transformer": transformer}
    pipe = Flux2KleinPipeline(scheduler=make_scheduler(), **parts, is_distilled=False)
    latents = encode(pipe.vae, images)
    texts = Texts(pipe, [p for digit in range(10) for p in prompts_of(digit)], SIZE // 4, TEXT_LENGTH)
    run = Run(transformer.train(), work / "transformer.pt", steps, 2e-3, seed)

    def loss() -> Tensor:
        rows = torch.randint(len(labels), (BATCH,), generator=run.rng)
        text = labels[rows] * len(PHRASES) + torch.randint(len(PHRASES), (BATCH,), generator=run.rng)
        return matching(texts, run.model, latents.sample(rows, run.rng), text, run.rng, centre=0.5)

    run(loss, slow_times(run.model))
    pipe.transformer = run.average.eval()
    return pipe, [vae, run]


@torch.no_grad()
def generate(pipe: Flux2KleinPipeline, per_digit: int, guidance: float, steps: int = 50) -> tuple[Tensor, Tensor]:
    """Generated images ``(n, 16, 16)`` in [0, 1] and the digits that were asked for, by the stock pipeline."""
    pipe.set_progress_bar_config(disable=True)
    images, asked = [], []
    for digit in range(10):
        prompts = [prompts_of(digit)[i % len(PHRASES)] for i in range(per_digit)]
        generators = [torch.Generator().manual_seed(1000 * digit + i) for i in range(per_digit)]
        out = pipe(
            prompt=prompts,
            height=SIZE,
            width=SIZE,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generators,
            max_sequence_length=TEXT_LENGTH,
            output_type="pt",
        )
        images.append(out.images.float().mean(dim=1))
        asked += [digit] * per_digit
    return torch.cat(images), torch.tensor(asked)


def recognised(images: Tensor, asked: Tensor) -> tuple[float, float]:
    """Share of generated digits that a classifier of real digits reads as asked for, and its own held-out accuracy."""
    real, labels = digits()
    flat = ((real[:, 0] + 1) / 2).flatten(1).numpy()
    new = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    train_x, test_x, train_y, test_y = train_test_split(flat, labels.numpy(), test_size=0.25, random_state=0)
    held_out = float(new.fit(train_x, train_y).score(test_x, test_y))
    new.fit(flat, labels.numpy())
    return float(np.mean(new.predict(images.flatten(1).numpy()) == asked.numpy())), held_out


def evaluate(pipe: Flux2KleinPipeline, per_digit: int, guidance: float) -> dict[str, float]:
    """Measure what the card reports: digits that are read as asked for, and how far rk4 with 64 steps is from 128."""
    images, asked = generate(pipe, per_digit, guidance)
    share, accuracy = recognised(images, asked)
    flow = KleinFlow(pipe, "a handwritten 3", guidance_scale=1.0)
    x1 = flow.noise(list(range(8)))
    coarse, fine = (fs.sample(flow.velocity, x1, fs.schedules.shift(n, shift=3.0), "rk4") for n in (64, 128))
    apart = float((coarse - fine).norm() / fine.norm())
    return {"recognised": share, "generated": len(asked), "guidance": guidance, "accuracy": accuracy, "apart": apart}


def main() -> None:
    """Train, measure and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder of the checkpoints")
    parser.add_argument("--out", type=Path, default=Path("integrations/flowsamplers_diffusers/klein_digits"))
    parser.add_argument("--steps", type=int, default=18_000)
    parser.add_argument("--vae-steps", type=int, default=1_500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--per-digit", type=int, default=50, help="generated digits of each class in the evaluation")
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--evaluate-only", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.evaluate_only:
        print(evaluate(Flux2KleinPipeline.from_pretrained(args.evaluate_only), args.per_digit, args.guidance))
        return
    pipe, runs = train(args.work, args.steps, args.vae_steps, args.seed)
    card = rendered(
        "card-klein-digits.md",
        globals(),
        result=evaluate(pipe, args.per_digit, args.guidance),
        command=f"python tools/train_klein_digits.py --work W --steps {args.steps} --vae-steps {args.vae_steps} --seed {args.seed}",
        minutes=sum(run.seconds for run in runs) / 60,
        losses=[run.losses[-1][1] for run in runs],
        MAX_FREQUENCY=MAX_FREQUENCY,
    )
    swap_in(pipe, card, args.out)


if __name__ == "__main__":
    main()
