"""What a store will hold, before anything is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import xarray as xr

from visualheads.errors import ParameterError, got
from visualheads.variables import SHARD_VARIABLES, TRACED, VARIABLES, Variable

SHARD = 32
"""Samples per shard by default: seconds of work on a laptop, some hundred shards for a whole benchmark."""
KEEPABLE = ("mean_map", "maps")
GRID_DIMS = ("grid_row", "grid_column")


@dataclass(frozen=True)
class Plan:
    """What a store will hold; shards are a pure function of it.

    coords      all coordinates, as `schema.coordinates` makes them; further dims (a sweep's `set`) come from here too
    variables   name → dims for variables other than the traced ones (a sweep); None: everything a trace measures
    kind        "trace", or what else the store holds; `open_results` opens one kind
    Raises ParameterError for a shard length below 1, something that cannot be kept, or a missing grid.
    """

    coords: xr.Dataset
    identity: Mapping[str, Any]
    circumstance: Mapping[str, Any] = field(default_factory=dict)
    shard: int = SHARD
    keep: tuple[str, ...] = ()
    grid: tuple[int, int] | None = None
    variables: Mapping[str, tuple[str, ...]] | None = None
    kind: str = "trace"

    def __post_init__(self) -> None:
        if self.shard < 1:
            raise ParameterError(got("shard", self.shard, "1 or more samples"))
        for name in self.keep:
            if name not in KEEPABLE:
                raise ParameterError(got("keep", name, KEEPABLE, "trace in memory to keep whole attention rows"))
        if self.keep and self.grid is None:
            raise ParameterError(got("grid", None, "(rows, columns) of the whole-picture grid", "give it to keep maps"))
        if "mean_map" in self.keep and "condition" not in self.coords.sizes:
            raise ParameterError("mean maps need groups of samples; give groups= to schema.coordinates.")
        if "maps" in self.keep and "selected_head" not in self.coords.sizes:
            raise ParameterError("maps need the heads they are of; give selected= to schema.coordinates.")

    @property
    def n_samples(self) -> int:
        return self.coords.sizes["sample"]

    @property
    def n_shards(self) -> int:
        return -(-self.n_samples // self.shard)

    def slice(self, index: int) -> slice:
        """The samples of a shard, as a slice of the list."""
        return shard_slice(index, self.shard, self.n_samples)

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
    count = -(-samples // shard)
    if not 0 <= index < count:
        raise ParameterError(got("shard", index, f"0 to {count - 1}"))
    return slice(index * shard, min((index + 1) * shard, samples))


def _known(name: str, dims: Sequence[str]) -> Variable:
    if name not in VARIABLES:
        raise ParameterError(got("variable", name, VARIABLES))
    return Variable(name, "", "", dims=tuple(dims), dtype=VARIABLES[name].dtype)
