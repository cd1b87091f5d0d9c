"""Write docs/start/which-sampler.md, the answer of the committed benchmark: flowsamplers/measurements/benchmark.json.

python tools/build_which.py --page
"""

from __future__ import annotations

from pathlib import Path

from flowsamplers.benchmark import BUDGETS, FEW, Measured, measured, measured_stock, recommend
from flowsamplers.study import load

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "start" / "which-sampler.md"
SHOWN = (4, 8, 16, 32)
KLEIN = "klein-digits"


def cells(schedule: str, budget: int) -> list[Measured]:
    """What was measured at a number of model calls."""
    return [m for m in measured() if (m.schedule, m.nfe) == (schedule, budget)]


def stock(schedule: str, budget: int, flow: str | None) -> tuple[str, float]:
    """The best of what diffusers ships, by its name, and its error."""
    found = [m for m in measured_stock() if (m.schedule, m.nfe) == (schedule, budget)]
    best = min(found, key=lambda m: error(m, flow))
    return best.label, error(best, flow)


def error(cell: Measured, flow: str | None) -> float:
    """On one flow, or the geometric mean of the network and of the mixtures."""
    return cell.score if flow is None else cell.errors[flow]


def no_worse_than_euler(schedule: str, budget: int) -> list[Measured]:
    """What `recommend` chooses from."""
    found = cells(schedule, budget)
    euler = next(m for m in found if m.label == "euler")
    return [m for m in found if m.no_worse_than(euler)]


def table(schedule: str, flow: str | None) -> list[str]:
    """The best at each number of calls."""
    lines = [
        "| calls | sampler | last step | steps | error | best of diffusers | Euler |",
        "| --: | --- | --- | --: | --: | --- | --: |",
    ]
    for budget in SHOWN:
        found = cells(schedule, budget)
        best = min(no_worse_than_euler(schedule, budget), key=lambda m: error(m, flow))
        name, theirs = stock(schedule, budget, flow)
        euler = next(error(m, flow) for m in found if m.label == "euler")
        last = best.sampler.get("options", {}).get("last", "its own")
        lines.append(
            f"| **{budget}** | `{best.sampler['name']}` | {last} | {best.steps} | **{percent(error(best, flow))}** "
            f"| {percent(theirs)} ({name.replace(' ', '&nbsp;')}) | {percent(euler)} |"
        )
    return lines


def percent(value: float) -> str:
    """Two digits that count."""
    return f"{100 * value:.2g}&nbsp;%"


def regret(label: str, schedule: str) -> float:
    """How many times the error of the best a sampler has at worst, over all numbers of calls, on average and on klein-digits."""
    worst = 0.0
    for budget in BUDGETS:
        found = cells(schedule, budget)
        mine = [m for m in found if m.label == label]
        for flow in (None, KLEIN):
            worst = max(worst, error(mine[0], flow) / min(error(m, flow) for m in found) if mine else float("inf"))
    return worst


def least(schedule: str, budget: int) -> float:
    """The smallest error on klein-digits."""
    return min(error(m, KLEIN) for m in cells(schedule, budget))


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
    mixtures = len(measured()[0].errors) - 1
    few = ", ".join(f"`{recommend('flux2', nfe=n).best.label}`" for n in FEW)
    studied, studied_error = load(DOCS / "studies" / "klein-digits").best(nfe=8)
    text = [
        "# Which sampler should I use",
        "",
        "<!-- written by tools/build_which.py from flowsamplers/measurements/benchmark.json -->",
        "",
        f"**With 8 model calls on FLUX.2's schedule: `{eight.best.label}`, {eight.steps} steps.** Its error is {percent(eight.best.score)}; the "
        f"best that diffusers ships, {eight.stock.label}, has {percent(eight.stock.score)}.",
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
        "The rule takes only samplers that are no worse than Euler on any flow of the benchmark. Of these it names the one with the smallest",
        "geometric mean of the errors, in which the trained network counts as much as all mixtures together. `flowsamplers.recommend`, the",
        "README and [the swap page](swap.md) give the same answer and the same figures.",
        "",
        f"`{shifted}` is the one to remember for FLUX.2's schedule: at every number of model calls from {BUDGETS[0]} to {BUDGETS[-1]}, on "
        f"average and on the trained network, its error is at most {shifted_regret:.2f} times that of the best. On a flat schedule no sampler is "
        f"that safe; the safest is `{flat}`, at most {flat_regret:.1f} times the best.",
        "",
        "A stochastic sampler has no error in this sense, and is not in these tables.",
        "",
        "## FLUX.2's schedule",
        "",
        "4,096 tokens (1024x1024), the empirical mu. The error is the geometric mean of the network and of the mixtures:",
        "",
        *table("flux2", None),
        "",
        f"With {FEW[0]}, {FEW[1]} and {FEW[2]} calls the answers are {few}.",
        "",
        f"On `{KLEIN}` alone, the one trained network among them, and the nearest thing here to your model:",
        "",
        *table("flux2", KLEIN),
        "",
        "`make study` measures the same network on the schedule of its own small pictures (16 tokens), with seven samplers and other prompts.",
        f"There `{studied}` has the smallest error with 8 calls, {percent(studied_error)}. The figures of the two differ because the schedules do.",
        "",
        "Where the two tables disagree, believe the network. Why the last step decides: [The last step](../explanation/last-step.md).",
        "",
        "## A flat schedule",
        "",
        "Sigmas evenly spaced, or nearly: SD3's shift of 3 lies between this and FLUX.2's.",
        "",
        *table("linear", None),
        "",
        f"On `{KLEIN}` alone:",
        "",
        *table("linear", KLEIN),
        "",
        f"So on `{KLEIN}` the schedule matters as much as the sampler: with 8 calls the best error is {percent(least('flux2', 8))} on FLUX.2's and "
        f"{percent(least('linear', 8))} on the flat one. Its pictures have 16 tokens; a picture of 4,096 is another matter, which was not measured.",
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
        ">>> fs.recommend(fs.schedules.shift(8, shift=1.5)).matched  # any grid: the nearest",
        "'linear'",
        "",
        "```",
        "",
        "## What this answer is worth",
        "",
        f"* It was measured on {mixtures} mixtures of Gaussians, whose solutions are exact, and on `{KLEIN}`, a FLUX.2 Klein of half a million",
        "  parameters. **Nothing here was measured on the real FLUX.2 weights.** Measure yours: `flowsamplers study --model ...`, see",
        "  [Measure your own model](../howto/measure-your-model.md).",
        "* The error is the relative distance of the final state to the exact solution from the same noise. A small one says that the sampler",
        "  drew what the model asked for, not that the image is better.",
        "* Run a distilled model, such as FLUX.2 [klein] 4B, with `euler` and the number of steps of its training. On the bundled distilled",
        "  model no other sampler ended closer to the teacher: [Distilled against base](../explanation/distilled.md).",
        "* Model calls count, not steps: one step of `heun` takes two. Guidance above 1 doubles what each costs.",
        f"* All samplers at all of {', '.join(map(str, BUDGETS))} calls: [Benchmark](../reference/benchmark.md).",
        "",
    ]
    return "\n".join(text)


if __name__ == "__main__":
    PAGE.write_text(page())
