"""What guessing would score."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from visualheads.kinds import option_counts

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
