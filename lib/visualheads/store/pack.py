"""Pack a store into one small file that can be shipped: bit-rounded, compressed, byte for byte the same each time."""

from __future__ import annotations

import contextlib
import math
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import xarray as xr
from numcodecs import BitRound
from zarr.codecs import BloscCodec

from visualheads.errors import ParameterError, got
from visualheads.store import files, read
from visualheads.store.files import METADATA
from visualheads.store.layout import write_whole

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
    ds, kind = (source, kind) if isinstance(source, xr.Dataset) else _opened(source)
    rounded = {name: _rounded(array, bits) for name, array in ds.data_vars.items() if array.dtype == np.float32}
    ds = ds.assign(rounded)
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


def _opened(source: str | Path) -> tuple[xr.Dataset, str]:
    return read.open_store(source), str(read.read_attrs(Path(source)).get("kind", "trace"))


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
    with contextlib.closing(zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED)) as archive:
        for file in sorted(path for path in tree.rglob("*") if path.is_file()):
            info = zipfile.ZipInfo(file.relative_to(tree).as_posix(), NO_CLOCK)
            info.external_attr = 0o644 << 16
            # chunks are compressed already; the metadata of forty arrays is not, and would weigh as much as they do
            info.compress_type = zipfile.ZIP_DEFLATED if file.name == METADATA else zipfile.ZIP_STORED
            archive.writestr(info, file.read_bytes())
    return packed
