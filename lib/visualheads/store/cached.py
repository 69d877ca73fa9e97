"""Datasets of small experiments beside the traces: made once, kept whole, made anew when their identity changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from visualheads.errors import ParameterError, StoreError, got
from visualheads.store import files
from visualheads.store.layout import write_whole
from visualheads.store.read import open_store, read_attrs
from visualheads.store.upkeep import verify

LIVE = ".zarr"


def kept(path: str | Path, kind: str, identity: Mapping[str, Any], make: Callable[[], xr.Dataset]) -> xr.Dataset:
    """Return the dataset kept at `path`, in memory; make and keep it where there is none of this identity.

    Parameters
    ----------
    path : path
        A name that ends in `.zarr`.
    kind : str
        What the store holds, such as "grounding"; readers of traces and sweeps leave it alone.
    identity : mapping
        What decides the numbers: a store of another one, or a damaged one, is replaced. Whatever JSON can hold.
    make : callable
        Computes the dataset; its attributes are not kept.

    Raises
    ------
    ParameterError
        For another file name.
    StoreError
        Where nothing can be written. What is there appears whole or not at all.
    """
    path = Path(path)
    if path.suffix != LIVE:
        raise ParameterError(got("path", str(path), f"a name that ends in {LIVE}"))
    if not is_current(path, kind, identity):
        _replace(path, make(), {"kind": kind, "identity": dict(identity)})
    return open_store(path).load()


def is_current(path: str | Path, kind: str, identity: Mapping[str, Any]) -> bool:
    """Whether a sound store of this kind and identity is there."""
    try:
        attrs = read_attrs(path)
        return (attrs.get("kind"), attrs.get("identity")) == (kind, json.loads(json.dumps(dict(identity)))) and not (
            verify(path)
        )
    except StoreError:
        return False


def _replace(path: Path, ds: xr.Dataset, attrs: Mapping[str, Any]) -> None:
    draft = files.draft_of(path)
    try:
        with files.refusals_told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(draft, ds, attrs)
            if path.exists():
                shutil.rmtree(path)
            draft.rename(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
