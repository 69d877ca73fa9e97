"""SEED-Bench: four choices about a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from visualheads.errors import RecordError
from visualheads.tasks import images, records
from visualheads.tasks.benchmark import Benchmark
from visualheads.tasks.registry import register
from visualheads.tasks.sample import LETTERS, LazyImage
from visualheads.tasks.sampling import Question, Reading

FILES = ("SEED-Bench.json", "SEED-Bench_v2_level1_2_3.json", "seed_bench.json")
SUBFOLDERS = ("SEED-Bench-image", "images", ".")
OPTIONS = ("choice_a", "choice_b", "choice_c", "choice_d")


@register
class SeedBench(Benchmark):
    """Items about one picture; items about videos are left out and counted."""

    name: ClassVar[str] = "seedbench"
    title: ClassVar[str] = "SEED-Bench"
    sources: ClassVar[str] = (
        "SEED-Bench.json and the picture folder SEED-Bench-image from the project AILab-CVC/SEED-Bench (GitHub and "
        "Hugging Face data sets)."
    )

    def __init__(self, data: str | Path | None = None) -> None:
        super().__init__(data)
        self._pictures: dict[str, Path] | None = None

    def files(self, split: str) -> list[Path]:
        del split
        found = records.find_file(self.data, FILES)
        if found is None:
            raise records.MissingDataError(
                f"seedbench: the folder {str(self.data)!r} lacks {FILES[0]}. Where to get it: {self.sources}"
            )
        return [found]

    def read(self, split: str) -> Reading:
        (path,) = self.files(split)
        parsed = records.read_json(path)
        entries = parsed.get("questions") if isinstance(parsed, dict) else None
        if not isinstance(entries, list):
            raise RecordError('expected an object {"questions": [records]}', path)
        questions: dict[str, Question] = {}
        bad: list[RecordError] = []
        videos = 0
        for number, record in enumerate(entries, start=1):
            place = f"record {number}: "
            if isinstance(record, dict) and str(record.get("data_type", "image")).lower() != "image":
                videos += 1
                continue
            try:
                question = _question(record, path, place)
                if question.question_id in questions:
                    raise RecordError(f"{place}the question id {question.question_id!r} occurs twice", path)
                questions[question.question_id] = question
            except RecordError as error:
                bad.append(error)
        return Reading(tuple(questions.values()), tuple(bad), {"not about one picture": videos} if videos else {})

    def picture(self, question: Question) -> LazyImage:
        named = images.inside(self.data / SUBFOLDERS[0], question.picture)  # official pictures have no ending
        if named.is_file():
            return LazyImage(path=str(named))
        if self._pictures is None:
            self._pictures = records.picture_index(self.data, SUBFOLDERS)
        return LazyImage(path=str(self._pictures.get(named.name, named)))


def _question(record: Any, path: Path, place: str) -> Question:
    if not isinstance(record, dict):
        raise RecordError(f"{place}expected an object, got {record!r:.60}", path)
    options = tuple(records.text_of(record, (name,), path, None, place) for name in OPTIONS)
    answer = records.text_of(record, ("answer",), path, None, place)
    if answer not in tuple(LETTERS[: len(options)]):
        raise RecordError(f"{place}the answer is {answer!r:.40}, expected one of A, B, C, D", path)
    if len(set(options)) < len(options):
        raise RecordError(f"{place}the options are {options!r:.80}, expected four different ones", path)
    picture = records.text_of(record, ("data_id",), path, None, place)
    return Question(
        question_id=records.text_of(record, ("question_id",), path, None, place),
        image_id=Path(picture).stem,
        picture=picture,
        texts={"plain": records.text_of(record, ("question",), path, None, place)},
        answer=options[LETTERS.index(answer)],
        options=options,
        stratum=str(record.get("question_type_id", "")),
    )
