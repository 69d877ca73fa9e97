"""Many stores as one dataset: traces of models of any shape and tasks of any length, and sweeps of one mode."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from visualheads.errors import StoreError, checked
from visualheads.paths import slug_of
from visualheads.store.files import DamageWarning
from visualheads.store.read import open_store, paths_in, read_attrs
from visualheads.store.schema import describe
from visualheads.store.variables import MAP_COORDINATES, SAMPLE_COORDINATES, SELECTED_COORDINATES

SELECTED = "selected_head"
SAMPLE_LABELS = (*SAMPLE_COORDINATES, "has_box")
PLACES = ("grid_row", "grid_column")
"""Dimensions without labels."""
GROUPS = MAP_COORDINATES[0]
GROUP = "\x1f"
"""Stands between a mean map's condition, format and control while stores are aligned."""
HEAD_BITS = 16
"""A selected head is one number while stores are aligned: its layer, then this many bits for its index."""
MARK_LENGTH = 6
"""Hex digits put after a sample's id where two data sets use the same id for different samples."""


@checked
def open_results(
    folder: str | Path = "data/results", *, kind: str = "trace", models: Sequence[str] | None = None,
    variables: Sequence[str] | None = None, lazy: bool = True,
) -> xr.Dataset:  # fmt: skip
    """Open all models and tasks of a folder as one Dataset.

    Samples are the union over tasks and models, in order of first appearance; what a model did not see, or a layer or
    head it does not have, is NaN (numbers) or "" (text). Stores that are still being filled give what is done. Where
    two stores use one id for different samples, "@" and a mark of the sample follow it. Mean maps keep their groups
    (condition, format, control); a condition that several tasks share, or that is empty, is led by the task's name.
    Where stores in two folders are of models of one name, the one whose folder has another name is called as its
    folder is.

    Parameters
    ----------
    folder : path
        Holds `<model>/<task>.zarr`, or packed `….zarr.zip`.
    kind : str
        The kind of stores, such as "trace".
    models : sequence of str, optional
        Only stores in these models' folders are opened, where each has one.
    variables : sequence of str, optional
        Only these, as far as any store has them.
    lazy : bool
        False: read them first and join them in memory, which is far quicker for what fits.

    Returns
    -------
    xarray.Dataset
        (model, layer, head, sample). Maps of selected heads are there for every head that any store selected.

    Raises
    ------
    StoreError
        When the folder holds no store of this kind that can be read; of those left out because they cannot be read a
        DamageWarning tells.
    """
    found = [(path, _sound(path, read_attrs)) for path in paths_in(Path(folder))]
    paths = [path for path, attrs in found if attrs is not None and attrs["kind"] == kind]
    own = {slug_of(name) for name in models or ()}
    if own and own <= {path.parent.name for path in paths}:
        paths = [path for path in paths if path.parent.name in own]
    if not paths:
        raise StoreError(
            f"no results in {folder}: there is no <model>/<task>.zarr of kind {kind!r}; "
            "trace a model first (visualheads trace), or give another folder."
        )
    read = {path: _sound(path, lambda path: _read(path, variables, lazy)) for path in paths}
    stores = [(path, ds) for path, ds in read.items() if ds is not None]
    if not stores:
        raise StoreError(f"all results in {folder} are damaged; see `visualheads verify` for each, and trace again.")
    opened = [(task_of(path), ds) for path, ds in _with_distinct_names(stores)]
    filled = [(task, ds) for task, ds in opened if ds.sizes["sample"]] or opened[:1]
    tasks = [task for task, _ in filled]
    parts, labels = _with_distinct_ids([ds for _, ds in filled])
    parts, conditions = _with_distinct_conditions(parts, tasks)
    by_model: dict[str, dict[str, xr.Dataset]] = defaultdict(dict)
    for task, part in zip(tasks, parts, strict=True):
        for model in part["model"].values.tolist():
            by_model[model][task] = part.sel(model=[model])
    joined = _over_models([_over_tasks(same) for same in by_model.values()], labels.index, conditions)
    along = {name: ("sample", labels[name].to_numpy(dtype=bool if name == "has_box" else object)) for name in labels}
    return describe(joined.assign_coords(along))


