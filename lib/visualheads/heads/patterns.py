"""Head patterns: a measure's mean over the samples of a group, one number per head, under any weights of the pictures.

Everything a comparison of patterns needs (see `alike`): sums and counts per group, head and picture; correlations over
heads between two weightings of the pictures; random halves, also drawn anew within themselves.

Whether head patterns are alike: conditions, tasks and models against the noise of sampling pictures (xarray).

Two patterns are compared by Spearman's correlation over heads between *different halves* of the pictures, averaged
over random halves, so that no pair profits from common pictures; the same of a pattern with itself is its split-half
reliability, and √(reliability · reliability) the ceiling that noise leaves. `shortfall` is ceiling − correlation: 0
where two patterns differ no more than two draws of pictures do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy import sparse, stats

from visualheads.errors import ParameterError, got
from visualheads.heads.agreement import without_layer_means
from visualheads.heads.bootstrap import LEVEL, centred_interval, half_weights, picture_ids
from visualheads.heads.ranking import real_samples, sample_scores

FEWEST = 3
"""Heads and pictures that a correlation over heads, or halves of pictures, need."""


@dataclass(frozen=True, eq=False)
class Patterns:
    """Sums and counts (group, head, picture) of a measure, the groups' names, and the layer of each head."""

    groups: tuple[str, ...]
    sums: NDArray[np.float64]
    counts: NDArray[np.float64]
    layer: NDArray[np.int64]

    @property
    def n_pictures(self) -> int:
        return self.sums.shape[2]

    def means(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Patterns (replicate, group, head) under weights (replicate, picture); NaN where nothing was counted."""
        counts = np.moveaxis(self.counts @ weights.T, -1, 0)
        sums = np.moveaxis(self.sums @ weights.T, -1, 0)
        return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def labels_of(ds: xr.Dataset | xr.DataArray, by: str | Sequence[str]) -> NDArray[np.object_]:
    """The group of each sample: the value of a coordinate, or of several joined by ", "."""
    names = [by] if isinstance(by, str) else list(by)
    for name in names:
        if name not in ds.coords:
            raise ParameterError(got("by", name, sorted(str(coord) for coord in ds.coords)))
    columns = [np.broadcast_to(np.asarray(ds[name].values).astype(str), ds.sizes["sample"]) for name in names]
    return np.array([", ".join(parts) for parts in zip(*columns, strict=True)], dtype=object)


def collected(parts: Sequence[tuple[xr.DataArray, NDArray[np.bool_]]], groups: Sequence[str]) -> Patterns:
    """Patterns of (array with sample, which samples); pictures are those of all samples, in sorted order."""
    first = parts[0][0]
    pictures, owner = np.unique(picture_ids(first).astype(str), return_inverse=True)
    layer = np.repeat(np.arange(first.sizes["layer"]), first.sizes["head"])
    shape = (len(parts), len(layer), len(pictures))
    sums, counts = np.zeros(shape), np.zeros(shape)
    for place, (array, chosen) in enumerate(parts):
        own = np.flatnonzero(chosen)
        member = sparse.csr_array((np.ones(len(own)), (owner[own], own)), shape=(len(pictures), len(owner)))
        flat = np.asarray(array.transpose("layer", "head", "sample").values, dtype=np.float64).reshape(len(layer), -1)
        there = np.isfinite(flat)
        sums[place] = (member @ np.where(there, flat, 0.0).T).T
        counts[place] = (member @ there.T.astype(np.float64)).T
    known = counts.any(axis=(0, 1))
    return Patterns(tuple(groups), sums[:, :, known], counts[:, :, known], layer)


def _ranked(patterns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Patterns (…, head) as unit vectors of centred ranks; NaN for a constant pattern."""
    ranks = stats.rankdata(patterns, axis=-1)
    ranks = ranks - ranks.mean(axis=-1, keepdims=True)
    norm = np.sqrt((ranks**2).sum(axis=-1, keepdims=True))
    return np.divide(ranks, norm, out=np.full_like(ranks, np.nan), where=norm > 0)


def between(found: Patterns, first: NDArray[np.float64], other: NDArray[np.float64], centred: bool = False):
    """Correlations (replicate, group, group) of the patterns under `first` with those under `other`.

    NaN for a group of so few pictures that a replicate has none of them; it says nothing about the other groups.
    """
    one, two = found.means(first), found.means(other)
    empty = ~np.isfinite(np.concatenate([one, two])).any(axis=2).all(axis=0)
    heads = np.isfinite(np.concatenate([one, two])[:, ~empty]).all(axis=(0, 1)) if not empty.all() else np.array([])
    result = np.full((len(one), len(found.groups), len(found.groups)), np.nan)
    if heads.sum() < FEWEST:
        return result
    kept = np.flatnonzero(~empty)
    one, two = (part[:, kept][:, :, heads] for part in (one, two))
    if centred:
        one, two = (without_layer_means(part, found.layer[heads]) for part in (one, two))
    values = np.clip(_ranked(one) @ np.swapaxes(_ranked(two), 1, 2), -1.0, 1.0)
    result[:, kept[:, None], kept[None, :]] = values
    return result


def drawn_halves(n_pictures: int, n_boot: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (replicate, picture) of two disjoint random halves, each drawn with replacement within itself."""
    rng = np.random.default_rng([seed, 1])
    halves = half_weights(n_pictures, n_boot, seed + 1)
    drawn = []
    for half in (halves, 1 - halves):
        share = half / half.sum(axis=1, keepdims=True)
        drawn.append(rng.multinomial(half.sum(axis=1).astype(int), share).astype(np.float64))
    return drawn[0], drawn[1]


QUERY = "first_generated"
N_SPLITS = 20
N_BOOT = 300
MARGIN = 0.05
"""Shortfall below which two patterns count as alike (ours, fixed beforehand): a twentieth of a whole correlation."""
ALIKE, DIFFERENT, UNDECIDED = "alike", "different", "undecided"


def group_agreement(
    ds: xr.Dataset,
    by: str | Sequence[str] = "condition",
    measure: str = "image_weight",
    *,
    query: str | None = QUERY,
    n_splits: int = N_SPLITS,
    n_boot: int = N_BOOT,
    level: float = LEVEL,
    seed: int = 0,
) -> xr.Dataset:
    """Return how alike the head patterns of every two groups of samples are, per model: dims (model, group, other).

    correlation         mean Spearman over heads between different halves of the pictures, [−1, 1]; the diagonal is the
                        split-half reliability of halves (not stepped up to full length)
    within_layers       the same after removing each layer's mean, so that depth alone makes no agreement
    ceiling             √(reliability · reliability of the other), [0, 1]
    shortfall           ceiling − correlation; 0 on the diagonal; with `shortfall_interval` along `bound` (lower,
                        upper): pictures drawn anew within each half, percentiles centred on the estimate
    samples             (model, group) samples that counted

    `by` names one or several coordinates along `sample`; controls never count. NaN where a model lacks a group, fewer
    than three heads have values, or there are fewer than three pictures. Source: ours (claims 4 and 14).
    """
    values = sample_scores(_with_model(ds), measure, query=_query(ds, query))
    labels = labels_of(values, by)
    groups = list(dict.fromkeys(labels))
    parts = []
    for index in range(values.sizes["model"]):
        one = values.isel(model=index)
        found = collected([(one, labels == group) for group in groups], groups)
        parts.append(_compared(found, n_splits, n_boot, level, seed))
    joined: xr.Dataset = xr.concat(parts, dim="model")  # pyright: ignore[reportAssignmentType]
    return joined.assign_coords(model=values["model"].values)


def format_agreement(
    ds: xr.Dataset, by: str | Sequence[str] = "condition", measure: str = "image_weight", **settings: Any
) -> xr.Dataset:
    """Return `group_agreement` (with its settings) within each answer format: dims (format, model, group, other).

    Formats are never pooled: what is alike in one and differs in the other would come out as something in between.
    NaN where a model was not asked in a format, or a format lacks a group.
    """
    own = real_samples(ds)
    asked, groups = labels_of(own, "format"), list(dict.fromkeys(labels_of(own, by)))
    forms = list(dict.fromkeys(asked))
    parts = [group_agreement(own.isel(sample=np.flatnonzero(asked == form)), by, measure, **settings) for form in forms]
    joined: xr.Dataset = xr.concat(  # pyright: ignore[reportAssignmentType]
        [part.reindex(group=groups, other=groups) for part in parts], dim="format"
    )
    return joined.assign_coords(format=forms)


def model_agreement(
    ds: xr.Dataset,
    measure: str = "image_weight",
    *,
    query: str | None = QUERY,
    n_splits: int = N_SPLITS,
    n_boot: int = N_BOOT,
    level: float = LEVEL,
    seed: int = 0,
) -> xr.Dataset:
    """Return how alike the head patterns of every two models are: variables as in `group_agreement`, dims (group,
    other), both with the models' names.

    Heads are compared place by place (layer, head), so models of another shape are NaN. Only samples that all models
    of a shape saw count, so that every pair rests on the same pictures (`samples` says how many; with fewer than three
    pictures all is NaN). Pictures are halved alike for all models.
    """
    values = sample_scores(_with_model(ds), measure, query=_query(ds, query))
    names = [str(name) for name in values["model"].values]
    shapes = shapes_of(values)
    result: xr.Dataset | None = None
    for shape in dict.fromkeys(shapes.values()):
        members = [names.index(name) for name in names if shapes[name] == shape]
        chosen = values.isel(model=members)
        seen = np.asarray(chosen.notnull().any(["layer", "head"]).all("model"))
        groups = [names[index] for index in members]
        found = collected([(chosen.isel(model=place), seen) for place in range(len(members))], groups)
        part = _compared(found, n_splits, n_boot, level, seed).reindex(group=names, other=names)
        result = part if result is None else result.combine_first(part)
    if result is None:
        raise ParameterError(got("models", 0, "at least one model"))
    return result.reindex(group=names, other=names)


def shapes_of(values: xr.DataArray) -> dict[str, tuple[int, int]]:
    """(layers, heads) of each model: those that have any value."""
    there = values.notnull().any([dim for dim in values.dims if dim not in ("model", "layer", "head")])
    found = {}
    for index, name in enumerate(values["model"].values):
        one = there.isel(model=index).transpose("layer", "head").values
        found[str(name)] = (int(one.any(axis=1).sum()), int(one.any(axis=0).sum()))
    return found


def verdict(lower: float, upper: float, margin: float = MARGIN) -> str:
    """Whether a shortfall's interval says "alike" (all of it below the margin), "different" (all of it above 0), or
    "undecided"; NaN is undecided. Equivalence is looked at first."""
    if upper < margin:
        return ALIKE
    return DIFFERENT if lower > 0 else UNDECIDED


def pairs(told: xr.Dataset, chosen: Sequence[tuple[str, str]] | None = None, margin: float = MARGIN) -> pd.DataFrame:
    """One row per pair of groups: group, other, correlation, within_layers, ceiling, shortfall, lower, upper, verdict.

    `told` is the result of `group_agreement` of one model, or of `model_agreement`. Pairs whose group is missing, or
    that are NaN, are left out; without `chosen` all pairs are taken, each once.
    """
    names = [str(name) for name in told["group"].values]
    if chosen is None:
        chosen = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    records = []
    for one, other in chosen:
        if one not in names or other not in names:
            continue
        at = told.isel(group=names.index(one), other=names.index(other))
        if not np.isfinite(float(at["correlation"])):
            continue
        lower, upper = (float(at["shortfall_interval"].sel(bound=bound)) for bound in ("lower", "upper"))
        row = {name: float(at[name]) for name in ("correlation", "within_layers", "ceiling", "shortfall")}
        bounds = {"lower": lower, "upper": upper, "verdict": verdict(lower, upper, margin)}
        records.append({"group": one, "other": other, **row, **bounds})
    columns = ["group", "other", "correlation", "within_layers", "ceiling", "shortfall", "lower", "upper", "verdict"]
    return pd.DataFrame(records, columns=columns)


def model_pairs(
    told: xr.Dataset, kinds: Mapping[str, Sequence[tuple[str, str]]] | None = None, margin: float = MARGIN
) -> pd.DataFrame:
    """`pairs` of every model of a `group_agreement`, with the columns model, kind and pair (`one – other`) in front.

    kinds: pairs by what they differ in; None: all pairs, of the kind "all".
    """
    parts = []
    for index, name in enumerate(told["model"].values):
        for kind, chosen in (kinds or {"all": None}).items():
            found = pairs(told.isel(model=index), chosen, margin)
            found.insert(0, "model", str(name))
            found.insert(1, "kind", kind)
            found.insert(2, "pair", found["group"] + " – " + found["other"])
            parts.append(found)
    filled = [part for part in parts if len(part)]
    return pd.concat(filled, ignore_index=True) if filled else parts[0]


def format_pairs(
    told: xr.Dataset, kinds: Mapping[str, Sequence[tuple[str, str]]] | None = None, margin: float = MARGIN
) -> pd.DataFrame:
    """`model_pairs` of every format of a `format_agreement`, with the column format in front."""
    parts = [model_pairs(told.sel(format=form), kinds, margin) for form in told["format"].values]
    for form, part in zip(told["format"].values, parts, strict=True):
        part.insert(0, "format", str(form))
    filled = [part for part in parts if len(part)]
    return pd.concat(filled, ignore_index=True) if filled else parts[0]


def identified(ds: xr.Dataset, by: str = "task", measure: str = "image_weight", **settings: int) -> pd.DataFrame:
    """How often a group is told from its head pattern alone: one row per model with `right`, `chance` and `groups`.

    Of every random halves of the pictures, each group's pattern of one half is given to the group whose pattern of the
    other half correlates with it most; `right` is the share given to its own. Chance is 1 / groups.
    """
    n_splits, seed = settings.get("n_splits", N_SPLITS), settings.get("seed", 0)
    values = sample_scores(_with_model(ds), measure, query=_query(ds, QUERY))
    labels = labels_of(values, by)
    groups = list(dict.fromkeys(labels))
    records = []
    for index, name in enumerate(values["model"].values):
        found = collected([(values.isel(model=index), labels == group) for group in groups], groups)
        correlations = _cross_half(found, n_splits, seed)
        if correlations is None:
            continue
        there = np.isfinite(np.diagonal(correlations, axis1=1, axis2=2)).all(axis=0)
        if there.sum() < 2:
            continue
        both = correlations[:, there][:, :, there]
        own = np.arange(int(there.sum()))
        right = [(way.argmax(axis=2) == own).mean() for way in (both, np.swapaxes(both, 1, 2))]
        records.append({"model": str(name), "right": float(np.mean(right)), "chance": 1 / len(own), "groups": len(own)})
    return pd.DataFrame(records, columns=["model", "right", "chance", "groups"])


def _with_model(ds: xr.Dataset) -> xr.Dataset:
    return ds if "model" in ds.dims else ds.expand_dims("model")


def _query(ds: xr.Dataset, query: str | None) -> str | None:
    return query if "query" in ds.dims else None


def _cross_half(found: Patterns, n_splits: int, seed: int, centred: bool = False) -> NDArray[np.float64] | None:
    """Correlations (split, group, group) between halves; None for too few pictures."""
    if found.n_pictures < FEWEST:
        return None
    first = half_weights(found.n_pictures, n_splits, seed)
    return between(found, first, 1 - first, centred)


def _compared(found: Patterns, n_splits: int, n_boot: int, level: float, seed: int) -> xr.Dataset:
    n = len(found.groups)
    matrix = np.full((n, n), np.nan)
    told = {name: matrix.copy() for name in ("correlation", "within_layers", "ceiling", "shortfall")}
    bounds = np.full((n, n, 2), np.nan)
    if found.n_pictures >= FEWEST:
        first = half_weights(found.n_pictures, n_splits, seed)
        for name, centred in (("correlation", False), ("within_layers", True)):
            told[name] = _symmetric(between(found, first, 1 - first, centred)).mean(axis=0)
        told["ceiling"], told["shortfall"] = _shortfall(told["correlation"])
        replicates = _shortfall(_symmetric(between(found, *drawn_halves(found.n_pictures, n_boot, seed))))[1]
        there = np.isfinite(replicates).all(axis=0)
        bounds[there] = centred_interval(told["shortfall"][there], replicates[:, there], level)
    both = ("group", "other")
    samples = found.counts.max(axis=1).sum(axis=1)
    return xr.Dataset(
        {
            **{name: (both, values) for name, values in told.items()},
            "shortfall_interval": ((*both, "bound"), bounds),
            "samples": (("group",), samples),
        },
        {"group": list(found.groups), "other": list(found.groups), "bound": ["lower", "upper"]},
    )


def _symmetric(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return (values + np.swapaxes(values, -1, -2)) / 2


def _shortfall(correlation: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    own = np.clip(np.diagonal(correlation, axis1=-2, axis2=-1), 0.0, None)
    ceiling = np.sqrt(own[..., :, None] * own[..., None, :])
    shortfall = ceiling - correlation
    np.einsum("...ii->...i", shortfall)[...] = np.where(np.isfinite(own), 0.0, np.nan)
    return ceiling, shortfall
