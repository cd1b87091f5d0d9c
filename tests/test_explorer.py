"""The schedule explorer shows the library's numbers, in a real browser."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

import flowsamplers as fs
from browsing import Tab

pytestmark = pytest.mark.xdist_group("site")  # one process builds the site for all of them

NOT_DRAWN = {
    "flow_match_euler": "the pipeline behind the others, with a whole configuration for options",
    **{i.name: "the page computes diffusers' family" for i in fs.list_schedules() if i.family != "diffusers"},
}
NOT_OPTIONS = {"arithmetic"}  # the page computes in float64
ROUNDING = 1e-12  # the claim is 1e-6; float64 on both sides leaves only rounding
SHOWN = 0.5e-7 + ROUNDING  # the table has seven decimals
STEPS = (1, 2, 3, 4, 5, 8, 10, 28, 50, 200, 999)
VALUES: dict[str, tuple[Any, ...]] = {
    "tokens": (16, 256, 4096, 4300, 4301, 16384),
    "mu": (None, -0.5, 0.0, 1.5, 3.2),
    "shift": (0.5, 1.0, 3.0, 12.0),
    "base_shift": (0.0, 0.5),
    "max_shift": (1.15, 3.0),
}
SCHEDULES = [info for info in fs.list_schedules() if info.name not in NOT_DRAWN]
schedules = pytest.mark.parametrize("info", SCHEDULES, ids=lambda info: info.name)


def cases(info: Any) -> list[dict[str, Any]]:
    """Every combination of the values above for the options of a schedule."""
    names = [name for name in info.options if name not in NOT_OPTIONS]
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*(VALUES[name] for name in names))]


@pytest.fixture(scope="module")
def opened(browser: Any, site: str) -> Iterator[Any]:
    tab = Tab(browser, site)
    yield tab.open("explorer/")
    assert tab.complaints == []


@pytest.fixture
def page(opened: Any) -> Any:
    """The explorer as it opens."""
    opened.click(".explorer-presets button >> nth=0")
    return opened


@pytest.fixture(scope="module")
def linked(browser: Any, site: str) -> Iterator[Tab]:
    """A tab to open links in."""
    tab = Tab(browser, site)
    yield tab
    assert tab.complaints == []


def table(page: Any) -> np.ndarray:
    """The sigmas of the table."""
    return np.array(
        page.eval_on_selector_all(".explorer-table tbody td:nth-child(2)", "cells => cells.map(c => +c.textContent)")
    )


def copied(page: Any, what: str) -> str:
    page.click(f"[data-copy={what}]")
    page.wait_for_function("() => document.querySelector('.explorer-copied').textContent === 'Copied.'")
    return page.evaluate("navigator.clipboard.readText()")


def choose(page: Any, schedule: str, **fields: float) -> None:
    """Work the form as a reader does."""
    page.select_option("#explorer-schedule", schedule)
    if "mu" in fields:
        page.select_option("#explorer-mu-kind", "fixed")
    for name, value in fields.items():
        page.fill(f"#explorer-{name}", str(value))


def test_every_schedule_is_in_the_explorer_with_the_library_s_options_and_defaults(page: Any) -> None:
    there = page.evaluate("Object.fromEntries(Object.entries(flowsamplers.SCHEDULES).map(([name, s]) => [name, s.options]))")
    assert there == {i.name: {k: v for k, v in i.options.items() if k not in NOT_OPTIONS} for i in SCHEDULES}


@schedules
def test_sigmas_dt_and_timesteps_are_the_library_s(page: Any, info: Any) -> None:
    settings = list(itertools.product(STEPS, cases(info)))
    shown = page.evaluate("([name, all]) => all.map(([n, o]) => flowsamplers.grid(name, n, o))", [info.name, settings])
    for (steps, options), there in zip(settings, shown, strict=True):
        here = fs.get_schedule(info.name, steps, **options)
        for what in ("sigmas", "timesteps", "dt"):
            scale = 1000 if what == "timesteps" else 1
            np.testing.assert_allclose(
                there[what], getattr(here, what), rtol=0, atol=scale * ROUNDING, err_msg=f"{what} of {steps} steps, {options}"
            )
        assert abs(there["sum"] + 1) <= (steps + 1) * np.finfo(float).eps


@schedules
@pytest.mark.parametrize("steps", [1, 4, 300])
def test_the_form_fills_table_and_copies_with_the_library_s_numbers(page: Any, info: Any, steps: int) -> None:
    choose(page, info.name, steps=steps)
    here = fs.get_schedule(info.name, steps)
    np.testing.assert_allclose(table(page), here.sigmas, rtol=0, atol=SHOWN)
    assert page.inner_text(".explorer-table tfoot td") == "-1.0000000"
    assert page.locator(".explorer-plot rect").count() == steps
    python, sigmas = copied(page, "python"), copied(page, "sigmas")
    np.testing.assert_allclose(eval(python, {"fs": fs}).sigmas, here.sigmas, rtol=0, atol=0)
    np.testing.assert_allclose(fs.SigmaGrid(eval(sigmas)).sigmas, here.sigmas, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(
    ("width", "height", "tokens"), [(1024, 1024, 4096), (800, 1376, 4300), (368, 2992, 4301), (1000, 1030, 3968)]
)
def test_width_and_height_become_tokens_on_either_side_of_the_jump(page: Any, width: int, height: int, tokens: int) -> None:
    choose(page, "flux2", steps=4, width=width, height=height)
    assert f"{tokens:,} tokens" in page.inner_text(".explorer-facts").replace("\n", " ")
    assert f"{fs.schedules.empirical_mu(tokens=tokens, steps=4):.4f} mu" in page.inner_text(".explorer-facts").replace(
        "\n", " "
    )
    np.testing.assert_allclose(table(page), fs.schedules.flux2(4, tokens=tokens).sigmas, rtol=0, atol=SHOWN)


def test_the_figure_of_mu_says_how_far_it_jumps(page: Any) -> None:
    choose(page, "flux2", steps=8)
    below, above = (fs.schedules.empirical_mu(tokens=t, steps=8) for t in (4300, 4301))
    assert page.inner_text("figcaption") == f"With 8 steps mu is {below:.2f} at 4,300 tokens and {above:.2f} at 4,301."


@pytest.mark.parametrize(
    ("schedule", "fields"),
    [
        ("flux2", {"steps": 6, "width": 768, "height": 1280}),
        ("flux2", {"steps": 12, "mu": 1.9375}),
        ("flux1", {"steps": 28, "width": 512, "height": 512, "base_shift": 0.25, "max_shift": 1.3}),
        ("shift", {"steps": 7, "shift": 2.5}),
        ("linear", {"steps": 9}),
    ],
)
def test_a_link_keeps_the_settings(page: Any, linked: Tab, schedule: str, fields: dict[str, float]) -> None:
    choose(page, schedule, **fields)
    before, code, link = table(page), copied(page, "python"), copied(page, "link")
    asked = {name: float(values[0]) for name, values in parse_qs(urlsplit(link).query).items() if name != "schedule"}
    assert asked == fields
    page.wait_for_function("link => location.href === link", arg=link)  # the address bar has it too
    page = linked.open("explorer/?" + urlsplit(link).query)
    assert page.input_value("#explorer-schedule") == schedule
    np.testing.assert_array_equal(table(page), before)
    assert copied(page, "python") == code
    assert copied(page, "link") == link


def test_every_preset_shows_what_its_copied_python_gives(page: Any) -> None:
    names = page.locator(".explorer-presets button").all_inner_texts()
    assert {"FLUX.2 1024x1024, 4 steps", "just above the jump: 1056x1056"} <= set(names)
    for name in names:
        page.click(f".explorer-presets button:text-is('{name}')")
        np.testing.assert_allclose(table(page), eval(copied(page, "python"), {"fs": fs}).sigmas, rtol=0, atol=SHOWN)


def test_the_first_preset_is_the_experiment_this_project_grew_from(page: Any) -> None:
    page.click("text=FLUX.2 1024x1024, 4 steps")
    assert page.eval_on_selector_all("tbody td:nth-child(4)", "cells => cells.map(c => c.textContent)")[:4] == [
        "-0.0326160",
        "-0.0592401",
        "-0.1409440",
        "-0.7672000",
    ]


@pytest.mark.parametrize("steps", ["0", "-3", "", "2.5", "1001"])
def test_steps_that_make_no_schedule_are_refused_in_words(page: Any, steps: str) -> None:
    page.fill("#explorer-steps", steps)
    assert page.inner_text("[role=alert]").startswith("steps=")
    assert not page.is_visible(".explorer-table")
    page.fill("#explorer-steps", "4")
    assert not page.is_visible("[role=alert]")
    assert page.is_visible(".explorer-table")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("schedule=toString", "schedule=toString: it is one of"),
        ("schedule=shift&shift=-1", "shift=-1: "),
        ("schedule=flux2&width=8", "width=8: an image side has at least 16 pixels"),
        ("schedule=flux2&mu=much", "mu=NaN: "),
    ],
)
def test_a_link_with_settings_that_make_no_sense_says_so(linked: Tab, query: str, message: str) -> None:
    page = linked.open(f"explorer/?{query}")
    assert page.inner_text("[role=alert]").startswith(message)


def test_it_is_worked_with_the_keyboard_alone(page: Any) -> None:
    unnamed = "fields => fields.filter(f => !f.labels.length && !f.ariaLabel).map(f => f.outerHTML)"
    assert page.eval_on_selector_all("#explorer :is(input, select)", unnamed) == []
    page.focus("#explorer-schedule")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")  # the slider of the steps
    np.testing.assert_allclose(table(page), fs.schedules.flux2(5).sigmas, rtol=0, atol=SHOWN)
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowUp")  # the number of the steps
    np.testing.assert_allclose(table(page), fs.schedules.flux2(6).sigmas, rtol=0, atol=SHOWN)
    assert page.get_attribute(".explorer-facts", "aria-live") == "polite"
    assert page.inner_text(".explorer-facts").startswith("6")


def test_it_fits_a_screen_of_400_pixels_and_follows_a_turn_of_it(browser: Any, site: str) -> None:
    tab = Tab(browser, site, width=400)
    page = tab.open("explorer/?schedule=flux2&steps=500")
    for width in (400, 850, 400):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function("() => document.documentElement.scrollWidth <= innerWidth")
        page.wait_for_function("() => document.querySelector('#explorer svg').clientWidth > innerWidth / 2.2")
    assert tab.complaints == []


def test_dark_and_light_draw_in_the_theme_s_colours(browser: Any, site: str) -> None:
    seen = []
    for scheme in ("light", "dark"):
        page = Tab(browser, site, scheme=scheme).open("explorer/")
        colour = "([selector, property]) => getComputedStyle(document.querySelector(selector))[property]"
        seen.append(
            tuple(
                page.evaluate(colour, what)
                for what in (
                    ["#explorer polyline", "stroke"],
                    ["#explorer select", "backgroundColor"],
                    ["#explorer text", "fill"],
                )
            )
        )
    assert all(light != dark for light, dark in zip(*seen, strict=True))
