"""Files that are written whole or not at all, and what a disk refuses told as errors a user can act on.

The files of a Zarr store (format 3), one by one: metadata as JSON, chunks as compressed bytes.

What lies on disk is plain Zarr, which any reader opens, and large arrays are read with zarr. Making and opening a
store of forty small arrays through its event loop, though, takes as long as a short prompt takes a small model; whole
files are written and read here in a tenth of that.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import math
import os
import uuid
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import Blosc, VLenUTF8, Zstd

from visualheads.errors import DiskFullError, StoreError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_file(file: Path, raw: bytes) -> None:
    """Whole or not at all, whoever else writes it at the same time. Raises OSError: see `refusals_told`."""
    draft = file.with_name(f".{file.name}.{uuid.uuid4().hex}.partial")
    try:
        try:
            draft.write_bytes(raw)
        except FileNotFoundError:
            file.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(raw)
        os.replace(draft, file)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def refusals_told(path: Path) -> Iterator[None]:
    """Within, a full disk is DiskFullError, and anything else that the disk refuses is StoreError."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise DiskFullError(
                f"no space left for {path}; what is done is kept: make room and run the same command again."
            ) from error
        raise StoreError(f"cannot write {path}: {error}") from error


METADATA = "zarr.json"
FORMAT = 3
BLOSC = {"cname": "zstd", "clevel": 3, "shuffle": "shuffle", "blocksize": 0}
BLOSC_LENGTH = slice(12, 16)
"""Bytes of a blosc header that tell the length of the whole."""
ZSTD = {"level": 0, "checksum": False}
SHUFFLES = {"noshuffle": Blosc.NOSHUFFLE, "shuffle": Blosc.SHUFFLE, "bitshuffle": Blosc.BITSHUFFLE}

Metadata = Mapping[str, Any]
"""What `zarr.json` says of an array."""


def array_metadata(
    dims: Sequence[str],
    shape: Sequence[int],
    dtype: np.dtype | str,
    *,
    chunks: Sequence[int] | None = None,
    fill: float | str | bool = 0,
    attributes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Metadata of a new array of text ("str" or an object dtype) or numbers; one chunk unless `chunks` says else."""
    kind = np.dtype(dtype)
    text = kind.kind in "OUT"
    compressor = (
        {"name": "zstd", "configuration": ZSTD}
        if text
        else {"name": "blosc", "configuration": {"typesize": kind.itemsize, **BLOSC}}
    )
    serializer = {"name": "vlen-utf8"} if text else {"name": "bytes", "configuration": {"endian": "little"}}
    return {
        "zarr_format": FORMAT,
        "node_type": "array",
        "shape": list(shape),
        "data_type": "string" if text else kind.name,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [max(1, length) for length in (chunks or shape)]},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": "NaN" if isinstance(fill, float) and math.isnan(fill) else ("" if text else fill),
        "codecs": [serializer, compressor],
        "attributes": dict(attributes or {}),
        "dimension_names": list(dims),
    }


def group_metadata(attributes: Mapping[str, Any], arrays: Mapping[str, Metadata]) -> dict[str, Any]:
    """Metadata of the group of these arrays, theirs included: opening it reads one file."""
    inline = {"kind": "inline", "must_understand": False, "metadata": dict(arrays)}
    return {
        "zarr_format": FORMAT,
        "node_type": "group",
        "attributes": dict(attributes),
        "consolidated_metadata": inline,
    }


def read_file(path: Path, name: str) -> bytes | None:
    """One file of a store, a folder or a zip; None where it is missing."""
    if path.suffix != ".zip":
        try:
            return (path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
    with zipfile.ZipFile(path) as archive:
        return archive.read(name) if name in archive.NameToInfo else None


def read_files(path: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Those of these files that are there."""
    if path.suffix != ".zip":
        read = ((name, read_file(path, name)) for name in names)
        return {name: raw for name, raw in read if raw is not None}
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in names if name in archive.NameToInfo}


def arrays_of(path: Path, group: Mapping[str, Any]) -> dict[str, Metadata]:
    """The metadata of the arrays of a store, by name: out of the group's, or read one by one."""
    inline = group.get("consolidated_metadata")
    if inline:
        return {name: found for name, found in inline["metadata"].items() if found["node_type"] == "array"}
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(f"/{METADATA}")]
    else:
        names = [str(file.relative_to(path)) for file in sorted(path.glob(f"*/{METADATA}"))]
    return {name.split("/")[0]: json.loads(raw) for name, raw in read_files(path, names).items()}


def dtype_of(array: Metadata) -> np.dtype:
    """As it is in memory: text is object."""
    return np.dtype(object if array["data_type"] == "string" else array["data_type"])


def chunk_shape(array: Metadata) -> tuple[int, ...]:
    return tuple(array["chunk_grid"]["configuration"]["chunk_shape"])


