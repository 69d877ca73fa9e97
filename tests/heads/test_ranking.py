"""Rankings, selections, nulls and agreement on small datasets with planted truth."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from visualheads.errors import HeadError, ParameterError
from visualheads.heads.agreement import (
    agreement,
    spearman,
    spearman_brown,
    split_half,
    top_chance,
    top_k_overlap,
    without_layer_means,
)
from visualheads.heads.bootstrap import (
    bootstrap,
    centred_interval,
    half_weights,
    interval,
    picture_sums,
    picture_weights,
    split_halves,
)
from visualheads.heads.nulls import above_null
from visualheads.heads.ranking import elbow, head_count, rank, rankings, sample_scores, score_sums, top_heads
from visualheads.heads.selection import depth_stage, select, stages

examples = settings(max_examples=25, deadline=None, derandomize=True, database=None)

SEED = 7


def traced(n_layers: int = 4, n_heads: int = 4, n_samples: int = 40, seed: int = 0, **coords: object) -> xr.Dataset:
    """Return a dataset as `trace` gives it: two questions a picture, later heads heavier, noise by picture."""
    rng = np.random.default_rng(seed)
    strength = np.linspace(0.1, 0.9, n_layers * n_heads).reshape(1, n_layers, n_heads, 1)
    noise = np.repeat(rng.normal(size=(1, n_layers, n_heads, -(-n_samples // 2))), 2, axis=3)[..., :n_samples]
    weight = np.clip(strength + 0.05 * noise, 0.01, 0.99)
    dims = ("model", "layer", "head", "sample")
    variables = {
        "image_weight": weight,
        "region_weight": weight * 0.5,
        "concentration": 1 - weight,
        "sink_share": np.full(weight.shape, 0.25),
        "spatial_entropy": 2 * weight,
        "image_log_odds_no_sink": np.log(weight / (1 - weight)),
    }
    index = np.arange(n_samples)
    defaults = {
        "model": ["mini"],
        "layer": np.arange(n_layers),
        "head": np.arange(n_heads),
        "sample": np.array([f"s{i}" for i in index], dtype=object),
        "image_id": ("sample", np.array([f"p{i // 2}" for i in index], dtype=object)),
        "question_id": ("sample", np.array([f"q{i}" for i in index], dtype=object)),
        "condition": ("sample", np.array(["plain-object"] * n_samples, dtype=object)),
    }
    return xr.Dataset({name: (dims, values) for name, values in variables.items()}, {**defaults, **coords})


def hand(values: list[list[float]], name: str = "image_weight", pictures: list[str] | None = None) -> xr.Dataset:
    """Return a dataset of one layer from values[head][sample]."""
    array = np.array(values, dtype=float)[None, None]
    ids = pictures or [f"p{i}" for i in range(array.shape[-1])]
    return xr.Dataset(
        {name: (("model", "layer", "head", "sample"), array)},
        {"model": ["m"], "sample": [f"s{i}" for i in range(len(ids))], "image_id": ("sample", ids)},
    )


# Stages and counts


@pytest.mark.parametrize(
    ("n_layers", "middle", "late"), [(32, 10, 20), (40, 13, 27), (8, 3, 5), (12, 4, 8), (28, 9, 19), (1, 0, 1)]
)
def test_depth_stages(n_layers: int, middle: int, late: int):
    found = depth_stage(n_layers)
    assert found == ["early"] * middle + ["middle"] * (late - middle) + ["late"] * (n_layers - late)


@examples
@given(st.integers(1, 100))
def test_every_layer_has_a_stage_in_order(n_layers: int):
    found = depth_stage(n_layers)
    assert len(found) == n_layers
    assert found == sorted(found, key=["early", "middle", "late"].index)


def test_depth_stage_needs_layers():
    with pytest.raises(ParameterError, match="layers"):
        depth_stage(0)


def test_head_counts():
    assert head_count(1024) == 100
    assert head_count(1600) == 100
    assert head_count(64) == 6  # 9.8 % of 64 = 6.3
    assert head_count(64, 0.05) == 3
    assert head_count(64, 0.001) == 1
    assert head_count(64, 10) == 10


@pytest.mark.parametrize("k", [0, 65, -1, 1.0, 1.5, True, 0.0])
def test_bad_head_counts(k: int | float):
    with pytest.raises(HeadError, match="k: got"):
        head_count(64, k)


# Rankings


def test_mean_rankings_by_hand():
    ds = hand([[0.2, 0.4], [0.8, np.nan], [np.nan, np.nan]])
    assert rank(ds, "image_weight").values.ravel() == pytest.approx([0.3, 0.8, np.nan], nan_ok=True)
    assert rank(ds, "image_weight").dims == ("model", "layer", "head")


def test_weight_concentration_is_the_mean_of_products():
    ds = hand([[0.2, 0.8]])
    ds["concentration"] = ds["image_weight"].copy(data=np.array([[[[1.0, 0.5]]]]))
    assert rank(ds, "weight_concentration").item() == pytest.approx(0.3)  # the product of means would be 0.375


def test_sink_free_by_hand():
    ds = hand([[0.2, 0.8]])
    ds["sink_share"] = ds["image_weight"].copy(data=np.array([[[[0.5, 0.25]]]]))
    assert rank(ds, "sink_free").item() == pytest.approx((0.1 + 0.6) / 2)


def test_detection_by_hand():
    ds = hand([[0.9, 0.1, 0.8], [0.5, 0.9, 0.9], [0.1, 0.5, 0.1]])
    assert rank(ds, "detection", k=1).values.ravel() == pytest.approx([1 / 3, 2 / 3, 0])
    assert rank(ds, "detection", k=2).values.ravel() == pytest.approx([2 / 3, 1, 1 / 3])


@examples
@given(st.integers(0, 1000), st.integers(1, 16))
def test_detection_sums_to_k(seed: int, k: int):
    scores = rank(traced(seed=seed, n_samples=6), "detection", k=k)
    assert float(scores.sum()) == pytest.approx(k)
    assert ((scores >= 0) & (scores <= 1)).all()


@examples
@given(st.permutations(range(16)))
def test_rankings_follow_their_heads(order: list[int]):
    ds = traced(n_layers=1, n_heads=16, n_samples=10)
    permuted = ds.isel(head=order).assign_coords(head=np.arange(16))
    for by in ("image_weight", "detection", "localization"):
        np.testing.assert_allclose(rank(permuted, by).values, rank(ds, by).isel(head=order).values)


def test_localization_by_hand():
    # Elbow: sums 0.1, 0.11, 0.12, 0.5, 0.6 lie farthest below their chord at 0.12, so heads 3 and 4 are eligible.
    assert elbow(np.array([0.1, 0.6, 0.11, 0.5, 0.12])) == pytest.approx(0.12)
    weight = [[0.1] * 3, [0.11] * 3, [0.12] * 3, [0.5] * 3, [0.6] * 3]
    ds = hand(weight)
    entropy = [[0.0] * 3, [0.0] * 3, [0.0] * 3, [1.0, 1.0, 3.0], [2.0, 2.0, 2.0]]
    ds["spatial_entropy"] = ds["image_weight"].copy(data=np.array(entropy)[None, None])
    assert rank(ds, "localization", k=1).values.ravel() == pytest.approx([0, 0, 0, 2 / 3, 1 / 3])
    assert rank(ds, "localization", k=2).values.ravel() == pytest.approx([0, 0, 0, 1, 1])


def test_localization_of_some_pictures_has_their_own_elbow():
    """What halves and draws of pictures rank is what those pictures alone would."""
    ds = traced(4, 4, 40, seed=1)
    rng = np.random.default_rng(2)
    ds["image_weight"] = ds["image_weight"].copy(data=rng.beta(0.3, 3, ds["image_weight"].shape))
    ds["spatial_entropy"] = ds["spatial_entropy"].copy(data=rng.uniform(size=ds["image_weight"].shape))
    sums, seen = score_sums(ds, "localization"), set()
    halves = half_weights(20, 12, seed=0)
    for weights, scores in zip(halves, sums.means(halves).T, strict=True):
        chosen = ds.isel(sample=np.isin(ds["image_id"].values, sums.pictures[weights == 1]))
        np.testing.assert_allclose(scores, rank(chosen, "localization").values.ravel())
        few = sums.of(weights == 1)
        np.testing.assert_allclose(few.means(np.ones((1, 10)))[:, 0], scores)
        seen.add(tuple(scores > 0))
    np.testing.assert_allclose(sums.means(np.ones((1, 20)))[:, 0], rank(ds, "localization").values.ravel())
    assert len(seen) > 1, "not all halves leave the same heads"
    fixed = picture_sums(sample_scores(ds, "localization"))
    drawn = rank(ds, "localization", interval=True, n_boot=50)
    np.testing.assert_allclose(drawn.sel(bound="estimate").values, rank(ds, "localization").values)
    replicates = sums.means(picture_weights(20, 50, 0)).reshape(1, 4, 4, -1)
    np.testing.assert_allclose(drawn.sel(bound="lower").values, interval(replicates)[0])
    mask = spearman_brown(split_half(np.stack([fixed.means(halves).T, fixed.means(1 - halves).T], axis=1)))
    assert float(agreement(ds, by=["localization"], n_boot=10).reliability[0, 0]) < mask


def test_no_elbow_lets_all_heads_through():
    assert elbow(np.array([0.3, 0.3, 0.3, 0.3])) == -np.inf
    assert elbow(np.array([0.1, 0.3])) == -np.inf


def test_the_row_that_produces_the_answer_is_read_unless_another_is_asked_for():
    first, last = traced(seed=0), traced(seed=1)
    both = xr.concat([first, last], dim=xr.DataArray(["first_generated", "last_prompt"], dims="query", name="query"))
    np.testing.assert_allclose(rank(both, "gaze").values, rank(last, "region_weight").values)
    np.testing.assert_allclose(rank(both, "image_weight").values, rank(last, "image_weight").values)
    chosen = rank(both, "image_weight", query="first_generated")
    np.testing.assert_allclose(chosen.values, rank(first, "image_weight").values)
    rows = np.resize(["first_generated", "last_prompt"], first.sizes["sample"])
    with pytest.raises(ParameterError, match="one attention row"):
        rank(first.assign_coords(query=("sample", rows)), "image_weight")
    with pytest.raises(ParameterError, match="query of image_weight"):
        rank(both, "image_weight", query="last")


def test_unknown_rankings_are_named_with_a_suggestion():
    with pytest.raises(ParameterError, match="did you mean 'detection'"):
        rank(traced(), "detecton")
    assert "image_log_odds_no_sink" in rankings(traced())
    with pytest.raises(ParameterError, match="trace with this measure"):
        rank(hand([[0.5]]), "concentration")


def test_controls_do_not_count():
    ds = traced(n_samples=4, control=("sample", np.array(["", "white", "none", "white"], dtype=object)))
    np.testing.assert_allclose(
        rank(ds, "image_weight").values, ds["image_weight"].isel(sample=[0, 2]).mean("sample").values
    )
    white = ds.isel(sample=[1, 3])
    np.testing.assert_allclose(rank(white, "image_weight").values, white["image_weight"].mean("sample").values)


def test_ragged_models_keep_their_missing_heads_missing():
    ds = traced()
    small = traced(n_layers=2, model=["small"])
    both = xr.concat([ds, small], dim="model", join="outer")
    scores = rank(both, "detection")
    assert scores.sel(model="small").isel(layer=slice(2, 4)).isnull().all()
    assert float(scores.sel(model="small").sum()) == pytest.approx(head_count(8))
    assert float(scores.sel(model="mini").sum()) == pytest.approx(head_count(16))
    assert stages(scores).values[1].tolist() == ["early", "late", "", ""]


def test_datasets_without_model_dimension():
    ds = traced()
    np.testing.assert_allclose(rank(ds.isel(model=0), "detection").values, rank(ds, "detection").values)


def test_scores_are_lazy_safe():
    pytest.importorskip("dask.array")
    ds = traced()
    np.testing.assert_allclose(rank(ds.chunk(sample=7), "detection").values, rank(ds, "detection").values)


# Selection


def test_select_of_one_model_without_its_dimension():
    """The stage that a dataset tells counts, not the one that its number of layers would give."""
    told = np.array([["late", "early", "late", "early"]], dtype=object)
    ds = traced().assign_coords(depth_stage=(("model", "layer"), told))
    chosen = select(rank(ds, "image_weight").isel(model=0), k=2, stage="late")
    assert set(np.argwhere(chosen.values)[:, 1].tolist()) == {2}, "heavier heads of layer 3 are told to be early"
    np.testing.assert_array_equal(chosen.values, select(ds, "image_weight", k=2, stage="late").values)


def test_select_by_hand():
    ds = hand([[0.2], [0.9], [0.5], [0.5]])
    chosen = select(ds, "image_weight", k=2)
    assert chosen.dtype == bool
    assert chosen.values.ravel().tolist() == [False, True, True, False]  # of equals the lower head
    assert select(ds, "image_weight", k=0.25, largest=False).values.ravel().tolist() == [True, False, False, False]


@examples
@given(st.integers(0, 100), st.integers(1, 16))
def test_select_takes_k_and_the_complement_is_the_bottom(seed: int, k: int):
    scores = rank(traced(seed=seed), "image_weight")
    top = select(scores, k=k)
    assert int(top.sum()) == k
    if k < 16:
        np.testing.assert_array_equal(select(scores, k=16 - k, largest=False).values, ~top.values)


def test_select_within_a_stage():
    ds = traced()
    late = select(ds, "image_weight", k=3, stage="late")
    assert int(late.sum()) == 3
    assert not late.isel(layer=slice(0, 3)).any()
    coordinate = ds.assign_coords(depth_stage=(("model", "layer"), [["late", "early", "early", "early"]]))
    assert select(coordinate, "image_weight", k=2, stage="late").isel(layer=0).sum() == 2


def test_select_above_null_only():
    scores = rank(traced(), "image_weight")
    above = scores > 0.5
    assert (select(scores, above_null=above) == above).all()
    assert int(select(scores, k=2, above_null=above).sum()) == 2
    with pytest.raises(HeadError, match="no head to select"):
        select(scores, above_null=scores > 2)
    with pytest.raises(ParameterError, match="stage"):
        select(scores, stage="deep")  # pyright: ignore[reportArgumentType]


def test_top_heads_ignores_missing_values():
    values = np.array([[np.nan], [1.0], [np.nan]])
    assert top_heads(values, 2).ravel().tolist() == [False, True, False]


# Bootstrap


def test_picture_sums_by_hand():
    sums = picture_sums(hand([[1.0, 2.0, 4.0]], pictures=["b", "a", "b"])["image_weight"])
    assert sums.pictures.tolist() == ["a", "b"]
    assert sums.sums.tolist() == [[2.0, 5.0]]
    assert sums.counts.tolist() == [[1.0, 2.0]]
    assert sums.means(np.array([[1.0, 1.0], [2.0, 0.0]])).tolist() == [[7 / 3, 2.0]]


def test_intervals_cover_the_truth():
    """Of 200 nominal 90 % intervals for means of 60 pictures, between 80 and 97 % hold the true mean."""
    rng = np.random.default_rng(0)
    values = hand(rng.normal(size=(200, 60)).tolist())["image_weight"]
    bounds = bootstrap(values, n_boot=500, level=0.9, seed=1)
    covered = ((bounds.sel(bound="lower") < 0) & (bounds.sel(bound="upper") > 0)).mean()
    assert 0.80 < float(covered) < 0.97


def test_the_unit_is_the_picture():
    """Asking every question ten times must not shrink the interval."""
    once = hand(np.random.default_rng(0).normal(size=(1, 20)).tolist())["image_weight"]
    repeated = once.isel(sample=np.repeat(np.arange(20), 10))
    xr.testing.assert_allclose(bootstrap(once, seed=3), bootstrap(repeated, seed=3))


def test_bootstrap_is_deterministic_and_ordered():
    ds = traced()
    first, again = (rank(ds, "detection", interval=True, seed=SEED) for _ in range(2))
    xr.testing.assert_identical(first, again)
    assert first.dims[-1] == "bound"
    assert first.bound.values.tolist() == ["lower", "estimate", "upper"]
    assert (first.sel(bound="lower") <= first.sel(bound="estimate")).all()
    assert (first.sel(bound="estimate") <= first.sel(bound="upper")).all()
    np.testing.assert_allclose(first.sel(bound="estimate").values, rank(ds, "detection").values)


def test_bootstrap_weights_draw_with_replacement():
    weights = picture_weights(10, 200, seed=0)
    assert (weights.sum(axis=1) == 10).all()
    assert weights.max() > 1
    assert not np.array_equal(weights, picture_weights(10, 200, seed=1))


def test_intervals_leave_missing_replicates_out():
    low, high = interval(np.array([[1.0, np.nan, 3.0], [np.nan] * 3, [2.0, 2.0, 2.0]]), 0.5)
    assert low.tolist() == pytest.approx([1.5, np.nan, 2.0], nan_ok=True)
    assert high.tolist() == pytest.approx([2.5, np.nan, 2.0], nan_ok=True)
    with pytest.raises(ParameterError, match="level"):
        interval(np.zeros((1, 3)), 95)


@examples
@given(st.integers(2, 30), st.integers(0, 100))
def test_halves_share_no_picture(n_samples: int, seed: int):
    ds = traced(n_samples=n_samples + 2)
    first, second = split_halves(ds, seed)
    assert first.sizes["sample"] + second.sizes["sample"] == n_samples + 2
    assert not set(first.image_id.values) & set(second.image_id.values)
    assert abs(len(set(first.image_id.values)) - len(set(second.image_id.values))) <= 1


def test_one_picture_cannot_be_split():
    with pytest.raises(ParameterError, match="at least 2"):
        split_halves(traced(n_samples=2))
    with pytest.raises(ParameterError, match="at least one sample"):
        picture_sums(traced()["image_weight"].isel(sample=[]))


# Nulls


def planted(n_samples: int = 60, seed: int = 0) -> tuple[xr.Dataset, xr.Dataset, xr.Dataset]:
    """(ds, white, untrained draws): heads 0–9 of 40 exceed both nulls by one nat, 10–14 only the untrained one."""
    rng = np.random.default_rng(seed)
    ds = traced(4, 10, n_samples)
    shape = ds["image_log_odds_no_sink"].shape
    effect = np.zeros(40)
    effect[:15] = 1.0
    control = np.zeros(40)
    control[10:15] = 1.0

    def with_effect(values: np.ndarray) -> xr.Dataset:
        noise = rng.normal(scale=0.3, size=shape)
        return ds.assign(
            image_log_odds_no_sink=ds["image_log_odds_no_sink"].copy(data=values.reshape(1, 4, 10, 1) + noise)
        )

    return with_effect(effect), with_effect(control), with_effect(np.full(40, -0.5)).expand_dims(draw=20)


def test_above_null_finds_the_planted_heads():
    ds, white, untrained = planted()
    both = above_null(ds, white=white, untrained=untrained)
    found = set(np.flatnonzero(both.above_null.values.ravel()))
    assert set(range(10)) <= found
    assert len(found) <= 12  # 5 % of the discoveries may be false
    only_untrained = above_null(ds, untrained=untrained)
    assert set(range(15)) <= set(np.flatnonzero(only_untrained.above_null.values.ravel()))
    assert both.excess.values.ravel()[:10] == pytest.approx(1.0, abs=0.2)


def test_false_discoveries_stay_rare_without_any_effect():
    found = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        ds = traced(4, 10, 40)
        noise = [
            ds.assign(image_log_odds_no_sink=ds["image_log_odds_no_sink"].copy(data=rng.normal(size=(1, 4, 10, 40))))
            for _ in "ab"
        ]
        found += bool(above_null(noise[0], white=noise[1]).above_null.any())
    assert found <= 8  # 5 % expected: two of forty


def test_white_pictures_are_taken_from_the_dataset_and_paired_by_prompt():
    ds, white, _ = planted()
    order = np.random.default_rng(0).permutation(60)
    shuffled = white.isel(sample=order)
    shuffled = shuffled.assign_coords(sample=[f"w{i}" for i in range(60)])
    joined = xr.concat(
        [
            ds.assign_coords(control=("sample", np.array(["none"] * 60, dtype=object))),
            shuffled.assign_coords(control=("sample", np.array(["white"] * 60, dtype=object))),
        ],
        dim="sample",
    )
    xr.testing.assert_allclose(above_null(joined).p_value, above_null(ds, white=white).p_value)


def test_above_null_needs_a_control_that_fits():
    ds, white, _ = planted(n_samples=8)
    with pytest.raises(ParameterError, match="controls"):
        above_null(ds)
    other = white.assign_coords(question_id=("sample", np.array([f"x{i}" for i in range(8)], dtype=object)))
    with pytest.raises(ParameterError, match="control 'white'"):
        above_null(ds, white=other)
    with pytest.raises(ParameterError, match="control 'white'"):
        above_null(ds, white=white.isel(layer=[0]))
    with pytest.raises(ParameterError, match="more than once"):
        above_null(ds, white=xr.concat([white, white], dim="sample"))
    with pytest.raises(ParameterError, match="control 'untrained'"):
        above_null(ds, untrained=white.isel(head=[0, 1]))


def test_own_questions_without_ids_are_paired_by_sample():
    ds, white, untrained = planted()
    nameless = {"question_id": ("sample", np.array([""] * 60, dtype=object))}
    expected = above_null(ds, white=white, untrained=untrained)
    turned = white.isel(sample=slice(None, None, -1)).assign_coords(nameless)
    found = above_null(ds.assign_coords(nameless), white=turned, untrained=untrained.assign_coords(nameless))
    xr.testing.assert_allclose(found, expected)


def test_every_model_is_held_against_its_own_untrained_network():
    ds, _, untrained = planted()
    loud = untrained.assign(image_log_odds_no_sink=untrained["image_log_odds_no_sink"] + 10)
    both = xr.concat([ds, ds.assign_coords(model=["loud"])], dim="model")
    controls = xr.concat([loud.assign_coords(model=["loud"]), untrained], dim="model")
    found = above_null(both, untrained=controls)["above_null"]
    assert (found.isel(model=0) == above_null(ds, untrained=untrained)["above_null"].isel(model=0)).all()
    assert not found.sel(model="loud").any()
    with pytest.raises(ParameterError, match="models of control 'untrained'"):
        above_null(both, untrained=untrained)


# Agreement


@examples
@given(st.integers(0, 1000))
def test_spearman_equals_scipy(seed: int):
    scores = np.random.default_rng(seed).integers(0, 6, size=(2, 12)).astype(float)
    if scores.std(axis=1).min() == 0:
        return
    assert spearman(scores)[0, 1] == pytest.approx(stats.spearmanr(scores[0], scores[1])[0])


def test_layer_means_are_removed():
    scores = np.array([[1.0, 3.0, 10.0, 20.0]])
    assert without_layer_means(scores, np.array([0, 0, 1, 1])).tolist() == [[-1.0, 1.0, -5.0, 5.0]]


def test_top_k_overlap_by_hand():
    scores = np.array([[4.0, 3.0, 2.0, 1.0], [4.0, 1.0, 3.0, 2.0]])
    assert top_k_overlap(scores, 2)[0, 1] == 0.5
    assert top_k_overlap(scores, 1)[0, 1] == 1.0


def test_agreement_of_planted_rankings():
    ds = traced(8, 8, 60)
    found = agreement(ds, by=["image_weight", "region_weight", "concentration", "detection"], k=0.1, n_boot=200)
    pair = found.sel(model="mini", ranking="image_weight")
    assert float(pair.spearman.sel(other="region_weight")) == pytest.approx(1)
    assert float(pair.spearman.sel(other="concentration")) == pytest.approx(-1)
    assert float(pair.top_k_overlap.sel(other="region_weight")) == 1
    assert float(pair.top_k_overlap.sel(other="concentration")) == 0
    assert float(found.chance.sel(model="mini")) == pytest.approx(6 / 64)
    assert int(found.k.sel(model="mini")) == 6
    assert found.reliability.sel(model="mini", ranking="image_weight") > 0.95
    # Depth makes the raw agreement here; what is left within layers is smaller but noise is shared.
    assert pair.spearman_within_layer.sel(other="detection") <= 1
    lower, upper = pair.spearman_interval.sel(other="detection").values
    assert lower <= float(pair.spearman.sel(other="detection")) <= upper


def test_intervals_hold_the_agreement_that_so_many_pictures_give():
    """Of 60 drawn worlds nine in ten intervals, or more, hold the mean observed correlation."""
    rng, found, bounds = np.random.default_rng(3), [], []
    truth = rng.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], size=32).T
    for _ in range(60):
        pictures = truth[:, None] + 4 * rng.normal(size=(2, 30, 32))
        observed = spearman(pictures.mean(axis=1))[0, 1]
        drawn = [picture_weights(30, 200, seed) / 30 for seed in (0, 1)]
        replicates = spearman(np.stack([w @ one for w, one in zip(drawn, pictures, strict=True)], axis=1))[:, 0, 1]
        found.append(observed)
        bounds.append(centred_interval(np.array(observed), replicates, 0.95, -1.0))
    low, high = np.array(bounds).T
    assert np.mean((low <= np.mean(found)) & (np.mean(found) <= high)) >= 0.9
    assert np.mean(found) < spearman(truth)[0, 1] - 0.05, "noise weakens agreement"


def test_halves_without_a_head_tell_nothing_of_it():
    rng = np.random.default_rng(0)
    halves = rng.normal(size=(4, 1, 20)) + 0.01 * rng.normal(size=(4, 2, 20))
    halves[0, 0, 3] = np.nan
    found = split_half(halves)
    assert (found > 0.9).all()
    halves[1, :, :18] = np.nan
    assert np.isnan(split_half(halves)[1])
    assert np.isnan(spearman_brown(np.full(3, np.nan)))
    assert spearman_brown(np.array([0.5, np.nan])) == pytest.approx(2 / 3)


def test_a_head_of_one_picture_takes_no_reliability_from_the_others():
    ds = traced(4, 4, 40)
    whole = float(agreement(ds, by=["image_weight"], n_boot=20).reliability[0, 0])
    ds["image_weight"] = ds["image_weight"].where(
        (ds["layer"] > 0) | (ds["head"] > 0) | (ds["image_id"] == ds["image_id"][0])
    )
    found = agreement(ds, by=["image_weight", "region_weight"], n_boot=50).isel(model=0)
    assert float(found.reliability[0]) == pytest.approx(whole, abs=0.1) and float(found.ceiling[0, 1]) > 0.5
    assert np.isfinite(found.top_k_overlap_interval).all()


def test_tied_heads_share_the_last_places_by_lot():
    """By hand: of two heads the first is placed, the second is one of three tied; or all four are tied."""
    tied, clear, flat = [5.0, 1.0, 1.0, 1.0], [4.0, 3.0, 2.0, 1.0], [1.0] * 4
    np.testing.assert_allclose(top_chance(np.array(tied), 2), [1, 1 / 3, 1 / 3, 1 / 3])
    np.testing.assert_allclose(top_chance(np.array([3.0, np.nan, 1.0]), 3), [1, 0, 1])
    found = top_k_overlap(np.array([tied, clear, flat]), 2)
    assert found[0, 1] == pytest.approx((1 + 1 / 3) / 2) and found[1, 1] == 1
    np.testing.assert_allclose(found[:, 2], 2 / 4, err_msg="a ranking that says nothing shares what chance shares")
    assert found[0, 1] == top_k_overlap(np.array([tied, clear])[:, ::-1], 2)[0, 1], "the order of heads is no matter"


def test_noise_has_no_reliability_and_chance_overlap():
    rng = np.random.default_rng(0)
    ds = traced(16, 16, 80)
    ds["image_weight"] = ds["image_weight"].copy(data=rng.normal(size=(1, 16, 16, 80)))
    ds["concentration"] = ds["image_weight"].copy(data=rng.normal(size=(1, 16, 16, 80)))
    found = agreement(ds, by=["image_weight", "concentration"], k=0.25, n_boot=50).isel(model=0)
    assert (np.abs(found.reliability) < 0.3).all()
    assert float(found.top_k_overlap[0, 1]) == pytest.approx(0.25, abs=0.12)
    assert abs(float(found.spearman[0, 1])) < 0.2


def test_agreement_with_a_finished_ranking():
    ds = traced()
    effect = rank(ds, "image_weight").isel(model=0, drop=True)
    partial = effect.where(effect.layer < 3)
    found = agreement(ds, by=["image_weight"], extra={"effect": effect, "list": partial}, n_boot=50).isel(model=0)
    assert float(found.spearman.sel(ranking="image_weight", other="effect")) == pytest.approx(1)
    assert np.isnan(float(found.reliability.sel(ranking="effect")))
    assert float(found.ceiling.sel(ranking="image_weight", other="effect")) <= 1
    turned = agreement(ds, by=["image_weight"], extra={"turned": effect.isel(layer=slice(None, None, -1))}, n_boot=2)
    assert float(turned.spearman[0, 0, 1]) == pytest.approx(1), "heads are paired by their labels"
    assert int(found.k) == head_count(12)  # heads that every ranking has
    with pytest.raises(ParameterError, match="shape of ranking 'wrong'"):
        agreement(ds, by=["image_weight"], extra={"wrong": effect.isel(head=[0])})


def test_agreement_without_values_is_nan():
    ds = traced()
    ds["sink_share"] = ds["sink_share"] * np.nan
    found = agreement(ds, by=["image_weight", "sink_free"], n_boot=20).isel(model=0)
    assert float(found.spearman[0, 0]) == pytest.approx(1)
    assert np.isnan(found.spearman[0, 1])
    assert np.isnan(found.reliability[1])


def test_agreement_is_deterministic_and_names_bad_input():
    ds = traced(n_samples=10)
    xr.testing.assert_identical(agreement(ds, n_boot=20, seed=SEED), agreement(ds, n_boot=20, seed=SEED))
    with pytest.raises(ParameterError, match="each once"):
        agreement(ds, by=["image_weight", "image_weight"])
    with pytest.raises(ParameterError, match="by: got 'weight'"):
        agreement(ds, by=["weight"])


def test_sample_scores_carry_the_sample_coordinates():
    values = sample_scores(traced(), "detection")
    assert values.dims == ("model", "layer", "head", "sample")
    assert "image_id" in values.coords
