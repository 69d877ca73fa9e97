"""Builders of small folders in each benchmark's official format."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def picture(seed: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    """A coloured noise picture (width, height) without pure red or white."""
    pixels = np.random.default_rng(seed).integers(40, 200, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def as_base64(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def looktwice_record(image_id: str, answer: int, **changes: Any) -> dict[str, Any]:
    record = {
        "Img_id": image_id,
        "Obj_question": "How many dogs are there?",
        "Super_question": "How many of these animals are there?",
        "General_question": "How many of these are there?",
        "Ans": str(answer),
        "BBox": {"x": 10, "y": 12, "w": 30, "h": 20, "object_id": 7},
        "Point": {"x": 20, "y": 20},
        "Obj_type": "dog",
        "Supercategory": "animals",
    }
    return {**record, **changes}


def looktwice(folder: Path, answers: Sequence[int] = (1, 2, 3, 4, 5, 6, 7, 2), per_image: int = 1) -> Path:
    """Pictures 100, 101, … with `per_image` records each, all in the test split."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    dataset: dict[str, list[dict[str, Any]]] = {}
    for number, answer in enumerate(answers):
        image_id = str(100 + number // per_image)
        dataset.setdefault(image_id, []).append(looktwice_record(image_id, answer))
    for image_id in dataset:
        picture(int(image_id)).save(folder / "images" / f"{image_id}.png")
    write_looktwice(folder, dataset)
    return folder


def write_looktwice(folder: Path, dataset: dict[str, Any]) -> None:
    (folder / "looktwiceqa_dataset.json").write_text(json.dumps(dataset))
    (folder / "looktwiceqa_test_imgs.json").write_text(json.dumps(list(dataset)))


def looktwice_again(folder: Path, count: int = 4) -> Path:
    """ViP-LLaVA's edition."""
    (folder / "vg" / "VG_100K").mkdir(parents=True)
    entries = []
    for number in range(count):
        name = f"vg/VG_100K/{200 + number}.jpg"
        picture(number).save(folder / name, quality=95)
        entries.append(
            {
                "id": f"pointQA_twice-{number}",
                "image": name,
                "obj_question": "How many dogs are there?",
                "super_question": "How many of these animals are there?",
                "general_question": "How many of these are there?",
                "answer": str(number + 1),
                "bboxes": [[10, 12, 40, 32]],
            }
        )
    (folder / "pointQA_twice_test.json").write_text(json.dumps(entries))
    return folder


def pope(folder: Path, questions: int = 6, conditions: Sequence[str] = ("random", "popular", "adversarial")) -> Path:
    """Two questions a picture, a present and an absent object."""
    (folder / "val2014").mkdir(parents=True)
    for number in range((questions + 1) // 2):
        picture(number).save(folder / "val2014" / f"COCO_val2014_{number:012d}.jpg", quality=95)
    for condition in conditions:
        lines = [
            json.dumps(
                {
                    "question_id": number + 1,
                    "image": f"COCO_val2014_{number // 2:012d}.jpg",
                    "text": f"Is there a {'dog' if number % 2 == 0 else condition} in the image?",
                    "label": "yes" if number % 2 == 0 else "no",
                }
            )
            for number in range(questions)
        ]
        (folder / f"coco_pope_{condition}.json").write_text("\n".join(lines) + "\n")
    return folder


MMBENCH_COLUMNS: tuple[str, ...] = ("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image")


def mmbench_rows() -> list[dict[str, str]]:
    pictures = [as_base64(picture(number)) for number in range(3)]
    rows = [
        ("1", "Which is it?", "", "cat", "dog", "cow", "hen", "B", "object", pictures[0]),
        ("2", "Which colour?", "Look closely.\nTwice.", "red", "blue", "", "", "A", "attribute", pictures[1]),
        ("3", "Where?", "nan", "left", "right", "above", "nan", "C", "spatial", pictures[2]),
        ("4", "Again?", "", "yes", "no", "", "", "B", "object", "1"),
        ("1000001", "Which is it?", "", "dog", "cow", "hen", "cat", "A", "object", pictures[0]),
    ]
    return [dict(zip(MMBENCH_COLUMNS, row, strict=True)) for row in rows]


def mmbench(folder: Path, rows: Sequence[dict[str, str]] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "mmbench_dev_20230712.tsv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, MMBENCH_COLUMNS, delimiter="\t")
        writer.writeheader()
        writer.writerows(mmbench_rows() if rows is None else rows)
    return folder


def seedbench(folder: Path, count: int = 4) -> Path:
    (folder / "SEED-Bench-image").mkdir(parents=True)
    questions = []
    for number in range(count):
        picture(number).save(folder / "SEED-Bench-image" / f"{number}_9.jpg", quality=95)
        questions.append(
            {
                "question_id": str(500 + number),
                "question": "What is shown?",
                "choice_a": "a dog",
                "choice_b": "a cat",
                "choice_c": "a cow",
                "choice_d": "a hen",
                "answer": "ABCD"[number % 4],
                "data_type": "image",
                "data_id": f"{number}_9",
                "question_type_id": 1 + number % 2,
            }
        )
    questions.append({**questions[0], "question_id": "900", "data_type": "video"})
    (folder / "SEED-Bench.json").write_text(json.dumps({"question_type": {}, "questions": questions}))
    return folder


def qbench(folder: Path, count: int = 4) -> Path:
    (folder / "images").mkdir(parents=True)
    entries = []
    for number in range(count):
        picture(number).save(folder / "images" / f"{number}.jpg", quality=95)
        entries.append(
            {
                "img_path": f"{number}.jpg",
                "question": "How sharp is it?",
                "candidates": ["blurry", "sharp", "noisy"],
                "correct_ans": ["blurry", "sharp", "noisy"][number % 3],
                "type": number % 3,
                "concern": number % 4,
            }
        )
    (folder / "llvisionqa_dev.json").write_text(json.dumps(entries))
    return folder


BUILDERS = {"looktwice": looktwice, "pope": pope, "mmbench": mmbench, "seedbench": seedbench, "qbench": qbench}
