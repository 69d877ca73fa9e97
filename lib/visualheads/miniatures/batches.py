"""Training batches of the glyph world; each is a pure function of (seed, stage, step), so that training can resume."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image, ImageDraw
from torch import Tensor

from visualheads.miniatures import turns, words
from visualheads.miniatures.architectures import PATCH, PICTURE
from visualheads.miniatures.world import CLASSES, Box, Scene, as_jpeg, draw_scene, render

GRID = PICTURE // PATCH
BACKGROUND, PART = 0, 1  # tower targets below the classes
RED = (255, 0, 0)
OTHER_BOX_COLOURS = ((0, 200, 0), (0, 0, 255), (255, 160, 0))
BOXED = {False: 0.5, True: 0.65}  # share of pictures with a drawn box, while pointing is taught and before
Pair = tuple[list[int], list[int]]


def generator(seed: int, stage: str, step: int) -> random.Random:
    """The random source of one training step."""
    return random.Random(f"{seed}/{stage}/{step}")


def as_pixels(image: Image.Image) -> Float[np.ndarray, "channel row column"]:
    """Pixels scaled to −1 … 1, as the miniatures' image processor does."""
    return (np.asarray(image, dtype=np.float32) / 127.5 - 1).transpose(2, 0, 1)


def pad(pairs: Iterable[Pair]) -> tuple[Int[Tensor, "batch key"], Int[Tensor, "batch key"]]:
    """Right-padded ids and labels; causal attention needs no mask then, since nothing real looks at the padding."""
    rows = list(pairs)
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), longest), words.vocabulary()[words.PAD], dtype=torch.long)
    labels = torch.full((len(rows), longest), turns.IGNORED, dtype=torch.long)
    for row, (row_ids, row_labels) in enumerate(rows):
        ids[row, : len(row_ids)] = torch.tensor(row_ids)
        labels[row, : len(row_labels)] = torch.tensor(row_labels)
    return ids, labels


def told(
    rng: random.Random, listing: turns.Listing, order: Sequence[str], task: str, questions: int, kinds: turns.Kinds
) -> Pair:
    """What is said about a list or picture: its objects in `order` (`caption`), their numbers (`tally`), answers."""
    if task == "caption":
        return turns.caption(order)
    return turns.tally(rng, listing) if task == "tally" else turns.dialogue(rng, listing, questions, kinds)


def text_pair(rng: random.Random, fillers: int, task: str, questions: int) -> Pair:
    """One list in words with its questions, its tally or the request to list its objects (`task="caption"`)."""
    listed, listing = turns.text_list(rng, fillers)
    head = [*turns.opening(), *listed]
    ids, labels = told(rng, listing, listing.items, task, questions, turns.KINDS)
    return head + ids, [turns.IGNORED] * len(head) + labels


def draw_box(rng: random.Random, image: Image.Image, box: Box, colour: tuple[int, int, int] = RED) -> None:
    """A rectangle around the object, of varying margin and line width."""
    margin, width = rng.choice((0, 1, 2)), rng.choice((1, 2))
    left, top, right, bottom = box
    frame = (
        max(0, left - margin - width),
        max(0, top - margin - width),
        min(image.width - 1, right + margin + width - 1),
        min(image.height - 1, bottom + margin + width - 1),
    )
    ImageDraw.Draw(image).rectangle(frame, outline=colour, width=width)


def picture(rng: random.Random, boxed: bool) -> tuple[Image.Image, Scene, int | None]:
    """A rendered scene and the index of the object in the drawn box, if one was drawn."""
    scene = draw_scene(rng)
    image = render(scene)
    target = None
    if boxed:
        # By class first, as the benchmark asks: otherwise frequent classes would be pointed at more often.
        name = rng.choice(scene.names)
        target = rng.choice([i for i, item in enumerate(scene.objects) if item.name == name])
        draw_box(rng, image, scene.objects[target].box)
    return (as_jpeg(image) if rng.random() < 0.5 else image), scene, target


def patch_targets(scene: Scene, target: int | None) -> tuple[Int[np.ndarray, "patch"], Float[np.ndarray, "patch"]]:
    """What the tower learns to see: per patch the class whose centre lies in it (2 …), PART or BACKGROUND,
    and per patch whether it belongs to the boxed object."""
    kinds = np.zeros((GRID, GRID), dtype=np.int64)
    boxed = np.zeros((GRID, GRID), dtype=np.float32)
    for index, item in enumerate(scene.objects):
        left, top, right, bottom = item.box
        for row in range(top // PATCH, min(GRID, -(-bottom // PATCH))):
            for column in range(left // PATCH, min(GRID, -(-right // PATCH))):
                wide = min(right, (column + 1) * PATCH) - max(left, column * PATCH)
                high = min(bottom, (row + 1) * PATCH) - max(top, row * PATCH)
                if wide * high > 0.15 * PATCH * PATCH:
                    kinds[row, column] = max(kinds[row, column], PART)
                    boxed[row, column] = max(boxed[row, column], float(index == target))
    for index, item in enumerate(scene.objects):
        left, top, right, bottom = item.box
        row, column = (top + bottom) // 2 // PATCH, (left + right) // 2 // PATCH
        kinds[row, column] = 2 + CLASSES.index(item.name)
        boxed[row, column] = float(index == target)
    return kinds.reshape(-1), boxed.reshape(-1)


def tower_batch(rng: random.Random, size: int):
    """Pixels, patch classes and in-the-box flags of `size` pictures, half of them with a drawn box."""
    pixels, kinds, boxed = [], [], []
    for _ in range(size):
        image, scene, target = picture(rng, boxed=rng.random() < 0.6)
        pixels.append(as_pixels(image))
        targets = patch_targets(scene, target)
        kinds.append(targets[0])
        boxed.append(targets[1])
    return torch.from_numpy(np.stack(pixels)), torch.from_numpy(np.stack(kinds)), torch.from_numpy(np.stack(boxed))


def picture_pair(rng: random.Random, task: str, questions: int, pointing: bool = False) -> tuple[np.ndarray, Pair]:
    """Pixels and text of one picture: a `caption` lists its objects, a `tally` counts them, `questions` ask.

    With `pointing`, captions say which object the drawn box holds, and questions ask about it more often.
    """
    image, scene, target = picture(rng, boxed=rng.random() < BOXED[pointing])
    head = [*turns.opening(), *[words.vocabulary()[words.IMAGE]] * GRID**2]
    items = tuple(item.name for item in scene.objects)
    listing = turns.Listing(items, None if target is None else items[target])
    order = turns.reading_order(scene, PATCH, target if pointing else None)
    kinds = turns.POINTING_KINDS if pointing else turns.KINDS
    ids, labels = told(rng, listing, order, task, questions, kinds)
    return as_pixels(image), (head + ids, [turns.IGNORED] * len(head) + labels)


def picture_batch(rng: random.Random, size: int, task: str, questions: int = 5, pointing: bool = False):
    """Pixels, ids and labels of `size` pictures."""
    samples = [picture_pair(rng, task, questions, pointing) for _ in range(size)]
    ids, labels = pad(pair for _, pair in samples)
    return torch.from_numpy(np.stack([pixels for pixels, _ in samples])), ids, labels
