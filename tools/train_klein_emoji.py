"""Train ``klein-emoji``, a colored FLUX.2 Klein of 64x64 pixels.

Each stage writes checkpoints into the work folder every two minutes and goes on from them when it is run again:

    python tools/train_klein_emoji.py vae --work ../klein-emoji
    python tools/train_klein_emoji.py teacher --work ../klein-emoji
    python tools/train_klein_emoji.py save --work ../klein-emoji

The pictures are fetched through npm's client from the packages ``emoji-datasource-twitter`` and ``emoji-datasource-google``.
On a GPU (``--device cuda``) the network is compiled and runs in bfloat16; ``--minutes`` ends a run by the clock.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from building import rendered
from diffusers import Flux2KleinPipeline
from PIL import Image
from tokenizers import models, trainers
from torch import Tensor
from training import (
    BATCH,
    SPECIALS,
    Run,
    Texts,
    alphabet,
    as_qwen,
    byte_level,
    compiled,
    encode,
    load_average,
    make_scheduler,
    make_text_encoder,
    make_transformer,
    make_vae,
    matching,
    psnr,
    reconstruction,
    slow_times,
    swap_in,
)
from transformers import Qwen2TokenizerFast, Qwen3ForCausalLM

SIZE = 64
"""Height and width of an image in pixels."""
SIDE = SIZE // 8
"""Tokens along one side of an image."""
TEXT_LENGTH = 16
"""Tokens of a prompt, padding included."""
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
        return reconstruction(run.model, x, run.rng, absolute=0.05)

    run(loss)
    print(
        f"PSNR {psnr(run.average, wanted):.2f} dB on the pictures to learn, {psnr(run.average, images[::7]):.2f} dB on all",
        flush=True,
    )


def phrases(prompt: str, category: str) -> list[str]:
    """The texts that mean one emoji; the empty one is learned apart."""
    short = [prompt.removesuffix(" face")] if category == "Animals & Nature" and prompt.endswith(" face") else []
    return [prompt, f"{'an' if prompt[0] in 'aeio' else 'a'} {prompt}", *short]


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


def train_teacher(work: Path, data: Data, steps: int, minutes: float, batch: int, seed: int = 0) -> None:
    """Fit the velocity on samples of the autoencoder's posteriors, with a tenth of the prompts empty."""
    pipe = make_pipeline(work)
    latents, phrasings = encode(pipe.vae, data.images), Phrasings(data.prompts, data.categories)
    texts = Texts(pipe, phrasings.texts, SIDE, TEXT_LENGTH)
    torch.manual_seed(seed)
    run = Run(pipe.transformer.train(), work / "teacher.pt", steps, 1.5e-3, seed, minutes)
    model = compiled(run.model)

    def loss() -> Tensor:
        rows = torch.multinomial(data.weights, batch, replacement=True, generator=run.rng)
        text = phrasings.draw(data.labels[rows], run.rng)
        return matching(texts, model, latents.sample(rows, run.rng), text, run.rng, centre=0.8)

    run(loss, slow_times(run.model), every=120.0 if minutes == math.inf else 6 * minutes)


def assemble(work: Path, data: Data) -> Flux2KleinPipeline:
    """The pipeline with averaged weights and the statistics of its latents."""
    pipe = make_pipeline(work)
    encode(pipe.vae, data.images)
    pipe.set_progress_bar_config(disable=True)
    pipe.transformer.eval()
    return pipe


NOT_MEASURED = "Not measured yet: `tools/measure_klein_emoji.py` does it."


def card(made: str, measured: str = NOT_MEASURED) -> str:
    """The model card.

    Args:
        made: how the weights were trained.
        measured: what is known of them.
    """
    return rendered("card-klein-emoji.md", globals(), made=made, measured=measured)


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
    parser.add_argument("stage", choices=("vae", "teacher", "save"))
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
    else:
        swap_in(assemble(args.work, data), card(made_by(args.work)), args.work / "klein-emoji")


if __name__ == "__main__":
    main()
