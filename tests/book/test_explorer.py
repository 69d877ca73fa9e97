"""The explorer as a figure of a book built by the real configuration and theme."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.browser import PHONE, Pages, browser
from helpers.looks import made_look
from helpers.project import ROOT
from visualheads.book.build import render_book
from visualheads.errors import VisualHeadsError
from visualheads.explorer.page import write_folder

INDEX = """# A book with an explorer

```{explorer} results/looks
:name: fig-look
:heads: L1H2
:alt: Where each head looks.
Where heads look.
```

See {numref}`fig-look`.
"""
CHAPTER = (
    INDEX.replace("fig-look", "fig-again").replace("results/looks", "../results/looks").replace("# A book", "# Again")
)
READY = "return document.querySelector('[data-explorer]').dataset.ready === 'yes'"
HEADS = "return document.querySelector('[data-explorer]').explorer.choice.heads.map((h) => [h.layer, h.head])"
CELL = "document.querySelectorAll('.vh-cells rect')"


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("book")
    (root / "book" / "chapters").mkdir(parents=True)
    for name in ("_config.yml", "book/references.bib"):
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / "book" / "_static", root / "book" / "_static")
    more = "parts:\n  - caption: More\n    chapters:\n      - file: book/chapters/again\n"
    (root / "_toc.yml").write_text(f"format: jb-book\nroot: book/index\n{more}")
    (root / "book" / "index.md").write_text(INDEX)
    (root / "book" / "chapters" / "again.md").write_text(CHAPTER)
    looks = [made_look(sample=f"dogs {n}", seed=n) for n in range(3)] + [made_look("other", sample="dogs 0")]
    write_folder(looks, root / "book" / "results" / "looks")
    return render_book(root).parent


@pytest.fixture(scope="module")
def pages(html: Path) -> Iterator[Pages]:
    del html
    with browser() as window:
        yield window


def opened(pages: Pages, path: Path, width: int = 1280) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    pages.open(path, width=width)
    WebDriverWait(pages.driver, 60).until(lambda driver: driver.execute_script(READY))


@pytest.mark.browser
@pytest.mark.parametrize("name", ["index.html", "chapters/again.html"])
def test_the_figure_works_offline_on_any_screen(html: Path, pages: Pages, name: str):
    opened(pages, html / name)
    assert pages.errors() == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in pages.requests())
    opened(pages, html / name, width=PHONE)
    assert pages.overflow() <= 0


@pytest.mark.browser
def test_the_choice_is_kept_from_chapter_to_chapter(html: Path, pages: Pages):
    opened(pages, html / "index.html")
    pages.run("localStorage.clear()")
    opened(pages, html / "index.html")
    assert pages.run(HEADS) == [[1, 2]], "what the directive names, until a reader chooses"
    pages.run(f"{CELL}[9].scrollIntoView({{block: 'center'}})")
    pages.driver.find_elements("css selector", ".vh-cells rect")[9].click()
    assert pages.run(HEADS) == [[1, 3]]
    opened(pages, html / "chapters" / "again.html")
    assert pages.run(HEADS) == [[1, 3]]


@pytest.mark.browser
def test_the_figure_turns_dark_with_the_page(html: Path, pages: Pages):
    opened(pages, html / "index.html")
    ground = "return getComputedStyle(document.querySelector('.vh-look')).backgroundColor"
    pages.set_theme("light")
    light = pages.run(ground)
    pages.set_theme("dark")
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(pages.driver, 10).until(lambda driver: driver.execute_script(ground) != light)


@pytest.mark.long
def test_a_folder_without_looks_fails_the_build(html: Path, tmp_path: Path):
    root = tmp_path / "book"
    shutil.copytree(html.parents[3], root, ignore=shutil.ignore_patterns("_build"))
    shutil.rmtree(root / "book" / "results")
    with pytest.raises(VisualHeadsError, match="no looks"):
        render_book(root)
