"""Which heads: pairs, marks and named sets of heads, checked against a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from jaxtyping import Bool
from numpy.typing import NDArray

from visualheads.errors import HeadError, ParameterError, got

if TYPE_CHECKING:
    from visualheads.vision_language import VisionLanguageModel


def head_pairs(model: VisionLanguageModel, heads: Any) -> list[tuple[int, int]]:
    """Heads as (layer, head) pairs, from such pairs (in their order) or a bool DataArray over layer and head.

    A DataArray marks heads of this model: it has its layers and heads (more where it is padded for a larger one, NaN
    or False there), and where it names models, this one's name is among them. Raises HeadError for heads the model
    does not have, and for an empty choice.
    """
    layers, count, _ = model.shape
    fix = f"give (layer, head) pairs with layer 0 to {layers - 1} and head 0 to {count - 1}"
    pairs = _marked(heads, model) if isinstance(heads, xr.DataArray) else _pairs(heads, fix)
    wrong = [pair for pair in pairs if not (0 <= pair[0] < layers and 0 <= pair[1] < count)]
    if wrong or not pairs:
        raise HeadError(f"heads: got {wrong[:5] if wrong else 'none'}; {fix}.")
    return pairs


def head_mask(model: VisionLanguageModel, heads: Any) -> Bool[NDArray[np.bool_], "layer head"]:
    """Heads as marks (layer, head): see `head_pairs`."""
    mask = np.zeros(tuple(model.shape[:2]), dtype=bool)
    mask[tuple(zip(*head_pairs(model, heads), strict=True))] = True
    return mask


def head_sets(model: VisionLanguageModel, sets: Any) -> xr.DataArray:
    """Named head sets as marks, bool (set, layer, head), with whatever coordinates along `set` they came with.

    `sets` maps names to heads (as in `head_mask`), or is a list of them (named "set 0", …), or a bool DataArray with
    dims set, layer and head (and model). Raises HeadError for heads out of range or an empty set, by its name.
    """
    layers, count, _ = model.shape
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
    labels = np.empty(len(given), dtype=object)
    labels[:] = list(given)
    coords = {"set": labels, "layer": np.arange(layers), "head": np.arange(count)}
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
    found = np.argwhere(marks.transpose("layer", "head").fillna(0).values.astype(bool))
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


def _pairs(heads: Any, fix: str) -> list[tuple[int, int]]:
    if isinstance(heads, (str, bytes)) or not isinstance(heads, Iterable):
        raise HeadError(f"heads: got {heads!r}; {fix}.")
    pairs = []
    for pair in heads:
        try:
            layer, head = pair
            if int(layer) != layer or int(head) != head:
                raise ValueError
        except (TypeError, ValueError):
            raise HeadError(f"heads: got {pair!r}; {fix}.") from None
        pairs.append((int(layer), int(head)))
    return pairs
