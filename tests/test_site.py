"""The site as a reader finds it: every page in a browser, at two widths, offline."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from mkdocs.config import load_config
from mkdocs.structure.files import File

import flowsamplers as fs
from browsing import ROOT, Tab


def _pages(entry: Any) -> Iterator[str]:
    """The sources of all pages of the nav, in its order."""
    if isinstance(entry, str):
        yield entry
    else:
        for below in entry.values() if isinstance(entry, dict) else entry:
            yield from _pages(below)


NAV = list(_pages(load_config(str(ROOT / "mkdocs.yml"))["nav"]))


def address(source: str) -> str:
    return File(source, "docs", "site", use_directory_urls=True).url.removeprefix("./")


@pytest.fixture(scope="module")
def tab(browser: Any, site: str) -> Tab:
    return Tab(browser, site)


UNRENDERED = r"""() => [...document.querySelectorAll("article :is(p, li, td, h1, h2, h3)")].map(e => {
  const copy = e.cloneNode(true);
  copy.querySelectorAll("code, pre, .katex").forEach(c => c.remove());
  return copy.textContent;
}).filter(text => /\$[^$\s][^$]*\$|\\\(|\\\[/.test(text))"""
BROKEN = "() => [...document.images].filter(i => !(i.complete && i.naturalWidth > 0)).map(i => i.src)"
TOO_WIDE = """() => document.documentElement.scrollWidth <= innerWidth ? [] : [...document.querySelectorAll("article *")]
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 120))"""


@pytest.mark.parametrize("source", NAV)
def test_page_opens_without_complaint_at_400_pixels_and_is_turned_to_1400(tab: Tab, source: str) -> None:
    """Nothing that it loads comes from elsewhere: the tab complains of it."""
    tab.page.set_viewport_size({"width": 400, "height": 900})
    page = tab.open(address(source))
    assert page.evaluate(TOO_WIDE) == [], "wider than 400 pixels"
    assert page.evaluate(BROKEN) == []
    assert page.evaluate(UNRENDERED) == []
    assert page.locator(".katex-error").count() == 0
    page.set_viewport_size({"width": 1400, "height": 900})
    page.wait_for_function("() => innerWidth === 1400 && document.documentElement.scrollWidth <= innerWidth")
    assert tab.complaints == []


SCROLLED = """() => [...document.querySelectorAll(".md-typeset__scrollwrap")]
  .filter(e => e.scrollWidth > e.clientWidth + 2).map(e => e.innerText.slice(0, 120))"""


@pytest.mark.parametrize(
    "source",
    [
        "explanation/fitting.md",
        "reference/benchmark.md",
        "reference/differences.md",
        "reference/schedules.md",
        "start/which-sampler.md",
    ],
)
def test_the_last_column_of_a_comparison_is_seen_at_400_pixels(tab: Tab, source: str) -> None:
    tab.page.set_viewport_size({"width": 400, "height": 900})
    assert tab.open(address(source)).evaluate(SCROLLED) == []


@pytest.mark.parametrize(
    "words",
    [
        "empirical mu",
        "heun",
        "sum of dt",
        "which sampler",
        "preview",
        "torch.compile",
        "comfyui",
        "lora",
        "image to image",
        "distilled",
    ],
)
def test_the_search_finds(tab: Tab, words: str) -> None:
    tab.page.set_viewport_size({"width": 1400, "height": 900})
    page = tab.open("")
    page.click("[data-md-component=search-query]")
    page.keyboard.type(words)
    page.wait_for_function(
        "words => document.querySelector('.md-search-result__list').innerText.toLowerCase().includes(words)",
        arg=words,
        timeout=30_000,
    )
    assert tab.complaints == []


def test_the_table_of_samplers_is_filtered_and_sorted(tab: Tab) -> None:
    tab.page.set_viewport_size({"width": 1400, "height": 900})
    page = tab.open(address("reference/samplers.md"))
    shown = "() => [...document.querySelectorAll('.filtered tbody tr')].filter(r => !r.hidden).map(r => r.cells[0].textContent)"
    assert page.evaluate(shown) == [i.name for i in fs.list_samplers()]
    page.fill(".filtered input", "runge-kutta rk4")
    assert "rk4" in page.evaluate(shown)
    assert "ab2" not in page.evaluate(shown)
    page.fill(".filtered input", "")
    page.click(".filtered th:first-child button")
    rising = page.evaluate(shown)
    assert rising != [i.name for i in fs.list_samplers()]
    page.click(".filtered th:first-child button")
    assert page.evaluate(shown) == rising[::-1]
    assert tab.complaints == []


def test_from_the_front_page_to_which_sampler_at_8_calls_in_one_click(tab: Tab) -> None:
    page = tab.open("")
    page.click("article a[href$='start/which-sampler/']")
    page.wait_for_url("**/start/which-sampler/")
    answer = re.search(r"With 8 model calls .*: (\w+)", page.inner_text("article"))
    assert answer is not None
    assert fs.sampler_info(answer[1])


def test_from_the_front_page_to_a_swapped_sampler_in_three_clicks(tab: Tab) -> None:
    page = tab.open("")
    page.click("article a[href$='start/swap/']")
    page.wait_for_url("**/start/swap/")  # until it has loaded
    assert "FlowSamplerScheduler.from_config(pipe.scheduler.config, sampler=" in page.inner_text("article")
