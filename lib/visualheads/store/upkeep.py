"""Stores that exist: verified, repaired, lengthened, packed; and datasets kept until their identity changes."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numcodecs import BitRound
from zarr.codecs import BloscCodec

from visualheads.errors import ParameterError, StoreError, got
from visualheads.models.provenance import hash_list
from visualheads.store import files, read
from visualheads.store.files import METADATA
from visualheads.store.read import open_store, read_attrs
from visualheads.store.schema import text_as_objects
from visualheads.store.stored import (
    DONE,
    FOLDER,
    FORMAT,
    HASHES,
    Stored,
    StorePlan,
    opened,
    read_record,
    record_key,
    write_planned,
    write_whole,
)
from visualheads.store.variables import MAP_COORDINATES

MARK = b"\x01"
"""Content of the file that marks a shard as done."""
UNREADABLE_FILE = "unreadable"
REPLACED = ".replaced"
"""Ending of the name of a store while a longer one is put in its place."""
LIVE = ".zarr"


def verify(path: str | Path) -> dict[str, str]:
    """Read every file of a store and compare it with its checksum.

    Parameters
    ----------
    path : path
        A store, packed or not.

    Returns
    -------
    dict of str to str
        The damaged files, each with "missing", "truncated", "checksum", or – in stores of layout 1, which have no
        checksums – "unreadable". Empty for a sound store.

    Raises
    ------
    StoreError
        Where not even the store's own metadata can be read.
    """
    stored = opened(path)
    found = files.faults(stored.path, dict(stored.files.known)) | _metadata(stored)
    if stored.attrs["visualheads_store"] != FORMAT:
        return found | _unreadable(stored)
    for told in damaged_shards(stored).values():
        found |= told
    return found | {_mark(index): "missing" for index in _unmarked(stored)}


def repair(path: str | Path) -> list[int]:
    """Make the damaged shards of a store undone, so that the next trace does them anew; return which they were.

    Raises StoreError where the store's metadata cannot be read, or nothing can be written.
    """
    stored = opened(path)
    undone = []
    with files.refusals_told(stored.path):
        for index in damaged_shards(stored):
            undone.append(index)
            (stored.path / _mark(index)).unlink(missing_ok=True)
            (stored.path / record_key(index)).unlink(missing_ok=True)
        for index in _unmarked(stored):
            files.write_file(stored.path / _mark(index), MARK)
    return undone


def _unmarked(stored: Stored) -> list[int]:
    """The shards that are done, and whose mark for other readers is not there, or damaged."""
    if "shard" not in stored.attrs or stored.attrs["visualheads_store"] != FORMAT:
        return []
    done = [index for index in range(stored.n_shards) if (stored.path / record_key(index)).exists()]
    return [index for index in done if files.read_file(stored.path, _mark(index)) != MARK]


def damaged_shards(stored: Stored) -> dict[int, dict[str, str]]:
    """The damaged files of every shard that has any: shard → key → what is wrong."""
    if "shard" not in stored.attrs or stored.attrs["visualheads_store"] != FORMAT:
        return {}
    found = {index: _faults(stored.path, index) for index in range(stored.n_shards)}
    return {index: told for index, told in found.items() if told}


def _faults(path: Path, index: int) -> dict[str, str]:
    mark = files.read_file(path, _mark(index))
    try:
        record = read_record(path, index)
    except StoreError:
        return {record_key(index): "checksum"}
    if record is None:
        return {} if mark is None else {record_key(index): "missing"}
    return files.faults(path, record.files)


def _mark(index: int) -> str:
    return f"{DONE}/c.{index}"


def _metadata(stored: Stored) -> dict[str, str]:
    """The arrays' own metadata, of which the group's holds a copy."""
    known = json.loads(stored.files.group or b"{}")["consolidated_metadata"]["metadata"]
    found = {}
    for name, told in known.items():
        key = f"{name}/{files.METADATA}"
        raw = files.read_file(stored.path, key)
        try:
            same = raw is not None and json.loads(raw) == told
        except ValueError:
            same = False
        if not same:
            found[key] = "missing" if raw is None else "checksum"
    return found


def _unreadable(stored: Stored) -> dict[str, str]:
    found = {}
    if stored.path.suffix == ".zip":
        with zipfile.ZipFile(stored.path) as archive:
            damaged = archive.testzip()
        found = {damaged: "checksum"} if damaged else {}
    for name in sorted(stored.group.array_keys()):
        try:
            stored.values(name)
        except StoreError:
            found[name] = UNREADABLE_FILE
    return found


def lengthen(stored: Stored, plan: StorePlan) -> None:
    """Put a store of all its samples, and those of the plan that it lacks, in its place. Raises OSError.

    Files of shards that are done are linked, not copied: chunks along `sample` and along the groups of the mean maps
    keep their places, since everything new comes after what is there.
    """
    path, there = stored.path, set(stored.ids)
    new = [place for place, name in enumerate(plan.samples) if name not in there]
    hashes = [
        *stored.values(HASHES).tolist(),
        *([plan.hashes[place] for place in new] if plan.hashes else [""] * len(new)),
    ]
    longer = replace(
        plan,
        coords=_joined(stored.dataset(), plan.coords.isel(sample=new)),
        identity={**plan.identity, "samples": hash_list(hashes)},
        shard=stored.shard,
        hashes=hashes,
    )
    before = path.with_name(path.name + REPLACED)
    with files.draft_folder(path) as draft:
        write_planned(draft, longer)
        for index in range(stored.n_shards):
            record = stored.record(index)
            for key in (*record.files, record_key(index), f"{DONE}/c.{index}") if record else ():
                (draft / key).parent.mkdir(parents=True, exist_ok=True)
                os.link(path / key, draft / key)
        path.rename(before)
        draft.rename(path)
        shutil.rmtree(before)


def restore(path: Path) -> None:
    """Finish, or take back, what a process that was killed while it put a longer store in place left half done."""
    before = path.with_name(path.name + REPLACED)
    if not before.exists():
        return
    if path.exists():
        shutil.rmtree(before)
    else:
        before.rename(path)


def _joined(there: xr.Dataset, new: xr.Dataset) -> xr.Dataset:
    """The coordinates of both: samples one after the other, groups of mean maps each once."""
    coords = there.coords.to_dataset()
    along = {
        name: ("sample", np.concatenate([values.values, new[name].values]))
        for name, values in coords.coords.items()
        if values.dims == ("sample",)
    }
    groups = {}
    if MAP_COORDINATES[0] in coords.dims:
        labels = [
            tuple(label) for ds in (coords, new) for label in zip(*(ds[n].values for n in MAP_COORDINATES), strict=True)
        ]
        columns = zip(*dict.fromkeys(labels), strict=True)
        groups = {
            name: (MAP_COORDINATES[0], list(column)) for name, column in zip(MAP_COORDINATES, columns, strict=True)
        }
    return text_as_objects(
        coords.drop_dims(["sample", MAP_COORDINATES[0]], errors="ignore").assign_coords(along | groups)
    )


def kept(path: str | Path, kind: str, identity: Mapping[str, Any], make: Callable[[], xr.Dataset]) -> xr.Dataset:
    """Return the dataset kept at `path`, in memory; make and keep it where there is none of this identity.

    Parameters
    ----------
    path : path
        A name that ends in `.zarr`.
    kind : str
        What the store holds, such as "grounding"; readers of traces and sweeps leave it alone.
    identity : mapping
        What decides the numbers: a store of another one, or a damaged one, is replaced. Whatever JSON can hold.
    make : callable
        Computes the dataset; its attributes are not kept.

    Raises
    ------
    ParameterError
        For another file name.
    StoreError
        Where nothing can be written. What is there appears whole or not at all.
    """
    path = Path(path)
    if path.suffix != LIVE:
        raise ParameterError(got("path", str(path), f"a name that ends in {LIVE}"))
    if not is_current(path, kind, identity):
        _replace(path, make(), {"kind": kind, "identity": dict(identity)})
    return open_store(path).load()


def is_current(path: str | Path, kind: str, identity: Mapping[str, Any]) -> bool:
    """Whether a sound store of this kind and identity is there."""
    try:
        attrs = read_attrs(path)
        return (attrs.get("kind"), attrs.get("identity")) == (kind, json.loads(json.dumps(dict(identity)))) and not (
            verify(path)
        )
    except StoreError:
        return False


def last_changed(path: str | Path) -> list[int]:
    """Return when a store changed last, in nanoseconds, and a packed one's size: equal while it is the same."""
    path = Path(path)
    if path.is_file():
        return [path.stat().st_mtime_ns, path.stat().st_size]
    return [place.stat().st_mtime_ns for place in (path / METADATA, path / FOLDER) if place.exists()]


