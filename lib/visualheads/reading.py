"""Open one store, or all of a folder, lazily; also while they are being filled."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.errors import BaseZarrError
from zarr.storage import StoreLike, ZipStore

from visualheads.errors import StoreError
from visualheads.schema import describe
from visualheads.variables import VARIABLES

FORMAT = 1
"""Version of the layout on disk."""
DONE = "done"
CIRCUMSTANCE = "circumstance"
INNER = (DONE, CIRCUMSTANCE)
"""Variables along `shard` that are the store's own."""
MAP_SUM, MAP_COUNT = "mean_map_sum", "mean_map_count"
DASK_CHUNK_BYTES = 32 * 2**20
"""Size of a lazy chunk: many shards together, so that 16 models × 5 benchmarks make thousands of chunks, no more."""
PACKED = ".zarr.zip"


def open_store(path: str | Path, *, all_samples: bool = False) -> xr.Dataset:
    """The results in one store as a lazy Dataset, its coordinates in memory.

    Samples of shards that are not done are left out; `all_samples` keeps them, as NaN (numbers), -1 (n_image_tokens)
    and "" (text). The shards' sums become `mean_map` and `mean_map_count`. A packed store opens the same way.
    Raises StoreError for a path that holds no store, or a damaged one.
    """
    path = Path(path)
    attrs = read_attrs(path)
    raw = open_raw(path)
    if "shard" in attrs:
        raw = _finished(path, raw, attrs, all_samples)
    raw.attrs = {}
    raw = raw.assign({name: array.astype(object) for name, array in raw.data_vars.items() if array.dtype.kind == "T"})
    return describe(_load_coordinates(raw))


def read_attrs(path: Path) -> dict[str, Any]:
    """What the store says of itself. Raises StoreError when there is none, or from another version of the layout."""
    if not path.exists():
        raise StoreError(f"no store at {path}; trace into it first, or give the path of a *.zarr folder.")
    try:
        attrs = dict(zarr.open_group(as_zarr(path), mode="r").attrs)
    except (OSError, ValueError, KeyError, BaseZarrError) as error:
        raise StoreError(f"{path} is not a readable zarr store ({error}); move it away and trace again.") from error
    if attrs.get("visualheads_store") != FORMAT:
        raise StoreError(
            f"{path} is not a results store of layout {FORMAT} (it says {attrs.get('visualheads_store')!r}); "
            "move it away and trace again."
        )
    return attrs


def open_raw(path: Path) -> xr.Dataset:
    """The store as it lies on disk: nothing masked, nothing loaded, no dask."""
    # Missing values have stood for themselves since the store was made, so xarray need not mask -1 or "".
    raw = xr.open_zarr(as_zarr(path), consolidated=False, chunks=None, mask_and_scale=False)
    for variable in raw.variables.values():
        variable.attrs.pop("_FillValue", None)
    return raw


def as_zarr(path: Path) -> StoreLike:
    """What zarr opens for this path: a folder, or a packed store in one file."""
    return ZipStore(path, mode="r") if path.suffix == ".zip" else str(path)


def recorded_circumstances(path: Path, attrs: Mapping[str, Any], raw: xr.Dataset) -> list[dict[str, object]]:
    """The circumstance the store was made in, then those of shards done in another one, each once."""
    first = dict(attrs["circumstance"])
    # No chunk, no other circumstance: spares asking for hundreds of chunks that are not there.
    written = (path / CIRCUMSTANCE / "c").exists()
    texts = dict.fromkeys(text for text in raw[CIRCUMSTANCE].values.tolist() if text) if written else {}
    others = [json.loads(text) for text in texts]
    return [first, *(other for other in others if other != first)]


def _finished(path: Path, raw: xr.Dataset, attrs: Mapping[str, Any], all_samples: bool) -> xr.Dataset:
    shard = int(attrs["shard"])
    done = raw[DONE].values
    told = {"identity": attrs["identity"], "circumstance": attrs["circumstance"]}
    circumstances = recorded_circumstances(path, attrs, raw)
    if len(circumstances) > 1:
        told["other_circumstances"] = circumstances[1:]
    text = np.empty(raw.sizes["model"], dtype=object)
    text[:] = json.dumps(told, sort_keys=True)
    ds = raw.drop_vars(INNER).assign_coords(provenance=("model", text))
    ds = _with_mean_map(ds, done)
    keep = np.repeat(done, shard)[: ds.sizes["sample"]]
    if not all_samples and not keep.all():
        ds = ds.isel(sample=np.flatnonzero(keep))
    return ds.assign(
        {name: _chunked(ds.variables[name], "sample", shard) for name in ds.data_vars if "sample" in ds[name].dims}
    )


def _with_mean_map(ds: xr.Dataset, done: np.ndarray) -> xr.Dataset:
    if MAP_SUM not in ds:
        return ds
    finished = np.flatnonzero(done)
    count = ds[MAP_COUNT].isel(shard=finished).sum("shard").astype("int32").compute()
    sums = ds[MAP_SUM].variable.isel(shard=finished)
    total = xr.DataArray(_chunked(sums, "shard", 1).sum("shard", dtype="float64"))
    mean = total / count.where(count > 0)
    return ds.drop_vars([MAP_SUM, MAP_COUNT]).assign(
        mean_map=mean.astype("float32").transpose(*VARIABLES["mean_map"].dims), mean_map_count=count
    )


def _chunked(variable: xr.Variable, dim: str, shard: int) -> xr.Variable:
    """Lazy, in chunks of whole shards of about DASK_CHUNK_BYTES; in mean maps of one condition, as on disk."""
    one = "condition" if "condition" in variable.dims else None
    cells = int(np.prod([size for name, size in variable.sizes.items() if name not in (dim, one)]))
    item = 8 if variable.dtype == object else variable.dtype.itemsize
    shards = max(1, DASK_CHUNK_BYTES // max(1, cells * item * shard))
    # A name of its own spares dask hashing what it would read; variables, because arrays would take their
    # coordinates along.
    return variable.chunk({dim: shards * shard, **({one: 1} if one else {})}, name=f"store-{uuid.uuid4().hex}")


def _load_coordinates(ds: xr.Dataset) -> xr.Dataset:
    """Coordinates are small and asked for all the time; text comes as objects, whatever the reader makes of it."""
    loaded = {}
    for name, coordinate in ds.coords.items():
        values = coordinate.values
        loaded[name] = (coordinate.dims, values.astype(object) if values.dtype.kind in "TU" else values)
    return ds.assign_coords(loaded)
