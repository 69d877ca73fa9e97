"""Scenes of the emoji world: objects at free places and sizes on varied grounds, labelled with boxes.

And scenes of another generator than the one that training draws from (`draw_other`): does a model answer about its
world elsewhere? These share the classes and their sprites alone: a floor and a wall with soft lights instead of a
texture, objects that keep away from each other, lean, throw shadows, and shrink where it is crowded.
"""

from __future__ import annotations

import colorsys
import math
import random
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from visualheads.miniatures.smol.sprites import CATEGORY, CLASSES, COLOURS, PAINTED, SpriteSheet
from visualheads.miniatures.world import Box, centre_of

SHAPES = ((320, 320), (320, 320), (320, 320), (400, 300), (300, 400), (400, 260), (260, 360))
"""Widths and heights in pixels; most pictures are square."""
GROUNDS = ("gradient", "clouds", "stripes", "dots", "grain")
HELD_OUT_GROUND = "checks"
"""A style of ground that training never shows."""
SMALLEST, LARGEST = 54, 116
"""Longest side of an object, in pixels."""
MOST_OBJECTS = 8
MOST_ALIKE = 5
OVERLAP = 0.12
"""Largest share of a box that another may cover."""
ATTEMPTS = 60


@dataclass(frozen=True)
class Placed:
    """One object of a scene: its class, its box in pixels, and how it is drawn."""

    name: str
    box: Box
    flipped: bool
    colour: str = ""

    @property
    def centre(self) -> tuple[float, float]:
        return centre_of(self.box)


@dataclass(frozen=True)
class Scene:
    """A scene before it is rendered; labels come from here, never from pixels."""

    size: tuple[int, int]
    objects: tuple[Placed, ...]
    ground: str
    ground_seed: int

    def count(self, what: str) -> int:
        """Number of objects of a class or supercategory."""
        return sum(what in (thing.name, CATEGORY[thing.name]) for thing in self.objects)

    @property
    def names(self) -> tuple[str, ...]:
        """Classes in the scene, each once, in the order of the world."""
        present = {thing.name for thing in self.objects}
        return tuple(name for name in CLASSES if name in present)

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(CATEGORY[name] for name in self.names))


def is_held_out(names: Sequence[str]) -> bool:
    """Return whether two of these classes are a pair that training never shows together (one pair in ten)."""
    return any(zlib.crc32("+".join(sorted(pair)).encode()) % 10 == 0 for pair in combinations(set(names), 2))


def draw_scene(
    rng: random.Random,
    *,
    held_out_pairs: bool = False,
    ground: str = "",
    distinct_categories: bool = False,
    motley: bool = False,
) -> Scene:
    """Draw a scene.

    Parameters
    ----------
    rng : random.Random
        Source of all that is drawn.
    held_out_pairs : bool
        Whether classes may stand together that training keeps apart.
    ground : str
        A style of ground; by default one of those of training.
    distinct_categories : bool
        Whether every class comes from a supercategory of its own.
    motley : bool
        Whether there are three to seven classes, few objects of each, instead of one to four.

    Returns
    -------
    Scene
        At most eight objects, fully inside the picture.
    """
    size = rng.choice(SHAPES)
    number = rng.randint(3, 7) if motley else rng.choices((1, 2, 3, 4), (12, 38, 32, 18))[0]
    names = _draw_classes(rng, number, held_out_pairs, distinct_categories)
    if motley:
        counts = Counter([*names, *rng.choices(names, k=rng.randint(0, MOST_OBJECTS - number))])
    else:
        counts = Counter(dict(zip(names, _draw_counts(rng, number), strict=True)))
    total = counts.total()
    largest = LARGEST if total <= 4 else 104 if total <= 6 else 92
    order = list(counts.elements())
    rng.shuffle(order)
    objects: list[Placed] = []
    for name in order:
        placed = _place(rng, name, size, largest, objects)
        if placed is not None:
            objects.append(placed)
    return Scene(size, tuple(objects), ground or rng.choice(GROUNDS), rng.randrange(1 << 30))


