"""What every benchmark is: a folder of official files that gives samples; and how these are drawn."""

from __future__ import annotations

import logging
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import ClassVar

from visualheads.cards import data_folder
from visualheads.errors import (
    BoxError,
    ImageError,
    ParameterError,
    RecordError,
    checked,
    checked_name,
    checked_whole,
    got,
    listed,
    shown,
)
from visualheads.paths import read_table
from visualheads.tasks import records, scoring
from visualheads.tasks.records import Question, Reading
from visualheads.tasks.sample import LETTERS, Format, LazyImage, Sample, checked_box, clip_box
from visualheads.tasks.sampling import CONTROLS, SampleRequest, Samples, Skipped, as_shown, in_drawing_order, seed_of

log = logging.getLogger(__name__)

SOURCES: dict[str, str] = read_table(__file__, "sources.yml")
"""Benchmark of this package → where its official files come from."""


class Benchmark(ABC):
    """A benchmark in a folder of official files. Subclasses read the files; wording and drawing are shared."""

    name: ClassVar[str]
    title: ClassVar[str]
    conditions: tuple[str, ...] = ("plain",)
    formats: tuple[Format, ...] = ("letters", "free")
    splits: ClassVar[tuple[str, ...]] = ("test",)
    marked: ClassVar[frozenset[str]] = frozenset()
    """Conditions that draw the box into the picture."""
    subfolders: ClassVar[tuple[str, ...]] = ("images", ".")
    """Folders of the data folder in which pictures are looked for, in this order."""
    sources: ClassVar[str]
    """Where the official files come from, in plain words."""

    def __init__(self, data: str | Path | None = None) -> None:
        self.data = Path(data) if data is not None else data_folder() / "scenes" / self.name
        self._readings: dict[str, Reading] = {}
        self._pictures: dict[str, Path] | None = None
        if not self.data.is_dir():
            raise records.MissingDataError(
                f"{self.name}: the data folder {str(self.data)!r} does not exist. "
                f"It should hold {self.title} as published: {self.sources}"
            )

    @abstractmethod
    def files(self, split: str) -> list[Path]:
        """The annotation files of a split. Raises MissingDataError with all that is missing."""

    @abstractmethod
    def read(self, split: str) -> Reading:
        """The questions of a split in file order."""

    def picture(self, question: Question) -> LazyImage:
        """Where the question's picture is: in one of the `subfolders`, with the ending it is named with or another.

        Raises ImageError for a name that leads out of the data folder.
        """
        places = [records.inside(self.data / folder, question.picture) for folder in self.subfolders]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            if self._pictures is None:
                self._pictures = records.picture_index(self.data, self.subfolders)
            found = self._pictures.get(places[0].name, places[0])
        return LazyImage(path=str(found))

    def lacking(self, what: str) -> records.MissingDataError:
        """The error that tells what the data folder lacks and where to get it."""
        return records.MissingDataError(
            f"{self.name}: the folder {str(self.data)!r} {what}. Where to get it: {self.sources}"
        )

    @property
    def store_name(self) -> str:
        """What stores of its traces are called. Default: as the benchmark."""
        return self.name

    def default_split(self) -> str:
        """The split that is read unless another is asked for. Default: the first."""
        return self.splits[0]

    def choices(self, question: Question, condition: str, seed: int) -> tuple[str, ...]:
        """Choices in letter order; () where the question has none in this condition. Default: as published."""
        del condition, seed
        return question.options

    def asked_in(self, question: Question, format: str) -> Collection[str]:
        """The conditions in which the question is asked. Default: all that it has a text for."""
        del format
        return question.texts

    def unaskable(self, question: Question, format: str) -> str:
        """Why the question cannot be asked in this format; "" when it can."""
        del question, format
        return ""

    def wording(self, question: Question, condition: str, format: str, choices: Sequence[str]) -> str:
        """The whole text put after the picture."""
        text = question.texts[condition]
        if format == "letters":
            return records.with_letters(text, choices)
        return records.free_form(text, marked=condition in self.marked)

    def score(self, samples: Sequence[Sample], predictions: Sequence[str]) -> dict[str, float]:
        """The benchmark's own figures by name, 0…1. Raises ParameterError when the lengths differ."""
        return {"accuracy": scoring.accuracy(samples, predictions)}

    def files_hash(self) -> str:
        """SHA-256 of the annotation files that are there (not of the pictures), for a run's identity."""
        return records.hash_files(self.annotations())

    def annotations(self) -> list[Path]:
        """The annotation files that are there, of all splits; [] where none are."""
        paths: dict[str, Path] = {}
        for split in self.splits:
            if not self.missing(split):
                paths |= {path.name: path for path in self.files(split)}
        return list(paths.values())

    def missing(self, split: str | None = None) -> str:
        """What a split lacks and where to get it, as one message; "" when its annotation files are there."""
        try:
            self.files(self._checked("split", split, self.splits))
        except records.MissingDataError as error:
            return str(error)
        return ""

    def reading(self, split: str) -> Reading:
        """`read`, kept in memory."""
        if split not in self._readings:
            self._readings[split] = self.read(split)
        return self._readings[split]

    @checked
    def samples(
        self,
        condition: str | Sequence[str] | None = None,
        format: Format | None = None,
        control: str | None = None,
        split: str | None = None,
        n: int | None = None,
        seed: int = 0,
        skip_bad: bool = False,
    ) -> Samples:
        """Samples, condition after condition, the same questions and pictures in each (paired).

        condition   one, several, or None for all of the task
        format      "free" or "letters"; None: the task's first
        control     None, "white", "shuffled" or "swapped" (see `visualheads.tasks.sampling`)
        split       None: the task's first
        n           questions per condition (at most as many as there are); None: all. Draws are stratified, and a
                    smaller draw with the same seed is the beginning of a larger one
        seed        decides the draw, the order and distractors of choices, and what controls do
        skip_bad    leave out malformed records and unusable pictures, decoding every picture once, and list them in
                    the result's `skipped`; otherwise the first of them is raised

        Raises ParameterError, MissingDataError, RecordError, ImageError or BoxError.
        """
        request = SampleRequest(
            conditions=self._checked_conditions(condition),
            format=self._checked("format", format, self.formats),
            control="" if control is None else self._checked("control", control, CONTROLS),
            split=self.default_split() if split is None else self._checked("split", split, self.splits),
            seed=seed,
            skip_bad=skip_bad,
        )
        return draw_samples(self, request, None if n is None else checked_whole(f"{self.name}: n", n))

    def _checked_conditions(self, condition: str | Sequence[str] | None) -> tuple[str, ...]:
        if condition is None:
            return self.conditions
        asked = (condition,) if isinstance(condition, str) else condition
        if not isinstance(asked, Sequence) or not asked:
            raise ParameterError(got(f"{self.name}: condition", condition, self.conditions))
        wrong = [name for name in asked if name not in self.conditions]
        if wrong or len(set(asked)) < len(asked):
            raise ParameterError(
                got(f"{self.name}: condition", wrong[0] if wrong else condition, self.conditions, "name each once")
            )
        return tuple(asked)

    def _checked(self, what: str, value: str | None, allowed: Sequence[str]) -> str:
        if value is None:
            return allowed[0]
        return checked_name(f"{self.name}: {what}", value, allowed)


