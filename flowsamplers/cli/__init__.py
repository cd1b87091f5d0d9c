"""The ``flowsamplers`` command: a thin shell over the library."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Literal

try:
    import click
    from tqdm import tqdm
except ModuleNotFoundError as missing:
    sys.exit(f"the flowsamplers command needs the package {missing.name!r}: pip install 'flowsamplers[cli]'")

import torch

import flowsamplers as fs
from flowsamplers.cli.types import Command, CommandWithOthers, Cost, Method, Shift, Size
from flowsamplers.flows.registry import load_flow
from flowsamplers.sampler import Sampler, get_sampler, sampler_info
from flowsamplers.schedules import list_schedules, tokens_for
from flowsamplers.study.cost import Budget
from flowsamplers.study.diff import diff
from flowsamplers.study.plan import DEFAULT_PROMPTS, DEFAULT_SAMPLERS, Study
from flowsamplers.study.report import terminal
from flowsamplers.study.results import load
from flowsamplers.study.rows import to_jsonl
from flowsamplers.study.steps import ScheduleTable, as_json, draw, grid_lines, klein_steps
from flowsamplers.study.store import check_writable


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that open a model; the command gets them as ``flow_options``."""

    @wraps(command)
    def with_flow(
        *args: Any,
        size: tuple[int, int] | None,
        guidance: float | None,
        dtype: str | None,
        device: str | None,
        offload: str | None,
        full_time: bool,
        **kwargs: Any,
    ) -> Any:
        _settle_threads(kwargs["model"])
        width, height = size or (None, None)
        options = {
            "height": height,
            "width": width,
            "guidance_scale": guidance,
            "dtype": dtype,
            "device": device,
            "offload": offload,
            "full_time": full_time or None,
        }
        return command(*args, flow_options={k: v for k, v in options.items() if v is not None}, **kwargs)

    for option in (
        click.option("--full-time", is_flag=True, help="Time conditioning in full precision (matters in bfloat16)."),
        click.option("--offload", type=click.Choice(["model", "sequential"]), help="Keep weights on the CPU until needed."),
        click.option("--device", help="Such as cuda or cpu; by default CUDA where there is one."),
        click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="Of the network."),
        click.option("--guidance", type=float, help="Classifier-free guidance; above 1 it takes two passes a call."),
        click.option("--size", type=Size(), help="WIDTHxHEIGHT in pixels; by default the model's."),
        click.option(
            "--model", default="klein-digits", show_default=True, help="Bundled name, folder, hub id, or loader:name."
        ),
    ):
        with_flow = option(with_flow)
    return with_flow


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(fs.__version__)
def main() -> None:
    """Samplers and schedules for flow-matching models, and the tools to measure them."""


