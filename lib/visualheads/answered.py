"""Shares of right answers and their differences with intervals over pictures, where all answers agree too (xarray)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from visualheads.bootstrap import (
    LEVEL,
    N_BOOT,
    bootstrap,
    interval,
    picture_ids,
    picture_sums,
    picture_weights,
)


def share_right(correct: xr.DataArray, n_boot: int = N_BOOT, level: float = LEVEL, seed: int = 0) -> dict[str, float]:
    """Mean of answers (sample; 1 right, 0 wrong, NaN unknown) with an interval over pictures: estimate, lower, upper.

    Where all are right, every draw of pictures is alike, and where nearly all are, nearly: no lower bound is above
    1 − `never_seen`, no upper one below `never_seen`.
    """
    told, unseen = _told(bootstrap(correct, n_boot, level, seed)), never_seen(_pictures(correct), level)
    return {**told, "lower": min(told["lower"], 1 - unseen), "upper": max(told["upper"], unseen)}


def share_gained(
    first: xr.DataArray, second: xr.DataArray, n_boot: int = N_BOOT, level: float = LEVEL, seed: int = 0
) -> dict[str, float]:
    """Mean of second − first over the samples both answered, paired: estimate, lower, upper, each in [−1, 1]."""
    one, other = xr.align(first, second, join="inner")
    change = one.copy(data=np.asarray(other.values, dtype=float) - np.asarray(one.values, dtype=float))
    return changed(change, n_boot, level, seed)


def changed(values: xr.DataArray, n_boot: int = N_BOOT, level: float = LEVEL, seed: int = 0) -> dict[str, float]:
    """Mean change of answers (sample; −1, 0 or 1, NaN unknown) with an interval over pictures.

    Where the interval holds 0, it holds plus and minus `never_seen` too: how often answers may change unseen. Where all
    change alike, as in `share_right`.
    """
    told, unseen = _told(bootstrap(values, n_boot, level, seed)), never_seen(_pictures(values), level)
    lower, upper = min(told["lower"], 1 - unseen), max(told["upper"], unseen - 1)
    if lower <= 0 <= upper:
        lower, upper = min(lower, -unseen), max(upper, unseen)
    return {**told, "lower": lower, "upper": upper}


def mean_share(
    parts: Sequence[xr.DataArray], n_boot: int = N_BOOT, level: float = LEVEL, seed: int = 0, lowest: float = 0.0
) -> dict[str, float]:
    """Mean over parts (benchmarks, each with the same weight) of the share right: estimate, lower, upper.

    The pictures of each part are drawn anew by themselves; a replicate is the mean of the parts' own means. A part
    whose values are all alike adds what it may hide (`never_seen`). `lowest`: of a share, 0; of differences less.
    """
    estimates, replicates, hidden = [], [], 0.0
    for place, part in enumerate(parts):
        sums = picture_sums(part)
        n = len(sums.pictures)
        estimates.append(float(sums.means(np.ones((1, n)))[0, 0]))
        replicates.append(sums.means(picture_weights(n, n_boot, seed + place))[0])
        if np.nanmin(part.values) == np.nanmax(part.values):
            hidden += never_seen(_pictures(part), level) / len(parts)
    (lower,), (upper,) = interval(np.mean(replicates, axis=0)[None], level)
    bounds = {"lower": max(lowest, float(lower) - hidden), "upper": min(-lowest or 1.0, float(upper) + hidden)}
    return {"estimate": float(np.mean(estimates)), **bounds}


def never_seen(n: int, level: float = LEVEL) -> float:
    """Largest probability of something that `n` independent pictures did not show, [0, 1]; 1 for none.

    The bound of the exact binomial interval (Clopper and Pearson 1934) at 0 of n.
    """
    return 1 - ((1 - level) / 2) ** (1 / n) if n else 1.0


def _pictures(values: xr.DataArray) -> int:
    there = np.isfinite(np.asarray(values.values, dtype=float))
    return len(np.unique(picture_ids(values).astype(str)[there]))


def _told(bounds: xr.DataArray) -> dict[str, float]:
    return {bound: float(bounds.sel(bound=bound)) for bound in ("estimate", "lower", "upper")}
