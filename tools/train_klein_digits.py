"""Train ``klein-digits``, the tiny FLUX.2 Klein that ships with flowsamplers, and measure it.

The model has the very classes and the folder format of FLUX.2 [klein], learns the 1,797 handwritten digits that scikit-learn
ships, and takes about half an hour on one core:

    python tools/train_klein_digits.py --out integrations/flowsamplers_diffusers/klein_digits

    python tools/train_klein_digits.py --evaluate-only integrations/flowsamplers_diffusers/klein_digits
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import shutil
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline, Flux2Transformer2DModel
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from tqdm import tqdm
from transformers import Qwen2TokenizerFast, Qwen3Config, Qwen3ForCausalLM

SIZE = 16
"""Height and width of an image in pixels."""
TEXT_LENGTH = 32
"""Tokens of a prompt, padding included."""
MAX_FREQUENCY = 60.0
"""Time frequencies above this, in radians per unit sigma, are kept out of the network, so that the field is smooth in time."""
KL_WEIGHT = 5e-4
"""Weight of the autoencoder's KL term. It leaves the posteriors a width, the flow learns samples of them, and so the field stays
smooth near the data; with a weight of 1e-5 its acceleration grew tenfold below sigma = 0.03."""
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PHRASES = ("{d}", "{w}", "a {w}", "a handwritten {d}", "a handwritten {w}", "the digit {d}", "the digit {w}", "the number {d}")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)


@dataclass(frozen=True)
class Evaluation:
    """What the card says of the model."""

    recognised: float
    generated: int
    guidance: float
    classifier_accuracy: float
    self_difference: float


def prompts_of(digit: int) -> list[str]:
    """All phrasings of one digit."""
    return [p.format(d=digit, w=WORDS[digit]) for p in PHRASES]


def digits() -> tuple[Tensor, Tensor]:
    """Images ``(1797, 3, 16, 16)`` in [-1, 1] and labels ``(1797,)``."""
    data = load_digits()
    small = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    large = F.interpolate(small, size=(SIZE, SIZE), mode="bicubic", align_corners=False).clamp(-1, 1)
    return large.expand(-1, 3, -1, -1).contiguous(), torch.tensor(data.target)


SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
"""Tokens of a chat."""


def alphabet() -> list[str]:
    """Every byte as a token."""
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def byte_level(model: models.BPE) -> Tokenizer:
    """A tokenizer of bytes, to be trained or used as it is."""
    core = Tokenizer(model)
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return core


def as_qwen(core: Tokenizer, template: str, length: int) -> Qwen2TokenizerFast:
    """The tokenizer of the pipeline, with a chat template and the largest number of tokens."""
    core.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    tokenizer = Qwen2TokenizerFast(
        tokenizer_object=core, unk_token=None, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=length
    )
    tokenizer.chat_template = template
    return tokenizer


def make_tokenizer() -> Qwen2TokenizerFast:
    """A byte-level Qwen2 tokenizer without merges, with a chat template short enough for 32 tokens."""
    vocab = {token: i for i, token in enumerate([*SPECIALS, *alphabet()])}
    return as_qwen(byte_level(models.BPE(vocab=vocab, merges=[])), CHAT_TEMPLATE, TEXT_LENGTH)


def make_text_encoder(vocab_size: int, width: int = 16, std: float = 0.1) -> Qwen3ForCausalLM:
    """A narrow Qwen3 with frozen random weights: 28 layers, because the pipeline reads hidden states 9, 18 and 27."""
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=28,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=width // 2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        initializer_range=std,
    )
    model = Qwen3ForCausalLM(config).eval().requires_grad_(requires_grad=False)
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=1.0)
    return model


def make_vae(widths: tuple[int, ...] = (16, 32), latent: int = 4, side: int = SIZE) -> AutoencoderKLFlux2:
    """The autoencoder: without options 16x16 pixels to 8x8 latents of 4 channels, that is 4x4 tokens of 16."""
    return AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=latent,
        norm_num_groups=8,
        sample_size=side,
        mid_block_add_attention=False,
    )


def make_transformer(text_width: int, channels: int = 16, blocks: int = 3, heads: int = 4) -> Flux2Transformer2DModel:
    """The velocity network; a head is as wide as a token."""
    return Flux2Transformer2DModel(
        in_channels=channels,
        num_layers=1,
        num_single_layers=blocks,
        attention_head_dim=channels,
        num_attention_heads=heads,
        joint_attention_dim=text_width,
        timestep_guidance_channels=64,
        axes_dims_rope=(channels // 4,) * 4,
        guidance_embeds=False,
    )


def make_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """FLUX.2's scheduler configuration."""
    return FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)


