"""Add samples to a store: the same store, longer, with what is measured already."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr

from visualheads.models.provenance import hash_list
from visualheads.store import files
from visualheads.store.layout import DONE, HASHES, StorePlan, write_planned
from visualheads.store.schema import text_as_objects
from visualheads.store.shards import record_key
from visualheads.store.stored import Stored
from visualheads.store.variables import MAP_COORDINATES

REPLACED = ".replaced"
"""Ending of the name of a store while a longer one is put in its place."""


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
        hashes=hashes,
    )
    draft, before = files.draft_of(path), path.with_name(path.name + REPLACED)
    try:
        write_planned(draft, longer)
        for index in range(stored.n_shards):
            record = stored.record(index)
            for key in (*record.files, record_key(index), f"{DONE}/c.{index}") if record else ():
                (draft / key).parent.mkdir(parents=True, exist_ok=True)
                os.link(path / key, draft / key)
        path.rename(before)
        draft.rename(path)
        shutil.rmtree(before)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


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