def _draw_classes(rng: random.Random, number: int, held_out_pairs: bool, distinct: bool) -> list[str]:
    while True:
        names = rng.sample(CLASSES, number)
        if distinct and len({CATEGORY[name] for name in names}) < number:
            continue
        if held_out_pairs or not is_held_out(names):
            return names


def _draw_counts(rng: random.Random, classes: int) -> list[int]:
    while True:
        counts = [rng.randint(1, MOST_ALIKE) for _ in range(classes)]
        if sum(counts) <= MOST_OBJECTS:
            return counts


def _place(
    rng: random.Random, name: str, size: tuple[int, int], largest: int, others: Sequence[Placed]
) -> Placed | None:
    """Find a free place for an object; None if there is none."""
    colour = rng.choice(tuple(COLOURS)) if name in PAINTED else ""
    for _ in range(ATTEMPTS):
        longest = rng.randint(SMALLEST, largest)
        width, height = _extent(name, longest)
        left, top = rng.randint(0, size[0] - width), rng.randint(0, size[1] - height)
        box = (left, top, left + width, top + height)
        if all(_covered(box, other.box) <= OVERLAP for other in others):
            return Placed(name, box, rng.random() < 0.5, colour)
    return None


ASPECTS: dict[str, float] = {}
"""Width over height of each class's render; set by `use_sheet`."""


def use_sheet(sheet: SpriteSheet) -> None:
    """Take the proportions of the objects from a sheet; needed once before scenes are drawn."""
    ASPECTS.update({name: sprite.width / sprite.height for name, sprite in sheet.pictures.items()})


def _extent(name: str, longest: int) -> tuple[int, int]:
    aspect = ASPECTS[name]
    return (longest, max(1, round(longest / aspect))) if aspect >= 1 else (max(1, round(longest * aspect)), longest)


