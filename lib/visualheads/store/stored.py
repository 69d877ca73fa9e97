"""A store as it lies on disk: found, checked, its shards' records and parts read; also while it is being filled.

A record is written when all files of its shard are on disk, and makes the shard done. The store's array `done`, marked
after it, tells other readers of Zarr the same, and this one of a record that is lost.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import BloscCodec
from zarr.storage import LocalStore

from visualheads.errors import ParameterError, StoreError, got
from visualheads.store import files
from visualheads.store.schema import text_as_objects
from visualheads.store.variables import MAP_COORDINATES, SHARD_VARIABLES, TRACED, VARIABLES, Variable

FORMAT = 2
"""Version of the layout on disk. In 1, files had no checksums and shards no records; it is read, never continued."""
READABLE = (1, FORMAT)
SHARD = 128
"""Samples per shard by default: seconds of work for a small model, minutes for a large one, and whole batches."""
KEEPABLE = ("mean_map", "maps")
GRID_DIMS = ("grid_row", "grid_column")
COMPRESSOR = BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")
DONE, HASHES = "done", "sample_hash"
INNER = (
    Variable(DONE, "shard is complete", "1", dims=("shard",), dtype="bool"),
    Variable(HASHES, "what the sample was asked, and about which picture", "1", dims=("sample",), dtype="str"),
)
"""Arrays that are the store's own."""


