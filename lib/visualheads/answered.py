"""Shares of right answers and their differences with intervals over pictures, where all answers agree too (xarray)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from visualheads.bootstrap import LEVEL, N_BOOT, bootstrap, interval, picture_sums, picture_weights


def share_right(correct: xr.DataArray, n_boot: int = N_BOOT, level: float = LEVEL, seed: int = 0) -> dict[str, float]:
    """Mean of answers (sample; 1 right, 0 wrong, NaN unknown) with an interval over pictures: estimate, lower, upper.

    As in `shares`.
    """
    return _told(shares(correct, n_boot, level, seed))


def shares(values: xr.DataArray, n_boot: int = N_BOOT, level: float = LEVEL, seed: int = 0) -> xr.DataArray:
    """Means over samples of values in [0, 1], NaN left out, with an interval over pictures: (…, bound).

    Where all are right, every draw of pictures is alike, and where nearly all are, nearly: no lower bound is above
    1 − `never_seen`, no upper one below `never_seen`.
    """
    bounds = bootstrap(values, n_boot, level, seed)
    unseen = never_seen(_pictures(values), level)
    lower, upper = bounds.sel(bound="lower").values, bounds.sel(bound="upper").values
    return _with(bounds, np.minimum(lower, 1 - unseen), np.maximum(upper, unseen))


def share_gained(
    first: xr.DataArray, second: xr.DataArray, n_boot: int = N_BOOT, level: float = LEVEL, seed: int = 0
) -> dict[str, float]:
    """Mean of second − first over the samples both answered, paired: estimate, lower, upper, each in [−1, 1]."""
    one, other = xr.align(first, second, join="inner")
    change = one.copy(data=np.asarray(other.values, dtype=float) - np.asarray(one.values, dtype=float))
    return changed(change, n_boot, level, seed)


def changed(values: xr.DataArray, n_boot: int = N_BOOT, level: float = LEVEL, seed: int = 0) -> dict[str, float]:
    """Mean change of answers (sample; −1, 0 or 1, NaN unknown) with an interval over pictures, as in `changes`."""
    return _told(changes(values, n_boot, level, seed))


def changes(values: xr.DataArray, n_boot: int = N_BOOT, level: float = LEVEL, seed: int = 0) -> xr.DataArray:
    """Mean changes of answers, or of shares of them, in [−1, 1], with an interval over pictures: (…, bound).

    Where the interval holds 0, it holds plus and minus `never_seen` too: how often answers may change unseen. Where all
    change alike, as in `shares`. NaN is left out.
    """
    bounds = bootstrap(values, n_boot, level, seed)
    unseen = never_seen(_pictures(values), level)
    lower = np.minimum(bounds.sel(bound="lower").values, 1 - unseen)
    upper = np.maximum(bounds.sel(bound="upper").values, unseen - 1)
    open_ = (lower <= 0) & (upper >= 0)
    lower, upper = np.where(open_, np.minimum(lower, -unseen), lower), np.where(open_, np.maximum(upper, unseen), upper)
    return _with(bounds, lower, upper)


def mean_share(
    parts: Sequence[xr.DataArray], n_boot: int = N_BOOT, level: float = LEVEL, seed: int = 0, lowest: float = 0.0
) -> dict[str, float]:
    """Mean over parts (benchmarks, each with the same weight) of the share right: estimate, lower, upper.

    The pictures of each part are drawn anew by themselves; a replicate is the mean of the parts' own means. Bounds are
    wider by what each part may hide, as in `shares` or, of differences, `changes`: one part alone has their bounds.
    `lowest`: of a share, 0; of differences less.
    """
    estimates, replicates, hidden = [], [], np.zeros(2)
    for place, part in enumerate(parts):
        sums = picture_sums(part)
        n = len(sums.pictures)
        estimates.append(float(sums.means(np.ones((1, n)))[0, 0]))
        replicates.append(sums.means(picture_weights(n, n_boot, seed + place))[0])
        low, high = (float(bound[0]) for bound in interval(replicates[-1][None], level))
        unseen = float(never_seen(_pictures(part), level))
        if lowest == 0:
            least, most = min(low, 1 - unseen), max(high, unseen)
        else:
            least, most = (min(low, -unseen), max(high, unseen)) if low <= 0 <= high else (low, high)
        hidden += np.array([low - least, most - high]) / len(parts)
    (lower,), (upper,) = interval(np.mean(replicates, axis=0)[None], level)
    bounds = {"lower": max(lowest, float(lower) - hidden[0]), "upper": min(-lowest or 1.0, float(upper) + hidden[1])}
    return {"estimate": float(np.mean(estimates)), **{name: float(bound) for name, bound in bounds.items()}}


def never_seen(n: int | NDArray[np.integer], level: float = LEVEL) -> NDArray[np.float64]:
    """Largest probability of something that `n` independent pictures did not show, [0, 1]; 1 for none.

    The bound of the exact binomial interval (Clopper and Pearson 1934) at 0 of n.
    """
    n = np.asarray(n)
    return np.where(n > 0, 1 - ((1 - level) / 2) ** (1 / np.maximum(n, 1)), 1.0)


def _pictures(values: xr.DataArray) -> NDArray[np.integer]:
    """How many pictures each value is known of, in the shape of `values` without the samples."""
    shape = [values.sizes[dim] for dim in values.dims if dim != "sample"]
    return (picture_sums(values).counts > 0).sum(axis=1).reshape(shape)


def _with(bounds: xr.DataArray, lower: NDArray[np.float64], upper: NDArray[np.float64]) -> xr.DataArray:
    """The same estimates with other bounds."""
    told = {"lower": lower, "estimate": bounds.sel(bound="estimate").values, "upper": upper}
    return bounds.copy(data=np.stack([told[str(bound)] for bound in bounds["bound"].values], axis=-1))


def _told(bounds: xr.DataArray) -> dict[str, float]:
    return {bound: float(bounds.sel(bound=bound)) for bound in ("estimate", "lower", "upper")}
