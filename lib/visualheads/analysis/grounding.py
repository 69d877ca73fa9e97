"""Boxes from attention maps: where a few heads point, against where the asked objects are. Pure numpy.

After Kang et al., CVPR 2025 (a few localisation heads ground objects): the best heads' maps are added up, smoothed or
not, cut at a level, and the strongest connected part is boxed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import ndimage

from visualheads.errors import ParameterError, got
from visualheads.models.token_map import TokenMap

if TYPE_CHECKING:
    from visualheads.tasks.sample import Box, Sample

LEVEL = 0.5
"""A cell belongs to the object where it has at least this share of the strongest cell's value (ours)."""
SIGMA = 1.0
"""Width of the Gaussian, in cells (Kang et al. smooth with σ = 1)."""
RULES = ("threshold", "gaussian")


def kind_of_box(sample: Sample) -> str | None:
    """The kind of labelled object whose box is the sample's own; None where there is none."""
    if sample.box is None:
        return None
    return next((name for name, found in (sample.boxes or {}).items() if sample.box in list(found)), None)


def targets(sample: Sample) -> list[Box]:
    """What a sample asks about: all labelled objects of the kind that its box marks, else that box."""
    kind = kind_of_box(sample)
    if kind is not None and sample.boxes is not None:
        return list(sample.boxes[kind])
    return [] if sample.box is None else [sample.box]


def unasked(samples: Sequence[Sample]) -> list[Sample]:
    """The same prompts with the box of another object: what heads are held against that go for what is asked.

    One sample per prompt and labelled kind of object that its own box does not mark, with the box of the first such
    object. Samples without a box, or without other objects, are left out.
    """
    return [
        replace(one, id=f"{one.id}→not {kind}", box=tuple(found[0]), question_id=one.question_id or one.id)
        for one in samples
        if one.box is not None
        for kind, found in (one.boxes or {}).items()
        if found and kind != kind_of_box(one)
    ]


def cells_of(token_map: TokenMap, grid: tuple[int, int]) -> Float[NDArray[np.floating], "row column 4"]:
    """The box of each cell of a map in original pixels; NaN where a cell shows nothing of the picture.

    Where `grid` is not the picture's own (maps resampled onto a common grid), the picture is cut evenly.
    """
    if token_map.grid_shape == grid:
        return np.moveaxis(token_map.to_map(token_map.box.T), 0, -1)
    return even_cells(token_map.image_size, grid)


def even_cells(image_size: tuple[int, int], grid: tuple[int, ...]) -> Float[NDArray[np.floating], "row column 4"]:
    """The boxes of a grid (rows, columns) that cuts a picture of `image_size` (width, height) evenly."""
    rows, columns = grid
    width, height = image_size
    x, y = np.linspace(0, width, columns + 1), np.linspace(0, height, rows + 1)
    left, top = np.meshgrid(x[:-1], y[:-1])
    right, bottom = np.meshgrid(x[1:], y[1:])
    return np.stack([left, top, right, bottom], axis=-1)


def combined(maps: Float[NDArray[np.floating], "head row column"]) -> Float[NDArray[np.floating], "row column"]:
    """The heads' maps added up, each first scaled to sum 1, so that no head counts for more; NaN cells stay NaN."""
    total = np.nansum(maps, axis=(1, 2), keepdims=True)
    shares = np.divide(maps, total, out=np.zeros_like(maps, dtype=float), where=total > 0)
    return shares.sum(axis=0)


def box_of_map(
    values: Float[NDArray[np.floating], "row column"],
    cells: Float[NDArray[np.floating], "row column 4"],
    rule: Literal["threshold", "gaussian"] = "threshold",
    level: float = LEVEL,
) -> Box | None:
    """The box (left, top, right, bottom; original pixels) around the strongest connected part of a map.

    cells   each cell's own box in the original picture; NaN where a cell shows nothing of it
    rule    "threshold": cells of at least `level` times the highest value; "gaussian": the same after smoothing
    None for a map without any mass. Raises ParameterError for an unknown rule or a level outside (0, 1].
    """
    if rule not in RULES:
        raise ParameterError(got("rule", rule, RULES))
    if not 0 < level <= 1:
        raise ParameterError(got("level", level, "above 0, up to 1"))
    seen = np.isfinite(cells).all(axis=-1)
    shown = np.where(seen & np.isfinite(values), values, 0.0)
    if rule == "gaussian":
        shown = np.where(seen, ndimage.gaussian_filter(shown, SIGMA, mode="nearest"), 0.0)
    if not shown.max(initial=0.0) > 0:
        return None
    marked = shown >= level * shown.max()
    labels, count = ndimage.label(marked, structure=np.ones((3, 3)))  # pyright: ignore[reportGeneralTypeIssues]
    mass = ndimage.sum_labels(shown, labels, np.arange(1, count + 1))
    part = cells[labels == int(np.argmax(mass)) + 1]
    left, top = part[:, :2].min(axis=0)
    right, bottom = part[:, 2:].max(axis=0)
    return float(left), float(top), float(right), float(bottom)


def point_of_map(
    values: Float[NDArray[np.floating], "row column"], cells: Float[NDArray[np.floating], "row column 4"]
) -> tuple[float, float] | None:
    """The centre (x, y) of the strongest cell, for the pointing game; None for a map without any mass."""
    shown = np.where(np.isfinite(cells).all(axis=-1) & np.isfinite(values), values, 0.0)
    if not shown.max(initial=0.0) > 0:
        return None
    left, top, right, bottom = cells[np.unravel_index(int(shown.argmax()), shown.shape)]
    return float((left + right) / 2), float((top + bottom) / 2)


def iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes, 0…1."""
    wide = min(first[2], second[2]) - max(first[0], second[0])
    high = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(wide, 0.0) * max(high, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    union = sum(areas) - shared
    return shared / union if union > 0 else 0.0


def inside(point: tuple[float, float], box: Box) -> bool:
    """Whether a point lies in a box; the right and bottom edge do not belong to it."""
    return box[0] <= point[0] < box[2] and box[1] <= point[1] < box[3]
