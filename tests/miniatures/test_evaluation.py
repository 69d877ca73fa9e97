"""Scores with their intervals and controls, and what is asked of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from PIL import Image
from transformers import AutoConfig

from visualheads.cards import miniature_folder
from visualheads.miniatures import architectures, card, evaluation, questions
from visualheads.tasks import task
from visualheads.tasks.sample import Sample


def test_scores_carry_wilson_intervals():
    found = evaluation.score([True] * 8 + [False] * 2)
    assert found["accuracy"] == 0.8
    assert found["low"] == pytest.approx(0.4902, abs=1e-3)
    assert found["high"] == pytest.approx(0.9433, abs=1e-3)


def test_what_was_asked_for_is_held_against_what_was_found():
    good = {"seen": {"accuracy": 0.9}}
    scores = {f"{name}/{form}": good for name in ("plain-object", "plain-super") for form in evaluation.FORMATS}

    def entry(low: float, high: float) -> dict[str, Any]:
        blind = {"accuracy": (low + high) / 2, "low": low, "high": high, "n": 100}
        return {
            "seen": {"low": 0.7},
            "blind": blind,
            "question_only": {"accuracy": 0.3},
            "chance": 0.25,
            "above_chance": True,
        }

    record = {"scores": scores, "benchmarks": {"a": entry(0.1, 0.34), "b": entry(0.28, 0.36), "c": entry(0.5, 0.6)}}
    told = {one["what"]: one for one in evaluation.targets(record, marked=False)}
    assert told["plain-object/free"]["reached"] and "visual-general/free" not in told
    assert told["a blind"]["reached"] and told["a blind"]["wanted"] == pytest.approx(0.35)
    assert not told["b blind"]["reached"]
    assert not told["c blind"]["reached"]

    scores |= {f"visual-general/{form}": {"seen": {"accuracy": 0.75}} for form in evaluation.FORMATS}
    told = {one["what"]: one for one in evaluation.targets(record, marked=True)}
    assert not told["visual-general/free"]["reached"] and told["visual-general/free"]["wanted"] == 0.8


def test_answers_that_are_one_off_are_counted_in_digits_and_letters():
    picture = Image.new("RGB", (4, 4))
    free = [Sample("a", picture, "How many?", "3")] * 5
    assert evaluation.one_off(free, ["2", "4", "3", "5", "cars"]) == 2
    letters = [Sample("a", picture, "How many?", "B", choices=("4", "3", "none", "1"))] * 5
    assert evaluation.one_off(letters, ["A", "B", "C", "D", "2"]) == 2, "a number instead of a letter is read as one"


def test_prompts_about_one_picture_are_drawn_together() -> None:
    right = [True] * 20 + [False] * 20
    alone = evaluation.score(right, [str(number) for number in range(40)])
    assert alone == evaluation.score(right), "every prompt has its own picture"
    together = evaluation.score(right, [str(number // 4) for number in range(40)])
    assert together["accuracy"] == 0.5 and together["n"] == 40 and together["pictures"] == 10
    assert together["high"] - together["low"] > 1.5 * (alone["high"] - alone["low"])


def test_answers_are_scored_by_kind() -> None:
    samples = task("seedbench").samples(format="letters")
    told = [s.answer if questions.kind_of(s) != "colour" else "A" for s in samples]
    found = evaluation.scores_of(samples, told, samples, ["A"] * len(samples))
    assert {kind: entry["above_chance"] for kind, entry in found["kinds"].items()} == {
        kind: kind != "colour" for kind in found["kinds"]
    }
    assert sum(entry["seen"]["n"] for entry in found["kinds"].values()) == found["seen"]["n"] == 200
    folder = miniature_folder("mini-1.5-7B")
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    record |= {"benchmarks": {"seedbench": found}, "targets": []}
    text = card.model_card(architectures.miniature("mini-1.5-7B"), AutoConfig.from_pretrained(folder), record)
    assert "*colour* (above in 0 of 1 scores)" in text and "*which* (above" not in text


def test_the_most_frequent_answer_without_a_picture_is_told() -> None:
    picture = Image.new("RGB", (4, 4))
    samples = [Sample(str(number), picture, "q", answer) for number, answer in enumerate("3330")]
    most = evaluation.most_frequent(samples, ["0", "0", "0", "1"])
    assert most == {"text": "0", "share": 0.75, "right": 0.25}
