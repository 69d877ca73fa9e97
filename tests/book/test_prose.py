"""Sentences against hand-made tables: both tails told, verdicts that match their numbers, words for identifiers."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml

from helpers.model_datasets import model_dataset, questions
from helpers.planted import swept
from helpers.project import ROOT
from visualheads.analysis import benchmarks as comparison
from visualheads.analysis import effects, rankings_vs_effects
from visualheads.book import prose
from visualheads.book.comparisons import COMPARISONS
from visualheads.book.prose import across, benchmarks, emergence, heads, kinship, scale, sinks, steering, training
from visualheads.book.prose import causes as removed
from visualheads.book.prose import cells as across_cells
from visualheads.book.prose import comparison as common
from visualheads.charts import labels
from visualheads.studies import sink_finding
from visualheads.tasks.prompts import RECTANGLE


def above(count: int, total: int = 4) -> xr.Dataset:
    """What `vh.above_null` returns, with the first heads above the null."""
    shape = ("model", "layer", "head")
    chosen = (np.arange(total) < count).reshape(1, 1, total)
    return xr.Dataset({"above_null": (shape, chosen), "excess": (shape, np.where(chosen, 2.0, -1.0))})


def test_the_controls_of_claim_one_are_those_that_were_used() -> None:
    alone, both = above(3), above(1)
    white = heads.nulls(alone)
    assert "3 of 4 heads look" in white and "untrained" not in white
    told = heads.nulls(both, alone)
    assert "3 of 4 heads look" in told and "1 of 4 does: 2 heads attend to what a picture shows" in told
    assert "1 of 4 heads looks" in heads.nulls(above(1))
    assert "1 of 4 does. The largest" in heads.nulls(above(1), above(1))
    ds = model_dataset()
    first, second = prose.paper(ds, alone), prose.paper(ds, both, alone)
    assert (
        "3 of 4 heads look at it more than at a white picture, 0 of 4 more than an even look over all tokens would |"
        in first
        and "untrained" not in first
    )
    assert (
        "; 1 looks at it more than at a white one and than an untrained network's |" in second
        and "untrained network of" in second
    )


def steered(values: dict[tuple[str, float], tuple[float, float]]) -> pd.DataFrame:
    """A steering table: (order, bias) → bounds of the answers' change; margins lie around 0."""
    rows = []
    for (order, bias), (low, high) in values.items():
        for measure in ("accuracy", "margin"):
            bounds = (low, high) if measure == "accuracy" else (-0.1, 0.1)
            excess = bounds if order == "top" else (np.nan, np.nan)
            rows.append({
                "model": "mini-a", "condition": "c", "bias": bias, "order": order, "count": 2, "what": f"{order} 2",
                "measure": measure, "estimate": sum(bounds) / 2, "lower": bounds[0], "upper": bounds[1], "clean": 0.5,
                "excess": sum(excess) / 2, "excess_lower": excess[0], "excess_upper": excess[1],
            })  # fmt: skip
    return pd.DataFrame(rows)


def test_steering_tells_both_tails_bias_by_bias() -> None:
    changes = {
        ("top", 2.0): (-0.4, -0.2),
        ("top", 4.0): (0.1, 0.2),
        ("all", 2.0): (0.1, 0.3),
        ("all", 4.0): (-0.3, -0.1),
    }
    told = steering.answers(steered(changes))
    assert "Shown at bias 4," in told and "drowns" not in told
    assert "| top heads with random ones | 2 | 1 | 0 | 1 | 0 | 0 |" in told
    assert "| all heads with none | 4 | 1 | 0 | 1 | 0 | 0 |" in told
    assert (
        "Of 2 comparisons of top heads with random ones, answers move more towards the object in 1 and less in 1"
        in told
    )
    assert "Of 2 comparisons of all heads with none, answers move towards the object in 1 and away from it in 1" in told


