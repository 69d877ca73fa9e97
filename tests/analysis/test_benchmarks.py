"""Patterns, scores and predictions compared: hand-computed cases, and what must not change a result."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.model_datasets import LINEAGE, model_dataset, questions, random_pattern, several, stored
from visualheads import charts
from visualheads.analysis import benchmarks, emergence, lineage, scores
from visualheads.analysis import models as survey
from visualheads.analysis.subset import subset
from visualheads.charts import display
from visualheads.errors import ParameterError
from visualheads.heads import patterns as alike
from visualheads.heads import permutation
from visualheads.heads.patterns import Patterns, between, labels_of


@pytest.fixture(scope="module")
def ds() -> xr.Dataset:
    return several()


def patterns(*groups: list[float], pictures: int = 4) -> Patterns:
    """Groups whose heads have these values in every picture; two layers."""
    values = np.array(groups)[:, :, None] * np.ones(pictures)
    return Patterns(tuple("abc"[: len(groups)]), values, np.ones_like(values), np.array([0, 0, 1, 1]))


def test_opposite_patterns_correlate_with_minus_one() -> None:
    found = patterns([1, 2, 3, 4], [4, 3, 2, 1])
    weights = np.array([[1.0, 1, 0, 0]])
    np.testing.assert_allclose(between(found, weights, 1 - weights)[0], [[1, -1], [-1, 1]])


def test_layer_means_are_taken_out() -> None:
    # within layers a is (−, +), (−, +) and b is (+, −), (+, −), though both rise with depth
    found = patterns([1, 2, 11, 12], [2, 1, 12, 11])
    weights = np.array([[1.0, 1, 0, 0]])
    assert between(found, weights, 1 - weights)[0, 0, 1] == pytest.approx(0.6)
    assert between(found, weights, 1 - weights, centred=True)[0, 0, 1] == pytest.approx(-1)


def test_a_group_without_values_is_missing_and_harms_no_other() -> None:
    found = patterns([1, 2, 3, 4], [1, 2, 3, 4])
    found.counts[1], found.sums[1] = 0, 0
    told = between(found, np.array([[1.0, 1, 0, 0]]), np.array([[0.0, 0, 1, 1]]))[0]
    assert told[0, 0] == pytest.approx(1) and np.isnan(told[0, 1]) and np.isnan(told[1]).all()


def test_a_group_that_a_replicate_misses_harms_no_other() -> None:
    found = patterns([1, 2, 3, 4], [1, 2, 4, 3], [1, 2, 3, 4])
    found.counts[2, :, 1:], found.sums[2, :, 1:] = 0, 0  # one picture, in one of the halves only
    first = np.array([[1.0, 1, 0, 0], [1, 0, 1, 0]])
    told = between(found, first, 1 - first)
    np.testing.assert_allclose(told[:, 0, 1], 0.8)
    assert np.isnan(told[:, 2]).all() and np.isnan(told[:, :, 2]).all()


def test_planted_conditions_differ_and_equal_ones_are_alike() -> None:
    one, other = random_pattern(1), random_pattern(8)
    samples = questions(("plain-object", "visual-object", "plain-general"))
    ds = model_dataset(samples=samples, pattern=one)
    general = ds["condition"].values == "plain-general"
    changed = model_dataset(samples=samples, pattern=other)["image_weight"]
    ds["image_weight"] = ds["image_weight"].where(~xr.DataArray(general, dims="sample"), changed)
    told = alike.group_agreement(ds, "condition")
    found = alike.pairs(told.isel(model=0)).set_index(["group", "other"])["verdict"]
    assert found[("plain-object", "visual-object")] == alike.ALIKE
    assert found[("plain-object", "plain-general")] == alike.DIFFERENT
    assert told["correlation"].values[0, 0, 0] > 0.95
    assert (told["samples"].values == 10).all()


def two_formats() -> xr.Dataset:
    """In free form the box changes faint patterns, with letters it leaves strong ones as they are."""
    samples = questions(("plain-object", "visual-object"))
    drawn = xr.DataArray([sample.condition == "visual-object" for sample in samples], dims="sample")
    faint, other, strong = (
        model_dataset(samples=samples, pattern=scale * random_pattern(seed), noise=0.002)
        for seed, scale in ((1, 0.1), (8, 0.1), (3, 1.0))
    )
    faint["image_weight"] = faint["image_weight"].where(~drawn, other["image_weight"])
    names = [f"{name}-letters" for name in strong["sample"].values]
    strong = strong.assign_coords(sample=names, format=("sample", ["letters"] * len(names)))
    joined: xr.Dataset = xr.concat([faint, strong], "sample", data_vars="minimal", coords="minimal", compat="override")
    return joined


def test_formats_in_which_the_box_does_not_do_the_same_are_not_pooled() -> None:
    ds, kinds = two_formats(), {"box": benchmarks.BOX_PAIRS}
    pooled = alike.pairs(alike.group_agreement(ds, "condition"), kinds)
    assert pooled["verdict"].tolist() == [alike.ALIKE], "together, the strong patterns hide the faint ones"
    told = alike.format_agreement(ds, "condition")
    assert told["correlation"].dims == ("format", "model", "group", "other")
    found = alike.pairs(told, kinds).set_index("format")
    assert found["verdict"].to_dict() == {"free": alike.DIFFERENT, "letters": alike.ALIKE}
    assert found.loc["free", "shortfall"] > 0.5 and found.loc["letters", "correlation"] > 0.95


def test_a_format_is_compared_as_if_it_were_alone() -> None:
    ds = two_formats()
    ds = ds.isel(sample=np.flatnonzero((ds["format"] == "free") | (ds["condition"] == "plain-object")))
    told = alike.format_agreement(ds, "condition", n_boot=20)
    alone = alike.group_agreement(ds.isel(sample=np.flatnonzero(ds["format"] == "free")), n_boot=20)
    xr.testing.assert_allclose(told.sel(format="free", drop=True), alone)
    letters = told["correlation"].sel(format="letters").isel(model=0)
    assert np.isfinite(letters.values).tolist() == [[True, False], [False, False]], "letters: one condition"
    assert alike.pairs(told, {"box": benchmarks.BOX_PAIRS})["format"].tolist() == ["free"]
    assert alike.pairs(told.sel(format=["letters"]), {"box": benchmarks.BOX_PAIRS}).empty


def test_matrices_and_shortfalls_have_a_panel_per_format() -> None:
    told = alike.format_agreement(two_formats(), "condition", n_boot=20)
    matrices = display.spec_of(charts.condition_matrices(told))
    assert [panel["title"] for panel in matrices["vconcat"]] == ["free form", "letters A–D"]
    pairs = alike.pairs(told, benchmarks.CONDITION_PAIRS)
    panels = display.spec_of(charts.condition_shortfalls(pairs, "drawing the box", "Shortfall."))
    assert [panel["title"] for panel in panels["hconcat"]] == ["free form", "letters A–D"]
    none = display.spec_of(charts.condition_shortfalls(pairs, "naming the object", "Shortfall."))
    assert none["description"] == "Nothing to compare yet."


@settings(max_examples=10)
@given(seed=st.integers(0, 1000))
def test_agreement_is_symmetric_bounded_and_blind_to_the_order_of_samples(seed: int) -> None:
    ds = model_dataset(samples=questions(("a", "b"), 6), pattern=random_pattern(seed, 3, 3), noise=0.2, seed=seed)
    told = alike.group_agreement(ds, "condition", n_boot=20)
    values = told["correlation"].values[0]
    np.testing.assert_allclose(values, values.T)
    assert (np.abs(values) <= 1).all()
    mixed = ds.isel(sample=np.random.default_rng(seed).permutation(ds.sizes["sample"]))
    again = alike.group_agreement(mixed, "condition", n_boot=20).sel(group=["a", "b"], other=["a", "b"])
    np.testing.assert_allclose(again["correlation"].values[0], values)
    bounds = told["shortfall_interval"]
    assert (bounds.sel(bound="lower") <= bounds.sel(bound="upper") + 1e-12).all()


def test_verdict_needs_the_whole_interval() -> None:
    assert alike.verdict(-0.01, 0.04) == alike.ALIKE
    assert alike.verdict(0.001, 0.04) == alike.ALIKE
    assert alike.verdict(0.02, 0.3) == alike.DIFFERENT
    assert alike.verdict(-0.02, 0.3) == alike.UNDECIDED
    assert alike.verdict(float("nan"), float("nan")) == alike.UNDECIDED


def test_unknown_label_names_the_known(ds: xr.Dataset) -> None:
    with pytest.raises(ParameterError, match="condition"):
        labels_of(ds, "colour")


def test_task_is_told_from_its_own_pattern() -> None:
    samples = [*questions(("plain",), 8, "pope"), *questions(("plain",), 8, "qbench")]
    ds = model_dataset(samples=samples, pattern=random_pattern(1))
    other = model_dataset(samples=samples, pattern=random_pattern(9))["image_weight"]
    ds["image_weight"] = ds["image_weight"].where(ds["task"] == "pope", other)
    (row,) = alike.nearest_pattern(ds, "task").to_dict("records")
    assert row["right"] == 1.0 and row["chance"] == 0.5


def test_models_of_one_llm_are_kin_and_other_shapes_are_left_out(ds: xr.Dataset) -> None:
    found = lineage.relations(subset(ds, task="looktwice"))
    assert "mini-1.5-13B" not in set(found["group"]) | set(found["other"])
    kin = found[(found["group"] == "mini-1.5-7B") & (found["other"] == "mini-1.6-vicuna-7B")].iloc[0]
    assert kin["correlation"] > 0.95
    told = lineage.kin_difference(found, subset(ds, task="looktwice"))
    assert told is not None and told["difference"] > 0.3
    assert lineage._kin_pairs(found, subset(ds, task="looktwice"))["same"].tolist().count(True) == 1
    assert 0 < told["p_value"] <= 1


def kin_table(level_of_large: float, kin: float) -> pd.DataFrame:
    """Six models of one shape, three of them of one LLM (`kin` more alike), and three more of that LLM's large form."""
    rng = np.random.default_rng(0)
    rows = [
        {"group": a, "other": b, "correlation": 0.5 + kin * (a[0] == b[0] == "v") + rng.normal(scale=0.01)}
        for a, b in itertools.combinations(("v1", "v2", "v3", "phi", "mistral", "llama"), 2)
    ]
    rows += [
        {"group": a, "other": b, "correlation": level_of_large}
        for a, b in itertools.combinations(("V1", "V2", "V3"), 2)
    ]
    return pd.DataFrame(rows)


