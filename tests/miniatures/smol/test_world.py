"""The emoji world: sprites, scenes and the questions about them."""

from __future__ import annotations

import json
import random
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from helpers.smol import DATA, sheet
from visualheads.errors import VisualHeadsError
from visualheads.miniatures.smol import questions
from visualheads.miniatures.smol.scenes import (
    ANSWERS,
    GROUNDS,
    HELD_OUT_GROUND,
    LARGEST,
    MOST_ALIKE,
    MOST_OBJECTS,
    OVERLAP,
    SMALLEST,
    draw_other,
    draw_scene,
    is_held_out,
    render,
)
from visualheads.miniatures.smol.sprites import CATEGORY, CLASSES, COLOURS, PAINTED, WORLD, read_sheet
from visualheads.miniatures.smol.training import MOST_NUMBERS, NUMBERS, draw_counted

N = 400


@pytest.fixture(scope="module")
def scenes():
    sheet()
    rng = random.Random("tests")
    return [draw_scene(rng) for _ in range(N)]


def test_the_sheet_has_a_sprite_for_every_class():
    entries = json.loads((DATA / "sprites.json").read_text(encoding="utf-8"))
    assert [entry["name"] for entry in entries] == list(CLASSES)
    assert len(CLASSES) >= 48 and len(WORLD) == 5
    with Image.open(DATA / "sprites.webp") as opened:
        for entry in entries:
            left, top, right, bottom = entry["rectangle"]
            assert 0 <= left < right <= opened.width and 0 <= top < bottom <= opened.height
    assert sum((DATA / name).stat().st_size for name in ("sprites.webp", "sprites.json")) < 1e6
    assert "MIT" in (DATA / "LICENSE-sprites.md").read_text(encoding="utf-8")


def test_a_folder_without_a_sheet_says_so(tmp_path):
    with pytest.raises(VisualHeadsError, match=r"sprites\.webp.*data/smol"):
        read_sheet(tmp_path)


def test_a_painted_sprite_changes_colour_and_keeps_its_outline():
    red, blue = (sheet().draw("shirt", 60, colour=colour) for colour in ("red", "blue"))
    assert np.array_equal(np.asarray(red)[..., 3], np.asarray(blue)[..., 3])
    solid = np.asarray(red)[..., 3] > 250
    assert np.asarray(red)[solid][:, 0].mean() > np.asarray(blue)[solid][:, 0].mean() + 50
    with pytest.raises(VisualHeadsError, match="mauve"):
        sheet().draw("shirt", 60, colour="mauve")


def test_scenes_keep_to_the_rules_of_training(scenes):
    for scene in scenes:
        assert 1 <= len(scene.objects) <= MOST_OBJECTS
        assert max(Counter(thing.name for thing in scene.objects).values()) <= MOST_ALIKE
        assert not is_held_out(scene.names)
        assert scene.ground in GROUNDS and scene.ground != HELD_OUT_GROUND
        for thing in scene.objects:
            left, top, right, bottom = thing.box
            assert 0 <= left < right <= scene.size[0] and 0 <= top < bottom <= scene.size[1]
            assert SMALLEST <= max(right - left, bottom - top) <= LARGEST
            assert (thing.colour in COLOURS) == (thing.name in PAINTED)
    assert any(is_held_out((one, other)) for one in CLASSES for other in CLASSES if one != other)


def test_a_picture_is_drawn_for_a_number_of_a_class_or_of_several_classes_of_a_kind():
    sheet()
    numbers = {True: set(), False: set()}
    for seed in range(N):
        scene, counted = draw_counted(random.Random(seed))
        mixed = counted not in CLASSES
        classes = [name for name in scene.names if counted in (name, CATEGORY[name])]
        assert len(classes) > 1 if mixed else classes == [counted]
        assert len(scene.names) <= (7 if mixed else 4) and not is_held_out(scene.names)
        numbers[mixed].add(scene.count(counted))
    assert numbers == {True: set(MOST_NUMBERS), False: set(NUMBERS)}


