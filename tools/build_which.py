"""Write docs/start/which-sampler.md, the answer of the committed benchmark: flowsamplers/measurements/benchmark.json.

python tools/build_which.py --page
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import fmean

from flowsamplers.benchmark import BUDGETS, FEW, NETWORKS, Measured, finalists, measured, recommend
from flowsamplers.study import load

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "start" / "which-sampler.md"
SHOWN = (4, 8, 16, 32)
DIGITS, EMOJI = NETWORKS


def error(cell: Measured, flow: str | None) -> float:
    """On one flow, or the geometric mean of the network and of the mixtures."""
    return cell.score if flow is None else cell.errors[flow]


def run(cell: Measured) -> str:
    """A sampler with its steps and its options."""
    options = "".join(f", {key} `{value}`" for key, value in cell.sampler.get("options", {}).items())
    return f"`{cell.sampler['name']}`, {cell.steps} steps{options}"


def table(schedule: str) -> list[str]:
    """The answer at each number of calls."""
    lines = [
        "| calls | sampler | error | best of diffusers | Euler |",
        "| --: | --- | --: | --- | --: |",
    ]
    for budget in SHOWN:
        answer = recommend(schedule, budget)
        best, stock = answer.best, answer.stock
        euler = next(m.score for m in finalists(measured(), schedule, budget) if m.label == "euler")
        lines.append(
            f"| **{budget}** | {run(best)} | **{percent(best.score)}** "
            f"| {percent(stock.score)} ({stock.label.replace(' ', '&nbsp;')}) | {percent(euler)} |"
        )
    return lines


def networks(schedule: str) -> list[str]:
    """The best on each network at each number of calls."""
    lines = [f"| calls | on `{EMOJI}` | on `{DIGITS}` |", "| --: | --- | --- |"]
    for budget in SHOWN:
        cells = []
        for flow in (EMOJI, DIGITS):
            best = min(finalists(measured(), schedule, budget, flow), key=lambda m: error(m, flow))
            cells.append(f"{run(best)}: **{percent(error(best, flow))}**")
        lines.append(f"| **{budget}** | {' | '.join(cells)} |")
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
        "**Is your model distilled?** FLUX.2 [klein] 4B and 9B are: they draw in 4 steps without guidance. Then use `euler` with the number of steps of",
        "the training. On the bundled distilled model, no sampler came measurably closer to the teacher: [Distilled models](../explanation/distilled.md).",
        "The rest of this page is about base models, such as FLUX.2 [klein] base 4B.",
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
        f"**Measure your model, because the two networks of the benchmark disagree.** With 8 calls on FLUX.2's schedule, `{last}` has an error",
        f"of {on(last, DIGITS, 8)} on `{DIGITS}`. Euler has {on('euler', DIGITS, 8)} there. On `{EMOJI}` the two have {on(last, EMOJI, 8)} and "
        f"{on('euler', EMOJI, 8)}: with [strong guidance](../gallery.md#guidance),",
        "samplers of higher order need more steps. [Measure your own model](../howto/measure-your-model.md) shows the command.",
        "",
        f"**One sampler to remember:** `{shifted}` on FLUX.2's schedule. With {BUDGETS[0]} to {BUDGETS[-1]} model calls, its error is at most "
        f"{shifted_regret:.1f} times",
        f"the smallest one, on average and on each network. On a flat schedule take `{flat}`: at most {flat_regret:.1f} times.",
        "",
        "## FLUX.2's schedule",
        "",
        "The schedule is that of 4,096 tokens (1024x1024). The error is the geometric mean over the networks and the mixtures:",
        "",
        *table("flux2"),
        "",
        f"With {FEW[0]}, {FEW[1]} and {FEW[2]} calls the answer is `euler`. The best samplers on each network alone:",
        "",
        *networks("flux2"),
        "",
        f"[A solver that is fitted to your model](../howto/fit-a-solver.md) is more accurate. The one for `{EMOJI}` has an error of {percent(fitted)} with 8 calls,",
        f"on a schedule of its own. `{studied}` has {percent(studied_error)}, the smallest of the seven samplers in the same study.",
        "",
        "## A flat schedule",
        "",
        "The sigmas are evenly spaced. SD3's schedule, with a shift of 3, lies between this one and FLUX.2's.",
        "",
        *table("linear"),
        "",
        f"The schedule matters as much as the sampler. With 8 calls the best error on `{EMOJI}` is {percent(least('flux2', 8, EMOJI))} on FLUX.2's schedule "
        f"and {percent(least('linear', 8, EMOJI))}",
        f"on the flat one. On `{DIGITS}` it is {percent(least('flux2', 8, DIGITS))} and {percent(least('linear', 8, DIGITS))}. Their pictures have 64 and "
        "16 tokens. Nothing was measured at 4,096 tokens.",
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
        ">>> fs.recommend(fs.schedules.shift(8, shift=1.5)).matched  # the nearest schedule",
        "'linear'",
        "",
        "```",
        "",
        "## How far this answer carries",
        "",
        "* **How the answer is chosen:** a sampler qualifies if it is no worse than Euler on any flow of the benchmark. Of these, the answer has the",
        "  smallest geometric mean error. Where six prompts cannot tell it from Euler, the answer is Euler.",
        f"* **Where it was measured:** on {mixtures} mixtures of Gaussians, whose solutions are exact, and on the small FLUX.2 Kleins `{DIGITS}` and "
        f"`{EMOJI}`.",
        "  **Nothing here was measured on the real FLUX.2 weights.**",
        "* **What an error is:** the relative distance of the final latents to the exact solution from the same noise. It does not say which image",
        "  is better. [Stochastic samplers](../howto/stochastic-samplers.md) solve another equation, so they are not in these tables.",
        "* **What is counted:** model calls, not steps. One step of `heun` takes two calls. Guidance above 1 doubles the cost of each call.",
        "* **Other numbers of calls:** the [benchmark](../reference/benchmark.md).",
        "",
    ]
    return "\n".join(text)


if __name__ == "__main__":
    from building import build

    build(__doc__, PAGE, page)
