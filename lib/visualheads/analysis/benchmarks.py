"""What guessing would score.

Models and benchmarks compared: scores, head statistics, right against wrong answers (numpy and xarray).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from visualheads.errors import ParameterError, got
from visualheads.heads.bootstrap import LEVEL, N_BOOT, interval, picture_sums, picture_weights
from visualheads.heads.patterns import QUERY, labels_of
from visualheads.heads.proportions import share_gained, share_right
from visualheads.heads.ranking import DETECTION_SHARE, K, head_count, rank, real_samples, sample_scores, top_heads
from visualheads.tasks.question_kinds import option_counts

LETTERS = "letters"
"""The answer format in which choices are offered."""


def chance_of(ds: xr.Dataset) -> float:
    """The share right that an answerer without any knowledge could reach on these samples of one model and task.

    The most frequent answer's share among free-form answers, and among letters the mean of 1 / (choices of the
    question), or of 1 / (letters that occur) where the benchmark's files do not tell (`option_counts`); weighted by
    their samples, NaN without answers.
    """
    answers = np.atleast_1d(ds["answer"].values).astype(str)
    forms = np.atleast_1d(ds["format"].values).astype(str)
    options = option_counts(ds) if LETTERS in forms else np.zeros(len(forms), dtype=np.int64)
    total, known = 0.0, 0
    for form in dict.fromkeys(forms):
        here = (forms == form) & (answers != "")
        if here.any():
            names, counts = np.unique(answers[here], return_counts=True)
            choices = np.where(options[here] > 0, options[here], len(names))
            total += float((1 / choices).sum()) if form == LETTERS else float(counts.max())
            known += int(here.sum())
    return total / known if known else float("nan")


def circular_chance(ds: xr.Dataset) -> float:
    """The share of questions that guessing each round by itself would get right in all rounds; NaN without answers.

    Of k choices in r rounds (1 / k)ʳ, averaged over questions; k is the number of rounds, since a question has as many
    as choices, or more where right letters say so: with rounds left out, the chance told is the most it can be.
    """
    forms = np.atleast_1d(ds["format"].values).astype(str)
    answers = np.atleast_1d(ds["answer"].values).astype(str)
    told = np.flatnonzero((forms == LETTERS) & (answers != ""))
    if not len(told):
        return float("nan")
    questions = np.atleast_1d(ds["question_id"].values).astype(str)[told]
    place = pd.Series([ord(answer) - ord("A") + 1 for answer in answers[told]]).groupby(questions)
    rounds, letters = place.size(), place.max()
    return float(np.mean(np.maximum(np.maximum(rounds, letters), 2.0) ** -rounds))


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
BOX_PAIRS = tuple((f"plain-{name}", f"visual-{name}") for name in ("general", "object", "super"))
NAME_PAIRS = tuple((f"{way}-general", f"{way}-{name}") for way in ("plain", "visual") for name in ("object", "super"))
CONDITION_PAIRS = {"drawing the box": BOX_PAIRS, "naming the object": NAME_PAIRS}
"""Pairs of LookTwice-QA's conditions: by the drawn box (in free form the prompt tells of it too), and by the name."""
STRATA = ("condition", "format", "kind")
"""What right and wrong answers that are compared have in common, as far as it is known."""
FEWEST_ANSWERS = 10
"""Right answers, and wrong ones, below which they are not compared: intervals of a few pictures tell little (ours)."""
CIRCULAR = "mmbench"


def of_task(ds: xr.Dataset, task: str) -> xr.Dataset:
    """One benchmark's own samples, without controls, and the models that saw any of them. Raises ParameterError."""
    own = real_samples(ds)
    names = own["task"].values.astype(str)
    if task not in names:
        raise ParameterError(got("task", task, list(dict.fromkeys(names.tolist()))))
    own = own.isel(sample=np.flatnonzero(names == task))
    seen = np.asarray((own["n_image_tokens"].astype(float) > 0).any("sample"))
    return own.isel(model=np.flatnonzero(seen))


def of_model(ds: xr.Dataset, model: str, task: str | None = None) -> xr.Dataset:
    """One model's own samples (of one task), without controls; the dimension `model` stays, of length 1.

    Heads and layers that the model does not have stay NaN. Raises ParameterError for an unknown model.
    """
    names = [str(name) for name in np.atleast_1d(ds["model"].values)]
    if model not in names:
        raise ParameterError(got("model", model, names))
    one = real_samples(ds.isel(model=[names.index(model)]))
    seen = np.asarray(np.isfinite(one["n_image_tokens"].isel(model=0).astype(float)))
    seen &= one["n_image_tokens"].isel(model=0).values > 0
    if task is not None:
        seen &= one["task"].values.astype(str) == task
    return one.isel(sample=np.flatnonzero(seen))


def tasks_of(ds: xr.Dataset) -> list[str]:
    """The benchmarks of the dataset's samples, in order of first appearance."""
    return list(dict.fromkeys(np.atleast_1d(real_samples(ds)["task"].values).astype(str)))


