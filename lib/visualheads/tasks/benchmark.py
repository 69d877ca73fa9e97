"""What every benchmark is: a folder of official files that gives samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import ClassVar

from visualheads.cards import data_folder
from visualheads.errors import ParameterError, checked, checked_name, checked_whole, got
from visualheads.paths import read_table
from visualheads.tasks import records, scoring
from visualheads.tasks.records import Question, Reading
from visualheads.tasks.sample import Format, LazyImage, Sample
from visualheads.tasks.sampling import CONTROLS, SampleRequest, Samples, draw_samples

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
