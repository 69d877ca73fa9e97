"""The shape of a traced dataset: its coordinates, its attributes, and the check that it keeps its promises.

The variables and their ranges are in `visualheads.store.variables`, the invariants in `visualheads.store.validate`.

    coords = schema.coordinates("mini-1.5-7B", samples, layers=8, heads=8, queries=("first_generated",))
    dataset = coords.assign(image_weight=(("model", "layer", "head", "sample", "query"), values), …)
    dataset = schema.describe(dataset)
    schema.assert_valid(dataset)
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xarray as xr

from visualheads.errors import SchemaError, checked, checked_dataset
from visualheads.store.validate import violations
from visualheads.store.variables import (
    COORDINATE_NAMES,
    LABEL,
    MAP_COORDINATES,
    QUERIES,
    SAMPLE_COORDINATES,
    SELECTED_COORDINATES,
    STAGES,
    VARIABLES,
)

if TYPE_CHECKING:
    from visualheads.tasks.sample import Sample

PAPER_STAGES = {32: (10, 20), 40: (13, 27)}
"""First layer of the middle and of the late stage, read off the authors' released code (layers → bounds)."""


def assert_valid(ds: xr.Dataset) -> None:
    """Check that a traced dataset keeps the schema and its invariants.

    Parameters
    ----------
    ds : xarray.Dataset
        Every value is read: of results larger than memory give one model or task at a time.

    Raises
    ------
    SchemaError
        With every violation.
    """
    checked_dataset("ds", ds)
    found = violations(ds)
    if found:
        raise SchemaError(found)


def describe(ds: xr.Dataset) -> xr.Dataset:
    """The same dataset with long_name, units and range on every variable the schema knows, and every head's label.

    The label is a coordinate `label` along (layer, head), no index: heads are counted anew in each layer, so no label
    is one of the dimension `head` alone. The input is unchanged.
    """
    described = ds.copy()
    if {"layer", "head"} <= set(ds.dims) & set(ds.coords):
        labels = [[f"L{layer}H{head}" for head in ds["head"].values] for layer in ds["layer"].values]
        described = described.assign_coords({LABEL: (("layer", "head"), np.array(labels, dtype=object))})
    for name, variable in described.variables.items():
        if name in described.coords and name in COORDINATE_NAMES:
            variable.attrs["long_name"] = COORDINATE_NAMES[str(name)]
        elif name in described.data_vars and name in VARIABLES:
            variable.attrs.update(VARIABLES[str(name)].attrs)
    return described


@checked
def depth_stages(layers: int) -> tuple[np.ndarray, np.ndarray]:
    """Stage ("early", "middle", "late") and depth (0 first layer … 1 last layer) of each layer, both of shape (layer,).

    32 layers: 0–9, 10–19, 20–31; 40 layers: 0–12, 13–26, 27–39 (code); other depths: thirds (ours).
    """
    middle, late = PAPER_STAGES.get(layers, (round(layers / 3), round(2 * layers / 3)))
    index = np.arange(layers)
    stages = np.array([STAGES[(i >= middle) + (i >= late)] for i in index.tolist()], dtype=object)
    return stages, index / max(layers - 1, 1)


def provenance(identity: Mapping[str, object], circumstance: Mapping[str, object]) -> str:
    """The JSON text of the `provenance` coordinate: what was measured (identity), and on what (circumstance)."""
    return json.dumps({"identity": dict(identity), "circumstance": dict(circumstance)}, sort_keys=True)


class MapGroup(NamedTuple):
    """Samples whose maps are averaged together: never two conditions, answer formats, or a picture and its control."""

    condition: str = ""
    format: str = "free"
    control: str = ""


def map_group(sample: Sample) -> MapGroup:
    """The group of one sample."""
    return MapGroup(sample.condition, sample.format, sample.control)


def map_groups(samples: Iterable[Sample]) -> tuple[MapGroup, ...]:
    """The groups in the order in which they first occur: the order along the `map_condition` dimension of mean maps."""
    return tuple(dict.fromkeys(map_group(sample) for sample in samples))


def coordinates(
    model: str,
    samples: Sequence[Sample],
    layers: int,
    heads: int,
    *,
    queries: Sequence[str] | str | None = QUERIES,
    llm: str = "",
    family: str = "",
    recipe: str = "",
    parameters: float = float("nan"),
    training_step: int = -1,
    provenance: str = '{"circumstance": {}, "identity": {}}',
    groups: Sequence[MapGroup] | None = None,
    selected: Sequence[tuple[int, int]] | None = None,
) -> xr.Dataset:
    """A dataset with all coordinates of one traced model and no variables yet.

    queries as one text makes `query` a scalar coordinate (a single query in memory); None leaves it out. `groups` adds
    the labels `map_condition`, `map_format` and `map_control` along the mean maps' dimension `map_condition`;
    `selected` those of the heads, (layer, head), whose maps are kept: `selected_layer` and `selected_index` along
    `selected_head`.
    """
    ids = [sample.id for sample in samples]
    stages, depth = depth_stages(layers)
    coords: dict[str, object] = {
        "model": text([model]),
        "layer": np.arange(layers),
        "head": np.arange(heads),
        "sample": text(ids),
        **{name: ("sample", text([getattr(sample, name) for sample in samples])) for name in SAMPLE_COORDINATES},
        "has_box": ("sample", np.array([sample.box is not None for sample in samples], dtype=bool)),
        "llm": ("model", text([llm])),
        "family": ("model", text([family])),
        "recipe": ("model", text([recipe])),
        "parameters": ("model", np.array([parameters], dtype=float)),
        "training_step": ("model", np.array([training_step], dtype=int)),
        "provenance": ("model", text([provenance])),
        "depth_stage": (("model", "layer"), stages[None]),
        "depth": (("model", "layer"), depth[None]),
    }
    if queries is not None:
        coords["query"] = queries if isinstance(queries, str) else text(queries)
    if groups is not None:
        for index, name in enumerate(MAP_COORDINATES):
            coords[name] = (MAP_COORDINATES[0], text([group[index] for group in groups]))
    if selected is not None:
        for index, name in enumerate(SELECTED_COORDINATES):
            coords[name] = ("selected_head", np.array([pair[index] for pair in selected], dtype=int))
    return describe(xr.Dataset(coords=coords))


def text(values: Iterable[object]) -> np.ndarray:
    """Texts as an array of objects, because zarr warns of fixed-width text."""
    return np.array([str(value) for value in values], dtype=object)


def text_as_objects(ds: xr.Dataset) -> xr.Dataset:
    """The same dataset with all its text as objects, whichever type a reader gave it, and without encodings."""
    variables = {
        name: values.astype(object) if values.dtype.kind in "UT" else values for name, values in ds.variables.items()
    }
    coords = {name: variables.pop(name) for name in ds.coords}
    return xr.Dataset(variables, coords, ds.attrs).drop_encoding()
