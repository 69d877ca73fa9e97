"""Observational rankings confronted with causal effects: which finds the heads that matter. Numpy and xarray."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from visualheads.analysis.effects import EFFECT, Lists, usable
from visualheads.analysis.subset import models_of
from visualheads.heads.agreement import agreement, spearman
from visualheads.heads.ranking import rank

AGREEMENT_COLUMNS = ("model", "ranking", "spearman", "ceiling")
FEWEST = 3
"""Heads below which nothing is correlated."""


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
        * spearman: rank correlation over heads with the effects, in [−1, 1].
        * ceiling: √(reliability of the ranking · reliability of the effects), the most that noise allows.
    """
    rows = []
    if effects is None or EFFECT not in effects:
        return pd.DataFrame(columns=list(AGREEMENT_COLUMNS))
    for name in [name for name in models_of(traces) if name in models_of(effects)]:
        part = traces.sel(model=[name])
        shape = {dim: part[dim] for dim in ("layer", "head")}
        effect, firm = _with_reliability(effects.sel(model=[name]).reindex(shape), [EFFECT])[EFFECT]
        rankings = _with_reliability(part, usable(part))
        for key, scores in (lists or {}).get(name, {}).items():
            listed = scores.reindex(shape).transpose("layer", "head").values.astype(np.float64).ravel()
            rankings[key] = (listed, 1.0)
        for ranking, (scores, reliability) in rankings.items():
            heads = np.isfinite(scores) & np.isfinite(effect)
            rho = spearman(np.stack([scores[heads], effect[heads]]))[0, 1] if heads.sum() >= FEWEST else np.nan
            if np.isfinite(rho):
                ceiling = float(np.sqrt(np.clip(reliability * firm, 0, 1)))
                rows.append({"model": name, "ranking": ranking, "spearman": float(rho), "ceiling": ceiling})
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


def _with_reliability(ds: xr.Dataset, names: list[str]) -> dict[str, tuple[NDArray[np.float64], float]]:
    """Scores of one model's heads (layer · head) by several rankings, each with its split-half reliability."""
    if not names:
        return {}
    firm = agreement(ds, by=names, n_boot=1)["reliability"].isel(model=0)
    return {name: (rank(ds, name).isel(model=0).values.ravel(), float(firm.sel(ranking=name))) for name in names}


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
