"""Every claim against planted truths: supported, contradicted, undecided, and not testable for want of data."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import xarray as xr

from helpers.planted import HEADS, LAYERS, Planted, always, effects_of, lists_of, pattern, swept, world
from visualheads.analysis import claims, families, lineage
from visualheads.analysis.claims import (
    CONTRADICTED,
    NOT_TESTABLE,
    SUPPORTED,
    UNDECIDED,
    Evidence,
    across_models,
    looking,
)
from visualheads.analysis.claims.across_models import size_of
from visualheads.analysis.claims.verdicts import all_of, decided, non_inferior
from visualheads.errors import ParameterError
from visualheads.heads import permutation

MIX = 0.45
"""Part of image weight in effects of which it explains about half."""
CASES: dict[tuple[int, str], Callable[[], Evidence]] = {}


def case(number: int, verdict: str):
    """Register evidence in which the truth of a claim is planted."""

    def registered(made: Callable[[], Evidence]) -> Callable[[], Evidence]:
        CASES[number, verdict] = made
        return made

    return registered


def traces(models, **settings) -> Evidence:
    return Evidence(traces=world(models, **settings))


def two_families(one: float, other: float, noise: float = 0.02) -> Evidence:
    """White pictures get these log-odds less than real ones, in the first and the second family."""
    return traces(
        {
            "a": Planted(white=-one, llm="A-7B", noise=0.02),
            "b": Planted(white=-other, llm="B-7B", noise=noise),
        }
    )


case(1, SUPPORTED)(lambda: two_families(2.0, 1.0))
case(1, CONTRADICTED)(lambda: two_families(2.0, -1.0))
case(1, UNDECIDED)(lambda: two_families(2.0, 0.1, noise=0.2))


def above_untrained(*extra: int, models: tuple[str, ...] = ("a",)) -> Evidence:
    """A language model whose first heads, `extra` of each model, look at pictures more than any untrained head."""
    planted, fresh = {}, {}
    for name, count in zip(models, extra, strict=True):
        odds = np.zeros((LAYERS, HEADS))
        odds.flat[:count] = 3.0
        planted[name] = Planted(llm="A-7B", noise=0.02)
        fresh[name] = odds
    ds = world(planted)
    untrained = ds.sel(sample=ds["control"].values != "white")
    trained = ds.copy(deep=True)
    for place, name in enumerate(models):
        own = (fresh[name] - 1.5 * (fresh[name] == 0))[:, :, None]
        values = trained["image_log_odds"].values
        values[place] = own + 0.02 * np.random.default_rng(place).normal(size=values.shape[1:])
    level = untrained["image_log_odds"]
    noise = np.random.default_rng(9).normal(0, 0.02, level.shape)
    return Evidence(traces=trained.sel(sample=trained["control"].values != "white"),
                    untrained=untrained.assign(image_log_odds=level.copy(data=noise).expand_dims(draw=20)))  # fmt: skip


def test_one_head_above_an_untrained_network_supports_nothing():
    """Two untrained networks differ by as much half of the time; six heads of one model do not."""
    [one], [six] = (claims.judge(above_untrained(count), [1]) for count in (1, 6))
    assert one.finding.lower > 2 and one.finding.verdict == UNDECIDED
    assert six.finding.verdict == SUPPORTED and six.finding.also["by_chance"] < 0.05
    [picked] = claims.judge(above_untrained(5, 1, 1, models=("a", "b", "c")), [1])
    assert picked.finding.also["by_chance"] == pytest.approx(3 * looking._above_all_others(5, LAYERS * HEADS))


def excess_of_noisy_controls(looks: int) -> dict[str, float]:
    """Eight heads a nat above each of two controls, whose samples are noisier than the model's."""
    rng, ds = np.random.default_rng(4), world({"a": Planted(llm="A-7B")}, pictures=400)

    def valued(heads: np.ndarray, noise: float) -> xr.Dataset:
        shared = rng.normal(0, noise, ds.sizes["sample"])
        return ds.assign(image_log_odds=ds["image_log_odds"].copy(data=heads[None, :, :, None] + shared))

    heads = np.full((LAYERS, HEADS), -3.0)
    heads.flat[:8] = 1.0
    white = valued(heads - 1, 1.5).assign_coords(control=("sample", ["white"] * ds.sizes["sample"]))
    fresh = valued(np.zeros((LAYERS, HEADS)), 1.5)
    fresh = fresh.assign(image_log_odds=fresh["image_log_odds"].expand_dims(draw=20))
    told = looking._excess(valued(heads, 0.3), white, fresh, looks)
    assert told is not None
    return told


