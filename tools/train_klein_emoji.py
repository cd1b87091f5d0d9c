"""Train ``klein-emoji``, a coloured FLUX.2 Klein of 64x64 pixels.

Each stage writes checkpoints into the work folder every two minutes and goes on from them when it is run again:

    python tools/train_klein_emoji.py vae --work ../klein-emoji
    python tools/train_klein_emoji.py teacher --work ../klein-emoji
    python tools/train_klein_emoji.py look --work ../klein-emoji

The pictures are fetched through npm's client from the packages ``emoji-datasource-twitter`` and ``emoji-datasource-google``.
On a GPU (``--device cuda``) the network is compiled and runs in bfloat16; ``--minutes`` ends a run by the clock.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import subprocess
import tarfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Transformer2DModel
from PIL import Image
from tokenizers import models, trainers
from torch import Tensor
from train_klein_digits import (
    KL_WEIGHT,
    SPECIALS,
    alphabet,
    as_qwen,
    byte_level,
    encode,
    fast_columns,
    make_scheduler,
    make_text_encoder,
    make_transformer,
    make_vae,
    swap_in,
)
from transformers import Qwen2TokenizerFast, Qwen3ForCausalLM

SIZE = 64
"""Height and width of an image in pixels."""
SIDE = SIZE // 8
"""Tokens along one side of an image."""
TEXT_LENGTH = 16
"""Tokens of a prompt, padding included."""
BATCH = 64
GUIDANCE = 2.5
"""At which pictures are drawn."""
SETS = ("twitter", "google")
VERSION = "16.0.0"
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|> {{ m['content'] | lower }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)
CARD_DATA = """The pictures are those of the npm packages emoji-datasource-twitter and emoji-datasource-google 16.0.0: Twemoji, copyright Twitter,
Inc. and other contributors, CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/), scaled to 64 x 64 pixels, and Noto Emoji,
copyright Google LLC, Apache-2.0. None of them is shipped."""
FLIPPED = ("Animals & Nature", "Food & Drink")
"""Categories whose pictures mean the same when they are mirrored."""
PROMPTS = {
    "Smileys & Emotion": """grinning=grinning face; smile=smiling face; joy=face with tears of joy; rolling_on_the_floor_laughing=rolling on the floor laughing;
        upside_down_face=upside-down face; wink=winking face; blush=blushing face; innocent=face with halo; heart_eyes=face with heart eyes;
        star-struck=face with star eyes; kissing_heart=face blowing a kiss; stuck_out_tongue=face with tongue; money_mouth_face=money face;
        hugging_face=hugging face; thinking_face=thinking face; neutral_face=neutral face; smirk=smirking face; sleeping=sleeping face;
        mask=face with mask; nauseated_face=nauseated face; hot_face=hot face; cold_face=cold face; exploding_head=exploding head;
        face_with_cowboy_hat=cowboy face; partying_face=party face; sunglasses=face with sunglasses; nerd_face=nerd face;
        open_mouth=surprised face; cry=crying face; sob=loudly crying face; scream=screaming face; rage=angry face;
        smiling_imp=devil face; skull=skull; hankey=pile of poo; clown_face=clown face; ghost=ghost; alien=alien; robot_face=robot;
        heart=red heart; orange_heart=orange heart; yellow_heart=yellow heart; green_heart=green heart; blue_heart=blue heart;
        purple_heart=purple heart; brown_heart=brown heart; black_heart=black heart; white_heart=white heart; pink_heart=pink heart;
        broken_heart=broken heart; cupid=heart with arrow; two_hearts=two hearts""",
    "Animals & Nature": """dog=dog face; wolf=wolf face; fox_face=fox face; cat=cat face; lion_face=lion face; tiger=tiger face;
        horse=horse face; unicorn_face=unicorn face; cow=cow face; pig=pig face; elephant=elephant; mouse=mouse face;
        rabbit=rabbit face; bear=bear face; koala=koala face; panda_face=panda face; monkey_face=monkey face; chicken=chicken;
        baby_chick=baby chick; penguin=penguin; owl=owl; duck=duck; flamingo=flamingo; frog=frog face; turtle=turtle; snake=snake;
        dragon_face=dragon face; whale=whale; dolphin=dolphin; fish=fish; tropical_fish=tropical fish; blowfish=blowfish; shark=shark;
        octopus=octopus; crab=crab; snail=snail; butterfly=butterfly; bee=honeybee; ladybug=ladybug; spider=spider; feet=paw prints;
        cherry_blossom=cherry blossom; rose=rose; hibiscus=hibiscus; sunflower=sunflower; tulip=tulip; seedling=seedling;
        evergreen_tree=evergreen tree; deciduous_tree=tree; palm_tree=palm tree; cactus=cactus; four_leaf_clover=four leaf clover;
        maple_leaf=maple leaf; mushroom=mushroom""",
    "Food & Drink": """grapes=grapes; watermelon=watermelon; tangerine=tangerine; lemon=lemon; banana=banana; pineapple=pineapple;
        apple=red apple; green_apple=green apple; pear=pear; peach=peach; cherries=cherries; strawberry=strawberry;
        blueberries=blueberries; kiwifruit=kiwi; tomato=tomato; avocado=avocado; eggplant=eggplant; carrot=carrot; corn=corn;
        hot_pepper=hot pepper; broccoli=broccoli; onion=onion; bread=bread; croissant=croissant; pretzel=pretzel; pancakes=pancakes;
        cheese_wedge=cheese; hamburger=hamburger; fries=french fries; pizza=pizza; hotdog=hot dog; taco=taco; popcorn=popcorn;
        sushi=sushi; icecream=ice cream; doughnut=doughnut; cookie=cookie; birthday=birthday cake; cupcake=cupcake; lollipop=lollipop;
        coffee=coffee; wine_glass=wine glass; cocktail=cocktail; beer=beer mug""",
    "Travel & Places": """crescent_moon=crescent moon; full_moon=full moon; sunny=sun; star=star; cloud=cloud; partly_sunny=sun behind cloud;
        rain_cloud=rain cloud; rainbow=rainbow; umbrella=umbrella; zap=lightning; snowflake=snowflake; snowman=snowman; fire=fire;
        droplet=water drop; ocean=water wave; earth_africa=planet earth; ringed_planet=ringed planet; bus=bus; taxi=taxi; car=car;
        fire_engine=fire engine; airplane=airplane; rocket=rocket; boat=sailboat; house=house; volcano=volcano;
        vertical_traffic_light=traffic light; octagonal_sign=stop sign""",
    "Activities": """soccer=soccer ball; basketball=basketball; baseball=baseball; tennis=tennis ball; volleyball=volleyball;
        football=football; 8ball=eight ball; trophy=trophy; balloon=balloon; gift=gift; tada=party popper;
        jack_o_lantern=jack-o-lantern; christmas_tree=christmas tree; dart=target; game_die=die; video_game=video game;
        spades=spades; clubs=clubs; diamonds=diamonds""",
    "Objects": """bell=bell; key=key; lock=lock; bulb=light bulb; books=books; pencil2=pencil; scissors=scissors; hammer=hammer; bomb=bomb;
        crown=crown; gem=gem stone; tophat=top hat; alarm_clock=alarm clock; moneybag=money bag; magnet=magnet; envelope=envelope;
        tv=television; guitar=guitar; drum_with_drumsticks=drum; candle=candle; shirt=t-shirt; lipstick=lipstick""",
    "Symbols": """red_circle=red circle; large_orange_circle=orange circle; large_yellow_circle=yellow circle;
        large_green_circle=green circle; large_blue_circle=blue circle; large_purple_circle=purple circle;
        large_red_square=red square; large_green_square=green square; large_blue_square=blue square""",
    "Flags": """flag-jp=flag of japan; flag-fr=flag of france; flag-it=flag of italy; flag-de=flag of germany; flag-ua=flag of ukraine;
        flag-se=flag of sweden; flag-ch=flag of switzerland; flag-us=flag of the united states; flag-gb=flag of the united kingdom;
        rainbow-flag=rainbow flag""",
}
"""Emoji to learn, by category: the short name in ``emoji.json`` and the prompt."""
COMMON = """grinning face; face with tears of joy; face with heart eyes; face with sunglasses; thinking face; crying face; angry face;
    skull; ghost; alien; robot; pile of poo; red heart; yellow heart; green heart; blue heart; broken heart; dog face; cat face; fox face;
    lion face; pig face; rabbit face; bear face; koala face; panda face; monkey face; penguin; owl; frog face; turtle; whale; tropical fish;
    octopus; butterfly; honeybee; ladybug; rose; sunflower; tulip; evergreen tree; palm tree; cactus; mushroom; watermelon; lemon; banana;
    pineapple; red apple; cherries; strawberry; avocado; carrot; hamburger; pizza; doughnut; ice cream; birthday cake; coffee;
    crescent moon; sun; star; cloud; rainbow; umbrella; snowman; fire; water drop; bus; taxi; rocket; sailboat; house; soccer ball;
    basketball; balloon; gift; jack-o-lantern; christmas tree; key; light bulb; crown; gem stone; red circle; blue circle; green square;
    flag of japan; flag of france; flag of germany"""
"""Prompts that are drawn most often in the training."""
COMMON_PROMPTS = tuple(" ".join(p.split()) for p in COMMON.split(";"))
SHARES = {"common": 0.55, "listed": 0.2, "rest": 0.25}
"""How often a prompt of :data:`COMMON`, another one of :data:`PROMPTS`, and one of all other emoji is drawn."""


@dataclass(frozen=True)
class Emoji:
    """One prompt, how often it is drawn (a key of :data:`SHARES`), and the files of its pictures: skin tones mean the same."""

    prompt: str
    category: str
    kind: str
    files: list[str]


def emoji(work: Path) -> list[Emoji]:
    """All emoji: those of :data:`PROMPTS` in their order, and the rest by their Unicode names."""
    entries = json.loads((folder(work, "twitter") / "emoji.json").read_text())
    known = {short: entry for entry in entries for short in entry["short_names"]}
    prompts = {}
    for item in ";".join(PROMPTS.values()).split(";"):
        short, prompt = item.strip().split("=")
        prompts[known[short]["unified"]] = prompt
    listed = sorted((e for e in entries if e["unified"] in prompts), key=lambda e: list(prompts).index(e["unified"]))
    rest = [e for e in entries if e["unified"] not in prompts]
    chosen = []
    for entry in listed + rest:
        prompt = prompts.get(entry["unified"]) or spoken(entry["name"])
        kind = "common" if prompt in COMMON_PROMPTS else "listed" if entry["unified"] in prompts else "rest"
        files = [entry["image"], *(v["image"] for v in entry.get("skin_variations", {}).values())]
        chosen.append(Emoji(prompt, entry["category"], kind, files))
    return chosen


def spoken(name: str) -> str:
    """A Unicode name as a prompt.

    >>> spoken("Japan Flag"), spoken("WOMAN: BEARD")
    ('flag of japan', 'woman beard')
    """
    words = name.lower().replace(":", " ").split()
    return " ".join(["flag", "of", *words[:-1]] if words[-1] == "flag" and len(words) > 1 else words)


def folder(work: Path, name: str) -> Path:
    """The unpacked npm package of one set, fetched at first use."""
    here = work / "data" / name / "package"
    if not here.exists():
        here.parent.mkdir(parents=True, exist_ok=True)
        package = f"emoji-datasource-{name}"
        subprocess.run(["npm", "pack", f"{package}@{VERSION}"], cwd=work / "data", check=True)
        with tarfile.open(work / "data" / f"{package}-{VERSION}.tgz") as archive:
            archive.extractall(here.parent, filter="data")
    return here


def picture(path: Path) -> Tensor:
    """One picture on white, ``(3, 64, 64)`` bytes."""
    rgba = Image.open(path).convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return torch.from_numpy(np.array(flat)).permute(2, 0, 1)


@dataclass(frozen=True)
class Data:
    """The pictures to learn, ``(n, 3, 64, 64)`` in [-1, 1], the number of each one's prompt, and how often each is drawn."""

    images: Tensor
    labels: Tensor
    weights: Tensor
    prompts: list[str]
    categories: list[str]
    kinds: list[str]


