"""What prompts and controls do to a decoded picture: draw the box, whiten, shuffle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw

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


def _within(edge: int, length: int) -> int:
    return min(max(edge, 0), length - 1)
