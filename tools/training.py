"""What the small Kleins are trained with: their parts, an autoencoder's and a flow's loss, a run that can be stopped, and a folder of weights."""

from __future__ import annotations

import copy
import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline, Flux2Transformer2DModel
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import Qwen2TokenizerFast, Qwen3Config, Qwen3ForCausalLM

MAX_FREQUENCY = 60.0
"""Time frequencies above this, in radians per unit sigma, are kept out of the network, so that the field is smooth in time."""
KL_WEIGHT = 5e-4
"""Weight of the autoencoder's KL term. It leaves the posteriors a width, the flow learns samples of them, and so the field stays
smooth near the data; with a weight of 1e-5 its acceleration grew tenfold below sigma = 0.03."""
BATCH = 64


# Parts


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


def make_vae(widths: tuple[int, ...] = (16, 32), latent: int = 4, side: int = 16) -> AutoencoderKLFlux2:
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


# Losses


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


def slow_times(model: Flux2Transformer2DModel) -> Callable[[], None]:
    """A function that holds the fast columns of the time embedding at zero."""
    fast, weight = fast_columns(model), model.time_guidance_embed.timestep_embedder.linear_1.weight

    def hold() -> None:
        with torch.no_grad():
            weight[:, fast] = 0

    hold()
    return hold


def reconstruction(vae: AutoencoderKLFlux2, x: Tensor, rng: torch.Generator, absolute: float = 0.0) -> Tensor:
    """The autoencoder's loss on some pictures: squared error, a weight of the absolute error, and the KL term."""
    posterior = vae.encode(x).latent_dist
    error = vae.decode(posterior.sample(rng)).sample - x
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    return error.square().mean() + absolute * error.abs().mean() + KL_WEIGHT * kl


@torch.no_grad()
def psnr(vae: AutoencoderKLFlux2, images: Tensor) -> float:
    """Peak signal-to-noise ratio of reconstructions from the posteriors' means, in decibels, pictures in [0, 1]."""
    vae.eval()
    errors = [
        (vae.decode(vae.encode(b).latent_dist.mode()).sample.clamp(-1, 1) - b).square().mean((1, 2, 3))
        for b in images.split(64)
    ]
    return float(-10 * torch.log10(torch.cat(errors).mean() / 4))


class Texts:
    """Embeddings of some texts and, last, of the empty one; and the text and image ids that a call of the transformer needs."""

    def __init__(self, pipe: Flux2KleinPipeline, texts: list[str], side: int, length: int) -> None:
        self.empty = len(texts)
        with torch.no_grad():
            self.embedding, self.ids = pipe.encode_prompt([*texts, ""], max_sequence_length=length)
        self.image_ids = pipe._prepare_latent_ids(torch.empty(1, 1, side, side))

    def velocity(self, model: Flux2Transformer2DModel, x: Tensor, sigma: Tensor, rows: Tensor) -> Tensor:
        """The model's output at ``x`` for some texts, in float32; on a GPU its products are bfloat16."""
        with torch.autocast("cuda", torch.bfloat16) if x.is_cuda else nullcontext():
            return model(
                hidden_states=x,
                timestep=sigma,
                guidance=None,
                encoder_hidden_states=self.embedding[rows],
                txt_ids=self.ids[:1],
                img_ids=self.image_ids,
                return_dict=False,
            )[0].float()

    def guided(self, model: Flux2Transformer2DModel, x: Tensor, sigma: Tensor, rows: Tensor, scale: float) -> Tensor:
        """Classifier-free guidance, both passes in one batch."""
        rows = torch.cat([rows, torch.full_like(rows, self.empty)])
        cond, uncond = self.velocity(model, torch.cat([x, x]), torch.cat([sigma, sigma]), rows).chunk(2)
        return uncond + scale * (cond - uncond)


