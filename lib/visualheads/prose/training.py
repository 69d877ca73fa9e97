"""Text about a miniature's training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import xarray as xr

from visualheads.catalog import cards, miniature_folder
from visualheads.charts import tables
from visualheads.charts.training import CLOCK
from visualheads.prose.words import listed, percent, table


def training_record(model: str) -> dict[str, Any] | None:
    """What a miniature's training left beside its checkpoint: stages, curves, scores; None for any other model."""
    path = miniature_folder(model) / "training.json"
    if model not in cards() or not path.is_file():
        return None
    return json.loads(path.read_text(encoding="utf-8"))


def stages(record: Mapping[str, Any]) -> str:
    """Steps, time and last measured figures of every stage, and the sum."""
    lines, seconds = [], 0.0
    for name, stage in record["stages"].items():
        last = {key: value for key, value in stage["curve"][-1].items() if key not in CLOCK}
        told = ", ".join(f"{key} {value:.2f}" for key, value in last.items() if isinstance(value, (int, float)))
        lines.append((name, stage["steps"], stage["batch"], f"{stage['seconds'] / 60:.0f}", told))
        seconds += stage["seconds"]
    header = ("stage", "steps", "batch", "minutes", "last measured, on fresh scenes")
    return (
        table(header, lines)
        + f"\n\nAll stages together took {seconds / 60:.0f} minutes of two processor cores or less."
    )


def moments(ds: xr.Dataset, query: str = tables.QUERY) -> str:
    """Whether the heads that look at pictures in the end did so before."""
    names = [str(name) for name in ds["model"].values[ds["training_step"].values.argsort(kind="stable")]]
    first, last = (tables.head_table(ds, ["image_weight"], query, name) for name in (names[0], names[-1]))
    rho = float(first["image_weight"].rank().corr(last["image_weight"].rank()))
    k = max(1, round(0.1 * len(last)))
    best = last.nlargest(k, "image_weight")
    told = [
        f"{name} {percent(before)} → {percent(after)}"
        for name, before, after in zip(
            best["name"], first.loc[best.index, "image_weight"], best["image_weight"], strict=True
        )
    ]
    return (
        f"From the first moment to the last, the strongest heads of the end went: {listed(told)}. Over all "
        f"{len(last)} heads, the ranks at "
        f"the first moment and at the last correlate with {rho:.2f}: the nearer to 1, the more the roles were there "
        "before any picture "
        "was seen."
    )
