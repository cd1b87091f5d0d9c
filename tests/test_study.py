"""Studies: what is planned, what is measured, what is said of it."""

from __future__ import annotations

import json
import re
import sys
from copy import deepcopy
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import flowsamplers as fs
from flowsamplers.flows import GaussianFlow, MixtureFlow, completed
from flowsamplers.noise import normal
from flowsamplers.registry import Registered, Registry
from flowsamplers.study import Budget, Row, Study, diff, load
from flowsamplers.study.bench import Bench, Job
from flowsamplers.study.cost import Meter
from flowsamplers.study.distances import BEST_PSNR, Errors, psnr, ssim
from flowsamplers.study.report import FIGURES, WIDTH, html, percent, takeaway, terminal
from flowsamplers.study.results import Results, bootstrap
from flowsamplers.study.rows import from_jsonl, label, to_jsonl
from flowsamplers.study.run import origin_of_rows, provenance
from flowsamplers.study.truth import noise_floors, truths

pytest.importorskip("matplotlib")
SMALL = Study("mixture:four-gaussians", prompts=(None,), seeds=(0, 1), nfe=(1, 2, 4, 8, 16))


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Results:
    return SMALL.run(tmp_path_factory.mktemp("study"))


def bench_of(study: Study, flow, folder) -> tuple[Bench, list[Job]]:
    """A study's bench with a flow of one's own, and all its jobs."""
    flow = completed(flow)
    meter = Meter(flow)
    found = truths(meter, {}, study.cases, folder, evaluations=study.reference_evaluations, max_batch=64, chunk=64)
    bench = Bench(study, meter, 0.0, origin_of_rows(flow, provenance(flow)))
    return bench, [Job(planned, truth) for planned in study.runs(flow.tokens) for truth in found]


# What is planned


def test_each_budget_is_spent_as_far_as_whole_steps_go() -> None:
    for planned in SMALL.runs(tokens=8):
        assert planned.nfe == fs.nfe(planned.sampler, planned.grid)
        more, _ = SMALL.grid(planned.grid.steps + 1, 8)
        assert any(planned.nfe <= budget < fs.nfe(planned.sampler, more) for budget in SMALL.nfe)
    assert fs.largest_steps(fs.get_sampler("rk4"), 3, fs.schedules.linear) == 0


def test_a_plan_says_what_the_runs_ask_for_and_what_is_left_after_sharing(tmp_path) -> None:
    study = replace(SMALL, reference_evaluations=250)
    plan = study.plan()
    bench, jobs = bench_of(study, MixtureFlow.four_gaussians(), tmp_path)
    assert plan.rows == len(jobs)
    assert plan.asked == sum(job.planned.nfe for job in jobs)
    before = bench.flow.rows
    assert before <= plan.references
    bench.measure(jobs, lambda ended: None)
    # the local errors share some evaluations with the runs
    assert plan.unique <= bench.flow.rows - before <= plan.unique + plan.local
    assert plan.unique < 0.95 * plan.asked


def test_without_local_errors_the_plan_is_exact(tmp_path) -> None:
    study = replace(SMALL, reference_evaluations=250, local_nfe=0)
    bench, jobs = bench_of(study, MixtureFlow.four_gaussians(), tmp_path)
    before = bench.flow.rows
    bench.measure(jobs, lambda ended: None)
    assert bench.flow.rows - before == study.plan().unique


def test_a_plan_counts_the_operations_of_the_network() -> None:
    pytest.importorskip("diffusers")
    study = Study("klein-digits", prompts=("three",), seeds=(0,), samplers=("euler",), nfe=(2,))
    plan = study.plan()
    assert plan.passes == 2
    assert plan.probe.flops > 1e6
    assert "FLOPs" in "\n".join(plan.lines())


