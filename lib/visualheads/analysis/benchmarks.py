"""Head statistics by model and benchmark: means over heads, right against wrong answers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from visualheads.analysis.scores import scores
from visualheads.analysis.subset import asked_parts, bounds_of, models_of, subset
from visualheads.heads.bootstrap import N_BOOT, bootstrap, interval, picture_sums, picture_weights
from visualheads.heads.patterns import labels_of
from visualheads.heads.ranking import DETECTION_SHARE, sample_scores, strongest

STATISTICS = {
    "image_weight": "mean image weight of all heads",
    "image_log_odds": "mean image log-odds of all heads",
    "concentration": "mean concentration of all heads",
    "focus_nats": "mean focus of all heads (nats)",
    "top_image_weight": "mean image weight of the visual heads",
    "top_concentration": "mean concentration of the visual heads",
    "top_focus_nats": "mean focus of the visual heads (nats)",
    "top_region_weight": "mean weight on the asked region of the visual heads",
}
"""Head statistics of a model on a benchmark. *Visual heads*: the same share of every model's heads, by image weight."""
MEASURES = ("image_weight", "image_log_odds", "concentration", "focus_nats", "region_weight")
"""What they are means of."""
BOX_PAIRS = tuple((f"plain-{name}", f"visual-{name}") for name in ("general", "object", "super"))
NAME_PAIRS = tuple((f"{way}-general", f"{way}-{name}") for way in ("plain", "visual") for name in ("object", "super"))
CONDITION_PAIRS = {"drawing the box": BOX_PAIRS, "naming the object": NAME_PAIRS}
"""Pairs of LookTwice-QA's conditions: by the drawn box (in free form the prompt tells of it too), and by the name."""
STRATA = ("condition", "format", "kind")
"""What right and wrong answers that are compared have in common, as far as it is known."""
FEWEST_ANSWERS = 10
"""Right answers, and wrong ones, below which they are not compared: intervals of a few pictures tell little (ours)."""
INTERVALS = {"image_weight": "image weight", "concentration": "concentration", "focus_nats": "focus (nats)"}
"""Measures of `statistic_intervals`, in words."""


def head_statistics(ds: xr.Dataset) -> pd.DataFrame:
    """Means over heads by model and benchmark: over all of them, and over the visual heads.

    Visual heads are the same share of every model's heads: those 9.8 % with the largest image weight on that
    benchmark.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces with the measures of STATISTICS (model, layer, head, sample).

    Returns
    -------
    pandas.DataFrame
        One row per model and task. Columns: model, task, tokens (mean number of image tokens) and those of STATISTICS,
        each in its measure's unit. NaN where a measure has no value, such as region weight without boxes.

    Raises
    ------
    ParameterError
        A measure is missing.
    """
    records = []
    for name, task, part in asked_parts(ds):
        means = {measure: head_means(part, measure) for measure in MEASURES}
        top = strongest(means["image_weight"], DETECTION_SHARE)
        row = {m: _mean(values) for m, values in means.items() if m in STATISTICS}
        row |= {f"top_{m}": _mean(values[top]) for m, values in means.items() if f"top_{m}" in STATISTICS}
        tokens = float(part["n_image_tokens"].astype(float).mean())
        records.append({"model": name, "task": task, "tokens": tokens, **row})
    return pd.DataFrame(records, columns=["model", "task", "tokens", *STATISTICS])


def scored_statistics(ds: xr.Dataset) -> pd.DataFrame:
    """Means over heads by model and benchmark, with the share right there.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces with answers and the measures of STATISTICS.

    Returns
    -------
    pandas.DataFrame
        The result of `head_statistics` with the column `score`: the share right on that task in [0, 1], as in
        `scores.scores`; NaN without answers.
    """
    told = scores(ds).rename(columns={"group": "task", "estimate": "score"})
    return head_statistics(ds).merge(told[["model", "task", "score"]], on=["model", "task"], how="left")


def head_points(ds: xr.Dataset) -> pd.DataFrame:
    """The paper's first figure as a table: image weight, concentration and score for every model, benchmark and head.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces with answers, `image_weight` and `concentration`.

    Returns
    -------
    pandas.DataFrame
        One row per model, benchmark and head. Columns: model, task, layer, head, image_weight and concentration (means
        over samples, in [0, 1]), score (share right of the model on the benchmark; NaN without answers). Heads that a
        model lacks are left out.

    References
    ----------
    Bi et al. 2024 (arXiv:2412.18108), figure 1.
    """
    parts = []
    for name, task, part in asked_parts(ds):
        means = [head_means(part, measure) for measure in ("image_weight", "concentration")]
        layer, head = np.nonzero(np.isfinite(means[0]))
        weight, focus = (values[layer, head] for values in means)
        columns = {"layer": layer, "head": head, "image_weight": weight, "concentration": focus}
        parts.append(pd.DataFrame({"model": name, "task": task, **columns}))
    told = scores(ds).rename(columns={"group": "task", "estimate": "score"})[["model", "task", "score"]]
    columns = ["model", "task", "layer", "head", "image_weight", "concentration"]
    points = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    return points.merge(told, on=["model", "task"], how="left")


def head_means(part: xr.Dataset, measure: str) -> NDArray[np.float64]:
    """The mean over samples of one model's measure, head by head.

    Parameters
    ----------
    part : xarray.Dataset
        Traces of one model, dims (model, layer, head, sample).
    measure : str
        A variable per head and sample, or a ranking of `vh.rank`.

    Returns
    -------
    numpy.ndarray
        Means (layer, head) in the unit of the measure; NaN where a head has no value.

    Raises
    ------
    ParameterError
        The measure or row is missing.
    """
    return sample_scores(part, measure).isel(model=0).mean("sample", dtype=float).values


