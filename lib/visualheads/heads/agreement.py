"""How far rankings of heads agree, against chance and against their own reliability (pure numpy and xarray)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import linear_sum_assignment

from visualheads.errors import ParameterError, checked, got
from visualheads.heads.bootstrap import LEVEL, N_BOOT, PictureSums, centred_interval, half_weights, picture_weights
from visualheads.heads.ranking import HEAD_DIMS, K, estimates, head_count, rankings, score_sums

N_SPLITS = 50
"""Random halves of the pictures over which the split-half reliability is averaged."""


@checked
def agreement(
    ds: xr.Dataset,
    by: Sequence[str] = ("image_weight", "region_weight", "concentration", "weight_concentration", "detection"),
    k: K = None,
    *,
    extra: Mapping[str, xr.DataArray] | None = None,
    n_boot: int = N_BOOT,
    n_splits: int = N_SPLITS,
    level: float = LEVEL,
    seed: int = 0,
    query: str | None = None,
) -> xr.Dataset:
    """Return how far rankings of heads agree, for each model.

    Parameters
    ----------
    ds : xarray.Dataset
        A traced dataset.
    by : sequence of str
        Rankings, as in `rank`.
    k : int or float, optional
        Heads of the top-k overlap, as in `select`.
    extra : mapping of str to xarray.DataArray, optional
        Finished rankings (model, layer, head), such as causal effects or published lists. They count as without noise
        in the intervals and have no reliability (NaN; a ceiling with them takes theirs as 1).
    n_boot, n_splits, level, seed : int, int, float, int
        Bootstrap draws, random halves, coverage in (0, 1), and seed.
    query : str, optional
        The attention row, as in `rank`.

    Returns
    -------
    xarray.Dataset
        Over (model, ranking, other), the last two being names. NaN where a ranking is constant or fewer than three
        heads have both scores, and for reliabilities with a single picture.

        * spearman: rank correlation over the heads, [−1, 1]; spearman_within_layer: after removing each layer's mean
          score, so that depth alone makes no agreement.
        * top_k_overlap: share of the k best heads that both name, [0, 1], ties broken by lot, on average; chance
          (model): what two unrelated rankings would share, k / number of heads.
        * reliability (model, ranking): split-half Spearman over pictures, corrected to full length (Spearman–Brown);
          top_k_reliability: mean top-k overlap of the two halves.
        * ceiling: √(reliability · reliability of the other), the highest Spearman that noise leaves room for.
        * spearman_interval, top_k_overlap_interval: reverse percentile bootstrap over pictures, paired between
          rankings; dimension bound ("lower", "upper").

    Raises
    ------
    ParameterError
        For unknown rankings, or values out of range.
    """
    extra = {} if extra is None else extra
    if isinstance(by, str) or not isinstance(by, Sequence) or not all(isinstance(name, str) for name in by):
        raise ParameterError(got("by", by, "a list of names of rankings"))
    if not isinstance(extra, Mapping) or not all(isinstance(one, xr.DataArray) for one in extra.values()):
        raise ParameterError(got("extra", extra, "{name: DataArray (model, layer, head)}"))
    names = [*by, *extra]
    if len(names) < 1 or len(set(names)) != len(names):
        raise ParameterError(got("rankings", names, "at least one name, each once"))
    unknown = [name for name in by if name not in rankings(ds)]
    if unknown:
        raise ParameterError(got("by", unknown[0], rankings(ds)))
    if "model" not in ds.dims:
        ds = ds.expand_dims("model")
    models = [str(name) for name in ds.coords["model"].values] if "model" in ds.coords else range(ds.sizes["model"])
    shape = tuple(ds.sizes[dim] for dim in HEAD_DIMS)

    parts = []
    for index in range(shape[0]):
        sums = _seen([score_sums(ds, name, index, query=query) for name in by])
        fixed = [_as_scores(array, ds, index, name) for name, array in extra.items()]
        layer = np.repeat(np.arange(shape[1]), shape[2])
        parts.append(_one_model(sums, fixed, layer, k, n_boot, n_splits, level, seed))
    pair = ("model", "ranking", "other")
    dims = dict.fromkeys(("spearman", "spearman_within_layer", "top_k_overlap", "ceiling"), pair)
    dims |= dict.fromkeys(("spearman_interval", "top_k_overlap_interval"), (*pair, "bound"))
    dims |= dict.fromkeys(("reliability", "top_k_reliability"), pair[:2]) | dict.fromkeys(("chance", "k"), pair[:1])
    variables = {name: (where, np.stack([part[name] for part in parts])) for name, where in dims.items()}
    return xr.Dataset(variables, {"model": models, "ranking": names, "other": names, "bound": ["lower", "upper"]})


def unit_ranks(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the centred ranks of scores (…, head) as unit vectors, whose products are Spearman's correlations.

    NaN for a constant ranking.
    """
    ranks = stats.rankdata(scores, axis=-1)
    ranks = ranks - ranks.mean(axis=-1, keepdims=True)
    norm = np.sqrt((ranks**2).sum(axis=-1, keepdims=True))
    return np.divide(ranks, norm, out=np.full_like(ranks, np.nan), where=norm > 0)


