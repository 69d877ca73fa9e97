"""Right answers: what guessing would score, scores by model and group, benchmarks' own figures, paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from visualheads.analysis.subset import TOKENS, models_of, subset, tasks_of
from visualheads.cards import cards
from visualheads.heads.bootstrap import interval, picture_ids, picture_weights
from visualheads.heads.losses import most_unseen, share_bounds, share_right
from visualheads.heads.patterns import labels_of
from visualheads.tasks.registry import option_counts
from visualheads.tasks.scoring import in_every_round, pope_parts

COCO, KNOWN_WITHIN = "COCO_val2014", 0.03
"""How the pictures of POPE's official questions are called, and how far a score may lie from the published one."""
CIRCULAR = "mmbench"
LETTERS = "letters"
"""The answer format in which choices are offered."""


def _chance_of(ds: xr.Dataset) -> float:
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


def _circular_chance(ds: xr.Dataset) -> float:
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


def scores(ds: xr.Dataset, by: str | Sequence[str] = "task") -> pd.DataFrame:
    """Share of right answers per model and group of samples, beside what guessing would score.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces with `correct` (model, sample): 1 right, 0 wrong, NaN unknown.
    by : str or sequence of str
        Coordinates along `sample` whose values, joined by ", ", are the groups.

    Returns
    -------
    pandas.DataFrame
        Columns: model, group, estimate, lower, upper (shares in [0, 1], as in `losses.share_right`), n (answers that
        count), chance. Groups without known answers are left out. By task, MMBench counts a question only where every
        round asked is right (circular), with n questions. `chance` is the most frequent answer's share among free-form
        answers, and among letters the mean of 1 / (choices of the question), weighted by their samples; of the circular
        score the share that guessing each round by itself would get right in all. It is NaN where no right answer is
        known.

    Raises
    ------
    ParameterError
        The dataset lacks a coordinate of `by`.
    """
    records = []
    for name in models_of(ds):
        one = subset(ds, model=name)
        labels = labels_of(one, by)
        for group in dict.fromkeys(labels):
            part = one.isel(sample=np.flatnonzero(labels == group))
            values = part["correct"].isel(model=0).load()
            circular = by == "task" and group == CIRCULAR
            if not np.isfinite(values).any():
                continue
            chance = _chance_of(part)
            if circular:
                values, chance = _in_all_rounds(values), _circular_chance(part)
            told = share_right(values)
            n = int(np.isfinite(values.values).sum())
            records.append({"model": name, "group": group, **told, "n": n, "chance": chance})
    return pd.DataFrame(records, columns=["model", "group", "estimate", "lower", "upper", "n", "chance"])


def _in_all_rounds(correct: xr.DataArray) -> xr.DataArray:
    """1 where every round of a question is right, else 0: one value per question asked with letters (MMBench).

    Along `sample`, with `image_id`; samples in free form are left out, unless there are no others.
    """
    forms = np.atleast_1d(correct["format"].values).astype(str)
    kept = np.flatnonzero(forms == LETTERS) if (forms == LETTERS).any() else np.arange(len(forms))
    chosen = correct.isel(sample=kept)
    questions = chosen["question_id"].values.astype(str)
    right, first = in_every_round(questions, np.asarray(chosen.values, dtype=np.float64))
    images = chosen["image_id"].values[first]
    return xr.DataArray(right, {"sample": questions[first], "image_id": ("sample", images)}, ("sample",), "correct")


