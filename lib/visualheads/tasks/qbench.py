"""Q-Bench (LLVisionQA): low-level questions – blur, noise, light, colour – with given choices."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from visualheads.errors import RecordError
from visualheads.tasks import images, records
from visualheads.tasks.benchmark import Benchmark
from visualheads.tasks.registry import register
from visualheads.tasks.sample import LETTERS, LazyImage
from visualheads.tasks.sampling import Question, Reading

SUBFOLDERS = ("images", "LLVisionQA_images", ".")


@register
class QBench(Benchmark):
    """The dev split; the official test split comes without answers."""

    name: ClassVar[str] = "qbench"
    title: ClassVar[str] = "Q-Bench (LLVisionQA)"
    splits: ClassVar[tuple[str, ...]] = ("dev", "test")
    sources: ClassVar[str] = (
        "llvisionqa_dev.json (or llvisionqa_test.json) and the folder images from the GitHub project Q-Future/Q-Bench "
        "(LLVisionQA-QBench)."
    )

    def files(self, split: str) -> list[Path]:
        found = records.find_file(self.data, (f"llvisionqa_{split}.json", f"LLVisionQA_{split}.json"))
        if found is None:
            raise records.MissingDataError(
                f"qbench: the folder {str(self.data)!r} lacks llvisionqa_{split}.json. Where to get it: {self.sources}"
            )
        return [found]

    def read(self, split: str) -> Reading:
        (path,) = self.files(split)
        entries = records.read_json(path)
        if not isinstance(entries, list):
            raise RecordError("expected a list of records", path)
        questions: list[Question] = []
        bad: list[RecordError] = []
        for number, record in enumerate(entries, start=1):
            try:
                questions.append(_question(record, number, path))
            except RecordError as error:
                bad.append(error)
        return Reading(tuple(questions), tuple(bad))

    def picture(self, question: Question) -> LazyImage:
        named = images.inside(self.data / SUBFOLDERS[0], question.picture)
        places = (images.inside(self.data / folder, question.picture) for folder in SUBFOLDERS)
        return LazyImage(path=str(next((path for path in places if path.is_file()), named)))


def _question(record: Any, number: int, path: Path) -> Question:
    place = f"record {number}: "
    if not isinstance(record, dict):
        raise RecordError(f"{place}expected an object, got {record!r:.60}", path)
    options = record.get("candidates")
    if not isinstance(options, list) or not all(isinstance(option, str) and option.strip() for option in options):
        raise RecordError(f"{place}candidates is {options!r:.80}, expected a list of texts", path)
    options = [option.strip() for option in options]
    if not 2 <= len(options) <= len(LETTERS) or len(set(options)) < len(options):
        raise RecordError(f"{place}candidates is {options!r:.80}, expected two or more different texts", path)
    answer = str(record.get("correct_ans") or "").strip()
    if answer and answer not in options:
        raise RecordError(f"{place}correct_ans is {answer!r:.60}, which is not among the candidates", path)
    picture = records.text_of(record, ("img_path",), path, None, place)
    return Question(
        question_id=str(number),
        image_id=Path(picture).stem,
        picture=picture,
        texts={"plain": records.text_of(record, ("question",), path, None, place)},
        answer=answer,
        options=tuple(options),
        stratum=f"{record.get('type', '')}/{record.get('concern', '')}",
    )
