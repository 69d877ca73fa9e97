"""Tables, charts and sentences: planted values are found again, charts fit the page and carry words."""

from __future__ import annotations

import json
import re
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import pytest
import vl_convert as vlc
import xarray as xr
from PIL import Image

from helpers.datasets import traced_dataset
from visualheads import charts
from visualheads.analysis import head_tables
from visualheads.charts import display
from visualheads.charts.comparison import palest
from visualheads.charts.training import curve_table
from visualheads.errors import ParameterError
from visualheads.models.token_layouts import single_grid

CONDITIONS = ("plain-general", "plain-object", "visual-general", "visual-object")
WIDEST = 688
"""The book's text column."""


@pytest.fixture(scope="module")
def ds() -> xr.Dataset:
    return traced_dataset("m", 4, 5, samples=48, conditions=CONDITIONS, maps=True)


def planted(ds: xr.Dataset, layer: int, head: int, **values: float) -> xr.Dataset:
    """A copy in which one head has these values everywhere."""
    copy = ds.copy(deep=True)
    for name, value in values.items():
        copy[name].loc[{"layer": layer, "head": head}] = value
    return copy


ALL_CHARTS = {
    "head_map": charts.head_map,
    "weight_concentration": charts.weight_concentration,
    "stage_profile": charts.stage_profile,
    "query_agreement": charts.query_agreement,
}


@pytest.mark.parametrize("name", ALL_CHARTS)
def test_chart_is_valid_fits_the_page_and_has_words(ds: xr.Dataset, name: str) -> None:
    spec = display.spec_of(ALL_CHARTS[name](ds))
    svg = vlc.vegalite_to_svg(spec, vl_version=display.VEGA_LITE)
    width = re.search(r'<svg[^>]* width="([\d.]+)"', svg)
    assert width is not None and 100 < float(width[1]) <= WIDEST
    assert len(spec["description"]) > 30
    assert "http" not in json.dumps({key: value for key, value in spec.items() if key != "$schema"})


@pytest.mark.parametrize("name", ALL_CHARTS)
def test_chart_is_the_same_text_twice(ds: xr.Dataset, name: str) -> None:
    one, two = (json.dumps(display.spec_of(ALL_CHARTS[name](ds)), sort_keys=True) for _ in range(2))
    assert re.sub(r"view_\d+", "", one) == re.sub(r"view_\d+", "", two)


def test_data_become_plain_json() -> None:
    records = [{"a": float("nan"), "b": 1, "c": [1.23456, None]}, {"a": np.float32(0.1234567), "b": None, "d": "x"}]
    spec = display.spec_of(alt.Chart(display.rows(records)).mark_point().encode(x="a:Q"))
    assert spec["datasets"][spec["data"]["name"]] == [
        {"a": None, "b": 1, "c": [1.235, None], "d": None},
        {"a": 0.1235, "b": None, "c": None, "d": "x"},
    ]


def test_head_map_holds_one_record_per_head(ds: xr.Dataset) -> None:
    spec = display.spec_of(charts.head_map(planted(ds, 2, 3, image_weight=0.97)))
    records = spec["datasets"][spec["data"]["name"]]
    assert len(records) == 20
    strongest = max(records, key=lambda record: record["image_weight"])
    assert (strongest["name"], strongest["image_weight"]) == ("L2H3", 0.97)
    assert sum(strongest["image_weight_counts"]) == 48
    assert strongest["image_weight_counts"][-1] == 48
    assert len(strongest["map"]) == 64
    (chosen,) = [param for param in spec["params"] if param["name"] == "head"]
    assert chosen["value"] == [{"head": 3, "layer": 2}]
    assert chosen["views"] == ["map_0", "map_1"]


