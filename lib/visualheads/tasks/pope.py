"""POPE: is there an object of this class in the picture? Yes or no."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from visualheads.errors import RecordError
from visualheads.tasks import images, prompts, records, scoring
from visualheads.tasks.benchmark import Benchmark
from visualheads.tasks.registry import register
from visualheads.tasks.sample import Format, LazyImage, Sample
from visualheads.tasks.sampling import Question, Reading

FOLDERS = ("", "coco/", "output/coco/")
SUBFOLDERS = (".", "val2014", "images", "coco/val2014")
LABELS = {"yes": "Yes", "no": "No"}


@register
class Pope(Benchmark):
    """Three conditions, one file each, that share pictures and present objects: adversarial (the paper's), popular,
    random. Free form, answered Yes or No."""

    name: ClassVar[str] = "pope"
    title: ClassVar[str] = "POPE"
    conditions: ClassVar[tuple[str, ...]] = ("adversarial", "popular", "random")
    formats: ClassVar[tuple[Format, ...]] = ("free",)
    sources: ClassVar[str] = (
        "coco_pope_{adversarial,popular,random}.json from the GitHub project AoiDragon/POPE (folder output/coco); "
        "the pictures are COCO's val2014 (folder val2014)."
    )

    def files(self, split: str) -> list[Path]:
        del split
        found = {
            condition: records.find_file(self.data, [f"{folder}coco_pope_{condition}.json" for folder in FOLDERS])
            for condition in self.conditions
        }
        lacking = [f"coco_pope_{condition}.json" for condition, path in found.items() if path is None]
        if lacking:
            raise records.MissingDataError(
                f"pope: the folder {str(self.data)!r} lacks {', '.join(lacking)}. Where to get it: {self.sources}"
            )
        return [path for path in found.values() if path is not None]

    def read(self, split: str) -> Reading:
        """Records of the three files with one question id, picture and label are one question in three conditions."""
        merged: dict[tuple[str, str, str], dict[str, str]] = {}
        bad: list[RecordError] = []
        for condition, path in zip(self.conditions, self.files(split), strict=True):
            seen: set[str] = set()
            for line, record in records.json_lines(path):
                if isinstance(record, RecordError):
                    bad.append(record)
                    continue
                try:
                    key, text = _record(record, path, line)
                    if key[0] in seen:
                        raise RecordError(f"the question id {key[0]!r} occurs twice", path, line)
                except RecordError as error:
                    bad.append(error)
                    continue
                seen.add(key[0])
                merged.setdefault(key, {})[condition] = text
        return Reading(tuple(_questions(merged)), tuple(bad))

    def picture(self, question: Question) -> LazyImage:
        named = images.inside(self.data, question.picture)
        places = (images.inside(self.data / folder, question.picture) for folder in SUBFOLDERS)
        return LazyImage(path=str(next((path for path in places if path.is_file()), named)))

    def wording(self, question: Question, condition: str, format: str, choices: Sequence[str]) -> str:
        del format, choices
        return prompts.yes_no(question.texts[condition])

    def score(self, samples: Sequence[Sample], predictions: Sequence[str]) -> dict[str, float]:
        """Accuracy, precision, recall, F1 and yes-rate; “yes” is the positive class."""
        return asdict(scoring.pope_scores([sample.answer for sample in samples], predictions))


def _record(record: Mapping[str, Any], path: Path, line: int) -> tuple[tuple[str, str, str], str]:
    """(question id, picture, answer) and text of one line."""
    question_id = records.text_of(record, ("question_id",), path, line)
    image = records.text_of(record, ("image",), path, line)
    label = records.text_of(record, ("label",), path, line).lower()
    if label not in LABELS:
        raise RecordError(f"the label is {label!r}, expected yes or no", path, line)
    return (question_id, image, LABELS[label]), records.text_of(record, ("text",), path, line)


def _questions(merged: Mapping[tuple[str, str, str], Mapping[str, str]]) -> list[Question]:
    """Questions with unique ids: where files disagree on an id's picture or label, a number is added to the id."""
    taken: dict[str, int] = {}
    questions = []
    for (question_id, image, answer), texts in merged.items():
        taken[question_id] = taken.get(question_id, 0) + 1
        unique = question_id if taken[question_id] == 1 else f"{question_id}.{taken[question_id]}"
        questions.append(Question(unique, Path(image).stem, image, texts, answer, (), answer))
    return questions
