"""What a store will hold, before anything is measured.

Results on disk: `data/results/<model>/<task>.zarr`, made whole, filled shard by shard, resumable, safe in parallel.

What a tracer does (this is the contract; see the functions for details):

    coords = schema.coordinates(name, samples, layers, heads, llm=…, groups=schema.map_groups(samples))
    plan = store.Plan(
        coords,                                     # all samples, in the order in which they are traced
        identity=provenance.identity(…),            # another identity in an existing store: IdentityMismatch
        circumstance=provenance.circumstance(…),    # another circumstance: one CircumstanceWarning, and recorded
        shard=32,                                   # samples per shard = chunk length along `sample`
        keep=("mean_map",),                         # "maps" too, with selected=[(layer, head), …] for the coordinates
        grid=(24, 24),                              # rows, columns of the whole-picture grid, with either
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

`condition` follows the groups of `coords` (`map_condition`, `map_format`, `map_control`). A traced variable may be
missing from `part`: it stays NaN.
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
import shutil
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from visualheads.errors import IdentityMismatch, ParameterError, StoreError, got
from visualheads.store import files, read
from visualheads.store.combine import open_results
from visualheads.store.files import refusals_told
from visualheads.store.pack import pack
from visualheads.store.read import open_store
from visualheads.store.variables import SHARD_VARIABLES, TRACED, VARIABLES, Variable

SHARD = 32
"""Samples per shard by default: seconds of work on a laptop, some hundred shards for a whole benchmark."""
KEEPABLE = ("mean_map", "maps")
GRID_DIMS = ("grid_row", "grid_column")


@dataclass(frozen=True)
class Plan:
    """What a store will hold; shards are a pure function of it.

    coords      all coordinates, as `schema.coordinates` makes them; further dims (a sweep's `set`) come from here too
    variables   name → dims for variables other than the traced ones (a sweep); None: everything a trace measures
    kind        "trace", or what else the store holds; `open_results` opens one kind
    Raises ParameterError for a shard length below 1, something that cannot be kept, or a missing grid.
    """

    coords: xr.Dataset
    identity: Mapping[str, Any]
    circumstance: Mapping[str, Any] = field(default_factory=dict)
    shard: int = SHARD
    keep: tuple[str, ...] = ()
    grid: tuple[int, int] | None = None
    variables: Mapping[str, tuple[str, ...]] | None = None
    kind: str = "trace"

    def __post_init__(self) -> None:
        if self.shard < 1:
            raise ParameterError(got("shard", self.shard, "1 or more samples"))
        for name in self.keep:
            if name not in KEEPABLE:
                raise ParameterError(got("keep", name, KEEPABLE, "trace in memory to keep whole attention rows"))
        if self.keep and self.grid is None:
            raise ParameterError(got("grid", None, "(rows, columns) of the whole-picture grid", "give it to keep maps"))
        if "mean_map" in self.keep and "condition" not in self.coords.sizes:
            raise ParameterError("mean maps need groups of samples; give groups= to schema.coordinates.")
        if "maps" in self.keep and "selected_head" not in self.coords.sizes:
            raise ParameterError("maps need the heads they are of; give selected= to schema.coordinates.")

    @property
    def n_samples(self) -> int:
        return self.coords.sizes["sample"]

    @property
    def n_shards(self) -> int:
        return -(-self.n_samples // self.shard)

    def slice(self, index: int) -> slice:
        """The samples of a shard, as a slice of the list."""
        return shard_slice(index, self.shard, self.n_samples)

    def layout(self) -> dict[str, Variable]:
        """The variables on disk, by name, each with its dims."""
        if self.variables is None:
            chosen = [VARIABLES[name] for name in TRACED]
        else:
            chosen = [_known(name, dims) for name, dims in self.variables.items()]
        if "mean_map" in self.keep:
            chosen += SHARD_VARIABLES
        if "maps" in self.keep:
            chosen.append(VARIABLES["maps"])
        return {variable.name: variable for variable in chosen}

    def sizes(self) -> dict[str, int]:
        """Length of every dimension."""
        sizes = {str(dim): size for dim, size in self.coords.sizes.items()} | {"shard": self.n_shards}
        return sizes | dict(zip(GRID_DIMS, self.grid or (), strict=False))


def shard_slice(index: int, shard: int, samples: int) -> slice:
    count = -(-samples // shard)
    if not 0 <= index < count:
        raise ParameterError(got("shard", index, f"0 to {count - 1}"))
    return slice(index * shard, min((index + 1) * shard, samples))


def _known(name: str, dims: Sequence[str]) -> Variable:
    if name not in VARIABLES:
        raise ParameterError(got("variable", name, VARIABLES))
    return Variable(name, "", "", dims=tuple(dims), dtype=VARIABLES[name].dtype)


__all__ = ["CircumstanceWarning", "Plan", "create", "open_results", "open_store", "pack", "pending", "write_shard"]

SAMPLE_IDS = "sample ids"
LATER = {"processor", "prompt"}
"""Parts of an identity that older stores do not tell: they are not compared with those."""
LABELS = {
    SAMPLE_IDS: ("sample",),
    "groups of the mean maps": ("map_condition", "map_format", "map_control"),
    "selected heads": ("selected_layer", "selected_index"),
}
"""Coordinates in which a plan must agree with the store it continues, and what messages call them."""


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
        with refusals_told(path):
            if _make(path, plan):
                return path
    _check(path, plan)
    return path


def pending(path: str | Path) -> list[int]:
    """The shards that are not done, in order."""
    return np.flatnonzero(~read.opened(path).values(read.DONE)).tolist()


def write_shard(path: str | Path, index: int, part: xr.Dataset, circumstance: Mapping[str, Any] | None = None) -> None:
    """Write the chunks of one shard, each atomically, then mark it done. Repeating it changes nothing.

    circumstance: what this process runs on; without it, what the `provenance` coordinate of `part` says.
    Raises StoreError when `part` is not that shard, ParameterError for a shard out of range, DiskFullError.
    """
    stored = read.opened(path)
    samples = shard_slice(index, stored.shard, stored.sizes["sample"])
    ids = [str(i) for i in stored.values("sample")[samples]]
    given = [str(i) for i in part["sample"].values]
    if ids != given:
        raise StoreError(
            f"shard {index} of {path} holds {len(ids)} samples from {ids[0]!r} to {ids[-1]!r}, got {len(given)} from "
            f"{given[0] if given else None!r} to {given[-1] if given else None!r}; write each shard's own samples."
        )
    names = [name for name in stored.arrays if name in part.data_vars]
    ready = [(name, *_region(stored, part.variables[name], name, index, samples)) for name in names]
    told = circumstance if circumstance is not None else _told(part)
    if told and dict(told) != stored.attrs["circumstance"]:
        text = np.array([json.dumps(dict(told), sort_keys=True)], dtype=object)
        ready.append((read.CIRCUMSTANCE, text, (index,)))
    with refusals_told(stored.path):
        for name, values, start in (*ready, (read.DONE, np.array([True]), (index,))):  # the mark comes last
            files.write_region(stored.path, name, stored.arrays[name], values, start)


def _region(
    stored: read.Stored, values: xr.Variable, name: str, index: int, samples: slice
) -> tuple[np.ndarray, tuple[int, ...]]:
    """The shard's values in the order of the stored dims, and the first cell they go to."""
    dims = stored.dims(name)
    values = values.set_dims(
        {dim: 1 for dim in ("model", "shard") if dim in dims and dim not in values.dims} | dict(values.sizes)
    )
    if set(dims) != set(values.dims):
        raise StoreError(f"{name} has dims {values.dims}, but {stored.path} holds {dims}; trace with both queries.")
    values = values.transpose(*dims)
    start = tuple({"sample": samples.start, "shard": index}.get(dim, 0) for dim in dims)
    lengths = {**stored.sizes, "sample": samples.stop - samples.start, "shard": 1}
    expected = {dim: lengths[dim] for dim in dims}
    if dict(values.sizes) != expected:
        raise StoreError(f"{name} has shape {dict(values.sizes)}, but shard {index} of {stored.path} holds {expected}.")
    return values.values, start


def _make(path: Path, plan: Plan) -> bool:
    """Made beside its place and moved there whole, so that nobody sees half a store; False: somebody was faster."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        files.write_new(draft, _attrs(plan), {**_coordinates(plan), **_empty(plan)})
        with contextlib.suppress(FileExistsError, NotADirectoryError):
            _move(draft, path)
            return True
        return False
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _move(draft: Path, path: Path) -> None:
    try:
        draft.rename(path)
    except OSError as error:  # which of the two it is differs between file systems
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise FileExistsError(path) from error
        raise


def _coordinates(plan: Plan) -> Mapping[str, tuple[files.Metadata, np.ndarray]]:
    made = {}
    for name in plan.coords.coords:
        coordinate = plan.coords.variables[name]
        values = np.asarray(coordinate.values)
        dims = [str(dim) for dim in coordinate.dims]
        made[str(name)] = (files.array_metadata(dims, values.shape, values.dtype), values)
    return made


def _empty(plan: Plan) -> Mapping[str, tuple[files.Metadata, None]]:
    inner = (
        Variable(read.DONE, "shard is complete", "1", dims=("shard",), dtype="bool"),
        Variable(read.CIRCUMSTANCE, "where it differs from the store's", "JSON", dims=("shard",), dtype="str"),
    )
    sizes = plan.sizes()
    return {
        variable.name: (_metadata(variable, sizes, plan.shard), None) for variable in (*plan.layout().values(), *inner)
    }


def _metadata(variable: Variable, sizes: Mapping[str, int], shard: int) -> dict[str, Any]:
    # A mean map's chunk holds one group: lists are in blocks of a condition, and empty chunks take no space.
    lengths = {"sample": shard, "shard": 1} | ({"condition": 1} if "shard" in variable.dims else {})
    return files.array_metadata(
        variable.dims,
        [sizes[dim] for dim in variable.dims],
        variable.dtype,
        chunks=[lengths.get(dim, sizes[dim]) for dim in variable.dims],
        fill=0 if "shard" in variable.dims and variable.dtype in ("float32", "int32") else variable.missing,
        attributes=variable.attrs,
    )


def _attrs(plan: Plan) -> dict[str, Any]:
    beside = [str(name) for name in plan.coords.coords if plan.coords.variables[name].dims != (name,)]
    return {
        "visualheads_store": read.FORMAT,
        "kind": plan.kind,
        "shard": plan.shard,
        "identity": dict(plan.identity),
        "circumstance": dict(plan.circumstance),
        read.COORDINATES: " ".join(beside),
    }


def _check(path: Path, plan: Plan) -> None:
    stored = read.opened(path)
    known = stored.attrs["identity"]
    wanted = json.loads(json.dumps(dict(plan.identity)))
    keys = sorted((set(known) | set(wanted)) - (LATER - set(known)))
    differ: dict[str, tuple[object, object]] = {
        key: (known.get(key), wanted.get(key)) for key in keys if known.get(key) != wanted.get(key)
    }
    differ |= _layout_differences(stored, plan)
    if SAMPLE_IDS in differ:
        differ.pop("samples", None)  # the hash of the same lists
    if differ:
        raise IdentityMismatch(
            f"{path} holds another run and is not mixed with this one: {', '.join(differ)} differ. "
            "Start anew beside it with --fresh (fresh=True; for pages and notebooks their parameter fresh), or give "
            "another folder.",
            differ,
        )
    _warn_of_circumstance(stored, plan)


def _layout_differences(stored: read.Stored, plan: Plan) -> dict[str, tuple[object, object]]:
    differ: dict[str, tuple[object, object]] = {}
    if stored.shard != plan.shard:
        differ["shard"] = (stored.shard, plan.shard)
    planned = {name: _lengths(variable.dims, plan.sizes()) for name, variable in plan.layout().items()}
    inner = {*read.INNER, *stored.coordinates}
    there = {name: _lengths(stored.dims(name), stored.sizes) for name in stored.arrays if name not in inner}
    for name in sorted(set(planned) | set(there)):
        if planned.get(name) != there.get(name):
            differ[name] = (there.get(name), planned.get(name))
    for words, names in LABELS.items():
        labels = [stored.values(name).tolist() if name in stored.arrays else [] for name in names]
        wanted = [plan.coords[name].values.tolist() if name in plan.coords.coords else [] for name in names]
        if labels != wanted:
            differ[words] = (_brief(labels), _brief(wanted))
    return differ


def _lengths(dims: Sequence[str], sizes: Mapping[str, int]) -> list[int]:
    """Of an array, without what the list of samples decides: another list is told once, not for every variable."""
    return [sizes[dim] for dim in dims if dim not in ("sample", "shard")]


def _warn_of_circumstance(stored: read.Stored, plan: Plan) -> None:
    known = read.recorded_circumstances(stored)
    now = json.loads(json.dumps(dict(plan.circumstance)))
    if now in known or stored.values(read.DONE).all():
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
