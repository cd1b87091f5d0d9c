"""What klein-emoji and its student draw: recognised or not, copied or not, near to the data or not.

python tools/measure_klein_emoji.py ../klein-emoji   draws, measures, and writes json, figures, page and model cards
python tools/measure_klein_emoji.py --page           writes page and cards from the committed measurements

The work folder is that of ``tools/train_klein_emoji.py``; what was drawn is kept in its ``runs``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from building import DOCS, ROOT, build, drawn, load, rendered, save, table, with_measured
from distil_klein import card as student_card
from distil_klein import subjects
from PIL import Image, ImageDraw, ImageFont
from sklearn.decomposition import PCA
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC
from torch import Tensor
from train_klein_emoji import COMMON_PROMPTS, FLIPPED, GUIDANCE, SETS, Data, emoji, folder, load_data, picture
from train_klein_emoji import card as teacher_card
from training import psnr

import flowsamplers as fs
from flowsamplers.solver import bundled_solvers
from flowsamplers.study import chance_level, energy_distance
from flowsamplers_diffusers import KleinFlow

EXPLANATION = DOCS / "explanation"
BUNDLED = ROOT / "integrations" / "flowsamplers_diffusers"
DATA, PAGE, LOSSES = (EXPLANATION / f"klein-emoji{end}" for end in (".json", ".md", "-loss.png"))
OTHERS = 48
"""Prompts that are not common ones, drawn at random."""
SEED = 100_000
"""Of the first noise; the training drew none of them on purpose."""
CHUNK = 32
RUNS = {"teacher": 50, "student": 4}
MADE = {
    "vae": ("python tools/train_klein_emoji.py vae --work W", "one CPU thread"),
    "teacher": (
        "python tools/train_klein_emoji.py teacher --work W --device cuda --batch 1024 --minutes 3.8 --steps 1000000",
        "one NVIDIA H100 80GB HBM3 with torch 2.11.0+cu130, compilation included",
    ),
    "student": (
        "python tools/distil_klein.py klein-emoji --source W/klein-emoji --work W --device cuda --batch 1024 --minutes 2.2 "
        "--rounds 4 --paths 12288 --steps 1000000",
        "one NVIDIA H100 80GB HBM3 with torch 2.11.0+cu130, the teacher's paths included",
    ),
}
"""How the committed weights were made: command and machine."""


# Drawing


def asked(work: Path) -> list[str]:
    """The common prompts, and some of the others."""
    rest = [one.prompt for one in emoji(work) if one.kind != "common"]
    order = torch.randperm(len(rest), generator=torch.Generator().manual_seed(0))[:OTHERS]
    return [*COMMON_PROMPTS, *(rest[i] for i in order)]


def kept(path: Path, make: Callable[[], Tensor]) -> Tensor:
    """What was computed before, or is computed now and kept."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(make(), path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
    return torch.load(path, weights_only=True)


def solve(flow: KleinFlow, prompts: list[str], x1: Tensor, grid: fs.SigmaGrid, sampler: str) -> Tensor:
    """End points for some prompts."""
    return fs.sample(lambda x, s: flow.velocity(x, s, prompts), x1, grid, sampler, seed=0)


def models() -> dict[str, KleinFlow]:
    """Both, the teacher with guidance."""
    guided = KleinFlow.load("klein-emoji", guidance_scale=GUIDANCE, batched_guidance=True, device="cpu")
    return {"teacher": guided, "student": KleinFlow.load("klein-emoji-distilled", device="cpu")}


def ends_of(work: Path, flow: KleinFlow, steps: int) -> Tensor:
    """End points of Euler's method for all prompts; prompt i has noise ``SEED + i``."""
    prompts, grid, parts = asked(work), fs.schedules.flux2(steps, tokens=flow.tokens), []
    for i in range(0, len(prompts), CHUNK):
        here = prompts[i : i + CHUNK]

        def make(here: list[str] = here, i: int = i) -> Tensor:
            x1 = flow.noise([SEED + j for j in range(i, i + len(here))])
            return solve(flow, here, x1, grid, "euler")

        parts.append(kept(work / "runs" / f"{flow.name}-{steps}-{i}.pt", make))
    return torch.cat(parts)


# Judging


def features(images: Tensor) -> Tensor:
    """Means of 4x4 pixels, ``(n, 768)``, divided so that a norm is a root mean square over the pixels."""
    flat = F.avg_pool2d(images, 4).flatten(1)
    return flat / flat.shape[1] ** 0.5


def share(right: Tensor) -> list[float]:
    """A share, or a mean, with the half width of its 95 % interval."""
    values = right.double()
    return [float(values.mean()), 1.96 * float(values.std()) / len(values) ** 0.5]