def test_noise_of_the_controls_is_no_excess_of_theirs():
    """Such heads are above both, though one of the two is higher in most samples."""
    told = excess_of_noisy_controls(1)
    assert told["above"] == 8
    assert told["lower"] > 0.5 and told["estimate"] == pytest.approx(1.0, abs=0.35)


def test_one_family_of_many_is_judged_at_a_corrected_level():
    one, five = (excess_of_noisy_controls(looks) for looks in (1, 5))
    assert one["surely_to"] == one["upper"] and five["surely_to"] > one["upper"] and five["upper"] == one["upper"]
    assert one["surely_from"] == one["lower"] and five["surely_from"] < one["lower"]


def test_the_family_told_is_one_that_decides(monkeypatch: pytest.MonkeyPatch):
    """Where a family is below for certain, another's lower but uncertain number is not the one told."""
    same = {"above": 0.0, "closest": -1.0, "by_chance": 1.0}
    rows = {
        "a": {"estimate": -0.6, "lower": -1.2, "upper": 0.0, "surely_from": -1.4, "surely_to": 0.2, **same},
        "b": {"estimate": -0.4, "lower": -0.6, "upper": -0.2, "surely_from": -0.7, "surely_to": -0.1, **same},
    }
    told = iter(rows.values())
    monkeypatch.setattr(looking, "_excess", lambda *_: next(told))
    [found] = claims.judge(two_families(2.0, 1.0), [1])
    assert found.finding.verdict == CONTRADICTED and found.finding.where == "b (B-7B)"
    assert (found.finding.lower, found.finding.upper) == (-0.7, -0.1)


def test_without_an_untrained_network_no_chance_is_told():
    [found] = claims.judge(two_families(2.0, 1.0), [1])
    assert np.isnan(found.finding.also["by_chance"])


def strong_layers(*layers: int, noise: float = 0.02, models: int = 8) -> Evidence:
    values = np.full((LAYERS, HEADS), 0.2)
    for layer in layers:
        values[layer, 1] = 0.8
    return traces({f"m{i}": Planted(always(values), noise=noise, llm=f"L{i}-7B") for i in range(models)})


case(2, SUPPORTED)(lambda: strong_layers(0, 2))
case(2, CONTRADICTED)(lambda: strong_layers(4, 5))
case(2, UNDECIDED)(lambda: strong_layers(noise=0.3))


def test_two_heads_of_one_model_may_lie_anywhere_by_chance():
    [found] = claims.judge(strong_layers(0, 2, models=1), [2])
    assert found.finding.lower > 0 and found.finding.also["p_value"] > 0.05
    assert found.finding.verdict == UNDECIDED


def test_models_of_one_language_model_are_one_case_of_chance():
    values = np.full((LAYERS, HEADS), 0.2)
    values[0, 1] = values[2, 1] = 0.8
    kin = traces({f"m{i}": Planted(always(values), llm="L-7B") for i in range(8)})
    [one], [many] = claims.judge(strong_layers(0, 2, models=1), [2]), claims.judge(kin, [2])
    assert many.finding.also["p_value"] == pytest.approx(one.finding.also["p_value"])


def better_when_concentrated(sign: float, steps: float) -> Evidence:
    """Right answers have `sign` more concentration; better models have `steps` more of it."""
    return traces(
        {
            f"m{i}": Planted(
                concentration=pattern(1) * 0.5 + steps * i, gain=sign, right=0.25 + 0.125 * i, llm=f"L{i}-7B"
            )
            for i in range(5)
        },
        pictures=48,  # so that even the best and the worst model give enough right and wrong answers to compare
    )


case(3, SUPPORTED)(lambda: better_when_concentrated(0.05, 0.05))
case(3, CONTRADICTED)(lambda: better_when_concentrated(-0.05, -0.02))
case(3, UNDECIDED)(lambda: better_when_concentrated(0.0, 0.0))