Pool = dict[bool, list[Question]]
"""Questions, apart by whether they have a box."""


def draw_samples(task: Benchmark, request: SampleRequest, n: int | None) -> Samples:
    """The samples of a request, condition after condition; see `Benchmark.samples`."""
    reading = task.reading(request.split)
    if reading.bad and not request.skip_bad:
        raise _with_count(reading.bad)
    skipped = [Skipped(place_of(error), str(error)) for error in reading.bad]
    left_out = Counter(reading.left_out)
    pool = {boxed: [q for q in reading.questions if (q.box is not None) == boxed] for boxed in (True, False)}
    drawn: list[dict[str, Sample]] = []
    for question in in_drawing_order(reading.questions, seed_of("draw", task.name, request.seed)):
        if len(drawn) == n:
            break
        conditions = [name for name in request.conditions if name in task.asked_in(question, request.format)]
        reason = task.unaskable(question, request.format) if conditions else ""
        if reason:
            left_out[reason] += 1
        if reason or not conditions:
            continue
        try:
            drawn.append(_samples_of(task, request, question, conditions, pool))
        except (ImageError, BoxError) as error:
            if not request.skip_bad:
                raise
            skipped.append(Skipped(f"question {question.question_id}", str(error), picture=True))
    _report(task, request, n, len(drawn), skipped)
    ordered = [samples[name] for name in request.conditions for samples in drawn if name in samples]
    return Samples(ordered, skipped, left_out, request.split, request.seed)


