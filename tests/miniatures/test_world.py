"""The glyph world: scenes, their pixels, and distortions."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from visualheads.miniatures import world
from visualheads.miniatures.world import DISTORTIONS, STRENGTHS, distorted

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


def test_distortions_do_what_they_say():
    clean = world.render(world.draw_scene(random.Random(3)))
    before = np.asarray(clean).astype(float)
    after = {
        kind: np.asarray(distorted(clean, kind, strength, 1)).astype(float)
        for kind in DISTORTIONS
        for strength in STRENGTHS[kind][:1]
    }
    assert after["darkness"].mean() < 0.6 * before.mean()
    assert np.ptp(after["fading"], axis=2).mean() < 0.4 * np.ptp(before, axis=2).mean()

    def edges(picture):
        return np.abs(np.diff(picture, axis=1)).mean()

    assert edges(after["blur"]) < 0.8 * edges(before) < edges(before) < 0.8 * edges(after["noise"])
    assert distorted(clean, "none", 0.0, 1) is clean
    again = np.asarray(distorted(clean, "noise", 20.0, 1))
    assert (again == np.asarray(distorted(clean, "noise", 20.0, 1))).all()
