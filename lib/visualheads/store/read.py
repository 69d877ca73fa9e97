"""Open one store lazily, also while it is being filled; or a NetCDF or Zarr file that any writer made of a dataset."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from visualheads.errors import StoreError, checked
from visualheads.store import files
from visualheads.store.schema import describe, text_as_objects
from visualheads.store.stored import CIRCUMSTANCE, DONE, HASHES, UNREADABLE, Stored, opened, read_attrs
from visualheads.store.variables import MAP_COORDINATES, VARIABLES

__all__ = ["PACKED", "open_asked", "open_store", "paths_in", "read_attrs", "stores_in"]

MAP_SUM, MAP_COUNT = "mean_map_sum", "mean_map_count"
OWN = (DONE, HASHES, CIRCUMSTANCE, MAP_SUM, MAP_COUNT)
"""Arrays that readers do not get as they are; layout 1 had more of them."""
MARGINS = ("margin", "clean_margin")
DASK_CHUNK_BYTES = 32 * 2**20
"""Size of a lazy chunk: many shards together, so that 16 models × 5 benchmarks make thousands of chunks, no more."""
PACKED = ".zarr.zip"
ZARR_2 = ".zgroup"
"""The file by which a folder of Zarr's second format is known, which other writers may choose."""


@checked
def open_store(path: str | Path, *, all_samples: bool = False) -> xr.Dataset:
    """Open the results in one store lazily, its coordinates in memory.

    Samples that are not measured yet are left out. The shards' sums become `mean_map` and `mean_map_count`. A packed
    store opens the same way, and so does any NetCDF or Zarr file that was written from a dataset of this library.

    Parameters
    ----------
    path : path
        The store.
    all_samples : bool
        Keep the samples that are not measured, as NaN (numbers), -1 (n_image_tokens) and "" (text).

    Returns
    -------
    xarray.Dataset
        As `vh.trace` gives it; `encoding["source"]` is the path.

    Raises
    ------
    StoreError
        For a path that holds no store, or a damaged one – also later, when values are read whose file is damaged.
    """
    path = Path(path)
    if _is_foreign(path):
        return _from(path, _foreign(path))
    stored = opened(path)
    ds = stored.dataset()
    if "shard" not in stored.attrs:
        return _from(path, _lazy(ds, 1))
    measured = stored.measured
    known = np.array([name in measured for name in stored.ids], dtype=bool)
    told = np.array([_provenance(stored)] * ds.sizes["model"], dtype=object)
    maps = _mean_maps(stored, ds, known) if MAP_SUM in ds else {}
    ds = ds.drop_vars(OWN, errors="ignore").assign_coords(provenance=("model", told))
    ds = _same_margins(_lazy(ds, stored.shard), stored).assign(maps)
    return _from(path, ds if all_samples or known.all() else ds.isel(sample=np.flatnonzero(known)))


def stores_in(folder: Path) -> list[tuple[Path, str]]:
    """The stores of a folder of results, `<model>/<task>.zarr`, with their kinds, in the order of their paths.

    A live store wins over its packed copy. Raises StoreError for one that is damaged.
    """
    return [(path, str(read_attrs(path).get("kind", ""))) for path in paths_in(folder)]


def paths_in(folder: Path) -> list[Path]:
    """The paths of `stores_in`, damaged stores too."""
    live = list(folder.glob("*/*.zarr"))
    return sorted([*live, *(path for path in folder.glob(f"*/*{PACKED}") if path.with_suffix("") not in live)])


def open_asked(path: str | Path, samples: list[str], answers: str = "") -> xr.Dataset:
    """Open some of a store's samples, in this order, as if only they had been measured.

    A mean map is NaN where it is over other samples too, and margins where they are over other answers than these.
    """
    ds = open_store(path)
    stored = opened(path)
    if stored.attrs.get("answers", answers) != answers:
        ds = ds.assign({name: ds[name].where(False) for name in MARGINS if name in ds})
    if ds["sample"].values.tolist() == samples:
        return ds
    counts, ds = ds.get(MAP_COUNT), ds.sel(sample=samples)
    if counts is None:
        return ds
    own = np.array([[group.sum() for group in _members(ds)]] * ds.sizes["model"], dtype="int32")
    same = (counts == own) & (counts > 0)
    return ds.assign(mean_map=ds["mean_map"].where(same), mean_map_count=counts.where(same, 0))


def _from(path: str | Path, ds: xr.Dataset) -> xr.Dataset:
    described = describe(ds)
    described.encoding["source"] = str(path)
    return described


def _is_foreign(path: Path) -> bool:
    """Whether this is something that another writer made: no trace of this library's own layout."""
    if _is_netcdf(path) or (path / ZARR_2).is_file():
        return True
    try:
        told = json.loads(files.read_file(path, files.METADATA) or b"")["attributes"]
        return not {"visualheads_store", files.SEAL} & set(told)
    except UNREADABLE:
        return False  # `opened` tells what is wrong


def _is_netcdf(path: Path) -> bool:
    return path.is_file() and path.suffix != ".zip"


