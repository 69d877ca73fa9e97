"""Reading pictures safely, and the operations that prompts and controls apply to them."""

from __future__ import annotations

import base64
import binascii
import io
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw, UnidentifiedImageError

from visualheads.errors import ImageError

MAX_PIXELS = 50_000_000
"""Larger pictures are refused before decoding: a small file can unpack to many gigabytes. Ours."""

RED = (255, 0, 0)
"""Colour of the drawn box (paper code)."""

LINE_WIDTH, LINE_ANCHOR = 3, 336
"""The drawn line is 3 pixels wide in a picture whose longer side has 336 (paper code)."""

SHUFFLE_GRID = 8
"""A shuffled picture is cut into 8 × 8 equal blocks: one per patch in a miniature of 64 image tokens. Ours."""


class Operation(Protocol):
    """Something done to a decoded RGB picture. Implementations are frozen dataclasses: samples stay comparable."""

    def apply(self, picture: Image.Image) -> Image.Image:
        """A new picture of the same size."""
        ...


@dataclass(frozen=True)
class DrawBox:
    """Draw a rectangle into the pixels around `box` (left, top, right, bottom), clipped to the picture.

    The line lies outside the box, so that it hides nothing of the object unless the box touches the picture's edge
    (ours; the paper's code draws inwards, half transparent). `width` 0 takes the paper code's line: 3 pixels where the
    longer side has 336, in proportion elsewhere, at least 1.
    """

    box: tuple[float, float, float, float]
    colour: tuple[int, int, int] = RED
    width: int = 0

    def apply(self, picture: Image.Image) -> Image.Image:
        picture = picture.copy()
        width = self.width or max(1, int(LINE_WIDTH * max(picture.size) / LINE_ANCHOR))
        left, top, right, bottom = (round(edge) for edge in self.box)
        frame = (
            _within(left - width, picture.width),
            _within(top - width, picture.height),
            _within(right + width - 1, picture.width),
            _within(bottom + width - 1, picture.height),
        )
        ImageDraw.Draw(picture).rectangle(frame, outline=self.colour, width=width)
        return picture


@dataclass(frozen=True)
class Whiten:
    """A white picture of the same size: same number of image tokens, nothing to see (paper code)."""

    def apply(self, picture: Image.Image) -> Image.Image:
        return Image.new("RGB", picture.size, (255, 255, 255))


@dataclass(frozen=True)
class ShuffleBlocks:
    """Permute equal blocks of the picture, seeded: what is in the blocks stays, where it is does not (ours).

    The picture is cut into `grid` × `grid` blocks of equal size (fewer where it has fewer pixels); the strips that
    remain at the right and at the bottom stay as they are.
    """

    seed: int
    grid: int = SHUFFLE_GRID

    def apply(self, picture: Image.Image) -> Image.Image:
        pixels = np.asarray(picture.convert("RGB"))
        rows, columns = min(self.grid, pixels.shape[0]), min(self.grid, pixels.shape[1])
        high, wide = pixels.shape[0] // rows, pixels.shape[1] // columns
        shuffled = pixels.copy()
        blocks = pixels[: rows * high, : columns * wide].reshape(rows, high, columns, wide, 3).swapaxes(1, 2)
        order = np.random.default_rng(self.seed).permutation(rows * columns)
        moved = blocks.reshape(rows * columns, high, wide, 3)[order].reshape(rows, columns, high, wide, 3)
        shuffled[: rows * high, : columns * wide] = moved.swapaxes(1, 2).reshape(rows * high, columns * wide, 3)
        return Image.fromarray(shuffled)


def inside(folder: str | Path, name: str) -> Path:
    """The file `name` of a record, inside `folder`. Raises ImageError for a name that leads out of the folder.

    Names are judged as text: links that the user has put into the data folder are followed.
    """
    parts = PurePosixPath(str(name).replace("\\", "/"))
    outward = parts.is_absolute() or PureWindowsPath(str(name)).drive or ".." in parts.parts
    if outward or not parts.parts or "\0" in str(name):
        raise ImageError(
            f"the picture name {name!r} leads out of the data folder {os.fspath(folder)!r} or is empty; "
            "records must name files below that folder."
        )
    return Path(folder) / parts


def read_size(path: str = "", text: str = "") -> tuple[int, int]:
    """Width and height in pixels from the header of a file or of base64 text. Raises ImageError like `read_image`."""
    with _opened(path, text) as picture:
        return picture.size


def read_image(path: str = "", text: str = "") -> Image.Image:
    """The decoded picture, RGB, of a file or of base64 text; of several frames the first.

    Raises ImageError for a picture that is missing, corrupt, truncated or over MAX_PIXELS.
    """
    name = path or f"base64 picture starting {text[:12]!r}"
    with _opened(path, text) as picture:
        try:
            picture.load()
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise ImageError(f"the picture {name!r} is corrupt or truncated ({error}); fetch it again.") from error
        return to_rgb(picture)


def to_rgb(picture: Image.Image) -> Image.Image:
    """The picture as RGB; transparency is dropped, not blended. Raises ImageError over MAX_PIXELS."""
    _check_pixels(picture.size, "the picture in memory")
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return picture.convert("RGB")


def _within(edge: int, length: int) -> int:
    return min(max(edge, 0), length - 1)


def _opened(path: str, text: str) -> Image.Image:
    name = path or f"base64 picture starting {text[:12]!r}"
    try:
        picture = Image.open(io.BytesIO(_decoded(text, name)) if text else path)
    except FileNotFoundError:
        raise ImageError(f"the picture {name!r} does not exist; check the name and the data folder.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"the picture {name!r} is larger than {MAX_PIXELS:,} pixels ({error}); shrink it.") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name!r} is not a picture that Pillow can read; is the file corrupt?") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"the picture {name!r} cannot be read ({error}).") from error
    try:
        _check_pixels(picture.size, f"the picture {name!r}")
    except ImageError:
        picture.close()
        raise
    return picture


def _check_pixels(size: tuple[int, int], name: str) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise ImageError(f"{name} is {size[0]} × {size[1]} pixels; at most {MAX_PIXELS:,} pixels are read, shrink it.")
    if not size[0] * size[1]:
        raise ImageError(f"{name} is {size[0]} × {size[1]} pixels, which is empty; give a picture with pixels.")


def _decoded(text: str, name: str) -> bytes:
    body = text.split(",", 1)[1] if text.startswith("data:") and "," in text else text
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"the {name} is not valid base64 ({error}); is the record cut short?") from None