def load_data(work: Path) -> Data:
    """Both sets, with mirrored copies where :data:`FLIPPED` allows them."""
    chosen = emoji(work)
    members = {kind: sum(e.kind == kind for e in chosen) for kind in SHARES}
    images, labels, weights = [], [], []
    for i, one in enumerate(chosen):
        paths = [folder(work, name) / "img" / name / "64" / file for name in SETS for file in one.files]
        mine = [picture(path) for path in paths if path.exists()]
        if one.category in FLIPPED:
            mine += [image.flip(-1) for image in mine]
        images += mine
        labels += [i] * len(mine)
        weights += [SHARES[one.kind] / members[one.kind] / len(mine)] * len(mine)
    pixels = torch.stack(images).to(torch.get_default_device()).float() / 127.5 - 1
    fields = ([getattr(e, name) for e in chosen] for name in ("prompt", "category", "kind"))
    return Data(pixels, torch.tensor(labels), torch.tensor(weights), *fields)


TEXT = {"width": 32, "std": 0.07}
VAE = {"widths": (16, 32, 64), "latent": 8, "side": SIZE}
"""64x64 pixels to 16x16 latents of 8 channels, that is 8x8 tokens of 32."""
NETWORK = {"channels": 32, "blocks": 5, "heads": 5}