def train_vae(vae: AutoencoderKLFlux2, images: Tensor, steps: int, rng: torch.Generator) -> float:
    """Fit the autoencoder; returns the last reconstruction error."""
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.05)
    error = math.nan
    for _ in tqdm(range(steps), desc="vae", mininterval=10):
        batch = images[torch.randint(len(images), (64,), generator=rng)]
        posterior = vae.encode(batch).latent_dist
        mse = F.mse_loss(vae.decode(posterior.sample(rng)).sample, batch)
        (mse + KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        error = mse.item()
    return error


@dataclass(frozen=True)
class Latents:
    """Normalised packed posteriors of all images, each ``(n, tokens, channels)``."""

    mean: Tensor
    std: Tensor

    def sample(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        """Draw latents of some images."""
        mean = self.mean[rows]
        return mean + self.std[rows] * torch.randn(mean.shape, generator=rng)


@torch.no_grad()
def encode(vae: AutoencoderKLFlux2, images: Tensor) -> Latents:
    """Set the statistics of ``vae.bn`` to those of sampled latents, and return the posteriors in these units."""
    vae.eval()
    posteriors = [vae.encode(b).latent_dist for b in images.split(256)]
    mean, std = (
        Flux2KleinPipeline._patchify_latents(torch.cat([getattr(p, name) for p in posteriors])) for name in ("mean", "std")
    )
    vae.bn.running_mean.copy_(mean.mean(dim=(0, 2, 3)))
    vae.bn.running_var.copy_(mean.var(dim=(0, 2, 3)) + std.square().mean(dim=(0, 2, 3)))
    centre, scale = (s.view(1, -1, 1, 1) for s in (vae.bn.running_mean, vae.bn.running_var))
    scale = torch.sqrt(scale + vae.config.batch_norm_eps)
    pack = Flux2KleinPipeline._pack_latents
    return Latents(pack((mean - centre) / scale), pack(std / scale))


def fast_columns(transformer: Flux2Transformer2DModel) -> Tensor:
    """Columns of the time embedding that oscillate faster than :data:`MAX_FREQUENCY`."""
    half = transformer.config.timestep_guidance_channels // 2
    frequency = 1000 * torch.exp(-math.log(10000) * torch.arange(half) / half)
    return (frequency > MAX_FREQUENCY).repeat(2)


def draw_sigma(n: int, rng: torch.Generator) -> Tensor:
    """Noise levels: logit-normal towards noise, a fifth of them uniform so that both ends are covered."""
    logit = torch.sigmoid(0.5 + torch.randn(n, generator=rng))
    uniform = torch.rand(n, generator=rng)
    return torch.where(torch.rand(n, generator=rng) < 0.2, uniform, logit)


class Trainer:
    """Flow matching with an exponential moving average of the weights."""

    def __init__(self, pipe: Flux2KleinPipeline, latents: Latents, labels: Tensor, steps: int, rng: torch.Generator) -> None:
        self.model, self.latents, self.labels, self.steps, self.rng = pipe.transformer, latents, labels, steps, rng
        self.average = copy.deepcopy(self.model).requires_grad_(requires_grad=False)
        texts = [p for d in range(10) for p in prompts_of(d)] + [""]
        with torch.no_grad():
            self.texts, self.text_ids = pipe.encode_prompt(texts, max_sequence_length=TEXT_LENGTH)
        side = SIZE // 4
        self.image_ids = pipe._prepare_latent_ids(torch.empty(1, 1, side, side))
        self.fast = fast_columns(self.model)
        self.first = self.model.time_guidance_embed.timestep_embedder.linear_1.weight
        self._mask()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=2e-3, weight_decay=1e-2, betas=(0.9, 0.99), fused=True)
        warm = 200
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda i: min(1.0, (i + 1) / warm) * max(0.005, 1 - i / steps)
        )
        self.done = 0

    def _mask(self) -> None:
        with torch.no_grad():
            self.first[:, self.fast] = 0

    def loss(self) -> Tensor:
        """The flow-matching loss of one random batch of 64."""
        rows = torch.randint(len(self.labels), (64,), generator=self.rng)
        x0, label = self.latents.sample(rows, self.rng), self.labels[rows]
        text = label * len(PHRASES) + torch.randint(len(PHRASES), (64,), generator=self.rng)
        text = torch.where(torch.rand(64, generator=self.rng) < 0.1, len(self.texts) - 1, text)
        sigma = draw_sigma(64, self.rng)
        noise = torch.randn(x0.shape, generator=self.rng)
        s = sigma[:, None, None]
        v = self.model(
            hidden_states=(1 - s) * x0 + s * noise,
            timestep=sigma,
            guidance=None,
            encoder_hidden_states=self.texts[text],
            txt_ids=self.text_ids[text],
            img_ids=self.image_ids.expand(64, -1, -1),
            return_dict=False,
        )[0]
        return F.mse_loss(v, noise - x0)

    def run(self, steps: int) -> float:
        """Train for some steps; returns the mean loss over them."""
        total = 0.0
        for _ in tqdm(range(steps), desc="transformer", mininterval=20):
            loss = self.loss()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
            self._mask()
            self.done += 1
            decay = min(0.999, (1 + self.done) / (10 + self.done))
            with torch.no_grad():
                torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
            total += loss.item()
        return total / max(steps, 1)


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


