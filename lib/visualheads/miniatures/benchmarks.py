"""Shipped test items of POPE, MMBench, SEED-Bench and Q-Bench: glyph scenes in the official file formats, from seeds.

Right answers are balanced by construction: each item is drawn until its answer is the one whose turn it is, and right
letters take turns.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from visualheads.miniatures import questions, world
from visualheads.miniatures.card import rendered
from visualheads.miniatures.language import PLACES, RELATIONS
from visualheads.miniatures.listings import distort, draw_shape, of_scene
from visualheads.miniatures.questions import FEW_NUMBERS, YES_NO, Question
from visualheads.miniatures.world import CATEGORY, CLASSES, DISTORTIONS, Scene, draw_scene, render, save_jpeg
from visualheads.paths import read_table

POPE_PICTURES, MMBENCH_ITEMS, SEEDBENCH_ITEMS, QBENCH_ITEMS = 75, 200, 200, 200
JPEG = 85  # smaller files than LookTwice's; training sees 80 to 95
POPULAR = 12  # classes from which POPE's popular condition draws absent ones
README = Path(__file__).with_name("scenes.md")
NAMES = {
    "looktwice": "PointQA-LookTwice",
    "pope": "POPE",
    "mmbench": "MMBench",
    "seedbench": "SEED-Bench",
    "qbench": "Q-Bench (LLVisionQA)",
}

# Kind of question → the answers that take turns; None: any.
TURNS: dict[str, Sequence[str] | None] = {
    "which": None,
    "number": FEW_NUMBERS,
    "colour": tuple(world.COLOURS),
    "location": PLACES,
    "relation": RELATIONS,
}
KINDS = read_table(__file__, "benchmarks.yml")
_BY_TYPE = sorted((*told["seedbench"], kind) for kind, told in KINDS.items())
SEED_TYPES = {kind: number for number, _, kind in _BY_TYPE}
"""Kind of question → SEED-Bench's official number of its type."""
SEED_TITLES = {title: number for number, title, _ in _BY_TYPE}
MMBENCH_OPTIONS = (4, 4, 3, 4, 2)  # items take turns
MMBENCH_COLUMNS = (
    "index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "l2-category", "split",
)  # fmt: skip
QBENCH_KINDS = ("distortion", "quality", "distortion", "appearance")
QBENCH_TYPES = {"quality": 0, "distortion": 1, "appearance": 2}  # yes-or-no, what, how


@dataclass(frozen=True)
class Item:
    """One test item: a picture, a question, the options in the order of their letters."""

    image: Image.Image
    question: Question
    options: tuple[str, ...]

    @property
    def letter(self) -> str:
        """The letter of the right option."""
        return "ABCD"[self.options.index(self.question.answer)]


def attribution(name: str) -> str:
    """Return the text that stands beside the files of a benchmark."""
    return rendered(README, name=name, title=NAMES[name])


def draw_item(benchmark: str, index: int, kind: str, wording: int, options: int = 4) -> Item:
    """Draw an item of a benchmark; scenes are redrawn until its kind of question has the answer due.

    Parameters
    ----------
    benchmark : str
        Its name, part of the seed.
    index : int
        The item's place in it.
    kind : str
        Of the question, one of `TURNS`.
    wording : int
        Which of the kind's wordings is asked.
    options : int
        How many are offered.
    """
    due = TURNS[kind]
    turn = index // len(SEED_TYPES)
    wanted = due[turn % len(due)] if due else None
    for attempt in range(10_000):
        rng = random.Random(f"{benchmark}-test/{index}/{attempt}")
        scene = draw_scene(rng, *draw_shape(rng))
        question = questions.ASKERS[kind](rng, of_scene(scene), wording)
        if question and question.options and wanted in (None, question.answer):
            return Item(render(scene), question, questions.offered(rng, question, options, position=turn))
    raise AssertionError(f"no scene for item {index} of {benchmark} ({kind}, {wanted})")