def conditions_change(box: float, name: float, pictures: int = 40, noise: float = 0.02) -> Evidence:
    """How far the drawn box and the object's name move the pattern towards another one."""

    def asked(condition: str, _task: str) -> np.ndarray:
        way, kind = condition.split("-")
        values = pattern(0)
        values = values + box * (way == "visual") * (pattern(2) - pattern(0))
        return values + name * (kind == "object") * (pattern(3) - pattern(0))

    settings = {"conditions": ("plain-general", "visual-general", "plain-object", "visual-object")}
    return traces({"a": Planted(asked, noise=noise)}, pictures=pictures, **settings)


case(4, SUPPORTED)(lambda: conditions_change(0.0, 0.6))
case(4, CONTRADICTED)(lambda: conditions_change(0.8, 0.6))
case(4, UNDECIDED)(lambda: conditions_change(0.0, 0.1, pictures=6, noise=0.4))


def in_two_formats(free: Evidence, letters: Evidence) -> Evidence:
    """The same pictures asked in both answer formats."""
    assert free.traces is not None and letters.traces is not None
    n = letters.traces.sizes["sample"]
    other = letters.traces.assign_coords(format=("sample", ["letters"] * n), sample=[f"letters-{i}" for i in range(n)])
    return Evidence(traces=xr.concat([free.traces, other], "sample", data_vars="minimal"))


@pytest.mark.parametrize(
    ("free", "letters", "verdict"),
    [
        ((0.0, 0.6), (0.0, 0.6), SUPPORTED),
        ((0.8, 0.6), (0.0, 0.6), UNDECIDED),
        ((0.0, 0.6), (0.0, 0.0), UNDECIDED),
        ((0.8, 0.6), (0.0, 0.0), CONTRADICTED),
    ],
)
def test_answer_formats_have_to_agree_about_the_box_and_the_name(free, letters, verdict):
    """Each is told beside the verdict; the number is that of the format in which the box changes most."""
    [found] = claims.judge(in_two_formats(conditions_change(*free), conditions_change(*letters)), [4])
    told = found.finding
    assert told.verdict == verdict
    assert set(told.table["format"]) == {"free", "letters"}
    if free[0]:
        assert told.where == "free" and told.estimate == told.also["free_box"] > 0.05 > told.also["letters_box"]
    assert told.also["box_alike"] == 2 - (free[0] > 0) and told.also["name_different"] == 1 + (letters[1] > 0)


def test_a_format_without_both_kinds_of_pairs_does_not_speak():
    letters = conditions_change(0.8, 0.6)
    assert letters.traces is not None
    kept = np.flatnonzero(letters.traces["condition"].values != "visual-general")
    kept = kept[letters.traces["condition"].values[kept] != "visual-object"]
    one = in_two_formats(conditions_change(0.0, 0.6), Evidence(traces=letters.traces.isel(sample=kept)))
    [found] = claims.judge(one, [4])
    assert found.finding.verdict == SUPPORTED and found.finding.also["formats"] == 1


case(5, SUPPORTED)(lambda: Evidence(sweeps={"zero, all": swept(0.0), "mean, all": swept(0.0)}))
case(5, CONTRADICTED)(lambda: Evidence(sweeps={"zero, all": swept(0.0), "mean, all": swept(0.3)}))


def test_few_questions_show_no_heads_to_be_harmless():
    """No answer of 64 changes: as many as one in 18 may, unseen. Of 400, one in 109."""
    [few], [many] = (claims.judge(Evidence(sweeps={"zero, all": swept(0.0, samples=n)}), [5]) for n in (64, 400))
    assert few.finding.verdict == UNDECIDED and few.finding.upper == pytest.approx(1 - 0.025 ** (1 / 64))
    assert many.finding.verdict == SUPPORTED


case(5, UNDECIDED)(lambda: Evidence(sweeps={"zero, all": swept(0.02, samples=100)}))


def predicted(weights: list[float], right: list[float]) -> Evidence:
    """One model per language model: mean image weight, share of right answers."""
    return traces(
        {
            f"m{i}": Planted(always(np.full((LAYERS, HEADS), weight)), llm=f"L{i}-7B", right=share, noise=0.001)
            for i, (weight, share) in enumerate(zip(weights, right, strict=True))
        }
    )


case(6, SUPPORTED)(lambda: predicted([0.1, 0.2, 0.3, 0.5, 0.6, 0.8], [0.125, 0.25, 0.375, 0.625, 0.75, 1.0]))
case(6, CONTRADICTED)(lambda: predicted([0.1, 0.11, 0.5, 0.89, 0.9], [0.5, 0.625, 1.0, 0.625, 0.5]))
case(6, UNDECIDED)(lambda: predicted([0.1, 0.2, 0.3, 0.5, 0.6, 0.8], [0.5, 0.25, 0.5, 0.375, 0.75, 0.5]))


