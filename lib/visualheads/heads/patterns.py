"""Head patterns: whether conditions, tasks and models have the same, against the noise of sampling pictures (xarray).

A pattern is a measure's mean over the samples of a group, one number per head. Two patterns are compared by Spearman's
correlation over heads between *different halves* of the pictures, averaged over random halves, so that no pair profits
from common pictures; the same of a pattern with itself is its split-half reliability, and √(reliability · reliability)
the ceiling that noise leaves. `shortfall` is ceiling − correlation: 0 where two patterns differ no more than two draws
of pictures do.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from visualheads.errors import ParameterError, got
from visualheads.heads.agreement import spearman, without_layer_means
from visualheads.heads.bootstrap import LEVEL, centred_interval, drawn_halves, half_weights, picture_ids, picture_sums
from visualheads.heads.ranking import ROW, real_samples, sample_scores
from visualheads.heads.selection import shapes_of

QUERY = ROW
N_SPLITS = 20
N_BOOT = 300
MARGIN = 0.05
"""Shortfall below which two patterns count as alike (ours, fixed beforehand): a twentieth of a whole correlation."""
ALIKE, DIFFERENT, UNDECIDED = "alike", "different", "undecided"
FEWEST = 3
"""Heads and pictures that a correlation over heads, or halves of pictures, need."""
TASK_FORMAT = ("task", "format")
"""Coordinates of the groups of `task_pairs`."""
FORMATS = "answer format"
"""The kind of a pair of one benchmark's two formats: the yardstick for what the format alone makes."""


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
    first, pictures = parts[0][0], np.unique(picture_ids(parts[0][0]).astype(str))
    layer = np.repeat(np.arange(first.sizes["layer"]), first.sizes["head"])
    shape = (len(parts), len(layer), len(pictures))
    sums, counts = np.zeros(shape), np.zeros(shape)
    for place, (array, chosen) in enumerate(parts):
        if chosen.any():
            ordered = array.isel(sample=np.flatnonzero(chosen)).transpose(
                "layer", "head", "sample", transpose_coords=False
            )
            own = picture_sums(ordered)
            where = np.searchsorted(pictures, own.pictures.astype(str))
            sums[place][:, where], counts[place][:, where] = own.sums, own.counts
    known = counts.any(axis=(0, 1))
    return Patterns(tuple(groups), sums[:, :, known], counts[:, :, known], layer)


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
    result[:, kept[:, None], kept[None, :]] = spearman(one, two)
    return result


