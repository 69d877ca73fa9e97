"""What guessing would score (numpy and xarray)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

LETTERS = "letters"
"""The answer format in which choices are offered."""


def chance_of(ds: xr.Dataset) -> float:
    """The share right that an answerer without any knowledge could reach on these samples of one model and task.

    The larger of the most frequent answer's share among free-form answers and 1 / (letters that occur) among letters,
    weighted by their samples; NaN without answers.
    """
    answers = np.atleast_1d(ds["answer"].values).astype(str)
    forms = np.atleast_1d(ds["format"].values).astype(str)
    total, known = 0.0, 0
    for form in dict.fromkeys(forms):
        told = answers[(forms == form) & (answers != "")]
        if len(told):
            names, counts = np.unique(told, return_counts=True)
            total += len(told) * (1 / max(len(names), 1) if form == LETTERS else counts.max() / len(told))
            known += len(told)
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
