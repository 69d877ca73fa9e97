"""Open one store, or all of a folder, lazily; also while they are being filled."""

from __future__ import annotations

import json
import uuid
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from zarr.storage import StoreLike, ZipStore

from visualheads.errors import StoreError
from visualheads.store import files
from visualheads.store.schema import describe
from visualheads.store.variables import MAP_COORDINATES, VARIABLES

FORMAT = 1
"""Version of the layout on disk."""
DONE = "done"
CIRCUMSTANCE = "circumstance"
INNER = (DONE, CIRCUMSTANCE)
"""Variables along `shard` that are the store's own."""
MAP_SUM, MAP_COUNT = "mean_map_sum", "mean_map_count"
COORDINATES = "coordinates"
"""Attribute that names the coordinates which are no dimensions; xarray's convention."""
DASK_CHUNK_BYTES = 32 * 2**20
"""Size of a lazy chunk: many shards together, so that 16 models × 5 benchmarks make thousands of chunks, no more."""
PACKED = ".zarr.zip"

SHARD_AXIS = 1
"""Of the mean maps' sums: (model, shard, layer, head, query, condition, grid_row, grid_column)."""

Triple = tuple[tuple[str, ...], Any, dict[str, Any]]
"""Dims, values and attributes of a variable."""


@dataclass(frozen=True)
class Stored:
    """A store as it lies on disk: what it says of itself, and the metadata of its arrays."""

    path: Path
    attrs: dict[str, Any]
    arrays: dict[str, files.Metadata]

    @property
    def shard(self) -> int:
        """Samples per shard."""
        return int(self.attrs["shard"])

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Length of every dimension."""
        return {
            dim: size
            for name, array in self.arrays.items()
            for dim, size in zip(self.dims(name), array["shape"], strict=True)
        }

    @cached_property
    def coordinates(self) -> tuple[str, ...]:
        """The names of the arrays that are coordinates."""
        told = [self.attrs.get(COORDINATES, "")]
        told += [array.get("attributes", {}).get(COORDINATES, "") for array in self.arrays.values()]
        named = {name for text in told for name in text.split()}
        return tuple(name for name in self.arrays if name in named or self.dims(name) == (name,))

    def dims(self, name: str) -> tuple[str, ...]:
        return tuple(self.arrays[name].get("dimension_names") or ())

    def values(self, name: str) -> np.ndarray:
        """All values of a small array, text as objects. Raises StoreError where they are damaged."""
        try:
            return files.read_array(self.path, name, self.arrays[name])
        except (OSError, ValueError, RuntimeError) as error:
            raise StoreError(
                f"{self.path}: {name} is damaged ({error}); move the store away and trace again."
            ) from error

    def in_memory(self, name: str) -> Triple:
        return self.dims(name), self.values(name), self._attrs(name)

    def lazy(self, name: str, length: int = 1) -> Triple:
        """With dask chunks of about DASK_CHUNK_BYTES: all samples, or as many times `length` of them as fit."""
        array, dims = LazyArray(self.path, name, self.arrays[name]), self.dims(name)
        chunks = dict(zip(dims, array.shape, strict=True))
        if "sample" in chunks:
            cells = int(np.prod([size for dim, size in chunks.items() if dim != "sample"]))
            chunks["sample"] = length * max(1, DASK_CHUNK_BYTES // max(1, cells * array.dtype.itemsize * length))
        return dims, _chunked(array, [chunks[dim] for dim in dims]), self._attrs(name)

    def _attrs(self, name: str) -> dict[str, Any]:
        told = self.arrays[name].get("attributes", {})
        return {key: value for key, value in told.items() if key not in (COORDINATES, "_FillValue")}


@dataclass(frozen=True)
class LazyArray:
    """An array that is opened when it is first read; text comes as objects."""

    path: Path
    name: str
    metadata: files.Metadata

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.metadata["shape"])

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype:
        return files.dtype_of(self.metadata)

    def __getitem__(self, key: Any) -> np.ndarray:
        opened: Any = zarr.open_array(as_zarr(self.path), path=self.name, mode="r")
        return np.asarray(opened[key]).astype(self.dtype, copy=False)


@dataclass(frozen=True)
class MeanMaps:
    """The mean maps of the shards that are done, summed when they are asked for; NaN where a group has no samples.

    counts: samples per model and group.
    """

    sums: LazyArray
    done: tuple[int, ...]
    counts: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(size for axis, size in enumerate(self.sums.shape) if axis != SHARD_AXIS)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype:
        return self.sums.dtype

    def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
        count = self.counts[:, None, None, None, :, None, None][key[0], :, :, :, key[4]]
        total = np.zeros(np.broadcast_shapes(count.shape, self._asked(key)), np.float64)
        opened: Any = zarr.open_array(as_zarr(self.sums.path), path=self.sums.name, mode="r")
        for shard in self.done if count.any() else ():
            total += opened[(key[0], shard, *key[1:])]
        with np.errstate(invalid="ignore"):
            return np.where(count > 0, total / count, np.nan).astype(self.dtype)

    def _asked(self, key: tuple[slice, ...]) -> tuple[int, ...]:
        return tuple(len(range(size)[part]) for part, size in zip(key, self.shape, strict=True))


def open_store(path: str | Path, *, all_samples: bool = False) -> xr.Dataset:
    """The results in one store as a lazy Dataset, its coordinates in memory.

    Samples of shards that are not done are left out; `all_samples` keeps them, as NaN (numbers), -1 (n_image_tokens)
    and "" (text). The shards' sums become `mean_map` and `mean_map_count`. A packed store opens the same way.
    As in xarray, `encoding["source"]` is the path. Raises StoreError for a path that holds no store, or a damaged one.
    """
    stored = opened(path)
    coords = {name: stored.in_memory(name) for name in stored.coordinates}
    names = [name for name in stored.arrays if name not in coords]
    if "shard" not in stored.attrs:
        return _from(path, xr.Dataset({name: stored.lazy(name) for name in names}, coords))
    done = stored.values(DONE)
    coords["provenance"] = (("model",), _provenance(stored), {})
    data = {name: stored.lazy(name, stored.shard) for name in names if name not in (*INNER, MAP_SUM, MAP_COUNT)}
    if MAP_SUM in stored.arrays:
        data |= _mean_maps(stored, np.flatnonzero(done))
    ds = _from(path, xr.Dataset(data, coords))
    keep = np.repeat(done, stored.shard)[: ds.sizes["sample"]]
    return ds if all_samples or keep.all() else ds.isel(sample=np.flatnonzero(keep))


def _from(path: str | Path, ds: xr.Dataset) -> xr.Dataset:
    described = describe(ds)
    described.encoding["source"] = str(path)
    return described


def opened(path: str | Path) -> Stored:
    """The store at a path. Raises StoreError when there is none, or one from another version of the layout."""
    path = Path(path)
    if not path.exists():
        raise StoreError(f"no store at {path}; trace into it first, or give the path of a *.zarr folder.")
    try:
        raw = files.read_file(path, files.METADATA)
        if raw is None:
            raise ValueError(f"it has no {files.METADATA}")
        group = json.loads(raw)
        attrs = dict(group.get("attributes", {}))
        arrays = files.arrays_of(path, group)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise StoreError(f"{path} is not a readable zarr store ({error}); move it away and trace again.") from error
    if attrs.get("visualheads_store") != FORMAT:
        raise StoreError(
            f"{path} is not a results store of layout {FORMAT} (it says {attrs.get('visualheads_store')!r}); "
            "move it away and trace again."
        )
    return Stored(path, attrs, arrays)


def read_attrs(path: str | Path) -> dict[str, Any]:
    """What the store says of itself. Raises StoreError as `opened` does."""
    return opened(path).attrs


def as_zarr(path: Path) -> StoreLike:
    """What zarr opens for this path: a folder, or a packed store in one file."""
    return ZipStore(path, mode="r") if path.suffix == ".zip" else str(path)


def recorded_circumstances(stored: Stored) -> list[dict[str, object]]:
    """The circumstance the store was made in, then those of shards done in another one, each once."""
    first = dict(stored.attrs["circumstance"])
    texts = dict.fromkeys(text for text in stored.values(CIRCUMSTANCE).tolist() if text)
    others = [json.loads(text) for text in texts]
    return [first, *(other for other in others if other != first)]


def _provenance(stored: Stored) -> np.ndarray:
    told = {"identity": stored.attrs["identity"], "circumstance": stored.attrs["circumstance"]}
    circumstances = recorded_circumstances(stored)
    if len(circumstances) > 1:
        told["other_circumstances"] = circumstances[1:]
    text = np.empty(stored.sizes["model"], dtype=object)
    text[:] = json.dumps(told, sort_keys=True)
    return text


def _mean_maps(stored: Stored, done: np.ndarray) -> dict[str, Triple]:
    if not {*MAP_COORDINATES} <= set(stored.arrays):
        raise StoreError(
            f"{stored.path} holds mean maps without their groups (no {MAP_COORDINATES[1]}): an earlier version "
            "averaged answer formats and controls; move it away, or trace again with --fresh (fresh=True)."
        )
    dims, counts, _ = stored.in_memory(MAP_COUNT)
    shard = dims.index("shard")
    count = counts.take(done, shard).sum(shard).astype("int32")
    sums = LazyArray(stored.path, MAP_SUM, stored.arrays[MAP_SUM])
    means = MeanMaps(sums, tuple(done.tolist()), count)
    named = dict(zip(VARIABLES["mean_map"].dims, means.shape, strict=True))
    chunks = [1 if dim == "condition" else size for dim, size in named.items()]
    return {
        "mean_map": (tuple(named), _chunked(means, chunks), {}),
        MAP_COUNT: (tuple(dim for dim in dims if dim != "shard"), count, {}),
    }


def _chunked(array: LazyArray | MeanMaps, chunks: Sequence[int]) -> da.Array:
    lengths: Any = tuple(max(1, length) for length in chunks)  # dask's annotation knows text only
    return da.from_array(
        array,
        lengths,
        name=f"store-{uuid.uuid4().hex}",  # a name of its own spares dask hashing what it would read
        meta=np.empty((0,) * array.ndim, array.dtype),
        fancy=False,
    )