def kin(shared_by: str, recipes: int = 3) -> Evidence:
    """Three language models × recipes; the pattern is the language model's, the recipe's, or its own."""
    models = {}
    for a in range(3):
        for b in range(recipes):
            seed = {"llm": a, "recipe": b, "none": recipes * a + b}[shared_by]
            models[f"m{a}{b}"] = Planted(always(pattern(10 + seed)), llm=f"L{a}-7B", recipe=f"R{b}")
    return traces(models, pictures=8)


case(7, SUPPORTED)(lambda: kin("llm"))
case(7, CONTRADICTED)(lambda: kin("recipe", recipes=4))
case(7, UNDECIDED)(lambda: kin("none"))


def causes(effect: np.ndarray, noise: float = 0.02) -> Evidence:
    return Evidence(traces=world({"m": Planted()}), effects=effects_of(effect, noise))


case(8, SUPPORTED)(lambda: causes(pattern(0)))
case(8, CONTRADICTED)(lambda: causes(-pattern(0)))
case(8, UNDECIDED)(
    lambda: Evidence(
        traces=world({"m": Planted(noise=0.3)}, pictures=5), effects=effects_of(MIX * pattern(0) + pattern(5))
    )
)


def with_sinks(share: float, noise: float = 0.02) -> Evidence:
    return traces({"a": Planted(sinks=share, noise=noise), "b": Planted(sinks=None)})


def test_harm_in_one_of_many_cells_has_to_be_surer():
    """One mode in twenty loses enough to look harmful by itself, and not among twenty."""
    harmless = {f"{mode}, {place}": swept(0.0) for mode in ("mean", "uniform") for place in ("all", "after_image")}
    alone = Evidence(sweeps={"zero, all": swept(0.1, samples=60)})
    among = Evidence(sweeps={"zero, all": swept(0.1, samples=60), **harmless})
    [[one], [many]] = [claims.judge(evidence, [5]) for evidence in (alone, among)]
    rows = [found.finding.table.set_index("mode").loc["zero, all"] for found in (one, many)]
    assert rows[0]["surely_from"] == rows[0]["lower"] == rows[1]["lower"] > rows[1]["surely_from"]
    assert many.finding.also["cells"] == 5


def test_a_list_reading_model_needs_another_trained_one_beside_it():
    own = {"own": lists_of(pattern(0), 0.02)}
    fresh = {"own": lists_of(pattern(7), 0.02)}
    evidence = Evidence(traces=world({"m": Planted()}), text=own, text_untrained=fresh, grown_from={"m": "own"})
    [found] = claims.judge(evidence, [10])
    assert found.finding.lower > 0 and found.finding.verdict == UNDECIDED


def test_a_second_training_is_a_control_but_no_other_language_model(monkeypatch):
    evidence = grown(pattern(0), pattern(7))
    monkeypatch.setattr(across_models, "networks", lambda names: dict.fromkeys(names, "one network"))
    [told] = claims.judge(evidence, [10])
    assert told.finding.also["others"] == 0 and told.finding.verdict == UNDECIDED
    assert told.finding.also["again"] == told.finding.also["control"]


def test_what_all_items_tell_stands_beside_the_traced_questions(monkeypatch):
    shares = {"m15": {"looktwice": 0.5}, "m16": {"looktwice": 0.4}}
    monkeypatch.setattr(families, "recorded_scores", shares.get)
    [told] = claims.judge(recipes(0.25, 0.75), [12])
    assert told.finding.also["whole"] == pytest.approx(-0.1)
    monkeypatch.setattr(families, "recorded_scores", lambda _: {})
    [told] = claims.judge(recipes(0.25, 0.75), [12])


def test_two_lists_that_read_alike_are_not_told_apart():
    """A text model and its control read lists with noise of their own around one pattern: neither is ahead."""
    told = []
    for seed in range(12):
        around = [pattern(0) + 0.5 * pattern(300 + 2 * seed + i) for i in range(2)]
        [found] = claims.judge(grown(*around, noise=0.005), [10])
        told.append(found.finding.verdict)
    assert told.count(UNDECIDED) >= 10, told