@main.group(cls=CommandWithOthers, invoke_without_command=True)
@model_options
@click.option("--prompt", "prompts", multiple=True, help="May be repeated.")
@click.option("--seed", "seeds", type=int, multiple=True, help="May be repeated. By default 0, 1 and 2.")
@click.option("--sampler", "samplers", type=Method(), multiple=True, help="NAME or NAME:option=value; may be repeated.")
@click.option("--nfe", "nfe", type=int, multiple=True, help="A budget of model calls; may be repeated.")
@click.option("--schedule", default="flux2", show_default=True, help="Name of a schedule.")
@click.option(
    "--mu", type=Shift(), default="fixed", show_default=True, help="Shift of flux2: a number, fixed (at 50 steps), follow."
)
@click.option("--max-batch", type=int, default=64, show_default=True, help="Rows in one model call.")
@click.option("--dry-run", is_flag=True, help="Only say what it would cost; write nothing.")
@click.option("--budget", type=Cost(), help="Stop at so many evaluations, or after 90s, 10min, 2h. Run it again to go on.")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="Where it runs.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for rows and figures.  [default: studies/MODEL]")
@click.option("--references", type=click.Path(path_type=Path), help="Folder of references to share.  [default: OUT/references]")
@click.option("--preset", type=click.Choice(["klein-steps"]), help="A known experiment instead.")
@click.option("--json", "as_rows", is_flag=True, help="Print the rows as JSON lines, or the plan as JSON.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@click.pass_context
def study(
    ctx: click.Context,
    model: str,
    flow_options: dict[str, Any],
    prompts: tuple[str, ...],
    seeds: tuple[int, ...],
    samplers: tuple[Sampler, ...],
    nfe: tuple[int, ...],
    schedule: str,
    mu: Any,
    max_batch: int,
    dry_run: bool,
    budget: Budget | None,
    engine: Literal["local", "ray"],
    out: Path | None,
    references: Path | None,
    preset: str | None,
    as_rows: bool,
    quiet: bool,
) -> None:
    """Measure the error of samplers against the number of model calls.

    Without arguments: the bundled klein-digits on this machine, in about a minute. A study that was interrupted goes on where it
    stopped when the same command is given again.

    \b
    flowsamplers study
    flowsamplers study --dry-run
    flowsamplers study --sampler euler --sampler ab2:last=midpoint --nfe 4 --nfe 8 --nfe 16
    flowsamplers study --model black-forest-labs/FLUX.2-klein-base-4B --device cuda --prompt "a cat" --budget 2h
    flowsamplers study --preset klein-steps
    flowsamplers study diff studies/before studies/after
    """  # noqa: D301
    if ctx.invoked_subcommand is not None:
        return
    folder = out or Path("studies") / re.sub(r"[^A-Za-z0-9._-]+", "-", model)
    if preset:
        with progress(quiet) as report:
            flow = _open(model, prompts[0] if prompts else None, flow_options)
            text = klein_steps(flow, folder, seed=(seeds or (0,))[0], on_call=lambda rows: report("runs", rows, 0))
        click.echo(text)
        click.echo(f"\nimages: {folder / 'klein-steps.png'}")
        return
    defaults: Sequence[str | None] = (None,) if _named_by_loader(model) else (_default_prompt(model),)
    defaults = DEFAULT_PROMPTS if model == "klein-digits" else defaults
    wanted = Study(
        model,
        prompts=prompts or defaults,
        seeds=seeds or (0, 1, 2),
        samplers=samplers or DEFAULT_SAMPLERS,
        nfe=nfe or Study.nfe,
        schedule=schedule,
        mu=mu,
        flow_options=flow_options,
        max_batch=max_batch,
    )
    if dry_run:
        plan = wanted.plan()
        click.echo(json.dumps(plan.to_dict()) if as_rows else "\n".join(plan.lines()))
        return
    with progress(quiet) as advanced:
        results = wanted.run(folder, engine=engine, budget=budget, references=references, progress=advanced)
    if as_rows:
        click.echo(to_jsonl(results.rows), nl=False)
        return
    click.echo(terminal(results))
    missing = len(wanted.cases) * len(wanted.runs(results.settings["tokens"])) - len(results.rows)
    if missing:
        click.echo(f"\nThe budget ended {missing} runs early; the same command goes on.")
    click.echo(f"\nreport: {folder / 'report.html'}")


@study.command("diff")
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
def diff_(first: Path, second: Path) -> None:
    """Compare two studies within their uncertainty; exits with 1 if they differ.

    \b
    flowsamplers study diff studies/before studies/after
    """  # noqa: D301
    found = diff(load(first), load(second))
    click.echo("\n".join(found.lines()))
    sys.exit(not found.same)


@main.command(cls=Command)
@click.argument("folder", type=click.Path(path_type=Path))
def report(folder: Path) -> None:
    """Make the figures and the HTML report of a study anew from its rows, and print its tables.

    \b
    flowsamplers report studies/klein-digits
    """  # noqa: D301
    from flowsamplers.study import page  # noqa: PLC0415

    results = load(folder)
    page.write(results, folder)
    click.echo(f"{terminal(results)}\n\nreport: {folder / page.REPORT}")


def _named_by_loader(model: str) -> bool:
    """Whether the model is opened by another loader than Klein's, of which nothing is known."""
    return ":" in model or model == "mixture"


def _default_prompt(model: str) -> str:
    return DEFAULT_PROMPTS[0] if model == "klein-digits" else 'A cat holding a sign that says "Gifu AI Study Group"'


@main.command(cls=Command)
@click.option("--steps", type=int, default=4, show_default=True)
@click.option("--size", type=Size(), default="1024x1024", show_default=True, help="WIDTHxHEIGHT in pixels.")
@click.option("--tokens", type=int, help="Latent tokens, instead of the size.")
@click.option("--schedule", "name", default="flux2", show_default=True, help="Name of a schedule, see list --schedules.")
@click.option("--mu", type=float, help="Hold the shift of flux2 here.")
@click.option("--sigmas", help="Explicit sigmas, separated by commas, instead of a schedule.")
@click.option("--json", "as_rows", is_flag=True, help="Print JSON.")
def schedule(
    steps: int, size: tuple[int, int], tokens: int | None, name: str, mu: float | None, sigmas: str | None, as_rows: bool
) -> None:
    """Print the numbers of a schedule: sigmas, timesteps, dt and their sum.

    \b
    flowsamplers schedule --steps 4 --size 1024x1024
    flowsamplers schedule --schedule beta --steps 8
    """  # noqa: D301
    tokens = tokens_for(*size) if tokens is None else tokens
    if name == "flux2" and sigmas is None:
        table = ScheduleTable.of(steps, tokens, mu)
        click.echo(json.dumps(as_json(table)) if as_rows else "\n".join(table.lines()))
        return
    if sigmas is not None:
        grid = fs.schedules.explicit([_number(s) for s in sigmas.split(",")])
    else:
        grid = fs.get_schedule(name, steps, **({"tokens": tokens} if name == "flux1" else {}))
    if as_rows:
        click.echo(json.dumps({"sigmas": grid.sigmas, "timesteps": grid.timesteps, "dt": grid.dt, "sum": sum(grid.dt)}))
        return
    click.echo("\n".join(grid_lines(grid)))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"sigmas: {text!r} is no number; give them as 1.0,0.5,0.0") from None


