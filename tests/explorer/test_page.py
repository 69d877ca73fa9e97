"""The explorer in a browser, on made looks: everything a reader can do, from a file, without a network."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from helpers.browser import PHONE, Pages, browser
from helpers.looks import BEFORE, made_look
from visualheads.explorer import Explorer
from visualheads.explorer.page import element, page, page_script, style, write_folder

pytestmark = pytest.mark.browser
WAIT = 20


class Opened:
    """A page with an explorer."""

    def __init__(self, pages: Pages, path: Path, hash_: str = "", width: int = 1280) -> None:
        self.pages = pages
        pages.resize(width)
        for log in ("performance", "browser"):
            pages.driver.get_log(log)
        pages.driver.get("about:blank")
        pages.driver.get(path.resolve().as_uri() + hash_)
        self.wait("document.querySelector('[data-explorer]').dataset.ready !== 'no'")

    def wait(self, condition: str) -> None:
        """Until a JavaScript expression is true."""
        end = time.monotonic() + WAIT
        while not self.pages.run(f"return Boolean({condition})"):
            assert time.monotonic() < end, condition
            time.sleep(0.02)

    def get(self, expression: str) -> Any:
        """The value of a JavaScript expression; `x` is the explorer."""
        return self.pages.run(f"const x = document.querySelector('[data-explorer]').explorer; return {expression}")

    def do(self, script: str = "") -> None:
        """Run a script on the explorer `x` and let it settle: the last choice is drawn, and two frames are painted."""
        fault = self.pages.driver.execute_async_script(
            "const done = arguments[0]; const x = document.querySelector('[data-explorer]').explorer;"
            "const frame = () => new Promise(requestAnimationFrame);"
            f"(async () => {{ {script}; await x.settled; await frame(); await frame(); }})()"
            ".then(() => done(''), (e) => done(String(e)))"
        )
        assert not fault, fault

    def text(self, selector: str) -> str:
        return self.get(f"document.querySelector({selector!r}).textContent")

    def cell(self, index: int) -> Any:
        return self.pages.driver.find_elements("css selector", ".vh-cells rect")[index]

    def click(self, selector: str) -> None:
        self.pages.driver.find_element("css selector", selector).click()
        self.do()

    def button(self, words: str) -> None:
        """Click the button with these words."""
        found = [one for one in self.pages.driver.find_elements("css selector", ".vh-look button") if one.text == words]
        assert found, words
        found[0].click()
        self.do()

    def press(self, selector: str, *keys: str) -> None:
        self.pages.driver.find_element("css selector", selector).send_keys(*keys)
        self.do()

    def actions(self) -> Any:
        from selenium.webdriver.common.action_chains import ActionChains

        return ActionChains(self.pages.driver)

    @property
    def sentence(self) -> str:
        return self.text(".vh-sentence")

    @property
    def heads(self) -> list[str]:
        return self.get("x.choice.heads.map((one) => `L${one.layer}H${one.head}`)")


@pytest.fixture(scope="module")
def pages() -> Iterator[Pages]:
    with browser() as window:
        yield window


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages of made looks: one, several, with sinks and tiles, of an unknown layout, and a folder of scripts."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "one.html").write_text(page([made_look()]), encoding="utf-8")
    several = [made_look(sample=f"dogs {n}", seed=n) for n in range(3)]
    several += [made_look("other", sample=f"dogs {n}", layers=3, heads=5, seed=n + 9) for n in range(2)]
    (folder / "several.html").write_text(page(several), encoding="utf-8")
    tiled = made_look(tiles=(2, 2), sinks=True, effects=False)
    (folder / "tiles.html").write_text(page([tiled]), encoding="utf-8")
    (folder / "anyres.html").write_text(page([made_look(tiles=(2, 2))]), encoding="utf-8")
    (folder / "unknown.html").write_text(page([made_look(known=False)]), encoding="utf-8")
    write_folder(several, folder / "looks")
    (folder / "explorer.js").write_text(page_script(), encoding="utf-8")
    (folder / "explorer.css").write_text(style(), encoding="utf-8")
    for name in ("chapter1", "chapter2"):
        body = element("looks", {"remembers": "yes"}, "Where heads look.")
        head = (
            '<meta charset="utf-8"><link rel="stylesheet" href="explorer.css"><script defer src="explorer.js"></script>'
        )
        (folder / f"{name}.html").write_text(f"<!DOCTYPE html><html><head>{head}</head><body>{body}</body></html>")
    return folder


def test_opens_without_a_network_or_an_error(pages: Pages, files: Path):
    opened = Opened(pages, files / "one.html")
    assert all(url.startswith(("file:", "data:", "about:")) for url in pages.requests())
    assert pages.errors() == []
    assert opened.get("document.querySelectorAll('.vh-cells rect').length") == 24
    assert "attention on the picture" in opened.sentence
    for width in (PHONE, 700, 1280):
        pages.resize(width)
        assert pages.overflow() <= 0, width


def test_heads_by_mouse(pages: Pages, files: Path):
    from selenium.webdriver.common.keys import Keys

    opened = Opened(pages, files / "one.html")
    first = opened.sentence
    opened.actions().move_to_element(opened.cell(8)).perform()
    opened.do()
    assert opened.sentence.startswith("L1H2 ") and opened.heads != ["L1H2"]
    opened.actions().move_to_element(pages.driver.find_element("css selector", "h3")).perform()
    opened.do()
    assert opened.sentence == first
    opened.cell(8).click()
    assert opened.heads == ["L1H2"]
    opened.actions().key_down(Keys.SHIFT).click(opened.cell(9)).key_up(Keys.SHIFT).perform()
    opened.do()
    assert opened.heads == ["L1H2", "L1H3"]
    assert opened.sentence.startswith("Mean of L1H2, L1H3")
    opened.actions().key_down(Keys.SHIFT).click(opened.cell(8)).key_up(Keys.SHIFT).perform()
    opened.do()
    assert opened.heads == ["L1H3"]


def test_heads_by_keys_and_from_the_list(pages: Pages, files: Path):
    from selenium.webdriver.common.keys import Keys

    opened = Opened(pages, files / "one.html", "#look:heads=L1H2")
    for key, head in (
        (Keys.ARROW_DOWN, "L2H2"),
        (Keys.ARROW_RIGHT, "L2H3"),
        (Keys.ARROW_UP, "L1H3"),
        (Keys.ARROW_LEFT, "L1H2"),
    ):
        opened.press(".vh-headmap", key)
        assert opened.heads == [head]
    opened.press(".vh-headmap", Keys.SHIFT, Keys.ARROW_RIGHT)
    assert opened.heads == ["L1H2", "L1H3"]
    opened.press(".vh-headmap", Keys.ESCAPE)
    assert opened.heads == ["L1H3"]
    assert "Chosen: L1H3" in opened.get("document.querySelector('.vh-headmap').getAttribute('aria-label')")
    opened.click(".vh-list button")
    best = opened.get("x.look.at([...x.values.keys()].sort((a, b) => x.values[b] - x.values[a])[0])")
    assert opened.heads == [f"L{best['layer']}H{best['head']}"]


def test_the_query_is_any_token_with_a_row(pages: Pages, files: Path):
    opened = Opened(pages, files / "one.html")
    assert opened.text(".vh-query") == "ASSISTANT:"
    opened.button("two")
    assert opened.text(".vh-query") == "two" and "from “two”" in opened.sentence
    assert opened.get("document.querySelectorAll('.vh-still').length") > 0
    shares = opened.get(
        "[...document.querySelectorAll('.vh-token')].map((t) => Number(t.style.getPropertyValue('--vh-share')))"
    )
    assert max(shares) > 0, "text keys are shaded"
    assert "48 image tokens" in opened.text(".vh-image-tokens")


def test_every_measure_colours_the_heads(pages: Pages, files: Path):
    opened = Opened(pages, files / "one.html")
    names = opened.get("[...document.querySelectorAll('.vh-measure option')].map((one) => one.value)")
    assert names == [
        "image_weight",
        "image_log_odds",
        "concentration",
        "white_change",
        "lift",
        "effect:mean",
        "effect:image_knockout",
    ]
    seen = set()
    for name in names:
        opened.do(f"await x.choose({{ measure: '{name}' }})")
        seen.add(
            opened.get("[...document.querySelectorAll('.vh-cells rect')].map((c) => c.getAttribute('fill')).join()")
        )
        assert opened.text(".vh-measure p")
    assert len(seen) == len(names)
    assert "url(#" in opened.get("document.querySelectorAll('.vh-cells rect')[1].getAttribute('fill')"), (
        "not tried: hatched"
    )


def test_a_drawn_box_gives_lift(pages: Pages, files: Path):
    opened = Opened(pages, files / "one.html")
    opened.button("Draw box")
    svg = pages.driver.find_element("css selector", ".vh-picture")
    opened.actions().move_to_element_with_offset(svg, -100, -60).click_and_hold().move_by_offset(
        120, 80
    ).release().perform()
    opened.do()
    box = opened.get("x.choice.box")
    assert box[2] > box[0] and box[3] > box[1]
    assert opened.get("x.choice.measure") == "lift" and "in the drawn box" in opened.sentence
    assert "box=" in opened.get("location.hash")
    # the same number from the exact weights
    look = made_look()
    weights = look.attention[0][..., look.image].reshape(24, -1)
    inside = look.token_map.in_box(box)
    exact = weights[:, inside].sum(1) / weights.sum(1) / inside.mean()
    shown = opened.get("[...x.values]")
    assert max(abs(a - b) / b for a, b in zip(shown, exact, strict=True)) < 0.1


def test_patch_to_heads(pages: Pages, files: Path):
    from selenium.webdriver.common.keys import Keys

    opened = Opened(pages, files / "one.html")
    svg = pages.driver.find_element("css selector", ".vh-picture")
    opened.actions().move_to_element(svg).perform()
    opened.do()
    assert "this patch" in opened.text(".vh-patch-line")
    opened.actions().move_to_element(svg).click().perform()
    opened.do()
    patch = opened.get("x.choice.patch")
    assert patch is not None and opened.get("x.choice.measure") == "patch"
    assert opened.get("x.values[7]") == pytest.approx(float(made_look().attention[0, 1, 1, BEFORE + patch]), rel=0.3)
    opened.press(".vh-picture", Keys.ARROW_RIGHT)
    assert opened.get("x.choice.patch") == patch + 1
    opened.press(".vh-picture", Keys.SHIFT, Keys.ARROW_DOWN)
    assert opened.get("x.choice.box") is not None
    opened.press(".vh-picture", Keys.ESCAPE)
    assert opened.get("[x.choice.patch, x.choice.box, x.choice.measure === 'patch']") == [None, None, False]


def test_overlays_scales_and_zoom(pages: Pages, files: Path):
    opened = Opened(pages, files / "one.html")
    opacity = "Number(document.querySelector('.vh-veil rect').getAttribute('fill-opacity'))"
    opened.do("await x.choose({ heads: [{ layer: 0, head: 0 }] })")
    before = opened.get(opacity)
    opened.do("x.set({ strength: 0.3 })")
    assert opened.get(opacity) < before
    legend = opened.text(".vh-legend")
    opened.button("Same scale")
    assert opened.text(".vh-legend") != legend
    opened.button("Scale per head")
    assert opened.text(".vh-legend") == legend
    opened.button("Outline")
    assert opened.get("document.querySelectorAll('.vh-outline').length") > 0
    assert opened.get("document.querySelector('.vh-veil').style.display") == "none"
    opened.button("Off")
    assert opened.get("document.querySelectorAll('.vh-outline').length") == 0
    opened.button("+")
    assert opened.get("document.querySelector('.vh-picture').viewBox.baseVal.width") < 320
    opened.button("1:1")
    assert opened.get("document.querySelector('.vh-picture').viewBox.baseVal.width") == 320
    opened.press(".vh-picture", "+")
    assert opened.get("document.querySelector('.vh-picture').viewBox.baseVal.width") < 320


def test_wheel_double_click_and_drag_move_the_picture(pages: Pages, files: Path):
    from selenium.webdriver.common.action_chains import ScrollOrigin
    from selenium.webdriver.common.keys import Keys

    opened = Opened(pages, files / "one.html")
    svg = pages.driver.find_element("css selector", ".vh-picture")
    view = "['x', 'y', 'width'].map((edge) => document.querySelector('.vh-picture').viewBox.baseVal[edge])"
    page = opened.get("window.scrollY")
    origin = ScrollOrigin.from_element(svg)
    opened.actions().key_down(Keys.CONTROL).scroll_from_origin(origin, 0, -100).key_up(Keys.CONTROL).perform()
    opened.wait(f"{view}[2] < 320")
    assert opened.get("window.scrollY") == page, "the wheel zooms with Ctrl only, and then does not scroll"
    wheeled = opened.get(view)
    # a browser counts clicks by the clock; the event itself has none
    pages.run(
        "const { x, y, width, height } = arguments[0].getBoundingClientRect();"
        "arguments[0].dispatchEvent(new MouseEvent('dblclick', { clientX: x + width / 2, clientY: y + height / 2 }))",
        svg,
    )
    near = opened.get(view)
    assert near[2] < wheeled[2]
    opened.actions().move_to_element(svg).click_and_hold().move_by_offset(-30, -20).release().perform()
    opened.do()
    moved = opened.get(view)
    assert moved[0] > near[0] and moved[1] > near[1] and moved[2] == near[2]
    assert opened.get("x.choice.patch") is None, "a drag chooses nothing"


def test_the_asked_region_and_tokens_by_keys(pages: Pages, files: Path):
    from selenium.webdriver.common.keys import Keys

    opened = Opened(pages, files / "one.html")
    assert opened.get("document.querySelectorAll('.vh-asked').length") > 0
    opened.click(".vh-check input")
    assert opened.get("document.querySelectorAll('.vh-asked').length") == 0
    last = opened.get("document.querySelector('.vh-query').textContent")
    opened.press(".vh-query", Keys.ARROW_RIGHT)
    opened.actions().send_keys(Keys.ENTER).perform()
    opened.do()
    assert opened.get("document.querySelector('.vh-query').textContent") not in (last, "")
    assert "from “two”" in opened.sentence


def test_sinks_and_tiles(pages: Pages, files: Path):
    opened = Opened(pages, files / "tiles.html")
    assert opened.get("x.settings.grid") == "whole", "its sink holds most of the attention"
    assert opened.get("document.querySelectorAll('.vh-sinks path').length") == 1
    opacity = "Number(document.querySelectorAll('.vh-veil rect')[5].getAttribute('fill-opacity'))"
    shown = opened.get(opacity)
    opened.click(".vh-check input")
    assert opened.get(opacity) > shown, "a hidden sink is dark"
    assert opened.get("document.querySelectorAll('.vh-veil rect').length") == 48
    opened.button("Tiles")
    assert opened.get("document.querySelectorAll('.vh-veil rect').length") == 192
    assert opened.get("document.querySelectorAll('.vh-tiles rect').length") == 4
    assert "in its tiles" in opened.sentence
    assert "No effects are in this page" in opened.text(".vh-answers")
    opened = Opened(pages, files / "anyres.html")
    assert opened.get("x.settings.grid") == "tiles", "where most of the attention lies"


def test_answers_before_and_after(pages: Pages, files: Path):
    opened = Opened(pages, files / "one.html", "#look:heads=L1H1")
    look = made_look()
    shown = [
        float(text.strip(" %"))
        for text in opened.get("[...document.querySelectorAll('.vh-bars td.vh-now')].map((c) => c.textContent)")
    ]
    exact = look.effects["mean"].probability[1, 1] * 100
    assert shown == pytest.approx([round(value) if value >= 9.95 else value for value in exact.tolist()], abs=0.51)
    opened.button("Picture hidden")
    assert opened.text(".vh-answers p.vh-quiet") == "It cannot look."
    opened.do("await x.choose({ heads: [{ layer: 1, head: 2 }] })")
    assert "many" in opened.text(".vh-bars"), "a new likeliest token has a bar"
    opened.do("await x.choose({ heads: [{ layer: 0, head: 1 }] })")
    assert "Not computed for this head" in opened.text(".vh-answers")
    opened.do("await x.choose({ heads: [{ layer: 0, head: 0 }, { layer: 1, head: 0 }] })")
    assert "choose one head" in opened.text(".vh-answers")


def test_a_head_has_an_address(pages: Pages, files: Path):
    opened = Opened(pages, files / "several.html", "#look:model=other&sample=dogs%201&heads=L2H4&measure=concentration")
    assert opened.get("[x.choice.model, x.choice.sample, x.choice.measure]") == ["other", "dogs 1", "concentration"]
    assert opened.heads == ["L2H4"]
    opened.cell(0).click()
    opened.do()
    address = opened.get("location.href")
    assert "heads=L0H0" in address and "token=" in address
    opened.button("Copy link")
    assert opened.text(".vh-copied")
    pages.run("location.hash = '#look:model=made&sample=dogs%202&heads=L3H5'")
    opened.wait("document.querySelector('[data-explorer]').explorer.choice.model === 'made'")
    assert opened.heads == ["L3H5"]
    # heads, samples and measures that are not there: what is possible is shown
    opened = Opened(pages, files / "several.html", "#look:model=nope&heads=L99H99&measure=nope&token=12345")
    assert opened.get("x.choice.model") == "made" and opened.heads and pages.errors() == []


def test_models_samples_and_gallery(pages: Pages, files: Path):
    opened = Opened(pages, files / "several.html", "#look:heads=L1H1")
    opened.wait("document.querySelectorAll('.vh-gallery li').length === 3")
    values = [
        float(text.strip(" %"))
        for text in opened.get("[...document.querySelectorAll('.vh-thumb-value')].map((v) => v.textContent)")
    ]
    assert values == sorted(values, reverse=True)
    opened.wait("document.querySelectorAll('.vh-gallery .vh-outline').length >= 3")
    opened.click(".vh-gallery li:last-child button")
    last = opened.get("x.choice.sample")
    assert opened.heads == ["L1H1"], "the head stays"
    opened.do("await x.choose({ model: 'other' })")
    assert opened.get("x.choice.model") == "other"
    assert opened.get("document.querySelectorAll('.vh-cells rect').length") == 15
    assert last in ("dogs 0", "dogs 1", "dogs 2")
    select = "[...document.querySelectorAll('.vh-switches select')].map((s) => s.options.length)"
    assert opened.get(select) == [2, 2]


def test_what_is_seen_can_be_saved(pages: Pages, files: Path, tmp_path: Path):
    opened = Opened(pages, files / "one.html", "#look:heads=L1H1")
    pages.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    for kind in ("picture.svg", "heads.svg", "picture.png", "heads.png", "nc"):
        opened.do(f"await x.save('{kind}')")
    expected = {
        "made_L1H1_picture.svg",
        "made_L1H1_heads.svg",
        "made_L1H1_picture.png",
        "made_L1H1_heads.png",
        "made_L1H1.nc",
    }
    end = time.monotonic() + WAIT
    while {path.name for path in tmp_path.iterdir()} != expected:
        assert time.monotonic() < end, list(tmp_path.iterdir())
        time.sleep(0.1)
    assert (tmp_path / "made_L1H1_picture.png").read_bytes().startswith(b"\x89PNG")
    assert "var(" not in (tmp_path / "made_L1H1_heads.svg").read_text()
    look = made_look()
    with xr.open_dataset(tmp_path / "made_L1H1.nc", engine="scipy") as ds:
        assert ds.attention.dims == ("layer", "head", "image_token")
        assert ds.attrs["question"] == look.sample["question"]
        assert ds.image_weight.values == pytest.approx(look.measures["image_weight"][0], abs=1e-3)
        exact = look.attention[0][..., look.image]
        assert ds.attention.sum("image_token").values == pytest.approx(exact.sum(-1), rel=1e-4)


def test_a_layout_that_is_not_known(pages: Pages, files: Path):
    opened = Opened(pages, files / "unknown.html")
    assert opened.get("document.querySelectorAll('.vh-order rect').length") == 48
    assert "not known" in opened.text(".vh-note")
    assert "lift" not in opened.get("[...document.querySelectorAll('.vh-measure option')].map((one) => one.value)")
    assert pages.errors() == []


def test_dark_pages(pages: Pages, files: Path):
    opened = Opened(pages, files / "one.html")
    ground = "getComputedStyle(document.querySelector('.vh-look')).backgroundColor"
    light = opened.get(ground)
    pages.run("document.documentElement.dataset.theme = 'dark'")
    opened.wait(f"{ground} !== '{light}'")


def test_a_book_loads_looks_as_scripts_and_keeps_the_choice(pages: Pages, files: Path):
    opened = Opened(pages, files / "chapter1.html")
    loaded = [url.rsplit("/", 1)[-1] for url in pages.requests() if "/looks/" in url]
    assert loaded[:2] == ["index.js", "dogs-0.js"], "others come when they are chosen"
    assert opened.get("document.querySelector('.vh-without')") is None
    opened.do("await x.choose({ model: 'other', heads: [{ layer: 2, head: 3 }], measure: 'concentration' })")
    kept = opened.get("(x.choose({ heads: [{ layer: 1, head: 1 }] }), localStorage.getItem('visualheads.look'))")
    assert "heads=L1H1" in kept, "a reader may leave before it is drawn"
    opened.do("await x.choose({ heads: [{ layer: 2, head: 3 }] })")
    opened = Opened(pages, files / "chapter2.html")
    assert opened.get("[x.choice.model, x.choice.measure]") == ["other", "concentration"] and opened.heads == ["L2H3"]
    assert all(url.startswith(("file:", "data:", "about:")) for url in pages.requests())
    assert pages.errors() == []


def test_data_that_cannot_be_read_are_told(pages: Pages, files: Path, tmp_path: Path):
    old = (
        (files / "one.html")
        .read_text()
        .replace('"format":"visualheads.look","version":1', '"format":"visualheads.look","version":0')
    )
    (tmp_path / "old.html").write_text(old, encoding="utf-8")
    opened = Opened(pages, tmp_path / "old.html")
    assert "version 0" in opened.text(".vh-fault")
    body = element("nowhere")
    (tmp_path / "gone.html").write_text(f"<!DOCTYPE html><body>{body}<script>{page_script()}</script></body>")
    opened = Opened(pages, tmp_path / "gone.html")
    assert "could not be loaded" in opened.text("[data-explorer]")


def test_for_keyboards_and_screen_readers(pages: Pages, files: Path):
    opened = Opened(pages, files / "several.html")
    nameless = (
        "[...document.querySelectorAll('button, select, input, [role=application]')]"
        ".filter((e) => !(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length)).length"
    )
    assert opened.get(nameless) == 0
    assert opened.get("document.querySelector('.vh-sentence').getAttribute('aria-live')") == "polite"
    assert opened.get("document.querySelectorAll('.vh-headmap[tabindex], .vh-picture[tabindex]').length") == 2
    labels = opened.get("[...document.querySelectorAll('section')].every((one) => one.getAttribute('aria-label'))")
    assert labels


def test_large_models_open_and_stay_small(pages: Pages, tmp_path: Path):
    look = made_look(layers=32, heads=32, grid=(24, 24), rows=24, size=(672, 672))
    path = Explorer([look]).save(tmp_path / "large.html")
    assert path.stat().st_size < 10e6
    opened = Opened(pages, path)
    assert opened.get("document.querySelectorAll('.vh-cells rect').length") == 1024
