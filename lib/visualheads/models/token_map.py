"""Image tokens and pixels: where each token lies in the original picture, and back (pure numpy).

Everything is told in pixels of the ORIGINAL picture, before resizing, padding or cropping: x to the right, y down,
a box is (left, top, right, bottom) with the right and bottom edge exclusive. Picture sizes are (width, height), as
in PIL.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from visualheads.errors import BoxError, ImageError, ParameterError, checked_name, got

PATCH, NEWLINE, SEPARATOR = "patch", "newline", "separator"

LEAST_OVERLAP = 1e-6
"""In pixels: two boxes that share less on an axis only touch; absorbs the rounding of resizing and back."""

Box = Sequence[float]


@dataclass(frozen=True)
class Placement:
    """Where the original picture lies on the canvas a model sees: canvas = offset + scale · original, on each axis."""

    image_size: tuple[int, int]
    canvas_size: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[float, float]

    def __post_init__(self) -> None:
        for name in ("image_size", "canvas_size"):
            width, height = getattr(self, name)
            if width < 1 or height < 1:
                raise ImageError(got(name.replace("_", " "), (width, height), "(width, height), each at least 1 pixel"))

    def to_original(self, boxes: ArrayLike) -> NDArray[np.float64]:
        """Return canvas boxes (n, 4) in original pixels, clipped to the picture; NaN where wholly on padding."""
        boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        original = (boxes - np.tile(self.offset, 2)) / np.tile(self.scale, 2)
        clipped = np.clip(original, 0.0, np.tile(np.asarray(self.image_size, dtype=np.float64), 2))
        outside = ((clipped[:, 2:] - clipped[:, :2]) <= LEAST_OVERLAP).any(axis=1)
        clipped[outside] = np.nan
        return clipped


def stretched(image_size: tuple[int, int], canvas_size: tuple[int, int]) -> Placement:
    """The picture is resized to the canvas, aspect ratio given up."""
    scale = (canvas_size[0] / image_size[0], canvas_size[1] / image_size[1])
    return Placement(image_size, canvas_size, scale, (0.0, 0.0))


def letterboxed(image_size: tuple[int, int], canvas_size: tuple[int, int]) -> Placement:
    """The picture is resized to fit into the canvas, aspect ratio kept, and centred on padding (LLaVA-NeXT's tiles)."""
    (width, height), (canvas_width, canvas_height) = image_size, canvas_size
    if canvas_width / width < canvas_height / height:
        resized = (canvas_width, min(math.ceil(height * (canvas_width / width)), canvas_height))
    else:
        resized = (min(math.ceil(width * (canvas_height / height)), canvas_width), canvas_height)
    offset = ((canvas_width - resized[0]) // 2, (canvas_height - resized[1]) // 2)
    scale = (resized[0] / width, resized[1] / height)
    return Placement(image_size, canvas_size, scale, (float(offset[0]), float(offset[1])))


def padded_square(image_size: tuple[int, int], side: int) -> Placement:
    """The picture is centred on a square of its longer edge, which is resized to `side` (original LLaVA-1.5)."""
    width, height = image_size
    longest = max(width, height)
    scale = side / longest
    offset = (((longest - width) // 2) * scale, ((longest - height) // 2) * scale)
    return Placement(image_size, (side, side), (scale, scale), offset)


def centre_cropped(image_size: tuple[int, int], shortest_edge: int, crop_size: tuple[int, int]) -> Placement:
    """The picture's shorter edge is resized to `shortest_edge`, then the centre `crop_size` cut out (CLIP's default).

    Where the crop is larger than the resized picture, it is padded instead.
    """
    width, height = image_size
    if width <= height:
        resized = (shortest_edge, int(shortest_edge * height / width))
    else:
        resized = (int(shortest_edge * width / height), shortest_edge)
    offset = [
        float((crop - edge) // 2) if crop > edge else -float((edge - crop) // 2)
        for crop, edge in zip(crop_size, resized, strict=True)
    ]
    scale = (resized[0] / width, resized[1] / height)
    return Placement(image_size, crop_size, scale, (offset[0], offset[1]))


def prepared(
    image_size: tuple[int, int],
    size: Mapping[str, int],
    crop_size: Mapping[str, int] | None = None,
    *,
    pad_to_square: bool = False,
) -> Placement:
    """Return the placement that an image processor's settings give, in the words of `preprocessor_config.json`.

    `size` is {"shortest_edge": n} or {"height": h, "width": w}; `crop_size` {"height": h, "width": w} or None where
    the processor does not crop; `pad_to_square` where it pads to a square before resizing. Raises ParameterError
    for other settings.
    """
    edge = size.get("shortest_edge")
    if pad_to_square:
        side = edge or size.get("height")
        if not side or size.get("width", side) != side:
            raise ParameterError(
                got("size", dict(size), "one edge, or equal height and width, after padding to a square")
            )
        if crop_size and {crop_size["height"], crop_size["width"]} != {side}:
            raise ParameterError(got("crop_size", dict(crop_size), f"None or the padded square's side, {side}"))
        return padded_square(image_size, side)
    if edge and crop_size:
        return centre_cropped(image_size, edge, (crop_size["width"], crop_size["height"]))
    if "height" in size and "width" in size:
        # A crop to the size just resized to changes nothing; any other would need a placement of its own.
        if crop_size and (crop_size["height"], crop_size["width"]) != (size["height"], size["width"]):
            raise ParameterError(got("crop_size", dict(crop_size), f"None or the size {dict(size)}"))
        return stretched(image_size, (size["width"], size["height"]))
    raise ParameterError(
        got("size", dict(size), "{'height', 'width'}, or {'shortest_edge'} with a crop size", "write an adapter for it")
    )


@dataclass(frozen=True, eq=False)
class TokenMap:
    """Arrays over the n image tokens of one picture, in sequence order.

    Attributes
    ----------
    kind : (n,) array of str
        "patch", "newline" or "separator".
    tile : (n,) array of int
        0: the whole picture; 1, 2, …: tiles, row-major.
    grid_row : (n,) array of int
        Row within the whole-picture grid (tile 0) or the joined tile grid; a newline has the row it ends.
    grid_column : (n,) array of int
        Column within the same grid; −1 for newlines and separators.
    box : (n, 4) array of float
        (left, top, right, bottom) in pixels of the upright original, clipped to the picture; NaN for non-patches and
        patches wholly on padding.
    image_size : tuple of int
        (width, height) of the original picture.
    grid_shape, tile_shape : tuple of int
        (rows, columns) of the whole-picture grid, and of the joined tile grid: (0, 0) where there are no tiles.
    """

    kind: NDArray[np.str_]
    tile: NDArray[np.int64]
    grid_row: NDArray[np.int64]
    grid_column: NDArray[np.int64]
    box: NDArray[np.float64]
    image_size: tuple[int, int]
    grid_shape: tuple[int, int]
    tile_shape: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        n = len(self.kind)
        for name in ("kind", "tile", "grid_row", "grid_column", "box"):
            array = getattr(self, name)
            if array.shape != ((n, 4) if name == "box" else (n,)):
                raise ParameterError(got(f"TokenMap.{name}", array.shape, f"one entry for each of the {n} tokens"))
            array.setflags(write=False)

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def is_patch(self) -> NDArray[np.bool_]:
        """Which tokens are patches (J among I), padding patches included."""
        return self.kind == PATCH

    @property
    def whole_row(self) -> NDArray[np.int64]:
        """Row on the whole-picture grid, −1 for every token that is not a patch of tile 0."""
        return np.where(self.is_patch & (self.tile == 0), self.grid_row, -1)

    @property
    def whole_column(self) -> NDArray[np.int64]:
        """Column on the whole-picture grid, −1 for every token that is not a patch of tile 0."""
        return np.where(self.is_patch & (self.tile == 0), self.grid_column, -1)

    def in_box(self, box: Box, rule: Literal["overlap", "centre"] = "overlap") -> NDArray[np.bool_]:
        """Which image tokens are patches that meet a box.

        Parameters
        ----------
        box : sequence of 4 float
            (left, top, right, bottom) in pixels of the original; it may stick out of the picture.
        rule : {"overlap", "centre"}
            The patch's picture area and the box share some area, or the centre of that area lies in the box.

        Returns
        -------
        (n,) array of bool
            All False is possible where what the box shows was cropped away, or by "centre" for a small box.

        Raises
        ------
        BoxError
            Where the box is empty, not finite, or wholly outside the picture.
        """
        left, top, right, bottom = checked_box(box, self.image_size)
        x0, y0, x1, y1 = self.box.T
        if checked_name("rule", rule, ["overlap", "centre"]) == "overlap":
            wide = np.minimum(x1, right) - np.maximum(x0, left)
            high = np.minimum(y1, bottom) - np.maximum(y0, top)
            return self.is_patch & (wide > LEAST_OVERLAP) & (high > LEAST_OVERLAP)
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        return self.is_patch & (left <= x) & (x < right) & (top <= y) & (y < bottom)

    def to_map(self, values: ArrayLike, grid: Literal["whole", "tiles"] = "whole") -> NDArray[np.floating]:
        """Values per image token as maps; newlines and separators are left out.

        Parameters
        ----------
        values : (…, image_token) array
            Integers and bools become float64.
        grid : {"whole", "tiles"}
            The grid of the whole picture (tile 0), or the joined tile grid.

        Returns
        -------
        (…, grid_row, grid_column) array of float
            NaN where no token lies.

        Raises
        ------
        ParameterError
            Where the last axis is not the number of image tokens, or where there are no tiles.
        """
        array = np.asarray(values)
        if array.shape[-1:] != (len(self),) or array.dtype.kind not in "biuf":
            raise ParameterError(got("values", array.shape, f"numbers with a last axis of {len(self)} image tokens"))
        checked_name("grid", grid, ["whole", "tiles"])
        shape = self.grid_shape if grid == "whole" else self.tile_shape
        if shape == (0, 0):
            raise ParameterError(got("grid", grid, "'whole'", "this picture is not cut into tiles"))
        chosen = self.is_patch & ((self.tile == 0) if grid == "whole" else (self.tile > 0))
        dtype = array.dtype if np.issubdtype(array.dtype, np.floating) else np.float64
        maps = np.full((*array.shape[:-1], *shape), np.nan, dtype=dtype)
        maps[..., self.grid_row[chosen], self.grid_column[chosen]] = array[..., chosen]
        return maps


def checked_box(box: Box, image_size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return `box` as four floats; BoxError where it is empty, not finite, or wholly outside the picture."""
    width, height = image_size
    allowed = (
        f"(left, top, right, bottom) in pixels, left < right, top < bottom, meeting the picture {width} × {height}"
    )
    try:
        left, top, right, bottom = (float(edge) for edge in box)
    except (TypeError, ValueError) as error:
        raise BoxError(got("box", box, allowed)) from error
    fix = "boxes given as x, y, width, height have to be turned into edges"
    if not np.isfinite([left, top, right, bottom]).all() or right <= left or bottom <= top:
        raise BoxError(got("box", (left, top, right, bottom), allowed, fix))
    if min(right, width) - max(left, 0.0) <= LEAST_OVERLAP or min(bottom, height) - max(top, 0.0) <= LEAST_OVERLAP:
        raise BoxError(got("box outside the picture", (left, top, right, bottom), allowed, fix))
    return left, top, right, bottom
