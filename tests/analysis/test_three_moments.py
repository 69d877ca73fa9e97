"""Tables over the three moments: planted heads are found, and unrelated rankings are not called alike."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from visualheads.analysis.three_moments import (
    agreement_table,
    answer_table,
    before_they_saw,
    behaviour_table,
    chosen_heads,
    knockout_table,
    moment_maps,
    verdict_of,
)

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


def test_a_knockout_of_planted_heads_costs_more_than_of_random_ones(traced):
    rng = np.random.default_rng(1)
    loss = {"looking": 2.0, "random 0": 0.1, "random 1": 0.3, "all": 4.0}
    before = -rng.uniform(0.5, 1.5, (3, SAMPLES))
    knocked = before[:, None] - np.array(list(loss.values()))[None, :, None] + rng.normal(0, 0.1, (3, 4, SAMPLES))
    knocked[2] = np.nan  # a control
    knocked[:, :, ::2] = np.nan  # where the heads were chosen
    ds = traced.assign(
        log_probability=(("model", "sample"), before), knocked_log_probability=(("model", "set", "sample"), knocked)
    ).assign_coords(set=np.array(list(loss), dtype=object))
    table = knockout_table(ds).set_index(["set", "moment"])
    assert table.index.get_level_values("moment").unique().tolist() == ["before", "after"]
    assert table.loc["the heads that look", "before"].estimate == pytest.approx(2.0, abs=0.1)
    assert table.loc["random heads of their layers", "after"].estimate == pytest.approx(0.2, abs=0.1)
    extra = table.loc["looking minus random", "after"]
    assert extra.lower < 1.8 < extra.upper + 0.1 and verdict_of(extra) == "yes"


def test_maps_number_layers_and_heads_and_mark_the_chosen(traced):
    ds = traced.assign(chosen=chosen_heads(traced, "after").drop_attrs().drop_vars("model"))
    table = moment_maps(ds)
    assert len(table) == 3 * LAYERS * HEADS and table["chosen"].sum() == 3 * int(ds.chosen.sum())
    row = table[(table.moment == "after") & (table["layer"] == 4) & (table["head"] == 2)].iloc[0]
    assert row.value == pytest.approx(float((ds.asked_lift - 1).sel(model="after").isel(layer=4, head=2).mean()))


def test_answers_have_intervals(traced):
    right = np.zeros((3, SAMPLES))
    right[1, : SAMPLES // 2] = 1
    told = answer_table(traced.assign(correct=(("model", "sample"), right))).set_index("moment")
    assert told.loc["before"].upper == 0 and told.loc["after"].lower < 0.5 < told.loc["after"].upper