def test_bad_settings_are_named() -> None:
    for options, message in (
        ({"nfe": (0,)}, "nfe=0: a budget is at least 1 model call"),
        ({"seeds": ()}, r"seeds=\[\]: a study needs at least one"),
        ({"seeds": (1, 1)}, r"seeds=\[1, 1\]: one of them is there twice"),
        ({"samplers": ("euler", "euler")}, "samplers: one of them is there twice"),
        ({"samplers": ("lcm",)}, "sampler 'lcm' is stochastic"),
        ({"samplers": ("huen",)}, "did you mean 'heun'"),
        ({"mu": "hold"}, "mu='hold'"),
        ({"max_batch": 0}, "max_batch=0"),
        ({"seeds": (2**63,)}, "seed=9223372036854775808: a seed is a whole number of at most 64 bits"),
    ):
        with pytest.raises(ValueError, match=message):
            Study("mixture", prompts=(None,), **{"seeds": (0,), **options})
    with pytest.raises(ValueError, match=r"nfe=\[1\]: not one step of any of the samplers fits"):
        Study("mixture", prompts=(None,), seeds=(0,), samplers=("heun",), nfe=(1,)).runs(tokens=8)
    for text in ("many", "0", "-3", "1.5", "3 weeks"):
        with pytest.raises(ValueError, match="give a number of evaluations, or a time"):
            Budget.parse(text)


# What is measured


def test_reported_errors_are_the_true_errors(results: Results) -> None:
    """Against scipy's DOP853 and an own loop over each run."""
    flow = MixtureFlow.four_gaussians()
    ends = {seed: flow.solution(flow.noise([seed])) for seed in SMALL.seeds}
    for row in results.rows:
        x1, end = flow.noise([row.seed]), ends[row.seed]
        grid = fs.get_schedule(row.schedule, row.steps, **row.schedule_options)
        x0 = fs.sample(flow.velocity, x1, grid, fs.get_sampler(row.sampler, **row.options))
        true = ((x0 - end).norm() / end.norm()).item()
        assert row.error == pytest.approx(true, rel=1e-8, abs=row.reference_error)
        assert row.nfe == fs.nfe(fs.get_sampler(row.sampler, **row.options), grid)


