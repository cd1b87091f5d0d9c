"""The schedule explorer shows the library's numbers, in a real browser."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

import flowsamplers as fs
from browsing import Tab
from pages import DOCS

SCRIPT = (DOCS / "assets" / "schedules.js").read_text().partition("const SCHEDULES = {")[2]
DRAWN = re.findall(r"^    (\w+): {", SCRIPT, re.MULTILINE)
"""The schedules that the page has; it need not have all."""
NOT_OPTIONS = {"arithmetic"}  # the page computes in float64
ROUNDING = 1e-12  # the claim is 1e-6; float64 on both sides leaves only rounding
SHOWN = 0.5e-7 + ROUNDING  # the table has seven decimals
STEPS = (1, 2, 3, 4, 8, 50)
VALUES: dict[str, tuple[Any, ...]] = {  # besides each option's default
    "tokens": (16, 4300, 4301, 16384),
    "mu": (-0.5, 0.0, 2.02, 3.2),
    "shift": (0.5, 1.0, 3.0, 12.0),
    "base_shift": (0.0,),
    "max_shift": (3.0,),
    "sigma_min": (0.03,),
    "sigma_max": (15.0,),
    "rho": (1.0, 3.0),
    "c": (0.3, 2.0),
    "scale": (0.2, 2.0),
    "threshold": (0.3,),
    "linear_steps": (1, 3),
    "pivot": (0.3, 0.95),
    "slope": (1.0,),
    "middle": (0.2,),
    "alpha": (0.5,),
    "beta": (0.7,),
    "points": (1000,),
}
SCHEDULES = [info for info in fs.list_schedules() if info.name in DRAWN]
schedules = pytest.mark.parametrize("info", SCHEDULES, ids=lambda info: info.name)


def options(info: Any) -> dict[str, Any]:
    """The options that the page has, with the library's defaults."""
    return {name: default for name, default in info.options.items() if name not in NOT_OPTIONS}


def cases(info: Any) -> list[dict[str, Any]]:
    """The defaults, each option changed alone to each of its values, and all of them changed together."""
    defaults = options(info)
    alone = [{**defaults, name: value} for name in defaults for value in VALUES[name]]
    return [defaults, *alone, {name: VALUES[name][-1] for name in defaults}]


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
    for name, value in fields.items():
        if page.locator(f"#explorer-{name}-kind").count():
            page.select_option(f"#explorer-{name}-kind", "fixed")
        page.fill(f"#explorer-{name}", str(value))


def test_the_schedules_of_the_explorer_have_the_library_s_options_and_defaults(page: Any) -> None:
    assert len(SCHEDULES) == len(DRAWN) > 20
    there = page.evaluate("Object.fromEntries(Object.entries(flowsamplers.SCHEDULES).map(([name, s]) => [name, s.options]))")
    assert there == {info.name: options(info) for info in SCHEDULES}


def library(info: Any, steps: int, chosen: dict[str, Any]) -> fs.SigmaGrid | None:
    """The library's grid; None where it refuses the settings."""
    try:
        return fs.get_schedule(info.name, steps, **chosen)
    except ValueError:
        return None


@schedules
def test_sigmas_dt_and_timesteps_are_the_library_s_and_so_are_the_refusals(opened: Any, info: Any) -> None:
    settings = [*itertools.product(STEPS, cases(info)), (999, options(info))]
    draw = "([name, all]) => all.map(([n, o]) => { try { return flowsamplers.grid(name, n, o) } catch { return null } })"
    for (steps, chosen), there in zip(settings, opened.evaluate(draw, [info.name, settings]), strict=True):
        here = library(info, steps, chosen)
        assert (here is None) == (there is None), (steps, chosen)
        if here is None:
            continue
        for what, scale in (("sigmas", 1), ("dt", 1), ("timesteps", 1000)):
            np.testing.assert_allclose(
                there[what], getattr(here, what), rtol=0, atol=scale * ROUNDING, err_msg=f"{what} of {steps} steps, {chosen}"
            )
        assert abs(there["sum"] + here.start) <= (here.steps + 1) * np.finfo(float).eps  # -1 for a complete run