def _replace(path: Path, ds: xr.Dataset, attrs: Mapping[str, Any]) -> None:
    with files.draft_folder(path) as draft, files.refusals_told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(draft, ds, attrs)
        if path.exists():
            shutil.rmtree(path)
        draft.rename(path)


KEPT_BITS = 10
"""Mantissa bits kept of a float32: a relative error below 0.05 %, as a half float has, over the whole range."""
MANTISSA_BITS = 23
NO_CLOCK = (1980, 1, 1, 0, 0, 0)
"""Zip files carry times; the earliest they can tell says nothing."""
PACKED_CHUNK_BYTES = 4 * 2**20


def pack(source: str | Path | xr.Dataset, target: str | Path, bits: int = KEPT_BITS, kind: str = "trace") -> Path:
    """Write a store, or a dataset in memory, as one file, which `open_store` and `open_results` open.

    Only samples that are done are packed. Rounding never moves a value past another, so every invariant survives.
    Written beside its place and moved there whole.

    Parameters
    ----------
    source : path or xarray.Dataset
        What is packed.
    target : path
        A name that ends in `.zarr.zip`.
    bits : int
        Mantissa bits that are kept of float32, of 23, which keep them exactly.
    kind : str
        What a dataset in memory holds; a store knows its own.

    Raises
    ------
    ParameterError
        For another file name or number of bits. StoreError where nothing can be written.
    """
    target = Path(target)
    if not target.name.endswith(read.PACKED):
        raise ParameterError(got("packed store", str(target), f"a name that ends in {read.PACKED}"))
    if not 1 <= bits <= MANTISSA_BITS:
        raise ParameterError(got("bits", bits, f"1 to {MANTISSA_BITS}"))
    if not isinstance(source, xr.Dataset):
        source, kind = read.open_store(source), str(read_attrs(source).get("kind", "trace"))
    rounded = {name: _rounded(array, bits) for name, array in source.data_vars.items() if array.dtype == np.float32}
    ds = source.assign(rounded)
    ds = ds.assign(
        {name: array.chunk(_chunks(array)) for name, array in ds.data_vars.items() if array.chunks is not None}
    )
    with files.refusals_told(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
            tree = Path(folder, "tree")
            write_whole(tree, ds, {"kind": kind}, encoding=_encoding(ds))
            _zip(tree, Path(folder, "packed")).replace(target)
    return target


def _rounded(array: xr.DataArray, bits: int) -> xr.DataArray:
    """To the nearest values that these bits can hold, ties to even."""
    codec = BitRound(keepbits=bits)
    return xr.apply_ufunc(
        lambda values: codec.decode(codec.encode(np.array(values))).reshape(values.shape),
        array, dask="parallelized", output_dtypes=[np.float32], keep_attrs=True,
    )  # fmt: skip


def _chunks(array: xr.DataArray) -> dict[str, int]:
    """Whole arrays where they are small; else as many samples (or conditions) as fit."""
    along = next((dim for dim in ("sample", "map_condition") if dim in array.dims), None)
    chunks = {str(dim): size for dim, size in array.sizes.items()}
    if along is not None:
        others = array.nbytes // max(1, array.sizes[along])
        chunks[along] = min(array.sizes[along], max(1, PACKED_CHUNK_BYTES // max(1, others)))
    return {dim: max(1, size) for dim, size in chunks.items()}


def _encoding(ds: xr.Dataset) -> dict[str, dict[str, object]]:
    encoding: dict[str, dict[str, object]] = {}
    for name, array in ds.data_vars.items():
        chunks = tuple(_chunks(array)[str(dim)] for dim in array.dims)
        encoding[str(name)] = {"chunks": chunks}
        if array.dtype.kind in "fiub":
            width = array.dtype.itemsize
            block = math.prod(chunks) * width  # the whole chunk: small blocks find fewer repetitions
            codec = BloscCodec(cname="zstd", clevel=9, shuffle="shuffle", typesize=width, blocksize=block)
            encoding[str(name)]["compressors"] = [codec]
    return encoding


def _zip(tree: Path, packed: Path) -> Path:
    """Files in order of name and without times: packing twice gives the same bytes."""
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(path for path in tree.rglob("*") if path.is_file()):
            info = zipfile.ZipInfo(file.relative_to(tree).as_posix(), NO_CLOCK)
            info.external_attr = 0o644 << 16
            # chunks are compressed already; the metadata of forty arrays is not, and would weigh as much as they do
            info.compress_type = zipfile.ZIP_DEFLATED if file.name == METADATA else zipfile.ZIP_STORED
            archive.writestr(info, file.read_bytes())
    return packed
