"""Are the heads that look at pictures the heads that read lists? Tables over `studies.three_moments`."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from visualheads.analysis.subset import bounds_of
from visualheads.heads.agreement import spearman, spearman_brown, split_half, top_k_overlap
from visualheads.heads.bootstrap import LEVEL, N_BOOT, bootstrap, half_weights, interval, picture_sums, picture_weights
from visualheads.heads.ranking import strongest

TEXT, FROZEN, TUNED = "SmolLM2, lists in words", "smol-frozen, pictures", "smol-1.5, pictures"
"""The moments: before any picture, with pictures, and tuned on them."""
SCORES = ("content_weight", "asked_weight", "looking")
"""Attention on the scene, on the asked objects, and asked against unasked objects (lift minus lift)."""
SHARE = 0.1
"""Share of all heads that count as a moment's best."""
SPLITS = 200


def head_score(ds: xr.Dataset, score: str) -> xr.DataArray:
    """Return a score of every head on every sample: (model, layer, head, sample); `looking` is asked minus unasked."""
    if score == "looking":
        return ds["asked_lift"] - ds["unasked_lift"]
    return ds[score]


def _replicates(values: xr.DataArray, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted means over pictures, (replicate, model, layer·head)."""
    ordered = values.transpose("model", "layer", "head", "sample")
    means = picture_sums(ordered).means(weights)
    return means.T.reshape(len(weights), ordered.sizes["model"], -1)


def agreement_table(ds: xr.Dataset, share: float = SHARE, n_boot: int = N_BOOT, seed: int = 0) -> pd.DataFrame:
    """Return how alike the rankings of heads are at each pair of moments, by score.

    Parameters
    ----------
    ds : Dataset
        Moments along `model`, the same scenes along `sample`.
    share : float
        Share of heads that count as the best.
    n_boot : int
        Bootstrap replicates over pictures.
    seed : int
        Of the bootstrap and the halves.

    Returns
    -------
    DataFrame
        Spearman's correlation with its interval, its ceiling (the geometric mean of both rankings' split-half
        reliability), the overlap of the best heads with its interval, and the overlap expected by chance.
    """
    models = ds["model"].values.astype(str).tolist()
    pictures = len(np.unique(ds["image_id"].values.astype(str)))
    rows = []
    for score in SCORES:
        values = head_score(ds, score)
        drawn = _replicates(values, picture_weights(pictures, n_boot, seed))
        whole = _replicates(values, np.ones((1, pictures)))[0]
        half = half_weights(pictures, SPLITS, seed)
        halves = np.stack([_replicates(values, half), _replicates(values, half.max() - half)], axis=1)
        reliability = [spearman_brown(split_half(halves[:, :, model])) for model in range(len(models))]
        k = max(1, round(share * whole.shape[1]))
        for one, other in combinations(range(len(models)), 2):
            pair = [one, other]
            low, high = interval(spearman(drawn[:, pair])[:, 0, 1])
            overlap = interval(top_k_overlap(drawn[:, pair], k)[:, 0, 1])
            rows.append({
                "score": score, "moment": models[one], "other": models[other], "rho": spearman(whole[pair])[0, 1],
                "rho_lower": low, "rho_upper": high,
                "ceiling": float(np.sqrt(max(0.0, reliability[one] * reliability[other]))),
                "overlap": top_k_overlap(whole[pair], k)[0, 1], "overlap_lower": overlap[0],
                "overlap_upper": overlap[1], "chance": k / whole.shape[1],
            })  # fmt: skip
    return pd.DataFrame(rows)


def chosen_heads(ds: xr.Dataset, chosen_in: str, score: str = "looking", share: float = SHARE) -> xr.DataArray:
    """Return the best heads (layer, head) of one moment on every other picture: the rest is left to judge them.

    The attribute `chosen_on` (sample,) tells on which samples they were chosen.
    """
    pictures = np.unique(ds["image_id"].values.astype(str))
    first = np.isin(ds["image_id"].values.astype(str), pictures[::2])
    means = head_score(ds, score).sel(model=chosen_in).isel(sample=first).mean("sample")
    return means.copy(data=strongest(means.values, share)).assign_attrs(chosen_on=first)


def before_they_saw(
    ds: xr.Dataset, chosen_in: str, score: str = "looking", share: float = SHARE, n_boot: int = N_BOOT, seed: int = 0
) -> pd.DataFrame:
    """Return what one moment's best heads did at every moment, against other heads of the same layers.

    Heads are chosen on one half of the pictures and judged on the other. Comparison: for each chosen head the mean over
    the heads of its layer that were not chosen, which is what random heads of the same layers are expected to score.

    Parameters
    ----------
    ds : Dataset
        Moments along `model`.
    chosen_in : str
        The moment whose best heads are followed.
    score : str
        One of `SCORES`.
    share : float
        Share of heads that count as the best.
    n_boot : int
        Bootstrap replicates over pictures.
    seed : int
        Of the bootstrap.

    Returns
    -------
    DataFrame
        By moment: mean of the chosen heads, of others in their layers, the difference with its interval.
    """
    chosen = chosen_heads(ds, chosen_in, score, share).transpose("layer", "head").values
    pictures = np.unique(ds["image_id"].values.astype(str))
    second = np.isin(ds["image_id"].values.astype(str), pictures[1::2])
    values = head_score(ds, score).isel(sample=second)
    number = len(pictures[1::2])
    inside = chosen.sum(axis=1)
    others = np.where(inside[:, None] > 0, ~chosen, False)
    weight = np.where(others, inside[:, None] / np.maximum(others.sum(axis=1), 1)[:, None], 0.0)

    def beyond(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        scores = _replicates(values, weights)
        return _weighted(scores, chosen.ravel().astype(float)) - _weighted(scores, weight.ravel())

    low, high = interval(beyond(picture_weights(number, n_boot, seed)).T, LEVEL)
    told = {"difference": beyond(np.ones((1, number)))[0], "lower": low, "upper": high}
    return pd.DataFrame({"moment": ds["model"].values.astype(str), **told})


def _weighted(scores: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted mean over heads of (replicate, head), heads without a value left out."""
    known = np.isfinite(scores)
    total = (known * weight).sum(axis=-1)
    summed = (np.where(known, scores, 0.0) * weight).sum(axis=-1)
    return np.divide(summed, total, out=np.full_like(total, np.nan), where=total > 0)


