"""Datasets of small experiments beside the traces: made once, kept whole, made anew when their identity changes."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from visualheads.errors import ParameterError, StoreError, got
from visualheads.store import files, read

LIVE = ".zarr"


def kept(path: str | Path, kind: str, identity: Mapping[str, Any], make: Callable[[], xr.Dataset]) -> xr.Dataset:
    """The dataset kept at `path` (a *.zarr), in memory; made and kept where there is none of this identity.

    kind      what the store holds, such as "grounding"; readers of traces and sweeps leave it alone
    identity  what decides the numbers: a store of another one is replaced. Whatever JSON can hold
    make      computes the dataset; its attributes are not kept
    What is there appears whole or not at all. Raises ParameterError for another file name, StoreError for a damaged
    store, or where nothing can be written.
    """
    path = Path(path)
    if path.suffix != LIVE:
        raise ParameterError(got("path", str(path), f"a name that ends in {LIVE}"))
    told = json.loads(json.dumps(dict(identity), sort_keys=True))
    if path.exists():
        attrs = read.read_attrs(path)
        if attrs.get("kind") == kind and attrs.get("identity") == told:
            return read.open_store(path).load()
    ds = make()
    _write(path, ds, {"visualheads_store": read.FORMAT, "kind": kind, "identity": told})
    return read.open_store(path).load()


def _write(path: Path, ds: xr.Dataset, attrs: Mapping[str, Any]) -> None:
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    beside = [str(name) for name in ds.coords if ds[name].dims != (name,)]
    arrays = {}
    for name, variable in ds.variables.items():
        values = np.asarray(variable.values)
        dims = [str(dim) for dim in variable.dims]
        own = {key: value for key, value in variable.attrs.items() if isinstance(value, (str, int, float))}
        arrays[str(name)] = (files.array_metadata(dims, values.shape, values.dtype, attributes=own), values)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_new(draft, {**attrs, read.COORDINATES: " ".join(beside)}, arrays)
        if path.exists():
            shutil.rmtree(path)
        draft.rename(path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
