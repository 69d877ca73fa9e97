"""The invariants of a traced dataset, each as a function that yields a sentence per violation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import numpy as np
import xarray as xr

from visualheads.store.variables import (
    FORMATS,
    LAYER_COORDINATES,
    MAP_COORDINATES,
    MODEL_COORDINATES,
    SAMPLE_COORDINATES,
    SELECTED_COORDINATES,
    STAGES,
    UNMEASURED,
    VARIABLES,
    Variable,
)

TOLERANCE = 1e-4
"""How far a float32 statistic may lie beyond its range: sums over thousands of keys round."""
OPTIONAL_DIMS = frozenset({"query", "set"})
"""Dimensions a variable may lack (a single query) or have besides its own (the head sets of a sweep)."""
KINDS = {"float32": "f", "int32": "iuf", "str": "OTU", "bool": "bf"}
"""numpy kinds accepted for each kind of variable; whole numbers turn to floats where models are padded with NaN."""
PARTS_OF_THE_IMAGE = ("region_weight", "newline_weight")


def violations(ds: xr.Dataset) -> list[str]:
    """Every violation of the schema, one sentence each, in the order of the checks; empty for a valid dataset."""
    checks: tuple[Callable[[xr.Dataset], Iterator[str]], ...] = (
        _dimensions,
        _coordinates,
        _identifiers,
        _labels,
        _provenance,
        _shapes,
        _ranges,
        _parts,
        _entropy,
        _boxes,
        _maps,
    )
    return [sentence for check in checks for sentence in check(ds)]


def _known(ds: xr.Dataset) -> Iterator[tuple[xr.DataArray, Variable]]:
    for name in ds.data_vars:
        if name in VARIABLES:
            yield ds[name], VARIABLES[str(name)]


def _sound(ds: xr.Dataset, *names: str) -> bool:
    """Whether the named variables are there with usable dims and dtype; `_shapes` tells when they are not."""
    return all(name in ds and _shape_fault(ds[name], VARIABLES[name]) is None for name in names)


def _dimensions(ds: xr.Dataset) -> Iterator[str]:
    needed = {"model": True, "sample": True}
    needed |= {dim: any(dim in v.dims for _, v in _known(ds)) for dim in ("layer", "head")}
    for dim, is_needed in needed.items():
        if is_needed and dim not in ds.dims:
            yield f"dimension {dim!r} is missing; there are {sorted(map(str, ds.dims))}"
        elif is_needed and ds.sizes[dim] == 0:
            yield f"dimension {dim!r} is empty"
    if not any(True for _ in _known(ds)):
        yield f"none of the known variables is there; known are {', '.join(VARIABLES)}"


def _coordinates(ds: xr.Dataset) -> Iterator[str]:
    expected: dict[str, tuple[str, ...]] = {dim: (dim,) for dim in ("model", "layer", "head", "sample", "query")}
    expected |= dict.fromkeys(SAMPLE_COORDINATES, ("sample",))
    expected |= dict.fromkeys(MODEL_COORDINATES, ("model",))
    expected |= dict.fromkeys(LAYER_COORDINATES, ("model", "layer"))
    for name, dims in expected.items():
        if not set(dims) <= set(ds.dims):
            continue
        if name not in ds.coords:
            yield f"coordinate {name!r} along {dims} is missing"
        elif ds[name].dims != dims:
            yield f"coordinate {name!r} has dims {ds[name].dims}, expected {dims}"
    for held, names, along, why in (
        ("mean_map", MAP_COORDINATES, "map_condition", "the mean maps have no labels"),
        ("maps", SELECTED_COORDINATES, "selected_head", "nobody knows whose maps these are"),
    ):
        for name in names if held in ds else ():
            if name not in ds.coords:
                yield f"coordinate {name!r} along {(along,)} is missing, so {why}"


def _identifiers(ds: xr.Dataset) -> Iterator[str]:
    for dim in ("model", "layer", "head", "sample", "query"):
        if dim in ds.dims and dim in ds.coords:
            values, counts = np.unique(ds[dim].values.astype(object).astype(str), return_counts=True)
            if (counts > 1).any():
                yield f"{dim} has values that are not unique: {', '.join(values[counts > 1][:5])}"
            if (values == "").any():
                yield f"{dim} has an empty label"


def _labels(ds: xr.Dataset) -> Iterator[str]:
    for name, allowed in (("format", FORMATS), ("depth_stage", (*STAGES, ""))):
        if name in ds.coords:
            strange = sorted(set(map(str, ds[name].values.ravel())) - set(allowed))
            if strange:
                yield f"{name} has {strange[:5]}, allowed are {[a for a in allowed if a]}"
    if "depth" in ds.coords:
        depth = ds["depth"].values
        if ((depth < 0) | (depth > 1)).any():
            yield f"depth runs from {np.nanmin(depth):g} to {np.nanmax(depth):g}, allowed is 0 to 1"
    for name in SAMPLE_COORDINATES:
        if name in ds.coords and any(not isinstance(value, str) for value in ds[name].values.ravel().tolist()):
            yield f"coordinate {name!r} has values that are not text"


def _provenance(ds: xr.Dataset) -> Iterator[str]:
    if "provenance" not in ds.coords or not ds["model"].dims == ds["provenance"].dims == ("model",):
        return  # told by the checks of dimensions and coordinates
    for model, text in zip(ds["model"].values, ds["provenance"].values, strict=True):
        try:
            told = json.loads(text)
        except (TypeError, ValueError):
            yield f"provenance of {model} is not JSON: {str(text)[:40]!r}"
            continue
        for part in ("identity", "circumstance"):
            if not isinstance(told, dict) or not isinstance(told.get(part), dict):
                yield f"provenance of {model} has no {part!r}"


def _shape_fault(array: xr.DataArray, variable: Variable) -> str | None:
    named = [dim for dim in array.dims if dim not in OPTIONAL_DIMS]
    if named != [dim for dim in variable.dims if dim not in OPTIONAL_DIMS]:
        return f"{variable.name} has dims {array.dims}, expected {variable.dims}"
    if array.dtype.kind not in KINDS[variable.dtype]:
        return f"{variable.name} has dtype {array.dtype}, expected {variable.dtype}"
    return None


def _shapes(ds: xr.Dataset) -> Iterator[str]:
    for array, variable in _known(ds):
        fault = _shape_fault(array, variable)
        if fault:
            yield fault
        for key, value in variable.attrs.items():
            if key not in array.attrs:
                yield f"{variable.name} has no attribute {key!r}; expected {value!r} (schema.describe sets it)"
            elif key != "long_name" and array.attrs[key] != value:
                yield f"{variable.name} has {key} {array.attrs[key]!r}, expected {value!r}"


def _where(bad: xr.DataArray) -> str:
    """How many entries are bad, and the labels of the first."""
    count = int(bad.sum())
    first = dict(zip(bad.dims, np.argwhere(bad.values)[0].tolist(), strict=True))
    labels = ", ".join(f"{d} {bad[d].values[i] if d in bad.coords else i}" for d, i in first.items())
    return f"{count} of {bad.size} values, first at {labels}"


def _in(bad: xr.DataArray, sentence: str) -> Iterator[str]:
    if bad.any():
        yield f"{sentence} in {_where(bad.compute())}"


def _ranges(ds: xr.Dataset) -> Iterator[str]:
    for array, variable in _known(ds):
        if not _sound(ds, variable.name) or array.dtype.kind not in "fiu":
            continue
        loaded = array.load() if array.chunks is None else array.compute()
        yield from _in(abs(loaded) == np.inf, f"{variable.name} is infinite")
        low, high = variable.range
        measured = loaded != UNMEASURED if variable.dtype == "int32" else loaded.notnull()
        for bound, beyond in ((low, lambda a, b: a < b - TOLERANCE), (high, lambda a, b: a > b + TOLERANCE)):
            if bound is not None:
                outside = measured & beyond(loaded, bound)
                if outside.any():
                    worst = float(loaded.where(outside).min() if bound == low else loaded.where(outside).max())
                    yield f"{variable.name} lies outside {variable.range} ({worst:g}) in {_where(outside)}"
        if variable.binary:
            between = loaded.notnull() & (loaded != 0) & (loaded != 1)
            yield from _in(between, f"{variable.name} is neither 0, 1 nor NaN")


def _parts(ds: xr.Dataset) -> Iterator[str]:
    for part in PARTS_OF_THE_IMAGE:
        if _sound(ds, part, "image_weight"):
            yield from _in(ds[part] > ds["image_weight"] + TOLERANCE, f"{part} is more than image_weight")


def _entropy(ds: xr.Dataset) -> Iterator[str]:
    if _sound(ds, "effective_patches", "n_image_tokens"):
        tokens = ds["n_image_tokens"]
        more = (ds["effective_patches"] > tokens * (1 + TOLERANCE)) & (tokens != UNMEASURED)
        yield from _in(more, "effective_patches is more than n_image_tokens")
    if _sound(ds, "concentration", "focus_nats"):
        odd = ds["concentration"].notnull() & ds["focus_nats"].isnull()
        yield from _in(odd, "focus_nats is NaN where concentration is not")


def _boxes(ds: xr.Dataset) -> Iterator[str]:
    """Region measures are NaN exactly for samples without a box, wherever the head was measured at all.

    A box may have no patch that a layer sees (cropped away, outside a sliding window): then every region measure is
    NaN for all heads of that layer.
    """
    if not _sound(ds, "image_weight") or "has_box" not in ds.coords:
        return
    # Computed once each: lazy arrays would be read again for every comparison.
    measured = ds["image_weight"].notnull().compute()
    has_box = ds["has_box"].astype(bool)
    known = {
        array.name: array.notnull().compute()
        for array, variable in _known(ds)
        if variable.needs_box and _sound(ds, variable.name)
    }
    for name, there in known.items():
        yield from _in(measured & ~has_box & there, f"{name} has values for samples without a box")
    if not known:
        return
    has_patches = xr.concat([there.any("head") for there in known.values()], "variable").any("variable")
    # Lift and hit are also undefined for a head that gives the whole image nothing, as is the entropy.
    looks = ds["effective_patches"].notnull().compute() if _sound(ds, "effective_patches") else measured & False
    for name, there in known.items():
        expected = measured if name == "region_weight" else looks
        yield from _in(expected & has_box & has_patches & ~there, f"{name} is NaN for samples with a box")


def _maps(ds: xr.Dataset) -> Iterator[str]:
    for name in ("mean_map", "maps"):
        if _sound(ds, name):
            yield from _in(ds[name].sum(["grid_row", "grid_column"]) > 1 + TOLERANCE, f"{name} sums to more than 1")
    if _sound(ds, "attention"):
        total = ds["attention"].sum("key")  # keys beyond a sample's own prompt are NaN
        off = ds["attention"].notnull().any("key") & (abs(total - 1) > 10 * TOLERANCE)
        yield from _in(off, "attention rows do not sum to 1")