def test_a_single_head_above_an_untrained_network_may_be_chance():
    """One of many exchangeable heads lies above all of as many others half of the time; five do in one of 32 cases."""
    assert looking._above_all_others(0, 64) == 1
    assert looking._above_all_others(1, 64) == pytest.approx(0.5)
    assert looking._above_all_others(5, 1024) == pytest.approx(1 / 32, rel=0.01)
    draws = np.random.default_rng(0).random((4000, 2, 8))
    two = (draws[:, 0] > draws[:, 1].max(axis=1)[:, None]).sum(axis=1) >= 2
    assert looking._above_all_others(2, 8) == pytest.approx(two.mean(), abs=0.02)


def test_what_all_heads_lose_with_sinks_explains_no_surplus():
    """Every head loses as much concentration without sinks: those above the others stay as far above."""
    evidence = with_sinks(0.0)
    ds = evidence.traces
    lower = ds.assign(concentration_no_sink=ds["concentration_no_sink"] - 0.15)
    [found] = claims.judge(replace(evidence, traces=lower), [9])
    assert found.finding.estimate == pytest.approx(0, abs=0.01) and found.finding.verdict == CONTRADICTED


def test_what_stands_for_sinks_decides_nothing_about_sinks():
    bare, told = traces({"b": Planted(sinks=None)}), traces({"b": Planted(sinks=1.0)}).traces
    stand_in = told.assign(definition=("model", ["background"]))
    [found] = claims.judge(replace(bare, sinks={"b": stand_in}), [9])
    assert found.finding.verdict == NOT_TESTABLE and "none of 1 models has sink dimensions" in found.finding.reason
    both = traces({"a": Planted(sinks=0.0), "b": Planted(sinks=None)})
    [alone], [beside] = claims.judge(both, [9]), claims.judge(replace(both, sinks={"b": stand_in}), [9])
    assert alone.finding.estimate == beside.finding.estimate and beside.finding.also["models"] == 2


def test_random_heads_decide_nothing_about_heads():
    """Heads that are strong, concentrated or early by chance alone: fixed pictures make any number look certain."""
    told: dict[int, list[str]] = {2: [], 11: []}
    for seed in range(12):
        planted = Planted(always(pattern(100 + seed)), concentration=pattern(200 + seed), noise=0.005)
        for found in claims.judge(traces({"m": planted}, pictures=12), [2, 11]):
            told[found.claim.number].append(found.finding.verdict)
    assert all(verdicts.count(UNDECIDED) >= 10 for verdicts in told.values()), told


def test_models_beside_miniatures_are_judged_without_them():
    """A miniature never enters the mean of a model; where only miniatures can be judged, the verdict says so."""
    real, small = Planted(right=0.5, recipe="1.5"), Planted(right=0.25, recipe="1.6", tokens=100)
    many = Planted(right=0.75, recipe="1.6", tokens=2340)
    models = {"m": real, "mini-a": real, "mini-b": small}
    [found] = claims.judge(traces(models, pictures=64), [12])
    assert found.text == "contradicted in miniature"
    [found] = claims.judge(traces(models | {"n": many}, pictures=64), [12])
    assert found.text == SUPPORTED and found.finding.estimate == pytest.approx(0.25)
    [found] = claims.judge(traces({"m": real, "n": replace(many, tokens=1900)}, pictures=64), [12])
    assert found.finding.verdict == NOT_TESTABLE and "2000" in found.finding.reason


case(9, SUPPORTED)(lambda: with_sinks(0.95))
case(9, CONTRADICTED)(lambda: with_sinks(0.1))
case(9, UNDECIDED)(lambda: with_sinks(0.5, noise=0.3))


def grown(own: np.ndarray, other: np.ndarray, noise: float = 0.02) -> Evidence:
    return Evidence(
        traces=world({"m": Planted(noise=noise)}),
        text={"own": lists_of(own, noise), "other": lists_of(other, noise)},
        grown_from={"m": "own"},
    )


case(10, SUPPORTED)(lambda: grown(pattern(0), pattern(7)))
case(10, CONTRADICTED)(lambda: grown(-pattern(0), pattern(0)))
case(10, UNDECIDED)(lambda: grown(pattern(7), pattern(8), noise=0.5))


def focused(concentration: np.ndarray, noise: float = 0.02) -> Evidence:
    return traces({"a": Planted(concentration=concentration, noise=noise)})


