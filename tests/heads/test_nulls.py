"""What an untrained network makes of a null, and whether heads go for what is asked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from helpers.networks import samples, wrapped
from visualheads.analysis.steering import unasked
from visualheads.heads.nulls import above_null, looking
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


def region_lifts(values: np.ndarray, **coords: list[str]) -> xr.Dataset:
    """A model of 1 × 2 heads with these lifts (head, sample)."""
    labels = {name: ("sample", np.array(texts, dtype=object)) for name, texts in coords.items()}
    data = {"region_lift": (("model", "layer", "head", "sample"), np.asarray(values, float)[None, None])}
    return xr.Dataset(data, {"model": ["m"], "layer": [0], "head": [0, 1], **labels})


def test_a_head_that_goes_for_every_object_does_not_look():
    rng = np.random.default_rng(0)
    noise = rng.normal(scale=0.1, size=(2, 30))
    prompts = [f"q{index}" for index in range(30)]
    ds = region_lifts(3 + noise, sample=prompts, question_id=prompts, image_id=prompts)
    others = np.stack([np.full(60, 1.0), np.full(60, 3.0)])  # the first head leaves the others, the second does not
    ids = [f"{prompt} {other}" for prompt in prompts for other in "ab"]
    twice = [prompt for prompt in prompts for _ in "ab"]
    found = looking(ds, region_lifts(others, sample=ids, question_id=twice, image_id=twice))
    assert found.sel(bound="estimate").values.ravel() == pytest.approx([2, 0], abs=0.1)
    assert found.sel(bound="lower").values[0, 0, 0] > 1.8 and found.sel(bound="lower").values[0, 0, 1] < 0.05


def test_unasked_objects_are_those_that_the_box_does_not_mark():
    car, dog = (14, 24, 20, 30), (18, 30, 26, 40)
    asked = replace(samples(1)[0], box=car, boxes={"car": [car], "dog": [dog], "bus": []})
    (other,) = unasked([asked])
    assert other.box == dog and other.question_id and unasked([replace(asked, box=None)]) == []
    model = wrapped("llava")
    traced = [trace(model, [one], max_new_tokens=1, progress=False) for one in (asked, other)]
    found = looking(*[ds.assign_coords(question_id=("sample", [asked.question_id or asked.id])) for ds in traced])
    assert np.isfinite(found.sel(bound="estimate")).all()