def _covered(one: Box, other: Box) -> float:
    """Share of the smaller box that both cover."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height / smaller


def render(scene: Scene, sheet: SpriteSheet) -> Image.Image:
    """Return the picture of a scene."""
    picture = draw_ground(scene.size, scene.ground, scene.ground_seed)
    for thing in scene.objects:
        left, top, right, bottom = thing.box
        sprite = sheet.draw(thing.name, max(right - left, bottom - top), thing.flipped, thing.colour)
        picture.paste(sprite, (left, top), sprite)
    return picture


def draw_ground(size: tuple[int, int], style: str, seed: int) -> Image.Image:
    """Return a textured ground of one of the styles `GROUNDS` or `HELD_OUT_GROUND`."""
    rng = np.random.default_rng(seed)
    width, height = size
    colour, other = rng.uniform(70, 240, 3), rng.uniform(-45, 45, 3)
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    angle, period = rng.uniform(0, np.pi), rng.uniform(14, 60)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    waves = np.sin(2 * np.pi * along / period) * np.sin(2 * np.pi * across / period)
    if style == "gradient":
        pattern = along / max(size) * 2
    elif style == "clouds":
        small = Image.fromarray(rng.uniform(-1, 1, (6, 6)).astype(np.float32))
        pattern = np.asarray(small.resize(size, Image.Resampling.BICUBIC)) * 1.5
    elif style == "stripes":
        pattern = np.sign(np.sin(2 * np.pi * along / period)) * 0.6
    elif style == "dots":
        pattern = (np.abs(waves) > 0.75) * 1.0
    elif style == "checks":
        pattern = np.sign(waves) * 0.6
    else:
        pattern = rng.normal(0, 0.35, (height, width))
    noise = rng.normal(0, rng.uniform(0, 4), (height, width, 1))
    pixels = colour + pattern[..., None] * other + noise
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


SIZES = ((384, 288), (288, 384), (352, 352), (420, 280))
ANSWERS, MOST = (1, 2, 3, 4, 5), 8
"""Numbers of asked objects, in turn, and the most objects of a picture."""
SMALL, LARGE, LEAN = 50, 120, 15
"""Longest side of an object in pixels, and how far it leans, in degrees."""
CANDIDATES = 30
"""Places among which the one farthest from all others is taken."""


@dataclass(frozen=True)
class OtherScene:
    """A picture, the class that is asked about, and how many objects of it and of its supercategory it shows."""

    picture: Image.Image
    name: str
    objects: int
    category_objects: int


def draw_other(number: int, sheet: SpriteSheet) -> OtherScene:
    """Draw the scene of this number."""
    rng = random.Random(f"elsewhere/{number}")
    size = rng.choice(SIZES)
    wanted = ANSWERS[number % len(ANSWERS)]
    asked = rng.choice(CLASSES)
    shown = [asked] * wanted
    for _ in range(rng.randint(1, MOST - wanted)):
        shown.append(rng.choice([name for name in CLASSES if name != asked]))
    rng.shuffle(shown)
    picture = _room(rng, size)
    for name, (x, y), longest in zip(shown, *_places(rng, size, len(shown)), strict=True):
        leaning = rng.uniform(-LEAN, LEAN)
        sprite = sheet.draw(name, longest, rng.random() < 0.5).rotate(leaning, Image.Resampling.BICUBIC, expand=True)
        corner = (round(x - sprite.width / 2), round(y - sprite.height / 2))
        shadow = Image.new("RGBA", picture.size)
        shadow.paste((0, 0, 0, 90), (corner[0] + 5, corner[1] + 6), sprite.getchannel("A"))
        picture = Image.alpha_composite(picture, shadow.filter(ImageFilter.GaussianBlur(4)))
        picture.alpha_composite(sprite, (max(0, corner[0]), max(0, corner[1])))
    alike = sum(CATEGORY[name] == CATEGORY[asked] for name in shown)
    return OtherScene(picture.convert("RGB"), asked, wanted, alike)


def _places(rng: random.Random, size: tuple[int, int], number: int) -> tuple[list[tuple[float, float]], list[int]]:
    """Places of objects, each the farthest of some candidates from those before it, and how large they may be."""
    width, height = size
    edge = SMALL * 0.75
    places: list[tuple[float, float]] = []
    for _ in range(number):
        drawn = [(rng.uniform(edge, width - edge), rng.uniform(edge, height - edge)) for _ in range(CANDIDATES)]
        places.append(max(drawn, key=lambda one: min((math.dist(one, other) for other in places), default=0.0)))
    sizes = []
    for index, (x, y) in enumerate(places):
        near = min((math.dist((x, y), other) for at, other in enumerate(places) if at != index), default=math.inf)
        room = min(near * 0.95, 2 * min(x, width - x, y, height - y))
        sizes.append(round(max(SMALL, min(LARGE, room * rng.uniform(0.8, 1.0)))))
    return places, sizes


def _room(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """A wall above a floor, both shaded, with a few soft lights."""
    width, height = size
    shade = np.linspace(0.75, 1.1, height)[:, None, None]
    hue = rng.random()
    colours = [
        np.array(colorsys.hsv_to_rgb((hue + turn) % 1, rng.uniform(0.1, 0.45), rng.uniform(0.5, 0.95)))
        for turn in (0, rng.uniform(0.1, 0.5))
    ]
    horizon = round(height * rng.uniform(0.35, 0.75))
    floor = (np.arange(height) >= horizon)[:, None, None]
    pixels = np.clip(np.where(floor, colours[1], colours[0]) * shade * np.ones((1, width, 1)), 0, 1)
    picture = Image.fromarray((255 * pixels).astype(np.uint8)).convert("RGBA")
    lights = Image.new("RGBA", size)
    drawing = ImageDraw.Draw(lights)
    for _ in range(rng.randint(2, 5)):
        x, y, radius = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(15, 60)
        drawing.ellipse((x - radius, y - radius, x + radius, y + radius), (255, 255, 255, 60))
    return Image.alpha_composite(picture, lights.filter(ImageFilter.GaussianBlur(6)))
