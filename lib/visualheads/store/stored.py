"""A store as it lies on disk: found, checked, its shards' records and parts read; also while it is being filled.

A record is written when all files of its shard are on disk, and makes the shard done. The store's array `done`, marked
after it, tells other readers of Zarr the same, and this one of a record that is lost.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from visualheads.errors import StoreError
from visualheads.store import files
from visualheads.store.layout import DONE, FORMAT, READABLE
from visualheads.store.schema import text_as_objects
from visualheads.store.variables import MAP_COORDINATES

FOLDER = "shards"


CIRCUMSTANCE = "circumstance"
UNREADABLE = (
    OSError, ValueError, LookupError, AttributeError, TypeError, RuntimeError, MemoryError, OverflowError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What zarr, xarray and zipfile raise for files that are damaged."""


@dataclass(frozen=True)
class Record:
    """A shard that is done, or done for some of its samples.

    samples        ids of those that are measured, in the store's order
    files          checksum of every file that was written, by key
    circumstance   on what it was measured; empty: what the store says
    answers        what its margins are over
    """

    samples: tuple[str, ...]
    files: Mapping[str, files.Checksum] = field(default_factory=dict)
    circumstance: Mapping[str, Any] = field(default_factory=dict)
    answers: str = ""


def record_key(index: int) -> str:
    """The file of a shard's record within its store."""
    return f"{FOLDER}/{index}.json"