def _foreign(path: Path) -> xr.Dataset:
    try:
        ds = xr.open_dataset(path, chunks={}) if _is_netcdf(path) else _foreign_zarr(path)
        for name, values in ds.variables.items():
            if name in ds.coords or values.dtype.kind in "OUT":
                values.load()
    except UNREADABLE as error:
        raise StoreError(
            f"{path} cannot be read as NetCDF or Zarr ({error}); give a file that xarray opens."
        ) from error
    if not set(VARIABLES) & set(map(str, ds.data_vars)):
        raise StoreError(f"{path} is not a results store: it holds none of {', '.join(VARIABLES)}.")
    return text_as_objects(ds).drop_encoding()


def _foreign_zarr(path: Path) -> xr.Dataset:
    if (path / ZARR_2).is_file():
        return xr.open_zarr(path, zarr_format=2, consolidated=(path / ".zmetadata").is_file())
    told = json.loads(files.read_file(path, files.METADATA) or b"")
    return xr.open_zarr(files.as_zarr(path), consolidated=bool(told.get("consolidated_metadata")))


def _lazy(ds: xr.Dataset, shard: int) -> xr.Dataset:
    """With dask chunks of about DASK_CHUNK_BYTES, of whole shards; text stays in memory."""
    lazy = {
        name: values.variable if values.dtype == object else _chunked(values.variable, shard)
        for name, values in ds.data_vars.items()
    }
    return xr.Dataset(lazy, ds.coords)


def _chunked(values: xr.Variable, shard: int) -> xr.Variable:
    chunks = dict(values.sizes)
    if "sample" in chunks:
        cells = values.size // max(1, chunks["sample"])
        chunks["sample"] = shard * max(1, DASK_CHUNK_BYTES // max(1, cells * values.dtype.itemsize * shard))
    # a name of its own spares dask hashing what it would read
    return values.chunk(chunks, name=f"store-{uuid.uuid4().hex}")


def _provenance(stored: Stored) -> str:
    told = {"identity": stored.attrs["identity"], "circumstance": stored.attrs["circumstance"]}
    others = stored.circumstances()[1:]
    return json.dumps(told | ({"other_circumstances": others} if others else {}), sort_keys=True)


def _same_margins(ds: xr.Dataset, stored: Stored) -> xr.Dataset:
    """Without the margins of samples that were measured over other answers than the last that were asked."""
    answers = stored.attrs.get("answers", "")
    others = {name for one in stored.records if one and one.answers != answers for name in one.samples}
    if not others:
        return ds
    same = xr.DataArray([name not in others for name in stored.ids], dims="sample")
    return ds.assign({name: ds[name].where(same) for name in MARGINS if name in ds})


def _members(ds: xr.Dataset) -> list[np.ndarray]:
    """Of every group of the mean maps, which samples belong to it."""
    labels = [ds[name].values.astype(str) for name in ("condition", "format", "control")]
    groups = zip(*(ds[name].values.astype(str) for name in MAP_COORDINATES), strict=True)
    return [np.logical_and.reduce([one == told for one, told in zip(labels, group, strict=True)]) for group in groups]


@dataclass(frozen=True)
class MeanMaps:
    """The mean maps of the shards that are done, summed when they are asked for; NaN where a group has no samples.

    sums: (model, shard, layer, head, query, map_condition, grid_row, grid_column); shards and counts: per group.
    """

    sums: Any
    shards: tuple[tuple[int, ...], ...]
    counts: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.sums.shape[0], *self.sums.shape[2:])

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype:
        return self.sums.dtype

    def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
        groups = range(len(self.counts))[key[4]]
        return np.concatenate([self._of((*key[:4], slice(one, one + 1), *key[5:]), one) for one in groups], axis=4)

    def _of(self, key: tuple[slice, ...], group: int) -> np.ndarray:
        total = np.zeros([len(range(size)[part]) for part, size in zip(key, self.shape, strict=True)])
        for shard in self.shards[group]:
            total += self.sums[(key[0], shard, *key[1:])]
        with np.errstate(invalid="ignore"):
            return (total / (self.counts[group] or np.nan)).astype(self.dtype)


def _mean_maps(stored: Stored, ds: xr.Dataset, known: np.ndarray) -> dict[str, Any]:
    if not {*MAP_COORDINATES} <= set(ds.coords):
        raise StoreError(
            f"{stored.path} holds mean maps without their groups (no {MAP_COORDINATES[1]}): an earlier version "
            "averaged answer formats and controls; move it away, or trace again with --fresh (fresh=True)."
        )
    members = [np.flatnonzero(group & known) for group in _members(ds)]
    found = tuple(tuple(np.unique(group // stored.shard).tolist()) for group in members)
    counts = [len(group) for group in members]
    means = MeanMaps(stored.group[MAP_SUM], found, tuple(counts))
    dims = VARIABLES["mean_map"].dims
    lengths: Any = tuple(
        1 if dim == MAP_COORDINATES[0] else max(1, n) for dim, n in zip(dims, means.shape, strict=True)
    )
    meta = np.empty((0,) * means.ndim, means.dtype)
    lazy = da.from_array(means, lengths, name=f"store-{uuid.uuid4().hex}", meta=meta, fancy=False)
    models = ds.sizes["model"]
    return {
        "mean_map": (dims, lazy),
        MAP_COUNT: (("model", MAP_COORDINATES[0]), np.array([counts] * models, dtype="int32")),
    }
