"""Benchmarks with given choices: MMBench (asked in circular rounds), SEED-Bench 1 and 2, and Q-Bench (LLVisionQA)."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from visualheads.errors import RecordError, shown
from visualheads.tasks import records, scoring
from visualheads.tasks.benchmark import SOURCES, Benchmark
from visualheads.tasks.records import Question, Reading, Record, gather
from visualheads.tasks.registry import register
from visualheads.tasks.sample import LETTERS, LazyImage, Sample

COLUMNS = ("index", "question", "A", "B", "image")
CHOICES = "ABCD"
MOST_DIGITS = 20
"""Longer indices are names, not numbers."""
CIRCULAR_COPY = 1_000_000
"""Rows with an index from here on repeat row `index % 1_000_000` with rotated options (official dev file)."""
ROUNDS = ("round-1", "round-2", "round-3", "round-4")


FILES = ("SEED-Bench.json", "SEED-Bench_v2_level1_2_3.json", "seed_bench.json")
OPTIONS = ("choice_a", "choice_b", "choice_c", "choice_d")
ONE_PICTURE = ("image", "single image")
"""Data types of items about one picture, in the first and the second edition."""


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
    sources: ClassVar[str] = SOURCES["mmbench"]

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
        return gather(every, lambda row: _mmbench_question(row, by_index))

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


def _mmbench_question(row: Record, by_index: Mapping[str, Record]) -> Question | str:
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
    text = records.with_hint(row.text("question"), "" if records.is_empty(hint) else hint)
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


@register
class SeedBench(Benchmark):
    """Items about one picture; those about several pictures, videos or pictures to be made are left out and counted."""

    name: ClassVar[str] = "seedbench"
    title: ClassVar[str] = "SEED-Bench"
    subfolders: ClassVar[tuple[str, ...]] = tuple(
        folder + name
        for folder in ("", "image/")
        for name in ("SEED-Bench-image", "SEED-Bench-2-image", "cc3m-image", "SEED-Bench-v2", "cc3m", "images")
    )
    sources: ClassVar[str] = SOURCES["seedbench"]

    def files(self, split: str) -> list[Path]:
        del split
        found = records.find_file(self.data, FILES)
        if found is None:
            raise self.lacking(f"lacks {FILES[0]} or {FILES[1]}")
        return [found]

    def read(self, split: str) -> Reading:
        [path] = self.files(split)
        parsed = records.read_json(path)
        if not isinstance(parsed, dict):
            raise RecordError('expected an object {"questions": [records]}', path)
        return gather(records.listed(parsed.get("questions"), path, '{"questions": [records]}'), _seedbench_question)


def _seedbench_question(record: Record) -> Question | str:
    kind = record.optional("data_type") or ONE_PICTURE[0]
    if kind.lower() not in ONE_PICTURE:
        return f"not about one picture: {kind.lower()}"
    options = tuple(record.text(name) for name in OPTIONS)
    letters = LETTERS[: len(options)]
    answer = record.letter(letters)
    if not answer:
        raise record.error("the answer is missing, expected one of A, B, C, D")
    if len(set(options)) < len(options):
        raise record.error(f"the options are {shown(options, 80)}, expected four different ones")
    picture = record.file_name("data_id")
    return Question(
        question_id=record.text("question_id"),
        image_id=Path(picture).stem,
        picture=picture,
        texts={"plain": record.text("question")},
        answer=options[letters.index(answer)],
        options=options,
        stratum=record.label("question_type_id"),
    )


@register
class QBench(Benchmark):
    """The dev split; the official test split comes without answers."""

    name: ClassVar[str] = "qbench"
    title: ClassVar[str] = "Q-Bench (LLVisionQA)"
    splits: ClassVar[tuple[str, ...]] = ("dev", "test")
    subfolders: ClassVar[tuple[str, ...]] = ("images", "images_llvisionqa", "LLVisionQA_images", ".")
    sources: ClassVar[str] = SOURCES["qbench"]

    def files(self, split: str) -> list[Path]:
        found = records.find_file(self.data, (f"llvisionqa_{split}.json", f"LLVisionQA_{split}.json"))
        if found is None:
            raise self.lacking(f"lacks llvisionqa_{split}.json")
        return [found]

    def read(self, split: str) -> Reading:
        [path] = self.files(split)
        return gather(records.listed(records.read_json(path), path), _qbench_question)


def _qbench_question(record: Record) -> Question:
    options = record.get("candidates")
    if not isinstance(options, list) or not all(isinstance(option, str) and option.strip() for option in options):
        raise record.error(f"candidates is {shown(options, 80)}, expected a list of texts")
    options = tuple(option.strip() for option in options)
    if not 2 <= len(options) <= len(LETTERS) or len(set(options)) < len(options):
        raise record.error(f"candidates is {shown(options, 80)}, expected two or more different texts")
    answer = record.optional("correct_ans")
    if answer and answer not in options:
        raise record.error(f"correct_ans is {shown(answer, 60)}, which is not among the candidates")
    picture = record.file_name("img_path")
    return Question(
        question_id=str(record.number),
        image_id=Path(picture).stem,
        picture=picture,
        texts={"plain": record.text("question")},
        answer=answer,
        options=options,
        stratum=f"{record.label('type')}/{record.label('concern')}",
    )
