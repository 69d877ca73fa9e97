"""Results on disk: `<results>/<model>/<task>.zarr`, made whole, filled shard by shard, resumable, safe in parallel.

    coords = schema.coordinates(name, samples, layers, heads, llm=…, groups=schema.map_groups(samples))
    plan = StorePlan(coords, identity=…, circumstance=…, shard=128, keep=("mean_map",), grid=(24, 24), hashes=…)
    create(path, plan)                              # makes the store, or checks (and lengthens) the one that is there
    for index, ids in todo(path, plan.samples).items():
        part = measured([by_id[i] for i in ids])    # a Dataset of exactly these samples, in this order
        write_shard(path, index, part)              # writes all chunks of the shard, then its record, then marks it
    ds = open_store(path)                           # lazy Dataset of the samples that are measured

`part` has the variables of the plan with the dims they have in the store, with or without `model` and `shard` of
length 1; mean maps as `mean_map_sum`, sums over samples. A traced variable may be missing from it: it stays NaN.
Coordinates of `part` are not read, except its sample ids and, without `circumstance=`, its provenance.

A kill between any two writes loses at most the shard in hand; the same shard written twice, or by two processes at
once, is the same shard; no two shards share a chunk; readers see only what is done, and no damaged file.
"""

from __future__ import annotations

import errno
import itertools
import json
import shutil
import warnings
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.storage import LocalStore

from visualheads.errors import IdentityMismatch, StoreError, listed
from visualheads.store import files
from visualheads.store.stored import (
    DONE,
    FORMAT,
    HASHES,
    SHARD,
    Record,
    Stored,
    StorePlan,
    opened,
    shard_slice,
    write_planned,
    write_record,
)
from visualheads.store.upkeep import damaged_shards, lengthen, repair, restore
from visualheads.store.variables import MAP_COORDINATES, SELECTED_COORDINATES

__all__ = ["SHARD", "CircumstanceWarning", "StorePlan", "create", "pending", "todo", "write_shard"]

TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
"""What a rename meets where something is already: which of these differs between file systems."""
QUESTIONS = "questions"
LIST = "samples"
"""Part of an identity that tells of the whole list of samples; they are compared one by one instead."""


class CircumstanceWarning(UserWarning):
    """A store is continued with other package versions, on another device, or with another attention implementation."""


def create(path: str | Path, plan: StorePlan, fresh: bool = False) -> Path:
    """Make the store whole, with nothing in it yet, or check the one there, and add the samples that it lacks.

    Several processes may call this at once: one makes the store, the others find it. What a killed process left behind
    is removed.

    Parameters
    ----------
    path : path
        The store.
    plan : StorePlan
        What it is to hold.
    fresh : bool
        Rename a store that is there to `<name>.old-1` (2, 3 …) and start anew.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    IdentityMismatch
        Where the store there is of another run, with every key that differs; also where a sample of the same id asks
        something else, or about another picture.
    StoreError
        For something else at `path`. DiskFullError where there is no room.

    Warns
    -----
    CircumstanceWarning
        Once per circumstance that the store does not know, while there is work left.
    """
    path = Path(path)
    with files.refusals_told(path):
        if fresh and path.exists():
            _set_aside(path)
        _clean(path)
        if not path.exists() and _make(path, plan):
            return path
    stored = opened(path)
    _check(stored, plan)
    undone = repair(path)
    if undone:
        warnings.warn(
            f"{path}: shards {listed(list(map(str, undone)))} are damaged and done anew", files.DamageWarning, 2
        )
    with files.refusals_told(path):
        if set(plan.samples) - set(stored.ids):
            lengthen(stored, plan)
    if todo(path, plan.samples):
        _warn_of_circumstance(opened(path), plan)
    return path


def todo(path: str | Path, samples: Sequence[str] | None = None, but: Container[int] = ()) -> dict[int, list[str]]:
    """The samples still to be measured, by shard, in the store's order: of all, or of those asked for.

    but: shards that are left out.
    """
    stored = opened(path)
    asked = set(stored.ids if samples is None else samples)
    left = {}
    for index in range(stored.n_shards):
        if index in but:
            continue
        record = stored.record(index)
        measured = set(record.samples) if record else set()
        ids = stored.ids[shard_slice(index, stored.shard, len(stored.ids))]
        left[index] = [name for name in ids if name in asked and name not in measured]
    return {index: ids for index, ids in left.items() if ids}


def asked_of(path: str | Path, index: int, samples: Sequence[str]) -> list[str]:
    """Those of these samples that a shard holds, measured or not, in the store's order."""
    stored, asked = opened(path), set(samples)
    return [name for name in stored.ids[shard_slice(index, stored.shard, len(stored.ids))] if name in asked]


