"""Stores written from made-up datasets."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from helpers.datasets import groups_in, map_sums, traced_dataset
from visualheads.store import write

IDENTITY = {"checkpoint": "m", "weights": "abc", "seed": 0, "dtype": "float32"}
CIRCUMSTANCE = {"device": "cpu", "torch": "2.13"}
GRID = (2, 3)


def plan_for(ds: xr.Dataset, shard: int = 5, **changes: object) -> write.StorePlan:
    """A plan whose coordinates are those of a synthetic dataset with mean maps."""
    coords = ds.drop_vars(list(ds.data_vars))
    settings = {"identity": IDENTITY, "circumstance": CIRCUMSTANCE, "keep": ("mean_map",), "grid": GRID} | changes
    return write.StorePlan(coords, shard=shard, **settings)  # type: ignore[arg-type]


def part_of(ds: xr.Dataset, plan: write.StorePlan, index: int | slice) -> xr.Dataset:
    """What a tracer hands over for a shard, or for these samples."""
    chosen = plan.slice(index) if isinstance(index, int) else index
    part = ds.drop_vars(["mean_map", "mean_map_count", "provenance"]).isel(sample=chosen)
    return map_sums(part, groups_in(ds), GRID)


def fill(path: Path, ds: xr.Dataset, plan: write.StorePlan, shards: list[int] | None = None) -> None:
    for index in write.pending(path) if shards is None else shards:
        write.write_shard(path, index, part_of(ds, plan, index))


def stored(
    folder: Path, ds: xr.Dataset, task: str = "looktwice", done: list[int] | None = None, **identity: str | int
) -> Path:
    """Write a synthetic dataset as a store of shards of five."""
    path = folder / str(ds["model"].item()) / f"{task}.zarr"
    coords = ds.drop_vars(list(ds.data_vars))
    plan = write.StorePlan(
        coords, {"checkpoint": str(ds["model"].item()), **identity}, {"device": "cpu"}, 5, ("mean_map",), GRID
    )
    write.create(path, plan)
    if done is None:
        fill(path, ds, plan)
    for index in done or []:
        write.write_shard(path, index, part_of(ds, plan, index))
    return path


def traced(
    model: str, layers: int, heads: int, samples: int = 12, task: str = "looktwice", **more: object
) -> xr.Dataset:
    return traced_dataset(model, layers, heads, samples, task=task, maps=True, grid=GRID, **more)  # type: ignore[arg-type]