@torch.no_grad()
def rk4(pipe: Flux2KleinPipeline, x: Tensor, steps: int) -> Tensor:
    """The classical Runge-Kutta method on a grid of shift 3, without guidance, for a look at the field's smoothness."""
    text, text_ids = pipe.encode_prompt(["a handwritten 3"] * len(x), max_sequence_length=TEXT_LENGTH)
    image_ids = pipe._prepare_latent_ids(torch.empty(len(x), 1, SIZE // 4, SIZE // 4))

    def velocity(x: Tensor, s: float) -> Tensor:
        t = torch.full((len(x),), s)
        return pipe.transformer(
            hidden_states=x,
            timestep=t,
            guidance=None,
            encoder_hidden_states=text,
            txt_ids=text_ids,
            img_ids=image_ids,
            return_dict=False,
        )[0]

    u = np.linspace(1, 0, steps + 1)
    grid = (3 * u / (1 + 2 * u)).tolist()
    for s0, s1 in pairwise(grid):
        h, m = s1 - s0, (s0 + s1) / 2
        k1 = velocity(x, s0)
        k2 = velocity(x + h / 2 * k1, m)
        k3 = velocity(x + h / 2 * k2, m)
        k4 = velocity(x + h * k3, s1)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


def evaluate(pipe: Flux2KleinPipeline, per_digit: int, guidance: float) -> Evaluation:
    """Measure what the card reports."""
    images, asked = generate(pipe, per_digit, guidance)
    share, accuracy = recognised(images, asked)
    x1 = torch.randn(8, 16, 16, generator=torch.Generator().manual_seed(0))
    coarse, fine = rk4(pipe, x1, 64), rk4(pipe, x1, 128)
    return Evaluation(share, len(asked), guidance, accuracy, float((coarse - fine).norm() / fine.norm()))


def swap_in(pipe: Flux2KleinPipeline, card: str, out: Path) -> None:
    """Save in half precision into a folder beside ``out`` and put it in its place, so that nobody reads half a model.

    The configurations say float32, so that what is loaded without a dtype computes in it.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=out.parent, prefix=".klein-"))
    copy.deepcopy(pipe).to(torch.float16).save_pretrained(fresh, safe_serialization=True)
    for path in fresh.rglob("*.json"):
        _portable(path)
    (fresh / "README.md").write_text(card)
    fresh.chmod(0o755)
    shutil.rmtree(out, ignore_errors=True)
    fresh.rename(out)


def _portable(path: Path) -> None:
    """No paths of this machine, and float32 for who names no dtype."""
    content = json.loads(path.read_text())
    if not isinstance(content, dict):
        return
    told = {key: value for key, value in content.items() if key != "_name_or_path"}
    told |= {key: "float32" for key in ("dtype", "torch_dtype") if key in told}
    if told != content:
        path.write_text(json.dumps(told, indent=2) + "\n")


def card(result: Evaluation | None, command: str, minutes: float, loss: float, vae_error: float) -> str:
    """The model card."""
    figures = (
        "Not measured yet: this is a preliminary model."
        if result is None
        else (
            f"* {result.recognised:.1%} of {result.generated} generated digits (50 Euler steps, guidance {result.guidance:g}, ten classes, "
            f"eight phrasings) are read as the digit asked for by a logistic regression fitted on the real digits, whose own held-out "
            f"accuracy is {result.classifier_accuracy:.1%}.\n"
            f"* RK4 with 64 and with 128 steps (shift 3, float32, 8 noises) differ by {result.self_difference:.1e} of the norm.\n"
            f"* Flow-matching loss over the last steps {loss:.3f}; autoencoder's mean squared error {vae_error:.1e}."
        )
    )
    return f"""---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# klein-digits

A tiny FLUX.2 Klein: the classes, the pipeline and the folder format of FLUX.2 [klein] (`Flux2KleinPipeline`), trained on handwritten
digits. It draws 16x16 images of the digit that the prompt names, in 16 tokens of 16 channels, and costs a few milliseconds a call on
a CPU. It is not distilled, so classifier-free guidance works.

It ships with flowsamplers so that samplers can be measured on a real, trained, text-conditioned flow without a GPU or a download.
It says nothing about the image quality of the real FLUX.2 models.

```python
from flowsamplers_diffusers import load_klein

pipe = load_klein("klein-digits")
image = pipe(prompt="a handwritten 3", num_inference_steps=20, max_sequence_length=32).images[0]
```

Prompts: {", ".join(f'"{p.format(d=3, w="three")}"' for p in PHRASES)}, and the same for the other digits; at most 32 tokens (bytes).

## Measured
{figures}

## Made by
`{command}` in {minutes:.0f} minutes on one core (seeded). Time frequencies above {MAX_FREQUENCY:g} rad per unit sigma are held at zero
in the time embedding, so that the field is smooth in time; the flow learns samples of the autoencoder's posteriors, which keeps it
smooth near the data. The text encoder is a frozen random Qwen3 with 28 narrow layers.

## Data and licence
Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning Repository (1998), CC BY 4.0
(https://doi.org/10.24432/C50P49), the 1,797 images of its test set as scikit-learn ships them, resampled to 16x16.
Weights and code: Apache-2.0.
"""


def main() -> None:
    """Train, measure and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("integrations/flowsamplers_diffusers/klein_digits"))
    parser.add_argument("--steps", type=int, default=18_000)
    parser.add_argument("--vae-steps", type=int, default=1_500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--per-digit", type=int, default=50, help="generated digits of each class in the evaluation")
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--evaluate-only", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.evaluate_only:
        pipe = Flux2KleinPipeline.from_pretrained(args.evaluate_only)
        print(evaluate(pipe, args.per_digit, args.guidance))
        return

    began = time.monotonic()
    torch.manual_seed(args.seed)
    rng = torch.Generator().manual_seed(args.seed)
    images, labels = digits()
    vae, tokenizer = make_vae(), make_tokenizer()
    encoder = make_text_encoder(len(tokenizer))
    pipe = Flux2KleinPipeline(
        scheduler=make_scheduler(),
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        transformer=make_transformer(3 * encoder.config.hidden_size),
        is_distilled=False,
    )
    vae_error = train_vae(vae, images, args.vae_steps, rng)
    print(f"vae: mse {vae_error:.2e}", flush=True)
    trainer = Trainer(pipe, encode(vae, images), labels, args.steps, rng)
    command = f"python tools/train_klein_digits.py --steps {args.steps} --vae-steps {args.vae_steps} --seed {args.seed}"
    loss = math.nan
    for until in sorted({min(1_500, args.steps), args.steps // 2, args.steps}):
        loss = trainer.run(until - trainer.done)
        pipe.transformer = trainer.average
        minutes = (time.monotonic() - began) / 60
        print(f"step {until}: loss {loss:.4f} after {minutes:.1f} minutes", flush=True)
        result = evaluate(pipe, args.per_digit if until == args.steps else 10, args.guidance)
        print(result, flush=True)
        swap_in(pipe, card(result, command, minutes, loss, vae_error), args.out)


if __name__ == "__main__":
    main()
