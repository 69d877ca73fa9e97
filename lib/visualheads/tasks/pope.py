"""POPE: is there an object of this class in the picture? Yes or no."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from visualheads.errors import RecordError
from visualheads.tasks import records, scoring
from visualheads.tasks.benchmark import SOURCES, Benchmark
from visualheads.tasks.records import Question, Reading, Record, gather, short_answer
from visualheads.tasks.registry import register
from visualheads.tasks.sample import Format, Sample

EDITIONS = {"coco": "coco_pope_{}.json", "gqa": "gqa_pope_seem_{}.json", "aokvqa": "aokvqa_pope_seem_{}.json"}
"""Edition → name of its files, by condition."""
FOLDERS = ("", "{}/", "output/{}/", "output/seem/{}/", "seem/{}/")
"""Where an edition's files are, in POPE's project and in LLaVA's evaluation data."""
LABELS = {"yes": "Yes", "no": "No"}


@register
class Pope(Benchmark):
    """Three conditions, one file each, that share pictures and present objects: adversarial (the paper's), popular,
    random. Free form, answered Yes or No.

    A split is an edition: COCO (the paper's), GQA or A-OKVQA. Unless asked for, it is the first one that is there.
    """

    name: ClassVar[str] = "pope"
    title: ClassVar[str] = "POPE"
    conditions = ("adversarial", "popular", "random")
    formats: tuple[Format, ...] = ("free",)
    splits: ClassVar[tuple[str, ...]] = tuple(EDITIONS)
    subfolders: ClassVar[tuple[str, ...]] = (
        ".",
        *(f"{folder}val2014" for folder in ("", "coco/", "images/")),
        *("images", "gqa", "gqa/images", "images/gqa"),
    )
    sources: ClassVar[str] = SOURCES["pope"]

    def default_split(self) -> str:
        return next((split for split in self.splits if not self.missing(split)), self.splits[0])

    def files(self, split: str) -> list[Path]:
        names = {condition: EDITIONS[split].format(condition) for condition in self.conditions}
        found = [
            records.find_file(self.data, [folder.format(split) + name for folder in FOLDERS]) for name in names.values()
        ]
        lacking = [name for name, path in zip(names.values(), found, strict=True) if path is None]
        if lacking:
            raise self.lacking(f"lacks {', '.join(lacking)}")
        return [path for path in found if path is not None]

    def read(self, split: str) -> Reading:
        """Records of the three files with one question id, picture and label are one question in three conditions."""
        edition = "" if split == self.splits[0] else f"{split}-"
        merged: dict[tuple[str, str, str], Question] = {}
        bad: list[RecordError] = []
        for condition, path in zip(self.conditions, self.files(split), strict=True):
            read = gather(records.json_records(path), lambda record, named=condition: _question(record, edition, named))
            bad += read.bad
            for question in read.questions:
                key = question.question_id, question.picture, question.answer
                known = merged.setdefault(key, question)
                merged[key] = replace(known, texts={**known.texts, **question.texts})
        return Reading(tuple(_apart(merged.values())), tuple(bad))

    def wording(self, question: Question, condition: str, format: str, choices: Sequence[str]) -> str:
        del format, choices
        return short_answer(question.texts[condition])

    def score(self, samples: Sequence[Sample], predictions: Sequence[str]) -> dict[str, float]:
        """Accuracy, precision, recall, F1 and yes-rate; “yes” is the positive class."""
        return scoring.pope_scores([sample.answer for sample in samples], predictions)


def _question(record: Record, edition: str, condition: str) -> Question:
    picture = record.file_name("image")
    label = record.text("label").lower()
    if label not in LABELS:
        raise record.error(f"the label is {label!r:.60}, expected yes or no")
    return Question(
        question_id=edition + record.text("question_id"),
        image_id=Path(picture).stem,
        picture=picture,
        texts={condition: record.text("text")},
        answer=LABELS[label],
        stratum=LABELS[label],
    )


def _apart(questions: Iterable[Question]) -> Iterator[Question]:
    """Questions with unique ids: where files disagree on an id's picture or label, a number is added to the id."""
    taken: Counter[str] = Counter()
    for question in questions:
        taken[question.question_id] += 1
        number = taken[question.question_id]
        yield question if number == 1 else replace(question, question_id=f"{question.question_id}.{number}")
