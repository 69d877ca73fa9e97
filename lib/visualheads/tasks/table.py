"""Questions of your own: a table with a row for each, as CSV, TSV or JSON lines."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import ClassVar

from visualheads.errors import BoxError, RecordError, close_matches, shown
from visualheads.paths import slug_of
from visualheads.tasks import records
from visualheads.tasks.benchmark import Benchmark
from visualheads.tasks.records import Question, Reading, Record
from visualheads.tasks.registry import register
from visualheads.tasks.sample import LETTERS, Box, Format, checked_box

log = logging.getLogger(__name__)

NEEDED = ("id", "image", "question")
CHOICES = tuple(f"choice_{letter.lower()}" for letter in LETTERS)
EDGES = ("box_x0", "box_y0", "box_x1", "box_y1")
COLUMNS = (*NEEDED, "answer", "answers", *CHOICES, *EDGES, "condition")
PLAIN = "plain"
"""Condition of rows that name none."""
DELIMITERS = ",;\t"
JSON_ENDINGS = (".json", ".jsonl", ".ndjson")


@register
class Table(Benchmark):
    """The rows of a table; the wording and scoring are those of the benchmarks.

    Rows with one id are one question in several conditions: they share picture, answers, choices and box. Rows with
    choices are asked with letters or in free form, rows without in free form only. Names of pictures are relative to
    the table's folder; boxes are pixels of the upright picture.

    Parameters
    ----------
    data
        The file. Columns: id, image, question; optionally answer, answers (further accepted ones, separated by |, or a
        list in JSON), choice_a, choice_b, …, box_x0, box_y0, box_x1, box_y1, condition. The answer to choices is a
        letter or the text of one.
    """

    name: ClassVar[str] = "table"
    title: ClassVar[str] = "a table of questions"
    subfolders: ClassVar[tuple[str, ...]] = (".",)
    sources: ClassVar[str] = f"a CSV, TSV or JSON-lines file with the columns {', '.join(NEEDED)}."

    def __init__(self, data: str | Path | None = None) -> None:
        if data is None or not Path(data).is_file():
            given = "no file" if data is None else f"{str(data)!r}, which is no file"
            raise records.MissingDataError(f"table: got {given}; give data=… (--data …), {self.sources}")
        self.file = Path(data)
        super().__init__(self.file.parent)
        reading = self.reading(self.splits[0])
        found = dict.fromkeys(condition for question in reading.questions for condition in question.texts)
        self.conditions = tuple(found) or (PLAIN,)
        with_choices = [bool(question.options) for question in reading.questions]
        both: tuple[Format, ...] = ("letters", "free") if all(with_choices) else ("free", "letters")
        self.formats = both if any(with_choices) else ("free",)

    @property
    def store_name(self) -> str:
        """With the file's name: several tables may lie in one folder."""
        return f"{self.name}-{slug_of(self.file.stem)}"

    def files(self, split: str) -> list[Path]:
        del split
        return [self.file]

    def read(self, split: str) -> Reading:
        del split
        merged: dict[str, Question] = {}
        bad: list[RecordError] = []
        for record in self._records():
            try:
                if isinstance(record, RecordError):
                    raise record
                _add(merged, _question(record), record)
            except RecordError as error:
                bad.append(error)
        return Reading(tuple(merged.values()), tuple(bad))

    def unaskable(self, question: Question, format: str) -> str:
        return "no choices" if format == "letters" and not question.options else ""

    def wording(self, question: Question, condition: str, format: str, choices: Sequence[str]) -> str:
        text = question.texts[condition]
        return records.with_letters(text, choices) if format == "letters" else records.short_answer(text)

    def _records(self) -> Iterator[Record | RecordError]:
        if self.file.suffix.lower() in JSON_ENDINGS:
            found = records.json_records(self.file)
        else:
            header = records.read_text(self.file).split("\n", 1)[0]
            found = records.rows(self.file, NEEDED, max(DELIMITERS, key=header.count))
        unused: dict[str, None] = {}
        for record in found:
            if isinstance(record, Record):
                unused |= dict.fromkeys(name for name in record.fields if name not in COLUMNS)
            yield record
        if unused:
            log.warning("%s: columns that are not used: %s", self.file, ", ".join(map(_with_likely, unused)))


def _with_likely(name: str) -> str:
    like = close_matches(name, COLUMNS)
    return f"{name!r} (meant {like[0]!r}?)" if like else repr(name)


def _question(record: Record) -> Question:
    options = _options(record)
    answers = [_answer(answer, options, record) for answer in _answers(record)]
    picture = str(PurePosixPath(record.file_name("image").replace("\\", "/")))  # one picture has one name
    condition = record.optional("condition") or PLAIN
    return Question(
        question_id=record.text("id"),
        image_id=picture,
        picture=picture,
        texts={condition: record.text("question")},
        answer=answers[0] if answers else "",
        answers=tuple(answers[1:]),
        options=options,
        stratum=condition,
        box=_box(record),
    )


def _options(record: Record) -> tuple[str, ...]:
    cells = [record.optional(name) for name in CHOICES]
    options = tuple(cell for cell in cells if cell)
    if options and (len(options) < 2 or len(set(options)) < len(options) or options != tuple(cells[: len(options)])):
        raise record.error(
            f"the choices are {shown(options, 80)}, expected two or more different ones from choice_a on"
        )
    return options


def _answers(record: Record) -> list[str]:
    further = record.get("answers")
    if isinstance(further, list):
        if not all(isinstance(answer, str) and answer.strip() for answer in further):
            raise record.error(f"answers is {shown(further, 60)}, expected a list of texts")
        listed = [answer.strip() for answer in further]
    else:
        listed = [answer.strip() for answer in record.optional("answers").split("|") if answer.strip()]
    first = record.optional("answer")
    return list(dict.fromkeys([first, *listed] if first else listed))


def _answer(answer: str, options: tuple[str, ...], record: Record) -> str:
    """The answer in free form: of choices the text."""
    if not options:
        return answer
    by_letter = dict(zip(LETTERS, options, strict=False))
    meant = {by_letter.get(answer.upper()), answer if answer in options else None} - {None}
    if len(meant) != 1:
        why = "is both a letter and the text of another choice" if meant else "is neither a letter nor a choice"
        raise record.error(f"the answer {shown(answer, 60)} {why}; choices: {shown(options, 80)}")
    return str(meant.pop())


def _box(record: Record) -> Box | None:
    cells = [record.optional(name) for name in EDGES]
    if not any(cells):
        return None
    try:
        return checked_box([float(cell) for cell in cells], "the row")
    except (BoxError, ValueError):
        raise record.error(
            f"the box is {shown(cells, 80)}, expected pixels box_x0 < box_x1 and box_y0 < box_y1"
        ) from None


def _add(merged: dict[str, Question], question: Question, record: Record) -> None:
    """Put a row beside the others with its id. Raises RecordError where it is not the same question."""
    known = merged.setdefault(question.question_id, question)
    if known is question:
        return
    where = f"the id {shown(question.question_id, 60)} occurs again"
    for name in ("picture", "answer", "answers", "options", "box"):
        if getattr(known, name) != getattr(question, name):
            raise record.error(f"{where} with another {name}; rows with one id are one question in several conditions")
    if known.texts.keys() & question.texts.keys():
        raise record.error(f"{where} in the same condition; give every question its own id")
    merged[question.question_id] = replace(known, texts={**known.texts, **question.texts})