def make_tokenizer(prompts: list[str]) -> Qwen2TokenizerFast:
    """A byte-level Qwen2 tokenizer in which every word of the prompts is one token."""
    core = byte_level(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=8000, special_tokens=SPECIALS, initial_alphabet=alphabet(), show_progress=False)
    core.train_from_iterator([f" {p}" for p in prompts], trainer)
    return as_qwen(core, CHAT_TEMPLATE, TEXT_LENGTH)


def make_pipeline(work: Path, seed: int = 0) -> Flux2KleinPipeline:
    """The pipeline with what has been trained so far in the work folder; the text encoder is drawn once and kept there."""
    device, text = torch.get_default_device(), work / "text"
    with torch.device("cpu"):
        torch.manual_seed(seed)
        vae = make_vae(**VAE)
        if not text.exists():
            tokenizer = make_tokenizer([one.prompt for one in emoji(work)])
            tokenizer.save_pretrained(text)
            make_text_encoder(len(tokenizer), **TEXT).save_pretrained(text)
        tokenizer, encoder = Qwen2TokenizerFast.from_pretrained(text), Qwen3ForCausalLM.from_pretrained(text)
        transformer = make_transformer(3 * encoder.config.hidden_size, **NETWORK)
    for module, path in ((vae, work / "vae.pt"), (transformer, work / "teacher.pt")):
        if path.exists():
            load_average(module, path)
    return Flux2KleinPipeline(
        scheduler=make_scheduler(), vae=vae.eval(), text_encoder=encoder.eval(), tokenizer=tokenizer, transformer=transformer
    ).to(device)


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

    def __call__(self, loss, after=lambda: None, every: float = 120.0) -> None:
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