def group_agreement(
    ds: xr.Dataset,
    by: str | Sequence[str] = "condition",
    measure: str = "image_weight",
    *,
    query: str | None = QUERY,
    n_boot: int = N_BOOT,
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
    values = sample_scores(ds, measure, query=query if "query" in ds.dims else None)
    labels = labels_of(values, by)
    groups = list(dict.fromkeys(labels))
    parts = []
    for index in range(values.sizes["model"]):
        one = values.isel(model=index)
        found = collected([(one, labels == group) for group in groups], groups)
        parts.append(_compared(found, n_boot))
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


def model_agreement(ds: xr.Dataset, measure: str = "image_weight") -> xr.Dataset:
    """Return how alike the head patterns of every two models are: variables as in `group_agreement`, dims (group,
    other), both with the models' names.

    Heads are compared place by place (layer, head), so models of another shape are NaN. Only samples that all models
    of a shape saw count, so that every pair rests on the same pictures (`samples` says how many; with fewer than three
    pictures all is NaN). Pictures are halved alike for all models.
    """
    values = sample_scores(ds, measure)
    names = [str(name) for name in values["model"].values]
    shapes = shapes_of(values)
    result: xr.Dataset | None = None
    for shape in dict.fromkeys(shapes.values()):
        members = [names.index(name) for name in names if shapes[name] == shape]
        chosen = values.isel(model=members)
        seen = np.asarray(chosen.notnull().any(["layer", "head"]).all("model"))
        groups = [names[index] for index in members]
        found = collected([(chosen.isel(model=place), seen) for place in range(len(members))], groups)
        part = _compared(found, N_BOOT).reindex(group=names, other=names)
        result = part if result is None else result.combine_first(part)
    if result is None:
        raise ParameterError(got("models", 0, "at least one model"))
    return result.reindex(group=names, other=names)


def verdict(lower: float, upper: float, margin: float = MARGIN) -> str:
    """Whether a shortfall's interval says "alike" (all of it below the margin), "different" (all of it above 0), or
    "undecided"; NaN is undecided. Equivalence is looked at first."""
    if upper < margin:
        return ALIKE
    return DIFFERENT if lower > 0 else UNDECIDED


def pairs(told: xr.Dataset, kinds: Mapping[str, Sequence[tuple[str, str]]] | None = None) -> pd.DataFrame:
    """Tell for every pair of groups whether their patterns are alike.

    Parameters
    ----------
    told
        A result of `group_agreement`, `format_agreement` or `model_agreement`.
    kinds
        Pairs (group, other) by what they differ in; by default all pairs, each once, of the kind "all". Pairs whose
        group is missing, or that are NaN, are left out.

    Returns
    -------
    pandas.DataFrame
        One row per format and model (where `told` has these dimensions), kind and pair, with the columns format, model,
        kind, pair (`group – other`), group, other, correlation, within_layers, ceiling, shortfall, lower, upper (of the
        shortfall's interval) and verdict.
    """
    numbers = ["correlation", "within_layers", "ceiling", "shortfall"]
    over = [dim for dim in ("format", "model") if dim in told.dims]
    names = [str(name) for name in told["group"].values]
    kinds = {"all": list(itertools.combinations(names, 2))} if kinds is None else kinds
    chosen = pd.DataFrame(
        [(kind, f"{one} – {other}", one, other) for kind, listed in kinds.items() for one, other in listed],
        columns=["kind", "pair", "group", "other"],
    )
    bounds = {bound: told["shortfall_interval"].sel(bound=bound, drop=True) for bound in ("lower", "upper")}
    table = told[numbers].assign(bounds).to_dataframe([*over, "group", "other"]).dropna(subset="correlation")
    table = table[[*numbers, *bounds]].reset_index()
    groups = [part for _, part in table.groupby(over, sort=False)] if over and len(table) else [table]
    found = pd.concat([chosen.merge(part, on=["group", "other"]) for part in groups], ignore_index=True)
    found["verdict"] = [verdict(row["lower"], row["upper"]) for _, row in found.iterrows()]
    return found[[*over, *chosen.columns, *numbers, *bounds, "verdict"]]


def task_pairs(told: xr.Dataset) -> pd.DataFrame:
    """`pairs` of a `group_agreement` by TASK_FORMAT, of the groups that have something in common.

    kind: the answer format that two benchmarks have in common (`letters`, `free`), or FORMATS for one benchmark asked
    in both.
    """
    groups = [(str(name), *str(name).rsplit(", ", 1)) for name in told["group"].values]
    kinds: dict[str, list[tuple[str, str]]] = {form: [] for form in dict.fromkeys(form for _, _, form in groups)}
    kinds[FORMATS] = []
    for (one, task, form), (other, other_task, other_form) in itertools.combinations(groups, 2):
        if form == other_form:
            kinds[form].append((one, other))
        elif task == other_task:
            kinds[FORMATS].append((one, other))
    return pairs(told, kinds)


def nearest_pattern(ds: xr.Dataset, by: str = "task") -> pd.DataFrame:
    """Nearest-pattern classification: how often a group is told from its head pattern alone.

    Of every random halves of the pictures, each group's pattern of one half is given to the group whose pattern of the
    other half correlates with it most.

    Parameters
    ----------
    ds
        Traced samples (model, layer, head, sample).
    by
        The coordinate along `sample` that names the groups; patterns are those of image weight.

    Returns
    -------
    pandas.DataFrame
        One row per model: `right`, the share of patterns given to their own group; `chance`, 1 / groups; `groups`.
        Models with fewer than two groups are left out.
    """
    values = sample_scores(ds, "image_weight")
    labels = labels_of(values, by)
    groups = list(dict.fromkeys(labels))
    records = []
    for index, name in enumerate(values["model"].values):
        found = collected([(values.isel(model=index), labels == group) for group in groups], groups)
        if found.n_pictures < FEWEST:
            continue
        first = half_weights(found.n_pictures, N_SPLITS)
        correlations = between(found, first, 1 - first)
        there = np.isfinite(np.diagonal(correlations, axis1=1, axis2=2)).all(axis=0)
        if there.sum() < 2:
            continue
        both = correlations[:, there][:, :, there]
        own = np.arange(int(there.sum()))
        right = [(way.argmax(axis=2) == own).mean() for way in (both, np.swapaxes(both, 1, 2))]
        records.append({"model": str(name), "right": float(np.mean(right)), "chance": 1 / len(own), "groups": len(own)})
    return pd.DataFrame(records, columns=["model", "right", "chance", "groups"])


def _compared(found: Patterns, n_boot: int) -> xr.Dataset:
    n = len(found.groups)
    matrix = np.full((n, n), np.nan)
    told = {name: matrix.copy() for name in ("correlation", "within_layers", "ceiling", "shortfall")}
    bounds = np.full((n, n, 2), np.nan)
    if found.n_pictures >= FEWEST:
        first = half_weights(found.n_pictures, N_SPLITS)
        for name, centred in (("correlation", False), ("within_layers", True)):
            told[name] = _symmetric(between(found, first, 1 - first, centred)).mean(axis=0)
        told["ceiling"], told["shortfall"] = shortfalls(told["correlation"])
        replicates = shortfalls(_symmetric(between(found, *drawn_halves(found.n_pictures, n_boot, 0))))[1]
        there = np.isfinite(replicates).all(axis=0)
        bounds[there] = centred_interval(told["shortfall"][there], replicates[:, there], LEVEL)
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


def shortfalls(correlation: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ceiling and shortfall (…, group, other) of correlations between halves, whose diagonal is the reliability."""
    correlation = _symmetric(correlation)
    own = np.clip(np.diagonal(correlation, axis1=-2, axis2=-1), 0.0, None)
    ceiling = np.sqrt(own[..., :, None] * own[..., None, :])
    shortfall = ceiling - correlation
    np.einsum("...ii->...i", shortfall)[...] = np.where(np.isfinite(own), 0.0, np.nan)
    return ceiling, shortfall
