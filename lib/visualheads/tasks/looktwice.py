"""PointQA-LookTwice: how many objects like the marked one? Both releases of the questions."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from visualheads.errors import BoxError, ParameterError, RecordError, got, shown
from visualheads.tasks import records
from visualheads.tasks.benchmark import SOURCES, Benchmark
from visualheads.tasks.records import Question, Reading, Record, gather
from visualheads.tasks.registry import register
from visualheads.tasks.sample import Box, Format, checked_box

KINDS = {"general": "general_question", "object": "obj_question", "super": "super_question"}
HIGHEST_CHOICE = 7
"""Distractors are drawn from 1…7: the authors did not publish their setting; ours."""
DISTRACTORS, MOST_CHOICES = 3, 1000
MOST_DIGITS = 9
FARTHEST = 1e9
"""No picture has an edge so far out, in pixels."""
PICTURE = "img_id"
"""Field of an official record that names its picture."""

ANNOTATIONS = ("looktwiceqa_dataset.json", "Datasets/LookTwiceQA/looktwiceqa_dataset.json")


@register
class LookTwice(Benchmark):
    """Six conditions: {plain, visual} × {general, object, super}; visual draws the red box. Free form and A–D.

    `highest` is the largest answer offered as a choice; larger answers (and 0) are left out of the letter format and
    counted. `plain-general` asks for “these” with nothing marked: report it, expect nothing of it.
    """

    name: ClassVar[str] = "looktwice"
    title: ClassVar[str] = "PointQA-LookTwice"
    conditions = tuple(f"{mark}-{kind}" for mark in ("plain", "visual") for kind in KINDS)
    formats: tuple[Format, ...] = ("free", "letters")
    splits: ClassVar[tuple[str, ...]] = ("test", "val", "train")
    marked: ClassVar[frozenset[str]] = frozenset(f"visual-{kind}" for kind in KINDS)
    subfolders: ClassVar[tuple[str, ...]] = (
        ".",
        "images",
        *(f"{folder}VG_100K{part}" for folder in ("", "vg/", "Datasets/LookTwiceQA/vg/") for part in ("", "_2")),
    )
    sources: ClassVar[str] = SOURCES["looktwice"]

    def __init__(self, data: str | Path | None = None, highest: int = HIGHEST_CHOICE) -> None:
        if isinstance(highest, bool) or not isinstance(highest, int) or not DISTRACTORS < highest <= MOST_CHOICES:
            allowed = f"a whole number above {DISTRACTORS}, at most {MOST_CHOICES}"
            raise ParameterError(got("looktwice: highest", highest, allowed))
        super().__init__(data)
        self.highest = highest

    def files(self, split: str) -> list[Path]:
        dataset = records.find_file(self.data, ANNOTATIONS)
        if dataset is not None:
            chosen = dataset.with_name(f"looktwiceqa_{split}_imgs.json")
            if chosen.is_file():
                return [dataset, chosen]
        again = records.find_file(self.data, (f"pointQA_twice_{split}.json",))
        if again is not None:
            return [again]
        missing = f"looktwiceqa_{split}_imgs.json" if dataset else f"{ANNOTATIONS[0]}, looktwiceqa_{split}_imgs.json"
        raise self.lacking(f"lacks {missing} (or pointQA_twice_{split}.json)")

    def read(self, split: str) -> Reading:
        paths = self.files(split)
        if len(paths) == 2:
            return gather(_official_records(*paths), _official_question)
        return gather(records.listed(records.read_json(paths[0]), paths[0]), _question_again)

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


def _official_records(dataset: Path, chosen: Path) -> Iterator[Record | RecordError]:
    """Records of `{image id: [records]}` for a list of image ids."""
    every, wanted = records.read_json(dataset), records.read_json(chosen)
    if not isinstance(every, dict):
        raise RecordError("expected an object {image id: [records]}", dataset)
    if not isinstance(wanted, list):
        raise RecordError("expected a list of image ids", chosen)
    for image_id in dict.fromkeys(map(str, wanted)):
        entries = every.get(image_id)
        if not isinstance(entries, list):
            what = "is not in the dataset" if entries is None else "has no list of records"
            yield RecordError(f"picture {shown(image_id)} {what}", dataset)
            continue
        for number, entry in enumerate(entries, start=1):
            named = {**entry, PICTURE: image_id} if isinstance(entry, dict) else entry
            yield records.as_record(named, dataset, None, number, f"picture {shown(image_id, 60)}, record {number}: ")


def _official_question(record: Record) -> Question:
    image_id = record.file_name(PICTURE)
    box = _box_of(record.need("bbox"), record)
    return _question(record, f"{image_id}-{record.number}", image_id, image_id, box)


def _question_again(record: Record) -> Question:
    """ViP-LLaVA's edition: a list of records with id, image, the three questions, answer and bboxes (corners)."""
    boxes = record.need("bboxes")
    if not isinstance(boxes, list) or len(boxes) != 1:
        raise record.error(f"bboxes is {shown(boxes, 60)}, expected one box")
    image = record.file_name("image")
    return _question(record, record.text("id"), Path(image).stem, image, _corners(boxes[0], record))


def _question(record: Record, question_id: str, image_id: str, picture: str, box: Box) -> Question:
    asked = {kind: record.text(name) for kind, name in KINDS.items()}
    answer = record.text("ans", "answer")
    if not (answer.isascii() and answer.isdigit() and len(answer) <= MOST_DIGITS):
        raise record.error(
            f"the answer is {shown(answer, 60)}, expected a whole number of at most {MOST_DIGITS} digits"
        )
    texts = {f"{mark}-{kind}": text for mark in ("plain", "visual") for kind, text in asked.items()}
    return Question(
        question_id=question_id,
        image_id=image_id,
        picture=picture,
        texts=texts,
        answer=str(int(answer)),
        stratum=answer.zfill(MOST_DIGITS),
        box=box,
        boxes=_labelled(record),
    )


def _labelled(record: Record) -> Mapping[str, Sequence[Box]] | None:
    """Boxes of all labelled objects from the optional field `Objects`: [{"name", "BBox"}] (an addition of ours)."""
    objects = record.get("objects")
    if objects is None:
        return None
    if not isinstance(objects, list):
        raise record.error(f"Objects is {shown(objects, 60)}, expected a list")
    boxes: dict[str, list[Box]] = {}
    for entry in objects:
        item = records.as_record(entry, record.path, None, record.number, f"{record.place}Objects: ")
        if isinstance(item, RecordError):
            raise item
        boxes.setdefault(item.text("name"), []).append(_box_of(item.need("bbox"), item))
    return boxes


def _box_of(box: Any, record: Record) -> Box:
    """{x, y, w, h} as corners."""
    sides: list[Any] = [box.get(name) for name in "xywh"] if isinstance(box, dict) else []
    if not sides or not all(isinstance(side, (int, float)) and abs(side) < FARTHEST for side in sides):
        raise record.error(f"BBox is {shown(box, 60)}, expected numbers x, y, w, h")
    x, y, w, h = sides
    return _corners((x, y, x + w, y + h), record)


def _corners(box: Any, record: Record) -> Box:
    try:
        return checked_box(box, record.place.rstrip(": "))
    except BoxError as error:
        raise RecordError(str(error), record.path) from None
