"""What klein-emoji and its student draw: recognised or not, copied or not, near to the data or not.

python tools/measure_klein_emoji.py --work ../klein-emoji   draws, measures, and writes json, figures, page and model cards
python tools/measure_klein_emoji.py --page                  writes page and cards from the committed measurements

The work folder is that of ``tools/train_klein_emoji.py``; what was drawn is kept in its ``runs``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from building import build_with_data, with_measured
from distil_klein import card as student_card
from distil_klein import subjects
from PIL import Image, ImageDraw, ImageFont
from sklearn.decomposition import PCA
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC
from torch import Tensor
from train_klein_emoji import COMMON_PROMPTS, FLIPPED, GUIDANCE, SETS, Data, emoji, folder, load_data, picture, psnr
from train_klein_emoji import card as teacher_card

import flowsamplers as fs
from flowsamplers.solver import bundled_solvers
from flowsamplers.study import chance_level, energy_distance, sliced_wasserstein
from flowsamplers_diffusers import KleinFlow

mpl.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parent.parent
EXPLANATION = ROOT / "docs" / "explanation"
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


def drawn(work: Path, flow: KleinFlow, steps: int) -> Tensor:
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


def measure(work: Path) -> dict[str, Any]:
    """Everything that the page and the cards tell."""
    prompts, data = asked(work), load_data(work)
    images = {}
    for name, flow in models().items():
        images[name] = flow.decode(drawn(work, flow, RUNS[name]), "pt")
    found: dict[str, Any] = {"prompts": prompts, "common": len(COMMON_PROMPTS), "runs": RUNS, "training": training(work)}
    found["data"] = {"emoji": len(data.prompts), "pictures": len(data.images)}
    found["psnr"] = reconstruction(data)
    found["category"] = categories(work, prompts, images)
    found["prompt"] = recognised(work, data, prompts, images)
    found["copies"] = copies(work, data, prompts, images)
    found["distribution"] = distribution(work, prompts, images)
    pages(prompts, images)
    return found


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
    flat, kind = features(real).numpy(), np.array(kinds)[of]
    groups = known[of].numpy()
    classifier = make_pipeline(PCA(64, random_state=0), SVC(C=10.0))
    held_out = cross_val_predict(classifier, flat, kind, groups=groups, cv=GroupKFold(5))
    wanted = np.array([number[p] for p in prompts])
    right, same = torch.tensor(held_out == kind), torch.tensor(np.isin(groups, wanted))
    told: dict[str, Any] = {"held_out": share(right), "same_prompts": share(right[same]), "classes": len(set(kinds))}
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
            told[f"{name}, {part}"] = {"top1": share(ranks[rows] < 1), "top5": share(ranks[rows] < 5)}
    pictures, there, _, _ = originals(work)
    both = there.all(dim=0)
    other = Gallery(pictures[1, both], names[both], len(number))
    ranks = other.ranks(pictures[0, both], names[both])
    told["one set among the other"] = {"top1": share(ranks < 1), "top5": share(ranks < 5)}
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
    vae = models()["student"].pipe.vae
    for name, mine in images.items():
        near = [rms(image[None], real[own[p]]) for p, image in zip(prompts, mine, strict=True)]
        closest = torch.stack([real[own[p]][d.argmin()] for p, d in zip(prompts, near, strict=True)])
        told[name] = quartiles(torch.stack([d.min() for d in near]))
        told[f"{name}, closer than half of what is between the sets"] = share(
            torch.stack([d.min() for d in near]) < told["between the sets"][1] / 2
        )
        with torch.no_grad():
            again = torch.cat([vae.decode(vae.encode(b * 2 - 1).latent_dist.mode()).sample for b in closest.split(64)])
        told[f"{name}, autoencoder alone"] = quartiles(
            (((again.clamp(-1, 1) + 1) / 2 - closest).square().mean((1, 2, 3))).sqrt()
        )
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
    return {
        name: {
            distance.__name__: [distance(*pair), chance_level(distance, *pair, splits=100)]
            for distance in (energy_distance, sliced_wasserstein)
        }
        for name, pair in pairs.items()
    }


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


def losses(found: dict[str, Any]) -> None:
    """The loss of the three trainings."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3), constrained_layout=True)
    for axis, (name, told) in zip(axes, found["training"].items(), strict=True):
        axis.plot(*np.array(told["losses"]).T, marker="o", markersize=3, linewidth=1)
        axis.set(xlabel="step", yscale="log")
        axis.set_title(f"{name}: {told['steps']:,} steps, {told['minutes']:.1f} minutes", fontsize=10)
        axis.grid(alpha=0.3, which="both")
    axes[0].set_ylabel("loss, mean since the point before")
    figure.savefig(LOSSES, dpi=100)
    plt.close(figure)


def percent(value: list[float]) -> str:
    """A share with its interval."""
    return f"{100 * value[0]:.0f} ± {100 * value[1]:.0f} %"


