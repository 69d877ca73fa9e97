"""A book of two pages, built by the same code and configuration as the real one, and read in a browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
import yaml
from selenium.webdriver.common.keys import Keys

from helpers.browser import PHONE, Pages, browser
from visualheads.book.build import render_book
from visualheads.book.export import export_page, export_pdf
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
    page = fixture_page(root)
    run_page(page, root)
    other = page.output.read_text().replace("fig-", "fig-other-").replace("# Fixture", "# Other")
    page.output.with_name("other.ipynb").write_text(other)
    render_book(root)
    return root


@pytest.fixture(scope="module")
def pages(book: Path) -> Iterator[Pages]:
    del book
    with browser() as window:
        yield window


def html(book: Path) -> Path:
    return book / "book" / "_build" / "html" / "book"


def click_another_head(pages: Pages, chosen: tuple[int, int]) -> None:
    """Click L0H0 on the first map of heads, L0H1 where that is chosen."""
    cells = pages.driver.find_elements("css selector", ".vega-live svg.marks g.mark-rect.role-mark path")
    cell = cells[chosen == (0, 0)]
    pages.run("arguments[0].scrollIntoView({block: 'center'})", cell)
    cell.click()


def test_second_build_does_nothing(book: Path) -> None:
    said: list[str] = []
    assert render_book(book, report=said.append) == html(book) / "index.html"
    assert said == ["book is up to date"]


def test_contents_are_the_pages_that_exist(book: Path) -> None:
    toc = yaml.safe_load((book / "book" / "_build" / "_toc.yml").read_text())
    assert toc["parts"][0]["chapters"] == [{"file": "book/models/fixture"}]
    assert toc["meta"] == {"siblings": {"book/models/fixture": ["book/models/other"]}}


def test_pages_of_one_kind_are_one_entry(book: Path) -> None:
    first, other = ((html(book) / "models" / f"{name}.html").read_text() for name in ("fixture", "other"))
    numbers = [re.findall(r'caption-number">([^<]+)<', page) for page in (first, other)]
    assert numbers[0] and numbers[0] == numbers[1]
    assert '<option value="other.html">Other</option>' in first and '<option value="fixture.html">' in other
    sidebar = first.partition("bd-docs-nav")[2].partition("</nav>")[0]
    assert "fixture" in first and "other.html" not in sidebar


def test_page_holds_words_and_charts_stand_beside_it(book: Path) -> None:
    page = (html(book) / "models" / "fixture.html").read_text()
    names = re.findall(r'class="vega-chart" data-chart="(\w+)"', page)
    assert len(names) == 2 and page.count("charts.js") == 1
    assert all((html(book).parent / "_static" / "charts" / f"{name}.js").is_file() for name in names)
    assert 'aria-label="Map of 6 layers by 6 heads' in page
    assert "Heads of this model." in page


def test_pages_hold_only_what_they_use(book: Path) -> None:
    index, page = ((html(book) / name).read_text() for name in ("index.html", "models/fixture.html"))
    assert "mathjax/tex-mml-chtml.js" in index and "https://cdn" not in index
    assert "mathjax/" not in page and "window.MathJax" not in page
    static = html(book).parent / "_static"
    for name in ("fontawesome.js", "searchindex.js", "thebe"):
        assert name not in index and not list(static.rglob(f"*{name}*"))
    assert "searchindex.js" in (html(book).parent / "search.html").read_text()
    theme = (static / "styles" / "pydata-sphinx-theme.css").read_text()
    assert ".fa-bars { mask:" in theme and "@font-face" not in theme
    source = nbformat.read(html(book).parent / "_sources" / "book" / "models" / "fixture.ipynb", as_version=4)
    assert source.cells and not any(cell.get("outputs") for cell in source.cells)


@pytest.mark.long
def test_the_same_input_gives_the_same_bytes(book: Path) -> None:
    folder = html(book).parent
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    render_book(book, force=True)
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert [path.name for path in before if after.get(path) != before[path]] == [] and after.keys() == before.keys()


def test_foot_tells_where_numbers_come_from(book: Path) -> None:
    page = (html(book) / "models" / "fixture.html").read_text()
    assert 'class="provenance"' in page and "visualheads " in page and "commit " not in page
    index = (html(book) / "index.html").read_text()
    assert "jupyter-book" in index and "commit" in index


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
    assert pages.errors() == []
    assert [url for url in pages.requests() if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.mark.browser
def test_click_on_a_head_changes_the_linked_charts(book: Path, pages: Pages) -> None:
    pages.open(html(book) / "models" / "fixture.html")
    words = "return document.querySelector('.vega-live svg.marks').textContent.match(/Layer \\d+, head \\d+/)[0]"
    before = pages.run(words)
    spec = pages.run("return bookCharts.specification(document.querySelector('.vega-chart').dataset.chart)")
    strongest = next(p["value"][0] for p in spec["params"] if p["name"] == "head")
    assert before == f"Layer {strongest['layer']}, head {strongest['head']}"
    bars = "return document.querySelector('.vega-live svg.marks').innerHTML"
    before_bars = pages.run(bars)
    click_another_head(pages, (strongest["layer"], strongest["head"]))
    pages.wait_until(f"{words} !== arguments[0]", before)
    assert pages.run(bars) != before_bars
    pages.run("localStorage.clear()")


@pytest.mark.browser
def test_a_chosen_head_stays_chosen_on_the_next_page(book: Path, pages: Pages) -> None:
    chosen = """
    return bookViews.flatMap(view => {
      try { const one = view.signal('head'); return [[one.layer[0], one.head[0]]]; } catch { return []; }
    })
    """
    pages.open(html(book) / "models" / "fixture.html")
    before = pages.run(chosen)
    click_another_head(pages, tuple(before[0]))
    pages.wait_until(f"return JSON.stringify((() => {{{chosen}}})()) !== JSON.stringify(arguments[0])", before)
    after = pages.run(chosen)
    pages.open(html(book) / "models" / "other.html")
    assert pages.run(chosen) == after
    pages.run("localStorage.clear()")


@pytest.mark.long
@pytest.mark.browser
def test_a_page_in_one_file_needs_nothing_else(book: Path, pages: Pages, tmp_path: Path) -> None:
    target = export_page(book / "book" / "models" / "fixture.ipynb", tmp_path / "alone" / "fixture.html", book)
    pages.open(target)
    assert pages.errors() == []
    assert {url for url in pages.requests() if url.startswith("file:")} == {target.as_uri()}
    assert pages.run("return document.querySelectorAll('.vega-live svg.marks').length") == 2


@pytest.mark.long
@pytest.mark.browser
def test_the_book_is_printed(book: Path, tmp_path: Path) -> None:
    printed = export_pdf(tmp_path / "out" / "book.pdf", book).read_bytes()
    assert printed.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", printed)) >= 2


@pytest.mark.browser
def test_arrow_keys_turn_pages(book: Path, pages: Pages) -> None:
    pages.open(html(book) / "index.html")
    following = pages.run("return document.querySelector('a.right-next').href")
    for key, expected in ((Keys.ARROW_RIGHT, following), (Keys.ARROW_LEFT, (html(book) / "index.html").as_uri())):
        pages.driver.find_element("tag name", "body").send_keys(key)
        pages.wait_until("return location.href === arguments[0] && document.readyState === 'complete'", expected)


@pytest.mark.browser
def test_search_finds_heads_by_name(book: Path, pages: Pages) -> None:
    search = html(book).parent / "search.html"
    pages.driver.get(search.as_uri() + "?q=L1H2")
    assert pages.run("return document.querySelector('.search-head a').textContent") == "Head L1H2 in the explorer"
    assert pages.errors() == []


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