def task_of(path: Path) -> str:
    """The task's name in a store's file name."""
    return path.name.split(".zarr")[0]


def _read(path: Path, variables: Sequence[str] | None, lazy: bool) -> xr.Dataset:
    ds = open_store(path)
    if variables is not None:
        ds = ds.drop_vars([name for name in ds.data_vars if name not in variables])
    return ds if lazy else ds.load(scheduler="synchronous")  # small stores: threads cost more than they bring


def _sound(path: Path, read: Callable[[Path], Any]) -> Any:
    """What `read` gives; None, with a warning, where the store is damaged: the others are read all the same."""
    try:
        return read(path)
    except StoreError as error:
        warnings.warn(f"left out: {error}", DamageWarning, stacklevel=3)
        return None


def _with_distinct_names(opened: list[tuple[Path, xr.Dataset]]) -> list[tuple[Path, xr.Dataset]]:
    """The same, with the folder's name for a model whose name is also that of a model in a folder of that name."""
    homes: dict[str, set[str]] = defaultdict(set)
    for path, ds in opened:
        for model in ds["model"].values.tolist():
            homes[model].add(path.parent.name)
    told = []
    for path, ds in opened:
        home, names = path.parent.name, ds["model"].values.tolist()
        distinct = [home if len(homes[name]) > 1 and slug_of(name) != home else name for name in names]
        if distinct != names:
            ds = ds.assign_coords(model=np.array(distinct, dtype=object))
        told.append((path, ds))
    return told


def _with_distinct_ids(datasets: list[xr.Dataset]) -> tuple[list[xr.Dataset], pd.DataFrame]:
    """The datasets without their sample labels, and the labels of the union, indexed by id."""
    frames = [_labels(ds) for ds in datasets]
    distinct = pd.concat(frames).reset_index().drop_duplicates()
    clashing = set(distinct.loc[distinct["sample"].duplicated(), "sample"])
    if clashing:
        for frame in frames:
            told = [f"{i}@{_mark(row)}" if i in clashing else i for i, *row in frame.itertuples()]
            frame.index = pd.Index(told, dtype=object)
    union = pd.concat(frames)
    union = union.loc[~union.index.duplicated()].drop(columns="data")
    bare = [
        ds.drop_vars(SAMPLE_LABELS, errors="ignore").assign_coords(sample=frame.index.to_numpy(dtype=object))
        for ds, frame in zip(datasets, frames, strict=True)
    ]
    return bare, union


def _labels(ds: xr.Dataset) -> pd.DataFrame:
    columns: dict[str, Any] = {name: ds[name].values for name in SAMPLE_LABELS if name in ds.coords}
    index = pd.Index(ds["sample"].values, name="sample", dtype=object)
    told = _identity(ds)
    data = f"{told.get('task_files', '')} {told.get('seed') or ''}".strip()  # another seed draws other distractors
    return pd.DataFrame({**columns, "data": data}, index=index)


def _identity(ds: xr.Dataset) -> Mapping[str, object]:
    return json.loads(str(ds["provenance"].values[0])).get("identity", {})


def _mark(labels: Sequence[object]) -> str:
    """Of what a sample is, whatever else its model was asked: models that were asked the same have the same mark."""
    return hashlib.sha256(json.dumps([str(label) for label in labels]).encode()).hexdigest()[:MARK_LENGTH]