def chunk_name(array: Metadata, place: Sequence[int]) -> str:
    """The file of a chunk, within its array's folder."""
    separator = array["chunk_key_encoding"].get("configuration", {}).get("separator", "/")
    return separator.join(("c", *map(str, place)))


def fill_of(array: Metadata) -> Any:
    """What stands where no chunk was written."""
    value = array["fill_value"]
    return float(value) if value == "NaN" else value


def encode(array: Metadata, values: np.ndarray) -> bytes:
    """A chunk's bytes."""
    if array["data_type"] == "string":
        raw: Any = VLenUTF8().encode(values.astype(object).ravel())
    else:
        raw = np.ascontiguousarray(values, dtype=dtype_of(array).newbyteorder("<"))
    for codec in array["codecs"][1:]:
        raw = _compressor(codec).encode(raw)
    return bytes(raw)


def decode(array: Metadata, raw: bytes) -> np.ndarray:
    """A chunk's values. Raises ValueError or RuntimeError for bytes that are none."""
    packed: Any = raw
    for codec in reversed(array["codecs"][1:]):
        compressor = _compressor(codec)
        if isinstance(compressor, Blosc) and int.from_bytes(packed[BLOSC_LENGTH], "little") != len(packed):
            raise ValueError("a chunk is cut off")  # blosc itself would read beyond the end
        packed = compressor.decode(packed)
    if array["data_type"] == "string":
        values = np.asarray(VLenUTF8().decode(packed), dtype=object)
    else:
        values = np.frombuffer(packed, dtype_of(array).newbyteorder("<")).astype(dtype_of(array))
    return values.reshape(chunk_shape(array))


def _compressor(codec: Mapping[str, Any]) -> Blosc | Zstd:
    told = dict(codec.get("configuration", {}))
    if codec["name"] == "zstd":
        return Zstd(**told)
    if codec["name"] == "blosc":
        told["shuffle"] = SHUFFLES[told["shuffle"]]
        return Blosc(**told)
    raise ValueError(f"chunks are compressed with {codec['name']}")


def read_array(path: Path, name: str, array: Metadata) -> np.ndarray:
    """All values of a small array. Raises ValueError or RuntimeError for damaged chunks."""
    shape, chunk = tuple(array["shape"]), chunk_shape(array)
    values = np.full(shape, fill_of(array), dtype_of(array))
    counts = [range(-(-size // length)) for size, length in zip(shape, chunk, strict=True)]
    places = {f"{name}/{chunk_name(array, place)}": place for place in itertools.product(*counts)}
    for file, raw in read_files(path, places).items():
        starts = [index * length for index, length in zip(places[file], chunk, strict=True)]
        region = tuple(slice(start, start + length) for start, length in zip(starts, chunk, strict=True))
        part = values[*region, ...]  # the dots keep an array where there are no dimensions
        part[...] = decode(array, raw)[*(slice(0, size) for size in part.shape), ...]
    return values


def write_region(path: Path, name: str, array: Metadata, values: np.ndarray, start: Sequence[int]) -> None:
    """Write values that begin at the first cell of a chunk and end with one (or the array), each chunk atomically.

    Chunks with nothing but the fill value have no file.
    """
    chunk, fill = chunk_shape(array), fill_of(array)
    first = [begin // length for begin, length in zip(start, chunk, strict=True)]
    counts = [range(-(-size // length)) for size, length in zip(values.shape, chunk, strict=True)]
    for place in itertools.product(*counts):
        part = values[tuple(slice(i * length, (i + 1) * length) for i, length in zip(place, chunk, strict=True))]
        file = path / name / chunk_name(array, [a + b for a, b in zip(first, place, strict=True)])
        if ((part != part) if fill != fill else (part == fill)).all():
            file.unlink(missing_ok=True)
            continue
        if part.shape != chunk:
            whole = np.full(chunk, fill, dtype_of(array))
            whole[tuple(slice(0, size) for size in part.shape)] = part
            part = whole
        write_file(file, encode(array, part))


def write_new(
    folder: Path, attributes: Mapping[str, Any], arrays: Mapping[str, tuple[Metadata, np.ndarray | None]]
) -> None:
    """A whole new store in a folder that nobody reads yet: name → metadata, and values of arrays of one chunk."""
    folder.mkdir()
    for name, (array, values) in arrays.items():
        (folder / name).mkdir()
        (folder / name / METADATA).write_text(json.dumps(array))
        if values is not None and values.size:
            place = [0] * values.ndim
            (folder / name / chunk_name(array, place)).write_bytes(encode(array, values))
    group = group_metadata(attributes, {name: array for name, (array, _) in arrays.items()})
    (folder / METADATA).write_text(json.dumps(group))