def matrices(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The colour channels of the two layer × head maps."""
    return [one["layer"][0]["encoding"]["color"] for one in spec["vconcat"][0]["hconcat"]]


def test_head_maps_are_stretched_over_the_whole_matrix_only_when_asked() -> None:
    ds = traced_dataset("m", 2, 2, samples=6).copy(deep=True)
    ds["image_weight"][:] = np.array([[0.2, 0.3], [0.6, 0.4]])[None, :, :, None, None]  # over the matrix, not by layer
    ds["region_weight"][:] = 0.1  # all alike
    plain, spec = (display.spec_of(charts.head_map(ds, normalise=way)) for way in (False, True))
    records = {one["name"]: one for one in spec["datasets"][spec["data"]["name"]]}
    told = {name: (one["image_weight"], one["image_weight_normalised"]) for name, one in records.items()}
    assert told == {"L0H0": (0.2, 0.0), "L0H1": (0.3, 0.25), "L1H0": (0.6, 1.0), "L1H1": (0.4, 0.5)}
    assert {one["region_weight_normalised"] for one in records.values()} == {0.0}
    (stretched, _), (measured, _) = matrices(spec), matrices(plain)
    assert stretched["field"] == "image_weight_normalised" and stretched["scale"]["domain"] == [0, 1]
    assert stretched["legend"]["title"][1] == "min–max normalised over all heads"
    assert measured["field"] == "image_weight" and "domain" not in measured["scale"]
    assert "min–max normalised" in spec["description"] and "normalised" not in json.dumps(plain, ensure_ascii=False)
    width = re.search(r'<svg[^>]* width="([\d.]+)"', vlc.vegalite_to_svg(spec, vl_version=display.VEGA_LITE))
    assert width is not None and float(width[1]) <= WIDEST


def test_without_boxes_there_is_no_region_map() -> None:
    spec = display.spec_of(charts.head_map(traced_dataset(samples=6, boxes=False)))
    assert "region_weight" not in json.dumps(spec)


def test_head_table_is_the_mean_of_the_samples(ds: xr.Dataset) -> None:
    table = head_tables.head_table(ds, ["image_weight"], "last_prompt").set_index("name")
    values = ds["image_weight"].sel(query="last_prompt", layer=1, head=4).values
    assert table.loc["L1H4", "image_weight"] == pytest.approx(values.mean(), rel=1e-6)


def test_histogram_counts_every_finite_sample_once(ds: xr.Dataset) -> None:
    gappy = ds.copy(deep=True)
    gappy["region_weight"].loc[{"sample": gappy["sample"].values[:7]}] = np.nan
    counts, width = head_tables.histograms(gappy, "region_weight", bins=5)
    assert counts.shape == (4, 5, 5)
    assert (counts.sum(axis=-1) == 41).all()
    assert width * 5 == pytest.approx(float(gappy["region_weight"].sel(query="last_prompt").max()))


def test_mean_map_weighs_conditions_by_their_samples(ds: xr.Dataset) -> None:
    two = ds.isel(map_condition=[0, 1])
    uneven = two.copy(deep=True)
    uneven["mean_map"][{"map_condition": 0}] = 0.1
    uneven["mean_map"][{"map_condition": 1}] = 0.4
    uneven["mean_map_count"][:] = [[10, 20]]
    found = head_tables.mean_maps(uneven)
    assert found is not None
    np.testing.assert_allclose(found, 0.3, rtol=1e-6)


def test_mean_map_leaves_controls_out(ds: xr.Dataset) -> None:
    one = ds.isel(map_condition=[0, 1]).copy(deep=True).assign_coords(map_control=("map_condition", ["none", "white"]))
    one["mean_map"][{"map_condition": 0}] = 0.1
    one["mean_map"][{"map_condition": 1}] = 0.4
    np.testing.assert_allclose(head_tables.mean_maps(one), 0.1, rtol=1e-6)


def test_fine_grids_are_summed_in_blocks() -> None:
    maps = np.ones((1, 1, 24, 24))
    small = head_tables._pooled(maps)
    assert small.shape == (1, 1, 12, 12)
    assert (small == 4).all()
    ragged = head_tables._pooled(np.ones((1, 1, 13, 5)))
    assert ragged.shape == (1, 1, 7, 3)
    assert np.nansum(ragged) == 65


def test_unknown_model_names_the_known() -> None:
    with pytest.raises(ParameterError, match="m"):
        head_tables._view(traced_dataset("m"), model="other")


def test_overlay_refuses_a_map_of_another_grid() -> None:
    picture = Image.new("RGB", (96, 96))
    grid = single_grid_of(96, 8)
    with pytest.raises(ParameterError, match="shape of the map"):
        charts.overlays._overlays(picture, {"L0H0": np.ones((4, 4))}, grid)


def test_overlay_draws_a_cell_per_patch_and_the_box() -> None:
    picture = Image.new("RGB", (96, 96), "teal")
    chart = charts.overlays._overlays(
        picture, {"L0H0": np.linspace(0, 1, 64).reshape(8, 8)}, single_grid_of(96, 8), (10, 20, 30, 40)
    )
    text = json.dumps(display.spec_of(chart))
    assert text.count('"share": ') >= 64
    assert "data:image/png;base64," in text and "asked object" in text


def single_grid_of(side: int, cells: int):
    """A token map of a square picture."""
    from visualheads.models.token_map import stretched

    return single_grid(stretched((side, side), (side, side)), (cells, cells))


def test_training_curves_have_a_line_per_figure() -> None:
    curve = [
        {"step": 1, "seconds": 3.0, "loss": 2.0, "object": 0.2},
        {"step": 9, "seconds": 9.0, "loss": 1.0, "object": 0.8},
    ]
    stage = {"curve": curve, "steps": 9, "batch": 4, "seconds": 60.0}
    table = curve_table({"tower": stage})
    assert set(table["figure"]) == {"loss", "object"}
    records = {name: {"text_model": "t", "stages": {"tower": stage, "t": stage}} for name in ("a", "b")}
    drawn = json.dumps(display.spec_of(charts.training_curves(records)))
    assert "share right" in drawn and '"options": ["a", "b"]' in drawn and "language model" in drawn
    assert "No miniature" in display.spec_of(charts.training_curves({}))["description"]


def test_cost_table_says_when_eager_did_not_fit() -> None:
    columns = {"tokens": 600, "runs": 1}
    table = pd.DataFrame(
        [
            {
                "method": "plain",
                "cpu_seconds": 1.0,
                "cpu_ratio": 1.0,
                "memory_mb": 30.0,
                "memory_above_mb": 0.0,
                **columns,
            },
            {
                "method": "trace",
                "cpu_seconds": 1.1,
                "cpu_ratio": 1.1,
                "memory_mb": 60.0,
                "memory_above_mb": 30.0,
                **columns,
            },
            {
                "method": "eager",
                "cpu_seconds": np.nan,
                "cpu_ratio": np.nan,
                "memory_mb": np.nan,
                "memory_above_mb": np.nan,
                **columns,
            },
        ]
    ).set_index("method")
    assert display.spec_of(charts.cost_bars([table]))


def test_numbers_are_rounded_and_gaps_are_null() -> None:
    assert display.plain([0.123456, float("nan"), np.float32(2), np.int64(3)]) == [0.1235, None, 2.0, 3]


@pytest.mark.parametrize(("values", "low"), [([0.97, 0.73], 0.7), ([0.5, -0.21], -0.3), ([1.0], 0.9), ([np.nan], 0.0)])
def test_matrices_begin_at_the_tenth_below_what_they_hold(values: list[float], low: float) -> None:
    assert palest(pd.Series(values)) == pytest.approx(low)


def test_a_chart_without_words_is_refused() -> None:
    with pytest.raises(ParameterError, match="alt_text"):
        display.show(alt.Chart(display.rows([{"a": 1}])).mark_point())


def test_what_intervals_are_held_against_lies_on_their_axis() -> None:
    table = pd.DataFrame({"pair": ["a", "b"], "estimate": [0.2, 0.3], "lower": [0.1, 0.2], "upper": [0.3, 0.4]})
    chart = charts.intervals(table.assign(ceiling=[0.9, np.nan]), "pair", "w", title="t", rule="ceiling")
    [panel] = display.spec_of(chart)["hconcat"]
    assert panel["layer"][0]["encoding"]["x"]["scale"]["domain"] == [0.1, 0.9]


def test_other_choices_stand_beside_what_decides() -> None:
    verdicts = pd.DataFrame(
        {
            "by_interval": ["supported", "undecided"],
            "short": ["one", "two"],
            "estimate": 0.3,
            "lower": 0.2,
            "upper": 0.4,
        },
        index=pd.Index([1, 2], name="number"),
    )
    other = {"number": 2, "choice": "row", "option": "first_generated", "verdict": "supported", "same": False}
    spec = display.spec_of(
        charts.robustness(pd.DataFrame([{**other, **dict.fromkeys(("estimate", "lower", "upper"), 0)}]), verdicts)
    )
    [drawn] = spec["datasets"].values()
    assert [(row["claim"], row["label"], row["verdict"]) for row in drawn] == [
        ("2. two", "as judged", "undecided"), ("2. two", "row: first generated", "supported"),
    ]  # fmt: skip
