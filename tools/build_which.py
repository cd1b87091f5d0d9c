"""Write docs/start/which-sampler.md, the answer of the committed benchmark: flowsamplers/measurements/benchmark.json.

python tools/build_which.py --page
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import fmean

from flowsamplers.benchmark import BUDGETS, FEW, NETWORKS, Measured, finalists, measured, measured_stock, recommend
from flowsamplers.study import load

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "start" / "which-sampler.md"
SHOWN = (4, 8, 16, 32)
DIGITS, EMOJI = NETWORKS


def stock(schedule: str, budget: int, flow: str | None) -> tuple[str, float]:
    """The best of what diffusers ships, by its name, and its error."""
    found = finalists(measured_stock(), schedule, budget, flow)
    best = min(found, key=lambda m: error(m, flow)) if flow else recommend(schedule, budget).stock
    return best.label, error(best, flow)


def error(cell: Measured, flow: str | None) -> float:
    """On one flow, or the geometric mean of the network and of the mixtures."""
    return cell.score if flow is None else cell.errors[flow]


def table(schedule: str, flow: str | None) -> list[str]:
    """The best at each number of calls."""
    lines = [
        "| calls | sampler | error | best of diffusers | Euler |",
        "| --: | --- | --: | --- | --: |",
    ]
    for budget in SHOWN:
        found = finalists(measured(), schedule, budget, flow)
        best = min(found, key=lambda m: error(m, flow)) if flow else recommend(schedule, budget).best
        name, theirs = stock(schedule, budget, flow)
        euler = next(error(m, flow) for m in found if m.label == "euler")
        last = best.sampler.get("options", {}).get("last")
        steps = f"{best.steps} steps" + (f", last `{last}`" if last else "")
        lines.append(
            f"| **{budget}** | `{best.sampler['name']}`, {steps} | **{percent(error(best, flow))}** "
            f"| {percent(theirs)} ({name.replace(' ', '&nbsp;')}) | {percent(euler)} |"
        )
    return lines


def percent(value: float) -> str:
    """Two digits that count."""
    return f"{100 * value:.0f}&nbsp;%" if value >= 1 else f"{100 * value:.2g}&nbsp;%"


def regret(label: str, schedule: str) -> float:
    """How many times the error of the best a sampler has at worst, over all numbers of calls, on average and on each network.

    On klein-emoji with the first two prompts, which every sampler was run with.
    """
    worst = 0.0
    for budget in BUDGETS:
        found = [
            replace(m, errors={**m.errors, EMOJI: fmean(m.each[EMOJI][:2])})
            for m in measured()
            if (m.schedule, m.nfe) == (schedule, budget)
        ]
        mine = [m for m in found if m.label == label]
        for flow in (None, *NETWORKS):
            worst = max(worst, error(mine[0], flow) / min(error(m, flow) for m in found) if mine else float("inf"))
    return worst


def least(schedule: str, budget: int, flow: str) -> float:
    """The smallest error on a network."""
    return min(error(m, flow) for m in finalists(measured(), schedule, budget, flow))


def on(label: str, flow: str, budget: int) -> str:
    """The error of a sampler on FLUX.2's schedule."""
    return percent(next(error(m, flow) for m in finalists(measured(), "flux2", budget, flow) if m.label == label))


def one_to_remember(schedule: str) -> tuple[str, float]:
    """The sampler whose worst regret is smallest."""
    labels = dict.fromkeys(m.label for m in measured())
    best = min(labels, key=lambda label: regret(label, schedule))
    return best, regret(best, schedule)


def options(label: str) -> list[str]:
    """``name:key=value`` as the arguments of the scheduler."""
    name, _, rest = label.partition(":")
    pairs = ", ".join(f'"{k}": "{v}"' for k, _, v in (item.partition("=") for item in filter(None, rest.split(","))))
    return [f'sampler="{name}"', *([f"sampler_options={{{pairs}}}"] if pairs else [])]


