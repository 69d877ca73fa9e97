"""PointQA-LookTwice: how many objects like the marked one? Both releases of the questions."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from visualheads.errors import BoxError, ParameterError, RecordError, got
from visualheads.tasks import images, records
from visualheads.tasks.benchmark import Benchmark
from visualheads.tasks.registry import register
from visualheads.tasks.sample import Box, Format, LazyImage, checked_box
from visualheads.tasks.sampling import Question, Reading

KINDS = {"general": "general_question", "object": "obj_question", "super": "super_question"}
HIGHEST_CHOICE = 7
"""Distractors are drawn from 1…7: the authors did not publish their setting; ours."""
DISTRACTORS = 3

ANNOTATIONS = ("looktwiceqa_dataset.json", "Datasets/LookTwiceQA/looktwiceqa_dataset.json")
SUBFOLDERS = (
    ".",
    "images",
    "VG_100K",
    "VG_100K_2",
    "vg/VG_100K",
    "vg/VG_100K_2",
    "Datasets/LookTwiceQA/vg/VG_100K",
    "Datasets/LookTwiceQA/vg/VG_100K_2",
)


@register
class LookTwice(Benchmark):
    """Six conditions: {plain, visual} × {general, object, super}; visual draws the red box. Free form and A–D.

    `highest` is the largest answer offered as a choice; larger answers (and 0) are left out of the letter format and
    counted. `plain-general` asks for “these” with nothing marked: report it, expect nothing of it.
    """

    name: ClassVar[str] = "looktwice"
    title: ClassVar[str] = "PointQA-LookTwice"
    conditions: ClassVar[tuple[str, ...]] = tuple(f"{mark}-{kind}" for mark in ("plain", "visual") for kind in KINDS)
    formats: ClassVar[tuple[Format, ...]] = ("free", "letters")
    splits: ClassVar[tuple[str, ...]] = ("test", "val", "train")
    marked: ClassVar[frozenset[str]] = frozenset(f"visual-{kind}" for kind in KINDS)
    sources: ClassVar[str] = (
        "looktwiceqa_dataset.json and looktwiceqa_{train,val,test}_imgs.json from the GitHub project "
        "princetonvisualai/pointingqa, or pointQA_twice_{train,val,test}.json from ViP-LLaVA's evaluation data; the "
        "pictures are Visual Genome's (folders VG_100K and VG_100K_2, or one folder images)."
    )

    def __init__(self, data: str | Path | None = None, highest: int = HIGHEST_CHOICE) -> None:
        if isinstance(highest, bool) or not isinstance(highest, int) or highest <= DISTRACTORS:
            raise ParameterError(got("looktwice: highest", highest, f"a whole number above {DISTRACTORS}"))
        super().__init__(data)
        self.highest = highest
        self._pictures: dict[str, Path] | None = None

    def files(self, split: str) -> list[Path]:
        dataset = records.find_file(self.data, ANNOTATIONS)
        if dataset is not None:
            chosen = dataset.with_name(f"looktwiceqa_{split}_imgs.json")
            if chosen.is_file():
                return [dataset, chosen]
        again = records.find_file(self.data, (f"pointQA_twice_{split}.json",))
        if again is not None:
            return [again]
        lacking = f"looktwiceqa_{split}_imgs.json" if dataset else f"{ANNOTATIONS[0]}, looktwiceqa_{split}_imgs.json"
        raise records.MissingDataError(
            f"looktwice: the folder {str(self.data)!r} lacks {lacking} (or pointQA_twice_{split}.json). "
            f"Where to get it: {self.sources}"
        )

    def read(self, split: str) -> Reading:
        paths = self.files(split)
        return _read_official(*paths) if len(paths) == 2 else _read_again(paths[0])

    def picture(self, question: Question) -> LazyImage:
        path = images.inside(self.data, question.picture)
        if path.is_file():
            return LazyImage(path=str(path))
        if self._pictures is None:
            self._pictures = records.picture_index(self.data, SUBFOLDERS)
        found = self._pictures.get(path.name)
        return LazyImage(path=str(found or path))

    def choices(self, question: Question, condition: str, seed: int) -> tuple[str, ...]:
        """The answer and three distractors drawn without replacement from 1…highest, shuffled. Source: paper code."""
        del condition
        rng = random.Random(seed)
        others = [str(number) for number in range(1, self.highest + 1) if str(number) != question.answer]
        drawn = [question.answer, *rng.sample(others, DISTRACTORS)]
        rng.shuffle(drawn)
        return tuple(drawn)

    def unaskable(self, question: Question, format: str) -> str:
        if format == "letters" and not 1 <= int(question.answer) <= self.highest:
            return f"answer not among 1…{self.highest}"
        return ""


def _read_official(dataset: Path, chosen: Path) -> Reading:
    """`{image id: [records]}` and a list of image ids."""
    every, wanted = records.read_json(dataset), records.read_json(chosen)
    if not isinstance(every, dict):
        raise RecordError("expected an object {image id: [records]}", dataset)
    if not isinstance(wanted, list):
        raise RecordError("expected a list of image ids", chosen)
    questions: list[Question] = []
    bad: list[RecordError] = []
    for image_id in dict.fromkeys(map(str, wanted)):
        entries = every.get(image_id)
        if not isinstance(entries, list):
            what = "is not in the dataset" if entries is None else "has no list of records"
            bad.append(RecordError(f"picture {image_id!r} {what}", dataset))
            continue
        for number, record in enumerate(entries, start=1):
            place = f"picture {image_id!r}, record {number}: "
            try:
                box = _box_of(_field(record, ("bbox",), dataset, place), dataset, place)
                questions.append(_question(record, f"{image_id}-{number}", image_id, image_id, box, dataset, place))
            except RecordError as error:
                bad.append(error)
    return Reading(tuple(questions), tuple(bad))


def _read_again(path: Path) -> Reading:
    """ViP-LLaVA's edition: a list of records with id, image, the three questions, answer and bboxes (corners)."""
    entries = records.read_json(path)
    if not isinstance(entries, list):
        raise RecordError("expected a list of records", path)
    questions: list[Question] = []
    bad: list[RecordError] = []
    seen: set[str] = set()
    for number, record in enumerate(entries, start=1):
        place = f"record {number}: "
        try:
            boxes = _field(record, ("bboxes",), path, place)
            if not isinstance(boxes, list) or len(boxes) != 1:
                raise RecordError(f"{place}bboxes is {boxes!r:.60}, expected one box", path)
            box = _corners(boxes[0], path, place)
            question_id = records.text_of(record, ("id",), path, None, place)
            image = records.text_of(record, ("image",), path, None, place)
            if question_id in seen:
                raise RecordError(f"{place}the id {question_id!r} occurs twice", path)
            seen.add(question_id)
            questions.append(_question(record, question_id, Path(image).stem, image, box, path, place))
        except RecordError as error:
            bad.append(error)
    return Reading(tuple(questions), tuple(bad))