def write_pope(folder: Path) -> None:
    """Write three files of JSON lines that share pictures and present objects.

    The absent ones are random, popular, or of a supercategory that is there (adversarial).
    """
    scenes = [_pope_scene(index) for index in range(POPE_PICTURES)]
    frequency = Counter(name for scene in scenes for name in scene.names)
    popular = sorted(CLASSES, key=lambda name: (-frequency[name], name))[:POPULAR]
    lines: dict[str, list[str]] = {"random": [], "popular": [], "adversarial": []}
    for number, scene in enumerate(scenes, start=1):
        image = f"{number}.jpg"
        save_jpeg(render(scene), folder / "images" / image, JPEG)
        present = random.Random(f"pope-test/present/{number}").sample(sorted(scene.names), 2)
        pools = {
            "random": CLASSES,
            "popular": popular,
            "adversarial": [name for name in CLASSES if scene.count(CATEGORY[name])],
        }
        for condition, pool in pools.items():
            rng = random.Random(f"pope-test/{condition}/{number}")
            absent = rng.sample([name for name in pool if not scene.count(name)], 2)
            for name in (present[0], absent[0], present[1], absent[1]):
                text = questions.exists_question(rng, name, True, 0).text
                entry = {
                    "question_id": len(lines[condition]) + 1,
                    "image": image,
                    "text": text,
                    "label": "yes" if scene.count(name) else "no",
                }
                lines[condition].append(json.dumps(entry))
    for condition, entries in lines.items():
        (folder / f"coco_pope_{condition}.json").write_text("\n".join(entries) + "\n")
    (folder / "README.md").write_text(attribution("pope"))


def _pope_scene(index: int) -> Scene:
    """A scene with two classes or more, and with two absent ones of supercategories that are there."""
    for attempt in range(1000):
        rng = random.Random(f"pope-test/{index}/{attempt}")
        scene = draw_scene(rng, *draw_shape(rng))
        siblings = [name for name in CLASSES if scene.count(CATEGORY[name]) and not scene.count(name)]
        if len(scene.names) > 1 and len(siblings) > 1:
            return scene
    raise AssertionError("a scene with two classes turns up within a few draws")