class Gallery:
    """Pictures with labels, and how near a picture is to the nearest one of each label.

    Args:
        images: ``(n, 3, 64, 64)`` in [0, 1].
        labels: ``(n,)``.
        size: number of labels.
    """

    def __init__(self, images: Tensor, labels: Tensor, size: int) -> None:
        self.features, self.labels, self.size = features(images), labels, size

    def nearest(self, images: Tensor) -> Tensor:
        """Root mean square distance of each picture's features to the nearest picture of each label, ``(n, labels)``."""
        found = torch.cdist(features(images), self.features)
        far = torch.full((len(images), self.size), torch.inf)
        return far.scatter_reduce(1, self.labels.expand(len(images), -1), found, "amin")

    def ranks(self, images: Tensor, wanted: Tensor) -> Tensor:
        """How many labels have a nearer picture than the wanted one; 0 is a hit."""
        near = self.nearest(images)
        return (near < near.gather(1, wanted[:, None])).sum(dim=1)


def labels_of(prompts: list[str], names: list[str]) -> tuple[Tensor, dict[str, int]]:
    """Numbers of prompts, equal ones the same."""
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([number[p] for p in prompts]), number


def originals(work: Path) -> tuple[Tensor, Tensor, list[str], list[str]]:
    """The plain picture of each emoji in each set, NaN where a set has none: ``(sets, emoji, 3, 64, 64)``; prompts, categories."""
    chosen = emoji(work)
    none = torch.full((3, 64, 64), torch.nan)
    paths = [[folder(work, name) / "img" / name / "64" / one.files[0] for one in chosen] for name in SETS]
    pictures = torch.stack([torch.stack([picture(p) / 255 if p.exists() else none for p in mine]) for mine in paths])
    there = ~pictures.isnan().flatten(2).any(dim=2)
    return pictures, there, [e.prompt for e in chosen], [e.category for e in chosen]


def measure(given: list[str]) -> None:
    """Everything that the page and the cards tell."""
    torch.set_num_threads(1)
    work = Path(given[0])
    prompts, data = asked(work), load_data(work)
    images = {name: flow.decode(ends_of(work, flow, RUNS[name]), "pt") for name, flow in models().items()}
    found: dict[str, Any] = {"prompts": prompts, "common": len(COMMON_PROMPTS), "runs": RUNS, "training": training(work)}
    found["data"] = {"emoji": len(data.prompts), "pictures": len(data.images)}
    found["psnr"] = reconstruction(data)
    found["category"] = categories(work, prompts, images)
    found["prompt"] = recognised(work, data, prompts, images)
    found["copies"] = copies(work, data, prompts, images)
    found["distribution"] = distribution(work, prompts, images)
    pages(prompts, images)
    save(DATA, found)


def training(work: Path) -> dict[str, Any]:
    """Steps, minutes and losses of the three trainings."""
    told = {}
    for name in MADE:
        state = torch.load(work / f"{name}.pt", weights_only=True, map_location="cpu")
        told[name] = {"steps": state["done"], "minutes": round(state["seconds"] / 60, 2), "losses": state["losses"]}
    return told


def reconstruction(data: Data) -> dict[str, float]:
    """PSNR of the autoencoder with its shipped weights, on the listed emoji and on every seventh picture of all."""
    vae = models()["student"].pipe.vae
    listed = torch.tensor([kind != "rest" for kind in data.kinds])[data.labels]
    return {"listed": psnr(vae, data.images[listed]), "all": psnr(vae, data.images[::7])}


def categories(work: Path, prompts: list[str], images: dict[str, Tensor]) -> dict[str, Any]:
    """A classifier of the category, asked about emoji that it was not fitted on."""
    pictures, there, names, kinds = originals(work)
    real, of = pictures[there], torch.nonzero(there)[:, 1]
    known, number = labels_of(names, names)
    flat, kind, groups = features(real).numpy(), np.array(kinds)[of], known[of].numpy()
    classifier = make_pipeline(PCA(64, random_state=0), SVC(C=10.0))
    right = torch.tensor(cross_val_predict(classifier, flat, kind, groups=groups, cv=GroupKFold(5)) == kind)
    wanted = np.array([number[p] for p in prompts])
    told: dict[str, Any] = {"held_out": share(right), "same_prompts": share(right[torch.tensor(np.isin(groups, wanted))])}
    meant = np.array([kinds[names.index(p)] for p in prompts])
    for name, mine in images.items():
        said = np.empty(len(prompts), dtype=object)
        for train, _ in GroupKFold(5).split(flat, kind, groups):
            out = ~np.isin(wanted, groups[train])
            if out.any():
                said[out] = classifier.fit(flat[train], kind[train]).predict(features(mine[out]).numpy())
        told[name] = share(torch.tensor(said == meant))
    return told


