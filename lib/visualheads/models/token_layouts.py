"""How model families lay image tokens out: one builder of a TokenMap per kind of layout.

Adapters only call these with numbers from a checkpoint's configuration. Into which size or tiles a picture is brought,
transformers' own functions tell. Picture sizes are (width, height); grid
pinpoints are (height, width), as configurations write them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from visualheads.errors import ImageError, ParameterError, got
from visualheads.models.token_map import NEWLINE, PATCH, Placement, TokenMap, letterboxed, stretched

ONEVISION_SLACK = 1.1
"""LLaVA-OneVision shrinks the tile grid only where it exceeds the allowed side by more than this factor (its code)."""


_Edges = tuple[NDArray[np.float64], NDArray[np.float64]]


def cells(rows: int, columns: int, area: tuple[float, float, float, float]) -> NDArray[np.float64]:
    """Return boxes (rows · columns, 4), row-major, that divide `area` (left, top, right, bottom) evenly."""
    left, top, right, bottom = area
    x, y = np.linspace(left, right, columns + 1), np.linspace(top, bottom, rows + 1)
    return _crossed((y[:-1], y[1:]), (x[:-1], x[1:]))


def _crossed(rows: _Edges, columns: _Edges) -> NDArray[np.float64]:
    """Boxes, row-major, between the (lower, upper) edges of rows and of columns."""
    row, column = (index.ravel() for index in np.indices((len(rows[0]), len(columns[0]))))
    return np.stack([columns[0][column], rows[0][row], columns[1][column], rows[1][row]], axis=1)


def single_grid(
    placement: Placement, grid_shape: tuple[int, int], covered: tuple[float, float] | None = None
) -> TokenMap:
    """One picture, one grid of patches, row-major (LLaVA-1.5, ViP-LLaVA, PaliGemma, Gemma 3).

    `grid_shape` (rows, columns) counts tokens after any pooling or merging. `covered` (width, height): how far the
    grid reaches on the canvas, in canvas pixels; None: all of it. A tower whose side is no multiple of its patch never
    sees the last pixels of each row and column.
    """
    rows, columns = grid_shape
    width, height = covered or placement.canvas_size
    boxes = placement.to_original(cells(rows, columns, (0, 0, width, height)))
    return _map(placement.image_size, (rows, columns), (0, 0), [_patches(0, rows, columns, boxes)])


def anyres(
    image_size: tuple[int, int],
    pinpoints: Sequence[Sequence[int]],
    tile_size: int,
    patch_size: int,
    *,
    max_tiles: int | None = None,
) -> TokenMap:
    """LLaVA-NeXT's AnyRes: the whole picture stretched to one tile, then the unpadded grid of tiles, row by row.

    `pinpoints` are the allowed canvases (height, width); `tile_size` is the tower's picture side, `patch_size` its
    patch. One newline token ends each row of the tile grid. `max_tiles` is LLaVA-OneVision's
    anyres_max_N: larger grids are interpolated down. Raises ParameterError for pinpoints that are not multiples of
    the tile.
    """
    side = tile_size // patch_size
    canvas_height, canvas_width = best_resolution(image_size, pinpoints)
    if canvas_height % tile_size or canvas_width % tile_size:
        raise ParameterError(got("pinpoints", list(map(list, pinpoints)), f"multiples of the tile size {tile_size}"))
    whole = stretched(image_size, (tile_size, tile_size))
    tiles = letterboxed(image_size, (canvas_width, canvas_height))
    top, left, seen_rows, seen_columns = _unpadded(
        image_size, side * (canvas_height // tile_size), side * (canvas_width // tile_size)
    )
    rows, columns = seen_rows, seen_columns
    if max_tiles is not None:
        ratio = math.sqrt(rows * columns / (max_tiles * side**2))
        if ratio > ONEVISION_SLACK:
            rows, columns = int(rows // ratio), int(columns // ratio)

    canvas_boxes = _crossed(
        _edges(top, seen_rows, rows, side, tile_size, patch_size),
        _edges(left, seen_columns, columns, side, tile_size, patch_size),
    )
    centres = (canvas_boxes[:, :2] + canvas_boxes[:, 2:]) / 2
    column_of_tile, row_of_tile = (centres // tile_size).astype(np.int64).T
    tile = 1 + row_of_tile * (canvas_width // tile_size) + column_of_tile
    covered = side * patch_size
    base = _patches(0, side, side, whole.to_original(cells(side, side, (0, 0, covered, covered))))
    joined = _patches(tile, rows, columns, tiles.to_original(canvas_boxes))
    return _map(image_size, (side, side), (rows, columns), [base, _with_newlines(joined, rows, columns)])


def merged_patches(
    image_size: tuple[int, int], patch_size: int, merge: int, min_pixels: int, max_pixels: int
) -> TokenMap:
    """Qwen-VL's dynamic grid: stretched to multiples of patch · merge; merge × merge patches are one token."""
    width, height = dynamic_size(image_size, patch_size * merge, min_pixels, max_pixels)
    factor = patch_size * merge
    return single_grid(stretched(image_size, (width, height)), (height // factor, width // factor))


def tiled(
    image_size: tuple[int, int],
    tile_rows: int,
    tile_columns: int,
    side: int,
    *,
    covered: float = 1.0,
) -> TokenMap:
    """Tiles of one stretched picture, then all of it, each side × side tokens (Idefics3, SmolVLM, InternVL).

    `side` counts tokens after pixel shuffle; tokens run tile by tile, row-major within each. With one tile or none
    only the whole picture is there. Text between tiles is no image token. `covered`: the share of a tile's side that
    its patches reach (below 1 where the side is no multiple of the patch: SmolVLM2's 384 = 27 · 14 + 6).
    """
    canvas = (max(tile_columns, 1) * side, max(tile_rows, 1) * side)
    placement = stretched(image_size, canvas)
    reach = side * covered
    whole = stretched(image_size, (side, side))
    base = _patches(0, side, side, whole.to_original(cells(side, side, (0, 0, reach, reach))))
    if tile_rows * tile_columns <= 1:
        return _map(image_size, (side, side), (0, 0), [base])
    parts = []
    for index in range(tile_rows * tile_columns):
        row, column = divmod(index, tile_columns)
        area = (column * side, row * side, column * side + reach, row * side + reach)
        boxes = placement.to_original(cells(side, side, area))
        kind, tile, rows, columns, boxes = _patches(index + 1, side, side, boxes)
        parts.append((kind, tile, rows + row * side, columns + column * side, boxes))
    return _map(image_size, (side, side), (tile_rows * side, tile_columns * side), [*parts, base])


def best_resolution(image_size: tuple[int, int], pinpoints: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Return the pinpoint (height, width) that keeps most of the picture's pixels, then wastes least (LLaVA-NeXT)."""
    from transformers.image_processing_utils import select_best_resolution

    if not pinpoints:
        raise ParameterError(got("pinpoints", [], "at least one (height, width)"))
    height, width = select_best_resolution(image_size[::-1], list(pinpoints))
    return int(height), int(width)


def dynamic_size(image_size: tuple[int, int], factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Return (width, height), multiples of `factor` within the pixel limits, aspect ratio nearly kept (Qwen-VL)."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    width, height = image_size
    try:
        height, width = smart_resize(height, width, factor, min_pixels, max_pixels)
    except ValueError:
        raise ImageError(
            got("picture size", image_size, "an aspect ratio of at most 200", "crop the picture")
        ) from None
    return width, height


def tile_arrangement(
    image_size: tuple[int, int], tile_size: tuple[int, int], min_tiles: int, max_tiles: int
) -> tuple[int, int]:
    """Return the (tile rows, tile columns) whose aspect ratio is nearest the picture's (InternVL).

    `tile_size` is (width, height).
    """
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

    if not 1 <= min_tiles <= max_tiles:
        raise ParameterError(got("tiles", (min_tiles, max_tiles), "1 ≤ min_tiles ≤ max_tiles"))
    columns, rows = get_optimal_tiled_canvas(image_size[::-1], tile_size[::-1], min_tiles, max_tiles)
    return rows, columns


_Part = tuple[NDArray[np.str_], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]


def _patches(tile: int | NDArray[np.int64], rows: int, columns: int, boxes: NDArray[np.float64]) -> _Part:
    row, column = (index.ravel() for index in np.indices((rows, columns)))
    n = rows * columns
    return np.full(n, PATCH, dtype="<U9"), np.broadcast_to(np.int64(tile), (n,)), row, column, boxes


def _with_newlines(part: _Part, rows: int, columns: int) -> _Part:
    """Add one newline token after each row; it carries the tile of the row's last patch."""
    kind, tile, row, column, box = part
    after = np.arange(1, rows + 1) * columns
    # Of a very long picture unpadding can leave no column at all, while the newlines stay.
    tile_of_row = tile[after - 1] if columns else np.ones(rows, dtype=np.int64)
    return (
        np.insert(kind, after, NEWLINE),
        np.insert(tile, after, tile_of_row),
        np.insert(row, after, np.arange(rows)),
        np.insert(column, after, -1),
        np.insert(box, after, np.nan, axis=0),
    )


def _map(
    image_size: tuple[int, int], grid_shape: tuple[int, int], tile_shape: tuple[int, int], parts: Sequence[_Part]
) -> TokenMap:
    kind, tile, row, column, box = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return TokenMap(kind, tile, row, column, box, image_size, grid_shape, tile_shape)


def _edges(first: int, seen: int, count: int, side: int, tile_size: int, patch_size: int) -> _Edges:
    """Return the lower and upper edges, in canvas pixels, of `count` cells that divide `seen` patches from `first` on.

    Patches do not reach a tile's end where its size is no multiple of theirs, so an edge between two tiles is at one
    place as the upper edge of a cell and at another as the lower edge of the next.
    """
    patches = first + np.linspace(0, seen, count + 1)
    nearest = np.round(patches)
    patches = np.where(np.isclose(patches, nearest, rtol=0, atol=1e-9), nearest, patches)
    below, above = np.floor(patches[:-1] / side), np.ceil(patches[1:] / side) - 1
    lower = below * tile_size + (patches[:-1] - below * side) * patch_size
    upper = above * tile_size + (patches[1:] - above * side) * patch_size
    return lower, upper


def _unpadded(image_size: tuple[int, int], rows: int, columns: int) -> tuple[int, int, int, int]:
    """Return (top, left, rows, columns) of what is left of a tile grid after cutting its padding off (LLaVA-NeXT)."""
    width, height = image_size
    if width / height > columns / rows:
        # Rounding to 7 digits first, as the original does: 23.999999999 patches are 24.
        cut = (rows - int(round(height * (columns / width), 7))) // 2
        return cut, 0, rows - 2 * cut, columns
    cut = (columns - int(round(width * (rows / height), 7))) // 2
    return 0, cut, rows, columns - 2 * cut
