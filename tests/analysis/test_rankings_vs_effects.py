"""Top-k overlap with the effects at every size: counted by hand, drawn within the page, told with chance and luck."""

from __future__ import annotations

import json
import re

import nbformat
import numpy as np
import pandas as pd
import pytest
import vl_convert as vlc

from helpers.planted import Planted, always, effects_of, pattern, world
from helpers.project import ROOT
from visualheads import charts
from visualheads.analysis import rankings_vs_effects
from visualheads.charts import display

WEIGHT = (0.98 - 0.04 * np.arange(24)).reshape(6, 4)
"""Head 0 looks most at the picture, head 23 least."""
COSTLY = [0, 5, 6, 7, 1]
"""The five heads whose removal costs most, the first most of all."""


def by_hand() -> pd.DataFrame:
    effect = np.linspace(0.1, 0.0, 24)
    effect[COSTLY] = [5, 4, 3, 2, 1]
    traces = world({"m": Planted(weight=always(WEIGHT), noise=0.0)})
    return rankings_vs_effects.overlap_by_size(traces, effects_of(effect.reshape(6, 4), noise=0.0), by=["image_weight"])


def test_overlaps_and_chance_by_hand() -> None:
    table = by_hand().set_index("size")
    assert table["k"].to_dict() == {"2 %": 1, "5 %": 1, "10 %": 2, "20 %": 5}, "at least one head"
    # of the first 1, 2 and 5 heads by weight, the effects name head 0, head 0, and heads 0 and 1
    assert table["overlap"].tolist() == [1, 1, 0.5, 0.4]
    assert table["chance"].tolist() == pytest.approx([1 / 24, 1 / 24, 2 / 24, 5 / 24])
    # P(no head shared) = 23/24 at k = 1; P(at most one) = 275/276 at k = 2; at k = 5 P(at most two) = 0.958
    assert table["limit"].tolist() == pytest.approx([0, 0, 0.5, 0.4])
    assert set(table["heads"]) == {24}


def test_sizes_are_those_of_the_method() -> None:
    assert rankings_vs_effects.top_sizes(64) == {"2 %": 1, "5 %": 3, "10 %": 6, "20 %": 13}
    assert rankings_vs_effects.top_sizes(1024) == {
        "10 heads": 10, "2 %": 20, "50 heads": 50, "5 %": 51, "100 heads": 100, "10 %": 102, "20 %": 205,
    }  # fmt: skip


def test_lists_and_heads_without_an_effect() -> None:
    effects = effects_of(pattern(3))
    effects["effect_margin"][0, 0] = np.nan
    traces = world({"m": Planted(weight=always(pattern(3))), "n": Planted()})
    told = effects["effect_margin"].mean("sample").isel(model=0, drop=True)
    found = rankings_vs_effects.overlap_by_size(traces, effects, {"m": {"published": told, "constant": 0 * told}})
    assert set(found["model"]) == {"m"} and set(found["heads"]) == {20}
    assert (found[found["ranking"] == "published"]["overlap"] == 1).all() and "constant" not in set(found["ranking"])
    assert rankings_vs_effects.overlap_by_size(traces, None).empty


def test_the_page_tells_overlap_beside_chance_at_every_size() -> None:
    found = by_hand()
    spec = display.spec_of(charts.overlap_lines(pd.concat([found, found.assign(model="other")])))
    assert "20 %: 40%, by chance 21%" in spec["description"] and '"options": ["m", "other"]' in json.dumps(spec)
    width = re.search(r'<svg[^>]* width="([\d.]+)"', vlc.vegalite_to_svg(spec, vl_version=display.VEGA_LITE))
    assert width is not None and float(width[1]) <= 688
    assert "single heads" in display.spec_of(charts.overlap_lines(found.head(0)))["description"]


@pytest.mark.parametrize(
    ("notebook", "called"),
    [
        ("rankings", "charts.overlap_lines(by_size"),
    ],
)
def test_what_the_method_promises_is_on_a_page(notebook: str, called: str) -> None:
    cells = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4).cells
    assert any(called in cell.source for cell in cells if cell.cell_type == "code")
