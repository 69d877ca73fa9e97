"""Traced datasets as the small tables that charts and sentences are made of: aggregated before anything is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from visualheads.errors import ParameterError, got
from visualheads.heads.proportions import share_right
from visualheads.heads.ranking import rank, real_samples
from visualheads.store.variables import AS_THEY_ARE

QUERY = "first_generated"
LONGEST_SIDE = 12
"""Cells along a side of the mean maps in linked details: finer grids are averaged in blocks."""


def one_model(ds: xr.Dataset, model: str | None = None) -> xr.Dataset:
    """The dataset of one model, still with its `model` dimension of length 1, and only layers and heads it has."""
    names = [str(name) for name in np.atleast_1d(ds["model"].values)]
    if model is None and len(names) == 1:
        model = names[0]
    if model not in names:
        raise ParameterError(got("model", model, names, "name one of the dataset's models"))
    chosen = ds.isel(model=[names.index(model)])
    if len(names) > 1:
        weight = chosen["image_weight"].isel(model=0).notnull()
        other = [dim for dim in weight.dims if dim not in ("layer", "head")]
        there = weight.any(other).load()
        measured = weight.any([dim for dim in weight.dims if dim != "sample"]).load()
        chosen = chosen.isel(
            layer=np.flatnonzero(there.any("head")),
            head=np.flatnonzero(there.any("layer")),
            sample=np.flatnonzero(measured),
        )
    return chosen


def view(ds: xr.Dataset, query: str | None = QUERY, model: str | None = None) -> xr.Dataset:
    """One model, one attention row, no controls: dims (layer, head, sample)."""
    chosen = real_samples(one_model(ds, model).isel(model=0))
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
    seen = one_model(ds, model).isel(model=0)
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
    chosen = one_model(ds, model)
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


def accuracy_table(
    ds: xr.Dataset, model: str | None = None, by: Sequence[str] = ("condition", "format")
) -> pd.DataFrame:
    """Share of right answers per group of samples, with a 95 % interval over pictures, and n."""
    seen = one_model(ds, model)
    keys = pd.DataFrame({name: np.atleast_1d(seen[name].values).astype(str) for name in (*by, "control")})
    records = []
    real = keys[keys["control"].isin(["", "none"])]
    for names in dict.fromkeys(zip(*[real[name] for name in by], strict=True)):
        index = real.index[(real[list(by)] == list(names)).all(axis=1)]
        values = seen["correct"].isel(sample=np.asarray(index), model=0).load()
        if not values.notnull().any():
            continue
        bounds = share_right(values)
        records.append(
            {
                **dict(zip(by, names, strict=True)),
                **bounds,
                "n": int(values.notnull().sum()),
            }
        )
    return pd.DataFrame(records, columns=[*by, "estimate", "lower", "upper", "n"])


def conditions(ds: xr.Dataset) -> list[str]:
    """The conditions of the dataset's samples, in order of first appearance."""
    return list(dict.fromkeys(np.atleast_1d(ds["condition"].values).astype(str)))


def formats(ds: xr.Dataset) -> list[str]:
    """The answer formats of the dataset's samples, in order of first appearance."""
    return list(dict.fromkeys(np.atleast_1d(ds["format"].values).astype(str)))


def where(ds: xr.Dataset, **labels: str) -> xr.Dataset:
    """The samples with these labels: where(ds, condition="plain-object", format="free")."""
    chosen = np.ones(ds.sizes["sample"], dtype=bool)
    for name, value in labels.items():
        known = np.atleast_1d(ds[name].values).astype(str)
        if value not in known:
            raise ParameterError(got(name, value, dict.fromkeys(known.tolist())))
        chosen &= known == value
    return ds.isel(sample=np.flatnonzero(chosen))


def condition_patterns(
    ds: xr.Dataset, measure: str = "image_weight", query: str = QUERY, format: str | None = None
) -> pd.DataFrame:
    """One row per head and condition: layer, head, name, condition, value (mean over that condition's samples)."""
    parts = []
    for condition in conditions(ds):
        chosen = where(ds, condition=condition) if format is None else where(ds, condition=condition, format=format)
        if chosen.sizes["sample"]:
            parts.append(
                head_table(chosen, [measure], query).rename(columns={measure: "value"}).assign(condition=condition)
            )
    return pd.concat(parts, ignore_index=True)


def pattern_agreement(
    ds: xr.Dataset, measure: str = "image_weight", query: str = QUERY, splits: int = 20
) -> pd.DataFrame:
    """Spearman correlation over heads between the patterns of every two conditions: condition, other, value, within.

    value compares the mean patterns of two random halves of the pictures, one half per condition, averaged over
    `splits` (so that the diagonal is the split-half reliability, and no pair shares its noise); within does so after
    removing each layer's mean.
    """
    seen = view(ds, query)
    names = conditions(seen)
    labels = np.atleast_1d(seen["condition"].values).astype(str)
    pictures = np.atleast_1d(seen["image_id"].values).astype(str)
    values = seen[measure].transpose("sample", "layer", "head").values.astype(np.float64)
    rng = np.random.default_rng(0)
    known = np.unique(pictures)
    found = np.full((2, splits, len(names), len(names)), np.nan)
    for split in range(splits):
        first = np.isin(pictures, known[rng.permutation(len(known))[: len(known) // 2]])
        one, other = ([_pattern(values[(labels == name) & half]) for name in names] for half in (first, ~first))
        for way, centred in enumerate((False, True)):
            one_way = _correlations(one, other, centred)
            found[way, split] = np.nanmean([one_way, one_way.T], axis=0) if np.isfinite(one_way).all() else one_way
    there = np.isfinite(found)
    totals = np.where(there, found, 0).sum(axis=1) / np.where(there.any(axis=1), there.sum(axis=1), np.nan)
    return pd.DataFrame(
        {"condition": a, "other": b, "value": totals[0, i, j], "within": totals[1, i, j]}
        for i, a in enumerate(names)
        for j, b in enumerate(names)
    )


def _pattern(values: NDArray[np.float64]) -> NDArray[np.float64]:
    there = np.isfinite(values)
    return np.where(there, values, 0).sum(axis=0) / np.where(there.any(axis=0), there.sum(axis=0), np.nan)


def _correlations(
    ones: Sequence[NDArray[np.float64]], others: Sequence[NDArray[np.float64]], centred: bool
) -> NDArray[np.float64]:
    flat = [(pattern - _layer_means(pattern) if centred else pattern).ravel() for pattern in (*ones, *others)]
    return pd.DataFrame(np.array(flat).T).rank().corr().values[: len(ones), len(ones) :]


def _layer_means(pattern: NDArray[np.float64]) -> NDArray[np.float64]:
    there = np.isfinite(pattern)
    count = there.sum(axis=-1, keepdims=True)
    return np.where(there, pattern, 0).sum(axis=-1, keepdims=True) / np.where(count, count, np.nan)


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
