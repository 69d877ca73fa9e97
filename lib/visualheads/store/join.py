"""Stored sweeps of one mode as one Dataset: tasks along `sample`, models along `model`; what cannot be is told."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from visualheads.errors import StoreError
from visualheads.store.combine import concatenated, fill_values
from visualheads.store.schema import describe

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
