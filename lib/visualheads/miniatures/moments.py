"""Moments of training, traced: the same questions asked of the model before, while and after it learns to see."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xarray as xr

from visualheads import models, packing, schema, tracing
from visualheads.catalog import cards
from visualheads.errors import CheckpointError
from visualheads.miniatures.architectures import build_processor
from visualheads.miniatures.train import load_moment, moment_files
from visualheads.tasks import task

MOMENTS = "moments.zarr.zip"
SAMPLES = 48
CONDITIONS = ("plain-object", "visual-general")


def moments(name: str, work: Path, folder: Path) -> Iterator[tuple[str, int, Any]]:
    """(stage, steps of visual tuning, model) in the order of training: `adapter` before the adapter's alignment,
    `aligned` after it, `tuning` in the first round of visual tuning, `pointing` in its second, and `final`.

    The steps count both rounds; −2 stands before alignment, so that the order along `training_step` is that of time.
    """
    found = moment_files(name, work)
    if not found:
        raise CheckpointError(f"{work} holds no snapshots of {name}; train it first (visualheads train {name}).")
    before, after = (planned_steps(found, stage) for stage in ("tuning", "pointing"))
    for stage, step, path in found:
        if stage == "alignment" and step == 0:
            yield "adapter", -2, load_moment(name, path)
        elif stage == "tuning":
            yield "aligned" if step == 0 else "tuning", step, load_moment(name, path)
        elif stage == "pointing":
            yield "pointing", before + step, load_moment(name, path)
    from transformers import AutoModelForImageTextToText

    yield "final", before + after, AutoModelForImageTextToText.from_pretrained(folder, dtype="float32")


def planned_steps(found: list[tuple[str, int, Path]], stage: str) -> int:
    """Steps of a whole stage, from the plan that made the snapshots."""
    plan = json.loads((found[0][2].parent / "plan.json").read_text())
    return int(plan[stage]["steps"])


def trace_moments(name: str, folder: Path, work: Path, n: int = SAMPLES) -> Path:
    """Trace every moment on the same `n` questions per condition; written to `folder/moments.zarr.zip`.

    The dataset has one entry along `model` a moment, named `<name>@<stage>-<step>`, with `training_step`.
    Raises CheckpointError where training left no snapshots.
    """
    benchmark = task("looktwice")
    samples = [s for condition in CONDITIONS for s in benchmark.samples(condition=condition, format="free", n=n)]
    processor, card = build_processor(name), cards().get(name)
    traced = []
    for stage, step, module in moments(name, work, folder):
        model = models.wrap(module, processor, name=f"{name}@{stage}-{max(step, 0)}", card=card)
        ds = tracing.trace(model, samples, query=schema.QUERIES, max_new_tokens=2, progress=False)
        traced.append(ds.assign_coords(training_step=("model", [step])))
    joined: xr.Dataset = xr.concat(traced, dim="model", join="exact")  # pyright: ignore[reportAssignmentType]
    return packing.pack(joined, folder / MOMENTS)
