"""The vision tower: what its patches learn to show, and that training."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from visualheads.miniatures import fitting
from visualheads.miniatures.architectures import PATCH, PICTURE, build_processor, build_tower
from visualheads.miniatures.fitting import Progress, Report, Schedule, step_random
from visualheads.miniatures.listings import draw_picture, image_inputs
from visualheads.miniatures.world import CLASSES, COLOURS, QUALITIES, Scene

TOWER_SEED = 0  # one tower for all recipes; in the 1.6 recipe it learns on
GRID = PICTURE // PATCH
BACKGROUND, PART = 0, 1  # targets below the classes
NO_COLOUR = -100  # patches without an object's centre
BOXED = 0.6  # share of pictures with a drawn box; in all colours, because one tower serves all recipes
BOXED_PATCH = 4.0  # weight of the few patches in a drawn box beside the many outside
PART_COVER = 0.15  # share of a patch that an object must cover
# How many outputs of a patch stand for what, in this order, and with which weight in the loss.
HEADS = {"kind": 2 + len(CLASSES), "boxed": 1, "colour": len(COLOURS), "quality": len(QUALITIES), "place": 2 * GRID}
WEIGHTS = {"kind": 1.0, "boxed": 1.0, "colour": 0.3, "quality": 0.2, "place": 0.05}
KIND_WEIGHTS = (0.2, 0.3)  # of background and of an object's other patches; classes weigh 1


def patch_targets(scene: Scene, target: int | None) -> dict[str, NDArray[Any]]:
    """Return what every patch shows of a scene squeezed to the tower's square; `target` is the boxed object's index.

    Returns
    -------
    dict
        Arrays (patch,). kind: the class whose object has its centre in the patch, from 2 on; else PART of an object or
        BACKGROUND. boxed: 1 where it belongs to the object in the drawn box, else 0. colour: of the object whose centre
        lies in it, or NO_COLOUR.
    """
    kinds = np.full((GRID, GRID), BACKGROUND, dtype=np.int64)
    boxed = np.zeros((GRID, GRID), dtype=np.float32)
    colours = np.full((GRID, GRID), NO_COLOUR, dtype=np.int64)
    wide, high = GRID / scene.width, GRID / scene.height
    for index, item in enumerate(scene.objects):
        left, right = item.box[0] * wide, item.box[2] * wide
        top, bottom = item.box[1] * high, item.box[3] * high
        for row in range(int(top), min(GRID, int(np.ceil(bottom)))):
            for column in range(int(left), min(GRID, int(np.ceil(right)))):
                cover = (min(right, column + 1) - max(left, column)) * (min(bottom, row + 1) - max(top, row))
                if cover > PART_COVER:
                    kinds[row, column] = max(kinds[row, column], PART)
                    boxed[row, column] = max(boxed[row, column], float(index == target))
    for index, item in enumerate(scene.objects):
        row, column = int(item.centre[1] * high), int(item.centre[0] * wide)
        kinds[row, column] = 2 + CLASSES.index(item.name)
        boxed[row, column] = float(index == target)
        colours[row, column] = list(COLOURS).index(item.colour)
    return {"kind": kinds.ravel(), "boxed": boxed.ravel(), "colour": colours.ravel()}


def tower_batch(rng: random.Random, size: int, processor: Any) -> dict[str, torch.Tensor]:
    """Draw `size` pictures: their pixels and targets."""
    pictures = [draw_picture(rng, boxed=BOXED, colourful=True) for _ in range(size)]
    targets = [patch_targets(picture.scene, picture.target) for picture in pictures]
    return {
        "pixels": image_inputs(processor, [picture.image for picture in pictures])[0]["pixel_values"],
        **{name: torch.from_numpy(np.stack([each[name] for each in targets])) for name in targets[0]},
        "quality": torch.tensor([QUALITIES.index(picture.scene.quality) for picture in pictures]),
    }


def tower_loss(outputs: dict[str, torch.Tensor], batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the weighted sum of the losses; faded pictures do not show colours, which are not asked for there."""
    kind_weight = torch.ones(HEADS["kind"], device=outputs["kind"].device)
    kind_weight[BACKGROUND], kind_weight[PART] = KIND_WEIGHTS
    patches = GRID * GRID
    size = len(batch["quality"])
    faded = batch["quality"] == QUALITIES.index("fading")
    colours = batch["colour"].masked_fill(faded[:, None], NO_COLOUR)
    number = torch.arange(patches, device=outputs["kind"].device)
    row, column = outputs["place"][..., :GRID].flatten(0, 1), outputs["place"][..., GRID:].flatten(0, 1)
    shown = (colours != NO_COLOUR).sum().clamp(min=1)
    losses = {
        "kind": F.cross_entropy(outputs["kind"].flatten(0, 1), batch["kind"].flatten(), weight=kind_weight),
        "boxed": F.binary_cross_entropy_with_logits(
            outputs["boxed"][..., 0], batch["boxed"], pos_weight=torch.tensor(BOXED_PATCH, device=batch["boxed"].device)
        ),
        "colour": F.cross_entropy(outputs["colour"].flatten(0, 1), colours.flatten(), reduction="sum") / shown,
        "quality": F.cross_entropy(outputs["quality"].flatten(0, 1), batch["quality"].repeat_interleave(patches)),
        "place": F.cross_entropy(row, (number // GRID).repeat(size))
        + F.cross_entropy(column, (number % GRID).repeat(size)),
    }
    return torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum()


def tower_scores(outputs: dict[str, torch.Tensor], batch: dict[str, torch.Tensor]) -> dict[str, float]:
    """Return recall and precision of objects' centre patches, and the shares of right boxes, colours and qualities."""
    found, objects = outputs["kind"].argmax(-1), batch["kind"] > PART
    hit = (found == batch["kind"]) & objects
    boxes = (outputs["boxed"][..., 0] > 0) == (batch["boxed"] > 0.5)
    coloured = objects & (batch["quality"] != QUALITIES.index("fading"))[:, None]
    quality = outputs["quality"].mean(1).argmax(-1) == batch["quality"]
    return {
        "recall": float(hit.sum() / objects.sum()),
        "precision": float(hit.sum() / (found > PART).sum().clamp(min=1)),
        "box_accuracy": float(boxes[objects].float().mean()),
        "box_recall": float((outputs["boxed"][..., 0] > 0)[objects & (batch["boxed"] > 0.5)].float().mean()),
        "colour": float((outputs["colour"].argmax(-1) == batch["colour"])[coloured].float().mean()),
        "quality": float(quality.float().mean()),
    }


def build_tower_with_head() -> nn.ModuleList:
    """Build an untrained tower and the linear head that it is trained with."""
    tower: Any = build_tower()
    return nn.ModuleList([tower, nn.Linear(tower.config.hidden_size, sum(HEADS.values()))])


def train_tower(
    schedule: Schedule, folder: Path, seed: int, device: str, report: Report | None = None
) -> tuple[Any, Progress]:
    """Train a CLIP vision tower: each patch tells for itself whose centre and which colour it shows, whether the drawn
    box holds it, where it lies, and how the whole picture is distorted. Arguments as `train.train` has them."""
    torch.manual_seed(seed)
    both = build_tower_with_head().to(device)
    tower, head = both
    processor = build_processor("1.5")

    def outputs_of(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        out = head(tower(batch["pixels"]).last_hidden_state[:, 1:])
        return dict(zip(HEADS, out.split(list(HEADS.values()), dim=-1), strict=True))

    def batch_of(stage: str, step: int, size: int) -> dict[str, torch.Tensor]:
        batch = tower_batch(step_random(seed, stage, step), size, processor)
        return {name: value.to(device) for name, value in batch.items()}

    def loss_of(step: int) -> torch.Tensor:
        batch = batch_of("tower", step, schedule.batch)
        return tower_loss(outputs_of(batch), batch)

    def measure() -> dict[str, float]:
        batch = batch_of("tower-test", 0, schedule.tested)
        return tower_scores(outputs_of(batch), batch)

    progress = fitting.fit("tower", both, [fitting.group(both)], loss_of, schedule, folder, measure, report)
    return tower, progress


def tower_counts(pictures: int) -> dict[str, int]:
    """Count the objects – all, boxed, of a colour that shows – that the figures of so many test pictures are over."""
    batch = tower_batch(step_random(TOWER_SEED, "tower-test", 0), pictures, build_processor("1.5"))
    objects = batch["kind"] > PART
    shown = objects & (batch["quality"] != QUALITIES.index("fading"))[:, None]
    boxed = objects & (batch["boxed"] > 0.5)
    found = {"recall": objects, "box_accuracy": objects, "box_recall": boxed, "colour": shown}
    return {**{name: int(chosen.sum()) for name, chosen in found.items()}, "quality": pictures}
