"""Right or wrong, and the figures that benchmarks report. Pure functions on texts."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
from num2words import num2words
from numpy.typing import NDArray

from visualheads.errors import ParameterError, got
from visualheads.tasks.sample import Sample

NUMBER_WORDS = {num2words(number): str(number) for number in range(21)}
"""Number words that count as their digits."""

_ARTICLES = {"a", "an", "the"}
Counts = NDArray[np.int64]


def normalised(text: str) -> str:
    """Free-form text for comparison: lower case, no punctuation, no articles, single spaces, number words as digits.

    `"Two."`, `" 2 "` and `"two"` are equal; so are `"A red car"` and `"red car"`. Text that consists of an article
    alone is kept. Ours, after the usual practice in visual question answering.
    """
    words = re.findall(r"\w+(?:[.,]\d+)*", text.lower().replace("'", ""))
    kept = [word for word in words if word not in _ARTICLES] or words
    return " ".join(NUMBER_WORDS.get(word, _plain_number(word)) for word in kept)


def correct_free(answer: str, prediction: str) -> bool:
    """True when prediction and answer are equal after `normalised`; an empty prediction is wrong."""
    said = normalised(prediction)
    return bool(said) and said == normalised(answer)


def correct_letter(answer: str, prediction: str) -> bool:
    """True when the prediction is exactly the letter; white space around it and one full stop after it are ignored.

    Source: paper code (exact letter match).
    """
    return prediction.strip().removesuffix(".") == answer


def said_yes(prediction: str) -> bool:
    """POPE's reading of an answer: of its first sentence, “no” or “not” among the words means no, all else yes.

    Source: POPE's evaluation script, made blind to case.
    """
    first = prediction.lower().split(".")[0].replace(",", " ")
    return not {"no", "not"} & set(first.split())


def correct(sample: Sample, prediction: str) -> float:
    """Return 1.0 or 0.0 for a prediction; NaN where the sample's answer is unknown ("").

    With choices the exact letter counts; where the answer is Yes or No, which of the two was said (POPE's reading);
    else normalised text. It is right when it is any of the accepted answers; an empty prediction is wrong.
    """
    if not sample.answer:
        return math.nan
    return float(any(_is_right(sample, answer, prediction) for answer in (sample.answer, *sample.answers)))


def accuracy(samples: Sequence[Sample], predictions: Sequence[str]) -> float:
    """Share of right predictions, 0…1, over samples with a known answer; NaN when there is none."""
    known = [value for value in _judged(samples, predictions) if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def pope_parts(answers: Sequence[str], predictions: Sequence[str]) -> dict[str, tuple[Counts, Counts]]:
    """Return POPE's figures by name as (above, below), two arrays (sample): a figure is Σ above / Σ below.

    “Yes” is the positive class.

    Parameters
    ----------
    answers
        The right answers, "Yes" or "No".
    predictions
        What was said.

    Raises
    ------
    ParameterError
        When the lengths differ.

    References
    ----------
    POPE's evaluation script.
    """
    _check_lengths(answers, predictions)
    truth, said = (np.array([said_yes(text) for text in texts], dtype=np.int64) for texts in (answers, predictions))
    ones = np.ones_like(truth)
    return {
        "accuracy": ((truth == said).astype(np.int64), ones),
        "precision": (truth * said, said),
        "recall": (truth * said, truth),
        "f1": (2 * truth * said, truth + said),
        "yes_rate": (said, ones),
    }


def pope_scores(answers: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Return POPE's five figures, 0…1, by name; NaN where a denominator is zero. See `pope_parts`."""
    parts = pope_parts(answers, predictions)
    sums = {name: (int(above.sum()), int(below.sum())) for name, (above, below) in parts.items()}
    return {name: above / below if below else math.nan for name, (above, below) in sums.items()}


def in_every_round(
    questions: Sequence[str] | NDArray[np.str_], right: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return by question, in the order of their names, 1.0 when it is right in every round given, and its first place.

    Parameters
    ----------
    questions
        What each prompt asks, (sample).
    right
        1.0 or 0.0, (sample); NaN, an unknown answer, makes a question NaN.

    References
    ----------
    MMBench (CircularEval).
    """
    _, first, owner = np.unique(np.asarray(questions, dtype=str), return_index=True, return_inverse=True)
    whole = np.ones(len(first))
    np.minimum.at(whole, owner, right)
    return whole, first


def circular_accuracy(samples: Sequence[Sample], predictions: Sequence[str]) -> float:
    """Return the share of questions, 0…1, that are right in every round given; NaN without any with a known answer."""
    values = np.array(_judged(samples, predictions), dtype=float)
    known = np.isfinite(values)
    names = np.array([f"{sample.question_id}/{sample.control}" for sample in samples], dtype=str)
    whole, _ = in_every_round(names[known], values[known])
    return float(whole.mean()) if len(whole) else math.nan


def _is_right(sample: Sample, answer: str, prediction: str) -> bool:
    if sample.choices:
        return correct_letter(answer, prediction)
    if normalised(answer) in {"yes", "no"}:
        return bool(prediction.strip()) and said_yes(prediction) == said_yes(answer)
    return correct_free(answer, prediction)


def _judged(samples: Sequence[Sample], predictions: Sequence[str]) -> list[float]:
    _check_lengths(samples, predictions)
    return [correct(sample, prediction) for sample, prediction in zip(samples, predictions, strict=True)]


def _check_lengths(asked: Sequence[object], predictions: Sequence[str]) -> None:
    if len(asked) != len(predictions):
        raise ParameterError(
            got("number of predictions", len(predictions), [str(len(asked))], "give one prediction per sample")
        )


def _plain_number(word: str) -> str:
    """`"1,000"` as 1000, `"2.0"` and `"02"` as 2; other words as they are."""
    digits = re.fullmatch(r"(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?", word)
    if not digits:
        return word
    whole, decimals = digits[1].replace(",", "").lstrip("0"), (digits[2] or "").rstrip("0").rstrip(".")
    return (whole or "0") + decimals
