"""Tables over the three moments: planted heads are found, and unrelated rankings are not called alike."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from visualheads.analysis.three_moments import agreement_table, before_they_saw, behaviour_table, chosen_heads

LAYERS, HEADS, SAMPLES = 6, 5, 40
DIMS = ("model", "layer", "head", "sample")


@pytest.fixture(scope="module")
def traced() -> xr.Dataset:
    """Heads that look at asked objects are the same in “before” and “after”, and others in “elsewhere”."""
    rng = np.random.default_rng(0)
    planted = rng.normal(0, 1, (2, LAYERS, HEADS))
    scores = np.stack([planted[0], planted[0], planted[1]])
    asked = scores[..., None] + rng.normal(0, 0.3, (3, LAYERS, HEADS, SAMPLES))
    data = {
        "content_weight": (DIMS, asked),
        "asked_weight": (DIMS, asked),
        "asked_lift": (DIMS, asked + 1),
        "unasked_lift": (DIMS, np.ones_like(asked)),
        "induction": (DIMS[:3], np.abs(scores)),
    }
    names = np.array(["before", "after", "elsewhere"], dtype=object)
    ids = np.array([f"picture {index}" for index in range(SAMPLES)], dtype=object)
    return xr.Dataset(data, {"model": names, "image_id": ("sample", ids)})


def test_rankings_that_are_alike_agree_up_to_their_ceiling(traced):
    table = agreement_table(traced, share=0.2, n_boot=50).set_index(["score", "moment", "other"])
    alike = table.loc["looking", "before", "after"]
    assert alike.rho > 0.9 and alike.rho_lower <= alike.rho <= alike.rho_upper + 1e-9 and alike.ceiling > 0.9
    assert alike.overlap > 3 * alike.chance
    other = table.loc["looking", "before", "elsewhere"]
    assert other.rho_upper < 0.6 and other.overlap < alike.overlap
    assert alike.chance == pytest.approx(0.2)


def test_chosen_heads_are_followed_back(traced):
    table = before_they_saw(traced, "after", share=0.2, n_boot=50).set_index("moment")
    assert table.loc["before", "lower"] > 0 and table.loc["after", "difference"] > 0.5
    assert table.loc["elsewhere", "lower"] < 0.5
    chosen = chosen_heads(traced, "after", share=0.2)
    assert int(chosen.sum()) == 6
    rows = behaviour_table(traced, chosen, ("induction",))
    assert set(rows.moment) == {"before", "after", "elsewhere"}