def recognised(work: Path, data: Data, prompts: list[str], images: dict[str, Tensor]) -> dict[str, Any]:
    """Whether the nearest training picture is one of the prompt; for scale, the same for one set's pictures among the other's."""
    names, number = labels_of(data.prompts, data.prompts)
    gallery = Gallery((data.images + 1) / 2, names[data.labels], len(number))
    wanted = torch.tensor([number[p] for p in prompts])
    told: dict[str, Any] = {"prompts": len(number)}
    for name, mine in images.items():
        ranks = gallery.ranks(mine, wanted)
        for part, rows in (("common", slice(len(COMMON_PROMPTS))), ("others", slice(len(COMMON_PROMPTS), None))):
            told[f"{name}, {part}"] = share(ranks[rows] < 1)
    pictures, there, _, _ = originals(work)
    both = there.all(dim=0)
    other = Gallery(pictures[1, both], names[both], len(number))
    ranks = other.ranks(pictures[0, both], names[both])
    told["one set among the other"] = share(ranks < 1)
    return told


def rms(first: Tensor, second: Tensor) -> Tensor:
    """Root mean square over the pixels between all pairs."""
    return torch.cdist(first.flatten(1), second.flatten(1)) / first[0].numel() ** 0.5


def copies(work: Path, data: Data, prompts: list[str], images: dict[str, Tensor]) -> dict[str, Any]:
    """Distance to the nearest training picture of the prompt, beside the distance between the two sets' pictures of it."""
    real = (data.images + 1) / 2
    pictures, there, names, kinds = originals(work)
    told: dict[str, Any] = {}
    own = {p: torch.tensor([name == p for name in data.prompts])[data.labels] for p in prompts}
    between = []
    for p in prompts:
        i = names.index(p)
        if there[:, i].all():
            second = torch.stack([pictures[1, i], pictures[1, i].flip(-1)]) if kinds[i] in FLIPPED else pictures[1, i, None]
            between.append(rms(pictures[0, i, None], second).min())
    told["between the sets"] = quartiles(torch.stack(between))
    for name, mine in images.items():
        near = torch.stack([rms(image[None], real[own[p]]).min() for p, image in zip(prompts, mine, strict=True)])
        told[name] = quartiles(near)
        told[f"{name}, closer than half of what is between the sets"] = share(near < told["between the sets"][1] / 2)
    return told


def quartiles(values: Tensor) -> list[float]:
    """Lower quartile, median, upper quartile."""
    return [float(v) for v in values.double().quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))]


def distribution(work: Path, prompts: list[str], images: dict[str, Tensor]) -> dict[str, Any]:
    """Distances between the set of drawn pictures and the real ones of the same prompts, and what chance gives."""
    pictures, there, names, _ = originals(work)
    rows = torch.tensor([names.index(p) for p in prompts])
    sets = [features(pictures[k, rows[there[k, rows]]]) for k in range(len(SETS))]
    pairs = {name: (features(mine), torch.cat(sets)) for name, mine in images.items()} | {"one set to the other": tuple(sets)}
    return {name: [energy_distance(*pair), chance_level(energy_distance, *pair, splits=100)] for name, pair in pairs.items()}


# What is written


def pages(prompts: list[str], images: dict[str, Tensor]) -> None:
    """Two pages of everything that was drawn, with the prompts."""
    common = len(COMMON_PROMPTS)
    for part, rows in (("common", slice(common)), ("others", slice(common, None))):
        shown = [images[name][rows] for name in (("teacher",) if part == "common" else RUNS)]
        captioned(prompts[rows], shown, 10 if part == "common" else 8).save(
            EXPLANATION / f"klein-emoji-{part}.png", optimize=True
        )


