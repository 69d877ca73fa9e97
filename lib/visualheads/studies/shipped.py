"""The full protocol's stores that are shipped with the project: where they lie, and whether they still hold.

`data/full/<model>/<name>.zarr.zip`. A store is used only where its identity – weights, task files, definitions, modes,
protocol – is that of what is there now. Making them is `visualheads.studies.full_protocol`'s work.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from visualheads.cards import cards, data_folder, learned_file, miniature_folder
from visualheads.interventions.modes import VERSION
from visualheads.interventions.sweeps import with_heads
from visualheads.models.provenance import hash_weights
from visualheads.models.smol.base_weights import weights_identity
from visualheads.paths import slug_of
from visualheads.store import stored
from visualheads.store.read import PACKED, open_store
from visualheads.store.schema import provenance
from visualheads.store.upkeep import pack
from visualheads.tasks import task as benchmark
from visualheads.tracing.measures import DEFINITIONS_VERSION

FULL = "full"
"""The folder of the shipped stores, in the data folder."""
PROTOCOL = "1"
"""Part of the identity: raised whenever the full protocol asks something else."""
REVISED = {"sinks": "5", "sink-removal": "4"}
"""By the name of a store: what stands for PROTOCOL where only this store's part has changed since, raised likewise."""
KEPT = ("reference", "bias")
"""Of the identity that a dataset brings along: what it was made with, kept where it is told. Stores shipped before
this was kept lack it, and hold nevertheless: only what `identity_of` names outdates a store."""
NULL = "null"
"""Name and kind of the store of untrained heads."""
BITS = 8
"""Mantissa bits kept of what is shipped: within 0.2 % of each number, and small."""


def full_folder() -> Path:
    """Where the shipped stores lie, there or not."""
    return data_folder() / FULL


def path_of(model: str, name: str, root: Path | None = None) -> Path:
    """Where one of a model's full stores lies, there or not. `root`: a folder other than the shipped one."""
    return (root or full_folder()) / slug_of(model) / f"{name}{PACKED}"


def task_folder(model: str, task: str, data: Path | None = None) -> Path:
    """Where the files of a benchmark lie that a model is asked: in a folder of its own below `data`, or `data` itself.

    data   None: the shipped scenes, of a model on a real language model those that it learned to see
    """
    card = cards().get(model)
    joined = card is not None and card.joined
    place = data or (data_folder() / "smol" / "scenes" if joined else data_folder() / "scenes")
    return place if joined and not (place / task).is_dir() else place / task


def is_own(model: str) -> bool:
    """Whether a model's weights lie in the project: a miniature, or what was learned of a joined model."""
    return miniature_folder(model).is_dir() or learned_file(model).is_file()


def identity_of(model: str, tasks: Sequence[str], name: str, data: Path | None = None) -> dict[str, Any]:
    """What decides the numbers of the full store `name`, as it is now; weights are "" for models whose folder is not
    there.

    data   folder of the official files, one folder per benchmark; None: the shipped scenes
    """
    folder, learned = miniature_folder(model), learned_file(model)
    weights = _weights(folder, _changed(folder)) if folder.is_dir() else ""
    files = {name: task_folder(model, name, data) for name in sorted(tasks)}
    return {
        "checkpoint": model,
        "weights": weights_identity(learned) if learned.is_file() else weights,
        "task_files": {name: _task_files(name, place, _changed(place)) for name, place in files.items()},
        "definitions": DEFINITIONS_VERSION,
        "interventions": VERSION,
        "protocol": REVISED.get(name, PROTOCOL),
    }


def ship(
    ds: xr.Dataset, model: str, name: str, tasks: Sequence[str], kind: str, circumstance: dict[str, Any] | None = None,
    root: Path | None = None, data: Path | None = None,
) -> Path:  # fmt: skip
    """Write one full store of a model, with the identity of what is there now; return its path.

    ds      dims (model, …) of this model alone; float32 is rounded to BITS; of its own identity KEPT is kept
    tasks   benchmarks whose files decided it; data: their folder, as in `identity_of`
    kind    as of any store: "sweep-zero-all", "sinks", …
    """
    told = np.empty(1, dtype=object)
    told[0] = provenance(identity_of(model, tasks, name, data) | _kept(ds), circumstance or {})
    return pack(ds.assign_coords(provenance=("model", told)), path_of(model, name, root), BITS, kind)


def why_outdated(path: Path, data: Path | None = None, ds: xr.Dataset | None = None) -> str:
    """Why a full store is not to be used; "" where it holds. Raises StoreError for a damaged store.

    data   as in `identity_of`. Without it the files of a model that is no miniature are not compared: it was asked
           official ones, which lie anywhere
    ds     the store, where it is open already
    """
    described = stored.opened(path).values("provenance") if ds is None else ds["provenance"].values
    told = json.loads(str(described[0]))["identity"]
    if slug_of(str(told.get("checkpoint", ""))) != path.parent.name:
        return f"made from {told.get('checkpoint')}, which is another model than its folder's"
    tasks = list(told.get("task_files", {}))
    model = str(told.get("checkpoint", ""))
    elsewhere = data is None and not is_own(model)
    now = identity_of(model, [] if elsewhere else tasks, path.name.removesuffix(PACKED), data)
    now = {name: value for name, value in now.items() if not (elsewhere and name == "task_files")}
    differing = [name for name, value in now.items() if told.get(name) != value]
    return f"made from other {', '.join(differing).replace('_', ' ')} than there are now" if differing else ""


def full_stores(model: str, root: Path | None = None, data: Path | None = None) -> dict[str, Path]:
    """A model's full stores that hold (`why_outdated`), by name."""
    folder = path_of(model, "", root).parent
    return {path.name.removesuffix(PACKED): path for path in all_stores(folder) if not why_outdated(path, data)}


def opened(model: str, name: str, root: Path | None = None) -> xr.Dataset | None:
    """One of a model's full stores in memory; None where there is none that holds."""
    path = path_of(model, name, root)
    ds = open_store(path) if path.is_file() else None
    return with_heads(ds.load()) if ds is not None and not why_outdated(path, ds=ds) else None


def all_stores(folder: Path) -> list[Path]:
    """Packed stores in a model's folder, in the order of their names."""
    return sorted(folder.glob(f"*{PACKED}"))


def _kept(ds: xr.Dataset) -> dict[str, Any]:
    """What of KEPT a dataset tells of itself; a dimension of that name holds several, of which its identity has one."""
    told = json.loads(str(ds["provenance"].values[0])).get("identity", {}) if "provenance" in ds.coords else {}
    return {name: told[name] for name in KEPT if name not in ds.dims and told.get(name) not in (None, "")}


def _changed(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Size and time of the files that lie there: hashing them again and again would take longer than reading stores."""
    found = sorted(path for path in folder.glob("*") if path.is_file()) if folder.is_dir() else []
    return tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in found)


@cache
def _weights(folder: Path, changed: tuple[tuple[str, int, int], ...]) -> str:
    del changed  # weights that changed are another entry
    return hash_weights(folder)


@cache
def _task_files(name: str, folder: Path, changed: tuple[tuple[str, int, int], ...]) -> str:
    del changed
    return benchmark(name, data=folder).files_hash()