def test_results_do_not_depend_on_the_batching(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("flowsamplers.study.report.write", lambda *_: None)
    expected, *others = (
        {row.key: row.error for row in replace(SMALL, max_batch=n, reference_evaluations=250).run(tmp_path / str(n)).rows}
        for n in (256, 7, 1)
    )
    for other in others:
        assert other == pytest.approx(expected, rel=1e-10)


def test_there_is_one_row_for_each_run_and_noise(results: Results) -> None:
    keys = [row.key for row in results.rows]
    assert len(keys) == len(set(keys)) == len(SMALL.runs(tokens=8)) * 2


def test_every_row_says_where_it_comes_from(results: Results) -> None:
    assert {(r.device, r.dtype) for r in results.rows} == {("cpu", "float64")}
    assert all(f"torch {torch.__version__}" in r.versions for r in results.rows)


def test_the_first_noise_is_followed_and_its_way_ends_at_its_error(results: Results) -> None:
    for row in results.rows:
        assert (row.trajectory is None) == (row.seed != 0)
        if row.trajectory is not None:
            assert len(row.trajectory) == row.steps
            assert row.trajectory[-1] == pytest.approx(row.error, rel=1e-6)
            assert row.local_errors is not None
            assert row.local_errors[0] == pytest.approx(row.trajectory[0], rel=1e-6)


def test_local_errors_are_those_of_steps_from_the_exact_state(tmp_path) -> None:
    flow = GaussianFlow([1.0, -2.0, 0.5], std=[0.3, 1.0, 0.6])
    flow.name = "gaussian"
    study = Study("mixture", prompts=(None,), seeds=(0,), samplers=("midpoint",), nfe=(8,), schedule="linear")
    bench, jobs = bench_of(study, flow, tmp_path)
    rows: list[Row] = []
    bench.measure(jobs, lambda ended: rows.append(ended.row))
    x1, sigmas = flow.noise([0]), fs.schedules.linear(4).sigmas
    for a, b, measured in zip(sigmas[:-1], sigmas[1:], rows[0].local_errors or [], strict=True):
        start, end = (flow.solution(x1, 1.0, s) for s in (a, b))
        step = fs.sample(flow.velocity, start, fs.SigmaGrid([a, b]), "midpoint")
        assert measured == pytest.approx(((step - end).norm() / end.norm()).item(), rel=1e-6)


@pytest.mark.parametrize(("dtype", "low", "high"), [(torch.bfloat16, 1e-4, 3e-2), (torch.float32, 1e-9, 1e-6)])
def test_the_noise_floor_is_what_rounding_does(dtype: torch.dtype, low: float, high: float) -> None:
    """A network that computes in its dtype; the floor is of the size of that dtype's eps."""

    class Rounded(MixtureFlow):
        def velocity(self, x, sigma, condition=None):
            return super().velocity(x.double(), sigma.double()).to(dtype)

    exact = MixtureFlow.four_gaussians()
    flow = Rounded(exact.means, exact.stds, exact.weights)
    floors = noise_floors(flow, exact.noise([0, 1, 2]).to(dtype), [None] * 3, 64)
    assert all(low < floor < high for floor in floors)
    assert max(noise_floors(exact, exact.noise([0, 1, 2]), [None] * 3, 64)) < 1e-14


def test_pictures_are_compared_as_the_definitions_say() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(2, 12, 13, generator=generator, dtype=torch.float64) for _ in range(2))
    assert psnr(a, a) == BEST_PSNR
    assert psnr(a, b) == pytest.approx(-10 * np.log10(((a - b) ** 2).mean().item()))
    line = np.exp(-((np.arange(11) - 5) ** 2) / 4.5)
    w = np.outer(line, line) / line.sum() ** 2
    values = []
    for p, q in zip(a.numpy(), b.numpy(), strict=True):
        for i in range(2):
            for j in range(3):
                x, y = (t[i : i + 11, j : j + 11] for t in (p, q))
                mx, my = (w * x).sum(), (w * y).sum()
                vx, vy, c = (w * (x - mx) ** 2).sum(), (w * (y - my) ** 2).sum(), (w * (x - mx) * (y - my)).sum()
                values.append((2 * mx * my + 1e-4) * (2 * c + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
    assert ssim(a, b) == pytest.approx(np.mean(values))
    errors = Errors.of(torch.tensor([[3.0, 5.0]]), torch.tensor([[3.0, 4.0]]))
    assert (errors.max_error, errors.rmse) == (1.0, pytest.approx(0.5**0.5))
    assert errors.cosine == pytest.approx(29 / (34**0.5 * 5))


# What is said of it


def test_the_report_fits_the_terminal_and_its_sentence_follows_from_the_rows(results: Results) -> None:
    text = terminal(results)
    assert max(map(len, text.splitlines())) <= WIDTH
    name, error = results.best(8) or ("", 0.0)
    said = " ".join(takeaway(results).split())
    leaders = results.leaders(8)
    assert leaders[0] == name
    if len(leaders) == 1:
        assert f"With 8 model calls, {name} has the smallest error, {percent(error)}" in said
    else:
        assert "this study cannot tell apart" in said
        assert all(f"{leader} (" in said for leader in leaders)
    assert all(results.error(other, 8) is None or results.error(other, 8) >= error for other in results.labels)
    alone = Results(results.settings, [r for r in results.rows if r.seed == results.rows[0].seed])
    assert "This is the result of one sample; others may differ." in " ".join(takeaway(alone).split())


def test_the_report_is_one_file_that_needs_no_other(results: Results) -> None:
    text = (results.folder / "report.html").read_text()
    assert "src=" in text
    assert all(part.startswith('"data:') for part in text.split("src=")[1:])
    assert 'href="http' not in text
    assert " ".join(takeaway(results).split()) in text.replace("&#x27;", "'")
    for name, (title, _) in FIGURES.items():
        assert title in text
        assert (results.folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (results.folder / f"{name}.svg").read_text().startswith("<?xml")
    for word in ("NFE", "order", "reference", "relative error"):
        assert f"<dt>{word}" in text or word in text


def test_the_report_speaks_of_images_psnr_and_brackets_only_where_they_are(results: Results) -> None:
    points = html(results, dict.fromkeys(FIGURES, b""), None)
    words = points.split("<details>", maxsplit=1)[0]
    visible = " ".join(re.sub(r"(?s)<style>.*?</style>|<[^>]*>", " ", words).split())
    assert "PSNR" not in visible + terminal(results)
    assert "the same 2 samples" in visible
    assert [s for s in re.findall(r"[^.]*\bimages?\b[^.]*", visible) if "for an image" not in s] == []
    assert ("In brackets" in visible) == bool(re.search(r"<td[^>]*>\(", words))
    drawn = [Row(**{**vars(r), "psnr": 20.0 + r.seed, "ssim": 0.5 + r.seed / 4}) for r in results.rows]
    pictured = Results(results.settings, drawn)
    page = html(pictured, dict.fromkeys(FIGURES, b""), None)
    assert "<td>euler</td><td>20.5</td><td>0.625</td>" in page
    assert "20.5 dB PSNR   0.625 SSIM" in terminal(pictured)
    assert "the same 2 images" in page
    assert max(map(len, terminal(pictured).splitlines())) <= WIDTH


def test_a_distilled_model_is_said_to_have_no_limit_that_means_quality(results: Results) -> None:
    distilled = Results({**results.settings, "flow": {"is_distilled": True}}, results.rows)
    for text in (terminal(distilled), html(distilled, dict.fromkeys(FIGURES, b""), None)):
        assert "This model is distilled for a few steps: its ODE has no limit that means quality." in " ".join(text.split())
    assert "distilled" not in terminal(results)


def test_every_figure_carries_settings_and_versions(results: Results) -> None:
    for name in FIGURES:
        assert torch.__version__ in (results.folder / f"{name}.svg").read_text()
        assert torch.__version__.encode() in (results.folder / f"{name}.png").read_bytes()


def test_the_folder_holds_what_it_should(results: Results) -> None:
    files = {"rows.jsonl", "rows.csv", "study.json", "probe.json", "sessions.jsonl", "report.html", "references", ".lock"}
    assert {p.name for p in results.folder.iterdir()} == files | {
        f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")
    }


def test_figures_need_rows_only(results: Results) -> None:
    rows_only = Results(results.settings, from_jsonl(to_jsonl(results.rows), "x"))
    assert rows_only.plot.work_precision().axes
    assert rows_only.plot.trajectory(4).axes


def test_samplers_are_listed_in_the_order_of_the_study(results: Results) -> None:
    assert results.labels == ["euler", "heun", "midpoint", "ab2", "ab2 last=midpoint", "fireflow", "dpmpp_2m"]


def test_a_bootstrap_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = sum(i.low <= 1.0 <= i.high for i in (bootstrap(np.exp(rng.normal(size=40)).tolist()) for _ in range(300)))
    assert 0.9 <= covered / 300 <= 0.99


def test_paired_comparisons_take_the_noise_out(results: Results) -> None:
    """Errors of single noises differ by more than the samplers do, and yet the comparison is sure."""
    rows = [
        Row(
            **{
                **vars(r),
                "seed": seed,
                "error": scale * np.exp(0.01 * np.sin(7.0 * seed + len(r.label))) * (1 + 0.3 * (r.label == "heun")),
            }
        )
        for r in results.rows
        if r.seed == 0 and r.label in ("euler", "heun")
        for seed, scale in enumerate((0.01, 0.1, 1.0, 10.0))
    ]
    ratio = Results(results.settings, rows).compare("heun", "euler", 8)
    assert ratio is not None
    assert 1.25 < ratio.low < ratio.value < ratio.high < 1.35


def with_errors(results: Results, errors: dict[str, tuple[float, float]], reference: float, floor: float = 0.0) -> Results:
    """Two samplers at 8 model calls from two noises."""
    rows = [
        Row(**{**vars(r), "error": errors[r.label][r.seed], "reference_error": reference, "noise_floor": floor})
        for r in results.rows
        if r.nfe == 8 and r.label in errors
    ]
    return Results(results.settings, rows)


@pytest.mark.parametrize(
    ("errors", "reference", "floor", "leaders"),
    [
        ({"euler": (0.2, 0.2), "heun": (0.1, 0.1)}, 1e-4, 1e-6, ["heun"]),
        ({"euler": (0.2, 0.2), "heun": (0.1, 0.1)}, 0.049, 0.0, ["heun"]),
        ({"euler": (0.2, 0.2), "heun": (0.1, 0.1)}, 0.051, 0.0, ["heun", "euler"]),
        ({"euler": (0.2, 0.2), "heun": (0.1, 0.1)}, 1e-4, 0.06, ["heun", "euler"]),
        ({"euler": (0.2, 0.2), "heun": (0.1, 0.201)}, 1e-4, 1e-6, ["heun", "euler"]),
        ({"euler": (0.2, 2.0), "heun": (0.1, 1.0)}, 1e-4, 1e-6, ["heun"]),
        ({"euler": (0.01, 0.01), "heun": (0.0, 0.0)}, 0.0, 0.0, ["heun"]),
    ],
)
def test_a_winner_is_named_only_if_noises_reference_and_rounding_cannot_undo_it(
    results: Results, errors: dict[str, tuple[float, float]], reference: float, floor: float, leaders: list[str]
) -> None:
    made = with_errors(results, errors, reference, floor)
    assert made.leaders(8) == leaders
    said = " ".join(takeaway(made).split())
    assert ("has the smallest error" in said) == (len(leaders) == 1)
    assert ("cannot tell apart heun (" in said) == (len(leaders) == 2)
    shaded = html(made, dict.fromkeys(FIGURES, b""), None).count('class="best"')
    assert shaded == len(leaders)
    assert ("not told apart: euler" in terminal(made)) == (len(leaders) == 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_study_in_16_bits_names_no_winner_that_float64_does_not_have(dtype: torch.dtype, tmp_path, monkeypatch) -> None:
    """A network, studied as rounded; the order of the samplers is that of the same network's exact paths."""
    torch.manual_seed(0)
    exact = torch.nn.Sequential(torch.nn.Linear(9, 64), torch.nn.Tanh(), torch.nn.Linear(64, 8)).double()
    rounded = deepcopy(exact).to(dtype)
    exact.load_state_dict(rounded.state_dict())

    class Field:
        shape = (8,)

        def __init__(self, net: torch.nn.Module, own: torch.dtype) -> None:
            self.net, self.dtype = net, own

        @torch.no_grad()
        def velocity(self, x, sigma, condition=None):
            return 3 * self.net(torch.cat([x.to(self.dtype), sigma.to(self.dtype)[:, None]], 1))

        def noise(self, seeds):
            return torch.stack([normal(s, (8,), dtype) for s in seeds]).to(self.dtype)

    told = {
        "samplers": ("euler", "midpoint"),
        "nfe": (4, 8, 32, 128),
        "seeds": (0, 1),
        "schedule": "linear",
        "reference_evaluations": 700,
    }
    monkeypatch.setattr("flowsamplers.study.report.write", lambda *_: None)
    small = Study(flow=Field(rounded, dtype), **told).run(tmp_path / "small")
    true = Study(flow=Field(exact, torch.float64), **told).run(tmp_path / "exact")
    for budget in told["nfe"]:
        assert true.best(budget)[0] in small.leaders(budget)
    assert small.leaders(4) == true.leaders(4) == ["midpoint"]
    assert len(small.leaders(128)) == (2 if dtype is torch.bfloat16 else 1)
    first = terminal(small)
    assert first.startswith("Read this first: the reference is known to")
    assert small.plot.work_precision().axes[0].get_title(loc="left").startswith("The reference is known to")
    assert "~" in first
    assert all(r.floored for r in small.rows if r.nfe == 128)


def test_the_names_of_the_slopes_keep_off_the_line_of_the_references_error() -> None:
    """The line's own text is above it: about a factor of 2 on these axes."""
    results = load(Path(__file__).parent.parent / "docs/studies/klein-emoji")
    axes = results.plot.work_precision().axes[0]
    names = [t for t in axes.texts if t.get_text().startswith("order ")]
    assert len(names) == 3
    assert all(t.xy[1] > 3 * results.reference_error > 3 * axes.get_ylim()[0] for t in names)


def test_two_studies_are_compared_within_their_uncertainty(results: Results) -> None:
    def changed(factor: float, name: str) -> Results:
        rows = [Row(**{**vars(r), "error": r.error * (factor if r.label == name else 1.0)}) for r in results.rows]
        return Results(results.settings, rows)

    assert diff(results, results).same
    assert diff(results, changed(1 + 1e-14, "heun")).same
    found = diff(results, changed(1.01, "heun"))
    assert not found.same
    assert {d.label for d in found.common if d.differs} == {"heun"}
    assert max(map(len, found.lines())) <= WIDTH
    fewer = Results(results.settings, results.rows[:-3])
    assert diff(results, fewer).only_first == 3
    with pytest.raises(ValueError, match="no run in common"):
        diff(results, Results(results.settings, [Row(**{**vars(r), "seed": r.seed + 100}) for r in results.rows]))


def test_rows_survive_their_file(results: Results) -> None:
    assert to_jsonl(from_jsonl(to_jsonl(results.rows), "x")) == to_jsonl(results.rows)
    assert "NaN" not in to_jsonl(results.rows)
    assert label("ab2", {"last": {"name": "midpoint", "options": {}}}) == "ab2 last=midpoint"


def test_rows_become_data_frames(results: Results) -> None:
    for package, frame in (("pandas", results.to_pandas), ("polars", results.to_polars)):
        try:
            __import__(package)
        except ModuleNotFoundError:
            with pytest.raises(ImportError, match=f"pip install {package}"):
                frame()
        else:
            assert len(frame()) == len(results.rows)


def test_the_table_has_a_line_for_every_row(results: Results) -> None:
    assert (results.folder / "rows.csv").read_text().count("\n") == len(results.rows) + 1
    assert load(results.folder).settings["versions"]["torch"] == torch.__version__
    assert json.loads((results.folder / "study.json").read_text())["reference"]["steps"] >= 8


# Metrics of other packages


class Pictured(MixtureFlow):
    """Two numbers decode to an image of two pixels."""

    def __init__(self) -> None:
        exact = MixtureFlow.four_gaussians()
        super().__init__(exact.means, exact.stds, exact.weights)

    def decode(self, x0, kind):
        assert kind == "pt"
        return torch.sigmoid(x0).reshape(len(x0), 1, 1, -1).expand(-1, 3, 4, -1)


@pytest.fixture
def installed(monkeypatch) -> list[tuple]:
    """A package with two metrics: one works, one fails."""
    seen: list[tuple] = []
    module = ModuleType("their_metrics")

    def darkness(image, reference):
        seen.append((image.shape, image.dtype, image.device.type, float(image.min()), float(image.max())))
        return (reference - image).mean()

    def broken(image, reference):
        raise RuntimeError("no weights; put them into ~/weights")

    module.darkness, module.broken = darkness, broken
    monkeypatch.setitem(sys.modules, "their_metrics", module)
    entries = {n: [EntryPoint(n, f"their_metrics:{n}", "flowsamplers.metrics")] for n in ("darkness", "broken")}
    fresh = Registry("metric", "flowsamplers.metrics", lambda name, m: fresh.add(Registered((name,), m, m, "their_metrics")))
    monkeypatch.setitem(vars(fresh), "_plugins", entries)
    for home in ("plan", "bench"):
        monkeypatch.setattr(f"flowsamplers.study.{home}.METRICS", fresh)
    return seen


def test_a_metric_of_another_package_is_in_rows_table_and_report(installed, tmp_path) -> None:
    study = Study(flow=Pictured(), seeds=(0, 1), samplers=("euler", "heun"), nfe=(4, 8), metrics=["darkness", "broken"])
    study = replace(study, reference_evaluations=250)
    results = study.run(tmp_path)
    assert len(installed) == len(results.rows) == 8
    assert all(shape[0] == 3 and dtype == torch.float32 and device == "cpu" for shape, dtype, device, *_ in installed)
    assert all(0 <= low <= high <= 1 for *_, low, high in installed)
    for row in load(tmp_path).rows:
        assert np.isfinite(row.metrics["darkness"])
        assert np.isnan(row.metrics["broken"])
        assert row.message == "metric broken: RuntimeError: no weights; put them into ~/weights"
        assert row.status == "ok"
    assert "darkness" in terminal(results)
    assert max(map(len, terminal(results).splitlines())) <= WIDTH
    page = (tmp_path / "report.html").read_text()
    assert "<th>PSNR in dB</th><th>SSIM</th><th>darkness</th><th>broken</th>" in page
    assert "metrics" in (tmp_path / "rows.csv").read_text().splitlines()[0]


def test_a_metric_that_is_not_there_or_has_no_images_is_named(installed) -> None:
    with pytest.raises(ValueError, match=r"unknown metric 'darknes': did you mean 'darkness'\?"):
        Study(flow=Pictured(), metrics=["darknes"])
    with pytest.raises(ValueError, match=r"metrics=\['darkness'\]: they compare images"):
        Study(flow=MixtureFlow.four_gaussians(), metrics=["darkness"])
    with pytest.raises(TypeError, match="metrics='darkness': accepted is a list of names"):
        Study(flow=Pictured(), metrics="darkness")
    with pytest.raises(ValueError, match="one of them is there twice"):
        Study(flow=Pictured(), metrics=["darkness", "darkness"])
