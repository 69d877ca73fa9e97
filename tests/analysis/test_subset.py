"""The one selector: by model and labels, controls left out, unknown names refused."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from helpers.model_datasets import model_dataset, several
from visualheads.analysis.subset import only_model, subset, tasks_of
from visualheads.errors import ParameterError


@pytest.fixture(scope="module")
def ds() -> xr.Dataset:
    return several(pictures=4)


def test_a_model_keeps_its_dimension_and_only_what_it_saw(ds: xr.Dataset) -> None:
    unseen = ds.copy(deep=True)
    unseen["n_image_tokens"] = unseen["n_image_tokens"].astype(float)
    unseen["n_image_tokens"][{"model": 0, "sample": 0}] = np.nan
    name = str(ds["model"].values[0])
    assert subset(unseen, model=name).sizes["sample"] == ds.sizes["sample"] - 1
    assert subset(unseen, model=name).sizes["model"] == 1
    assert subset(unseen, task=tasks_of(ds)[0]).sizes["model"] == ds.sizes["model"]


def test_controls_are_left_out(ds: xr.Dataset) -> None:
    control = np.array([""] * ds.sizes["sample"], dtype=object)
    control[:2] = "white"
    assert subset(ds.assign_coords(control=("sample", control))).sizes["sample"] == ds.sizes["sample"] - 2


def test_a_trimmed_model_has_its_own_layers_and_heads(ds: xr.Dataset) -> None:
    one = model_dataset()
    name, shape = str(one["model"].values[0]), (one.sizes["layer"], one.sizes["head"])
    assert (ds.sizes["layer"], ds.sizes["head"]) > shape
    assert (subset(ds, model=name).sizes["layer"], subset(ds, model=name).sizes["head"]) > shape
    trimmed = subset(ds, model=name, trim=True).sizes
    assert (trimmed["layer"], trimmed["head"]) == shape


def test_unknown_names_tell_the_known(ds: xr.Dataset) -> None:
    with pytest.raises(ParameterError, match="looktwice"):
        subset(ds, task="looktwise")
    with pytest.raises(ParameterError, match=r"mini-1\.5-7B"):
        subset(ds, model="other")
    with pytest.raises(ParameterError, match="name one"):
        only_model(ds)
    assert only_model(ds, "any") == "any"
