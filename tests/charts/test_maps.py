"""The paper's own artefacts: planted heads are found in its first figure, its maps per condition and its counts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import vl_convert as vlc
import xarray as xr

from helpers.model_datasets import SIX, model_dataset, questions, several
from visualheads import charts
from visualheads.analysis import benchmarks, head_tables
from visualheads.analysis.scores import scores
from visualheads.charts import display

WIDEST, PHONE = 688, 358
"""Text columns in pixels."""


@pytest.fixture(scope="module")
def ds() -> xr.Dataset:
    return several()


def narrow(spec: dict[str, Any], room: float) -> dict[str, Any]:
    """As the book draws a chart in a narrow column: no panel is wider than the room."""
    parts = {key: [narrow(part, room) for part in spec[key]] for key in ("vconcat", "layer") if key in spec}
    inner = {"spec": narrow(spec["spec"], room)} if "spec" in spec else {}
    width = {"width": min(spec["width"], room)} if "width" in spec else {}
    return {**spec, **parts, **inner, **width}


def drawn_width(spec: dict[str, Any]) -> float:
    found = re.search(r'<svg[^>]* width="([\d.]+)"', vlc.vegalite_to_svg(spec, vl_version=display.VEGA_LITE))
    assert found is not None
    return float(found[1])


def test_the_first_figure_has_a_point_per_head_and_a_panel_per_model_and_benchmark(ds: xr.Dataset) -> None:
    points = benchmarks.head_points(ds)
    sizes = points.groupby(["model", "task"]).size()
    assert sizes.loc["mini-1.5-13B"].tolist() == [25, 25] and sizes.loc["mini-1.5-7B"].tolist() == [16, 16]
    one = points[(points["model"] == "mini-vip-llama-3-8B") & (points["task"] == "pope")]
    own = benchmarks.head_means(ds.sel(model=["mini-vip-llama-3-8B"], sample=ds["task"] == "pope"), "image_weight")
    np.testing.assert_allclose(one["image_weight"], own[:4, :4].ravel(), rtol=1e-6)
    told = scores(ds).set_index(["model", "group"])["estimate"]
    assert one["score"].unique().tolist() == [told["mini-vip-llama-3-8B", "pope"]]
    spec = display.spec_of(charts.figure_one(points))
    assert len(spec["vconcat"]) == 4 and "4 models by 2 benchmarks" in spec["description"]
    (cells,) = (data for data in spec["datasets"].values() if data[0]["model"] == "mini-1.5-13B")
    assert [len(cell["image_weight"]) for cell in cells] == [25, 25]


def test_the_first_figure_of_five_benchmarks_fits_a_page_and_a_phone() -> None:
    tasks = ("looktwice", "pope", "mmbench", "seedbench", "qbench")
    spec = display.spec_of(charts.figure_one(benchmarks.head_points(several(tasks, pictures=2))))
    assert drawn_width(spec) <= WIDEST
    assert drawn_width(narrow(spec, PHONE - spec["usermeta"]["margin"])) <= PHONE


def test_maps_per_condition_show_what_was_planted() -> None:
    ds = model_dataset(samples=questions(SIX)).copy(deep=True)
    boxed = [name.startswith("visual") for name in ds["condition"].values]
    ds["region_weight"].loc[{"layer": 2, "head": 1, "sample": boxed}] = 0.9
    table = head_tables.condition_table(ds)
    assert len(table) == 6 * 16
    planted = table[(table["layer"] == 2) & (table["head"] == 1)].set_index("condition")["region_weight"]
    assert planted.to_numpy() == pytest.approx([0.9 if "visual" in name else planted[name] for name in planted.index])
    assert planted["plain-object"] < 0.9
    spec = display.spec_of(charts.condition_maps(table))
    assert {param["name"] for param in spec["params"]} == {"chosen_model", "measure", "stretched"}
    assert drawn_width(spec) <= WIDEST and drawn_width(narrow(spec, PHONE - spec["usermeta"]["margin"])) <= PHONE
    unboxed = head_tables.condition_table(ds.assign(region_weight=ds["region_weight"] * np.nan))
    assert "region_weight" not in json.dumps(display.spec_of(charts.condition_maps(unboxed)))


def test_detections_are_counted_by_hand() -> None:
    ds = model_dataset(samples=questions(("plain",), 4)).copy(deep=True)
    ds["image_weight"][:] = 0.1
    ds["image_weight"].loc[{"layer": 0, "head": 0}] = 0.9  # always first
    for sample, head in zip(ds["sample"].values, (1, 1, 1, 2), strict=True):
        ds["image_weight"].loc[{"layer": 3, "head": head, "sample": sample}] = 0.8
    table = head_tables.detections(ds, k=2)
    assert table.set_index("name").query("count > 0")["count"].to_dict() == {"L0H0": 4, "L3H1": 3, "L3H2": 1}
    assert table["count"].sum() == 2 * 4, "as many as K in every sample"
    told = head_tables.ever_detected(table).iloc[0]
    assert (told["heads"], told["k"], told["ever"], told["often"]) == (16, 2, 3, 2)
    fewer = table.assign(task="other", samples=1, count=(table["count"] == 4).astype(int))
    both = head_tables.ever_detected(pd.concat([table, fewer])).set_index("task")
    assert both["ever"].to_dict() == {"looktwice": 3, "other": 1}


def test_by_default_the_same_share_of_heads_is_detected_in_every_model(ds: xr.Dataset) -> None:
    told = head_tables.ever_detected(head_tables.detections(ds)).set_index("model")
    assert told.loc["mini-1.5-7B", "k"].tolist() == [2, 2] and told.loc["mini-1.5-13B", "k"].tolist() == [2, 2]
    spec = display.spec_of(charts.detection_map(head_tables.detections(ds)))
    assert drawn_width(spec) <= WIDEST and "heads ever are" in spec["description"]


@pytest.mark.parametrize("draw", [charts.figure_one, charts.condition_maps, charts.detection_map])
def test_without_anything_the_reason_stands_there(draw: Callable[..., Any], ds: xr.Dataset) -> None:
    assert len(display.spec_of(draw(benchmarks.head_points(ds).iloc[:0]))["description"]) > 10