case(11, SUPPORTED)(lambda: focused(pattern(0)))
case(11, CONTRADICTED)(lambda: focused(1 - pattern(0)))
case(11, UNDECIDED)(lambda: focused(np.full((LAYERS, HEADS), 0.5), noise=0.2))


def recipes(few: float, many: float, pictures: int = 64) -> Evidence:
    return traces(
        {
            "m15": Planted(right=few, tokens=576, recipe="1.5"),
            "m16": Planted(right=many, tokens=2340, recipe="1.6"),
        },
        pictures=pictures,
    )


case(12, SUPPORTED)(lambda: recipes(0.25, 0.75))
case(12, CONTRADICTED)(lambda: recipes(0.75, 0.25))
case(12, UNDECIDED)(lambda: recipes(0.5, 0.53125))


def profiles(apart: float, pictures: int = 40, noise: float = 0.02) -> Evidence:
    def asked(_condition: str, task: str) -> np.ndarray:
        return pattern(0) + apart * (task == "pope") * (pattern(3) - pattern(0))

    return traces({"a": Planted(asked, noise=noise)}, tasks=("looktwice", "pope"), pictures=pictures)


case(14, SUPPORTED)(lambda: profiles(0.7))
case(14, CONTRADICTED)(lambda: profiles(0.0))
case(14, UNDECIDED)(lambda: profiles(0.0, pictures=16, noise=0.6))


@pytest.fixture(autouse=True)
def _records(monkeypatch):
    """Made-up models have no checkpoint."""
    monkeypatch.setattr(lineage, "training_record", lambda _name: {})


@pytest.mark.parametrize(("number", "verdict"), CASES, ids=lambda value: str(value))
def test_a_planted_truth_is_found(number, verdict):
    [found] = claims.judge(CASES[number, verdict](), [number])
    told = found.finding
    assert told.verdict == verdict, f"{told.estimate:.3f} [{told.lower:.3f}, {told.upper:.3f}] {told.reason}"
    assert np.isfinite([told.estimate, told.lower, told.upper]).all()
    assert told.lower - 1e-9 <= told.estimate <= told.upper + 1e-9
    assert not told.reason
    assert len(told.table)


def test_every_claim_has_all_three_truths():
    verdicts = (SUPPORTED, CONTRADICTED, UNDECIDED)
    numbers = {one.number for one in claims.declared()} - {13}  # which no model here can test
    assert set(CASES) == {(number, verdict) for number in numbers for verdict in verdicts}


def test_without_evidence_nothing_is_testable_and_the_reason_is_told():
    table = claims.verdict_table(claims.judge(Evidence()))
    assert table.index.tolist() == list(range(1, 15))
    assert set(table["verdict"]) == {NOT_TESTABLE}
    assert table["reason"].str.len().min() > 20
    assert table["estimate"].isna().all()


@pytest.mark.parametrize("number", [1, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14])
def test_a_lone_model_without_controls_tests_little(number):
    evidence = traces({"m": Planted(right=1.0)}, pictures=3)
    [found] = claims.judge(evidence, [number])
    assert found.finding.verdict == NOT_TESTABLE
    assert found.finding.reason


def test_shuffled_heads_tell_a_correlation_from_chance():
    layer = np.repeat(np.arange(4), 5)
    rising = np.arange(20.0)
    one = permutation.Scored("L", rising, rising**2, layer)
    more, less = permutation.correlated([one], within=False)
    assert more == pytest.approx(1 / (1 + permutation.N_SHUFFLED)) and less == 1
    depth = permutation.Scored(
        "L", layer + 0.1 * np.tile([0, 1, 2, 3, 4], 4), layer - 0.1 * np.tile([2, 0, 4, 1, 3], 4), layer
    )
    assert (
        permutation.correlated([depth], within=False)[0]
        < 0.01
        < 0.1
        < min(permutation.correlated([depth], within=True))
    )
    twice = permutation.correlated([one, replace(one, other=rising)], within=False)
    assert twice[0] == pytest.approx(1 / (1 + permutation.N_SHUFFLED))
    noise = np.random.default_rng(1).permutation(rising)
    ahead = permutation.exchanged([(one, [noise])])
    assert ahead[0] < 0.01 and ahead[1] > 0.99
    assert permutation.exchanged([(one, [one.one])]) == (1, 1)
    assert permutation.exchanged([(one, [noise])], by_layer=True)[0] > 0.05, "four layers can be exchanged in 16 ways"
    behind = replace(one, one=noise, other=rising)
    assert permutation.exchanged([(behind, [rising, noise])])[1] < 0.01


