"""Every claim against planted truths: supported, not supported, undecided; what power says; what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from helpers.planted import HEADS, LAYERS, Planted, always, effects_of, late_sweep, lists_of, pattern, world
from visualheads.analysis import claims
from visualheads.analysis.claims import NOT_SUPPORTED, NOT_TESTABLE, SUPPORTED, UNDECIDED, Choice, Evidence
from visualheads.analysis.claims.baseline import known_parts, read_verdicts, recall_power, rules_hash, save_verdicts
from visualheads.analysis.claims.rules import JOINED, MINIATURES, PLANTED, Draws, Part, agreed, all_of, decided
from visualheads.cards import data_folder
from visualheads.errors import ParameterError
from visualheads.studies.evidence import gather

CONDITIONS = ("plain-general", "plain-object", "plain-super", "visual-general", "visual-object", "visual-super")


def null(names: list[str], level: float = 0.0, draws: int = 40) -> xr.Dataset:
    """Heads of untrained networks, all about this level."""
    values = np.random.default_rng(5).normal(level, 0.2, (draws, len(names), LAYERS, HEADS, 2))
    dims = ("draw", "model", "layer", "head", "sample")
    measures = {name: (dims, values) for name in ("image_log_odds", "image_log_odds_no_sink")}
    return xr.Dataset(measures, {"model": names, "layer": range(LAYERS), "head": range(HEADS), "sample": ["a", "b"]})


def looking(white: float, noise: float = 0.02) -> Evidence:
    """White pictures get these log-odds less than real ones; half of the heads look at the picture."""
    weight = np.where(np.arange(HEADS) < 2, 0.8, 0.2) * np.ones((LAYERS, 1))
    models = {"a": Planted(always(weight), white=white, llm="A-7B", noise=noise)}
    return Evidence(traces=world(models), null=null(["a"]))


def placed(early: float, late: float, noise: float = 0.02) -> Evidence:
    """Image weight of the heads before and in the last third."""
    weight = np.repeat([early] * 4 + [late] * 2, HEADS).reshape(LAYERS, HEADS)
    return Evidence(traces=world({"a": Planted(always(weight), white=-3.0, noise=noise)}), null=null(["a"]))


def named(box: float, name: float, noise: float = 0.01) -> Evidence:
    """How much of another pattern is mixed in by the box, and by the object's name."""
    base, boxed, told = pattern(0), pattern(1), pattern(2)

    def weight(condition: str, _task: str) -> np.ndarray:
        shares = box * condition.startswith("visual"), name * (not condition.endswith("general"))
        return base * (1 - max(shares)) + boxed * shares[0] / 2 + told * (max(shares) - shares[0] / 2)

    return Evidence(traces=world({"a": Planted(weight, noise=noise, form="letters")}, CONDITIONS))


def profiled(share: float, noise: float = 0.01) -> Evidence:
    """Two benchmarks whose patterns have this share of their own."""
    weight = lambda _condition, task: pattern(0) * (1 - share) + pattern(1 + len(task)) * share  # noqa: E731
    return Evidence(
        traces=world({"a": Planted(weight, noise=noise, form="letters")}, tasks=("looktwice", "qbench"), pictures=60)
    )


def right(gain: float, noise: float = 0.02) -> Evidence:
    """What right answers add to the concentration of every head."""
    return Evidence(traces=world({"a": Planted(gain=gain, noise=noise)}, pictures=200))


def focused(like: float, noise: float = 0.01) -> Evidence:
    """Concentration goes with image weight, or against it."""
    weight = pattern(0)
    focus = 0.5 + 0.4 * like * (weight - weight.mean()) + 0.2 * (1 - abs(like)) * (pattern(3) - 0.5)
    return Evidence(traces=world({"a": Planted(always(weight), concentration=focus, noise=noise)}))


def caused(share: float, noise: float = 0.02) -> Evidence:
    """Effects that are image weight to this share."""
    weight = pattern(0)
    effects = effects_of(share * weight + (1 - abs(share)) * pattern(9), noise=noise)
    return Evidence(traces=world({"m": Planted(always(weight))}), effects=effects)


def read(words: float, other: float, noise: float = 0.02) -> Evidence:
    """Lists are read as pictures are looked at, and other habits go with it too."""
    weight = pattern(0)
    lists = lists_of(words * weight + (1 - words) * pattern(7), other * weight + (1 - other) * pattern(8), noise)
    return Evidence(traces=world({"a": Planted(always(weight))}), text={"t": lists}, grown_from={"a": "t"})