def write_mmbench(folder: Path) -> None:
    """Write one TSV file with the pictures inside, as base64; two to four options."""
    folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(MMBENCH_COLUMNS)
    kinds = list(KINDS)
    for index in range(MMBENCH_ITEMS):
        kind = kinds[index % len(kinds)]
        item = draw_item("mmbench", index, kind, 1, MMBENCH_OPTIONS[(index // len(kinds)) % len(MMBENCH_OPTIONS)])
        buffer = io.BytesIO()
        item.image.save(buffer, "JPEG", quality=JPEG)
        options = [*item.options, *[""] * (4 - len(item.options))]
        picture = base64.b64encode(buffer.getvalue()).decode()
        category, group = KINDS[kind]["mmbench"]
        writer.writerow([index + 1, item.question.text, "", *options, item.letter, category, picture, group, "dev"])
    (folder / "mmbench_dev_glyphs.tsv").write_text(text.getvalue())
    (folder / "README.md").write_text(attribution("mmbench"))


def write_seedbench(folder: Path) -> None:
    """Write `SEED-Bench.json` and a folder of pictures; always four options."""
    entries = []
    kinds = list(SEED_TYPES)
    for index in range(SEEDBENCH_ITEMS):
        kind = kinds[index % len(kinds)]
        item = draw_item("seedbench", index, kind, 0)
        name = f"{index + 1}.jpg"
        save_jpeg(item.image, folder / "SEED-Bench-image" / name, JPEG)
        entries.append(seed_entry(index + 1, kind, name, item.question.text, item.options, item.letter))
    content = {"questions": entries, "question_type": SEED_TITLES}
    (folder / "SEED-Bench.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")
    (folder / "README.md").write_text(attribution("seedbench"))


def write_qbench(folder: Path) -> None:
    """Write `llvisionqa_dev.json` and a folder of pictures: which distortion, yes or no, how."""
    entries = []
    for index in range(QBENCH_ITEMS):
        kind = QBENCH_KINDS[index % len(QBENCH_KINDS)]
        item = qbench_item(index, kind)
        name = f"{index + 1}.jpg"
        save_jpeg(item.image, folder / "images" / name, JPEG)
        entries.append(
            {
                "img_path": name,
                "question": item.question.text,
                "candidates": list(item.options),
                "correct_ans": item.question.answer,
                "type": QBENCH_TYPES[kind],
                "concern": 0,
            }
        )
    (folder / "llvisionqa_dev.json").write_text(json.dumps(entries, indent=0) + "\n")
    (folder / "README.md").write_text(attribution("qbench"))


def qbench_item(index: int, kind: str) -> Item:
    """Draw an item of Q-Bench.

    Every distortion is right as often as none is, yes as often as no, good as often as bad: the question about the
    distortion that is there is the one kept in every second item of the latter two kinds.
    """
    group = index // len(QBENCH_KINDS)
    if kind == "distortion":
        quality = world.QUALITIES[(2 * group + index % len(QBENCH_KINDS) // 2) % len(world.QUALITIES)]
        return draw_low_level(index, kind, quality, quality, group)
    about = DISTORTIONS[group // 2 % len(DISTORTIONS)]
    bad = group % 2 == 0
    # Where the answer is no or good, half of the pictures have another distortion, so that the question matters.
    others = (world.NONE, *[other for other in DISTORTIONS if other != about])
    quality = about if bad else others[group // 8 % len(others)]
    answer = YES_NO[not bad] if kind == "quality" else world.ADJECTIVES[about][not bad]
    return draw_low_level(index, kind, quality, answer, group)


def draw_low_level(index: int, kind: str, quality: str, answer: str, turn: int) -> Item:
    """Draw a picture of the given quality, again until the question has the answer due; `turn` moves the answer."""
    for attempt in range(10_000):
        rng = random.Random(f"qbench-test/{index}/{attempt}")
        scene = distort(rng, draw_scene(rng, *draw_shape(rng)), quality)
        question = questions.ASKERS[kind](rng, of_scene(scene), 0)
        if question and question.answer == answer:
            number = 3 if kind == "distortion" and turn % 4 == 3 else 4
            return Item(render(scene), question, questions.offered(rng, question, number, position=turn // 2))
    raise AssertionError(f"no scene for item {index} of qbench ({kind}, {quality}, {answer})")


TEST_SEED = "looktwice-test"  # no training stage uses a seed of this form
SPLITS = {"train": 12, "val": 12, "test": 400}


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


def xywh(box: world.Box) -> dict[str, int]:
    """A box as the official records write one."""
    left, top, right, bottom = box
    return {"x": left, "y": top, "w": right - left, "h": bottom - top}


def look_record(
    image_id: int, questions: Mapping[str, str], count: int, box: world.Box, name: str, category: str
) -> dict[str, Any]:
    """Write a question record in LookTwice-QA's official fields; `questions` by object, super and general."""
    left, top, right, bottom = box
    return {
        "Img_id": image_id,
        **{f"{kind.capitalize()}_question": text for kind, text in questions.items()},
        "Ans": count,
        "BBox": xywh(box),
        "Point": {"x": (left + right) // 2, "y": (top + bottom) // 2},
        "Obj_type": name,
        "Supercategory": category,
    }


def record(scene: Scene, name: str, image_id: int) -> dict[str, Any]:
    """Write one question record in the official fields, with all objects' boxes in addition."""
    rng = random.Random(f"{TEST_SEED}/box/{image_id}")
    box = rng.choice([item.box for item in scene.objects if item.name == name])
    asked = {
        "obj": f"How many {world.PLURAL[name]} are there?",
        "super": f"How many of these {CATEGORY[name]} are there?",
        "general": "How many of these are there?",
    }
    objects = [{"name": item.name, "BBox": xywh(item.box)} for item in scene.objects]
    return look_record(image_id, asked, scene.count(name), box, name, CATEGORY[name]) | {"Objects": objects}


def seed_entry(
    number: int, kind: str, picture: str, question: str, options: Sequence[str], answer: str
) -> dict[str, Any]:
    """Write an item in SEED-Bench's official fields; `answer` is a letter."""
    return {
        "answer": answer,
        **{f"choice_{letter}": option for letter, option in zip("abcd", options, strict=True)},
        "data_id": picture,
        "data_type": "image",
        "question": question,
        "question_id": str(number),
        "question_type_id": SEED_TYPES[kind],
    }


def write_looktwice(folder: Path) -> None:
    """Write pictures, `looktwiceqa_dataset.json` and the split files; the same call writes the same bytes."""
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
    (folder / "README.md").write_text(attribution("looktwice"))


WRITERS: dict[str, Callable[[Path], None]] = {
    "looktwice": write_looktwice,
    "pope": write_pope,
    "mmbench": write_mmbench,
    "seedbench": write_seedbench,
    "qbench": write_qbench,
}
"""Benchmark → what writes its shipped scenes into a folder."""