def scores(
    ds: xr.Dataset, by: str | Sequence[str] = "task", *, n_boot: int = N_BOOT, level: float = LEVEL, seed: int = 0
) -> pd.DataFrame:
    """Share of right answers per model and group of samples: model, group, estimate, lower, upper, n, chance.

    The interval is a bootstrap over pictures (`answered.share_right`). MMBench's task counts a question only where
    every round asked is right (circular), with n questions. Groups without known answers are left out. `chance` as in
    `chance_of`, of the circular score as in `circular_chance`.
    """
    records = []
    for name in np.atleast_1d(ds["model"].values).astype(str):
        one = of_model(ds, str(name))
        labels = labels_of(one, by)
        for group in dict.fromkeys(labels):
            part = one.isel(sample=np.flatnonzero(labels == group))
            values = part["correct"].isel(model=0).load()
            circular = by == "task" and group == CIRCULAR
            if not np.isfinite(values).any():
                continue
            chance = chance_of(part)
            if circular:
                values, chance = in_all_rounds(values), circular_chance(part)
            told = share_right(values, n_boot, level, seed)
            n = int(np.isfinite(values.values).sum())
            records.append({"model": str(name), "group": group, **told, "n": n, "chance": chance})
    return pd.DataFrame(records, columns=["model", "group", "estimate", "lower", "upper", "n", "chance"])


def in_all_rounds(correct: xr.DataArray) -> xr.DataArray:
    """1 where every round of a question is right, else 0: one value per question asked with letters (MMBench).

    Along `sample`, with `image_id`; samples in free form are left out, unless there are no others.
    """
    forms = np.atleast_1d(correct["format"].values).astype(str)
    kept = np.flatnonzero(forms == LETTERS) if (forms == LETTERS).any() else np.arange(len(forms))
    chosen = correct.isel(sample=kept)
    questions, owner = np.unique(chosen["question_id"].values.astype(str), return_inverse=True)
    right = np.ones(len(questions))
    np.minimum.at(right, owner, np.asarray(chosen.values, dtype=np.float64))
    first = np.array([np.flatnonzero(owner == index)[0] for index in range(len(questions))])
    images = chosen["image_id"].values[first]
    return xr.DataArray(right, {"sample": questions, "image_id": ("sample", images)}, ("sample",), "correct")


def head_statistics(ds: xr.Dataset, *, k: K = DETECTION_SHARE, query: str | None = QUERY) -> pd.DataFrame:
    """One row per model and task: model, task, tokens (mean image tokens) and the columns of STATISTICS.

    Statistics of the visual heads are means over the `k` heads (9.8 % by default: the same share of every model) with
    the largest image weight of that model on that task. NaN where a measure has no value, such as region weight
    without boxes.
    """
    records = []
    for name in np.atleast_1d(ds["model"].values).astype(str):
        for task in tasks_of(ds):
            part = of_model(ds, str(name), task)
            if not part.sizes["sample"]:
                continue
            means = {m: head_means(part, m, query) for m in ("image_weight", "image_log_odds", "concentration")}
            means |= {m: head_means(part, m, query) for m in ("focus_nats", "region_weight")}
            weight = means["image_weight"]
            n_heads = int(np.isfinite(weight).sum())
            top = top_heads(weight.reshape(-1, 1), head_count(n_heads, k))[:, 0].reshape(weight.shape)
            row = {m: _mean(values) for m, values in means.items() if m in STATISTICS}
            row |= {f"top_{m}": _mean(values[top]) for m, values in means.items() if f"top_{m}" in STATISTICS}
            tokens = float(part["n_image_tokens"].astype(float).mean())
            records.append({"model": str(name), "task": task, "tokens": tokens, **row})
    return pd.DataFrame(records, columns=["model", "task", "tokens", *STATISTICS])


def scored_statistics(ds: xr.Dataset, *, query: str | None = QUERY) -> pd.DataFrame:
    """`head_statistics` with the column `score`: share right on that task, as in `scores`; NaN without answers."""
    told = scores(ds).rename(columns={"group": "task", "estimate": "score"})
    return head_statistics(ds, query=query).merge(told[["model", "task", "score"]], on=["model", "task"], how="left")


def head_means(part: xr.Dataset, measure: str, query: str | None = QUERY) -> NDArray[np.float64]:
    """Mean over samples (layer, head) of one model's measure; NaN where it has no value."""
    asked = query if "query" in part.dims else None
    return np.asarray(rank(part, measure, query=asked).isel(model=0).transpose("layer", "head").values, dtype=float)


