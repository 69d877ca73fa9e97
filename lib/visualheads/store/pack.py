"""Pack a store into one small file that can be shipped: bit-rounded, compressed, byte for byte the same each time."""

from __future__ import annotations

import contextlib
import math
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import xarray as xr
from zarr.codecs import BloscCodec

from visualheads.errors import ParameterError, StoreError, got
from visualheads.store import read
from visualheads.store.files import METADATA

KEPT_BITS = 10
"""Mantissa bits kept of a float32: a relative error below 0.05 %, as a half float has, over the whole range."""
MANTISSA_BITS = 23
NO_CLOCK = (1980, 1, 1, 0, 0, 0)
"""Zip files carry times; the earliest they can tell says nothing."""
PACKED_CHUNK_BYTES = 4 * 2**20


def pack(source: str | Path | xr.Dataset, target: str | Path, bits: int = KEPT_BITS, kind: str = "trace") -> Path:
    """Write a store, or a dataset in memory, to `target` (a *.zarr.zip), which `open_store` and `open_results` open.

    `kind` tells what a dataset in memory holds; a store knows its own.

    Only samples that are done are packed. Rounding keeps `bits` of the 23 mantissa bits and never moves a value past
    another, so every invariant survives; 23 keeps float32 exactly. Written beside its place and moved there whole.
    Raises ParameterError for another file name or number of bits, StoreError where nothing can be written.
    """
    target = Path(target)
    if not target.name.endswith(read.PACKED):
        raise ParameterError(got("packed store", str(target), f"a name that ends in {read.PACKED}"))
    if not 1 <= bits <= MANTISSA_BITS:
        raise ParameterError(got("bits", bits, f"1 to {MANTISSA_BITS}"))
    ds, kind = (source, kind) if isinstance(source, xr.Dataset) else _opened(source)
    ds = ds.assign({name: _rounded(array, bits) for name, array in ds.data_vars.items() if array.dtype == np.float32})
    ds = _writable(ds)
    ds.attrs = {"visualheads_store": read.FORMAT, "kind": kind}
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
            tree = Path(folder, "tree")
            ds.to_zarr(tree, mode="w", zarr_format=3, consolidated=False, encoding=_encoding(ds))
            _zip(tree, Path(folder, "packed")).replace(target)
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error}") from error
    return target


def _opened(source: str | Path) -> tuple[xr.Dataset, str]:
    return read.open_store(source), str(read.read_attrs(Path(source)).get("kind", "trace"))


def _rounded(array: xr.DataArray, bits: int) -> xr.DataArray:
    return xr.apply_ufunc(
        _round_mantissa, array, bits, dask="parallelized", output_dtypes=[np.float32], keep_attrs=True
    )


def _round_mantissa(values: np.ndarray, bits: int) -> np.ndarray:
    """Round to the nearest float32 with `bits` mantissa bits, ties away from zero; NaN stays NaN."""
    drop = MANTISSA_BITS - bits
    if drop == 0:
        return values
    raw = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (raw + np.uint32(1 << (drop - 1))) & np.uint32(0xFFFFFFFF << drop & 0xFFFFFFFF)
    return np.where(np.isfinite(values), rounded.view(np.float32), values)


def _writable(ds: xr.Dataset) -> xr.Dataset:
    """Text in memory (xarray will not guess the type of lazy objects), encodings of the source gone."""
    ds = ds.drop_encoding()
    wide = {name: ds[name].astype(object) for name in ds.variables if ds[name].dtype.kind == "U"}  # zarr warns of it
    ds = ds.assign_coords({name: values for name, values in wide.items() if name in ds.coords})
    ds = ds.assign({name: values for name, values in wide.items() if name not in ds.coords})
    texts = {name: array.load() for name, array in ds.data_vars.items() if array.dtype == object}
    lazy = {name: array.chunk(_chunks(array)) for name, array in ds.data_vars.items() if array.chunks is not None}
    return ds.assign(lazy).assign(texts)


def _chunks(array: xr.DataArray) -> dict[str, int]:
    """Whole arrays where they are small; else as many samples (or conditions) as fit."""
    along = next((dim for dim in ("sample", "condition") if dim in array.dims), None)
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
    with contextlib.closing(zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED)) as archive:
        for file in sorted(path for path in tree.rglob("*") if path.is_file()):
            info = zipfile.ZipInfo(file.relative_to(tree).as_posix(), NO_CLOCK)
            info.external_attr = 0o644 << 16
            # chunks are compressed already; the metadata of forty arrays is not, and would weigh as much as they do
            info.compress_type = zipfile.ZIP_DEFLATED if file.name == METADATA else zipfile.ZIP_STORED
            archive.writestr(info, file.read_bytes())
    return packed
