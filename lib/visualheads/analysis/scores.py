"""Right answers: what guessing would score, scores by model and group, benchmarks' own figures, paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from visualheads.analysis.subset import TOKENS, asked_parts, models_of, subset, tasks_of
from visualheads.cards import cards
from visualheads.heads.bootstrap import LEVEL, N_BOOT, interval, picture_ids, picture_weights
from visualheads.heads.losses import most_unseen, share_bounds, share_gained, share_right
from visualheads.heads.patterns import labels_of
from visualheads.tasks.registry import option_counts
from visualheads.tasks.scoring import in_every_round, pope_parts

COLUMNS = ("model", "task", "figure", "estimate", "lower", "upper", "n")
POPE_FIGURES = {"precision": "precision", "recall": "recall", "F1": "f1", "share of yes": "yes_rate"}
"""What tables call a figure → its name in `scoring.pope_parts`."""
NO_REFERENT = "plain-general"
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


def scores(
    ds: xr.Dataset, by: str | Sequence[str] = "task", *, n_boot: int = N_BOOT, level: float = LEVEL, seed: int = 0
) -> pd.DataFrame:
    """Share of right answers per model and group of samples, beside what guessing would score.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces with `correct` (model, sample): 1 right, 0 wrong, NaN unknown.
    by : str or sequence of str
        Coordinates along `sample` whose values, joined by ", ", are the groups.
    n_boot : int
        Draws of the bootstrap over pictures.
    level : float
        Coverage of the interval, in (0, 1).
    seed : int
        Seed of the bootstrap.

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
            told = share_right(values, n_boot, level, seed)
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


def _own_figures(ds: xr.Dataset, *, n_boot: int = N_BOOT, level: float = LEVEL, seed: int = 0) -> pd.DataFrame:
    """What each benchmark reports of each model: model, task, figure, estimate, lower, upper, n (prompts that count).

    looktwice   accuracy over all conditions, and over those whose question has a referent
    pope        accuracy, precision, recall, F1 (yes is the positive class), share of yes, and accuracy by condition
    mmbench     circular (questions right in every round), vanilla (the first round), and accuracy over all prompts
    others      accuracy

    All are shares in [0, 1]; intervals are a bootstrap over pictures. NaN where a denominator is zero. Samples without
    a known answer and controls do not count. Source: the benchmarks' papers (see `tasks.scoring`); intervals ours.
    """
    records = []
    for name, task, part in asked_parts(ds):
        part = part.isel(sample=np.flatnonzero(np.isfinite(part["correct"].isel(model=0).values.astype(float))))
        for figure, told in _figures(part, task, n_boot, level, seed).items() if part.sizes["sample"] else ():
            records.append({"model": name, "task": task, "figure": figure, **told})
    return pd.DataFrame(records, columns=list(COLUMNS))


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
        part = part.isel(sample=np.flatnonzero(np.char.startswith(picture_ids(part).astype(str), COCO)))
        if part.sizes["sample"]:
            conditions = part["condition"].values.astype(str)
            asked = [part.isel(sample=np.flatnonzero(conditions == one)) for one in dict.fromkeys(conditions)]
            told = [_own_figures(one).set_index("figure").loc["F1"] for one in asked]
            published = (by_name[name].pope or math.nan) / 100
            bounds = {name: float(np.mean([one[name] for one in told])) for name in ("estimate", "lower", "upper")}
            bounds["n"] = float(sum(one["n"] for one in told))
            records.append({
                "model": name, "published": published, "source": by_name[name].pope_source, **bounds,
                "as_known": abs(bounds["estimate"] - published) <= KNOWN_WITHIN,
            })  # fmt: skip
    columns = ["model", "published", "source", "estimate", "lower", "upper", "n", "as_known"]
    return pd.DataFrame(records, columns=columns)


