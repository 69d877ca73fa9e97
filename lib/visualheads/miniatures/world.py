"""The glyph world: seeded scenes of pictograms on textured ground, with boxes, classes and supercategories.

Glyphs are Font Awesome Free icons (CC BY 4.0, from the distribution ``fontawesomefree``). A scene is described
first (`draw_scene`) and rendered from its description (`render`), so that labels never come from pixels.
"""

from __future__ import annotations

import functools
import io
import json
import random
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from visualheads.errors import require
from visualheads.miniatures.distortions import NONE, distorted

CELL = 24  # pixels of one object's cell; a 4 × 4 scene measures 96 × 96
Box = tuple[int, int, int, int]

# supercategory → {class: (plural, glyph)}
WORLD: dict[str, dict[str, tuple[str, str]]] = {
    "beings": {
        "person": ("persons", "person"),
        "infant": ("infants", "baby"),
        "swimmer": ("swimmers", "person-swimming"),
        "skier": ("skiers", "person-skiing"),
        "nurse": ("nurses", "user-nurse"),
        "astronaut": ("astronauts", "user-astronaut"),
    },
    "animals": {
        "dog": ("dogs", "dog"),
        "cat": ("cats", "cat"),
        "fish": ("fishes", "fish"),
        "horse": ("horses", "horse"),
        "frog": ("frogs", "frog"),
        "dove": ("doves", "dove"),
        "spider": ("spiders", "spider"),
        "hippo": ("hippos", "hippo"),
    },
    "vehicles": {
        "car": ("cars", "car"),
        "bicycle": ("bicycles", "bicycle"),
        "bus": ("buses", "bus"),
        "truck": ("trucks", "truck"),
        "plane": ("planes", "plane"),
        "sailboat": ("sailboats", "sailboat"),
        "motorcycle": ("motorcycles", "motorcycle"),
        "tractor": ("tractors", "tractor"),
    },
    "foods": {
        "apple": ("apples", "apple-whole"),
        "carrot": ("carrots", "carrot"),
        "lemon": ("lemons", "lemon"),
        "pizza": ("pizzas", "pizza-slice"),
        "burger": ("burgers", "burger"),
        "cheese": ("cheeses", "cheese"),
    },
    "things": {
        "umbrella": ("umbrellas", "umbrella"),
        "key": ("keys", "key"),
        "bell": ("bells", "bell"),
        "book": ("books", "book"),
        "chair": ("chairs", "chair"),
        "clock": ("clocks", "clock"),
        "guitar": ("guitars", "guitar"),
        "hammer": ("hammers", "hammer"),
    },
}
SUPERCATEGORIES = tuple(WORLD)
CATEGORY = {name: category for category, classes in WORLD.items() for name in classes}
CLASSES = tuple(CATEGORY)
PLURAL = {name: plural for classes in WORLD.values() for name, (plural, _) in classes.items()}
GLYPH = {name: glyph for classes in WORLD.values() for name, (_, glyph) in classes.items()}
# No red: the drawn rectangle is the only red in a picture.
COLOURS: dict[str, tuple[int, int, int]] = {
    "black": (25, 25, 25),
    "gray": (95, 95, 95),
    "blue": (30, 55, 185),
    "green": (20, 110, 40),
    "purple": (115, 30, 140),
    "brown": (115, 70, 25),
    "teal": (0, 115, 120),
    "orange": (205, 100, 0),
}
COUNT_WEIGHTS = {1: 0.19, 2: 0.2, 3: 0.21, 4: 0.21, 5: 0.19}  # flat, so that no answer can be guessed
CLASS_COUNT_WEIGHTS = {1: 0.15, 2: 0.45, 3: 0.4}
SIBLING_SHARE = 0.4  # how often a further class shares a supercategory, so that `super` differs from `object`
MOST_OBJECTS = 10
GLYPH_SIZES = (15, 17, 19)


@dataclass(frozen=True)
class SceneObject:
    """One glyph: class, colour name, font size and its box in pixels (left, top, right, bottom)."""

    name: str
    colour: str
    size: int
    box: Box

    @property
    def category(self) -> str:
        return CATEGORY[self.name]

    @property
    def centre(self) -> tuple[float, float]:
        """Middle of the box, in pixels."""
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2


