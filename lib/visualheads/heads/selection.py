"""Which heads: depth stages, selections by rank, the best as a table, and users' heads checked against a model.

Heads are given as (layer, head) pairs or as marks, a bool DataArray over layer and head; from there on they are marks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool
from numpy.typing import NDArray

from visualheads.errors import HeadError, ParameterError, checked, checked_whole, got, shown
from visualheads.heads.ranking import HEAD_DIMS, K, estimates, head_count, rank, top_heads
from visualheads.store.schema import depth_stages, text
from visualheads.store.variables import STAGES

if TYPE_CHECKING:
    from visualheads.models.wrapper import VisionLanguageModel


COLUMNS = {"estimate": "score", "lower": "low", "upper": "high"}


def depth_stage(n_layers: int) -> list[str]:
    """Return the depth stage of each layer.

    Parameters
    ----------
    n_layers : int
        Layers of the language model.

    Returns
    -------
    list of str
        "early", "middle" or "late" for each layer: the paper's code for 32 and 40 layers, thirds elsewhere.
    """
    return depth_stages(n_layers)[0].tolist()


@checked
def select(
    ds: xr.Dataset | xr.DataArray,
    by: str = "detection",
    k: K = None,
    *,
    largest: bool = True,
    stage: Literal["early", "middle", "late", "all"] = "all",
    above_null: xr.DataArray | None = None,
    query: str | None = None,
) -> xr.DataArray:
    """Return the chosen heads: of each model the `k` best by a ranking. Ties go to the lower layer and head.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataArray
        A traced dataset, or a ranking (model, layer, head) itself.
    by : str
        The ranking, as in `rank`.
    k : int or float, optional
        A count, or a share of all the model's heads; where fewer remain, all of them. By default all heads that
        `above_null` lets through, or without it as many as detection's rule takes.
    largest : bool
        False: the lowest.
    stage : {"early", "middle", "late", "all"}
        Only layers of this depth.
    above_null : xarray.DataArray, optional
        Only heads above a null: bool (model, layer, head), as from `above_null`.
    query : str, optional
        The attention row, as in `rank`.

    Returns
    -------
    xarray.DataArray
        bool (model, layer, head).

    Raises
    ------
    HeadError
        Where no head remains.
    ParameterError
        For an unknown ranking or stage.
    """
    if above_null is not None and not isinstance(above_null, xr.DataArray):
        raise ParameterError(got("above_null", above_null, "a bool DataArray, vh.above_null(…).above_null"))
    if stage not in (*STAGES, "all"):
        raise ParameterError(got("stage", stage, [*STAGES, "all"]))
    scores = _with_model(estimates(ds if isinstance(ds, xr.DataArray) else rank(ds, by, query=query)))
    allowed = np.isfinite(scores.values)
    if stage != "all":
        allowed &= stages(scores).values[:, :, None] == stage
    if above_null is not None:
        allowed &= _with_model(above_null).reindex_like(scores).fillna(0).values.astype(bool)
    chosen = np.zeros(scores.shape, dtype=bool)
    for index, values in enumerate(scores.values):
        if not allowed[index].any():
            raise HeadError(
                f"no head to select by {by!r} in model {index}: none is finite, in stage {stage!r} and above null"
            )
        n_all = int(np.isfinite(values).sum())
        wanted = n_all if k is None and above_null is not None else head_count(n_all, k)
        keyed = np.where(allowed[index], values if largest else -values, np.nan)
        top = top_heads(keyed.reshape(-1, 1), wanted)[:, 0]
        chosen[index] = top.reshape(values.shape)
    return scores.copy(data=chosen).rename("selected").assign_attrs({"by": by, "largest": int(largest), "stage": stage})


def best_heads(scores: xr.DataArray, n: int) -> list[tuple[int, int]]:
    """Return the heads (layer, head) of highest score, best first; ties go to the lower layer and head."""
    known = scores.transpose("layer", "head").to_series().dropna()
    best = known.sort_values(ascending=False, kind="stable").head(n)
    return [(int(layer), int(head)) for layer, head in best.index]


def stages(scores: xr.DataArray | xr.Dataset) -> xr.DataArray:
    """Return the depth stage (model, layer): the coordinate, or else counted from each model's finite layers."""
    if "depth_stage" in scores.coords:
        told = scores.coords["depth_stage"]
        return (told if "model" in told.dims else told.expand_dims("model")).transpose("model", "layer")
    if isinstance(scores, xr.Dataset):
        scores = rank(scores, "image_weight")
    has_layer = np.asarray(np.isfinite(_with_model(scores).values).any(axis=2))
    names = np.full(has_layer.shape, "", dtype=object)
    for row, layers in zip(names, has_layer, strict=True):
        n_layers = int(np.flatnonzero(layers).max(initial=-1)) + 1
        row[:n_layers] = depth_stage(n_layers) if n_layers else []
    return xr.DataArray(names, dims=("model", "layer"))


