"""Prompts word for word, and scoring by hand-computed examples and invariances."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.task_files import picture
from visualheads.errors import ParameterError
from visualheads.tasks import records, scoring
from visualheads.tasks.sample import Sample


def sample(**changes: Any) -> Sample:
    return Sample(**{"id": "1", "image": picture(0), "question": "How many?", "answer": "2", **changes})


def test_prompts_verbatim() -> None:
    question = "How many people are there?"
    assert records.free_form(question) == (
        "How many people are there?\nAnswer the question using a single word or phrase."
    )
    assert records.free_form(question, marked=True) == (
        "How many people are there? The exemplary object is within the rectangle."
        "\nAnswer the question using a single word or phrase."
    )
    assert records.with_letters(question, ("4", "2", "3", "1")) == (
        "How many people are there?\nA. 4\nB. 2\nC. 3\nD. 1"
        "\nAnswer with the option's letter from the given choices directly."
    )
    asked = "Is there a dog in the image?\nAnswer the question using a single word or phrase."
    assert records.short_answer("Is there a dog in the image?") == asked
    assert records.short_answer(asked) == asked
    assert records.with_hint("Which?", "Look.") == "Look.\nWhich?"
    assert records.with_hint("Which?", "") == "Which?"


@pytest.mark.parametrize(
    ("prediction", "right"),
    [
        ("2", True),
        (" Two.", True),
        ("TWO", True),
        ("2.0", True),
        ("02", True),
        ("3", False),
        ("", False),
        ("22", False),
    ],
)
def test_free_form_numbers(prediction: str, right: bool) -> None:
    assert scoring.correct(sample(), prediction) == float(right)


def test_free_form_phrases() -> None:
    assert scoring.correct_free("a red car", "Red car!")
    assert scoring.correct_free("1,000", "1000")
    assert not scoring.correct_free("1.5", "15")
    assert not scoring.correct_free("red car", "car red")
    assert scoring.correct_free("a", "A.")


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = scoring.normalised(text)
    assert scoring.normalised(once) == once


@given(st.integers(0, 20), st.sampled_from([str.upper, str.title, str.lower]), st.sampled_from(["", " ", ".", "!\n"]))
def test_number_words_case_and_punctuation_do_not_matter(number: int, case: Any, end: str) -> None:
    word = {digits: word for word, digits in scoring.NUMBER_WORDS.items()}[str(number)]
    assert scoring.correct_free(str(number), case(word) + end)
    assert scoring.correct_free(word, f" {number}{end}")
    assert not scoring.correct_free(str(number), str(number + 1))


@pytest.mark.parametrize(
    ("prediction", "right"), [("B", 1.0), (" B\n", 1.0), ("B.", 1.0), ("b", 0.0), ("B. 2", 0.0), ("A", 0.0), ("", 0.0)]
)
def test_letters_match_exactly(prediction: str, right: float) -> None:
    assert scoring.correct(sample(choices=("1", "2"), answer="B"), prediction) == right


def test_unknown_answers_are_missing_not_wrong() -> None:
    assert math.isnan(scoring.correct(sample(answer=""), "2"))
    assert math.isnan(scoring.accuracy([sample(answer="")], ["2"]))
    assert scoring.accuracy([sample(answer=""), sample(), sample()], ["2", "2", "3"]) == 0.5


@pytest.mark.parametrize(
    ("prediction", "yes"),
    [("Yes", True), ("No", False), ("no, there is none", False), ("There is not. Yes", False), ("Yes. No", True)],
)
def test_yes_and_no_as_pope_reads_them(prediction: str, yes: bool) -> None:
    assert scoring.said_yes(prediction) is yes
    assert scoring.correct(sample(answer="Yes"), prediction) == float(yes)
    assert scoring.correct(sample(answer="No"), prediction) == float(not yes)


def test_saying_nothing_is_wrong_either_way() -> None:
    assert scoring.correct(sample(answer="Yes"), " ") == scoring.correct(sample(answer="No"), " ") == 0.0


def test_pope_scores_by_hand() -> None:
    answers = ["Yes", "Yes", "Yes", "No", "No"]
    said = ["Yes", "Yes", "No", "Yes", "No"]
    scores = scoring.pope_scores(answers, said)
    assert scores == {"accuracy": 0.6, "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "yes_rate": 0.6}


def test_pope_scores_without_denominator_are_missing() -> None:
    never = scoring.pope_scores(["No", "No"], ["No", "No"])
    assert never["accuracy"] == 1.0
    assert never["yes_rate"] == 0.0
    assert all(math.isnan(value) for value in (never["precision"], never["recall"], never["f1"]))
    assert math.isnan(scoring.pope_scores([], [])["accuracy"])


@given(st.lists(st.tuples(st.sampled_from(["Yes", "No"]), st.sampled_from(["Yes", "No"])), min_size=1))
def test_pope_scores_stay_in_range_and_f1_lies_between(pairs: list[tuple[str, str]]) -> None:
    scores = scoring.pope_scores([truth for truth, _ in pairs], [said for _, said in pairs])
    values = scores.values()
    assert all(math.isnan(value) or 0 <= value <= 1 for value in values)
    if not any(math.isnan(value) for value in values):
        lower, upper = sorted((scores["precision"], scores["recall"]))
        assert lower - 1e-12 <= scores["f1"] <= upper + 1e-12
        assert lower * upper == 0 or scores["f1"] == pytest.approx(2 * lower * upper / (lower + upper))


def test_circular_wants_every_round() -> None:
    rounds = [
        sample(choices=("1", "2"), answer=answer, question_id=question)
        for question in ("q1", "q2")
        for answer in ("A", "B")
    ]
    assert scoring.circular_accuracy(rounds, ["A", "B", "A", "A"]) == 0.5
    assert scoring.accuracy(rounds, ["A", "B", "A", "A"]) == 0.75
    assert math.isnan(scoring.circular_accuracy([], []))


@pytest.mark.parametrize("figure", [scoring.accuracy, scoring.circular_accuracy])
def test_lengths_must_agree(figure: Any) -> None:
    with pytest.raises(ParameterError, match="one prediction per sample"):
        figure([sample()], [])
