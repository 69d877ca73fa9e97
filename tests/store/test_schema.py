"""The schema holds what it says, and every broken promise is told."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from helpers.datasets import samples_of, traced_dataset
from visualheads.errors import ParameterError, SchemaError
from visualheads.store import schema
from visualheads.store.variables import HEAD_DIMS, STAGES, VARIABLES


def changed(name: str, value: object, **where: object) -> Callable[[xr.Dataset], xr.Dataset]:
    """A function that puts `value` into some entries of a variable."""

    def change(ds: xr.Dataset) -> xr.Dataset:
        ds = ds.copy(deep=True)
        ds[name][where] = value
        return ds

    return change


def relabelled(**coords: object) -> Callable[[xr.Dataset], xr.Dataset]:
    return lambda ds: ds.assign_coords(coords)


def text(*values: str) -> np.ndarray:
    return np.array(values, dtype=object)


SOME = {"layer": 1, "head": 2, "sample": 1, "query": 0}
VIOLATIONS: dict[str, tuple[Callable[[xr.Dataset], xr.Dataset], str]] = {
    "no model dimension": (lambda ds: ds.isel(model=0), "dimension 'model' is missing"),
    "no layers": (lambda ds: ds.isel(layer=0, drop=True), "dimension 'layer' is missing"),
    "no samples": (lambda ds: ds.isel(sample=[]), "dimension 'sample' is empty"),
    "nothing known": (lambda ds: ds.drop_vars(list(ds.data_vars)), "none of the known variables"),
    "no task": (lambda ds: ds.drop_vars("task"), "coordinate 'task'"),
    "no provenance": (lambda ds: ds.drop_vars("provenance"), "coordinate 'provenance'"),
    "no layer numbers": (lambda ds: ds.drop_vars("layer"), "coordinate 'layer'"),
    "answer along model": (lambda ds: ds.assign_coords(answer=("model", text("yes"))), "coordinate 'answer' has dims"),
    "no map labels": (lambda ds: ds.drop_vars("map_condition"), "'map_condition'"),
    "twice the same sample": (
        lambda ds: ds.assign_coords(sample=text("a", "a", *ds.sample.values[2:])),
        "sample has values that are not unique: a",
    ),
    "empty model name": (relabelled(model=text("")), "model has an empty label"),
    "strange format": (lambda ds: ds.assign_coords(format=("sample", text(*["prose"] * 12))), "format has ['prose']"),
    "strange stage": (
        lambda ds: ds.assign_coords(depth_stage=(("model", "layer"), text(*["deep"] * 4)[None])),
        "depth_stage has ['deep']",
    ),
    "depth beyond the last layer": (changed("depth", 1.5, layer=3), "depth runs from 0 to 1.5"),
    "answers as numbers": (
        lambda ds: ds.assign_coords(answer=("sample", np.arange(12))),
        "coordinate 'answer' has values that are not text",
    ),
    "provenance as prose": (relabelled(provenance=("model", text("on my laptop"))), "is not JSON: 'on my laptop'"),
    "provenance without identity": (
        relabelled(provenance=("model", text('{"circumstance": {}}'))),
        "provenance of m has no 'identity'",
    ),
    "provenance without circumstance": (
        relabelled(provenance=("model", text('{"identity": {}}'))),
        "provenance of m has no 'circumstance'",
    ),
    "order of dims": (lambda ds: ds.transpose("head", "layer", ...), "image_weight has dims"),
    "numbers as text": (lambda ds: ds.assign(correct=ds.correct.astype(str).astype(object)), "correct has dtype"),
    "no units": (lambda ds: ds.drop_attrs(), "image_weight has no attribute 'units'"),
    "wrong range": (
        lambda ds: ds.assign(image_weight=ds.image_weight.assign_attrs(range=[0, 2])),
        "image_weight has range [0, 2], expected '0 to 1'",
    ),
    "weight above 1": (changed("image_weight", 1.2, **SOME), "image_weight lies outside (0.0, 1.0) (1.2)"),
    "weight below 0": (changed("newline_weight", -0.1, **SOME), "newline_weight lies outside"),
    "concentration above 1": (changed("concentration", 1.5, **SOME), "concentration lies outside"),
    "negative focus": (changed("focus_nats", -1.0, **SOME), "focus_nats lies outside"),
    "less than one patch": (changed("effective_patches", 0.5, **SOME), "effective_patches lies outside"),
    "infinite odds": (changed("image_log_odds", np.inf, **SOME), "image_log_odds is infinite"),
    "half right": (changed("correct", 0.5, sample=2), "correct is neither 0, 1 nor NaN"),
    "half hit": (changed("top_patch_hit", 0.5, **SOME), "top_patch_hit is neither 0, 1 nor NaN"),
    "no image tokens": (changed("n_image_tokens", 0, sample=2), "n_image_tokens lies outside"),
    "region above image": (changed("region_weight", 1.0, **SOME), "region_weight is more than image_weight"),
    "newlines above image": (changed("newline_weight", 1.0, **SOME), "newline_weight is more than image_weight"),
    "more patches than tokens": (changed("effective_patches", 65.0, **SOME), "more than n_image_tokens"),
    "focus lost": (changed("focus_nats", np.nan, **SOME), "focus_nats is NaN where concentration is not"),
    "region without a box": (changed("region_weight", 0.0, **SOME | {"sample": 0}), "region_weight has values for sam"),
    "hit without a box": (changed("top_patch_hit", 1.0, **SOME | {"sample": 0}), "top_patch_hit has values for"),
    "region lost": (changed("region_weight", np.nan, **SOME), "region_weight is NaN for samples with a box"),
    "region of a sample lost": (changed("region_weight", np.nan, sample=1), "region_weight is NaN for samples with"),
    "lift lost": (changed("region_lift", np.nan, **SOME), "region_lift is NaN for samples with a box"),
    "map above 1": (
        changed("mean_map", 0.5, layer=0, head=0, query=0, map_condition=0),
        "mean_map sums to more than 1",
    ),
}


@pytest.fixture
def dataset() -> xr.Dataset:
    return traced_dataset(boxes="some", maps=True)


@pytest.mark.parametrize("boxes", [True, False, "some"])
@pytest.mark.parametrize("queries", [("first_generated", "last_prompt"), None])
def test_synthetic_datasets_are_valid(boxes: bool | str, queries: tuple[str, ...] | None) -> None:
    schema.assert_valid(traced_dataset(boxes=boxes, queries=queries, maps=True))


@pytest.mark.parametrize("fault", VIOLATIONS)
def test_every_violation_is_told(dataset: xr.Dataset, fault: str) -> None:
    change, message = VIOLATIONS[fault]
    with pytest.raises(SchemaError) as error:
        schema.assert_valid(change(dataset))
    assert any(message in violation for violation in error.value.violations), error.value


def test_all_violations_come_in_one_error(dataset: xr.Dataset) -> None:
    for fault in ("weight below 0", "provenance as prose", "half right", "no task"):
        dataset = VIOLATIONS[fault][0](dataset)
    with pytest.raises(SchemaError) as error:
        schema.assert_valid(dataset)
    assert len(error.value.violations) == 4


def test_the_message_names_the_place(dataset: xr.Dataset) -> None:
    bad = changed("image_weight", 2.0, **SOME)(dataset)
    found = next(v for v in schema.violations(bad) if v.startswith("image_weight"))
    assert "1 of 384 values, first at model m, layer 1, head 2, sample looktwice-1-plain-general-free-none" in found


def test_a_box_that_is_cropped_away_is_no_violation(dataset: xr.Dataset) -> None:
    for name in ("region_weight", "region_lift", "top_patch_hit"):
        dataset = changed(name, np.nan, sample=1)(dataset)
    schema.assert_valid(dataset)


def test_a_box_that_a_layer_does_not_see_is_no_violation(dataset: xr.Dataset) -> None:
    """Sliding windows: the region is NaN for all heads of that layer."""
    for name in ("region_weight", "region_lift", "top_patch_hit"):
        dataset = changed(name, np.nan, sample=1, layer=2, query=0)(dataset)
    schema.assert_valid(dataset)


def test_attention_rows_sum_to_one() -> None:
    ds = traced_dataset(samples=2, layers=1, heads=1, queries=None)
    rows = np.array([[0.25, 0.75, np.nan], [0.5, 0.25, 0.25]], dtype="float32")
    ds = schema.describe(ds.assign(attention=((*HEAD_DIMS[:4], "key"), rows[None, None, None])))
    schema.assert_valid(ds)
    with pytest.raises(SchemaError, match="attention rows do not sum to 1"):
        schema.assert_valid(changed("attention", 0.5, sample=0, key=0)(ds))


def test_unknown_variables_are_left_alone(dataset: xr.Dataset) -> None:
    schema.assert_valid(dataset.assign(mine=("sample", np.full(12, 99.0))))


def test_unmeasured_samples_are_valid(dataset: xr.Dataset) -> None:
    for name in dataset.data_vars:
        if "sample" in dataset[name].dims:
            dataset = changed(str(name), VARIABLES[str(name)].missing, sample=3)(dataset)
    schema.assert_valid(dataset)


def test_describe_attaches_words_and_leaves_its_input(dataset: xr.Dataset) -> None:
    bare = dataset.drop_attrs()
    described = schema.describe(bare)
    assert described["image_weight"].attrs == {
        "long_name": "attention on all image tokens",
        "units": "share of attention",
        "range": "0 to 1",
    }
    assert described["focus_nats"].attrs["range"] == "0 or more"
    assert "range" not in described["margin"].attrs
    assert described["layer"].attrs["long_name"]
    assert not bare["image_weight"].attrs


@pytest.mark.parametrize(("layers", "early", "middle"), [(32, 10, 10), (40, 13, 14), (9, 3, 3), (8, 3, 2), (1, 0, 1)])
def test_stages(layers: int, early: int, middle: int) -> None:
    """32 and 40 layers as in the authors' code, thirds otherwise."""
    stages, _ = schema.depth_stages(layers)
    expected = ["early"] * early + ["middle"] * middle + ["late"] * (layers - early - middle)
    assert stages.tolist() == expected


@given(st.integers(1, 200))
def test_stages_come_in_order_and_depth_spans_0_to_1(layers: int) -> None:
    stages, depth = schema.depth_stages(layers)
    rank = [STAGES.index(stage) for stage in stages]
    assert rank == sorted(rank)
    assert depth[0] == 0 and depth[-1] == (1 if layers > 1 else 0)
    assert (np.diff(depth) > 0).all()


def test_no_layers_are_refused() -> None:
    with pytest.raises(ParameterError, match="layers: got 0"):
        schema.depth_stages(0)


def test_coordinates_tell_which_samples_have_a_box() -> None:
    coords = schema.coordinates("m", samples_of(6, boxes="some"), 2, 2)
    assert coords["has_box"].values.tolist() == [False, True, True, False, True, True]


def test_provenance_is_json_in_a_fixed_order() -> None:
    text = schema.provenance({"b": 1, "a": "x"}, {})
    assert text == '{"circumstance": {}, "identity": {"a": "x", "b": 1}}'
    assert json.loads(text)["identity"] == {"a": "x", "b": 1}
