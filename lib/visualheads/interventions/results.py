"""What interventions give, as labelled Datasets and as plans of stores."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from visualheads.errors import BoxError
from visualheads.interventions.engine.run import Effects, Job
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
            "mode": ("model", _text(intervention.mode)),
            "positions": ("model", _text(intervention.positions)),
            "provenance": ("model", _text(schema.provenance(identity, circumstance_of(model)))),
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
        **identity_of(model, settings, seed, task_files),
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


@dataclass(frozen=True, eq=False)
class Runner:
    """The engine on these sets; sets of the same heads (one head is top of several rankings) run once."""

    job: Job
    places: NDArray[np.intp]

    @classmethod
    def of(
        cls, model: VisionLanguageModel, samples: Sequence[Sample], sets: xr.DataArray, intervention: Intervention,
        settings: Settings,
    ) -> Runner:  # fmt: skip
        marks = sets.transpose("set", "layer", "head").values.astype(bool)
        unique, places = np.unique(marks, axis=0, return_inverse=True)
        return cls(Job(model, samples, torch.from_numpy(unique), intervention, settings), places.reshape(-1))

    def run(
        self, part: slice | Sequence[int] = slice(None), advance: Callable[[int], None] = lambda _count: None
    ) -> Effects:
        """The effects of every set on a part of the samples."""
        effects = self.job.run(part, advance)
        changed = {name: getattr(effects, name)[self.places] for name, dims in DIMS.items() if dims == SET_DIMS}
        return replace(effects, **changed)


def boxes_of(samples: Sequence[Sample], box: Any) -> Mapping[str, Any]:
    """Sample id → box: one for all, or one (or None) per sample; empty for None."""
    if box is None:
        return {}
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


def _text(value: str) -> np.ndarray:
    made = np.empty(1, dtype=object)
    made[0] = value
    return made