def behaviour_table(ds: xr.Dataset, chosen: xr.DataArray, behaviours: tuple[str, ...]) -> pd.DataFrame:
    """Return what chosen heads do on any text, against the other heads of their layers, at each moment."""
    mask = chosen.transpose("layer", "head").values
    rows = []
    for model in ds["model"].values.astype(str):
        for behaviour in behaviours:
            values = ds[behaviour].sel(model=model).transpose("layer", "head").values
            layers = mask.any(axis=1)
            means = {"chosen": float(values[mask].mean()), "others": float(values[layers][~mask[layers]].mean())}
            rows.append({"moment": model, "behaviour": behaviour, **means})
    return pd.DataFrame(rows)


def answer_table(ds: xr.Dataset) -> pd.DataFrame:
    """Return how many questions are answered right at each moment (a share), with intervals over pictures."""
    right = {model: bounds_of(bootstrap(ds["correct"].sel(model=model))) for model in ds["model"].values.astype(str)}
    return pd.DataFrame([{"moment": model, **bounds} for model, bounds in right.items()])


def knockout_table(ds: xr.Dataset) -> pd.DataFrame:
    """Return what hiding the scene from sets of heads costs at each moment, with intervals over pictures.

    Parameters
    ----------
    ds : Dataset
        From `studies.three_moments`, with `knocked_log_probability` (model, set, sample).

    Returns
    -------
    DataFrame
        By moment and set: loss of the right answer's log-probability in nats (positive: it falls), with its interval;
        random sets are averaged first.
    """
    loss = ds["log_probability"] - ds["knocked_log_probability"]
    loss = loss.dropna("model", how="all").dropna("sample", how="any")
    drawn = [name for name in loss["set"].values.astype(str) if name.startswith("random")]
    sets = {
        "the heads that look": loss.sel(set="looking"),
        "random heads of their layers": loss.sel(set=drawn).mean("set"),
        "all heads": loss.sel(set="all"),
    }
    sets["looking minus random"] = sets["the heads that look"] - sets["random heads of their layers"]
    rows = []
    for name, values in sets.items():
        for model in values["model"].values.astype(str):
            rows.append({"moment": model, "set": name, **bounds_of(bootstrap(values.sel(model=model)))})
    return pd.DataFrame(rows)


def verdict_of(row: pd.Series) -> str:
    """Say “yes”, “no” or “undecided” for a difference whose interval lies above, below or around nothing."""
    return "yes" if row["lower"] > 0 else "no" if row["upper"] < 0 else "undecided"


def moment_maps(ds: xr.Dataset, score: str = "looking") -> pd.DataFrame:
    """Return one score of every head at every moment, the mean over samples: moment, layer, head, value, chosen."""
    means = head_score(ds, score).mean("sample")
    dims = ("model", "layer", "head")
    told = xr.Dataset(
        {"value": (dims, means.transpose(*dims).values), "chosen": (dims[1:], ds["chosen"].values)},
        {"model": ds["model"].values, **{dim: np.arange(ds.sizes[dim]) for dim in dims[1:]}},
    )
    return told.to_dataframe(dim_order=dims).reset_index().rename(columns={"model": "moment"})
