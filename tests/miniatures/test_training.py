"""The glyph world and the miniatures' language, data and training: seeded, consistent, resumable."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoConfig

import visualheads as vh
from visualheads.cards import miniature_folder
from visualheads.errors import CheckpointError, UnknownModelError
from visualheads.miniatures import (
    architectures,
    batches,
    card,
    dialogues,
    evaluation,
    fitting,
    language,
    pictures,
    questions,
    scenes,
    text_lists,
    train,
    training,
    world,
)
from visualheads.miniatures import tower as towers
from visualheads.miniatures import train as taking
from visualheads.miniatures.fitting import Schedule, group
from visualheads.tasks.sample import Sample

SEEDS = st.integers(0, 10_000)
SMOKED = ("mini-1.5-7B", "mini-1.6-mistral-7B", "mini-vip-phi-3-3.8B")


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
    folder = Path(__file__).parents[2] / "data/scenes/looktwice"
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

    tokenizer = language.build_tokenizer()
    unknown = tokenizer.unk_token_id
    forms = [("looktwice", "free"), ("looktwice", "letters"), ("pope", "free")]
    for name, form in (*forms, ("mmbench", "letters"), ("seedbench", "letters"), ("qbench", "letters")):
        for sample in task(name).samples(format=form, n=20):
            text = f"USER: {sample.question} ASSISTANT:"
            ids = tokenizer(text)["input_ids"]
            assert unknown not in ids
            assert ids == [language.vocabulary()[language.BOS], *language.encode(text)]
    with pytest.raises(KeyError):
        language.encode("quixotic")
    assert unknown in tokenizer("quixotic")["input_ids"]


@given(SEEDS)
def test_only_answers_are_supervised(seed):
    rng = random.Random(seed)
    ids, labels = batches.text_pair(rng, 20, "questions", 70)
    assert len(ids) == len(labels)
    assert all(label in (dialogues.IGNORED, token) for token, label in zip(ids, labels, strict=True))
    ends = [index for index, label in enumerate(labels) if label == language.vocabulary()[language.EOS]]
    assert ends[-1] == len(ids) - 1
    assert all(labels[index - 1] != dialogues.IGNORED for index in ends)
    assert ids.count(language.vocabulary()[language.ASSISTANT]) == len(ends)


@given(SEEDS, st.integers(0, 2))
def test_a_tally_tells_every_class_present_with_its_number(seed, style):
    rng = random.Random(seed)
    _, known = text_lists.text_list(rng, 10)
    ids, labels = dialogues.tally(rng, known, style)
    table = {index: word for word, index in language.vocabulary().items()}
    start = len(language.encode(language.TALLY_REQUEST)) + 1
    asked, told = [], []
    for token, label in zip(ids[start:-1], labels[start:-1], strict=True):
        if label == dialogues.IGNORED:
            asked.append(table[token])
        elif table[label] in world.CLASSES:  # the marked class, named before its number
            assert table[label] == known.marked
            assert questions.THESE in asked
        else:
            [name] = [word for word in asked if word in (*world.CLASSES, *world.SUPERCATEGORIES)] or [questions.THESE]
            assert style or len(asked) == 1
            told.append((name, int(table[label])))
            asked = []
    numbers = dict(told)
    assert len(numbers) == len(told)
    assert {*known.items, *(world.CATEGORY[name] for name in known.items)} <= set(numbers)
    assert all(number == known.count(name) for name, number in told if name != questions.THESE)
    assert (questions.THESE in numbers) == (known.marked is not None)
    if known.marked:
        assert numbers[questions.THESE] == known.items.count(known.marked)
    assert sum(number == 0 for number in numbers.values()) == sum(dialogues.ABSENT)
    assert labels[-1] == language.vocabulary()[language.EOS]


def test_a_caption_marks_the_object_in_the_box():
    known = text_lists.Listing(("dog", "cat"), "cat", ("blue", "teal"), marked_at=1)
    table = {index: word for word, index in language.vocabulary().items()}
    for coloured, told in ((False, "dog rectangle cat ."), (True, "blue dog rectangle teal cat .")):
        labels = [table[i] for i in dialogues.caption(known, coloured)[1] if i != dialogues.IGNORED]
        assert " ".join(labels[:-1]) == told


def test_tallies_lead_from_a_word_to_a_question():
    known = text_lists.Listing(("dog",), "dog")
    table = {index: word for word, index in language.vocabulary().items()}
    told = [" ".join(table[i] for i in dialogues.tally(random.Random(0), known, style)[0]) for style in range(3)]
    assert "dog 1" in told[0] and ("these 1" in told[0] or "these dog 1" in told[0])
    assert "dog ##s ? 1" in told[1] and "animals ? 1" in told[1]
    assert "How many dog ##s ? 1" in told[2]
    assert "How many of these ? 1" in told[2] or "How many of these ? dog 1" in told[2]


def test_a_list_in_words_tells_what_its_listing_knows():
    table = {index: word for word, index in language.vocabulary().items()}
    seen = Counter()
    for seed in range(300):
        ids, known = text_lists.text_list(random.Random(seed), 12)
        told = [table[i] for i in ids]
        assert [word for word in told if word in world.CLASSES] == list(known.items)
        assert tuple(word for word in told if word in world.COLOURS) == (known.colours or ())
        assert (language.MARK in told) == (known.marked is not None)
        if known.marked:
            after = told[told.index(language.MARK) + 1 :]
            assert next(word for word in after if word in world.CLASSES) == known.marked
        bad = {kind: pair[0] for kind, pair in text_lists.ADJECTIVES.items()}
        assert {word for word in told if word in bad.values()} == {bad[k] for k in [known.quality] if k in bad}
        seen[bool(known.colours), known.quality != "none"] += 1
    assert len(seen) == 4
    ids, known = text_lists.text_list(random.Random(0), 12, plain=True)
    assert known.colours is None and known.quality == "none"


def apart(token: int) -> list[str]:
    """The words that one id tells together."""
    table = {index: word for word, index in language.vocabulary().items()}
    return [table[token % len(table)], *(apart(token // len(table)) if token >= len(table) else [])]


def test_a_list_that_tells_a_place_at_once_tells_the_same():
    for seed in range(100):
        ids, known = text_lists.text_list(random.Random(seed), 12, together=1.0)
        slots = [apart(token) for token in ids]
        objects = [slot for slot in slots if slot[0] in world.CLASSES]
        assert [slot[0] for slot in objects] == list(known.items)
        assert [slot[0] for slot in objects if language.MARK in slot] == [known.marked] * (known.marked is not None)
        if known.colours:
            assert [slot[1] for slot in objects] == list(known.colours)
        ground = {word for slot in slots if slot not in objects for word in slot}
        bad = {kind: pair[0] for kind, pair in text_lists.ADJECTIVES.items()}
        assert ground <= {language.FILLER, *(bad[k] for k in [known.quality] if k in bad)}


@given(st.lists(st.lists(st.integers(1, 90), min_size=1, max_size=3), min_size=1, max_size=5))
def test_words_told_together_embed_as_their_sum(places):
    table = torch.nn.Embedding(len(language.vocabulary()), 3)
    ids = torch.tensor([[language.together(place) for place in places]])
    expected = torch.stack([table.weight[place].sum(0) for place in places])
    assert torch.allclose(language.embedded(table, ids)[0], expected, atol=1e-5)


def test_reading_order_is_that_of_the_image_tokens():
    item = world.SceneObject("dog", "blue", 15, (50, 2, 60, 12))
    left_below = replace(item, name="cat", box=(2, 26, 12, 36))
    left = replace(item, name="car", box=(2, 4, 12, 14))
    scene = world.Scene(96, 96, 0, (left_below, item, left))
    assert [scene.objects[index].name for index in text_lists.reading_order(scene, 8)] == ["car", "dog", "cat"]
    assert text_lists.of_scene(scene, 0).items == ("car", "dog", "cat")
    assert text_lists.of_scene(scene, 0).marked == "cat"


def test_patch_targets_by_hand():
    dog = world.SceneObject("dog", "blue", 15, (26, 2, 40, 14))  # centre (33, 8): patch row 0, column 2
    scene = world.Scene(96, 96, 0, (dog,))
    seen = towers.patch_targets(scene, 0)
    kinds, boxed, colours = (part.reshape(8, 8) for part in (seen.kinds, seen.boxed, seen.colours))
    assert kinds[0, 2] == 2 + world.CLASSES.index("dog")
    assert kinds[0, 3] == towers.PART  # 4 × 10 px of 144
    assert kinds[1, 2] == towers.BACKGROUND  # 10 × 2 px: too little
    assert (kinds > 0).sum() == 2
    assert boxed.sum() == 2
    assert colours[0, 2] == list(world.COLOURS).index("blue")
    assert (colours != towers.NO_COLOUR).sum() == 1
    assert towers.patch_targets(scene, None).boxed.sum() == 0


def test_patch_targets_of_a_squeezed_picture():
    dog = world.SceneObject("dog", "blue", 15, (100, 2, 114, 14))  # centre (107, 8) of 144: patch column 5 of 8
    kinds = towers.patch_targets(world.Scene(144, 96, 0, (dog,)), None).kinds.reshape(8, 8)
    assert kinds[0, 5] == 2 + world.CLASSES.index("dog")


def test_a_perfect_tower_has_no_loss_and_full_scores():
    processor = architectures.build_processor("1.5")
    batch = towers.tower_batch(random.Random(0), 8, processor)
    assert batch["pixels"].shape == (8, 3, 96, 96)
    sure = 50.0
    number = torch.arange(64)
    told = {
        "kind": sure * torch.nn.functional.one_hot(batch["kind"], towers.HEADS["kind"]).float(),
        "boxed": (sure * (2 * batch["boxed"] - 1))[..., None],
        "colour": sure * torch.nn.functional.one_hot(batch["colour"].clamp(min=0), towers.HEADS["colour"]).float(),
        "quality": sure * torch.nn.functional.one_hot(batch["quality"], 5).float()[:, None].expand(-1, 64, -1),
        "place": sure
        * torch.cat([torch.nn.functional.one_hot(part, 8) for part in (number // 8, number % 8)], -1)
        .float()
        .expand(8, -1, -1),
    }
    assert float(towers.tower_loss(told, batch)) == pytest.approx(0, abs=1e-4)
    assert set(towers.tower_scores(told, batch).values()) == {1.0}


@pytest.mark.parametrize("recipe", ["1.5", "1.6", "vip"])
def test_batches_are_pure_functions_of_their_step_and_what_the_processor_makes(recipe):
    processor = architectures.build_processor(recipe)
    first, again, other = (
        batches.picture_batch(batches.generator(0, "x", step), 6, "questions", processor, 60, 0.6) for step in (3, 3, 4)
    )
    assert set(first) == set(again)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["pixel_values"], other["pixel_values"])
    image = language.vocabulary()[language.IMAGE]
    rng = batches.generator(0, "x", 3)
    shown = [pictures.picture(rng).image for _ in range(6)]
    for row, shot in enumerate(shown):
        prompt = processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many cars are there?"}]}],
            add_generation_prompt=True,
        )
        encoded = processor(images=[shot], text=[prompt], return_tensors="pt")
        head = encoded["input_ids"][0].tolist()
        count = head.count(image)
        assert head[: count + 2] == first["input_ids"][row, : count + 2].tolist()
        assert int((first["input_ids"][row] == image).sum()) == count
        assert torch.equal(encoded["pixel_values"][0], first["pixel_values"][row])
    if recipe == "1.6":
        tokens = {(96, 96): 136, (144, 96): 168, (96, 144): 172}  # 64 of the whole + rows × (columns + newline)
        for row, shot in enumerate(shown):
            assert int((first["input_ids"][row] == image).sum()) == tokens[shot.size]


def line_fit(
    folder: Path, steps: int, stop_at: int | None = None, restarts: tuple[int, ...] = ()
) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)

    def loss_of(step: int):
        if step == stop_at:
            raise KeyboardInterrupt
        x = torch.tensor([[1.0, step % 3]])
        return (model(x) - x.sum()).square().mean()

    schedule = Schedule(steps, 1, 0.05, 2, 5, moments=(3,), restarts=restarts)
    fitting.fit("line", model, [group(model)], loss_of, schedule, folder)
    return model.state_dict()


@pytest.mark.parametrize("name", ["mini-1.5-7B", "mini-1.6-mistral-7B"])
def test_a_batch_in_parts_of_like_length_teaches_the_same(name):
    recipe = architectures.miniature(name).recipe
    processor, model = architectures.build_processor(recipe), train.untrained(name)
    rng = batches.generator(0, "parts", 1)
    batch = batches.picture_batch(rng, 6, "count", processor, 60, 0.6)
    parts = list(batches.by_length(batch))
    assert sum(len(part["input_ids"]) for part, _ in parts) == 6 and sum(share for _, share in parts) == 1
    assert parts[0][0]["input_ids"].shape[1] < parts[1][0]["input_ids"].shape[1] == batch["input_ids"].shape[1]
    whole = model(**batch).loss
    whole.backward()
    wanted = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    told = sum(share * model(**part).loss for part, share in parts)
    told.backward()
    found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    torch.testing.assert_close(told, whole)
    assert len(found) == len(wanted) > 20
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


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


def test_a_finished_stage_is_lengthened_by_a_cycle(tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "CHECKPOINT_EVERY", 4)
    whole = line_fit(tmp_path / "whole", 20, restarts=(8,))
    first = line_fit(tmp_path / "parts", 8)
    with pytest.raises(KeyboardInterrupt):
        line_fit(tmp_path / "parts", 20, stop_at=14, restarts=(8,))
    lengthened = line_fit(tmp_path / "parts", 20, restarts=(8,))
    assert all(torch.equal(whole[key], lengthened[key]) for key in whole)
    assert any(not torch.equal(whole[key], first[key]) for key in whole)
    for steps, restarts in ((30, (8,)), (20, (10,)), (20, ())):
        with pytest.raises(CheckpointError, match="another training plan"):
            line_fit(tmp_path / "parts", steps, restarts=restarts)


def test_a_restart_begins_the_rates_anew():
    schedule = Schedule(steps=130, batch=1, rate=1.0, warm_up=10, restarts=(30,))
    alone = Schedule(steps=100, batch=1, rate=1.0, warm_up=10)
    assert schedule.rate_at(29) < 0.01
    assert [schedule.rate_at(30 + step) for step in (0, 9, 99)] == [alone.rate_at(step) for step in (0, 9, 99)]


def test_a_kept_stage_of_another_schedule_or_shape_is_refused(tmp_path):
    line_fit(tmp_path, 20)
    line_fit(tmp_path, 20)
    with pytest.raises(CheckpointError, match="another training plan"):
        line_fit(tmp_path, 30)
    other = torch.nn.Linear(3, 1)
    schedule = Schedule(20, 1, 0.05, 2, 5, moments=(3,))
    with pytest.raises(CheckpointError, match="another shape"):
        fitting.fit("line", other, [group(other)], lambda _step: other.weight.sum(), schedule, tmp_path)


def test_groups_learn_at_their_own_pace(tmp_path):
    fast, slow = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    both = torch.nn.ModuleList([fast, slow])
    before = [module.weight.item() for module in both]

    def loss_of(step: int):
        return fast.weight.sum() + slow.weight.sum()

    parts = [group(fast), group(slow, factor=0.1)]
    fitting.fit("pace", both, parts, loss_of, Schedule(1, 1, 0.1, 1, 1), tmp_path)
    moved = [module.weight.item() - start for module, start in zip(both, before, strict=True)]
    assert moved[0] == pytest.approx(10 * moved[1], rel=0.1)


@pytest.fixture(scope="module")
def smoked(tmp_path_factory) -> Path:
    """One miniature of each recipe, through all stages."""
    folder = tmp_path_factory.mktemp("smoke")
    for name in SMOKED:
        train.train(name, target=folder / "out", work=folder / "work", smoke=True)
    return folder


@pytest.mark.parametrize("name", SMOKED)
def test_smoke_training_ends_in_ordinary_checkpoints(smoked, name):
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

    folder = smoked / "out" / name
    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    wanted = {"1.5": "Llava", "1.6": "LlavaNext", "vip": "VipLlava"}[architectures.miniature(name).recipe]
    assert type(model).__name__ == f"{wanted}ForConditionalGeneration"
    assert type(processor).__name__ == ("LlavaNextProcessor" if wanted == "LlavaNext" else "LlavaProcessor")
    assert next(model.parameters()).dtype == torch.float16
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many cars are there?"}]}]
    prompt = processor.apply_chat_template(message, add_generation_prompt=True)
    assert prompt == "USER: <image>\nHow many cars are there? ASSISTANT:"
    text_name = architectures.miniature(name).text
    text = AutoModelForCausalLM.from_pretrained(smoked / "out" / text_name)
    assert text.config.num_hidden_layers == model.config.text_config.num_hidden_layers
    record = json.loads((folder / train.TRAINING_RECORD).read_text())
    assert list(record["stages"]) == ["tower", text_name, "alignment", "tuning"]


@pytest.mark.parametrize("name", SMOKED)
def test_the_stages_train_what_the_recipe_says(smoked, name):
    work, recipe = smoked / "work", architectures.miniature(name).recipe
    before = train.load_moment(name, work / f"{name}-alignment-0.pt").state_dict()
    aligned = train.load_moment(name, work / f"{name}-tuning-0.pt").state_dict()
    tuned = torch.load(work / f"{name}-tuning.pt", weights_only=True)["model"]

    def changed(old, new):
        return {key.split(".")[1] for key in old if not torch.equal(old[key], new[key].to(old[key].dtype))}

    adapter = {"multi_modal_projector", *(["image_newline"] if recipe == "1.6" else [])}
    assert changed(before, aligned) == adapter
    aligned = {key: value.half() for key, value in aligned.items()}
    found = changed(aligned, {key: value.half() for key, value in tuned.items()})
    assert found >= {*adapter, "language_model"}
    assert ("vision_tower" in found) == (recipe == "1.6")


def test_miniatures_of_one_family_share_tower_and_language_model(smoked):
    kept = {path.name for path in (smoked / "work").glob("*.pt")}
    assert "tower.pt" in kept
    assert {f"{architectures.miniature(name).text}.pt" for name in SMOKED} <= kept
    names = [f"{name}-alignment-0.pt" for name in SMOKED if architectures.miniature(name).recipe != "1.6"]
    states = [torch.load(smoked / "work" / name, weights_only=True) for name in names]
    key = "model.vision_tower.embeddings.patch_embedding.weight"
    assert torch.equal(states[0][key], states[1][key])


def test_the_nine_and_their_controls_are_small_enough_together():
    paper = [name for name in architectures.MINIATURES if "seed" not in name and "text1" not in name]
    assert len(paper) == 9 and len(architectures.MINIATURES) == 11
    built = [architectures.build_empty(name) for name in architectures.MINIATURES]
    built += [architectures.build_text(shape) for shape in architectures.TEXT_SHAPES.values()]
    assert sum(2 * parameter.numel() for model in built for parameter in model.parameters()) < 38e6


def test_language_models_have_the_papers_families_and_shapes():
    shapes = architectures.TEXT_SHAPES
    assert all(shape.layers >= 8 and shape.heads >= 8 for shape in shapes.values())
    small, large = shapes["mini-vicuna-7B-text"], shapes["mini-vicuna-13B-text"]
    assert large.layers > small.layers and large.hidden > small.hidden
    assert shapes["mini-mistral-7B-text"].key_value_heads < shapes["mini-mistral-7B-text"].heads
    phi = architectures.build_text(shapes["mini-phi-3-3.8B-text"])
    assert "qkv_proj" in dict(phi.model.layers[0].self_attn.named_children())
    assert phi.config.hidden_size // phi.config.num_attention_heads == shapes["mini-phi-3-3.8B-text"].head_dim
    assert shapes["mini-vicuna-7B-text-seed1"] == replace(small, name="mini-vicuna-7B-text-seed1", seed=1)


def test_language_models_that_start_from_the_same_weights_are_known():
    same: dict[bytes, list[str]] = {}
    for shape in architectures.TEXT_SHAPES.values():
        torch.manual_seed(shape.seed)
        weights = torch.cat([part.detach().flatten() for part in architectures.build_text(shape).parameters()])
        same.setdefault(weights.numpy().tobytes(), []).append(shape.name)
    assert [tuple(names) for names in same.values() if len(names) > 1] == architectures.common_starts()


def test_an_untrained_control_is_seeded():
    first, again = train.untrained("mini-1.5-7B"), train.untrained("mini-1.5-7B")
    assert train.state_hash(first.state_dict()) == train.state_hash(again.state_dict())
    other = train.untrained("mini-1.5-7B-seed1")
    assert train.state_hash(first.state_dict()) != train.state_hash(other.state_dict())


def test_a_few_steps_lower_the_loss_on_text(tmp_path):
    schedule = Schedule(steps=8, batch=6, rate=3e-3, warm_up=2, report_every=4, tested=4)
    _, progress = training.train_text("mini-vicuna-7B-text", schedule, tmp_path, "cpu")
    losses = [entry["loss"] for entry in progress.curve]
    assert losses[-1] < losses[0] - 0.5
    assert "tally" in progress.curve[-1]


def test_a_shipped_text_model_is_not_trained_again(tmp_path):
    name, schedule = "mini-mistral-7B-text", Schedule(steps=2, batch=2, rate=3e-3, warm_up=1, report_every=1, tested=4)
    model, progress = training.train_text(name, schedule, tmp_path / "first", "cpu")
    train.save_text(name, model, tmp_path / name, schedule, progress)
    taking.take_text(name, tmp_path / name, tmp_path / "again", schedule)
    reported: list[str] = []
    again, known = training.train_text(
        name, schedule, tmp_path / "again", "cpu", lambda *told: reported.append(told[0])
    )
    assert not reported and known.curve == progress.curve and known.seconds == progress.seconds
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value.half().float()), key
    taking.take_text(name, tmp_path / name, tmp_path / "other", Schedule(steps=3, batch=2, rate=3e-3, warm_up=1))
    taking.take_text(name, tmp_path / "nowhere", tmp_path / "other", schedule)
    assert not (tmp_path / "other").exists()


def test_the_tower_of_a_shipped_miniature_is_not_trained_again(tmp_path, root):
    shipped = root / "data" / "miniatures"
    told = json.loads((shipped / "mini-1.5-7B" / "training.json").read_text())["stages"]["tower"]
    schedule = training.Plan().tower
    taking.take_tower(shipped, tmp_path, schedule)
    reported: list[str] = []
    tower, progress = towers.train_tower(schedule, tmp_path, 0, "cpu", lambda *done: reported.append(done[0]))
    assert not reported and progress.curve == told["curve"] and progress.seconds == told["seconds"]
    frozen = vh.load("mini-vip-7B").module.model.vision_tower.state_dict()
    assert all(torch.equal(frozen[key], value) for key, value in tower.state_dict().items())
    for where, other in ((shipped, replace(schedule, rate=0.5)), (tmp_path, schedule)):
        taking.take_tower(where, tmp_path / "other", other)
    assert not (tmp_path / "other").exists()


def test_unknown_names_are_refused():
    with pytest.raises(UnknownModelError, match=r"mini-1\.5-7B"):
        architectures.miniature("mini-1.5-8B")
    with pytest.raises(UnknownModelError, match="mini-vicuna-7B-text"):
        architectures.text_shape("mini")


def test_question_only_answerer_by_hand():
    picture = Image.new("RGB", (4, 4))
    free = [Sample(str(i), picture, "q", answer) for i, answer in enumerate("33321")]
    assert evaluation.question_only(free, free) == [True, True, True, False, False]
    letters = [
        Sample("a", picture, "q", "B", choices=("5", "3", "2", "4")),
        Sample("b", picture, "q", "A", choices=("1", "6", "3", "7")),
    ]
    assert evaluation.question_only(letters, free) == [True, False]


def test_the_question_only_answerer_may_not_know_the_question_itself():
    picture = Image.new("RGB", (4, 4))
    samples = [
        Sample("a", picture, "Which one?", "A", choices=("dog", "car"), question_id="a"),
        Sample("b", picture, "Which one?", "B", choices=("bus", "cat"), question_id="b"),
    ]
    assert evaluation.question_only(samples, samples) == [True, True]
    assert evaluation.question_only(samples, samples, leave_out=True) == [True, False]
    told = {"c": "Yes", "d": "No", "e": "Yes", "f": "No"}
    asked = [Sample(name, picture, "Is it so?", said, question_id=name) for name, said in told.items()]
    assert not any(evaluation.question_only(asked, asked, leave_out=True)), "what is left speaks for the other answer"
    assert sum(evaluation.without_looking(asked)) == 2 and sum(evaluation.without_looking(samples)) == 1


def test_question_types_leave_the_names_out():
    assert evaluation.template("How many cars are there?\nA. 1") == evaluation.template("How many dogs are there?")
    assert evaluation.template("Is this image dark?") == evaluation.template("Is this image noisy?")


@pytest.mark.parametrize("name", list(architectures.MINIATURES))
def test_shipped_cards_are_what_the_code_writes(name: str):
    recipe = architectures.miniature(name)
    folder = miniature_folder(name)
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    config = AutoConfig.from_pretrained(folder)
    assert (folder / "MODEL_CARD.md").read_text(encoding="utf-8") == card.model_card(recipe, config, record)


def test_cards_say_which_intervals_are_too_narrow():
    record = json.loads((miniature_folder("mini-1.5-7B") / "training.json").read_text(encoding="utf-8"))
    config = AutoConfig.from_pretrained(miniature_folder("mini-1.5-7B"))
    told = " ".join(card.model_card(architectures.MINIATURES["mini-1.5-7B"], config, record).split())
    assert "which take prompts as independent" in told and "they are too narrow" in told
    assert told.index("All conditions and formats together") < told.index("too narrow") < told.index("All five")
    assert "several prompts ask about one" in " ".join(str(evaluation.score.__doc__).split())


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
    assert not told["b blind"]["reached"] and "28.0 to 36.0" in told["b blind"]["why"]
    assert not told["c blind"]["reached"] and "why" not in told["c blind"], "this one does see without eyes"
    assert told["b blind"]["why"] in card.target_lines(list(told.values()))

    scores |= {f"visual-general/{form}": {"seen": {"accuracy": 0.75, "n": 40}, "one_off": 9} for form in ("free",)}
    scores["visual-general/letters"] = {"seen": {"accuracy": 0.75, "n": 40}}
    scores["visual-object/free"] = {"seen": {"accuracy": 0.9}}
    told = {one["what"]: one for one in evaluation.targets(record, marked=True)}
    assert told["visual-general/free"]["why"] == (
        "9 of 10 wrong answers are one too few or one too many; of the same pictures, 90.0 % are counted right where "
        "the question names the object"
    )
    assert not told["visual-general/letters"]["reached"] and "why" not in told["visual-general/letters"], "not kept"


def test_answers_that_are_one_off_are_counted_in_digits_and_letters():
    picture = Image.new("RGB", (4, 4))
    free = [Sample("a", picture, "How many?", "3")] * 5
    assert evaluation.one_off(free, ["2", "4", "3", "5", "cars"]) == 2
    letters = [Sample("a", picture, "How many?", "B", choices=("4", "3", "none", "1"))] * 5
    assert evaluation.one_off(letters, ["A", "B", "C", "D", "2"]) == 2, "a number instead of a letter is read as one"
