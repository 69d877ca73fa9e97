"""Traced datasets as the small tables that charts and sentences are made of: aggregated before anything is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import hypergeom

from visualheads.analysis.subset import models_of, only_model, subset, tasks_of
from visualheads.heads.ranking import ROW, K, head_count, rank, sample_scores
from visualheads.store.variables import AS_THEY_ARE

QUERY = ROW
FEWEST, STRONGEST = 3, 0.1
"""Heads below which nothing is correlated, and the share of the heads that counts as the strongest."""
LONGEST_SIDE = 12
"""Cells along a side of the mean maps in linked details: finer grids are averaged in blocks."""


def view(ds: xr.Dataset, query: str | None = QUERY, model: str | None = None) -> xr.Dataset:
    """One model, one attention row, no controls: dims (layer, head, sample)."""
    chosen = subset(ds, model=only_model(ds, model), trim=True).isel(model=0)
    return chosen.sel(query=query) if "query" in chosen.dims else chosen


def head_name(layer: int, head: int) -> str:
    """`L3H5`: layer 3, head 5, both counted from 0."""
    return f"L{layer}H{head}"


def head_table(ds: xr.Dataset, measures: Sequence[str], query: str = QUERY, model: str | None = None) -> pd.DataFrame:
    """One row per head: layer, head, name, stage and the mean over samples of each measure (NaN samples left out)."""
    seen = view(ds, query, model)
    layers, heads = seen["layer"].values, seen["head"].values
    stages = seen["depth_stage"].values.astype(str)
    means = {name: seen[name].mean("sample").transpose("layer", "head").values.ravel() for name in measures}
    return pd.DataFrame(
        {
            "layer": np.repeat(layers, len(heads)),
            "head": np.tile(heads, len(layers)),
            "name": [head_name(layer, head) for layer in layers for head in heads],
            "stage": np.repeat(stages, len(heads)),
            **{name: values.astype(float) for name, values in means.items()},
        }
    )


def condition_table(
    ds: xr.Dataset, measures: Sequence[str] = ("image_weight", "region_weight"), query: str = QUERY
) -> pd.DataFrame:
    """Head maps per condition: one row per model, condition and head, with the mean over samples of each measure.

    Columns: model, condition, layer, head, and the measures; NaN where a measure has no value. Heads that a model lacks
    are left out. Give samples of one format: free form adds a sentence to prompts with a box.
    """
    parts = []
    for name in models_of(ds):
        own = subset(ds, model=name)
        for condition in dict.fromkeys(own["condition"].values.astype(str)):
            told = head_table(subset(own, condition=condition), measures, query)
            parts.append(told.drop(columns=["name", "stage"]).assign(model=name, condition=condition))
    columns = ["model", "condition", "layer", "head", *measures]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    return table[columns].dropna(subset=list(measures), how="all", ignore_index=True)


def detections(ds: xr.Dataset, k: K = None, query: str = QUERY) -> pd.DataFrame:
    """How often each head is among the K strongest by image weight: one row per model, benchmark and head.

    Columns: model, task, layer, head, name, count (samples in which it is), samples, k.
    k   a count or a share; by default the released code's 100 from 1000 heads on, else the same share (9.8 %)
    Counts of a model and benchmark sum to k · samples: they rank heads, and say nothing of how many look at pictures.
    """
    parts = []
    for name in models_of(ds):
        for task in tasks_of(ds):
            own = subset(ds, model=name, task=task)
            if not own.sizes["sample"]:
                continue
            among = sample_scores(own, "detection", query=query if "query" in own.dims else None, k=k)
            counts = among.isel(model=0).transpose("layer", "head", "sample")
            layer, head = np.nonzero(counts.notnull().any("sample").values)
            total = counts.sum("sample").values[layer, head].astype(int)
            wanted = head_count(len(layer), k)
            parts.append(pd.DataFrame({
                "model": name, "task": task, "layer": layer, "head": head,
                "name": [head_name(*place) for place in zip(layer.tolist(), head.tolist(), strict=True)],
                "count": total, "samples": own.sizes["sample"], "k": wanted,
            }))  # fmt: skip
    columns = ["model", "task", "layer", "head", "name", "count", "samples", "k"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def ever_detected(table: pd.DataFrame) -> pd.DataFrame:
    """How many heads ever enter the top K, of a result of `detections`: one row per model and benchmark.

    Columns: model, task, samples, heads, k, ever (heads that are among the K in any sample), expected (the same in as
    many random samples as the smallest row has, on average: more samples let more heads in), often (heads in at least
    half of the samples).
    """
    least = table["samples"].min()
    missed = hypergeom.pmf(0, table["samples"], table["count"], least)
    told = table.assign(ever=table["count"] > 0, expected=1 - missed, often=2 * table["count"] >= table["samples"])
    counted = {name: (name, "sum") for name in ("ever", "expected", "often")}
    cells = told.groupby(["model", "task"], sort=False)
    return cells.agg(samples=("samples", "first"), heads=("name", "size"), k=("k", "first"), **counted).reset_index()


def min_max(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Values stretched over the whole array, the smallest to 0 and the largest to 1; all 0 where they are equal, NaN
    stays NaN."""
    low, high = (np.nanmin(values), np.nanmax(values)) if np.isfinite(values).any() else (0.0, 0.0)
    return (np.asarray(values, dtype=np.float64) - low) / ((high - low) or 1.0)


