"""Which heads look at the picture: depth stages and selections by rank (pure xarray).

The rankings themselves are in `rankings`, their agreement in `agreement`, the heads above a null in `nulls`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import xarray as xr

from visualheads.errors import HeadError, ParameterError, got
from visualheads.rankings import HEAD_DIMS, K, head_count, rank, rankings, sample_scores, top_heads

__all__ = [
    "STAGES",
    "TOP_COUNTS",
    "TOP_SHARES",
    "depth_stage",
    "head_count",
    "rank",
    "rankings",
    "sample_scores",
    "select",
    "stages",
]

STAGES = ("early", "middle", "late")
STAGE_BOUNDS = {32: (10, 20), 40: (13, 27)}
"""First middle and first late layer, from the released code; other depths are cut into thirds."""

TOP_SHARES = (0.02, 0.05, 0.10, 0.20)
TOP_COUNTS = (10, 20, 50, 100)


def depth_stage(n_layers: int) -> list[str]:
    """Return "early", "middle" or "late" for each layer (code for 32 and 40 layers, thirds elsewhere)."""
    if n_layers < 1:
        raise ParameterError(got("number of layers", n_layers, "at least 1"))
    middle, late = STAGE_BOUNDS.get(n_layers, (round(n_layers / 3), round(2 * n_layers / 3)))
    return [STAGES[(layer >= middle) + (layer >= late)] for layer in range(n_layers)]


def select(
    ds: xr.Dataset | xr.DataArray,
    by: str = "detection",
    k: K = None,
    *,
    largest: bool = True,
    stage: Literal["early", "middle", "late", "all"] = "all",
    above_null: xr.DataArray | None = None,
    query: str | None = None,
) -> xr.DataArray:
    """Return the chosen heads, bool (model, layer, head): per model the `k` best by a ranking.

    `ds` is a traced dataset, or a ranking (model, layer, head) itself. `k` is a count, a share of all the model's
    heads, or None: all heads that `above_null` lets through, or detection's rule without it. `largest=False` takes
    the lowest. `stage` keeps to layers of one depth; `above_null` (bool, as from `nulls.above_null`) to heads above
    a null. Where fewer heads remain than `k`, all of them are chosen. Ties go to the lower layer and head. Raises
    HeadError where no head remains.
    """
    if stage not in (*STAGES, "all"):
        raise ParameterError(got("stage", stage, [*STAGES, "all"]))
    scores = ds if isinstance(ds, xr.DataArray) else rank(ds, by, query=query)
    if "bound" in scores.dims:
        scores = scores.sel(bound="estimate", drop=True)
    scores = _with_model(scores)
    allowed = np.isfinite(scores.values)
    if stage != "all":
        allowed &= stages(scores).values[:, :, None] == stage
    if above_null is not None:
        allowed &= _with_model(above_null).reindex_like(scores).fillna(0).values.astype(bool)
    chosen = np.zeros(scores.shape, dtype=bool)
    for index, values in enumerate(scores.values):
        if not allowed[index].any():
            raise HeadError(
                f"no head to select by {by!r} in model {index}: none is finite, in stage {stage!r} and above null"
            )
        n_all = int(np.isfinite(values).sum())
        wanted = n_all if k is None and above_null is not None else head_count(n_all, k)
        keyed = np.where(allowed[index], values if largest else -values, np.nan)
        top = top_heads(keyed.reshape(-1, 1), wanted)[:, 0]
        chosen[index] = top.reshape(values.shape)
    return scores.copy(data=chosen).rename("selected").assign_attrs({"by": by, "largest": int(largest), "stage": stage})


def stages(scores: xr.DataArray | xr.Dataset) -> xr.DataArray:
    """Return the depth stage (model, layer): the coordinate, or else counted from each model's finite layers."""
    if "depth_stage" in scores.coords:
        told = scores.coords["depth_stage"]
        return (told if "model" in told.dims else told.expand_dims("model")).transpose("model", "layer")
    if isinstance(scores, xr.Dataset):
        scores = rank(scores, "image_weight")
    has_layer = np.asarray(np.isfinite(_with_model(scores).values).any(axis=2))
    names = np.full(has_layer.shape, "", dtype=object)
    for row, layers in zip(names, has_layer, strict=True):
        n_layers = int(np.flatnonzero(layers).max(initial=-1)) + 1
        row[:n_layers] = depth_stage(n_layers) if n_layers else []
    return xr.DataArray(names, dims=("model", "layer"))


def _with_model(scores: xr.DataArray) -> xr.DataArray:
    if "model" not in scores.dims:
        scores = scores.expand_dims("model")
    return scores.transpose(*HEAD_DIMS)