def _with_distinct_conditions(datasets: list[xr.Dataset], tasks: list[str]) -> tuple[list[xr.Dataset], list[str]]:
    """The datasets with one label per group of mean maps, and all labels in order of first appearance."""
    tasks_of: dict[str, set[str]] = defaultdict(set)
    for ds, task in zip(datasets, tasks, strict=True):
        for condition, *_ in _groups(ds):
            tasks_of[condition].add(task)
    labelled, order = [], []
    for ds, task in zip(datasets, tasks, strict=True):
        groups = _groups(ds)
        bare = ds.drop_vars(MAP_COORDINATES, errors="ignore")
        if groups:
            names = [GROUP.join((_condition(c, task, len(tasks_of[c]) > 1), *more)) for c, *more in groups]
            order += names
            bare = bare.assign_coords({GROUPS: np.array(names, dtype=object)})
        labelled.append(bare)
    return labelled, list(dict.fromkeys(order))


def _groups(ds: xr.Dataset) -> list[tuple[str, ...]]:
    if "mean_map" not in ds:
        return []
    labels = [ds[name].values.astype(str).tolist() for name in MAP_COORDINATES]
    return list(zip(*labels, strict=True))


def _condition(condition: str, task: str, shared: bool) -> str:
    if not condition:
        return task
    return f"{task}: {condition}" if shared else condition


