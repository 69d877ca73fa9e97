"""The one selector: by model and labels, controls left out, unknown names refused."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from helpers.model_datasets import several
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
    wide = ds.reindex(layer=np.arange(ds.sizes["layer"] + 2), head=np.arange(ds.sizes["head"] + 1))
    name = str(ds["model"].values[0])
    assert subset(wide, model=name).sizes["layer"] == ds.sizes["layer"] + 2
    trimmed = subset(wide, model=name, trim=True).sizes
    assert (trimmed["layer"], trimmed["head"]) == (ds.sizes["layer"], ds.sizes["head"])


def test_unknown_names_tell_the_known(ds: xr.Dataset) -> None:
    with pytest.raises(ParameterError, match="looktwice"):
        subset(ds, task="looktwise")
    with pytest.raises(ParameterError, match=r"mini-1\.5-7B"):
        subset(ds, model="other")
    with pytest.raises(ParameterError, match="name one"):
        only_model(ds)
    assert only_model(ds, "any") == "any"