def train_vae(work: Path, data: Data, steps: int, seed: int = 0, batch: int = BATCH) -> None:
    """Fit the autoencoder: the first half on crops of 32x32 pixels, the second on whole pictures, whose statistics differ."""
    torch.manual_seed(seed)
    images, listed = data.images, torch.tensor([kind != "rest" for kind in data.kinds])
    wanted = images[listed[data.labels]]
    run = Run(make_vae(**VAE), work / "vae.pt", steps, 2e-3, seed)

    def crops(source: Tensor, n: int) -> Tensor:
        rows = torch.randint(len(source), (n,), generator=run.rng).tolist()
        corners = torch.randint(SIZE - 32 + 1, (n, 2), generator=run.rng).tolist()
        return torch.stack([source[r, :, y : y + 32, x : x + 32] for r, (y, x) in zip(rows, corners, strict=True)])

    def loss() -> Tensor:
        few = [(images, batch // 8), (wanted, batch - batch // 8 - batch // 2)]
        if run.done < run.steps // 2:
            x = torch.cat([crops(source, n) for source, n in few])
        else:
            x = torch.cat([source[torch.randint(len(source), (max(1, n // 4),), generator=run.rng)] for source, n in few])
        posterior = run.model.encode(x).latent_dist
        error = run.model.decode(posterior.sample(run.rng)).sample - x
        reconstruction = error.square().mean() + 0.05 * error.abs().mean()
        return reconstruction + KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()

    run(loss)
    print(
        f"PSNR {psnr(run.average, wanted):.2f} dB on the pictures to learn, {psnr(run.average, images[::7]):.2f} dB on all",
        flush=True,
    )


@torch.no_grad()
def psnr(vae: AutoencoderKLFlux2, images: Tensor) -> float:
    """Peak signal-to-noise ratio of reconstructions from the posteriors' means, in decibels, pictures in [0, 1]."""
    vae.eval()
    errors = [
        (vae.decode(vae.encode(b).latent_dist.mode()).sample.clamp(-1, 1) - b).square().mean((1, 2, 3))
        for b in images.split(64)
    ]
    return float(-10 * torch.log10(torch.cat(errors).mean() / 4))


def phrases(prompt: str, category: str) -> list[str]:
    """The texts that mean one emoji; the empty one is learned apart."""
    short = [prompt.removesuffix(" face")] if category == "Animals & Nature" and prompt.endswith(" face") else []
    return [prompt, f"{'an' if prompt[0] in 'aeio' else 'a'} {prompt}", *short]


class Texts:
    """Embeddings of some texts and, last, of the empty one; and the text and image ids that a call of the transformer needs."""

    def __init__(self, pipe: Flux2KleinPipeline, texts: list[str], side: int, length: int = TEXT_LENGTH) -> None:
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


class Phrasings:
    """All phrasings of all prompts."""

    def __init__(self, prompts: list[str], categories: list[str]) -> None:
        said = [phrases(p, c) for p, c in zip(prompts, categories, strict=True)]
        self.texts = [text for mine in said for text in mine]
        self.count = torch.tensor([len(mine) for mine in said])
        self.first = self.count.cumsum(0) - self.count

    def draw(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        """One phrasing of each prompt; the plain prompt is the most likely."""
        other = (torch.rand(len(labels), generator=rng) * self.count[labels]).long()
        plain = torch.rand(len(labels), generator=rng) < 0.5
        return self.first[labels] + torch.where(plain, 0, other)


def compiled(model: Flux2Transformer2DModel) -> Flux2Transformer2DModel:
    """The model, compiled on a GPU."""
    return torch.compile(model, dynamic=False) if next(model.parameters()).is_cuda else model


def slow_times(model: Flux2Transformer2DModel):
    """A function that holds the fast columns of the time embedding at zero."""
    fast, weight = fast_columns(model), model.time_guidance_embed.timestep_embedder.linear_1.weight

    def hold() -> None:
        with torch.no_grad():
            weight[:, fast] = 0

    hold()
    return hold


def draw_sigma(n: int, rng: torch.Generator) -> Tensor:
    """Noise levels: logit-normal towards noise, where FLUX.2's schedule has most nodes, and a fifth of them uniform."""
    logit = torch.sigmoid(0.8 + torch.randn(n, generator=rng))
    uniform = torch.rand(n, generator=rng)
    return torch.where(torch.rand(n, generator=rng) < 0.2, uniform, logit)


def load_average(module: torch.nn.Module, path: Path) -> None:
    """Put the averaged weights of a checkpoint into a module."""
    module.load_state_dict(torch.load(path, weights_only=True, map_location=next(module.parameters()).device)["average"])


def train_teacher(work: Path, data: Data, steps: int, minutes: float, batch: int, seed: int = 0) -> None:
    """Fit the velocity on samples of the autoencoder's posteriors, with a tenth of the prompts empty."""
    pipe = make_pipeline(work)
    latents, phrasings = encode(pipe.vae, data.images), Phrasings(data.prompts, data.categories)
    texts = Texts(pipe, phrasings.texts, SIDE)
    torch.manual_seed(seed)
    run = Run(pipe.transformer.train(), work / "teacher.pt", steps, 1.5e-3, seed, minutes)
    model = compiled(run.model)

    def loss() -> Tensor:
        rows = torch.multinomial(data.weights, batch, replacement=True, generator=run.rng)
        x0 = latents.sample(rows, run.rng)
        text = phrasings.draw(data.labels[rows], run.rng)
        text = torch.where(torch.rand(batch, generator=run.rng) < 0.1, texts.empty, text)
        sigma, noise = draw_sigma(batch, run.rng), torch.randn(x0.shape, generator=run.rng)
        s = sigma[:, None, None]
        return F.mse_loss(texts.velocity(model, (1 - s) * x0 + s * noise, sigma, text), noise - x0)

    run(loss, slow_times(run.model), every=120.0 if minutes == math.inf else 6 * minutes)


def assemble(work: Path, data: Data) -> Flux2KleinPipeline:
    """The pipeline with averaged weights and the statistics of its latents."""
    pipe = make_pipeline(work)
    encode(pipe.vae, data.images)
    pipe.set_progress_bar_config(disable=True)
    pipe.transformer.eval()
    return pipe


def draw(pipe: Flux2KleinPipeline, prompts: list[str], steps: int, seed: int = 0) -> Tensor:
    """Pictures ``(n, 3, 64, 64)`` in [0, 1], by the stock pipeline; picture i has noise ``seed + i``."""
    return torch.cat(
        [
            pipe(
                prompt=prompts[i : i + 32],
                height=SIZE,
                width=SIZE,
                num_inference_steps=steps,
                guidance_scale=GUIDANCE,
                generator=[torch.Generator().manual_seed(seed + j) for j in range(i, min(i + 32, len(prompts)))],
                max_sequence_length=TEXT_LENGTH,
                output_type="pt",
            ).images.float()
            for i in range(0, len(prompts), 32)
        ]
    )


def sheet(images: Tensor, columns: int, path: Path) -> None:
    """Write pictures side by side."""
    rows = -(-len(images) // columns)
    page = torch.ones(3, rows * (SIZE + 4), columns * (SIZE + 4))
    for i, image in enumerate(images):
        y, x = (i // columns) * (SIZE + 4), (i % columns) * (SIZE + 4)
        page[:, y : y + SIZE, x : x + SIZE] = image
    Image.fromarray((page.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()).save(path)


NOT_MEASURED = "Not measured yet: `tools/measure_klein_emoji.py` does it."


def card(made: str, measured: str = NOT_MEASURED) -> str:
    """The model card.

    Args:
        made: how the weights were trained.
        measured: what is known of them.
    """
    return f"""---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# klein-emoji

A small FLUX.2 Klein in color: the classes, the pipeline and the folder format of FLUX.2 [klein] (`Flux2KleinPipeline`), trained on
emoji. It draws 64x64 pixels of what the prompt names, in 64 tokens of 32 channels, with 2.8 million parameters in the transformer. It is
not distilled, so classifier-free guidance works; {GUIDANCE:g} is a good scale.

It ships with flowsamplers so that samplers can be measured, and looked at, on a real text-to-image flow without a GPU or a download.
It says nothing about the image quality of the real FLUX.2 models.

```python
from flowsamplers_diffusers import load_klein

pipe = load_klein("klein-emoji")
image = pipe(prompt="red heart", num_inference_steps=20, guidance_scale={GUIDANCE:g}, max_sequence_length={TEXT_LENGTH}).images[0]
```

Prompts: the names of emoji, such as "pizza", "cat face", "flag of france", also with an article; at most {TEXT_LENGTH} tokens. The model was
trained most on {len(COMMON_PROMPTS)} common ones.

## Measured
{measured}

## Made by
{made}

Time frequencies above 60 rad per unit sigma are held at zero in the time embedding, so that the velocity is smooth in time. The text
encoder is a frozen random Qwen3 with 28 narrow layers.

## Data and licence
{CARD_DATA} Weights and code: Apache-2.0.
"""


def made_by(work: Path) -> str:
    """What the checkpoints tell of the training."""
    told = []
    for stage in ("vae", "teacher"):
        state = torch.load(work / f"{stage}.pt", weights_only=True, map_location="cpu")
        told.append(
            f"* `{stage}`: {state['done']} steps in {state['seconds'] / 60:.1f} minutes; last loss {state['losses'][-1][1]:.4f}."
        )
    return "\n".join(["`tools/train_klein_emoji.py`, stages:", "", *told])


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("vae", "teacher", "save", "look"))
    parser.add_argument("--work", type=Path, required=True, help="folder of the data and the checkpoints")
    parser.add_argument("--steps", type=int, default=0, help="of the optimizer, those of earlier runs among them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--minutes", type=float, default=math.inf, help="of training, those of earlier runs among them")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_default_device(args.device)
    data = load_data(args.work)
    if args.stage == "vae":
        train_vae(args.work, data, args.steps or 3600, args.seed)
    elif args.stage == "teacher":
        train_teacher(args.work, data, args.steps or 30_000, args.minutes, args.batch, args.seed)
    elif args.stage == "save":
        swap_in(assemble(args.work, data), card(made_by(args.work)), args.work / "klein-emoji")
    else:
        sheet(draw(assemble(args.work, data), list(COMMON_PROMPTS), 20), 10, args.work / "teacher.png")


if __name__ == "__main__":
    main()
