"""MMBench: multiple choice from a TSV with base64 pictures, asked in circular rounds."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from visualheads.errors import RecordError
from visualheads.tasks import prompts, records, scoring
from visualheads.tasks.benchmark import Benchmark
from visualheads.tasks.registry import register
from visualheads.tasks.sample import LazyImage, Sample
from visualheads.tasks.sampling import Question, Reading

COLUMNS = ("index", "question", "A", "B", "image")
CIRCULAR_COPY = 1_000_000
"""Rows with an index from here on repeat row `index % 1_000_000` with rotated options (official dev file)."""
ROUNDS = ("round-1", "round-2", "round-3", "round-4")


@register
class MMBench(Benchmark):
    """Round r moves the first r - 1 choices to the end, so that the right letter changes; a question has as many rounds
    as choices, and counts as right when it is right in all. Free form asks round 1 only, without choices.

    The hint, where there is one, stands before the question. Rotated copies in the file are left out and counted:
    the rounds are made here.
    """

    name: ClassVar[str] = "mmbench"
    title: ClassVar[str] = "MMBench"
    conditions: ClassVar[tuple[str, ...]] = ROUNDS
    splits: ClassVar[tuple[str, ...]] = ("dev", "test")
    sources: ClassVar[str] = (
        "the TSV file mmbench_dev_20230712.tsv, MMBench_DEV_EN.tsv or MMBench_DEV_EN_V11.tsv (test: …TEST…) from the "
        "GitHub project open-compass/MMBench; pictures are inside it."
    )

    def files(self, split: str) -> list[Path]:
        found = [path for path in sorted(self.data.glob("*.tsv")) if _is_split(path.stem.lower(), split)]
        if len(found) != 1:
            what = f"has several {split} files: {', '.join(path.name for path in found)}; keep one"
            what = what if found else f"lacks a file mmbench_{split}….tsv"
            raise records.MissingDataError(
                f"mmbench: the folder {str(self.data)!r} {what}. Where to get it: {self.sources}"
            )
        return found

    def read(self, split: str) -> Reading:
        (path,) = self.files(split)
        bad: list[RecordError] = []
        rows: dict[str, tuple[int, Mapping[str, str]]] = {}
        for line, row in records.tsv_rows(path, COLUMNS):
            if isinstance(row, RecordError):
                bad.append(row)
            elif row["index"] in rows or records.is_empty(row["index"]):
                bad.append(RecordError(f"the index {row['index']!r} is empty or occurs twice", path, line))
            else:
                rows[row["index"]] = line, row
        questions: list[Question] = []
        copies = 0
        for index, (line, row) in rows.items():
            if index.isdigit() and int(index) >= CIRCULAR_COPY and str(int(index) % CIRCULAR_COPY) in rows:
                copies += 1
                continue
            try:
                questions.append(_question(row, rows, path, line))
            except RecordError as error:
                bad.append(error)
        left_out = {"rotated copy of another row": copies} if copies else {}
        return Reading(tuple(questions), tuple(bad), left_out)

    def picture(self, question: Question) -> LazyImage:
        return LazyImage(base64=question.picture)

    def choices(self, question: Question, condition: str, seed: int) -> tuple[str, ...]:
        """The published options, rotated by the round. Source: MMBench (CircularEval)."""
        del seed
        turn = ROUNDS.index(condition)
        return question.options[turn:] + question.options[:turn]

    def asked_in(self, question: Question, format: str) -> Collection[str]:
        return ROUNDS[:1] if format == "free" else tuple(question.texts)

    def score(self, samples: Sequence[Sample], predictions: Sequence[str]) -> dict[str, float]:
        """`accuracy` over all prompts, and `circular`: share of questions right in every round given."""
        return {
            "accuracy": scoring.accuracy(samples, predictions),
            "circular": scoring.circular_accuracy(samples, predictions),
        }


def _is_split(stem: str, split: str) -> bool:
    return stem.startswith("mmbench") and split in stem.split("_")


def _question(
    row: Mapping[str, str], rows: Mapping[str, tuple[int, Mapping[str, str]]], path: Path, line: int
) -> Question:
    options: list[str] = []
    for letter in "ABCD":
        if records.is_empty(row.get(letter)):
            break
        options.append(row[letter].strip())
    answer = row.get("answer", "").strip()
    if len(options) < 2 or len(set(options)) < len(options):
        raise RecordError(f"the options are {options!r:.80}, expected two to four different ones", path, line)
    allowed = tuple("ABCD"[: len(options)])
    if not records.is_empty(answer) and answer not in allowed:
        raise RecordError(f"the answer is {answer!r:.40}, expected one of {', '.join(allowed)}", path, line)
    picture = row["image"].strip()
    if picture in rows and picture.isdigit():  # some editions store a repeated picture as the index of its first row
        picture = rows[picture][1]["image"].strip()
    if records.is_empty(picture):
        raise RecordError("the row has no picture", path, line)
    hint = "" if records.is_empty(row.get("hint")) else row["hint"].strip()
    text = prompts.with_hint(records.text_of(row, ("question",), path, line), hint)
    return Question(
        question_id=row["index"],
        image_id=hashlib.sha256(picture.encode()).hexdigest()[:12],
        picture=picture,
        texts=dict.fromkeys(ROUNDS[: len(options)], text),
        answer="" if records.is_empty(answer) else options["ABCD".index(answer)],
        options=tuple(options),
        stratum=row.get("category", ""),
    )