def rows_of(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What was measured, for the teacher and the student."""
    by, copied, near = found["prompt"], found["copies"], found["distribution"]
    lines = [("Category recognized", *(percent(found["category"][name]) for name in RUNS))]
    for part, label in (("common", "common"), ("others", "other")):
        for top, words in (("top1", "is the nearest"), ("top5", "is one of the five nearest")):
            lines.append((f"Prompt {words}, {label} prompts", *(percent(by[f"{n}, {part}"][top]) for n in RUNS)))
    lines.append(("Distance to the nearest training picture, median", *(f"{copied[n][1]:.3f}" for n in RUNS)))
    for name in ("energy_distance", "sliced_wasserstein"):
        title = name.replace("_", " ").capitalize().replace("wasserstein", "Wasserstein distance")
        lines.append((f"{title} to the data (by chance)", *("{:.4f} ({:.4f})".format(*near[n][name]) for n in RUNS)))
    return lines


def table(found: dict[str, Any]) -> str:
    """The measured part of the page."""
    lines = ["| | `klein-emoji`, 50 steps | `klein-emoji-distilled`, 4 steps |", "| --- | --: | --: |"]
    lines += [
        f"| {' | '.join(row)} |" for row in rows_of(found) if "five nearest" not in row[0] and "Wasserstein" not in row[0]
    ]
    by, near = found["prompt"]["one set among the other"], found["distribution"]["one set to the other"]
    lines += [
        "",
        f"For scale: the classifier of the category is right for {percent(found['category']['same_prompts'])} of the real pictures of these prompts. "
        f"Of the Twemoji pictures, {percent(by['top1'])}",
        f"have the right Noto picture as the nearest. The Twemoji and the Noto picture of one emoji are {found['copies']['between the sets'][1]:.3f} "
        f"apart, at the median. The energy distance of the two sets is {near['energy_distance'][0]:.4f}.",
        "[All values](klein-emoji.json).",
    ]
    return "\n".join(lines)


def facts(found: dict[str, Any], name: str) -> str:
    """What the card of one model tells."""
    column, copied = 1 + list(RUNS).index(name), found["copies"]
    how = f"{RUNS[name]} Euler steps" + (f" with guidance {GUIDANCE:g}" if name == "teacher" else "")
    lines = [
        f"{len(found['prompts'])} pictures, {found['common']} of common prompts and {len(found['prompts']) - found['common']} of others, by {how}:",
        "",
        *(f"* {row[0]}: {row[column]}." for row in rows_of(found)),
        f"* The classifier of the category is right for {percent(found['category']['same_prompts'])} of the real pictures of these prompts; it was not fitted on them.",
        f"* Autoencoder: {found['psnr']['listed']:.1f} dB PSNR on the listed emoji, {found['psnr']['all']:.1f} dB on all.",
        "",
        f"The model mostly reproduces what it was trained on: it saw two pictures a prompt. {percent(copied[f'{name}, closer than half of what is between the sets'])} "
        "of its pictures are closer to a training picture than half the usual distance between the two sets' pictures of one emoji "
        f"({copied['between the sets'][1]:.3f}, root mean square over pixels in [0, 1]).",
    ]
    return "\n".join(lines)


def fitted() -> str:
    """The solvers that ship with the model: how they were made, and their errors on rows that were not fitted to."""
    solvers = bundled_solvers("klein-emoji")
    about = solvers[0].fitted_to
    asked = [
        f"--{option} '{p}'" for option, key in (("prompt", "prompts"), ("held-prompt", "held_prompts")) for p in about[key]
    ]
    calls = " ".join(str(s.nfe) for s in solvers)
    lines = [
        "## Fitted solvers",
        "",
        f'`flowsamplers.solver.bundled_solvers("klein-emoji")` gives a solver for each of {calls.replace(" ", ", ")} model calls. This command made them:',
        "",
        "```bash",
        f"flowsamplers fit --model klein-emoji --nfe {calls} --rows 16 --nodes 32 --rounds 3 \\",
        f"    --seed {about['first_seed']} --out klein-emoji.json \\",
        *(f"    {' '.join(asked[i : i + 4])} \\" for i in range(0, len(asked) - 4, 4)),
        f"    {' '.join(asked[len(asked) - 4 :])}",
        "```",
        "",
        f"Errors on {solvers[0].validation.rows} rows with the held prompts, which were not fitted to:",
        "",
        "| model calls | fitted | best other sampler with as many calls | its error |",
        "| --: | --: | --- | --: |",
    ]
    for solver in solvers:
        judged = solver.validation
        best = min((s for s in judged.others if s.nfe <= solver.nfe), key=lambda s: s.error)
        lines.append(
            f"| {solver.nfe} | {judged.solver.error:.3f} ± {2 * judged.solver.uncertainty:.3f} | {best.name} | "
            f"{best.error:.3f} ± {2 * best.uncertainty:.3f} |"
        )
    return "\n".join([*lines, "", "The pictures of the site that show these solvers have other prompts and noises."])


def cards(found: dict[str, Any]) -> dict[Path, str]:
    """The cards of both models."""
    made = []
    for name in ("vae", "teacher"):
        told, (command, machine) = found["training"][name], MADE[name]
        made.append(f"* `{command}`: {told['steps']:,} steps in {told['minutes']:.1f} minutes on {machine}.")
    told, (command, machine) = found["training"]["student"], MADE["student"]
    measured = f"\n## Measured\n{facts(found, 'student')}\n"
    return {
        BUNDLED / "klein_emoji" / "README.md": teacher_card("\n".join(made), f"{facts(found, 'teacher')}\n\n{fitted()}"),
        BUNDLED / "klein_emoji_distilled" / "README.md": student_card(
            "klein-emoji", subjects()["klein-emoji"], command, told["steps"], 60 * told["minutes"], measured, machine
        ),
    }


def page() -> str:
    """The page with its measured part renewed."""
    return with_measured(PAGE, "measure_klein_emoji.py", f"{table(json.loads(DATA.read_text()))}\n\n{fitted()}")


def publish() -> None:
    """Write figures, cards and the page from what was measured."""
    found = json.loads(DATA.read_text())
    losses(found)
    for path, text in cards(found).items():
        path.write_text(text)
    PAGE.write_text(page())


if __name__ == "__main__":
    torch.set_num_threads(1)
    build_with_data(__doc__, "folder of the data and the checkpoints", DATA, measure, publish)