def right_wrong(
    ds: xr.Dataset,
    measure: str = "concentration",
    *,
    k: K = DETECTION_SHARE,
    query: str | None = QUERY,
    n_boot: int = N_BOOT,
    level: float = LEVEL,
    seed: int = 0,
    fewest: int = FEWEST_ANSWERS,
) -> pd.DataFrame:
    """How a measure of the visual heads differs between right and wrong answers: one row per model and task.

    Columns: model, task, difference (right − wrong), lower, upper, right, wrong (numbers of samples), kinds (of
    question; 0 where unknown). Only answers that share what STRATA names (`kind`: from `kinds.with_kinds`) are
    compared, weighted by n_right · n_wrong / n, so that easier questions make no difference by themselves; NaN where
    fewer than `fewest` right or wrong answers have others to be compared with. Visual heads are the `k` heads (9.8 %)
    with the largest image weight over right and wrong answers together. Interval: bootstrap over pictures.
    """
    records = []
    for name in np.atleast_1d(ds["model"].values).astype(str):
        for task in tasks_of(ds):
            part = of_model(ds, str(name), task)
            correct = np.asarray(part["correct"].isel(model=0).values, dtype=float)
            if not np.isfinite(correct).any():
                continue
            weight = head_means(part, "image_weight", query)
            n_top = head_count(int(np.isfinite(weight).sum()), k)
            top = top_heads(weight.reshape(-1, 1), n_top)[:, 0].reshape(weight.shape)
            asked = query if "query" in part.dims else None
            values = sample_scores(part, measure, query=asked).isel(model=0).transpose("layer", "head", "sample")
            mean = _mean_over(np.asarray(values.values, dtype=float)[top])
            series = xr.DataArray(mean, {"sample": part["sample"], "image_id": part["image_id"]}, ("sample",))
            strata = labels_of(part, [name for name in STRATA if name in part.coords])
            difference, low, high = float("nan"), float("nan"), float("nan")
            if min(_comparable(correct, strata)) >= fewest:
                difference, low, high = _stratified(series, correct, strata, n_boot, level, seed)
            counts = {"right": int((correct == 1).sum()), "wrong": int((correct == 0).sum())}
            counts["kinds"] = len({*part["kind"].values.astype(str)} - {""}) if "kind" in part.coords else 0
            bounds = {"difference": difference, "lower": low, "upper": high}
            records.append({"model": str(name), "task": task, **bounds, **counts})
    return pd.DataFrame(records, columns=["model", "task", "difference", "lower", "upper", "right", "wrong", "kinds"])


def score_difference(ds: xr.Dataset, one: str, other: str, task: str, seed: int = 0) -> dict[str, float] | None:
    """Share right of `other` minus that of `one` on the questions both were asked, with a paired 95 % interval.

    Keys difference, lower, upper, one, other, n; MMBench counts as in `scores`. None without common questions.
    """
    first, second = answered_by_all(ds, (one, other), task)
    if not first.sizes["sample"]:
        return None
    told = share_gained(first, second, seed=seed)
    return {
        "difference": told["estimate"],
        "lower": told["lower"],
        "upper": told["upper"],
        "one": float(first.mean()),
        "other": float(second.mean()),
        "n": float(first.sizes["sample"]),
    }


def answered_by_all(ds: xr.Dataset, models: Sequence[str], task: str) -> list[xr.DataArray]:
    """Each model's answers (sample; 1 right, 0 wrong) to the prompts of a benchmark whose answers are known of all.

    MMBench: one value per question, right where all rounds that all were asked are.
    """
    arrays = [of_model(ds, name, task)["correct"].isel(model=0, drop=True).load().astype(float) for name in models]
    arrays = list(xr.align(*arrays, join="inner"))
    known = np.flatnonzero(np.isfinite(np.stack([array.values for array in arrays])).all(axis=0))
    arrays = [array.isel(sample=known) for array in arrays]
    return [in_all_rounds(array) for array in arrays] if task == CIRCULAR and len(known) else arrays


def _mean(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def _mean_over(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the first axis, NaN left out; NaN where all are."""
    there = np.isfinite(values)
    counts = there.sum(axis=0)
    return np.divide(
        np.where(there, values, 0).sum(axis=0), counts, out=np.full(counts.shape, np.nan), where=counts > 0
    )


def _comparable(correct: NDArray[np.float64], strata: NDArray[np.object_]) -> tuple[int, int]:
    """Right and wrong answers in those strata that have both."""
    right, wrong = 0, 0
    for name in dict.fromkeys(strata):
        own = correct[strata == name]
        both = int((own == 1).sum()), int((own == 0).sum())
        right, wrong = (right + both[0], wrong + both[1]) if all(both) else (right, wrong)
    return right, wrong


def _stratified(
    values: xr.DataArray,
    correct: NDArray[np.float64],
    strata: NDArray[np.object_],
    n_boot: int,
    level: float,
    seed: int,
) -> tuple[float, float, float]:
    """Difference of means right − wrong within strata, each weighted by n₁n₀/n, with a bootstrap over pictures."""
    columns, names = [], list(dict.fromkeys(strata))
    for name in names:
        for answer in (1.0, 0.0):
            columns.append(np.where((strata == name) & (correct == answer), values.values, np.nan))
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
    replicates = differences(picture_weights(len(sums.pictures), n_boot, seed))
    low, high = interval(replicates[None], level)
    return estimate, float(low[0]), float(high[0])
