"""Experiments of a page on several models: the shipped large run where it holds, else a small one that is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from visualheads import shipped
from visualheads.causes import MAIN_TASK
from visualheads.comparison import of_model
from visualheads.keeping import kept
from visualheads.models import load
from visualheads.places import slug_of
from visualheads.reduced import other_pictures

if TYPE_CHECKING:
    from visualheads.tasks.sample import Sample
    from visualheads.vision_language import VisionLanguageModel

Maker = Callable[["VisionLanguageModel", "Sequence[Sample]", xr.Dataset, Any, Mapping[str, xr.Dataset]], xr.Dataset]
"""(model, questions, traces in which heads are chosen, size, what the makers before gave) → dataset."""


def studied(
    makers: Mapping[str, Maker], names: Sequence[str], results: str | Path, traces: xr.Dataset,
    asked: Sequence[Sample], size: Any, small: bool = False,
) -> dict[str, dict[str, xr.Dataset]]:  # fmt: skip
    """The experiments of several models: store name → model → dataset; the shipped large run where it holds.

    makers   by the name of their store, in the order in which they run
    names    miniatures whose checkpoints are there
    traces   of all of them (`survey.traced`): heads are chosen there, on other pictures than those asked about
    size     a dataclass: how much is run
    small    run the small size even where a large run is shipped
    A small run is kept beside the traces and used again while weights, files and size are the same.
    """
    told: dict[str, dict[str, xr.Dataset]] = {store: {} for store in makers}
    for name in names:
        for store, ds in _of_model(makers, name, results, traces, asked, size, small).items():
            told[store][name] = ds
    return told


def own_heads(traces: xr.Dataset, name: str) -> xr.Dataset:
    """One model's samples of the main benchmark, with the layers and heads that it has."""
    own = of_model(traces, name, MAIN_TASK)
    weight = own["image_weight"].isel(model=0)
    there = np.asarray(weight.notnull().any([dim for dim in weight.dims if dim not in ("layer", "head")]))
    return own.isel(layer=np.flatnonzero(there.any(axis=1)), head=np.flatnonzero(there.any(axis=0)))


def _of_model(
    makers: Mapping[str, Maker], name: str, results: str | Path, traces: xr.Dataset, asked: Sequence[Sample],
    size: Any, small: bool,
) -> dict[str, xr.Dataset]:  # fmt: skip
    whole = {store: None if small else shipped.opened(name, store) for store in makers}
    if all(ds is not None for ds in whole.values()):
        return {store: ds for store, ds in whole.items() if ds is not None}
    chosen_on = other_pictures(own_heads(traces, name), asked)
    loaded: list[VisionLanguageModel] = []
    made: dict[str, xr.Dataset] = {}

    def run(maker: Maker) -> xr.Dataset:
        if not loaded:
            loaded.append(load(name))
        return maker(loaded[0], asked, chosen_on, size, made)

    for store, maker in makers.items():
        path = Path(results) / slug_of(name) / f"{MAIN_TASK}-{store}.zarr"
        identity = {**shipped.identity_of(name, [MAIN_TASK], store), "size": asdict(size)}
        made[store] = kept(path, store, identity, lambda maker=maker: run(maker))
    return made
