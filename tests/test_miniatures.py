"""The glyph world and the miniatures' language, data and training: seeded, consistent, resumable."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from visualheads.errors import CheckpointError, UnknownModelError
from visualheads.miniatures import architectures, batches, evaluation, fitting, scenes, train, turns, words, world
from visualheads.miniatures.fitting import Schedule
from visualheads.miniatures.training import Plan

SEEDS = st.integers(0, 10_000)


@given(SEEDS)
def test_scene_objects_lie_in_cells_of_their_own(seed):
    scene = world.draw_scene(random.Random(seed))
    cells = set()
    for item in scene.objects:
        left, top, right, bottom = item.box
        assert 0 <= left < right <= scene.width
        assert 0 <= top < bottom <= scene.height
        cell = (left // world.CELL, top // world.CELL)
        assert ((right - 1) // world.CELL, (bottom - 1) // world.CELL) == cell
        cells.add(cell)
    assert len(cells) == len(scene.objects) <= world.MOST_OBJECTS
    assert sum(scene.count(name) for name in scene.names) == len(scene.objects)


def test_the_same_scene_gives_the_same_pixels_and_objects_are_drawn_where_boxes_say():
    scene = world.draw_scene(random.Random(1))
    first, again = np.asarray(world.render(scene)).astype(int), np.asarray(world.render(scene))
    assert (first == again).all()
    empty = np.asarray(world.render(replace(scene, objects=()))).astype(int)
    changed = np.abs(first - empty).max(-1) > 12
    inside = np.zeros_like(changed)
    for item in scene.objects:
        left, top, right, bottom = item.box
        assert changed[top:bottom, left:right].mean() > 0.2
        inside[top:bottom, left:right] = True
    assert not changed[~inside].any()


def test_the_world_is_not_guessable():
    drawn = [world.draw_scene(random.Random(seed)) for seed in range(400)]
    assert len(world.CLASSES) >= 30
    assert np.mean([len(scene.names) > 1 for scene in drawn]) > 0.7
    counts = Counter(scene.count(name) for scene in drawn for name in scene.names)
    assert max(counts.values()) / counts.total() < 0.3


def test_shipped_scenes_are_what_the_code_makes_and_meet_their_promises():
    folder = Path(__file__).parent.parent / "data/scenes/looktwice"
    records = json.loads((folder / "looktwiceqa_dataset.json").read_text())
    test = json.loads((folder / "looktwiceqa_test_imgs.json").read_text())
    assert len(test) >= 300
    for index in (0, 17, len(test) - 1):
        scene, name = scenes.scene_with_question("test", index)
        assert records[str(test[index])] == [scenes.record(scene, name, test[index])]
    asked = [records[str(image)][0] for image in test]
    answers = Counter(record["Ans"] for record in asked)
    assert max(answers.values()) / len(asked) <= 0.3
    assert np.mean([len({o["name"] for o in record["Objects"]}) > 1 for record in asked]) >= 0.7
    assert len({record["Obj_type"] for record in asked}) >= 30
    for record in asked:  # one answer must be right for the object and for the supercategory question
        names = [o["name"] for o in record["Objects"]]
        assert record["Ans"] == names.count(record["Obj_type"])
        assert record["Ans"] == sum(world.CATEGORY[name] == record["Supercategory"] for name in names)
    assert sum(path.stat().st_size for path in folder.rglob("*.*")) < 4_000_000


def test_writing_scenes_twice_gives_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "SPLITS", {"train": 1, "val": 1, "test": 3})
    for name in ("a", "b"):
        scenes.write_looktwice(tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 10
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)


def test_tokenizer_agrees_with_the_training_encoder_and_knows_every_prompt():
    from visualheads.tasks import task

    tokenizer = words.build_tokenizer()
    unknown = tokenizer.unk_token_id
    benchmark = task("looktwice")
    for form in ("free", "letters"):
        for sample in benchmark.samples(format=form, n=20):
            text = f"USER: {sample.question} ASSISTANT:"
            ids = tokenizer(text)["input_ids"]
            assert unknown not in ids
            assert ids == [words.vocabulary()[words.BOS], *words.encode(text)]
    with pytest.raises(KeyError):
        words.encode("quixotic")
    assert unknown in tokenizer("quixotic")["input_ids"]


@given(SEEDS, st.sampled_from((turns.KINDS, turns.POINTING_KINDS)))
def test_questions_are_answered_from_the_listing(seed, kinds):
    rng = random.Random(seed)
    _, listing = turns.text_list(rng, 10)
    kind, question, answer = turns.ask(rng, listing, kinds)
    words.encode(question)
    if kind == "name":
        assert answer == listing.marked
    elif kind == "exists":
        name = question.split()[3]
        assert (answer == "Yes") == (name in listing.items)
    elif kind == "general":
        assert int(answer) == listing.items.count(listing.marked or "")
    elif kind == "super":
        assert int(answer) == sum(world.CATEGORY[item] == question.split()[4] for item in listing.items)
    else:
        asked = question.removeprefix("How many ").removesuffix(" are there?")
        assert int(answer) == sum(world.PLURAL[item] == asked for item in listing.items)


@given(SEEDS, st.integers(1, 7))
def test_letters_hold_the_answer_once(seed, answer):
    found = turns.with_letters(random.Random(seed), str(answer))
    assert found is not None
    options = dict(line.split(". ") for line in found[0].splitlines())
    assert list(options) == list("ABCD")
    assert options[found[1]] == str(answer)
    assert len(set(options.values())) == 4
    assert turns.with_letters(random.Random(seed), "0") is None
    assert turns.with_letters(random.Random(seed), "Yes") is None


@given(SEEDS)
def test_only_answers_are_supervised(seed):
    rng = random.Random(seed)
    ids, labels = batches.text_pair(rng, 20, "questions", questions=3)
    assert len(ids) == len(labels)
    assert all(label in (turns.IGNORED, token) for token, label in zip(ids, labels, strict=True))
    assert sum(label == words.vocabulary()[words.EOS] for label in labels) == 3
    assert sum(label != turns.IGNORED for label in labels) == 6


@given(SEEDS)
def test_a_tally_tells_every_class_present_with_its_number(seed):
    rng = random.Random(seed)
    _, listing = turns.text_list(rng, 10)
    ids, labels = turns.tally(rng, listing)
    table = {index: word for word, index in words.vocabulary().items()}
    told = [table[i] for i in ids[len(words.encode(words.TALLY_REQUEST)) + 1 : -1]]
    pairs = dict(zip(told[::2], told[1::2], strict=True))
    assert len(pairs) == len(told) // 2
    for name in listing.items:
        assert int(pairs[name]) == listing.items.count(name)
        assert int(pairs[world.CATEGORY[name]]) >= listing.items.count(name)
    assert (words.THESE in pairs) == (listing.marked is not None)
    if listing.marked:
        assert int(pairs[words.THESE]) == listing.items.count(listing.marked)
    assert sum(number == "0" for number in pairs.values()) == sum(turns.ABSENT)
    supervised = [table[i] for i in labels if i != turns.IGNORED]
    assert supervised == [*told[1::2], words.EOS]


def test_reading_order_is_that_of_the_image_tokens():
    item = world.SceneObject("dog", "blue", 15, (50, 2, 60, 12))
    left_below = replace(item, name="cat", box=(2, 26, 12, 36))
    left = replace(item, name="car", box=(2, 4, 12, 14))
    scene = world.Scene(96, 96, 0, (left_below, item, left))
    assert turns.reading_order(scene, 12) == ["car", "dog", "cat"]
    assert turns.reading_order(scene, 12, marked=1) == ["car", words.MARK, "dog", "cat"]


def test_patch_targets_by_hand():
    dog = world.SceneObject("dog", "blue", 15, (26, 2, 40, 14))  # centre (33, 8): patch row 0, column 2
    scene = world.Scene(96, 96, 0, (dog,))
    kinds, boxed = batches.patch_targets(scene, 0)
    kinds, boxed = kinds.reshape(8, 8), boxed.reshape(8, 8)
    assert kinds[0, 2] == 2 + world.CLASSES.index("dog")
    assert kinds[0, 3] == batches.PART  # 4 × 10 px of 144
    assert kinds[1, 2] == batches.BACKGROUND  # 10 × 2 px: too little
    assert (kinds > 0).sum() == 2
    assert boxed.sum() == 2
    assert batches.patch_targets(scene, None)[1].sum() == 0


def test_batches_are_pure_functions_of_their_step():
    first = batches.picture_batch(batches.generator(0, "x", 3), 2, "questions")
    again = batches.picture_batch(batches.generator(0, "x", 3), 2, "questions")
    other = batches.picture_batch(batches.generator(0, "x", 4), 2, "questions")
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    image = words.vocabulary()[words.IMAGE]
    assert ((first[1] == image).sum(1) == 64).all()


def line_fit(folder: Path, steps: int, stop_at: int | None = None) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)

    def loss_of(step: int):
        if step == stop_at:
            raise KeyboardInterrupt
        x = torch.tensor([[1.0, step % 3]])
        return (model(x) - x.sum()).square().mean()

    fitting.fit("line", model, [model], loss_of, Schedule(steps, 1, 0.05, 2, 5, moments=(3,)), folder)
    return model.state_dict()


def test_an_interrupted_stage_resumes_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "CHECKPOINT_EVERY", 4)
    whole = line_fit(tmp_path / "whole", 20)
    with pytest.raises(KeyboardInterrupt):
        line_fit(tmp_path / "killed", 20, stop_at=10)
    resumed = line_fit(tmp_path / "killed", 20)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert (tmp_path / "killed/line-3.pt").exists()
    assert not list((tmp_path / "killed").glob("*.partial"))


def test_schedule_warms_up_and_ends_near_zero():
    schedule = Schedule(steps=100, batch=1, rate=1.0, warm_up=10)
    assert schedule.rate_at(0) == pytest.approx(0.1)
    assert schedule.rate_at(9) > schedule.rate_at(50) > schedule.rate_at(99)
    assert schedule.rate_at(99) < 0.001


@pytest.fixture(scope="module")
def smoked(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("smoke")
    train.train("mini-1.5-7B", target=folder / "out", work=folder / "work", smoke=True)
    return folder


def test_smoke_training_ends_in_ordinary_checkpoints(smoked):
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

    folder = smoked / "out/mini-1.5-7B"
    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert next(model.parameters()).dtype == torch.float16
    assert model.config.text_config.num_hidden_layers >= 8
    assert model.config.text_config.num_attention_heads >= 8
    assert type(processor).__name__ == "LlavaProcessor"
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many cars are there?"}]}]
    prompt = processor.apply_chat_template(message, add_generation_prompt=True)
    assert prompt == "USER: <image>\nHow many cars are there? ASSISTANT:"
    text = AutoModelForCausalLM.from_pretrained(smoked / "out/mini-vicuna-7B-text")
    assert text.config.num_hidden_layers == model.config.text_config.num_hidden_layers
    assert sum(f.stat().st_size for f in folder.iterdir()) < 4_000_000
    record = json.loads((folder / train.TRAINING_RECORD).read_text())
    assert set(record["stages"]) == {
        "tower",
        "mini-vicuna-7B-text",
        "alignment",
        "tuning",
        "pointing",
    }


def test_alignment_leaves_tower_and_language_model_alone(smoked):
    before = train.load_moment("mini-1.5-7B", smoked / "work/mini-1.5-7B-alignment-0.pt").state_dict()
    after = train.load_moment("mini-1.5-7B", smoked / "work/mini-1.5-7B-tuning-0.pt").state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed
    assert all("multi_modal_projector" in key for key in changed)


def test_another_plan_does_not_mix_with_kept_checkpoints(smoked):
    with pytest.raises(CheckpointError, match="another training plan"):
        train.check_plan(Plan(), smoked / "work")
    train.check_plan(Plan().smoke(), smoked / "work")


def test_unknown_names_are_refused():
    with pytest.raises(UnknownModelError, match=r"mini-1\.5-7B"):
        architectures.miniature("mini-1.5-8B")
    with pytest.raises(UnknownModelError, match="mini-vicuna-7B-text"):
        architectures.text_shape("mini")


def test_question_only_answerer_by_hand():
    from PIL import Image

    from visualheads.tasks.sample import Sample

    picture = Image.new("RGB", (4, 4))
    free = [Sample(str(i), picture, "q", answer) for i, answer in enumerate("33321")]
    assert evaluation.question_only(free, free) == [True, True, True, False, False]
    letters = [
        Sample("a", picture, "q", "B", choices=("5", "3", "2", "4")),
        Sample("b", picture, "q", "A", choices=("1", "6", "3", "7")),
    ]
    assert evaluation.question_only(letters, free) == [True, False]


def test_scores_carry_wilson_intervals():
    found = evaluation.score([True] * 8 + [False] * 2)
    assert found["accuracy"] == 0.8
    assert found["low"] == pytest.approx(0.4902, abs=1e-3)
    assert found["high"] == pytest.approx(0.9433, abs=1e-3)
