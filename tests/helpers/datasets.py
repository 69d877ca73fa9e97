"""Valid traced datasets made of random numbers with plausible structure: a few heads look at the image, most do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from visualheads.store import schema
from visualheads.store.variables import HEAD_DIMS, QUERIES, SAMPLE_DIMS
from visualheads.tasks.sample import Sample

CONDITIONS = ("plain-general", "visual-object")
TOKENS = 64
"""Image tokens of a sample when nothing else is said: an 8 × 8 grid."""
KEYS = 80


def samples_of(
    samples: int = 12,
    *,
    task: str = "looktwice",
    conditions: Sequence[str] = CONDITIONS,
    boxes: bool | str = True,
    start: int = 0,
) -> list[Sample]:
    """`samples` in blocks of a condition, three to a picture. boxes: True, False, "some" (a third have none)."""
    made = []
    for i in range(start, start + samples):
        condition = conditions[(i - start) * len(conditions) // max(samples, 1)]
        has_box = boxes is True or (boxes == "some" and i % 3 != 0)
        made.append(
            Sample(
                id=f"{task}-{i}-{condition}-free-none",
                image=f"{i // 3}.png",
                question="How many cars are there?",
                answer=str(1 + i % 5),
                box=(1.0, 1.0, 4.0, 4.0) if has_box else None,
                condition=condition,
                question_id=str(i),
                image_id=str(i // 3),
                task=task,
            )
        )
    return made


def traced_dataset(
    model: str = "m",
    layers: int = 4,
    heads: int = 4,
    samples: int | Sequence[Sample] = 12,
    boxes: bool | str = True,
    seed: int = 0,
    *,
    task: str = "looktwice",
    conditions: Sequence[str] = CONDITIONS,
    queries: Sequence[str] | None = QUERIES,
    grid: tuple[int, int] | None = None,
    maps: bool = False,
    llm: str = "vicuna-7b",
    family: str = "llava",
    recipe: str = "1.5",
    parameters: float = 7.0,
    training_step: int = -1,
    provenance: str | None = None,
) -> xr.Dataset:
    """A dataset that `assert_valid` accepts.

    Each head has a strength drawn once per (model, layer, head) from `seed`; about one in six, more often in the
    middle layers, is a visual head. Samples vary around it; samples answered rightly look a little more at the region.
    queries=None leaves the `query` dimension out. maps=True adds `mean_map` (with its counts) on `grid` (rows,
    columns; 8 × 8 by default).
    """
    listed = (
        samples_of(samples, task=task, conditions=conditions, boxes=boxes)
        if isinstance(samples, int)
        else list(samples)
    )
    rng = np.random.default_rng([seed, *model.encode()])
    coords = schema.coordinates(
        model,
        listed,
        layers,
        heads,
        queries=queries,
        llm=llm,
        family=family,
        recipe=recipe,
        parameters=parameters,
        training_step=training_step,
        provenance=provenance or schema.provenance({"checkpoint": model, "seed": seed}, {"device": "cpu"}),
        groups=schema.map_groups(listed) if maps else None,
    )
    n, n_queries = len(listed), 1 if queries is None else len(queries)
    correct = rng.random((1, n)) < 0.7
    measures = _measures(rng, layers, heads, n, n_queries, correct[0], coords["has_box"].values)
    dims = HEAD_DIMS[:4] if queries is None else HEAD_DIMS
    data: dict[str, Any] = {
        name: (dims, (values[..., 0] if queries is None else values)[None].astype("float32"))
        for name, values in measures.items()
    }
    answers = [s.answer for s in listed]
    prediction = np.array([a if right else "9" for a, right in zip(answers, correct[0], strict=True)], dtype=object)
    data["prediction"] = (SAMPLE_DIMS, prediction[None])
    data["correct"] = (SAMPLE_DIMS, correct.astype("float32"))
    data["margin"] = (SAMPLE_DIMS, (rng.normal(0, 0.5, (1, n)) + np.where(correct, 2.0, -2.0)).astype("float32"))
    data["n_image_tokens"] = (SAMPLE_DIMS, np.full((1, n), TOKENS, dtype="int32"))
    ds = coords.assign(data)
    if maps:
        ds = _with_maps(ds, rng, grid or (8, 8), n_queries)
    return schema.describe(ds)


def _measures(
    rng: np.random.Generator, layers: int, heads: int, n: int, n_queries: int, correct: np.ndarray, has_box: np.ndarray
) -> dict[str, np.ndarray]:
    depth = np.linspace(0, 1, layers)[:, None]
    strength = rng.normal(-2.5 - 4 * (depth - 0.45) ** 2, 0.7, (layers, heads))
    strength = strength + 3.0 * (rng.random((layers, heads)) < 0.17)
    shape = (layers, heads, n, n_queries)
    weight = _logistic(strength[..., None, None] + rng.normal(0, 0.4, shape))
    newline = weight * 0.02
    focus = np.clip(rng.beta(2, 4, shape) * np.log(TOKENS), 0, np.log(TOKENS))
    share = np.clip(_logistic(rng.normal(-1.5, 0.5, shape) + 0.4 * correct[:, None]), 0, 1)
    region = np.where(has_box[:, None], (weight - newline) * share, np.nan)
    odds = np.log(weight / (1 - weight)) - np.log((TOKENS / KEYS) / (1 - TOKENS / KEYS))
    sink = rng.beta(1, 8, shape)
    hit = np.where(has_box[:, None], rng.random(shape) < share, np.nan)
    return {
        "image_weight": weight,
        "region_weight": region,
        "concentration": focus / np.log(TOKENS),
        "focus_nats": focus,
        "effective_patches": np.maximum(TOKENS / np.exp(focus), 1.0),
        "image_log_odds": odds,
        "image_log_odds_no_sink": odds - 0.1,
        "top_share": np.clip(np.exp(focus) / TOKENS, 0, 1),
        "region_lift": np.where(has_box[:, None], share * 8, np.nan),
        "top_patch_hit": hit,
        "newline_weight": newline,
        "sink_share": sink,
        "concentration_no_sink": focus / np.log(TOKENS) * (1 - sink),
        "spatial_entropy": rng.gamma(2, 0.5, shape),
    }


def _with_maps(ds: xr.Dataset, rng: np.random.Generator, grid: tuple[int, int], n_queries: int) -> xr.Dataset:
    labels = groups_in(ds)
    shape = (1, ds.sizes["layer"], ds.sizes["head"], n_queries, len(labels), *grid)
    maps = rng.gamma(0.5, 1.0, shape)
    maps *= 0.3 / maps.sum((-2, -1), keepdims=True)
    counts = np.array([[of_group(ds, label).size for label in labels]], dtype="int32")
    dims = ("model", "layer", "head", "query", "map_condition", "grid_row", "grid_column")
    if "query" not in ds.dims:
        maps, dims = maps[:, :, :, 0], tuple(dim for dim in dims if dim != "query")
    return ds.assign(mean_map=(dims, maps.astype("float32")), mean_map_count=(("model", "map_condition"), counts))


def groups_in(ds: xr.Dataset) -> list[schema.MapGroup]:
    """The groups along the `map_condition` dimension of a dataset's mean maps."""
    labels = (ds[name].values.tolist() for name in ("map_condition", "map_format", "map_control"))
    return [schema.MapGroup(*label) for label in zip(*labels, strict=True)]


def of_group(ds: xr.Dataset, group: schema.MapGroup) -> np.ndarray:
    """Places of a group's samples."""
    chosen = [(ds[name].values == label) for name, label in zip(group._fields, group, strict=True)]
    return np.flatnonzero(np.logical_and.reduce(chosen))


def map_sums(part: xr.Dataset, groups: Sequence[schema.MapGroup], grid: tuple[int, int]) -> xr.Dataset:
    """A shard with the sums of its mean maps: every sample's map is its image weight spread evenly over the grid."""
    cells = grid[0] * grid[1]
    chosen = [part["image_weight"].isel(sample=of_group(part, group)) for group in groups]
    sums = [(one.sum("sample") / cells).expand_dims(grid_row=grid[0], grid_column=grid[1]) for one in chosen]
    total = xr.concat(sums, "map_condition").expand_dims("shard")
    dims = ("model", "shard", "layer", "head", "query", "map_condition", "grid_row", "grid_column")
    return part.assign(mean_map_sum=total.transpose(*dims).astype("float32").reset_coords(drop=True))


def _logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
