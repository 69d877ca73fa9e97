"""The page of a joined model is shown from what is shipped, without base weights."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.project import ROOT
from visualheads.cards import DATA_VARIABLE
from visualheads.errors import StoreError
from visualheads.explorer.page import read_look
from visualheads.models.smol.base_weights import weights_identity
from visualheads.studies.stored_model import StoredModel


def test_shipped_stores_hold_all_that_a_page_shows(monkeypatch):
    monkeypatch.setattr("visualheads.studies.shipped.full_folder", lambda: ROOT / "data" / "full")
    model = StoredModel("smol-1.5")
    assert set(model.traces["format"].values) == {"free", "letters"}
    assert set(model.white["control"].values) == {"white"}
    sample, one = model.look()
    grid = model.token_map(sample.open().size).grid_shape
    assert one["maps"].isel(model=0, sample=0, selected_head=0).squeeze().shape == grid
    assert np.isfinite(model.traces["mean_map"].sel(query="last_prompt")).all()
    assert model.removed().sweeps and model.effects is not None


@pytest.mark.parametrize("name", ["smol-1.5", "smol-frozen"])
def test_shipped_looks_are_of_the_shipped_weights(name):
    data = ROOT / "data" / "smol"
    now = weights_identity(data / f"{name}.safetensors")
    looks = sorted((data / "looks" / name).iterdir())
    assert looks and all(now.startswith(read_look(path)["provenance"]["weights"]) for path in looks)


def test_without_them_the_commands_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    with pytest.raises(StoreError, match=r"visualheads full smol-1\.5"):
        StoredModel("smol-1.5")