def score_difference(ds: xr.Dataset, one: str, other: str, task: str) -> dict[str, float] | None:
    """Share right of one model minus that of another, on the questions both were asked.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces with `correct` (model, sample).
    one, other : str
        Models; the difference is `other` minus `one`.
    task : str
        The benchmark.

    Returns
    -------
    dict of str to float, or None
        The keys difference, lower and upper (paired 95 % interval, in [−1, 1]), one and other (their shares), n.
        MMBench counts as in `scores`. None without common questions.

    Raises
    ------
    ParameterError
        There is no such model.
    """
    first, second = answered_by_all(ds, (one, other), task)
    if not first.sizes["sample"]:
        return None
    told = share_gained(first, second)
    return {
        "difference": told["estimate"],
        "lower": told["lower"],
        "upper": told["upper"],
        "one": float(first.mean()),
        "other": float(second.mean()),
        "n": float(first.sizes["sample"]),
    }


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


def _figures(part: xr.Dataset, task: str, n_boot: int, level: float, seed: int) -> dict[str, dict[str, float]]:
    correct = np.asarray(part["correct"].isel(model=0).values, dtype=float)
    conditions = part["condition"].values.astype(str)

    def share(values: NDArray[np.float64], of: NDArray[np.bool_] | None = None) -> dict[str, float]:
        chosen = np.ones(len(values), dtype=bool) if of is None else of
        counted = chosen.astype(float)
        images = picture_ids(part).astype(str)
        return _ratio(values * counted, counted, images, int(chosen.sum()), n_boot, level, seed)

    found = {"accuracy": share(correct)}
    if task == "looktwice":
        kept = conditions != NO_REFERENT
        if kept.any() and not kept.all():
            found["accuracy, questions with a referent"] = share(correct, kept)
    if task == "pope":
        parts = pope_parts(*(part[name].values.astype(str).ravel().tolist() for name in ("answer", "prediction")))
        images = picture_ids(part).astype(str)
        for name, figure in POPE_FIGURES.items():
            above, below = (one.astype(float) for one in parts[figure])
            n = int(below.sum()) if figure != "f1" else len(images)
            found[name] = _ratio(above, below, images, n, n_boot, level, seed)
        found |= {f"accuracy, {name}": share(correct, conditions == name) for name in dict.fromkeys(conditions)}
    if task == "mmbench":
        whole = _in_all_rounds(part["correct"].isel(model=0).load())
        ones = np.ones(whole.sizes["sample"])
        images = picture_ids(whole).astype(str)
        circular = _ratio(np.asarray(whole.values, dtype=float), ones, images, len(ones), n_boot, level, seed)
        lettered = part["format"].values.astype(str) == LETTERS
        first = (conditions == "round-1") & (lettered if lettered.any() else True)
        found = {
            "circular": circular,
            "vanilla (first round)": share(correct, first),
            "accuracy, all rounds": found["accuracy"],
        }
    return found


def _ratio(
    above: NDArray[np.float64], below: NDArray[np.float64], images: NDArray[np.str_], n: int, n_boot: int,
    level: float, seed: int,
) -> dict[str, float]:  # fmt: skip
    """Σ above / Σ below, a share, with a bootstrap over pictures; draws without a denominator are left out.

    No bound is nearer to 0 or 1 than what so many pictures may hide (`losses.most_unseen`), as in `share_right`.
    """
    pictures, owner = np.unique(images, return_inverse=True)
    top, bottom = (np.bincount(owner, weights=values, minlength=len(pictures)) for values in (above, below))
    if bottom.sum() == 0:
        return {"estimate": float("nan"), "lower": float("nan"), "upper": float("nan"), "n": n}
    weights = picture_weights(len(pictures), n_boot, seed)
    drawn_top, drawn_bottom = weights @ top, weights @ bottom
    there = drawn_bottom > 0
    low, high = interval(drawn_top[there] / drawn_bottom[there], level)
    low, high = share_bounds(low, high, most_unseen(int((bottom > 0).sum()), level))
    return {"estimate": float(top.sum() / bottom.sum()), "lower": float(low), "upper": float(high), "n": n}
