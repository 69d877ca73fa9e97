"""Steering between the objects of a picture, strengths of a bias, and boxes from the maps of a few heads."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from helpers.networks import samples, wrapped
from visualheads.analysis import steering as grounding
from visualheads.errors import HeadError, ParameterError, SampleError
from visualheads.interventions import ablate, steer
from visualheads.studies import steering
from visualheads.studies.steering import ground

QUIET = {"progress": False, "max_new_tokens": 2}
BOX = (14.0, 24.0, 26.0, 40.0)


def scene(index: int = 0, **fields) -> list:
    boxes = {"car": [(15, 20, 20, 30)], "dog": [(10, 30, 20, 40), (14, 40, 20, 45)]}
    return samples(2, boxes=boxes, **fields)


def test_every_object_a_question_could_mean_is_a_candidate():
    found = steering.candidates(scene())
    assert [(one.id, one.answer, one.box) for one in found[:2]] == [
        ("s0→car", "1", (15, 20, 20, 30)),
        ("s0→dog", "2", (10, 30, 20, 40)),
    ]
    for useless in (samples(2), samples(2, boxes={"car": [BOX]}), samples(1, boxes={"car": [BOX], "dog": [BOX]})):
        with pytest.raises(SampleError, match="two kinds"):
            steering.candidates(useless)


def test_steering_to_candidates_is_steering_to_their_boxes():
    model = wrapped("llava")
    sets = {"one": [(2, 1)], "all": [(layer, head) for layer in range(3) for head in range(4)]}
    asked = steering.candidates(scene())
    boxes = [one.box for one in asked]
    found = steering.bias_curve(model, asked, sets, [3.0], "steer", box=boxes, **QUIET).isel(bias=0)
    assert found["mode"].item() == "steer"
    alone = steer(model, asked, sets["all"], boxes, 3.0, **QUIET)
    np.testing.assert_allclose(found.kl.sel(set="all"), alone.kl, atol=1e-5)


def test_strengths_are_a_dimension():
    model, asked, sets = wrapped("llava"), samples(2), {"a": [(0, 0)], "b": [(2, 3)]}
    found = steering.bias_curve(model, asked, sets, [-2, 0, 2], "boost", **QUIET)
    assert found.margin.dims == ("model", "bias", "set", "sample")
    assert found.clean_margin.dims == ("model", "sample")
    clean = np.broadcast_to(found.clean_margin.values[:, None], (1, 2, 2))
    np.testing.assert_allclose(found.margin.sel(bias=0), clean, atol=1e-5)
    expected = ablate(model, asked, [(2, 3)], "boost", bias=2.0, **QUIET)
    np.testing.assert_allclose(found.margin.sel(bias=2, set="b"), expected.margin, atol=1e-5)


def test_grounding_compares_boxes_with_the_asked_one():
    model, asked = wrapped("llava"), samples(3, box=BOX)
    scores = xr.DataArray(np.arange(12.0).reshape(1, 3, 4), dims=("model", "layer", "head"))
    found = ground(model, asked, {"scores": scores}, 3, ["threshold"], max_new_tokens=1, progress=False)
    found = found.isel(ranking=0, rule=0)
    assert found.iou.dims == found.hit.dims == ("model", "heads_used", "sample")
    assert found.selected_layer.values.tolist() == [2, 2, 2]
    assert found.selected_head.values.tolist() == [3, 2, 1]
    for index, sample in enumerate(asked):
        for used in range(3):
            assert float(found.iou[0, used, index]) == pytest.approx(
                grounding.iou(tuple(found.box.values[0, used, index]), sample.box), abs=1e-5
            )
    assert ((found.chance > 0) & (found.chance < 1)).all()
    with pytest.raises(SampleError, match="box"):
        ground(model, samples(1, box=None), {"scores": scores})
    with pytest.raises(HeadError, match="finite"):
        ground(model, asked, {"scores": scores * np.nan})
    with pytest.raises(ParameterError, match="most"):
        ground(model, asked, {"scores": scores}, most=0)