def page() -> str:
    """The whole page."""
    shifted, shifted_regret = one_to_remember("flux2")
    flat, flat_regret = one_to_remember("linear")
    eight = recommend("flux2", nfe=8)
    mixtures = len(measured()[0].errors) - len(NETWORKS)
    last = "unipc:last=ralston3"
    few = [recommend("flux2", nfe=n).best.label for n in FEW]
    assert set(few) == {"euler"}, few
    study = load(DOCS / "studies" / EMOJI)
    fitted = study.error("fitted", 8)
    studied_error, studied = min((study.error(name, 8), name) for name in study.labels if name != "fitted")
    text = [
        "---",
        "search:",
        "  boost: 4",
        "---",
        "",
        "# Which sampler should I use",
        "",
        "<!-- written by tools/build_which.py from flowsamplers/measurements/benchmark.json -->",
        "",
        "**Is your model distilled?** A model for 4 steps without guidance, such as FLUX.2 [klein] 4B or 9B, is. Then use `euler` with the number of",
        "steps of its training. On the bundled distilled model, no other sampler came measurably closer to the teacher:",
        "[Distilled against base](../explanation/distilled.md). The rest of this page is about base models.",
        "",
        f"**With 8 model calls on FLUX.2's schedule: `{eight.best.label}`, {eight.steps} steps.** Its error is {percent(eight.best.score)}. The "
        f"best scheduler of diffusers, {eight.stock.label}, has {percent(eight.stock.score)}.",
        "",
        "```python",
        "from flowsamplers_diffusers import FlowSamplerScheduler",
        "",
        "pipe.scheduler = FlowSamplerScheduler.from_config(",
        "    pipe.scheduler.config,",
        *[f"    {option}," for option in options(eight.best.label)],
        '    budget="nfe",  # num_inference_steps counts model calls',
        ")",
        'image = pipe(prompt="a cat", num_inference_steps=8).images[0]',
        "```",
        "",
        f"**The two networks of the benchmark disagree, so measure your model.** With 8 calls on FLUX.2's schedule, `{last}` has an error of",
        f"{on(last, DIGITS, 8)} on `{DIGITS}`, and Euler has {on('euler', DIGITS, 8)}. On `{EMOJI}` the same sampler has {on(last, EMOJI, 8)}, and Euler has",
        f"{on('euler', EMOJI, 8)}. Strong guidance and few steps make samplers of higher order fail: [see the images](../gallery.md#guidance).",
        "[The last step](../explanation/last-step.md) shows at how many calls a better last step helps on each network.",
        "",
        f"**If you want to remember one sampler,** take `{shifted}` on FLUX.2's schedule. With {BUDGETS[0]} to {BUDGETS[-1]} model calls, its error is at most",
        f"{shifted_regret:.1f} times the smallest one, on average and on each network. On a flat schedule take `{flat}`: at most {flat_regret:.1f} times.",
        "",
        "How the answer is chosen: a sampler qualifies if it is no worse than Euler on any flow of the benchmark. Of these, the answer has the",
        "smallest geometric mean of the errors, in which the two networks have the same weight as all mixtures. Where six prompts cannot tell",
        "it from Euler, the answer is Euler. `flowsamplers.recommend` and [the swap page](swap.md) give the same answer. Stochastic samplers solve",
        "another equation, so they are not in these tables.",
        "",
        "## FLUX.2's schedule",
        "",
        "The schedule is that of 4,096 tokens (1024x1024). The error is the geometric mean over the networks and the mixtures:",
        "",
        *table("flux2", None),
        "",
        f"With {FEW[0]}, {FEW[1]} and {FEW[2]} calls the answer is `euler`.",
        "",
        f"On `{EMOJI}` alone, which draws in color with guidance 2.5:",
        "",
        *table("flux2", EMOJI),
        "",
        f"On `{DIGITS}` alone:",
        "",
        *table("flux2", DIGITS),
        "",
        f"`make study` measures `{EMOJI}` on the schedule of its own small pictures (64 tokens), with seven samplers and other prompts. Of these",
        f"samplers `{studied}` has the smallest error with 8 calls, {percent(studied_error)}. The figures of the two differ because the schedules do.",
        f"The study also shows a solver that was [fitted to this model](../howto/fit-a-solver.md): {percent(fitted)}. Such a solver belongs to one",
        "model, so it cannot be an answer here.",
        "",
        "Where the tables disagree, use that of the network that is most like yours.",
        "",
        "## A flat schedule",
        "",
        "The sigmas are evenly spaced. SD3's schedule, with a shift of 3, lies between this one and FLUX.2's.",
        "",
        *table("linear", None),
        "",
        f"On `{EMOJI}` alone:",
        "",
        *table("linear", EMOJI),
        "",
        f"On `{DIGITS}` alone:",
        "",
        *table("linear", DIGITS),
        "",
        f"On both networks the schedule matters as much as the sampler. With 8 calls the best error on `{EMOJI}` is {percent(least('flux2', 8, EMOJI))} on",
        f"FLUX.2's schedule and {percent(least('linear', 8, EMOJI))} on the flat one; on `{DIGITS}` it is {percent(least('flux2', 8, DIGITS))} and "
        f"{percent(least('linear', 8, DIGITS))}.",
        "Their pictures have 64 and 16 tokens. Nothing was measured at 4,096 tokens.",
        "",
        "## Ask in Python",
        "",
        "```python",
        ">>> import flowsamplers as fs",
        '>>> answer = fs.recommend("flux2", nfe=8)',
        ">>> answer.sampler, answer.steps",
        f"({eight.sampler}, {eight.steps})",
        '>>> print(f"error {answer.best.score:.3f}, stock\'s {answer.stock.score:.3f}")',
        f"error {eight.best.score:.3f}, stock's {eight.stock.score:.3f}",
        ">>> grid = fs.get_schedule(answer.matched, answer.steps, tokens=4096)",
        ">>> fs.nfe(answer.sampler, grid)",
        "8",
        ">>> fs.recommend(fs.schedules.shift(8, shift=1.5)).matched  # the nearest schedule",
        "'linear'",
        "",
        "```",
        "",
        "## How far this answer carries",
        "",
        f"* It was measured on {mixtures} mixtures of Gaussians, whose solutions are exact, and on `{DIGITS}` and `{EMOJI}`, FLUX.2 Kleins of half a",
        "  million and 2.8 million parameters. **Nothing here was measured on the real FLUX.2 weights.** Measure yours: `flowsamplers study --model ...`, see",
        "  [Measure your own model](../howto/measure-your-model.md).",
        "* The error is the relative distance of the final latents to the exact solution from the same noise. A small error means that the",
        "  sampler solved the model's equation accurately. It does not mean that the image is better.",
        "* The tables count model calls, not steps: one step of `heun` takes two. Guidance above 1 doubles the cost of each call.",
        f"* All samplers at all of {', '.join(map(str, BUDGETS))} calls: [Benchmark](../reference/benchmark.md).",
        "",
    ]
    return "\n".join(text)


if __name__ == "__main__":
    from building import build

    build(__doc__, PAGE, page)