@dataclass(frozen=True)
class Scene:
    """A picture's description; `seed` fixes the ground's texture and the colours' jitter.

    `quality` names a distortion of the whole picture, or none; `strength` is in that distortion's unit.
    """

    width: int
    height: int
    seed: int
    objects: tuple[SceneObject, ...]
    quality: str = NONE
    strength: float = 0.0

    def count(self, name: str) -> int:
        """How many objects are of the class or supercategory `name`."""
        return sum(name in (item.name, item.category) for item in self.objects)

    @property
    def names(self) -> tuple[str, ...]:
        """Classes present, in order of first appearance."""
        return tuple(dict.fromkeys(item.name for item in self.objects))


def _icons() -> Traversable:
    require("fontawesomefree", extra="train")
    return files("fontawesomefree") / "static/fontawesomefree/js-packages/@fortawesome/fontawesome-free"


@functools.cache
def _codepoints() -> dict[str, str]:
    families = json.loads((_icons() / "metadata/icon-families.json").read_text())
    return {name: chr(int(families[glyph]["unicode"], 16)) for name, glyph in GLYPH.items()}


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(io.BytesIO((_icons() / "webfonts/fa-solid-900.ttf").read_bytes()), size)


@functools.cache
def glyph_mask(name: str, size: int) -> Image.Image:
    """The class's pictogram as an 8-bit mask, cropped to its ink and at most one cell wide and high."""
    font, text = _font(size), _codepoints()[name]
    left, top, right, bottom = (int(edge) for edge in font.getbbox(text))
    mask = Image.new("L", (right - left, bottom - top), 0)
    ImageDraw.Draw(mask).text((-left, -top), text, font=font, fill=255)
    if max(mask.size) > CELL - 1:
        mask.thumbnail((CELL - 1, CELL - 1))
    return mask


def choose_counts(rng: random.Random) -> list[tuple[str, int]]:
    """Classes of a scene and how many of each: (class, count) pairs, at most `MOST_OBJECTS` in all."""
    while True:
        number = rng.choices(list(CLASS_COUNT_WEIGHTS), list(CLASS_COUNT_WEIGHTS.values()))[0]
        names = [rng.choice(CLASSES)]
        while len(names) < number:
            siblings = [name for name in CLASSES if CATEGORY[name] == CATEGORY[names[0]]]
            pool = siblings if rng.random() < SIBLING_SHARE else CLASSES
            names += [name for name in [rng.choice(pool)] if name not in names]
        counts = rng.choices(list(COUNT_WEIGHTS), list(COUNT_WEIGHTS.values()), k=number)
        if sum(counts) <= MOST_OBJECTS:
            return list(zip(names, counts, strict=True))


def draw_scene(rng: random.Random, columns: int = 4, rows: int = 4) -> Scene:
    """A random scene on a grid of `columns` × `rows` cells, one object a cell at most."""
    cells = [(x, y) for x in range(columns) for y in range(rows)]
    rng.shuffle(cells)
    objects = []
    for name, count in choose_counts(rng):
        for _ in range(count):
            x, y = cells.pop()
            size = rng.choice(GLYPH_SIZES)
            width, height = glyph_mask(name, size).size
            left = x * CELL + rng.randint(0, CELL - width)
            top = y * CELL + rng.randint(0, CELL - height)
            objects.append(SceneObject(name, rng.choice(list(COLOURS)), size, (left, top, left + width, top + height)))
    return Scene(columns * CELL, rows * CELL, rng.randrange(1 << 30), tuple(objects))


def _ground(scene: Scene, noise: np.random.Generator) -> np.ndarray:
    light = noise.uniform(150, 250, 3)
    across = np.linspace(-20, 20, scene.width)[None, :, None] * noise.uniform(-1, 1)
    down = np.linspace(-20, 20, scene.height)[:, None, None] * noise.uniform(-1, 1)
    grain = noise.normal(0, 5, (scene.height, scene.width, 1))
    return light + across + down + grain


def render(scene: Scene) -> Image.Image:
    """The scene as an RGB picture; the same scene always gives the same pixels."""
    noise = np.random.default_rng(scene.seed)
    pixels = _ground(scene, noise)
    for item in scene.objects:
        left, top, right, bottom = item.box
        ink = np.array(COLOURS[item.colour]) + noise.integers(-15, 16, 3)
        alpha = np.asarray(glyph_mask(item.name, item.size), dtype=np.float64)[:, :, None] / 255
        patch = pixels[top:bottom, left:right]
        patch[:] = patch * (1 - alpha) + ink * alpha
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return distorted(image, scene.quality, scene.strength, scene.seed)


def as_jpeg(image: Image.Image, quality: int = 92) -> Image.Image:
    """The picture after a trip through JPEG, as shipped scenes are stored."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def save_jpeg(image: Image.Image, path: Path, quality: int = 92) -> None:
    image.save(path, "JPEG", quality=quality)
