"""`vh.look`: a model, a picture, a question – and where every head looks. `vh.explore`: the same of a stored trace."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from PIL import Image

from visualheads.errors import (
    ParameterError,
    SampleError,
    VisualHeadsError,
    checked,
    checked_dataset,
    checked_name,
    checked_whole,
    got,
)
from visualheads.explorer.answers import HIDDEN, REMOVED, HeadChanger
from visualheads.explorer.capture import look_at
from visualheads.explorer.look_data import MEAN, MEASURES, Look, Row, choose_first, sample_of
from visualheads.explorer.shown import Explorer, Kernel
from visualheads.models.progress import Wish, progress_bar
from visualheads.models.token_layouts import single_grid
from visualheads.models.token_map import TokenMap, stretched
from visualheads.tasks.sample import LazyImage, Sample
from visualheads.tracing.settings import MAX_NEW_TOKENS

if TYPE_CHECKING:
    from visualheads.interventions.modes import Reference
    from visualheads.models.wrapper import VisionLanguageModel


EFFECTS = ("top", "all", "none")
TOP_HEADS = 24
"""Heads that are changed by default: those with most attention on the asked region, else on the picture."""


@checked
def look(
    model: VisionLanguageModel | str,
    image: Image.Image | str | os.PathLike[str] | LazyImage | Sample | Sequence[Sample],
    question: str | None = None,
    *,
    rows: int | Sequence[int] | None = None,
    effects: str = "top",
    max_new_tokens: int = MAX_NEW_TOKENS,
    progress: Wish = "auto",
) -> Explorer:
    """Run a model on a picture and a question, and show where each of its heads looks.

    Parameters
    ----------
    model
        A loaded model, or what `vh.load` takes.
    image
        A picture or its path, with `question`; or a Sample, or a list of Samples, which one page then holds together.
    question
        What is asked about the picture.
    rows
        How many queries are kept: the last prompt token (whose row makes the answer), then the generated tokens, then
        those of the question. Or their positions, counted over prompt and answer from 0. Nothing else is computed.
        Default: 24, or as many as a page of 10 MB holds.
    effects
        Which heads are changed one by one, to see what the answer becomes: "top" (those that look most, 24), "all", or
        "none". Two passes a head, from its layer up; a shipped model needs a second or two for all.
    max_new_tokens
        Longest answer.
    progress
        True, False, or "auto": a bar in terminals and notebooks.

    Returns
    -------
    Explorer
        Shows itself in JupyterLab, live where `anywidget` is installed; `.save("look.html")` writes a page that opens
        anywhere, without a network; `.to_dataset()` gives the numbers.

    Raises
    ------
    ImageError, SampleError
        For a picture that is missing or broken, or an empty question.
    ParameterError
        For rows that do not exist, or another value of `effects`.
    """
    samples = _samples(image, question)
    _check(rows, effects)
    if isinstance(model, str) or not hasattr(model, "token_map"):
        from visualheads.models.loading import load

        model = load(cast("str", model))
    model = cast("VisionLanguageModel", model)
    references: dict[str, Reference] = {}
    tried = {"top": min(TOP_HEADS, model.shape.layers * model.shape.heads), "none": 0}
    each = 1 + 2 * tried.get(effects, model.shape.layers * model.shape.heads)
    with progress_bar(f"look {model.name}", each * len(samples), progress) as advance:
        looks: list[Look] = []
        for sample in samples:
            looks.append(look_at(model, sample, rows, max_new_tokens))
            advance(1)
        choose_first(looks)
        for sample, made in zip(samples, looks, strict=True):
            if effects != "none":
                changer = HeadChanger(model, sample, max_new_tokens, references)
                heads = _tried(made, effects)
                assert made.answers is not None
                for mode in (REMOVED, HIDDEN):
                    made.effects[mode] = changer.single_heads(mode, heads, made.answers, advance)
    return Explorer(looks, Kernel(model, samples, max_new_tokens, references))


def _samples(image: Any, question: str | None) -> list[Sample]:
    if isinstance(image, Sample):
        return [image]
    if isinstance(image, Sequence) and not isinstance(image, str):
        if question is not None:
            raise SampleError("question: samples bring their own; leave it out, or give one picture.")
        if not image or not all(isinstance(sample, Sample) for sample in image):
            raise SampleError(
                got("samples", [type(one).__name__ for one in image], "at least one, all of them vh.Sample")
            )
        return list(image)
    if not isinstance(question, str) or not question.strip():
        raise SampleError(got("question", question, "the text that is asked about the picture", "give a question"))
    name = Path(image).name if isinstance(image, (str, os.PathLike)) else "picture"
    picture = Path(image) if isinstance(image, os.PathLike) else image
    return [Sample(id=name, image=picture, question=question, answer="")]


def _check(rows: int | Sequence[int] | None, effects: str) -> None:
    checked_name("effects", effects, EFFECTS)
    if rows is None:
        return
    if isinstance(rows, Sequence) and rows and not isinstance(rows, str):
        for at in rows:
            checked_whole("rows: position", at, lowest=0)
    else:
        checked_whole("rows", rows)


def _tried(made: Look, effects: str) -> list[tuple[int, int]]:
    heads = made.gaze.shape[1]
    order = np.argsort(-made.gaze.reshape(-1), kind="stable")
    tried = order if effects == "all" else order[:TOP_HEADS]
    first = made.first_head[0] * heads + made.first_head[1]  # its effect is told wherever it is shown
    return [divmod(int(index), heads) for index in sorted(tried if first in tried else [*tried[:-1], first])]


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
    listed = list(samples) if isinstance(samples, Sequence) else [samples]
    if samples is not None and not all(isinstance(one, Sample) for one in listed):
        raise ParameterError(got("samples", samples, "a list of vh.Sample, or None"))
    pictured = {sample.id: sample for sample in listed if sample is not None}
    whole = ds.expand_dims("query") if "query" not in ds.dims else ds
    # the row that makes the answer is shown first
    whole = whole.isel(query=np.argsort([name != FIRST for name in whole["query"].values.tolist()], kind="stable"))
    looks: list[Look] = []
    for index in range(whole.sizes["model"]):
        one = _of_model(whole.isel(model=index))
        make = _sample_look if kind == MAPS else _mean_look
        places = one.sizes["sample"] if kind == MAPS else one.sizes["map_condition"]
        own = [made for place in range(min(places, most)) if (made := make(one, place, pictured, model)) is not None]
        choose_first(own)
        looks += own
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
    measures = _measures(one)
    if sample is not None:
        return _look(ds, sample_of(sample), maps, measures, sample.open(), model, "" if model is not None else ON_GRID)
    told = {"id": name, "question": _text(one, "question") or name, "answer": _text(one, "answer"), "box": None}
    return _look(ds, told, maps, measures, None, model, NO_PICTURE)


def _measures(ds: xr.Dataset) -> dict[str, NDArray[np.float32]]:
    """(query, layer, head) of what the explorer shows, where it is known; means over samples."""
    known = {name: ds[name] for name in MEASURES if name in ds and np.isfinite(ds[name].values).any()}
    means = {name: values.mean([dim for dim in values.dims if dim == "sample"]) for name, values in known.items()}
    return {
        name: np.asarray(mean.transpose("query", "layer", "head").values, np.float32) for name, mean in means.items()
    }


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
    told = {"id": name, "question": f"Mean over the pictures of {name}", "answer": "", "box": None}
    return _look(ds, told, maps, _measures(ds.isel(sample=meant)), None, None, MEAN_NOTE)


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
    called = {FIRST: "the last prompt token"}
    rows = [
        Row(-1 - index, MEAN, called.get(name, f"the row “{name.replace('_', ' ')}”"))
        for index, name in enumerate(ds["query"].values.astype(str).tolist())
    ]
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
    return single_grid(stretched(size, size), (rows, columns))


def _size(grid: tuple[int, ...]) -> tuple[int, int]:
    rows, columns = grid
    cell = SIDE / max(rows, columns)
    return round(columns * cell), round(rows * cell)


def _text(one: xr.Dataset, name: str) -> str:
    return str(one[name].item()) if name in one.coords and not one[name].dims else ""
