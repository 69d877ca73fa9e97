"""Questions of a benchmark before they are worded for a condition and a format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from visualheads.errors import RecordError, shown
from visualheads.tasks.records import Record
from visualheads.tasks.sample import Box


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
