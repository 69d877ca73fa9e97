"""Observational rankings confronted with causal effects: which finds the heads that matter. Numpy and xarray."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

from visualheads.analysis.effects import EFFECT, Lists, usable
from visualheads.analysis.subset import models_of
from visualheads.heads.agreement import agreement, spearman, top_k_overlap, without_layer_means
from visualheads.heads.bootstrap import LEVEL, PictureSums, centred_interval, picture_sums, picture_weights
from visualheads.heads.ranking import head_count, score_sums

AGREEMENT_COLUMNS = (
    "model", "ranking", "spearman", "lower", "upper", "within", "unrelated", "ceiling",
    "overlap", "overlap_lower", "overlap_upper", "chance", "top", "heads", "placed",
)  # fmt: skip
N_BOOT = 500
SCORED, REMOVED = 0, 1
"""Seeds: the pictures of rankings and those of effects are drawn each by themselves."""


@dataclass(frozen=True, eq=False)
class _Measured:
    """A score of every head of one model, with what noise does to it.

    mean          (head) over pictures, layer after layer
    draws         (draw, head) means over drawn pictures; of what has no noise of its own, the mean again
    reliability   split-half Spearman; 1 of what has no noise, NaN of a single picture
    """

    mean: NDArray[np.float64]
    draws: NDArray[np.float64]
    reliability: float


def ranking_agreement(traces: xr.Dataset, effects: xr.Dataset | None, lists: Lists | None = None) -> pd.DataFrame:
    """How well each observational ranking finds the heads that matter.

    Rankings are all that the traces have what they need for, each in the attention row that it is of.

    Parameters
    ----------
    traces : xarray.Dataset
        Traces (model, layer, head, sample).
    effects : xarray.Dataset, optional
        Effects of single heads, with `effect_margin` (model, layer, head, sample).
    lists : mapping of str to mapping of str to xarray.DataArray, optional
        Published head lists (layer, head) by model and name, without noise of their own.

    Returns
    -------
    pandas.DataFrame
        One row per model and ranking that has a finite correlation; empty where no model has effects. Columns:

        * model, ranking.
        * spearman, lower, upper: rank correlation over heads with the effects, in [−1, 1], and its 95 % interval over
          the pictures of both, of what so many pictures give on average (`bootstrap.centred_interval`); NaN for a
          single picture.
        * within: the same after removing layer means, so that depth alone makes no agreement.
        * unrelated: what 95 % of unrelated rankings of as many heads do not exceed, up or down.
        * ceiling: √(reliability of the ranking · reliability of the effects), the most that noise allows.
        * overlap, overlap_lower, overlap_upper: share of the `top` best heads that both name, in [0, 1]; chance: that
          of two unrelated rankings.
        * heads, placed: how many have both scores; how many of them the ranking places alone, for no other has theirs.
    """
    rows = []
    if effects is None or EFFECT not in effects:
        return pd.DataFrame(columns=list(AGREEMENT_COLUMNS))
    for name in [name for name in models_of(traces) if name in models_of(effects)]:
        part = traces.sel(model=[name])
        shape = {dim: part[dim] for dim in ("layer", "head")}
        effect = _effects(effects.sel(model=[name]).reindex(shape))
        rankings = _rankings(part)
        for key, scores in (lists or {}).get(name, {}).items():
            values = scores.reindex(shape).transpose("layer", "head").values.astype(np.float64).ravel()
            rankings[key] = _Measured(values, np.repeat(values[None], N_BOOT, axis=0), 1.0)
        layer = np.repeat(np.arange(part.sizes["layer"]), part.sizes["head"])
        for ranking, scores in rankings.items():
            row = _confronted(scores, effect, layer)
            if row:
                rows.append({"model": name, "ranking": ranking, **row})
    return pd.DataFrame(rows, columns=list(AGREEMENT_COLUMNS))


def over_models(found: pd.DataFrame) -> pd.DataFrame:
    """Mean agreement of each ranking with the effects over models.

    Parameters
    ----------
    found : pandas.DataFrame
        A result of `ranking_agreement`.

    Returns
    -------
    pandas.DataFrame
        One row per ranking, best first. Columns: ranking, estimate (mean Spearman correlation), lower and upper (the
        lowest and the highest model: how far models differ, not how sure one of them is), models (how many).
    """
    each = found.groupby("ranking", sort=False)["spearman"]
    table = each.agg(estimate="mean", lower="min", upper="max", models="size").reset_index()
    return table.sort_values("estimate", ascending=False, ignore_index=True)


def _rankings(part: xr.Dataset) -> dict[str, _Measured]:
    """Rankings of one model by name."""
    names = usable(part)
    if not names:
        return {}
    told = agreement(part, by=names, n_boot=1)["reliability"].isel(model=0)
    return {name: _measured(score_sums(part, name), float(told.sel(ranking=name)), SCORED) for name in names}


def _effects(effects: xr.Dataset) -> _Measured:
    """Effects of one model's heads."""
    told = agreement(effects, by=[EFFECT], n_boot=1)["reliability"]
    sums = picture_sums(effects[EFFECT].isel(model=0).transpose("layer", "head", "sample"))
    return _measured(sums, float(told.isel(model=0, ranking=0)), REMOVED)


