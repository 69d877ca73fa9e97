"""The shipped test scenes: pictures and questions in the official LookTwice-QA file format, made from a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from visualheads.miniatures.benchmarks import write_mmbench, write_pope, write_qbench, write_seedbench
from visualheads.miniatures.world import CATEGORY, PLURAL, Scene, draw_scene, render, save_jpeg

TEST_SEED = "looktwice-test"  # no training stage uses a seed of this form
SPLITS = {"train": 12, "val": 12, "test": 400}

ATTRIBUTION = """\
# Glyph scenes in the LookTwice-QA format

Pictures made by this project (`visualheads scenes`), seeded; the files follow the format of PointQA-LookTwice.
The glyphs are icons of Font Awesome Free 6 by Fonticons, Inc., licensed CC BY 4.0
(https://creativecommons.org/licenses/by/4.0/), coloured, scaled and set on textured grounds. The pictures are
licensed CC BY 4.0 as well.

`Objects` in a record is an addition to the official fields: all labelled boxes of the picture.
"""


def askable(scene: Scene) -> list[str]:
    """Find the classes that are alone in their supercategory.

    One answer is then right for all three questions, as the benchmark's records (one `Ans` for object, super and
    general question) demand.
    """
    present = scene.names
    return [name for name in present if sum(CATEGORY[name] == CATEGORY[other] for other in present) == 1]


def scene_with_question(split: str, index: int) -> tuple[Scene, str]:
    """Draw the `index`-th scene of a split and the class asked about, again until one class can be asked about."""
    for attempt in range(1000):
        rng = random.Random(f"{TEST_SEED}/{split}/{index}/{attempt}")
        scene = draw_scene(rng)
        names = askable(scene)
        if names:
            return scene, rng.choice(names)
    raise AssertionError("a scene with an askable class turns up within a few draws")


def record(scene: Scene, name: str, image_id: int) -> dict[str, Any]:
    """Write one question record in the official fields, with all objects' boxes in addition."""
    rng = random.Random(f"{TEST_SEED}/box/{image_id}")
    left, top, right, bottom = rng.choice([item.box for item in scene.objects if item.name == name])
    return {
        "Img_id": image_id,
        "Obj_question": f"How many {PLURAL[name]} are there?",
        "Super_question": f"How many of these {CATEGORY[name]} are there?",
        "General_question": "How many of these are there?",
        "Ans": scene.count(name),
        "BBox": {"x": left, "y": top, "w": right - left, "h": bottom - top},
        "Point": {"x": (left + right) // 2, "y": (top + bottom) // 2},
        "Obj_type": name,
        "Supercategory": CATEGORY[name],
        "Objects": [
            {"name": item.name, "BBox": {"x": x0, "y": y0, "w": x1 - x0, "h": y1 - y0}}
            for item in scene.objects
            for x0, y0, x1, y1 in [item.box]
        ],
    }


def write_looktwice(folder: Path) -> None:
    """Write pictures, `looktwiceqa_dataset.json` and the split files; the same call writes the same bytes."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    records: dict[str, list[dict[str, Any]]] = {}
    image_id = 0
    for split, number in SPLITS.items():
        ids = []
        for index in range(number):
            image_id += 1
            scene, name = scene_with_question(split, index)
            save_jpeg(render(scene), folder / "images" / f"{image_id}.jpg")
            records[str(image_id)] = [record(scene, name, image_id)]
            ids.append(image_id)
        (folder / f"looktwiceqa_{split}_imgs.json").write_text(json.dumps(ids) + "\n")
    (folder / "looktwiceqa_dataset.json").write_text(json.dumps(records, separators=(",", ":")) + "\n")
    (folder / "README.md").write_text(ATTRIBUTION)


WRITERS: dict[str, Callable[[Path], None]] = {
    "looktwice": write_looktwice,
    "pope": write_pope,
    "mmbench": write_mmbench,
    "seedbench": write_seedbench,
    "qbench": write_qbench,
}
"""Benchmark → what writes its shipped scenes into a folder."""