def shapes_of(values: xr.DataArray) -> dict[str, tuple[int, int]]:
    """(layers, heads) of each model: those that have any value."""
    there = values.notnull().any([dim for dim in values.dims if dim not in ("model", "layer", "head")])
    found = {}
    for index, name in enumerate(values["model"].values):
        one = there.isel(model=index).transpose("layer", "head").values
        found[str(name)] = (int(one.any(axis=1).sum()), int(one.any(axis=0).sum()))
    return found


def _with_model(scores: xr.DataArray) -> xr.DataArray:
    if not {"layer", "head"} <= set(scores.dims):
        raise HeadError(got("scores", dict(scores.sizes), "dimensions layer and head", "take what vh.rank returns"))
    if "model" not in scores.dims:
        scores = scores.expand_dims("model")
    return scores.transpose(*HEAD_DIMS)


def head_pairs(model: VisionLanguageModel, heads: Any) -> list[tuple[int, int]]:
    """Heads as (layer, head) pairs, from such pairs (in their order) or a bool DataArray over layer and head.

    A DataArray marks heads of this model: it has its layers and heads (more where it is padded for a larger one, NaN
    or False there), and where it names models, this one's name is among them. Raises HeadError for heads the model
    does not have, and for an empty choice.
    """
    layers, count, _ = _shape(model)
    fix = f"give (layer, head) pairs with layer 0 to {layers - 1} and head 0 to {count - 1}"
    pairs = _marked(heads, model) if isinstance(heads, xr.DataArray) else _pairs(heads, fix)
    wrong = [pair for pair in pairs if not (0 <= pair[0] < layers and 0 <= pair[1] < count)]
    if wrong or not pairs:
        raise HeadError(f"heads: got {shown(wrong[:5]) if wrong else 'none'}; {fix}.")
    return pairs


def head_mask(model: VisionLanguageModel, heads: Any) -> Bool[NDArray[np.bool_], "layer head"]:
    """Heads as marks (layer, head): see `head_pairs`."""
    mask = np.zeros(tuple(_shape(model)[:2]), dtype=bool)
    mask[tuple(zip(*head_pairs(model, heads), strict=True))] = True
    return mask


def head_sets(model: VisionLanguageModel, sets: Any) -> xr.DataArray:
    """Named head sets as marks, bool (set, layer, head), with whatever coordinates along `set` they came with.

    `sets` maps names to heads (as in `head_mask`), or is a list of them (named "set 0", …), or a bool DataArray with
    dims set, layer and head (and model). Raises HeadError for heads out of range or an empty set, by its name.
    """
    layers, count, _ = _shape(model)
    extra: dict[str, Any] = {}
    if isinstance(sets, xr.DataArray):
        if "set" not in sets.dims:
            raise HeadError(got("sets", tuple(sets.dims), "dims set, layer, head", "wrap one set as {'name': heads}"))
        marks = _of_model(sets, model.name)
        names = [str(name) for name in marks["set"].values] if "set" in marks.coords else None
        extra = {str(k): v for k, v in marks.coords.items() if v.dims == ("set",) and k != "set"}
        listed: list[Any] = [marks.isel(set=index, drop=True) for index in range(marks.sizes["set"])]
        given = dict(zip(names or _numbered(len(listed)), listed, strict=True))
    elif isinstance(sets, Mapping):
        listed = list(sets.values())
        given = {str(name): heads for name, heads in sets.items()}
    elif isinstance(sets, (str, bytes)) or not isinstance(sets, Iterable):
        raise HeadError(got("sets", sets, "{'name': [(layer, head), …]}, a list of such sets, or a bool DataArray"))
    else:
        listed = list(sets)
        given = dict(zip(_numbered(len(listed)), listed, strict=True))
    if not given:
        raise HeadError("sets: got none; give at least one set of heads, {'name': [(layer, head), …]}.")
    if len(given) < len(listed):
        raise ParameterError("names of sets are not unique; give every set its own name.")
    masks = []
    for name, heads in given.items():
        try:
            masks.append(head_mask(model, heads))
        except HeadError as error:
            raise HeadError(f"set {name!r}: {error}") from None
    coords = {"set": text(given), "layer": np.arange(layers), "head": np.arange(count)}
    return xr.DataArray(np.stack(masks), dims=("set", "layer", "head"), coords=coords, name="heads").assign_coords(
        {name: ("set", values.values) for name, values in extra.items()}
    )