def _over_tasks(by_task: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """One model: its samples one task after the other, its mean maps one group after the other."""
    told = _merged_provenance({task: str(ds["provenance"].values[0]) for task, ds in by_task.items()})
    numbered = [_numbered(ds) for ds in by_task.values()]
    joined = [
        concatenated([ds[names] for ds in numbered if (names := [v for v in ds.data_vars if dim in ds[v].dims])], dim)
        for dim in ("sample", GROUPS)
        if any(dim in ds[v].dims for ds in numbered for v in ds.data_vars)
    ]
    merged = xr.merge(joined, join="outer", compat="override")
    return merged.assign_coords(provenance=("model", np.array([told], dtype=object)))


def _over_models(datasets: list[xr.Dataset], samples: pd.Index, conditions: list[str]) -> xr.Dataset:
    wanted: dict[str, Any] = {"sample": samples.to_numpy(dtype=object)}
    if conditions:
        wanted[GROUPS] = np.array(conditions, dtype=object)
    aligned = [
        ds.reindex({dim: ids for dim, ids in wanted.items() if dim in ds.dims}, fill_value=fill_values(ds))
        for ds in datasets
    ]
    joined = concatenated(aligned, "model")
    if conditions:
        labels = np.array([name.split(GROUP) for name in conditions], dtype=object).T
        joined = joined.assign_coords({name: (GROUPS, row) for name, row in zip(MAP_COORDINATES, labels, strict=True)})
    if SELECTED in joined.coords:
        places = np.divmod(joined[SELECTED].values, 1 << HEAD_BITS)
        joined = joined.drop_vars(SELECTED).assign_coords(
            {name: (SELECTED, values) for name, values in zip(SELECTED_COORDINATES, places, strict=True)}
        )
    return joined.drop_vars([dim for dim in PLACES if dim in joined.coords])


def _numbered(ds: xr.Dataset) -> xr.Dataset:
    """Labels to align by: grids of different size at their first cell, selected heads by what they are."""
    labels = {dim: np.arange(ds.sizes[dim]) for dim in PLACES if dim in ds.dims}
    if SELECTED in ds.dims:
        layers, heads = (ds[name].values for name in SELECTED_COORDINATES)
        labels[SELECTED] = (layers << HEAD_BITS) + heads
    return ds.drop_vars(SELECTED_COORDINATES, errors="ignore").assign_coords(labels)


def concatenated(datasets: Sequence[xr.Dataset], dim: str) -> xr.Dataset:
    return xr.concat(
        datasets, dim, data_vars="all" if dim == "model" else "minimal", coords="minimal", compat="override",
        join="outer", combine_attrs="drop", fill_value={k: v for ds in datasets for k, v in fill_values(ds).items()},
    )  # fmt: skip


def fill_values(ds: xr.Dataset) -> dict[Hashable, Any]:
    """Text is filled with "", marks with False, numbers with NaN (which turns whole numbers into floats)."""
    kinds = {"O": "", "b": False}
    return {name: kinds.get(array.dtype.kind, np.nan) for name, array in ds.variables.items()}


def _merged_provenance(by_task: Mapping[str, str]) -> str:
    """What all tasks share, and {task: value} for what differs between them."""
    told = {task: json.loads(text) for task, text in by_task.items()}
    merged: dict[str, dict[str, Any]] = {}
    for part in dict.fromkeys(name for said in told.values() for name in said):
        said = {task: told[task].get(part, {}) for task in told}
        if not all(isinstance(value, Mapping) for value in said.values()):
            merged[part] = said
            continue
        keys = dict.fromkeys(key for value in said.values() for key in value)
        merged[part] = {key: _common({task: value.get(key) for task, value in said.items()}) for key in keys}
    return json.dumps(merged, sort_keys=True)


def _common(by_task: Mapping[str, Any]) -> Any:
    values = list(by_task.values())
    return values[0] if all(value == values[0] for value in values) else dict(by_task)


SOURCE = "source"
"""Entry of a Dataset's encoding: the path of its store."""
ASKED = ("samples", "task_files", "seed", "sets")
"""Parts of a sweep's identity in which joined sweeps may differ: the questions and the sets of heads."""
PER_SAMPLE = ("boxes", "tokens")
"""Parts that name samples, so that they differ with these; given for all that is joined, or for none."""
OF_MODEL = ("checkpoint", "revision", "weights", "processor", "prompt", "dtype")
"""Parts in which sweeps of different models may differ."""
FIX = "open each by itself with vh.open_store(path), or move one of them out of the folder"


def joined(sweeps: Sequence[xr.Dataset]) -> xr.Dataset:
    """Sweeps of one mode as one Dataset, in memory: tasks along `sample`, models along `model`, sets by their names.

    In memory, since a sweep is a few numbers per set and sample, and labels that only some have would cut lazy arrays
    into very many chunks.
    Raises StoreError for sweeps in which something else was done – another bias, reference set or length of answers,
    boxes or none, other weights of the same model – and for those that hold the same sample of a model twice.
    """
    check_joinable(sweeps)
    along = {dim: _all_labels(sweeps, dim) for dim in ("set", "sample")}
    by_model: dict[str, list[xr.Dataset]] = {}
    for ds in sweeps:
        bare = ds.drop_vars([name for dim in along for name in _along(ds, dim)]).compute()
        for model in ds["model"].values.tolist():
            by_model.setdefault(model, []).append(bare.sel(model=[model]))
    union = {dim: frame.index.to_numpy(dtype=object) for dim, frame in along.items()}
    models = [_of_model(parts, union["set"]) for parts in by_model.values()]
    whole = concatenated(_told_alike([ds.reindex(union, fill_value=fill_values(ds)) for ds in models]), "model")
    named = {str(name): (dim, frame[name].to_numpy()) for dim, frame in along.items() for name in frame}
    return describe(whole.assign_coords(named))


def _of_model(parts: list[xr.Dataset], sets: np.ndarray) -> xr.Dataset:
    """One model's sweeps along `sample`, each set with its heads whichever of them ran it."""
    marks = [ds[["heads"]].reindex(set=sets, fill_value={"heads": False})["heads"] for ds in parts]
    marks = [one.transpose("model", "set", "layer", "head") for one in marks]
    whole = concatenated(_told_alike([ds.drop_vars("heads") for ds in parts]), "sample")
    whole = whole.reindex(set=sets, fill_value=fill_values(whole))
    return whole.assign(heads=marks[0].copy(data=np.any([one.values for one in marks], axis=0)))


def check_joinable(sweeps: Sequence[xr.Dataset]) -> None:
    """Raises StoreError where `joined` would, with the names of both stores."""
    for one, other in combinations([part for ds in sweeps for part in _parts(ds)], 2):
        _check(one, other)


@dataclass(frozen=True)
class _Part:
    """One model in one sweep."""

    name: str
    model: str
    samples: frozenset[str]
    marks: xr.DataArray
    identity: Mapping[str, Any]


def _parts(ds: xr.Dataset) -> Iterator[_Part]:
    samples = frozenset(ds["sample"].values.tolist())
    for index, model in enumerate(ds["model"].values.tolist()):
        name = ds.encoding.get(SOURCE) or f"the sweep of {len(samples)} samples by {model}"
        made = json.loads(str(ds["provenance"].values[index])) if "provenance" in ds.coords else {}
        yield _Part(name, model, samples, ds["heads"].isel(model=index), made.get("identity", {}))


def _check(one: _Part, other: _Part) -> None:
    same = one.model == other.model
    first, second = one.identity, other.identity
    free = {*ASKED, *PER_SAMPLE, *(() if same else OF_MODEL)}
    # what only one of them tells of itself is not known of the other: shipped stores tell less
    differ = {key for key in first.keys() & second.keys() if key not in free and first[key] != second[key]}
    differ |= {key for key in PER_SAMPLE if bool(first.get(key)) != bool(second.get(key))}
    if first.get("samples") == second.get("samples") and first.get("boxes") != second.get("boxes"):
        differ.add("boxes")
    if differ:
        told = ", ".join(f"{key} {first.get(key)!r} against {second.get(key)!r}" for key in sorted(differ))
        raise StoreError(f"{one.name} and {other.name} cannot be joined, what was done differs: {told}; {FIX}.")
    other_heads = _called_alike(one.marks, other.marks) if same else []
    if other_heads:
        raise StoreError(
            f"{one.name} and {other.name} cannot be joined, the set {min(other_heads)!r} of {one.model} has other "
            f"heads in each; {FIX}."
        )
    twice = one.samples & other.samples if same else frozenset()
    if twice:
        raise StoreError(
            f"{one.name} and {other.name} cannot be joined, both hold sample {min(twice)!r} of {one.model}; {FIX}."
        )


def _called_alike(one: xr.DataArray, other: xr.DataArray) -> list[str]:
    """The names that both give to sets, of other heads."""
    shared = sorted(set(one["set"].values.tolist()) & set(other["set"].values.tolist()))
    both = xr.align(one.sel(set=shared), other.sel(set=shared), join="outer")  # beside larger models they are padded
    marks = [part.transpose("set", "layer", "head").fillna(0).values.astype(bool) for part in both]
    return [name for name, a, b in zip(shared, *marks, strict=True) if not np.array_equal(a, b)]


def _along(ds: xr.Dataset, dim: str) -> list[str]:
    return [str(name) for name, values in ds.coords.items() if values.dims == (dim,) and name != dim]


def _all_labels(sweeps: Sequence[xr.Dataset], dim: str) -> pd.DataFrame:
    """What is known of each label along `dim`, in order of first appearance."""
    frames = [
        pd.DataFrame({name: ds[name].values for name in _along(ds, dim)}, index=pd.Index(ds[dim].values, dtype=object))
        for ds in sweeps
    ]
    union = pd.concat(frames)
    return union.loc[~union.index.duplicated()]


def _told_alike(parts: Sequence[xr.Dataset]) -> list[xr.Dataset]:
    """The parts with the same coordinates of models: what only some tell is NaN, or "", in the others."""
    told = {str(name): values for ds in parts for name, values in ds.coords.items() if values.dims == ("model",)}
    unknown = {name: "" if values.dtype.kind in "OU" else np.nan for name, values in told.items()}
    return [
        ds.assign_coords({name: ("model", np.full(ds.sizes["model"], value, object if value == "" else float))
                          for name, value in unknown.items() if name not in ds.coords})
        for ds in parts
    ]  # fmt: skip
