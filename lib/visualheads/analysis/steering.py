"""Tables of what steering and grounding do, with intervals over pictures; and boxes from attention maps.

Boxes after Kang et al., CVPR 2025 (a few localisation heads ground objects): the best heads' maps are added up,
smoothed or not, cut at a level, and the strongest connected part is boxed. Numpy and xarray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import ndimage

from visualheads.analysis.subset import BOUNDS, bounds_of
from visualheads.errors import ParameterError, got
from visualheads.heads.losses import CHANGED, EXCESS, shares, with_bounds
from visualheads.models import token_layouts
from visualheads.models.token_map import TokenMap

if TYPE_CHECKING:
    from visualheads.tasks.sample import Box, Sample

STEER_COLUMNS = (
    "model", "condition", "bias", "order", "count", "what", "measure", *BOUNDS, "clean", *EXCESS, "sets", "samples",
)  # fmt: skip
GROUND_COLUMNS = ("model", "ranking", "rule", "heads", "measure", *BOUNDS, "samples")
BASELINE_COLUMNS = ("model", "measure", "what", "estimate")
RANDOM = "random"
BASELINES = {"chance": ("hit", "a random patch"), "centre_hit": ("hit", "middle"), "whole_iou": ("iou", "whole")}
"""Variable → measure that it is a baseline of, and what it is called."""


def steer_table(found: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """How far answers move to the object steered to, by situation, bias and kind of heads.

    Parameters
    ----------
    found : mapping of str to xarray.Dataset
        Sweeps of steering (model, bias, set, sample) by model, as of `studies.steering.studied`.

    Returns
    -------
    pandas.DataFrame
        One row per model, situation, bias, kind of heads and measure. Columns:

        * model, condition, bias, order (top, random or all), count, what (order and count in words), measure.
        * estimate, lower, upper: mean change against the unchanged model with its 95 % interval, paired bootstrap over
          pictures: of "accuracy", the share of answers that name the object steered to; of "margin", its margin in
          logits.
        * clean: the unchanged model's own share, or margin.
        * excess, excess_lower, excess_upper: for top heads, how much more than the mean of their matched random sets;
          NaN for others.
        * sets (random sets of several seeds are averaged per sample), samples.
    """
    rows = []
    for model, ds in found.items():
        for condition in dict.fromkeys(ds["condition"].values.astype(str)):
            part = ds.isel(model=0, sample=np.flatnonzero(ds["condition"].values.astype(str) == condition))
            rows += [{"model": model, "condition": condition, **row} for row in _by_kind(part)]
    return pd.DataFrame(rows, columns=list(STEER_COLUMNS))


def ground_table(found: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """How well heads' maps find the object asked about, over the number of heads.

    Parameters
    ----------
    found : mapping of str to xarray.Dataset
        Boxes from heads' maps (model, ranking, rule, heads_used, sample) by model, as of `studies.steering.studied`.

    Returns
    -------
    pandas.DataFrame
        One row per model, ranking (random ones are averaged per sample), rule, number of heads and measure. Columns:
        model, ranking, rule, heads, measure ("hit": the pointing game; "iou": overlap), estimate, lower, upper (means
        in [0, 1] with their 95 % interval over pictures), samples.
    """
    rows = []
    for model, ds in found.items():
        one = ds.isel(model=0)
        names = [str(name) for name in one["ranking"].values]
        groups = {name: [name] for name in names if not name.startswith(RANDOM)}
        groups[RANDOM] = [name for name in names if name.startswith(RANDOM)]
        for measure in ("hit", "iou"):
            for label, members in groups.items():
                if not members:
                    continue
                told = shares(one[measure].sel(ranking=members).mean("ranking"))
                for rule in told["rule"].values.tolist():
                    for used in told["heads_used"].values.tolist():
                        at = told.sel(rule=rule, heads_used=used)
                        rows.append(
                            {"model": model, "ranking": label, "rule": rule, "heads": int(used), "measure": measure,
                             **bounds_of(at), "samples": one.sizes["sample"]}
                        )  # fmt: skip
    return pd.DataFrame(rows, columns=list(GROUND_COLUMNS))


def baseline_table(found: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """What needs no head: a random patch, the picture's middle, a box around the whole picture.

    Parameters
    ----------
    found : mapping of str to xarray.Dataset
        Boxes from heads' maps by model, as of `studies.steering.studied`.

    Returns
    -------
    pandas.DataFrame
        One row per model and baseline. Columns: model, measure ("hit" or "iou"), what, estimate (a mean in [0, 1]).
    """
    rows = [
        {"model": model, "measure": measure, "what": what, "estimate": float(ds[name].mean())}
        for model, ds in found.items()
        for name, (measure, what) in BASELINES.items()
    ]
    return pd.DataFrame(rows, columns=list(BASELINE_COLUMNS))


def directions(table: pd.DataFrame, order: str, measure: str = "accuracy") -> dict[str, int]:
    """How many rows of a table lie wholly above or below 0: top heads against random ones, other heads by themselves.

    Parameters
    ----------
    table : pandas.DataFrame
        A result of `steer_table`.
    order : str
        Kind of heads: "top", "random" or "all".
    measure : str
        "accuracy" or "margin".

    Returns
    -------
    dict of str to int
        The keys up, down and n, the number of rows with an interval.
    """
    lower, upper = ("excess_lower", "excess_upper") if order == "top" else ("lower", "upper")
    own = table[(table["order"] == order) & (table["measure"] == measure)].dropna(subset=[lower])
    return {"up": int((own[lower] > 0).sum()), "down": int((own[upper] < 0).sum()), "n": len(own)}


def best_pointing(table: pd.DataFrame) -> pd.DataFrame:
    """The row in which each model's maps point best: its highest share of hits, random rankings left out.

    Parameters
    ----------
    table : pandas.DataFrame
        A result of `ground_table`.

    Returns
    -------
    pandas.DataFrame
        One row per model, with the columns of the table.
    """
    own = table[(table["measure"] == "hit") & (table["ranking"] != RANDOM)].reset_index(drop=True)
    return own.loc[own.groupby("model", sort=False)["estimate"].idxmax()].reset_index(drop=True)


def example_model(names: Sequence[str], table: pd.DataFrame) -> tuple[str, str] | None:
    """The model and the ranking whose pictures are shown: the first model, and the ranking that points best there.

    Parameters
    ----------
    names : sequence of str
        Models.
    table : pandas.DataFrame
        A result of `ground_table`.

    Returns
    -------
    tuple of str, or None
        (model, ranking); None where the table has nothing of the first model.
    """
    own = best_pointing(table[table["model"] == next(iter(names), "")])
    return None if own.empty else (str(own.loc[0, "model"]), str(own.loc[0, "ranking"]))


def _by_kind(part: xr.Dataset) -> list[dict[str, object]]:
    """Rows of one model in one situation, by measure, bias and kind of heads.

    Changes against the unchanged model, and how much more top heads change than random ones, are paired: differences
    per sample, then one interval over pictures. Sets of one kind are averaged per sample.
    """
    kinds = _kinds(part)
    names = list(kinds)
    control = [
        names.index((RANDOM, count)) if order == "top" and (RANDOM, count) in kinds else place
        for place, (order, count) in enumerate(names)
    ]
    paired = xr.DataArray(np.array(control) != np.arange(len(names)), dims="kind")
    rows: list[dict[str, object]] = []
    for measure, (name, clean) in CHANGED.items():
        change = (part[name].astype(float) - part[clean]).assign_coords(image_id=part["image_id"])
        means = [change.isel(set=index).mean("set") for index in kinds.values()]
        own = xr.concat(means, "kind", coords="minimal", compat="override")
        both = with_bounds(own, measure), with_bounds(own - own.isel(kind=control), measure).where(paired)
        moved, more = (one.sel(bound=list(BOUNDS)).transpose("bias", "kind", "bound").values for one in both)
        for at, place in np.ndindex(moved.shape[:2]):
            order, count = names[place]
            rows.append({
                "bias": float(part["bias"].values[at]), "order": order, "count": count,
                "what": f"all {count}" if order == "all" else f"{order} {count}", "measure": measure,
                **dict(zip(BOUNDS, moved[at, place].tolist(), strict=True)), "clean": float(part[clean].mean()),
                "sets": len(kinds[order, count]), "samples": part.sizes["sample"],
                **dict(zip(EXCESS, more[at, place].tolist(), strict=True)),
            })  # fmt: skip
    return rows


def _kinds(ds: xr.Dataset) -> dict[tuple[str, int], list[int]]:
    """Sets by (order, count): fewest heads first, top before random."""
    kinds: dict[tuple[str, int], list[int]] = {}
    pairs = zip(ds["order"].values.astype(str), ds["count"].values.tolist(), strict=True)
    for index, (order, count) in enumerate(pairs):
        kinds.setdefault((order, int(count)), []).append(index)
    return dict(sorted(kinds.items(), key=lambda item: (item[0][1], item[0][0] == RANDOM)))


LEVEL = 0.5
"""A cell belongs to the object where it has at least this share of the strongest cell's value (ours)."""
SIGMA = 1.0
"""Width of the Gaussian, in cells (Kang et al. smooth with σ = 1)."""
RULES = ("threshold", "gaussian")


