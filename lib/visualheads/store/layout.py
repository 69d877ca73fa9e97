"""What a store will hold, before anything is measured, and how a dataset becomes the files of a new store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xarray as xr
import zarr
from zarr.codecs import BloscCodec
from zarr.storage import LocalStore

from visualheads.errors import ParameterError, got
from visualheads.store import files
from visualheads.store.schema import text_as_objects
from visualheads.store.variables import SHARD_VARIABLES, TRACED, VARIABLES, Variable

FORMAT = 2
"""Version of the layout on disk. In 1, files had no checksums and shards no records; it is read, never continued."""
READABLE = (1, FORMAT)
SHARD = 32
"""Samples per shard by default: seconds of work on a laptop, some hundred shards for a whole benchmark."""
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
        Samples per shard: the length of chunks along `sample`.
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