def own_rows(task: str, *figures: str) -> list[dict[str, Any]]:
    return [{"task": task, "figure": name, "estimate": 0.5, "lower": 0.4, "upper": 0.6, "n": 20} for name in figures]


def test_what_needs_no_picture_stands_beside_the_figure_it_belongs_to() -> None:
    found = pd.DataFrame([
        *own_rows("looktwice", "accuracy", benchmarks.REFERENT), *own_rows("pope", "accuracy", "precision", "F1"),
        *own_rows("mmbench", "circular", "vanilla (first round)", benchmarks.ROUNDS),
    ])  # fmt: skip
    score = {"seen": {"n": 80}, "blind": {"accuracy": 0.3}, "question_only": {"accuracy": 0.4}, "chance": 0.25}
    record = {
        "looktwice": {**score, "above_chance": True},
        "pope": {**score, "above_chance": True, "blind_figures": {"accuracy": 0.3, "precision": math.nan, "f1": 0.1}},
        "mmbench": {**score, "above_chance": False, "blind_figures": {"accuracy": 0.3, "circular": 0.12}},
    }
    told = benchmarks.own_figures(found, {"benchmarks": record})
    ends = {line.split("|")[2].strip(): line.split("|", 4)[4].replace("20 |", "") for line in told.splitlines()[2:10]}
    assert ends["accuracy, questions with a referent"].split() == ["25", "|", "30", "|", "40", "|"]
    assert ends["circular"].split() == ["–", "|", "12", "|", "–", "|"]
    assert ends["accuracy, all rounds"].split() == ["25", "|", "30", "|", "40", "|"]
    assert ends["precision"].split() == ["–", "|", "–", "|", "–", "|"] and "| 10 |" in ends["F1"]
    assert "| LookTwice&#45;QA | accuracy | 50.0 (40.0 to 60.0) | 20 | – | – | – |" in told
    assert "accuracy is not clearly above chance and questions alone on MMBench." in told
    assert "The record's intervals are over pictures for MMBench and POPE" in told
    assert "20 of 80 of LookTwice&#45;QA" in told and training.CHAPTER in told


def test_the_chapter_that_is_named_is_there() -> None:
    assert training.CHAPTER in {one.title for one in COMPARISONS}


def test_few_wrong_answers_are_not_compared() -> None:
    ds = model_dataset(samples=questions(("a",), 40))
    few, enough = np.ones((1, 40)), np.ones((1, 40))
    few[0, :9], enough[0, :10] = 0, 0
    tables = [comparison.right_wrong(ds.assign(correct=(("model", "sample"), one)), n_boot=20) for one in (few, enough)]
    assert np.isnan(tables[0]["difference"]).all() and np.isfinite(tables[1]["difference"]).all()
    assert tables[0][["right", "wrong"]].to_numpy().tolist() == [[31, 9]], "counted all the same"
    apart = model_dataset(samples=[*questions(("a",), 20), *questions(("b",), 20)])
    apart["correct"][:] = [[1] * 20 + [0] * 20]
    assert comparison.right_wrong(apart, n_boot=20)["difference"].isna().all(), "no condition has both"
    none = tables[0].assign(right=40, wrong=0)
    told = across.right_wrong(pd.concat([*tables, none]))
    assert "| 30 | 10 |" in told and "of 1 combination of model" in told
    assert "Left out are 2 combinations: 1 had no wrong answer and 1 had too few wrong answers (at least 10" in told


