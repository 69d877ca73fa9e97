"""The objects of the emoji world: Fluent Emoji 3D renders on one sheet, with class, plural and supercategory."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from visualheads.errors import ParameterError, got
from visualheads.tasks.records import MissingDataError

CELL = 128
"""Longest side of a sprite on the sheet, in pixels."""
COLUMNS = 9

# supercategory → {class: code point of its render}
WORLD: dict[str, dict[str, str]] = {
    "animals": {
        "dog": "1f415",
        "cat": "1f408",
        "horse": "1f40e",
        "elephant": "1f418",
        "fish": "1f41f",
        "frog": "1f438",
        "pig": "1f416",
        "rabbit": "1f407",
        "duck": "1f986",
        "turtle": "1f422",
        "lion": "1f981",
        "butterfly": "1f98b",
    },
    "vehicles": {
        "car": "1f697",
        "bus": "1f68c",
        "bicycle": "1f6b2",
        "plane": "2708-fe0f",
        "boat": "26f5",
        "train": "1f686",
        "truck": "1f69a",
        "tractor": "1f69c",
        "helicopter": "1f681",
        "rocket": "1f680",
    },
    "foods": {
        "apple": "1f34e",
        "banana": "1f34c",
        "pizza": "1f355",
        "carrot": "1f955",
        "lemon": "1f34b",
        "burger": "1f354",
        "cake": "1f370",
        "donut": "1f369",
        "egg": "1f95a",
        "strawberry": "1f353",
        "pineapple": "1f34d",
        "mushroom": "1f344",
    },
    "clothes": {
        "shirt": "1f455",
        "dress": "1f457",
        "hat": "1f3a9",
        "shoe": "1f45f",
        "boot": "1f462",
        "coat": "1f9e5",
        "scarf": "1f9e3",
        "bag": "1f45c",
        "crown": "1f451",
        "glove": "1f9e4",
    },
    "tools": {
        "hammer": "1f528",
        "axe": "1fa93",
        "wrench": "1f527",
        "saw": "1fa9a",
        "key": "1f511",
        "broom": "1f9f9",
        "ladder": "1fa9c",
        "bucket": "1faa3",
        "magnet": "1f9f2",
        "brush": "1f58c-fe0f",
    },
}
SUPERCATEGORIES = tuple(WORLD)
CATEGORY = {name: category for category, classes in WORLD.items() for name in classes}
CLASSES = tuple(CATEGORY)
CODE_POINT = {name: code for classes in WORLD.values() for name, code in classes.items()}
_PLURALS = {
    "bus": "buses",
    "butterfly": "butterflies",
    "dress": "dresses",
    "fish": "fish",
    "strawberry": "strawberries",
    "wrench": "wrenches",
    "brush": "brushes",
}
PLURAL = {name: _PLURALS.get(name, name + "s") for name in CLASSES}
# Colours in which some classes occur: hue on the colour circle (0–255), and the hue that their render has.
COLOURS = {"red": 250, "yellow": 36, "green": 90, "blue": 150, "purple": 195}
PAINTED = {"shirt": 70, "dress": 150, "boot": 245, "bucket": 150, "tractor": 105, "fish": 148, "key": 32, "glove": 195}

LICENCE = """\
# Sprites of the emoji world

Renders from Microsoft's Fluent Emoji (3D), cropped, scaled and put on one sheet. They are licensed as follows.

MIT License

Copyright (c) Microsoft Corporation.

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


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
    if colour not in COLOURS:
        raise ParameterError(got("colour", colour, f"one of {', '.join(COLOURS)}"))
    turn = COLOURS[colour] - PAINTED[name]
    hue, saturation, value = sprite.convert("RGB").convert("HSV").split()
    turned = Image.merge("HSV", (hue.point([(level + turn) % 256 for level in range(256)]), saturation, value))
    painted = turned.convert("RGB")
    painted.putalpha(sprite.getchannel("A"))
    return painted


def write_sheet(renders: Path, folder: Path) -> None:
    """Make sprites.webp, sprites.json and the licence from a folder of renders named by code point.

    Parameters
    ----------
    renders : Path
        Folder with `<code point>.webp` for every class (npm package @lobehub/fluent-emoji-3d, folder assets).
    folder : Path
        Where the three files go.

    Raises
    ------
    MissingDataError
        If a render is missing.
    """
    missing = [f"{code}.webp" for code in CODE_POINT.values() if not (renders / f"{code}.webp").is_file()]
    if missing:
        raise MissingDataError(f"the folder {str(renders)!r} lacks {', '.join(missing)}; name the package's assets.")
    rows = -(-len(CLASSES) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * CELL, rows * CELL))
    entries = []
    for index, name in enumerate(CLASSES):
        with Image.open(renders / f"{CODE_POINT[name]}.webp") as opened:
            sprite = opened.convert("RGBA")
        sprite = sprite.crop(sprite.getchannel("A").point([255 * (level > 8) for level in range(256)]).getbbox())
        sprite.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
        corner = (index % COLUMNS * CELL, index // COLUMNS * CELL)
        sheet.paste(sprite, corner)
        entries.append(
            {
                "name": name,
                "plural": PLURAL[name],
                "supercategory": CATEGORY[name],
                "code_point": CODE_POINT[name],
                "rectangle": [*corner, corner[0] + sprite.width, corner[1] + sprite.height],
            }
        )
    folder.mkdir(parents=True, exist_ok=True)
    sheet.save(folder / "sprites.webp", quality=85, method=6)
    lines = ",\n".join(json.dumps(entry) for entry in entries)
    (folder / "sprites.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    (folder / "LICENSE-sprites.md").write_text(LICENCE, encoding="utf-8")


@functools.lru_cache(maxsize=2)
def read_sheet(folder: Path) -> SpriteSheet:
    """Read sprites.webp and sprites.json from `folder`.

    Parameters
    ----------
    folder : Path
        Where `write_sheet` put them; data/smol in the repository.

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