def _question(
    record: Mapping[str, Any], question_id: str, image_id: str, picture: str, box: Box, path: Path, place: str
) -> Question:
    asked = {kind: records.text_of(record, (name,), path, None, place) for kind, name in KINDS.items()}
    answer = records.text_of(record, ("ans", "answer"), path, None, place)
    if not (answer.isascii() and answer.isdigit()):
        raise RecordError(f"{place}the answer is {answer!r:.60}, expected a whole number", path)
    answer = str(int(answer))
    texts = {f"{mark}-{kind}": text for mark in ("plain", "visual") for kind, text in asked.items()}
    boxes = _labelled(record, path, place)
    return Question(question_id, image_id, picture, texts, answer, (), f"{int(answer):09d}", box, boxes)


def _labelled(record: Mapping[str, Any], path: Path, place: str) -> Mapping[str, Sequence[Box]] | None:
    """Boxes of all labelled objects from the optional field `Objects`: [{"name", "BBox"}] (an addition of ours)."""
    objects = record.get("Objects")
    if objects is None:
        return None
    if not isinstance(objects, list):
        raise RecordError(f"{place}Objects is {objects!r:.60}, expected a list", path)
    boxes: dict[str, list[Box]] = {}
    for item in objects:
        name = records.text_of(item if isinstance(item, dict) else {}, ("name",), path, None, f"{place}Objects: ")
        boxes.setdefault(name, []).append(_box_of(_field(item, ("bbox",), path, place), path, place))
    return boxes


def _field(record: Any, names: Sequence[str], path: Path, place: str) -> Any:
    if not isinstance(record, dict):
        raise RecordError(f"{place}expected an object, got {record!r:.60}", path)
    lower = {str(key).lower(): value for key, value in record.items()}
    for name in names:
        if name in lower:
            return lower[name]
    raise RecordError(f"{place}the field {names[0]!r} is missing", path)


def _box_of(box: Any, path: Path, place: str) -> Box:
    """{x, y, w, h} as corners."""
    sides = [_field(box, (name,), path, place + "BBox: ") for name in "xywh"]
    if not all(isinstance(side, (int, float)) for side in sides):
        raise RecordError(f"{place}BBox is {box!r:.60}, expected numbers x, y, w, h", path)
    x, y, w, h = sides
    return _corners((x, y, x + w, y + h), path, place)


def _corners(box: Any, path: Path, place: str) -> Box:
    try:
        return checked_box(box, place.rstrip(": "))
    except BoxError as error:
        raise RecordError(str(error), path) from None
