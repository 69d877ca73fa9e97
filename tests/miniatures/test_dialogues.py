"""Exchanges about lists and pictures as supervised token ids, and batches of them."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from visualheads.miniatures import architectures, dialogues, language, listings, world
from visualheads.miniatures.fitting import step_random

SEEDS = st.integers(0, 10_000)


@given(SEEDS)
def test_only_answers_are_supervised(seed):
    rng = random.Random(seed)
    ids, labels = dialogues.text_pair(rng, 20, "questions", 70)
    assert len(ids) == len(labels)
    assert all(label in (dialogues.IGNORED, token) for token, label in zip(ids, labels, strict=True))
    ends = [index for index, label in enumerate(labels) if label == language.vocabulary()[language.EOS]]
    assert ends[-1] == len(ids) - 1
    assert all(labels[index - 1] != dialogues.IGNORED for index in ends)
    assert ids.count(language.vocabulary()[language.ASSISTANT]) == len(ends)


@given(SEEDS, st.integers(0, 2))
def test_a_tally_tells_every_class_present_with_its_number(seed, style):
    rng = random.Random(seed)
    _, known = listings.text_list(rng, 10)
    ids, labels = dialogues.tally(rng, known, style)
    table = {index: word for word, index in language.vocabulary().items()}
    start = len(language.encode(language.TALLY_REQUEST)) + 1
    asked, told = [], []
    for token, label in zip(ids[start:-1], labels[start:-1], strict=True):
        if label == dialogues.IGNORED:
            asked.append(table[token])
        elif table[label] in world.CLASSES:  # the marked class, named before its number
            assert table[label] == known.marked
            assert language.THESE in asked
        else:
            [name] = [word for word in asked if word in (*world.CLASSES, *world.SUPERCATEGORIES)] or [language.THESE]
            assert style or len(asked) == 1
            told.append((name, int(table[label])))
            asked = []
    numbers = dict(told)
    assert len(numbers) == len(told)
    assert {*known.items, *(world.CATEGORY[name] for name in known.items)} <= set(numbers)
    assert all(number == known.count(name) for name, number in told if name != language.THESE)
    assert (language.THESE in numbers) == (known.marked is not None)
    if known.marked:
        assert numbers[language.THESE] == known.items.count(known.marked)
    assert sum(number == 0 for number in numbers.values()) == sum(dialogues.ABSENT)
    assert labels[-1] == language.vocabulary()[language.EOS]


def test_a_caption_marks_the_object_in_the_box():
    known = listings.Listing(("dog", "cat"), "cat", ("blue", "teal"), marked_at=1)
    table = {index: word for word, index in language.vocabulary().items()}
    for coloured, told in ((False, "dog rectangle cat ."), (True, "blue dog rectangle teal cat .")):
        labels = [table[i] for i in dialogues.caption(known, coloured)[1] if i != dialogues.IGNORED]
        assert " ".join(labels[:-1]) == told


def test_tallies_lead_from_a_word_to_a_question():
    known = listings.Listing(("dog",), "dog")
    table = {index: word for word, index in language.vocabulary().items()}
    told = [" ".join(table[i] for i in dialogues.tally(random.Random(0), known, style)[0]) for style in range(3)]
    assert "dog 1" in told[0] and ("these 1" in told[0] or "these dog 1" in told[0])
    assert "dog ##s ? 1" in told[1] and "animals ? 1" in told[1]
    assert "How many dog ##s ? 1" in told[2]
    assert "How many of these ? 1" in told[2] or "How many of these ? dog 1" in told[2]


@pytest.mark.parametrize("recipe", ["1.5", "1.6", "vip"])
def test_batches_are_pure_functions_of_their_step_and_what_the_processor_makes(recipe):
    processor = architectures.build_processor(recipe)
    first, again, other = (
        dialogues.picture_batch(step_random(0, "x", step), 6, "questions", processor, 60, 0.6) for step in (3, 3, 4)
    )
    assert set(first) == set(again)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["pixel_values"], other["pixel_values"])
    image = language.vocabulary()[language.IMAGE]
    rng = step_random(0, "x", 3)
    shown = [listings.draw_picture(rng).image for _ in range(6)]
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


@pytest.mark.parametrize("name", ["mini-1.5-7B", "mini-1.6-mistral-7B"])
def test_a_batch_in_parts_of_like_length_teaches_the_same(name):
    recipe = architectures.miniature(name).recipe
    torch.manual_seed(0)
    processor, model = architectures.build_processor(recipe), architectures.build_empty(name)
    rng = step_random(0, "parts", 1)
    batch = dialogues.picture_batch(rng, 6, "count", processor, 60, 0.6)
    parts = list(dialogues.by_length(batch))
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
