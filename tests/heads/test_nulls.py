"""What an untrained network makes of a null, and the heads beyond it."""

from __future__ import annotations

import pytest
import xarray as xr

from helpers.networks import samples, wrapped
from visualheads.heads.nulls import above_null
from visualheads.models.loading import untrained
from visualheads.tracing.trace import trace

DRAWS = 20


@pytest.fixture(scope="module")
def networks() -> xr.Dataset:
    """Untrained networks of one shape on the same prompts (draw, model, layer, head, sample)."""
    model, asked = wrapped("llava"), samples(2)
    settings = {"query": "last_prompt", "max_new_tokens": 1, "progress": False}
    drawn = [trace(untrained(model, seed), asked, **settings)[["image_log_odds_no_sink"]] for seed in range(DRAWS + 1)]
    traced = [ds.assign_coords(model=["m"]) for ds in drawn]
    return xr.concat(traced, "draw", coords="minimal", compat="override")


def test_about_one_untrained_head_in_twenty_passes(networks):
    found = above_null(networks.isel(draw=0), untrained=networks.isel(draw=slice(1, None)))
    assert found["untrained_draws"].item() == DRAWS
    assert 0 < found["untrained_pass_rate"].item() < 0.11, "5 % of 120 heads, and three deviations"
    assert not found["above_null"].any(), "one more untrained network has no visual head"


def test_a_head_beyond_all_untrained_ones_is_above_them(networks):
    drawn = networks.isel(draw=slice(1, None))
    ds = networks.isel(draw=0).copy(deep=True)
    limit = float(drawn["image_log_odds_no_sink"].max())
    ds["image_log_odds_no_sink"][0, :, :2] = limit + 1
    found = above_null(ds, untrained=drawn)
    assert found["above_null"].values[0, :, :2].all() and int(found["above_null"].sum()) == 6
    assert found["p_untrained"].min().item() == pytest.approx(1 / 121)
    excess = limit + 1 - found["untrained_limit"].item()
    assert found["excess"].values[0, 0, 0] == pytest.approx(excess, abs=1e-5)