def sunk(share: float, noise: float = 0.02) -> Evidence:
    """Sinks make this share of what sets heads apart in concentration."""
    ds = world({"a": Planted(sinks=share, noise=noise)})
    bare = ds["concentration_no_sink"] + np.random.default_rng(3).normal(0, noise, ds["concentration_no_sink"].shape)
    told = ds.assign(concentration_no_sink=bare).assign_coords(definition=("model", ["massive activations"]))
    return Evidence(sinks={"a": told.expand_dims(query=["last_prompt", "first_generated"])})


LLMS = ("A", "B", "C", "D", "E")


def predicted(scores: tuple[float, ...], pictures: int = 120) -> Evidence:
    """One model of each of five language models: the image weight of its heads rises from one to the next, and this
    share of its answers is right."""
    models = {
        llm: Planted(always(0.3 + 0.1 * place + 0.2 * (pattern() - 0.5)), right=score, llm=llm)
        for place, (llm, score) in enumerate(zip(LLMS, scores, strict=True))
    }
    return Evidence(traces=world(models, tasks=("looktwice", "pope"), pictures=pictures))


def related(*own: float) -> Evidence:
    """Language models, each tuned twice, whose heads stand in another order in each layer, as lists in words tell. This
    share of a language model's pattern on pictures is its own; the rest is what the heads in these places do in all."""
    habit, common = pattern(20), pattern(21)
    models, text, grown = {}, {}, {}
    for place, share in enumerate(own):
        llm, rng = LLMS[place], np.random.default_rng(place)
        order = np.array([rng.permutation(HEADS) for _ in range(LAYERS)])
        seen = (1 - share) * common + share * pattern(30 + place)
        text[llm] = lists_of(np.take_along_axis(habit, order, 1), np.take_along_axis(1 - habit, order, 1), 0.002)
        for name in (f"{llm}1", f"{llm}2"):
            models[name] = Planted(always(np.take_along_axis(seen, order, 1)), llm=llm)
            grown[name] = llm
    return Evidence(traces=world(models), text=text, grown_from=grown)


CASES: list[tuple[int, str, Callable[[], Evidence]]] = [
    (1, SUPPORTED, lambda: looking(-2.0)),
    (1, NOT_SUPPORTED, lambda: looking(0.5)),
    (1, UNDECIDED, lambda: looking(-float(np.log(2)), noise=0.06)),
    (2, SUPPORTED, lambda: placed(0.9, 0.1)),
    (2, NOT_SUPPORTED, lambda: placed(0.1, 0.9)),
    (2, UNDECIDED, lambda: placed(0.5, 0.4, noise=0.3)),
    (3, SUPPORTED, lambda: right(0.05)),
    (3, NOT_SUPPORTED, lambda: right(-0.05)),
    (3, UNDECIDED, lambda: right(0.0022)),
    (4, SUPPORTED, lambda: named(0.0, 0.9)),
    (4, NOT_SUPPORTED, lambda: named(0.9, 0.9)),
    (4, UNDECIDED, lambda: named(0.0, 0.5, noise=0.2)),
    (5, SUPPORTED, lambda: Evidence(late={"uniform_released": late_sweep(0.0)})),
    (5, NOT_SUPPORTED, lambda: Evidence(late={"uniform_released": late_sweep(0.2)})),
    (5, UNDECIDED, lambda: Evidence(late={"uniform_released": late_sweep(0.05)})),
    (6, SUPPORTED, lambda: predicted((0.2, 0.35, 0.5, 0.65, 0.8))),
    (6, NOT_SUPPORTED, lambda: predicted((0.5, 0.9, 0.1, 0.9, 0.5))),
    (6, UNDECIDED, lambda: predicted((0.3, 0.5, 0.4, 0.6, 0.5), pictures=20)),
    (7, SUPPORTED, lambda: related(1, 1, 1, 1)),
    (7, NOT_SUPPORTED, lambda: related(0, 0, 0, 0)),
    (7, UNDECIDED, lambda: related(0, 0, 0.3, 1)),
    (8, SUPPORTED, lambda: caused(1.0)),
    (8, NOT_SUPPORTED, lambda: caused(-1.0)),
    (8, UNDECIDED, lambda: caused(0.35, noise=0.3)),
    (9, SUPPORTED, lambda: sunk(0.9)),
    (9, NOT_SUPPORTED, lambda: sunk(0.1)),
    (9, UNDECIDED, lambda: sunk(0.5)),
    (10, SUPPORTED, lambda: read(1.0, 0.0)),
    (10, NOT_SUPPORTED, lambda: read(0.0, 1.0)),
    (10, UNDECIDED, lambda: read(0.5, 0.45, noise=0.4)),
    (11, SUPPORTED, lambda: focused(1.0)),
    (11, NOT_SUPPORTED, lambda: focused(-1.0)),
    (11, UNDECIDED, lambda: focused(0.2, noise=0.3)),
    (14, SUPPORTED, lambda: profiled(0.9)),
    (14, NOT_SUPPORTED, lambda: profiled(0.0)),
    (14, UNDECIDED, lambda: profiled(0.22, noise=0.2)),
]


