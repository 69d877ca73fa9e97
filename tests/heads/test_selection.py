"""The best heads as a table, and what rankings are called."""

from __future__ import annotations

import numpy as np
import pytest

import visualheads as vh
from helpers.datasets import traced_dataset
from visualheads.errors import HeadError, ParameterError
from visualheads.heads.selection import _marked


def test_the_best_heads_are_listed_with_labels_and_intervals() -> None:
    ds = traced_dataset()
    table = vh.top(ds, by="image_weight", n=3)
    scores = vh.rank(ds, by="image_weight", interval=True)
    assert list(table.columns) == ["model", "layer", "head", "score", "low", "high"]
    best = scores.sel(bound="estimate").isel(model=0)
    layer, head = np.unravel_index(best.values.argmax(), best.shape)
    assert table.index[0] == f"L{layer}H{head}"
    assert table["score"].tolist() == sorted(best.values.ravel().tolist(), reverse=True)[:3]
    assert ((table["low"] <= table["score"]) & (table["score"] <= table["high"])).all()
    for wrong in ({"n": 0}, {"n": 2.5}, {"model": "other"}, {"by": "nothing"}):
        with pytest.raises(ParameterError):
            vh.top(ds, **wrong)


@pytest.mark.parametrize("by", ["detection", "image_weight", "gaze", "localization", "weight_concentration"])
def test_rankings_carry_their_own_name_and_unit(by: str) -> None:
    ds = traced_dataset(boxes=True)
    told = [vh.rank(ds, by=by, interval=interval).attrs for interval in (False, True)]
    assert told[0] == told[1] and told[0]["long_name"] and told[0]["units"]
    assert told[0]["long_name"] != ds["image_weight"].attrs["long_name"]


def test_scores_are_not_taken_for_marks() -> None:
    from types import SimpleNamespace

    ds = traced_dataset()
    model = SimpleNamespace(name="m", shape=SimpleNamespace(layers=4, heads=4))
    with pytest.raises(HeadError, match=r"vh\.select"):
        _marked(vh.rank(ds, by="image_weight"), model)  # type: ignore[arg-type]
    assert _marked(vh.select(ds, k=3).astype(float), model) == _marked(vh.select(ds, k=3), model)  # type: ignore[arg-type]