def kin_told(table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    names = sorted({*table["group"], *table["other"]})
    llm = {name: name[0] if name[0] in "vV" else name for name in names}
    monkeypatch.setattr(
        lineage, "lineage", lambda _: pd.DataFrame({"llm": llm, "variant": dict.fromkeys(names, False)})
    )
    monkeypatch.setattr(lineage, "shapes_of", lambda _: {n: (10, 10) if n[0] in "VW" else (8, 8) for n in names})
    found = lineage.kin_difference(table, xr.Dataset({"image_weight": 0}))
    assert found is not None
    return found


def test_another_level_of_another_shape_is_no_kinship(monkeypatch: pytest.MonkeyPatch) -> None:
    found = kin_told(kin_table(level_of_large=0.9, kin=0.0), monkeypatch)
    assert abs(found["difference"]) < 0.02 and found["p_value"] > 0.05


def test_the_means_beside_a_difference_differ_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    large = [("W1", "W2", 0.5), ("W1", "X1", 0.1), ("W2", "X1", 0.1)]  # another shape, of another level
    names = {"group": "W1", "other": "W2"}
    rows = [dict(zip((*names, "correlation"), row, strict=True)) for row in large]
    table = pd.concat([kin_table(0.9, 0.2), pd.DataFrame(rows)], ignore_index=True)
    table = table.replace({"W1": "Va", "W2": "Vb", "X1": "Wc"})
    found = kin_told(table, monkeypatch)
    assert found["same"] - found["other"] == pytest.approx(found["difference"])


def test_kin_is_found_as_surely_as_six_models_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    found = kin_told(kin_table(level_of_large=0.9, kin=0.2), monkeypatch)
    assert found["difference"] == pytest.approx(0.2, abs=0.02)
    assert found["p_value"] == found["least_p"] == pytest.approx(1 / 20)  # places of three labels among six models


def test_pairs_that_share_models_are_no_independent_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that are alike to all others or to none: over and over without kinship, it is rarely found."""
    names, rng, found_kin = ("v1", "v2", "v3", "phi", "mistral", "llama"), np.random.default_rng(0), 0
    for _ in range(60):
        level = dict(zip(names, rng.normal(0, 0.1, 6), strict=True))
        rows = [
            {"group": a, "other": b, "correlation": 0.4 + level[a] + level[b] + rng.normal(0, 0.02)}
            for a, b in itertools.combinations(names, 2)
        ]
        found_kin += kin_told(pd.DataFrame(rows), monkeypatch)["p_value"] <= 0.05
    assert found_kin <= 7


def test_a_shape_of_one_language_model_alone_tells_nothing_of_kinship(monkeypatch: pytest.MonkeyPatch) -> None:
    table = kin_table(level_of_large=0.9, kin=0.2)
    names = {name: (8, 8) for name in {*table["group"], *table["other"]}}
    monkeypatch.setattr(
        lineage, "lineage", lambda _: pd.DataFrame({"llm": dict.fromkeys(names, "v"), "variant": False})
    )
    monkeypatch.setattr(lineage, "shapes_of", lambda _: names)
    assert lineage.kin_difference(table, xr.Dataset({"image_weight": 0})) is None


def test_circular_score_needs_every_round() -> None:
    rounds = ("round-1", "round-2")
    ds = model_dataset(samples=questions(rounds, 3, "mmbench"))
    ds["correct"][:] = [[1, 1, 0, 1, 0, 0]]  # picture 0: both, 1: first only, 2: none
    values = scores._in_all_rounds(ds["correct"].isel(model=0))
    assert dict(zip(values["sample"].values, values.values, strict=True)) == {"0": 1.0, "1": 0.0, "2": 0.0}
    (row,) = scores.scores(ds).to_dict("records")
    assert row["estimate"] == pytest.approx(1 / 3) and row["n"] == 3


def test_chance_is_the_commonest_answer_or_one_letter() -> None:
    ds = model_dataset(samples=questions(("plain",), 4))
    ds = ds.assign_coords(answer=("sample", np.array(["1", "1", "1", "2"], dtype=object)))
    assert scores._chance_of(ds) == 0.75
    letters = ds.assign_coords(
        answer=("sample", np.array(list("ABCD"), dtype=object)), format=("sample", np.array(["letters"] * 4, object))
    )
    assert scores._chance_of(letters) == 0.25


def test_right_and_wrong_are_compared_within_a_condition() -> None:
    ds = model_dataset(samples=[*questions(("a",), 2), *questions(("b",), 4)])
    ds["correct"][:] = [[1, 0, 1, 1, 0, 0]]
    values = np.array([0.8, 0.6, 0.3, 0.3, 0.2, 0.2])
    ds["concentration"][:] = values[None, None, None, :, None]
    (row,) = benchmarks.right_wrong(ds, n_boot=50, fewest=1).to_dict("records")
    # a: 0.2 with weight 1·1/2, b: 0.1 with weight 2·2/4
    assert row["difference"] == pytest.approx((0.5 * 0.2 + 1 * 0.1) / 1.5)
    assert (row["right"], row["wrong"]) == (3, 3)


def test_without_wrong_answers_there_is_no_difference() -> None:
    ds = model_dataset(samples=questions(("a",), 3))
    ds["correct"][:] = 1.0
    assert np.isnan(benchmarks.right_wrong(ds, n_boot=20)["difference"]).all()


def test_a_change_of_the_score_is_paired(ds: xr.Dataset) -> None:
    told = lineage.changes(ds, [("mini-1.5-7B", "mini-1.6-vicuna-7B")]).set_index("task").loc["looktwice"]
    values = subset(ds, task="looktwice")["correct"]
    expected = float((values.sel(model="mini-1.6-vicuna-7B") - values.sel(model="mini-1.5-7B")).mean())
    assert told["difference"] == pytest.approx(expected, abs=1e-6)
    assert told["lower"] <= told["difference"] <= told["upper"] and told["tokens_one"] == 64
    assert "mmbench" not in set(lineage.changes(ds, [("mini-1.5-7B", "mini-1.5-13B")])["task"])


def test_statistics_of_visual_heads_are_those_of_the_strongest() -> None:
    pattern = np.zeros((4, 4))
    pattern[2, 1] = pattern[0, 3] = 1.0  # 9.8 % of 16 heads are two
    ds = model_dataset(pattern=pattern, noise=0.0)
    (row,) = benchmarks.head_statistics(ds).to_dict("records")
    assert row["top_image_weight"] == pytest.approx(0.85, abs=1e-6)
    assert row["image_weight"] == pytest.approx((14 * 0.05 + 2 * 0.85) / 16, abs=1e-6)
    assert row["top_region_weight"] == pytest.approx(0.425, abs=1e-6) and row["tokens"] == 64


def scored(scores: list[float], values: list[float]) -> pd.DataFrame:
    models = [f"m{index}" for index in range(len(scores))]
    return pd.DataFrame({"model": models, "task": "t", "score": scores, "x": values})


def test_a_straight_line_is_predicted_across_llms() -> None:
    table = scored([0.1, 0.2, 0.3, 0.4, 0.5], [1, 2, 3, 4, 5])
    llm = {"m0": "a", "m1": "a", "m2": "b", "m3": "b", "m4": "c"}
    found = permutation.leave_one_llm_out(table, ["x"], llm)
    np.testing.assert_allclose(found["predicted"], found["score"])
    (row,) = permutation.errors(found).to_dict("records")
    assert row["gain"] == pytest.approx(1) and row["baseline"] > 0 and row["n"] == 5


def test_lineage_is_read_from_the_training_record(data_folder: Path) -> None:
    for name, told in {
        "mini-1.5-7B": {"text_model": "t1", "seed": 0},
        "again": {"text_model": "t1", "seed": 1, "llm": "Vicuna-7B", "recipe": "1.5"},
        "retrained": {"text_model": "t2", "llm": "Vicuna-7B", "recipe": "1.5"},
        "far": {"text_model": "t3", "llm": "Llama-3-8B", "recipe": "ViP"},
    }.items():
        (data_folder / "miniatures" / name).mkdir(parents=True)
        (data_folder / "miniatures" / name / "training.json").write_text(json.dumps(told))
    table = lineage.descent(["mini-1.5-7B", "again", "retrained", "far", "1.6-vicuna-7B"])
    related = {name: lineage._relation(table, "mini-1.5-7B", name) for name in table.index[1:]}
    assert related == {
        "again": lineage.SEED, "retrained": lineage.RETRAINED, "far": lineage.OTHER,
        "1.6-vicuna-7B": lineage.OTHER,
    }  # fmt: skip
    assert table["variant"].to_dict() == {
        "mini-1.5-7B": False, "again": True, "retrained": False, "far": False, "1.6-vicuna-7B": False,
    }, "without a card a second language model is told by nothing"  # fmt: skip
    assert lineage._matched(table, "recipe") == [], "a real model is no pair of a miniature"


def test_checkpoints_are_paired_beside_miniatures(ds: xr.Dataset) -> None:
    names = ["mini-1.5-7B", "mini-1.6-vicuna-7B", "1.5-7B", "1.6-vicuna-7B"]
    both = xr.concat([ds.isel(model=[0]).assign_coords(model=[name]) for name in names], "model")
    both = both.drop_vars([name for name in ("llm", "recipe", "family", "parameters") if name in both.coords])
    pairs = [("mini-1.5-7B", "mini-1.6-vicuna-7B"), ("1.5-7B", "1.6-vicuna-7B")]
    for order in (both, both.isel(model=[2, 3, 0, 1])):
        assert set(lineage.matched_pairs(order, lineage.RECIPE)) == set(pairs)
    assert lineage.one_kind(names) == names[2:] and lineage.one_kind(names[:3]) == ["1.5-7B"]
    assert lineage.one_kind([*names[:3], "mini-1.6-mistral-7B"]) == [*names[:2], "mini-1.6-mistral-7B"]


def test_a_model_of_an_unknown_language_model_is_kin_of_none(ds: xr.Dataset) -> None:
    ds = ds.drop_vars("llm") if "llm" in ds.coords else ds
    told = lineage.lineage(ds)["llm"]
    assert told["mini-1.5-7B"] == "Vicuna-7B", "the catalogue knows what the dataset does not tell"
    names = [f"unknown-{place}" if place < 2 else str(name) for place, name in enumerate(ds["model"].values)]
    strange = ds.assign_coords(model=names)
    table = lineage.lineage(strange)
    assert (table["llm"] == "").tolist() == [True, True] + [False] * (len(names) - 2)
    assert lineage._relation(table, "unknown-0", "unknown-1") == lineage.UNKNOWN
    for differs in ("recipe", "llm"):
        assert not any("unknown" in name for pair in lineage._matched(table, differs) for name in pair)
    found = lineage.relations(strange)
    touched = found["group"].str.startswith("unknown") | found["other"].str.startswith("unknown")
    assert touched.any() and (found.loc[touched, "relation"] == lineage.UNKNOWN).all()
    assert not lineage._kin_pairs(found, strange)[["group", "other"]].isin(names[:2]).any(axis=None)
    assert lineage.language_models(strange)["unknown-0"] == "unknown-0"


def test_pairs_differ_in_one_thing(ds: xr.Dataset, data_folder: Path) -> None:
    # without records the coordinates decide
    assert lineage.matched_pairs(ds, lineage.RECIPE) == [("mini-1.5-7B", "mini-1.6-vicuna-7B")]
    assert lineage.matched_pairs(ds, lineage.MODEL_SIZE) == [("mini-1.5-7B", "mini-1.5-13B")]
    assert lineage._series_of("Vicuna-13B") == lineage._series_of("Vicuna-7B") != lineage._series_of("Llama-3-8B")
    found = lineage.changes(ds, [("mini-1.5-7B", "mini-1.6-vicuna-7B")])
    assert list(found["task"]) == ["looktwice", "pope"]
    assert lineage.changes(ds, []).empty


def test_mmbench_is_compared_on_the_rounds_that_both_answered() -> None:
    asked = questions(("round-1", "round-2"), 6, "mmbench")
    parts = [model_dataset(name, asked) for name in ("mini-1.5-7B", "mini-1.6-vicuna-7B")]
    rounds = np.array([sample.condition for sample in asked])
    parts[0]["correct"][:] = np.where(rounds == "round-1", 1.0, 0.0)[None]
    parts[1]["correct"][:] = np.where(rounds == "round-1", 1.0, np.nan)[None]
    ds = xr.concat(parts, "model", data_vars="all", coords="minimal", compat="override", join="outer")
    first, second = scores.answered_by_all(ds, ("mini-1.5-7B", "mini-1.6-vicuna-7B"), "mmbench")
    assert first.values.tolist() == second.values.tolist() == [1] * 6


def test_survey_counts_heads_above_white_pictures(ds: xr.Dataset) -> None:
    found = survey.visual_heads(ds).set_index("model")
    assert set(found.index) == set(LINEAGE) and found["above"].isna().all()
    assert (found[["early", "middle", "late"]].sum(axis=1) == found["strongest"]).all()
    real = model_dataset(pattern=random_pattern(4))
    white = real.copy(deep=True).assign_coords(
        sample=[f"{name}-white" for name in real["sample"].values],
        control=("sample", np.array(["white"] * real.sizes["sample"], dtype=object)),
    )
    lower = np.zeros((4, 4))
    lower[:2] = 1.0
    white["image_log_odds_no_sink"] = white["image_log_odds_no_sink"] - lower[None, :, :, None, None]
    both: xr.Dataset = xr.concat([real, white], "sample", data_vars="minimal", coords="minimal", compat="override")
    assert survey.visual_heads(both)["above"][0] == 8


def test_moments_are_compared_with_the_last() -> None:
    last, first = random_pattern(1), 1 - random_pattern(1)
    parts = [
        model_dataset("mini-1.5-7B", pattern=pattern, noise=0.001).assign_coords(
            model=[f"m@{name}"], training_step=("model", [step])
        )
        for name, step, pattern in (("final-9", 9, last), ("adapter-0", -2, first))
    ]
    table = emergence.moment_table(
        {"m": xr.concat(parts, "model", data_vars="minimal", coords="minimal", compat="override")}
    )
    assert list(table["moment"]) == ["adapter-0", "final-9"]
    assert table["rho"].iloc[0] < -0.9 and table["rho"].iloc[1] == pytest.approx(1)
    assert table["shared"].iloc[1] == 1 and table["top"].iloc[1] > table["top"].iloc[0]


def test_heads_that_read_lists_are_found_again() -> None:
    pattern = random_pattern(1)
    ds = model_dataset("mini-1.5-7B", pattern=pattern)
    rng = np.random.default_rng(0)

    def lists(values: np.ndarray) -> xr.Dataset:
        noisy = np.clip(values[None, :, :, None] + rng.normal(0, 0.02, (1, 4, 4, 30)), 0, 1)
        return xr.Dataset(
            {"asked_weight": (("model", "layer", "head", "sample"), noisy)},
            {"sample": [f"list-{i}" for i in range(30)]},
        )

    text = {"own": lists(pattern), "else": lists(random_pattern(7)), "large": lists(pattern).isel(layer=[0, 1, 2])}
    found = emergence.with_text(ds, text, {"mini-1.5-7B": "own"}, untrained={"own": lists(np.full((4, 4), 0.1))})
    told = found.set_index("kind")
    assert told.loc[emergence.OWN, "rho"] > 0.9 > told.loc[emergence.FRESH, "rho"]
    assert told.loc[emergence.OWN, "lower"] <= told.loc[emergence.OWN, "rho"] <= told.loc[emergence.OWN, "upper"]
    assert told.loc[emergence.OWN, "ceiling"] > 0.9 and "large" not in set(found["text_model"])
    assert emergence.with_text(ds, {}, {}).empty
    with pytest.raises(ParameterError, match="7A"):
        emergence._head_pairs(ds, text, "mini-1.5-7A")
    heads = emergence.all_head_pairs(ds, text, {"mini-1.5-7B": "own"})
    assert len(heads) == 16 and heads["text"].corr(heads["picture"]) > 0.9


def test_a_model_in_a_folder_of_another_name_is_found_beside_others(tmp_path: Path) -> None:
    stored(tmp_path, several(pictures=4))
    (tmp_path / "mini-1.5-7B").rename(tmp_path / "my-run")
    asked = ["mini-1.5-7B", "mini-1.5-13B"]
    assert set(asked) <= set(survey.traced(tmp_path, models=asked)["model"].values.tolist())


def list_store(values: np.ndarray) -> xr.Dataset:
    """Lists read with these weights on the asked words, (layer, head), each with the same tiny noise."""
    noisy = values[None, :, :, None] + np.random.default_rng(0).normal(0, 1e-6, (1, *values.shape, 8))
    return xr.Dataset({"asked_weight": (("model", "layer", "head", "sample"), noisy)}, {"sample": range(8)})


def test_a_second_training_is_no_other_language_model(data_folder: Path) -> None:
    for name, width in (("own", 96), ("own-again", 96), ("else", 80)):
        folder = data_folder / "miniatures" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"hidden_size": width, "vocab_size": len(name)}))
    networks = lineage.networks(["own", "own-again", "else", "unknown"])
    assert networks["own"] == networks["own-again"] != networks["else"] and "unknown" not in networks
    text = {name: list_store(random_pattern(seed)) for seed, name in enumerate(("else", "own", "own-again", "unknown"))}
    ds, grown = model_dataset("mini-1.5-7B", pattern=random_pattern(1)), {"mini-1.5-7B": "own"}
    found = emergence.with_text(ds, text, grown, networks=networks, n_boot=5).set_index("text_model")["kind"]
    assert found.to_dict() == {
        "own": emergence.OWN, "own-again": emergence.AGAIN, "else": emergence.OTHER, "unknown": emergence.OTHER,
    }  # fmt: skip
    assert set(emergence.with_text(ds, text, grown, n_boot=5)["kind"]) == {emergence.OWN, emergence.OTHER}


def test_choices_tell_measure_and_row_apart() -> None:
    """Region weight in the last prompt row alone follows the lists; image weight follows the control's."""
    own, control = np.arange(16.0).reshape(4, 4) / 20, np.arange(16.0)[::-1].reshape(4, 4) / 20
    ds = model_dataset("mini-1.5-7B", pattern=control, noise=1e-6)
    assert ds["query"].values.tolist() == ["first_generated", "last_prompt"]
    ds["region_weight"].loc[{"query": "last_prompt"}] = own[None, :, :, None]
    text = {"own": list_store(own), "other": list_store(control)}
    found = emergence.by_choice(ds, text, {"mini-1.5-7B": "own"}).set_index(["measure", "query"])
    assert list(found.index) == list(emergence.CHOICES)
    expected = [1, -1, -1, -1]
    assert found["own"].tolist() == pytest.approx(expected)
    assert found["control"].tolist() == pytest.approx([-one for one in expected])
    assert emergence.by_choice(ds.drop_vars("image_weight"), text, {"mini-1.5-7B": "own"}).shape[0] == 2
    assert emergence.by_choice(ds, text, {}).empty


def test_benchmarks_of_a_mean_change_are_drawn_by_themselves() -> None:
    """Two benchmarks whose changes spread alike: the mean's interval is about √2 narrower than each one's."""
    samples = [*questions(("plain",), 200, "pope"), *questions(("plain",), 200, "qbench")]
    parts = []
    for name, right in (("few", [0.0, 0.0]), ("many", [0.0, 1.0])):
        part = model_dataset("mini-1.5-7B", samples=samples).assign_coords(model=[name])
        part["correct"][:] = np.tile(right, 200)[None]
        parts.append(part)
    ds = xr.concat(parts, "model", data_vars="all", coords="minimal", compat="override")
    told = lineage.changes(ds, [("few", "many")]).iloc[0]
    assert told["mean_estimate"] == told["difference"] == 0.5
    ratio = (told["upper"] - told["lower"]) / (told["mean_upper"] - told["mean_lower"])
    assert ratio == pytest.approx(2**0.5, rel=0.1)


def test_a_model_of_its_own_shape_has_no_partner(ds: xr.Dataset) -> None:
    own = subset(ds, task="looktwice")
    assert lineage.without_partner(own) == {"mini-1.5-13B": "5 × 5"}
    found = lineage.relations(own)
    assert "mini-1.5-13B" not in {*found["group"], *found["other"]}
