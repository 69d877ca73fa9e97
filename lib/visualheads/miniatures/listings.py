"""Lists of objects, written in words or shown in a picture, and what is known of each: its `Listing`.

Random lists and pictures are what miniatures are trained on; a picture is prepared by a model's own processor.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from visualheads.miniatures import language
from visualheads.miniatures.language import PLACES, RELATIONS
from visualheads.miniatures.world import (
    ADJECTIVES,
    CATEGORY,
    COLOURS,
    DISTORTIONS,
    NONE,
    TABLES,
    Box,
    Scene,
    as_jpeg,
    choose_counts,
    draw_scene,
    draw_strength,
    render,
)
from visualheads.tasks.pictures import DrawBox

NEAR, ASKEW = 20.0, 0.5  # two objects stand in a relation from this distance (pixels) on, up to this slope

MARKED = 0.6  # share of text lists with a marked object
COLOURED = 0.3  # … that name each object's colour
DISTORTED_LISTS = 0.2  # … that mention a distortion, among the fillers
MENTIONS = (2, 8)  # how often they mention it, at least and at most
MENTIONED = 0.5  # share of fillers that mention it, where words share places

Colour = tuple[int, int, int]
RED: Colour = (255, 0, 0)
OTHER_BOX_COLOURS: tuple[Colour, ...] = tuple(map(tuple, TABLES["box_colours"]))
SHAPES = {(4, 4): 0.7, (6, 4): 0.15, (4, 6): 0.15}  # cells: (columns, rows)
BOXED = 0.6  # share of pictures with a drawn box
DISTORTED_PICTURES = 0.25  # share of pictures with a distortion
COMPRESSED = 0.5  # … that went through JPEG, as the shipped ones did
QUALITY = (80, 95)  # of JPEG
OTHER_COLOUR = 0.6  # share of boxes that are not red, where other colours are drawn


@dataclass(frozen=True)
class Listing:
    """What a question needs to know of a list or picture.

    Parameters
    ----------
    items : tuple of str
        The class of every object, in reading order.
    marked : str, optional
        The class of the marked object (of a picture: the one in the drawn box).
    colours : tuple of str, optional
        The colour of every object; None where the list does not tell.
    centres : tuple of (float, float), optional
        The middle of every object, in pixels of a picture of `size`; None where there is no picture.
    size : tuple of (int, int)
        Width and height of the picture.
    quality : str
        The distortion, one of `world.QUALITIES`.
    marked_at : int, optional
        The index in `items` of the marked object.
    """

    items: tuple[str, ...]
    marked: str | None = None
    colours: tuple[str, ...] | None = None
    centres: tuple[tuple[float, float], ...] | None = None
    size: tuple[int, int] = (0, 0)
    quality: str = NONE
    marked_at: int | None = None

    def count(self, name: str) -> int:
        """Count the objects of the class or supercategory `name`."""
        return sum(name in (item, CATEGORY[item]) for item in self.items)

    @property
    def present(self) -> list[str]:
        """Classes in the list, sorted."""
        return sorted(set(self.items))

    @property
    def alone(self) -> list[str]:
        """Classes with a single object, sorted."""
        return [name for name in self.present if self.items.count(name) == 1]

    def colour(self, name: str) -> str | None:
        """Return the colour of the only object of a class; None where colours are not told."""
        return self.colours[self.items.index(name)] if self.colours else None

    def place(self, name: str) -> str | None:
        """Return in which quarter of the picture the only object of a class has its centre; None without places."""
        if self.centres is None:
            return None
        x, y = self.centres[self.items.index(name)]
        return PLACES[2 * (y > self.size[1] / 2) + (x > self.size[0] / 2)]

    def relation(self, name: str, other: str) -> str | None:
        """Return where `name` lies seen from `other`; None without places, or where two answers are nearly right."""
        if self.centres is None:
            return None
        (x, y), (from_x, from_y) = (self.centres[self.items.index(each)] for each in (name, other))
        right, down = x - from_x, y - from_y
        near, far = sorted((abs(right), abs(down)))
        if far < NEAR or near > ASKEW * far:
            return None
        left_or_right = abs(right) > abs(down)
        return RELATIONS[int(right > 0)] if left_or_right else RELATIONS[2 + int(down > 0)]


def reading_order(scene: Scene, patches: int) -> list[int]:
    """Return the indices of the objects in the order of image tokens: by the patch row, then the column of the centre.

    `patches` is the number of patch rows that the picture is cut into.
    """

    def place(index: int) -> tuple[int, float]:
        x, y = scene.objects[index].centre
        return int(y * patches // scene.height), x

    return sorted(range(len(scene.objects)), key=place)


def of_scene(scene: Scene, target: int | None = None, patches: int = 8) -> Listing:
    """Return all that a picture of the scene shows; `target` is the index of the object in the drawn box."""
    order = reading_order(scene, patches)
    objects = [scene.objects[index] for index in order]
    return Listing(
        tuple(item.name for item in objects),
        None if target is None else scene.objects[target].name,
        tuple(item.colour for item in objects),
        tuple(item.centre for item in objects),
        (scene.width, scene.height),
        scene.quality,
        None if target is None else order.index(target),
    )


def text_list(
    rng: random.Random,
    fillers: int,
    *,
    plain: bool = False,
    coloured: bool | None = None,
    marked: float = MARKED,
    joined: float = 0.0,
) -> tuple[list[int], Listing]:
    """Draw a list of objects in words.

    Parameters
    ----------
    rng : random.Random
        Source of all draws.
    fillers : int
        The most filler words among the objects.
    plain : bool
        Name neither colours nor a distortion.
    coloured : bool, optional
        Whether colours are named (`blue car`); by default in a share `COLOURED` of the lists that are not plain.
    marked : float
        Share of the lists in which one object is marked.
    joined : float
        Share of the lists in which all words of a place share one id (`language.join_ids`), as a patch of a picture
        shows everything at once.

    Returns
    -------
    ids : list of int
    listing : Listing
    """
    at_once = joined > 0 and rng.random() < joined
    items = [name for name, count in choose_counts(rng) for _ in range(count)]
    rng.shuffle(items)
    target = rng.randrange(len(items)) if rng.random() < marked else None
    if coloured is None:
        coloured = not plain and rng.random() < COLOURED
    colours = [rng.choice(list(COLOURS)) for _ in items] if coloured else None
    quality = rng.choice(DISTORTIONS) if not plain and rng.random() < DISTORTED_LISTS else NONE
    ground = [[language.FILLER] for _ in range(rng.randint(0, fillers))]
    if quality != NONE and at_once:
        for words in ground:
            if rng.random() < MENTIONED:
                words.append(ADJECTIVES[quality][0])
    elif quality != NONE:
        for _ in range(rng.randint(*MENTIONS)):
            ground.insert(rng.randint(0, len(ground)), [ADJECTIVES[quality][0]])
    objects = [[item] for item in items] if colours is None else [[c, i] for c, i in zip(colours, items, strict=True)]
    if target is not None:
        objects[target].insert(0, language.MARK)
    length = len(ground) + len(items)
    places = set(rng.sample(range(length), len(items)))
    between, shown = iter(ground), iter(objects)
    slots = [next(shown if place in places else between) for place in range(length)]
    ids = language.vocabulary()
    named = None if target is None else items[target]
    listing = Listing(tuple(items), named, tuple(colours) if colours else None, quality=quality, marked_at=target)
    if at_once:  # the object's class is last of its words, but first of those that share a place
        return [language.join_ids([ids[word] for word in reversed(slot)]) for slot in slots], listing
    return [ids[word] for slot in slots for word in slot], listing


@dataclass(frozen=True)
class Picture:
    """A rendered scene; `target` is the index of the object in the drawn box, if one was drawn."""

    image: Image.Image
    scene: Scene
    target: int | None

    @property
    def listing(self) -> Listing:
        """What is known of the picture."""
        return of_scene(self.scene, self.target)


def draw_shape(rng: random.Random) -> tuple[int, int]:
    """Draw how many columns and rows of cells a picture has."""
    return rng.choices(list(SHAPES), list(SHAPES.values()))[0]


def distort(rng: random.Random, scene: Scene, quality: str | None = None) -> Scene:
    """Return the same scene with a distortion: the one named, or a random one."""
    quality = quality or rng.choice(DISTORTIONS)
    return replace(scene, quality=quality, strength=draw_strength(rng, quality))


def draw_box(rng: random.Random, image: Image.Image, box: Box, colour: Colour = RED) -> Image.Image:
    """Return the picture with a rectangle around an object, of varying margin and line width."""
    margin, width = rng.choice((0, 1, 2)), rng.choice((1, 2))
    left, top, right, bottom = box
    around = (left - margin, top - margin, right + margin, bottom + margin)
    return DrawBox(around, colour, width).apply(image)


def draw_picture(rng: random.Random, boxed: float = BOXED, colourful: bool = False) -> Picture:
    """Draw a picture, in a share `boxed` with a drawn box: in every colour where `colourful`, else red."""
    scene = draw_scene(rng, *draw_shape(rng))
    if rng.random() < DISTORTED_PICTURES:
        scene = distort(rng, scene)
    image = render(scene)
    target = None
    if rng.random() < boxed:
        # By class first, as the benchmark asks: otherwise frequent classes would be pointed at more often.
        name = rng.choice(scene.names)
        target = rng.choice([i for i, item in enumerate(scene.objects) if item.name == name])
        colour = rng.choice(OTHER_BOX_COLOURS) if colourful and rng.random() < OTHER_COLOUR else RED
        image = draw_box(rng, image, scene.objects[target].box, colour)
    if rng.random() < COMPRESSED:
        image = as_jpeg(image, rng.randint(*QUALITY))
    return Picture(image, scene, target)


def image_inputs(processor: Any, images: Sequence[Image.Image]) -> tuple[dict[str, Any], list[int]]:
    """Return the processor's own image inputs of a batch, and how many image tokens each picture has."""
    encoded = dict(
        processor(images=list(images), text=[language.IMAGE] * len(images), padding=True, return_tensors="pt")
    )
    counts = (encoded.pop("input_ids") == language.vocabulary()[language.IMAGE]).sum(1).tolist()
    encoded.pop("attention_mask", None)
    return encoded, counts
