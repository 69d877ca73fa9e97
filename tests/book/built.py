"""Every page of the built book in a browser: `make test-book`."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from helpers.browser import PHONE, Pages, browser

pytestmark = pytest.mark.built_book

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "book" / "_build" / "html"
WHOLE = 25_000_000
PAGE = 600_000
LANDING = 600_000
"""Bytes: of the book, of a page, of what the landing page asks for before it can be used (3 s at 1.6 Mbit/s)."""
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


CUT_OFF = """
return [...document.querySelectorAll('main table')].filter(table => table.clientWidth).filter(table => {
  for (let box = table; box && box.tagName !== 'MAIN'; box = box.parentElement) {
    if (box.scrollWidth > box.clientWidth + 1 && getComputedStyle(box).overflowX !== 'visible') return true;
  }
  return false;
}).map(table => table.innerText.slice(0, 60))
"""
"""Tables of which a part lies outside their frame."""

FAINT = """
const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const light = colour => colour.slice(0, 3).map(v => linear(v / 255))
  .reduce((sum, v, place) => sum + v * [0.2126, 0.7152, 0.0722][place], 0);
const ground = box => {
  for (let at = box; at; at = at.parentElement) {
    const colour = numbers(getComputedStyle(at).backgroundColor);
    if (colour.length < 4 || colour[3] > 0.9) return colour;
  }
  return [255, 255, 255];
};
const found = new Set();
const places = 'main article p, main article li, main article td, main article th, figcaption *, .vh-look *';
for (const box of document.querySelectorAll(places)) {
  const hasWords = [...box.childNodes].some(node => node.nodeType === 3 && node.data.trim());
  if (!hasWords || !box.clientWidth || box.closest('svg, button, .headerlink, [disabled], [hidden]')) continue;
  const [one, two] = [numbers(getComputedStyle(box).color), ground(box)].map(light);
  const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
  const words = box.textContent.trim().slice(0, 30);
  if (ratio < 4.4) found.add(`${box.tagName}.${box.className}: ${ratio.toFixed(1)} ${words}`);
}
return [...found].slice(0, 5);
"""
"""Words whose contrast with their ground is below 4.5 (rounded)."""

PLAIN_CLAIMS = """
const walker = document.createTreeWalker(document.querySelector('main article'), NodeFilter.SHOW_TEXT);
const found = [];
while (walker.nextNode()) {
  const node = walker.currentNode;
  const told = /\\bclaims? \\d+/i.exec(node.data);
  const apart = 'a, h1, h2, h3, h4, pre, code, svg, script, noscript, summary, .vega-live';
  if (told && !node.parentElement.closest(apart)) found.push(told[0]);
}
return found;
"""


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
def test_nothing_is_cut_off_at_any_width(pages: Pages, name: str) -> None:
    pages.open(HTML / name, width=PHONE, height=800)
    for width in (PHONE, 800, 1400, 1920):
        pages.resize(width)
        pages.run("return new Promise(done => setTimeout(done, 300))")  # the theme moves its columns slowly
        assert pages.overflow() <= 0, width
        assert pages.run(CUT_OFF) == [], width


@pytest.mark.parametrize("name", NAMES)
def test_words_are_legible(pages: Pages, name: str) -> None:
    pages.open(HTML / name)
    for theme in ("light", "dark"):
        pages.set_theme(theme)
        assert pages.run(FAINT) == [], theme


@pytest.mark.parametrize("name", NAMES)
def test_claims_are_links(pages: Pages, name: str) -> None:
    pages.open(HTML / name)
    assert pages.run(PLAIN_CLAIMS) == []


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(pages: Pages, name: str) -> None:
    pages.open(HTML / name)
    links = pages.run("return [...document.querySelectorAll('main a[href]')].map(a => a.href)")
    local = {unquote(urlsplit(link).path) for link in links if link.startswith("file:")}
    assert [path for path in local if not Path(path).exists()] == []


def test_terms_are_told_where_a_pointer_rests(pages: Pages) -> None:
    pages.open(HTML / "book" / "results" / "chance.html")
    terms = "[...document.querySelectorAll('main a[href*=\"glossary.html#term-\"]')]"
    assert pages.run(f"return {terms}.length > 1 && {terms}.every(link => link.title.length > 30)")


def test_the_book_is_light() -> None:
    """What a reader downloads; pages made by `look` or exported hold their data, and are not of the book."""
    files = [path for path in HTML.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < WHOLE
    heavy = {path.name: path.stat().st_size for path in files if path.suffix == ".html"}
    assert {name: size for name, size in heavy.items() if size > PAGE} == {}
    assert not [path for path in files if path.suffix == ".ipynb" and '"output_type"' in path.read_text()]


def test_the_landing_page_can_be_used_after_three_seconds(pages: Pages) -> None:
    """Everything it asks for until it is loaded, compressed as servers send it, at 1.6 Mbit/s."""
    pages.open(HTML / "book" / "index.html", draw=False)
    asked = {
        url.partition("?")[0].removeprefix("file://")
        for url in pages.requests(until_load=True)
        if url.startswith("file:")
    }
    sizes = {path: len(gzip.compress(Path(unquote(path)).read_bytes())) for path in asked}
    assert sum(sizes.values()) < LANDING, sizes


def test_explorer_keeps_its_head_from_chapter_to_chapter(pages: Pages) -> None:
    with_explorer = [name for name in NAMES if "<div data-explorer" in (HTML / name).read_text(encoding="utf-8")]
    if len(with_explorer) < 2:
        pytest.skip("one page with an explorer")
    first, second = with_explorer[:2]
    ready = "return document.querySelector('[data-explorer]').dataset.ready === 'yes'"
    heads = "return JSON.stringify(document.querySelector('[data-explorer]').explorer.choice.heads)"
    pages.open(HTML / first)
    pages.wait_until(ready)
    pages.driver.find_elements("css selector", ".vh-cells rect")[9].click()
    chosen = pages.run(heads)
    pages.open(HTML / second)
    pages.wait_until(ready)
    assert pages.run(heads) == chosen
    pages.run("localStorage.clear()")


def test_figures_are_numbered_and_captioned(pages: Pages) -> None:
    for name in NAMES:
        if name.startswith("book/models/"):
            pages.open(HTML / name)
            captions = pages.run("return [...document.querySelectorAll('main figure')].map(f => f.innerText)")
            assert captions and all("Fig." in caption for caption in captions), name


def test_a_head_map_answers_a_click(pages: Pages) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    pages.open(HTML / "book" / "results" / "visual_heads.html")
    chart = "document.querySelector('.vega-live svg.marks')"
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
    pages.open(HTML / "book" / "results" / "rows.html")
    assert pages.run("return document.querySelectorAll('.copybtn').length") >= 1


def test_book_is_one_folder() -> None:
    """Nothing in it points outside it: it can be zipped, moved and opened."""
    assert shutil.which("git") is None or not any(path.is_symlink() for path in HTML.rglob("*"))