@pytest.mark.parametrize(("number", "verdict", "made"), CASES, ids=[f"{number} {told}" for number, told, _ in CASES])
def test_a_planted_truth_is_found(number: int, verdict: str, made: Callable[[], Evidence]):
    [found] = claims.judge(made(), [number])
    assert found.finding.by_interval == verdict, claims.verdict_table([found])["parts"].tolist()


@pytest.mark.parametrize("number", [6, 7, 12, 13])
def test_what_would_be_needed_is_told(number: int):
    [found] = claims.judge(looking(-2.0), [number])
    assert found.text == NOT_TESTABLE and found.finding.reason


def test_without_evidence_nothing_is_testable():
    verdicts = claims.judge(Evidence())
    assert {one.text for one in verdicts} == {NOT_TESTABLE} and all(one.finding.reason for one in verdicts)
    assert claims.robustness(Evidence(), verdicts).empty


def test_the_same_margin_decides_for_and_against():
    assert [decided(*bounds, 1.0) for bounds in ((1.1, 2.0), (0.0, 0.9), (0.5, 1.5))] == [
        SUPPORTED,
        NOT_SUPPORTED,
        UNDECIDED,
    ]
    assert decided(0.0, 0.9, 1.0, "below") == SUPPORTED and decided(1.1, 2.0, 1.0, "below") == NOT_SUPPORTED
    assert all_of([SUPPORTED, NOT_SUPPORTED]) == NOT_SUPPORTED and all_of([SUPPORTED, UNDECIDED]) == UNDECIDED
    assert agreed([NOT_SUPPORTED] * 2) == NOT_SUPPORTED and agreed([SUPPORTED, NOT_SUPPORTED]) == UNDECIDED


def normal(pictures: int, spread: float, claimed: str = "above") -> Part:
    """A mean over so many pictures."""
    values = np.random.default_rng(0).normal(0.3, spread, pictures)
    mean = lambda draws: (draws.of(pictures) @ values / pictures)[None]  # noqa: E731
    return Part("mean", mean, 0.1, ["a"], ["A"], claimed)


@pytest.mark.long
def test_power_grows_with_the_pictures_and_false_support_stays_rare():
    few, many = claims.Finding([normal(30, 0.5)]), claims.Finding([normal(1000, 0.5)])
    assert few.power < 0.5 < 0.95 < many.power
    by_chance = 2 * (0.05 * 0.95 / PLANTED) ** 0.5  # of so many data sets
    assert not many.parts[0].planted[0.0].any() and many.false_support <= 0.05 + by_chance
    assert claims.Finding([normal(1000, 0.5, "below")]).power > 0.9, "no change is found where there is none"


def test_parts_on_the_same_pictures_are_asked_together():
    one = normal(150, 0.5)
    same, alone = claims.Finding([one, normal(150, 0.5)]), claims.Finding([one])
    assert 0.3 < alone.power < 0.95 and same.power == alone.power, "the same pictures fail both"


def test_power_is_remembered_for_the_same_numbers_alone(tmp_path):
    evidence, other = right(0.05), right(0.06)
    verdicts = claims.judge(evidence, [3])
    saved = save_verdicts(claims.verdict_table(verdicts), tmp_path / "verdicts.json")
    known = known_parts(saved)["3"]
    [again], [changed] = (claims.claim(3).judge(one, Choice()).parts for one in (evidence, other))
    recall_power([again, changed], known)
    assert "planted" in vars(again) and "planted" not in vars(changed)
    assert claims.Finding([again]).power == verdicts[0].finding.power
    told = saved.read_text(encoding="utf-8").replace(rules_hash(), "0" * 16)
    saved.write_text(told, encoding="utf-8")
    assert known_parts(saved) == {}, "other rules have another power"