def known_answers(ds: xr.Dataset) -> pd.DataFrame:
    """Whether models score what was published of them on POPE.

    Only answers to the official questions count, whose pictures are COCO's, and as published F1 is the mean over their
    conditions (the mean of their bounds holds it at least as surely). A model that scores something else is not the
    published one, or is asked in another way: then nothing measured of it is evidence about the paper.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces with answers.

    Returns
    -------
    pandas.DataFrame
        One row per model whose card tells its F1. Columns: model, published, source, estimate, lower, upper (shares in
        [0, 1]), n, as_known (at most KNOWN_WITHIN apart).
    """
    by_name = {name: card for card in cards().values() if card.pope for name in (card.name, card.hub_id) if name}
    records = []
    for name in models_of(ds):
        if name not in by_name or "pope" not in tasks_of(ds):
            continue
        part = subset(ds, model=name, task="pope")
        known = np.isfinite(part["correct"].isel(model=0).values.astype(float))
        part = part.isel(sample=np.flatnonzero(known & np.char.startswith(picture_ids(part).astype(str), COCO)))
        if part.sizes["sample"]:
            conditions = part["condition"].values.astype(str)
            asked = [part.isel(sample=np.flatnonzero(conditions == one)) for one in dict.fromkeys(conditions)]
            told = [_f1(one) for one in asked]
            published = (by_name[name].pope or math.nan) / 100
            bounds = {name: float(np.mean([one[name] for one in told])) for name in ("estimate", "lower", "upper")}
            bounds["n"] = float(sum(one["n"] for one in told))
            records.append({
                "model": name, "published": published, "source": by_name[name].pope_source, **bounds,
                "as_known": abs(bounds["estimate"] - published) <= KNOWN_WITHIN,
            })  # fmt: skip
    columns = ["model", "published", "source", "estimate", "lower", "upper", "n", "as_known"]
    return pd.DataFrame(records, columns=columns)


def answered_by_all(ds: xr.Dataset, models: Sequence[str], task: str) -> list[xr.DataArray]:
    """Answers of several models to the prompts of a benchmark that are known of all of them.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces with `correct` (model, sample).
    models : sequence of str
        Names of models.
    task : str
        The benchmark.

    Returns
    -------
    list of xarray.DataArray
        One per model, dims (sample), the same samples in each: 1 right, 0 wrong. Of MMBench one value per question,
        right where all rounds that all were asked are.

    Raises
    ------
    ParameterError
        There is no such model.
    """
    answers = ds[[name for name in ("correct", TOKENS) if name in ds]]
    parts = [subset(answers, model=name, task=task) for name in models]
    arrays = [part["correct"].isel(model=0, drop=True).load().astype(float) for part in parts]
    arrays = list(xr.align(*arrays, join="inner"))
    known = np.flatnonzero(np.isfinite(np.stack([array.values for array in arrays])).all(axis=0))
    arrays = [array.isel(sample=known) for array in arrays]
    return [_in_all_rounds(array) for array in arrays] if task == CIRCULAR and len(known) else arrays


def _f1(part: xr.Dataset) -> dict[str, float]:
    """POPE's F1 over some questions (yes is the positive class): estimate, lower, upper, in [0, 1], and n questions.

    The interval is a bootstrap over pictures; draws without a denominator are left out, and no bound is nearer to 0 or
    1 than what so many pictures may hide (`losses.most_unseen`), as in `share_right`. NaN without a denominator.
    """
    told = pope_parts(*(part[name].values.astype(str).ravel().tolist() for name in ("answer", "prediction")))["f1"]
    pictures, owner = np.unique(picture_ids(part).astype(str), return_inverse=True)
    top, bottom = (np.bincount(owner, weights=values, minlength=len(pictures)) for values in told)
    n = part.sizes["sample"]
    if bottom.sum() == 0:
        return {"estimate": float("nan"), "lower": float("nan"), "upper": float("nan"), "n": n}
    weights = picture_weights(len(pictures))
    drawn_top, drawn_bottom = weights @ top, weights @ bottom
    there = drawn_bottom > 0
    low, high = interval(drawn_top[there] / drawn_bottom[there])
    low, high = share_bounds(low, high, most_unseen(int((bottom > 0).sum())))
    return {"estimate": float(top.sum() / bottom.sum()), "lower": float(low), "upper": float(high), "n": n}
