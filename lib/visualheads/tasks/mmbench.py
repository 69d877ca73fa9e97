"""MMBench: multiple choice from a TSV with base64 pictures, asked in circular rounds."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from visualheads.errors import shown
from visualheads.tasks import prompts, records, scoring
from visualheads.tasks.benchmark import Benchmark
from visualheads.tasks.questions import Question, Reading, gather
from visualheads.tasks.records import Record
from visualheads.tasks.registry import register
from visualheads.tasks.sample import LazyImage, Sample

COLUMNS = ("index", "question", "A", "B", "image")
CHOICES = "ABCD"
MOST_DIGITS = 20
"""Longer indices are names, not numbers."""
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
    conditions = ROUNDS
    splits: ClassVar[tuple[str, ...]] = ("dev", "test")
    sources: ClassVar[str] = (
        "the TSV file mmbench_dev_20230712.tsv, MMBench_DEV_EN.tsv or MMBench_DEV_EN_V11.tsv (test: …TEST…) from the "
        "GitHub project open-compass/MMBench; pictures are inside it."
    )

    def files(self, split: str) -> list[Path]:
        found = [path for path in sorted(self.data.glob("*.tsv")) if _is_split(path.stem.lower(), split)]
        if len(found) != 1:
            several = f"has several {split} files: {', '.join(path.name for path in found)}; keep one"
            raise self.lacking(several if found else f"lacks a file mmbench_{split}….tsv")
        return found

    def read(self, split: str) -> Reading:
        [path] = self.files(split)
        every = list(records.rows(path, COLUMNS))
        by_index = {row.optional("index"): row for row in reversed(every) if isinstance(row, Record)}
        return gather(every, lambda row: _question(row, by_index))

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


def _question(row: Record, by_index: Mapping[str, Record]) -> Question | str:
    index = row.text("index")
    number = int(index) if index.isdecimal() and len(index) < MOST_DIGITS else 0
    if number >= CIRCULAR_COPY and str(number % CIRCULAR_COPY) in by_index:
        return "rotated copy of another row"
    answer = row.letter(CHOICES)
    options = _options(row, answer)
    picture = row.text("image")
    if picture in by_index:  # some editions store a repeated picture as the index of its first row
        picture = by_index[picture].text("image")
    hint = row.label("hint").strip()
    text = prompts.with_hint(row.text("question"), "" if records.is_empty(hint) else hint)
    return Question(
        question_id=index,
        image_id=hashlib.sha256(picture.encode()).hexdigest()[:12],
        picture=picture,
        texts=dict.fromkeys(ROUNDS[: len(options)], text),
        answer=options[CHOICES.index(answer)] if answer else "",
        options=options,
        stratum=row.label("category"),
    )


def _options(row: Record, answer: str) -> tuple[str, ...]:
    """The options; cells that read “None” at the end are empty, as in LLaVA's evaluation, unless one is the answer."""
    cells = [row.label(letter).strip() for letter in CHOICES]
    filled = [place for place, cell in enumerate(cells) if not records.is_empty(cell) or CHOICES[place] == answer]
    options = tuple(cells[: filled[-1] + 1]) if filled else ()
    if len(options) < 2 or len(set(options)) < len(options) or set(options) & {"", "nan"}:
        raise row.error(f"the options are {shown(options, 80)}, expected two to four different ones")
    return options
