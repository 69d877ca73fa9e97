"""Rankings of heads: the scores on offer, their means and intervals (pure xarray).

A ranking is the mean over samples of a per-sample value of each head (`sample_scores`), so that every ranking has
the same bootstrap over pictures. Samples with a `control` (white picture, …) never count unless a dataset holds
nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Integral

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from visualheads.errors import HeadError, ParameterError, checked, got
from visualheads.heads.bootstrap import LEVEL, N_BOOT, Grouping, PictureSums, bounded, picture_sums, picture_weights


def elbow(sums: NDArray[np.floating]) -> float:
    """Return the value at the elbow of the sorted values: where they lie farthest from the chord of first and last.

    −inf where there is no elbow (fewer than three values, or all on the chord), so that every value lies above it.
    """
    ordered = np.sort(sums[np.isfinite(sums)])
    if len(ordered) < 3:
        return -np.inf
    chord = np.linspace(ordered[0], ordered[-1], len(ordered))
    distance = np.abs(ordered - chord)
    return float(ordered[distance.argmax()]) if distance.max() > 1e-9 else -np.inf


def above_elbow(means: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return which heads lie above the elbow of their means."""
    return means > elbow(means)


def lowest_entropy(entropy: NDArray[np.floating], wanted: int) -> Callable[[NDArray[np.bool_]], NDArray[np.float64]]:
    """Return what gives, of heads (head) above the elbow, those `wanted` of lowest entropy in each sample.

    entropy   (head, sample); ties go to the lower head index
    The result is 1 for these (head, sample), 0 for other heads, NaN where a head has no entropy.
    """
    there = np.isfinite(entropy)
    order = np.argsort(entropy, axis=0, kind="stable")  # once for all sets of heads; NaN is last
    ordered = np.take_along_axis(there, order, axis=0)

    def among(above: NDArray[np.bool_]) -> NDArray[np.float64]:
        eligible = above[order] & ordered
        lowest = np.zeros(entropy.shape)
        np.put_along_axis(lowest, order, eligible & (np.cumsum(eligible, axis=0) <= wanted), axis=0)
        return np.where(there, lowest, np.nan)

    return among