def kind_of_box(sample: Sample) -> str | None:
    """The kind of labelled object whose box is the sample's own.

    Parameters
    ----------
    sample : Sample
        A question about a picture.

    Returns
    -------
    str or None
        A key of the sample's `boxes`; None where it has no box, or one that is not labelled.
    """
    if sample.box is None:
        return None
    return next((name for name, found in (sample.boxes or {}).items() if sample.box in list(found)), None)


def targets(sample: Sample) -> list[Box]:
    """What a sample asks about: all labelled objects of the kind that its box marks, else that box.

    Parameters
    ----------
    sample : Sample
        A question about a picture.

    Returns
    -------
    list of tuple of float
        Boxes (left, top, right, bottom) in pixels of the upright picture; empty for a sample without a box.
    """
    kind = kind_of_box(sample)
    if kind is not None and sample.boxes is not None:
        return list(sample.boxes[kind])
    return [] if sample.box is None else [sample.box]


def cells_of(token_map: TokenMap, grid: tuple[int, int]) -> Float[NDArray[np.floating], "row column 4"]:
    """The box of each cell of a map in the picture.

    Parameters
    ----------
    token_map : TokenMap
        Where the picture's tokens lie.
    grid : tuple of int
        (rows, columns) of the map. Where they are not the picture's own (maps resampled onto a common grid), the
        picture is cut evenly.

    Returns
    -------
    numpy.ndarray
        Boxes (row, column, 4) in pixels: left, top, right, bottom; NaN where a cell shows nothing of the picture.
    """
    if token_map.grid_shape == grid:
        return np.moveaxis(token_map.to_map(token_map.box.T), 0, -1)
    return even_cells(token_map.image_size, grid)


