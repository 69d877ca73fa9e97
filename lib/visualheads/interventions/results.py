"""What interventions give, as labelled Datasets and as plans of stores."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from visualheads.errors import BoxError, got
from visualheads.interventions.engine.run import Effects
from visualheads.interventions.modes import VERSION, Intervention
from visualheads.store import schema
from visualheads.tasks.sample import checked_box
from visualheads.tracing.settings import circumstance_of, coordinates_of, identity_of

if TYPE_CHECKING:
    from visualheads.models.wrapper import VisionLanguageModel
    from visualheads.tasks.sample import Sample
    from visualheads.tracing.settings import Settings

SET_DIMS, SAMPLE_DIMS = ("model", "set", "sample"), ("model", "sample")
DIMS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("prediction", "correct", "margin", "kl"), SET_DIMS),
    **dict.fromkeys(("clean_prediction", "clean_correct", "clean_margin"), SAMPLE_DIMS),
}
"""The variables of a sweep."""
HEADS = ("model", "set", "layer", "head")


def sweep_coordinates(
    model: VisionLanguageModel, samples: Sequence[Sample], settings: Settings, sets: xr.DataArray,
    intervention: Intervention, seed: int = 0, task_files: str = "",
) -> xr.Dataset:  # fmt: skip
    """A trace's coordinates, the sets with what they came with, their heads (model, set, layer, head), and the mode."""
    coords = coordinates_of(model, samples, settings, seed, single=True)
    identity = sweep_identity(model, settings, sets, intervention, seed, task_files)
    along = {str(name): ("set", values.values) for name, values in sets.coords.items() if values.dims == ("set",)}
    return coords.assign_coords(
        {
            **along,
            "heads": (HEADS, sets.transpose("set", "layer", "head").values[None]),
            "mode": ("model", objects([intervention.mode])),
            "positions": ("model", objects([intervention.positions])),
            "provenance": ("model", objects([schema.provenance(identity, circumstance_of(model))])),
        }
    )


def sweep_identity(
    model: VisionLanguageModel, settings: Settings, sets: xr.DataArray,
    intervention: Intervention, seed: int = 0, task_files: str = "",
) -> dict[str, Any]:  # fmt: skip
    """What decides the numbers of a sweep: a trace's identity, the head sets, and everything about the mode."""
    reference = intervention.reference
    names = [str(name) for name in sets["set"].values]
    marks = np.ascontiguousarray(sets.transpose("set", "layer", "head").values)
    named = {}
    if intervention.tokens is not None:
        told = sorted((name, [int(one) for one in chosen]) for name, chosen in intervention.tokens.items())
        named = {"tokens": _hashed(repr(told).encode())}
    return {
        **{name: told for name, told in identity_of(model, settings, seed, task_files).items() if name != "measures"},
        "interventions": VERSION,
        "mode": intervention.mode,
        "positions": intervention.positions,
        "bias": intervention.bias,
        "reference": reference.identity.get("samples", "") if reference is not None else "",
        "boxes": _hashed(repr(sorted(intervention.boxes.items())).encode()) if intervention.boxes else "",
        "sets": _hashed(repr(names).encode() + marks.tobytes()),
        **named,
    }


def dataset(effects: Effects, coords: xr.Dataset) -> xr.Dataset:
    """A sweep's Dataset: dims model, set, layer, head, sample; `heads` is a variable."""
    variables = {name: (dims, getattr(effects, name)[None]) for name, dims in DIMS.items()}
    return with_heads(schema.describe(coords.assign(variables)))


def with_heads(ds: xr.Dataset) -> xr.Dataset:
    """The same with `heads` as a variable: stores keep it among the coordinates, which are written at once."""
    if "heads" not in ds.coords:
        return ds
    ds = ds.reset_coords("heads")
    ds["heads"].attrs.update(long_name="heads that are changed", units="1")
    return ds


def single(ds: xr.Dataset) -> xr.Dataset:
    """A sweep of one set without the dimension `set`."""
    along = [name for name, values in ds.coords.items() if values.dims == ("set",)]
    return ds.isel(set=0).drop_vars(along)


def samples_only(ds: xr.Dataset) -> xr.Dataset:
    """A traced dataset's coordinates of models and samples, without its variables."""
    bare = ds.drop_vars(list(ds.data_vars))
    return bare.drop_vars([name for name in bare.variables if not set(bare[name].dims) <= {"model", "sample"}])


def objects(names: Sequence[str]) -> NDArray[np.object_]:
    """Names as labels of a dimension."""
    array = np.empty(len(names), dtype=object)
    array[:] = list(names)
    return array


def boxes_of(samples: Sequence[Sample], box: Any) -> Mapping[str, Any]:
    """Sample id → box: one for all, or one (or None) per sample; empty for None."""
    if box is None:
        return {}
    if isinstance(box, str) or not isinstance(box, Sequence | np.ndarray):
        raise BoxError(got("box", box, "(left, top, right, bottom) in pixels, or a list with one per sample"))
    listed = list(box)
    if len(listed) == 4 and all(isinstance(edge, (int, float, np.number)) for edge in listed):
        return {sample.id: checked_box(listed, "box") for sample in samples}
    if len(listed) != len(samples):
        raise BoxError(
            f"box: got {len(listed)} boxes for {len(samples)} samples; give one box (left, top, right, bottom) for "
            "all, or a list with one box (or None: the whole picture) per sample."
        )
    return {
        sample.id: checked_box(own, f"sample {sample.id!r}")
        for sample, own in zip(samples, listed, strict=True)
        if own is not None
    }


def _hashed(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