@dataclass(frozen=True, eq=False)
class LocalizationSums(PictureSums):
    """Sums per picture whose heads are chosen anew under every row of weights.

    weights   of image weight, (head, picture): its weighted means give the elbow
    among     sums per picture of the ranking with these heads (head) above the elbow; kept, as draws often agree

    A mask of heads that was computed once on all pictures would be shared by both halves of a split and by all draws
    of a bootstrap, which then agree by it.
    """

    weights: PictureSums
    above: Callable[[NDArray[np.float64]], NDArray[np.bool_]]
    among: Callable[[NDArray[np.bool_]], PictureSums]
    known: dict[bytes, PictureSums] = field(default_factory=dict)

    def means(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the ranking (head, replicate) for weights (replicate, picture)."""
        found = np.full((len(self.sums), len(weights)), np.nan)
        masks = np.stack([self.above(means) for means in self.weights.means(weights).T])
        for mask in np.unique(masks, axis=0):
            rows = np.flatnonzero((masks == mask).all(axis=1))
            key = mask.tobytes()
            if key not in self.known:
                self.known[key] = self.among(mask)
            found[:, rows] = self.known[key].means(weights[rows])
        return found

    def drawn(self, n_boot: int, seed: int) -> NDArray[np.float64]:
        """Return bootstrap rankings (head, replicate), all heads with the same draws: one elbow is that of all."""
        known = np.asarray(self.counts.any(axis=0))
        if not known.any():
            return np.full((len(self.sums), n_boot), np.nan)
        return self.of(known).means(picture_weights(int(known.sum()), n_boot, seed))

    def of(self, chosen: NDArray[np.bool_]) -> LocalizationSums:
        """Return the sums over some of the pictures."""
        few, among = super().of(chosen), self.among
        return LocalizationSums(
            few.sums, few.counts, few.pictures, self.weights.of(chosen), self.above, lambda mask: among(mask).of(chosen)
        )


HEAD_DIMS = ("model", "layer", "head")
DETECTION_K = 100
"""K of the released code (files named heads-100), used from 1000 heads on."""
DETECTION_SHARE = 0.098
"""The same share of heads (100 of 32 × 32) in smaller models and in comparisons across sizes."""
FULL_SIZE = 1000
"""Number of heads from which the published counts K apply."""

LOCALIZATION_K = 10
"""Heads of lowest spatial entropy that count per sample (Kang et al., CVPR 2025)."""
LOCALIZATION_LEAST = 3
"""Least such number in small models: with one head per sample most heads would tie at 0 (ours)."""

ROW = "last_prompt"
"""The attention row that is read unless another is asked for: the one that produces the answer."""

K = int | float | None


def head_count(n_heads: int, k: K = None) -> int:
    """Return how many of `n_heads` heads `k` means, at least one.

    An int is a count, a float between 0 and 1 a share; None is detection's rule: 100 from 1000 heads on, else 9.8 %.
    """
    if k is None:
        k = DETECTION_K if n_heads >= FULL_SIZE else DETECTION_SHARE
    if isinstance(k, float) and 0 < k < 1:
        return max(1, round(k * n_heads))
    if not isinstance(k, Integral) or isinstance(k, bool) or not 1 <= k <= n_heads:
        raise HeadError(got("k", k, f"a count from 1 to {n_heads}, or a share between 0 and 1"))
    return int(k)


def rankings(ds: xr.Dataset) -> list[str]:
    """Return the names `by` can take for this dataset: the defined scores, then every variable per head and sample."""
    if not isinstance(ds, xr.Dataset) or not {"layer", "head"} <= set(ds.dims):
        raise ParameterError(got("ds", ds, "a Dataset of vh.trace, vh.open_store or vh.open_results"))
    variables = [str(name) for name, values in ds.data_vars.items() if {"layer", "head", "sample"} <= set(values.dims)]
    return [*SCORES, *(name for name in variables if name not in SCORES)]


def sample_scores(ds: xr.Dataset, by: str, *, query: str | None = None, k: K = None) -> xr.DataArray:
    """Return the per-sample value (model, layer, head, sample) whose mean over samples is the ranking `by`.

    Raises ParameterError for an unknown ranking, or one whose measure or query the dataset lacks.
    """
    if by not in rankings(ds):
        raise ParameterError(got("by", by, rankings(ds)))
    score = SCORES.get(by)
    needed = [by] if by in ds else [name for name in SCORED_FROM if name in ds]
    chosen = real_samples(_one_query(ds[needed], query, by))
    values = score(chosen, k) if score is not None else _variable(chosen, by)
    return values.rename(by)


def score_sums(ds: xr.Dataset, by: str, model: int = 0, *, query: str | None = None, k: K = None) -> PictureSums:
    """Return one model's sums per picture, (head, picture): their weighted means are the ranking `by` of such pictures.

    Arguments and errors are those of `sample_scores`; `model` is a place along `model`.
    """
    own = ds.isel(model=[model]) if "model" in ds.dims else ds
    return _sums(own, sample_scores(own, by, query=query, k=k), by, 0, query, k)


def _sums(ds: xr.Dataset, values: xr.DataArray, by: str, model: int, query: str | None, k: K) -> PictureSums:
    """`score_sums` from the dataset's `sample_scores`."""
    sums = picture_sums(values.isel(model=[model]))
    if by != "localization":
        return sums
    chosen = real_samples(_one_query(ds, query, by))
    entropy, weights = (_variable(chosen, name).isel(model=[model]) for name in ("spatial_entropy", "image_weight"))
    among, pictures = _localized(entropy.values, k), Grouping.of(entropy)
    return LocalizationSums(
        sums.sums, sums.counts, sums.pictures, picture_sums(weights), above_elbow,
        lambda above: pictures.sums(among(above)),
    )  # fmt: skip


@checked
def rank(
    ds: xr.Dataset,
    by: str = "detection",
    interval: bool = False,
    *,
    query: str | None = None,
    k: K = None,
    n_boot: int = N_BOOT,
    level: float = LEVEL,
    seed: int = 0,
) -> xr.DataArray:
    """Return the scores of one ranking of heads.

    Parameters
    ----------
    ds : xarray.Dataset
        A traced dataset (model, layer, head, sample). NaN samples are left out.
    by : str
        One of `SCORES` below, or any other variable per head and sample:

        * image_weight, region_weight, concentration: mean of the measure (code, code, ours).
        * weight_concentration: mean of w·C, the product taken per sample (ours).
        * detection: share of samples in which the head is among the K strongest by w; sums to K over the heads (ours).
          K is `k`, by default 100 from 1000 heads on, else 9.8 % of the heads.
        * gaze: region_weight, under the name that Gaze Heads give it in row last_prompt.
        * localization: share of samples in which the head is among the k of lowest spatial entropy, among heads whose
          mean w lies above the elbow, in intervals that of each draw; k = 10 from 1000 heads on, else 1 %, at least 3.
        * sink_free: mean of w·(1 − sink_share) (ours).
    interval : bool
        Add the last dimension `bound`: "lower", "estimate", "upper", a percentile bootstrap over pictures.
    query : str, optional
        The attention row where the dataset holds several; by default last_prompt, which produces the answer.
    k : int or float, optional
        Heads that count per sample: a count or a share.
    n_boot, level, seed : int, float, int
        Draws of the bootstrap, coverage of the interval in (0, 1), and seed.

    Returns
    -------
    xarray.DataArray
        (model, layer, head), and `bound`. NaN for a head without any finite sample, or that the model does not have.

    Raises
    ------
    ParameterError, HeadError
        For an unknown ranking or row, or values out of range.

    References
    ----------
    Bi et al. 2024 (arXiv:2412.18108) and its code; Kang et al., CVPR 2025 (localization).
    """
    values = sample_scores(ds, by, query=query, k=k)
    models = [_sums(ds, values, by, place, query, k) for place in range(values.sizes["model"])]
    mean = np.concatenate([sums.means(np.ones((1, len(sums.pictures))))[:, 0] for sums in models])
    if interval:
        replicates = np.concatenate([sums.drawn(n_boot, seed) for sums in models])
        return bounded(values, mean, replicates, level).assign_attrs(_attrs(by, values))
    template = values.isel(sample=0, drop=True)
    return template.copy(data=mean.reshape(template.shape)).drop_attrs(deep=False).assign_attrs(_attrs(by, values))


def _attrs(by: str, values: xr.DataArray) -> dict[str, str]:
    """What a ranking is called, and its unit: its own, or those of the measure that it is the mean of."""
    long_name, units = TOLD.get(by, ("", ""))
    return {
        "long_name": long_name or f"mean {values.attrs.get('long_name', by)}",
        "units": units or str(values.attrs.get("units", "1")),
    }


def estimates(scores: xr.DataArray) -> xr.DataArray:
    """Scores without the bounds of their intervals."""
    return scores.sel(bound="estimate", drop=True) if "bound" in scores.dims else scores


def top_heads(values: NDArray[np.floating], k: int) -> NDArray[np.bool_]:
    """Return, per column of (head, sample), the k largest finite values; ties go to the lower head index."""
    order = np.argsort(-values, axis=0, kind="stable")[:k]
    top = np.zeros(values.shape, dtype=bool)
    np.put_along_axis(top, order, True, axis=0)
    return top & np.isfinite(values)


def strongest(scores: NDArray[np.floating], k: K = None) -> NDArray[np.bool_]:
    """Mark the heads with the highest scores, an array of any shape; `k` as in `head_count`."""
    count = head_count(int(np.isfinite(scores).sum()), k)
    return top_heads(scores.reshape(-1, 1), count)[:, 0].reshape(scores.shape)


def _detection(ds: xr.Dataset, k: K) -> xr.DataArray:
    values = _variable(ds, "image_weight")
    indicator = np.full(values.shape, np.nan)
    for model, weights in enumerate(values.values):
        flat = weights.reshape(-1, weights.shape[-1])
        there = np.isfinite(flat)
        if n_heads := int(there.any(axis=1).sum()):
            top = top_heads(flat, head_count(n_heads, k))
            indicator[model] = np.where(there, top, np.nan).reshape(weights.shape)
    return values.copy(data=indicator)


def _localization(ds: xr.Dataset, k: K) -> xr.DataArray:
    entropy, sums = _variable(ds, "spatial_entropy"), picture_sums(_variable(ds, "image_weight"))
    means = sums.means(np.ones((1, len(sums.pictures))))[:, 0].reshape(entropy.shape[0], -1)
    found = [_localized(own, k)(above_elbow(mean)) for own, mean in zip(entropy.values, means, strict=True)]
    return entropy.copy(data=np.stack(found).reshape(entropy.shape))


def _localized(entropy: NDArray[np.floating], k: K) -> Callable[[NDArray[np.bool_]], NDArray[np.float64]]:
    """`lowest_entropy` of one model's entropy (…, sample), with the number of heads that `k` wants."""
    flat = entropy.reshape(-1, entropy.shape[-1])
    n_heads = int(np.isfinite(flat).any(axis=1).sum())
    if not n_heads:
        return lowest_entropy(flat, 0)
    if k is not None:
        return lowest_entropy(flat, head_count(n_heads, k))
    share = max(LOCALIZATION_LEAST, round(LOCALIZATION_K / 1024 * n_heads))
    return lowest_entropy(flat, LOCALIZATION_K if n_heads >= FULL_SIZE else min(n_heads, share))


SCORED_FROM = ("image_weight", "region_weight", "concentration", "spatial_entropy", "sink_share")
"""What `SCORES` are made of."""


def _mean_of(name: str) -> Callable[[xr.Dataset, K], xr.DataArray]:
    return lambda ds, _k: _variable(ds, name)


SCORES: dict[str, Callable[[xr.Dataset, K], xr.DataArray]] = {
    "image_weight": _mean_of("image_weight"),
    "region_weight": _mean_of("region_weight"),
    "concentration": _mean_of("concentration"),
    "weight_concentration": lambda ds, _k: _variable(ds, "image_weight") * _variable(ds, "concentration"),
    "detection": _detection,
    "gaze": _mean_of("region_weight"),
    "localization": _localization,
    "sink_free": lambda ds, _k: _variable(ds, "image_weight") * (1 - _variable(ds, "sink_share")),
}
"""The observational rankings; each function gives the per-sample value (model, layer, head, sample)."""


TOLD = {
    "weight_concentration": ("mean image weight times concentration", "share of attention"),
    "detection": ("share of samples in which the head is among the strongest", "share of samples"),
    "gaze": ("mean attention of the last prompt token on the asked region", "share of attention"),
    "localization": ("share of samples in which the head is among the most localized", "share of samples"),
    "sink_free": ("mean image weight outside sink tokens", "share of attention"),
}
"""Long name and unit of the rankings that are not the mean of one variable."""


def _variable(ds: xr.Dataset, name: str) -> xr.DataArray:
    if name not in ds:
        raise ParameterError(got("measure", name, [str(n) for n in ds.data_vars], "trace with this measure"))
    values = ds[name]
    if "model" not in values.dims:
        values = values.expand_dims("model")
    if set(values.dims) != {*HEAD_DIMS, "sample"}:
        raise ParameterError(got(f"dimensions of {name}", values.dims, f"{(*HEAD_DIMS, 'sample')}"))
    return values.transpose(*HEAD_DIMS, "sample", transpose_coords=False)


def _one_query(ds: xr.Dataset, query: str | None, by: str) -> xr.Dataset:
    """Take one attention row: the asked one, or the only one, or the last prompt token's.

    Raises ParameterError where samples or models of several rows were put together.
    """
    present = [str(name) for name in np.atleast_1d(ds.coords["query"].values)] if "query" in ds.coords else []
    if len(set(present)) > 1 and "query" not in ds.dims:
        fix = "give samples and models of one row, or the dimension query"
        raise ParameterError(got(f"query of {by}", sorted(set(present)), "one attention row", fix))
    if query is None:
        query = present[0] if len(set(present)) == 1 else ROW
    if present and query not in present:
        raise ParameterError(got(f"query of {by}", query, present, f"trace with query={query!r}"))
    return ds.sel(query=query) if "query" in ds.dims else ds


REAL = ("", "none")
"""Controls of samples whose picture is the one asked about."""


def are_real(ds: xr.Dataset) -> NDArray[np.bool_]:
    """Return which samples show the picture that is asked about: (sample,); all where there is no such sample."""
    chosen = _have_control(ds, REAL)
    return chosen if chosen.any() else ~chosen


def real_samples(ds: xr.Dataset) -> xr.Dataset:
    """Return the samples whose picture is the one asked about; all of them where there is no such sample."""
    return ds if "control" not in ds.coords else _chosen(ds, are_real(ds))


def samples_with_control(ds: xr.Dataset, controls: Sequence[str]) -> xr.Dataset:
    """Return the samples whose `control` is one of `controls` ("" or "none": the picture as it is)."""
    return ds if "control" not in ds.coords else _chosen(ds, _have_control(ds, controls))


def _have_control(ds: xr.Dataset, controls: Sequence[str]) -> NDArray[np.bool_]:
    if "control" not in ds.coords:
        return np.ones(ds.sizes["sample"], dtype=bool)
    return np.isin(np.atleast_1d(ds.coords["control"].values).astype(object).astype(str), list(controls))


def _chosen(ds: xr.Dataset, chosen: NDArray[np.bool_]) -> xr.Dataset:
    return ds if chosen.all() else ds.isel(sample=np.flatnonzero(chosen))
