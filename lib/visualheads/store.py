"""Results on disk: `data/results/<model>/<task>.zarr`, made whole, filled shard by shard, resumable, safe in parallel.

What a tracer does (this is the contract; see the functions for details):

    coords = schema.coordinates(name, samples, layers, heads, llm=…, conditions=schema.conditions_of(samples))
    plan = store.Plan(
        coords,                                     # all samples, in the order in which they are traced
        identity=provenance.identity(…),            # another identity in an existing store: IdentityMismatch
        circumstance=provenance.circumstance(…),    # another circumstance: one CircumstanceWarning, and recorded
        shard=32,                                   # samples per shard = chunk length along `sample`
        keep=("mean_map",),
        grid=(24, 24),                              # rows, columns of the whole-picture grid, with "mean_map"
    )
    store.create(path, plan, fresh=False)           # makes the store, or checks the one that is there (resume)
    for index in store.pending(path):               # shards not yet done, in order; read again at every call
        part = trace_shard(samples[plan.slice(index)])
        store.write_shard(path, index, part)        # writes all chunks of the shard, then marks it done
    ds = store.open_store(path)                     # lazy Dataset of the samples that are done

`part` is a Dataset with the traced variables over exactly the shard's samples (in order) with dims
(model, layer, head, sample, query) and (model, sample), and for the mean maps, either with or without the `model`
and `shard` dimensions of length 1:

    mean_map_sum     (model, shard, layer, head, query, condition, grid_row, grid_column), float32: sums over samples
    mean_map_count   (model, shard, condition), int32

`condition` follows `map_condition` of `coords`. A traced variable may be missing from `part`: it stays NaN.
Coordinates of `part` are not read, except that its sample ids must be those of the shard.
`write_shard(…, circumstance=…)` records the machine of a worker that differs from the plan's.

Guarantees: a kill between any two writes loses at most the shard in hand; the same shard written twice, or by two
processes at once, is the same shard; no two shards share a chunk; readers see only shards that are done.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import shutil
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import BloscCodec

from visualheads import reading
from visualheads.errors import DiskFullError, IdentityMismatch, StoreError
from visualheads.packing import pack
from visualheads.plan import Plan, shard_slice
from visualheads.reading import open_store
from visualheads.results import open_results
from visualheads.variables import Variable

__all__ = ["CircumstanceWarning", "Plan", "create", "open_results", "open_store", "pack", "pending", "write_shard"]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CircumstanceWarning(UserWarning):
    """A store is continued with other package versions, on another device, or with another attention implementation."""


def create(path: str | Path, plan: Plan, fresh: bool = False) -> Path:
    """Make the store whole, with nothing in it yet, or check that the one there is of the same run; return its path.

    fresh renames a store that is there to `<name>.old-1` (2, 3 …) and starts anew. Several processes may call this at
    once: one makes the store, the others find it.
    Raises IdentityMismatch with every differing key, StoreError for something else at `path`, DiskFullError.
    Warns CircumstanceWarning once per circumstance that the store does not know, while there is work left.
    """
    path = Path(path)
    if fresh and path.exists():
        _set_aside(path)
    if not path.exists():
        with _disk(path):
            _make(path, plan)
    _check(path, plan)
    return path


def pending(path: str | Path) -> list[int]:
    """The shards that are not done, in order."""
    path = Path(path)
    reading.read_attrs(path)
    return np.flatnonzero(~_group(path)[reading.DONE][:]).tolist()


def write_shard(path: str | Path, index: int, part: xr.Dataset, circumstance: Mapping[str, Any] | None = None) -> None:
    """Write the chunks of one shard, each atomically, then mark it done. Repeating it changes nothing.

    circumstance: what this process runs on; without it, what the `provenance` coordinate of `part` says.
    Raises StoreError when `part` is not that shard, ParameterError for a shard out of range, DiskFullError.
    """
    path = Path(path)
    attrs = reading.read_attrs(path)
    group = _group(path)
    shard = int(attrs["shard"])
    samples = shard_slice(index, shard, group["sample"].shape[0])
    ids = [str(i) for i in np.atleast_1d(group["sample"][samples])]
    given = [str(i) for i in part["sample"].values]
    if ids != given:
        raise StoreError(
            f"shard {index} of {path} holds {len(ids)} samples from {ids[0]!r} to {ids[-1]!r}, got {len(given)} from "
            f"{given[0] if given else None!r} to {given[-1] if given else None!r}; write each shard's own samples."
        )
    with _disk(path):
        for name in group.array_keys():
            if name in part.data_vars:
                _write(group[name], part[name], index, samples, path)
        told = circumstance if circumstance is not None else _told(part)
        if told and dict(told) != attrs["circumstance"]:
            group[reading.CIRCUMSTANCE][index] = json.dumps(dict(told), sort_keys=True)
        group[reading.DONE][index] = True


def _write(target: Any, values: xr.DataArray, index: int, samples: slice, path: Path) -> None:
    dims = target.metadata.dimension_names
    for dim in ("model", "shard"):
        if dim in dims and dim not in values.dims:
            values = values.expand_dims(dim)
    if set(dims) != set(values.dims):
        raise StoreError(f"{values.name} has dims {values.dims}, but {path} holds {dims}; trace with both queries.")
    values = values.transpose(*dims)
    region = tuple({"sample": samples, "shard": slice(index, index + 1)}.get(dim, slice(None)) for dim in dims)
    expected = tuple(len(range(*part.indices(size))) for part, size in zip(region, target.shape, strict=True))
    if values.shape != expected:
        shapes = dict(zip(dims, values.shape, strict=True)), dict(zip(dims, expected, strict=True))
        raise StoreError(f"{values.name} has shape {shapes[0]}, but shard {index} of {path} holds {shapes[1]}.")
    target[region] = values.values


def _make(path: Path, plan: Plan) -> None:
    """Made beside its place and moved there whole, so that nobody sees half a store."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        plan.coords.drop_attrs().to_zarr(draft, mode="w", zarr_format=3, consolidated=False)
        group = _group(draft)
        sizes = plan.sizes()
        for variable in plan.layout().values():
            _make_array(group, variable, sizes, plan.shard)
        for variable in (
            Variable(reading.DONE, "shard is complete", "1", dims=("shard",), dtype="bool"),
            Variable(reading.CIRCUMSTANCE, "where it differs from the store's", "JSON", dims=("shard",), dtype="str"),
        ):
            _make_array(group, variable, sizes, plan.shard)
        group.attrs.update(_attrs(plan))
        with contextlib.suppress(FileExistsError, NotADirectoryError):
            _move(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _move(draft: Path, path: Path) -> None:
    try:
        draft.rename(path)
    except OSError as error:  # which of the two it is differs between file systems
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise FileExistsError(path) from error
        raise


def _make_array(group: zarr.Group, variable: Variable, sizes: Mapping[str, int], shard: int) -> None:
    # A mean map's chunk holds one condition: lists are in blocks of a condition, and empty chunks take no space.
    lengths = {"sample": shard, "shard": 1} | ({"condition": 1} if "shard" in variable.dims else {})
    shape = tuple(sizes[dim] for dim in variable.dims)
    group.create_array(
        variable.name,
        shape=shape,
        chunks=tuple(max(1, lengths.get(d, size)) for d, size in zip(variable.dims, shape, strict=True)),
        dtype=variable.dtype,
        fill_value=0 if "shard" in variable.dims and variable.dtype != "str" else variable.missing,
        dimension_names=variable.dims,
        attributes=variable.attrs,
        compressors="auto" if variable.dtype == "str" else [BloscCodec(cname="zstd", clevel=5, shuffle="shuffle")],
    )


def _attrs(plan: Plan) -> dict[str, Any]:
    return {
        "visualheads_store": reading.FORMAT,
        "kind": plan.kind,
        "shard": plan.shard,
        "identity": dict(plan.identity),
        "circumstance": dict(plan.circumstance),
    }


def _check(path: Path, plan: Plan) -> None:
    attrs = reading.read_attrs(path)
    stored = attrs["identity"]
    wanted = json.loads(json.dumps(dict(plan.identity)))
    keys = sorted(set(stored) | set(wanted))
    differ: dict[str, tuple[object, object]] = {
        key: (stored.get(key), wanted.get(key)) for key in keys if stored.get(key) != wanted.get(key)
    }
    group = _group(path)
    differ |= _layout_differences(group, attrs, plan)
    if differ:
        raise IdentityMismatch(
            f"{path} holds another run and is not mixed with this one: {', '.join(differ)} differ. "
            "Start anew beside it with --fresh (fresh=True), or give another folder.",
            differ,
        )
    _warn_of_circumstance(path, attrs, plan)


def _layout_differences(group: Any, attrs: Mapping[str, Any], plan: Plan) -> dict[str, tuple[object, object]]:
    differ: dict[str, tuple[object, object]] = {}
    if attrs["shard"] != plan.shard:
        differ["shard"] = (attrs["shard"], plan.shard)
    sizes = plan.sizes()
    planned = {name: [sizes[dim] for dim in variable.dims] for name, variable in plan.layout().items()}
    inner = {*reading.INNER, *map(str, plan.coords.coords)}
    stored = {name: list(array.shape) for name, array in group.arrays() if name not in inner}
    for name in sorted(set(planned) | set(stored)):
        if planned.get(name) != stored.get(name):
            differ[name] = (stored.get(name), planned.get(name))
    ids = [str(i) for i in group["sample"][:]], [str(i) for i in plan.coords["sample"].values]
    if ids[0] != ids[1]:
        differ["sample ids"] = (_brief(ids[0]), _brief(ids[1]))
    return differ


def _warn_of_circumstance(path: Path, attrs: Mapping[str, Any], plan: Plan) -> None:
    known = reading.recorded_circumstances(path, attrs, reading.open_raw(path))
    now = json.loads(json.dumps(dict(plan.circumstance)))
    if now in known or not pending(path):
        return
    keys = sorted(key for key in set(known[0]) | set(now) if known[0].get(key) != now.get(key))
    changes = "; ".join(f"{key}: {known[0].get(key)!r} → {now.get(key)!r}" for key in keys)
    warnings.warn(f"{path} is continued under another circumstance, recorded: {changes}", CircumstanceWarning, 3)


def _set_aside(path: Path) -> None:
    for number in itertools.count(1):
        aside = path.with_name(f"{path.name}.old-{number}")
        if not aside.exists():
            path.rename(aside)
            return


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise DiskFullError(
                f"no space left for {path}; what is done is kept: make room and run the same command again."
            ) from error
        raise StoreError(f"cannot write {path}: {error}") from error


def _told(part: xr.Dataset) -> dict[str, Any]:
    if "provenance" not in part.coords:
        return {}
    return json.loads(str(np.atleast_1d(part["provenance"].values)[0])).get("circumstance", {})


def _group(path: Path) -> Any:
    """Any: zarr types members as arrays or groups, and a store holds arrays only."""
    return zarr.open_group(os.fspath(path), mode="r+")


def _brief(ids: Sequence[str]) -> str:
    return f"{len(ids)} samples, {ids[0]} … {ids[-1]}" if ids else "no samples"
