"""Heads changed: one set (`ablate`, `steer`), many sets in memory or into a store, stored sweeps opened together."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np
import xarray as xr

from visualheads.errors import BoxError, ModeError, StoreError, checked, checked_name, got
from visualheads.heads.selection import head_sets
from visualheads.interventions.editor import as_reference
from visualheads.interventions.engine import Effects, Job
from visualheads.interventions.modes import ALL, BIAS, MODES, POSITIONS, VERSION, Intervention, check_possible
from visualheads.models.progress import Wish, progress_bar
from visualheads.store import schema, write
from visualheads.store.combine import SOURCE, joined
from visualheads.store.read import open_asked, open_store, stores_in
from visualheads.tasks.sample import checked_box
from visualheads.tracing.settings import MAX_NEW_TOKENS, circumstance_of, coordinates_of, identity_of, settings_of

if TYPE_CHECKING:
    from visualheads.interventions.modes import Reference
    from visualheads.models.wrapper import VisionLanguageModel
    from visualheads.tasks.sample import Box, Sample
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
    intervention: Intervention, identity: Mapping[str, Any],
) -> xr.Dataset:  # fmt: skip
    """A trace's coordinates, the sets with what they came with, their heads (model, set, layer, head), and the mode."""
    coords = coordinates_of(model, samples, settings, single=True)
    along = {str(name): ("set", values.values) for name, values in sets.coords.items() if values.dims == ("set",)}
    return coords.assign_coords(
        {
            **along,
            "heads": (HEADS, sets.transpose("set", "layer", "head").values[None]),
            "mode": ("model", schema.text([intervention.mode])),
            "positions": ("model", schema.text([intervention.positions])),
            "provenance": ("model", schema.text([schema.provenance(identity, circumstance_of(model))])),
        }
    )


