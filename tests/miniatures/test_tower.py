"""What the vision tower's patches are trained to show."""

from __future__ import annotations

import random

import pytest
import torch

from visualheads.miniatures import architectures, tower, world


def test_patch_targets_by_hand():
    dog = world.SceneObject("dog", "blue", 15, (26, 2, 40, 14))  # centre (33, 8): patch row 0, column 2
    scene = world.Scene(96, 96, 0, (dog,))
    seen = tower.patch_targets(scene, 0)
    kinds, boxed, colours = (seen[name].reshape(8, 8) for name in ("kind", "boxed", "colour"))
    assert kinds[0, 2] == 2 + world.CLASSES.index("dog")
    assert kinds[0, 3] == tower.PART  # 4 × 10 px of 144
    assert kinds[1, 2] == tower.BACKGROUND  # 10 × 2 px: too little
    assert (kinds > 0).sum() == 2
    assert boxed.sum() == 2
    assert colours[0, 2] == list(world.COLOURS).index("blue")
    assert (colours != tower.NO_COLOUR).sum() == 1
    assert tower.patch_targets(scene, None)["boxed"].sum() == 0


def test_patch_targets_of_a_squeezed_picture():
    dog = world.SceneObject("dog", "blue", 15, (100, 2, 114, 14))  # centre (107, 8) of 144: patch column 5 of 8
    kinds = tower.patch_targets(world.Scene(144, 96, 0, (dog,)), None)["kind"].reshape(8, 8)
    assert kinds[0, 5] == 2 + world.CLASSES.index("dog")


def test_a_perfect_tower_has_no_loss_and_full_scores():
    processor = architectures.build_processor("1.5")
    batch = tower.tower_batch(random.Random(0), 8, processor)
    assert batch["pixels"].shape == (8, 3, 96, 96)
    sure = 50.0
    number = torch.arange(64)
    told = {
        "kind": sure * torch.nn.functional.one_hot(batch["kind"], tower.HEADS["kind"]).float(),
        "boxed": (sure * (2 * batch["boxed"] - 1))[..., None],
        "colour": sure * torch.nn.functional.one_hot(batch["colour"].clamp(min=0), tower.HEADS["colour"]).float(),
        "quality": sure * torch.nn.functional.one_hot(batch["quality"], 5).float()[:, None].expand(-1, 64, -1),
        "place": sure
        * torch.cat([torch.nn.functional.one_hot(part, 8) for part in (number // 8, number % 8)], -1)
        .float()
        .expand(8, -1, -1),
    }
    assert float(tower.tower_loss(told, batch)) == pytest.approx(0, abs=1e-4)
    assert set(tower.tower_scores(told, batch).values()) == {1.0}
