"""Uncertainty over pictures: bootstrap, paired differences, split halves (pure numpy and xarray).

The unit that is drawn is the picture (`image_id`), not the prompt: several questions about one picture are one
draw. Every replicate is a row of weights over pictures, so that all heads and replicates are one matrix product.
Seeds are explicit; equal seeds are paired.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from visualheads.errors import ParameterError, checked, got

N_BOOT = 1000
LEVEL = 0.95
BOUNDS = ("lower", "estimate", "upper")


@dataclass(frozen=True, eq=False)
class PictureSums:
    """Per-sample values summed within each picture, NaN left out: all that a weighted mean over pictures needs.

    `sums` and `counts` are (value, picture), where value runs over all other dimensions of the array they came from.
    """

    sums: NDArray[np.float64]
    counts: NDArray[np.float64]
    pictures: NDArray[np.object_]

    def means(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return weighted means (value, replicate) for weights (replicate, picture); NaN where nothing was counted."""
        counts = self.counts @ weights.T
        return np.divide(self.sums @ weights.T, counts, out=np.full_like(counts, np.nan), where=counts > 0)

    def drawn(self, n_boot: int, seed: int) -> NDArray[np.float64]:
        """Return bootstrap means (value, replicate): of each value only the pictures are drawn that it is known of.

        Values known of the same pictures share their draws. NaN for a value without any.
        """
        known, which = np.unique(self.counts > 0, axis=0, return_inverse=True)
        replicates = np.full((len(self.sums), n_boot), np.nan)
        for place, pictures in enumerate(known):
            if pictures.any():
                rows = np.flatnonzero(which == place)
                own = PictureSums(self.sums[rows][:, pictures], self.counts[rows][:, pictures], self.pictures[pictures])
                replicates[rows] = own.means(picture_weights(len(own.pictures), n_boot, seed))
        return replicates

    def of(self, chosen: NDArray[np.bool_]) -> PictureSums:
        """Return the sums over some of the pictures."""
        return PictureSums(self.sums[:, chosen], self.counts[:, chosen], self.pictures[chosen])


def picture_ids(samples: xr.DataArray | xr.Dataset) -> NDArray[np.object_]:
    """Return the picture of each sample: coordinate `image_id`, or the sample itself where that is missing or empty.

    One id in several benchmarks counts as one picture: benchmarks do share pictures (COCO), and where they only share
    numbers, two unrelated pictures are drawn together.
    """
    if "sample" not in samples.dims:
        raise ParameterError(got("dimensions", tuple(map(str, samples.dims)), "dimensions with 'sample' among them"))
    own = [f"sample {index}" for index in range(samples.sizes["sample"])]
    if "sample" in samples.coords:
        own = [str(value) for value in samples.coords["sample"].values]
    if "image_id" not in samples.coords:
        return np.array(own, dtype=object)
    ids = [str(value) for value in samples.coords["image_id"].values]
    return np.array([image or sample for image, sample in zip(ids, own, strict=True)], dtype=object)


def picture_sums(values: xr.DataArray) -> PictureSums:
    """Return the sums and counts per picture of an array with dimension `sample`, pictures in sorted order."""
    return Grouping.of(values).sums(values.variable.transpose(..., "sample").values)


@dataclass(frozen=True, eq=False)
class Grouping:
    """Samples by their pictures, found once for several arrays of the same samples.

    pictures  the pictures (picture) in sorted order
    order     the samples' places (sample), those of one picture side by side
    starts    where each picture's samples begin in this order (picture)
    """

    pictures: NDArray[np.object_]
    order: NDArray[np.intp]
    starts: NDArray[np.intp]

    @classmethod
    def of(cls, samples: xr.DataArray | xr.Dataset) -> Grouping:
        """Group the samples of something with dimension `sample`; ParameterError where there are none."""
        pictures, owner = np.unique(picture_ids(samples).astype(object).astype(str), return_inverse=True)
        if len(owner) == 0:
            raise ParameterError(got("samples", 0, "at least one sample"))
        order = np.argsort(owner, kind="stable")
        return cls(pictures.astype(object), order, np.searchsorted(owner[order], np.arange(len(pictures))))

    def sums(self, values: NDArray[np.generic]) -> PictureSums:
        """Return the sums and counts per picture of values (…, sample)."""
        array = np.asarray(values, dtype=np.float64).reshape(-1, len(self.order))[:, self.order]
        there = np.isfinite(array)
        sums = np.add.reduceat(np.where(there, array, 0.0), self.starts, axis=1)
        counts = np.add.reduceat(there.astype(np.float64), self.starts, axis=1)
        return PictureSums(sums, counts, self.pictures)


@lru_cache(maxsize=16)
def picture_weights(n_pictures: int, n_boot: int = N_BOOT, seed: int = 0) -> NDArray[np.float64]:
    """Return bootstrap weights (replicate, picture): how often each picture was drawn; each row sums to n_pictures.

    The array is shared between calls and cannot be written to.
    """
    if n_pictures < 1 or n_boot < 1:
        raise ParameterError(got("n_pictures, n_boot", (n_pictures, n_boot), "at least 1 each"))
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(n_pictures, np.full(n_pictures, 1 / n_pictures), size=n_boot).astype(np.float64)
    weights.setflags(write=False)
    return weights