def sweep_identity(
    model: VisionLanguageModel, settings: Settings, sets: xr.DataArray, intervention: Intervention, seed: int,
    task_files: str,
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


SHARD = 8
"""Samples per shard: every set runs on each of them, so that a shard is work for many passes."""


class Change(TypedDict, total=False):
    """What else is asked of a change, whatever is made of it: keyword arguments as `ablate` has them."""

    bias: float | None
    box: Box | Sequence[Box | None] | None
    tokens: Mapping[str, Sequence[int]] | None
    batch_tokens: int | None
    max_new_tokens: int


def ablate(
    model: VisionLanguageModel,
    samples: Sequence[Sample],
    heads: Any,
    mode: str = "zero",
    positions: str = "",
    reference: Reference | Sequence[Sample] | None = None,
    *,
    bias: float | None = None,
    box: Box | Sequence[Box | None] | None = None,
    tokens: Mapping[str, Sequence[int]] | None = None,
    batch_tokens: int | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    progress: Wish = "auto",
) -> xr.Dataset:
    """Change heads while the model answers.

    Prompts run unpadded: a result depends on its own prompt only.

    Parameters
    ----------
    model : VisionLanguageModel
        From `vh.load` or `vh.wrap`.
    samples : sequence of Sample
        What is asked.
    heads : (layer, head) pairs or bool DataArray
        The heads that are changed; a DataArray is over layer and head.
    mode : str
        "zero": what the head puts out becomes 0; "mean": its mean over a reference set; "uniform": it attends to all
        visible keys alike; "uniform_released": to every key, future included; "image_knockout": image keys are hidden
        from it; "edge_knockout": from its last prompt query; "boost": a bias is added to the scores of image keys;
        "sink_removal": visual sinks are hidden from it; "sink_redistribution": their attention goes to the other image
        tokens.
    positions : str
        "all"; "after_image": only the positions after the last image token, and what is generated; or "last_prompt":
        only the last prompt token, and what is generated. By default "all", in mode "edge_knockout" (which has no
        other) "last_prompt".
    reference : Reference or sequence of Sample, optional
        Mode "mean" only: `mean_reference` of this model, or the samples of one.
    bias, box : float, Box or sequence of Box, optional
        Mode "boost" only: added to the scores of the image keys, by default 4. Mode "edge_knockout" only: hide the
        image tokens that meet it. Both as in `steer`.
    tokens : mapping of str to sequence of int, optional
        Modes on sinks only: sample id → image tokens (0 for the picture's first) taken for sinks in every layer; by
        default the model's own visual sinks, found layer by layer.
    batch_tokens : int, optional
        Tokens that run together; by default 8192 on CPUs, 16384 on GPUs.
    max_new_tokens : int
        Longest answer.
    progress : bool or "auto"
        Whether a bar is drawn.

    Returns
    -------
    xarray.Dataset
        (model, sample): prediction, correct (0/1, NaN without an answer), margin (logits; as in `trace`), kl (KL(clean
        ‖ changed) over the whole vocabulary at the answer's first token, nats, ≥ 0), the unchanged model's
        clean_prediction, clean_correct and clean_margin, and heads (model, layer, head). The coordinates `mode` and
        `positions` name what was done.

    Raises
    ------
    HeadError, ModeError, ParameterError, SampleError, ImageError
        For what is out of range; ModeError also where the model cannot have the mode.
    DeviceMemoryError
        For a sample that is alone too large.
    """
    if mode == "steer":
        raise ModeError("mode 'steer' needs a box: use vh.steer(model, samples, heads, box=…).")
    change: Change = {"bias": bias, "box": box, "tokens": tokens}
    change |= {"batch_tokens": batch_tokens, "max_new_tokens": max_new_tokens}
    return single(sweep(model, samples, {"heads": heads}, mode, positions, reference, progress=progress, **change))


def steer(
    model: VisionLanguageModel,
    samples: Sequence[Sample],
    heads: Any,
    box: Box | Sequence[Box | None] | None = None,
    bias: float = BIAS,
    positions: str = "",
    *,
    batch_tokens: int | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    progress: Wish = "auto",
) -> xr.Dataset:
    """Add `bias` to the scores of the image tokens that meet a box, in the chosen heads.

    Parameters
    ----------
    model, samples, heads, positions, batch_tokens, max_new_tokens, progress
        As in `ablate`.
    box : Box or sequence of Box, optional
        (left, top, right, bottom) in pixels of the original picture, for all samples, or one (or None) per sample. By
        default the whole picture.
    bias : float
        A natural logarithm: 4 makes a key's odds 55 times as high, −1e4 hides it; 0 changes nothing.

    Returns
    -------
    xarray.Dataset
        As from `ablate`.

    Raises
    ------
    BoxError
        For an empty box, one outside its picture, or one whose part of the picture the model does not see; otherwise
        as `ablate`.

    References
    ----------
    Gaze Heads (±1e4); PAI.
    """
    change: Change = {"bias": bias, "box": box, "batch_tokens": batch_tokens, "max_new_tokens": max_new_tokens}
    return single(sweep(model, samples, {"heads": heads}, "steer", positions, progress=progress, **change))


@checked
def sweep(
    model: VisionLanguageModel,
    samples: Sequence[Sample],
    sets: Any,
    mode: str = "zero",
    positions: str = "",
    reference: Reference | Sequence[Sample] | None = None,
    *,
    progress: Wish = "auto",
    **change: Unpack[Change],
) -> xr.Dataset:
    """Change many sets of heads, one after the other, on the same samples.

    The numbers are those of `ablate` on each set: pictures are seen once, prompts before the image's end are cached
    for positions="after_image", no layer below a set's lowest head runs again, sets fill the batch together, and sets
    of the same heads run once.

    Parameters
    ----------
    model, samples, mode, positions, reference, progress
        As in `ablate`.
    sets : mapping, list or bool DataArray
        {name: heads}, a list of heads (as in `ablate`), or (set, layer, head) as `interventions.head_sets` makes them,
        whose coordinates along `set` are kept.
    **change
        bias, box (in mode "steer" as in `steer`), tokens, batch_tokens, max_new_tokens: as in `ablate`.

    Returns
    -------
    xarray.Dataset
        (model, set, sample), with the variables of `ablate`; clean_* have no `set`, and `heads` (model, set, layer,
        head) tells what was changed.

    Raises
    ------
    VisualHeadsError
        What `ablate` raises, naming the set.
    """
    run = Sweep.of(model, samples, sets, mode, positions, reference, **change)
    with progress_bar(f"{mode} {model.name}", len(samples), progress) as advance:
        effects = run.job.run(advance=advance)
    return dataset(effects, run.coords)


@checked
def sweep_to_store(
    model: VisionLanguageModel,
    samples: Sequence[Sample],
    sets: Any,
    path: str | os.PathLike[str],
    mode: str = "zero",
    positions: str = "",
    reference: Reference | Sequence[Sample] | None = None,
    *,
    shard: int = SHARD,
    fresh: bool = False,
    progress: Wish = "auto",
    seed: int = 0,
    task_files: str = "",
    **change: Unpack[Change],
) -> xr.Dataset:
    """Sweep into a Zarr store, shard by shard. What is done already is skipped.

    A killed run loses at most the shard in hand.

    Parameters
    ----------
    model, samples, sets, mode, positions, reference, progress, **change
        As in `sweep`.
    path : path
        The store, `….zarr`.
    shard : int
        Samples per shard.
    fresh : bool
        Start anew beside a store that is there.
    seed, task_files : int, str
        Part of the store's identity; `task_files` is a benchmark's `files_hash()`.

    Returns
    -------
    xarray.Dataset
        As from `sweep`, opened lazily.

    Raises
    ------
    IdentityMismatch
        Where the store is of another run: other weights, samples, sets, mode, positions, bias, boxes or reference; and
        what `sweep` raises.
    """
    run = Sweep.of(model, samples, sets, mode, positions, reference, seed=seed, task_files=task_files, **change)
    plan = run.plan(shard)
    path = write.create(Path(path), plan, fresh=fresh)
    todo = write.todo(path, plan.samples)
    left = sum(map(len, todo.values()))
    with progress_bar(f"{mode} {model.name}", len(samples), progress, done=len(samples) - left) as advance:
        for index, ids in todo.items():
            part = [plan.samples.index(name) for name in ids]
            effects = run.job.run(part, advance)
            made = dataset(effects, run.coords.isel(sample=part))
            write.write_shard(path, index, made, circumstance=plan.circumstance)
    return with_heads(open_asked(path, plan.samples, plan.answers))


def sweep_path(folder: str | os.PathLike[str], model: str, task: str, mode: str, positions: str = ALL) -> Path:
    """Where a sweep is kept beside its task's trace: `<folder>/<model>/<task>.<mode>-<positions>.zarr`."""
    return Path(folder) / model / f"{task}.{mode}-{positions}.zarr"


@checked
def open_sweeps(folder: str | os.PathLike[str], mode: str, positions: str = ALL) -> xr.Dataset:
    """Open all stored sweeps of one mode and positions, in memory.

    Parameters
    ----------
    folder : path
        Holds `<model>/<task>.<mode>-<positions>.zarr`, or packed.
    mode, positions : str
        As in `sweep`.

    Returns
    -------
    xarray.Dataset
        (model, set, layer, head, sample). Samples and sets are the union over models and tasks; what a model was not
        asked, or a set it did not run, is NaN (numbers), "" (text) or False (`heads`).

    Raises
    ------
    StoreError, ParameterError
        Where there is none, or they cannot be joined (another bias, the same sample twice); for unknown names.
    """
    for what, value, allowed in (("mode", mode, MODES), ("positions", positions, POSITIONS)):
        checked_name(what, value, allowed)
    chosen = [path for path, kind in stores_in(Path(folder)) if kind == kind_of(mode, positions)]
    if not chosen:
        raise StoreError(
            f"no sweep of mode {mode!r} at positions {positions!r} in {folder}; run sweep_to_store first, or give "
            "another folder."
        )
    sweeps = [with_heads(open_store(path)) for path in chosen]
    for path, ds in zip(chosen, sweeps, strict=True):
        ds.encoding[SOURCE] = str(path)
    return joined(sweeps)


def kind_of(mode: str, positions: str) -> str:
    """The kind of store that holds sweeps of this mode at these positions."""
    return f"sweep-{mode}-{positions}"


@dataclass(frozen=True, eq=False)
class Sweep:
    """A checked sweep: what the engine does, and the coordinates and identity of what that gives."""

    job: Job
    coords: xr.Dataset
    identity: dict[str, Any]

    @classmethod
    def of(
        cls, model: VisionLanguageModel, samples: Sequence[Sample], sets: Any, mode: str, positions: str,
        reference: Reference | Sequence[Sample] | None, *, bias: float | None = None, box: Any = None,
        tokens: Mapping[str, Sequence[int]] | None = None, batch_tokens: int | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS, seed: int = 0, task_files: str = "",
    ) -> Sweep:  # fmt: skip
        """Check everything, run nothing but a reference set. Raises what `sweep` raises."""
        marks = head_sets(model, sets)
        settings = settings_of(model, samples, "first_generated", (), None, batch_tokens, max_new_tokens)
        boxes = boxes_of(samples, box)
        intervention = Intervention(mode, positions, bias, as_reference(model, reference), boxes, tokens)
        check_possible(model, intervention)
        identity = sweep_identity(model, settings, marks, intervention, seed, task_files)
        coords = sweep_coordinates(model, samples, settings, marks, intervention, identity)
        return cls(Job(model, samples, marks.values, intervention, settings), coords, identity)

    def plan(self, shard: int) -> write.StorePlan:
        """The plan of the store of this sweep."""
        return write.StorePlan(
            self.coords,
            identity=self.identity,
            circumstance=circumstance_of(self.job.model),
            shard=shard,
            variables=DIMS,
            kind=kind_of(self.job.intervention.mode, self.job.intervention.positions),
            hashes=self.job.settings.hashes,
            answers=self.job.settings.answers,
        )