@main.command("list", cls=Command)
@click.option("--schedules", is_flag=True, help="Schedules instead of samplers.")
@click.option("--json", "as_rows", is_flag=True, help="Print JSON.")
def list_(schedules: bool, as_rows: bool) -> None:
    """List samplers, or schedules.

    \b
    flowsamplers list
    flowsamplers list --schedules
    """  # noqa: D301
    if schedules:
        infos = [{"name": s.name, "options": sorted(s.options), "summary": s.summary} for s in list_schedules()]
        lines = [f"{s['name']:<17} {s['summary']}" for s in infos]
    else:
        grid = fs.schedules.linear(8)
        infos: list[dict[str, Any]] = [
            {
                "name": i.name,
                "aliases": list(i.aliases),
                "family": i.family,
                "order": i.order,
                "nfe_at_8_steps": None if i.adaptive else fs.nfe(i.name, grid),
                "stochastic": i.stochastic,
                "adaptive": i.adaptive,
                "keeps_marginals": i.keeps_marginals,
                "options": i.options,
                "reference": i.reference,
            }
            for i in fs.list_samplers()
        ]
        lines = [f"{'name':<10} {'order':>5} {'calls at 8 steps':>17}  {'kind':<10} also known as"]
        for info in infos:
            kind = "stochastic" if info["stochastic"] else "ODE"
            aliases = ", ".join(info["aliases"])
            lines.append(f"{info['name']:<10} {info['order']:>5} {info['nfe_at_8_steps']!s:>17}  {kind:<10} {aliases}")
    click.echo(json.dumps(infos, indent=2) if as_rows else "\n".join(lines))


