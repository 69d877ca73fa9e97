"""Questions of a benchmark, and the texts that word them: as the paper's code and LLaVA's evaluation have them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from visualheads.errors import RecordError, shown
from visualheads.tasks.records import Record
from visualheads.tasks.sample import LETTERS, Box


@dataclass(frozen=True)
class Question:
    """One question of a benchmark file before it is worded for a condition and a format.

    Parameters
    ----------
    picture
        Its name in the data folder, or base64 text.
    texts
        Condition → question without instructions; a condition that is missing is not asked.
    answer, answers
        The free-form answer, and further accepted ones.
    options
        Given choices, or () where a benchmark has none.
    stratum
        Draws keep the shares of the strata.
    box, boxes
        As in `Sample`.
    """

    question_id: str
    image_id: str
    picture: str = field(repr=False)
    texts: Mapping[str, str]
    answer: str
    options: tuple[str, ...] = ()
    stratum: str = ""
    box: Box | None = None
    boxes: Mapping[str, Sequence[Box]] | None = None
    answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """What a file gave: its questions, its malformed records, and how many questions were left out, by reason."""

    questions: tuple[Question, ...]
    bad: tuple[RecordError, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)


def gather(records: Iterable[Record | RecordError], question_of: Callable[[Record], Question | str]) -> Reading:
    """Return the questions of records in file order; malformed records, and ids that occur twice, apart.

    Parameters
    ----------
    records
        What `records.json_records`, `listed` or `rows` yield.
    question_of
        The question of a record, or why it is left out; raises RecordError for a malformed one.
    """
    questions: dict[str, Question] = {}
    bad: list[RecordError] = []
    left_out: Counter[str] = Counter()
    for record in records:
        if isinstance(record, RecordError):
            bad.append(record)
            continue
        try:
            question = question_of(record)
            if isinstance(question, str):
                left_out[question] += 1
            elif question.question_id in questions:
                raise record.error(f"the question id {shown(question.question_id, 60)} occurs twice")
            else:
                questions[question.question_id] = question
        except RecordError as error:
            bad.append(error)
    return Reading(tuple(questions.values()), tuple(bad), dict(left_out))


RECTANGLE = " The exemplary object is within the rectangle."
"""Said in the visual conditions, free form only (paper code)."""

FREE_SUFFIX = "\nAnswer the question using a single word or phrase."
"""Ends every free-form question (paper code)."""

LETTERS_SUFFIX = "\nAnswer with the option's letter from the given choices directly."
"""Ends every question with choices (paper code)."""


def free_form(question: str, marked: bool = False) -> str:
    """The question, the sentence about the rectangle where the box is drawn (`marked`), and the free-form suffix.

    Source: paper code.
    """
    return question + (RECTANGLE if marked else "") + FREE_SUFFIX


def with_letters(question: str, choices: Sequence[str]) -> str:
    """The question, one line `A. …` for each choice, and the letter suffix.

    The paper's code does not say the sentence about the rectangle here, drawn or not; neither do we. Source: paper
    code.
    """
    lines = "".join(f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    return question + lines + LETTERS_SUFFIX


def short_answer(question: str) -> str:
    """The question with the free-form suffix, unless it ends with it already: as LLaVA's edition of POPE does."""
    return question if question.endswith(FREE_SUFFIX) else question + FREE_SUFFIX


def with_hint(question: str, hint: str) -> str:
    """An MMBench question below its hint, where it has one. Source: LLaVA's evaluation."""
    return f"{hint}\n{question}" if hint else question
