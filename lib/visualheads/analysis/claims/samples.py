"""What claims take from traces: the main benchmark's samples, heads' values, and bootstraps over pictures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from visualheads.heads.bootstrap import (
    LEVEL,
    N_BOOT,
    PictureSums,
    centred_interval,
    interval,
    picture_sums,
    picture_weights,
)
from visualheads.heads.ranking import sample_scores

TASK = "looktwice"
QUERY = "first_generated"
DRAWS_PER_LOOK = 500
"""Draws of pictures per look of many: a corrected bound then lies six draws or more from the end."""


def of_main_task(ds: xr.Dataset) -> xr.Dataset:
    """The samples of LookTwice, or all where there are none of it."""
    chosen = ds["task"].values.astype(str) == TASK
    return ds.isel(sample=np.flatnonzero(chosen)) if chosen.any() else ds


def scores_of(ds: xr.Dataset, measure: str) -> xr.DataArray:
    """A measure of one model, (layer, head, sample); of white pictures where the dataset holds nothing else."""
    if "control" in ds.coords and (np.atleast_1d(ds["control"].values).astype(str) == "white").all():
        ds = ds.assign_coords(control=("sample", np.full(ds.sizes["sample"], "", dtype=object)))
    return sample_scores(ds, measure, query=QUERY if "query" in ds.dims else None).isel(model=0)


def sums_of(part: xr.Dataset, measure: str) -> tuple[PictureSums, tuple[int, int]]:
    """A measure of one model summed by picture, over heads one after the other, and their (layers, heads)."""
    values = scores_of(part, measure)
    return picture_sums(values), (values.sizes["layer"], values.sizes["head"])


def pictures_of(ds: xr.Dataset) -> int:
    """How many pictures the samples are about."""
    return len(np.unique(ds["image_id"].values.astype(str)))


def of_looks(looks: int) -> tuple[int, float]:
    """Draws of pictures and level of an interval that is one of `looks` (Bonferroni)."""
    return max(N_BOOT, DRAWS_PER_LOOK * looks), 1 - (1 - LEVEL) / looks


def bootstrapped(
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]], pictures: int, correlation: bool = False
) -> dict[str, float]:
    """Estimate and 95 % interval of a statistic of picture weights, (replicate, picture) → (replicate).

    correlation   it is one over heads, whose replicates agree less than the estimate (`bootstrap.centred_interval`)
    """
    estimate = float(statistic(np.ones((1, pictures)))[0])
    replicates = np.asarray(statistic(picture_weights(pictures, N_BOOT)), dtype=float)
    if correlation:
        lower, upper = centred_interval(np.array(estimate), replicates, LEVEL, -1.0, 1.0)
    else:
        lower, upper = interval(replicates)
    return {"estimate": estimate, "lower": float(lower), "upper": float(upper)}
