"""Traced datasets of several made-up models: planted heads, planted kinship, planted answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from helpers.datasets import samples_of, traced_dataset
from visualheads.tasks.sample import Sample

SIX = tuple(f"{way}-{name}" for way in ("plain", "visual") for name in ("general", "object", "super"))
LINEAGE = {
    "mini-1.5-7B": ("Vicuna-7B", "1.5", 2.0),
    "mini-1.6-vicuna-7B": ("Vicuna-7B", "1.6", 2.0),
    "mini-vip-llama-3-8B": ("Llama-3-8B", "ViP", 2.1),
    "mini-1.5-13B": ("Vicuna-13B", "1.5", 4.0),
}
"""Model: language model, recipe, parameters. The last has another shape."""


def questions(conditions: Sequence[str] = SIX, pictures: int = 10, task: str = "looktwice") -> list[Sample]:
    """Every picture asked once in every condition."""
    made = []
    for condition in conditions:
        for picture in range(pictures):
            answer = str(1 + picture % 3)
            made.append(
                Sample(
                    id=f"{task}-{picture}-{condition}-free-none", image=f"{picture}.png", question="How many?",
                    answer=answer, box=(1.0, 1.0, 4.0, 4.0), condition=condition, question_id=str(picture),
                    image_id=str(picture), task=task,
                )
            )  # fmt: skip
    return made


def model_dataset(
    name: str = "mini-1.5-7B",
    samples: Sequence[Sample] | None = None,
    *,
    pattern: np.ndarray | None = None,
    noise: float = 0.02,
    seed: int = 0,
) -> xr.Dataset:
    """One made-up model whose image and region weights follow `pattern` (layer, head) in [0, 1], with noise."""
    llm, recipe, parameters = LINEAGE.get(name, ("Vicuna-7B", "1.5", 2.0))
    layers, heads = pattern.shape if pattern is not None else (4, 4)
    ds = traced_dataset(
        name, layers, heads, list(samples or questions()), llm=llm, recipe=recipe, parameters=parameters, seed=seed
    )
    if pattern is None:
        return ds
    rng = np.random.default_rng([seed, len(name)])
    ds = ds.copy(deep=True)
    shape = ds["image_weight"].shape
    weight = np.clip(0.05 + 0.8 * pattern[None, :, :, None, None] + rng.normal(0, noise, shape), 0.01, 0.99)
    ds["image_weight"][:] = weight
    ds["region_weight"][:] = 0.5 * weight
    for variable in ("image_log_odds", "image_log_odds_no_sink"):
        ds[variable][:] = np.log(weight / (1 - weight)) - 1.4
    return ds


def random_pattern(seed: int, layers: int = 4, heads: int = 4) -> np.ndarray:
    """A pattern of its own for every seed."""
    return np.random.default_rng(seed).random((layers, heads))


def several(tasks: Sequence[str] = ("looktwice", "pope"), pictures: int = 10) -> xr.Dataset:
    """The four models of LINEAGE on several tasks; those of Vicuna-7B share a pattern, the others have their own."""
    patterns = {"Vicuna-7B": random_pattern(1), "Llama-3-8B": random_pattern(2), "Vicuna-13B": random_pattern(3, 5, 5)}
    listed = [
        sample for task in tasks for sample in questions(SIX if task == "looktwice" else ("plain",), pictures, task)
    ]
    parts = [model_dataset(name, listed, pattern=patterns[llm], seed=5) for name, (llm, _, _) in LINEAGE.items()]
    joined: xr.Dataset = xr.concat(parts, "model", data_vars="all", coords="minimal", compat="override", join="outer")
    return joined


def stored(results: Path, ds: xr.Dataset) -> None:
    """Each model's samples of each task as a store, as tracing leaves them."""
    from visualheads.store.upkeep import pack

    for name in ds["model"].values:
        for task in dict.fromkeys(ds["task"].values.astype(str)):
            one = ds.sel(model=[name]).isel(sample=np.flatnonzero(ds["task"].values.astype(str) == task))
            weight = one["image_weight"].isel(model=0, sample=0, query=0)
            kept = one.isel(
                layer=np.flatnonzero(weight.notnull().any("head")), head=np.flatnonzero(weight.notnull().any("layer"))
            )
            pack(kept, results / str(name) / f"{task}.zarr.zip", bits=23)


__all__ = ["LINEAGE", "SIX", "model_dataset", "questions", "random_pattern", "samples_of", "several", "stored"]
