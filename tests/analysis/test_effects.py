"""Where over depth the effects of single heads lie."""

from __future__ import annotations

import numpy as np
import xarray as xr

from helpers.planted import HEADS, LAYERS, effects_of
from visualheads.analysis.effects import depth_table


def placed(name: str, layers: list[int]) -> xr.Dataset:
    """Effects of the heads of these layers alone."""
    values = np.isin(np.arange(LAYERS), layers)[:, None] * np.ones(HEADS) - 0.5
    return effects_of(values, noise=0.0).assign_coords(model=[name])


def test_models_of_several_kinds_stand_in_one_table() -> None:
    small = placed("small", [0]).isel(layer=slice(0, 3))
    table = depth_table(small, None, placed("large", [2, 5]))
    shares = table[table["effect"] == "whole"].set_index(["model", "layer"])
    assert shares["share"][lambda s: s > 0].to_dict() == {("small", 0): 1.0, ("large", 2): 0.5, ("large", 5): 0.5}
    assert shares.loc["small", "depth"].tolist() == [0, 0.5, 1] and shares.loc[("large", 5), "depth"] == 1
    assert shares.loc["large", "stage"].tolist() == ["early"] * 2 + ["middle"] * 2 + ["late"] * 2
    assert depth_table(None).empty and set(depth_table().columns) == set(table.columns)