def test_the_hardest_of_many_controls_is_no_evidence_against_the_own_model():
    """One pattern with noise, its own and those of four controls: the best of four is often ahead, by chance."""
    rng, small = np.random.default_rng(0), 0
    for _ in range(60):
        scores = rng.normal(size=(6, 40))
        one = permutation.Scored("L", scores[0], scores[1], np.repeat(np.arange(5), 8))
        small += permutation.exchanged([(one, list(scores[2:]))])[1] <= 0.05
    assert small <= 8


def test_sentences_beside_a_verdict_name_numbers_that_judges_find():
    """A misspelt name would leave its sentence out for ever."""
    names = {one.number: set() for one in claims.declared()}
    for (number, _), evidence in CASES.items():
        [verdict] = claims.judge(evidence(), [number])
        names[number] |= {*verdict.finding.also, "where"}
    optional = {"white", "white_lower", "white_upper", "second_training", "whole", "image_weight_first_generated"}
    optional |= {"image_weight_first_generated_control", "format", "free_region", "letters_region", "letters_box"}
    optional |= {"letters_naming"}
    for one in claims.declared():
        wanted = {name for text in one.beside for name in re.findall(r"{{ (\w+)", text)}
        assert wanted - optional <= names[one.number], one.number


def test_claims_are_declared_whole():
    numbers = [one.number for one in claims.declared()]
    assert numbers == list(range(1, 15)) and {one.judge for one in claims.declared()} == {
        judge for judge, _ in claims.JUDGES.values()
    }
    for one in claims.declared():
        assert all((one.statement, one.estimate, one.unit, one.control, one.rule, one.change)), one.number
        assert "contradicted" in one.rule and "supported" in one.rule
    assert claims.claim(5).number == 5
    with pytest.raises(ParameterError, match="15"):
        claims.claim(15)


def test_miniatures_are_said_to_be_miniatures():
    [found] = claims.judge(CASES[5, SUPPORTED](), [5])
    assert found.text == "supported in miniature"
    [found] = claims.judge(CASES[11, SUPPORTED](), [11])
    assert found.text == "supported"
    assert claims.judge(Evidence(), [5])[0].text == NOT_TESTABLE


def test_rules():
    assert [decided(0.1, 0.2), decided(-0.2, -0.1), decided(-0.1, 0.1)] == [SUPPORTED, CONTRADICTED, UNDECIDED]
    assert decided(float("nan"), float("nan")) == UNDECIDED
    assert [non_inferior(-0.1, 0.01, 0.02), non_inferior(0.03, 0.1, 0.02), non_inferior(0.0, 0.1, 0.02)] == [
        SUPPORTED, CONTRADICTED, UNDECIDED,
    ]  # fmt: skip
    assert all_of([SUPPORTED, SUPPORTED]) == SUPPORTED
    assert all_of([SUPPORTED, CONTRADICTED]) == CONTRADICTED
    assert all_of([SUPPORTED, UNDECIDED]) == UNDECIDED
    assert all_of([]) == UNDECIDED


def test_sizes_are_read_off_names():
    names = ("Vicuna-7B", "Vicuna-13B", "Llama-3-8B", "Phi-3-mini-3.8B", "Mistral-7B-v0.2")
    assert [size_of(name) for name in names] == [7, 13, 8, 3.8, 7]
    assert np.isnan(size_of("gpt"))


def test_models_that_were_asked_different_questions_are_judged_on_their_own() -> None:
    def both(**planted: Any) -> xr.Dataset:
        ds = world({"m": Planted(**planted), "n": Planted(**planted)}, tasks=("looktwice", "pope"))
        asked = (ds["model"] == "m") == (ds["task"] == "looktwice")
        return ds.assign(
            {name: values.where(asked) for name, values in ds.data_vars.items() if values.dtype.kind in "fi"}
        )

    evidence = claims.Evidence(traces=both(white=-1.0), untrained=both(weight=always(np.full((LAYERS, 4), 0.1))))
    [verdict] = claims.judge(evidence, [1])
    assert verdict.finding.table["model"].tolist() == ["m", "n"]
