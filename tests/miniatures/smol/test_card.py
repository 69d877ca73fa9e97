"""The model card: figures asked for, intervals, language before and after."""

from __future__ import annotations

import copy
import json

import pytest

from visualheads.miniatures.evaluation import score
from visualheads.miniatures.smol.card import GOALS, goal_lines, model_card, write_card
from visualheads.tasks import task

LOOKTWICE = task("looktwice").conditions


@pytest.fixture
def scores():
    def entry(right: int):
        return {
            "seen": score([True] * right + [False] * (100 - right)),
            "white": score([True] * 20 + [False] * 80),
            "question_only": score([True] * 25 + [False] * 75),
            "white_gain": {"estimate": -0.05, "lower": -0.1, "upper": 0.0},
        }

    answers = {"object": {**score([True, False]), "chosen": score([True, True])}}
    return {
        "looktwice": {condition: entry(90) for condition in LOOKTWICE},
        "pope": {condition: entry(90) for condition in ("adversarial", "popular", "random")},
        "seedbench": {"all": entry(60)},
        "held_out": {"held-out ground": entry(80), "known ground": entry(90)},
        "elsewhere": {"object": entry(83), "super": entry(70)},
        "lists": {"shown": score([True] * 3 + [False]), "named": score([True, True]), "chance": score([False, True])},
        "text": {"perplexity": 21.5, "answers": answers, "before": {"perplexity": 20.0, "answers": answers}},
    }


def test_the_card_tells_figures_and_what_is_missing(scores):
    told = model_card("smol-1.5", scores, 1200)
    assert "90.0 (" in told and "1200 steps" in told and "20.00" in told and "21.50" in told
    assert told.count(": reached") == len(GOALS) + 1
    assert "super: 20.0 points below plain-super, asked for at most 8 below: not reached" in told
    assert "| held-out ground | 80.0 (" in told and "| another generator, object | 83.0 (" in told
    assert "| object (2) | 100.0 (" in told
    assert "it names 75.0 (" in told
    low = copy.deepcopy(scores)
    low["looktwice"]["plain-object"] = low["seedbench"]["all"]
    assert any("plain-object: 60.0 %" in line and "20.0 points short" in line for line in goal_lines(low))


def test_a_model_that_answers_without_looking_is_told(scores):
    scores["pope"]["random"]["white_gain"] = {"estimate": 0.3, "lower": 0.2, "upper": 0.4}
    assert any(line.startswith("pope/random: with a white picture") for line in goal_lines(scores))


def test_scores_are_kept_beside_the_card(scores, tmp_path):
    (tmp_path / "smol-frozen.json").write_text('{"step": 7, "log": []}', encoding="utf-8")
    card = write_card("smol-frozen", scores, tmp_path)
    assert "7 steps" in card.read_text(encoding="utf-8")
    assert json.loads((tmp_path / "smol-frozen.scores.json").read_text(encoding="utf-8"))["text"]["perplexity"] == 21.5