@main.command(cls=Command)
@model_options
@click.option("--sampler", "method", type=Method(), default="euler", show_default=True)
@click.option("--steps", type=int, default=4, show_default=True)
@click.option("--prompt", help="What to draw.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--json", "as_rows", is_flag=True, help="Print JSON.")
def trace(
    model: str, flow_options: dict[str, Any], method: Sampler, steps: int, prompt: str | None, seed: int, as_rows: bool
) -> None:
    """Run once and print every model call: the debugger made unnecessary.

    \b
    flowsamplers trace --sampler heun --steps 4
    """  # noqa: D301
    flow = _open(model, prompt, flow_options)
    grid = fs.schedules.flux2(steps, tokens=flow.tokens, arithmetic="stock")
    run = fs.trace(flow.velocity, flow.noise([seed]), grid, method, seed=seed)
    parts = flow.parts() if hasattr(flow, "parts") else []
    rows = [
        {"step": e.step, "stage": e.stage, "sigma": e.sigma, "timestep": 1000 * e.sigma, "dt": grid.dt[e.step]}
        | {"x_rms": e.x_norm, "v_rms": e.v_norm}
        for e in run.evaluations
    ]
    if as_rows:
        click.echo(json.dumps({"parts": parts, "evaluations": rows, "sum_of_dt": sum(grid.dt)}))
        return
    for name, kind, count in parts:
        click.echo(f"{name:<14} {kind:<34} {f'{count:,} parameters' if count else ''}")
    if hasattr(flow, "describe"):
        click.echo(
            "  ".join(f"{k}={v}" for k, v in flow.describe().items() if k in ("is_distilled", "guidance_scale", "tokens"))
        )
    click.echo(f"\n{'step':>4} {'stage':>5} {'sigma':>10} {'timestep':>10} {'dt of step':>11} {'rms x':>9} {'rms v':>9}")
    for r in rows:
        click.echo(
            f"{r['step']:>4} {r['stage']:>5} {r['sigma']:>10.7f} {r['timestep']:>10.4f} {r['dt']:>11.7f} "
            f"{r['x_rms']:>9.5f} {r['v_rms']:>9.5f}"
        )
    passes = run.nfe * flow.passes_per_evaluation
    click.echo(f"sum of dt {sum(grid.dt):.7f}, {run.nfe} model calls, {passes} forward passes")


@main.command(cls=Command)
@model_options
@click.option("--prompt", help="What to draw.")
@click.option(
    "--sampler", "samplers", type=Method(), multiple=True, help="May be repeated; a labelled grid then.  [default: euler]"
)
@click.option("--steps", type=int, multiple=True, help="May be repeated; a labelled grid then.  [default: 20]")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("image.png"), show_default=True, help="PNG file.")
def generate(
    model: str,
    flow_options: dict[str, Any],
    prompt: str | None,
    samplers: tuple[Sampler, ...],
    steps: tuple[int, ...],
    seed: int,
    out: Path,
) -> None:
    """Draw an image, or a labelled grid of samplers and steps, all from one noise.

    \b
    flowsamplers generate --prompt "the digit seven" --steps 8 --sampler fireflow --out seven.png
    flowsamplers generate --steps 1 --steps 2 --steps 4 --steps 8 --sampler euler --sampler ab2
    """  # noqa: D301
    check_writable(out.parent)
    if out.is_dir():
        raise IsADirectoryError(f"out={str(out)!r} is a folder; name a PNG file")
    draw(_open(model, prompt, flow_options), samplers or (get_sampler("euler"),), steps or (20,), seed, out)
    click.echo(str(out))


@main.command(cls=Command)
@click.argument("sampler")
def cite(sampler: str) -> None:
    """Print where a sampler comes from.

    \b
    flowsamplers cite fireflow
    """  # noqa: D301
    info = sampler_info(sampler)
    click.echo(f"{info.name}: {info.reference}")


def _settle_threads(model: str) -> None:
    """One thread for models whose calls take milliseconds: handing out the work costs more than it saves.

    klein-digits, one row, on two virtual cores: 6 ms with one thread, from 10 to 900 with two.
    """
    if "/" not in model and not Path(model).exists():
        torch.set_num_threads(1)


def _open(model: str, prompt: str | None, options: dict[str, Any]) -> Any:
    if prompt is None and not _named_by_loader(model):
        prompt = _default_prompt(model)
    return load_flow(model, **({} if prompt is None else {"prompt": prompt}), **options)


@contextmanager
def progress(quiet: bool) -> Generator[Callable[[str, int, int], None]]:
    """A bar for each stage of a study on standard error, with an estimate of what is left."""
    bars: dict[str, Any] = {}

    def report(stage: str, done: int, total: int) -> None:
        if stage not in bars:
            for bar in bars.values():
                bar.close()
            unit = " rows"
            bars[stage] = tqdm(total=total or None, desc=f"{stage:<10}", unit=unit, disable=quiet, ncols=80, mininterval=0.2)
        bars[stage].update(done - bars[stage].n if total else done)

    try:
        yield report
    finally:
        for bar in bars.values():
            bar.close()


if __name__ == "__main__":
    main()
