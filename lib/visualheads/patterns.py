"""Head patterns: a measure's mean over the samples of a group, one number per head, under any weights of the pictures.

Everything a comparison of patterns needs (see `alike`): sums and counts per group, head and picture; correlations over
heads between two weightings of the pictures; random halves, also drawn anew within themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import sparse, stats

from visualheads.agreement import without_layer_means
from visualheads.bootstrap import half_weights, picture_ids
from visualheads.errors import ParameterError, got

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
