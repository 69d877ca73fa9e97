"""The objects of the emoji world: Fluent Emoji 3D renders on one sheet, with class, plural and supercategory."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from visualheads.errors import checked_name
from visualheads.paths import read_table
from visualheads.tasks.records import MissingDataError

TABLES: dict[str, Any] = read_table(__file__, "sprites.yml")
WORLD: dict[str, list[str]] = TABLES["classes"]
CATEGORY = {name: category for category, classes in WORLD.items() for name in classes}
CLASSES = tuple(CATEGORY)
PLURAL: dict[str, str] = {name: TABLES["plurals"].get(name, f"{name}s") for name in CLASSES}
COLOURS: dict[str, int] = TABLES["colours"]
"""Colours in which some classes occur: hue on the colour circle (0–255)."""
PAINTED: dict[str, int] = TABLES["painted"]
"""These classes, and the hue that their render has."""


@dataclass(frozen=True)
class SpriteSheet:
    """Pictures of all classes, cut from one sheet."""

    pictures: dict[str, Image.Image]

    def draw(self, name: str, longest: int, flipped: bool = False, colour: str = "") -> Image.Image:
        """Return one object as an RGBA picture.

        Parameters
        ----------
        name : str
            Class of the object.
        longest : int
            Its longest side in pixels.
        flipped : bool
            Whether left and right change places.
        colour : str
            One of `COLOURS` for the classes of `PAINTED`, else empty.

        Returns
        -------
        Image
            The object on a transparent ground.
        """
        sprite = _painted(self.pictures[name], name, colour) if colour else self.pictures[name]
        scale = longest / max(sprite.size)
        size = (max(1, round(sprite.width * scale)), max(1, round(sprite.height * scale)))
        sprite = sprite.resize(size, Image.Resampling.LANCZOS)
        return sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flipped else sprite


def _painted(sprite: Image.Image, name: str, colour: str) -> Image.Image:
    """Turn the hues of a sprite so that its main colour is `colour`."""
    turn = COLOURS[checked_name("colour", colour, COLOURS)] - PAINTED[name]
    hue, saturation, value = sprite.convert("RGB").convert("HSV").split()
    turned = Image.merge("HSV", (hue.point([(level + turn) % 256 for level in range(256)]), saturation, value))
    painted = turned.convert("RGB")
    painted.putalpha(sprite.getchannel("A"))
    return painted


@functools.lru_cache(maxsize=2)
def read_sheet(folder: Path) -> SpriteSheet:
    """Read sprites.webp and sprites.json from `folder`.

    Parameters
    ----------
    folder : Path
        Where they lie; data/smol in the repository.

    Returns
    -------
    SpriteSheet
        A picture for each class.

    Raises
    ------
    MissingDataError
        If one of the two files is missing.
    """
    for name in ("sprites.webp", "sprites.json"):
        if not (folder / name).is_file():
            raise MissingDataError(
                f"the folder {str(folder)!r} lacks {name}; it comes with the repository (data/smol)."
            )
    entries = json.loads((folder / "sprites.json").read_text(encoding="utf-8"))
    with Image.open(folder / "sprites.webp") as opened:
        sheet = opened.convert("RGBA")
    return SpriteSheet({entry["name"]: sheet.crop(entry["rectangle"]) for entry in entries})