def _measured(sums: PictureSums, reliability: float, seed: int) -> _Measured:
    mean = sums.means(np.ones((1, len(sums.pictures))))[:, 0]
    if len(sums.pictures) < 2:
        return _Measured(mean, np.full((N_BOOT, len(mean)), np.nan), reliability)
    return _Measured(mean, sums.means(picture_weights(len(sums.pictures), N_BOOT, seed)).T, reliability)


def _confronted(scores: _Measured, effect: _Measured, layer: NDArray[np.integer]) -> dict[str, float]:
    """A row of the table; empty where there is no finite correlation."""
    heads = np.isfinite(scores.mean) & np.isfinite(effect.mean)
    if heads.sum() < 3:
        return {}
    pair = np.stack([scores.mean[heads], effect.mean[heads]])
    observed, k = spearman(pair)[0, 1], head_count(int(heads.sum()))
    if not np.isfinite(observed):
        return {}
    shared = top_k_overlap(pair, k)[0, 1]
    room = float(np.clip(scores.reliability * effect.reliability, 0, 1))
    drawn = np.stack([scores.draws[:, heads], effect.draws[:, heads]], axis=1)
    drawn = drawn[:, :, np.isfinite(drawn).all(axis=(0, 1))]
    bounds, overlaps = [np.nan, np.nan], [np.nan, np.nan]
    if drawn.shape[-1]:
        replicates = spearman(drawn)[:, 0, 1]
        bounds = centred_interval(observed, replicates, LEVEL, -1.0, 1.0).tolist()
        overlaps = centred_interval(shared, top_k_overlap(drawn, k)[:, 0, 1], LEVEL, 0.0, 1.0).tolist()
    return {
        "spearman": float(observed), "lower": bounds[0], "upper": bounds[1],
        "within": float(spearman(without_layer_means(pair, layer[heads]))[0, 1]), "ceiling": float(np.sqrt(room)),
        "unrelated": _unrelated(int(heads.sum())), 
        "overlap": float(shared), "overlap_lower": overlaps[0], "overlap_upper": overlaps[1],
        "chance": k / int(heads.sum()), "top": k, "heads": int(heads.sum()),
        "placed": int((np.unique(pair[0], return_counts=True)[1] == 1).sum()),
    }  # fmt: skip


def _unrelated(n_heads: int, level: float = LEVEL) -> float:
    """The Spearman correlation that this share of unrelated rankings does not exceed, up or down: 0 ± z/√(n − 1)."""
    return min(1.0, float(stats.norm.ppf((1 + level) / 2)) / np.sqrt(n_heads - 1))


def in_format(ds: xr.Dataset, form: str = "free") -> xr.Dataset:
    """The samples of the format that effects were measured in, where any was asked in it; else all of them.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces with the coordinate `format` along `sample`.
    form : str
        The answer format.

    Returns
    -------
    xarray.Dataset
        The dataset with fewer samples, or as it is.
    """
    same = np.flatnonzero(ds["format"].values.astype(str) == form)
    return ds.isel(sample=same) if len(same) else ds