def _samples_of(
    task: Benchmark, request: SampleRequest, question: Question, conditions: Sequence[str], pool: Pool
) -> dict[str, Sample]:
    source, picture = question, _usable(task.picture(question), request.skip_bad)
    if request.control == "swapped":
        source, picture = _partner(task, request, question, pool)
    where = f"question {question.question_id}"
    size = picture.size()
    box = None if source.box is None else clip_box(checked_box(source.box, where), size, where)
    boxes = source.boxes and {
        name: [clip_box(checked_box(found, where), size, where) for found in every]
        for name, every in source.boxes.items()
    }
    shuffle = seed_of("shuffle", task.name, source.image_id, request.seed)
    samples = {}
    for condition in conditions:
        choices: tuple[str, ...] | None = None
        answers = (question.answer, *question.answers) if question.answer else ("",)
        if request.format == "letters":
            seed = seed_of("choices", task.name, question.question_id, request.seed)
            choices = task.choices(question, condition, seed)
            answers = tuple(LETTERS[choices.index(answer)] if answer else "" for answer in answers)
        image = as_shown(picture, request.control, box if condition in task.marked else None, shuffle)
        samples[condition] = Sample(
            id=f"{task.name}-{question.question_id}-{condition}-{request.format}-{request.control or 'none'}",
            image=image,
            question=task.wording(question, condition, request.format, choices or ()),
            answer=answers[0],
            answers=answers[1:],
            box=box,
            boxes=boxes or None,
            choices=choices,
            condition=condition,
            question_id=question.question_id,
            image_id=question.image_id,
            task=task.name,
            control=request.control,
        )
    return samples


def _usable(picture: LazyImage, decode: bool) -> LazyImage:
    """The picture, after its header – or, with `decode`, all of it – was read. Raises ImageError."""
    if decode:
        picture.open()
    else:
        picture.size()
    return picture


def _partner(task: Benchmark, request: SampleRequest, question: Question, pool: Pool) -> tuple[Question, LazyImage]:
    """Another question with another, usable picture and, where this one has a box, with a box: one of up to 20."""
    rng = random.Random(seed_of("swap", task.name, question.question_id, request.seed))
    others = pool[question.box is not None]
    drawn = rng.sample(others, min(len(others), 200))
    failure: ImageError | None = None
    for other in [other for other in drawn if other.image_id != question.image_id][:20]:
        try:
            return other, _usable(task.picture(other), request.skip_bad)
        except ImageError as error:
            if not request.skip_bad:
                raise
            failure = error
    if failure is not None:
        raise failure
    raise ParameterError(
        f"{task.name}: control 'swapped' needs a second picture, but all questions of split {request.split!r} have "
        f"picture {shown(question.image_id, 60)}; use 'white' or 'shuffled'."
    )


def _with_count(bad: Sequence[RecordError]) -> RecordError:
    """The first malformed record as an error that tells how many more there are and how to go on."""
    first, more = bad[0], len(bad) - 1
    others = f" ({more} more malformed record{'s' if more > 1 else ''})" if more else ""
    message = str(first)[len(place_of(first)) + 2 :] if first.path else str(first)
    return RecordError(f"{message}{others}; correct it, or leave it out with skip_bad=True", first.path, first.line)


def place_of(error: RecordError) -> str:
    """The file, and the line where known, that a RecordError's message begins with."""
    return f"{error.path or ''}{f', line {error.line}' if error.line is not None else ''}"


def _report(task: Benchmark, request: SampleRequest, n: int | None, drawn: int, skipped: Sequence[Skipped]) -> None:
    if skipped:
        log.warning("%s: skipped %d, first %s", task.name, len(skipped), skipped[0])
    if not drawn:
        first = f", the first of them: {skipped[0].reason}" if skipped else ""
        asked = f"condition {listed(request.conditions)}, format {request.format!r}"
        raise ParameterError(
            f"{task.name}: no question of split {request.split!r} can be asked in {asked} ({len(skipped)} "
            f"skipped{first}); choose another split or format, or see the data."
        )
    if n is not None and drawn < n:
        log.warning("%s: %d questions asked for, only %d there", task.name, n, drawn)