@dataclass(frozen=True)
class StorePlan:
    """What a store will hold; shards are a pure function of it.

    Parameters
    ----------
    coords : xarray.Dataset
        All coordinates, as `schema.coordinates` makes them; further dims (a sweep's `set`) come from here too.
    identity, circumstance : mapping
        What decides the numbers, and what should not. Whatever JSON can hold.
    shard : int
        Samples per shard: the length of chunks along `sample`. A store that is there keeps its own.
    keep : tuple of str
        "mean_map", "maps".
    grid : (int, int), optional
        Rows and columns of the maps.
    variables : mapping of str to tuple of str, optional
        Name → dims of variables other than the traced ones (a sweep); by default everything a trace measures.
    kind : str
        "trace", or what else the store holds; `open_results` opens one kind.
    hashes : sequence of str
        What decides each sample's own numbers: its question, its picture, its prompt. Empty: its id alone.
    answers : str
        What margins are over: those of samples measured over other answers are not shown.

    Raises
    ------
    ParameterError
        For a shard length below 1, something that cannot be kept, or a missing grid.
    """

    coords: xr.Dataset
    identity: Mapping[str, Any]
    circumstance: Mapping[str, Any] = field(default_factory=dict)
    shard: int = SHARD
    keep: tuple[str, ...] = ()
    grid: tuple[int, int] | None = None
    variables: Mapping[str, tuple[str, ...]] | None = None
    kind: str = "trace"
    hashes: Sequence[str] = ()
    answers: str = ""

    def __post_init__(self) -> None:
        if self.shard < 1:
            raise ParameterError(got("shard", self.shard, "1 or more samples"))
        for name in self.keep:
            if name not in KEEPABLE:
                raise ParameterError(got("keep", name, KEEPABLE, "trace in memory to keep whole attention rows"))
        if self.keep and self.grid is None:
            raise ParameterError(got("grid", None, "(rows, columns) of the whole-picture grid", "give it to keep maps"))
        if "mean_map" in self.keep and "map_condition" not in self.coords.sizes:
            raise ParameterError("mean maps need groups of samples; give groups= to schema.coordinates.")
        if "maps" in self.keep and "selected_head" not in self.coords.sizes:
            raise ParameterError("maps need the heads they are of; give selected= to schema.coordinates.")

    @property
    def samples(self) -> list[str]:
        """The ids of all samples, in order."""
        return [str(i) for i in self.coords["sample"].values]

    @property
    def n_shards(self) -> int:
        return -(-self.coords.sizes["sample"] // self.shard)

    def slice(self, index: int) -> slice:
        """The samples of a shard, as a slice of the list."""
        return shard_slice(index, self.shard, self.coords.sizes["sample"])

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
    """The samples of shard `index` of a list of that many, as a slice."""
    count = -(-samples // shard)
    if not 0 <= index < count:
        raise ParameterError(got("shard", index, f"0 to {count - 1}"))
    return slice(index * shard, min((index + 1) * shard, samples))


def write_planned(folder: Path, plan: StorePlan) -> None:
    """A whole new store with nothing measured in it yet."""
    coords = plan.coords.assign({HASHES: ("sample", list(plan.hashes) or [""] * len(plan.samples))})
    attrs = {
        "kind": plan.kind,
        "shard": plan.shard,
        "identity": dict(plan.identity),
        "circumstance": dict(plan.circumstance),
        "answers": plan.answers,
    }
    write_whole(folder, coords, attrs, empty=(*plan.layout().values(), INNER[0]), sizes=plan.sizes(), shard=plan.shard)


def write_whole(
    folder: Path,
    ds: xr.Dataset,
    attrs: Mapping[str, Any],
    *,
    encoding: Mapping[str, Any] | None = None,
    empty: Sequence[Variable] = (),
    sizes: Mapping[str, int] | None = None,
    shard: int = SHARD,
) -> None:
    """A dataset as a new Zarr store of this layout, with the checksums of all its files.

    Parameters
    ----------
    folder : Path
        Where; there is nothing yet, and nobody reads it before this is done.
    ds : xarray.Dataset
        What is written now. Its attributes are not kept.
    attrs : mapping
        What the store says of itself.
    encoding : mapping, optional
        As in `xarray.Dataset.to_zarr`.
    empty, sizes, shard
        Variables that are filled later, the lengths of their dims, and of their chunks along `sample`.
    """
    store = files.CheckedStore(LocalStore(folder), folder)
    bare = text_as_objects(ds.drop_encoding())
    bare.attrs = {}
    bare.to_zarr(store, mode="w", zarr_format=3, consolidated=False, encoding=dict(encoding or {}))
    group = zarr.open_group(store, mode="r+", use_consolidated=False)
    for variable in empty:
        _add(group, variable, sizes or {}, shard)
    document = json.loads((folder / files.METADATA).read_bytes())
    names = [*map(str, bare.variables), *(variable.name for variable in empty)]
    document |= files.consolidated({name: (folder / name / files.METADATA).read_bytes() for name in names})
    document["attributes"] |= {"visualheads_store": FORMAT, **attrs, "files": dict(sorted(store.known.items()))}
    (folder / files.METADATA).write_bytes(files.sealed(document))


def _add(group: zarr.Group, variable: Variable, sizes: Mapping[str, int], shard: int) -> None:
    # A mean map's chunk holds one group: lists are in blocks of a condition, and empty chunks take no space.
    lengths = {"sample": shard, "shard": 1} | ({"map_condition": 1} if "shard" in variable.dims else {})
    summed = "shard" in variable.dims and variable.dtype in ("float32", "int32")
    group.create_array(
        variable.name,
        shape=tuple(sizes[dim] for dim in variable.dims),
        chunks=tuple(max(1, lengths.get(dim, sizes[dim])) for dim in variable.dims),
        dtype=variable.dtype,
        fill_value=0 if summed else variable.missing,
        compressors=None if variable.name == DONE else "auto" if variable.dtype == "str" else COMPRESSOR,
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=variable.dims,
        attributes={**variable.attrs},
    )


def _known(name: str, dims: Sequence[str]) -> Variable:
    if name not in VARIABLES:
        raise ParameterError(got("variable", name, VARIABLES))
    return Variable(name, "", "", dims=tuple(dims), dtype=VARIABLES[name].dtype)


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
    def measured(self) -> set[str]:
        """The ids of the samples that are measured: all of a store that was written at once."""
        if "shard" not in self.attrs:
            return set(self.ids)
        return {name for record in self.records if record for name in record.samples}

    @property
    def n_shards(self) -> int:
        return -(-len(self.ids) // self.shard)

    @cached_property
    def group(self) -> zarr.Group:
        """All arrays. Raises StoreError where their metadata is damaged."""
        with self._reading(files.METADATA):
            return zarr.open_group(self.files, mode="r", zarr_format=3, use_consolidated=True)

    @cached_property
    def coordinates(self) -> set[str]:
        """The names of the arrays that are coordinates."""
        return set(map(str, xr.open_zarr(self.files, chunks=None, consolidated=True, zarr_format=3).coords))

    def values(self, name: str) -> np.ndarray:
        """All values of a small array, text as objects. Raises StoreError where they are damaged."""
        with self._reading(name):
            array: Any = self.group[name]
            values = np.asarray(array[...])
        return values.astype(object) if values.dtype.kind == "T" else values

    def dataset(self) -> xr.Dataset:
        """Everything as it lies there, lazily, coordinates and text in memory and as objects, under today's names."""
        if "shard" in self.attrs:
            _ = self.records  # from now on, every file is checked when it is read
        with self._reading("its metadata or a coordinate"):
            ds = xr.open_zarr(self.files, chunks=None, consolidated=True, zarr_format=3)
            if "condition" in ds.dims:  # layout 1 called the mean maps' dimension as it called a samples' coordinate
                ds = ds.swap_dims({"condition": MAP_COORDINATES[0]})
            for name in ds.coords:
                ds.variables[name].load()
            return text_as_objects(ds)

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Within, what cannot be read is a StoreError that names this part of the store."""
        try:
            yield
        except StoreError:
            raise
        except UNREADABLE as error:
            raise StoreError(
                f"{self.path} is damaged: {name} cannot be read ({error}); move it away and trace again."
            ) from error

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
