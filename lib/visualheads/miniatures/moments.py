"""Moments of training, traced: the same questions asked of the model before, while and after it learns to see."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xarray as xr

from visualheads.cards import cards
from visualheads.errors import CheckpointError
from visualheads.miniatures.architectures import build_processor, miniature
from visualheads.miniatures.train import TRAINING_RECORD, load_moment, moment_files
from visualheads.models import loading
from visualheads.store import pack
from visualheads.tasks import task
from visualheads.tracing import trace

MOMENTS = "moments.zarr.zip"
SAMPLES = 48
CONDITIONS = ("plain-object", "visual-general")
DERIVED = ("image_log_odds", "region_lift", "effective_patches", "spatial_entropy")
"""Measures that are left out of what ships: functions of those that are kept, or of little use over training."""
BITS = 8
"""Mantissa bits kept: within 0.2 % of each number."""
ROWS = ("first_generated",)
"""Attention rows that are kept: those that pages and claims read (two would take twice the room)."""


def moments(name: str, work: Path, folder: Path) -> Iterator[tuple[str, int, Any]]:
    """(stage, steps of visual tuning, model) in the order of training: `adapter` before the adapter's alignment,
    `aligned` after it, `tuning` while tuning, and the final checkpoint.

    The steps count visual tuning; −2 stands before alignment, so that the order along `training_step` is that of time.
    """
    found = moment_files(name, work)
    if not found:
        raise CheckpointError(f"{work} holds no snapshots of {name}; train it first (visualheads train {name}).")
    for stage, step, path in found:
        if stage == "alignment" and step == 0:
            yield "adapter", -2, load_moment(name, path)
        elif stage == "tuning":
            yield "aligned" if step == 0 else "tuning", step, load_moment(name, path)
    from transformers import AutoModelForImageTextToText

    yield "final", tuning_steps(folder), AutoModelForImageTextToText.from_pretrained(folder, dtype="float32")


def tuning_steps(folder: Path) -> int:
    """Steps of the whole visual tuning, from the record that training left in the miniature's folder."""
    record = json.loads((folder / TRAINING_RECORD).read_text())
    return int(record["stages"]["tuning"]["steps"])


def trace_moments(name: str, folder: Path, work: Path, n: int = SAMPLES) -> Path:
    """Trace every moment on the same `n` questions per condition; written to `folder/moments.zarr.zip`.

    The dataset has one entry along `model` a moment, named `<name>@<stage>-<step>`, with `training_step`.
    Raises CheckpointError where training left no snapshots.
    """
    benchmark = task("looktwice")
    samples = [s for condition in CONDITIONS for s in benchmark.samples(condition=condition, format="free", n=n)]
    processor, card = build_processor(miniature(name).recipe), cards().get(name)
    traced = []
    for stage, step, module in moments(name, work, folder):
        model = loading.wrap(module, processor, name=f"{name}@{stage}-{max(step, 0)}", card=card)
        ds = trace.trace(model, samples, query=ROWS, max_new_tokens=2, progress=False)
        traced.append(ds.assign_coords(training_step=("model", [step])))
    joined: xr.Dataset = xr.concat(traced, dim="model", join="exact")  # pyright: ignore[reportAssignmentType]
    return pack.pack(joined.drop_vars(DERIVED), folder / MOMENTS, BITS)