def captioned(prompts: list[str], images: list[Tensor], columns: int) -> Image.Image:
    """Pictures in a grid, those of one prompt side by side above its name, in 256 colors."""
    font, size = ImageFont.load_default(size=10), images[0].shape[-1]
    width, height = max(104, len(images) * (size + 2)) + 8, size + 30
    page = Image.new("RGB", (columns * width, -(-len(prompts) // columns) * height), "white")
    pen = ImageDraw.Draw(page)
    for i, prompt in enumerate(prompts):
        x, y = i % columns * width, i // columns * height
        left = x + (width - len(images) * (size + 2)) // 2
        for k, mine in enumerate(images):
            pixels = (mine[i].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
            page.paste(Image.fromarray(pixels), (left + k * (size + 2), y + 2))
        words = prompt if pen.textlength(prompt, font) <= width - 4 else prompt[: int((width - 10) / 5.2)] + "..."
        pen.text((x + width / 2, y + size + 4), words, "black", font, anchor="ma")
    return page.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def losses() -> bytes:
    """The loss of the three trainings."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3), constrained_layout=True)
    for axis, (name, told) in zip(axes, load(DATA)["training"].items(), strict=True):
        axis.plot(*np.array(told["losses"]).T, marker="o", markersize=3, linewidth=1)
        axis.set(xlabel="step", yscale="log")
        axis.set_title(f"{name}: {told['steps']:,} steps, {told['minutes']:.1f} minutes", fontsize=10)
        axis.grid(alpha=0.3, which="both")
    axes[0].set_ylabel("loss, mean since the point before")
    return drawn(figure, "png", dpi=100)


def percent(value: list[float]) -> str:
    """A share with its interval."""
    return f"{100 * value[0]:.0f} ± {100 * value[1]:.0f} %"


def rows_of(found: dict[str, Any]) -> list[list[str]]:
    """What was measured, for the teacher and the student."""
    by, copied, near = found["prompt"], found["copies"], found["distribution"]
    return [
        ["Category recognized", *(percent(found["category"][name]) for name in RUNS)],
        *(
            [f"Prompt is the nearest, {label} prompts", *(percent(by[f"{name}, {part}"]) for name in RUNS)]
            for part, label in (("common", "common"), ("others", "other"))
        ),
        ["Distance to the nearest training picture, median", *(f"{copied[name][1]:.3f}" for name in RUNS)],
        ["Energy distance to the data (by chance)", *("{:.4f} ({:.4f})".format(*near[name]) for name in RUNS)],
    ]


def fitted() -> str:
    """The solvers that ship with the model: how they were made, and their errors on rows that were not fitted to."""
    solvers = bundled_solvers("klein-emoji")
    about = solvers[0].fitted_to
    given = [
        f"--{option} '{p}'" for option, key in (("prompt", "prompts"), ("held-prompt", "held_prompts")) for p in about[key]
    ]
    rows: list[list[object]] = []
    for solver in solvers:
        mine = solver.validation.solver
        best = min((s for s in solver.validation.others if s.nfe <= solver.nfe), key=lambda s: s.error)
        errors = (f"{s.error:.3f} ± {2 * s.uncertainty:.3f}" for s in (mine, best))
        rows.append([solver.nfe, next(errors), best.name, next(errors)])
    return rendered(
        "fitted-solvers.md",
        about,
        calls=[s.nfe for s in solvers],
        given=" \\\n    ".join(" ".join(given[i : i + 4]) for i in range(0, len(given), 4)),
        rows=solvers[0].validation.rows,
        errors=table("model calls: | fitted: | best other sampler with as many calls | its error:", rows),
    )


def facts(found: dict[str, Any], name: str) -> str:
    """What the card of one model tells."""
    return rendered(
        "klein-emoji-facts.md",
        found,
        steps=RUNS[name],
        guidance=f" with guidance {GUIDANCE:g}" if name == "teacher" else "",
        rows=[(row[0], row[1 + list(RUNS).index(name)]) for row in rows_of(found)],
        real=percent(found["category"]["same_prompts"]),
        near=percent(found["copies"][f"{name}, closer than half of what is between the sets"]),
    )


def card(name: str) -> str:
    """The card of the teacher or of the student."""
    found = load(DATA)
    if name == "teacher":
        made = []
        for part in ("vae", "teacher"):
            told, (command, machine) = found["training"][part], MADE[part]
            made.append(f"* `{command}`: {told['steps']:,} steps in {told['minutes']:.1f} minutes on {machine}.")
        return teacher_card("\n".join(made), f"{facts(found, name)}\n{fitted()}".rstrip())
    told, (command, machine) = found["training"][name], MADE[name]
    subject, seconds = subjects()["klein-emoji"], 60 * told["minutes"]
    return student_card("klein-emoji", subject, command, told["steps"], seconds, facts(found, name).rstrip(), machine)


def page() -> str:
    """The page with its measured part renewed."""
    found = load(DATA)
    by, near = found["prompt"]["one set among the other"], found["distribution"]["one set to the other"]
    part = f"""{table(" | `klein-emoji`, 50 steps: | `klein-emoji-distilled`, 4 steps:", rows_of(found))}

For scale: the classifier of the category is right for {percent(found["category"]["same_prompts"])} of the real pictures of these prompts.
Of the Twemoji pictures, {percent(by)} have the right Noto picture as the nearest. The Twemoji and the Noto picture of one emoji
are {found["copies"]["between the sets"][1]:.3f} apart, at the median. The energy distance of the two sets is {near[0]:.4f}. [All values](klein-emoji.json).

{fitted()}"""
    return with_measured(PAGE.read_text(), "measure_klein_emoji.py", part)


WRITTEN: dict[Path, Callable[[], str | bytes]] = {PAGE: page, LOSSES: losses}
WRITTEN |= {
    BUNDLED / place / "README.md": partial(card, name)
    for name, place in (("teacher", "klein_emoji"), ("student", "klein_emoji_distilled"))
}

if __name__ == "__main__":
    build(__doc__, WRITTEN, measure)
