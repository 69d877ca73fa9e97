"""The glyph world: seeded scenes of pictograms on textured ground, with boxes, classes, supercategories, distortions.

Glyphs are Font Awesome Free icons (CC BY 4.0, from the distribution ``fontawesomefree``). A scene is described
first (`draw_scene`) and rendered from its description (`render`), so that labels never come from pixels. A distortion
of the whole picture – blur, noise, darkness, fading – is a low-level quality that Q-Bench asks about.
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
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from visualheads.errors import require
from visualheads.paths import read_table

CELL = 24  # pixels of one object's cell; a 4 × 4 scene measures 96 × 96
Box = tuple[int, int, int, int]

TABLES: dict[str, Any] = read_table(__file__, "world.yml")
WORLD: dict[str, tuple[str, ...]] = {category: tuple(names) for category, names in TABLES["classes"].items()}
"""Supercategory → its classes."""
SUPERCATEGORIES = tuple(WORLD)
CATEGORY = {name: category for category, names in WORLD.items() for name in names}
CLASSES = tuple(CATEGORY)
PLURAL = {name: name + ("es" if name.endswith(("s", "sh")) else "s") for name in CLASSES}
GLYPH = {name: TABLES["glyphs"].get(name, name) for name in CLASSES}
"""Class → the name of its icon."""
COLOURS: dict[str, tuple[int, int, int]] = {name: tuple(colour) for name, colour in TABLES["colours"].items()}
COUNT_WEIGHTS = {1: 0.19, 2: 0.2, 3: 0.21, 4: 0.21, 5: 0.19}  # flat, so that no answer can be guessed
CLASS_COUNT_WEIGHTS = {1: 0.15, 2: 0.45, 3: 0.4}
SIBLING_SHARE = 0.4  # how often a further class shares a supercategory, so that `super` differs from `object`
MOST_OBJECTS = 10
GLYPH_SIZES = (15, 17, 19)

NONE = "none"
ADJECTIVES: dict[str, tuple[str, str]] = {kind: tuple(words) for kind, words in TABLES["adjectives"].items()}
"""Distortion → what a picture with it, and one without it, is called."""
DISTORTIONS = tuple(ADJECTIVES)
QUALITIES = (NONE, *DISTORTIONS)
# Mild and strong: radius in pixels, standard deviation in grey levels, and twice the share that is left.
STRENGTHS = {"blur": (1.0, 1.8), "noise": (18.0, 34.0), "darkness": (0.5, 0.25), "fading": (0.3, 0.1)}
PALE, CONTRAST = 200, 0.6  # a faded picture's tones are drawn towards this grey level, by this factor


def centre_of(box: Box) -> tuple[float, float]:
    """Middle of a box, in pixels."""
    left, top, right, bottom = box
    return (left + right) / 2, (top + bottom) / 2


@dataclass(frozen=True)
class SceneObject:
    """One glyph: its class, the name of its colour, font size, and box in pixels (left, top, right, bottom)."""

    name: str
    colour: str
    size: int
    box: Box

    @property
    def centre(self) -> tuple[float, float]:
        """Middle of the box, in pixels."""
        return centre_of(self.box)


@dataclass(frozen=True)
class Scene:
    """What a picture shows: all that `render` needs.

    Parameters
    ----------
    width, height : int
        Pixels.
    seed : int
        Fixes the ground's texture and the colours' jitter.
    objects : tuple of SceneObject
        At most one in a cell.
    quality : str
        The distortion of the whole picture, one of `QUALITIES`.
    strength : float
        In that distortion's unit, as in `STRENGTHS`.
    """

    width: int
    height: int
    seed: int
    objects: tuple[SceneObject, ...]
    quality: str = NONE
    strength: float = 0.0

    def count(self, name: str) -> int:
        """How many objects are of the class or supercategory `name`."""
        return sum(name in (item.name, CATEGORY[item.name]) for item in self.objects)

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
    """Return a class's pictogram as an 8-bit mask, cropped to its ink and at most one cell wide and high."""
    font, text = _font(size), _codepoints()[name]
    left, top, right, bottom = (int(edge) for edge in font.getbbox(text))
    mask = Image.new("L", (right - left, bottom - top), 0)
    ImageDraw.Draw(mask).text((-left, -top), text, font=font, fill=255)
    if max(mask.size) > CELL - 1:
        mask.thumbnail((CELL - 1, CELL - 1))
    return mask


def choose_counts(rng: random.Random) -> list[tuple[str, int]]:
    """Draw the classes of a scene and how many there are of each, at most `MOST_OBJECTS` objects in all."""
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
    """Draw a scene on a grid of `columns` × `rows` cells, at most one object in a cell."""
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


def draw_strength(rng: random.Random, kind: str) -> float:
    """Draw how strong a distortion is, between its mild and its strong end (`STRENGTHS`); 0 for no distortion."""
    return 0.0 if kind == NONE else rng.uniform(*STRENGTHS[kind])


def distorted(image: Image.Image, kind: str, strength: float, seed: int) -> Image.Image:
    """Return the picture with one distortion.

    Parameters
    ----------
    image : PIL.Image.Image
        RGB.
    kind : str
        One of `QUALITIES`; `NONE` returns the picture itself.
    strength : float
        In the kind's own unit, as in `STRENGTHS`.
    seed : int
        Fixes the noise.
    """
    if kind == NONE:
        return image
    if kind == "blur":
        return image.filter(ImageFilter.GaussianBlur(strength))
    pixels = np.asarray(image, dtype=np.float64)
    if kind == "noise":
        pixels = pixels + np.random.default_rng(seed).normal(0, strength, pixels.shape)
    elif kind == "darkness":
        pixels = pixels * strength
    else:
        grey = pixels.mean(-1, keepdims=True)
        pixels = PALE + (grey + (pixels - grey) * strength - PALE) * CONTRAST
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _ground(scene: Scene, noise: np.random.Generator) -> np.ndarray:
    light = noise.uniform(150, 250, 3)
    across = np.linspace(-20, 20, scene.width)[None, :, None] * noise.uniform(-1, 1)
    down = np.linspace(-20, 20, scene.height)[:, None, None] * noise.uniform(-1, 1)
    grain = noise.normal(0, 5, (scene.height, scene.width, 1))
    return light + across + down + grain


def render(scene: Scene) -> Image.Image:
    """Draw the scene as an RGB picture; the same scene always gives the same pixels."""
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
    """Return the picture after a trip through JPEG, as shipped scenes are stored."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def save_jpeg(image: Image.Image, path: Path, quality: int = 92) -> None:
    """Write the picture as a JPEG file, its folder too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "JPEG", quality=quality)
