"""Every page of the built book in a browser: `make test-book`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from helpers.browser import PHONE, Pages, browser

pytestmark = pytest.mark.built_book

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "book" / "_build" / "html"
NAMES = sorted(path.relative_to(HTML).as_posix() for path in (HTML / "book").rglob("*.html"))


UNSEEN = """
const wanted = [...document.querySelectorAll('.vega-chart')].filter(box => box.clientWidth);
return Promise.all(wanted.map(async box => {
  const asksForBlack = /"value":"black"/.test(JSON.stringify(await bookCharts.specification(box.dataset.chart)));
  return [
    ...box.querySelectorAll('.vega-live .mark-rule.role-mark line'),
    ...(asksForBlack ? [] : box.querySelectorAll('.vega-live .mark-text.role-mark text')),
  ].map(mark => mark.getAttribute('stroke') || mark.getAttribute('fill'))
   .filter(colour => ['black', '#000', '#000000'].includes(colour)).length;
})).then(counts => counts.reduce((sum, count) => sum + count, 0));
"""
"""How many lines and words of charts are black; words may be where the chart asks for it, on coloured cells."""


@pytest.fixture(scope="module")
def pages() -> Iterator[Pages]:
    with browser() as window:
        yield window


def test_there_is_a_book() -> None:
    assert "book/index.html" in NAMES, "no built book; fix: make book"


@pytest.mark.parametrize("name", NAMES)
def test_page(pages: Pages, name: str) -> None:
    pages.open(HTML / name)
    assert pages.errors() == []
    assert [url for url in pages.requests() if not url.startswith(("file:", "data:", "blob:"))] == []
    charts = pages.run("return document.querySelectorAll('.vega-chart').length")
    assert pages.run("return document.querySelectorAll('.vega-live svg.marks').length") == charts
    assert pages.run("return [...document.images].every(i => i.alt || i.closest('a'))"), "a picture without words"
    assert pages.run("return !!document.querySelector('.provenance')")
    pages.set_theme("dark")
    assert pages.run(UNSEEN) == 0, "black on a dark page"
    pages.set_theme("light")
    assert pages.errors() == []


@pytest.mark.parametrize("name", NAMES)
def test_page_on_a_phone(pages: Pages, name: str) -> None:
    pages.open(HTML / name, width=PHONE, height=800)
    assert pages.overflow() <= 0


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(pages: Pages, name: str) -> None:
    pages.open(HTML / name)
    links = pages.run("return [...document.querySelectorAll('main a[href]')].map(a => a.href)")
    local = {unquote(urlsplit(link).path) for link in links if link.startswith("file:")}
    assert [path for path in local if not Path(path).exists()] == []


def test_figures_are_numbered_and_captioned(pages: Pages) -> None:
    for name in NAMES:
        if name.startswith("book/models/"):
            pages.open(HTML / name)
            captions = pages.run("return [...document.querySelectorAll('main figure')].map(f => f.innerText)")
            assert captions and all("Fig." in caption for caption in captions), name


def test_landing_page_chart_answers_a_click(pages: Pages) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    pages.open(HTML / "book" / "index.html")
    chart = "[...document.querySelectorAll('.vega-live svg.marks')].pop()"  # the verdicts stand above it
    words = f"return {chart}.textContent.match(/Layer \\d+, head \\d+/)[0]"
    before = pages.run(words)
    cells = pages.run(f"return [...{chart}.querySelectorAll('g.mark-rect.role-mark path')]")
    changed = False
    for cell in cells[:3]:
        pages.run("arguments[0].scrollIntoView({block: 'center'})", cell)
        ActionChains(pages.driver).move_to_element(cell).click().perform()
        changed = changed or pages.run(words) != before
    assert changed


def test_code_can_be_copied(pages: Pages) -> None:
    pages.open(HTML / "book" / "index.html")
    assert pages.run("return document.querySelectorAll('.copybtn').length") >= 1


def test_book_is_one_folder() -> None:
    """Nothing in it points outside it: it can be zipped, moved and opened."""
    assert shutil.which("git") is None or not any(path.is_symlink() for path in HTML.rglob("*"))
