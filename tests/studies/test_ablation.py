"""Whole and looking effects of single heads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr
from PIL import Image

from helpers.networks import samples, wrapped
from visualheads.heads.ranking import rank
from visualheads.interventions import ablate, mean_reference
from visualheads.studies.ablation import head_effects

ONE = {"max_new_tokens": 1, "progress": False}


def test_both_effects_are_those_of_ablating_each_head_alone(tmp_path: Path) -> None:
    model, asked = wrapped("llava"), samples(3)
    reference = mean_reference(model, asked[1:])
    found = head_effects(model, asked[:2], reference, tmp_path)
    removed = ablate(model, asked[:2], [(1, 2)], "mean", reference=reference, **ONE)
    blind = ablate(model, asked[:2], [(1, 2)], "edge_knockout", **ONE)
    for name, changed in (("whole", removed), ("looking", blind)):
        lost = (changed["clean_margin"] - changed["margin"]).values[0]
        np.testing.assert_allclose(found[f"{name}_margin"].values[0, 1, 2], lost, atol=1e-4)
        np.testing.assert_allclose(found[f"{name}_kl"].values[0, 1, 2], changed["kl"].values[0], atol=1e-5)
    assert rank(found, "looking_margin").shape == (1, *model.shape[:2])
    xr.testing.assert_allclose(head_effects(model, asked[:2], reference, tmp_path), found)


def test_heads_that_no_picture_moves_have_no_divergence() -> None:
    model, (one,) = wrapped("llava"), samples(1)
    white = replace(one, id="white", image=Image.new("RGB", one.open().size, "white"))
    found = head_effects(model, [one, white], [one])
    assert (found["vhd"].sel(sample=one.id) > 0).any() and float(abs(found["vhd"].sel(sample="white")).max()) < 1e-6