def pending(path: str | Path) -> list[int]:
    """The shards that are not done, or damaged, in order. Reads every byte of the store."""
    damaged = damaged_shards(opened(path))
    return sorted({*damaged, *todo(path, but=damaged)})


def write_shard(path: str | Path, index: int, part: xr.Dataset, circumstance: Mapping[str, Any] | None = None) -> None:
    """Write the chunks of one shard, each atomically, then its record, then its mark. Repeating it changes nothing.

    Parameters
    ----------
    path : path
        The store.
    index : int
        The shard.
    part : xarray.Dataset
        Samples of the shard that are not measured yet, or all of them.
    circumstance : mapping, optional
        What this process runs on; by default what the `provenance` coordinate of `part` says.

    Raises
    ------
    StoreError
        When `part` is not of that shard, or of another shape. DiskFullError; ParameterError for a shard out of range.
    """
    stored = opened(path)
    place = shard_slice(index, stored.shard, len(stored.ids))
    ids, given = stored.ids[place], [str(i) for i in part["sample"].values]
    if not given or not set(given) <= set(ids):
        raise StoreError(
            f"shard {index} of {path} holds {len(ids)} samples from {ids[0]!r} to {ids[-1]!r}, got {len(given)} from "
            f"{given[0] if given else None!r} to {given[-1] if given else None!r}; write each shard's own samples."
        )
    before = stored.record(index)
    kept = [name for name in (before.samples if before else ()) if name not in given]
    region = {"sample": place, "shard": slice(index, index + 1)}
    writer = files.CheckedStore(LocalStore(stored.path), stored.path)
    group = zarr.open_group(writer, mode="r+", use_consolidated=True)
    ready = {
        name: _whole(stored, array, part.variables[name], ids, given, kept, region)
        for name, array in group.arrays()
        if name in part.data_vars
    }
    told = dict(circumstance if circumstance is not None else _told(part))
    own = told if told and told != stored.attrs["circumstance"] else {}
    with files.refusals_told(stored.path):
        for name, values in ready.items():
            array: Any = group[name]
            array[tuple(region.get(dim, slice(None)) for dim in array.metadata.dimension_names)] = values
        files.synced([stored.path / key for key in writer.known])
        measured = tuple(name for name in ids if name in given or name in kept)
        answers = str(stored.attrs.get("answers", ""))
        write_record(stored.path, index, Record(measured, writer.known, own, answers))
        done: Any = group[DONE]
        done[index] = True


def _whole(
    stored: Stored, array: Any, values: xr.Variable, ids: list[str], given: list[str], kept: list[str], region: Any
) -> np.ndarray:
    """A variable's values for the whole shard, dims in the store's order: what is given, and what was there already."""
    name, dims = array.basename, array.metadata.dimension_names
    values = values.set_dims(
        {dim: 1 for dim in ("model", "shard") if dim in dims and dim not in values.dims} | dict(values.sizes)
    )
    if set(dims) != set(values.dims):
        raise StoreError(f"{name} has dims {values.dims}, but {stored.path} holds {dims}; trace with both queries.")
    values = values.transpose(*dims)
    sizes = dict(zip(dims, array.shape, strict=True)) | {"sample": len(given), "shard": 1}
    expected = {dim: sizes[dim] for dim in dims}
    if dict(values.sizes) != expected:
        raise StoreError(f"{name} has shape {dict(values.sizes)}, but the store {stored.path} holds {expected}.")
    if "sample" not in dims:  # a sum over the samples
        return values.values + _there(array, region) if kept else values.values
    if given == ids:
        return values.values
    shape = [len(ids) if dim == "sample" else size for dim, size in zip(dims, values.shape, strict=True)]
    whole = _there(array, region) if kept else np.full(shape, array.fill_value, values.dtype)
    axis = dims.index("sample")
    whole = np.moveaxis(whole.astype(values.dtype), axis, 0)
    whole[[ids.index(name) for name in given]] = np.moveaxis(values.values, axis, 0)
    return np.moveaxis(whole, 0, axis)


def _there(array: Any, region: Mapping[str, slice]) -> np.ndarray:
    return np.asarray(array[tuple(region.get(dim, slice(None)) for dim in array.metadata.dimension_names)])