@pytest.mark.long
def test_the_committed_power_is_that_of_the_rules_and_of_the_shipped_stores(tmp_path):
    path = data_folder() / claims.BASELINE
    assert known_parts(path), "rules changed: run the claims page, and copy data/results/verdicts.json to data"
    own = gather(tmp_path, data_folder() / "full").evidence.by_kind()[MINIATURES]
    [part] = claims.claim(5).judge(own, Choice()).parts
    recall_power([part], known_parts(path)["5"])
    assert "planted" in vars(part), "the shipped stores have other numbers than the committed verdicts"
    simulated = replace(part).planted
    assert all((simulated[times] == part.planted[times]).mean() >= 0.98 for times in simulated)


def test_an_underpowered_claim_is_not_testable():
    few = claims.Finding([normal(30, 0.5)])
    assert few.by_interval in (SUPPORTED, UNDECIDED) and few.verdict == NOT_TESTABLE


def test_drawn_pictures_are_the_same_for_all_who_ask_for_as_many():
    draws = Draws(5)
    np.testing.assert_array_equal(draws.of(20, "a"), draws.of(20, "a"))
    assert (draws.of(20, "a") != draws.of(20, "b")).any() and (draws.of(20, "a").sum(axis=1) == 20).all()
    inner = Draws(50, 9, (draws, 2)).of(20, "a")
    assert not inner[:, draws.of(20, "a")[2] == 0].any(), "only what the planted data set holds is drawn again"


def rows(ds: xr.Dataset, names: np.ndarray) -> xr.Dataset:
    return ds.assign_coords(query=("sample", names))


def test_mixed_attention_rows_are_refused():
    ds = right(0.05).traces
    assert ds is not None
    mixed = rows(ds, np.resize(["first_generated", "last_prompt"], ds.sizes["sample"]))
    for number in (3, 11, 14):
        with pytest.raises(ParameterError, match="row"):
            claims.judge(
                Evidence(traces=mixed.assign_coords(format=("sample", ["letters"] * ds.sizes["sample"]))), [number]
            )
    with pytest.raises(ParameterError, match="query"):
        claims.judge(Evidence(traces=ds.assign_coords(query="first_generated")), [3])


def test_the_model_on_a_real_language_model_is_judged_from_what_is_shipped(tmp_path):
    kinds = gather(tmp_path, data_folder() / "full").evidence.by_kind()
    assert kinds[JOINED].models == ["smol-1.5"] and "smol-1.5" not in kinds[MINIATURES].models
    found = {number: claims.claim(number).judge(kinds[JOINED], Choice()) for number in (1, 5, 8, 10, 11)}
    assert sum(not one.reason for one in found.values()) >= 4
    committed = read_verdicts(data_folder() / claims.BASELINE, "beside")
    for number, one in found.items():
        told = committed[str(number)]
        if one.reason:
            assert told["estimate"] is None, number
            continue
        width = told["upper"] - told["lower"]
        assert one.parts[0].estimate == pytest.approx(told["estimate"], abs=0.02 * width + 1e-6), number


def test_models_of_another_kind_are_judged_beside_and_never_pooled():
    both = {"mini-1.5-7B": Planted(gain=0.05), "smol-1.5": Planted(gain=-0.05, llm="SmolLM2-135M")}
    evidence = Evidence(traces=world(both, pictures=200))
    [own] = claims.judge(evidence, [3])
    assert own.text == SUPPORTED and own.scope.startswith("1 miniatures")
    assert claims.beside(evidence, [3])["verdict"].tolist() == [NOT_SUPPORTED]


@pytest.mark.parametrize(("box", "name", "part"), [(0.0, 0.0, "name"), (0.9, 0.9, "box")])
def test_the_headline_is_that_of_the_part_that_decides(box: float, name: float, part: str) -> None:
    row = claims.verdict_table(claims.judge(named(box, name), [4])).loc[4]
    assert row["by_interval"] == NOT_SUPPORTED and row["part"].startswith(part)
    assert row["lower"] > row["margin"] if part == "box" else row["upper"] < row["margin"]


def test_other_choices_and_left_out_language_models_are_told():
    models = {
        name: Planted(gain=gain, llm=llm) for name, gain, llm in (("a", 0.05, "A"), ("b", 0.04, "B"), ("c", 0.05, "C"))
    }
    evidence = Evidence(traces=world(models, pictures=100))
    told = claims.robustness(evidence, claims.judge(evidence, [3]))
    assert {"concentration", "weighting", "left out", "other language models"} <= set(told["choice"])
    assert (told[told["choice"] == "left out"]["verdict"] == SUPPORTED).all() and told["same"].any()
    assert Choice() == Choice(row="last_prompt")
