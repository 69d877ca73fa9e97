"""Pictures to train on: random scenes in several shapes, some distorted, some with a drawn box, as a model's processor
prepares them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image, ImageDraw

from visualheads.miniatures import language
from visualheads.miniatures.distortions import DISTORTIONS, draw_strength
from visualheads.miniatures.text_lists import Listing, of_scene
from visualheads.miniatures.world import Box, Scene, as_jpeg, draw_scene, render

Colour = tuple[int, int, int]
RED: Colour = (255, 0, 0)
OTHER_BOX_COLOURS: tuple[Colour, ...] = (
    (0, 220, 0),
    (0, 0, 255),
    (255, 255, 0),
    (255, 0, 255),
    (0, 230, 230),
    (255, 140, 0),
    (255, 255, 255),
)
SHAPES = {(4, 4): 0.7, (6, 4): 0.15, (4, 6): 0.15}  # cells: (columns, rows)
BOXED = 0.6  # share of pictures with a drawn box
DISTORTED = 0.25  # share of pictures with a distortion
COMPRESSED = 0.5  # … that went through JPEG, as the shipped ones did
QUALITY = (80, 95)  # of JPEG
OTHER_COLOUR = 0.6  # share of boxes that are not red, where other colours are drawn


@dataclass(frozen=True)
class Picture:
    """A rendered scene; `target` is the index of the object in the drawn box, if one was drawn."""

    image: Image.Image
    scene: Scene
    target: int | None

    @property
    def listing(self) -> Listing:
        return of_scene(self.scene, self.target)


def draw_shape(rng: random.Random) -> tuple[int, int]:
    """Columns and rows of cells."""
    return rng.choices(list(SHAPES), list(SHAPES.values()))[0]


def distort(rng: random.Random, scene: Scene, quality: str | None = None) -> Scene:
    """The same scene with a distortion: the one named, or a random one."""
    quality = quality or rng.choice(DISTORTIONS)
    return replace(scene, quality=quality, strength=draw_strength(rng, quality))


def draw_box(rng: random.Random, image: Image.Image, box: Box, colour: Colour = RED) -> None:
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


def picture(rng: random.Random, boxed: float = BOXED, colourful: bool = False) -> Picture:
    """A random picture, with a drawn box in a share `boxed`; boxes in every colour where `colourful`, else red."""
    scene = draw_scene(rng, *draw_shape(rng))
    if rng.random() < DISTORTED:
        scene = distort(rng, scene)
    image = render(scene)
    target = None
    if rng.random() < boxed:
        # By class first, as the benchmark asks: otherwise frequent classes would be pointed at more often.
        name = rng.choice(scene.names)
        target = rng.choice([i for i, item in enumerate(scene.objects) if item.name == name])
        colour = rng.choice(OTHER_BOX_COLOURS) if colourful and rng.random() < OTHER_COLOUR else RED
        draw_box(rng, image, scene.objects[target].box, colour)
    if rng.random() < COMPRESSED:
        image = as_jpeg(image, rng.randint(*QUALITY))
    return Picture(image, scene, target)


def prepared(processor: Any, images: Sequence[Image.Image]) -> tuple[dict[str, Any], list[int]]:
    """The processor's own image inputs of a batch, and how many image tokens each picture has."""
    encoded = dict(
        processor(images=list(images), text=[language.IMAGE] * len(images), padding=True, return_tensors="pt")
    )
    counts = (encoded.pop("input_ids") == language.vocabulary()[language.IMAGE]).sum(1).tolist()
    encoded.pop("attention_mask", None)
    return encoded, counts