def matching(
    texts: Texts, model: Flux2Transformer2DModel, x0: Tensor, rows: Tensor, rng: torch.Generator, centre: float
) -> Tensor:
    """The flow-matching loss at some latents with their texts, a tenth of which are left empty.

    Noise levels are logit-normal towards noise, where FLUX.2's schedule has most nodes, and a fifth of them uniform.
    """
    n = len(x0)
    rows = torch.where(torch.rand(n, generator=rng) < 0.1, texts.empty, rows)
    logit = torch.sigmoid(centre + torch.randn(n, generator=rng))
    sigma = torch.where(torch.rand(n, generator=rng) < 0.2, torch.rand(n, generator=rng), logit)
    s, noise = sigma[:, None, None], torch.randn(x0.shape, generator=rng)
    return F.mse_loss(texts.velocity(model, (1 - s) * x0 + s * noise, sigma, rows), noise - x0)


# Runs


def compiled(model: Flux2Transformer2DModel) -> Flux2Transformer2DModel:
    """The model, compiled on a GPU."""
    return torch.compile(model, dynamic=False) if next(model.parameters()).is_cuda else model


class Run:
    """Steps of AdamW on one module with an average of its weights, saved as it goes and resumed from what is there.

    The rate depends on the share of the run that is done, by steps or by ``minutes``, whichever is further: a run that was stopped
    goes on, and may be given more.
    """

    def __init__(
        self, model: torch.nn.Module, path: Path, steps: int, rate: float, seed: int, minutes: float = math.inf
    ) -> None:
        self.model, self.path, self.steps, self.rate, self.minutes = model, path, steps, rate, minutes
        self.average = copy.deepcopy(model).requires_grad_(requires_grad=False)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-2, betas=(0.9, 0.99), fused=True)
        self.rng = torch.Generator(next(model.parameters()).device).manual_seed(seed)
        self.done, self.seconds, self.losses = 0, 0.0, []
        if path.exists():
            state = torch.load(path, weights_only=True, map_location=next(model.parameters()).device)
            for name in ("model", "average", "optimizer"):
                getattr(self, name).load_state_dict(state[name])
            self.rng.set_state(state["rng"].cpu())
            self.done, self.seconds, self.losses = state["done"], state["seconds"], state["losses"]

    @property
    def share(self) -> float:
        """How much of the run is done, in [0, 1]."""
        return min(1.0, max(self.done / self.steps, self.seconds / 60 / self.minutes))

    def save(self) -> None:
        """Replace the checkpoint as a whole, so that nobody reads half of one."""
        names = ("model", "average", "optimizer")
        state = {name: getattr(self, name).state_dict() for name in names}
        state |= {"rng": self.rng.get_state(), "done": self.done, "seconds": self.seconds, "losses": self.losses}
        torch.save(state, self.path.with_suffix(".part"))
        self.path.with_suffix(".part").rename(self.path)

    def __call__(self, loss: Callable[[], Tensor], after: Callable[[], None] = lambda: None, every: float = 120.0) -> None:
        """Train to the end; ``loss()`` is the loss of one batch and ``after()`` follows every step."""
        saved = began = time.monotonic()
        before, total, count = self.seconds, 0.0, 0
        while self.share < 1:
            factor = min(1.0, (self.done + 1) / 200, (1 - self.share) / 0.3)
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * factor
            value = loss()
            value.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            after()
            self.done += 1
            decay = min(0.9995, (1 + self.done) / (10 + self.done))
            with torch.no_grad():
                torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
            total, count = total + value.detach(), count + 1
            if self.done % 20 == 0 or value.device.type == "cpu":
                torch.cuda.synchronize() if value.is_cuda else None  # so that the clock is right
                self.seconds = before + time.monotonic() - began
            if time.monotonic() - saved > every or self.share == 1:
                self.losses.append((self.done, float(total) / count))
                print(
                    f"{self.path.stem} {self.done} steps, {self.share:.0%}: loss {float(total) / count:.4f} "
                    f"after {self.seconds / 60:.1f} min",
                    flush=True,
                )
                self.save()
                saved, total, count = time.monotonic(), 0.0, 0


# Weights


def load_average(module: torch.nn.Module, path: Path) -> None:
    """Put the averaged weights of a checkpoint into a module."""
    module.load_state_dict(torch.load(path, weights_only=True, map_location=next(module.parameters()).device)["average"])


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