def spearman(scores: NDArray[np.floating], others: NDArray[np.floating] | None = None) -> NDArray[np.float64]:
    """Return Spearman's rank correlations over heads.

    Parameters
    ----------
    scores
        Scores (…, ranking, head).
    others
        Scores (…, other, head) to correlate them with, by default the same.

    Returns
    -------
    numpy.ndarray
        Correlations (…, ranking, other) in [−1, 1]; NaN for a constant ranking.
    """
    unit = unit_ranks(scores)
    other = unit if others is None else unit_ranks(others)
    return np.clip(unit @ np.swapaxes(other, -1, -2), -1.0, 1.0)


def without_layer_means(scores: NDArray[np.floating], layer: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return scores (…, head) minus the mean of their layer; `layer` gives each head's."""
    _, owner = np.unique(layer, return_inverse=True)
    member = (owner[:, None] == np.arange(owner.max() + 1)).astype(np.float64)
    means = (scores @ member) / member.sum(axis=0)
    return scores - means[..., owner]


def matched_heads(one: NDArray[np.floating], other: NDArray[np.floating], groups: int) -> NDArray[np.intp]:
    """Return for every head of one model the head of another one, in the same layer, that does most nearly the same.

    Parameters
    ----------
    one, other
        What heads do (layer, head, feature), on the same prompts.
    groups
        Key-value groups of a layer's heads: whole groups are matched, and heads within them.

    Returns
    -------
    numpy.ndarray
        Heads of `other` (layer, head): the assignment of the least squared distance (Hungarian method).
    """
    layers, heads, _ = one.shape
    size = heads // groups
    found = np.empty((layers, heads), dtype=np.intp)
    for layer in range(layers):
        cost = np.square(one[layer][:, None] - other[layer][None]).sum(-1)
        blocks = cost.reshape(groups, size, groups, size).swapaxes(1, 2)
        within = np.array([[linear_sum_assignment(block)[1] for block in row] for row in blocks])
        totals = np.take_along_axis(blocks, within[..., None], -1).sum((-2, -1))
        chosen = linear_sum_assignment(totals)[1]
        found[layer] = (size * chosen[:, None] + within[np.arange(groups), chosen]).ravel()
    return found


def top_k_overlap(scores: NDArray[np.floating], k: int) -> NDArray[np.float64]:
    """Return the shared part [0, 1] of the k best heads (…, ranking, ranking) for scores (…, ranking, head).

    Where heads are tied at the k-th place, the mean over all ways to choose among them, in each ranking by itself.
    """
    top = top_chance(scores, k)
    return top @ np.swapaxes(top, -1, -2) / k


def top_chance(scores: NDArray[np.floating], k: int) -> NDArray[np.float64]:
    """Return the probability [0, 1] of each head (…, head) to be among the k best when ties are broken by lot."""
    values = np.where(np.isfinite(scores), scores, -np.inf)
    last = np.sort(values, axis=-1)[..., -min(k, values.shape[-1]), None]
    above, tied = values > last, (values == last) & np.isfinite(values)
    places = k - above.sum(axis=-1, keepdims=True)
    return above + tied * np.minimum(1.0, places / np.maximum(tied.sum(axis=-1, keepdims=True), 1))


def _shared(replicates: NDArray[np.floating], k: int) -> NDArray[np.float64]:
    """`top_k_overlap`, NaN where a head has no score: it is then no head of the k best, and no other one either."""
    known = np.asarray(np.isfinite(replicates).all(axis=-1))
    return np.where(known[..., :, None] & known[..., None, :], top_k_overlap(replicates, k), np.nan)


def _seen(sums: Sequence[PictureSums]) -> list[PictureSums]:
    """The sums over the pictures that any of them knows a value of: others are no part of what is drawn."""
    there = np.asarray(np.stack([one.counts.any(axis=0) for one in sums]).any(axis=0)) if sums else np.zeros(0, bool)
    if not there.any():
        return list(sums)
    return [one.of(there) for one in sums]


def split_half(halves: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return Spearman's correlation of both halves (split, half, head): (split), over the heads known in both; NaN
    where these are fewer than three."""
    known = np.isfinite(halves[:, 0]) & np.isfinite(halves[:, 1])
    if known.all():
        return spearman(halves)[:, 0, 1]
    found = np.full(len(halves), np.nan)
    for place, heads in enumerate(known):
        if heads.sum() >= 3:
            found[place] = spearman(halves[place][:, heads])[0, 1]
    return found


def spearman_brown(halves: NDArray[np.floating]) -> float:
    """Return the reliability of all pictures from the correlations (split) of their halves; NaN without a finite one.

    References
    ----------
    Spearman (1910) and Brown (1910), British Journal of Psychology 3: 2r / (1 + r).
    """
    known = halves[np.isfinite(halves)]
    if not len(known):
        return float("nan")
    half = float(known.mean())
    return 2 * half / (1 + half) if half > -1 else -1.0


def _as_scores(array: xr.DataArray, ds: xr.Dataset, model: int, name: str) -> NDArray[np.float64]:
    array = estimates(array)
    if "model" in array.dims:
        known = "model" in array.coords and "model" in ds.coords
        label = ds.coords["model"].values[model] if known else None
        if known and label not in array.coords["model"].values:
            return np.full(ds.sizes["layer"] * ds.sizes["head"], np.nan)
        array = array.sel(model=label) if known else array.isel(model=model)
    array = array.transpose("layer", "head")
    shape = (ds.sizes["layer"], ds.sizes["head"])
    if array.shape != shape:
        raise ParameterError(got(f"shape of ranking {name!r}", array.shape, f"(layer, head) = {shape}"))
    labels = {dim: ds[dim] for dim in ("layer", "head") if dim in array.coords and dim in ds.coords}
    return np.asarray(array.reindex(labels).values, dtype=np.float64).ravel()


def _one_model(
    sums: Sequence[PictureSums],
    fixed: Sequence[NDArray[np.float64]],
    layer: NDArray[np.integer],
    k: K,
    n_boot: int,
    n_splits: int,
    level: float,
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    n_pictures = len(sums[0].pictures) if sums else 1
    n_rankings = len(sums) + len(fixed)

    def scored(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scores (replicate, ranking, head) under weights (replicate, picture)."""
        traced = [one.means(weights).T for one in sums]
        return np.stack([*traced, *(np.broadcast_to(one, (len(weights), len(one))) for one in fixed)], axis=1)

    estimate = scored(np.ones((1, n_pictures)))[0]
    # A ranking without any value in this model leaves the others their heads.
    empty = ~np.isfinite(estimate).any(axis=1)
    heads = np.isfinite(estimate[~empty]).all(axis=0) if not empty.all() else np.zeros(estimate.shape[1], dtype=bool)
    square = np.full((n_rankings, n_rankings), np.nan)
    result = {name: square.copy() for name in ("spearman", "spearman_within_layer", "top_k_overlap", "ceiling")}
    result |= {name: np.full((*square.shape, 2), np.nan) for name in ("spearman_interval", "top_k_overlap_interval")}
    result |= {name: np.full(n_rankings, np.nan) for name in ("reliability", "top_k_reliability")}
    result |= {"chance": np.array(np.nan), "k": np.array(np.nan)}
    if heads.sum() < 3:
        return result
    n_top = head_count(int(heads.sum()), k)
    result |= {"chance": np.array(n_top / heads.sum()), "k": np.array(float(n_top))}

    kept = np.ix_(~empty, ~empty)
    usable, layer = estimate[~empty][:, heads], layer[heads]
    result["spearman"][kept] = spearman(usable)
    result["spearman_within_layer"][kept] = spearman(without_layer_means(usable, layer))
    result["top_k_overlap"][kept] = top_k_overlap(usable, n_top)

    if n_pictures > 1:
        replicates = scored(picture_weights(n_pictures, n_boot, seed))[:, ~empty][..., heads]
        for name, values, lowest in (
            ("spearman", spearman(replicates), -1.0),
            ("top_k_overlap", _shared(replicates, n_top), 0.0),
        ):
            result[f"{name}_interval"][kept] = centred_interval(result[name][kept], values, level, lowest, 1.0)
        first = half_weights(n_pictures, n_splits, seed)
        halves = np.stack([scored(first), scored(1 - first)], axis=2)[..., heads]
        for index in np.flatnonzero(~empty[: len(sums)]):
            result["reliability"][index] = spearman_brown(split_half(halves[:, index]))
            whole = np.isfinite(halves[:, index]).all(axis=(1, 2))
            if whole.any():
                result["top_k_reliability"][index] = top_k_overlap(halves[whole, index], n_top)[:, 0, 1].mean()
    room = np.where(np.arange(n_rankings) < len(sums), np.clip(result["reliability"], 0, 1), 1.0)
    result["ceiling"] = np.sqrt(np.outer(room, room))
    return result
