"""Scenes of another generator than the one that training draws from: does a model answer about its world elsewhere?

Nothing of `scenes` is used but the classes and their sprites: a floor and a wall with soft lights instead of a texture,
objects that keep away from each other, lean, throw shadows, and shrink where it is crowded.
"""

from __future__ import annotations

import colorsys
import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from visualheads.miniatures.smol.sprites import CATEGORY, CLASSES, SpriteSheet

SIZES = ((384, 288), (288, 384), (352, 352), (420, 280))
ANSWERS, MOST = (1, 2, 3, 4, 5), 8
"""Numbers of asked objects, in turn, and the most objects of a picture."""
SMALLEST, LARGEST, LEAN = 50, 120, 15
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
    edge = SMALLEST * 0.75
    places: list[tuple[float, float]] = []
    for _ in range(number):
        drawn = [(rng.uniform(edge, width - edge), rng.uniform(edge, height - edge)) for _ in range(CANDIDATES)]
        places.append(max(drawn, key=lambda one: min((math.dist(one, other) for other in places), default=0.0)))
    sizes = []
    for index, (x, y) in enumerate(places):
        near = min((math.dist((x, y), other) for at, other in enumerate(places) if at != index), default=math.inf)
        room = min(near * 0.95, 2 * min(x, width - x, y, height - y))
        sizes.append(round(max(SMALLEST, min(LARGEST, room * rng.uniform(0.8, 1.0)))))
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
