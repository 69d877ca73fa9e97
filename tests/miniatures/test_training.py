"""Training's stages, and what they ask."""

from __future__ import annotations

import json
from typing import Any

import pytest

from visualheads.analysis import models
from visualheads.cards import miniature_folder
from visualheads.miniatures import architectures, fitting, questions, train, training


def record_of(name: str) -> dict[str, Any]:
    return json.loads((miniature_folder(name) / "training.json").read_text(encoding="utf-8"))


def test_a_few_steps_lower_the_loss_on_text(tmp_path):
    schedule = fitting.Schedule(steps=8, batch=6, rate=3e-3, warm_up=2, report_every=4, tested=4)
    _, progress = training.train_text("mini-vicuna-7B-text", schedule, tmp_path, "cpu")
    losses = [entry["loss"] for entry in progress.curve]
    assert losses[-1] < losses[0] - 0.5
    assert "tally" in progress.curve[-1]


@pytest.mark.parametrize("name", ["mini-1.5-7B", "mini-vip-7B", "mini-1.6-vicuna-7B"])
def test_the_parts_that_tuning_trains_are_told_by_the_code_that_trains_them(name: str) -> None:
    recipe = architectures.miniature(name).recipe
    parts = training.trainable(architectures.build_empty(name), recipe)
    assert parts == ["adapter", "language model", *(["tower"] if recipe == "1.6" else [])]
    assert models.TRAINED_PARTS["ViP" if recipe == "vip" else recipe] == ", ".join(parts)


def test_answers_of_measurements_are_counted_by_drawing_again() -> None:
    record, recipe = record_of("mini-1.5-7B"), architectures.miniature("mini-1.5-7B")
    schedules = train.schedules_of(recipe.name, training.TrainingPlan())
    for (stage, told), schedule in zip(record["stages"].items(), schedules, strict=True):
        if stage != "tower":
            assert training.measured_answers(recipe, stage, schedule) == told["answers"]
    assert sum(record["stages"]["tuning"]["answers"].values()) == schedules[-1].tested


def test_shares_of_kinds_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "DRAWN", 60)
    plan, recipe = training.TrainingPlan(), architectures.miniature("mini-1.5-7B")
    for shares in training.kind_shares(recipe, plan.text, plan.tuning).values():
        assert set(shares) == set(questions.WEIGHTS) and sum(shares.values()) == pytest.approx(1)
    assert 0.7 < training.boxed_share(plan.tuning) < 0.9
