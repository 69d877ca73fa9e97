"""Lists in words, pictures, and what is known of them."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import numpy as np

from visualheads.miniatures import dialogues, language, listings, world
from visualheads.miniatures.world import DISTORTIONS


def apart(token: int) -> list[str]:
    """The words that one id tells together."""
    table = {index: word for word, index in language.vocabulary().items()}
    return [table[token % len(table)], *(apart(token // len(table)) if token >= len(table) else [])]


def test_a_list_in_words_tells_what_its_listing_knows():
    table = {index: word for word, index in language.vocabulary().items()}
    seen = Counter()
    for seed in range(300):
        ids, known = listings.text_list(random.Random(seed), 12)
        told = [table[i] for i in ids]
        assert [word for word in told if word in world.CLASSES] == list(known.items)
        assert tuple(word for word in told if word in world.COLOURS) == (known.colours or ())
        assert (language.MARK in told) == (known.marked is not None)
        if known.marked:
            after = told[told.index(language.MARK) + 1 :]
            assert next(word for word in after if word in world.CLASSES) == known.marked
        bad = {kind: pair[0] for kind, pair in world.ADJECTIVES.items()}
        assert {word for word in told if word in bad.values()} == {bad[k] for k in [known.quality] if k in bad}
        seen[bool(known.colours), known.quality != "none"] += 1
    assert len(seen) == 4
    ids, known = listings.text_list(random.Random(0), 12, plain=True)
    assert known.colours is None and known.quality == "none"


def test_a_list_that_tells_a_place_at_once_tells_the_same():
    for seed in range(100):
        ids, known = listings.text_list(random.Random(seed), 12, joined=1.0)
        slots = [apart(token) for token in ids]
        objects = [slot for slot in slots if slot[0] in world.CLASSES]
        assert [slot[0] for slot in objects] == list(known.items)
        assert [slot[0] for slot in objects if language.MARK in slot] == [known.marked] * (known.marked is not None)
        if known.colours:
            assert [slot[1] for slot in objects] == list(known.colours)
        ground = {word for slot in slots if slot not in objects for word in slot}
        bad = {kind: pair[0] for kind, pair in world.ADJECTIVES.items()}
        assert ground <= {language.FILLER, *(bad[k] for k in [known.quality] if k in bad)}


def test_reading_order_is_that_of_the_image_tokens():
    item = world.SceneObject("dog", "blue", 15, (50, 2, 60, 12))
    left_below = replace(item, name="cat", box=(2, 26, 12, 36))
    left = replace(item, name="car", box=(2, 4, 12, 14))
    scene = world.Scene(96, 96, 0, (left_below, item, left))
    assert [scene.objects[index].name for index in listings.reading_order(scene, 8)] == ["car", "dog", "cat"]
    assert listings.of_scene(scene, 0).items == ("car", "dog", "cat")
    assert listings.of_scene(scene, 0).marked == "cat"


def test_places_and_relations_by_hand():
    shown = listings.Listing(
        ("dog", "cat", "car"), None, ("blue", "gray", "blue"), ((10.0, 12.0), (80.0, 20.0), (70.0, 90.0)), (96, 96)
    )
    assert [shown.place(name) for name in shown.items] == ["top left", "top right", "bottom right"]
    assert shown.relation("dog", "cat") == "left"
    assert shown.relation("cat", "dog") == "right"
    assert shown.relation("car", "cat") == "below"
    assert shown.relation("cat", "car") == "above"
    assert shown.relation("dog", "car") is None  # as far to the left as above
    assert shown.colour("cat") == "gray"
    assert shown.alone == ["car", "cat", "dog"]
    told = dialogues.places(random.Random(0), shown)
    table = {index: word for word, index in language.vocabulary().items()}
    assert "cat top right" in " ".join(table[i] for i in told[0])


def test_training_pictures_vary_in_shape_quality_and_box_colour():
    rng = random.Random(0)
    shown = [listings.draw_picture(rng, colourful=True) for _ in range(200)]
    assert {each.image.size for each in shown} == {(96, 96), (144, 96), (96, 144)}
    assert {each.scene.quality for each in shown} == {"none", *DISTORTIONS}
    assert 0.4 < np.mean([each.target is not None for each in shown]) < 0.6
    seen = {colour for each in shown if each.target is not None for _, colour in each.image.getcolors(1 << 16)}
    assert {listings.RED, *listings.OTHER_BOX_COLOURS} <= seen