def even_cells(image_size: tuple[int, int], grid: tuple[int, ...]) -> Float[NDArray[np.floating], "row column 4"]:
    """The boxes of a grid that cuts a picture evenly.

    Parameters
    ----------
    image_size : tuple of int
        (width, height) in pixels.
    grid : tuple of int
        (rows, columns).

    Returns
    -------
    numpy.ndarray
        Boxes (row, column, 4) in pixels: left, top, right, bottom.
    """
    rows, columns = grid
    return token_layouts.cells(rows, columns, (0, 0, *image_size)).reshape(rows, columns, 4)


def combined(maps: Float[NDArray[np.floating], "head row column"]) -> Float[NDArray[np.floating], "row column"]:
    """Heads' maps added up, each first scaled to sum 1, so that no head counts for more.

    Parameters
    ----------
    maps : numpy.ndarray
        Attention (head, row, column) of at least 0; NaN where no token lies.

    Returns
    -------
    numpy.ndarray
        Their sum (row, column); NaN where any map is. A map without any mass counts 0.

    References
    ----------
    Kang et al., CVPR 2025.
    """
    total = np.nansum(maps, axis=(1, 2), keepdims=True)
    shares = np.divide(maps, total, out=np.zeros_like(maps, dtype=float), where=total > 0)
    return shares.sum(axis=0)


def box_of_map(
    values: Float[NDArray[np.floating], "row column"],
    cells: Float[NDArray[np.floating], "row column 4"],
    rule: Literal["threshold", "gaussian"] = "threshold",
    level: float = LEVEL,
) -> Box | None:
    """The box around the strongest connected part of a map.

    Parameters
    ----------
    values : numpy.ndarray
        The map (row, column) of at least 0; NaN cells count 0.
    cells : numpy.ndarray
        Each cell's own box (row, column, 4) in pixels of the picture; NaN where a cell shows nothing of it.
    rule : str
        "threshold": cells of at least `level` times the highest value; "gaussian": the same after smoothing.
    level : float
        Share of the highest value, in (0, 1]; 0.5 is ours.

    Returns
    -------
    tuple of float, or None
        (left, top, right, bottom) in pixels of the picture; None for a map without any mass.

    Raises
    ------
    ParameterError
        The rule is unknown, or the level outside (0, 1].

    References
    ----------
    Kang et al., CVPR 2025, who smooth with σ = 1.
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
    """The centre of the strongest cell, for the pointing game.

    Parameters
    ----------
    values : numpy.ndarray
        The map (row, column) of at least 0; NaN cells count 0.
    cells : numpy.ndarray
        Each cell's own box (row, column, 4) in pixels of the picture; NaN where a cell shows nothing of it.

    Returns
    -------
    tuple of float, or None
        (x, y) in pixels of the picture; None for a map without any mass.
    """
    shown = np.where(np.isfinite(cells).all(axis=-1) & np.isfinite(values), values, 0.0)
    if not shown.max(initial=0.0) > 0:
        return None
    left, top, right, bottom = cells[np.unravel_index(int(shown.argmax()), shown.shape)]
    return float((left + right) / 2), float((top + bottom) / 2)


def iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes.

    Parameters
    ----------
    first, second : tuple of float
        (left, top, right, bottom), in one frame.

    Returns
    -------
    float
        In [0, 1]; 0 where both are empty.
    """
    wide = min(first[2], second[2]) - max(first[0], second[0])
    high = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(wide, 0.0) * max(high, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    union = sum(areas) - shared
    return shared / union if union > 0 else 0.0


def inside(point: tuple[float, float], box: Box) -> bool:
    """Whether a point lies in a box; the right and bottom edge do not belong to it.

    Parameters
    ----------
    point : tuple of float
        (x, y).
    box : tuple of float
        (left, top, right, bottom), in the same frame.

    Returns
    -------
    bool
        True inside.
    """
    return box[0] <= point[0] < box[2] and box[1] <= point[1] < box[3]