def half_weights(n_pictures: int, n_splits: int, seed: int = 0) -> NDArray[np.float64]:
    """Return 0/1 weights (split, picture) of random halves; 1 − weights are the other halves."""
    if n_pictures < 2:
        raise ParameterError(got("pictures", n_pictures, "at least 2 to split into halves"))
    rng = np.random.default_rng(seed)
    first = np.zeros((n_splits, n_pictures))
    for row in first:
        row[rng.permutation(n_pictures)[: (n_pictures + 1) // 2]] = 1.0
    return first


def drawn_halves(n_pictures: int, n_boot: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (replicate, picture) of two disjoint random halves, each drawn with replacement within itself."""
    rng = np.random.default_rng([seed, 1])
    halves = half_weights(n_pictures, n_boot, seed + 1)
    drawn = []
    for half in (halves, 1 - halves):
        share = half / half.sum(axis=1, keepdims=True)
        drawn.append(rng.multinomial(half.sum(axis=1).astype(int), share).astype(np.float64))
    return drawn[0], drawn[1]


def bootstrap(values: xr.DataArray, n_boot: int = N_BOOT, level: float = LEVEL, seed: int = 0) -> xr.DataArray:
    """Return the mean over samples with a percentile interval over pictures, along a new last dimension `bound`.

    `bound` is "lower", "estimate", "upper"; the estimate is the plain mean of the finite per-sample values. NaN
    where all are NaN. Of each value only the pictures are drawn that it is known of: one model's interval does not
    depend on the pictures that others were asked about. Values known of the same pictures share their draws.
    """
    sums = picture_sums(values)
    estimate = sums.means(np.ones((1, len(sums.pictures))))[:, 0]
    return bounded(values, estimate, sums.drawn(n_boot, seed), level)


@checked
def split_halves(ds: xr.Dataset, seed: int = 0) -> tuple[xr.Dataset, xr.Dataset]:
    """Split a dataset by picture: no picture is in both halves.

    Parameters
    ----------
    ds : xarray.Dataset
        A traced dataset, with `image_id` along `sample`.
    seed : int
        Of the draw.

    Returns
    -------
    tuple of xarray.Dataset
        The halves; the first has the odd picture.
    """
    if not isinstance(ds, xr.Dataset):
        raise ParameterError(got("ds", ds, "a Dataset of vh.trace, vh.open_store or vh.open_results"))
    ids = picture_ids(ds).astype(object).astype(str)
    pictures = np.unique(ids)
    in_first = np.isin(ids, pictures[half_weights(len(pictures), 1, seed)[0] == 1])
    return ds.isel(sample=np.flatnonzero(in_first)), ds.isel(sample=np.flatnonzero(~in_first))


def interval(replicates: NDArray[np.float64], level: float = LEVEL) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the percentile interval along the last axis (replicates); NaN replicates are left out."""
    if not 0 < level < 1:
        raise ParameterError(got("level", level, "a number between 0 and 1, such as 0.95"))
    tails = [(1 - level) / 2, (1 + level) / 2]
    bounds = np.full((2, *replicates.shape[:-1]), np.nan)
    finite = np.isfinite(replicates)
    whole, some = finite.all(axis=-1), finite.any(axis=-1)
    bounds[:, whole] = np.quantile(replicates[whole], tails, axis=-1)
    if (some & ~whole).any():
        bounds[:, some & ~whole] = np.nanquantile(replicates[some & ~whole], tails, axis=-1)
    return bounds[0], bounds[1]


def centred_interval(
    estimate: NDArray[np.float64],
    replicates: NDArray[np.float64],
    level: float = LEVEL,
    lowest: float = -np.inf,
    highest: float = np.inf,
) -> NDArray[np.float64]:
    """Return an interval (…, bound) about an estimate (…) of agreement, within [lowest, highest].

    Percentiles of the replicates (first axis) about their own mean: drawn pictures carry the noise of sampling twice,
    so that replicates agree less than the estimate. It is of the agreement that so many pictures give on average; what
    there would be without any noise is more. NaN where no replicate is finite.
    """
    spread = np.moveaxis(replicates, 0, -1)
    finite = np.isfinite(spread)
    counts = np.maximum(finite.sum(axis=-1), 1)
    mean = np.where(finite, spread, 0).sum(axis=-1) / counts
    low, high = interval(spread, level)
    return np.clip(np.stack([estimate + low - mean, estimate + high - mean], axis=-1), lowest, highest)


def bounded(
    values: xr.DataArray, estimate: NDArray[np.float64], replicates: NDArray[np.float64], level: float
) -> xr.DataArray:
    """Return estimates and percentile intervals (…, bound) in the shape of `values` without its samples.

    `estimate` is (value), `replicates` (value, replicate), where value runs over all dimensions but `sample`.
    """
    lower, upper = interval(replicates, level)
    template = values.isel(sample=0, drop=True)
    stacked = np.stack([lower, estimate, upper], axis=-1).reshape(*template.shape, 3)
    coords = {name: coord for name, coord in template.coords.items() if "sample" not in coord.dims}
    return xr.DataArray(
        stacked, dims=(*template.dims, "bound"), coords={**coords, "bound": list(BOUNDS)}, name=values.name
    )
