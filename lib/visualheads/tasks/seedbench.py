"""SEED-Bench and SEED-Bench-2: four choices about a picture."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from visualheads.errors import RecordError, shown
from visualheads.tasks import records
from visualheads.tasks.benchmark import Benchmark
from visualheads.tasks.questions import Question, Reading, gather
from visualheads.tasks.records import Record
from visualheads.tasks.registry import register
from visualheads.tasks.sample import LETTERS

FILES = ("SEED-Bench.json", "SEED-Bench_v2_level1_2_3.json", "seed_bench.json")
OPTIONS = ("choice_a", "choice_b", "choice_c", "choice_d")
ONE_PICTURE = ("image", "single image")
"""Data types of items about one picture, in the first and the second edition."""


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
    sources: ClassVar[str] = (
        "SEED-Bench.json and the picture folder SEED-Bench-image from the project AILab-CVC/SEED-Bench (GitHub and "
        "Hugging Face data sets), or SEED-Bench_v2_level1_2_3.json with cc3m-image and SEED-Bench-2-image."
    )

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
        return gather(records.listed(parsed.get("questions"), path, '{"questions": [records]}'), _question)


def _question(record: Record) -> Question | str:
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
