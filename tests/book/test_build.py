"""A book of two pages, built by the same code and configuration as the real one, and read in a browser."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from helpers.browser import PHONE, Pages, browser
from visualheads.book.build import render_book
from visualheads.book.page import Page
from visualheads.book.run import run_page
from visualheads.errors import ParameterError, VisualHeadsError

ROOT = Path(__file__).resolve().parents[2]
HELPERS = ROOT / "tests" / "helpers"


def fixture_page(root: Path) -> Page:
    return Page(
        template=root / "notebooks" / "fixture.ipynb",
        output=root / "book" / "models" / "fixture.ipynb",
        slug="fixture",
        title="Fixture",
        parameters={"samples": 18},
        command="make fixture",
    )


def lay_out(root: Path) -> Path:
    """The fixture's folder: the real configuration and style, two small pages."""
    (root / "book" / "results").mkdir(parents=True)
    (root / "notebooks").mkdir()
    shutil.copy(ROOT / "_config.yml", root)
    shutil.copy(ROOT / "book" / "references.bib", root / "book")
    shutil.copytree(ROOT / "book" / "_static", root / "book" / "_static")
    shutil.copy(HELPERS / "book" / "_toc.yml", root)
    shutil.copy(HELPERS / "book" / "index.md", root / "book")
    shutil.copy(HELPERS / "book" / "fixture.ipynb", root / "notebooks")
    shutil.copy(HELPERS / "datasets.py", root)
    return root


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = lay_out(tmp_path_factory.mktemp("project"))
    run_page(fixture_page(root), root)
    render_book(root)
    return root


@pytest.fixture(scope="module")
def pages(book: Path) -> Iterator[Pages]:
    del book
    with browser() as window:
        yield window


def html(book: Path) -> Path:
    return book / "book" / "_build" / "html" / "book"


def test_second_build_does_nothing(book: Path) -> None:
    said: list[str] = []
    assert render_book(book, report=said.append) == html(book) / "index.html"
    assert said == ["book is up to date"]


def test_contents_are_the_pages_that_exist(book: Path) -> None:
    toc = yaml.safe_load((book / "book" / "_build" / "_toc.yml").read_text())
    assert toc["parts"][0]["chapters"] == [{"file": "book/models/fixture"}]


def test_page_holds_chart_image_and_words(book: Path) -> None:
    page = (html(book) / "models" / "fixture.html").read_text()
    assert page.count('class="vega-spec"') == 2
    assert 'alt="Map of 6 layers by 6 heads' in page
    assert "Heads of this model." in page
    assert page.count("vega-bundle.js") == 1
    index = (html(book) / "index.html").read_text()
    assert "mathjax/tex-mml-chtml.js" in index and "https://cdn" not in index


def test_foot_tells_where_numbers_come_from(book: Path) -> None:
    page = (html(book) / "models" / "fixture.html").read_text()
    assert 'class="provenance"' in page and "jupyter-book 1.0.4.post1" in page and "commit " in page


@pytest.mark.long
def test_failed_build_keeps_the_last_book(book: Path) -> None:
    index = book / "book" / "index.md"
    before = index.read_text()
    index.write_text(before + "\nSee {numref}`fig-that-is-nowhere`.\n")
    try:
        with pytest.raises(VisualHeadsError, match="fig-that-is-nowhere"):
            render_book(book)
    finally:
        index.write_text(before)
    assert (html(book) / "index.html").is_file()


def test_a_folder_without_a_book_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"_config\.yml"):
        render_book(tmp_path)


@pytest.mark.browser
@pytest.mark.parametrize("name", ["index.html", "models/fixture.html"])
def test_page_is_drawn_without_errors_or_network(book: Path, pages: Pages, name: str) -> None:
    pages.open(html(book) / name)
    assert pages.run("return document.querySelectorAll('.vega-live svg.marks').length") >= 1
    assert pages.run("return [...document.querySelectorAll('img.vega-fallback')].every(i => i.hidden)")
    assert pages.errors() == []
    assert [url for url in pages.requests() if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.mark.browser
def test_click_on_a_head_changes_the_linked_charts(book: Path, pages: Pages) -> None:
    pages.open(html(book) / "models" / "fixture.html")
    words = "return document.querySelector('.vega-live svg.marks').textContent.match(/Layer \\d+, head \\d+/)[0]"
    before = pages.run(words)
    spec = json.loads(pages.run("return document.querySelector('script.vega-spec').textContent"))
    strongest = next(p["value"][0] for p in spec["params"] if p["name"] == "head")
    assert before == f"Layer {strongest['layer']}, head {strongest['head']}"
    from selenium.webdriver.common.action_chains import ActionChains

    bars = "return document.querySelector('.vega-live svg.marks').innerHTML"
    before_bars = pages.run(bars)
    cells = pages.driver.find_elements("css selector", ".vega-live svg.marks g.mark-rect.role-mark path")
    for cell in cells[:2]:  # one of them is not the head that is chosen already
        pages.run("arguments[0].scrollIntoView({block: 'center'})", cell)
        ActionChains(pages.driver).move_to_element(cell).click().perform()
        if pages.run(words) != before:
            break
    assert pages.run(words) != before
    assert pages.run(bars) != before_bars


@pytest.mark.browser
@pytest.mark.parametrize("name", ["index.html", "models/fixture.html"])
def test_phone_needs_no_sideways_scrolling(book: Path, pages: Pages, name: str) -> None:
    pages.open(html(book) / name, width=PHONE, height=800)
    assert pages.overflow() <= 0
    assert pages.run(
        "return [...document.querySelectorAll('.vega-chart')].every(c => c.dataset.drawn.endsWith('narrow'))"
    )


@pytest.mark.browser
def test_dark_mode_redraws_charts(book: Path, pages: Pages) -> None:
    pages.open(html(book) / "models" / "fixture.html")
    pages.set_theme("light")
    colour = "return document.querySelector('.vega-live svg.marks .role-axis-title text').getAttribute('fill')"
    light = pages.run(colour)
    pages.set_theme("dark")
    assert pages.run(colour) not in (light, "#000")


@pytest.mark.browser
def test_formulas_are_set_offline(book: Path, pages: Pages) -> None:
    pages.open(html(book) / "index.html")
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(pages.driver, 30).until(
        lambda d: d.execute_script("return !!document.querySelector('mjx-container')")
    )