def test_objects_overlap_at_most_slightly(scenes):
    overlapping = 0
    for scene in scenes[:100]:
        for index, one in enumerate(scene.objects):
            for other in scene.objects[:index]:
                width = min(one.box[2], other.box[2]) - max(one.box[0], other.box[0])
                height = min(one.box[3], other.box[3]) - max(one.box[1], other.box[1])
                if width > 0 and height > 0:
                    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one.box, other.box)]
                    assert width * height / min(areas) <= OVERLAP
                    overlapping += 1
    assert overlapping


def test_objects_lie_anywhere_in_the_picture(scenes):
    """No grid: places take all remainders, and halves and quarters of the picture are used alike."""
    centres = np.array(
        [
            [c / side for c, side in zip(thing.centre, scene.size, strict=True)]
            for scene in scenes
            for thing in scene.objects
        ]
    )
    for axis in (0, 1):
        counts, _ = np.histogram(centres[:, axis], bins=4, range=(0.15, 0.85))
        assert counts.min() > 0.7 * counts.mean()
    lefts = np.array([thing.box[0] for scene in scenes for thing in scene.objects])
    assert min(np.bincount(lefts % 8, minlength=8)) > 0.6 * len(lefts) / 8


def test_a_scene_is_drawn_and_rendered_the_same_from_its_seed():
    one, other = (draw_scene(random.Random(7)) for _ in range(2))
    assert one == other
    assert np.array_equal(np.asarray(render(one, sheet())), np.asarray(render(other, sheet())))
    assert render(one, sheet()).size == one.size


def test_answers_are_those_of_the_scene(scenes):
    rng = random.Random(1)
    for scene in scenes[:60]:
        marked = rng.choice(scene.objects)
        for asked in (
            *questions.of_plain_picture(rng, scene, scene.names[0]),
            *questions.of_marked_picture(rng, scene, marked),
        ):
            if asked.kind == "object":
                name = next(n for n in CLASSES if asked.text.startswith(questions.count_object(n)))
                assert asked.answer == str(sum(thing.name == name for thing in scene.objects))
            elif asked.kind == "super":
                category = next(c for c in WORLD if asked.text.startswith(questions.count_super(c)))
                assert asked.answer == str(sum(CATEGORY[thing.name] == category for thing in scene.objects))
            elif asked.kind == "general":
                assert asked.answer == str(scene.count(marked.name)) and "rectangle" in asked.text
            elif asked.kind == "exists":
                name = next(n for n in CLASSES if asked.text.startswith(questions.exists(n)))
                assert asked.answer == ("Yes" if scene.count(name) else "No")
            elif asked.kind == "list":
                told = asked.answer.split(", ")
                assert sorted(told) == sorted(thing.name for thing in scene.objects)
            elif asked.kind.endswith("letters"):
                assert asked.answer in "ABCD" and f"\n{asked.answer}. " in asked.text


def test_the_question_alone_tells_little(scenes):
    """No answer more frequent than 30 % of the counts, and letters in turn."""
    rng = random.Random(2)
    told: dict[str, list[str]] = {}
    for scene in scenes:
        asked = [
            *questions.of_plain_picture(rng, scene, scene.names[0]),
            *questions.of_marked_picture(rng, scene, rng.choice(scene.objects)),
        ]
        for each in asked:
            told.setdefault(each.kind, []).append(each.answer)
    for kind in ("object", "super", "general", "which-letters", "number-letters"):
        assert max(Counter(told[kind]).values()) / len(told[kind]) < 0.35, kind
    yes = told["exists"].count("Yes") / len(told["exists"])
    assert 0.4 < yes < 0.6


def test_another_generator_shows_the_same_classes_otherwise():
    drawn = [draw_other(number, sheet()) for number in range(2 * len(ANSWERS))]
    assert [scene.objects for scene in drawn] == [*ANSWERS, *ANSWERS], "the question alone tells nothing"
    assert all(scene.name in CLASSES and scene.category_objects >= scene.objects for scene in drawn)
    again = draw_other(3, sheet())
    assert np.array_equal(np.asarray(again.picture), np.asarray(drawn[3].picture))
