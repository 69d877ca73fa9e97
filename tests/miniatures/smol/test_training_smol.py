"""Packed questions, the loss, and training that goes on where it was killed."""

from __future__ import annotations

import random

import pytest
import torch
from safetensors.torch import load_file

from helpers.smol import learner, sheet
from visualheads.miniatures.smol.packing import IGNORED, pack, right_answers
from visualheads.miniatures.smol.scenes import draw_scene
from visualheads.miniatures.smol.sprites import CLASSES
from visualheads.miniatures.smol.start import exact_answers, labels_of, localise
from visualheads.miniatures.smol.training import (
    STAGES,
    Mix,
    Stage,
    answer_weights,
    rate_factor,
    train,
    training_rows,
)
from visualheads.models.smol.architecture import GRID
from visualheads.models.smol.joined_model import add_lora

SMALL = Stage("smol-1.5", True, 1e-2, 1e-2, Mix(pictures=1, texts=1, letters=0.5, asked=3))


@pytest.fixture(scope="module")
def seen():
    model = learner()
    rows, pictures = training_rows(model, random.Random(3), Mix(2, texts=1))
    return model, rows, model.features(pictures)


def test_a_packed_question_is_computed_as_if_it_were_asked_alone(seen):
    model, rows, features = seen
    with torch.no_grad():
        together = pack(model.tokenizer, rows, 2)
        logits, _ = model.scores(together, model.inputs(together, features, 2))
        owner = [
            (row, int(number))
            for row, numbers in enumerate(together.question)
            for number in numbers[together.targets[row] != IGNORED]
        ]
        for row, (before, asked) in enumerate(rows):
            for number, question in enumerate(asked):
                alone = pack(model.tokenizer, [(before, [question])], 2)
                inputs = model.inputs(alone, features[row : row + 1] if row < 2 else None, int(row < 2))
                expected, _ = model.scores(alone, inputs)
                found = logits[[index for index, one in enumerate(owner) if one == (row, number)]]
                torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_answers_count_as_right_only_as_a_whole(seen):
    model, rows, _ = seen
    batch = pack(model.tokenizer, rows, 2)
    perfect = torch.nn.functional.one_hot(batch.targets[batch.targets != IGNORED], len(model.tokenizer)).float()
    assert all(all(row) for row in right_answers(batch, perfect))
    assert [len(row) for row in right_answers(batch, perfect)] == [len(asked) for _, asked in rows]
    spoiled = perfect.clone()
    spoiled[0] = 0.0
    told = right_answers(batch, spoiled)
    assert not told[0][0] and all(told[0][1:])
    assert len(answer_weights(batch, rows)) == len(perfect)


def test_the_rate_rises_stays_and_falls():
    factors = [rate_factor(step, 0, 80, 100) for step in range(100)]
    assert factors[0] < factors[20] < factors[60] == 1.0
    assert factors[85] > factors[99] > 0
    assert rate_factor(500, 500, 900, 1000) < 0.1, "it rises again after a restart without the optimiser's state"


def test_only_the_adapter_learns_in_the_first_stage(tmp_path):
    model = learner()
    before = {name: value.clone() for name, value in model.language_model.state_dict().items()}
    train(model, STAGES["smol-frozen"], tmp_path, until=1, anneal=0)
    after = model.language_model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert set(load_file(tmp_path / "smol-frozen.safetensors")) == {f"adapter.{n}" for n in model.adapter.state_dict()}


def test_a_killed_training_goes_on_where_it_stopped(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder, ends in ((whole, (4,)), (parts, (2, 4))):
        for end in ends:
            model = learner()
            torch.manual_seed(0)
            add_lora(model.language_model)
            train(model, SMALL, folder, until=end, anneal=0, moments=(2,))
    one, other = (load_file(folder / "state" / "smol-1.5.safetensors") for folder in (whole, parts))
    assert set(one) == set(other)
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-6, rtol=1e-4)
    assert (parts / "moments" / "smol-1.5-000002.safetensors").is_file()


def test_kept_weights_alone_are_enough_to_go_on(tmp_path):
    model = learner()
    train(model, STAGES["smol-frozen"], tmp_path, until=1, anneal=0)
    (tmp_path / "state" / "smol-frozen.safetensors").unlink()
    again = learner(seed=1)
    train(again, STAGES["smol-frozen"], tmp_path, until=1, anneal=0)
    torch.testing.assert_close(again.adapter.linear_1.weight, model.adapter.linear_1.weight, atol=1e-2, rtol=1e-2)


def test_a_quick_look_scores_every_kind_of_question():
    told = exact_answers(learner(), scenes=8)
    assert {"list", "object", "super", "general", "name", "exists-Yes", "exists-No", "token"} <= set(told)
    assert all(0 <= value <= 1 for value in told.values())


def test_labels_tell_what_lies_under_each_token():
    sheet()
    rng = random.Random(3)
    scene = next(one for one in iter(lambda: draw_scene(rng), None) if any(thing.colour for thing in one.objects))
    marked = scene.objects[0]
    labels = {name: value.reshape(GRID, GRID) for name, value in labels_of(scene, marked).items()}
    for thing in scene.objects:
        column, row = (int(centre * GRID / side) for centre, side in zip(thing.centre, scene.size, strict=True))
        assert labels["centre"][row, column] == CLASSES.index(thing.name) + 1
        assert labels["cover"][row, column] > 0
    assert labels["mark"].sum() >= 1 and labels_of(scene, None)["mark"].sum() == 0
    assert (labels["colour"] >= 0).any()


@pytest.mark.long
def test_localising_teaches_the_first_layer_alone():
    made = learner()
    before = {name: value.clone() for name, value in made.adapter.state_dict().items()}
    told = localise(made, pictures=24)
    after = made.adapter.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"linear_1.weight", "linear_1.bias"}
    assert all(0 <= share <= 1 for share in told.values())
