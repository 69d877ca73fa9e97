"""`vh.explore`: the explorer of a stored trace that has maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from visualheads.errors import ParameterError, VisualHeadsError, checked, checked_dataset, got
from visualheads.explorer.look_data import MEAN, MEASURES, Look, Row
from visualheads.explorer.shown import Explorer
from visualheads.models.token_map import PATCH, TokenMap
from visualheads.tasks.sample import Sample

if TYPE_CHECKING:
    from PIL import Image

    from visualheads.models.wrapper import VisionLanguageModel

MAPS, MEAN_MAP = "maps", "mean_map"
FIRST = "last_prompt"
PARTS = ("condition", "format", "control")
"""What a mean map is a mean over: samples alike in these."""
SIDE = 480.0
"""Pixels of the longer edge of the ground on which maps lie where their pictures are not given."""
MOST = 24
"""Samples that one page holds by default."""
NO_PICTURE = "Only the maps are stored, without their picture."
ON_GRID = "The map is drawn over the whole picture; give the model (model=) for where its patches lie exactly."
MEAN_NOTE = "A mean over pictures, drawn on the grid of patches."


@checked
def explore(
    ds: xr.Dataset,
    samples: Sequence[Sample] | None = None,
    *,
    model: VisionLanguageModel | None = None,
    most: int = MOST,
) -> Explorer:
    """Return the explorer of a trace with maps: those of single samples (`maps`) or their means (`mean_map`).

    Parameters
    ----------
    ds
        A Dataset of `vh.trace(…, keep="maps")` or `keep="mean_map"`, or a store of either, of one model or several.
    samples
        The traced samples, for their pictures; found by id.
    model
        The traced model, for where its patches lie in a picture that it crops or pads; else maps cover the picture.
    most
        Samples shown at most, the first of the trace.

    Returns
    -------
    Explorer
        Shown by the notebook.

    Raises
    ------
    ParameterError
        Where the Dataset has neither kind of map.
    """
    checked_dataset("ds", ds)
    kind = next((name for name in (MAPS, MEAN_MAP) if name in ds), None)
    if kind is None or "layer" not in ds.dims:
        raise ParameterError(
            got("variables of the dataset", sorted(map(str, ds.data_vars)), [MAPS, MEAN_MAP], "trace with keep='maps'")
        )
    if model is not None and not hasattr(model, "token_map"):
        raise ParameterError(got("model", model, "a model of vh.load or vh.wrap, or None"))
    listed = [] if samples is None else samples
    if (
        isinstance(listed, str)
        or not isinstance(listed, Sequence)
        or not all(isinstance(one, Sample) for one in listed)
    ):
        raise ParameterError(got("samples", samples, "a list of vh.Sample, or None"))
    pictured = {sample.id: sample for sample in listed}
    whole = ds.expand_dims("query") if "query" not in ds.dims else ds
    # the row that makes the answer is shown first
    whole = whole.isel(query=np.argsort([name != FIRST for name in whole["query"].values.tolist()], kind="stable"))
    looks = []
    for index in range(whole.sizes["model"]):
        one = _of_model(whole.isel(model=index))
        make = _sample_look if kind == MAPS else _mean_look
        places = one.sizes["sample"] if kind == MAPS else one.sizes["map_condition"]
        looks += [made for place in range(min(places, most)) if (made := make(one, place, pictured, model)) is not None]
    if not looks:
        raise ParameterError(got(kind, "no finite map", "at least one", "trace the samples first"))
    return Explorer(looks)


def _of_model(ds: xr.Dataset) -> xr.Dataset:
    """One model's part, without the layers and heads that only larger models have."""
    measured = ds["image_weight"] if "image_weight" in ds else ds[MEAN_MAP]
    there = measured.notnull()
    kept = {}
    for dim in ("layer", "head"):
        marks = there.any([other for other in there.dims if other != dim]).values
        kept[dim] = np.flatnonzero(marks)
    return ds.isel(kept) if all(len(places) for places in kept.values()) else ds


def _sample_look(ds: xr.Dataset, place: int, pictured: dict[str, Sample], model: VisionLanguageModel | None) -> Any:
    one = ds.isel(sample=place)
    name = str(one["sample"].item())
    sample = pictured.get(name)
    shape = (ds.sizes["query"], ds.sizes["layer"], ds.sizes["head"], ds.sizes["grid_row"], ds.sizes["grid_column"])
    maps = np.full(shape, np.nan, np.float32)
    values = one[MAPS].transpose("query", "selected_head", "grid_row", "grid_column").values
    maps[:, one["selected_layer"].values, one["selected_index"].values] = values
    if not np.isfinite(maps).any():
        return None
    measures = {
        measure: np.asarray(one[measure].transpose("query", "layer", "head").values, np.float32)
        for measure in MEASURES
        if measure in one and np.isfinite(one[measure].values).any()
    }
    told = {"id": name, "question": _text(one, "question") or name, "answer": _text(one, "answer"), "box": None}
    picture = None
    note = NO_PICTURE
    if sample is not None:
        picture, note = sample.open(), "" if model is not None else ON_GRID
        told |= {"question": sample.question, "answer": sample.answer}
        told["box"] = None if sample.box is None else list(sample.box)
    return _look(ds, told, maps, measures, picture, model, note)


