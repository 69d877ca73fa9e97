"""The vision tower: what its patches are trained to tell, and that training."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import nn

from visualheads.miniatures import batches, fitting
from visualheads.miniatures.architectures import PATCH, PICTURE, build_processor, build_tower
from visualheads.miniatures.distortions import QUALITIES
from visualheads.miniatures.fitting import Progress, Report, Schedule
from visualheads.miniatures.pictures import Picture, picture, prepared
from visualheads.miniatures.world import CLASSES, COLOURS, Scene

TOWER_SEED = 0  # one tower for all recipes; in the 1.6 recipe it learns on
GRID = PICTURE // PATCH
BACKGROUND, PART = 0, 1  # targets below the classes
NO_COLOUR = -100  # patches without an object's centre
BOXED = 0.6  # share of pictures with a drawn box; in all colours, because one tower serves all recipes
BOXED_PATCH = 4.0  # weight of the few patches in a drawn box beside the many outside
PART_COVER = 0.15  # share of a patch that an object must cover
# How many outputs tell what, in this order, and with which weight in the loss.
HEADS = {"kind": 2 + len(CLASSES), "boxed": 1, "colour": len(COLOURS), "quality": len(QUALITIES), "place": 2 * GRID}
WEIGHTS = {"kind": 1.0, "boxed": 1.0, "colour": 0.3, "quality": 0.2, "place": 0.05}
KIND_WEIGHTS = (0.2, 0.3)  # of background and of an object's other patches; classes weigh 1


@dataclass(frozen=True)
class Targets:
    """Per patch: kind (class of the centre in it from 2 on, PART or BACKGROUND), whether it belongs to the boxed
    object, and the colour of the centre in it or NO_COLOUR."""

    kinds: Int[np.ndarray, "patch"]
    boxed: Float[np.ndarray, "patch"]
    colours: Int[np.ndarray, "patch"]


def patch_targets(scene: Scene, target: int | None) -> Targets:
    """What the patches show of a scene squeezed to the tower's square."""
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
    return Targets(kinds.reshape(-1), boxed.reshape(-1), colours.reshape(-1))


def tower_batch(rng: random.Random, size: int, processor: Any) -> dict[str, torch.Tensor]:
    """Pixels and targets of `size` pictures."""
    shown: list[Picture] = [picture(rng, boxed=BOXED, colourful=True) for _ in range(size)]
    targets = [patch_targets(each.scene, each.target) for each in shown]
    return {
        "pixels": prepared(processor, [each.image for each in shown])[0]["pixel_values"],
        "kind": torch.from_numpy(np.stack([each.kinds for each in targets])),
        "boxed": torch.from_numpy(np.stack([each.boxed for each in targets])),
        "colour": torch.from_numpy(np.stack([each.colours for each in targets])),
        "quality": torch.tensor([QUALITIES.index(each.scene.quality) for each in shown]),
    }


def tower_loss(told: dict[str, torch.Tensor], batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The weighted sum over what the patches tell. Faded pictures do not show colours: those are not asked for."""
    kind_weight = torch.ones(HEADS["kind"], device=told["kind"].device)
    kind_weight[BACKGROUND], kind_weight[PART] = KIND_WEIGHTS
    patches = GRID * GRID
    size = len(batch["quality"])
    faded = batch["quality"] == QUALITIES.index("fading")
    colours = batch["colour"].masked_fill(faded[:, None], NO_COLOUR)
    number = torch.arange(patches, device=told["kind"].device)
    row, column = told["place"][..., :GRID].flatten(0, 1), told["place"][..., GRID:].flatten(0, 1)
    shown = (colours != NO_COLOUR).sum().clamp(min=1)
    losses = {
        "kind": F.cross_entropy(told["kind"].flatten(0, 1), batch["kind"].flatten(), weight=kind_weight),
        "boxed": F.binary_cross_entropy_with_logits(
            told["boxed"][..., 0], batch["boxed"], pos_weight=torch.tensor(BOXED_PATCH, device=batch["boxed"].device)
        ),
        "colour": F.cross_entropy(told["colour"].flatten(0, 1), colours.flatten(), reduction="sum") / shown,
        "quality": F.cross_entropy(told["quality"].flatten(0, 1), batch["quality"].repeat_interleave(patches)),
        "place": F.cross_entropy(row, (number // GRID).repeat(size))
        + F.cross_entropy(column, (number % GRID).repeat(size)),
    }
    return torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum()


def tower_scores(told: dict[str, torch.Tensor], batch: dict[str, torch.Tensor]) -> dict[str, float]:
    """Recall and precision of objects' centre patches; shares of right boxes and colours there and right qualities."""
    found, objects = told["kind"].argmax(-1), batch["kind"] > PART
    hit = (found == batch["kind"]) & objects
    boxes = (told["boxed"][..., 0] > 0) == (batch["boxed"] > 0.5)
    coloured = objects & (batch["quality"] != QUALITIES.index("fading"))[:, None]
    quality = told["quality"].mean(1).argmax(-1) == batch["quality"]
    return {
        "recall": float(hit.sum() / objects.sum()),
        "precision": float(hit.sum() / (found > PART).sum().clamp(min=1)),
        "box_accuracy": float(boxes[objects].float().mean()),
        "box_recall": float((told["boxed"][..., 0] > 0)[objects & (batch["boxed"] > 0.5)].float().mean()),
        "colour": float((told["colour"].argmax(-1) == batch["colour"])[coloured].float().mean()),
        "quality": float(quality.float().mean()),
    }


def build_taught() -> nn.ModuleList:
    """An untrained tower, and the linear head that it is taught with."""
    tower: Any = build_tower()
    return nn.ModuleList([tower, nn.Linear(tower.config.hidden_size, sum(HEADS.values()))])


def train_tower(
    schedule: Schedule, folder: Path, seed: int, device: str, report: Report | None = None
) -> tuple[Any, Progress]:
    """A CLIP vision tower whose patches tell, each for itself, whose centre and which colour they show, whether the
    drawn box holds it, where they lie, and how the whole picture is distorted."""
    torch.manual_seed(seed)
    both = build_taught().to(device)
    tower, head = both
    processor = build_processor("1.5")

    def told(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        out = head(tower(batch["pixels"]).last_hidden_state[:, 1:])
        return dict(zip(HEADS, out.split(list(HEADS.values()), dim=-1), strict=True))

    def batch_of(stage: str, step: int, size: int) -> dict[str, torch.Tensor]:
        batch = tower_batch(batches.generator(seed, stage, step), size, processor)
        return {name: value.to(device) for name, value in batch.items()}

    def loss_of(step: int) -> torch.Tensor:
        batch = batch_of("tower", step, schedule.batch)
        return tower_loss(told(batch), batch)

    def measure() -> dict[str, float]:
        batch = batch_of("tower-test", 0, schedule.tested)
        return tower_scores(told(batch), batch)

    progress = fitting.fit("tower", both, [fitting.group(both)], loss_of, schedule, folder, measure, report)
    return tower, progress
