"""JupyterLab itself: charts are interactive there, and the explorer is live."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.browser import Pages, browser
from helpers.lab import notebook, run_all, server, until

pytestmark = [pytest.mark.browser, pytest.mark.long]

CHART = """
import altair as alt, pandas as pd
from visualheads.charts.display import show
data = pd.DataFrame({"head": [0, 1], "value": [1.0, 2.0]})
chosen = alt.selection_point(name="chosen", fields=["head"], value=[{"head": 0}], empty=False)
base = alt.Chart(data)
shown = base.mark_text(size=30).encode(text="value:Q").transform_filter(chosen)
show(base.mark_rect().encode(x="head:O").properties(width=120) .add_params(chosen) | shown, "two linked charts")
"""
LOOK = """
import visualheads as vh
model = vh.load("mini-1.5-7B")
samples = vh.task("looktwice").samples(condition="visual-object", n=2)
vh.look(model, samples, rows=2, effects="none", progress=False)
"""
EXPLORER = "document.querySelector('.vh-look')"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    """A notebook with a linked chart and an explorer, run in JupyterLab."""
    for name in ("jupyterlab", "anywidget"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"needs {name} (pip install visualheads[lab])")
    folder: Path = tmp_path_factory.mktemp("lab")
    name = notebook(folder, CHART, LOOK)
    with browser() as pages, server(folder) as address:
        run_all(pages, address, name)
        yield pages
        pages.driver.get("about:blank")


def test_a_click_changes_the_linked_chart(lab: Pages):
    until(lab, "return !!document.querySelector('.vega-embed canvas, .vega-embed svg')")
    drawn = (
        "(document.querySelector('.vega-embed canvas')?.toDataURL() || document.querySelector('.vega-embed').innerHTML)"
    )
    before = lab.run(f"return {drawn}")
    from selenium.webdriver.common.action_chains import ActionChains

    chart = lab.driver.find_element("css selector", ".vega-embed canvas, .vega-embed svg")
    # two cells of 60 pixels, right of the left padding

    def click(across: int) -> None:
        place = across - chart.size["width"] // 2
        ActionChains(lab.driver).move_to_element_with_offset(chart, place, -12).click().perform()

    click(95)
    until(lab, f"return {drawn} !== arguments[0]", before)
    click(35)
    until(lab, f"return {drawn} === arguments[0]", before)


def test_the_explorer_is_live(lab: Pages):
    until(lab, f"return {EXPLORER}?.querySelectorAll('.vh-cells rect').length === 64")

    def click(words: str) -> None:
        lab.run(
            f"[...{EXPLORER}.querySelectorAll('button')].find((b) => b.textContent.startsWith(arguments[0])).click()",
            words,
        )

    lab.run(f"{EXPLORER}.querySelector('.vh-list button').click()")
    until(lab, f"return !!{EXPLORER}.querySelector('.vh-ask')")
    click("Answer with")
    until(lab, f"return {EXPLORER}.querySelectorAll('td.vh-now')[0]?.textContent.includes('%')")
    assert "mean over" in lab.run(f"return {EXPLORER}.querySelector('.vh-answers').textContent")
    click("Steered")
    until(lab, f"return !!{EXPLORER}.querySelector('.vh-answers input[type=range]')")
    click("Answer with")
    until(lab, f"return {EXPLORER}.querySelector('.vh-answers').textContent.includes('+4 on the scores')")
    # a token whose row was not kept is asked of the kernel
    lab.run(f"{EXPLORER}.querySelector('.vh-unasked').click()")
    until(lab, f"return {EXPLORER}.querySelector('.vh-query')?.textContent !== 'ASSISTANT:'")
    assert lab.run(f"return {EXPLORER}.querySelector('.vh-fault').hidden")
