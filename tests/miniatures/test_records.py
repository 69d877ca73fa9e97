"""What training leaves in the records of miniatures, and what cards and the chapter tell of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from PIL import Image

from visualheads.analysis import models
from visualheads.book.prose import training as chapter
from visualheads.cards import miniature_folder
from visualheads.miniatures import architectures, asked, card, evaluation, goals, questions, train, training
from visualheads.tasks import task
from visualheads.tasks.sample import Sample

SHIPPED = [name for name in architectures.MINIATURES if (miniature_folder(name) / "training.json").is_file()]


def record_of(name: str) -> dict[str, Any]:
    return json.loads((miniature_folder(name) / "training.json").read_text(encoding="utf-8"))


def test_prompts_about_one_picture_are_drawn_together() -> None:
    right = [True] * 20 + [False] * 20
    alone = evaluation.score(right, [str(number) for number in range(40)])
    assert alone == evaluation.score(right), "every prompt has its own picture"
    together = evaluation.score(right, [str(number // 4) for number in range(40)])
    assert together["accuracy"] == 0.5 and together["n"] == 40 and together["pictures"] == 10
    assert together["high"] - together["low"] > 1.5 * (alone["high"] - alone["low"])


def test_shipped_questions_tell_their_kind() -> None:
    expected = {
        "pope": {"exists"},
        "mmbench": {"which", "number", "colour", "location", "relation"},
        "seedbench": {"which", "number", "colour", "location", "relation"},
        "qbench": {"distortion", "quality", "appearance"},
        "looktwice": {"general", "object", "super"},
    }
    for name, wanted in expected.items():
        assert {evaluation.kind_of(sample) for sample in task(name).samples()} == wanted
    assert evaluation.kind_of(Sample("a", Image.new("RGB", (4, 4)), "Why?", "so")) == ""


def test_answers_are_scored_by_kind() -> None:
    samples = task("seedbench").samples(format="letters")
    told = [s.answer if evaluation.kind_of(s) != "colour" else "A" for s in samples]
    found = evaluation.answered_scores(samples, told, samples, ["A"] * len(samples))
    assert {kind: entry["above_chance"] for kind, entry in found["kinds"].items()} == {
        kind: kind != "colour" for kind in found["kinds"]
    }
    assert sum(entry["seen"]["n"] for entry in found["kinds"].values()) == found["seen"]["n"] == 200
    text = goals.unlearned({"m": {"benchmarks": {"seedbench": found}}})
    assert "*colour* (above in 0 of 1 scores)" in text and "*which*" not in text
    told_of = chapter.kinds({"mini-a": {"benchmarks": {"seedbench": found}}})
    assert "colour, % (chance 25, 40 prompts)" in told_of and "| **25 (" in told_of
    assert "| seedbench | colour | 25.0 (" in card.kind_table({"seedbench": found})


@pytest.mark.parametrize("name", ["mini-1.5-7B", "mini-vip-7B", "mini-1.6-vicuna-7B"])
def test_the_parts_that_tuning_trains_are_told_by_the_code_that_trains_them(name: str) -> None:
    recipe = architectures.miniature(name).recipe
    parts = training.trainable(architectures.build_empty(name), recipe)
    assert parts == ["adapter", "language model", *(["tower"] if recipe == "1.6" else [])]
    assert models.TRAINED_PARTS["ViP" if recipe == "vip" else recipe] == ", ".join(parts)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_records_tell_what_their_figures_are_over(name: str) -> None:
    record = record_of(name)
    assert "asked" in record, "a record of an earlier version: evaluate the checkpoint again and write its card anew"
    for told in record["stages"].values():
        for figure, answers in told["answers"].items():
            right = told["curve"][-1][figure] * answers
            assert right == pytest.approx(round(right), abs=1e-3), "a share of so many answers"
    assert record["trainable"] and set(record["asked"]) == {"text", "tuning"}
    assert goals.above({name: record})["which"][0] == 2, "a kind that is learned"


def test_answers_of_measurements_are_counted_by_drawing_again() -> None:
    record, recipe = record_of("mini-1.5-7B"), architectures.miniature("mini-1.5-7B")
    schedules = train.schedules_of(recipe.name, training.Plan())
    for (stage, told), schedule in zip(record["stages"].items(), schedules, strict=True):
        if stage != "tower":
            assert asked.measured(recipe, stage, schedule) == told["answers"]
    assert sum(record["stages"]["tuning"]["answers"].values()) == schedules[-1].tested


def test_shares_of_kinds_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "DRAWN", 60)
    plan, recipe = training.Plan(), architectures.miniature("mini-1.5-7B")
    for shares in asked.shares(recipe, plan.text, plan.tuning).values():
        assert set(shares) == set(questions.WEIGHTS) and sum(shares.values()) == pytest.approx(1)
    assert 0.7 < asked.boxed_share(plan.tuning) < 0.9


def test_what_stages_cost_and_measured_is_told() -> None:
    stage = {"curve": [{"step": 1, "loss": 1.0, "object": 0.5}], "steps": 9, "batch": 4, "seconds": 3600.0}
    whole = {"text_model": "t", "stages": {name: stage for name in ("tower", "t", "alignment", "tuning")}}
    told = chapter.costs({"mini-a": whole, "mini-b": whole})
    assert told.count("(shared)") == 2 and "took 6.0 hours" in told
    counted = {**stage, "answers": {"object": 20}}
    assert "count, named kind 50 (30 to 70; 20)" in chapter.accuracies({"mini-a": {"stages": {"tuning": counted}}})


def test_the_most_frequent_answer_without_a_picture_is_told() -> None:
    picture = Image.new("RGB", (4, 4))
    samples = [Sample(str(number), picture, "q", answer) for number, answer in enumerate("3330")]
    most = evaluation.most_frequent(samples, ["0", "0", "0", "1"])
    assert most == {"text": "0", "share": 0.75, "right": 0.25}
    record = {"scores": {"plain-object/free": {"blind_answer": most}}}
    assert "“0” (75.0 % of the answers; right for 25.0 % of the questions)" in goals.blind_answers({"a": record})
    assert "in 2 of 2 miniatures" in goals.blind_answers({"a": record, "b": record}) and not goals.blind_answers({})