def histograms(
    ds: xr.Dataset, measure: str, bins: int = 20, query: str = QUERY, model: str | None = None
) -> tuple[NDArray[np.int64], float]:
    """Samples per bin of each head, shape (layer, head, bin), bins of equal width from 0; and that width."""
    values = view(ds, query, model)[measure].transpose("layer", "head", "sample").values
    top = float(np.nanmax(values)) if np.isfinite(values).any() else 1.0
    width = (top or 1.0) / bins
    place = np.clip(np.nan_to_num(values, nan=-1) / width, -1, bins - 1).astype(int)
    counts = np.stack([(place == index).sum(axis=-1) for index in range(bins)], axis=-1)
    return counts, width


def mean_maps(ds: xr.Dataset, query: str = QUERY, model: str | None = None) -> NDArray[np.float64] | None:
    """Mean attention per picture cell over all samples but controls, shape (layer, head, row, column).

    None where the dataset has no mean maps. Grids of more than LONGEST_SIDE cells a side are summed in blocks.
    """
    if "mean_map" not in ds:
        return None
    seen = subset(ds, model=only_model(ds, model), trim=True).isel(model=0)
    if "map_condition" not in ds.dims:  # a shipped store keeps their mean alone
        mean = seen["mean_map"].sel(query=query) if "query" in seen["mean_map"].dims else seen["mean_map"]
        return pooled(mean.transpose("layer", "head", "grid_row", "grid_column").values)
    real = np.isin(seen["map_control"].values.astype(str), AS_THEY_ARE)
    if real.any():
        seen = seen.isel(map_condition=np.flatnonzero(real))
    maps = seen["mean_map"].sel(query=query) if "query" in seen["mean_map"].dims else seen["mean_map"]
    counts = seen["mean_map_count"].astype(float)
    present = maps.notnull()
    total = (maps.fillna(0) * counts).sum("map_condition")
    weight = (present * counts).sum("map_condition")
    mean = (total / weight.where(weight > 0)).transpose("layer", "head", "grid_row", "grid_column")
    return pooled(mean.values)


def pooled(maps: NDArray[np.floating], longest: int = LONGEST_SIDE) -> NDArray[np.float64]:
    """Maps (…, row, column) summed in blocks until neither side is longer than `longest`; rims are padded with NaN."""
    rows, columns = maps.shape[-2:]
    block = -(-max(rows, columns) // longest)
    if block <= 1:
        return maps.astype(np.float64)
    padding = [(0, 0)] * (maps.ndim - 2) + [(0, -rows % block), (0, -columns % block)]
    padded = np.pad(maps.astype(np.float64), padding, constant_values=np.nan)
    high, wide = padded.shape[-2] // block, padded.shape[-1] // block
    blocks = padded.reshape(*maps.shape[:-2], high, block, wide, block)
    there = np.isfinite(blocks).any(axis=(-3, -1))
    return np.where(there, np.nansum(blocks, axis=(-3, -1)), np.nan)


def ranking_table(
    ds: xr.Dataset, by: str, n: int = 20, query: str | None = None, model: str | None = None, seed: int = 0
) -> pd.DataFrame:
    """The n best heads by a ranking: layer, head, name, stage, estimate, lower, upper (95 %, over pictures)."""
    chosen = subset(ds, model=only_model(ds, model), trim=True)
    scores = rank(chosen, by, interval=True, query=query, seed=seed).isel(model=0)
    stages = dict(
        zip(chosen["layer"].values.tolist(), chosen["depth_stage"].values.reshape(-1).astype(str), strict=True)
    )
    table = scores.transpose("layer", "head", "bound").stack(place=("layer", "head"))
    frame = pd.DataFrame(
        {
            "layer": table["layer"].values,
            "head": table["head"].values,
            **{bound: table.sel(bound=bound).values.astype(float) for bound in ("estimate", "lower", "upper")},
        }
    )
    frame["stage"] = [stages[layer] for layer in frame["layer"]]
    frame["name"] = [head_name(layer, head) for layer, head in zip(frame["layer"], frame["head"], strict=True)]
    best = frame.dropna(subset=["estimate"]).sort_values("estimate", ascending=False, kind="stable")
    return best.head(n).reset_index(drop=True)


def row_agreement(ds: xr.Dataset, queries: tuple[str, str] = ("first_generated", "last_prompt")) -> pd.DataFrame:
    """How alike two attention rows rank the heads of one model: measure, rho (Spearman over heads), shared (share of
    the strongest tenth that both name); measures without values are left out."""
    found = []
    for measure in ("image_weight", "region_weight", "concentration"):
        one, other = (head_table(ds, [measure], query)[measure] for query in queries)
        if min(one.notna().sum(), other.notna().sum()) < FEWEST:
            continue
        k = max(1, round(STRONGEST * len(one)))
        shared = len(set(one.nlargest(k).index) & set(other.nlargest(k).index)) / k
        found.append({"measure": measure, "rho": float(one.rank().corr(other.rank())), "shared": shared})
    return pd.DataFrame(found, columns=["measure", "rho", "shared"])


def stage_table(
    ds: xr.Dataset, measure: str = "image_weight", query: str = QUERY, model: str | None = None
) -> pd.DataFrame:
    """One row per layer: stage, and mean, strongest and weakest head by the mean of a measure."""
    table = head_table(ds, [measure], query, model)
    return (
        table.groupby(["layer", "stage"], sort=False)[measure]
        .agg(mean="mean", strongest="max", weakest="min")
        .reset_index()
    )