def _mean_look(ds: xr.Dataset, place: int, _pictured: Any, _model: Any) -> Any:
    one = ds.isel(map_condition=place)
    maps = np.asarray(one[MEAN_MAP].transpose("query", "layer", "head", "grid_row", "grid_column").values, np.float32)
    if not np.isfinite(maps).any():
        return None
    labels = {part: str(one[f"map_{part}"].item()) for part in PARTS if f"map_{part}" in one.coords}
    name = ", ".join(label for label in labels.values() if label) or "all"
    meant = np.ones(ds.sizes["sample"], bool)
    for part, label in labels.items():
        meant &= ds[part].values.astype(str) == label
    ds = ds.isel(sample=np.flatnonzero(meant))
    measures = {
        measure: np.asarray(ds[measure].mean("sample").transpose("query", "layer", "head").values, np.float32)
        for measure in MEASURES
        if measure in ds and np.isfinite(ds[measure].values).any()
    }
    told = {"id": name, "question": f"Mean over the pictures of {name}", "answer": "", "box": None}
    return _look(ds, told, maps, measures, None, None, MEAN_NOTE)


def _look(
    ds: xr.Dataset,
    told: dict[str, Any],
    maps: NDArray[np.float32],
    measures: dict[str, NDArray[np.float32]],
    picture: Image.Image | None,
    model: VisionLanguageModel | None,
    note: str,
) -> Look:
    # of models with several grids, the smaller ones are padded; a patch that no picture had counts as not looked at
    there = np.isfinite(maps).reshape(-1, *maps.shape[-2:]).any(axis=0)
    maps = maps[..., there.any(axis=-1), :][..., there.any(axis=0)]
    maps = np.where(np.isfinite(maps).any(axis=(-2, -1), keepdims=True), np.nan_to_num(maps), np.nan)
    grid = maps.shape[-2:]
    size = picture.size if picture is not None else _size(grid)
    token_map = _map_of(model, size, grid)
    rows = [Row(-1 - index, MEAN, _called(str(name))) for index, name in enumerate(ds["query"].values)]
    tokens = len(token_map)
    weights = maps[..., token_map.grid_row, token_map.grid_column]
    if not measures:
        measures = {"image_weight": np.nansum(weights, axis=-1)}
    shape = {"layers": ds.sizes["layer"], "heads": ds.sizes["head"], "kv_heads": ds.sizes["head"]}
    return Look(
        model={"name": str(ds["model"].item()), **shape},
        sample=told,
        picture=picture,
        picture_size=size,
        token_ids=np.full(tokens, -1),
        token_texts=[""] * tokens,
        prompt=tokens,
        image=np.ones(tokens, bool),
        token_map=token_map,
        rows=rows,
        attention=weights,
        measures=measures,
        note=note,
    )


def _map_of(model: VisionLanguageModel | None, size: tuple[int, int], grid: tuple[int, ...]) -> TokenMap:
    """The patches of the whole picture: the model's own where it is known, else the grid over the whole picture."""
    rows, columns = grid
    if model is not None:
        try:
            own = model.token_map(size)
        except VisualHeadsError:
            own = None
        if own is not None and own.grid_shape == (rows, columns):
            chosen = own.is_patch & (own.tile == 0)
            parts = {name: getattr(own, name)[chosen] for name in ("kind", "tile", "grid_row", "grid_column", "box")}
            return TokenMap(**parts, image_size=size, grid_shape=own.grid_shape)
    row, column = (places.reshape(-1) for places in np.indices((rows, columns)))
    across, down = size[0] / columns, size[1] / rows
    box = np.stack([column * across, row * down, (column + 1) * across, (row + 1) * down], axis=1).astype(np.float64)
    kind = np.full(rows * columns, PATCH)
    return TokenMap(kind, np.zeros(len(kind), np.int64), row, column, box, size, (rows, columns))


def _size(grid: tuple[int, ...]) -> tuple[int, int]:
    rows, columns = grid
    cell = SIDE / max(rows, columns)
    return round(columns * cell), round(rows * cell)


def _called(query: str) -> str:
    return f"the row “{query.replace('_', ' ')}”" if query != "last_prompt" else "the last prompt token"


def _text(one: xr.Dataset, name: str) -> str:
    return str(one[name].item()) if name in one.coords and not one[name].dims else ""
