"""Q-Bench (LLVisionQA): low-level questions – blur, noise, light, colour – with given choices."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from visualheads.errors import shown
from visualheads.tasks import records
from visualheads.tasks.benchmark import Benchmark
from visualheads.tasks.questions import Question, Reading, gather
from visualheads.tasks.records import Record
from visualheads.tasks.registry import register
from visualheads.tasks.sample import LETTERS


@register
class QBench(Benchmark):
    """The dev split; the official test split comes without answers."""

    name: ClassVar[str] = "qbench"
    title: ClassVar[str] = "Q-Bench (LLVisionQA)"
    splits: ClassVar[tuple[str, ...]] = ("dev", "test")
    subfolders: ClassVar[tuple[str, ...]] = ("images", "images_llvisionqa", "LLVisionQA_images", ".")
    sources: ClassVar[str] = (
        "llvisionqa_dev.json (or llvisionqa_test.json) and the folder images from the GitHub project Q-Future/Q-Bench "
        "(LLVisionQA-QBench)."
    )

    def files(self, split: str) -> list[Path]:
        found = records.find_file(self.data, (f"llvisionqa_{split}.json", f"LLVisionQA_{split}.json"))
        if found is None:
            raise self.lacking(f"lacks llvisionqa_{split}.json")
        return [found]

    def read(self, split: str) -> Reading:
        [path] = self.files(split)
        return gather(records.listed(records.read_json(path), path), _question)


def _question(record: Record) -> Question:
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