def _make(path: Path, plan: StorePlan) -> bool:
    """Made beside its place and moved there whole, so that nobody sees half a store; False: somebody was faster."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.draft_folder(path) as draft:
        write_planned(draft, plan)
        try:
            draft.rename(path)
        except OSError as error:
            if error.errno not in TAKEN:
                raise
            return False
    return True


def _clean(path: Path) -> None:
    """Remove what killed processes left of this store."""
    if not path.parent.is_dir():
        return
    restore(path)
    for leftover in [*path.parent.glob(f".{path.name}.*.partial"), *path.rglob(".*.partial")]:
        if files.is_abandoned(leftover):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def _check(stored: Stored, plan: StorePlan) -> None:
    known, wanted = stored.attrs["identity"], json.loads(json.dumps(dict(plan.identity)))
    known = {**known, "kind": stored.attrs["kind"], "layout": stored.attrs["visualheads_store"]}
    wanted = {**wanted, "kind": plan.kind, "layout": FORMAT}
    differ: dict[str, tuple[object, object]] = {
        key: (known.get(key), wanted.get(key))
        for key in sorted({*known, *wanted} - {LIST})
        if known.get(key) != wanted.get(key)
    }
    differ |= _layout_differences(stored, plan) if "layout" not in differ else {}
    if differ:
        raise IdentityMismatch(
            f"{stored.path} holds another run and is not mixed with this one: {', '.join(differ)} differ. "
            "Start anew beside it with --fresh (fresh=True; for pages and notebooks their parameter fresh), or give "
            "another folder.",
            differ,
        )


def _layout_differences(stored: Stored, plan: StorePlan) -> dict[str, tuple[object, object]]:
    differ: dict[str, tuple[object, object]] = {}
    sizes = plan.sizes()
    planned = {
        name: _lengths(variable.dims, [sizes[dim] for dim in variable.dims]) for name, variable in plan.layout().items()
    }
    arrays: dict[str, Any] = {name: array for name, array in stored.group.arrays() if name not in stored.coordinates}
    there = {name: _lengths(array.metadata.dimension_names, array.shape) for name, array in arrays.items()}
    for name in sorted({*planned, *there} - {DONE, HASHES}):
        if planned.get(name) != there.get(name):
            differ[name] = (there.get(name), planned.get(name))
    heads = [_labels(stored, plan, name) for name in SELECTED_COORDINATES]
    if any(known != wanted for known, wanted in heads):
        differ["selected heads"] = (_brief([known for known, _ in heads]), _brief([wanted for _, wanted in heads]))
    hashes = dict(zip(stored.ids, stored.values(HASHES).tolist(), strict=True))
    asked = dict(zip(plan.samples, plan.hashes, strict=False))
    others = [name for name, told in asked.items() if hashes.get(name, told) != told]
    if others:
        brief = f"{len(others)} of {len(asked)}: {', '.join(others[:3])}"
        differ[QUESTIONS] = ("the same ids", f"another question, picture or prompt for {brief}")
    return differ


def _labels(stored: Stored, plan: StorePlan, name: str) -> tuple[list[object], list[object]]:
    return (
        stored.values(name).tolist() if name in stored.coordinates else [],
        plan.coords[name].values.tolist() if name in plan.coords.coords else [],
    )


def _lengths(dims: Sequence[str], shape: Sequence[int]) -> list[int]:
    """Of an array, without what the list of samples decides."""
    listed = ("sample", "shard", MAP_COORDINATES[0])
    return [size for dim, size in zip(dims, shape, strict=True) if dim not in listed]


def _warn_of_circumstance(stored: Stored, plan: StorePlan) -> None:
    known = stored.circumstances()
    now = json.loads(json.dumps(dict(plan.circumstance)))
    if now in known:
        return
    keys = sorted(key for key in set(known[0]) | set(now) if known[0].get(key) != now.get(key))
    changes = "; ".join(f"{key}: {known[0].get(key)!r} → {now.get(key)!r}" for key in keys)
    warnings.warn(f"{stored.path} is continued under another circumstance, recorded: {changes}", CircumstanceWarning, 3)


def _set_aside(path: Path) -> None:
    for number in itertools.count(1):
        aside = path.with_name(f"{path.name}.old-{number}")
        if not aside.exists():
            path.rename(aside)
            return


def _told(part: xr.Dataset) -> dict[str, Any]:
    if "provenance" not in part.coords:
        return {}
    return json.loads(str(np.atleast_1d(part["provenance"].values)[0])).get("circumstance", {})


def _brief(labels: Sequence[Sequence[object]]) -> str:
    entries = [", ".join(map(str, entry)) for entry in zip(*labels, strict=False)]
    return f"{len(entries)}: {entries[0]} … {entries[-1]}" if entries else "none"