def right_wrong(
    ds: xr.Dataset, measure: str = "concentration", *, n_boot: int = N_BOOT, fewest: int = FEWEST_ANSWERS
) -> pd.DataFrame:
    """How a measure of the visual heads differs between right and wrong answers, by model and benchmark.

    Only answers that share what STRATA names are compared, weighted by n_right · n_wrong / n, so that easier questions
    make no difference by themselves. Visual heads are the 9.8 % with the largest image weight over right and wrong
    answers together.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces with answers and `image_weight`. Kinds of question come from a coordinate `kind`, where there is one.
    measure : str
        A variable per head and sample.
    n_boot : int
        Draws of the bootstrap over pictures.
    fewest : int
        Right answers, and wrong ones, that have others to be compared with: below so many the difference is not told.

    Returns
    -------
    pandas.DataFrame
        One row per model and task with known answers. Columns: model, task, difference (right − wrong), lower, upper
        (in the unit of the measure; NaN for too few answers), right, wrong (numbers of samples).

    Raises
    ------
    ParameterError
        The measure is missing.
    """
    records = []
    for name, task, part in asked_parts(ds):
        correct = np.asarray(part["correct"].isel(model=0).values, dtype=float)
        if not np.isfinite(correct).any():
            continue
        values = sample_scores(part, measure).isel(model=0).astype(float)
        chosen = xr.DataArray(strongest(head_means(part, "image_weight"), DETECTION_SHARE), dims=("layer", "head"))
        series = values.where(chosen).mean(["layer", "head"]).assign_coords(image_id=part["image_id"])
        strata = labels_of(part, [name for name in STRATA if name in part.coords])
        difference, low, high = float("nan"), float("nan"), float("nan")
        if min(_comparable(correct, strata)) >= fewest:
            difference, low, high = _stratified(series, correct, strata, n_boot)
        counts = {"right": int((correct == 1).sum()), "wrong": int((correct == 0).sum())}
        bounds = {"difference": difference, "lower": low, "upper": high}
        records.append({"model": name, "task": task, **bounds, **counts})
    return pd.DataFrame(records, columns=["model", "task", "difference", "lower", "upper", "right", "wrong"])


def statistic_intervals(ds: xr.Dataset, fresh: xr.Dataset | None = None) -> pd.DataFrame:
    """The mean over all heads of each measure of INTERVALS, by model and benchmark, with intervals.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces (model, layer, head, sample).
    fresh : xarray.Dataset, optional
        Traces of untrained networks, which go by the models' names.

    Returns
    -------
    pandas.DataFrame
        One row per model, benchmark and measure that has values. Columns: model, task, statistic (the measure in
        words), estimate, lower, upper (95 %, in the measure's unit), untrained (the same mean of the network of
        `fresh`; NaN without it).
    """
    records = []
    for name, task, part in asked_parts(ds):
        new = subset(fresh, model=name, task=task) if fresh is not None and name in models_of(fresh) else None
        for measure, words in INTERVALS.items():
            values = _mean_of_heads(part, measure)
            if values is None:
                continue
            control = None if new is None else _mean_of_heads(new, measure)
            untrained = float("nan") if control is None else float(control.mean())
            row = {"model": name, "task": task, "statistic": words}
            records.append({**row, **bounds_of(bootstrap(values)), "untrained": untrained})
    return pd.DataFrame(records, columns=["model", "task", "statistic", "estimate", "lower", "upper", "untrained"])


def _mean_of_heads(part: xr.Dataset, measure: str) -> xr.DataArray | None:
    """Per sample the mean over heads; None where nothing was measured."""
    if measure not in part or not part.sizes["sample"]:
        return None
    values = sample_scores(part, measure).isel(model=0).mean(["layer", "head"], skipna=True)
    return values if bool(np.isfinite(values).any()) else None


def _mean(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def _comparable(correct: NDArray[np.float64], strata: NDArray[np.object_]) -> tuple[int, int]:
    """Right and wrong answers in those strata that have both."""
    counts = [[int((correct[strata == name] == answer).sum()) for answer in (1, 0)] for name in dict.fromkeys(strata)]
    right, wrong = (sum(side) for side in zip((0, 0), *(pair for pair in counts if all(pair)), strict=True))
    return right, wrong


def _stratified(
    values: xr.DataArray, correct: NDArray[np.float64], strata: NDArray[np.object_], n_boot: int
) -> tuple[float, float, float]:
    """Difference of means right − wrong within strata, each weighted by n₁n₀/n, with a bootstrap over pictures."""
    names = list(dict.fromkeys(strata))
    chosen = [(strata == name) & (correct == answer) for name in names for answer in (1.0, 0.0)]
    columns = [np.where(own, values.values, np.nan) for own in chosen]
    stacked = xr.DataArray(
        np.stack(columns), {"sample": values["sample"], "image_id": values["image_id"]}, ("column", "sample")
    )
    sums = picture_sums(stacked)

    def differences(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        means = sums.means(weights).reshape(len(names), 2, -1)
        counts = (sums.counts @ weights.T).reshape(len(names), 2, -1)
        total = counts.sum(axis=1)
        weight = np.divide(counts.prod(axis=1), total, out=np.zeros_like(total), where=total > 0)
        each = np.where(weight > 0, means[:, 0] - means[:, 1], 0.0)
        whole = weight.sum(axis=0)
        return np.divide((each * weight).sum(axis=0), whole, out=np.full(whole.shape, np.nan), where=whole > 0)

    estimate = float(differences(np.ones((1, len(sums.pictures))))[0])
    replicates = differences(picture_weights(len(sums.pictures), n_boot))
    low, high = interval(replicates[None])
    return estimate, float(low[0]), float(high[0])
