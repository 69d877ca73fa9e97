"""Traced datasets as the small tables that charts and sentences are made of: aggregated before anything is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from visualheads.analysis.subset import asked_parts, models_of, only_model, subset
from visualheads.heads.ranking import ROW, K, head_count, sample_scores
from visualheads.store.variables import AS_THEY_ARE

QUERY = ROW
FEWEST, STRONGEST = 3, 0.1
"""Heads below which nothing is correlated, and the share of the heads that counts as the strongest."""
LONGEST_SIDE = 12
"""Cells along a side of the mean maps in linked details: finer grids are averaged in blocks."""


def _view(ds: xr.Dataset, query: str | None = QUERY, model: str | None = None) -> xr.Dataset:
    """One model, one attention row, no controls: dims (layer, head, sample)."""
    chosen = subset(ds, model=only_model(ds, model), trim=True).isel(model=0)
    return chosen.sel(query=query) if "query" in chosen.dims else chosen


def head_name(layer: int, head: int) -> str:
    """The short name of a head: `L3H5` for layer 3 and head 5.

    Parameters
    ----------
    layer, head : int
        Both counted from 0.

    Returns
    -------
    str
        The name.
    """
    return f"L{layer}H{head}"


def head_table(ds: xr.Dataset, measures: Sequence[str], query: str = QUERY, model: str | None = None) -> pd.DataFrame:
    """The mean over samples of each measure, for every head of one model.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces (model, layer, head, sample).
    measures : sequence of str
        Variables per head and sample.
    query : str
        The attention row, where the dataset holds several.
    model : str, optional
        The model; needed where the dataset holds several.

    Returns
    -------
    pandas.DataFrame
        One row per head, layer after layer. Columns: layer, head, name, stage, and each measure in its own unit.
        Samples that are NaN are left out; NaN where a head has no other.

    Raises
    ------
    ParameterError
        The model is unknown, or not named where there are several.
    """
    seen = _view(ds, query, model)
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


def condition_table(ds: xr.Dataset, measures: Sequence[str] = ("image_weight", "region_weight")) -> pd.DataFrame:
    """Head maps per condition: the mean over samples of each measure, for every model, condition and head.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces (model, layer, head, sample) of one answer format: free form adds a sentence to prompts with a box.
    measures : sequence of str
        Variables per head and sample.

    Returns
    -------
    pandas.DataFrame
        Columns: model, condition, layer, head, and each measure in its own unit; NaN where a measure has no value.
        Heads that a model lacks are left out.
    """
    parts = []
    for name in models_of(ds):
        own = subset(ds, model=name)
        for condition in dict.fromkeys(own["condition"].values.astype(str)):
            told = head_table(subset(own, condition=condition), measures)
            parts.append(told.drop(columns=["name", "stage"]).assign(model=name, condition=condition))
    columns = ["model", "condition", "layer", "head", *measures]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    return table[columns].dropna(subset=list(measures), how="all", ignore_index=True)


def detections(ds: xr.Dataset, k: K = None) -> pd.DataFrame:
    """How often each head is among the K strongest by image weight.

    Counts of a model and benchmark sum to k · samples: they rank heads, and say nothing of how many look at pictures.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces with `image_weight` (model, layer, head, sample).
    k : int or float, optional
        A count or a share of heads. By default the released code's 100 from 1000 heads on, else the same share (9.8 %).

    Returns
    -------
    pandas.DataFrame
        One row per model, benchmark and head. Columns: model, task, layer, head, name, count (samples in which it is
        among the K), samples, k (as a count). Heads that a model lacks are left out.

    References
    ----------
    Bi et al. 2024 (arXiv:2412.18108), its released code.
    """
    parts = []
    for name, task, own in asked_parts(ds):
        among = sample_scores(own, "detection", k=k)
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
    """How many heads ever enter the top K, by model and benchmark.

    Parameters
    ----------
    table : pandas.DataFrame
        A result of `detections`.

    Returns
    -------
    pandas.DataFrame
        One row per model and benchmark. Columns: model, task, samples, heads, k, ever (heads that are among the K in
        any sample), expected (the same in as many random samples as the smallest row has, on average: more samples let
        more heads in), often (heads in at least half of the samples).
    """
    told = table.assign(ever=table["count"] > 0, often=2 * table["count"] >= table["samples"])
    cells = told.groupby(["model", "task"], sort=False)
    first = {name: (name, "first") for name in ("samples", "k")}
    return cells.agg(heads=("name", "size"), ever=("ever", "sum"), often=("often", "sum"), **first).reset_index()


def histograms(
    ds: xr.Dataset, measure: str, bins: int = 20, query: str = QUERY, model: str | None = None
) -> tuple[NDArray[np.int64], float]:
    """Numbers of samples per bin of a measure's values, for every head of one model.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces (model, layer, head, sample).
    measure : str
        A variable per head and sample that is never negative.
    bins : int
        Number of bins of equal width, from 0 to the largest value.
    query : str
        The attention row.
    model : str, optional
        The model; needed where the dataset holds several.

    Returns
    -------
    counts : numpy.ndarray
        Samples per bin (layer, head, bin); NaN is in none.
    width : float
        Width of a bin in the unit of the measure.

    Raises
    ------
    ParameterError
        The model is unknown, or not named where there are several.
    """
    values = _view(ds, query, model)[measure].transpose("layer", "head", "sample").values
    top = float(np.nanmax(values)) if np.isfinite(values).any() else 1.0
    width = (top or 1.0) / bins
    place = np.clip(np.nan_to_num(values, nan=-1) / width, -1, bins - 1).astype(int)
    counts = np.stack([(place == index).sum(axis=-1) for index in range(bins)], axis=-1)
    return counts, width


def mean_maps(ds: xr.Dataset, query: str = QUERY, model: str | None = None) -> NDArray[np.float64] | None:
    """Mean attention per picture cell over all samples but controls, for every head of one model.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces with `mean_map` (model, layer, head, grid_row, grid_column), alone or per `map_condition`.
    query : str
        The attention row, where the maps hold several.
    model : str, optional
        The model; needed where the dataset holds several.

    Returns
    -------
    numpy.ndarray or None
        Shares of attention (layer, head, row, column), NaN where no token lies. Grids of more than LONGEST_SIDE cells a
        side are summed in blocks. None where the dataset has no mean maps.

    Raises
    ------
    ParameterError
        The model is unknown, or not named where there are several.
    """
    if "mean_map" not in ds:
        return None
    seen = subset(ds, model=only_model(ds, model), trim=True).isel(model=0)
    maps = seen["mean_map"].sel(query=query) if "query" in seen["mean_map"].dims else seen["mean_map"]
    if "map_condition" in maps.dims:  # a shipped store keeps their mean alone
        real = np.isin(seen["map_control"].values.astype(str), AS_THEY_ARE)
        chosen = np.flatnonzero(real) if real.any() else slice(None)
        maps, counts = maps.isel(map_condition=chosen), seen["mean_map_count"].isel(map_condition=chosen).astype(float)
        weight = (maps.notnull() * counts).sum("map_condition")
        maps = (maps.fillna(0) * counts).sum("map_condition") / weight.where(weight > 0)
    return _pooled(maps.transpose("layer", "head", "grid_row", "grid_column").values)


def _pooled(maps: NDArray[np.floating], longest: int = LONGEST_SIDE) -> NDArray[np.float64]:
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


def row_agreement(ds: xr.Dataset, queries: tuple[str, str] = ("first_generated", "last_prompt")) -> pd.DataFrame:
    """How alike two attention rows rank the heads of one model.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces of one model with both rows along `query`.
    queries : tuple of str
        The two rows.

    Returns
    -------
    pandas.DataFrame
        One row per measure (image weight, region weight, concentration) that at least three heads have in both rows.
        Columns: measure, rho (Spearman over heads, in [−1, 1]), shared (share of the strongest tenth that both name).
    """
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
    """A measure over depth: the mean, the strongest and the weakest head of every layer of one model.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces (model, layer, head, sample).
    measure : str
        A variable per head and sample.
    query : str
        The attention row.
    model : str, optional
        The model; needed where the dataset holds several.

    Returns
    -------
    pandas.DataFrame
        One row per layer. Columns: layer, stage, mean, strongest, weakest: of the heads' means over samples, in the
        unit of the measure; heads that are NaN are left out.

    Raises
    ------
    ParameterError
        The model is unknown, or not named where there are several.
    """
    table = head_table(ds, [measure], query, model)
    return (
        table.groupby(["layer", "stage"], sort=False)[measure]
        .agg(mean="mean", strongest="max", weakest="min")
        .reset_index()
    )