def read_record(path: Path, index: int) -> Record | None:
    """The record of a shard; None where there is none. Raises StoreError for a damaged one."""
    try:
        attributes = files.unsealed((path / record_key(index)).read_bytes())["attributes"]
        checksums = {key: (crc, length) for key, (crc, length) in attributes["files"].items()}
        return Record(tuple(attributes["samples"]), checksums, attributes["circumstance"], str(attributes["answers"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(files.damage_told(path, record_key(index), "checksum")) from error


def write_record(path: Path, index: int, record: Record) -> None:
    """Put the record there, on disk when this returns. Raises OSError."""
    attributes = {
        "samples": list(record.samples),
        "files": dict(sorted(record.files.items())),
        "circumstance": dict(record.circumstance),
        "answers": record.answers,
    }
    files.write_file(path / record_key(index), files.sealed({"attributes": attributes}), sync=True)


@dataclass(frozen=True)
class Stored:
    """A store as it lies on disk: what it says of itself, and its files, which are checked when they are read."""

    path: Path
    attrs: dict[str, Any]
    files: files.CheckedStore

    @property
    def shard(self) -> int:
        """Samples per shard."""
        return int(self.attrs["shard"])

    @cached_property
    def ids(self) -> list[str]:
        """The ids of all samples, measured or not."""
        return [str(i) for i in self.values("sample")]

    @property
    def n_shards(self) -> int:
        return -(-len(self.ids) // self.shard)

    @cached_property
    def group(self) -> zarr.Group:
        """All arrays. Raises StoreError where their metadata is damaged."""
        try:
            return zarr.open_group(self.files, mode="r", zarr_format=3, use_consolidated=True)
        except UNREADABLE as error:
            raise self.damaged(files.METADATA, error) from error

    @cached_property
    def coordinates(self) -> set[str]:
        """The names of the arrays that are coordinates."""
        return set(map(str, xr.open_zarr(self.files, chunks=None, consolidated=True, zarr_format=3).coords))

    def values(self, name: str) -> np.ndarray:
        """All values of a small array, text as objects. Raises StoreError where they are damaged."""
        try:
            array: Any = self.group[name]
            values = np.asarray(array[...])
        except StoreError:
            raise
        except UNREADABLE as error:
            raise self.damaged(name, error) from error
        return values.astype(object) if values.dtype.kind == "T" else values

    def dataset(self) -> xr.Dataset:
        """Everything as it lies there, lazily, coordinates and text in memory and as objects, under today's names."""
        if "shard" in self.attrs:
            _ = self.records  # from now on, every file is checked when it is read
        try:
            ds = xr.open_zarr(self.files, chunks=None, consolidated=True, zarr_format=3)
            if "condition" in ds.dims:  # layout 1 called the mean maps' dimension as it called a samples' coordinate
                ds = ds.swap_dims({"condition": MAP_COORDINATES[0]})
            for name in ds.coords:
                ds.variables[name].load()
            return text_as_objects(ds)
        except StoreError:
            raise
        except UNREADABLE as error:
            raise self.damaged("its metadata or a coordinate", error) from error

    def damaged(self, name: str, error: Exception) -> StoreError:
        """An error about one part of the store that cannot be read."""
        return StoreError(f"{self.path} is damaged: {name} cannot be read ({error}); move it away and trace again.")

    def record(self, index: int) -> Record | None:
        """What a shard says of itself; None where it is not done. Raises StoreError where its record is damaged."""
        if self.attrs["visualheads_store"] == FORMAT:
            return read_record(self.path, index)
        part = slice(index * self.shard, (index + 1) * self.shard)
        told = str(self._circumstances[index])
        return Record(tuple(self.ids[part]), {}, json.loads(told) if told else {}) if self.done[index] else None

    @cached_property
    def done(self) -> np.ndarray:
        """The marks of the shards."""
        return self.values(DONE)

    @cached_property
    def _circumstances(self) -> np.ndarray:
        return self.values(CIRCUMSTANCE)

    @cached_property
    def records(self) -> list[Record | None]:
        """The records of all shards; reading data checks it against them from now on. Raises StoreError for damage."""
        done = self.done  # first: a shard that is done meanwhile then has its record too
        found = [self.record(index) for index in range(self.n_shards)]
        for index, record in enumerate(found):
            if record is None and done[index]:
                raise StoreError(files.damage_told(self.path, record_key(index), "missing"))
            self.files.known.update(record.files if record else {})
        return found

    def circumstances(self) -> list[dict[str, Any]]:
        """The circumstance the store was made in, then those of shards done in another one, each once."""
        told = [dict(self.attrs["circumstance"])]
        for record in self.records:
            if record and record.circumstance and dict(record.circumstance) not in told:
                told.append(dict(record.circumstance))
        return told


def opened(path: str | Path) -> Stored:
    """The store at a path. Raises StoreError when there is none, a damaged one, or one of an unknown layout."""
    path = Path(path)
    if not path.exists():
        raise StoreError(f"no store at {path}; trace into it first, or give the path of a *.zarr folder.")
    try:
        raw = files.read_file(path, files.METADATA)
        if raw is None:
            raise ValueError(f"it has no {files.METADATA}")
        document = json.loads(raw)
        version = document["attributes"].get("visualheads_store")
        if version == FORMAT or files.SEAL in document["attributes"]:
            document = files.unsealed(raw)
        if version not in READABLE:
            raise StoreError(
                f"{path} is not a results store of layout {' or '.join(map(str, READABLE))} (it says {version!r}); "
                "move it away and trace again."
            )
        if not document.get("consolidated_metadata"):
            document |= _gathered(path)
    except StoreError:
        raise
    except UNREADABLE as error:
        raise StoreError(
            f"{path} is not a readable zarr store ({files.METADATA}: {error}); move it away and trace again."
        ) from error
    attrs = document["attributes"]
    known = {key: (crc, length) for key, (crc, length) in attrs.pop("files", {}).items()}
    return Stored(path, attrs, files.CheckedStore(files.as_zarr(path), path, known, json.dumps(document).encode()))


def _gathered(path: Path) -> dict[str, Any]:
    """The metadata of all arrays of a packed store of layout 1, so that zarr need not read them one by one."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(f"/{files.METADATA}")]
        return files.consolidated({name.split("/")[0]: archive.read(name) for name in names})


def read_attrs(path: str | Path) -> dict[str, Any]:
    """What the store says of itself. Raises StoreError as `opened` does."""
    return opened(path).attrs