def _numbered(count: int) -> list[str]:
    return [f"set {index}" for index in range(count)]


def _marked(heads: xr.DataArray, model: VisionLanguageModel) -> list[tuple[int, int]]:
    marks, wanted = _of_model(heads, model.name), {"layer": model.shape.layers, "head": model.shape.heads}
    allowed = f"dims layer: {model.shape.layers}, head: {model.shape.heads}"
    if set(marks.dims) != set(wanted):
        raise HeadError(got("heads", dict(marks.sizes), allowed))
    for dim, count in wanted.items():
        # only what is labelled can be padded: an unlabelled mask of another size is of another model
        whole = np.arange(marks.sizes[dim] if dim in marks.coords else count)
        if len(whole) < count or not np.array_equal(marks[dim].values, whole):
            fix = "mark all layers and heads of this model, or give (layer, head) pairs"
            raise HeadError(got("heads", dict(marks.sizes), f"{allowed}, numbered from 0", fix))
    values = marks.transpose("layer", "head").fillna(0).values
    if not np.isin(values, (0, 1)).all():
        raise HeadError("heads: got scores, not marks; choose heads by them with vh.select(scores, k=…).")
    found = np.argwhere(values.astype(bool))
    return [(int(layer), int(head)) for layer, head in found]


def _of_model(marks: xr.DataArray, name: str) -> xr.DataArray:
    if "model" not in marks.coords:
        if marks.sizes.get("model", 1) > 1:
            raise HeadError(got("heads", dict(marks.sizes), "one model, or models with their names"))
        return marks.squeeze("model", drop=True) if "model" in marks.dims else marks
    names = [str(value) for value in np.atleast_1d(marks["model"].values)]
    if name not in names:
        raise HeadError(
            got("heads chosen for model", ", ".join(names), [name], "heads of one model mean nothing in another")
        )
    return marks.isel(model=names.index(name), drop=True) if "model" in marks.dims else marks


def _shape(model: VisionLanguageModel) -> tuple[int, int, int]:
    if not hasattr(model, "token_map"):
        raise ParameterError(got("model", model, "a model of vh.load or vh.wrap"))
    return model.shape


def _pairs(heads: Any, fix: str) -> list[tuple[int, int]]:
    if isinstance(heads, (str, bytes)) or not isinstance(heads, Iterable):
        raise HeadError(f"heads: got {shown(heads)}; {fix}.")
    pairs = []
    for pair in heads:
        try:
            layer, head = pair
            if int(layer) != layer or int(head) != head:
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise HeadError(f"heads: got {shown(pair)}; {fix}.") from None
        pairs.append((int(layer), int(head)))
    return pairs


def label(layer: int, head: int) -> str:
    """A head's label: L5H1 is head 1 of layer 5, both counted from 0."""
    return f"L{layer}H{head}"


@checked
def top(
    ds: xr.Dataset, by: str = "detection", n: int = 20, *, query: str | None = None, model: str | None = None
) -> pd.DataFrame:
    """Return the best heads of a ranking, best first.

    Parameters
    ----------
    ds : xarray.Dataset
        A traced dataset.
    by : str
        The ranking, as in `rank`.
    n : int
        How many heads, of each model.
    query : str, optional
        The attention row, as in `rank`.
    model : str, optional
        Only this model; by default all.

    Returns
    -------
    pandas.DataFrame
        Indexed by label (L5H1), with columns model, layer, head, score, and low and high: the 95 % bootstrap interval
        over pictures. Heads without a score are left out.

    Raises
    ------
    ParameterError
        For an unknown ranking or model, or fewer than one head.
    """
    n = checked_whole("n", n)
    scores = rank(ds, by, interval=True, query=query)
    names = [str(name) for name in scores["model"].values]
    if model is not None and model not in names:
        raise ParameterError(got("model", model, names))
    bare = scores.drop_vars([name for name in scores.coords if name not in scores.dims])
    tables = []
    for place, name in enumerate(names):
        if model in (None, name):
            frame = bare.isel(model=place, drop=True).to_series().unstack("bound").rename(columns=COLUMNS).dropna()
            frame = frame.sort_values("score", ascending=False, kind="stable").head(n).reset_index()
            frame.insert(0, "model", name)
            tables.append(frame)
    table = pd.concat(tables, ignore_index=True)
    table.index = pd.Index([label(*pair) for pair in zip(table["layer"], table["head"], strict=True)], name="label")
    table.columns.name = None
    return table[["model", "layer", "head", *COLUMNS.values()]]