@pytest.mark.parametrize(
    ("info", "steps"), [(info, (1, 4, 300)[i % 3]) for i, info in enumerate(SCHEDULES)], ids=lambda x: getattr(x, "name", x)
)
def test_the_form_fills_table_and_copies_with_the_library_s_numbers(page: Any, info: Any, steps: int) -> None:
    """With one number of steps each: that the numbers of all are right is tested above."""
    choose(page, info.name, steps=steps)
    here = library(info, steps, {})
    if here is None:
        assert page.inner_text("[role=alert]").startswith(f"steps={steps}: ")
        return
    np.testing.assert_allclose(table(page), here.sigmas, rtol=0, atol=SHOWN)
    assert float(page.inner_text(".explorer-table tfoot td")) == pytest.approx(-here.start, rel=0, abs=SHOWN)
    assert page.locator(".explorer-plot rect").count() == here.steps
    np.testing.assert_array_equal(eval(copied(page, "python"), {"fs": fs}).sigmas, here.sigmas)
    np.testing.assert_allclose(fs.SigmaGrid(eval(copied(page, "sigmas"))).sigmas, here.sigmas, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(
    ("width", "height", "tokens"), [(1024, 1024, 4096), (800, 1376, 4300), (368, 2992, 4301), (1000, 1030, 3968)]
)
def test_width_and_height_become_tokens_on_either_side_of_the_jump(page: Any, width: int, height: int, tokens: int) -> None:
    choose(page, "flux2", steps=4, width=width, height=height)
    facts = page.inner_text(".explorer-facts").replace("\n", " ")
    assert f"{tokens:,} tokens" in facts
    assert f"{fs.schedules.empirical_mu(tokens=tokens, steps=4):.4f} mu" in facts
    np.testing.assert_allclose(table(page), fs.schedules.flux2(4, tokens=tokens).sigmas, rtol=0, atol=SHOWN)


def test_the_figure_of_mu_says_how_far_it_jumps(page: Any) -> None:
    choose(page, "flux2", steps=8)
    below, above = (fs.schedules.empirical_mu(tokens=t, steps=8) for t in (4300, 4301))
    assert page.inner_text("figcaption") == f"With 8 steps mu is {below:.2f} at 4,300 tokens and {above:.2f} at 4,301."


def test_no_other_schedule_keeps_the_figure_of_mu(page: Any) -> None:
    for schedule in ("linear", "karras", "beta_comfy", "shift", "flux2"):
        choose(page, schedule, steps=8)
        assert page.is_visible("[data-plot=mu]") == (schedule == "flux2")


@pytest.mark.parametrize(
    ("schedule", "fields"),
    [
        ("flux2", {"steps": 6, "width": 768, "height": 1280}),
        ("flux2", {"steps": 12, "mu": 1.9375}),
        ("flux1", {"steps": 28, "width": 512, "height": 512, "base_shift": 0.25, "max_shift": 1.3}),
        ("beta_comfy", {"steps": 9, "alpha": 0.5, "beta": 0.7, "shift": 2.5, "mu": 1.15, "points": 1000}),
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
    shown = page.eval_on_selector_all("tbody td:nth-child(4)", "cells => cells.map(c => c.textContent)")
    assert shown[:4] == ["-0.0326160", "-0.0592401", "-0.1409440", "-0.7672000"]


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
    looks = [["#explorer polyline", "stroke"], ["#explorer select", "backgroundColor"], ["#explorer text", "fill"]]
    colours = "looks => looks.map(([selector, property]) => getComputedStyle(document.querySelector(selector))[property])"
    light, dark = (Tab(browser, site, scheme=s).open("explorer/").evaluate(colours, looks) for s in ("light", "dark"))
    assert all(one != other for one, other in zip(light, dark, strict=True))