def losses(upper: float) -> pd.DataFrame:
    bounds = {"estimate": 0.0, "lower": -0.03, "upper": upper, "set_lowest": -0.01, "set_highest": 0.25}
    same = {"model": "mini-a", "mode": "zero, after_image", "stage": "late", "measure": "accuracy", "count": 6}
    beyond = {"excess": 0.008, "excess_lower": -0.0003, "excess_upper": 0.015}
    none: dict[str, float] = {name: np.nan for name in effects.EXCESS}
    return pd.DataFrame([
        {**same, "order": order, "sets": sets, "samples": n, **bounds, **(beyond if order == "top" else none)}
        for order, sets, n in (("top", 1, 400), ("random", 5, 400), ("bottom", 1, 64))
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("upper", "shown", "verdict"),
    [(0.018, "to 1.8)", "yes"), (0.0199, "to 1.99)", "yes"), (0.02, "to 2.0)", "open"), (0.0201, "to 2.01)", "open")],
)
def test_numbers_and_verdicts_of_removals_agree(upper: float, shown: str, verdict: str) -> None:
    told = removed.removals(losses(upper))
    [line] = [line for line in told.splitlines() if line.startswith("| <code>")]
    assert "| zero, after the image | 6 | 400, 400, 64 |" in line and "| -1.0 to 25.0 |" in line
    assert shown in line.split("|")[5] and line.endswith(f"| {verdict} |")
    assert "**in miniature**" in told and "the mean over 5 draws of other heads of the same layers" in told
    assert line.split("|")[8] == " 0.80 (-0.03 to 1.50) ", "as many digits as tell the side of 0"
    assert "lies above 0 (none of 1 row)" in told and "below 0 (none)" in told
    assert "A small loss by itself is no evidence" in told
    surely = losses(upper).assign(excess_lower=[0.004, np.nan, np.nan])
    assert "lies above 0 (1 of 1 row)" in removed.removals(surely)
    alone = losses(upper).assign(**dict.fromkeys(effects.EXCESS, np.nan))
    assert "small loss" not in removed.removals(alone) and "| – | " in removed.removals(alone)


def test_the_table_of_losses_tells_questions_and_the_spread_of_draws() -> None:
    sweep = swept(0.25, samples=40)
    sweep["correct"][0, 2, :10] = 0  # the second random draw loses a quarter
    sweep["correct"][0, 0, 20:] = np.nan
    table = effects.loss_table({"zero": sweep}, of=("accuracy",)).set_index("order")
    assert table["samples"].to_dict() == {"top": 20, "random": 40}
    assert table.loc["random", ["set_lowest", "set_highest"]].tolist() == [0, 0.25]


def test_a_best_ranking_is_weighed_by_its_strength_and_by_benchmark() -> None:
    rows = [
        {"mode": "zero, all", "task": task, "effect": "margin", "model": "mini-a", "ranking": name, "spearman": rho,
         "lower": rho - 0.05, "upper": rho + 0.05, "ceiling": 0.8, "within": 0.25 * rho}
        for task, told in {"looktwice": (0.3, 0.1), "pope": (0.08, 0.1)}.items()
        for name, rho in zip(("image_weight", "weight_concentration"), told, strict=True)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    told = across_cells.held(table, rankings_vs_effects.best_rankings(table))
    assert "*image weight* has the highest mean ρ, +0.19, where noise leaves room for 0.80: **a weak relation**" in told
    assert "depth alone makes no agreement, its mean ρ is +0.05: most of its lead is in which layers it names" in told
    assert "weight × concentration has a higher one on POPE: a single best ranking **does not hold**" in told
    useless = table.assign(spearman=table["spearman"].where(table["task"] == "looktwice", [-0.1, -0.2] * 2))
    told_of = across_cells.held(useless, rankings_vs_effects.best_rankings(useless))
    assert "**holds** on all benchmarks, though on 1 of 2 its mean is not above 0." in told_of
    assert "In 1 of the cells the lower bound of the best one's 95 % interval" in told, (
        "on POPE 0.1 − 0.05 is not above 0.08"
    )
    strong = table.assign(spearman=table["spearman"] + 0.4)
    told_strong = across_cells.held(strong, rankings_vs_effects.best_rankings(strong))
    assert "+0.59, where noise leaves room for 0.80: **a moderate relation** (74 % of that room)" in told_strong
    near = table.assign(spearman=0.8)
    assert "**a strong relation** (100 % of that room)" in across_cells.held(
        near, rankings_vs_effects.best_rankings(near)
    )


def test_a_best_ranking_is_told_as_chosen_and_on_how_many_models_it_rests() -> None:
    rho = {"a": {"looktwice": (0.5, 0.1), "pope": (0.4, 0.1)}, "b": {"looktwice": (0.5, 0.1), "pope": (0.1, 0.2)}}
    table = pd.DataFrame([
        {"mode": "zero, all", "task": task, "effect": "margin", "model": model, "ranking": name, "spearman": value,
         "lower": value - 0.05, "upper": value + 0.05, "ceiling": 0.8, "within": 1 - value}
        for model, tasks in rho.items() for task, told in tasks.items()
        for name, value in zip(("gaze", "detection"), told, strict=True)
    ])  # fmt: skip
    told = across_cells.held(table, rankings_vs_effects.best_rankings(table))
    assert "It was picked as the best of 2, which flatters its value." in told
    assert "its mean ρ is +0.62 and *detection* has the highest (+0.88). " in told
    assert "**holds** on all benchmarks. This compares means over 2 models, without an interval" in told
    assert "it is the best on every benchmark in 1 of them taken alone." in told, "in b detection is, on POPE"
    one = table[table["model"] == "a"]
    assert "There is one model, and no interval stands behind this." in across_cells.held(
        one, rankings_vs_effects.best_rankings(one)
    )


@pytest.mark.parametrize(
    ("r2", "words"),
    [
        ([0.3, 0.9], "Below 0.5 (R² is 0.30 in"),
        ([0.62, 0.7], "an R² of 0.62 or more, 62 % or more of the variance of what many heads do together is a sum"),
        ([0.93], "an R² of 0.93, what many heads do together is nearly a sum over them"),
    ],
)
def test_how_far_heads_add_up_is_told_by_degrees(r2: list[float], words: str) -> None:
    columns = {"guess": "many at once", "spearman": 0.5, "overlap": 0.5, "chance": 0.1}
    told = removed.guesses(pd.DataFrame([{"model": "m", **columns, "r2": value} for value in r2]))
    assert words in told and ("nearly" in told) == (min(r2) >= 0.9)


def odds(values: list[float]) -> xr.Dataset:
    """A model of 4 × 4 heads with these log-odds on every prompt."""
    ds = model_dataset().copy(deep=True)
    ds["image_log_odds"][:] = np.array(values).reshape(4, 4)[None, :, :, None, None]
    return ds


def test_a_mixture_stands_beside_the_count_above_null() -> None:
    # 12 heads at −2 ± 0.1, 4 at 3 ± 0.1: the components are the two groups; the null lets through heads 0, 1 and 2
    told = heads.mixture(odds([2.9, 3.1, -2.1, 2.9, 3.1, *[-1.9, -2.1] * 5, -1.9]), above(3, 16))
    assert "mean at -2.00 nats (deviation 0.10), the upper one at +3.00 (0.10)" in told
    assert "The upper component claims 4 of 16 heads (probability above 0.5), the threshold 3 of 16" in told
    assert "2 are named by both. Two components fit better than one (BIC lower by " in told
    assert "look away" not in told and "wide" not in told
    away = heads.mixture(odds([-0.1, -0.3, -4.1, -0.1, -0.3, *[-3.9, -4.1] * 5, -3.9]), above(3, 16))
    assert "but the upper one's mean does not lie above 0" in away and "no group of visual heads" in away


def test_a_mixture_that_fits_no_better_counts_nothing() -> None:
    normal = [-1.86, -1.32, -1.01, -0.78, -0.58, -0.40, -0.24, -0.08, 0.08, 0.24, 0.40, 0.58, 0.78, 1.01, 1.32, 1.86]
    told = heads.mixture(odds(normal), above(3, 16))
    assert "fit no better than one" in told and "do not fall into two groups" in told
    assert "cannot be fitted" in heads.mixture(odds([1.0] * 16), above(3, 16))
    # a narrow group of 12 around 1, four heads far off on both sides: the highest one is given to the wide component
    wide = heads.mixture(odds([*[0.99, 1.0, 1.01] * 4, -9.0, -8.0, -7.0, 9.0]), above(3, 16))
    assert "claims 12 of 16" in wide and "1 head with higher log-odds than some claimed one is given to the" in wide


def shown_heads(weight: list[float], focus: list[float], noise: float = 0.0) -> xr.Dataset:
    """A model of 2 × 2 heads with these image weights and concentrations on every prompt."""
    ds = model_dataset(pattern=np.zeros((2, 2))).copy(deep=True)
    rng = np.random.default_rng(0)
    for name, values in {"image_weight": weight, "concentration": focus}.items():
        ds[name][:] = np.array(values).reshape(2, 2)[None, :, :, None, None] + rng.normal(0, noise, ds[name].shape)
    return ds


def test_untrained_heads_are_told_by_their_spread() -> None:
    trained = shown_heads([0.2, 0.4, 0.6, 0.8], [0.1, 0.1, 0.3, 0.3])  # standard deviations 0.2236 and 0.1
    fresh = shown_heads([0.5, 0.6, 0.6, 0.5], [0.1, 0.12, 0.12, 0.1])  # 0.05 and 0.01
    told = benchmarks.against_untrained(trained, fresh)
    assert "image weight: trained 0.50 (heads from 0.20 to 0.80, standard deviation 0.224), untrained 0.55" in told
    assert "0.22 times as widely over image weight and 0.10 times as widely over concentration" in told
    assert "ρ = 1.00 (corrected to all pictures; trained: 1.00): random weights alone make heads differ" in told
    assert "role" not in told and "alike" not in told
    random = benchmarks.against_untrained(trained, shown_heads([0.5] * 4, [0.1] * 4, noise=0.02))
    assert "random weights alone" not in random, "their order is not stable"


def test_what_marked_patches_cannot_bound_is_said() -> None:
    ds = xr.Dataset(coords={"sample": range(4), "definition": ("model", [sink_finding.BY_ATTENTION])})
    told = sinks.protocol({"sinks": {"mini-a": ds}})
    assert "what they explain is no bound on what sinks do" in told and "could explain" not in told
    assert "no sink does" not in told + str(sink_finding.__doc__)


def test_pooled_intervals_are_told_as_too_narrow() -> None:
    entry = {"seen": {"accuracy": 0.5, "low": 0.4, "high": 0.6, "n": 20}}
    told = training.scores({"mini-a": {"benchmarks": {"looktwice": entry}}})
    assert "Wilson's, which take prompts as independent" in told and "they are too narrow" in told
    assert "one prompt a scene" in told


def test_miniatures_are_named_where_they_are() -> None:
    assert common.in_miniature(["1.5-7B"]) == ""
    assert common.in_miniature(["mini-a", "mini-b"]).startswith("All models here are miniatures")
    assert "mini&#45;a</code> is a miniature, asked about scenes of pictograms" in common.in_miniature(
        ["1.5-7B", "mini-a"]
    )
    assert "over both kinds" in common.in_miniature(["1.5-7B", "mini-a"])
    ds = model_dataset()
    both = xr.concat([ds, ds.assign_coords(model=["mini-1.5-7B-seed1"])], "model")
    told = common.compared(both)
    assert "1 model (" in told and "seed1" not in told and "LookTwice&#45;QA" in told


def test_further_trainings_are_counted_in_pairs() -> None:
    pairs = pd.DataFrame({
        "relation": ["same language model"] * 2, "group": ["mini-1.5-7B"] * 2, "correlation": [0.5, 0.7],
        "other": ["mini-1.5-7B-seed1", "mini-vip-7B"], "within_layers": [0.5, 0.5], "shape": ["8 × 8"] * 2,
        "counted": [False, True],
    })  # fmt: skip
    assert "| same language model | 8 × 8 | 2 | 1 | 1 | 0.60 |" in kinship.families(pairs, None)


def test_shapes_are_told_apart_and_models_without_a_partner_named() -> None:
    pairs = pd.DataFrame({
        "relation": ["same language model"] * 2, "group": ["mini-1.5-7B", "mini-1.5-13B"], "correlation": [0.5, 0.9],
        "other": ["mini-vip-7B", "mini-vip-13B"], "within_layers": [0.5, 0.5], "shape": ["8 × 8", "10 × 10"],
        "counted": [True, False],
    })  # fmt: skip
    told = kinship.families(pairs, None, {"big": "40 × 40"})
    assert "| 8 × 8 | 1 | 0 | 1 | 0.50 |" in told and "| 10 × 10 | 1 | 0 | 0 | 0.90 |" in told
    assert "<code>big</code> (40 × 40)" in told and "In no pair" not in kinship.families(pairs, None, {})


def test_changes_over_all_items_stand_beside_those_of_the_traced_questions() -> None:
    bounds = {"mean_estimate": 0.015, "mean_lower": -0.01, "mean_upper": 0.04}
    heads = {"image_weight": 0.1, "image_log_odds": 0.1, "focus_nats": 0.1, "tokens_one": 64.0, "tokens_other": 143.0}
    found = pd.DataFrame({
        "pair": "a → b", "one": "a", "other": "b", "task": ["looktwice", "pope"], "difference": [0.05, -0.02],
        "lower": [0.01, -0.04], "upper": [0.09, 0.01], "whole": [-0.05, -0.01], **bounds, **heads,
        "pictures_one": np.nan, "pictures_other": np.nan,
    })  # fmt: skip
    told = scale.changes(found, "")
    assert "| 64 → 143 | +1.5 (-1.0 to 4.0) | 1 up, 0 down of 2 | -3.0 |" in told
    assert (
        "other sign in 1 of 2 cases" in told and "questions in 1: a → b on LookTwice&#45;QA (+5.0, 1.0 to 9.0" in told
    )
    assert "**The mean has the other sign over all items** for a → b (+1.5 and -3.0)" in told
    unknown = scale.changes(found.assign(whole=np.nan), "")
    assert "1 up, 0 down of 2 | – |" in unknown and "Over all items" not in unknown


def test_a_tuning_on_less_data_has_its_parents_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "training_record", lambda name: {"parent": "whole"} if name == "part" else {})
    monkeypatch.setattr(
        scale, "checkpoint_config", lambda name: {"vision_feature_layer": -2} if name == "whole" else {}
    )
    assert scale._features("part") == scale._features("whole") == "layer -2" and scale._features("else") == "–"


def test_other_measures_and_rows_stand_beside_that_of_the_claim() -> None:
    found = pd.DataFrame({
        "model": "m", "measure": ["region_weight", "image_weight"], "query": ["last_prompt", "first_generated"],
        "own": [0.5, 0.1], "control": [0.2, np.nan],
    })  # fmt: skip
    told = emergence.choices(found)
    assert "| model | region weight, last prompt row | image weight, first generated row |" in told
    assert "| <code>m</code> | 0.50 (0.20) | 0.10 |" in told and emergence.choices(found.head(0)) == ""


def test_recipes_are_told_with_all_that_differs() -> None:
    pairs = pd.DataFrame({
        "pair": ["x", "y"], "one": ["1.5-7B"] * 2, "other": ["vip-7B", "1.6-vicuna-7B"],
        "tokens_one": [576.0] * 2, "tokens_other": [576.0, 2928.0],
    })  # fmt: skip
    told = scale.recipes(pairs)
    assert "layer &#45;2 |" in told and "concatenated" in told and "| ViP | 576 |" in told
    assert "| 1.6 | 2928 |" in told and told.count("adapter, language model, tower") == 1
    assert scale.recipes(pairs.head(0)) == ""


@pytest.mark.parametrize(
    ("rho", "words"),
    [
        ([0.1, 0.95, 0.97, 1.0], "step 50 of tuning"),
        ([0.95, 0.2, 0.95, 1.0], "step 5 000 of tuning"),
        ([0.95, 0.95, 0.5, 1.0], "only at the end"),
        ([0.95, 0.95, 0.95, 1.0], "before alignment"),
    ],
)
def test_the_last_moment_is_not_compared_with_itself(rho: list[float], words: str) -> None:
    names = ["adapter-0", "tuning-50", "tuning-5000", "final-7000"]
    table = pd.DataFrame({"model": "m", "moment": names, "rho": rho, "top": 0.1, "shared": 0.25})
    told = emergence.moments(table, emergence.chances({"m": xr.Dataset(coords={"layer": range(8), "head": range(8)})}))
    assert f"| 25 % | 9.4 % | {words} |" in told.replace("\N{NO-BREAK SPACE}", " ")


def test_statistics_say_how_many_models_a_test_takes() -> None:
    columns = {"statistic": list(comparison.STATISTICS), "rho": 0.5, "p_value": np.nan, "tasks": 2}
    few = across.statistics(pd.DataFrame({**columns, "models": 3}), pd.DataFrame())
    assert "Not shown yet" in few and "+0.50" not in few
    assert (
        "5 % takes 4 of them (with one benchmark 5), and 0.62 %, the level that stands against 8 statistics tried, 6"
        in few
    )
    enough = across.statistics(pd.DataFrame({**columns, "models": 4, "p_value": 0.2}), pd.DataFrame())
    assert "+0.50" in enough and f"With 4 of them p is {1 / math.factorial(4):.2g} at least" in enough


def test_ties_for_the_best_score_and_visual_heads_are_told() -> None:
    statistics = pd.DataFrame({
        "model": ["a", "b"], "task": "qbench", "image_weight": [0.4, 0.5], "concentration": 0.1,
        "top_concentration": [0.08, 0.14],
    })  # fmt: skip
    scores = pd.DataFrame({"model": ["a", "b"], "group": "qbench", "estimate": 1.0})
    told = across.figure_one(statistics, scores, {"a": (8, 8), "b": (10, 10)})
    assert "<code>a</code> and <code>b</code> on Q&#45;Bench; the visual heads there" in told and "0.08 to 0.14" in told
    assert "6 of 64 in <code>a</code> and 10 of 100 in <code>b</code>" in told


def test_rare_kinds_of_questions_and_limits_are_told_as_such() -> None:
    last = {"step": 9, "loss": 0.1, "seconds": 1.0, "colour": 0.0, "number": 1.0, "object": 0.9, "letters": 0.8}
    records = {"mini-a": {"stages": {"tuning": {"curve": [last], "tested": 256}}, "targets": [
        {"what": "pope above chance", "wanted": 0.5, "found": 0.9, "reached": True},
        {"what": "mmbench blind", "wanted": 0.34, "found": 0.36, "reached": False, "why": "mmbench is small"},
    ]}}  # fmt: skip
    told = training.accuracies(records)
    assert "| colour 0; count, other wording 100; count, named kind 90; any, with options 80 |" in told
    assert "256 pictures or lists that training never uses" in told
    asked = training.targets(records)
    assert "POPE, lower 95 % limit, %" in asked and "MMBench, white pictures, upper 95 % limit, %" in asked
    assert "1 of 2 figures asked for is reached" in asked and "MMBench is small" in asked


def test_scores_name_their_sample_and_all_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(across, "items", lambda _name: {"pope": 900, "mmbench": 20})
    same = {"model": "m", "estimate": 0.5, "lower": 0.4, "upper": 0.6, "chance": 0.5}
    told = across.benchmark_scores(
        pd.DataFrame([{**same, "group": "pope", "n": 144}, {**same, "group": "mmbench", "n": 20}])
    )
    assert "144 of 900 prompts of POPE and 20 questions of MMBench" in told and training.CHAPTER in told


def test_answer_formats_are_told_in_whole_sentences() -> None:
    several = prose.condition_scores(model_dataset())
    assert several.startswith("Answered in free form, accuracy runs from ") and "with 10 questions each." in several
    one = prose.condition_scores(model_dataset(samples=questions(("plain",), 10)))
    assert re.match(r"Answered in free form, [\d.]+ % of 10 questions are right\.$", one)


def test_conditions_are_told_per_answer_format() -> None:
    row = {"model": "m", "kind": "drawing the box", "group": "plain-object", "other": "visual-object"}
    pairs = pd.DataFrame([
        {**row, "format": "free", "shortfall": 0.2, "lower": 0.1, "upper": 0.3, "verdict": "different"},
        {**row, "format": "letters", "shortfall": 0.01, "lower": 0.0, "upper": 0.02, "verdict": "alike"},
    ])  # fmt: skip
    free, letters = common.condition_kinds(pairs).split("\n\n")
    assert free.startswith("*Answered in free form.* For **drawing the box** (1 pair), 0 are alike, 1 differs")
    assert letters.startswith("*Answered with one of the letters A–D.*") and "1 is alike" in letters
    assert "0.200" in free and "0.010" in letters
    assert RECTANGLE.strip() in common.SHORTFALL


def test_a_models_conditions_are_told_per_answer_format() -> None:
    free = model_dataset(samples=questions(("plain-object", "visual-object"), 10))
    n = free.sizes["sample"]
    letters = free.assign_coords(format=("sample", ["letters"] * n), sample=[f"l{i}" for i in range(n)])
    both = xr.concat([free, letters], "sample", data_vars="minimal", coords="minimal", compat="override")
    assert prose.condition_agreement(letters).startswith("Drawing the box")
    assert "free" not in prose.condition_agreement(letters)
    told = prose.condition_agreement(both)
    assert re.search(r"ρ = [\d.]+ in free form .* and ρ = [\d.]+ with letters", told)
    assert "In free form the prompt with the box also says" in told
    [box] = [one for one in prose.findings(both) if one["claim"].startswith("Drawing the box")]
    assert re.search(r"with [\d.]+ in free form and [\d.]+ with letters$", box["finding"])


def test_identifiers_have_words() -> None:
    assert labels.benchmark("looktwice, letters") == "LookTwice-QA, letters" and labels.benchmark("plain") == "plain"
    assert labels.ranking("weight_concentration") == "weight × concentration"
    assert labels.mode("image_knockout, after_image") == "image knockout, after the image"
    table = pd.DataFrame({"task": ["pope"], "ranking": ["image_weight"], "value": [1]})
    assert labels.in_words(table).to_dict("records") == [{"task": "POPE", "ranking": "image weight", "value": 1}]


def test_the_software_has_one_title() -> None:
    title = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["title"]
    for name in ("index", "reproduce"):
        text = Path(ROOT / "book" / f"{name}.md").read_text(encoding="utf-8")
        [entry] = re.findall(r"@software\{.*?^\}", text, re.DOTALL | re.MULTILINE)
        assert f"{{{title}}}" in entry


def test_language_models_that_grew_from_the_same_weights_are_told() -> None:
    table = pd.DataFrame({"text_model": ["a-text", "b-text", "c-text"], "variant": [False, False, True]})
    told = kinship.starts(table, [("a-text", "b-text")]).replace("&#45;", "-")
    assert "<code>a-text</code> and <code>b-text</code> have one shape and one seed" in told
    assert not kinship.starts(table, [("a-text", "c-text")]) and not kinship.starts(table, []), "a control counts not"
